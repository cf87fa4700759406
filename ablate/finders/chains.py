"""Chains: cells of growing strength, each bisected to where something changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ablate.drift import MeasuredCell
from ablate.finders.trials import Trials
from ablate.messages import RequestError, did_you_mean
from ablate.recipe import Ref, references_in
from ablate.sweep import Cell, CumulativeAxis, Plan, PlanAxis

FEWEST = 3  # values of an axis that is worth bisecting


@dataclass(frozen=True)
class Strength:
    """The axis along which edits grow.

    Attributes:
        axis: The axis.
        nought: The value at which nothing changes; None where there is none, or it is not known.
        together: The names of the axes that vary with it, that of this one among them.
    """

    axis: PlanAxis
    nought: float | None
    together: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.axis.name

    @property
    def sign(self) -> int:
        """1 where its values grow with the strength, -1 where they fall."""
        first, *_, last = self.values()
        return 1 if first <= last else -1

    def label(self, value: Any) -> str:
        """A value in writing."""
        return self.axis.labels[self.axis.values.index(value)]

    def values(self) -> list[Any]:
        """Its values, the weakest first.

        Raises `RequestError` where they lie on both sides of the one at which nothing changes.
        """
        values, nought = list(self.axis.values), self.nought
        if nought is None:
            return values
        if min(values) < nought < max(values):
            raise RequestError(
                f"axes.{self.name}: goes both ways from {nought:g}, where nothing changes; a finder"
                f" goes one way: keep one side by `--set axes.{self.name}=...`"
            )
        return sorted(values, key=lambda value: abs(value - nought))


@dataclass(frozen=True)
class Chain:
    """Cells that differ in strength alone.

    Attributes:
        group: The values of the other axes, without seeds.
        seeds: The values of the axes that only draw anew.
        values: The strengths, the weakest first, without those at which nothing changes.
        cells: The cell of each strength.
    """

    group: Mapping[str, Any]
    seeds: Mapping[str, Any]
    values: tuple[float, ...]
    cells: tuple[Cell, ...]


@dataclass
class Bisection:
    """A chain, bisected: below `high`, above `low`, the change has not happened, or has.

    Attributes:
        chain: The chain.
        low: The last place before the change, -1 for the untouched network.
        high: The first place after it; as many as there are cells where it does not happen.
        known: The cells measured, by place.
    """

    chain: Chain
    low: int = -1
    high: int = 0
    known: dict[int, MeasuredCell] = field(default_factory=dict)

    @property
    def before(self) -> float | None:
        """The last strength before the change; None where it happens at once."""
        return self.chain.values[self.low] if self.low >= 0 else None

    @property
    def after(self) -> float | None:
        """The first strength after the change; None where it never happens."""
        return self.chain.values[self.high] if self.high < len(self.chain.values) else None


def strength_axis(plan: Plan, asked: str | None, *, dose: bool = False) -> Strength:
    """The axis along which the edits of a plan grow.

    Args:
        plan: The plan.
        asked: Its name; None where there is one alone.
        dose: Whether it must be one of doses.

    Raises:
        RequestError: There is none, or several and none is asked for, or no such axis.
    """
    known = {strength.name: strength for strength in _strengths(plan, dose)}
    if asked is not None:
        if asked not in known:
            names = [axis.name for axis in plan.axes]
            hint = did_you_mean(asked, names) if asked not in names else ""
            there = f"; those that are: {', '.join(known)}" if known else ""
            what = "doses" if dose else f"strengths or counts with {FEWEST} values or more"
            raise RequestError(f"--axis: `{asked}` is no axis of {what}{hint or there}")
        return known[asked]
    if not known:
        example = "dose: $dose" if dose else "amount: $amount"
        raise RequestError(
            f"{plan.recipe.name} has no axis of {'doses' if dose else 'strengths or counts'} with"
            f" {FEWEST} values or more, along which its edits grow; write, for example,"
            f" `{example}` into an edit, and `{example.partition(': $')[2]}: {{linspace: [0, 1,"
            " 17]}` into `axes`"
        )
    if len(known) > 1:
        raise RequestError(
            f"{plan.recipe.name} has several axes along which its edits grow: {', '.join(known)};"
            " name one by `--axis`"
        )
    return next(iter(known.values()))


def _strengths(plan: Plan, dose: bool) -> Iterator[Strength]:
    noughts: dict[str, float | None] = {}
    for edit in plan.recipe.edits:
        amounts: list[tuple[Any, float | None]] = [(edit.dose, 0.0)]
        if not dose:
            amounts.append((edit.strength, edit.op.neutral))
            if edit.units is not None:
                amounts += [(edit.units.fraction, 0.0), (edit.units.count, 0.0)]
        for given, nought in amounts:
            if isinstance(given, Ref):
                noughts.setdefault(given.axis, nought)
    for axis in plan.axes:
        if isinstance(axis, CumulativeAxis) and not dose:
            noughts[axis.name] = 0.0
        if axis.name in noughts and len(axis.values) >= FEWEST:
            zipped = (group for group in plan.recipe.zipped if axis.name in group)
            yield Strength(axis, noughts[axis.name], next(zipped, (axis.name,)))


def chains_of(plan: Plan, strength: Strength) -> list[Chain]:
    """The cells of a plan as chains along an axis, in the order of the plan."""
    redrawn = {"seed", "perturbation_seed"}
    for path, ref in references_in((*plan.recipe.axes.values(), *plan.recipe.edits), ()):
        if path[-1] == "seed":
            redrawn.add(ref.axis)
    names = [axis.name for axis in plan.axes if axis.name not in strength.together]
    order = {repr(value): i for i, value in enumerate(strength.values())}
    rows: dict[str, list[Cell]] = {}
    for cell in plan.cells:
        if {*names, strength.name} <= cell.axes.keys():
            rows.setdefault(json.dumps([cell.axes[n] for n in names]), []).append(cell)
    chains = []
    for cells in rows.values():
        grown = sorted(
            (cell for cell in cells if not cell.variant.is_baseline),
            key=lambda cell: order[repr(cell.axes[strength.name])],
        )
        if not grown:
            continue
        axes = grown[0].axes
        chains.append(Chain(
            {n: axes[n] for n in names if n not in redrawn},
            {n: axes[n] for n in names if n in redrawn},
            tuple(cell.axes[strength.name] for cell in grown),
            tuple(grown),
        ))  # fmt: skip
    return chains


def bisect(
    trials: Trials, chains: Sequence[Chain], changed: Callable[[MeasuredCell], bool]
) -> list[Bisection]:
    """Find where each chain changes, if it changes once; all chains go on in the same rounds."""
    bisections = [Bisection(chain, high=len(chain.cells)) for chain in chains]
    while open_ones := [b for b in bisections if b.high - b.low > 1]:
        middles = [(b.low + b.high) // 2 for b in open_ones]
        asked = [b.chain.cells[i] for b, i in zip(open_ones, middles, strict=True)]
        for b, i, cell in zip(open_ones, middles, trials.measure(asked), strict=True):
            b.known[i] = cell
            if changed(cell):
                b.high = i
            else:
                b.low = i
    return bisections


def check_once(
    trials: Trials, bisections: Sequence[Bisection], changed: Callable[[MeasuredCell], bool]
) -> tuple[int, int]:
    """Look halfway between each change and the ends of its chain, for the first seed of each group.

    Returns:
        How many further cells were looked at, and how many of them are on the wrong side: there a
        chain changes more than once.
    """
    first = {json.dumps(dict(b.chain.group), default=repr): b for b in reversed(bisections)}
    asked = []
    for b in first.values():
        for i in (b.low // 2, (b.high + len(b.chain.cells)) // 2):
            if 0 <= i < len(b.chain.cells) and i not in b.known:
                asked.append((b, i))
    wrong = 0
    measured = trials.measure(b.chain.cells[i] for b, i in asked)
    for (b, i), cell in zip(asked, measured, strict=True):
        b.known[i] = cell
        wrong += changed(cell) != (i >= b.high)
    return len(asked), wrong


def grouped(bisections: Sequence[Bisection]) -> list[list[Bisection]]:
    """The bisections that differ in seeds alone, together."""
    groups: dict[str, list[Bisection]] = {}
    for b in bisections:
        groups.setdefault(json.dumps(dict(b.chain.group), default=repr), []).append(b)
    return list(groups.values())
