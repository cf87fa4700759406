"""Pictures of orders: drift over ever more modules, a line with its band for each order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ablate.drift import MeasuredCell
from ablate.view.chart import Scale, capital
from ablate.view.curves import PLOT, SIDE, Line, Plot, draw_strip, draw_together, line_color
from ablate.view.measures import Measure
from ablate.view.svg import MARGIN, Canvas

HEAD = 84


def draw_orders(
    lines: Sequence[Line],
    cells: Mapping[str, MeasuredCell],
    measure: Measure,
    *,
    name: str,
    about: str,
    axis: str,
    notes: Sequence[str],
) -> str:
    """Draw lines over a logarithmic scale of counts, the images of each below.

    Args:
        lines: One for each order, of the same counts.
        cells: By key.
        measure: What is upward.
        name: The title.
        about: The finding, below it.
        axis: What is across.
        notes: Lines below the plot.
    """
    canvas = Canvas()
    top = canvas.paragraph(MARGIN, MARGIN + 66, about, 21, PLOT[0]) + HEAD
    counts = lines[0].strengths
    highest = max(line.highest() for line in lines) * 1.06 or 1.0
    scales = Scale(float(counts[-1]), float(counts[0]), "log"), Scale(highest, 0, "linear")
    plot = replace(Plot.at_corner(canvas, scales, MARGIN + 60, top, PLOT), ticks=counts.tolist())
    width, bottom = draw_together(plot, lines, measure)
    canvas.text(MARGIN, top - 32, capital(measure.words), 19, bold=True)
    canvas.text(plot.across.end, bottom, axis, 19, bold=True, anchor="end")
    for line in lines:
        draw_strip(plot, line, line_color(lines, line), cells, bottom + 34)
        bottom += SIDE + 14
    end = canvas.lines(MARGIN, bottom + 60, notes, 17, 26)
    return canvas.document(width, end + MARGIN - 26, label=f"{name}: {about}", name=name)
