"""Pictures of findings: dots with their intervals, a row for each edit, and strips of images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from ablate.drift import MeasuredCell
from ablate.store import Run
from ablate.style import HAIRLINE, INK, MUTED, Color, clean, elide, text_width
from ablate.view.architecture.roles import BLUE, MARKS
from ablate.view.chart import Axis, Scale, rounded
from ablate.view.page import BASELINE, Block, PageText, Style, Tile, draw_pages, save_pages
from ablate.view.sheets import sampling_facts
from ablate.view.svg import MARGIN, Canvas

PLOT, HEAD = 760, 66
SIDE = 64.0  # of pictures
ROW, PLAIN = 76.0, 30.0  # heights of rows with pictures and without
LABELS = 420  # width of labels at most
MOST = 60  # rows that are drawn


@dataclass(frozen=True)
class Row:
    """A row of a drawing.

    Attributes:
        label: What it is about.
        values: A value for each seed, of those that have one.
        mean: Their mean; None where it is not known.
        interval: Its interval, if there is one.
        beyond: How many seeds have no value, as it is beyond the end of the scale.
        role: The role of the modules that it is about, if they have one in common.
        cells: Pictures, with what is written below them.
    """

    label: str
    values: Sequence[float]
    mean: float | None
    interval: tuple[float, float] | None = None
    beyond: int = 0
    role: str = ""
    cells: Sequence[tuple[str, MeasuredCell | None]] = ()


def draw_rows(
    rows: Sequence[Row],
    *,
    name: str,
    about: str,
    axis: str,
    ends: tuple[float, float],
    kind: Literal["linear", "log"] = "linear",
    notes: Sequence[str] = (),
) -> str:
    """Draw a dot, its interval and its pictures for each row; of many the first and the last.

    Args:
        rows: One at least.
        name: The title.
        about: The finding, below it.
        axis: What the values are.
        ends: Of the scale, on the left and on the right.
        kind: Of the scale.
        notes: Lines below the drawing.
    """
    left_out = len(rows) - MOST
    if left_out > 0:
        rows = [*rows[: MOST // 2], *rows[-(MOST // 2) :]]
        notes = [*notes, f"{left_out} rows between these are only in the table."]
    canvas = Canvas()
    roles = dict.fromkeys(row.role for row in rows)
    colors = {role: MARKS[role][0] if roles.keys() <= MARKS.keys() else BLUE for role in roles}
    labels = max(text_width(row.label, 17, True) for row in rows)
    start = MARGIN + min(labels, LABELS) + 28
    sides = (start, start + PLOT) if ends[0] <= ends[1] else (start + PLOT, start)
    across = Axis(Scale(max(ends), min(ends), kind), *sides)
    tall = any(row.cells for row in rows) and len(rows) <= 24
    height = ROW if tall else PLAIN
    if tall:
        pictures = start + PLOT + 70
        width = pictures + max(len(r.cells) for r in rows) * (SIDE + 34) + MARGIN - 34
    else:
        pictures, width = 0.0, start + PLOT + 60 + MARGIN
    top = canvas.paragraph(MARGIN, MARGIN + 66, about, 21, width - 2 * MARGIN) + HEAD
    bottom = top + height * len(rows)
    ticks = [(value, rounded(value)) for value in _ticks(across.scale)]
    across.draw_ticks(canvas, ticks, (top, bottom + 6), [bottom + 28], 16)
    canvas.text(start, top - 22, axis, 18, bold=True)
    for i, row in enumerate(rows):
        y = top + (i + 0.5) * height
        if i == MOST // 2 and left_out > 0:
            canvas.line([(MARGIN, y - height / 2), (start + PLOT, y - height / 2)], MUTED)
        _row(canvas, row, across, y, colors[row.role])
        for j, (words, cell) in enumerate(row.cells if tall else ()):
            x = pictures + j * (SIDE + 34)
            if i == 0:
                canvas.text(x, top - 22, words, 15, MUTED)
            if cell is None:
                continue
            with canvas.group(
                f"{cell.variant}, seed {cell.seed}: {cell.shows}", data_cell=cell.key
            ):
                image = cell.path if cell.state == "ok" else None
                canvas.cell(image, x, y - SIDE / 2, SIDE, baseline=3 * cell.is_baseline)
    end, x = canvas.lines(MARGIN, bottom + 66, notes, 16, 24), float(MARGIN)
    for role in roles if roles.keys() <= MARKS.keys() else ():
        canvas.circle(x + 6, end - 5, 6, colors[role])
        canvas.text(x + 20, end, role.replace("_", " "), 16, MUTED)
        x += text_width(role, 16) + 52
    return canvas.document(width, end + MARGIN, label=f"{name}: {about}", name=name)


def _ticks(scale: Scale) -> list[float]:
    """Round values of a scale; within few powers of ten those between them too."""
    values = scale.ticks(PLOT, 70)
    if scale.kind != "log" or len(values) > 4:
        return values
    steps = (m * 10.0**e for e in range(-6, 7) for m in (1, 2, 5))
    return [value for value in steps if scale.low <= value <= scale.top]


def _row(canvas: Canvas, row: Row, across: Axis, y: float, color: Color) -> None:
    """Draw a row of which `y` is the middle."""
    left, right = sorted((across.start, across.end))
    label = elide(row.label, 17, LABELS, start=True)
    canvas.text(left - 28, y + 6, label, 17, bold=True, anchor="end")
    canvas.line([(left, y), (right, y)], HAIRLINE)
    facts = row.label
    if row.mean is not None:
        facts += f": {row.mean:.3g}"
    if row.interval is not None:
        facts += f" ({row.interval[0]:.3g} to {row.interval[1]:.3g})"
    if row.beyond:
        facts += f", {row.beyond} beyond"
    with canvas.group(facts):
        if row.interval is not None and all(map(math.isfinite, row.interval)):
            canvas.line([(across.at(end), y) for end in row.interval], color, 3)
        for value in row.values:
            canvas.circle(across.at(value), y + 11, 3.5, color, opacity=0.6)
        if row.beyond:
            canvas.arrow((right + 6, y), (right + 26, y))
            if row.beyond > 1:
                canvas.text(right + 32, y + 5, f"{row.beyond}", 15, MUTED)
        if row.mean is not None:
            canvas.circle(across.at(row.mean), y, 6.5, color, stroke=INK, stroke_width=1)


@dataclass(frozen=True)
class Strip:
    """A row of a sheet.

    Attributes:
        title: That of the table that it is in, with the strips beside it that have the same.
        label: Its label.
        cells: Its cells with what is written below each.
    """

    title: str
    label: str
    cells: Sequence[tuple[MeasuredCell | None, str]]


def save_strips(run: Run, heads: Sequence[str], strips: Sequence[Strip], about: str) -> list[Path]:
    """Write the pages of a sheet of these rows into the run's folder, in place of its sheet."""
    manifest = run.manifest()
    sizes = {cell.image().size for strip in strips for cell, _ in strip.cells if cell}
    blocks = [
        Block(
            [[_tile(cell, words) for cell, words in strip.cells] for strip in table],
            title,
            heads=[BASELINE if head == "baseline" else ((clean(head), MUTED),) for head in heads],
            sides=[((clean(strip.label), INK),) for strip in table],
        )
        for title, group in groupby(strips, key=lambda strip: clean(strip.title))
        if (table := list(group))
    ]
    facts = [str(manifest["model"]["id"]), *sampling_facts(manifest["sampling"])]
    text = PageText(clean(str(manifest["name"])), clean(about), facts=facts)
    style = Style.fitting(sizes, len(strips) * len(heads) > 100)
    return save_pages(draw_pages(text, blocks, style, flowing=False), run.folder, "sheet")


def _tile(cell: MeasuredCell | None, words: str) -> Tile | None:
    if cell is None:
        return None
    return Tile(cell.image, cell.state != "ok", ((clean(words), MUTED),), cell.is_baseline)
