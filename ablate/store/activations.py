"""Running statistics of units' activations by concept, and measures computed from them.

Samples are added in batches and forgotten. The statistics do not grow with their number: for each
unit and concept a count, a mean and a deviation, means under shuffled labels, and the samples of
the largest activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ablate.messages import RequestError
from ablate.store.arrays import read_arrays, write_arrays
from ablate.store.files import StoreError

EPSILON = 1e-7
TOP = 16  # samples of the largest activations that are kept of a unit
FORMAT = 1
KINDS = ("channels", "heads")


class StatisticsError(RequestError, ValueError):
    """A file of statistics that is missing or cannot be read; the message says why."""


@dataclass(frozen=True)
class Layer:
    """A module or block whose units were recorded.

    Attributes:
        component: The network that it belongs to, `clip` for the CLIP model that reads images.
        path: The module path.
        kind: Of its units: `channels` or `heads`.
        units: How many.
    """

    component: str
    path: str
    kind: str
    units: int
    stage: str = ""
    role: str = ""


class Statistics:
    """Statistics of U units, those of all layers one after the other, over C concepts.

    Attributes:
        count: Samples by concept (C,).
        mean: Means by concept (C, U).
        m2: Sums of squared deviations by concept (C, U).
        chance_count, chance: Samples (C,) and means (C, U) by shuffled labels.
        top_values: The largest activations of each unit, falling (TOP, U).
        top_samples: The indices of their samples (TOP, U), -1 where there are fewer.
        top_places: Where in the picture (TOP, U, 2): y and x in 0 to 1, NaN where a layer is no map
            of it.
        done: Samples so far.
        total: Samples of the whole study, None where that is not known and it is taken to be whole.
        skipped: Samples, of those done, that are left out because an activation is not finite.
        settled: Whether all of this is of the same samples: not so after an `add` that was cut
            short, of which nothing is saved.
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
        """The number of units U."""
        return self.mean.shape[1]

    @property
    def spreads(self) -> bool:
        """Whether a concept has two samples: of one each there is no deviation within concepts, and
        shuffled labels have the same means."""
        return bool((self.count > 1).any())

    @property
    def fewest(self) -> int:
        """The smallest number of samples of a concept that has any."""
        return int(self.count[self.count > 0].min(initial=np.iinfo(np.int64).max))

    def slice_of(self, layer: Layer) -> slice:
        """Return the indices of a layer's units among all."""
        start = 0
        for other in self.layers:
            if other == layer:
                return slice(start, start + layer.units)
            start += other.units
        raise KeyError(layer.path)

    def place_of(self, unit: int) -> tuple[Layer, int]:
        """Return the layer of a unit and the unit's number in it."""
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
        """Add n samples.

        Samples with a value that is not finite, of whatever unit, are left out: one of them would
        spoil the mean of its concept for good.

        Args:
            concepts: The indices of their concepts (n,).
            values: Activations (n, U).
            places: Where in the picture activations are largest (n, U, 2).
            shuffled: The indices of concepts by shuffled labels (n,).
        """
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
            some = values[shuffled == concept]
            self.chance_count[concept] += len(some)
            share = len(some) / self.chance_count[concept]
            self.chance[concept] += (some.mean(0) - self.chance[concept]) * share
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
            # Of equal values the earlier sample is first, whatever the batches.
            order = np.argsort(-some, axis=0, kind="stable")[:TOP]
            self.top_values[:, part] = np.take_along_axis(some, order, 0)
            self.top_samples[:, part] = np.take_along_axis(samples, order, 0)
            self.top_places[:, part] = np.take_along_axis(spots, order[..., None], 0)

    # ------------------------------------------------------------ measures

    def selectivity(self) -> np.ndarray:
        """Return the class selectivity index of every unit (U,), 0 to 1: the mean activation for
        the preferred concept, against the mean of the means for all others.

        Leavitt and Morcos 2020, Selectivity considered harmful, eq. 1: (μmax − μ−max) / (μmax +
        μ−max + ε). 0: the means of all concepts are equal; 1: one alone is above 0.
        """
        return _index(self.mean[self.count > 0])

    def by_chance(self) -> np.ndarray:
        """Return the index (U,) by shuffled labels: that of so few samples by chance. NaN where
        every concept has one (`spreads`)."""
        index = _index(self.chance[self.chance_count > 0])
        return index if self.spreads else np.full_like(index, np.nan)

    def preferred(self) -> np.ndarray:
        """Return the index of the concept with the largest mean of every unit (U,)."""
        preferred: np.ndarray = np.where(self.count[:, None] > 0, self.mean, -np.inf).argmax(0)
        return preferred

    def rest(self) -> np.ndarray:
        """Return for every concept and unit the mean of the means of all other concepts (C, U)."""
        return _rest(self.mean, self.count)

    def deviation(self) -> np.ndarray:
        """Return the pooled standard deviation within concepts (U,)."""
        freedom = max(int((self.count - 1).clip(0).sum()), 1)
        deviation: np.ndarray = np.sqrt(self.m2.sum(0) / freedom)
        return deviation

    def contrast(self) -> np.ndarray:
        """Return the difference of each concept's mean from that of all others, in pooled
        deviations (Cohen's d), (C, U). NaN where every concept has one sample (`spreads`)."""
        if not self.spreads:
            return np.full_like(self.mean, np.nan)
        contrast: np.ndarray = _apart(self.mean, self.count) / self._floored(self.deviation())
        return contrast

    def contrast_by_chance(self) -> np.ndarray:
        """Return the same (C, U) by shuffled labels.

        The sum of squares within shuffled concepts is that of all samples, less that between these
        concepts.
        """
        count, shuffled = self.count[:, None], self.chance_count[:, None]
        total = max(int(count.sum()), 1)
        grand = (count * self.mean).sum(0) / total
        squares = self.m2.sum(0) + (count * (self.mean - grand) ** 2).sum(0)
        within = (squares - (shuffled * (self.chance - grand) ** 2).sum(0)).clip(0)
        deviation = np.sqrt(within / max(total - int((shuffled > 0).sum()), 1))
        contrast: np.ndarray = _apart(self.chance, self.chance_count) / self._floored(deviation)
        return contrast

    def _floored(self, deviation: np.ndarray) -> np.ndarray:
        """Return deviations (U,) to divide by, a thousandth of a unit's largest mean at least: they
        are 0, or mere rounding, where a unit has one value for all samples of a concept."""
        floor: np.ndarray = np.maximum(deviation, 1e-3 * np.abs(self.mean).max(0, initial=0))
        return floor + EPSILON

    # ------------------------------------------------------------ files

    ARRAYS = ("count", "mean", "m2", "chance_count", "chance",
              "top_values", "top_samples", "top_places")  # fmt: skip

    FIELDS = ("component", "path", "kind", "stage", "role")  # of layers

    def save(self, path: Path) -> None:
        """Write a file atomically. Raises `StatisticsError` unless the statistics are settled."""
        if not self.settled:
            raise StatisticsError(f"{path}: a batch was cut short, so that nothing is written")
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "done": np.array(self.done),
            "skipped": np.array(self.skipped),
            "concepts": np.array(self.concepts, str),
            "units": np.array([layer.units for layer in self.layers], np.int64),
            **({} if self.total is None else {"total": np.array(self.total)}),
            **{f"layer_{name}": np.array([getattr(layer, name) for layer in self.layers], str)
               for name in self.FIELDS},
            **{name: getattr(self, name) for name in self.ARRAYS},
        }  # fmt: skip
        write_arrays(path, arrays)

    @classmethod
    def load(cls, path: Path, whole: bool = False) -> Statistics:
        """Read a file that `save` wrote.

        Args:
            whole: Whether all samples of the study have to be in it.

        Raises:
            StatisticsError: The file is missing, no file of statistics, inconsistent, or a part.
        """
        try:
            statistics = cls._read(read_arrays(path))
        except FileNotFoundError:
            raise StatisticsError(
                f"there is no {path}; `ablate units selectivity` records one into a study's folder"
            ) from None
        except StoreError as error:
            raise StatisticsError(
                f"{error}; without it `ablate units selectivity` records them anew"
            ) from error
        except StatisticsError as error:
            raise StatisticsError(f"{path}{error}") from error.__cause__
        except KeyError as error:
            raise StatisticsError(
                f"{path} is no file of statistics of units: it has no array {error}"
            ) from error
        if whole and statistics.total is not None and statistics.done < statistics.total:
            raise StatisticsError(
                f"{path} has {statistics.done} of {statistics.total} samples; run `ablate units"
                " selectivity` again to go on"
            )
        return statistics

    @classmethod
    def _read(cls, file: Mapping[str, np.ndarray]) -> Statistics:
        """Return the statistics in a file's arrays. Nothing is allocated before the sizes that it
        states are those of its arrays."""
        if (known := _number(file, "format")) != FORMAT:
            raise StatisticsError(f" has format {known}; this version reads {FORMAT}")
        columns = {name: _column(file, f"layer_{name}", "U") for name in cls.FIELDS}
        units, concepts = _column(file, "units", "i"), _column(file, "concepts", "U")
        if {len(column) for column in columns.values()} != {len(units)}:
            raise StatisticsError(": its layers lack some of the values of a layer")
        if min(units, default=1) < 1 or not set(columns["kind"]) <= set(KINDS):
            raise StatisticsError(": its layers have no units of a kind that is known")
        arrays = {name: file[name] for name in cls.ARRAYS}
        if arrays["mean"].shape != (len(concepts), sum(units)):
            raise StatisticsError(": `mean` has not the shape that it states")
        layers = [
            Layer(**{name: column[i] for name, column in columns.items()}, units=number)
            for i, number in enumerate(units)
        ]
        statistics = cls(layers, concepts, _number(file, "total") if "total" in file else None)
        statistics.done = _number(file, "done")
        statistics.skipped = _number(file, "skipped") if "skipped" in file else 0
        for name, array in arrays.items():
            empty = getattr(statistics, name)
            if (array.shape, array.dtype) != (empty.shape, empty.dtype):
                raise StatisticsError(f": `{name}` has not the shape that it states")
            setattr(statistics, name, array)
        statistics._check()
        return statistics

    def _check(self) -> None:
        """Raise `StatisticsError` where values contradict one another."""
        if self.count.min(initial=0) < 0 or self.count.sum() + self.skipped != self.done:
            raise StatisticsError(
                f": its concepts have {self.count.sum()} samples, and it was shown"
                f" {self.done - self.skipped}; record it anew, with `--fresh`"
            )
        if any(not np.isfinite(x).all() for x in (self.mean, self.m2, self.chance)):
            raise StatisticsError(": some of its means are not finite; record it anew, `--fresh`")
        if self.top_samples.min(initial=0) < -1 or self.top_samples.max(initial=-1) >= self.done:
            raise StatisticsError(": its strongest samples are not among those it was shown")


def read_statistics(folder: Path) -> Statistics:
    """Return the whole statistics of a study's folder, not to be changed.

    A file is read once as long as it stays the same. Raises `StatisticsError` where there are none,
    or only a part.
    """
    path = folder / "activations.npz"
    stat = path.stat() if path.exists() else None
    return _load(path, stat and (stat.st_ino, stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=4)
def _load(path: Path, _version: tuple[int, ...] | None) -> Statistics:
    return Statistics.load(path, whole=True)


def _number(file: Mapping[str, np.ndarray], name: str) -> int:
    """Return a whole number, 0 or more, of a file."""
    array = file[name]
    if array.shape or array.dtype.kind not in "iu" or int(array) < 0:
        raise StatisticsError(f": `{name}` is no whole number")
    return int(array)


def _column(file: Mapping[str, np.ndarray], name: str, kind: str) -> list[Any]:
    """Return a list of a file; `kind`: of the array's type, `U` for texts, `i` for integers."""
    array = file[name]
    if array.ndim != 1 or array.dtype.kind != kind:
        what = "texts" if kind == "U" else "whole numbers"
        raise StatisticsError(f": `{name}` is no list of {what}")
    return list(array.tolist())


def _rest(means: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return for each of the means by concept (C, U) that of all others with samples (C,)."""
    seen = (count > 0)[:, None]
    means = np.where(seen, means, 0)
    rest: np.ndarray = (means.sum(0) - means) / np.maximum(seen.sum() - seen, 1)
    return rest


def _apart(means: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return the difference of means (C, U) from the rest; 0 for concepts without samples."""
    apart: np.ndarray = np.where((count > 0)[:, None], means - _rest(means, count), 0)
    return apart


def _index(means: np.ndarray) -> np.ndarray:
    """Return the class selectivity of means by concept (C, U)."""
    if len(means) < 2:
        return np.zeros(means.shape[1])
    most = means.max(0)
    others = (means.sum(0) - most) / (len(means) - 1)
    index: np.ndarray = (most - others) / (most + others + EPSILON)
    return index
