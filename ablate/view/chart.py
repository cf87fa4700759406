"""Charts: scales and axes, labels that do not cover one another, and how figures are written."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from ablate.style import HAIRLINE, MUTED, Color, ramp
from ablate.view.svg import Canvas, Point

APART = 36  # user units between ticks at least
Area = tuple[float, float, float, float]  # left, top, right, bottom
Tick = tuple[float, str]  # a value and its label


@dataclass(frozen=True)
class Scale:
    """Maps values to 0 ... 1.

    Attributes:
        top: The value at 1.
        low: The value at 0.
        kind: `root`, by the square root, for distances, which spread over orders of magnitude
            (1 - cosine is the square of the length between two unit vectors, halved); `log`, for
            sizes; or `linear`.
    """

    top: float
    low: float = 0.0
    kind: Literal["root", "log", "linear"] = "root"

    def at(self, value: float) -> float:
        """The place of a value."""
        if self.kind == "linear":
            return (value - self.low) / ((self.top - self.low) or 1)
        if self.kind == "log":
            share = math.log(max(value, self.low) / self.low)
            return share / (math.log(self.top / self.low) or 1)
        return math.sqrt(max(value, 0) / self.top) if self.top else 0.0

    def ticks(self, room: float, gap: float = APART) -> list[float]:
        """Round values along an axis as long as `room`, with about a `gap` between them."""
        if self.kind == "linear":
            return round_values(self.low, self.top, max(2, int(room // gap)))
        exponents = range(-5, 13)
        if self.kind == "log":
            powers = [10.0**e for e in exponents if self.low <= 10.0**e <= self.top]
            return powers or [self.low, self.top]
        steps = sorted(m * 10.0**e for e in exponents for m in (1, 2, 5))
        chosen = [0.0]
        # Powers of ten are the roundest; the others fill what room is left.
        for value in [v for v in steps if f"{v:e}"[0] == "1"] + steps:
            places = [self.at(other) * room for other in chosen]
            if value <= self.top and min(abs(self.at(value) * room - p) for p in places) >= gap:
                chosen.append(value)
        return sorted(chosen)


def round_values(low: float, high: float, count: int) -> list[float]:
    """About so many round values from `low` to `high`."""
    rough = ((high - low) or 1) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


@dataclass(frozen=True)
class Axis:
    """A scale along the page, from the coordinate `start` to `end`."""

    scale: Scale
    start: float
    end: float

    def at(self, value: float) -> float:
        """The coordinate of a value, between those of the ends."""
        return self.start + (self.end - self.start) * min(max(self.scale.at(value), 0), 1)

    def draw_ticks(
        self,
        canvas: Canvas,
        ticks: Iterable[Tick],
        lines: tuple[float, float],
        labels: Sequence[float],
        size: float,
        color: Color = HAIRLINE,
    ) -> None:
        """Draw the ticks of an axis that runs across the page.

        Args:
            lines: The top and the bottom of each tick's line.
            labels: The baselines of each tick's label; several write it as often.
            size: Of the type.
            color: Of the lines.
        """
        for value, words in ticks:
            x = self.at(value)
            canvas.line([(x, lines[0]), (x, lines[1])], color)
            for y in labels:
                canvas.text(x, y, words, size, MUTED, anchor="middle")


def draw_legend(canvas: Canvas, scale: Scale, x: float, y: float, width: float) -> None:
    """Draw the color ramp with round values of a scale beneath, 50 high."""
    slices = 120
    step = width / slices
    for i in range(slices):
        overlap = i < slices - 1
        canvas.rect(x + i * step, y, step * (1 + overlap), 20, ramp(i / (slices - 1)))
    canvas.rect(x, y, width, 20, stroke=HAIRLINE)
    ticks = [(value, rounded(value)) for value in scale.ticks(width)]
    Axis(scale, x, x + width).draw_ticks(canvas, ticks, (y + 20, y + 26), [y + 43], 15, MUTED)


class Labels:
    """The areas of a drawing that are taken, so that labels cover nothing."""

    def __init__(self, taken: Iterable[Area] = ()) -> None:
        self.taken = list(taken)

    def place(
        self,
        spots: Iterable[Point],
        half: Point,
        within: Area = (-math.inf, -math.inf, math.inf, math.inf),
    ) -> Point | None:
        """Take the first free spot for a label; return it, None if no spot is free.

        Args:
            spots: Middles that the label may have, the best first.
            half: Half of its width and of its height.
            within: Where the label must be.
        """
        for x, y in spots:
            left, top, right, bottom = x - half[0], y - half[1], x + half[0], y + half[1]
            inside = within[0] < left and right < within[2] and within[1] < top
            if (
                inside
                and bottom < within[3]
                and not any(
                    left < c and a < right and top < d and b < bottom for a, b, c, d in self.taken
                )
            ):
                return self.take((x, y), half)
        return None

    def take(self, spot: Point, half: Point) -> Point:
        """Take a spot for a label, whatever is there."""
        (x, y), (wide, high) = spot, half
        self.taken.append((x - wide, y - high, x + wide, y + high))
        return spot


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
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
        # No further than leaves room at the ends for those beyond.
        places = [
            min(max(place, low + i * gap), high - (len(places) - 1 - i) * gap)
            for i, place in enumerate(places)
        ]
    return [places[order.index(i)] for i in range(len(wanted))]


# ------------------------------------------------------------ figures


def figure(value: float) -> str:
    """A figure of two significant digits, never in powers of ten."""
    if value == 0:
        return "0"
    if abs(value) < 0.00095:
        return "< 0.001"
    return f"{value:.0f}" if value >= 9.95 else f"{value:#.2g}".rstrip(".")


def rounded(value: float) -> str:
    """A figure as ticks show it: `0.05`, `2`, `10 k`, `3.3 M`."""
    for unit, size in ((" B", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


def capital(words: str) -> str:
    """The words with a capital at their start."""
    return words[:1].upper() + words[1:]
