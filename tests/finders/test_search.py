"""The search: what it finds is the best there is, within its budget, and the same again."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import ablate
from ablate import lab
from ablate.finders import Answer
from ablate.messages import RequestError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("without_report")
AMOUNTS = [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35]


@pytest.fixture
def slope(build: Callable[..., Recipe]) -> Recipe:
    """Two parts of the decoder that fade: the more, the farther, so that one corner is best."""
    axes = {name: {"values": [1 - amount for amount in AMOUNTS]} for name in ("a", "b")}
    return build(
        seeds=[0, 1],
        axes=axes,
        edits=[
            {"scale": {"modules": "decoder.conv_out", "component": "vae", "factor": "$a"}},
            {"scale": {"modules": "decoder.conv_norm_out", "component": "vae", "factor": "$b"}},
        ],
    )


Search = Callable[..., Answer]


@pytest.fixture
def search(tiny: Pipeline, tmp_path: Path) -> Search:
    def searches(recipe: Recipe, folder: str = "find", **options: Any) -> Answer:
        given = {"goal": "rmse", "batch_size": 8} | options
        return ablate.find("search", recipe, tmp_path / folder, pipeline=tiny, **given)

    return searches


def leaders(answer: Answer) -> list[dict[str, str]]:
    with (answer.store.folder / "find.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_it_climbs_to_the_corner_with_half_of_the_images(slope: Recipe, search: Search) -> None:
    answer = search(slope, budget=64)
    assert answer.planned == 128
    assert len(answer.store.keys()) <= 64
    best, *others = leaders(answer)
    assert (float(best["a"]), float(best["b"])) == (0.65, 0.65)
    scores = [float(row["score"]) for row in (best, *others)]
    assert scores == sorted(scores, reverse=True)
    drift = [c.drift["rmse"] for c in answer if (c.axes.get("a"), c.axes.get("b")) == (0.65, 0.65)]
    assert scores[0] == pytest.approx(sum(drift) / 2, abs=1e-5)
    facts = json.loads((answer.store.folder / "find.json").read_text())
    assert (answer.store.folder / facts["winner"]).exists()
    assert facts["variants"] == 63  # without the one that edits nothing


@pytest.mark.slow
def test_a_seed_draws_the_same_again_and_another_one_others(slope: Recipe, search: Search) -> None:
    first, again, other = (
        search(slope, folder, budget=12, seed=seed, method="random")
        for folder, seed in (("one", 0), ("two", 0), ("three", 1))
    )
    assert leaders(first) == leaders(again)
    assert first.store.keys() == again.store.keys() != other.store.keys()
    resumed = search(slope, "one", budget=12, seed=0, method="random")
    assert resumed.summary is not None
    assert resumed.summary.computed == 0
    further = search(slope, "one", budget=16, seed=0, method="random")
    assert further.store.keys() > again.store.keys()


@pytest.mark.slow
def test_it_goes_toward_a_concept_and_stays_structured(tmp_path: Path) -> None:
    recipe = Recipe.build({
        "version": 1, "name": "toward", "model": "bundled", "sampling": {"num_inference_steps": 4},
        "axes": {"part": {"values": ["*attn2*", "*attn1*", "*"]}, "factor": [0, 0.5]},
        "edits": [{"scale": {"modules": "$part", "factor": "$factor"}}],
    })  # fmt: skip
    near = ablate.find("search", recipe, tmp_path / "run", goal="nearest to balloon", budget=20)
    assert near.finding is not None
    assert "its likeness to balloon is" in near.finding.sentence
    assert "where baselines have" in near.finding.sentence
    scores = [float(row["score"]) for row in leaders(near)]
    assert len(scores) == 6
    assert all(-1 <= score <= 1 for score in scores)
    far = ablate.find("search", recipe, tmp_path / "run", budget=20)
    assert far.summary is not None
    assert far.summary.computed == 0
    for row in leaders(far):
        assert (row["score"] == "") == ("noise" in row["classes"])


@pytest.mark.slow
def test_axes_that_go_together_are_searched_as_one(
    build: Callable[..., Recipe], search: Search
) -> None:
    recipe = build(
        prompts=["a cat", "a dog"],
        axes={"a": [0.9, 0.8, 0.7], "b": [0.1, 0.2, 0.3], "c": [0.5, 1]},
        zip=["a", "b"],
        edits=[
            {"scale": {"modules": "conv_in", "factor": "$a"}},
            {"mix_noise": {"modules": "conv_out", "amount": "$b"}},
            {"scale": {"modules": "mid_block*", "factor": "$c"}},
        ],
    )
    rows = leaders(search(recipe, budget=100))
    assert sorted((row["a"], row["b"], row["c"]) for row in rows) == [
        (a, b, c) for a, b in (("0.7", "0.3"), ("0.8", "0.2"), ("0.9", "0.1")) for c in ("0.5", "1")
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal": "rmsee"}, "--goal: there is no goal `rmsee`, did you mean `rmse`"),
        ({"goal": "farthest while structured"}, "no CLIP model reads images"),
        ({"method": "annealing"}, "no method `annealing`; there are evolution, random"),
        ({"budget": 3}, "3 images are too few: one variant takes 4"),
    ],
)
def test_a_request_without_an_answer_says_what_would_have_one(
    options: dict[str, object], message: str, slope: Recipe, search: Search
) -> None:
    with pytest.raises(RequestError, match=message):
        search(slope, **options)


def test_one_variant_is_nothing_to_search(
    build: Callable[..., Recipe], search: Search, run: Callable[..., lab.Result]
) -> None:
    with pytest.raises(RequestError, match="has 1 variant, and nothing to search among"):
        search(build(edits=[{"zero": {"modules": "conv_in"}}]))
