"""Colors and type that all pages and drawings share: how text is measured, broken and elided."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path

from PIL import ImageFont

from ablate.messages import printable

FONTS = Path(__file__).parent / "fonts"
MEASURED = 64  # size of the type that scalable text is measured at
LONGEST = 200  # letters of a line that are looked at
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


def ramp(fraction: float) -> Color:
    """From light paper (0) to dark ink (1), in steps that look equally large, in gray too."""
    steps = _ramp()
    return steps[round(min(max(fraction, 0), 1) * (len(steps) - 1))]


@cache
def _ramp() -> tuple[Color, ...]:
    # A curve through OKLab, lightness falling evenly; then points at equal distances along it.
    fine = []
    for i in range(1001):
        t = i / 1000
        hue = math.radians(95 + 165 * t**0.6)
        chroma = 0.01 + 0.082 * math.sin(math.pi * t)
        fine.append((0.955 - 0.715 * t, chroma * math.cos(hue), chroma * math.sin(hue)))
    along = [0.0]
    for a, b in itertools.pairwise(fine):
        along.append(along[-1] + math.dist(a, b))
    steps, at = [], 0
    for i in range(256):
        while along[at] < along[-1] * i / 255 - 1e-12:
            at += 1
        steps.append(_rgb(*fine[at]))
    return tuple(steps)


def _rgb(lightness: float, a: float, b: float) -> Color:
    """A color of OKLab (Ottosson 2020, A perceptual color space for image processing) in sRGB."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    bent = (12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in linear)
    red, green, blue = (round(255 * min(max(v, 0), 1)) for v in bent)
    return red, green, blue


def ink_on(color: Color) -> Color:
    """The color of type that is readable on another color."""
    red, green, blue = color
    return PAGE if 0.299 * red + 0.587 * green + 0.114 * blue < 116 else INK


# ------------------------------------------------------------ type


def clean(text: str) -> str:
    """One printable line of what the font can draw; any other character becomes a box."""
    return "".join(map(_drawn, printable(" ".join(text.split()))))


@cache
def _drawn(character: str) -> str:
    is_drawn = character == " " or typeface(20).getmask(character).getbbox()
    return character if is_drawn else "□"


@cache
def typeface(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Inter, of so many pixels."""
    file = FONTS / f"Inter-{'SemiBold' if bold else 'Regular'}.otf"
    # The basic layout engine is part of every Pillow, so that sheets look alike everywhere.
    return ImageFont.truetype(file, size, layout_engine=ImageFont.Layout.BASIC)


def leading(size: int) -> int:
    """Height of a line of type in pixels."""
    return round(1.3 * size)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most: int = 99) -> list[str]:
    """Break text into at most so many lines, at spaces and between the names of a module path.

    The text is cleaned. What still does not fit is elided: in the middle of a path, at the end of
    prose.
    """
    text = clean(text)
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
    """The pieces between which a line may break: after spaces, before names of a module path."""
    return re.split(r"(?<=\s)|(?<=[./])(?=[^\d\s])", text)


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
def set_label(label: Label, size: int, width: float, most: int) -> Label:
    """The lines of a label, with their colors.

    Of a broken module path the last line, the leaf, is the strongest.
    """
    lines: Label = ()
    for text, color in label:
        broken = wrap(text, typeface(size, color == ACCENT), width, most)
        faint = MUTED if " " not in text else color
        lines += tuple((line, faint) for line in broken[:-1])
        lines += tuple((line, color) for line in broken[-1:])
    return lines


def label_fits(label: Label, size: int, width: float) -> bool:
    """Whether four lines are enough for a label, without breaking a word."""
    words = (word.rstrip() for text, _ in label for word in _breakable(text))
    whole = all(typeface(size).getlength(word) <= width for word in words)
    return whole and len(set_label(label, size, width, 5)) <= 4


# ------------------------------------------------------------ scalable type, of any size


def text_width(words: str, size: float, bold: bool = False) -> float:
    """Width of a line of type."""
    return typeface(MEASURED, bold).getlength(clean(words)) * size / MEASURED


def fit_lines(words: str, size: float, width: float, most: int) -> list[str]:
    """Break text into at most so many lines; what does not fit is elided, as by `wrap`."""
    return wrap(words, typeface(MEASURED), width * MEASURED / size, most)


def fit(words: str, size: float, width: float) -> str:
    """One line of text; what does not fit is elided, as by `wrap`."""
    return "".join(fit_lines(words, size, width, 1))


def elide(words: str, size: float, width: float, *, start: bool = False) -> str:
    """One line of bold type; what does not fit is elided letter by letter.

    At its end, or at its `start`, where module paths are alike.
    """
    shown = clean(words if start else words[:LONGEST])
    if text_width(shown, size, True) <= width:
        return shown
    while shown and text_width(f"{shown}…", size, True) > width:
        shown = shown[1:] if start else shown[:-1].rstrip()
    return f"…{shown}" if start else f"{shown}…"


def elide_path(words: str, size: float, width: float, among: Sequence[str] = ()) -> str:
    """A module path in one line; of what does not fit whole names within it are elided.

    If possible, no other path of those `among` it reads the same.
    """
    names, others = words.split("."), set(among) - {words}
    if text_width(words, size) <= width:
        return clean(words)
    choices = []
    for start, end in itertools.combinations(range(len(names) + 1), 2):
        head, tail = ".".join(names[:start]), ".".join(names[end:])
        if tail and not names[end].isdecimal() and text_width(f"{head}…{tail}", size) <= width:
            alike = any(o.startswith(head) and o.endswith(tail) for o in others)
            choices.append((not alike, len(head) + len(tail), f"{head}…{tail}"))
    return clean(max(choices)[2]) if choices else elide(words, size, width, start=True)
