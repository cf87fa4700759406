"""`interactions`: whether two edits at once move images as far as the two by themselves say."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import numpy as np

from ablate.drift import ERRORS, FEWEST, Estimate, MeasuredCell, q_values, t_interval
from ablate.edits import Edit
from ablate.finders.finding import Finding
from ablate.finders.parts import Drift, check_metric, measure_of, parts_of
from ablate.finders.trials import Trials
from ablate.messages import RequestError, counted, did_you_mean
from ablate.sweep import Cell
from ablate.view import Measure, Square, Strip, draw_matrix, signed

# What the drift by two edits at once is compared with, of that by each alone.
NULLS: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "sum": np.add,
    "independent": np.hypot,
    "max": np.maximum,
}
WORDS = {
    "sum": (
        "the sum of both alone",
        "Were the changes of an image to add up, drift could not exceed their sum, and would fall"
        " short of it where they go in different directions; nor can an image be destroyed twice.",
    ),
    "independent": (
        "the root of the sum of both squares",
        "It is the drift by two changes of an image that add up and have nothing to do with one"
        " another.",
    ),
    "max": (
        "the larger of both alone",
        "It is the drift where one edit leaves nothing for the other to change.",
    ),
}
MOST = 24  # parts whose pairs are all on one sheet


@dataclass(frozen=True)
class Pair:
    """Two parts that are edited at once.

    Attributes:
        values: Their values on the axis.
        alone: How far images move by each of the two.
        both: How far they move by both.
        cells: Their images by both.
        excess: `both` without what the null model says, of each condition.
        p: The probability of a mean as far from 0, or farther, if it were 0; None with fewer than
            four conditions.
        q: The smallest false discovery rate among all pairs at which it differs from 0.
    """

    values: tuple[str, str]
    alone: tuple[Drift, Drift]
    both: Drift
    cells: tuple[MeasuredCell, ...]
    excess: np.ndarray
    p: float | None = None
    q: float | None = None

    @property
    def mean(self) -> float | None:
        """The interaction; None where NaN arose."""
        return float(self.excess.mean()) if np.isfinite(self.excess).all() else None

    @property
    def sign(self) -> int:
        """1 and -1 where the interaction is significant, else 0."""
        if self.mean is None or self.q is None or self.q > ERRORS:
            return 0
        return 1 if self.mean > 0 else -1

    def row(self) -> list[Any]:
        """A row of the table."""
        known = self.mean is not None
        ends = t_interval(self.excess) if known and len(self.excess) > 1 else (None, None)
        drifts = [d.mean if math.isfinite(d.mean) else None for d in (*self.alone, self.both)]
        verdict = ("", "more", "less")[self.sign]
        return [*self.values, len(self.excess), *drifts, self.mean, *ends, self.p, self.q, verdict]


COLUMNS = ("images", "first", "second", "both", "interaction", "low", "high", "p", "q", "verdict")


def interactions(trials: Trials, metric: str | None = None, null: str = "sum") -> Finding:
    """Edit all pairs of a recipe's parts, and compare their drift with that of the parts alone.

    Args:
        trials: What measures.
        metric: What drift is measured by. Default: `embedding` or, without a reader, `rmse`.
        null: What it is compared with: `sum`, `independent` (the root of the sum of squares), or
            `max` of the drift by both parts alone.

    Raises:
        RequestError: There is no axis of parts, no such metric or no such null model.
    """
    if null not in NULLS:
        hint = did_you_mean(null, NULLS) or f"; there are {', '.join(NULLS)}"
        raise RequestError(f"--null: there is no null model `{null}`{hint}")
    parts, sweep = parts_of(trials.plan), len(trials.plan.distinct())
    check_metric(trials, metric)
    first, second = parts.axis.name, f"other {parts.axis.name}"
    trials.vary((*trials.plan.axes, replace(parts.axis, name=second)))
    alone = {
        value: [replace(cell, axes={**cell.axes, second: value}) for cell in cells]
        for value, cells in parts.cells.items()
    }
    both = {
        (a, b): [_both(*cells, second) for cells in zip(alone[a], alone[b], strict=True)]
        for a, b in combinations(alone, 2)
        if _are_apart(alone[a][0], alone[b][0])
    }
    if not both:
        raise RequestError(f"axes.{first}: no two of its values edit different modules")
    asked = [*alone.values(), *both.values()]
    cells = iter(trials.measure(cell for some in asked for cell in some))
    images = {v: [next(cells) for _ in some] for v, some in alone.items()}
    of_pairs = {v: [next(cells) for _ in some] for v, some in both.items()}
    measure = measure_of([cell for some in images.values() for cell in some], metric)
    drifts = {value: Drift.of(some, measure) for value, some in images.items()}
    pairs = []
    for (a, b), some in of_pairs.items():
        drift = Drift.of(some, measure)
        with np.errstate(invalid="ignore"):  # infinity is that of NaN in images
            excess = drift.values - NULLS[null](drifts[a].values, drifts[b].values)
        pairs.append(Pair((a, b), (drifts[a], drifts[b]), drift, tuple(some), excess))
    pairs = with_p_values(pairs)
    sentence = _sentence(pairs, first, measure, null)
    labels = list(alone)
    squares = {(v, v): Square(drifts[v].mean, images[v][0]) for v in labels}
    for pair in pairs:
        for place in (pair.values, pair.values[::-1]):
            squares[place] = Square(pair.mean, pair.cells[0], pair.sign)
    name = trials.plan.recipe.name
    notes = [
        f"Drift by two at once, less {WORDS[null][0]}{' (in noise floors)' * measure.in_floors}, by"
        f" {measure.metric}: mean of {counted(len(pairs[0].excess), 'image')}.",
        WORDS[null][1],
        "Framed: differs from 0 by a t test over images, with the false discovery rate of all pairs"
        " at 5 % (Benjamini-Hochberg). On the diagonal: drift by one alone.",
    ]
    picture = draw_matrix(
        labels, squares, name=f"{name}: interactions", about=sentence, notes=notes,
        words=(f"less than {WORDS[null][0]}", "more"),
    )  # fmt: skip
    strips = []
    for a in labels if len(labels) <= MOST else ():
        row = [(trials.baseline(images[a][0]) if a == labels[0] else None, "")]
        for b in labels:
            square = squares.get((a, b))
            words = "" if square is None or square.value is None else signed(square.value)
            row.append((square.cell if square else None, "alone" if a == b else words))
        strips.append(Strip("", a, row))
    counts = [sum(pair.sign == sign for pair in pairs) for sign in (1, -1)]
    facts = {"metric": measure.metric, "in_floors": measure.in_floors, "null": null,
             "pairs": len(pairs), "more": counts[0], "less": counts[1]}  # fmt: skip
    every = sweep + 2 * sum(map(len, both.values()))
    rows = [pair.row() for pair in pairs]
    heads = ("baseline", *labels)
    return Finding(
        sentence, (first, second, *COLUMNS), rows, picture, facts, heads, strips, sweep=every
    )


def _both(a: Cell, b: Cell, second: str) -> Cell:
    """The cell with the edits of two; those that both have come once."""
    edits = tuple(dict.fromkeys((*a.variant.edits, *b.variant.edits)))
    name = f"{a.variant.name}, {second}={b.axes[second]}"
    variant = replace(a.variant, name=name, edits=edits)
    return replace(a, variant=variant, axes={**a.axes, second: b.axes[second]})


def _are_apart(a: Cell, b: Cell) -> bool:
    """Whether no module, or unit of one, is edited by both but by an edit that both have."""
    edits = [set(cell.variant.edits) for cell in (a, b)]
    own = [_places(one - other) for one, other in (edits, edits[::-1])]
    return own[0].isdisjoint(own[1])


def _places(edits: set[Edit]) -> set[tuple[str, int | None]]:
    return {
        (path, number)
        for edit in edits
        for path in edit.all_modules
        for number in (edit.unit.numbers if edit.unit else (None,))
    }


def with_p_values(pairs: list[Pair]) -> list[Pair]:
    """Pairs with their p and q values, of those that have four conditions or more."""
    p = {}
    for i, pair in enumerate(pairs):
        count = len(pair.excess)
        if pair.mean is not None and count >= FEWEST:
            error = float(pair.excess.std(ddof=1)) / math.sqrt(count)
            p[i] = Estimate(pair.mean, error, count - 1, log=False).p(0.0)
    q = dict(zip(p, q_values(np.array(list(p.values()))).tolist(), strict=True))
    return [replace(pair, p=p.get(i), q=q.get(i)) for i, pair in enumerate(pairs)]


def _sentence(pairs: list[Pair], axis: str, measure: Measure, null: str) -> str:
    known = [(pair.mean, pair) for pair in pairs if pair.mean is not None]
    unit = " noise floors" if measure.in_floors else ""
    more, less = (sum(pair.sign == sign for pair in pairs) for sign in (1, -1))
    count = len(pairs[0].excess)
    pairs_of = f"Of {counted(len(pairs), 'pair')} of values of {axis}"
    if count >= FEWEST:
        sentence = (
            f"{pairs_of}, the drift by both exceeds {WORDS[null][0]} in {more} and falls short of"
            f" it in {less}"
        )
    else:
        sentence = f"{pairs_of}, {counted(count, 'image')} each are too few to say which interact"
    if not known:
        return f"{sentence}."
    (low, least), (high, most) = (f(known, key=lambda one: one[0]) for f in (min, max))
    ends = [(high, most)] if least is most else [(high, most), (low, least)]
    shown = ", ".join(f"{' and '.join(p.values)} {signed(value)}{unit}" for value, p in ends)
    return f"{sentence}. By {measure.metric}: {shown}."
