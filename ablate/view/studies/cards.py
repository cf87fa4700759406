"""Unit cards: all that is known of a unit at a glance, ten on a sheet, or each by itself.

What a card shows: the concepts that the unit answers to, the pictures that drive it most and where
in them, its feature visualization, and what happens to pictures and their readout when it is
removed or amplified.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ablate.drift import COVERED
from ablate.store import (
    Study,
    batched,
    footer,
    read_cards,
    read_image,
    read_study,
    shortened,
    slug_of,
)
from ablate.style import ACCENT, HAIRLINE, INK, MUTED, PAGE, VACANT
from ablate.view import svg as drawing
from ablate.view.studies.intervals import TELLING, Effect, effects

Card = Mapping[str, Any]
MARGIN = 44
WIDE = 1360  # of a card, without margins
BODY = (MARGIN - 14, MARGIN - 14)  # upper left corner of a card without its margins
SIDE = 300  # of its left column, with bars
RIGHT = 470  # of its right column, with effects
GAP = 44  # between columns
TOPS = 4  # pictures in a line
TILE = (WIDE - SIDE - RIGHT - 2 * GAP - 3 * 12) / TOPS
WITHIN = 10, 26  # gaps within and between examples
SHOTS = ("baseline", "ablated", "amplified", "reversed")  # of an example, in order
SEEN = 200.0  # side of a feature visualization at least
SHOWN = 8  # pictures, and concepts for
AGAINST = 3
EXAMPLES = 3
LARGE = 138.0  # side of their pictures at most
A_SHEET = 10  # cards
COLUMNS = 4  # units of a concept in the table
SIDE_OF_TABLE = 190  # its column of concepts
BETWEEN = 56  # cards of a sheet
LIGHT, STRONG = drawing.ramp(0.3), drawing.ramp(0.62)
CALLED = {"reversed": "× −4"}  # captions of examples that are not their keys
NOTES = (
    "Contrast: a concept's mean less that of the others, in standard deviations within concepts."
    "  Framed: where in the picture the unit answers most.",
    "Probability: that of each concept for its own pictures; red: before; marks: after the edit;"
    f" lines: {100 * COVERED:.0f} % t interval of the change.  Of edits × 4 only that which"
    f" changes one most is drawn, from {100 * TELLING:.0f} points on.",
    "Embedding drift: cosine distance between CLIP's embeddings of the pictures before and after,"
    " on a log axis; × others: compared with the mean of the other concepts.",
)


def cards(folder: Path) -> list[Card]:
    """The cards of a study, from its `cards.json`; none where there is no such file.

    Raises `PictureError` where it is none (`ablate.pictures.facts.cards`).
    """
    return list(read_cards(folder).get("cards", []))


def name(card: Card) -> str:
    """What a unit is called: `up_blocks.0.resnets.0.conv1 channel 37`."""
    kind = {"channels": "channel", "heads": "head"}.get(str(card.get("kind")), "unit")
    return f"{card['module']} {kind} {card['unit']}"


def slug(card: Card) -> str:
    """A name for files and anchors, another for each unit."""
    return slug_of(f"{card['module']}-{card['unit']}")


def svg(card: Card, folder: Path) -> str:
    """One card, on a page of its own.

    Raises `PictureError` where a picture of it lies outside of the folder.
    """
    drawn = _draw(card, folder)
    foot = round(MARGIN + drawn.height + 34)
    notes = [drawing.text(MARGIN, foot + 20 * i, line, 13, MUTED) for i, line in enumerate(NOTES)]
    return drawing.document(
        WIDE + 2 * MARGIN, foot + 20 * (len(NOTES) - 1) + MARGIN,
        drawing.element("g", drawn.svg, transform=f"translate({MARGIN} {MARGIN})"), *notes,
        label=f"Card of {name(card)}",
    )  # fmt: skip


def sheet(folder: Path) -> Iterator[Image.Image]:
    """Pages of ten cards each, two side by side, RGB."""
    study = read_study(folder)
    known = cards(folder)
    for number, some in enumerate(batched(known, A_SHEET), 1):
        of = f"page {number} of {-(-len(known) // A_SHEET)}" if len(known) > A_SHEET else ""
        with Image.open(io.BytesIO(drawing.png(_page(study, some, folder, of)))) as page:
            yield page.convert("RGB")


def _page(study: Study, some: Sequence[Card], folder: Path, number: str) -> str:
    """A sheet of cards as a drawing."""
    across = min(2, len(some))
    drawn, y = [], float(MARGIN + 130)
    for pair in batched(some, 2):
        made = [_draw(card, folder) for card in pair]
        for i, card in enumerate(made):
            x = MARGIN + i * (WIDE + BETWEEN)
            drawn.append(drawing.element("g", card.svg, transform=f"translate({x} {y:.1f})"))
        y += max(card.height for card in made) + BETWEEN / 2
        drawn.append(
            drawing.line([(MARGIN, y), (MARGIN + across * (WIDE + BETWEEN) - BETWEEN, y)], HAIRLINE)
        )
        y += BETWEEN / 2
    width = across * (WIDE + BETWEEN) - BETWEEN + 2 * MARGIN
    lines = footer([*study.facts, *([number] if number else [])], NOTES)
    foot = [drawing.text(MARGIN, y + 12 + 24 * i, line, 15, MUTED) for i, line in enumerate(lines)]
    title = drawing.header(study.name, study.about, MARGIN, width - 2 * MARGIN)
    height = y + 24 * len(lines) + MARGIN
    return drawing.document(width, height, title, *drawn, *foot, label=f"Units of {study.name}")


def search(folder: Path) -> str | None:
    """A table of concepts and the units that stand for each, by contrast; None without cards."""
    found = read_cards(folder)
    if not (found.get("search") or found.get("none")):
        return None
    study = read_study(folder)
    rows = [row for row in found.get("search", []) if row.get("units")]
    none = [str(row["concept"]) for row in found.get("search", []) if not row.get("units")]
    none = list(dict.fromkeys([*none, *map(str, found.get("none", []))]))
    units = [unit for row in rows for unit in row["units"][:COLUMNS]]
    common, short = shortened([str(unit["module"]) for unit in units])
    names = {str(unit["module"]): name for unit, name in zip(units, short, strict=True)}
    top = max((float(unit["contrast"]) for unit in units), default=0) or 1
    y, cell = float(MARGIN + 128), (WIDE - SIDE_OF_TABLE) / COLUMNS
    drawn = [
        drawing.text(MARGIN, y, "Concept", 15, bold=True),
        _title(MARGIN + SIDE_OF_TABLE, y, "Units that stand for it",
               "by contrast, the highest first" + (f"; modules of {common}" if common else "")),
    ]  # fmt: skip
    for row in rows:
        y += 40
        word = drawing.starting(row["concept"], 16, SIDE_OF_TABLE - 14)
        drawn.append(drawing.line([(MARGIN, y - 25), (MARGIN + WIDE, y - 25)], HAIRLINE))
        drawn.append(drawing.text(MARGIN, y, word, 16, bold=True))
        for i, unit in enumerate(row["units"][:COLUMNS]):
            x = MARGIN + SIDE_OF_TABLE + i * cell
            own = names[str(unit["module"])]
            drawn.append(_found(unit, own, short, top, x, y, cell - 24))
    y += 52
    notes = []
    if none:
        drawn.append(drawing.text(MARGIN, y, "No unit stands for", 15, bold=True))
        words, y = drawing.paragraph(MARGIN, y + 25, ", ".join(none), 16, WIDE, INK)
        drawn.append(words)
        y += 20
    notes.append("Bars and figures: contrast, a concept's mean less that of the others, in standard"
                 " deviations within concepts.")  # fmt: skip
    if found.get("rough"):
        notes.append(str(found["rough"]))
    lines = footer(study.facts, notes)
    drawn += [drawing.text(MARGIN, y + 24 * i, line, 15, MUTED) for i, line in enumerate(lines)]
    title = drawing.header(study.name, "Which units stand for which concept.", MARGIN, WIDE)
    return drawing.document(
        WIDE + 2 * MARGIN, y + 24 * len(lines) + MARGIN - 20, title, *drawn,
        label=f"Concepts and their units of {study.name}",
    )  # fmt: skip


def _found(
    unit: Mapping[str, Any],
    name: str,
    among: Sequence[str],
    top: float,
    x: float,
    y: float,
    room: float,
) -> str:
    """A unit in the table: its contrast as a bar behind its name, told apart from those `among`
    it."""
    value = float(unit["contrast"])
    told = f"{unit['module']} {unit['unit']}: contrast {value:.2f}"
    number, figure = f"{unit['unit']}", f"{value:.1f}".replace("-", "−")
    left = drawing.length(number, 14, True) + 8
    shown = drawing.path(name, 14, room - left - drawing.length(figure, 13) - 12, among)
    return drawing.element(
        "g",
        drawing.tooltip(told),
        drawing.rect(x, y + 6, max(room * max(value, 0) / top, 1), 5, drawing.ramp(0.45)),
        drawing.text(x, y, number, 14, bold=True),
        drawing.text(x + left, y, shown, 14),
        drawing.text(x + room, y, figure, 13, MUTED, anchor="end"),
    )


@dataclass(frozen=True)
class _Drawn:
    svg: str
    height: float


def _draw(card: Card, folder: Path) -> _Drawn:
    """A card, its upper left corner at 0, 0."""
    head = _head(card)
    top = 92.0
    bars = _bars(card, 0, top)
    pictures = _pictures(card, folder, SIDE + GAP, top)
    edits = effects(_effects(card), WIDE - RIGHT, top, RIGHT)
    bottom = top + max(bars.height, pictures.height, edits.height) + 30
    below = _below(card, folder, bottom)
    return _Drawn(
        head + bars.svg + pictures.svg + edits.svg + below.svg,
        bottom + below.height if below.height else bottom - 30,
    )


def _head(card: Card) -> str:
    kind = {"channels": "channel", "heads": "head"}.get(str(card.get("kind")), "unit")
    title = f"{kind} {card['unit']}"
    drawn = drawing.text(0, 26, title, 30, bold=True)
    x = drawing.length(title, 30, True) + 16
    words = drawing.starting(card["concept"], 30, 0.4 * WIDE)
    room = WIDE - x - max(330, drawing.length(words, 30, True) + 24)
    drawn += drawing.text(x, 26, drawing.ending(str(card["module"]), 20, room), 20)
    parts = [card.get(key) for key in ("component", "stage", "role")]
    told = "  ·  ".join(str(part).replace("_", " ") for part in parts if part)
    drawn += drawing.text(0, 54, told, 16, MUTED)
    drawn += drawing.text(WIDE, 26, words, 30, bold=True, anchor="end")
    index = card.get("selectivity")
    if index is not None:
        drawn += drawing.text(
            WIDE, 54, f"class selectivity {float(index):.2f}", 16, MUTED, anchor="end"
        )
    return drawn


def _title(x: float, y: float, words: str, rest: str = "") -> str:
    drawn = drawing.text(x, y, words, 15, bold=True)
    if rest:
        drawn += drawing.text(x + drawing.length(words, 15, True) + 8, y, rest, 13, MUTED)
    return drawn


def _bars(card: Card, x: float, y: float) -> _Drawn:
    """Contrast by concept: eight that the unit answers to, and three that it answers to least."""
    above = [(str(c), float(v)) for c, v in card.get("concepts", [])][:SHOWN]
    below = [(str(c), float(v)) for c, v in card.get("against", [])][:AGAINST]
    both = above + below
    drawn = [_title(x, y, "Concepts", "contrast")]
    if not both:
        return _Drawn(drawn[0], 20)
    named = min(max(drawing.length(c, 14) for c, _ in both) + 12, 120)
    high, low = max(0.0, *(v for _, v in both)), min(0.0, *(v for _, v in both))
    room = SIDE - named - 44 * (1 + (low < 0))
    zero = x + named + 44 * (low < 0) + room * -low / ((high - low) or 1)
    y += 30
    first = y - 16
    for i, (concept, value) in enumerate(both):
        y += 8 if i == len(above) and above else 0
        word = drawing.starting(concept, 14, named - 8)
        own = concept == card["concept"]
        drawn.append(drawing.text(x, y, word, 14, INK, bold=own))
        reach = abs(value) / ((high - low) or 1) * room
        start = zero if value >= 0 else zero - reach
        drawn.append(drawing.rect(start, y - 11, max(reach, 1), 13, STRONG if own else LIGHT))
        at = start + reach + 6 if value >= 0 else start - 6
        anchor = None if value >= 0 else "end"
        figure = f"{value:.1f}".replace("-", "−")
        drawn.append(drawing.text(at, y, figure, 13, MUTED, anchor=anchor))
        y += 22
    drawn.append(drawing.line([(zero, first), (zero, y - 14)], MUTED))
    return _Drawn("".join(drawn), y - 22 - (first - 14) + 6)


def _tile(path: Path | None, x: float, y: float, side: float) -> str:
    """A picture in a square, or what stands for one that is not there."""
    if path is None:
        return drawing.rect(x, y, side, side, VACANT) + drawing.text(
            x + side / 2, y + side / 2 + 4, "not there", 12, MUTED, anchor="middle"
        )
    return drawing.picture(path, x, y, side, side)


def _place(path: Path, place: Sequence[float], x: float, y: float, side: float) -> str:
    """A frame around a place of a picture, along the borders of the picture's own pixels."""
    with Image.open(path) as image:
        width, height = image.size
    scale = side / max(width, height)
    left, top = x + (side - width * scale) / 2, y + (side - height * scale) / 2
    low, start, high, stop = (min(max(float(v), 0), 1) for v in place)
    y0, y1 = round(low * height), max(round(high * height), round(low * height) + 1)
    x0, x1 = round(start * width), max(round(stop * width), round(start * width) + 1)
    box = left + x0 * scale, top + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale
    return drawing.rect(*box, stroke=PAGE, stroke_width=4.5) + drawing.rect(
        *box, stroke=INK, stroke_width=2
    )


def _pictures(card: Card, folder: Path, x: float, y: float) -> _Drawn:
    """What drives the unit most, with the place marked."""
    shown = list(card.get("top", []))[:SHOWN]
    drawn = [_title(x, y, "Drive it most")]
    if not shown:
        return _Drawn(drawn[0] + drawing.text(x, y + 30, "none recorded", 14, MUTED), 40)
    side, first = TILE, y
    y += 16
    for line in batched(shown, TOPS):
        for i, top in enumerate(line):
            at = x + i * (side + 12)
            path = read_image(folder, top.get("image"))
            told = f"“{top['prompt']}”, seed {top['seed']}: {float(top['value']):.3g}"
            inside = _tile(path, at, y, side)
            if path is not None and top.get("place"):
                inside += _place(path, top["place"], at, y, side)
            prompt = "".join(
                drawing.text(at, y + side + 17 + 15 * n, part, 12, MUTED)
                for n, part in enumerate(drawing.fit(str(top["prompt"]), 12, side, 2))
            )
            drawn.append(drawing.element("g", drawing.tooltip(told), inside, prompt))
        y += side + 44
    return _Drawn("".join(drawn), y - first - 6)


def _below(card: Card, folder: Path, y: float) -> _Drawn:
    """The feature visualization, and what edits of the unit do to pictures; then below, across,
    those of its concept's strongest units together."""
    together = card.get("together") or {}
    concept, count = str(card["concept"]), len(together.get("units", []))
    seen = read_image(folder, card.get("visualization"))
    drawn, bottom = _examples(
        card, concept, "Without it, and with four times as much of it",
        str(card.get("sentence") or ""), folder, SIDE + GAP if seen else 0, y,
    )  # fmt: skip
    if seen is not None:
        side = min(float(SIDE), max(bottom - y - 16, SEEN))
        drawn += _title(0, y, "Feature visualization")
        drawn += drawing.picture(seen, 0, y + 16, side, side)
        drawn += drawing.frame(0, y + 16, side, side, HAIRLINE, 1)
        bottom = max(bottom, y + 16 + side)
    gap = 38 if bottom > y else 0
    alone = "unit that stands" if count == 1 else f"{count} units that stand"
    title = f"The same of the {alone} most for {drawing.starting(concept, 15, WIDE / 2)}"
    turned = bool(together.get("reversed"))
    sentences = [str(sentence) for sentence in together.get("sentences") or []]
    below, end = _examples(
        together, concept, title + (", and all of them turned around" if turned else ""),
        sentences[-1] if sentences else "", folder, 0, bottom + gap,
    )  # fmt: skip
    return _Drawn(drawn + below, (end if below else bottom) - y)


def _examples(
    told: Mapping[str, Any], concept: str, title: str, sentence: str, folder: Path,
    left: float, y: float,
) -> tuple[str, float]:  # fmt: skip
    """Examples of edits side by side below a title and a sentence; and where they end."""
    examples = _ordered(told.get("examples") or [], concept)[:EXAMPLES]
    if not examples and not sentence:
        return "", y
    drawn = _title(left, y, title)
    if sentence:
        words, y = drawing.paragraph(left, y + 22, sentence, 14, WIDE - SIDE - GAP)
        drawn += words
        y -= 22
    if not examples:
        return drawn, y
    within, between = WITHIN
    room = (WIDE - left - (EXAMPLES - 1) * between) / EXAMPLES
    many = max(sum(key in example for key in SHOTS) for example in examples)
    side = min((room - (many - 1) * within) / many, LARGE)
    for i, example in enumerate(examples):
        drawn += _example(example, folder, left + i * (room + between), y + 16, side)
    return drawn, y + 16 + side + 34


def _ordered(examples: Sequence[Mapping[str, Any]], concept: str) -> list[Mapping[str, Any]]:
    """Examples, those of a concept first."""
    own = re.compile(rf"\b{re.escape(concept)}\b", re.IGNORECASE)
    return sorted(examples, key=lambda e: not own.search(str(e["prompt"])))


def _example(example: Mapping[str, Any], folder: Path, x: float, y: float, side: float) -> str:
    drawn = [drawing.tooltip(f"“{example['prompt']}”, seed {example['seed']}")]
    for i, key in enumerate(key for key in SHOTS if key in example):
        at = x + i * (side + WITHIN[0])
        inset = 4 if key == "baseline" else 0  # its frame stays within the tile
        path = read_image(folder, example.get(key))
        drawn.append(_tile(path, at + inset, y + inset, side - 2 * inset))
        if inset:
            box = at + inset, y + inset, side - 2 * inset, side - 2 * inset
            drawn.append(drawing.frame(*box, ACCENT, 2.5))
        color = ACCENT if inset else MUTED
        caption = CALLED.get(key, key)
        drawn.append(drawing.text(at, y + side + 16, caption, 12, color, bold=bool(inset)))
    (words,) = drawing.fit(f"“{example['prompt']}”, seed {example['seed']}", 12, 3 * side) or [""]
    drawn.append(drawing.text(x, y + side + 32, words, 12, INK))
    return drawing.element("g", *drawn)


def _effects(card: Card) -> list[Effect]:
    """What edits of the unit, and of its concept's strongest together, do.

    Of each once: where a layer has a single unit both are the same.
    """
    turned = (card.get("together") or {}).get("reversed") or []
    found: dict[tuple[int, float, str], Effect] = {}
    for e in [*(card.get("effects") or []), *turned]:
        place = int(e.get("units") or 1), float(e["factor"]), str(e["concept"])
        before, after, low, high = (float(e[name]) for name in ("before", "after", "low", "high"))
        drift = None if e.get("drift") is None else float(e["drift"])
        units, factor, concept = place
        found.setdefault(
            place,
            Effect(concept, bool(e["own"]), units, factor, before, after, low, high, drift),
        )
    return list(found.values())
