"""Dots with their intervals: what edits of units do to pictures, by concept."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ablate.style import ACCENT, HAIRLINE, INK, MUTED, PAGE, VACANT, Color
from ablate.view import svg as drawing

MOST = 8  # concepts
SIZE = 14
NAMED = 128  # width of the column of names
BETWEEN = 22  # panels
INSET = 12  # of an axis within its panel
OWN, OTHER = 46.0, 29.0  # heights of the concept's own row, and of others
AIR = 9.0  # of them above and below the marks together
STRONG, MILD = drawing.ramp(0.78), drawing.ramp(0.4)
TELLING = 0.05  # change of a probability that an amplification is drawn from
FINEST = -5  # power of ten of the least drift that is told apart
Edit = tuple[int, float]  # how many units, times what


@dataclass(frozen=True)
class Effect:
    """What an edit does to the pictures of a concept.

    `before`, `after`: the concept's probability, 0 ... 1; `low`, `high`: the interval of its
    change. `drift`: how far the pictures move, a cosine distance; None where it is not known.
    `own`: of the concept that the units answer to. `units`: how many are edited.
    """

    concept: str
    own: bool
    units: int
    factor: float
    before: float
    after: float
    low: float
    high: float
    drift: float | None

    @property
    def edit(self) -> Edit:
        """By which it came about."""
        return self.units, self.factor


@dataclass(frozen=True)
class Drawn:
    """A piece of a drawing, and how high it is."""

    svg: str
    height: float


@dataclass(frozen=True)
class _Panel:
    """An axis from `left` to `right`; `place` maps a value to 0 ... 1 along it."""

    left: float
    right: float
    place: Callable[[float], float]

    def at(self, value: float) -> float:
        return self.left + (self.right - self.left) * min(max(self.place(value), 0), 1)


def effects(every: Sequence[Effect], x: float, y: float, width: float) -> Drawn:
    """What edits do: figures of each, then a row a concept, the unit's own first.

    To the left probabilities as they are after an edit, to the right how far pictures move.
    """
    title = drawing.text(x, y, "Effects", 15, bold=True)
    if not every:
        return Drawn(title + drawing.text(x, y + 30, "not measured", SIZE, MUTED), 40)
    known = dict.fromkeys((not e.own, e.concept) for e in every)
    concepts = [concept for _, concept in sorted(known, key=lambda row: row[0])]
    left_out, concepts = len(concepts) - MOST, concepts[:MOST]
    edits = _telling(every)
    wide = (width - NAMED - BETWEEN) / 2
    starts = x + NAMED, x + NAMED + wide + BETWEEN
    odds, drift = _panels(every, starts, wide)
    drawn = [title, _heads(starts, y), _summary(every, edits, x, starts, y + 26, wide)]
    top = y + 26 + 20 * len(edits) + 4
    rows, at = {}, top
    for concept in concepts:
        own = any(e.own for e in every if e.concept == concept)
        high = OWN if own else OTHER
        rows[concept] = at
        if own:
            drawn.append(drawing.rect(x - 8, at, width + 8, high, VACANT))
        word = drawing.starting(concept, SIZE, NAMED - 14)
        drawn.append(drawing.text(x, at + high / 2 + 5, word, SIZE, INK, bold=own))
        at += high
    drawn += [_axis(odds, _PERCENT, top, at), _axis(drift, _POWERS, top, at)]
    for effect in every:
        if effect.concept in rows and effect.edit in edits:
            number = list(edits).index(effect.edit)
            drawn.append(_marks(effect, number, len(edits), rows[effect.concept], odds, drift))
    told = [f"{left_out} further concepts not drawn"] if left_out > 0 else []
    told.insert(0, "as CLIP reads the pictures of each concept")
    for i, words in enumerate(told):
        drawn.append(drawing.text(starts[0], at + 38 + 17 * i, words, 12, MUTED))
    return Drawn("".join(drawn), at + 25 + 17 * len(told) - y)


def _telling(every: Sequence[Effect]) -> dict[Edit, None]:
    """The edits that are drawn: units removed and turned around, and, of those amplified, that
    which moves a probability most, where it is worth telling."""
    known = sorted({e.edit for e in every}, key=lambda e: (e[0], e[1] != 0, -e[1]))
    moved = {
        edit: max(abs(e.after - e.before) for e in every if e.edit == edit)
        for edit in known
        if edit[1] > 0
    }
    most = max(moved, key=lambda edit: moved[edit], default=None)
    return dict.fromkeys(
        edit for edit in known if edit[1] <= 0 or (edit == most and moved[edit] >= TELLING)
    )


def _panels(
    every: Sequence[Effect], starts: tuple[float, float], wide: float
) -> tuple[_Panel, _Panel]:
    """Of probabilities, and of drift: a logarithm, the same for all cards but for what is huge."""
    top = math.log10(max(1.0, *(e.drift or 0 for e in every)))

    def power(value: float) -> float:
        return (math.log10(max(value, 1e-30)) - FINEST) / (top - FINEST)

    first, second = ((at + INSET, at + wide - INSET) for at in starts)
    return _Panel(*first, lambda value: value), _Panel(*second, power)


def _heads(starts: tuple[float, float], y: float) -> str:
    return "".join(
        drawing.text(at, y, words, 13, INK)
        for at, words in zip(starts, ("Probability", "Embedding drift"), strict=True)
    )


def _summary(
    every: Sequence[Effect],
    edits: Mapping[Edit, None],
    x: float,
    starts: tuple[float, float],
    y: float,
    wide: float,
) -> str:
    """A line an edit, which is the key to its mark as well: what becomes of the own concept, and
    by how many times as much it moves as others do."""
    drawn = ""
    for i, edit in enumerate(edits):
        line = y + 20 * i
        drawn += _mark(x + 5, line - 4.5, edit, 4.4, STRONG)
        drawn += drawing.text(x + 17, line, _called(edit), 13, MUTED)
        of = [e for e in every if e.edit == edit]
        own = next((e for e in of if e.own), None)
        if own is None:
            continue
        change = f"{100 * own.before:.1f} → {100 * own.after:.1f} %"
        drawn += drawing.text(starts[0], line, change, 13, INK)
        others = [e.drift for e in of if not e.own and e.drift is not None]
        if own.drift is not None:
            words = _plain(own.drift)
            mean = sum(others) / len(others) if others else 0
            if mean > 0 and own.drift > 0:
                words += f"  ·  {_times(own.drift / mean)} × others"
            drawn += drawing.text(starts[1], line, drawing.fit(words, 13, wide + 12)[0], 13, INK)
    return drawn


def _called(edit: Edit) -> str:
    units, factor = edit
    how = "removed" if factor == 0 else f"× {factor:g}".replace("-", "−")
    return f"unit {how}" if units == 1 else f"{units} units {how}"


def _plain(value: float) -> str:
    """Two digits that count, without a power of ten."""
    if value <= 0:
        return "0"
    return f"{value:.{max(1 - math.floor(math.log10(value)), 0)}f}"


def _times(ratio: float) -> str:
    return f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"


_PERCENT = ((0.0, "0"), (0.5, "50"), (1.0, "100 %"))
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_POWERS = [
    (10.0**n, f"{'≤ ' * (n == FINEST)}10{str(n).translate(_RAISED)}" if n % 2 else "")
    for n in range(FINEST, 1)
]


def _axis(panel: _Panel, ticks: Sequence[tuple[float, str]], top: float, bottom: float) -> str:
    drawn = ""
    for value, words in ticks:
        at = panel.at(value)
        drawn += drawing.line([(at, top), (at, bottom + 4)], HAIRLINE)
        drawn += drawing.text(at, bottom + 19, words, 12, MUTED, anchor="middle")
    return drawn


def _marks(effect: Effect, number: int, count: int, top: float, odds: _Panel, drift: _Panel) -> str:
    """An effect in both panels; with the first of a row the tick of the baseline."""
    high, color = (OWN, STRONG) if effect.own else (OTHER, MILD)
    pitch = (high - AIR) / count
    radius = min(max(0.4 * pitch, 2.5), 4.4)
    y = top + AIR / 2 + pitch * (number + 0.5)
    interval = [(odds.at(effect.before + end), y) for end in (effect.low, effect.high)]
    told = (
        f"{effect.concept}, {_called(effect.edit)}: {100 * effect.before:.1f} % before,"
        f" {100 * effect.after:.1f} % after (change {100 * effect.low:+.1f} to"
        f" {100 * effect.high:+.1f} points)"
    )
    drawn = [drawing.line(interval, color, 1.7)]
    if number == 0:
        at = odds.at(effect.before)
        ends = [(at, top + 2), (at, top + high - 2)]
        drawn.insert(0, drawing.line(ends, ACCENT, 2))
    drawn.append(_mark(odds.at(effect.after), y, effect.edit, radius, color))
    if effect.drift is not None:
        told += f", drift {_plain(effect.drift)}"
        drawn.append(_mark(drift.at(effect.drift), y, effect.edit, radius, color))
    return drawing.element("g", drawing.tooltip(told.replace("-", "−")), *drawn)


def _mark(x: float, y: float, edit: Edit, radius: float, color: Color) -> str:
    """A circle: one unit; a square: several. Hollow: removed; filled: turned around; crossed:
    amplified."""
    units, factor = edit
    fill, thick = color if factor < 0 else PAGE, min(0.5 * radius, 1.7)
    if units == 1:
        shape = drawing.element(
            "circle", cx=x, cy=y, r=radius, fill=fill, stroke=color, stroke_width=thick
        )
    else:
        side = 1.8 * radius
        shape = drawing.rect(
            x - side / 2, y - side / 2, side, side, fill, stroke=color, stroke_width=thick
        )
    if factor > 0:
        reach = 0.55 * radius
        for ends in ([(x - reach, y), (x + reach, y)], [(x, y - reach), (x, y + reach)]):
            shape += drawing.line(ends, color, 0.8 * thick)
    return shape
