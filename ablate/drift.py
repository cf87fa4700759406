"""Drift: how far each cell lies from the baseline of its own condition.

Reads the store alone; `drift.csv` can be written again without a network.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from ablate.store import Run, StoredCell

METRICS = ("rmse", "ssim")


@dataclass(frozen=True)
class MeasuredCell(StoredCell):
    """A finished cell with its drift by metric. NaN cells have no drift."""

    state: str = "ok"
    drift: Mapping[str, float] = field(default_factory=dict)


def rmse(image: np.ndarray, baseline: np.ndarray) -> float:
    """Root mean square difference of two images in [0, 1], shape (height, width, 3)."""
    return float(np.sqrt(np.mean((image - baseline) ** 2)))


def ssim(image: np.ndarray, baseline: np.ndarray) -> float:
    """Structural similarity of the luma of two images in [0, 1], shape (height, width, 3).

    Mean over windows of 11 × 11 with Gaussian weights of 1.5 pixels, as Wang et al. 2004 (Image
    quality assessment: from error visibility to structural similarity, eq. 13). 1 is equal.
    """
    x, y = (i @ np.array([0.299, 0.587, 0.114]) for i in (image, baseline))
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x = _blurred(x * x) - mean_x**2
    var_y = _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return float(np.mean(luminance * (2 * covariance + c2) / (var_x + var_y + c2)))


def _blurred(plane: np.ndarray) -> np.ndarray:
    """Gaussian means over all windows that lie wholly inside the plane."""
    offsets = np.arange(11) - 5
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()
    for axis in (0, 1):
        length = plane.shape[axis] - 10
        plane = sum(
            w * np.take(plane, np.arange(i, i + length), axis=axis) for i, w in enumerate(weights)
        )
    return plane


def measure(run: Run) -> list[MeasuredCell]:
    """All finished cells of a run with their drift, in plan order."""
    baselines: dict[str, np.ndarray | None] = {}

    def pixels(image: Image.Image) -> np.ndarray:
        return np.asarray(image, dtype=np.float64) / 255

    found = []
    for cell in run.cells():
        if not cell.done:
            continue
        if cell.baseline not in baselines:
            path = run.path(cell.baseline)
            with_it = path.exists()
            baselines[cell.baseline] = pixels(Image.open(path).convert("RGB")) if with_it else None
        baseline = baselines[cell.baseline]
        state = str(cell.record()["state"])
        drift: dict[str, float] = {}
        if state == "ok" and baseline is not None:
            image = pixels(cell.image())
            drift = {"rmse": rmse(image, baseline), "ssim": ssim(image, baseline)}
        found.append(MeasuredCell(**vars(cell), state=state, drift=drift))
    return found


def write(run: Run, cells: list[MeasuredCell] | None = None) -> list[MeasuredCell]:
    """Write `drift.csv`: a row a finished cell, with all axis values and its drift."""
    measured = measure(run) if cells is None else cells
    axes = [a.name for a in run.axes() if a.name not in ("prompt", "seed")]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["cell", "variant", "prompt", "seed", *axes, "state", *METRICS])
    for cell in measured:
        table.writerow([
            cell.path.name, cell.variant, cell.prompt, cell.seed,
            *(cell.axes.get(a, "") for a in axes), cell.state,
            *(f"{cell.drift[m]:.6f}" if m in cell.drift else "" for m in METRICS),
        ])  # fmt: skip
    run.write_text("drift.csv", text.getvalue())
    return measured
