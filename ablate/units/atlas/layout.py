"""Layouts: the places of activation vectors on a plane, and in bins of a grid.

A layout is fitted once, to the vectors of the baseline, read chunk by chunk; all other vectors are
placed by the same. Methods:

- `pca`: the first two principal components. Axes have a meaning and distances are true, but only
  two directions count.
- `som`: a self-organizing map (Kohonen 1982): a prototype per bin, similar ones next to each other.
- `umap`: McInnes et al. 2018, as in Carter et al. 2019 (Activation Atlas); needs umap-learn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ablate.drift import has_umap, principal_components, umap_plane
from ablate.messages import RequestError
from ablate.store import StoreError, read_arrays, write_arrays

METHODS = ("pca", "som", "umap")
FORMAT = 1
SEED = 0
FITTED = 10_000  # vectors that `som` and `umap` are fitted to, at most
NEIGHBORS = 5  # fitted vectors between which another is placed by `umap`
ROUNDS = 40  # of the self-organizing map
NARROWEST = 0.6  # width, in bins, of the neighborhood in the last round; less tears the map
KNOTS = 257  # quantiles of an axis
SLACK = 1e-4  # of an axis's length, so that rounding puts nothing outside
CHUNK = 1000  # points whose distances are computed at once
Chunks = Callable[[], Iterable[np.ndarray]]  # all vectors from the first, (n, units) each


class LayoutError(RequestError, ValueError):
    """A layout that cannot be fitted."""


@dataclass(frozen=True)
class Layout:
    """A layout of vectors of U units by their k leading principal components.

    Attributes:
        method: One of `METHODS`.
        mean: Mean of the vectors, (U,).
        basis: Principal components, (k, U).
        variance: Variance of each, falling, (k,).
        total: Variance of all components.
        knots: Quantiles of the axes x and y, from end to end, (2, K).
        anchors: Components of the vectors that others are placed by, (n, k); none for `pca`.
        places: Places of the anchors, (n, 2).
        neighbors: Number of anchors that place a vector.
        reach: Distance to the nearest anchor beyond which a vector is outside.
    """

    method: str
    mean: np.ndarray
    basis: np.ndarray
    variance: np.ndarray
    total: float
    knots: np.ndarray
    anchors: np.ndarray
    places: np.ndarray
    neighbors: int
    reach: float

    def plane(self, values: np.ndarray) -> np.ndarray:
        """Places x and y, up is positive, of vectors (n, U); NaN for those outside, (n, 2)."""
        components = (values - self.mean) @ self.basis.T
        if self.method == "pca":
            plane: np.ndarray = components[:, :2]
            return plane
        points = _features(self.method, components)
        indices, distances = _nearest(points, self.anchors, self.neighbors)
        weights = 1 / np.maximum(distances, 1e-6) ** 2
        weights /= weights.sum(1, keepdims=True)
        plane = (weights[..., None] * self.places[indices]).sum(1)
        return np.where((distances[:, 0] <= self.reach)[:, None], plane, np.nan)

    def bins(self, values: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """Bins of vectors (n, U), counted row by row from the top left; -1 outside, (n,)."""
        plane = self.plane(values)
        across, up = (
            np.interp(plane[:, i], self.knots[i], np.linspace(0, 1, self.knots.shape[1]))
            for i in (0, 1)
        )
        low, high = self.knots[:, 0], self.knots[:, -1]
        inside = ((plane >= low) & (plane <= high)).all(1)  # False for NaN
        across, down = np.nan_to_num(across), 1 - np.nan_to_num(up)
        column = np.clip((across * columns).astype(int), 0, columns - 1)
        row = np.clip((down * rows).astype(int), 0, rows - 1)
        return np.where(inside, row * columns + column, -1)

    def whitened(self, directions: np.ndarray) -> np.ndarray:
        """The inverse covariance times directions from the mean (n, U), at length 1.

        Carter et al. 2019: directions in which all vectors vary say little about one. A tenth of
        the largest variance is added to all, so that small ones do not dominate.
        """
        components = directions @ self.basis.T
        ridge = 0.1 * self.variance.max(initial=0) + 1e-12
        white = (components / (self.variance + ridge)) @ self.basis
        length = np.linalg.norm(white, axis=1, keepdims=True)
        unit: np.ndarray = white / np.maximum(length, 1e-12)
        return unit

    # ------------------------------------------------------------ files

    ARRAYS = ("mean", "basis", "variance", "knots", "anchors", "places")

    def save(self, path: Path, key: str) -> None:
        """Write the layout, whole or not at all. `key` identifies what it was fitted to."""
        write_arrays(path, {
            "format": FORMAT,
            "key": key,
            "method": self.method,
            "numbers": [self.total, self.neighbors, self.reach],
            **{name: getattr(self, name) for name in self.ARRAYS},
        })  # fmt: skip

    @classmethod
    def load(cls, path: Path, key: str) -> Layout | None:
        """The layout that `save` wrote with this key, else None."""
        try:
            arrays = read_arrays(path)
            if int(arrays["format"]) != FORMAT or str(arrays["key"]) != key:
                return None
            total, neighbors, reach = arrays["numbers"].tolist()
            return cls(
                str(arrays["method"]),
                **{name: arrays[name] for name in cls.ARRAYS},
                total=total,
                neighbors=int(neighbors),
                reach=reach,
            )
        except (FileNotFoundError, StoreError, KeyError, ValueError, TypeError):
            return None


def check_method(method: str) -> None:
    """Raise `LayoutError` for an unknown method, or `umap` without umap-learn."""
    if method not in METHODS:
        raise LayoutError(f"there is no layout by `{method}`; choose one of {', '.join(METHODS)}")
    if method == "umap" and not has_umap():
        raise LayoutError(
            "a layout by `umap` needs the package umap-learn; `pip install ablate[umap]` brings"
            " it, and layouts by `pca` and `som` need nothing"
        )


def fit(chunks: Chunks, method: str, rows: int = 20, columns: int = 20) -> Layout:
    """Fit a layout to vectors.

    Axes of `pca` and `umap` are evened out: all rows of a grid get about the same number of
    vectors, and all columns.

    Args:
        chunks: Iterates over all vectors.
        method: One of `METHODS`.
        rows: Rows of the grid of prototypes of `som`.
        columns: Columns of it.

    Raises:
        LayoutError: Unknown method, no umap-learn, fewer than three vectors, or values that are
            not finite.
    """
    check_method(method)
    count, mean = _mean(chunks)
    if count < 3:
        raise LayoutError(f"a layout needs three vectors or more, there are {count}")
    if not np.isfinite(mean).all():
        raise LayoutError("some of the vectors contain NaN or infinity")
    basis, variance, total = principal_components(chunks, mean, count)
    anchors, places = np.zeros((0, len(basis))), np.zeros((0, 2))
    neighbors, reach = 0, np.inf
    if method != "pca":
        points = _features(method, _sample(chunks, count, mean, basis))
        if method == "som":
            anchors, places = _organize(points, rows, columns)
            neighbors, reach = 1, _longest_distance(points, anchors)
        else:
            anchors = points
            places = umap_plane(points, neighbors=20, min_dist=0.01, init="pca")  # Carter et al.
            neighbors, reach = min(NEIGHBORS, len(points)), _longest_gap(points)
    knots = np.array([[0.0, columns], [0.0, rows]])
    layout = Layout(method, mean, basis, variance, total, knots, anchors, places, neighbors, reach)
    if method == "som":
        return layout
    plane = np.concatenate([layout.plane(chunk) for chunk in chunks()])
    return replace(layout, knots=_quantiles(plane[np.isfinite(plane).all(1)]))


def _mean(chunks: Chunks) -> tuple[int, np.ndarray]:
    count, total = 0, np.zeros(())
    for chunk in chunks():
        total = total + chunk.sum(0, dtype=np.float64)
        count += len(chunk)
    return count, total / max(count, 1)


def _sample(chunks: Chunks, count: int, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The components of the vectors to fit to, at most `FITTED`."""
    chosen = np.zeros(count, bool)
    chosen[np.random.default_rng(SEED).permutation(count)[:FITTED]] = True
    parts, start = [], 0
    for chunk in chunks():
        parts.append((chunk[chosen[start : start + len(chunk)]] - mean) @ basis.T)
        start += len(chunk)
    return np.concatenate(parts)


def _features(method: str, components: np.ndarray) -> np.ndarray:
    """What distances are computed from: for `umap` directions from the mean alone (cosines, as in
    Carter et al.)."""
    if method != "umap":
        return components
    length = np.linalg.norm(components, axis=1, keepdims=True)
    unit: np.ndarray = components / np.maximum(length, 1e-12)
    return unit


def _nearest(points: np.ndarray, anchors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The indices (n, count) of the nearest anchors, nearest first, and their distances."""
    squares = (points**2).sum(1)[:, None] + (anchors**2).sum(1) - 2 * points @ anchors.T
    squares = np.where(np.isfinite(squares), squares, np.inf)
    indices = np.argpartition(squares, range(count), axis=1)[:, :count]
    nearest = np.take_along_axis(squares, indices, 1)
    return indices, np.sqrt(nearest.clip(0))


def _parts(points: np.ndarray) -> list[np.ndarray]:
    return np.array_split(points, max(1, len(points) // CHUNK))


def _longest_distance(points: np.ndarray, anchors: np.ndarray) -> float:
    """Twice the largest distance of a point to its nearest anchor."""
    return 2 * max(float(_nearest(part, anchors, 1)[1].max()) for part in _parts(points))


def _longest_gap(points: np.ndarray) -> float:
    """Twice the largest distance of a point to its nearest neighbor, among a sample."""
    sample = points[np.random.default_rng(SEED).permutation(len(points))[:CHUNK]]
    return 2 * float(_nearest(sample, sample, 2)[1][:, 1].max()) + 1e-6


def _organize(points: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Train a self-organizing map.

    Batch learning (Kohonen 2013, Essentials of the self-organizing map): in every round each
    prototype becomes the mean of the points nearest to it and, to a falling degree, to its
    neighbors. They start on the plane of the first two components, so that nothing is random.

    Returns:
        The prototypes (rows × columns, k), from the top left, and the centers of their bins.
    """
    row, column = (a.ravel() for a in np.mgrid[:rows, :columns])
    places = np.stack([column + 0.5, rows - row - 0.5], 1)
    spread = points[:, :2].std(0) * 2
    anchors = np.zeros((rows * columns, points.shape[1]))
    anchors[:, :2] = (places / [columns, rows] * 2 - 1) * spread
    squares = ((places[:, None] - places) ** 2).sum(-1)
    for width in np.geomspace(max(rows, columns) / 3, NARROWEST, ROUNDS):
        sums, counts = np.zeros_like(anchors), np.zeros(len(anchors))
        for part in _parts(points):
            nearest = _nearest(part, anchors, 1)[0][:, 0]
            np.add.at(sums, nearest, part)
            counts += np.bincount(nearest, minlength=len(anchors))
        reach = np.exp(-squares / (2 * width**2))
        weight = reach @ counts
        means = reach @ sums / np.maximum(weight, 1e-12)[:, None]
        anchors = np.where(weight[:, None] > 1e-9, means, anchors)
    return anchors, places


def _quantiles(plane: np.ndarray) -> np.ndarray:
    """Quantiles of both axes, (2, K), with some slack at the ends."""
    knots: np.ndarray = np.quantile(plane, np.linspace(0, 1, KNOTS), axis=0).T
    slack = SLACK * (knots[:, -1] - knots[:, 0]) + 1e-9
    knots[:, 0] -= slack
    knots[:, -1] += slack
    return knots
