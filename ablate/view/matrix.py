"""Pictures of pairs: a symmetric matrix of figures below and above zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ablate.drift import MeasuredCell
from ablate.style import HAIRLINE, INK, MUTED, PAGE, VACANT, Color, elide, ink_on, text_width
from ablate.view.architecture.roles import BLUE, ORANGE
from ablate.view.svg import MARGIN, Canvas

SIDES = (26.0, 74.0)  # of squares, the smallest and the largest
ROOM = 960.0  # of all squares together
READABLE = 40.0  # the smallest square with a figure
LABELS = 330.0  # the longest label
LEGEND = 320.0


@dataclass(frozen=True)
class Square:
    """A square of a matrix.

    Attributes:
        value: Its figure; None where there is none.
        cell: One of its images.
        sign: 1 or -1 where its figure differs from zero significantly.
    """

    value: float | None
    cell: MeasuredCell
    sign: int = 0


def draw_matrix(
    labels: Sequence[str],
    squares: Mapping[tuple[str, str], Square],
    *,
    name: str,
    about: str,
    words: tuple[str, str],
    notes: Sequence[str],
) -> str:
    """Draw a matrix; those of its diagonal have no color.

    Args:
        labels: Of rows and columns.
        squares: By row and column.
        name: The title.
        about: The finding, below it.
        words: What is below zero, and what is above.
        notes: Lines below the matrix.
    """
    canvas, side = Canvas(), min(max(ROOM / len(labels), SIDES[0]), SIDES[1])
    size = min(17.0, 0.45 * side + 4)
    short = [elide(label, size, LABELS, start=True) for label in labels]
    head = max(text_width(label, size, True) for label in short)
    left = MARGIN + head + 18
    width = left + max(side * len(labels), ROOM / 2) + 0.7 * head + MARGIN
    top = canvas.paragraph(MARGIN, MARGIN + 66, about, 21, width - 2 * MARGIN) + 0.72 * head + 50
    most = max((abs(s.value or 0) for (a, b), s in squares.items() if a != b), default=0) or 1.0
    framed = []
    for i, a in enumerate(labels):
        y = top + i * side
        canvas.text(left - 14, y + side / 2 + 5, short[i], size, anchor="end", bold=True)
        x = left + (i + 0.5) * side
        turned = f"rotate(-45 {x:.1f} {top - 12:.1f})"
        canvas.text(x, top - 12, short[i], size, bold=True, transform=turned)
        for j, b in enumerate(labels):
            square = squares.get((a, b))
            x = left + j * side
            value = square.value if square else None
            color = VACANT if a == b or value is None else mixed(value / most)
            facts = f"{a} and {b}" if a != b else f"{a} alone"
            facts += "" if value is None else f": {value:.3g}"
            with canvas.group(facts, data_cell=square.cell.key if square else None):
                canvas.rect(x, y, side, side, color, stroke=PAGE, stroke_width=1)
                if value is not None and side >= READABLE:
                    bold = bool(square and square.sign)
                    ink = MUTED if a == b else ink_on(color)
                    text = f"{value:.2f}" if a == b else signed(value)
                    canvas.text(x + side / 2, y + side / 2 + 5, text, min(15, 0.24 * side), ink,
                                anchor="middle", bold=bold)  # fmt: skip
            if square and square.sign:
                framed.append((x, y))
    for x, y in framed:  # on top of all
        canvas.rect(x + 2, y + 2, side - 4, side - 4, stroke=INK, stroke_width=1.6)
    bottom = top + side * len(labels) + 34
    _legend(canvas, most, words, left, bottom)
    end = canvas.lines(MARGIN, bottom + 96, notes, 16, 24)
    width = max(width, max(text_width(note, 16) for note in notes) + 2 * MARGIN)
    return canvas.document(width, end + MARGIN - 24, label=f"{name}: {about}", name=name)


def signed(value: float) -> str:
    """A difference with its sign, to two digits behind the point."""
    return f"{value:+.2f}".replace("-", "−") if abs(value) >= 0.005 else "0.00"


def mixed(share: float) -> Color:
    """From blue (-1) over paper (0) to orange (1)."""
    end, weight = (ORANGE if share > 0 else BLUE), min(abs(share), 1) ** 0.7
    red, green, blue = (
        round((1 - weight) * p + weight * e) for p, e in zip(PAGE, end, strict=True)
    )
    return red, green, blue


def _legend(canvas: Canvas, most: float, words: tuple[str, str], x: float, y: float) -> None:
    steps = 81
    for i in range(steps):
        share = 2 * i / (steps - 1) - 1
        canvas.rect(x + i * LEGEND / steps, y, LEGEND / steps + 0.5, 18, mixed(share))
    canvas.rect(x, y, LEGEND, 18, stroke=HAIRLINE)
    for share, anchor in ((-1, "start"), (0, "middle"), (1, "end")):
        place = x + (share + 1) / 2 * LEGEND
        text = signed(share * most) if share else "0"
        canvas.text(place, y + 38, text, 15, MUTED, anchor=anchor)
    canvas.text(x + LEGEND + 16, y + 15, f"{words[0]} (blue), {words[1]} (orange)", 15, MUTED)
