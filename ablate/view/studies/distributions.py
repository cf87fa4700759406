"""Class selectivity by layer: how the units of every layer are spread, and how by chance.

A layer has a row, in network order: the density of its units' class selectivity (Leavitt and
Morcos 2020, Selectivity considered harmful) over what the same units have where the labels of the
samples are shuffled, which is what no selectivity at all looks like with so many samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ablate.store import Study, footer, read_study, read_table, shortened
from ablate.style import HAIRLINE, INK, MUTED, PAGE, Color, elide, elide_path, ramp, text_width
from ablate.view.chart import Axis, Scale
from ablate.view.errors import PictureError
from ablate.view.svg import MARGIN, Canvas, Point

HEAD = 178
BODY = (MARGIN - 10, MARGIN + HEAD - 84)  # upper left corner of what is below the header
WIDE = 760  # of the axis from 0 to 1
BINS = 100  # of the axis
SMOOTH = 1.6  # deviation of the kernel, in bins
FEW = 20  # units at least that have a density
DOTTED = 160  # units at most that are drawn one by one
SHARE = 95  # per cent of units by chance are below what counts as beyond chance
NAMED = 3  # concepts written at the end of a row
CONCEPTS = "concepts of the most selective units"
NONE = "no unit tells concepts apart"
ABOUT = "How much more each unit answers to one concept than to the others, by layer."
FILL, LINE = ramp(0.5), ramp(0.72)
COLUMNS = ("component", "module", "stage", "selectivity", "chance", "concept")  # of the table
NOTES = [
    "Class selectivity of a unit: (μ of its best concept − mean μ of the others) / their sum;"
    " 0: all concepts alike, 1: one concept alone (Leavitt & Morcos 2020)."
]
BY_CHANCE = [
    "Filled: density of a layer's units. Gray: the same with the samples' labels shuffled."
    " Each to its own peak. Vertical bar: median. Dots: single units.",
    f"Beyond chance: share of units above the {SHARE}th percentile by chance of their layer;"
    f" without any selectivity it would be {100 - SHARE} %.",
]
NO_CHANCE = [
    "Filled: density of a layer's units, to its own peak. Vertical bar: median. Dots: single"
    " units.",
    "By chance cannot be told with one sample a concept: shuffled labels deal out the same means.",
]


@dataclass(frozen=True)
class _Layer:
    """The units of a layer."""

    path: str  # of the module
    stage: str  # of the network
    values: np.ndarray  # selectivity, 0 ... 1, shape (units,)
    chance: np.ndarray  # the same by chance; empty where it is not known
    concepts: tuple[str, ...]  # that each unit answers to most

    @property
    def beyond(self) -> str:
        """The share of units above what 95 % of them stay below by chance."""
        if not len(self.chance):
            return "–"
        return f"{100 * np.mean(self.values > np.percentile(self.chance, SHARE)):.0f} %"

    def best(self) -> list[tuple[str, float]]:
        """The concepts of the most selective units, each once, with their selectivity.

        None of units that answer to all concepts alike, or to nothing.
        """
        best: dict[str, float] = {}
        for i in np.argsort(-self.values, kind="stable").tolist():
            if len(best) == NAMED or not self.values[i]:
                break
            best.setdefault(self.concepts[i], float(self.values[i]))
        return list(best.items())


def svg(folder: Path) -> str:
    """Draw the distribution of class selectivity by layer of a study.

    Raises:
        StoreError: The folder is no study, or its table of units is none.
        PictureError: It has no units.
    """
    study = read_study(folder)
    layers = list(_layers(folder / "units.csv"))
    if not layers:
        raise PictureError(f"{folder / 'units.csv'} lists no units")
    return _draw(study, layers)


def _layers(path: Path) -> Iterator[_Layer]:
    try:
        header, rows = read_table(path)
    except FileNotFoundError:
        raise PictureError(f"{path.parent} has no units.csv to draw from") from None
    lacking = [name for name in COLUMNS if name not in header]
    if lacking:
        raise PictureError(f"{path} has no column `{lacking[0]}`")
    at = [header.index(name) for name in COLUMNS]
    table: list[tuple[Any, ...]] = []
    for line, row in enumerate(rows, 2):
        figures = (_number(row[i], path, line) for i in at[3:5])
        table.append((*(row[i] for i in at[:3]), *figures, row[at[5]]))
    several = len({row[0] for row in table}) > 1
    for (component, module, stage), units in groupby(table, key=lambda row: row[:3]):
        finite = [row for row in units if math.isfinite(row[3])]
        if finite:
            chance = np.array([row[4] for row in finite])
            yield _Layer(
                f"{component}.{module}" if several else module,
                stage,
                np.array([row[3] for row in finite]).clip(0, 1),
                chance[:0] if np.isnan(chance).all() else np.nan_to_num(chance).clip(0, 1),
                tuple(row[5] for row in finite),
            )


def _number(text: str, path: Path, line: int) -> float:
    """A number of the table; NaN where there is none."""
    try:
        return float(text or "nan")
    except ValueError:
        raise PictureError(f"{path}: line {line}: `{text[:60]}` is no number") from None


@dataclass(frozen=True)
class _Grid:
    """The canvas, and where rows and columns are on it."""

    canvas: Canvas
    axis: Axis  # of the selectivity
    pitch: float  # height of a row
    size: float  # of its type

    @property
    def columns(self) -> tuple[float, float, float, float]:
        """Right ends of three columns of figures, and the left end of the concepts."""
        right = self.axis.end
        return right + 90, right + 178, right + 286, right + 322


def _draw(study: Study, layers: Sequence[_Layer]) -> str:
    pitch = float(np.clip(1500 / len(layers), 30, 92))
    size = 15.0 if pitch < 40 else 16.0
    groups = [list(group) for _, group in groupby(layers, key=lambda layer: layer.stage)]
    names = [shortened([layer.path for layer in group]) for group in groups]
    labels = [label for _, short in names for label in short]
    side = min(max(200, *(text_width(label, size) + 26 for label in labels)), 430)
    axis = Axis(Scale(1, 0, "linear"), MARGIN + side, MARGIN + side + WIDE)
    grid, measuring = (_Grid(Canvas(), axis, pitch, size) for _ in range(2))
    widths = (_concepts(measuring, layer, 0) for layer in layers)
    edge = grid.columns[3] + max(text_width(CONCEPTS, 15), *widths)
    y = float(MARGIN + HEAD)
    top = y - 26
    for group, (common, short) in zip(groups, names, strict=True):
        head = " · ".join(part for part in (group[0].stage, common) if part)
        if head:
            y += 22 if group is not groups[0] else 12
            grid.canvas.text(MARGIN, y, head, size, bold=True, halo=5)
            start = max(MARGIN + text_width(head, size, True) + 14, axis.start)
            grid.canvas.line([(start, y - 5), (edge, y - 5)], HAIRLINE)
            y += 16
        for layer, label in zip(group, short, strict=True):
            _row(grid, layer, label, side - 22, y)
            y += pitch
        y += 8
    canvas, ticks = Canvas(), [(i / 5, f"{i / 5:g}") for i in range(6)]
    axis.draw_ticks(canvas, ticks, (top, y), (top - 8, y + 20), 15)
    canvas.add(grid.canvas)
    _heads(canvas, grid, top)
    notes = NOTES + (BY_CHANCE if any(len(layer.chance) for layer in layers) else NO_CHANCE)
    bottom = canvas.lines(MARGIN, y + 72, footer(study.facts, notes), 15, 24)
    return canvas.document(
        max(edge + MARGIN, 1300), bottom + MARGIN - 30, name=study.name,
        about=study.about or ABOUT, label=f"Class selectivity by layer of {study.name}",
    )  # fmt: skip


def _heads(canvas: Canvas, grid: _Grid, top: float) -> None:
    one, two, three, four = grid.columns
    canvas.text(grid.axis.start, top - 34, "Class selectivity", 17, bold=True)
    for x, y, words in (
        (one, top - 8, "units"),
        (two, top - 8, "median"),
        (three, top - 25, "beyond"),
        (three, top - 8, "chance"),
    ):
        canvas.text(x, y, words, 15, MUTED, anchor="end")
    canvas.text(four, top - 8, CONCEPTS, 15, MUTED)


def _concepts(grid: _Grid, layer: _Layer, y: float) -> float:
    """Write the concepts of a layer's most selective units; return how wide they are."""
    start = x = grid.columns[3]
    best = layer.best()
    if not best:
        grid.canvas.text(x, y, NONE, grid.size, MUTED)
        return text_width(NONE, grid.size)
    for word, value in best:
        for words, size, color, gap in (
            (elide(word, grid.size, 150), grid.size, INK, 6),
            (f"{value:.2f}", 0.86 * grid.size, MUTED, 16),
        ):
            grid.canvas.text(x, y, words, size, color)
            x += text_width(words, size) + gap
    return x - 16 - start


def _row(grid: _Grid, layer: _Layer, label: str, room: float, y: float) -> None:
    """Draw a layer whose row begins at `y`."""
    canvas, axis, count = grid.canvas, grid.axis, len(layer.values)
    dotted = FEW <= count <= DOTTED
    strip = min(14.0, 0.26 * grid.pitch) if dotted else 0.0
    base = y + grid.pitch - 5 - strip
    tall = base - y - 2
    middle = base - 1 - 0.2 * grid.size if grid.pitch < 40 else base - 0.3 * tall
    median, chanced = float(np.median(layer.values)), len(layer.chance) > 0
    facts = f"{layer.path}\n{count:,} units, median {median:.3f}"
    if chanced:
        facts += f", by chance {float(np.median(layer.chance)):.3f}\n{layer.beyond} beyond chance"
    with canvas.group(facts):
        canvas.rect(MARGIN, y, WIDE, grid.pitch, PAGE, opacity=0)
        if count >= FEW:
            points = _density(grid, layer.values, base, tall)
            if chanced:
                by_chance = _density(grid, layer.chance, base, tall)
                _ridge(canvas, by_chance, base, HAIRLINE)
            _ridge(canvas, points, base, FILL, 0.8)
            canvas.line(points, LINE, 1.2)
            if chanced:
                canvas.line(by_chance, MUTED, 1, stroke_dasharray="2 3", opacity=0.8)
        canvas.line([(axis.start, base), (axis.end, base)], HAIRLINE)
        if dotted:
            _dots(grid, layer.values, base + 2, strip, 4, LINE)
        if count < FEW:
            size = min(9.0, tall / 3)
            for values, tone in ((layer.chance, HAIRLINE), (layer.values, LINE)):
                _dots(grid, values, base - 0.8 * tall, 0.75 * tall, size, tone)
        bar = [(axis.at(median), base - 0.55 * tall), (axis.at(median), base + strip)]
        canvas.line(bar, PAGE, 4.5)
        canvas.line(bar, INK, 2.2)
        canvas.text(MARGIN, middle, elide_path(label, grid.size, room), grid.size)
        figures = (f"{count:,}", f"{median:.2f}", layer.beyond)
        for x, words in zip(grid.columns, figures, strict=False):
            canvas.text(x, middle, words, grid.size, MUTED, anchor="end")
        _concepts(grid, layer, middle)


def _density(grid: _Grid, values: np.ndarray, base: float, tall: float) -> list[Point]:
    """The outline of the smoothed distribution of values, its peak `tall`, as far as it is seen.

    Mirrored at both ends of the axis; a peak at the one value where all are alike.
    """
    density = np.histogram(values, BINS + 1, (-0.5 / BINS, 1 + 0.5 / BINS))[0] / len(values)
    if np.ptp(values) >= 1e-9:
        kernel = np.exp(-((np.arange(-6, 7) / SMOOTH) ** 2) / 2)
        padded = np.pad(density, 6, "symmetric")
        density = np.convolve(padded, kernel / kernel.sum(), "valid")
    heights = density / density.max() * tall
    seen = np.flatnonzero(heights > 0.15)
    first, last = max(0, seen[0] - 1), min(BINS, seen[-1] + 1)
    return [(grid.axis.at(i / BINS), base - float(heights[i])) for i in range(first, last + 1)]


def _ridge(
    canvas: Canvas, points: Sequence[Point], base: float, fill: Color, opacity: float | None = None
) -> None:
    canvas.area([(points[0][0], base), *points, (points[-1][0], base)], fill, opacity)


def _dots(
    grid: _Grid, values: np.ndarray, top: float, tall: float, size: float, color: Color
) -> None:
    """Each unit as a dot, at heights that spread them; one path of points with round ends."""
    if not len(values):
        return
    golden = np.arange(len(values)) * 0.618034 % 1
    heights = top + size / 2 + golden * max(tall - size, 0)
    places = zip(values.tolist(), heights, strict=True)
    grid.canvas.element(
        "path", d="".join(f"M{grid.axis.at(x):.1f} {y:.1f}h0" for x, y in places), stroke=color,
        stroke_width=size, stroke_linecap="round", opacity=0.5 if color == LINE else None,
    )  # fmt: skip
