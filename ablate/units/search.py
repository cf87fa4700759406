"""Search: which units stand for a concept, and what a unit stands for.

A unit stands for a concept where its contrast (Cohen's d, `Statistics.contrast`) is above all that
chance gives: the largest contrast that any unit of the study has for any concept where the labels
of the samples are shuffled, a threshold for all units together as in Nichols and Holmes 2002,
Nonparametric permutation tests for functional neuroimaging, of one permutation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ablate.catalog import did_you_mean
from ablate.units.statistics import Statistics
from ablate.units.study import StudyError

UNITS = 5  # that are told of a concept, at most
FOR, AGAINST = 8, 3  # concepts that are told of a unit


def by_chance(statistics: Statistics) -> np.ndarray:
    """The contrast of every concept and unit under shuffled labels (C, U).

    What the labels were dealt to is not kept, but the sum of squares within shuffled concepts is
    what all samples have in all, less that between them.
    """
    count, dealt = statistics.count[:, None], statistics.chance_count[:, None]
    total = max(int(count.sum()), 1)
    grand = (count * statistics.mean).sum(0) / total
    squares = statistics.m2.sum(0) + (count * (statistics.mean - grand) ** 2).sum(0)
    within = (squares - (dealt * (statistics.chance - grand) ** 2).sum(0)).clip(0)
    deviation = np.sqrt(within / max(total - int((dealt > 0).sum()), 1))
    seen = dealt > 0
    means = np.where(seen, statistics.chance, 0)
    rest = (means.sum(0) - means) / np.maximum(seen.sum() - seen, 1)
    found: np.ndarray = np.where(seen, means - rest, 0) / statistics.floored(deviation)
    return found


def threshold(statistics: Statistics) -> float:
    """The contrast above which a unit stands for a concept: chance reaches no more than this."""
    return float(by_chance(statistics).max(initial=0))


def search(statistics: Statistics, concept: str | None = None) -> list[dict[str, Any]]:
    """For a concept, or each of the study, the units that stand for it, `UNITS` at most, by falling
    contrast: `{"concept", "units": [{"module", "unit", "contrast"}]}`.

    `units` is empty where no unit stands for it. Raises `StudyError` for a concept that the study
    lacks.
    """
    if concept is not None and concept not in statistics.concepts:
        raise StudyError(
            f"the study has no concept `{concept}`{did_you_mean(concept, statistics.concepts)};"
            f" it has {', '.join(statistics.concepts)}"
        )
    contrast, least = statistics.contrast(), threshold(statistics)
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
    layer = next((layer for layer in statistics.layers if layer.path == path), None)
    if layer is None:
        paths = [layer.path for layer in statistics.layers]
        raise StudyError(
            f"the study has no units of `{path}`{did_you_mean(path, paths)};"
            f" it has those of {', '.join(paths[:8])}{' and more' if len(paths) > 8 else ''}"
        )
    if not 0 <= number < layer.units:
        raise StudyError(
            f"`{path}` has {layer.units} {layer.kind}, from 0 to {layer.units - 1};"
            f" there is none of number {number}"
        )
    start: int = statistics.slice_of(layer).start
    return start + int(number)


def find(statistics: Statistics, path: str, number: int) -> dict[str, Any]:
    """What a unit stands for: where it is, its class selectivity, the concept that drives it most,
    and by contrast the concepts for and against. Raises `StudyError` where there is no such unit.
    """
    return described(statistics, [number_of(statistics, path, number)])[0]


def described(statistics: Statistics, units: Sequence[int]) -> list[dict[str, Any]]:
    """What `find` tells, of some units, by their numbers among all."""
    contrast, selectivity = statistics.contrast(), statistics.selectivity()
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
