"""Orders: areas that are known, cells of the plain sweep, least first; and wrong requests."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ablate
from ablate.engine import linear, with_keys
from ablate.finders import Answer
from ablate.finders.order import Curve
from ablate.messages import RequestError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sweep.axes import CumulativeAxis
from ablate.sweep.binding import plan

MODULES = ["mid_block.resnets.0*", "conv_norm_out", "conv_out"]
STACK: dict[str, Any] = {
    "axes": {"zeroed": {"cumulative": {"modules": MODULES, "order": "network"}}},
    "edits": [{"zero": {"modules": "$zeroed"}}],
}

Find = Callable[..., Answer]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rough scores, which take a tenth of the time."""
    monkeypatch.setattr(linear, "DRAWS", 8)


@pytest.fixture
def find(tiny: Pipeline, tmp_path: Path) -> Find:
    def finds(recipe: Recipe, **options: Any) -> Answer:
        return ablate.find("order", recipe, tmp_path / "find", pipeline=tiny, **options)

    return finds


def test_the_area_is_the_mean_over_the_logarithm_of_the_count() -> None:
    counts = [1, 2, 4, 8, 11]
    rising = np.log(counts)[:, None] * [1.0, 2.0] + [0.0, 1.0]
    whole = math.log(11)
    area = Curve("", counts, rising, []).area
    assert area.values == pytest.approx([whole / 2, whole + 1])
    assert Curve("", counts, np.full((5, 3), 0.4), []).area.mean == pytest.approx(0.4)


def test_least_first_moves_images_less_than_the_reverse_and_is_computed_once(
    build: Callable[..., Recipe], find: Find, tiny: Pipeline
) -> None:
    recipe = build(seeds=[0, 1, 2], **STACK)
    answer = find(recipe, metric="latent", beam=4)
    folder = answer.store.folder
    with (folder / "find.csv").open(newline="") as file:
        rows = {row["order"]: row for row in csv.DictReader(file)}
    named = ["network", "reverse", "score", "drift", "greedy", "random"]
    assert rows.keys() == {*named, "random 0", "random 1", "random 2"}
    area = {name: float(row["area"]) for name, row in rows.items()}
    assert max(area["drift"], area["greedy"], area["score"]) < area["random"] < area["reverse"]
    each = [area[f"random {seed}"] for seed in range(3)]
    assert area["random"] == pytest.approx(np.mean(each), rel=1e-4)
    summary = json.loads((folder / "find.json").read_text())
    (paths,) = {axis.paths for axis in plan(recipe).axes if isinstance(axis, CumulativeAxis)}
    assert all(sorted(order) == sorted(paths) for order in summary["orders"].values())
    assert tuple(summary["orders"]["network"]) == paths
    assert summary["orders"]["greedy"][-1] in ("conv_norm_out", "conv_out")
    plain = {cell.key for cell in with_keys(plan(recipe).cells, tiny)}
    network = {c.key for c in answer.cells if c.axes.get("order") == "network"}
    assert network
    assert network <= plain
    assert summary["cells"]["used"] == len(answer.store.keys()) < answer.planned
    whole = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    again = find(recipe, metric="latent", beam=4)
    assert again.summary is not None
    assert again.summary.computed == 0
    assert {p: p.read_bytes() for p in whole} == whole


SEEDS = {"axes": {"order": [3, 5], "zeroed": {"cumulative": {
            "modules": MODULES, "order": "random", "seed": "$order", "counts": [1, 2]}}},
         "edits": STACK["edits"]}  # fmt: skip
AMOUNTS = {"axes": {**STACK["axes"], "amount": [0.1, 0.2]},
           "edits": [{"mix_noise": {"modules": "$zeroed", "amount": "$amount"}}]}  # fmt: skip


def test_random_orders_are_those_of_the_recipe(build: Callable[..., Recipe], find: Find) -> None:
    answer = find(build(**SEEDS))
    assert answer.finding is not None
    assert {"random 3", "random 5"} < answer.finding.facts["orders"].keys()
    assert "7 modules" in answer.finding.sentence


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"edits": [{"zero": {"modules": "*"}}]}, "has no axis of ever more modules"),
        (AMOUNTS, "axes.amount: edits vary along this axis, too"),
    ],
)
def test_a_wrong_request_ends_in_a_sentence(
    keys: dict[str, Any], message: str, build: Callable[..., Recipe], find: Find
) -> None:
    with pytest.raises(RequestError, match=message):
        find(build(**keys))
