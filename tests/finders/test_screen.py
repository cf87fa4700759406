"""Screens: scores that follow drift, figures of them, resumed; and wrong requests."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import spearmanr

import ablate
from ablate.cli.main import main
from ablate.engine import linear
from ablate.finders import Answer, scores
from ablate.finders.parts import Drift
from ablate.finders.screen import Looked, rank_correlation, share_of_farthest
from ablate.messages import RequestError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sweep.binding import plan

MODULES = {
    "axes": {"module": {"each": "*"}},
    "edits": [{"zero": {"modules": "$module"}}],
}
BLOCKS = {
    "axes": {"block": {"group": {"modules": "*", "by": "block"}}},
    "edits": [{"zero": {"modules": "$block"}}],
}
HEADS = {
    "axes": {"head": {"each_head": "kind=*Attention"}},
    "edits": [{"zero": {"modules": "$head", "where": "output"}}],
}

Find = Callable[..., Answer]


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rough scores, which take a tenth of the time."""
    monkeypatch.setattr(linear, "DRAWS", 8)


@pytest.fixture
def find(tiny: Pipeline, tmp_path: Path) -> Find:
    def finds(recipe: Recipe, **options: Any) -> Answer:
        return ablate.find("screen", recipe, tmp_path / "find", pipeline=tiny, **options)

    return finds


def table(answer: Answer) -> list[dict[str, str]]:
    with (answer.store.folder / "find.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("keys", [MODULES, HEADS], ids=["modules", "heads"])
def test_scores_follow_drift(
    keys: dict[str, Any], build: Callable[..., Recipe], find: Find
) -> None:
    answer = find(build(seeds=[0], **keys), top=200, metric="latent")
    rows = table(answer)
    assert len(rows) == json.loads((answer.store.folder / "find.json").read_text())["parts"]
    assert {row["measured"] for row in rows} == {"score"}
    by_score, by_drift = ([float(row[name]) for row in rows] for name in ("score", "drift"))
    assert by_score == sorted(by_score, reverse=True)
    assert spearmanr(by_score, by_drift)[0] > 0.6


def test_it_measures_the_first_and_some_others_and_once(
    build: Callable[..., Recipe], find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = build(seeds=[0, 1], **BLOCKS)
    answer = find(recipe, top=2, sample=3)
    assert answer.finding is not None
    rows = table(answer)
    assert [row["measured"] for row in rows[:2]] == ["score"] * 2
    drawn = [row["measured"] for row in rows].count("chance")
    assert len(answer.store.keys()) == 2 * (1 + 2 + drawn) < answer.planned
    assert "first-order score and drift by rmse have a rank correlation" in answer.finding.sentence
    whole = {p: p.read_bytes() for p in answer.store.folder.rglob("*") if p.is_file()}

    def never(*_: object) -> None:
        raise AssertionError("scored again")

    monkeypatch.setattr(scores, "first_order", never)
    again = find(recipe, top=2, sample=3)
    assert again.summary is not None
    assert again.summary.computed == 0
    assert {p: p.read_bytes() for p in whole} == whole
    verified = CliRunner().invoke(main, ["verify", str(answer.store.folder)])
    assert verified.exit_code == 0, verified.stdout


def test_it_can_be_interrupted_while_it_scores(
    build: Callable[..., Recipe], find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*arguments: Any) -> Any:
        arguments[-1].stop = lambda: True
        return linear.first_order(*arguments)

    recipe = build(**BLOCKS)
    with monkeypatch.context() as patched:
        patched.setattr(scores, "first_order", stopping)
        stopped = find(recipe, top=1, sample=1)
    assert stopped.finding is None
    assert find(recipe, top=1, sample=1).finding is not None


def test_queries_and_keys_have_equal_scores(build: Callable[..., Recipe], tiny: Pipeline) -> None:
    """Attention weights depend on their products alone."""
    planned = plan(build(
        axes={"module": {"each": ["*.attn?.to_q", "*.attn?.to_k"]}},
        edits=[{"zero": {"modules": "$module"}}],
    ))  # fmt: skip
    variants = [variant for variant in planned.variants if not variant.is_baseline]
    scored = linear.first_order(variants, planned.conditions, tiny)
    by_path = {v.modules[0]: score for v, score in zip(variants, scored, strict=True)}
    queries = [path for path in by_path if path.endswith("to_q")]
    assert queries
    for path in queries:
        assert by_path[path] == pytest.approx(by_path[path[:-1] + "k"], rel=1e-3)


def looked(scores: Any, drifts: Any, weights: Any, chosen: Any) -> list[Looked]:
    rows = zip(scores, drifts, weights, chosen, strict=True)
    return [Looked("", s, Drift(np.array([d])), w, c) for s, d, w, c in rows]


def test_a_rank_correlation_of_all_is_spearmans_and_weights_are_copies() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30))
    y = (x + y).round(1)
    rho, interval = rank_correlation(looked(x, y, [1] * 30, [True] * 30))
    assert rho == pytest.approx(spearmanr(x, y)[0])
    assert interval is not None
    assert interval[0] < rho < interval[1]
    copies = rank_correlation(looked([*x, *x], [*y, *y], [1] * 60, [True] * 60))[0]
    assert rank_correlation(looked(x, y, [2] * 30, [True] * 30))[0] == pytest.approx(copies)


def test_a_share_of_the_farthest_counts_what_those_drawn_represent() -> None:
    drifts = [math.inf, 5, 4, 1, 3, 2]
    chosen = [True, True, True, True, False, False]
    assert share_of_farthest(looked(range(6), drifts, [1, 1, 1, 1, 4, 4], chosen), 4) == 0.75


AMOUNTS = {"axes": {**BLOCKS["axes"], "amount": [0.1, 0.2]},
           "edits": [{"mix_noise": {"modules": "$block", "amount": "$amount"}}]}  # fmt: skip
RESAMPLED = {
    **BLOCKS,
    "edits": [{"resample": {"modules": "$block", "where": "output", "over": {"seeds": [5]}}}],
}


@pytest.mark.parametrize(
    ("keys", "options", "message"),
    [
        ({"edits": [{"zero": {"modules": "*"}}]}, {}, "has no axis of parts"),
        (AMOUNTS, {}, "axes.amount: edits vary along this axis, too"),
        (RESAMPLED, {}, "`resample` edits by other conditions, which has no first-order score"),
        ({**BLOCKS, "component": "vae"}, {}, "the denoiser's predictions; `zero` edits vae"),
        (BLOCKS, {"metric": "rms"}, "--metric: there is no metric `rms`, did you mean `rmse`"),
    ],
)
def test_a_wrong_request_ends_in_a_sentence(
    keys: dict[str, Any], options: dict[str, Any], message: str,
    build: Callable[..., Recipe], find: Find,
) -> None:  # fmt: skip
    with pytest.raises(RequestError, match=message):
        find(build(**keys), **options)
