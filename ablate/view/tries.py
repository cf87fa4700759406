"""Pictures of searches: the score of each variant that was tried, and the best of generations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ablate.drift import MeasuredCell
from ablate.style import HAIRLINE, INK, MUTED, PAGE, fit_lines
from ablate.view.architecture.roles import BLUE
from ablate.view.chart import Axis, Scale, rounded
from ablate.view.svg import MARGIN, Canvas

WIDE, HIGH = 1120, 440  # the plot
SIDE, STEP = 84.0, 128.0  # of pictures below it, and from one to the next
HEAD = 84


@dataclass(frozen=True)
class Try:
    """A variant that was tried.

    Attributes:
        generation: When, from 1.
        score: How near it comes to the goal, the larger the nearer; None where it is none that the
            goal allows.
        label: What it is.
        cell: One of its cells.
    """

    generation: int
    score: float | None
    label: str
    cell: MeasuredCell


def draw_tries(
    tries: Sequence[Try], *, name: str, about: str, axis: str, notes: Sequence[str]
) -> str:
    """Draw the scores of variants in the order in which they were tried; one at least.

    Args:
        name: The title.
        about: The finding, below it.
        axis: What the score is.
        notes: Lines below the drawing.
    """
    canvas = Canvas()
    width = WIDE + 2 * MARGIN + 60
    top = canvas.paragraph(MARGIN, MARGIN + 66, about, 21, width - 2 * MARGIN) + HEAD
    known = [t.score for t in tries if t.score is not None] or [0.0]
    room = (max(known) - min(known)) * 0.06 or 0.5
    low = min(known) - room if min(known) < 0 or min(known) > 0.5 * max(known) else 0.0
    up = Axis(Scale(max(known) + room, low, "linear"), top + HIGH, top)
    across = Axis(Scale(len(tries), 0.0, "linear"), MARGIN + 60, MARGIN + 60 + WIDE)
    canvas.text(MARGIN, top - 24, axis, 18, bold=True)
    for value in up.scale.ticks(HIGH, 60):
        y = up.at(value)
        canvas.line([(across.start, y), (across.end, y)], HAIRLINE)
        canvas.text(across.start - 12, y + 5, rounded(value), 15, MUTED, anchor="end")
    best: list[tuple[float, float]] = []
    bests: dict[int, tuple[int, Try]] = {}
    for i, tried in enumerate(tries):
        x = across.at(i + 0.5)
        y = top + HIGH if tried.score is None else up.at(tried.score)
        first = i == 0 or tries[i - 1].generation != tried.generation
        if first and i:
            canvas.line([(across.at(i), top), (across.at(i), top + HIGH)], HAIRLINE)
        if tried.score is not None:
            reached = best[-1][1] if best else y
            best += [(x, reached), (x, min(y, reached))]
        if tried.score is not None and (
            tried.generation not in bests or tried.score > (bests[tried.generation][1].score or 0)
        ):
            bests[tried.generation] = i, tried
        score = "none that the goal allows" if tried.score is None else f"{tried.score:.3g}"
        with canvas.group(f"{tried.label}: {score}", data_cell=tried.cell.key):
            fill = PAGE if tried.score is None else BLUE
            canvas.circle(x, y, 4.5, fill, stroke=BLUE, stroke_width=1.2)
    if best:
        canvas.line([*best, (across.end, best[-1][1])], INK, 1.6)
    bottom = top + HIGH + 34
    end = _pictures(canvas, bests, across, bottom)
    end = canvas.lines(MARGIN, end + 30, notes, 16, 24)
    return canvas.document(width, end + MARGIN - 24, label=f"{name}: {about}", name=name)


def _pictures(canvas: Canvas, bests: dict[int, tuple[int, Try]], across: Axis, y: float) -> float:
    """Draw the best of each generation below its place, or where there is room next to it."""
    x = -1e9
    for generation, (i, tried) in bests.items():
        x = max(across.at(i + 0.5) - SIDE / 2, x + STEP)
        if x + STEP > across.end + 80:
            break
        with canvas.group(f"{tried.label}, {tried.cell.shows}", data_cell=tried.cell.key):
            canvas.cell(tried.cell.path if tried.cell.state == "ok" else None, x, y, SIDE)
        lines = [f"generation {generation}", *fit_lines(tried.label, 13, STEP - 8, 4)]
        canvas.lines(x, y + SIDE + 18, lines, 13, 17)
    return y + SIDE + 18 + 5 * 17
