"""Unit cards: all that is known of a unit at a glance, ten on a sheet, or each by itself.

What a card shows: the concepts that the unit answers to, the pictures that drive it most and where
in them, its feature visualization, and what happens to pictures and their readout when it is
removed or amplified.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ablate.drift import COVERED
from ablate.store import (
    Study,
    batched,
    footer,
    open_image,
    read_cards,
    read_image,
    read_study,
    shortened,
    slug_of,
)
from ablate.style import (
    ACCENT,
    HAIRLINE,
    INK,
    MUTED,
    PAGE,
    VACANT,
    elide,
    elide_path,
    fit,
    fit_lines,
    ramp,
    text_width,
)
from ablate.view.studies.intervals import NOTABLE, Effect, draw_effects
from ablate.view.svg import Canvas, png

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
LIGHT, MEDIUM, STRONG = ramp(0.3), ramp(0.45), ramp(0.62)
CAPTIONS = {"reversed": "× −4"}  # of examples whose key is none
NOTES = (
    "Contrast: a concept's mean less that of the others, in standard deviations within concepts."
    "  Framed: where in the picture the unit answers most.",
    "Probability: that of each concept for its own pictures; red: before; marks: after the edit;"
    f" lines: {100 * COVERED:.0f} % t interval of the change.  Of edits × 4 only that which"
    f" changes one most is drawn, from {100 * NOTABLE:.0f} points on.",
    "Embedding drift: cosine distance between CLIP's embeddings of the pictures before and after,"
    " on a log axis; × others: compared with the mean of the other concepts.",
)
CONTRAST = (
    "Bars and figures: contrast, a concept's mean less that of the others, in standard deviations"
    " within concepts."
)


def cards(folder: Path) -> list[Card]:
    """The cards of a study, from its `cards.json`; none where there is no such file.

    Raises:
        StoreError: The file has another form.
    """
    return list(read_cards(folder).get("cards", []))


def name(card: Card) -> str:
    """The name of a unit: `up_blocks.0.resnets.0.conv1 channel 37`."""
    return f"{card['module']} {_short_name(card)}"


def _short_name(card: Card) -> str:
    kind = {"channels": "channel", "heads": "head"}.get(str(card.get("kind")), "unit")
    return f"{kind} {card['unit']}"


def slug(card: Card) -> str:
    """A name for files and anchors, another for each unit."""
    return slug_of(f"{card['module']}-{card['unit']}")


def svg(card: Card, folder: Path) -> str:
    """Draw one card, on a page by itself.

    Raises:
        StoreError: A picture of it is outside of the folder, or broken.
    """
    canvas = Canvas()
    with canvas.group(transform=f"translate({MARGIN} {MARGIN})"):
        height = _draw(canvas, card, folder)
    bottom = canvas.lines(MARGIN, round(MARGIN + height + 34), NOTES, 13, 20)
    label = f"Card of {name(card)}"
    return canvas.document(WIDE + 2 * MARGIN, bottom - 20 + MARGIN, label=label)


def sheet(folder: Path) -> Iterator[Image.Image]:
    """Pages of ten cards each, two side by side, RGB."""
    study = read_study(folder)
    known = cards(folder)
    for number, some in enumerate(batched(known, A_SHEET), 1):
        of = f"page {number} of {-(-len(known) // A_SHEET)}" if len(known) > A_SHEET else ""
        with Image.open(io.BytesIO(png(_page(study, some, folder, of)))) as page:
            yield page.convert("RGB")


def _page(study: Study, some: Sequence[Card], folder: Path, number: str) -> str:
    """A sheet of cards as a drawing."""
    width = min(2, len(some)) * (WIDE + BETWEEN) - BETWEEN
    canvas, y = Canvas(), float(MARGIN + 130)
    for pair in batched(some, 2):
        heights = []
        for i, card in enumerate(pair):
            x = MARGIN + i * (WIDE + BETWEEN)
            with canvas.group(transform=f"translate({x} {y:.1f})"):
                heights.append(_draw(canvas, card, folder))
        y += max(heights) + BETWEEN / 2
        canvas.line([(MARGIN, y), (MARGIN + width, y)], HAIRLINE)
        y += BETWEEN / 2
    facts = [*study.facts, *([number] if number else [])]
    bottom = canvas.lines(MARGIN, y + 12, footer(facts, NOTES), 15, 24)
    return canvas.document(
        width + 2 * MARGIN, bottom - 12 + MARGIN, name=study.name, about=study.about,
        margin=MARGIN, label=f"Units of {study.name}",
    )  # fmt: skip


def search(folder: Path) -> str | None:
    """Draw a table of concepts and the units that stand for each, by contrast; None without cards.

    Raises:
        StoreError: `cards.json` or `study.json` cannot be read.
    """
    table = read_cards(folder)
    if not (table.get("search") or table.get("none")):
        return None
    study = read_study(folder)
    rows = [row for row in table.get("search", []) if row.get("units")]
    none = [str(row["concept"]) for row in table.get("search", []) if not row.get("units")]
    none = list(dict.fromkeys([*none, *map(str, table.get("none", []))]))
    units = [unit for row in rows for unit in row["units"][:COLUMNS]]
    common, short = shortened([str(unit["module"]) for unit in units])
    names = {str(unit["module"]): name for unit, name in zip(units, short, strict=True)}
    top = max((float(unit["contrast"]) for unit in units), default=0) or 1
    y, cell = float(MARGIN + 128), (WIDE - SIDE_OF_TABLE) / COLUMNS
    canvas, left = Canvas(), MARGIN + SIDE_OF_TABLE
    canvas.text(MARGIN, y, "Concept", 15, bold=True)
    order = "by contrast, the highest first" + (f"; modules of {common}" if common else "")
    _title(canvas, left, y, "Units that stand for it", order)
    for row in rows:
        y += 40
        canvas.line([(MARGIN, y - 25), (MARGIN + WIDE, y - 25)], HAIRLINE)
        canvas.text(MARGIN, y, elide(row["concept"], 16, SIDE_OF_TABLE - 14), 16, bold=True)
        for i, unit in enumerate(row["units"][:COLUMNS]):
            label = names[str(unit["module"])]
            _unit_in_table(canvas, unit, label, short, top, left + i * cell, y, cell - 24)
    y += 52
    if none:
        canvas.text(MARGIN, y, "No unit stands for", 15, bold=True)
        y = canvas.paragraph(MARGIN, y + 25, ", ".join(none), 16, WIDE, INK) + 20
    notes = [CONTRAST, *([str(table["rough"])] if table.get("rough") else [])]
    bottom = canvas.lines(MARGIN, y, footer(study.facts, notes), 15, 24)
    return canvas.document(
        WIDE + 2 * MARGIN, bottom + MARGIN - 20, name=study.name, margin=MARGIN,
        about="Which units stand for which concept.",
        label=f"Concepts and their units of {study.name}",
    )  # fmt: skip


def _unit_in_table(
    canvas: Canvas, unit: Mapping[str, Any], name: str, among: Sequence[str], top: float,
    x: float, y: float, room: float,
) -> None:  # fmt: skip
    """Draw a unit of the table: its contrast as a bar behind its name, distinct `among` others."""
    value, number = float(unit["contrast"]), f"{unit['unit']}"
    with canvas.group(f"{unit['module']} {unit['unit']}: contrast {value:.2f}"):
        figure = f"{value:.1f}".replace("-", "−")
        left = text_width(number, 14, True) + 8
        shown = elide_path(name, 14, room - left - text_width(figure, 13) - 12, among)
        canvas.rect(x, y + 6, max(room * max(value, 0) / top, 1), 5, MEDIUM)
        canvas.text(x, y, number, 14, bold=True)
        canvas.text(x + left, y, shown, 14)
        canvas.text(x + room, y, figure, 13, MUTED, anchor="end")


# ------------------------------------------------------------ parts of a card; they return heights


def _draw(canvas: Canvas, card: Card, folder: Path) -> float:
    """Draw a card, its upper left corner at 0, 0; return its height."""
    _head(canvas, card)
    top = 92.0
    bars = _bars(canvas, card, 0, top)
    pictures = _pictures(canvas, card, folder, SIDE + GAP, top)
    effects = draw_effects(canvas, _effects(card), WIDE - RIGHT, top, RIGHT)
    bottom = top + max(bars, pictures, effects)
    below = _below(canvas, card, folder, bottom + 30)
    return bottom + 30 + below if below else bottom


def _head(canvas: Canvas, card: Card) -> None:
    title = _short_name(card)
    canvas.text(0, 26, title, 30, bold=True)
    x = text_width(title, 30, True) + 16
    concept = elide(card["concept"], 30, 0.4 * WIDE)
    room = WIDE - x - max(330, text_width(concept, 30, True) + 24)
    canvas.text(x, 26, elide(str(card["module"]), 20, room, start=True), 20)
    parts = [card.get(key) for key in ("component", "stage", "role")]
    canvas.text(0, 54, "  ·  ".join(str(p).replace("_", " ") for p in parts if p), 16, MUTED)
    canvas.text(WIDE, 26, concept, 30, bold=True, anchor="end")
    index = card.get("selectivity")
    if index is not None:
        words = f"class selectivity {float(index):.2f}"
        canvas.text(WIDE, 54, words, 16, MUTED, anchor="end")


def _title(canvas: Canvas, x: float, y: float, words: str, rest: str = "") -> None:
    canvas.text(x, y, words, 15, bold=True)
    if rest:
        canvas.text(x + text_width(words, 15, True) + 8, y, rest, 13, MUTED)


def _bars(canvas: Canvas, card: Card, x: float, y: float) -> float:
    """Contrast by concept: eight that the unit answers to, and three that it answers to least."""
    above = [(str(c), float(v)) for c, v in card.get("concepts", [])][:SHOWN]
    below = [(str(c), float(v)) for c, v in card.get("against", [])][:AGAINST]
    both = above + below
    _title(canvas, x, y, "Concepts", "contrast")
    if not both:
        return 20
    named = min(max(text_width(c, 14) for c, _ in both) + 12, 120)
    high, low = max(0.0, *(v for _, v in both)), min(0.0, *(v for _, v in both))
    room = SIDE - named - 44 * (1 + (low < 0))
    zero = x + named + 44 * (low < 0) + room * -low / ((high - low) or 1)
    first, y = y + 14, y + 30
    for i, (concept, value) in enumerate(both):
        y += 8 if i == len(above) and above else 0
        is_first = concept == card["concept"]
        canvas.text(x, y, elide(concept, 14, named - 8), 14, bold=is_first)
        reach = abs(value) / ((high - low) or 1) * room
        start = zero if value >= 0 else zero - reach
        canvas.rect(start, y - 11, max(reach, 1), 13, STRONG if is_first else LIGHT)
        at, anchor = (start + reach + 6, None) if value >= 0 else (start - 6, "end")
        canvas.text(at, y, f"{value:.1f}".replace("-", "−"), 13, MUTED, anchor=anchor)
        y += 22
    canvas.line([(zero, first), (zero, y - 14)])
    return y - first - 2


def _tile(canvas: Canvas, path: Path | None, x: float, y: float, side: float) -> None:
    """Draw a picture in a square, or a vacant one where it is missing."""
    if path is None:
        canvas.rect(x, y, side, side, VACANT)
        canvas.text(x + side / 2, y + side / 2 + 4, "not there", 12, MUTED, anchor="middle")
    else:
        canvas.picture(path, x, y, side, side)


def _place(
    canvas: Canvas, path: Path, place: Sequence[float], x: float, y: float, side: float
) -> None:
    """Frame a place of a picture, along the borders of the picture's pixels."""
    with open_image(path) as image:
        width, height = image.size
    scale = side / max(width, height)
    left, top = x + (side - width * scale) / 2, y + (side - height * scale) / 2
    low, start, high, stop = (min(max(float(v), 0), 1) for v in place)
    y0, y1 = round(low * height), max(round(high * height), round(low * height) + 1)
    x0, x1 = round(start * width), max(round(stop * width), round(start * width) + 1)
    box = left + x0 * scale, top + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale
    canvas.rect(*box, stroke=PAGE, stroke_width=4.5)
    canvas.rect(*box, stroke=INK, stroke_width=2)


def _pictures(canvas: Canvas, card: Card, folder: Path, x: float, y: float) -> float:
    """What drives the unit most, with the place marked."""
    shown = list(card.get("top", []))[:SHOWN]
    _title(canvas, x, y, "Drive it most")
    if not shown:
        canvas.text(x, y + 30, "none recorded", 14, MUTED)
        return 40
    first, y = y, y + 16
    for line in batched(shown, TOPS):
        for i, top in enumerate(line):
            at, prompt = x + i * (TILE + 12), str(top["prompt"])
            path = read_image(folder, top.get("image"))
            with canvas.group(f"“{prompt}”, seed {top['seed']}: {float(top['value']):.3g}"):
                _tile(canvas, path, at, y, TILE)
                if path is not None and top.get("place"):
                    _place(canvas, path, top["place"], at, y, TILE)
                canvas.lines(at, y + TILE + 17, fit_lines(prompt, 12, TILE, 2), 12, 15)
        y += TILE + 44
    return y - first - 6


def _below(canvas: Canvas, card: Card, folder: Path, y: float) -> float:
    """The feature visualization, and what edits of the unit do to pictures.

    Then below, across, what edits of its concept's strongest units together do.
    """
    together = card.get("together") or {}
    concept, count = str(card["concept"]), len(together.get("units", []))
    seen = read_image(folder, card.get("visualization"))
    bottom = _examples(
        canvas, card, concept, "Without it, and with four times as much of it",
        str(card.get("sentence") or ""), folder, SIDE + GAP if seen else 0, y,
    )  # fmt: skip
    if seen is not None:
        side = min(float(SIDE), max(bottom - y - 16, SEEN))
        _title(canvas, 0, y, "Feature visualization")
        canvas.cell(seen, 0, y + 16, side)
        bottom = max(bottom, y + 16 + side)
    gap = 38 if bottom > y else 0
    alone = "unit that stands" if count == 1 else f"{count} units that stand"
    title = f"The same of the {alone} most for {elide(concept, 15, WIDE / 2)}"
    title += ", and all of them turned around" if together.get("reversed") else ""
    sentences = [str(sentence) for sentence in together.get("sentences") or []]
    start = bottom + gap
    end = _examples(
        canvas, together, concept, title, sentences[-1] if sentences else "", folder, 0, start
    )
    return (end if end > start else bottom) - y


def _examples(
    canvas: Canvas, edited: Mapping[str, Any], concept: str, title: str, sentence: str,
    folder: Path, left: float, y: float,
) -> float:  # fmt: skip
    """Draw examples of edits side by side below a title and a sentence; return where they end."""
    examples = _ordered(edited.get("examples") or [], concept)[:EXAMPLES]
    if not examples and not sentence:
        return y
    _title(canvas, left, y, title)
    if sentence:
        y = canvas.paragraph(left, y + 22, sentence, 14, WIDE - SIDE - GAP) - 22
    if not examples:
        return y
    within, between = WITHIN
    room = (WIDE - left - (EXAMPLES - 1) * between) / EXAMPLES
    many = max(sum(key in example for key in SHOTS) for example in examples)
    side = min((room - (many - 1) * within) / many, LARGE)
    for i, example in enumerate(examples):
        _example(canvas, example, folder, left + i * (room + between), y + 16, side)
    return y + 16 + side + 34


def _ordered(examples: Sequence[Mapping[str, Any]], concept: str) -> list[Mapping[str, Any]]:
    """Examples, those of a concept first."""
    pattern = re.compile(rf"\b{re.escape(concept)}\b", re.IGNORECASE)
    return sorted(examples, key=lambda e: not pattern.search(str(e["prompt"])))


def _example(
    canvas: Canvas, example: Mapping[str, Any], folder: Path, x: float, y: float, side: float
) -> None:
    words = f"“{example['prompt']}”, seed {example['seed']}"
    with canvas.group(words):
        for i, key in enumerate(key for key in SHOTS if key in example):
            at, baseline = x + i * (side + WITHIN[0]), key == "baseline"
            inset = 4 * baseline  # its frame stays within the tile
            box = at + inset, y + inset, side - 2 * inset
            _tile(canvas, read_image(folder, example.get(key)), *box)
            if baseline:
                canvas.frame(*box, side - 2 * inset, ACCENT, 2.5)
            color = ACCENT if baseline else MUTED
            canvas.text(at, y + side + 16, CAPTIONS.get(key, key), 12, color, bold=baseline)
        canvas.text(x, y + side + 32, fit(words, 12, 3 * side), 12)


def _effects(card: Card) -> list[Effect]:
    """What edits of the unit, and of its concept's strongest together, do.

    Each edit once: where a layer has a single unit both are the same.
    """
    turned = (card.get("together") or {}).get("reversed") or []
    effects: dict[tuple[int, float, str], Effect] = {}
    for e in [*(card.get("effects") or []), *turned]:
        units, factor, concept = int(e.get("units") or 1), float(e["factor"]), str(e["concept"])
        before, after, low, high = (float(e[name]) for name in ("before", "after", "low", "high"))
        drift = None if e.get("drift") is None else float(e["drift"])
        effects.setdefault(
            (units, factor, concept),
            Effect(concept, bool(e["own"]), units, factor, before, after, low, high, drift),
        )
    return list(effects.values())
