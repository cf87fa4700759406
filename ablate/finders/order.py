"""`order`: ever more modules edited, by several orders (the HAL experiment), and the area below."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from ablate.drift import MeasuredCell
from ablate.finders.finding import Finding
from ablate.finders.parts import Drift, check_alone, check_metric, measure_of
from ablate.finders.scores import check_scorable, scores_of
from ablate.finders.trials import Trials
from ablate.messages import RequestError
from ablate.recipe import Ref
from ablate.sweep import Cell, CumulativeAxis, Plan, PlanAxis
from ablate.view import Line, Measure, Strip, draw_orders

ORDER, TRIAL = "order", "trial"  # axes
ALONE, CURVE = "alone", "curve"  # values of them: each module by itself; no trial
RANDOM = 3  # random orders, where the recipe has no seeds of them
FEWEST = 3  # modules of an order


def order(trials: Trials, metric: str | None = None, beam: int = 16) -> Finding:
    """Edit ever more modules by several orders, and compare the areas below their drift.

    The orders: random ones, of the network, reverse, by first-order score, by the drift of each
    module alone, and greedy, which doubles the number of modules by those that, added together with
    those before, move images least. The last three have the least first, as the images of the first
    condition say.

    Args:
        trials: What measures.
        metric: What drift is measured by. Default: `embedding` or, without a reader, `rmse`.
        beam: How many groups of modules the greedy order tries in a step.

    Raises:
        RequestError: There is no cumulative axis, no such metric, or the edits have no score.
    """
    stack = _Stack(trials.plan)
    check_scorable(trials.plan)
    check_metric(trials, metric)
    paths = stack.paths
    grown = [2**i for i in range(len(paths).bit_length()) if 2**i < len(paths)]
    counts = [*grown, len(paths)]
    seeds = stack.seeds or tuple(range(RANDOM))
    randoms = [f"random {seed}" for seed in seeds]
    names = [*randoms, "network", "reverse", "score", "drift", "greedy"]
    steps = [f"from {count}: {i + 1}" for count in grown for i in range(beam)]
    numbers = _axis(stack.name, range(1, len(paths) + 1))
    trials.vary(
        [
            *stack.others,
            _axis(ORDER, [ALONE, *names]),
            numbers,
            _axis(TRIAL, [CURVE, *paths, *steps]),
        ]
    )
    alone = [stack.cell([path], ALONE, path) for path in paths]
    measured = trials.measure(alone)
    measure = measure_of(measured, metric)
    by_drift = _sorted(paths, [_drift(cell, measure) for cell in measured])
    orders = {
        "network": paths,
        "reverse": paths[::-1],
        "score": _sorted(paths, scores_of(trials, alone)),
        "drift": by_drift,
        "greedy": _greedy(trials, stack, by_drift, counts, measure, beam),
    }
    for name, seed in zip(randoms, seeds, strict=True):
        shuffled = list(paths)
        random.Random(seed).shuffle(shuffled)
        orders[name] = tuple(shuffled)
    asked = {
        name: [stack.cells(orders[name][:count], name, CURVE) for count in counts] for name in names
    }
    cells = iter(trials.measure(cell for by in asked.values() for some in by for cell in some))
    images = {name: [[next(cells) for _ in some] for some in by] for name, by in asked.items()}
    drifts = {
        name: np.array([Drift.of(some, measure).values for some in by])
        for name, by in images.items()
    }
    curves = [Curve(name, counts, drifts[name], images[name]) for name in names[len(randoms) :]]
    together = np.mean([drifts[name] for name in randoms], axis=0)
    curves.append(Curve("random", counts, together, images[randoms[0]]))
    curves.sort(key=lambda curve: curve.area.mean)
    sentence = _sentence(curves, len(paths), measure)
    shown = {cell.key: cell for curve in curves for some in curve.images for cell in some}
    notes = [
        "Beside each name its area: the mean drift over the logarithm of the count, from 1 to"
        f" {len(paths)}. Bands: 95 % t intervals over images.",
        f"random: the mean of {len(randoms)} orders. score: first order, the least first. drift: by"
        " that of each module alone, the least first.",
        f"greedy: each doubling takes those of {beam} groups that, added to the modules before,"
        " move the image of the first seed least.",
    ]
    lines = [curve.line() for curve in curves]
    picture = draw_orders(
        lines, shown, measure, name=f"{trials.plan.recipe.name}: orders", about=sentence,
        axis=f"number of modules ({stack.name})", notes=notes,
    )  # fmt: skip
    strips = []
    for curve in curves:
        first = zip(curve.images, curve.drift, strict=True)
        row = [(some[0], f"{drift[0]:.2g}") for some, drift in first]
        strips.append(Strip("", curve.name, [(trials.baseline(row[0][0]), ""), *row]))
    each = [Curve(name, counts, drifts[name], images[name]) for name in randoms]
    facts = {
        "metric": measure.metric,
        "in_floors": measure.in_floors,
        "beam": beam,
        "orders": {name: list(some) for name, some in orders.items()},
    }
    conditions = len(asked[names[0]][0])
    sweep = len(trials.plan.distinct()) + conditions * (len(names) * (len(paths) - 1) + 1)
    return Finding(
        sentence,
        ("order", "images", "area", "low", "high", *(f"at {count}" for count in counts)),
        [curve.row() for curve in (*curves, *each)],
        picture,
        facts,
        ("baseline", *map(str, counts)),
        strips,
        sweep=sweep,
    )


@dataclass(frozen=True, eq=False)
class Curve:
    """Drift over counts.

    Attributes:
        name: That of the order.
        counts: The counts, growing.
        drift: Shape (counts, conditions); infinity where NaN arose.
        images: The cells of each count, one for each condition.
    """

    name: str
    counts: Sequence[int]
    drift: np.ndarray
    images: Sequence[Sequence[MeasuredCell]]

    @property
    def area(self) -> Drift:
        """The mean drift over the logarithm of the count, of each condition."""
        x = np.log(self.counts)
        middles = (self.drift[1:] + self.drift[:-1]) / 2
        return Drift((np.diff(x)[:, None] * middles).sum(0) / (x[-1] - x[0]))

    def line(self) -> Line:
        """As it is drawn."""
        known = np.where(np.isfinite(self.drift), self.drift, np.nan).T
        label = f"{self.name} {self.area.mean:.2f}"
        keys = [some[0].key for some in self.images]
        return Line(label, np.array(self.counts, float), known, keys, log=False)

    def row(self) -> list[Any]:
        """A row of the table."""
        means = [float(v) if math.isfinite(v) else None for v in self.drift.mean(1)]
        return [self.name, *self.area.row(), *means]


class _Stack:
    """The modules that a plan edits ever more of.

    Attributes:
        name: The name of the axis of counts.
        paths: The modules, in the order of the network.
        seeds: Of random orders, as the recipe has them.
        others: The axes of conditions.
    """

    def __init__(self, plan: Plan) -> None:
        axes = [axis for axis in plan.axes if isinstance(axis, CumulativeAxis)]
        if not axes or len(axes[0].paths) < FEWEST:
            raise RequestError(
                f"{plan.recipe.name} has no axis of ever more modules, {FEWEST} at least; write,"
                " for example, `modules: $zeroed` into an edit, and `zeroed: {cumulative: {modules:"
                ' "*"}}` into `axes`'
            )
        axis = axes[0]
        seeds = [a for a in plan.axes if isinstance(axis.seed, Ref) and a.name == axis.seed.axis]
        check_alone(plan, axis, *seeds)
        self.name, self.paths = axis.name, axis.paths
        given = axis.seed if isinstance(axis.seed, int) else None
        self.seeds = seeds[0].values if seeds else () if given is None else (given,)
        self.others = [a for a in plan.axes if a.of_condition]
        self._first: dict[Any, Cell] = {}  # an edited cell of each condition
        for cell in plan.cells:
            if not cell.variant.is_baseline:
                self._first.setdefault(cell.condition, cell)
        if not self._first:
            raise RequestError(f"axes.{axis.name}: there is no count above 0")
        self._axis = axis

    def cells(self, paths: Iterable[str], order: str, trial: str) -> list[Cell]:
        """The cells in which these modules are edited, one for each condition."""
        chosen = set(paths)
        kept = tuple(path for path in self.paths if path in chosen)
        names = [axis.name for axis in self.others]
        cells = []
        for cell in self._first.values():
            before = self._axis.modules(cell.axes)
            edits = tuple(
                replace(edit, modules=kept) if edit.modules == before else edit
                for edit in cell.variant.edits
            )
            name = f"{ORDER}={order}, {self.name}={len(kept)}, {TRIAL}={trial}"
            axes = {n: cell.axes[n] for n in names if n in cell.axes}
            axes |= {ORDER: order, self.name: len(kept), TRIAL: trial}
            variant = replace(cell.variant, name=name, edits=edits)
            cells.append(replace(cell, variant=variant, axes=axes))
        return cells

    def cell(self, paths: Iterable[str], order: str, trial: str) -> Cell:
        """The first one of these."""
        return self.cells(paths, order, trial)[0]


def _axis(name: str, values: Sequence[Any]) -> PlanAxis:
    return PlanAxis(name, tuple(values), tuple(map(str, values)))


def _sorted(paths: Sequence[str], by: Sequence[float]) -> tuple[str, ...]:
    """Paths with the least first; equal ones in the order of the network."""
    return tuple(path for _, path in sorted(zip(by, paths, strict=True), key=lambda one: one[0]))


def _drift(cell: MeasuredCell, measure: Measure) -> float:
    return Drift.of([cell], measure).mean


def _greedy(
    trials: Trials, stack: _Stack, by_drift: Sequence[str], counts: Sequence[int],
    measure: Measure, beam: int,
) -> tuple[str, ...]:  # fmt: skip
    """An order whose every doubling adds the groups that move the first image least.

    Groups are of neighbors by drift alone, among the first twice as many as are wanted, or as the
    beam has groups.
    """
    chosen = list(by_drift[:1])
    for count, following in pairwise(counts):
        wanted = following - count
        there = set(chosen)
        left = [path for path in by_drift if path not in there]
        pool = left[: max(2 * wanted, beam)]
        if wanted < len(left):
            size = math.ceil(len(pool) / beam)
            groups = [pool[i : i + size] for i in range(0, len(pool), size)]
            cells = [
                stack.cell([*chosen, *group], "greedy", f"from {count}: {i + 1}")
                for i, group in enumerate(groups)
            ]
            drifts = [_drift(cell, measure) for cell in trials.measure(cells)]
            best = sorted(zip(drifts, groups, strict=True), key=lambda one: one[0])
            pool = [path for _, group in best for path in group]
        chosen += pool[:wanted]
    return tuple(chosen)


def _sentence(curves: Sequence[Curve], count: int, measure: Measure) -> str:
    unit = " noise floors" if measure.in_floors else ""

    def words(curve: Curve) -> str:
        area, ends = curve.area, curve.area.interval
        interval = f" (95 % interval {ends[0]:.2f} to {ends[1]:.2f})" if ends else ""
        return f"{curve.name} {area.mean:.2f}{unit}{interval}"

    first, last = curves[0], curves[-1]
    between = [curve for curve in curves if curve.name == "random" and curve not in (first, last)]
    return (
        f"Drift by {measure.metric} over ever more of {count} modules, on average over the"
        f" logarithm of their number: of {len(curves)} orders, {words(first)} is the least and"
        f" {words(last)} the most{''.join(f'; {words(curve)}' for curve in between)}."
    )
