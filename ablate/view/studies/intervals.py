"""Dots with their intervals: what edits of units do to pictures, by concept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablate.style import ACCENT, MUTED, PAGE, VACANT, Color, elide, fit, ramp
from ablate.view.chart import Axis, Scale
from ablate.view.svg import Canvas

MOST = 8  # concepts
SIZE = 14
NAMED = 128  # width of the column of names
BETWEEN = 22  # panels
INSET = 12  # of an axis within its panel
FIRST, OTHER = 46.0, 29.0  # heights of the row of the units' concept, and of others
AIR = 9.0  # of them above and below the marks together
STRONG, MILD = ramp(0.78), ramp(0.4)
NOTABLE = 0.05  # change of a probability that an amplification is drawn from
FINEST = -5  # power of ten of the least drift that is resolved
RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PERCENT = ((0.0, "0"), (0.5, "50"), (1.0, "100 %"))
POWERS = [
    (10.0**n, f"{'≤ ' * (n == FINEST)}10{str(n).translate(RAISED)}" if n % 2 else "")
    for n in range(FINEST, 1)
]
Edit = tuple[int, float]  # how many units, times what


@dataclass(frozen=True)
class Effect:
    """What an edit does to the pictures of a concept."""

    concept: str  # what the pictures should show
    answered: bool  # whether it is the concept that the units answer to
    units: int  # how many are edited
    factor: float  # what they are multiplied by
    before: float  # the concept's probability without the edit, 0 ... 1
    after: float  # the same with it
    low: float  # the lower end of the interval of its change
    high: float  # the upper end
    drift: float | None  # how far the pictures move, a cosine distance; None where it is not known

    @property
    def edit(self) -> Edit:
        """What the units are edited by."""
        return self.units, self.factor


def draw_effects(
    canvas: Canvas, effects: Sequence[Effect], x: float, y: float, width: float
) -> float:
    """Draw what edits do: figures of each, then a row a concept, the units' concept first.

    To the left probabilities as they are after an edit, to the right how far pictures move.

    Returns:
        The height.
    """
    canvas.text(x, y, "Effects", 15, bold=True)
    if not effects:
        canvas.text(x, y + 30, "not measured", SIZE, MUTED)
        return 40
    known = dict.fromkeys((not e.answered, e.concept) for e in effects)
    ordered = [concept for _, concept in sorted(known, key=lambda row: row[0])]
    concepts, edits = ordered[:MOST], _drawn_edits(effects)
    wide = (width - NAMED - BETWEEN) / 2
    starts = x + NAMED, x + NAMED + wide + BETWEEN
    furthest = max(1.0, *(e.drift or 0 for e in effects))
    scales = Scale(1, 0, "linear"), Scale(furthest, 10**FINEST, "log")
    axes = [
        Axis(scale, start + INSET, start + wide - INSET)
        for scale, start in zip(scales, starts, strict=True)
    ]
    for start, words in zip(starts, ("Probability", "Embedding drift"), strict=True):
        canvas.text(start, y, words, 13)
    for i, edit in enumerate(edits):
        _summary(canvas, [e for e in effects if e.edit == edit], x, starts, y + 26 + 20 * i, wide)
    top = at = y + 26 + 20 * len(edits) + 4
    rows = {}
    for concept in concepts:
        first = (False, concept) in known
        high = FIRST if first else OTHER
        rows[concept] = at
        if first:
            canvas.rect(x - 8, at, width + 8, high, VACANT)
        canvas.text(x, at + high / 2 + 5, elide(concept, SIZE, NAMED - 14), SIZE, bold=first)
        at += high
    for axis, ticks in zip(axes, (PERCENT, POWERS), strict=True):
        axis.draw_ticks(canvas, ticks, (top, at + 4), [at + 19], 12)
    for effect in effects:
        if effect.concept in rows and effect.edit in edits:
            _row(canvas, effect, edits, rows[effect.concept], axes)
    notes = ["as CLIP reads the pictures of each concept"]
    if len(ordered) > MOST:
        notes.append(f"{len(ordered) - MOST} further concepts not drawn")
    return canvas.lines(starts[0], at + 38, notes, 12, 17) - 13 - y


def _drawn_edits(effects: Sequence[Effect]) -> list[Edit]:
    """The edits that are drawn: units removed and turned around, and one amplification.

    That which moves a probability most, where it is notable.
    """
    known = sorted({e.edit for e in effects}, key=lambda e: (e[0], e[1] != 0, -e[1]))
    moved = {
        edit: max(abs(e.after - e.before) for e in effects if e.edit == edit)
        for edit in known
        if edit[1] > 0
    }
    most = max(moved, key=lambda edit: moved[edit], default=None)
    return [e for e in known if e[1] <= 0 or (e == most and moved[e] >= NOTABLE)]


def _summary(
    canvas: Canvas,
    effects: Sequence[Effect],
    x: float,
    starts: tuple[float, float],
    y: float,
    wide: float,
) -> None:
    """Write a line on an edit, which is the key to its mark as well.

    How the probability of the units' concept changes, and by how many times as much it moves as
    others do.
    """
    edit = effects[0].edit
    _mark(canvas, x + 5, y - 4.5, edit, 4.4, STRONG)
    canvas.text(x + 17, y, _name(edit), 13, MUTED)
    main = next((e for e in effects if e.answered), None)
    if main is None:
        return
    canvas.text(starts[0], y, f"{100 * main.before:.1f} → {100 * main.after:.1f} %", 13)
    others = [e.drift for e in effects if not e.answered and e.drift is not None]
    if main.drift is not None:
        words = _plain(main.drift)
        mean = sum(others) / len(others) if others else 0
        if mean > 0 and main.drift > 0:
            ratio = main.drift / mean
            words += f"  ·  {ratio:,.0f}" if ratio >= 10 else f"  ·  {ratio:.2g}"
            words += " × others"
        canvas.text(starts[1], y, fit(words, 13, wide + 12), 13)


def _name(edit: Edit) -> str:
    units, factor = edit
    how = "removed" if factor == 0 else f"× {factor:g}".replace("-", "−")
    return f"unit {how}" if units == 1 else f"{units} units {how}"


def _plain(value: float) -> str:
    """Two digits that count, without a power of ten."""
    if value <= 0:
        return "0"
    return f"{value:.{max(1 - math.floor(math.log10(value)), 0)}f}"


def _row(
    canvas: Canvas, effect: Effect, edits: Sequence[Edit], top: float, axes: Sequence[Axis]
) -> None:
    """Draw an effect in both panels; with the first of a row the tick of the baseline."""
    odds, drift = axes
    high, color = (FIRST, STRONG) if effect.answered else (OTHER, MILD)
    number, pitch = edits.index(effect.edit), (high - AIR) / len(edits)
    radius = min(max(0.4 * pitch, 2.5), 4.4)
    y = top + AIR / 2 + pitch * (number + 0.5)
    facts = (
        f"{effect.concept}, {_name(effect.edit)}: {100 * effect.before:.1f} % before,"
        f" {100 * effect.after:.1f} % after (change {100 * effect.low:+.1f} to"
        f" {100 * effect.high:+.1f} points)"
    )
    if effect.drift is not None:
        facts += f", drift {_plain(effect.drift)}"
    with canvas.group(facts.replace("-", "−")):
        if number == 0:
            x = odds.at(effect.before)
            canvas.line([(x, top + 2), (x, top + high - 2)], ACCENT, 2)
        ends = (odds.at(effect.before + end) for end in (effect.low, effect.high))
        canvas.line([(x, y) for x in ends], color, 1.7)
        _mark(canvas, odds.at(effect.after), y, effect.edit, radius, color)
        if effect.drift is not None:
            _mark(canvas, drift.at(effect.drift), y, effect.edit, radius, color)


def _mark(canvas: Canvas, x: float, y: float, edit: Edit, radius: float, color: Color) -> None:
    """Draw a circle for one unit, a square for several.

    Hollow: removed; filled: turned around; crossed: amplified.
    """
    units, factor = edit
    fill, thick = color if factor < 0 else PAGE, min(0.5 * radius, 1.7)
    if units == 1:
        canvas.circle(x, y, radius, fill, stroke=color, stroke_width=thick)
    else:
        side = 1.8 * radius
        box = x - side / 2, y - side / 2, side, side
        canvas.rect(*box, fill, stroke=color, stroke_width=thick)
    if factor > 0:
        reach = 0.55 * radius
        for ends in ([(x - reach, y), (x + reach, y)], [(x, y - reach), (x, y + reach)]):
            canvas.line(ends, color, 0.8 * thick)
