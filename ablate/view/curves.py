"""Drift curves: how far images move as an edit grows, with confidence bands over seeds.

One line for each value of the other axes; where these are many, prompts are taken together, and
else there is one small plot for each. Several drawn orders of the same modules (the HAL experiment)
also have their mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ablate.drift import MeasuredCell, read_cells
from ablate.store import Axis, Run
from ablate.style import ACCENT, HAIRLINE, INK, MUTED, PAGE, Color
from ablate.view import scales as measuring, svg as drawing
from ablate.view.scales import Measure

MARGIN = 80
HEAD = 150
PLOT = (1120, 560)  # width and height of a plot that stands alone
SMALL = (420, 250)  # of one among many
MOST = 8  # lines in one plot
FEW = 3  # lines at most that are drawn with each of their seeds
STRIPS = 5  # lines at most that all have their pictures below; of more only the first has
COVERED = 95  # per cent of the resamples lie within a band
RESAMPLES = 1000
LINES: tuple[Color, ...] = (  # far apart in hue or lightness, none like the baseline's
    (22, 92, 125), (66, 140, 84), (150, 105, 30), (110, 74, 150),
    (75, 85, 99), (0, 140, 149), (176, 84, 130), (118, 125, 20),
)  # fmt: skip


def draw_curves(run: Run, metric: str | None = None) -> str | None:
    """The drift curves of a run over its strength; `metric`: see `measures.choose`.

    None where no axis has three numbers or more, or nothing was measured.
    """
    cells = read_cells(run)
    measure = measuring.choose(cells, metric)
    axes = {axis.name: axis for axis in run.axes()}
    for name in measuring.strengths(run):
        if measure is None:
            break
        lines = _lines(axes, name, cells, measure)
        # An axis that is paired with another has no two strengths of equal other things.
        if lines:
            return _draw(run, axes[name], lines, measure, {cell.key: cell for cell in cells})
    return None


@dataclass(frozen=True)
class _Line:
    """Drift along the strength: `seeds` has a row a seed, NaN where it is not known; a row a prompt
    and seed where the line is of all `prompts`."""

    label: str
    strengths: np.ndarray
    seeds: np.ndarray  # (seeds, strengths)
    keys: Sequence[str | None]  # of the cells of the first seed
    is_mean: bool = False  # of the other lines
    prompts: int = 1

    @property
    def mean(self) -> np.ndarray:
        """Over the seeds that are known."""
        count = np.isfinite(self.seeds).sum(axis=0)
        total = np.nansum(self.seeds, axis=0)
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)

    def band(self) -> tuple[np.ndarray, np.ndarray] | None:
        """The 95 % percentile bootstrap interval over seeds; None with fewer than three."""
        rows = self.seeds[np.isfinite(self.seeds).all(axis=1)]
        if len(rows) < 3:
            return None
        drawn = np.random.default_rng(0).integers(len(rows), size=(RESAMPLES, len(rows)))
        means = rows[drawn].mean(axis=1)
        edge = (100 - COVERED) / 2
        low, high = np.percentile(means, [edge, 100 - edge], axis=0)
        return low, high


def _lines(
    axes: Mapping[str, Axis], name: str, cells: Sequence[MeasuredCell], measure: Measure
) -> list[_Line]:
    others = [n for n in axes if n not in (name, "seed")]
    told = [n for n in others if len({repr(c.axes[n]) for c in cells if n in c.axes}) > 1]
    strengths = sorted(set(axes[name].values))
    count = math.prod(len({repr(c.axes[n]) for c in cells if n in c.axes}) for n in told)
    pooled = len(told) > 1 and "prompt" in told and count > MOST
    if pooled:
        told.remove("prompt")
    prompts = list(dict.fromkeys(cell.prompt for cell in cells)) if pooled else []
    found: dict[tuple[int, ...], dict[tuple[int, int], dict[float, MeasuredCell]]] = {}
    for cell in cells:
        if name in cell.axes and all(n in cell.axes for n in others):
            which = tuple(axes[n].values.index(cell.axes[n]) for n in told)
            row = (prompts.index(cell.prompt) if pooled else 0, cell.seed)
            found.setdefault(which, {}).setdefault(row, {})[cell.axes[name]] = cell
    lines = []
    for which in sorted(found):
        by_seed = found[which]
        rows = [
            [_value(measure, by_seed[seed].get(strength)) for strength in strengths]
            for seed in sorted(by_seed)
        ]
        first = by_seed[min(by_seed)]
        keys = [first[s].key if s in first else None for s in strengths]
        texts = [
            measuring.caption(axes[n], axes[n].values[i]) for n, i in zip(told, which, strict=True)
        ]
        line = _Line(" · ".join(texts), np.array(strengths, float), np.array(rows, float), keys)
        lines.append(replace(line, prompts=len({prompt for prompt, _ in by_seed})))
    # Orders that are numbers are drawn; those that have names are each another one.
    orders = axes["order"].values if told == ["order"] else ()
    if len(lines) > 1 and orders and all(isinstance(order, int | float) for order in orders):
        means = np.array([line.mean for line in lines])
        together = f"mean of {len(lines)} orders"
        lines.append(_Line(together, lines[0].strengths, means, lines[0].keys, is_mean=True))
    return [line for line in lines if np.isfinite(line.mean).sum() > 1]


def _value(measure: Measure, cell: MeasuredCell | None) -> float:
    found = measure.of(cell) if cell else None
    return math.nan if found is None else found


@dataclass(frozen=True)
class _Plot:
    """A coordinate system on the page: `low` and `high` of x, `top` of y."""

    x: float
    y: float
    width: float
    height: float
    low: float
    high: float
    top: float

    def at(self, strength: float, value: float) -> tuple[float, float]:
        """Where a point of the plot lies on the page."""
        across = (strength - self.low) / ((self.high - self.low) or 1)
        return self.x + across * self.width, self.y + self.height * (1 - value / self.top)

    def axes(self, size: float, floor: bool) -> str:
        """Hairlines and their figures; `floor`: the line at 1 is the noise floor."""
        drawn = []
        for value in ticks(0, self.top, max(2, int(self.height // 80))):
            _, y = self.at(self.low, value)
            drawn.append(drawing.line([(self.x, y), (self.x + self.width, y)], HAIRLINE))
            drawn.append(
                drawing.text(self.x - 12, y + 0.36 * size, f"{value:g}", size, MUTED, anchor="end")
            )
        bottom = self.y + self.height
        for value in ticks(self.low, self.high, max(2, int(self.width // 110))):
            x, _ = self.at(value, 0)
            drawn.append(drawing.line([(x, bottom), (x, bottom + 6)], MUTED))
            drawn.append(
                drawing.text(x, bottom + 8 + size, f"{value:g}", size, MUTED, anchor="middle")
            )
        drawn.append(drawing.line([(self.x, bottom), (self.x + self.width, bottom)], MUTED))
        if floor and self.top > 1:
            _, y = self.at(self.low, 1)
            dashed = [(self.x, y), (self.x + self.width, y)]
            drawn.append(drawing.line(dashed, INK, 1.2, stroke_dasharray="2 5"))
        return "".join(drawn)

    def floor(self, size: float) -> str:
        """What the line at 1 stands for; on top, for lines may cross it."""
        if self.top <= 1:
            return ""
        x, y = self.at(self.low, 1)
        return drawing.text(
            x + 6, y - 7, "another seed", size, stroke=PAGE, stroke_width=5, paint_order="stroke"
        )

    def line(self, line: _Line, color: Color, thick: float, with_seeds: bool) -> str:
        """A line with its band and perhaps its seeds, as far as they are known."""
        drawn = []
        band = line.band()
        if band is not None:
            low, high = band
            upper = [self.at(x, y) for x, y in zip(line.strengths, high, strict=True)]
            lower = [self.at(x, y) for x, y in zip(line.strengths, low, strict=True)]
            path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in upper + lower[::-1]) + "Z"
            drawn.append(drawing.element("path", d=path, fill=color, opacity=0.16))
        if len(line.seeds) > 1 and with_seeds:
            drawn += [self._path(line.strengths, row, color, 1, 0.35) for row in line.seeds]
        drawn.append(self._path(line.strengths, line.mean, color, thick, 1))
        return "".join(drawn)

    def _path(
        self, strengths: np.ndarray, values: np.ndarray, color: Color, thick: float, opacity: float
    ) -> str:
        known = np.isfinite(values)
        points = [self.at(x, y) for x, y in zip(strengths[known], values[known], strict=True)]
        if not points:
            return ""
        return drawing.line(
            points, color, thick, opacity=opacity, stroke_linejoin="round", stroke_linecap="round"
        )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About so many round values from `low` to `high`."""
    span = (high - low) or 1
    rough = span / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def _spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near to those wanted, in their order, with a gap between them where there is room."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gap = min(gap, (high - low) / max(1, len(wanted) - 1))
    places = [wanted[i] for i in order]
    for _ in range(100):
        for i in range(1, len(places)):
            lacking = gap - (places[i] - places[i - 1])
            if lacking > 0:
                places[i - 1] -= lacking / 2
                places[i] += lacking / 2
        # No further than the ends allow those that still have to stand beyond.
        places = [
            min(max(place, low + i * gap), high - (len(places) - 1 - i) * gap)
            for i, place in enumerate(places)
        ]
    return [places[order.index(i)] for i in range(len(wanted))]


def _draw(
    run: Run,
    axis: Axis,
    lines: Sequence[_Line],
    measure: Measure,
    cells: Mapping[str, MeasuredCell],
) -> str:
    manifest = run.manifest()
    top = max(_highest(line) for line in lines) * 1.06 or 1.0
    own = [line for line in lines if not line.is_mean]
    low, high = float(lines[0].strengths[0]), float(lines[0].strengths[-1])
    frame = _Plot(MARGIN + 60, MARGIN + HEAD, *PLOT, low, high, top)
    drawn, width, bottom = (
        _together(frame, lines, measure) if len(own) <= MOST else _apart(frame, lines, measure)
    )
    head = _capital(measure.words) + (f", over {axis.name}" if len(own) > MOST else "")
    drawn.append(drawing.text(MARGIN, MARGIN + HEAD - 32, head, 19, bold=True))
    if len(own) <= MOST:
        drawn.append(
            drawing.text(frame.x + frame.width, bottom, axis.name, 19, bold=True, anchor="end")
        )
        for line in own if len(own) <= STRIPS else own[:1]:
            color = _color(lines, line)
            strip, tall = _strip(frame, line, color, cells, bottom + 34)
            drawn.append(strip)
            bottom += tall
    note = _note(own, lines)
    height = bottom + 60 + MARGIN
    drawn.append(drawing.text(MARGIN, height - MARGIN, note, 17, MUTED))
    name, about = str(manifest["name"]), str(manifest.get("about") or "")
    drawn.append(drawing.header(name, about, MARGIN, width - 2 * MARGIN))
    label = f"{_capital(measure.words)} over {axis.name}, of {name}"
    return drawing.document(width, height, *drawn, label=label)


def _highest(line: _Line) -> float:
    band = line.band() if line.prompts > 1 else None
    if band is not None:
        return float(np.nanmax(np.append(band[1], line.mean)))
    return float(np.nanmax(np.where(np.isfinite(line.seeds), line.seeds, 0)))


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _color(lines: Sequence[_Line], line: _Line) -> Color:
    return INK if line.is_mean else LINES[lines.index(line) % len(LINES)]


def _note(own: Sequence[_Line], lines: Sequence[_Line]) -> str:
    seeds = max(len(line.seeds) for line in own)
    prompts = own[0].prompts
    each = f" for each of {prompts} prompts" if prompts > 1 else ""
    facts = [f"mean of {seeds // prompts} seeds{each}" if seeds > 1 else "one seed"]
    if seeds > 1 and prompts == 1 and not FEW < len(lines) <= MOST:
        facts = [f"{facts[0]}, each drawn faintly"]
    over = "orders" if lines[-1].is_mean else "prompts and seeds" if prompts > 1 else "seeds"
    if any(line.band() for line in lines):
        facts.append(f"band: 95 % bootstrap interval over {over}")
    return _capital("; ".join(facts)) + "."


def _together(
    frame: _Plot, lines: Sequence[_Line], measure: Measure
) -> tuple[list[str], float, float]:
    """All lines in one plot, named at their ends; its width, and where it ends."""
    drawn = [frame.axes(17, measure.in_floors)]
    few = len(lines) <= FEW and lines[0].prompts == 1
    drawn += [
        frame.line(line, _color(lines, line), 3.5 if line.is_mean else 2.2, few) for line in lines
    ]
    if measure.in_floors:
        drawn.append(frame.floor(17))
    right = frame.x + frame.width
    ends = []
    for line in lines:
        known = np.flatnonzero(np.isfinite(line.mean))
        ends.append(frame.at(line.strengths[known[-1]], line.mean[known[-1]]))
    named = [line for line in lines if line.label]
    places = _spread([y for _, y in ends], 25, frame.y, frame.y + frame.height)
    widest = 0.0
    for line, (x, y), place in zip(lines, ends, places, strict=True):
        if line in named:
            color = _color(lines, line)
            drawn.append(drawing.line([(x + 4, y), (right + 14, place)], color, 1, opacity=0.5))
            label = drawing.ending(line.label, 18, 420)
            drawn.append(drawing.text(right + 20, place + 6, label, 18, color, bold=True))
            widest = max(widest, drawing.length(label, 18, True))
    return drawn, right + max(20 + widest, 0) + MARGIN, frame.y + frame.height + 52


def _apart(
    frame: _Plot, lines: Sequence[_Line], measure: Measure
) -> tuple[list[str], float, float]:
    """A plot a line, all of one scale; their width, and where they end."""
    across = min(4, math.ceil(math.sqrt(len(lines))))
    wide, tall = SMALL
    drawn = []
    for i, line in enumerate(lines):
        x, y = frame.x + i % across * (wide + 90), frame.y + 30 + i // across * (tall + 110)
        plot = replace(frame, x=x, y=y, width=wide, height=tall)
        drawn.append(plot.axes(14, measure.in_floors))
        color = INK if line.is_mean else LINES[0]
        drawn.append(plot.line(line, color, 2.2, line.prompts == 1))
        label = drawing.ending(line.label, 17, wide)
        drawn.append(drawing.text(x, y - 16, label, 17, bold=True))
    rows = math.ceil(len(lines) / across)
    width = frame.x + across * (wide + 90) - 90 + MARGIN
    return drawn, width, frame.y + 30 + rows * (tall + 110) - 70


def _strip(
    frame: _Plot, line: _Line, color: Color, cells: Mapping[str, MeasuredCell], y: float
) -> tuple[str, float]:
    """Pictures of the first seed below their strengths, as many as have room; and its height."""
    side, drawn = 76.0, []
    last = -math.inf
    known = [(s, k) for s, k in zip(line.strengths, line.keys, strict=True) if k in cells]
    for strength, key in known:
        x = frame.at(strength, 0)[0] - side / 2
        if key is None or x < last + side + 8:
            continue
        last = x
        cell = cells[key]
        told = drawing.tooltip(f"{cell.variant}, seed {cell.seed}")
        broken = cell.state != "ok"
        whole = drawing.nan_tile if broken else partial(drawing.picture, cell.path)
        picture = whole(x, y, side, side)
        if cell.is_baseline:
            picture += drawing.frame(x - 1, y - 1, side + 2, side + 2, ACCENT, 3)
        else:
            picture += drawing.frame(x, y, side, side, HAIRLINE, 1)
        drawn.append(drawing.element("g", told, picture, data_cell=key))
    if line.label:
        end = frame.x + frame.width + side / 2 + 14
        label = drawing.ending(line.label, 15, 320)
        drawn.append(drawing.text(end, y + side / 2 + 5, label, 15, color, bold=True))
    return "".join(drawn), side + 14
