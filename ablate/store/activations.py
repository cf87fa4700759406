"""Running statistics of units' activations by concept, and what follows from them.

Samples stream by in batches and are forgotten; what is kept does not grow with their number: for
each unit a count, a mean and a deviation a concept, the same means under shuffled labels, and the
samples that drove it most.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from ablate.messages import RequestError
from ablate.store.files import atomic_write

EPSILON = 1e-7
TOP = 16  # samples kept that drive a unit most
FORMAT = 1
KINDS = ("channels", "heads")


class StatisticsError(RequestError, ValueError):
    """A file of statistics that is not there or cannot be read; the message says why."""


@dataclass(frozen=True)
class Layer:
    """A module or block whose units were recorded. `kind`: `channels` or `heads`; `units`: how
    many; `component`: the network that it belongs to, `clip` for the CLIP model that reads images.
    """

    component: str
    path: str
    kind: str
    units: int
    stage: str = ""
    role: str = ""


class Statistics:
    """Of U units, those of all layers one after the other, over C concepts.

    `count` (C,), `mean` and `m2` (C, U): samples, means, sums of squared deviations by concept;
    `chance` (C, U): means where labels were shuffled, and `chance_count` (C,) their samples.
    `top_values` (TOP, U), falling, `top_samples` (TOP, U), -1 where there were fewer, `top_places`
    (TOP, U, 2): the samples that drove a unit most and where in the picture, y and x in 0 to 1, NaN
    where a layer is no map of it.

    `done`: samples seen so far; `total`: of how many, None where that is not known and the study is
    taken to be whole; `skipped`: those of `done` that count for nothing, because a unit gave a
    value that is not finite. `settled`: whether all of this is of the same samples: not so after an
    `add` that was cut short, of which nothing is saved.
    """

    def __init__(
        self, layers: Sequence[Layer], concepts: Sequence[str], total: int | None = None
    ) -> None:
        self.layers = tuple(layers)
        self.concepts = tuple(concepts)
        self.total = total
        self.skipped = 0
        self.settled = True
        shape = (len(self.concepts), sum(layer.units for layer in self.layers))
        self.done = 0
        self.count = np.zeros(shape[0], np.int64)
        self.mean = np.zeros(shape)
        self.m2 = np.zeros(shape)
        self.chance_count = np.zeros(shape[0], np.int64)
        self.chance = np.zeros(shape)
        self.top_values = np.full((TOP, shape[1]), -np.inf, np.float32)
        self.top_samples = np.full((TOP, shape[1]), -1, np.int32)
        self.top_places = np.full((TOP, shape[1], 2), np.nan, np.float32)

    @property
    def units(self) -> int:
        """How many units there are in all."""
        return self.mean.shape[1]

    @property
    def spreads(self) -> bool:
        """Whether a concept has two samples: of one each there is no deviation within concepts, and
        shuffled labels deal out the same means."""
        return bool((self.count > 1).any())

    @property
    def fewest(self) -> int:
        """The samples of the concept that has fewest, of those that have any."""
        return int(self.count[self.count > 0].min(initial=np.iinfo(np.int64).max))

    def slice_of(self, layer: Layer) -> slice:
        """Where the units of a layer stand among all."""
        start = 0
        for other in self.layers:
            if other == layer:
                return slice(start, start + layer.units)
            start += other.units
        raise KeyError(layer.path)

    def place_of(self, unit: int) -> tuple[Layer, int]:
        """The layer of a unit, and its number in it."""
        for layer in self.layers:
            if unit < layer.units:
                return layer, unit
            unit -= layer.units
        raise IndexError(unit)

    # ------------------------------------------------------------ samples

    def add(
        self,
        concepts: np.ndarray,
        values: np.ndarray,
        places: np.ndarray | None = None,
        shuffled: np.ndarray | None = None,
    ) -> None:
        """Count n samples: the numbers of their concepts (n,), activations (n, U), where in the
        picture they are strongest (n, U, 2), and the concepts of shuffled labels (n,).

        Samples with a value that is not finite, of whatever unit, are left out: one of them would
        be the mean of its concept for good."""
        values, concepts = np.asarray(values, np.float64), np.asarray(concepts)
        numbers = np.arange(self.done, self.done + len(values), dtype=np.int32)
        self.settled = False
        finite = np.isfinite(values).all(1)
        if not finite.all():
            values, concepts, numbers = values[finite], concepts[finite], numbers[finite]
            places = None if places is None else places[finite]
            shuffled = None if shuffled is None else shuffled[finite]
        for concept in np.unique(concepts):
            self._merge(int(concept), values[concepts == concept])
        for concept in np.unique(shuffled) if shuffled is not None else ():
            own = values[shuffled == concept]
            self.chance_count[concept] += len(own)
            share = len(own) / self.chance_count[concept]
            self.chance[concept] += (own.mean(0) - self.chance[concept]) * share
        self._rank(values.astype(np.float32), places, numbers)
        self.skipped += int((~finite).sum())
        self.done += len(finite)
        self.settled = True

    def _merge(self, concept: int, values: np.ndarray) -> None:
        """Chan, Golub and LeVeque 1979, Updating formulae and a pairwise algorithm for computing
        sample variances."""
        n, mean = len(values), values.mean(0)
        before, total = self.count[concept], self.count[concept] + n
        apart = mean - self.mean[concept]
        self.m2[concept] += ((values - mean) ** 2).sum(0) + apart**2 * (before * n / total)
        self.mean[concept] += apart * (n / total)
        self.count[concept] = total

    def _rank(self, values: np.ndarray, places: np.ndarray | None, numbers: np.ndarray) -> None:
        if places is None:
            places = np.full((*values.shape, 2), np.nan, np.float32)
        for start in range(0, self.units, 1 << 14):  # so that the copies stay small
            part = slice(start, start + (1 << 14))
            some = np.concatenate([self.top_values[:, part], values[:, part]])
            wide = np.broadcast_to(numbers[:, None], values[:, part].shape)
            samples = np.concatenate([self.top_samples[:, part], wide])
            spots = np.concatenate([self.top_places[:, part], places[:, part]])
            # Of equal ones the earlier stays in front, whatever the batches.
            order = np.argsort(-some, axis=0, kind="stable")[:TOP]
            self.top_values[:, part] = np.take_along_axis(some, order, 0)
            self.top_samples[:, part] = np.take_along_axis(samples, order, 0)
            self.top_places[:, part] = np.take_along_axis(spots, order[..., None], 0)

    # ------------------------------------------------------------ what follows

    def selectivity(self) -> np.ndarray:
        """The class selectivity index of every unit (U,), 0 to 1: the mean activation for the
        concept that drives it most, against the mean of its means for all others.

        Leavitt and Morcos 2020, Selectivity considered harmful, eq. 1: (μmax − μ−max) / (μmax +
        μ−max + ε). 0: all concepts drive it alike; 1: one alone does.
        """
        return _index(self.mean[self.count > 0])

    def by_chance(self) -> np.ndarray:
        """The index (U,) where labels were shuffled: what so few samples give by chance. NaN where
        every concept has one (`spreads`)."""
        found = _index(self.chance[self.chance_count > 0])
        return found if self.spreads else np.full_like(found, np.nan)

    def preferred(self) -> np.ndarray:
        """The number of the concept that drives every unit most (U,)."""
        found: np.ndarray = np.where(self.count[:, None] > 0, self.mean, -np.inf).argmax(0)
        return found

    def rest(self) -> np.ndarray:
        """For every concept and unit the mean of the means of all other concepts (C, U)."""
        return _rest(self.mean, self.count)

    def deviation(self) -> np.ndarray:
        """The pooled standard deviation within concepts (U,)."""
        freedom = max(int((self.count - 1).clip(0).sum()), 1)
        found: np.ndarray = np.sqrt(self.m2.sum(0) / freedom)
        return found

    def contrast(self) -> np.ndarray:
        """How far the mean of a concept stands from that of all others, in pooled deviations
        (Cohen's d), (C, U). NaN where every concept has one sample (`spreads`)."""
        if not self.spreads:
            return np.full_like(self.mean, np.nan)
        found: np.ndarray = _apart(self.mean, self.count) / self.floored(self.deviation())
        return found

    def contrast_by_chance(self) -> np.ndarray:
        """The same (C, U) where labels were shuffled.

        What is within shuffled concepts is not kept, but its sum of squares is what all samples
        have in all, less that between the concepts.
        """
        count, dealt = self.count[:, None], self.chance_count[:, None]
        total = max(int(count.sum()), 1)
        grand = (count * self.mean).sum(0) / total
        squares = self.m2.sum(0) + (count * (self.mean - grand) ** 2).sum(0)
        within = (squares - (dealt * (self.chance - grand) ** 2).sum(0)).clip(0)
        deviation = np.sqrt(within / max(total - int((dealt > 0).sum()), 1))
        found: np.ndarray = _apart(self.chance, self.chance_count) / self.floored(deviation)
        return found

    def floored(self, deviation: np.ndarray) -> np.ndarray:
        """Deviations (U,) to divide by: a unit that gives one concept always the same value has
        none, and rounding leaves some of a constant. A thousandth of its largest mean is the least.
        """
        found: np.ndarray = np.maximum(deviation, 1e-3 * np.abs(self.mean).max(0, initial=0))
        return found + EPSILON

    # ------------------------------------------------------------ files

    ARRAYS = ("count", "mean", "m2", "chance_count", "chance",
              "top_values", "top_samples", "top_places")  # fmt: skip

    def save(self, path: Path) -> None:
        """Write all of it, whole or not at all. Raises `StatisticsError` unless it is settled."""
        if not self.settled:
            raise StatisticsError(f"{path}: a batch was cut short, so that nothing is written")
        fields = ("component", "path", "kind", "stage", "role")
        told = {name: np.array([getattr(x, name) for x in self.layers], str) for name in fields}
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "done": np.array(self.done),
            "skipped": np.array(self.skipped),
            "concepts": np.array(self.concepts, str),
            "units": np.array([layer.units for layer in self.layers], np.int64),
            **({} if self.total is None else {"total": np.array(self.total)}),
            **{f"layer_{name}": values for name, values in told.items()},
            **{name: getattr(self, name) for name in self.ARRAYS},
        }
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def load(cls, path: Path, whole: bool = False) -> Statistics:
        """Read a file that `save` wrote. `whole`: only where all samples of the study were seen.

        Raises `StatisticsError` when it is none, disagrees with itself, or holds a part.
        """
        if not path.exists():
            raise StatisticsError(
                f"there is no {path}; `ablate units selectivity` records one into a study's folder"
            )
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                found = cls._read(file)
        except StatisticsError as error:
            raise StatisticsError(f"{path}{error}") from error.__cause__
        except _UNREADABLE as error:
            raise StatisticsError(
                f"{path} holds no statistics of units ({error}); without the file `ablate units"
                " selectivity` records them anew"
            ) from error
        if whole and found.total is not None and found.done < found.total:
            raise StatisticsError(
                f"{path} holds {found.done} of {found.total} samples; run `ablate units"
                " selectivity` again to go on"
            )
        return found

    @classmethod
    def _read(cls, file: Mapping[str, np.ndarray]) -> Statistics:
        """The statistics in a file's arrays. Nothing is made before the sizes that it tells are
        those of its own arrays."""
        if (known := _number(file, "format")) != FORMAT:
            raise StatisticsError(f" has format {known}; this version reads {FORMAT}")
        fields = ("component", "path", "kind", "stage", "role")
        told = {name: _column(file, f"layer_{name}", "U") for name in fields}
        units, concepts = _column(file, "units", "i"), _column(file, "concepts", "U")
        if {len(column) for column in told.values()} != {len(units)}:
            raise StatisticsError(": its layers have not all that a layer has")
        if min(units, default=1) < 1 or not set(told["kind"]) <= set(KINDS):
            raise StatisticsError(": its layers have no units of a kind that is known")
        arrays = {name: file[name] for name in cls.ARRAYS}
        if arrays["mean"].shape != (len(concepts), sum(units)):
            raise StatisticsError(": `mean` has not the shape that it says")
        layers = [
            Layer(**{name: column[i] for name, column in told.items()}, units=number)
            for i, number in enumerate(units)
        ]
        found = cls(layers, concepts, _number(file, "total") if "total" in file else None)
        found.done = _number(file, "done")
        found.skipped = _number(file, "skipped") if "skipped" in file else 0
        for name, array in arrays.items():
            own = getattr(found, name)
            if (array.shape, array.dtype) != (own.shape, own.dtype):
                raise StatisticsError(f": `{name}` has not the shape that it says")
            setattr(found, name, array)
        found._check()
        return found

    def _check(self) -> None:
        """Whether what was read can be true. Raises `StatisticsError`."""
        if self.count.min(initial=0) < 0 or self.count.sum() + self.skipped != self.done:
            raise StatisticsError(
                f": its concepts have {self.count.sum()} samples, and it was shown"
                f" {self.done - self.skipped}; record it anew, with `--fresh`"
            )
        if any(not np.isfinite(x).all() for x in (self.mean, self.m2, self.chance)):
            raise StatisticsError(": some of its means are not finite; record it anew, `--fresh`")
        if self.top_samples.min(initial=0) < -1 or self.top_samples.max(initial=-1) >= self.done:
            raise StatisticsError(": its strongest samples are not among those it was shown")


# What numpy raises of files that `Statistics.save` did not write.
_UNREADABLE = (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, BadZipFile,
               zlib.error, MemoryError, OverflowError, RuntimeError)  # fmt: skip


def _number(file: Mapping[str, np.ndarray], name: str) -> int:
    """A whole number, 0 or more, of a file."""
    array = file[name]
    if array.shape or array.dtype.kind not in "iu" or int(array) < 0:
        raise StatisticsError(f": `{name}` is no whole number")
    return int(array)


def _column(file: Mapping[str, np.ndarray], name: str, kind: str) -> list[Any]:
    """A list of a file; `kind`: of the array's type, `U` for texts, `i` for whole numbers."""
    array = file[name]
    if array.ndim != 1 or array.dtype.kind != kind:
        what = "texts" if kind == "U" else "whole numbers"
        raise StatisticsError(f": `{name}` is no list of {what}")
    return list(array.tolist())


def _rest(means: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Of means by concept (C, U) the mean of all others that have samples: `count` (C,)."""
    seen = (count > 0)[:, None]
    means = np.where(seen, means, 0)
    found: np.ndarray = (means.sum(0) - means) / np.maximum(seen.sum() - seen, 1)
    return found


def _apart(means: np.ndarray, count: np.ndarray) -> np.ndarray:
    """How far means (C, U) are from the rest; 0 for concepts without samples."""
    found: np.ndarray = np.where((count > 0)[:, None], means - _rest(means, count), 0)
    return found


def student(tail: float, freedom: int) -> float:
    """The value that Student's t of so many degrees of freedom exceeds with a probability of
    `tail`, below ½: the distribution's finite sums (Abramowitz and Stegun 1964, Handbook of
    Mathematical Functions, 26.7.3 and 26.7.4), inverted by halving."""
    odd = freedom % 2
    steps = np.arange(2 + odd, freedom, 2)  # 2, 4, ... or 3, 5, ...
    factors = np.concatenate([np.ones(min(freedom - 1, 1)), (steps - 1) / steps])

    def inside(angle: float) -> float:  # of t between ∓ tan(angle) √freedom
        powers = math.cos(angle) ** np.arange(odd, freedom - 1, 2)
        terms = math.sin(angle) * float(factors.cumprod() @ powers)
        return 2 / math.pi * (angle + terms) if odd else terms

    low, high = 0.0, math.pi / 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if 1 - inside(middle) > 2 * tail else (low, middle)
    return math.tan(low) * math.sqrt(freedom)


def _index(means: np.ndarray) -> np.ndarray:
    """Class selectivity of means by concept (C, U)."""
    if len(means) < 2:
        return np.zeros(means.shape[1])
    most = means.max(0)
    others = (means.sum(0) - most) / (len(means) - 1)
    found: np.ndarray = (most - others) / (most + others + EPSILON)
    return found
