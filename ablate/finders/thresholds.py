"""Thresholds: the strengths at which bisected chains change, over seeds, as a finding."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ablate.drift import Estimate, MeasuredCell
from ablate.finders.chains import Bisection, Strength, grouped
from ablate.finders.finding import Finding
from ablate.finders.trials import Trials
from ablate.sweep import ModuleAxis, Plan
from ablate.view import Row, Strip, draw_rows

FEWEST = 3  # seeds of an interval


@dataclass(frozen=True)
class Threshold:
    """Where the chains of one combination of axes change.

    Attributes:
        label: The values of these axes in writing.
        strength: The axis of strengths.
        bisections: The chains, one for each seed.
        ends: For each the strengths between which it changes; where it never does, the largest.
    """

    label: str
    strength: Strength
    bisections: Sequence[Bisection]
    ends: Sequence[tuple[float, float]]

    @property
    def points(self) -> list[float]:
        """The middles of these ends."""
        return [sum(ends) / 2 for ends in self.ends]

    @property
    def place(self) -> Mapping[str, Any]:
        """The values of the axes."""
        return self.bisections[0].chain.group

    @property
    def unchanged(self) -> int:
        """How many chains never change."""
        return sum(b.after is None for b in self.bisections)

    @property
    def mean(self) -> float | None:
        """The mean over seeds; None where no chain changes."""
        return None if self.unchanged == len(self.points) else float(np.mean(self.points))

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean over seeds, of which the strengths tried are a part; None
        where that is a bound, or with fewer seeds than three."""
        if self.unchanged or len(self.ends) < FEWEST:
            return None
        lows, highs = np.sort(np.array(self.ends, float)).T
        return Estimate.of_mean(lows).interval()[0], Estimate.of_mean(highs).interval()[1]

    @property
    def words(self) -> str:
        """The mean and its interval in words."""
        if self.mean is None:
            return "never"
        bound = "≥" if self.strength.sign > 0 else "≤"
        at = f"at {self.strength.name} {bound if self.unchanged else '='} {self.mean:.3g}"
        if self.interval is not None:
            at += f" (95 % interval {self.interval[0]:.3g} to {self.interval[1]:.3g})"
        return at

    def row(self) -> list[Any]:
        """A row of the table: axes, counts, mean, interval, and the point of each seed."""
        each = " ".join(
            f"{'> ' * (b.after is None)}{point:.4g}"
            for point, b in zip(self.points, self.bisections, strict=True)
        )
        ends = self.interval or (None, None)
        return [*self.place.values(), len(self.points), self.unchanged, self.mean, *ends, each]


COLUMNS = ("seeds", "unchanged", "mean", "low", "high", "each")  # after those of the axes


def thresholds_of(
    plan: Plan,
    strength: Strength,
    bisections: Sequence[Bisection],
    ends: Callable[[Bisection], tuple[float, float]],
) -> list[Threshold]:
    """The thresholds of bisected chains, those first that change first."""
    thresholds = [
        Threshold(
            label_of(plan, group[0].chain.group),
            strength,
            group,
            [(b.chain.values[-1],) * 2 if b.after is None else ends(b) for b in group],
        )
        for group in grouped(bisections)
    ]
    return sorted(thresholds, key=lambda t: (t.mean is None, strength.sign * (t.mean or 0)))


def label_of(plan: Plan, values: Mapping[str, Any]) -> str:
    """Values of axes in writing, without those that never vary."""
    parts = []
    for axis in plan.axes:
        if axis.name in values and len(axis.values) > 1:
            label = axis.labels[axis.values.index(values[axis.name])]
            bare = any(map(str.isalpha, label)) and axis.name != "prompt"
            quoted = f"“{label}”" if axis.name == "prompt" else f"{axis.name} {label}"
            parts.append(label if bare else quoted)
    return " · ".join(parts) or plan.recipe.name


def role_of(plan: Plan, values: Mapping[str, Any]) -> str:
    """The role that all modules at some values of axes have; empty where there is none."""
    axes = [a for a in plan.axes if isinstance(a, ModuleAxis) and a.name in values]
    paths = {path for axis in axes for path in axis.modules(values)}
    roles = {module.role for module in plan.catalog if module.path in paths}
    return roles.pop() if len(roles) == 1 else ""


def finding_of(
    trials: Trials,
    thresholds: Sequence[Threshold],
    strength: Strength,
    *,
    title: str,
    sentence: str,
    heads: tuple[str, str],
    notes: Sequence[str],
    facts: Mapping[str, Any],
    kind: Literal["linear", "log"] = "linear",
) -> Finding:
    """Draw thresholds and the images around them.

    Args:
        trials: What measured them.
        thresholds: One at least.
        strength: Along which edits grow.
        title: Of the picture.
        sentence: The finding.
        heads: What the last image before a threshold is, and the first one after it.
        notes: Lines below the picture.
        facts: Further figures.
        kind: Of the scale.
    """
    plan = trials.plan
    columns = ("baseline", *heads)

    def around(b: Bisection) -> list[MeasuredCell | None]:
        baseline = trials.baseline(next(iter(b.known.values())))
        return [baseline, b.known.get(b.low), b.known.get(b.high)]

    rows = []
    for t in thresholds:
        changed = [p for p, b in zip(t.points, t.bisections, strict=True) if b.after is not None]
        pictures = zip(columns, around(t.bisections[0]), strict=True)
        rows.append(Row(t.label, changed, t.mean, t.interval, t.unchanged,
                        role_of(plan, t.place), list(pictures)))  # fmt: skip
    values = [value for t in thresholds for b in t.bisections for value in b.chain.values]
    if kind == "linear" and strength.nought is not None:
        values.append(strength.nought)
    ends = sorted((min(values), max(values)), reverse=strength.sign < 0)
    picture = draw_rows(
        rows, name=title, about=sentence, axis=strength.name, ends=(ends[0], ends[1]),
        kind=kind, notes=notes,
    )  # fmt: skip
    strips = [
        Strip(
            t.label if len(t.bisections) > 1 else "",
            label_of(plan, b.chain.seeds if len(t.bisections) > 1 else t.place),
            [(cell, _caption(cell, strength) if cell else "") for cell in around(b)],
        )
        for t in thresholds
        for b in t.bisections
    ]
    table = [t.row() for t in thresholds]
    facts = {"axis": strength.name, **facts}
    return Finding(
        sentence, (*thresholds[0].place, *COLUMNS), table, picture, facts, columns, strips
    )


def _caption(cell: MeasuredCell, strength: Strength) -> str:
    """The strength of a cell, if it has one, and what it shows."""
    value = cell.axes.get(strength.name)
    return f"{'' if value is None else f'{value:.3g}'} {cell.shows}".strip()
