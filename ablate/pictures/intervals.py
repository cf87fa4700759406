"""Dots with their intervals: by how much the probability of concepts changes under an edit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ablate.page import HAIRLINE, INK, MUTED, PAGE
from ablate.pictures import svg as drawing

MOST = 8  # concepts
PITCH = 28
SIZE = 14
BETWEEN = 22  # panels
INSET = 16  # of an axis within its panel
STRONG = drawing.ramp(0.72)


@dataclass(frozen=True)
class Change:
    """By how much a concept's probability changes with a unit times a factor. `low`, `high`: the
    confidence interval. `own`: of the concept that the unit answers to."""

    concept: str
    own: bool
    factor: float
    change: float
    low: float
    high: float


@dataclass(frozen=True)
class Drawn:
    """A piece of a drawing, and how high it is."""

    svg: str
    height: float


def changes(panels: Mapping[str, Sequence[Change]], x: float, y: float, width: float) -> Drawn:
    """A row a concept, the unit's own first: hollow, removed; filled, amplified.

    `panels`: titles and what is drawn below each, side by side, all of one scale.
    """
    title = drawing.text(x, y, "Change of probability", 15, bold=True)
    every = [change for panel in panels.values() for change in panel]
    if not every:
        return Drawn(title + drawing.text(x, y + 30, "not measured", SIZE, MUTED), 40)
    known = dict.fromkeys((not change.own, change.concept) for change in every)
    concepts = [concept for _, concept in sorted(known, key=lambda row: row[0])]
    left_out, concepts = len(concepts) - MOST, concepts[:MOST]
    own = {change.concept for change in every if change.own}
    shown = [change for change in every if change.concept in concepts]
    named = min(max(drawing.length(c, SIZE, True) for c in concepts) + 12, 112)
    ends = [v for c in shown for v in (c.low, c.high)]
    low, high = min(-0.02, *ends), max(0.02, *ends)
    ticks = _ticks(low, high)
    wide = (width - named - (len(panels) - 1) * BETWEEN) / len(panels)
    drawn, first = [title, _legend(shown, x, y + 24)], y
    y += 76
    places = {concept: y + i * PITCH + 6 * (i > 0) for i, concept in enumerate(concepts)}
    bottom = places[concepts[-1]] + 16
    for concept, at in places.items():
        (word,) = drawing.fit(concept, SIZE, named - 10) or [""]
        drawn.append(drawing.text(x, at + 5, word, SIZE, INK, bold=concept in own))
    for i, (name, panel) in enumerate(panels.items()):
        left = x + named + i * (wide + BETWEEN)
        scale = (wide - 2 * INSET) / (high - low)
        zero = left + INSET - low * scale
        (words,) = drawing.fit(name, 13, wide) or [""]
        drawn.append(drawing.text(left, y - 24, words, 13, INK))
        drawn.append(_axis(ticks, zero, scale, y - 14, bottom))
        drawn += [
            _interval(
                change, zero, scale, places[change.concept] + (-6 if change.factor < 1 else 6)
            )
            for change in panel
            if change.concept in places
        ]
    told = ["in percentage points, as CLIP reads the pictures"]
    if left_out > 0:
        told.append(f"{left_out} further concepts not drawn")
    for i, words in enumerate(told):
        at = bottom + 38 + 17 * i
        drawn.append(drawing.text(x + named, at, words, 12, MUTED))
    return Drawn("".join(drawn), bottom + 25 + 17 * len(told) - first)


def _axis(ticks: Sequence[float], zero: float, scale: float, top: float, bottom: float) -> str:
    drawn = ""
    for value in ticks:
        at = zero + value * scale
        drawn += drawing.line([(at, top), (at, bottom)], HAIRLINE if value else MUTED)
        words = f"{100 * value:+.3g}".replace("-", "−") if value else "0"
        drawn += drawing.text(at, bottom + 18, words, 13, MUTED, anchor="middle")
    return drawn


def _ticks(low: float, high: float) -> list[float]:
    """Round values between both, nought among them."""
    steps = [m * 10.0**e for e in (-3, -2, -1) for m in (1, 2, 5)]
    step = next((s for s in steps if (high - low) / s <= 4.5), 1.0)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 6) for i in range(first, last + 1)]


def _interval(change: Change, zero: float, scale: float, y: float) -> str:
    ends = [(zero + v * scale, y) for v in (change.low, change.high)]
    told = (
        f"{change.concept}, × {change.factor:g}: {100 * change.change:+.1f} points"
        f" ({100 * change.low:+.1f} to {100 * change.high:+.1f})"
    )
    return drawing.element(
        "g",
        drawing.tooltip(told),
        drawing.line(ends, STRONG, 1.6, opacity=0.8),
        _dot(zero + change.change * scale, y, change.factor < 1),
    )


def _dot(x: float, y: float, hollow: bool) -> str:
    fill = PAGE if hollow else STRONG
    return drawing.element("circle", cx=x, cy=y, r=3.7, fill=fill, stroke=STRONG, stroke_width=1.8)


def _legend(shown: Sequence[Change], x: float, y: float) -> str:
    drawn = ""
    for factor in sorted({change.factor for change in shown}):
        drawn += _dot(x + 5, y - 4, factor < 1)
        words = "removed" if factor == 0 else f"amplified × {factor:g}"
        drawn += drawing.text(x + 16, y, words, 13, MUTED)
        x += 16 + drawing.length(words, 13) + 22
    drawn += drawing.line([(x, y - 4), (x + 22, y - 4)], STRONG, 1.6)
    return drawn + drawing.text(x + 30, y, "interval", 13, MUTED)
