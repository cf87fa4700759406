"""Class selectivity by layer: how the units of every layer are spread, and how by chance.

A layer has a row, in network order: the density of its units' class selectivity (Leavitt and
Morcos 2020, Selectivity considered harmful) over what the same units have where the labels of the
samples are shuffled, which is what no selectivity at all looks like with so many samples.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ablate.store import Study, footer, read_study, shortened
from ablate.style import HAIRLINE, INK, MUTED, PAGE, Color
from ablate.view import svg as drawing
from ablate.view.errors import PictureError

MARGIN = 80
HEAD = 178
BODY = (MARGIN - 10, MARGIN + HEAD - 84)  # upper left corner of what is below the header
WIDE = 760  # of the axis from 0 to 1
BINS = 100  # of the axis
SMOOTH = 1.6  # deviation of the kernel, in bins
FEW = 20  # units at least that have a density
DOTTED = 160  # units at most that are drawn one by one
SHARE = 95  # per cent of units by chance lie below what counts as beyond chance
NAMED = 3  # concepts written at the end of a row
CONCEPTS = "concepts of the most selective units"
NONE = "no unit tells concepts apart"
ABOUT = "How much more each unit answers to one concept than to the others, by layer."
FILL, LINE = drawing.ramp(0.5), drawing.ramp(0.72)


@dataclass(frozen=True)
class _Layer:
    """The units of a layer, (units,): selectivity and the same by chance, in 0 to 1; `chance` is
    empty where it cannot be told."""

    path: str
    stage: str
    own: np.ndarray
    chance: np.ndarray
    concepts: tuple[str, ...]

    @property
    def beyond(self) -> str:
        """The share of units above what 95 % of them stay below by chance."""
        if not len(self.chance):
            return "–"
        return f"{100 * np.mean(self.own > np.percentile(self.chance, SHARE)):.0f} %"

    def best(self) -> list[tuple[str, float]]:
        """The concepts of the most selective units, each once; of units that answer to all alike,
        or to nothing, none."""
        found: dict[str, float] = {}
        for i in np.argsort(-self.own, kind="stable").tolist():
            if len(found) == NAMED or not self.own[i]:
                break
            found.setdefault(self.concepts[i], float(self.own[i]))
        return list(found.items())


def svg(folder: Path) -> str:
    """The distribution of class selectivity by layer of a study.

    Raises `PictureError` where the folder is no study or has no units.
    """
    study = read_study(folder)
    layers = list(_layers(folder / "units.csv"))
    if not layers:
        raise PictureError(f"{folder / 'units.csv'} lists no units")
    return _draw(study, layers)


def _layers(path: Path) -> Iterable[_Layer]:
    wanted = ("component", "module", "stage", "selectivity", "chance", "concept")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = csv.reader(file)
            head = next(rows, [])
            lacking = [name for name in wanted if name not in head]
            if lacking:
                raise PictureError(f"{path} has no column `{lacking[0]}`")
            at = [head.index(name) for name in wanted]
            table: list[tuple[Any, ...]] = []
            for row in filter(None, rows):
                if len(row) <= max(at):
                    raise PictureError(
                        f"{path}: line {rows.line_num} has {len(row)} values for the"
                        f" {len(head)} columns"
                    )
                figures = (_figure(row[i], path, rows.line_num) for i in at[3:5])
                table.append((*(row[i] for i in at[:3]), *figures, row[at[5]]))
    except FileNotFoundError:
        raise PictureError(f"{path.parent} has no units.csv to draw from") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PictureError(f"{path} cannot be read as a table: {error}") from error
    several = len({row[0] for row in table}) > 1
    for (component, module, stage), own in groupby(table, key=lambda row: row[:3]):
        found = [row for row in own if math.isfinite(row[3])]
        if found:
            chance = np.array([row[4] for row in found])
            yield _Layer(
                f"{component}.{module}" if several else module,
                stage,
                np.array([row[3] for row in found]).clip(0, 1),
                chance[:0] if np.isnan(chance).all() else np.nan_to_num(chance).clip(0, 1),
                tuple(row[5] for row in found),
            )


def _figure(written: str, path: Path, line: int) -> float:
    """A number of the table; NaN where there is none."""
    try:
        return float(written or "nan")
    except ValueError:
        raise PictureError(f"{path}: line {line}: `{written[:60]}` is no number") from None


@dataclass(frozen=True)
class _Grid:
    """Where rows and columns lie. `pitch`: height of a row; `size`: of its type."""

    x: float
    pitch: float
    size: float

    def at(self, value: float) -> float:
        return self.x + WIDE * value

    @property
    def columns(self) -> tuple[float, float, float, float]:
        """Right ends of three columns of figures, and the left end of the concepts."""
        right = self.x + WIDE
        return right + 90, right + 178, right + 286, right + 322


def _draw(study: Study, layers: Sequence[_Layer]) -> str:
    pitch = float(np.clip(1500 / len(layers), 30, 92))
    size = 15.0 if pitch < 40 else 16.0
    groups = [list(group) for _, group in groupby(layers, key=lambda layer: layer.stage)]
    named = [shortened([layer.path for layer in group]) for group in groups]
    labels = [label for _, found in named for label in found]
    side = min(max(200, *(drawing.length(label, size) + 26 for label in labels)), 430)
    grid = _Grid(MARGIN + side, pitch, size)
    heads = drawing.length(CONCEPTS, 15)
    edge = grid.columns[3] + max(heads, *(_concepts(grid, layer, 0)[1] for layer in layers))
    y = float(MARGIN + HEAD)
    rows, top = [], y - 26
    for group, (common, found) in zip(groups, named, strict=True):
        head = " · ".join(part for part in (group[0].stage, common) if part)
        if head:
            y += 22 if group is not groups[0] else 12
            rows.append(drawing.text(
                MARGIN, y, head, size, bold=True, stroke=PAGE, stroke_width=5, paint_order="stroke"
            ))  # fmt: skip
            start = max(MARGIN + drawing.length(head, size, True) + 14, grid.x)
            rows.append(drawing.line([(start, y - 5), (edge, y - 5)], HAIRLINE))
            y += 16
        for layer, label in zip(group, found, strict=True):
            rows.append(_row(grid, layer, label, side - 22, y))
            y += pitch
        y += 8
    width = max(edge + MARGIN, 1300)
    notes = [
        "Class selectivity of a unit: (μ of its best concept − mean μ of the others) / their sum;"
        " 0: all concepts alike, 1: one concept alone (Leavitt & Morcos 2020).",
        "Filled: density of a layer's units. Gray: the same with the samples' labels shuffled."
        " Each to its own peak. Vertical bar: median. Dots: single units.",
        f"Beyond chance: share of units above the {SHARE}th percentile by chance of their layer;"
        f" without any selectivity it would be {100 - SHARE} %.",
    ]
    if not any(len(layer.chance) for layer in layers):
        notes[1:] = [
            "Filled: density of a layer's units, to its own peak. Vertical bar: median. Dots:"
            " single units.",
            "By chance cannot be told with one sample a concept: shuffled labels deal out the same"
            " means.",
        ]
    lines = footer(study.facts, notes)
    foot = "".join(
        drawing.text(MARGIN, y + 72 + 24 * i, line, 15, MUTED) for i, line in enumerate(lines)
    )
    height = y + 72 + 24 * len(lines) + MARGIN - 30
    return drawing.document(
        width, height,
        drawing.header(study.name, study.about or ABOUT, MARGIN, width - 2 * MARGIN),
        _axis(grid, top, y), *rows, _heads(grid, top), foot,
        label=f"Class selectivity by layer of {study.name}",
    )  # fmt: skip


def _axis(grid: _Grid, top: float, bottom: float) -> str:
    drawn = []
    for i in range(6):
        x = grid.at(i / 5)
        drawn.append(drawing.line([(x, top), (x, bottom)], HAIRLINE))
        for y in (top - 8, bottom + 20):
            drawn.append(drawing.text(x, y, f"{i / 5:g}", 15, MUTED, anchor="middle"))
    return "".join(drawn)


def _heads(grid: _Grid, top: float) -> str:
    one, two, three, four = grid.columns
    y = top - 34
    drawn = drawing.text(grid.x, y, "Class selectivity", 17, bold=True)
    for x, words in ((one, "units"), (two, "median"), (three, "beyond")):
        drawn += drawing.text(x, top - (25 if x == three else 8), words, 15, MUTED, anchor="end")
    drawn += drawing.text(three, top - 8, "chance", 15, MUTED, anchor="end")
    return drawn + drawing.text(four, top - 8, CONCEPTS, 15, MUTED)


def _concepts(grid: _Grid, layer: _Layer, y: float) -> tuple[str, float]:
    """The concepts of a layer's most selective units; and how wide they are."""
    start = x = grid.columns[3]
    best = layer.best()
    if not best:
        return drawing.text(x, y, NONE, grid.size, MUTED), drawing.length(NONE, grid.size)
    drawn = ""
    for word, value in best:
        shown = drawing.starting(word, grid.size, 150)
        drawn += drawing.text(x, y, shown, grid.size)
        x += drawing.length(shown, grid.size) + 6
        drawn += drawing.text(x, y, f"{value:.2f}", 0.86 * grid.size, MUTED)
        x += drawing.length(f"{value:.2f}", 0.86 * grid.size) + 16
    return drawn, x - 16 - start


def _row(grid: _Grid, layer: _Layer, label: str, room: float, y: float) -> str:
    """A layer whose row begins at `y`."""
    count = len(layer.own)
    dotted = FEW <= count <= DOTTED
    strip = min(14.0, 0.26 * grid.pitch) if dotted else 0.0
    base = y + grid.pitch - 5 - strip
    tall = base - y - 2
    middle = base - 1 - 0.2 * grid.size if grid.pitch < 40 else base - 0.3 * tall
    median, chanced = float(np.median(layer.own)), len(layer.chance) > 0
    told = f"{layer.path}\n{count:,} units, median {median:.3f}"
    if chanced:
        by_chance = float(np.median(layer.chance))
        told += f", by chance {by_chance:.3f}\n{layer.beyond} beyond chance"
    drawn = [drawing.tooltip(told), drawing.rect(MARGIN, y, WIDE, grid.pitch, PAGE, opacity=0)]
    if count >= FEW:
        own = _density(layer.own)
        ridge = _ridge(grid, own / own.max() * tall, base, FILL, LINE)
        if chanced:
            chance = _density(layer.chance)
            chance = chance / chance.max() * tall
            drawn.append(_ridge(grid, chance, base, HAIRLINE, None))
            ridge += _outline(grid, chance, base)
        drawn.append(ridge)
        drawn.append(drawing.line([(grid.x, base), (grid.x + WIDE, base)], HAIRLINE))
        if dotted:
            drawn.append(_dots(grid, layer.own, base + 2, strip, 4, LINE))
    else:
        size = min(9.0, tall / 3)
        drawn.append(drawing.line([(grid.x, base), (grid.x + WIDE, base)], HAIRLINE))
        for values, tone in ((layer.chance, HAIRLINE), (layer.own, LINE)):
            drawn.append(_dots(grid, values, base - 0.8 * tall, 0.75 * tall, size, tone))
    x = grid.at(median)
    drawn.append(drawing.line([(x, base - 0.55 * tall), (x, base + strip)], PAGE, 4.5))
    drawn.append(drawing.line([(x, base - 0.55 * tall), (x, base + strip)], INK, 2.2))
    one, two, three, _ = grid.columns
    drawn.append(drawing.text(MARGIN, middle, drawing.path(label, grid.size, room), grid.size))
    for at, words in (
        (one, f"{count:,}"),
        (two, f"{median:.2f}"),
        (three, layer.beyond),
    ):
        drawn.append(drawing.text(at, middle, words, grid.size, MUTED, anchor="end"))
    drawn.append(_concepts(grid, layer, middle)[0])
    return drawing.element("g", *drawn)


def _density(values: np.ndarray) -> np.ndarray:
    """The smoothed share of values at BINS + 1 places from 0 to 1, mirrored at both ends; a peak
    at the one value where all are alike."""
    found = np.histogram(values, BINS + 1, (-0.5 / BINS, 1 + 0.5 / BINS))[0] / len(values)
    if np.ptp(values) < 1e-9:
        return found
    reach = np.arange(-6, 7)
    kernel = np.exp(-((reach / SMOOTH) ** 2) / 2)
    smooth: np.ndarray = np.convolve(np.pad(found, 6, "symmetric"), kernel / kernel.sum(), "valid")
    return smooth


def _points(grid: _Grid, heights: np.ndarray, base: float) -> list[tuple[float, float]]:
    """The outline of a density, as far as it can be seen."""
    seen = np.flatnonzero(heights > 0.15)
    first, last = max(0, seen[0] - 1), min(BINS, seen[-1] + 1)
    return [(grid.at(i / BINS), base - float(heights[i])) for i in range(first, last + 1)]


def _ridge(
    grid: _Grid,
    heights: np.ndarray,
    base: float,
    fill: Color,
    line: Color | None,
) -> str:
    points = _points(grid, heights, base)
    closed = [(points[0][0], base), *points, (points[-1][0], base)]
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in closed) + "Z"
    drawn = drawing.element("path", d=path, fill=fill, opacity=None if line is None else 0.8)
    return drawn + (drawing.line(points, line, 1.2) if line else "")


def _outline(grid: _Grid, heights: np.ndarray, base: float) -> str:
    points = _points(grid, heights, base)
    return drawing.line(points, MUTED, 1, stroke_dasharray="2 3", opacity=0.8)


def _dots(
    grid: _Grid, values: np.ndarray, top: float, tall: float, size: float, color: Color
) -> str:
    """Each unit as a dot, at heights that spread them; one path of points with round ends."""
    if not len(values):
        return ""
    golden = np.arange(len(values)) * 0.618034 % 1
    heights = top + size / 2 + golden * max(tall - size, 0)
    path = "".join(
        f"M{grid.at(x):.1f} {y:.1f}h0" for x, y in zip(values.tolist(), heights, strict=True)
    )
    return drawing.element(
        "path", d=path, stroke=color, stroke_width=size, stroke_linecap="round",
        opacity=0.5 if color == LINE else None,
    )  # fmt: skip
