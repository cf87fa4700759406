"""Running statistics of units' activations by concept, and what follows from them.

Samples stream by in batches and are forgotten; what is kept does not grow with their number: for
each unit a count, a mean and a deviation a concept, the same means under shuffled labels, and the
samples that drove it most.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

EPSILON = 1e-7
TOP = 16  # samples kept that drive a unit most
FORMAT = 1


class StatisticsError(ValueError):
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
    where a layer is no map of it. `done`: samples seen so far.
    """

    def __init__(self, layers: Sequence[Layer], concepts: Sequence[str]) -> None:
        self.layers = tuple(layers)
        self.concepts = tuple(concepts)
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
        picture they are strongest (n, U, 2), and the concepts of shuffled labels (n,)."""
        values = np.asarray(values, np.float64)
        for concept in np.unique(concepts):
            self._merge(int(concept), values[concepts == concept])
        for concept in np.unique(shuffled) if shuffled is not None else ():
            own = values[shuffled == concept]
            self.chance_count[concept] += len(own)
            share = len(own) / self.chance_count[concept]
            self.chance[concept] += (own.mean(0) - self.chance[concept]) * share
        self._rank(values.astype(np.float32), places)
        self.done += len(values)

    def _merge(self, concept: int, values: np.ndarray) -> None:
        """Chan, Golub and LeVeque 1979, Updating formulae and a pairwise algorithm for computing
        sample variances."""
        n, mean = len(values), values.mean(0)
        before, total = self.count[concept], self.count[concept] + n
        apart = mean - self.mean[concept]
        self.m2[concept] += ((values - mean) ** 2).sum(0) + apart**2 * (before * n / total)
        self.mean[concept] += apart * (n / total)
        self.count[concept] = total

    def _rank(self, values: np.ndarray, places: np.ndarray | None) -> None:
        n = len(values)
        if places is None:
            places = np.full((*values.shape, 2), np.nan, np.float32)
        numbers = np.arange(self.done, self.done + n, dtype=np.int32)
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
        """The index (U,) where labels were shuffled: what so few samples give by chance."""
        return _index(self.chance[self.chance_count > 0])

    def preferred(self) -> np.ndarray:
        """The number of the concept that drives every unit most (U,)."""
        found: np.ndarray = np.where(self.count[:, None] > 0, self.mean, -np.inf).argmax(0)
        return found

    def rest(self) -> np.ndarray:
        """For every concept and unit the mean of the means of all other concepts (C, U)."""
        seen = (self.count > 0)[:, None]
        means = np.where(seen, self.mean, 0)
        found: np.ndarray = (means.sum(0) - means) / np.maximum(seen.sum() - seen, 1)
        return found

    def deviation(self) -> np.ndarray:
        """The pooled standard deviation within concepts (U,)."""
        freedom = max(int((self.count - 1).clip(0).sum()), 1)
        found: np.ndarray = np.sqrt(self.m2.sum(0) / freedom)
        return found

    def contrast(self) -> np.ndarray:
        """How far the mean of a concept stands from that of all others, in pooled deviations
        (Cohen's d), (C, U)."""
        apart = np.where((self.count > 0)[:, None], self.mean - self.rest(), 0)
        found: np.ndarray = apart / self.floored(self.deviation())
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
        """Write all of it, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        fields = ("component", "path", "kind", "stage", "role")
        told = {name: np.array([getattr(x, name) for x in self.layers], str) for name in fields}
        arrays: dict[str, Any] = {
            "format": np.array(FORMAT),
            "done": np.array(self.done),
            "concepts": np.array(self.concepts, str),
            "units": np.array([layer.units for layer in self.layers], np.int64),
            **{f"layer_{name}": values for name, values in told.items()},
            **{name: getattr(self, name) for name in self.ARRAYS},
        }
        with temporary.open("wb") as file:
            np.savez(file, **arrays)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> Statistics:
        """Read a file that `save` wrote. Raises `StatisticsError` when it is none."""
        if not path.exists():
            raise StatisticsError(
                f"there is no {path}; `ablate units selectivity` records one into a study's folder"
            )
        try:
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                if int(file["format"]) != FORMAT:
                    raise StatisticsError(
                        f"{path} has format {int(file['format'])}; this version reads {FORMAT}"
                    )
                fields = ("component", "path", "kind", "units", "stage", "role")
                columns = [
                    file[name if name == "units" else f"layer_{name}"].tolist() for name in fields
                ]
                layers = [Layer(*row) for row in zip(*columns, strict=True)]
                found = cls(layers, file["concepts"].tolist())
                found.done = int(file["done"])
                for name in cls.ARRAYS:
                    if file[name].shape != getattr(found, name).shape:
                        raise StatisticsError(f"{path}: `{name}` has not the shape that it says")
                    setattr(found, name, file[name])
        except StatisticsError:
            raise
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise StatisticsError(f"{path} holds no statistics of units ({error})") from error
        return found


def _index(means: np.ndarray) -> np.ndarray:
    """Class selectivity of means by concept (C, U)."""
    if len(means) < 2:
        return np.zeros(means.shape[1])
    most = means.max(0)
    others = (means.sum(0) - most) / (len(means) - 1)
    found: np.ndarray = (most - others) / (most + others + EPSILON)
    return found
