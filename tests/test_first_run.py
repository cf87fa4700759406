"""A run folder that the first release of the format wrote (tests/data/first-run) still opens."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ablate.cli.main import main
from ablate.drift import measure as drift
from ablate.engine.replay import replay_cell
from ablate.store.run import Run

FIRST = Path(__file__).parent / "data" / "first-run"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A copy, for what is written into it."""
    shutil.copytree(FIRST, tmp_path / "run")
    return Run(tmp_path / "run")


def output_of(*words: str) -> str:
    result = CliRunner().invoke(main, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def test_its_cells_are_read(run: Run) -> None:
    cells = list(run.cells())
    assert len(cells) == 6
    assert all(cell.done for cell in cells)
    assert [cell.axes.get("module") for cell in cells] == [
        None, None, *["conv_in", "mid_block.resnets.0.conv1"] * 2]  # fmt: skip
    assert [axis.name for axis in run.axes()] == ["prompt", "seed", "module"]
    measured = drift.read_cells(run)
    assert measured[0].drift["rmse"] == 0 < measured[-1].drift["rmse"]


def test_it_is_drawn_measured_and_reported(run: Run) -> None:
    output_of("sheet", str(run.folder))
    with Image.open(run.folder / "sheet.png") as sheet:
        assert min(sheet.size) > 200
    before = {cell.path: cell.drift["rmse"] for cell in drift.read_cells(run)}
    output_of("drift", str(run.folder))
    after = drift.read_cells(run)
    assert {cell.path: cell.drift["rmse"] for cell in after} == pytest.approx(before, abs=1e-6)
    assert all("embedding" in cell.drift for cell in after)
    report = (run.folder / "report.html").read_text(encoding="utf-8")
    assert all(cell.path.stem in report for cell in after)


def test_a_cell_is_shown_and_replayed(run: Run) -> None:
    cell = list(run.cells())[-1]
    shown = output_of("show", str(cell.path))
    assert "mix_noise (amount 0.5)" in shown
    assert "mid_block.resnets.0.conv1" in shown
    replay = replay_cell(cell.path, device="cpu")
    assert replay.is_alike
    assert np.asarray(replay.image).std() > 5


def test_it_is_compared_with_itself(run: Run, tmp_path: Path) -> None:
    output = output_of("compare", str(FIRST), str(run.folder), "--out", str(tmp_path / "both"))
    assert "6" in output
    assert (tmp_path / "both" / "compare.png").exists()
