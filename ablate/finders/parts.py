"""Parts of a network that a recipe edits one at a time, and how far images drift without each."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ablate.drift import Estimate, MeasuredCell
from ablate.finders.trials import Trials
from ablate.messages import RequestError, did_you_mean
from ablate.sweep import Cell, CumulativeAxis, ModuleAxis, Plan, PlanAxis
from ablate.view import Measure, measures_of

FEWEST = 3  # cells of an interval


@dataclass(frozen=True)
class Parts:
    """The values of a plan's only axis of edits.

    Attributes:
        axis: The axis.
        cells: The cells of each value, one for each condition.
    """

    axis: ModuleAxis
    cells: Mapping[str, tuple[Cell, ...]]


def parts_of(plan: Plan) -> Parts:
    """The parts that a plan edits. Raises `RequestError` where its edits vary in another way."""
    axes = [
        axis for axis in varied(plan)
        if isinstance(axis, ModuleAxis) and not isinstance(axis, CumulativeAxis)
    ]  # fmt: skip
    if not axes:
        raise RequestError(
            f"{plan.recipe.name} has no axis of parts, two or more, that it edits one at a time;"
            " write, for example, `modules: $block` into an edit, and `block: {group: {modules:"
            ' "*", by: block}}` into `axes`'
        )
    check_alone(plan, axes[0])
    cells: dict[str, list[Cell]] = {value: [] for value in axes[0].values}
    for cell in plan.cells:
        if not cell.variant.is_baseline:
            cells[cell.axes[axes[0].name]].append(cell)
    return Parts(axes[0], {value: tuple(some) for value, some in cells.items() if some})


def varied(plan: Plan) -> list[PlanAxis]:
    """The axes of edits with two values or more."""
    return [axis for axis in plan.axes if not axis.of_condition and len(axis.values) > 1]


def check_alone(plan: Plan, *axes: PlanAxis) -> None:
    """Raise `RequestError` where edits vary along other axes, too."""
    for axis in varied(plan):
        if axis not in axes:
            raise RequestError(
                f"axes.{axis.name}: edits vary along this axis, too; keep one of its values, for"
                f" example by `--set axes.{axis.name}.values=[...]`"
            )


def measure_of(cells: Sequence[MeasuredCell], asked: str | None) -> Measure:
    """The distance by a metric, in noise floors where there are any.

    Args:
        cells: Measured cells, some of them edited.
        asked: The metric. Default: `embedding` or, without a reader, `rmse`.

    Raises:
        RequestError: There is no such metric.
    """
    known = {measure.metric: measure for measure in measures_of(cells)}
    metric = asked or ("embedding" if "embedding" in known else "rmse")
    if metric not in known:
        raise _unknown(metric, known)
    return known[metric]


def check_metric(trials: Trials, asked: str | None) -> None:
    """Raise `RequestError` where a run has no such metric, before anything is measured."""
    at_work = trials.session
    known = [n for n in at_work.further.distances if n != "embedding" or at_work.reader is not None]
    if asked is not None and asked not in known:
        raise _unknown(asked, known)


def _unknown(metric: str, known: Iterable[str]) -> RequestError:
    hint = did_you_mean(metric, known) or f"; there are {', '.join(known)}"
    return RequestError(f"--metric: there is no metric `{metric}`{hint}")


@dataclass(frozen=True)
class Drift:
    """How far images move by an edit.

    Attributes:
        values: Of each condition; infinity where NaN arose.
    """

    values: np.ndarray

    @classmethod
    def of(cls, cells: Sequence[MeasuredCell], measure: Measure) -> Drift:
        """From the cells of an edit."""
        values = (measure.of(cell) for cell in cells)
        return cls(np.array([math.inf if value is None else value for value in values]))

    @property
    def mean(self) -> float:
        """Over conditions."""
        return float(self.values.mean())

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean; None with fewer values than three, or NaN among them."""
        if len(self.values) < FEWEST or not np.isfinite(self.values).all():
            return None
        return Estimate.of_mean(self.values).interval()

    def row(self) -> list[float | int | None]:
        """Columns of a table: count, mean, low, high."""
        ends = self.interval or (None, None)
        return [len(self.values), self.mean if math.isfinite(self.mean) else None, *ends]


COLUMNS = ("images", "drift", "low", "high")  # of `Drift.row`
