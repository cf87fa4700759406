"""Effects: drift over seeds, against the noise floor, with an interval.

The noise floor of a group (one condition, whatever its seed) is the mean distance between its
baseline images of different seeds: how far a picture moves when only the seed changes. An
effect is the mean drift of a variant over its seeds, divided by that floor: at 1 the edit matters
as much as the choice of the seed. Intervals are percentile bootstrap intervals over seeds (Efron &
Tibshirani 1993, An Introduction to the Bootstrap, section 13.3). They are narrow where seeds are
few: in simulation, intervals of 3, 4, 8 and 16 seeds contain the true value 75, 85, 88
and 92 times in 100.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from math import isfinite
from typing import Any, TypeVar

import numpy as np

from ablate.store import Run, StoreError, in_table, read_table, write_table

FILE = "effects.csv"
MATTERS = 1.0  # an effect whose whole interval is above moves pictures more than a seed does
NOTHING = 0.1  # and one whose whole interval is below moves them by less than can be noticed
FEWEST = 4  # seeds of a verdict; intervals of fewer are too narrow
COVERED = 0.95  # share of the resamples within an interval
RESAMPLES = 2000
FIGURES = ("seeds", "mean", "floor", "drift", "low", "high", "verdict")

Row = TypeVar("Row")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Effect:
    """How far a variant moves the images of one condition, by one metric.

    Attributes:
        variant: The name of the variant.
        prompt: The prompt of the condition.
        axes: The values of its axes, without prompt and seed.
        metric: One of `DISTANCES`.
        seeds: How many seeds were measured.
        mean: Mean distance from the baseline, in the unit of the metric (1 - ssim for `ssim`);
            None when every image has NaN.
        floor: The noise floor in the same unit.
        drift: mean / floor.
        low: Lower end of the interval of `drift`; None with fewer than two seeds.
        high: Upper end.
        verdict: `matters`, `changes`, `nothing`, or empty without an interval.
    """

    variant: str
    prompt: str
    axes: Mapping[str, Any]
    metric: str
    seeds: int
    mean: float | None
    floor: float | None
    drift: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str = ""


@dataclass(frozen=True)
class Floor:
    """The distances between the baselines of a group.

    Attributes:
        group: The number of the group.
        prompt: Its prompt.
        seeds: The seeds of the baselines, sorted.
        distances: By metric, of all pairs of seeds, shape (seeds, seeds), symmetric.
    """

    group: int
    prompt: str
    seeds: tuple[int, ...]
    distances: Mapping[str, np.ndarray]

    def mean(self, metric: str) -> float | None:
        """Mean distance of two different seeds; None when there are none or they do not differ."""
        count = len(self.seeds)
        if count < 2 or metric not in self.distances:
            return None
        return float(self.distances[metric].sum() / (count * (count - 1))) or None


@dataclass(frozen=True)
class Sample:
    """The measured distances of one variant in one condition by one metric, by seed."""

    variant: str
    prompt: str
    axes: Mapping[str, Any]
    metric: str
    by_seed: Mapping[int, float]
    floor: Floor


def estimate(samples: Sequence[Sample]) -> list[Effect]:
    """The effect of each sample, in their order.

    A resample draws seeds with replacement. Where a variant has exactly the seeds of the
    floor, both use one draw, so that what they share cancels; else each has another.
    """
    effects = []
    alike: dict[tuple[int, str, tuple[int, ...]], list[int]] = {}
    for number, sample in enumerate(samples):
        values = list(sample.by_seed.values())
        mean = float(np.mean(values)) if values else None
        floor = sample.floor.mean(sample.metric)
        drift = None if mean is None or floor is None else mean / floor
        effects.append(Effect(sample.variant, sample.prompt, sample.axes, sample.metric,
                            len(values), mean, floor, drift))  # fmt: skip
        if drift is not None and len(values) > 1:
            seeds = tuple(sorted(sample.by_seed))
            alike.setdefault((id(sample.floor), sample.metric, seeds), []).append(number)
    for (_, metric, seeds), numbers in alike.items():
        distances = np.array([[samples[i].by_seed[s] for s in seeds] for i in numbers])
        lows, highs = intervals(distances, seeds, samples[numbers[0]].floor, metric)
        for i, low, high in zip(numbers, lows.tolist(), highs.tolist(), strict=True):
            judged = verdict(low, high) if len(seeds) >= FEWEST else ""
            effects[i] = replace(effects[i], low=low, high=high, verdict=judged)
    return effects


def verdict(low: float, high: float) -> str:
    """The verdict on an edit by the interval of its drift, in noise floors."""
    return "matters" if low > MATTERS else "nothing" if high < NOTHING else "changes"


def intervals(
    distances: np.ndarray, seeds: Sequence[int], floor: Floor, metric: str
) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends of drift, each of shape (n,), for distances of shape (n, seeds).

    With weights w (how often each seed was drawn), the mean distance is w·d / n, and that of
    different baselines w'Dw / (n² - Σw²). A draw of one seed alone has no such pair and takes the
    measured floor: without such draws, intervals would lose the most extreme means, and that of
    two seeds all width.
    """
    weights = _weights(len(seeds), "edits")
    matched = tuple(seeds) == floor.seeds
    drawn = weights if matched else _weights(len(floor.seeds), "baselines")
    pairs = drawn.sum(1) ** 2 - (drawn**2).sum(1)
    total = ((drawn @ floor.distances[metric]) * drawn).sum(1)
    # Baselines drawn may be equal to the pixel though not all of them are.
    known = (pairs > 0) & (total > 0)
    floors = np.full(RESAMPLES, floor.mean(metric), np.float64)
    np.divide(total, pairs, out=floors, where=known)
    drift = (weights @ distances.T / len(seeds)) / floors[:, None]
    low, high = np.quantile(drift, [(1 - COVERED) / 2, (1 + COVERED) / 2], axis=0)
    return low, high


@cache
def _weights(count: int, stream: str) -> np.ndarray:
    """How often each of `count` seeds is drawn, shape (resamples, count); always the same draws."""
    rng = np.random.default_rng([count, *stream.encode()])
    return rng.multinomial(count, np.full(count, 1 / count), RESAMPLES).astype(np.float64)


def write_effects(run: Run, effects: Iterable[Effect]) -> None:
    """Write `effects.csv`: a row for each variant, condition without its seed, and metric."""
    axes = _axes(run)
    rows = (
        [
            effect.variant, effect.prompt, *(effect.axes.get(axis, "") for axis in axes),
            effect.metric, effect.seeds,
            *(
                "" if figure is None else f"{figure:.6f}"
                for figure in (effect.mean, effect.floor, effect.drift, effect.low, effect.high)
            ),
            effect.verdict,
        ]
        for effect in effects
    )  # fmt: skip
    write_table(run.folder / FILE, _header(axes), rows)


def _header(axes: Iterable[str]) -> list[str]:
    return ["variant", "prompt", *axes, "metric", *FIGURES]


def read_effects(run: Run) -> list[Effect]:
    """The effects of a run from its table; none when it was never measured."""
    path = run.folder / FILE
    if not path.exists():
        return []
    axes = _axes(run)
    texts = {in_table(text): text for c in run.cells() for text in (c.variant, c.prompt)}
    with explained(run, FILE):
        header, rows = read_table(path)
        if not header:
            raise StoreError("it is empty")
        if header != _header(axes):
            raise StoreError(f"its columns are not {', '.join(_header(axes))}")
        return read_rows(rows, lambda row: _effect(row, axes, texts))


@contextmanager
def explained(run: Run, name: str) -> Iterator[None]:
    """Read a file that measuring writes; where it is damaged, say what writes it again.

    Raises `StoreError` in place of the errors of readers of numbers, JSON and tables.
    """
    try:
        yield
    except (StoreError, ValueError, LookupError, TypeError, RecursionError, OSError) as error:
        problem = str(error).removeprefix(f"{run.folder / name}").lstrip(": ")
        raise StoreError(
            f"{run.folder / name}: {problem}; `ablate drift {run.folder}` writes it again"
        ) from error


def read_rows(rows: Iterable[Row], read: Callable[[Row], Value]) -> list[Value]:
    """Read each row of a table. Raises `StoreError` with the number of one that is wrong."""
    results = []
    for number, row in enumerate(rows, 1):
        try:
            results.append(read(row))
        except (ValueError, LookupError) as error:
            raise StoreError(f"row {number} below its header: {error}") from error
    return results


def figure(text: str) -> float:
    """A finite number in a table. Raises `ValueError` for any other text."""
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"`{text}` is no finite number")
    return number


def _effect(
    row: Sequence[str], axes: Mapping[str, Mapping[str, Any]], texts: Mapping[str, str]
) -> Effect:
    # By position: an axis may have the name of a column.
    variant, prompt, *written = row[: 2 + len(axes)]
    metric, seeds, *figures, verdict = row[2 + len(axes) :]
    values = {
        name: known.get(text, text)
        for (name, known), text in zip(axes.items(), written, strict=True)
        if text
    }
    mean, floor, drift, low, high = (figure(f) if f else None for f in figures)
    variant, prompt = texts.get(variant, variant), texts.get(prompt, prompt)
    return Effect(
        variant, prompt, values, metric, int(seeds), mean, floor, drift, low, high, verdict
    )


def _axes(run: Run) -> dict[str, dict[str, Any]]:
    """Axes but prompt and seed: by name, their values by how a table writes them."""
    return {
        axis.name: {in_table(str(value)): value for value in axis.values}
        for axis in run.axes()
        if axis.name not in ("prompt", "seed")
    }
