"""Runs that earlier versions recorded (tests/data/recorded) open, resume, recompute and replay."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.drift.measure import read_cells
from ablate.engine.replay import ALIKE, replay_cell
from ablate.engine.run import execute
from ablate.sampling.pipeline import Pipeline
from ablate.store.run import Run
from ablate.sweep import Plan, plan
from ablate.view import contact_sheet

RECORDED = Path(__file__).parent / "data" / "recorded"

pytestmark = pytest.mark.parametrize("name", sorted(path.name for path in RECORDED.iterdir()))


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.load("bundled", device="cpu", dtype="bfloat16")


def plan_of(name: str) -> Plan:
    return plan(RECORDED / name / "recipe.yaml")


NEW = ("versions", "key", "digest")  # what differs, and what records did not contain


def without_versions(manifest: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in manifest.items() if key not in NEW}


def test_it_opens(name: str) -> None:
    run = Run(RECORDED / name)
    cells = read_cells(run)
    assert {cell.key for cell in cells} == run.finished()
    names = {axis.name for axis in run.axes()}
    assert all(set(cell.axes) <= names for cell in cells)
    assert any(cell.drift["rmse"] for cell in cells if not cell.is_baseline)
    assert min(contact_sheet(run)[0].size) > 100


def test_it_resumes_with_nothing_computed(name: str, tmp_path: Path, pipeline: Pipeline) -> None:
    run = Run(shutil.copytree(RECORDED / name, tmp_path / "run"))
    before = {path: path.read_bytes() for path in run.folder.glob("cells/*")}
    summary = execute(plan_of(name), pipeline, run)
    assert (summary.computed, summary.reused) == (0, len(before))
    assert {path: path.read_bytes() for path in run.folder.glob("cells/*")} == before
    assert without_versions(run.manifest()) == without_versions(Run(RECORDED / name).manifest())


def test_it_is_recomputed_alike(name: str, tmp_path: Path, pipeline: Pipeline) -> None:
    recorded, run = Run(RECORDED / name), Run(tmp_path / "run")
    execute(plan_of(name), pipeline, run)
    assert run.finished() == recorded.finished()
    for before, now in zip(recorded.cells(), run.cells(), strict=True):
        assert without_versions(now.record()) == without_versions(before.record())
        images = [np.asarray(cell.image(), dtype=int) for cell in (before, now)]
        assert np.abs(images[0] - images[1]).max() <= ALIKE


def test_a_cell_replays(name: str, pipeline: Pipeline) -> None:
    cell = list(Run(RECORDED / name).cells())[-1]
    replay = replay_cell(cell.path, pipeline)
    assert replay.same_model
    assert replay.same_key
    assert replay.is_alike
