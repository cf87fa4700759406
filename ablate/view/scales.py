"""Measures: which drift a picture of a run shows, and how it is named."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ablate.drift import MeasuredCell
from ablate.store import Axis, Run
from ablate.view.errors import PictureError

NAMES = {  # what is known best comes first
    "embedding": "drift of the CLIP embedding",
    "rmse": "drift of the pixels (RMSE)",
    "ssim": "loss of structure (1 − SSIM)",
    "latent": "drift of the latents (RMS)",
}
PREFERRED = ("embedding_floors", "embedding", "rmse_floors", "rmse")


@dataclass(frozen=True)
class Measure:
    """A distance from the baseline, in its own unit or in units of the noise floor."""

    metric: str
    in_floors: bool

    @property
    def words(self) -> str:
        """What is measured and in which unit."""
        return NAMES[self.metric] + (", in noise floors" if self.in_floors else "")

    def of(self, cell: MeasuredCell) -> float | None:
        """The distance of a cell; None where it is not known. Equal images have 0."""
        found = (cell.floors if self.in_floors else cell.drift).get(self.metric)
        if found is None or self.in_floors or self.metric != "ssim":
            return found
        return 1 - found


def choose(cells: Sequence[MeasuredCell], asked: str | None = None) -> Measure | None:
    """The measure asked for (`rmse`, `embedding_floors`, ...), or the most telling one known.

    None when nothing was measured. Raises `PictureError` for a name that the run has no figures of.
    """
    edited = [cell for cell in cells if not cell.is_baseline]
    known = [
        name for name in (*NAMES, *(f"{metric}_floors" for metric in NAMES))
        if any(_measure(name).of(cell) is not None for cell in edited)
    ]  # fmt: skip
    if asked is None:
        return next((_measure(name) for name in PREFERRED if name in known), None)
    if asked not in known:
        near = difflib.get_close_matches(asked, known, 1)
        hint = f", did you mean `{near[0]}`?" if near else f"; it has {', '.join(known) or 'none'}"
        raise PictureError(f"the run has no figures of a metric `{asked}`{hint}")
    return _measure(asked)


def _measure(name: str) -> Measure:
    return Measure(name.removesuffix("_floors"), name.endswith("_floors"))


def strengths(run: Run) -> list[str]:
    """The axes along which edits may grow, of numbers, three at least: first one of which a value
    edits nothing, then by how many values they have."""
    numeric = [
        axis for axis in run.axes()
        if axis.name not in ("prompt", "seed") and len(axis.values) > 2
        and all(isinstance(v, int | float) and not isinstance(v, bool) for v in axis.values)
    ]  # fmt: skip
    edited: dict[str, set[Any]] = {axis.name: set() for axis in numeric}
    for cell in run.cells():
        for name in edited:
            if name in cell.axes and not cell.is_baseline:
                edited[name].add(cell.axes[name])

    def rank(axis: Axis) -> tuple[bool, int]:
        return len(edited[axis.name]) < len(axis.values), len(axis.values)

    return [axis.name for axis in sorted(numeric, key=rank, reverse=True)]


def caption(axis: Axis, value: Any) -> str:
    """How a value of an axis is written where the axis itself is not named: `seed 1`, `down`."""
    label = axis.label(value)
    if axis.name == "prompt":
        return f"“{label}”"
    return label if any(c.isalpha() for c in label) else f"{axis.name} {label}"


def figure(value: float) -> str:
    """A figure of two significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    if abs(value) < 0.00095:
        return "< 0.001"
    return f"{value:.0f}" if value >= 9.95 else f"{value:#.2g}".rstrip(".")


def written(value: float) -> str:
    """A figure as ticks carry it: `0.05`, `2`, `10 k`, `3.3 M`."""
    for unit, size in ((" B", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


@dataclass(frozen=True)
class Scale:
    """Where values lie on the ramp, 0 ... 1.

    By their square root: distances spread over orders of magnitude, and 1 - cosine is the square
    of the length between two unit vectors, halved. `logarithmic`, from `low`: for sizes.
    """

    top: float
    low: float = 0.0
    logarithmic: bool = False

    def at(self, value: float) -> float:
        """The place of a value on the ramp."""
        if self.logarithmic:
            share = math.log(max(value, self.low) / self.low)
            return share / (math.log(self.top / self.low) or 1)
        return math.sqrt(max(value, 0) / self.top) if self.top else 0.0

    def ticks(self, width: float) -> list[float]:
        """Round values along a ramp of that width, with room for their figures."""
        exponents = range(-5, 13)
        if self.logarithmic:
            round_values = [10.0**e for e in exponents if self.low <= 10.0**e <= self.top]
            return round_values or [self.low, self.top]
        steps = sorted(m * 10.0**e for e in exponents for m in (1, 2, 5))
        chosen = [0.0]
        # Powers of ten are the roundest; the others fill what room is left.
        for value in [v for v in steps if f"{v:e}"[0] == "1"] + steps:
            places = [self.at(other) * width for other in chosen]
            if value <= self.top and min(abs(self.at(value) * width - p) for p in places) >= 36:
                chosen.append(value)
        return sorted(chosen)
