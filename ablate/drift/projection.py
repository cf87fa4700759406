"""Projections of vectors to few dimensions: principal components, and UMAP where it is installed.

Both give the same result every time.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Literal

import numpy as np

COMPONENTS = 50  # principal components that are kept, at most
WIDEST = 2048  # units up to which the whole covariance is computed
PASSES = 12  # over the vectors, where there are more units
SEED = 0
Chunks = Callable[[], Iterable[np.ndarray]]  # all vectors from the first, (n, units) each


def principal_components(
    chunks: Chunks, mean: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """The leading principal components of vectors.

    From the covariance where it is small; where it is not, by subspace iteration, a pass over the
    vectors each, which never computes it. Of each component the largest entry is positive.

    Args:
        chunks: Iterates over all vectors.
        mean: Of the vectors, shape (units,).
        count: How many there are.

    Returns:
        The components, shape (k, units) with two at least, their variances, shape (k,), falling,
        and the variance of all.
    """
    units = len(mean)
    kept = min(COMPONENTS, units)
    total = sum(float(((c - mean) ** 2).sum()) for c in chunks()) / count

    def times(block: np.ndarray) -> np.ndarray:
        """The covariance times some columns (units, n)."""
        product = np.zeros_like(block)
        for chunk in chunks():
            centered = chunk - mean
            product += centered.T @ (centered @ block)
        return product / count

    if units <= WIDEST:
        covariance = np.zeros((units, units))
        for chunk in chunks():
            centered = chunk - mean
            covariance += centered.T @ centered / count
        values, vectors = np.linalg.eigh(covariance)
    else:
        start = np.random.default_rng(SEED).standard_normal((units, kept + 10))
        block = np.linalg.qr(start)[0]
        for _ in range(PASSES):
            block = np.linalg.qr(times(block))[0]
        values, inner = np.linalg.eigh(block.T @ times(block))
        vectors = block @ inner
    values, basis = values[::-1][:kept].clip(0), vectors.T[::-1][:kept]
    largest = basis[np.arange(kept), np.abs(basis).argmax(1)]
    if kept < 2:
        return np.pad(basis, ((0, 1), (0, 0))), np.pad(values, (0, 1)), total  # a plane has two
    return basis * np.sign(largest)[:, None], values, total


def has_umap() -> bool:
    """Whether umap-learn is installed."""
    if "umap" in sys.modules:  # None there: it must not be imported
        return sys.modules["umap"] is not None
    return find_spec("umap") is not None


def umap_plane(
    points: np.ndarray,
    neighbors: int,
    min_dist: float,
    init: Literal["spectral", "pca"] = "spectral",
) -> np.ndarray:
    """Places of points (n, units) on a plane (n, 2), by cosine distance.

    McInnes et al. 2018, UMAP: Uniform Manifold Approximation and Projection. The arguments are
    those of umap-learn; `neighbors` is at most.
    """
    from umap import UMAP  # optional, and slow to import

    umap = UMAP(
        n_neighbors=min(neighbors, len(points) - 1), min_dist=min_dist, metric="cosine", init=init,
        random_state=SEED, n_jobs=1,
    )  # fmt: skip
    return np.asarray(umap.fit_transform(points.astype(np.float32)), dtype=np.float64)
