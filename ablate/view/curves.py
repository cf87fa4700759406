"""Drift curves: how far images move as an edit grows, with confidence bands over seeds.

One line for each value of the other axes, but for those that vary with the strength; where these
are many, prompts are taken together, and else there is one small plot for each. Several drawn
orders of the same modules (the HAL experiment) also have their mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ablate.drift import FEWEST, Estimate, MeasuredCell, read_cells, t_interval
from ablate.store import Axis as RunAxis, Run
from ablate.style import HAIRLINE, INK, MUTED, Color, elide, text_width
from ablate.view.chart import Axis, Scale, capital, spread
from ablate.view.measures import Measure, caption, choose_measure, strengths
from ablate.view.svg import MARGIN, Canvas, Point

HEAD = 150
PLOT = (1120, 560)  # width and height of a single plot
SMALL = (420, 250)  # of one among many
BETWEEN = (90, 110)  # small plots, across and down
SIDE = 76.0  # of the pictures below a plot
MOST = 8  # lines in one plot
FEW = 3  # lines at most that are drawn with each of their seeds
STRIPS = 5  # lines at most that all have their pictures below; of more only the first has
LINES: tuple[Color, ...] = (  # far apart in hue or lightness, none like the baseline's
    (22, 92, 125), (66, 140, 84), (150, 105, 30), (110, 74, 150),
    (75, 85, 99), (0, 140, 149), (176, 84, 130), (118, 125, 20),
)  # fmt: skip


def draw_curves(run: Run, metric: str | None = None) -> str | None:
    """Draw the drift of a run over its strength; `metric`: see `choose_measure`.

    Returns:
        The drawing; None where nothing was measured over three numbers or more with one seed.
    """
    cells = read_cells(run)
    measure = choose_measure(cells, metric)
    if measure is None:
        return None
    axes = {axis.name: axis for axis in run.axes()}
    for name in strengths(run):
        paired = _paired(axes, name, cells)
        lines = _lines(axes, name, paired, cells, measure) if "seed" not in paired else []
        if lines:
            title = ", with ".join([name, " and ".join(paired)]) if paired else name
            return _draw(run, title, lines, measure, {cell.key: cell for cell in cells})
    return None


def _paired(axes: Mapping[str, RunAxis], name: str, cells: Sequence[MeasuredCell]) -> list[str]:
    """The axes that vary with another, as those of a `zip` do."""
    there = [cell.axes for cell in cells if name in cell.axes]

    def different(*names: str) -> int:
        return len({tuple(repr(at.get(n)) for n in names) for at in there})

    return [
        other for other in axes
        if other != name
        and 1 < different(name) == different(other) == different(name, other)
    ]  # fmt: skip


@dataclass(frozen=True)
class Line:
    """Drift along the strength."""

    label: str  # the values of the other axes
    strengths: np.ndarray  # shape (strengths,)
    seeds: np.ndarray  # drift, (prompts · seeds, strengths), NaN where it is not known
    keys: Sequence[str | None]  # of the cells of the first seed
    is_mean: bool = False  # whether it is the mean of the other lines
    prompts: int = 1  # how many are taken together
    log: bool = True  # whether bands are those of logarithms, which are wide next to zero

    @property
    def mean(self) -> np.ndarray:
        """Over the seeds that are known, shape (strengths,)."""
        count = np.isfinite(self.seeds).sum(axis=0)
        total = np.nansum(self.seeds, axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def band(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The 95 % t intervals over seeds; None with fewer than four."""
        rows = self.seeds[np.isfinite(self.seeds).all(axis=1)]
        if len(rows) < FEWEST:
            return None
        if not self.log:
            low, high = np.array([t_interval(values) for values in rows.T]).T
            return np.maximum(low, 0), high
        low, high = np.array([Estimate.of_mean(values).interval() for values in rows.T]).T
        return low, high

    def highest(self) -> float:
        """The largest value that is drawn."""
        band = self.band()
        edge = band[1] if band is not None else np.zeros(1)
        alone = self.seeds if self.prompts == 1 else self.mean
        return float(np.nanmax(np.append(edge, np.where(np.isfinite(alone), alone, 0))))


def _lines(
    axes: Mapping[str, RunAxis],
    name: str,
    paired: Sequence[str],
    cells: Sequence[MeasuredCell],
    measure: Measure,
) -> list[Line]:
    others = [n for n in axes if n not in (name, "seed", *paired)]
    counts = {n: len({repr(c.axes[n]) for c in cells if n in c.axes}) for n in others}
    apart = [n for n in others if counts[n] > 1]  # a line for each of their values
    count = math.prod(counts[n] for n in apart)
    pooled = len(apart) > 1 and "prompt" in apart and count > MOST
    if pooled:
        apart.remove("prompt")
    prompts = list(dict.fromkeys(cell.prompt for cell in cells)) if pooled else []
    sweeps: dict[tuple[int, ...], dict[tuple[int, int], dict[float, MeasuredCell]]] = {}
    for cell in cells:
        if name in cell.axes and all(n in cell.axes for n in others):
            which = tuple(axes[n].values.index(cell.axes[n]) for n in apart)
            row = (prompts.index(cell.prompt) if pooled else 0, cell.seed)
            sweeps.setdefault(which, {}).setdefault(row, {})[cell.axes[name]] = cell
    lines, values = [], sorted(set(axes[name].values))
    for which, by_seed in sorted(sweeps.items()):
        rows = [
            [_value(measure, by_seed[seed].get(value)) for value in values]
            for seed in sorted(by_seed)
        ]
        first = by_seed[min(by_seed)]
        keys = [first[v].key if v in first else None for v in values]
        texts = (caption(axes[n], axes[n].values[i]) for n, i in zip(apart, which, strict=True))
        count = len({prompt for prompt, _ in by_seed})
        strength, seeds = np.array(values, float), np.array(rows, float)
        lines.append(Line(" · ".join(texts), strength, seeds, keys, prompts=count))
    # Orders that are numbers are random draws; those with names have no mean.
    orders = axes["order"].values if apart == ["order"] else ()
    if len(lines) > 1 and orders and all(isinstance(order, int | float) for order in orders):
        means = np.array([line.mean for line in lines])
        together = f"mean of {len(lines)} orders"
        lines.append(Line(together, lines[0].strengths, means, lines[0].keys, is_mean=True))
    return [line for line in lines if np.isfinite(line.mean).sum() > 1]


def _value(measure: Measure, cell: MeasuredCell | None) -> float:
    value = measure.of(cell) if cell else None
    return math.nan if value is None else value


@dataclass(frozen=True)
class Plot:
    """A coordinate system on a canvas, of strengths across and of drift upward."""

    canvas: Canvas
    across: Axis
    up: Axis
    ticks: Sequence[float] = ()  # across; round ones by default

    @classmethod
    def at_corner(
        cls, canvas: Canvas, scales: tuple[Scale, Scale], x: float, y: float, size: tuple[int, int]
    ) -> Plot:
        """A plot of these scales across and up, with its upper left corner at a place."""
        across, up = scales
        return cls(canvas, Axis(across, x, x + size[0]), Axis(up, y + size[1], y))

    def at(self, strengths: np.ndarray, values: np.ndarray) -> list[Point]:
        """Where points of the plot are on the page, as far as their values are known."""
        known = np.isfinite(values)
        pairs = zip(strengths[known].tolist(), values[known].tolist(), strict=True)
        return [(self.across.at(x), self.up.at(y)) for x, y in pairs]

    def frame(self, size: float, measure: Measure) -> None:
        """Hairlines and their figures; in noise floors, a dashed line at 1."""
        (left, right), (bottom, top) = ((axis.start, axis.end) for axis in (self.across, self.up))
        for value in self.up.scale.ticks(bottom - top, 80):
            y = self.up.at(value)
            self.canvas.line([(left, y), (right, y)], HAIRLINE)
            self.canvas.text(left - 12, y + 0.36 * size, f"{value:g}", size, MUTED, anchor="end")
        values = self.ticks or self.across.scale.ticks(right - left, 110)
        ticks = [(value, f"{value:g}") for value in values]
        labels = [bottom + 8 + size]
        self.across.draw_ticks(self.canvas, ticks, (bottom, bottom + 6), labels, size, MUTED)
        self.canvas.line([(left, bottom), (right, bottom)])
        if measure.in_floors and self.up.scale.top > 1:
            y = self.up.at(1)
            self.canvas.line([(left, y), (right, y)], INK, 1.2, stroke_dasharray="2 5")

    def line(self, line: Line, color: Color, thick: float, with_seeds: bool) -> None:
        """A line with its band and perhaps its seeds, as far as they are known."""
        band = line.band()
        if band is not None:
            lower, upper = (self.at(line.strengths, edge) for edge in band)
            self.canvas.area([*upper, *lower[::-1]], color, 0.16)
        if len(line.seeds) > 1 and with_seeds:
            for row in line.seeds:
                self._path(self.at(line.strengths, row), color, 1, 0.35)
        self._path(self.at(line.strengths, line.mean), color, thick, 1)

    def _path(self, points: Sequence[Point], color: Color, thick: float, opacity: float) -> None:
        if points:
            self.canvas.line(
                points, color, thick, opacity=opacity, stroke_linejoin="round",
                stroke_linecap="round",
            )  # fmt: skip


def _draw(
    run: Run, axis: str, lines: Sequence[Line], measure: Measure, cells: Mapping[str, MeasuredCell]
) -> str:
    canvas, single = Canvas(), [line for line in lines if not line.is_mean]
    first, last = (float(lines[0].strengths[i]) for i in (0, -1))
    top = max(line.highest() for line in lines) * 1.06 or 1.0
    scales = Scale(last, first, "linear"), Scale(top, 0, "linear")
    head = capital(measure.words)
    if len(single) <= MOST:
        plot = Plot.at_corner(canvas, scales, MARGIN + 60, MARGIN + HEAD, PLOT)
        width, bottom = draw_together(plot, lines, measure)
        canvas.text(MARGIN, MARGIN + HEAD - 32, head, 19, bold=True)
        canvas.text(plot.across.end, bottom, axis, 19, bold=True, anchor="end")
        for line in single if len(single) <= STRIPS else single[:1]:
            draw_strip(plot, line, line_color(lines, line), cells, bottom + 34)
            bottom += SIDE + 14
    else:
        width, bottom = _apart(canvas, scales, lines, measure)
        canvas.text(MARGIN, MARGIN + HEAD - 32, f"{head}, over {axis}", 19, bold=True)
    canvas.text(MARGIN, bottom + 60, _note(single, lines), 17, MUTED)
    manifest = run.manifest()
    name, about = str(manifest["name"]), str(manifest.get("about") or "")
    label = f"{head} over {axis}, of {name}"
    return canvas.document(width, bottom + 60 + MARGIN, label=label, name=name, about=about)


def line_color(lines: Sequence[Line], line: Line) -> Color:
    """The color of a line among others."""
    return INK if line.is_mean else LINES[lines.index(line) % len(LINES)]


def _note(single: Sequence[Line], lines: Sequence[Line]) -> str:
    seeds = max(len(line.seeds) for line in single)
    prompts = single[0].prompts
    each = f" for each of {prompts} prompts" if prompts > 1 else ""
    facts = [f"mean of {seeds // prompts} seeds{each}" if seeds > 1 else "one seed"]
    if seeds > 1 and prompts == 1 and not FEW < len(lines) <= MOST:
        facts = [f"{facts[0]}, each drawn faintly"]
    over = "orders" if lines[-1].is_mean else "prompts and seeds" if prompts > 1 else "seeds"
    if any(line.band() for line in lines):
        facts.append(f"band: 95 % t interval over {over}")
    return capital("; ".join(facts)) + "."


def draw_together(plot: Plot, lines: Sequence[Line], measure: Measure) -> tuple[float, float]:
    """Draw all lines in one plot, named at their ends; return its width, and where it ends."""
    canvas, right, bottom = plot.canvas, plot.across.end, plot.up.start
    plot.frame(17, measure)
    few = len(lines) <= FEW and lines[0].prompts == 1
    for line in lines:
        plot.line(line, line_color(lines, line), 3.5 if line.is_mean else 2.2, few)
    if measure.in_floors and plot.up.scale.top > 1:  # on top, for lines may cross it
        canvas.text(plot.across.start + 6, plot.up.at(1) - 7, "another seed", 17, halo=5)
    ends = [plot.at(line.strengths, line.mean)[-1] for line in lines]
    places = spread([y for _, y in ends], 25, plot.up.end, bottom)
    widest = 0.0
    for line, (x, y), place in zip(lines, ends, places, strict=True):
        if line.label:
            color, label = line_color(lines, line), elide(line.label, 18, 420, start=True)
            canvas.line([(x + 4, y), (right + 14, place)], color, 1, opacity=0.5)
            canvas.text(right + 20, place + 6, label, 18, color, bold=True)
            widest = max(widest, text_width(label, 18, True))
    return right + 20 + widest + MARGIN, bottom + 52


def _apart(
    canvas: Canvas, scales: tuple[Scale, Scale], lines: Sequence[Line], measure: Measure
) -> tuple[float, float]:
    """Draw a plot a line, all of one scale; return their width, and where they end."""
    columns = min(4, math.ceil(math.sqrt(len(lines))))
    (wide, tall), left, top = SMALL, MARGIN + 60, MARGIN + HEAD + 30
    for i, line in enumerate(lines):
        x = left + i % columns * (wide + BETWEEN[0])
        y = top + i // columns * (tall + BETWEEN[1])
        plot = Plot.at_corner(canvas, scales, x, y, SMALL)
        plot.frame(14, measure)
        plot.line(line, INK if line.is_mean else LINES[0], 2.2, line.prompts == 1)
        canvas.text(x, y - 16, elide(line.label, 17, wide, start=True), 17, bold=True)
    rows = math.ceil(len(lines) / columns)
    width = left + columns * (wide + BETWEEN[0]) - BETWEEN[0] + MARGIN
    return width, top + rows * (tall + BETWEEN[1]) - 70


def draw_strip(
    plot: Plot, line: Line, color: Color, cells: Mapping[str, MeasuredCell], y: float
) -> None:
    """Pictures of the first seed below their strengths, as many as have room."""
    last = -math.inf
    for strength, key in zip(line.strengths.tolist(), line.keys, strict=True):
        x = plot.across.at(strength) - SIDE / 2
        if key is None or key not in cells or x < last + SIDE + 8:
            continue
        cell, last = cells[key], x
        with plot.canvas.group(f"{cell.variant}, seed {cell.seed}", data_cell=key):
            image = cell.path if cell.state == "ok" else None
            plot.canvas.cell(image, x, y, SIDE, baseline=3 * cell.is_baseline)
    if line.label:
        end, label = plot.across.end + SIDE / 2 + 14, elide(line.label, 15, 320, start=True)
        plot.canvas.text(end, y + SIDE / 2 + 5, label, 15, color, bold=True)
