"""Search: the units of a concept, and the concepts of a unit.

A unit is selective for a concept where its contrast (Cohen's d, `Statistics.contrast`) is above
what chance gives: of studies in which no unit responds to anything, one in twenty has a unit above
it for any of its concepts (`threshold`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from ablate.drift import student_quantile
from ablate.messages import counted, did_you_mean
from ablate.store import Statistics
from ablate.units.record.setup import StudyError

UNITS = 5  # of a concept, at most
FOR, AGAINST = 8, 3  # concepts of a unit
FEW = 3  # samples a concept, at most, whose deviations are rough
ONE = (
    "one sample a concept: no spread to measure contrast in; more `--seeds` or `--template` give it"
)
ERRORS = 0.05  # part of the studies of nothing in which chance alone names a unit


@dataclass(frozen=True)
class Contrasts:
    """Contrasts of a study, computed once.

    Attributes:
        values: Of every concept and unit (C, U).
        least: Contrasts above it are more than chance.
    """

    values: np.ndarray
    least: float

    @classmethod
    def of(cls, statistics: Statistics) -> Contrasts:
        """Compute them. Raises `StudyError` where every concept has one sample."""
        if not statistics.spreads:
            raise StudyError(ONE)
        return cls(statistics.contrast(), threshold(statistics))


def few_samples_note(statistics: Statistics) -> str:
    """Return a note on contrasts of few samples, or ``."""
    if statistics.fewest > FEW:
        return ""
    samples = counted(statistics.fewest, "sample")
    return f"Contrasts are of {samples} a concept, so few that they are rough."


def threshold(statistics: Statistics) -> float:
    """Return the contrast above which a unit is selective for a concept.

    Its family-wise error is `ERRORS`, for all units and concepts together. The largest of three.

    By shuffled labels, the largest contrast of each unit follows a Gumbel distribution, that of
    maxima. Fitted by its moments (Gumbel 1958, Statistics of Extremes) it gives what the largest of
    all units exceeds in so many studies, with a margin for the fit (`_gumbel`). Dudbridge and
    Koeleman 2004, Efficient computation of significance levels for multiple associations in large
    studies of correlated data, save shuffles in this way. One shuffle of few units, or of
    correlated ones, does not show the spread: so the threshold is no less than by Student's t with
    Bonferroni's correction, and no less than the largest contrast by shuffled labels.

    The error is more than `ERRORS` where concepts have two or three samples, or units are active in
    hardly any: then a deviation is 0 every now and then by chance.
    """
    by_chance = statistics.contrast_by_chance().max(0, initial=0)
    by_chance = by_chance[by_chance > 0]  # without units that are always silent
    largest = float(by_chance.max(initial=0))
    return max(largest, _gumbel(by_chance), _bonferroni(statistics))


def _gumbel(maxima: np.ndarray) -> float:
    """Return what the largest of as many maxima as these exceeds with a probability of `ERRORS`:
    the upper 95 % limit of that quantile, which is imprecise for few maxima (Kite 1975, Confidence
    limits for design events)."""
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
    """Return the same for independent samples with normal values: a contrast is Student's t times
    the standard error of a concept's mean less that of the others, in deviations."""
    count = statistics.count[statistics.count > 0]
    if len(count) < 2:
        return 0.0
    rest = ((1 / count).sum() - 1 / count) / (len(count) - 1) ** 2
    error = math.sqrt(float((1 / count + rest).max()))
    freedom = max(int((count - 1).sum()), 1)
    return error * student_quantile(ERRORS / (len(count) * max(statistics.units, 1)), freedom)


def search_units(
    statistics: Statistics, concept: str | None = None, contrasts: Contrasts | None = None
) -> list[dict[str, Any]]:
    """Return the units selective for a concept, or for each of the study, by falling contrast.

    Args:
        contrasts: Of the study, where they are known.

    Returns:
        `{"concept", "units": [{"module", "unit", "contrast"}]}`, `UNITS` units at most.

    Raises:
        StudyError: The study has no such concept, or one sample of each.
    """
    if concept is not None and concept not in statistics.concepts:
        raise StudyError(
            f"the study has no concept `{concept}`{did_you_mean(concept, statistics.concepts)};"
            f" it has {', '.join(statistics.concepts)}"
        )
    contrasts = contrasts or Contrasts.of(statistics)
    return [
        {
            "concept": name,
            "units": [
                unit_row(statistics, unit, contrasts.values[number, unit])
                for unit in strongest_units(contrasts, number)
                if contrasts.values[number, unit] > contrasts.least
            ],
        }
        for number, name in enumerate(statistics.concepts)
        if concept in (None, name)
    ]


def strongest_units(contrasts: Contrasts, concept: int, count: int = UNITS) -> list[int]:
    """Return the units of the largest contrast for a concept, the first of equal ones."""
    order = np.argsort(-contrasts.values[concept], kind="stable")
    units: list[int] = order[:count].tolist()
    return units


def unit_row(statistics: Statistics, unit: int, contrast: float) -> dict[str, Any]:
    """Return a unit as tables have it: its module, its number there, its contrast."""
    layer, number = statistics.place_of(unit)
    return {"module": layer.path, "unit": number, "contrast": float(contrast)}


def unit_index(statistics: Statistics, path: str, number: int) -> int:
    """Return the index of a unit among all of a study. Raises `StudyError` for any other."""
    check_layer(path, [layer.path for layer in statistics.layers])
    layer = next(layer for layer in statistics.layers if layer.path == path)
    if not 0 <= number < layer.units:
        raise StudyError(
            f"`{path}` has {layer.units} {layer.kind}, from 0 to {layer.units - 1};"
            f" there is none of number {number}"
        )
    start: int = statistics.slice_of(layer).start
    return start + int(number)


def check_layer(path: str, paths: Sequence[str]) -> None:
    """Raise `StudyError` where a layer is none of a study's, by their paths."""
    if path not in paths:
        raise StudyError(
            f"the study has no units of `{path}`{did_you_mean(path, paths)};"
            f" it has those of {', '.join(paths[:8])}{' and more' if len(paths) > 8 else ''}"
        )


def describe_unit(statistics: Statistics, path: str, number: int) -> dict[str, Any]:
    """Return what is known of a unit: `describe_units`, and `silent`, whether it was never active.

    Raises `StudyError` where there is no such unit, or no contrast (`Contrasts.of`).
    """
    unit = unit_index(statistics, path, number)
    (row,) = describe_units(statistics, [unit], Contrasts.of(statistics))
    return {**row, "silent": is_silent(statistics, unit)}


def describe_units(
    statistics: Statistics, units: Sequence[int], contrasts: Contrasts
) -> list[dict[str, Any]]:
    """Return what is known of some units, by their indices among all: their place, class
    selectivity, preferred concept, and by contrast the concepts for and against."""
    selectivity = statistics.selectivity()
    rows = []
    for unit in units:
        layer, number = statistics.place_of(unit)
        concepts = [
            [statistics.concepts[c], float(contrasts.values[c, unit])]
            for c in rank_concepts(statistics, contrasts, unit)
        ]
        rows.append({
            "module": layer.path,
            "component": layer.component,
            "kind": layer.kind,
            "unit": number,
            "stage": layer.stage,
            "role": layer.role,
            "selectivity": float(selectivity[unit]),
            "concept": concepts[0][0],
            "concepts": concepts[:FOR],
            "against": concepts[FOR:][-AGAINST:],
        })  # fmt: skip
    return rows


def is_silent(statistics: Statistics, unit: int) -> bool:
    """Whether a unit, by its index among all, was active for no sample."""
    return not statistics.mean[:, unit].any()


def rank_concepts(statistics: Statistics, contrasts: Contrasts, unit: int) -> list[int]:
    """Return the indices of all concepts by a unit's contrast, the largest first; by its means
    where contrasts are equal, as of units with one value for all samples of a concept."""
    order = np.lexsort((-statistics.mean[:, unit], -contrasts.values[:, unit]))
    concepts: list[int] = order.tolist()
    return concepts
