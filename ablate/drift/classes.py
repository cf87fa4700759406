"""Classes of drifted pictures, by rules that can be read and checked.

In this order, for a cell whose baseline shows the concept C (the likeliest one of its picture):

1. `noise`: C is lost, texture reaches the border (at least `BORDER` of the squares along it vary),
   and the picture is nothing like the baseline (an embedding distance above `UNLIKE`); or nothing
   varies anywhere.
2. `intact`: hardly a pixel changed (RMSE below `NEAR`), nor did the embedding (distance below
   `SAME`).
3. `altered`: C is still among the three likeliest concepts, with a probability of `KEPT` or more.
4. `other concept`: another one has a probability of `SURE` or more.
5. `structure without concept`: everything else.

A cell at a point between prompts that is a baseline itself has no concept to keep: rules 1, 4 and
5 remain. The thresholds were chosen on 100 labeled cells of the bundled model and checked on 100
others, `tests/data/labels.csv`. Probabilities and squares carry over to other models; `UNLIKE` and
`SAME` are distances of the bundled CLIP model, and should be checked again with another one.
"""

from __future__ import annotations

import numpy as np

from ablate.drift.measure import MeasuredCell

CLASSES = ("intact", "altered", "other concept", "structure without concept", "noise")
SQUARE = 1 / 8  # side of a square, as a share of the side of the picture
VARIES = 0.05  # standard deviation of a square, of color values in [0, 1], that is texture
BORDER = 1 / 3
NEAR, SAME, UNLIKE = 0.1, 0.01, 0.75
KEPT, SURE = 0.1, 0.98


def classify(cell: MeasuredCell, image: np.ndarray, baseline: MeasuredCell | None) -> str:
    """The class of a cell, one of `CLASSES`, or empty without a CLIP model.

    Args:
        cell: The measured cell.
        image: Its image in [0, 1], shape (height, width, 3).
        baseline: Its measured baseline; None where the cell is a baseline itself.
    """
    if not cell.concepts:
        return ""
    if baseline is None and not cell.point:
        return "intact"
    asked = baseline.concepts[0][0] if baseline and baseline.concepts else None
    kept = dict(cell.concepts).get(asked or "", 0.0)
    texture = _texture(image)
    border = np.concatenate([texture[0], texture[-1], texture[1:-1, 0], texture[1:-1, -1]])
    unlike = cell.drift.get("embedding", 1.0) > UNLIKE or asked is None
    if not texture.any() or (kept < KEPT and unlike and border.mean() >= BORDER):
        return "noise"
    if asked and cell.drift["rmse"] < NEAR and cell.drift["embedding"] < SAME:
        return "intact"
    if kept >= KEPT:
        return "altered"
    return "other concept" if cell.concepts[0][1] >= SURE else "structure without concept"


def _texture(image: np.ndarray) -> np.ndarray:
    """Which squares of a picture vary, shape (8, 8); colors count together."""
    count = round(1 / SQUARE)
    height, width = (length // count for length in image.shape[:2])
    cut = image[: count * height, : count * width]
    squares = cut.reshape(count, height, count, width, 3)
    varies: np.ndarray = np.sqrt(squares.var(axis=(1, 3)).mean(-1)) > VARIES
    return varies
