"""Effects: drift over seeds, against the noise floor, with an interval and a verdict.

The noise floor of a group (one condition, whatever its seed) is the mean distance between its
baseline images of different seeds: how far a picture moves when only the seed changes. An
effect is the mean drift of a variant over its seeds, divided by that floor: at 1 the edit matters
as much as the choice of the seed.

Intervals and p values are those of Student's t on the logarithm of that ratio, its error by the
jackknife over seeds. In simulation, intervals of 3, 4, 8 and 16 seeds contain the true value 97,
97, 97 and 96 times in 100. As a run tests many variants, verdicts are by q values: of those that
are not `changes`, one in twenty is expected to be false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any, TypeVar

import numpy as np

from ablate.drift.intervals import Estimate, means_without, q_values
from ablate.store import Run, StoreError, in_table, read_table, write_table

FILE = "effects.csv"
MATTERS = 1.0  # an effect that is larger moves pictures more than a seed does
NOTHING = 0.1  # and one that is smaller moves them by less than can be noticed
FEWEST = 4  # seeds of a verdict; with fewer an edit must be enormous to be significant
ERRORS = 0.05  # the share of false verdicts that is expected among those that are not `changes`
FIGURES = ("seeds", "mean", "floor", "drift", "low", "high", "p", "q", "verdict", "same_as")

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
        mean: Mean distance from the baseline, as `metrics.judged` writes it; None when every image
            has NaN.
        floor: The noise floor in the same unit.
        drift: mean / floor.
        low: Lower end of the interval of `drift`; None with fewer than three seeds.
        high: Upper end.
        p: The probability of a drift as far from 1, or farther, if it were 1; None with fewer than
            four seeds.
        q: The smallest false discovery rate among the effects of a run by this metric at which this
            one differs from 1.
        verdict: `matters`, `changes`, `nothing`, or empty with fewer than four seeds.
        same_as: The variant whose images these are; the two are one test.
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
    p: float | None = None
    q: float | None = None
    verdict: str = ""
    same_as: str = ""


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
    """The measured distances of one variant in one condition by one metric, by seed.

    `same_as`: the variant whose images these are, if that is another.
    """

    variant: str
    prompt: str
    axes: Mapping[str, Any]
    metric: str
    by_seed: Mapping[int, float]
    floor: Floor
    same_as: str = ""

    @property
    def test(self) -> tuple[object, ...]:
        """What is tested: equal for samples that are one experiment."""
        experiment = self.same_as or self.variant
        return experiment, self.prompt, self.metric, tuple(self.by_seed), id(self.floor)


def estimate(samples: Sequence[Sample]) -> list[Effect]:
    """The effect of each sample, in their order. Those of one metric are corrected together, each
    experiment counted once."""
    effects, ratios = [], [_ratio_of(sample) for sample in samples]
    for sample, ratio in zip(samples, ratios, strict=True):
        values = list(sample.by_seed.values())
        mean = float(np.mean(values)) if values else None
        floor = sample.floor.mean(sample.metric)
        drift = None if mean is None or floor is None else mean / floor
        low, high = ratio.interval() if ratio else (None, None)
        effects.append(Effect(sample.variant, sample.prompt, sample.axes, sample.metric,
                            len(values), mean, floor, drift, low, high,
                            same_as=sample.same_as))  # fmt: skip
    first = {sample.test: i for i, sample in enumerate(samples) if not sample.same_as}
    tested = [first.get(s.test, i) if s.same_as else i for i, s in enumerate(samples)]
    for metric in dict.fromkeys(sample.metric for sample in samples):
        judged = {
            i: ratio for i, ratio in enumerate(ratios)
            if ratio and tested[i] == i
            and effects[i].metric == metric and effects[i].seeds >= FEWEST
        }  # fmt: skip
        p, small = (
            np.array([ratio.p(value) for ratio in judged.values()]) for value in (MATTERS, NOTHING)
        )
        for i, *figures in zip(judged, p, q_values(p), q_values(small), strict=True):
            p_value, q_value, q_small = map(float, figures)
            drift = effects[i].drift or 0.0
            judgement = (
                "matters" if drift > MATTERS and q_value <= ERRORS
                else "nothing" if drift < NOTHING and q_small <= ERRORS
                else "changes"
            )  # fmt: skip
            effects[i] = replace(effects[i], p=p_value, q=q_value, verdict=judgement)
    for i, test in enumerate(tested):
        same = effects[test]
        effects[i] = replace(effects[i], p=same.p, q=same.q, verdict=same.verdict)
    return effects


def _ratio_of(sample: Sample) -> Estimate | None:
    """The mean distance of a sample in floors; None without a floor or with fewer than three seeds.

    Where a variant has exactly the seeds of the floor, both are without the same seed at a time, so
    that what they share cancels; else their errors add up (Welch 1947, The generalization of
    Student's problem).
    """
    seeds = tuple(sorted(sample.by_seed))
    floor = sample.floor.mean(sample.metric)
    if floor is None or len(seeds) < 3:
        return None
    values = np.array([sample.by_seed[seed] for seed in seeds]) / floor
    floors = _floors_without(sample.floor.distances[sample.metric]) / floor
    if not len(floors):
        return Estimate.of_mean(values)
    if seeds == sample.floor.seeds:
        return Estimate.of(float(values.mean()), means_without(values) / floors)
    return Estimate.of_mean(values) / Estimate.of(1.0, floors)


def _floors_without(distances: np.ndarray) -> np.ndarray:
    """The floors without one of the seeds each, shape (seeds,); empty where one is zero, or of
    two seeds."""
    count = len(distances)
    if count < 3:
        return np.empty(0)
    floors: np.ndarray = (distances.sum() - 2 * distances.sum(0)) / ((count - 1) * (count - 2))
    return floors if floors.all() else np.empty(0)


def write_effects(run: Run, effects: Iterable[Effect]) -> None:
    """Write `effects.csv`: a row for each variant, condition without its seed, and metric."""
    axes = table_axes(run)
    rows = (
        [
            effect.variant, effect.prompt, *(effect.axes.get(axis, "") for axis in axes),
            effect.metric, effect.seeds,
            *(
                "" if figure is None else decimal(figure)
                for figure in (effect.mean, effect.floor, effect.drift, effect.low, effect.high)
            ),
            *("" if figure is None else f"{figure:.3g}" for figure in (effect.p, effect.q)),
            effect.verdict, effect.same_as,
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
    axes = table_axes(run)
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


def decimal(value: float) -> str:
    """A number as tables have it: to six decimals or, of a small one, six digits."""
    return f"{value:.6f}" if value == 0 or abs(value) >= 0.001 else f"{value:.6g}"


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
    metric, seeds, *figures, verdict, same_as = row[2 + len(axes) :]
    values = {
        name: known.get(text, text)
        for (name, known), text in zip(axes.items(), written, strict=True)
        if text
    }
    mean, floor, drift, low, high, p, q = (figure(text) if text else None for text in figures)
    variant, prompt, same_as = (texts.get(text, text) for text in (variant, prompt, same_as))
    return Effect(
        variant, prompt, values, metric, int(seeds), mean, floor, drift, low, high, p, q, verdict,
        same_as,
    )  # fmt: skip


def table_axes(run: Run) -> dict[str, dict[str, Any]]:
    """Axes but prompt and seed: by name, their values by how a table writes them."""
    return {
        axis.name: {in_table(str(value)): value for value in axis.values}
        for axis in run.axes()
        if axis.name not in ("prompt", "seed")
    }
