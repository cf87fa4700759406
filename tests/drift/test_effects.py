"""Effects from planted distances: floors, intervals, verdicts and the table."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabricated import DESCRIBED
from scipy import stats

from ablate.drift import effects
from ablate.drift.effects import Effect, Floor, Sample, estimate
from ablate.drift.intervals import q_values
from ablate.store.files import StoreError
from ablate.store.run import Run


def floor_of(distances: np.ndarray, seeds: Sequence[int] | None = None) -> Floor:
    return Floor(0, "a cat", tuple(seeds or range(len(distances))), {"rmse": distances})


def sample(values: Sequence[float], floor: Floor, seeds: Sequence[int] | None = None) -> Sample:
    by_seed = dict(zip(seeds or range(len(values)), values, strict=True))
    return Sample("zeroed", "a cat", {"amount": 0.5}, "rmse", by_seed, floor)


def one(values: Sequence[float], floor: Floor, seeds: Sequence[int] | None = None) -> Effect:
    (effect,) = estimate([sample(values, floor, seeds)])
    return effect


def equal(count: int, distance: float = 0.2) -> Floor:
    return floor_of(distance * (1 - np.eye(count)))


def test_drift_is_the_mean_in_floors() -> None:
    distances = np.zeros((3, 3))
    for (i, j), distance in {(0, 1): 0.1, (0, 2): 0.2, (1, 2): 0.6}.items():
        distances[i, j] = distances[j, i] = distance
    effect = one([0.1, 0.2, 0.9], floor_of(distances))
    assert effect.floor == pytest.approx(0.3)
    assert effect.mean == pytest.approx(0.4)
    assert effect.drift == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("values", "verdict"),
    [
        ([0.31, 0.35, 0.5, 0.4], "matters"),
        ([0.21, 0.25, 0.5, 0.3], "changes"),  # by chance, perhaps
        ([0.1, 0.25, 0.5, 0.3], "changes"),
        ([0.01, 0.012, 0.019, 0.019], "changes"),
        ([0.01, 0.012, 0.013, 0.011], "nothing"),
        ([0.0, 0.0, 0.0, 0.0], "nothing"),
        ([0.0, 0.0, 0.0, 0.001], "nothing"),
        ([0.4, 0.4, 0.4, 0.4], "matters"),
        ([0.2, 0.2, 0.2, 0.2], "changes"),
    ],
)
def test_verdicts(values: list[float], verdict: str) -> None:
    effect = one(values, equal(4))
    assert effect.verdict == verdict
    assert effect.low is not None
    assert effect.high is not None
    assert effect.low - 1e-9 <= np.mean(values) / 0.2 <= effect.high + 1e-9
    assert (effect.low > 1) == (verdict == "matters")  # of a single test


def test_the_interval_is_that_of_students_t_on_the_jackknifed_logarithm() -> None:
    rng = np.random.default_rng(3)
    points, values = rng.standard_normal((7, 3)), rng.random(7)
    distances = np.linalg.norm(points[:, None] - points, axis=2)

    def log_ratio(seeds: Sequence[int]) -> float:
        apart = [distances[a, b] for a, b in itertools.permutations(seeds, 2)]
        return float(np.log(values[list(seeds)].mean() / np.mean(apart)))

    without = [log_ratio([s for s in range(7) if s != left]) for left in range(7)]
    error = np.sqrt(6) * np.std(without)
    effect = one(values.tolist(), floor_of(distances))
    reach = stats.t.ppf(0.975, 6) * error
    middle = log_ratio(range(7))
    assert [effect.low, effect.high] == pytest.approx(np.exp([middle - reach, middle + reach]))
    assert effect.p == pytest.approx(2 * stats.t.sf(abs(middle) / error, 6))


def truth(rng: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Baselines some of which lie farther out, and edits that move those farther."""
    size = np.exp(0.3 * rng.standard_normal(count))
    points = size[:, None] * rng.standard_normal((count, 6))
    distances = np.linalg.norm(points[:, None] - points, axis=2)
    return distances, size * np.exp(0.3 * rng.standard_normal(count))


@pytest.mark.parametrize("count", [3, 4, 8, 16])
@pytest.mark.parametrize("matched", [True, False])
def test_intervals_contain_the_truth_as_often_as_they_say(matched: bool, count: int) -> None:
    rng = np.random.default_rng(5)
    distances, values = truth(rng, 2000)
    expected = values.mean() / (distances.sum() / (2000 * 1999))
    contained = []
    for _ in range(1000):
        distances, values = truth(rng, count)
        if not matched:
            _, values = truth(rng, count)
        seeds = range(count) if matched else range(count, 2 * count)
        effect = one(values.tolist(), floor_of(distances), list(seeds))
        assert effect.low is not None
        assert effect.high is not None
        contained.append(effect.low <= expected <= effect.high)
    assert 0.93 < np.mean(contained) < 0.99


def test_where_nothing_matters_more_than_a_seed_nothing_is_said_to() -> None:
    """183 edits that do what another seed does, with 8 seeds each, against one noise floor."""
    rng = np.random.default_rng(7)
    runs, uncorrected = [], []
    for _ in range(60):
        points = rng.standard_normal((8, 12))
        floor = floor_of(np.linalg.norm(points[:, None] - points, axis=2))
        others = rng.standard_normal((183, 8, 12))
        samples = [sample(np.linalg.norm(points - o, axis=1).tolist(), floor) for o in others]
        effects = estimate(samples)
        runs.append(any(effect.verdict == "matters" for effect in effects))
        uncorrected.append(any((effect.low or 0) > 1 for effect in effects))
    assert np.mean(runs) < 0.12
    assert np.mean(uncorrected) > 0.5


def test_edits_that_matter_are_said_to_among_many_that_do_not() -> None:
    rng = np.random.default_rng(8)
    points = rng.standard_normal((8, 12))
    floor = floor_of(np.linalg.norm(points[:, None] - points, axis=2))
    far = [1.0] * 170 + [2.0] * 13
    samples = [
        sample((f * np.linalg.norm(points - rng.standard_normal((8, 12)), axis=1)).tolist(), floor)
        for f in far
    ]
    verdicts = [effect.verdict for effect in estimate(samples)]
    assert verdicts[170:] == ["matters"] * 13
    assert verdicts[:170].count("matters") <= 2


def test_q_values_are_those_of_benjamini_and_hochberg() -> None:
    p = np.random.default_rng(2).random(40) ** 3
    assert q_values(p) == pytest.approx(stats.false_discovery_control(p))
    assert q_values(np.empty(0)).shape == (0,)


def test_seeds_shared_with_the_floor_are_drawn_together() -> None:
    # A seed far from all others moves far, too: drawn together they cancel in part.
    size = np.array([1, 1.1, 1, 0.9, 1, 6.0])
    distances = (size[:, None] + size) * (1 - np.eye(6))
    together = one(size.tolist(), floor_of(distances))
    apart = one(size.tolist(), floor_of(distances, range(10, 16)))
    assert together.drift == apart.drift == pytest.approx(0.5)
    width = [e.high - e.low for e in (together, apart)]  # type: ignore[operator]
    assert width[0] < width[1] / 3


def test_few_seeds() -> None:
    single = one([0.3], equal(4))
    assert single.drift == pytest.approx(1.5)
    assert (single.seeds, single.low, single.high, single.verdict) == (1, None, None, "")
    pair = one([0.1, 0.3], equal(2))
    assert (pair.drift, pair.low, pair.p, pair.verdict) == (pytest.approx(1), None, None, "")
    three = one([0.1, 0.3, 0.2], equal(3))
    assert (three.low is not None, three.p, three.verdict) == (True, None, "")
    many = one([0.1, 0.3, 0.2, 0.2, 0.1], equal(2))  # the floor of two seeds stays one distance
    assert many.low is not None
    assert many.low == pytest.approx(0.498, abs=0.001)
    nothing = one([], equal(4))
    assert (nothing.seeds, nothing.mean, nothing.drift) == (0, None, None)


@pytest.mark.parametrize("floor", [floor_of(np.zeros((1, 1))), floor_of(np.zeros((3, 3))),
                                   Floor(0, "a cat", (0, 1, 2), {})])  # fmt: skip
def test_without_a_floor_there_is_a_mean_alone(floor: Floor) -> None:
    effect = one([0.1, 0.2, 0.3], floor)
    assert effect.mean == pytest.approx(0.2)
    assert (effect.floor, effect.drift, effect.low, effect.verdict) == (None, None, None, "")


def test_baselines_some_of_which_are_equal_give_finite_intervals() -> None:
    distances = np.zeros((3, 3))
    distances[2, :2] = distances[:2, 2] = 1
    effect = one([0.1, 0.2, 0.3], floor_of(distances))
    assert effect.high is not None
    assert np.isfinite(effect.high)


def test_an_effect_does_not_depend_on_what_else_is_estimated() -> None:
    rng = np.random.default_rng(1)
    floor = floor_of(truth(rng, 5)[0])
    samples = [sample(rng.random(5).tolist(), floor) for _ in range(4)]
    samples += [sample(rng.random(4).tolist(), floor, [0, 1, 3, 4])]
    together = estimate(samples)
    alone = [estimate([s])[0] for s in samples]
    for a, b in zip(together, reversed(estimate(samples[::-1])), strict=True):
        assert (a.low, a.high) == pytest.approx((b.low, b.high))
    for a, b in zip(together, alone, strict=True):
        assert (a.drift, a.low, a.high) == pytest.approx((b.drift, b.low, b.high))


def test_the_table_keeps_what_was_estimated(tmp_path: Path) -> None:
    run = Run(tmp_path)
    axes = [
        {"name": name, "values": values, "labels": [str(v) for v in values]}
        for name, values in {
            "prompt": ["x"], "seed": [0], "amount": [0.1, 1], "floor": ["a, <b>\n", "7"],
            "on": [True],
        }.items()
    ]  # fmt: skip
    run.write_manifest({**DESCRIBED, "axes": axes, "cells": []})
    told = [
        Effect('v "1", <i>', "a, cat", {"amount": 0.1, "floor": "a, <b>\n", "on": True}, "rmse", 3,
               0.25, 0.5, 0.5, 0.125, 0.75, 1.25e-05, 0.5, "changes"),
        Effect("v", "a cat", {"amount": 1, "floor": "7"}, "ssim", 1, 0.25, 0.5, 0.5),
        Effect("v", "a cat", {}, "latent", 0, None, None),
    ]  # fmt: skip
    effects.write_effects(run, told)
    assert effects.read_effects(run) == told
    (tmp_path / "effects.csv").write_text("variant,prompt\n")
    with pytest.raises(StoreError, match="its columns are not variant, prompt, amount, floor"):
        effects.read_effects(run)


def test_what_is_one_experiment_is_one_test() -> None:
    """In the correction for many tests it counts once, whatever it is called."""
    floor = equal(4)
    rng = np.random.default_rng(0)
    distinct = [
        Sample(f"v{i}", "a cat", {}, "rmse", dict(enumerate(rng.uniform(0.1, 0.6, 4))), floor)
        for i in range(5)
    ]
    names = [("again", distinct[1]), ("and again", distinct[1])]
    doubled = [replace(s, variant=name, same_as=s.variant) for name, s in names]
    alone, together = estimate(distinct), estimate([*distinct, *doubled])
    assert together[:5] == alone
    for other in together[5:]:
        assert (other.p, other.q, other.verdict) == (alone[1].p, alone[1].q, alone[1].verdict)
    strangers = [replace(s, same_as="") for s in doubled]
    assert [e.q for e in estimate([*distinct, *strangers])] != [e.q for e in together]
