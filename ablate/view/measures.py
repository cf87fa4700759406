"""Measures: which drift a picture of a run shows, over which axis, and how both are named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ablate.drift import MeasuredCell
from ablate.messages import did_you_mean
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
    """A distance from the baseline, in the unit of its metric or in units of the noise floor."""

    metric: str
    in_floors: bool

    @property
    def words(self) -> str:
        """What is measured and in which unit."""
        return _words(self.metric) + (", in noise floors" if self.in_floors else "")

    def of(self, cell: MeasuredCell) -> float | None:
        """The distance of a cell, 0 for equal images; None where it is not known."""
        value = (cell.floors if self.in_floors else cell.drift).get(self.metric)
        if value is None or self.in_floors or self.metric != "ssim":
            return value
        return 1 - value


def measures_of(cells: Sequence[MeasuredCell]) -> list[Measure]:
    """All measures that cells have figures of, each in noise floors where there are any."""
    edited = [cell for cell in cells if not cell.is_baseline]
    names = dict.fromkeys(name for cell in edited for name in cell.drift if name != "score")
    floors = {name for cell in edited for name in cell.floors}
    return [Measure(name, name in floors) for name in names]


def choose_measure(cells: Sequence[MeasuredCell], asked: str | None = None) -> Measure | None:
    """The measure asked for (`rmse`, `embedding_floors`, ...), or the best known; None without any.

    Raises:
        PictureError: The run has no figures of the measure asked for.
    """
    edited = [cell for cell in cells if not cell.is_baseline]
    there = dict.fromkeys(name for cell in edited for name in cell.drift if name != "score")
    metrics = [*(name for name in NAMES if name in there), *(n for n in there if n not in NAMES)]
    known = [
        name for name in (*metrics, *(f"{metric}_floors" for metric in metrics))
        if any(_measure(name).of(cell) is not None for cell in edited)
    ]  # fmt: skip
    if asked is None:
        return next((_measure(name) for name in PREFERRED if name in known), None)
    if asked not in known:
        hint = did_you_mean(asked, known) or f"; it has {', '.join(known) or 'none'}"
        raise PictureError(f"the run has no figures of a metric `{asked}`{hint}")
    return _measure(asked)


def _words(metric: str) -> str:
    _, of_reader, reader = metric.partition("embedding_")
    other = f"drift of the embedding by {reader}" if of_reader else f"drift by {metric}"
    return NAMES.get(metric, other)


def _measure(name: str) -> Measure:
    return Measure(name.removesuffix("_floors"), name.endswith("_floors"))


def strengths(run: Run) -> list[str]:
    """The axes along which edits may grow, of three numbers at least.

    First those of which a value edits nothing, then those with more values.
    """
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
