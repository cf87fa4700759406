"""Drift metrics against their definitions and known values."""

from __future__ import annotations

import numpy as np
import pytest

from ablate.drift import rmse, ssim

RNG = np.random.default_rng(0)
IMAGE = RNG.random((32, 40, 3))


def test_rmse() -> None:
    assert rmse(IMAGE, IMAGE) == 0
    assert rmse(np.zeros_like(IMAGE), np.ones_like(IMAGE)) == 1
    assert rmse(IMAGE, IMAGE + 0.1) == pytest.approx(0.1)


def test_ssim_of_equal_images_is_one() -> None:
    assert ssim(IMAGE, IMAGE) == pytest.approx(1)


def test_ssim_falls_as_noise_grows_and_ignores_little_brightness() -> None:
    smooth = np.broadcast_to(np.linspace(0, 1, 40)[None, :, None], (32, 40, 3)).copy()
    noise = RNG.standard_normal(smooth.shape)
    falling = [ssim(smooth, smooth + a * noise) for a in (0.01, 0.05, 0.2)]
    assert falling == sorted(falling, reverse=True)
    assert ssim(smooth, smooth + 0.02) > falling[1]


def test_ssim_of_one_window_is_the_formula() -> None:
    x, y = RNG.random((2, 11, 11))
    offsets = np.arange(11) - 5
    w = np.exp(-(offsets[:, None] ** 2 + offsets**2) / 4.5)
    w /= w.sum()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum()
    cov = (w * (x - mx) * (y - my)).sum()
    expected = (2 * mx * my + 1e-4) * (2 * cov + 9e-4)
    expected /= (mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)
    gray = [np.repeat(i[:, :, None], 3, axis=2) for i in (x, y)]
    assert ssim(*gray) == pytest.approx(expected)
