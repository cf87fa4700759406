"""Layouts: where activation vectors lie in two dimensions, and in which bin of a grid.

A layout is fitted once, to the vectors of the baseline, read chunk by chunk; whatever comes later
is placed by the same. Methods:

- `pca`: the first two principal components. Axes mean something, and distances are true, but only
  of what two directions tell.
- `som`: a self-organizing map (Kohonen 1982): every bin has a prototype, neighbors alike ones.
- `umap`: McInnes et al. 2018, as in Carter et al. 2019 (Activation Atlas); needs umap-learn.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from ablate.messages import RequestError
from ablate.store import atomic_write

METHODS = ("pca", "som", "umap")
SPREADS = ("even", "range")
FORMAT = 1
SEED = 0
COMPONENTS = 50  # principal components that are kept, at most
WIDEST = 2048  # units of which a whole covariance is made
PASSES = 12  # over the vectors, where there are more
FITTED = 10_000  # vectors that `som` and `umap` are fitted to, at most
NEAREST = 5  # of them, between which another vector is placed by `umap`
ROUNDS = 40  # of the self-organizing map
NARROW = 0.3  # how far, in bins, prototypes pull their neighbors along in the last
KNOTS = 257  # quantiles that an axis is evened out by
TAIL = 0.01  # share beyond each end of a `range`
SLACK = 1e-4  # of an axis's length, so that rounding puts nothing outside
# What a file that is no layout, or half of one, may come to.
UNREADABLE = (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile,
              zlib.error)  # fmt: skip
Chunks = Callable[[], Iterable[np.ndarray]]  # all vectors from the first, (n, units) each


class LayoutError(RequestError, ValueError):
    """A layout that cannot be made or read; the message says why."""


@dataclass(frozen=True)
class Layout:
    """A layout of vectors of U units by `k` leading principal components.

    `mean` (U,), `basis` (k, U), `variance` (k,), falling, and `total`, that of all components.
    `knots` (2, K): the ends of axes x and y, with quantiles between where axes are evened out.
    `anchors` (n, k) and their places (n, 2): what vectors are placed by, `nearest` of them each;
    none of `pca`. `reach`: a vector farther from all anchors lies outside.
    """

    method: str
    mean: np.ndarray
    basis: np.ndarray
    variance: np.ndarray
    total: float
    knots: np.ndarray
    anchors: np.ndarray
    places: np.ndarray
    nearest: int
    reach: float

    def components(self, values: np.ndarray) -> np.ndarray:
        """Vectors (n, U) by their principal components (n, k)."""
        found: np.ndarray = (values - self.mean) @ self.basis.T
        return found

    def plane(self, values: np.ndarray) -> np.ndarray:
        """Where vectors (n, U) lie, x and y, up is positive (n, 2); NaN where too far from all."""
        return self._plane(self.components(values))

    def _plane(self, components: np.ndarray) -> np.ndarray:
        if self.method == "pca":
            return components[:, :2]
        found = _features(self.method, components)
        numbers, distances = _nearest(found, self.anchors, self.nearest)
        weights = 1 / np.maximum(distances, 1e-6) ** 2
        weights /= weights.sum(1, keepdims=True)
        flat: np.ndarray = (weights[..., None] * self.places[numbers]).sum(1)
        return np.where((distances[:, 0] <= self.reach)[:, None], flat, np.nan)

    def bins(self, values: np.ndarray, rows: int, columns: int) -> np.ndarray:
        """The bins of vectors (n, U), counted along rows from the top left, -1: outside (n,)."""
        flat = self.plane(values)
        shares = [
            np.interp(flat[:, i], self.knots[i], np.linspace(0, 1, self.knots.shape[1]))
            for i in (0, 1)
        ]
        low, high = self.knots[:, 0], self.knots[:, -1]
        inside = ((flat >= low) & (flat <= high)).all(1)  # so that NaN is outside
        across, down = np.nan_to_num(shares[0]), 1 - np.nan_to_num(shares[1])
        column = np.clip((across * columns).astype(int), 0, columns - 1)
        row = np.clip((down * rows).astype(int), 0, rows - 1)
        return np.where(inside, row * columns + column, -1)

    def whitened(self, directions: np.ndarray) -> np.ndarray:
        """Directions from the mean (n, U), in units of what is usual: the inverse of the covariance
        times each, among the components kept, length 1.

        Carter et al. 2019 do so, since directions in which all vectors vary say little of one. A
        tenth of the largest variance is added to all, so that small ones do not drown the rest.
        """
        parts = directions @ self.basis.T
        ridge = 0.1 * self.variance.max(initial=0) + 1e-12
        found = (parts / (self.variance + ridge)) @ self.basis
        length = np.linalg.norm(found, axis=1, keepdims=True)
        unit: np.ndarray = found / np.maximum(length, 1e-12)
        return unit

    # ------------------------------------------------------------ files

    ARRAYS = ("mean", "basis", "variance", "knots", "anchors", "places")

    def save(self, path: Path, key: str) -> None:
        """Write it, whole or not at all. `key`: what it was made of."""
        told = {
            "format": np.array(FORMAT),
            "key": np.array(key),
            "method": np.array(self.method),
            "numbers": np.array([self.total, self.nearest, self.reach]),
            **{name: getattr(self, name) for name in self.ARRAYS},
        }
        with atomic_write(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **told)

    @classmethod
    def load(cls, path: Path, key: str) -> Layout | None:
        """The layout that `save` wrote, None where there is none made of this."""
        try:
            with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
                if int(file["format"]) != FORMAT or str(file["key"]) != key:
                    return None
                total, nearest, reach = file["numbers"].tolist()
                arrays = {name: file[name] for name in cls.ARRAYS}
                return cls(
                    str(file["method"]), **arrays, total=total, nearest=int(nearest), reach=reach
                )
        except UNREADABLE:
            return None


def check(method: str, spread: str) -> None:
    """Raise `LayoutError` for a layout that cannot be made, whatever the vectors: one of another
    name, or one by `umap` without umap-learn."""
    for word, known in ((method, METHODS), (spread, SPREADS)):
        if word not in known:
            raise LayoutError(f"there is no layout by `{word}`; choose one of {', '.join(known)}")
    if method != "umap" or sys.modules.get("umap"):
        return
    if "umap" in sys.modules or find_spec("umap") is None:  # None there: it must not be imported
        raise LayoutError(
            "a layout by `umap` needs the package umap-learn; `pip install ablate[umap]` brings"
            " it, and layouts by `pca` and `som` need nothing"
        )


def fit(
    chunks: Chunks, method: str, spread: str = "even", rows: int = 20, columns: int = 20
) -> Layout:
    """Fit a layout to vectors.

    `spread`: along axes of `pca` and `umap`, `even` gives each row and each column of a grid as
    many vectors as any other; `range` keeps distances, from the 1st to the 99th percentile, and
    leaves what is beyond outside. `rows`, `columns`: the prototypes of `som`. Raises `LayoutError`
    for other words, for fewer than three vectors, and without umap-learn.
    """
    check(method, spread)
    count, mean = _mean(chunks)
    if count < 3:
        raise LayoutError(f"a layout needs three vectors or more, there are {count}")
    if not np.isfinite(mean).all():
        raise LayoutError("among the vectors there are some that hold NaN or infinity")
    basis, variance, total = _principal(chunks, mean, count)
    anchors, places = np.zeros((0, len(basis))), np.zeros((0, 2))
    nearest, reach = 0, np.inf
    if method != "pca":
        some = _features(method, _sample(chunks, count, mean, basis))
        if method == "som":
            anchors, places = _organized(some, rows, columns)
            nearest, reach = 1, _farthest(some, anchors)
        else:
            anchors, places = some, _umap(some)
            nearest, reach = min(NEAREST, len(some)), _apart(some)
    layout = Layout(
        method, mean, basis, variance, total, np.zeros((2, 2)), anchors, places, nearest, reach
    )
    if method == "som":
        knots = np.array([[0.0, columns], [0.0, rows]])
    else:
        flat = np.concatenate([layout.plane(chunk) for chunk in chunks()])
        knots = _knots(flat[np.isfinite(flat).all(1)], spread)
    return Layout(method, mean, basis, variance, total, knots, anchors, places, nearest, reach)


def _mean(chunks: Chunks) -> tuple[int, np.ndarray]:
    count, total = 0, np.zeros(0)
    for chunk in chunks():
        total = total + chunk.sum(0, dtype=np.float64) if count else chunk.sum(0, dtype=np.float64)
        count += len(chunk)
    return count, total / max(count, 1)


def _principal(
    chunks: Chunks, mean: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Leading principal components (k, U) and their variances (k,), and the variance of all.

    From the covariance where it is small; where it is not, by subspace iteration, a pass over the
    vectors each, which never makes it. Of each component the largest entry is positive.
    """
    units = len(mean)
    kept = min(COMPONENTS, units)
    total = sum(float(((c - mean) ** 2).sum()) for c in chunks()) / count

    def times(block: np.ndarray) -> np.ndarray:
        """The covariance times some columns (U, n)."""
        found = np.zeros_like(block)
        for chunk in chunks():
            centered = chunk - mean
            found += centered.T @ (centered @ block)
        return found / count

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


def _sample(chunks: Chunks, count: int, mean: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """The components of as many vectors as are fitted to, always the same."""
    wanted = np.zeros(count, bool)
    wanted[np.random.default_rng(SEED).permutation(count)[:FITTED]] = True
    found, start = [], 0
    for chunk in chunks():
        found.append((chunk[wanted[start : start + len(chunk)]] - mean) @ basis.T)
        start += len(chunk)
    return np.concatenate(found)


def _features(method: str, components: np.ndarray) -> np.ndarray:
    """What is near to what is told by: directions from the mean alone of `umap` (cosines, as in
    Carter et al.), lengths too of `som`."""
    if method != "umap":
        return components
    length = np.linalg.norm(components, axis=1, keepdims=True)
    unit: np.ndarray = components / np.maximum(length, 1e-12)
    return unit


def _nearest(points: np.ndarray, anchors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the nearest anchors (n, count), nearest first, and their distances."""
    squares = (points**2).sum(1)[:, None] + (anchors**2).sum(1) - 2 * points @ anchors.T
    squares = np.where(np.isfinite(squares), squares, np.inf)
    numbers = np.argpartition(squares, range(count), axis=1)[:, :count]
    chosen = np.take_along_axis(squares, numbers, 1)
    return numbers, np.sqrt(chosen.clip(0))


def _farthest(points: np.ndarray, anchors: np.ndarray) -> float:
    """Twice how far a point is from its anchor at most: what lies beyond is like none of them."""
    return 2 * max(
        float(_nearest(part, anchors, 1)[1].max())
        for part in np.array_split(points, max(1, len(points) // 1000))
    )


def _apart(points: np.ndarray) -> float:
    """Twice how far a point is from its nearest neighbor at most, of a thousand."""
    some = points[np.random.default_rng(SEED).permutation(len(points))[:1000]]
    return 2 * float(_nearest(some, points, 2)[1][:, 1].max()) + 1e-6


def _organized(points: np.ndarray, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Prototypes of a grid (rows × columns, k), from the top left, and the middles of their bins.

    Batch learning (Kohonen 2013, Essentials of the self-organizing map): in every round each
    prototype becomes the mean of the points nearest to it and, less and less, to its neighbors.
    They start on the plane of the first two components, so that nothing is left to chance.
    """
    row, column = (a.ravel() for a in np.mgrid[:rows, :columns])
    places = np.stack([column + 0.5, rows - row - 0.5], 1)
    spread = points[:, :2].std(0) * 2
    anchors = np.zeros((rows * columns, points.shape[1]))
    anchors[:, :2] = (places / [columns, rows] * 2 - 1) * spread
    apart = ((places[:, None] - places) ** 2).sum(-1)
    for width in np.geomspace(max(rows, columns) / 3, NARROW, ROUNDS):
        sums, counts = np.zeros_like(anchors), np.zeros(len(anchors))
        for part in np.array_split(points, max(1, len(points) // 1000)):
            own = _nearest(part, anchors, 1)[0][:, 0]
            np.add.at(sums, own, part)
            counts += np.bincount(own, minlength=len(anchors))
        reach = np.exp(-apart / (2 * width**2))
        weight = reach @ counts
        moved = reach @ sums / np.maximum(weight, 1e-12)[:, None]
        anchors = np.where(weight[:, None] > 1e-9, moved, anchors)
    return anchors, places


def _umap(points: np.ndarray) -> np.ndarray:
    """Where UMAP puts points, always the same; with the settings of Carter et al."""
    from umap import UMAP

    near = min(20, len(points) - 1)
    made = UMAP(
        n_neighbors=near, min_dist=0.01, metric="cosine", init="pca", random_state=SEED, n_jobs=1
    )
    return np.asarray(made.fit_transform(points.astype(np.float32)), dtype=np.float64)


def _knots(flat: np.ndarray, spread: str) -> np.ndarray:
    """Where the axes of a grid begin and end (2, K), with quantiles between if these are `even`."""
    if spread == "even":
        found: np.ndarray = np.quantile(flat, np.linspace(0, 1, KNOTS), axis=0).T
    else:
        found = np.quantile(flat, [TAIL, 1 - TAIL], axis=0).T
    slack = SLACK * (found[:, -1] - found[:, 0]) + 1e-9
    found[:, 0] -= slack
    found[:, -1] += slack
    return found
