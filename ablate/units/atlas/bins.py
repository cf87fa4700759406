"""Vectors in the bins of a grid: counts, means, which concepts are where, and which left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.units.atlas.layout import Layout
from ablate.units.atlas.vectors import Vectors

LEAST = 5  # vectors in a bin that is shown
COMMON, SAMPLES = 3, 2  # vectors of a concept, and samples, that make it one of a bin
SURE = 3.0  # deviations above what is usual, by Poisson's distribution, that they have to be
LABELS = 3
HOME = 2.0  # lift from which on a bin is one of a concept's own
MASS = 20  # vectors in its own bins that a concept needs to go dark
LOST = 0.25  # share of them that has to go


@dataclass(frozen=True)
class Bins:
    """Vectors on a grid. `of`: the bin of each, counted along rows, -1 outside (vectors,); `count`
    (bins,); `mean` (bins, units), 0 where there are none."""

    rows: int
    columns: int
    of: np.ndarray
    count: np.ndarray
    mean: np.ndarray

    @property
    def shown(self) -> np.ndarray:
        """The numbers of bins with enough vectors."""
        return np.flatnonzero(self.count >= LEAST)

    def name(self, number: int) -> str:
        """Row and column, as files are called."""
        return f"{number // self.columns}-{number % self.columns}"


def placed(layout: Layout, vectors: Vectors, rows: int, columns: int) -> np.ndarray:
    """The bin of every vector, counted along rows, -1 outside (vectors,)."""
    parts = [layout.bins(chunk, rows, columns).astype(np.int32) for chunk in vectors.chunks()]
    return np.concatenate(parts)


def binned(layout: Layout, vectors: Vectors, rows: int, columns: int) -> Bins:
    """Place all vectors on a grid, chunk by chunk; kept are a number for each, and the means."""
    of = placed(layout, vectors, rows, columns)
    sums, start = np.zeros((rows * columns, vectors.units)), 0
    for chunk in vectors.chunks():
        own = of[start : start + len(chunk)]
        np.add.at(sums, own[own >= 0], chunk[own >= 0])
        start += len(chunk)
    count = np.bincount(of[of >= 0], minlength=rows * columns)
    return Bins(rows, columns, of, count, sums / np.maximum(count, 1)[:, None])


def middles_of(vectors: Vectors, bins: Bins) -> np.ndarray:
    """Where in the picture the vectors of each bin lie in the mean, y and x (bins, 2)."""
    inside, places = bins.of >= 0, vectors.places()
    sums = [
        np.bincount(bins.of[inside], places[name][inside], len(bins.count)) for name in ("y", "x")
    ]
    found: np.ndarray = np.stack(sums, 1) / np.maximum(bins.count, 1)[:, None]
    return found


def central(vectors: Vectors, bins: Bins) -> np.ndarray:
    """For each bin the number of the vector nearest to its mean, the first of equals; -1 where
    there is none (bins,)."""
    best = np.full(len(bins.count), -1)
    least = np.full(len(bins.count), np.inf)
    start = 0
    for chunk in vectors.chunks():
        own = bins.of[start : start + len(chunk)]
        distance = ((chunk - bins.mean[own]) ** 2).sum(1)
        order = np.lexsort((distance, own))
        found, first = np.unique(own[order], return_index=True)
        nearest = order[first]
        better = (found >= 0) & (distance[nearest] < least[found])
        least[found[better]] = distance[nearest[better]]
        best[found[better]] = start + nearest[better]
        start += len(chunk)
    return best


def tally(concepts: np.ndarray, of: np.ndarray, bins: int, number: int) -> np.ndarray:
    """How many vectors of each of so many concepts lie in each of so many bins (bins, concepts).
    `concepts`, `of`: the concept and the bin of every vector, -1 outside."""
    inside = of >= 0
    flat = np.bincount(of[inside] * number + concepts[inside], minlength=bins * number)
    return flat.reshape(bins, number)


def lifts(counts: np.ndarray, overall: np.ndarray) -> np.ndarray:
    """How many times as common concepts are in bins as overall: their shares of a bin's vectors
    over their shares of all (bins, concepts). `overall`: vectors of each concept (concepts,)."""
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    usual = overall / max(overall.sum(), 1)
    found: np.ndarray = share / np.maximum(usual, 1e-12)
    return found


def labels(
    bins: Bins, samples: np.ndarray, concepts: Sequence[int], names: Sequence[str]
) -> list[list[tuple[str, float]]]:
    """For each bin the concepts of most lift that are there with more vectors than chance would
    have it, and in more than one sample: a bin of what all pictures have in common has none.

    `samples`: the sample of every vector; `concepts`: the number of every sample's concept.
    """
    known, size, number = np.array(concepts), len(bins.count), len(names)
    counts = tally(known[samples], bins.of, size, number)
    overall = np.bincount(known[samples], minlength=number)
    pairs = np.unique(bins.of.astype(np.int64) * len(known) + samples)
    pairs = pairs[pairs >= 0]  # each sample once a bin
    once = tally(known[pairs % len(known)], pairs // len(known), size, number)
    usual = counts.sum(1, keepdims=True) * overall / max(len(samples), 1)
    enough = (counts >= COMMON) & (counts >= usual + SURE * np.sqrt(usual)) & (once >= SAMPLES)
    found = []
    for row in np.where(enough, lifts(counts, overall), 0):
        best = np.argsort(-row, kind="stable")[:LABELS].tolist()
        found.append([(names[i], round(float(row[i]), 3)) for i in best if row[i] > 0])
    return found


def darkened(
    before: np.ndarray, after: np.ndarray, concepts: Sequence[str]
) -> list[dict[str, Any]]:
    """The concepts whose own bins lost most of their vectors, those that lost the largest share
    first. `before`, `after`: vectors by bin and concept, of baseline and variant."""
    lift = lifts(before, before.sum(0))
    own = (lift >= HOME) & (before >= COMMON)
    kept = np.stack([(counts * own).sum(0) for counts in (before, after)])
    found = []
    for concept, (old, new) in zip(concepts, kept.T.tolist(), strict=True):
        gone = 1 - new / max(old, 1)
        if old >= MASS and gone >= LOST:
            found.append({"concept": concept, "before": old, "after": new, "gone": round(gone, 4)})
    return sorted(found, key=lambda one: -one["gone"])
