"""The command line, most of it in one process."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ablate.cli.lazy import LazyGroup
from ablate.cli.main import main
from ablate.store.run import Run

ROOT = Path(__file__).parent.parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def ablate(*arguments: object) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)))


def started(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A process of its own."""
    command = [sys.executable, "-m", "ablate", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)


def size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    file = tmp_path / "small.yaml"
    file.write_text(
        f"""\
version: 1
name: small
about: A small run.
model: {tiny_folder}
dtype: float32
seeds: [0, 1]
sampling: {{num_inference_steps: 2}}
axes:
  amount: {{values: [0.1, 0.2, 0.4]}}
edits:
  - mix_noise: {{modules: "mid_block.*", amount: $amount}}
sheet: {{rows: seed, columns: amount}}
"""
    )
    return file


def test_run_makes_cells_table_and_sheet(recipe: Path, tmp_path: Path) -> None:
    done = started("run", recipe, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "small"
    assert str(Path("outputs/small/sheet.png")) in done.stdout
    assert "8 images computed, 0 reused, of 8" in done.stdout
    assert re.search(
        r"^edits applied 8 by rows, in batches of up to \d$", done.stdout, re.MULTILINE
    )
    assert "8/8 images (8 computed)" in done.stderr
    assert (folder / "recipe.yaml").read_text() == recipe.read_text()
    with (folder / "drift.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    assert list(rows[0])[:5] == ["cell", "variant", "prompt", "seed", "amount"]
    assert len(rows) == 8
    assert {row["amount"] for row in rows} == {"", "0.1", "0.2", "0.4"}
    for row in rows:
        assert (folder / "cells" / row["cell"]).exists()
        assert (float(row["rmse"]) == 0) == (row["variant"] == "baseline")
        assert -1 <= float(row["ssim"]) <= 1
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.width > 400
    manifest = Run(folder).manifest()
    assert manifest["device"] == "cpu"
    assert manifest["counts"]["cells"] == 8


def test_run_again_resumes_limits_and_starts_afresh(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = ablate("run", recipe, "--out", out, "--limit", 3)
    assert "3 images computed, 0 reused, of 3 (--limit; 8 without it)," in first.stdout
    assert len(list((out / "cells").glob("*.png"))) == 3
    rest = ablate("run", recipe, "--out", out)
    assert "5 images computed, 3 reused, of 8" in rest.stdout
    more = ablate("run", recipe, "--out", out, "--set", "axes.amount.values=[0.2, 0.9]")
    assert "2 images computed, 4 reused, of 6" in more.stdout
    fresh = ablate("run", recipe, "--out", out, "--fresh", "--batch-size", 2)
    assert "8 images computed, 0 reused, of 8," in fresh.stdout


def test_wrong_requests_end_with_2_and_write_nothing(recipe: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(recipe.read_text().replace("mid_block.*", "mid_blok.*").replace("0.4", "x"))
    out = tmp_path / "none"
    done = started("run", wrong, "--out", out)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"{wrong}:9: axes.amount.values[2]: must be a number, not `x`; it goes to"
        " edits[0].mix_noise.amount",
        f"{wrong}:11: edits[0].mix_noise.modules: `mid_blok.*` matches no module;"
        " the nearest is mid_block.*",
        "2 problems",
    ]
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "nowhere.yaml"), "nowhere.yaml: No such file or directory"),
        (("run", "RECIPE", "--model", "no-such-model"), "there is no model `no-such-model`"),
        (("run", "RECIPE", "--model", "some/hub-model"), "not in the hub cache"),
        (("run", "RECIPE", "--dtype", "float31"), "must be one of auto, float32"),
        (("run", "RECIPE", "--device", "warp"), "device `warp` cannot be used here"),
        (("run", "RECIPE", "--set", "oops"), "`oops` is not key=value"),
        (("run", "RECIPE", "--set", "sampling.scheduler=dimm"), "did you mean `ddim`"),
        (
            ("check", "hal", "--set", "axes.zeroed.cumulative.counts=[999]"),
            "--set axes.zeroed.cumulative.counts: asks for 999 modules; there are 183",
        ),
        (("modules", "--select", "role=resnt"), "role is one of "),
        (("modules", "--component", "text_encodr"), "did you mean `text_encoder`"),
        (("sheet", "recipes"), "is not a run: it has no run.json"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_messages(arguments: tuple[str, ...], message: str, recipe: Path) -> None:
    done = ablate(*(recipe if a == "RECIPE" else a for a in arguments))
    assert done.exit_code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_check(recipe: Path) -> None:
    done = ablate("check", recipe)
    assert (done.exit_code, done.stdout) == (0, f"{recipe}: OK\n")


def test_plan_counts_without_weights(recipe: Path) -> None:
    done = started("plan", recipe)
    assert done.returncode == 0, done.stderr
    assert re.search(r"axis +amount: 3 \(0\.1, 0\.2, 0\.4\)", done.stdout)
    assert re.search(r"variants +4\n", done.stdout)
    assert re.search(r"cells +8: 6 on the axes, 2 baselines beside them\n", done.stdout)
    by_rows, in_place = map(
        int, re.findall(r"applied +(\d+) by rows, (\d+) in place", done.stdout)[0]
    )
    assert by_rows + in_place == 8
    # 8 images, 2 steps, conditional and unconditional
    assert re.search(r"estimate +32 denoiser rows of .* GFLOP; roughly \d+:\d\d min", done.stdout)


def test_modules_of_stable_diffusion_1_from_configuration_alone() -> None:
    done = ablate("modules", "sd15-random")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "391 modules, 859,520,964 parameters"


def test_modules_as_json() -> None:
    done = ablate("modules", "--select", "down_blocks.0.*.attn2.*", "--json")
    found = json.loads(done.stdout)
    assert {m["role"] for m in found} == {"cross_attention"}
    assert {m["stage"] for m in found} == {"down"}
    assert all(m["path"].startswith("down_blocks.0.") for m in found)


def test_recipes_are_listed_with_what_they_show() -> None:
    done = ablate("recipes")
    papers = sorted((ROOT / "recipes" / "papers").glob("*.yaml"))
    names = [r.stem for r in RECIPES] + [f"papers/{r.stem}" for r in papers]
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == names
    assert len(RECIPES) >= 10 < len(names)
    for recipe in (names[0], "papers/locogen"):
        assert ablate("check", recipe, "--model", "bundled").stdout == f"{recipe}: OK\n"


def test_sheet_is_drawn_again_in_another_layout(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert ablate("run", recipe, "--out", out).exit_code == 0
    before = size(out / "sheet.png")
    done = ablate("sheet", out, "--rows", "amount", "--columns", "seed")
    assert done.exit_code == 0, done.stderr
    assert size(out / "sheet.png") != before
    wrong = ablate("sheet", out, "--rows", "amont")
    assert wrong.exit_code == 2
    assert "did you mean `amount`" in wrong.stderr


@pytest.mark.parametrize("group", [main, main.get_command(None, "units")])  # type: ignore[arg-type]
def test_every_command_of_a_table_is_there_and_has_help(group: LazyGroup) -> None:
    for name, (module, about) in group.table.items():
        command = group.get_command(click.Context(group), name)
        assert command is not None, f"{module} has no {name}_command"
        assert command.name == name
        assert command.help
        assert about.endswith(".")


def test_schema_is_json_schema() -> None:
    assert json.loads(ablate("schema").stdout)["title"] == "ablate recipe"
    docs = ablate("schema", "--docs").stdout
    assert docs.startswith("# The recipe format\n")
    assert "| `guidance_scale` | number | `5.0` |" in docs


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (("run", "quickstart"), "ablate.cli.recipes.plan"),
        (("run", "quickstart"), "ablate.lab.run"),
        (("check", "quickstart"), "ablate.cli.recipes.plan"),
        (("units", "selectivity"), "ablate.units.record.study.Study.load"),
        (("units", "cards", "somewhere"), "ablate.units.record.study.Study.open"),
        (("units", "atlas", "conv_in"), "ablate.units.record.study.Study.load"),
    ],
)
def test_ctrl_c_ends_with_a_sentence_and_130_wherever_it_comes(
    arguments: tuple[str, ...], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    found = CliRunner().invoke(main, arguments)
    assert found.exit_code == 130
    assert found.stderr == "interrupted; run the same command again to go on\n"
