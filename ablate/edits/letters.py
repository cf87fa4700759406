"""Words in pictures: a label on a finished one, and a picture of a word alone.

The typographic attack of Goh et al. 2021, "Multimodal neurons in artificial neural networks"
(distill.pub/2021/multimodal-neurons): CLIP reads a picture as the word that is written on it.
"""

from __future__ import annotations

import math
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ablate.style import INK, clean, typeface

PAPER = (255, 255, 255)
WIDE, TALL = 0.92, 0.3  # of the picture's sides, at most
EDGE = 0.03  # of its height, between the label and the lower border
LEAD = 1.12  # height of a line, in heights of the type
INSIDE = 0.3  # between the letters and the label's sides, in heights of the type
MOST = 3  # lines
SMALLEST = 5  # pixels of type; words that are longer still are cut off
SHOWN = 8  # letters that a sentence names


def wrong_letters(text: str) -> str | None:
    """A sentence on the letters of a text that the typeface lacks; None if it has them all."""
    lacks = [c for c in dict.fromkeys(_line(text)) if c != " " and clean(c) != c]
    if not lacks:
        return None
    named = ", ".join(c if c.isprintable() and c.strip() else f"U+{ord(c):04X}"
                      for c in lacks[:SHOWN])  # fmt: skip
    rest = f" and {len(lacks) - SHOWN} more" if len(lacks) > SHOWN else ""
    return (f"the typeface, Inter, lacks {named}{rest}, which would become boxes; it has letters"
            " of Latin, Greek and Cyrillic scripts, digits and common signs")  # fmt: skip


def wrong_length(text: str, width: int, height: int) -> str | None:
    """A sentence on a text that is too long for a label on a picture of that size, in pixels; None
    if it fits."""
    words = clean(_line(text))
    if not words:
        return None
    _, lines = _set(words, *_room(width, height))
    fitting, count = (len(part.replace(" ", "")) for part in ("".join(lines), words))
    if fitting >= count:
        return None
    return (f"is too long for a picture of {width} × {height} pixels: of its {count} letters"
            f" {fitting} have room, in the smallest type")  # fmt: skip


def label(text: str, width: int, height: int) -> np.ndarray:
    """A label at its place on a picture of that size: float32 in [0, 1], (height, width, 3), NaN
    beside it. Letters that the typeface lacks are boxes.
    """
    picture = np.full((height, width, 3), np.nan, np.float32)
    words = clean(_line(text))
    if words:
        card = _card(words, *_room(width, height))
        bottom = height - round(EDGE * height)
        top, left = max(0, bottom - card.height), (width - card.width) // 2
        picture[top:bottom, left : left + card.width] = np.asarray(card, np.float32) / 255
    return picture


def word(text: str, side: int) -> Image.Image:
    """A white square, side in pixels, with the text in the largest dark letters that fit. Letters
    that the typeface lacks are boxes."""
    paper = Image.new("RGB", (side, side), PAPER)
    words = clean(_line(text))
    if words:
        card = _card(words, side, side)
        paper.paste(card, ((side - card.width) // 2, (side - card.height) // 2))
    return paper


def _line(text: str) -> str:
    """A text on one line, each letter and its accents as one character, as typefaces have them."""
    return unicodedata.normalize("NFC", " ".join(text.split()))


def _room(width: int, height: int) -> tuple[int, int]:
    """Width and height of the largest label on a picture of that size."""
    return max(1, round(WIDE * width)), max(1, round(TALL * height))


@lru_cache(maxsize=32)  # smaller than their pictures: a megabyte each at 1024 × 1024
def _card(words: str, width: int, height: int) -> Image.Image:
    """A label around the words, at most of that size, in the largest letters that fit."""
    font, lines = _set(words, width, height)
    lead, inside = round(LEAD * font.size), round(INSIDE * font.size)
    across = max(font.getlength(line) for line in lines)
    size = (min(width, round(across) + 2 * inside), min(height, len(lines) * lead + inside))
    card = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(card)
    for i, line in enumerate(lines):
        # By its middle from the base line to the height of capitals.
        middle = size[1] / 2 + (i - (len(lines) - 1) / 2) * lead + 0.36 * font.size
        draw.text((size[0] / 2, round(middle)), line, fill=INK, font=font, anchor="ms")
    return card


def _set(words: str, width: int, height: int) -> tuple[ImageFont.FreeTypeFont, list[str]]:
    """The largest type in which the words fit whole, or else the smallest, and their lines."""
    sizes = [max(SMALLEST, height)]
    while sizes[-1] > SMALLEST:
        sizes.append(max(SMALLEST, sizes[-1] - max(1, sizes[-1] // 25)))
    sizes.reverse()
    small = typeface(SMALLEST, bold=True)
    words = words[: _most(SMALLEST, height) * max(1, width)]  # no letter is narrower than a pixel
    parts = words.split(" ")
    fitting = None
    low, high = 0, len(sizes)
    while low < high:  # what fits in a type fits in every smaller one
        middle = (low + high) // 2
        lines = _whole(parts, sizes[middle], width, height)
        if lines is None:
            high = middle
        else:
            low, fitting = middle + 1, (typeface(sizes[middle], bold=True), lines)
    if fitting is None:  # words are broken, and what has no room is cut off
        room = width - 2 * round(INSIDE * SMALLEST)
        return small, _lines(parts, small, room, _most(SMALLEST, height), is_broken=True)[0]
    return fitting


def _most(size: int, height: int) -> int:
    """The number of lines of a type that fit."""
    return max(1, int(height / (LEAD * size)))


def _whole(words: Sequence[str], size: int, width: int, height: int) -> list[str] | None:
    """The lines of a label in type of a size; None if the words do not fit whole."""
    font, inside = typeface(size, bold=True), 2 * round(INSIDE * size)
    lines, is_whole = _lines(words, font, width - inside, MOST, is_broken=False)
    fits = len(lines) * round(LEAD * size) + inside / 2 <= height
    return lines if fits and is_whole else None


def _lines(
    words: Sequence[str], font: ImageFont.FreeTypeFont, width: int, most: int, is_broken: bool
) -> tuple[list[str], bool]:
    """At most so many lines of words, and whether all fit; words wider than a line end the text, or
    are broken anywhere."""
    lines: list[str] = []
    rest = list(words)
    while rest and len(lines) < most:
        count = _fitting(rest, " ", font, width)
        if count:
            lines.append(" ".join(rest[:count]))
            del rest[:count]
        elif is_broken:
            letters = max(1, _fitting(rest[0], "", font, width))
            lines.append(rest[0][:letters])
            rest[0] = rest[0][letters:]
        else:
            break
    return lines, not rest


def _fitting(parts: Sequence[str], between: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many words, or letters, fit on a line."""
    counts = range(1, min(len(parts), max(1, width)) + 1)  # none is narrower than a pixel
    return bisect_right(
        counts, width, key=lambda n: math.ceil(font.getlength(between.join(parts[:n])))
    )
