"""Interactions: none of changes that add up, one that is planted, resumed; and wrong requests."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import ablate
from ablate.cli.main import main
from ablate.finders import Answer
from ablate.finders.interactions import Pair, with_p_values
from ablate.finders.parts import Drift
from ablate.messages import RequestError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.run import Run

BLOCKS = {
    "axes": {"block": {"group": {"modules": "stage=up", "by": "block"}}},
    "edits": [{"zero": {"modules": "$block"}}],
}
# The last layer of the decoder shifts all pixels by its bias, of each channel by itself.
SHIFTS = {
    "component": "vae",
    "axes": {"channel": {"each_channel": "decoder.conv_out"}},
    "edits": [{"zero": {"modules": "$channel", "params": "bias"}}],
}

Find = Callable[..., Answer]


@pytest.fixture
def find(tiny: Pipeline, tmp_path: Path) -> Find:
    def finds(recipe: Recipe, folder: str = "find", **options: Any) -> Answer:
        return ablate.find("interactions", recipe, tmp_path / folder, pipeline=tiny, **options)

    return finds


def table(run: Run) -> list[dict[str, str]]:
    with (run.folder / "find.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_shifts_of_different_channels_are_independent(
    build: Callable[..., Recipe], find: Find, tiny: Pipeline
) -> None:
    answer = find(build(seeds=[0, 1, 2, 3], **SHIFTS), null="independent", metric="rmse")
    rows = table(answer.store)
    assert len(rows) == 3  # of three channels
    for row in rows:
        assert float(row["both"]) > 1.05 * max(float(row["first"]), float(row["second"]))
        assert abs(float(row["interaction"])) < 0.03 * float(row["both"])
        assert float(row["low"]) <= float(row["interaction"]) <= float(row["high"])
    sums = find(build(seeds=[0, 1, 2, 3], **SHIFTS), metric="rmse")
    for row, other in zip(rows, table(sums.store), strict=True):
        larger = float(row["first"]) + float(row["second"]) - float(row["both"])
        assert float(other["interaction"]) == pytest.approx(-larger, rel=1e-3)
        assert other["verdict"] == "less"
    assert sums.summary is not None
    assert sums.summary.computed == 0


def test_the_pairs_of_a_run_have_pictures_a_sheet_and_are_computed_once(
    build: Callable[..., Recipe], find: Find
) -> None:
    recipe = build(seeds=[0, 1], **BLOCKS)
    answer = find(recipe)
    folder = answer.store.folder
    assert answer.finding is not None
    assert "2 images each are too few to say which interact" in answer.finding.sentence
    parts = len(answer.finding.strips)
    summary = json.loads((folder / "find.json").read_text())
    assert summary["pairs"] == parts * (parts - 1) / 2
    assert summary["cells"]["sweep"] == answer.planned == 2 * (1 + parts**2)
    assert summary["cells"]["used"] == 2 * (1 + parts + summary["pairs"])
    drawing = (folder / "find.svg").read_text()
    assert "up_blocks.0 and up_blocks.1" in drawing
    assert all(
        cell.key in drawing for cell in answer.cells if cell.seed == 0 and cell.axes.get("block")
    )
    whole = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    again = find(recipe)
    assert again.summary is not None
    assert again.summary.computed == 0
    assert {p: p.read_bytes() for p in whole} == whole
    verified = CliRunner().invoke(main, ["verify", str(folder)])
    assert verified.exit_code == 0, verified.stdout


def test_a_planted_interaction_is_the_only_one_that_is_significant() -> None:
    dice = np.random.default_rng(0)
    some = Drift(np.ones(8))

    def pair(mean: float) -> Pair:
        return Pair(("a", "b"), (some, some), some, (), dice.normal(mean, 0.1, 8))

    judged = with_p_values([pair(0.0) for _ in range(30)] + [pair(0.5), pair(-0.5)])
    assert [one.sign for one in judged] == [0] * 30 + [1, -1]
    assert all(one.q >= one.p for one in judged if one.p is not None and one.q is not None)


NESTED = {"axes": {"both": {"values": ["*"]}}, "edits": [{"zero": {"modules": "$both"}}]}
WINDOWS = {
    "axes": {"window": {"window": {"modules": "mid_block*to_[qkv]", "width": 5}}},
    "edits": [{"zero": {"modules": "$window"}}],
}


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        (NESTED, {}, "has no axis of parts"),
        (WINDOWS, {}, "axes.window: no two of its values edit different modules"),
        (BLOCKS, {"null": "mac"}, "--null: there is no null model `mac`, did you mean `max`"),
        (BLOCKS, {"metric": "rsme"}, "--metric: there is no metric `rsme`, did you mean `rmse`"),
        (BLOCKS, {"max_cells": 2}, "the finder asks for 3 cells, more than 2"),
    ],
)
def test_a_wrong_request_ends_in_a_sentence(
    keys: dict[str, Any], options: dict[str, Any], message: str,
    build: Callable[..., Recipe], find: Find,
) -> None:  # fmt: skip
    with pytest.raises(RequestError, match=message):
        find(build(**keys), **options)
