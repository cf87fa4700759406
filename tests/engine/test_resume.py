"""Law 6: killed at any moment and run again, a run ends with the same files, nothing twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from reported import data_of

from ablate import lab
from ablate.cli.main import main
from ablate.sampling.pipeline import Pipeline
from ablate.store.run import Run
from ablate.view import page

RECIPE = """
version: 1
name: resumed
model: {model}
dtype: float32
seeds: [0, 1]
sampling: {{num_inference_steps: 12}}
axes:
  module: {{each: {{sample: {{of: "*", count: 24}}}}}}
edits:
  - randomize: {{modules: $module}}
"""
CELLS = 50  # 24 modules and the baseline, for two seeds


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    file = tmp_path / "resumed.yaml"
    file.write_text(RECIPE.format(model=tiny_folder))
    return file


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    # Batches of one size: measured ones may differ from run to run, and with them the last bits.
    command = [sys.executable, "-m", "ablate", "run", str(recipe), "--out", str(out)]
    command += ["--batch-size", "5", "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finished(out: Path) -> set[Path]:
    return set((out / "cells").glob("*.png"))


def stop_after(process: subprocess.Popen[str], out: Path, count: int, how: int) -> None:
    deadline = time.monotonic() + 120
    while len(finished(out)) < count and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    os.kill(process.pid, how)


def contents(out: Path) -> dict[str, bytes]:
    files = [p for p in out.rglob("*") if p.is_file()]
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def test_killed_and_resumed_is_the_same_as_never_killed(
    recipe: Path, tmp_path: Path, tiny: Pipeline
) -> None:
    out = tmp_path / "killed"
    process = start(recipe, out)
    stop_after(process, out, 10, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    survived = finished(out)
    assert 10 <= len(survived) < CELLS
    written = {path: path.stat().st_mtime_ns for path in survived}
    # In this process, as the one never killed: that another one takes long to start shows nothing.
    again = lab.run(recipe, out, pipeline=tiny, batch_size=5).summary
    assert (again.computed, again.reused, again.total) == (
        CELLS - len(survived),
        len(survived),
        CELLS,
    )
    assert {path: path.stat().st_mtime_ns for path in survived} == written
    lab.run(recipe, tmp_path / "whole", pipeline=tiny, batch_size=5)
    assert contents(out) == contents(tmp_path / "whole")


def test_ctrl_c_ends_with_a_sheet_and_exit_code_130(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "stopped"
    process = start(recipe, out)
    stop_after(process, out, 5, signal.SIGINT)
    printed, logged = process.communicate()
    assert process.returncode == 130, logged
    assert "run the same command again to go on" in logged
    assert "Traceback" not in logged
    done = len(finished(out))
    assert 5 <= done < CELLS
    assert (out / "sheet.png").exists()
    assert len((out / "drift.csv").read_text().splitlines()) == done + 1
    assert str(out / "sheet.png") in printed


COMMENTED = """\
# What is run.
version: 1
name: saved
model: tiny  # beside this file
dtype: float32
sampling: {num_inference_steps: 2}

# Two of them.
seeds:
  - 0
  - 1

axes: {factor: [0.5, 0.9]}  # how much is left
edits: [{scale: {modules: "mid_block.*", factor: $factor}}]
"""


def ablate(*arguments: object) -> str:
    done = CliRunner().invoke(main, [*map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.stdout


EQUAL = """\
version: 1
name: equal
model: {model}
dtype: float32
noise_floor: 2
sampling: {{num_inference_steps: 2}}
axes:
  module: {{each: "mid_block.resnets.*.conv1"}}
  amount: {{linspace: [0, 0.5, 11]}}
edits: [{{mix_noise: {{modules: $module, amount: $amount}}}}]
sheet: {{rows: amount, columns: module}}
"""


def test_counts_are_of_different_cells_and_agree(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "MAX_SIDE", 420)
    recipe, out = tmp_path / "equal.yaml", tmp_path / "out"
    recipe.write_text(EQUAL.format(model=tiny_folder))
    assert (
        "cells     22: 21 on the axes (in 22 places: equal cells are one),"
        " 1 baseline of other seeds for the noise floor alone\n" in ablate("plan", recipe)
    )
    printed = ablate("run", recipe, "--out", out, "--limit", 3)
    assert "3 images computed, 0 reused, of 3 (--limit; 22 without it)" in printed
    assert "noise floor" not in printed
    run = Run(out)
    assert "3 of 21 cells finished" in run._repr_html_()
    data = data_of(out / "report.html")
    assert data["planned"] == 21
    assert len({cell["key"] for cell in data["cells"] if cell.get("state") != "vacant"}) == 3
    printed = ablate("run", recipe, "--out", out)
    assert "19 images computed, 3 reused, of 22 (1 of them for the noise floor alone)" in printed
    sheets = [Path(line).name for line in printed.splitlines() if line.endswith(".png")]
    assert sheets == ["sheet.png", *(f"sheet-{i + 2}.png" for i in range(len(sheets) - 1))]
    assert len(sheets) > 10


def test_a_folder_resumes_with_what_was_overridden(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "tiny").symlink_to(tiny_folder)
    (tmp_path / "saved.yaml").write_text(COMMENTED)
    monkeypatch.chdir(tmp_path)
    options = ["--set", "seeds=[3]", "--set", "axes.factor=[0.7]", "--set", "vocabulary=[cat]"]
    assert "2 images computed" in ablate("run", "saved.yaml", "--out", "out", *options)
    saved = (tmp_path / "out" / "recipe.yaml").read_text()
    model = tmp_path / "tiny"
    expected = COMMENTED.replace("tiny  # beside this file", str(model))
    expected = expected.replace("seeds:\n  - 0\n  - 1\n", "seeds: [3]\n")
    expected = expected.replace(
        "axes: {factor: [0.5, 0.9]}  # how much is left\n", "axes:\n  factor: [0.7]\n"
    )
    assert saved == expected + "vocabulary: [cat]\n"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    out = tmp_path / "out"
    for recipe in (out, out / "recipe.yaml"):
        assert "0 images computed, 2 reused, of 2" in ablate("run", recipe, "--out", out)
    assert "0 images computed, 2 reused, of 2" in ablate("run", out)
    assert (out / "recipe.yaml").read_text() == saved
    cell = next(out.glob("cells/*.png"))
    assert "the same" in ablate("replay", cell, "--device", "cpu", "--yes")


def test_cells_that_a_recipe_has_no_more_are_named_and_cleaned(
    recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    short = ["--set", "sampling.num_inference_steps=2", "--limit", 2, "--out", out]
    ablate("run", recipe, *short)
    before = finished(out)
    (out / "cells" / "mine.png").write_text("mine")
    printed = ablate("run", recipe, *short, "--set", "seeds=[5]")
    assert "2 finished cells not part of this recipe any more" in printed
    size = sum(path.stat().st_size for path in before)
    assert ablate("clean", out) == f"{out}: 2 cells removed, {size:,} bytes\n"
    assert len(finished(out)) == 3
    assert not before & finished(out)
    assert ablate("clean", out) == f"{out}: 0 cells removed, 0 bytes\n"
    (out / "cells" / f"{'0' * 32}.png").write_text("damaged")
    assert f"1 file of {out / 'cells'} not removed: {'0' * 32}.png" in ablate("clean", out)
