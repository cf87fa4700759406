"""Search: which units stand for a concept, and what a unit stands for.

A unit stands for a concept where its contrast (Cohen's d, `Statistics.contrast`) is above what
chance gives: of studies in which no unit answers to anything, one in twenty has a unit above it for
any of its concepts (`threshold`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np

from ablate.messages import did_you_mean
from ablate.store import Statistics, student
from ablate.units.record.study import StudyError

UNITS = 5  # that are told of a concept, at most
FOR, AGAINST = 8, 3  # concepts that are told of a unit
FEW = 3  # samples of a concept, at most, that a deviation is rough of
ONE = (
    "one sample a concept: no spread to measure contrast in; more `--seeds` or `--template` give it"
)
ERRORS = 0.05  # part of the studies of nothing in which chance alone names a unit


@dataclass(frozen=True)
class Contrasts:
    """What is asked of a study over and over: `values`, the contrast of every concept and unit
    (C, U), and `least`, above which it is more than chance."""

    values: np.ndarray
    least: float

    @classmethod
    def of(cls, statistics: Statistics) -> Contrasts:
        """Those of a study. Raises `StudyError` where every concept has one sample."""
        if not statistics.spreads:
            raise StudyError(ONE)
        return cls(statistics.contrast(), threshold(statistics))


def load(folder: Path) -> Statistics:
    """The statistics of a study's folder. Raises `StatisticsError` where there are none, or where
    not all samples were recorded."""
    return Statistics.load(folder / "activations.npz", whole=True)


def rough(statistics: Statistics) -> str:
    """What is to be said of contrasts of few samples; else nothing."""
    few = statistics.fewest
    if few > FEW:
        return ""
    samples = f"{few} sample{'s' * (few != 1)}"
    return f"Contrasts are of {samples} a concept, so few that they are rough."


def threshold(statistics: Statistics) -> float:
    """The contrast above which a unit stands for a concept, with a family-wise error of `ERRORS`
    for all units and concepts together: the largest of three.

    Where labels are shuffled, the largest contrast of each unit follows a Gumbel distribution, that
    of maxima; fitted by its moments (Gumbel 1958, Statistics of Extremes) it tells what the largest
    of all units exceeds in so many studies, with a margin for the fit (`_gumbel`). Dudbridge and
    Koeleman 2004, Efficient computation of significance levels for multiple associations in large
    studies of correlated data, save shuffles in this way. One shuffle of few units, or of units
    that go together, says too little of the spread: nor is it less than Student's t gives, with
    Bonferroni's correction; nor than what the shuffled labels reach.

    The error is more than `ERRORS` where concepts have two or three samples, or units are active in
    hardly any: then a deviation is 0 every now and then by chance.
    """
    by_chance = statistics.contrast_by_chance().max(0, initial=0)
    by_chance = by_chance[by_chance > 0]  # units that are always silent are none
    told = float(by_chance.max(initial=0))
    return max(told, _gumbel(by_chance), _bonferroni(statistics))


def _gumbel(maxima: np.ndarray) -> float:
    """What the largest of as many maxima as these exceeds with a probability of `ERRORS`: the upper
    95 % limit of that quantile, as few maxima tell it badly (Kite 1975, Confidence limits for
    design events)."""
    count = len(maxima)
    if not count:
        return 0.0
    mean, deviation = float(maxima.mean()), float(maxima.std())
    reduced = -math.log(-math.log1p(-ERRORS) / count)
    factor = math.sqrt(6) / math.pi * (reduced - float(np.euler_gamma))
    # From the skewness and kurtosis of a Gumbel distribution, 1.1396 and 5.4.
    error = math.sqrt((1 + 1.1396 * factor + 1.1 * factor**2) / count)
    return mean + deviation * (factor + NormalDist().inv_cdf(0.95) * error)


def _bonferroni(statistics: Statistics) -> float:
    """The same of independent samples with normal values: a contrast is Student's t times the
    standard error of a concept's mean less that of the others, in deviations."""
    count = statistics.count[statistics.count > 0]
    if len(count) < 2:
        return 0.0
    rest = ((1 / count).sum() - 1 / count) / (len(count) - 1) ** 2
    error = math.sqrt(float((1 / count + rest).max()))
    freedom = max(int((count - 1).sum()), 1)
    return error * student(ERRORS / (len(count) * max(statistics.units, 1)), freedom)


def search(
    statistics: Statistics, concept: str | None = None, known: Contrasts | None = None
) -> list[dict[str, Any]]:
    """For a concept, or each of the study, the units that stand for it, `UNITS` at most, by falling
    contrast: `{"concept", "units": [{"module", "unit", "contrast"}]}`. `known`: its contrasts.

    `units` is empty where no unit stands for it. Raises `StudyError` for a concept that the study
    lacks.
    """
    if concept is not None and concept not in statistics.concepts:
        raise StudyError(
            f"the study has no concept `{concept}`{did_you_mean(concept, statistics.concepts)};"
            f" it has {', '.join(statistics.concepts)}"
        )
    known = known or Contrasts.of(statistics)
    contrast, least = known.values, known.least
    found = []
    for number, name in enumerate(statistics.concepts):
        if concept in (None, name):
            own = [unit for unit in strongest(contrast, number) if contrast[number, unit] > least]
            units = [told(statistics, unit, contrast[number, unit]) for unit in own]
            found.append({"concept": name, "units": units})
    return found


def strongest(contrast: np.ndarray, concept: int, count: int = UNITS) -> list[int]:
    """The units of the largest contrast (C, U) for a concept, the first of equal ones."""
    found: list[int] = np.argsort(-contrast[concept], kind="stable")[:count].tolist()
    return found


def told(statistics: Statistics, unit: int, contrast: float) -> dict[str, Any]:
    """A unit as tables name it: its module, its number there, its contrast."""
    layer, number = statistics.place_of(unit)
    return {"module": layer.path, "unit": number, "contrast": float(contrast)}


def number_of(statistics: Statistics, path: str, number: int) -> int:
    """Where a unit stands among all of a study. Raises `StudyError` where it is none of them."""
    among(path, [layer.path for layer in statistics.layers])
    layer = next(layer for layer in statistics.layers if layer.path == path)
    if not 0 <= number < layer.units:
        raise StudyError(
            f"`{path}` has {layer.units} {layer.kind}, from 0 to {layer.units - 1};"
            f" there is none of number {number}"
        )
    start: int = statistics.slice_of(layer).start
    return start + int(number)


def among(path: str, paths: Sequence[str]) -> None:
    """Raises `StudyError` where a layer is none of a study's, by their paths."""
    if path not in paths:
        raise StudyError(
            f"the study has no units of `{path}`{did_you_mean(path, paths)};"
            f" it has those of {', '.join(paths[:8])}{' and more' if len(paths) > 8 else ''}"
        )


def find(statistics: Statistics, path: str, number: int) -> dict[str, Any]:
    """What a unit stands for: where it is, its class selectivity, the concept that drives it most,
    and by contrast the concepts for and against. Raises `StudyError` where there is no such unit,
    or no contrast (`Contrasts.of`).
    """
    unit = number_of(statistics, path, number)
    return described(statistics, [unit], Contrasts.of(statistics).values)[0]


def silent(statistics: Statistics, unit: int) -> bool:
    """Whether a unit, by its number among all, was active for no sample at all."""
    return not statistics.mean[:, unit].any()


def described(
    statistics: Statistics, units: Sequence[int], contrast: np.ndarray | None = None
) -> list[dict[str, Any]]:
    """What `find` tells, of some units, by their numbers among all. `contrast`: of the study, where
    it is known (C, U)."""
    contrast = statistics.contrast() if contrast is None else contrast
    selectivity = statistics.selectivity()
    found = []
    for unit in units:
        layer, number = statistics.place_of(unit)
        order = ranked(contrast[:, unit], statistics.mean[:, unit])
        concepts = [[statistics.concepts[c], float(contrast[c, unit])] for c in order]
        found.append({
            "module": layer.path,
            "component": layer.component,
            "kind": layer.kind,
            "unit": number,
            "stage": layer.stage,
            "role": layer.role,
            "selectivity": float(selectivity[unit]),
            "concept": concepts[0][0],
            "concepts": concepts[:FOR],
            # None of those that are told before.
            "against": concepts[FOR:][-AGAINST:],
        })  # fmt: skip
    return found


def ranked(contrast: np.ndarray, mean: np.ndarray) -> list[int]:
    """The numbers of all concepts by a unit's contrast for each (C,), the largest first; by its
    means (C,) where these are equal, as in units that give one concept always the same value."""
    found: list[int] = np.lexsort((-mean, -contrast)).tolist()
    return found
