"""Colors and type that all pictures share."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

FONTS = Path(__file__).parent / "fonts"
Color = tuple[int, int, int]
PAGE: Color = (251, 250, 247)
INK: Color = (24, 24, 27)
MUTED: Color = (108, 108, 114)
HAIRLINE: Color = (221, 218, 211)
ACCENT: Color = (214, 62, 34)  # the baseline, and nothing else
VACANT: Color = (242, 240, 234)
DARK: Color = (40, 40, 46)
HATCH: Color = (62, 62, 70)
Label = tuple[tuple[str, Color], ...]  # paragraphs


def clean(text: str) -> str:
    """One line of what the font can draw; any other character becomes a box."""
    line = " ".join(text.split())
    drawn = {c: c if c == " " or typeface(20).getmask(c).getbbox() else "□" for c in set(line)}
    return "".join(map(drawn.__getitem__, line))


@cache
def typeface(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Inter, of so many pixels."""
    file = FONTS / f"Inter-{'SemiBold' if bold else 'Regular'}.otf"
    # The basic layout engine is part of every Pillow, so that sheets look alike everywhere.
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


def _lead(size: int) -> int:
    """Height of a line of text."""
    return round(1.3 * size)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most: int = 99) -> list[str]:
    """At most so many lines, broken at spaces and between the names of a module path.

    What still does not fit is elided: in the middle of a path, at the end of prose.
    """
    words = _breakable(text)
    lines = _fill(words, font, width)
    cut = len(words) if " " in text else (len(words) + 1) // 2
    before, after = words[:cut], words[cut:]
    while len(lines) > most and before:
        longer = len(before) >= len(after)
        before, after = (before[:-1], after) if longer else (before, after[1:])
        lines = _fill([*before[:-1], "".join(before[-1:]).rstrip() + "…", *after], font, width)
    return lines[:most]


def _breakable(text: str) -> list[str]:
    """Where a line may break: after spaces, and before the next name of a module path."""
    return re.split(r"(?<=\s)|(?<=[./])(?=[^\d\s])", text)


def _fits(label: Label, size: int, width: float) -> bool:
    """Whether four lines hold it, no word torn."""
    words = (word.rstrip() for text, _ in label for word in _breakable(text))
    whole = all(typeface(size).getlength(word) <= width for word in words)
    return whole and len(_set(label, size, width, 5)) <= 4


def _fill(words: Sequence[str], font: ImageFont.FreeTypeFont, width: float) -> list[str]:
    lines = [""]
    for word in words:
        if font.getlength(lines[-1] + word.rstrip()) <= width:
            lines[-1] += word
            continue
        lines.append("")
        for letter in word:  # a word wider than the line breaks anywhere
            if lines[-1] and font.getlength(lines[-1] + letter.strip()) > width:
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines if line.strip()]


@lru_cache(maxsize=16_384)  # layouts are tried in many widths, with the same labels
def _set(label: Label, size: int, width: float, most: int) -> Label:
    """The lines of a label. Of a broken module path the last line, the leaf, is the strongest."""
    lines: Label = ()
    for text, color in label:
        broken = wrap(text, typeface(size, color == ACCENT), width, most)
        faint = MUTED if " " not in text else color
        lines += tuple((line, faint) for line in broken[:-1])
        lines += tuple((line, color) for line in broken[-1:])
    return lines
