"""Pictures of screens: what a score says of each part against what was measured."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablate.drift import MeasuredCell
from ablate.style import HAIRLINE, INK, MUTED, PAGE, elide, text_width
from ablate.view.architecture.roles import BLUE, MARKS
from ablate.view.chart import Axis, Labels, Scale, rounded
from ablate.view.svg import MARGIN, Canvas

WIDE, HIGH = 1080, 620
HEAD = 84
SPAN = 1e-4  # of the largest value, the smallest that has a place of its own
LABELED = 14  # dots with a label at most
SIDE, STEP = 84.0, 136.0  # of pictures below, and from one to the next


@dataclass(frozen=True)
class Dot:
    """A part.

    Attributes:
        label: Its name.
        score: What the score says.
        drift: What was measured; None where nothing was.
        interval: Of the drift.
        chosen: Whether it was measured because of its score, not by chance.
        role: The role of its modules, if they have one in common.
        cell: One of its images.
    """

    label: str
    score: float
    drift: float | None = None
    interval: tuple[float, float] | None = None
    chosen: bool = False
    role: str = ""
    cell: MeasuredCell | None = None


def draw_scatter(
    dots: Sequence[Dot], *, name: str, about: str, axes: tuple[str, str], notes: Sequence[str]
) -> str:
    """Draw measured parts as dots, the others as ticks below; images of those farthest.

    Args:
        dots: The parts, one of them measured at least.
        name: The title.
        about: The finding, below it.
        axes: What is across and what is up.
        notes: Lines below the plot.
    """
    canvas, measured = Canvas(), [dot for dot in dots if dot.drift is not None]
    roles = dict.fromkeys(dot.role for dot in measured)
    named = roles.keys() <= MARKS.keys()
    colors = {role: MARKS[role][0] if named else BLUE for role in roles}
    left = MARGIN + 70
    width = left + WIDE + MARGIN
    top = canvas.paragraph(MARGIN, MARGIN + 66, about, 21, width - 2 * MARGIN) + HEAD
    bottom = top + HIGH
    across = Axis(_scale([dot.score for dot in dots]), left, left + WIDE)
    up = Axis(_scale([_height(dot) for dot in measured]), bottom, top)
    for value in up.scale.ticks(HIGH):
        y = up.at(value)
        canvas.line([(left, y), (left + WIDE, y)], HAIRLINE)
        canvas.text(left - 12, y + 6, f"{value:.2g}", 16, MUTED, anchor="end")
    ticks = [(value, rounded(value)) for value in across.scale.ticks(WIDE)]
    across.draw_ticks(canvas, ticks, (top, bottom + 14), [bottom + 36], 16)
    canvas.line([(left, bottom), (left + WIDE, bottom)])
    canvas.text(MARGIN, top - 24, axes[1], 18, bold=True)
    canvas.text(left + WIDE, bottom + 64, axes[0], 18, bold=True, anchor="end")
    for dot in dots:
        if dot.drift is None:
            x = across.at(dot.score)
            with canvas.group(f"{dot.label}: score {dot.score:.3g}, not measured"):
                canvas.line([(x, bottom + 2), (x, bottom + 12)], MUTED, 1, opacity=0.6)
    labels = Labels()
    for dot in sorted(measured, key=lambda dot: dot.chosen):
        x, y = across.at(dot.score), up.at(_height(dot))
        labels.take((x, y), (8, 8))
        color = colors[dot.role]
        facts = f"{dot.label}: score {dot.score:.3g}, drift {dot.drift:.3g}"
        with canvas.group(facts, data_cell=dot.cell.key if dot.cell else None):
            if dot.interval is not None and all(map(math.isfinite, dot.interval)):
                canvas.line([(x, up.at(end)) for end in dot.interval], color, 1.5, opacity=0.5)
            ring = INK if dot.chosen else color
            canvas.circle(x, y, 6.5, color if dot.chosen else PAGE, stroke=ring, stroke_width=2)
    farthest = sorted(measured, key=lambda dot: -_height(dot))[:LABELED]
    box = (left, top - 10, left + WIDE + 40, bottom)
    for dot in farthest:
        label = elide(dot.label, 14, 380, start=True)
        half = text_width(label, 14) / 2
        x, y = across.at(dot.score), up.at(_height(dot))
        spots = [(x - half - 16, y), (x + half + 16, y), (x, y - 20), (x, y + 20)]
        if spot := labels.place(spots, (half + 2, 9), box):
            canvas.text(spot[0], spot[1] + 5, label, 14, anchor="middle", halo=3)
    end = canvas.lines(MARGIN, bottom + 104, notes, 16, 24)
    end = _legend(canvas, [role for role in roles if named and role], end + 10, width)
    shown = [dot for dot in farthest if dot.cell is not None]
    end += 20
    for i, dot in enumerate(shown[: int((width - 2 * MARGIN + STEP - SIDE) // STEP)]):
        x = MARGIN + i * STEP
        assert dot.cell is not None
        with canvas.group(dot.label, data_cell=dot.cell.key):
            canvas.cell(dot.cell.path if dot.cell.state == "ok" else None, x, end, SIDE)
        canvas.text(x, end + SIDE + 20, elide(dot.label, 13, STEP - 10, start=True), 13, MUTED)
    return canvas.document(width, end + SIDE + 30 + MARGIN, label=f"{name}: {about}", name=name)


def _height(dot: Dot) -> float:
    """How far up a dot is; where NaN arose, beyond all others."""
    assert dot.drift is not None
    return dot.drift


def _scale(values: Sequence[float]) -> Scale:
    """A logarithmic scale of values, of which those next to zero are at its lower end."""
    finite = [value for value in values if math.isfinite(value)]
    top = max(finite, default=1.0) or 1.0
    low = min((value for value in finite if value > top * SPAN), default=top * SPAN)
    return Scale(top * 1.15, low / 1.15, "log")


def _legend(canvas: Canvas, roles: Sequence[str], y: float, width: float) -> float:
    """The roles with their colors, in lines; return where the next would be."""
    x = float(MARGIN)
    for role in roles:
        words = role.replace("_", " ")
        room = text_width(words, 16) + 52
        if x + room > width - MARGIN:
            x, y = float(MARGIN), y + 26
        canvas.circle(x + 6, y - 5, 6, MARKS[role][0])
        canvas.text(x + 20, y, words, 16, MUTED)
        x += room
    return y + 26 if roles else y
