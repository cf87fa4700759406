"""Metrics: distances of two images, latents or embeddings.

To add one, write its function here, compute it in `images.Features.distances`, and name it in
`images.DISTANCES`; tables, effects, sheets and reports follow.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

Value = TypeVar("Value", float, np.ndarray)
WINDOW = 11  # pixels of a side of SSIM; smaller images have no SSIM


def rmse(image: np.ndarray, baseline: np.ndarray) -> float:
    """Root mean square difference of two arrays of one shape: images in [0, 1], or latents."""
    return float(np.sqrt(np.mean((image - baseline) ** 2)))


def ssim(image: np.ndarray, baseline: np.ndarray) -> float:
    """Structural similarity of the luma of two images in [0, 1], shape (height, width, 3).

    Mean over windows of 11 × 11 with Gaussian weights of 1.5 pixels, as Wang et al. 2004 (Image
    quality assessment: from error visibility to structural similarity, eq. 13). 1 is equal.
    """
    return Luma(image).similarity(Luma(baseline))


class Luma:
    """The luma of an image in [0, 1], shape (height, width, 3), ready for many comparisons."""

    def __init__(self, image: np.ndarray) -> None:
        self.plane = image @ np.array([0.299, 0.587, 0.114])
        self.mean = _blurred(self.plane)
        self.variance = _blurred(self.plane * self.plane) - self.mean**2

    def similarity(self, other: Luma) -> float:
        """See `ssim`."""
        covariance = _blurred(self.plane * other.plane) - self.mean * other.mean
        c1, c2 = 0.01**2, 0.03**2
        luminance = (2 * self.mean * other.mean + c1) / (self.mean**2 + other.mean**2 + c1)
        structure = (2 * covariance + c2) / (self.variance + other.variance + c2)
        return float(np.mean(luminance * structure))


def _blurred(plane: np.ndarray) -> np.ndarray:
    """Gaussian means over all windows that are wholly inside the plane."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    for _ in (0, 1):  # down the columns, then along the rows
        length = plane.shape[0] - (WINDOW - 1)
        sums = np.zeros((length, plane.shape[1]))
        for i, weight in enumerate(weights):
            sums += weight * plane[i : i + length]
        plane = np.ascontiguousarray(sums.T)
    return plane


def embedding_distance(embedding: np.ndarray, baseline: np.ndarray) -> float:
    """1 - cosine of two unit vectors, exactly 0 for equal ones."""
    return float(((embedding.astype(np.float64) - baseline) ** 2).sum() / 2)


def judged(metric: str, distance: Value) -> Value:
    """A distance by a metric (`1 - ssim` for `ssim`), or an array of them, on the scale of floors.

    There all metrics are distances, so that one verdict is as strict as another: of the angle
    between embeddings the chord, √(2 (1 − cosine)), and of structural similarity √(1 − SSIM)
    (Brunet et al. 2012, On the mathematical properties of the structural similarity index).
    1 − cosine and 1 − SSIM grow with their squares.
    """
    name = "embedding" if metric.startswith("embedding_") else metric  # by a further reader
    factor = {"embedding": 2.0, "ssim": 1.0}.get(name)
    if factor is None:
        return distance
    root: Value = np.sqrt(np.maximum(factor * distance, 0))  # SSIM may be beyond 1 by rounding
    return root


def score(image: np.ndarray, text: np.ndarray) -> float:
    """Cosine of the unit vectors of an image and of a text.

    As CLIPScore of Hessel et al. 2021 (CLIPScore: A reference-free evaluation metric for image
    captioning), without its factor of 2.5 and its floor at 0.
    """
    return float(image.astype(np.float64) @ text)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the probabilities (..., n) of logits (..., n)."""
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    probabilities: np.ndarray = odds / odds.sum(-1, keepdims=True)
    return probabilities
