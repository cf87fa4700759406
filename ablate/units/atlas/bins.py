"""Vectors in the bins of a grid: counts, means, and concepts that are common there or left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.units.atlas.layout import Layout
from ablate.units.atlas.vectors import Vectors

LEAST = 5  # vectors in a bin that is shown
COMMON, SAMPLES = 3, 2  # vectors and samples of a concept that a bin needs to be named by it
SURE = 3.0  # standard deviations above the expected count, by Poisson's distribution
LABELS = 3  # concepts that name a bin, at most
HOME = 2.0  # lift from which a bin belongs to a concept
MASS = 20  # vectors that a concept needs in its bins to go dark
LOST = 0.25  # share of them that has to go


@dataclass(frozen=True)
class Bins:
    """Vectors on a grid.

    Attributes:
        rows: Rows of the grid.
        columns: Columns of the grid.
        assigned: Bin of each vector, counted row by row, -1 outside, (vectors,).
        count: Vectors per bin, (bins,).
        mean: Mean of each bin, 0 where it is empty, (bins, units).
    """

    rows: int
    columns: int
    assigned: np.ndarray
    count: np.ndarray
    mean: np.ndarray

    @property
    def shown(self) -> np.ndarray:
        """Bins with enough vectors."""
        return np.flatnonzero(self.count >= LEAST)

    def name(self, number: int) -> str:
        """Row and column, as in file names."""
        return f"{number // self.columns}-{number % self.columns}"

    def chunks(self, vectors: Vectors) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """The vectors in chunks: number of the first, the vectors, and their bins."""
        start = 0
        for chunk in vectors.chunks():
            yield start, chunk, self.assigned[start : start + len(chunk)]
            start += len(chunk)


def assign(layout: Layout, vectors: Vectors, rows: int, columns: int) -> np.ndarray:
    """The bin of each vector, counted row by row, -1 outside, (vectors,)."""
    parts = [layout.bins(chunk, rows, columns).astype(np.int32) for chunk in vectors.chunks()]
    return np.concatenate(parts)


def bin_vectors(layout: Layout, vectors: Vectors, rows: int, columns: int) -> Bins:
    """Place all vectors on a grid, chunk by chunk."""
    assigned = assign(layout, vectors, rows, columns)
    count = np.bincount(assigned[assigned >= 0], minlength=rows * columns)
    mean = np.zeros((rows * columns, vectors.units))
    bins = Bins(rows, columns, assigned, count, mean)
    for _, chunk, numbers in bins.chunks(vectors):
        np.add.at(mean, numbers[numbers >= 0], chunk[numbers >= 0])
    mean /= np.maximum(count, 1)[:, None]
    return bins


def mean_places(vectors: Vectors, bins: Bins) -> np.ndarray:
    """The mean place in the picture, y and x, of the vectors of each bin, (bins, 2)."""
    inside, places = bins.assigned >= 0, vectors.places()
    sums = [
        np.bincount(bins.assigned[inside], places[name][inside], len(bins.count))
        for name in ("y", "x")
    ]
    means: np.ndarray = np.stack(sums, 1) / np.maximum(bins.count, 1)[:, None]
    return means


def central_vectors(vectors: Vectors, bins: Bins) -> np.ndarray:
    """The vector nearest to the mean of each bin, the first of equals; -1 for an empty bin."""
    best = np.full(len(bins.count), -1)
    least = np.full(len(bins.count), np.inf)
    for start, chunk, numbers in bins.chunks(vectors):
        distance = ((chunk - bins.mean[numbers]) ** 2).sum(1)
        order = np.lexsort((distance, numbers))
        filled, first = np.unique(numbers[order], return_index=True)
        nearest = order[first]
        better = (filled >= 0) & (distance[nearest] < least[filled])
        least[filled[better]] = distance[nearest[better]]
        best[filled[better]] = start + nearest[better]
    return best


def concept_counts(
    concepts: np.ndarray, assigned: np.ndarray, bins: int, number: int
) -> np.ndarray:
    """Vectors of each concept in each bin, (bins, concepts).

    Args:
        concepts: Concept of each vector, (vectors,).
        assigned: Bin of each vector, -1 outside, (vectors,).
        bins: Number of bins.
        number: Number of concepts.
    """
    inside = assigned >= 0
    flat = np.bincount(assigned[inside] * number + concepts[inside], minlength=bins * number)
    return flat.reshape(bins, number)


def lifts(counts: np.ndarray, overall: np.ndarray) -> np.ndarray:
    """Share of each concept in a bin over its share of all vectors, (bins, concepts).

    `overall`: vectors of each concept, (concepts,).
    """
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    usual = overall / max(overall.sum(), 1)
    lift: np.ndarray = share / np.maximum(usual, 1e-12)
    return lift


def label_bins(
    bins: Bins, samples: np.ndarray, concepts: Sequence[int], names: Sequence[str]
) -> list[list[tuple[str, float]]]:
    """Name each bin by the concepts of most lift, with their lifts.

    Only concepts with more vectors than chance explains and from more than one sample count, so
    that a bin of what all pictures have in common has no name.

    Args:
        bins: The bins.
        samples: Sample of each vector, (vectors,).
        concepts: Concept of each sample.
        names: Names of the concepts.
    """
    known, size, number = np.array(concepts), len(bins.count), len(names)
    counts = concept_counts(known[samples], bins.assigned, size, number)
    overall = np.bincount(known[samples], minlength=number)
    pairs = np.unique(bins.assigned.astype(np.int64) * len(known) + samples)
    pairs = pairs[pairs >= 0]  # each sample once per bin
    once = concept_counts(known[pairs % len(known)], pairs // len(known), size, number)
    usual = counts.sum(1, keepdims=True) * overall / max(len(samples), 1)
    enough = (counts >= COMMON) & (counts >= usual + SURE * np.sqrt(usual)) & (once >= SAMPLES)
    labels = []
    for row in np.where(enough, lifts(counts, overall), 0):
        best = np.argsort(-row, kind="stable")[:LABELS].tolist()
        labels.append([(names[i], round(float(row[i]), 3)) for i in best if row[i] > 0])
    return labels


def darkened_concepts(
    before: np.ndarray, after: np.ndarray, concepts: Sequence[str]
) -> list[dict[str, Any]]:
    """Concepts that lost most vectors from the bins where they are common, largest share first.

    `before`, `after`: vectors by bin and concept, of baseline and variant.
    """
    home = (lifts(before, before.sum(0)) >= HOME) & (before >= COMMON)
    kept = np.stack([(counts * home).sum(0) for counts in (before, after)])
    dark = []
    for concept, (old, new) in zip(concepts, kept.T.tolist(), strict=True):
        gone = 1 - new / max(old, 1)
        if old >= MASS and gone >= LOST:
            dark.append({"concept": concept, "before": old, "after": new, "gone": round(gone, 4)})
    return sorted(dark, key=lambda one: -one["gone"])
