"""Metrics against their definitions and known values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from ablate.drift.metrics import embedding_distance, rmse, score, ssim

RNG = np.random.default_rng(0)
IMAGE = RNG.random((32, 40, 3))


def test_rmse() -> None:
    assert rmse(IMAGE, IMAGE) == 0
    assert rmse(np.zeros_like(IMAGE), np.ones_like(IMAGE)) == 1
    assert rmse(IMAGE, IMAGE + 0.1) == pytest.approx(0.1)


def test_ssim_of_equal_images_is_one() -> None:
    assert ssim(IMAGE, IMAGE) == 1


def test_ssim_falls_as_noise_grows_and_ignores_little_brightness() -> None:
    smooth = np.broadcast_to(np.linspace(0, 1, 40)[None, :, None], (32, 40, 3)).copy()
    noise = RNG.standard_normal(smooth.shape)
    falling = [ssim(smooth, smooth + a * noise) for a in (0.01, 0.05, 0.2)]
    assert falling == sorted(falling, reverse=True)
    assert ssim(smooth, smooth + 0.02) > falling[1]


def test_ssim_is_the_mean_of_the_formula_over_windows() -> None:
    x, y = RNG.random((2, 13, 17))
    offsets = np.arange(11) - 5
    w = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 4.5)
    w /= w.sum()
    expected = []
    for top, left in itertools.product(range(3), range(7)):
        a, b = (i[top : top + 11, left : left + 11] for i in (x, y))
        mx, my = (w * a).sum(), (w * b).sum()
        vx, vy = (w * (a - mx) ** 2).sum(), (w * (b - my) ** 2).sum()
        cov = (w * (a - mx) * (b - my)).sum()
        value = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
        expected.append(value / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    gray = [np.repeat(i[:, :, None], 3, axis=2) for i in (x, y)]
    assert ssim(*gray) == pytest.approx(np.mean(expected))


def test_embeddings_are_compared_by_their_cosine() -> None:
    a, b = (v / np.linalg.norm(v) for v in RNG.standard_normal((2, 50)).astype(np.float32))
    assert embedding_distance(a, b) == pytest.approx(1 - float(a @ b), abs=1e-6)
    assert embedding_distance(a, a) == 0
    assert embedding_distance(a, -a) == pytest.approx(2)
    assert score(a, b) == pytest.approx(float(a @ b), abs=1e-6)
