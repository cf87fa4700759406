"""Marks of roles: a color and a pattern each, distinct to any eye and on paper without color.

The colors are those of Okabe and Ito (2008, Color Universal Design), the yellow a little darker to
be seen on white, without the vermilion, which is too near the color of the baseline.
"""

from __future__ import annotations

from ablate.style import Color
from ablate.view.svg import Canvas

THICK = 4  # of a mark
BLUE, ORANGE, GREEN = (0, 114, 178), (230, 159, 0), (0, 158, 115)
PURPLE, SKY, YELLOW = (204, 121, 167), (86, 180, 233), (226, 212, 40)
BLACK, GRAY = (24, 24, 27), (190, 188, 184)
SOLID: tuple[int, ...] = ()
DASHES, DOTS = (10, 4), (3, 4)  # drawn and left out, of 66
# Kin share a color: a text embedding is what cross attention reads, time is what modulates.
MARKS: dict[str, tuple[Color, tuple[int, ...]]] = {
    "self_attention": (BLUE, SOLID),
    "cross_attention": (ORANGE, SOLID),
    "context_embedding": (ORANGE, DASHES),
    "joint_attention": (PURPLE, SOLID),
    "feed_forward": (GREEN, SOLID),
    "projection": (GREEN, DASHES),
    "time": (SKY, SOLID),
    "modulation": (SKY, DASHES),
    "input": (YELLOW, SOLID),
    "patch_embedding": (YELLOW, DASHES),
    "output": (YELLOW, DOTS),
    "resnet": (BLACK, SOLID),
    "downsample": (BLACK, DASHES),
    "upsample": (BLACK, DOTS),
    "norm": (GRAY, SOLID),
    "skip": (BLUE, DOTS),
    "embedding": (GRAY, DASHES),
    "other": (GRAY, DOTS),
}


def draw_mark(canvas: Canvas, role: str, x: float, y: float, width: float) -> None:
    """Draw the mark of a role, or of `other` for unknown ones; its upper left corner is at x, y."""
    color, pattern = MARKS.get(role, MARKS["other"])
    dashes = " ".join(f"{length * width / 66:.2f}" for length in pattern)
    canvas.element(
        "path", d=f"M{x:.1f} {y + THICK / 2:.1f}h{width:.1f}", stroke=color, stroke_width=THICK,
        stroke_dasharray=dashes or None, data_role=role,
    )  # fmt: skip
