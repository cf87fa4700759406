"""Commands that look at a finished run."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ablate import lab
from ablate.cli.main import main
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.files import StoreError

Ablate = Callable[..., Result]


@pytest.fixture(scope="module")
def made(bundled_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with modules, strengths and seeds, as `lab.run` leaves it."""
    recipe = Recipe.build(
        {
            "version": 1,
            "name": "looked-at",
            "dtype": "float32",
            "seeds": [0, 1],
            "noise_floor": 3,
            "sampling": {"num_inference_steps": 3},
            "axes": {"module": {"each": "conv_*"}, "amount": {"values": [0, 0.3, 1]}},
            "edits": [{"mix_noise": {"modules": "$module", "amount": "$amount"}}],
        }
    )
    folder = tmp_path_factory.mktemp("runs") / "looked-at"
    lab.run(recipe, folder, pipeline=bundled_pipeline)
    return folder


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


@pytest.fixture
def ablate() -> Ablate:
    return lambda *arguments: CliRunner().invoke(main, [str(a) for a in arguments])


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_a_run_is_measured_named_and_shown(run: Path) -> None:
    tables = {"drift.csv", "effects.csv", "drift.json", "embeddings.npz"}
    others = {"sheet.png", "report.html", "run.json", "recipe.yaml", "files.json", "cells"}
    assert {path.name for path in run.iterdir()} == tables | others
    rows = table(run / "drift.csv")
    assert len(rows) == 18
    assert {row["class"] for row in rows if row["variant"] == "baseline"} == {"intact"}
    edited = [row for row in rows if row["variant"] != "baseline"]
    for name in ("rmse", "latent", "embedding", "score", "rmse_floors", "embedding_floors"):
        assert all(float(row[name]) for row in edited), name
    assert all(row["class"] and row["concept"] for row in rows)


def test_drift_is_measured_again_without_generating(run: Path, ablate: Ablate) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    cells = {path: path.stat().st_mtime_ns for path in (run / "cells").iterdir()}
    for name in ("drift.csv", "effects.csv", "drift.json", "embeddings.npz", "report.html"):
        (run / name).unlink()
    done = ablate("drift", run, "--device", "cpu", "--top", 2)
    assert done.exit_code == 0, done.output
    for name in ("drift.csv", "effects.csv", "drift.json", "report.html"):
        assert (run / name).read_bytes() == before[name], name
    assert cells == {path: path.stat().st_mtime_ns for path in (run / "cells").iterdir()}
    heads, first, second = done.output.splitlines()[:3]
    assert heads.split("  ")[0] == "rmse / floor"
    assert first.split()[-1].startswith("module=conv") or "amount=1" in first
    assert float(first.split()[0]) >= float(second.split()[0]) > 0


def test_drift_of_one_seed_is_as_measured(run: Path, ablate: Ablate) -> None:
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    manifest["cells"] = [cell for cell in manifest["cells"] if cell["seed"] == 0]
    (run / "run.json").write_text(json.dumps(manifest | {"floor": []}), encoding="utf-8")
    done = ablate("drift", run, "--device", "cpu")
    assert done.exit_code == 0, done.output
    note, heads, first, second = done.output.splitlines()[:4]
    assert note.startswith("there is no noise floor")
    assert heads.split() == ["rmse", "variant"]
    assert float(first.split()[0]) >= float(second.split()[0]) > 0


def test_a_vocabulary_of_ones_own(run: Path, ablate: Ablate, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("pizza\nrocket\n\n", encoding="utf-8")
    assert ablate("drift", run, "--vocabulary", words, "--device", "cpu").exit_code == 0
    assert {row["concept"] for row in table(run / "drift.csv")} <= {"pizza", "rocket"}
    done = ablate("sheet", run, "--concepts")
    assert (done.exit_code, done.output.strip()) == (0, str(run / "sheet.png"))
    before = (run / "drift.csv").read_bytes()
    (run / "drift.csv").write_bytes(before[:99])
    assert ablate("verify", run, "--repair", "--device", "cpu").exit_code == 0
    assert (run / "drift.csv").read_bytes() == before  # by the same words


def test_concepts_are_written_on_the_sheet(run: Path, ablate: Ablate) -> None:
    def height() -> int:
        with Image.open(run / "sheet.png") as sheet:
            return sheet.height

    plain = height()
    assert ablate("sheet", run, "--concepts").exit_code == 0
    assert height() > plain


@pytest.mark.parametrize("command", ["architecture", "map", "curves"])
def test_pictures_as_svg_and_png(run: Path, ablate: Ablate, command: str) -> None:
    done = ablate(command, run)
    assert done.exit_code == 0, done.output
    svg, png = (Path(line) for line in done.output.splitlines())
    assert svg.read_text(encoding="utf-8").startswith("<svg")
    with Image.open(png) as picture:
        assert min(picture.size) > 400
        assert len(picture.convert("RGB").getcolors(picture.width * picture.height) or []) > 50


def test_the_layout_of_a_model(ablate: Ablate, tmp_path: Path) -> None:
    done = ablate("architecture", "sd15-random", "--out", tmp_path / "layout")
    assert done.exit_code == 0, done.output
    drawn = (tmp_path / "layout.svg").read_text(encoding="utf-8")
    assert drawn.count("data-module=") == 391


def test_an_animation(run: Path, ablate: Ablate) -> None:
    done = ablate("animate", run, "--over", "amount", "--where", "seed=1", "--out", run / "a.gif")
    assert done.exit_code == 0, done.output
    with Image.open(run / "a.gif") as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["animate", "RUN", "--over", "amont"], "did you mean `amount`?"),
        (["map", "NONE"], "is not a run: it has no run.json"),
        (["drift", "RUN", "--clip", "nobody/nothing"], "nobody/nothing"),
        (["drift", "RUN", "--metric", "bogus"], "there are rmse, ssim, latent, embedding"),
        (["drift", "RUN", "--metric", "rmsee"], "did you mean `rmse`?"),
        (["curves", "RUN", "--metric", "rmsee"], "rmse"),
        (["architecture", "RUN", "--metric", "rmsee"], "rmse"),
        (["architecture", "no-such-model"], "there is no model `no-such-model`"),
        (["report", "NONE"], "is not a run"),
    ],
)  # fmt: skip
def test_wrong_requests(
    run: Path,
    ablate: Ablate,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    places = {"RUN": str(run), "NONE": str(run.parent / "none")}
    done = ablate(*(places.get(a, a) for a in arguments))
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output


def test_without_a_reader_the_run_says_so(run: Path, ablate: Ablate) -> None:
    text = (run / "run.json").read_text(encoding="utf-8")
    (run / "run.json").write_text(text.replace('"id": "bundled"', '"id": "some/model"'))
    done = ablate("drift", run)
    assert done.exit_code == 0, done.output
    assert "No CLIP model has read these images" in done.output
    rows = table(run / "drift.csv")
    assert all(row["rmse"] for row in rows)
    assert {row["embedding"] for row in rows} | {row["class"] for row in rows} == {""}
    assert ablate("map", run).exit_code == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            (lambda m, key=key: m.pop(key), f"it has no `{key}`")
            for key in ("name", "model", "sampling", "device", "dtype", "axes", "cells")
        ),
        (lambda m: m["model"].pop("id"), "it has no `model.id`"),
        (lambda m: m["cells"][0].pop("seed"), "it has no `cells[0].seed`"),
        (lambda m: m["axes"][0].update(name="x"), "value of an unknown axis"),
        (lambda m: m.update(vocabulary=[[]]), "`vocabulary` is no list of texts"),
    ],
)
def test_a_description_that_lacks_something_is_refused(
    change: Callable[[dict[str, Any]], object], message: str, run: Path, ablate: Ablate
) -> None:
    manifest = json.loads((run / "run.json").read_text(encoding="utf-8"))
    change(manifest)
    (run / "run.json").write_text(json.dumps(manifest), encoding="utf-8")
    for command in ("sheet", "drift", "report", "curves", "map", "architecture", "clean"):
        done = ablate(command, run)
        assert (done.exit_code, message in done.stderr) == (2, True), done.output
    for runs in ((run, run.parent / "looked-at"), (run, run)):
        assert message in ablate("compare", *runs).stderr


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("effects.csv", "metric,", "metrik,", "effects.csv: its columns are not variant, prompt"),
        ("effects.csv", ",rmse,2,", ",rmse,x,", "effects.csv: row 1 below its header: invalid"),
        ("drift.csv", ",0.", ",x.", "drift.csv: row 1 below its header: could not convert"),
        ("drift.csv", ".png,", ".png,,", "drift.csv: line 2 has"),
    ],
)
def test_a_table_with_wrong_rows_names_them(
    name: str, old: str, new: str, message: str, run: Path, ablate: Ablate
) -> None:
    text = (run / name).read_text(encoding="utf-8")
    (run / name).write_text(text.replace(old, new, 1), encoding="utf-8")
    done = ablate("report", run)
    assert (done.exit_code, message in done.stderr) == (2, True), done.output
    assert f"`ablate drift {run}` writes it again" in done.stderr


@pytest.mark.parametrize("content", [b"", b"a,b\n1\n", b"\xff,b\n1,2\n", None])
def test_a_table_for_pandas_that_is_damaged_is_refused(content: bytes | None, run: Path) -> None:
    path = run / "drift.csv"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(StoreError, match=r"drift.csv: .*writes it again"):
        lab.open(run).table()
