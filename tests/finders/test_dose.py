"""Doses at the noise floor: a law that is known, the whole sweep, and wrong requests."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import ablate
from ablate import lab
from ablate.cli.main import main
from ablate.messages import RequestError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("without_report")
DOSES = {"geomspace": [0.05, 12.8, 17]}


def test_where_drift_grows_with_the_dose_the_threshold_is_the_floor_over_it(
    build: Callable[..., Recipe],
    run: Callable[..., lab.Result],
    tiny: Pipeline,
    tmp_path: Path,
) -> None:
    """The bias of the last layer shifts all pixels alike, but for those that are clipped."""
    recipe = build(
        seeds=[0, 1, 2],
        axes={"module": {"values": ["decoder.conv_out", "decoder.conv_in"]}, "d": DOSES},
        edits=[{"add_noise": {"modules": "$module", "component": "vae", "params": "bias",
                              "dose": "$d"}}],
    )  # fmt: skip
    sweep = run(recipe)
    answer = ablate.find("dose", recipe, tmp_path / "find", pipeline=tiny)
    assert answer.summary is not None
    assert answer.summary.total < 0.5 * answer.planned
    with (answer.store.folder / "find.csv").open(newline="") as file:
        row = next(r for r in csv.DictReader(file) if r["module"] == "decoder.conv_out")
    assert float(row["slope"]) == pytest.approx(1, abs=0.1)
    for seed, point in zip((0, 1, 2), row["each"].split(), strict=True):
        floors = {
            cell.axes["d"]: cell.floors["rmse"] for cell in sweep
            if cell.axes.get("module") == "decoder.conv_out" and cell.seed == seed
        }  # fmt: skip
        nearest = min(floors, key=lambda d: abs(floors[d] - 1))
        assert float(point) == pytest.approx(nearest / floors[nearest], rel=0.05)
    assert float(row["low"]) <= float(row["mean"]) <= float(row["high"])
    assert answer.finding is not None
    assert "drift by rmse passes the noise floor at d =" in answer.finding.sentence


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        ({"seeds": [0]}, {}, "no noise floor .*`noise_floor: 8`"),
        ({}, {"metric": "rms"}, "--metric: there is no noise floor by `rms`, did you mean `rmse`"),
    ],
)
def test_a_request_without_an_answer_says_what_would_have_one(
    keys: dict[str, object], options: dict[str, str], message: str,
    build: Callable[..., Recipe], tiny: Pipeline, tmp_path: Path,
) -> None:  # fmt: skip
    recipe = build(
        **{"seeds": [0, 1], "axes": {"dose": {"values": [0.1, 0.2, 0.4]}},
           "edits": [{"add_noise": {"modules": "conv_in", "dose": "$dose"}}]} | keys
    )  # fmt: skip
    with pytest.raises(RequestError, match=message):
        ablate.find("dose", recipe, tmp_path / "find", pipeline=tiny, **options)


def test_strengths_are_no_doses(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["find", "dose", "amount-by-stage"])
    assert done.exit_code == 2
    assert re.search("no axis of doses with 3 values or more.*`dose: [$]dose`", done.stderr)
