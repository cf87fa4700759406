"""Layouts: vectors in two dimensions and on a grid."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ablate.drift import projection
from ablate.units.atlas import layout
from ablate.units.atlas.layout import Layout, LayoutError, fit


def vectors(count: int = 900, units: int = 12) -> np.ndarray:
    """Vectors about a mean, that vary most along few directions."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(units, units)) * np.geomspace(4, 0.1, units)[:, None]
    values: np.ndarray = (rng.normal(size=(count, units)) @ mixing + 3).astype(np.float32)
    return values


def groups() -> tuple[np.ndarray, np.ndarray]:
    """Sixteen heaps of vectors far apart, and the heap of each."""
    rng = np.random.default_rng(1)
    heap = np.arange(800) % 16
    middles = rng.normal(size=(16, 24)) * 5
    return (middles[heap] + rng.normal(size=(800, 24)) * 0.5).astype(np.float32), heap


def parts(values: np.ndarray, size: int = 128) -> Callable[[], Iterator[np.ndarray]]:
    return lambda: (values[i : i + size] for i in range(0, len(values), size))


@pytest.mark.parametrize("widest", [2048, 4])  # by the covariance, and by iteration
def test_components_are_those_of_all_vectors_at_once(
    widest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(projection, "WIDEST", widest)
    values = vectors()
    fitted = fit(parts(values), "pca")
    centered = values.astype(np.float64) - values.mean(0, dtype=np.float64)
    _, singular, right = np.linalg.svd(centered, full_matrices=False)
    signs = np.sign(right[np.arange(12), np.abs(right).argmax(1)])
    np.testing.assert_allclose(fitted.mean, values.mean(0, dtype=np.float64))
    np.testing.assert_allclose(fitted.variance[:4], (singular**2 / 900)[:4], rtol=1e-6)
    np.testing.assert_allclose(fitted.basis[:4], (right * signs[:, None])[:4], atol=1e-5)
    assert fitted.total == pytest.approx((singular**2).sum() / 900)
    flat = centered @ (right * signs[:, None])[:2].T
    np.testing.assert_allclose(fitted.plane(values), flat, atol=1e-4)


def test_even_axes_fill_rows_and_columns_alike() -> None:
    values = vectors()
    values[:20, :] *= 20  # far outliers
    of = fit(parts(values), "pca").bins(values, 5, 4)
    assert of.min() >= 0
    assert np.bincount(of // 4, minlength=5).tolist() == pytest.approx([180] * 5, abs=6)
    assert np.bincount(of % 4, minlength=4).tolist() == pytest.approx([225] * 4, abs=6)


def test_bins_are_counted_from_the_top_left() -> None:
    """Up is the second axis, right the first."""
    values = vectors()
    fitted = fit(parts(values), "pca")
    fitted = replace(fitted, knots=fitted.knots[:, [0, -1]])  # linear
    low, high = fitted.knots.T
    spots = np.array([[0.1, 0.9], [0.9, 0.9], [0.1, 0.1], [0.9, 0.1], [0.9, -0.1]])
    given = fitted.mean + (low + spots * (high - low)) @ fitted.basis[:2]
    assert fitted.bins(given, 4, 3).tolist() == [0, 2, 9, 11, -1]
    assert fitted.bins(np.full((1, 12), np.nan), 4, 3).tolist() == [-1]


def test_a_map_organizes_itself() -> None:
    """Each heap has separate bins, near to one another, and the map is filled."""
    values, heap = groups()
    fitted = fit(parts(values), "som", rows=7, columns=7)
    of = fitted.bins(values, 7, 7)
    assert of.min() >= 0
    assert len(np.unique(of)) >= 20
    most = [np.bincount(heap[of == n]).max() for n in np.unique(of)]
    assert sum(most) > 0.97 * 800
    places = np.stack([of // 7, of % 7], 1)
    within = np.mean([places[heap == h].std(0).mean() for h in range(16)])
    assert within < 0.5 * places.std(0).mean()
    assert fitted.bins(values + 100, 7, 7).max() == -1  # like none of these
    again = fit(parts(values, 50), "som", rows=7, columns=7)
    assert (again.bins(values, 7, 7) == of).all()


def test_neighbors_on_a_map_are_next_to_one_another() -> None:
    """Of a curved sheet in six dimensions few vectors have their second-best bin farther away."""
    rng = np.random.default_rng(0)
    u, v = rng.random((2, 2000)) * 3
    sheet = [np.cos(u) * v, np.sin(u) * v, np.cos(2 * v), np.sin(u + v)]
    points = np.stack([*sheet, *(0.3 * rng.standard_normal((2, 2000)))], 1)
    fitted = fit(parts(points), "som", rows=10, columns=10)
    components = (points - fitted.mean) @ fitted.basis.T
    distances = np.linalg.norm(components[:, None] - fitted.anchors, axis=2)
    best, second = np.argsort(distances, axis=1)[:, :2].T
    steps = np.abs(fitted.places[best] - fitted.places[second]).max(1)
    assert np.mean(steps > 1.5) < 0.06


def test_umap_has_the_settings_of_carter(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake UMAP: some vectors are fitted, the others are among those that they are like."""
    asked = {}

    class FakeUmap:
        def __init__(self, **settings: object) -> None:
            asked.update(settings)

        def fit_transform(self, points: np.ndarray) -> np.ndarray:
            asked["points"] = points
            return points[:, :2] * [3, 1]

    monkeypatch.setitem(sys.modules, "umap", type("umap", (), {"UMAP": FakeUmap}))
    monkeypatch.setattr(layout, "FITTED", 400)
    values, heap = groups()
    fitted = fit(parts(values), "umap")
    assert (asked["n_neighbors"], asked["metric"], asked["min_dist"]) == (20, "cosine", 0.01)
    points = np.asarray(asked["points"])
    assert points.shape == (400, 24)
    np.testing.assert_allclose(np.linalg.norm(points, axis=1), 1, rtol=1e-5)
    flat = fitted.plane(values)
    for h in range(16):
        assert flat[heap == h].std(0).max() < 0.1
    assert np.isnan(fitted.plane(fitted.mean - 50 * (values[:1] - fitted.mean))).all()


def test_impossible_layouts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    values = vectors(50)
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(LayoutError, match=r"umap-learn.*pip install ablate\[umap\]"):
        fit(parts(values), "umap")
    with pytest.raises(LayoutError, match="no layout by `tsne`; choose one of pca, som, umap"):
        fit(parts(values), "tsne")
    with pytest.raises(LayoutError, match="three vectors or more, there are 2"):
        fit(parts(values[:2]), "pca")
    alone = fit(parts(np.ones((9, 1), np.float32)), "pca")  # one unit that never varies
    assert alone.bins(np.ones((2, 1)), 3, 3).min() >= 0


@pytest.mark.parametrize("method", ["pca", "som"])
def test_a_layout_is_saved_and_loaded(method: str, tmp_path: Path) -> None:
    values = vectors(300)
    fitted = fit(parts(values), method, rows=4, columns=4)
    fitted.save(tmp_path / "layout.npz", "this")
    again = Layout.load(tmp_path / "layout.npz", "this")
    assert again is not None
    assert (again.bins(values, 4, 4) == fitted.bins(values, 4, 4)).all()
    assert Layout.load(tmp_path / "layout.npz", "that") is None
    assert [path.name for path in tmp_path.iterdir()] == ["layout.npz"]
    changed = dict(np.load(tmp_path / "layout.npz")) | {"numbers": np.array([1, 2**30, 1])}
    np.savez(tmp_path / "layout.npz", **changed)  # under the digest of the former
    assert Layout.load(tmp_path / "layout.npz", "this") is None
    (tmp_path / "layout.npz").write_bytes(b"PK\x03\x04")
    assert Layout.load(tmp_path / "layout.npz", "this") is None


def test_whitened_directions_leave_out_what_always_varies() -> None:
    values = vectors(2000)
    fitted = fit(parts(values), "pca")
    both = fitted.basis[0] + fitted.basis[6]
    white = fitted.whitened(both[None])[0]
    assert np.linalg.norm(white) == pytest.approx(1)
    assert white @ fitted.basis[6] > 5 * (white @ fitted.basis[0]) > 0
