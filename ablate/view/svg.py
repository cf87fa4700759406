"""Drawing: SVG elements as text, type in Inter, one color ramp, and files of SVG and PNG.

Lengths are user units: CSS pixels where the drawing is shown at its own size. Elements are strings;
what goes into them as text or attribute is escaped here. Colors are those of `ablate.page`.
"""

from __future__ import annotations

import base64
import io
import itertools
import math
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from PIL import Image

from ablate.store import atomic_write
from ablate.style import (
    ACCENT,
    DARK,
    FONTS,
    HAIRLINE,
    INK,
    MUTED,
    PAGE,
    Color,
    clean,
    typeface,
    wrap,
)

FONT = "Inter, system-ui, sans-serif"
BOLD = f"Inter Semi Bold, {FONT}"  # the name within the font file, and what browsers know
WIDE = 3600  # pixels: width that a PNG aims at, growing by no more than 2
LARGEST = 60_000_000  # pixels of a PNG
MEASURED = 64  # size of the type that widths are measured at
LONGEST = 200  # letters of a line that are looked at
Attribute = str | int | float | Color | None


def element(name: str, *children: str, **attributes: Attribute) -> str:
    """An element. `_` in the names of attributes stands for `-`; None leaves an attribute out.

    `children` are elements and text that is escaped already.
    """
    written = "".join(
        f" {key.rstrip('_').replace('_', '-')}={quoteattr(_value(value))}"
        for key, value in attributes.items()
        if value is not None
    )
    inner = "".join(children)
    return f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"


def _value(value: str | int | float | Color) -> str:
    if isinstance(value, tuple):
        return "#{:02x}{:02x}{:02x}".format(*value)
    return (
        f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else _legal(str(value))
    )


def _legal(text: str) -> str:
    """The text without what XML cannot hold."""
    return re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "□", text)


def text(
    x: float,
    y: float,
    words: str,
    size: float,
    color: Color = INK,
    *,
    bold: bool = False,
    anchor: str | None = None,
    **attributes: Attribute,
) -> str:
    """A line of type, its baseline at `y`. `anchor`: `middle` or `end`."""
    return element(
        "text", escape(clean(_legal(words))), x=x, y=y, font_size=size, fill=color,
        font_family=BOLD if bold else None, font_weight=600 if bold else None,
        text_anchor=anchor, **attributes,
    )  # fmt: skip


def length(words: str, size: float, bold: bool = False) -> float:
    """Width of a line of type."""
    return typeface(MEASURED, bold).getlength(clean(_legal(words))) * size / MEASURED


def fit(words: str, size: float, width: float, most: int = 1) -> list[str]:
    """Lines of type that are no wider than `width`; what does not fit is elided."""
    return wrap(clean(_legal(words)), typeface(MEASURED), width * MEASURED / size, most)


def ending(words: str, size: float, width: float) -> str:
    """One line of type no wider than `width`; what does not fit is elided at its start, where
    module paths are alike."""
    words, shown = clean(_legal(words)), 0
    while length("…" * bool(shown) + words[shown:], size, bold=True) > width and words[shown:]:
        shown += 1
    return "…" * bool(shown) + words[shown:]


def path(words: str, size: float, width: float, among: Sequence[str] = ()) -> str:
    """A module path in one line no wider than `width`; of what does not fit whole names within it
    are elided, such that no other path of those `among` it reads the same, if that can be."""
    names, others = words.split("."), set(among) - {words}
    if length(words, size) <= width:
        return clean(_legal(words))
    found = []
    for start, end in itertools.combinations(range(len(names) + 1), 2):
        head, tail = ".".join(names[:start]), ".".join(names[end:])
        if tail and not names[end].isdecimal() and length(f"{head}…{tail}", size) <= width:
            alike = any(o.startswith(head) and o.endswith(tail) for o in others)
            found.append((not alike, len(head) + len(tail), f"{head}…{tail}"))
    return clean(_legal(max(found)[2])) if found else ending(words, size, width)


def starting(words: str, size: float, width: float) -> str:
    """One line of type no wider than `width`; what does not fit is elided at its end, as of
    concepts, which are no module paths even where they have no spaces."""
    words = clean(_legal(words[:LONGEST]))
    if length(words, size, bold=True) <= width:
        return words
    while words and length(f"{words}…", size, bold=True) > width:
        words = words[:-1]
    return f"{words}…"


def paragraph(
    x: float, y: float, words: str, size: float, width: float, color: Color = MUTED
) -> tuple[str, float]:
    """Wrapped type, its first baseline at `y`; and where the next line's would be."""
    lines = fit(words, size, width, 9)
    step = 1.45 * size
    drawn = "".join(text(x, y + i * step, line, size, color) for i, line in enumerate(lines))
    return drawn, y + len(lines) * step


def tooltip(words: str) -> str:
    """What a browser shows when the pointer rests on the parent."""
    return element("title", escape(_legal(words)))


def rect(
    x: float, y: float, width: float, height: float, fill: Color | str = "none", **a: Attribute
) -> str:
    """A rectangle."""
    return element("rect", x=x, y=y, width=width, height=height, fill=fill, **a)


def frame(
    x: float, y: float, width: float, height: float, color: Color, thick: float, **a: Attribute
) -> str:
    """A frame that lies wholly outside of the given rectangle."""
    x, y, width, height = x - thick / 2, y - thick / 2, width + thick, height + thick
    return rect(x, y, width, height, "none", stroke=color, stroke_width=thick, **a)


def line(
    points: Sequence[tuple[float, float]], color: Color = MUTED, thick: float = 1.0, **a: Attribute
) -> str:
    """A line through the points."""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element("path", d=path, fill="none", stroke=color, stroke_width=thick, **a)


def arrow(points: Sequence[tuple[float, float]], color: Color = MUTED, thick: float = 1.2) -> str:
    """A line through the points with a head at its end."""
    (x, y), (from_x, from_y) = points[-1], points[-2]
    angle = math.atan2(y - from_y, x - from_x)
    wings = [
        (x - 7 * math.cos(angle + turn), y - 7 * math.sin(angle + turn)) for turn in (0.45, -0.45)
    ]
    return line(points, color, thick) + line([wings[0], (x, y), wings[1]], color, thick)


def picture(
    image: Image.Image | Path, x: float, y: float, width: float, height: float, **a: Attribute
) -> str:
    """A picture within a rectangle, in its own proportions. Large ones are shrunk to twice it."""
    return element(
        "image", x=x, y=y, width=width, height=height, href=_embedded(image, width, height),
        image_rendering="auto" if _size(image)[0] > width else "optimizeSpeed",
        style=None if _size(image)[0] > width else "image-rendering:pixelated", **a,
    )  # fmt: skip


def _size(image: Image.Image | Path) -> tuple[int, int]:
    if isinstance(image, Image.Image):
        return image.size
    with Image.open(image) as opened:
        return opened.size


def _embedded(image: Image.Image | Path, width: float, height: float) -> str:
    """A data URI. Written anew, so that a cell's chunks of text and latents stay behind."""
    if isinstance(image, Path):
        with Image.open(image) as opened:
            image = opened.convert("RGB")
    data = io.BytesIO()
    if image.width > 2 * width and image.height > 2 * height:
        image = image.copy()
        image.thumbnail((round(2 * width), round(2 * height)))
        image.save(data, "JPEG", quality=88)
        kind = "jpeg"
    else:
        image.save(data, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64,{base64.b64encode(data.getvalue()).decode()}"


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
    """The color of type that is read on another."""
    red, green, blue = color
    return PAGE if 0.299 * red + 0.587 * green + 0.114 * blue < 116 else INK


def legend(
    x: float,
    y: float,
    width: float,
    ticks: Sequence[tuple[float, str]],
    place: Callable[[float], float],
) -> str:
    """The ramp with ticks beneath, 50 high. `place` maps what a tick stands for to 0 ... 1."""
    slices = 120
    step = width / slices
    drawn = [
        rect(x + i * step, y, step * (1 + (i < slices - 1)), 20, ramp(i / (slices - 1)))
        for i in range(slices)
    ]
    drawn.append(rect(x, y, width, 20, stroke=HAIRLINE))
    for value, words in ticks:
        at = x + width * place(value)
        drawn.append(line([(at, y + 20), (at, y + 26)], MUTED))
        drawn.append(text(at, y + 43, words, 15, MUTED, anchor="middle"))
    return "".join(drawn)


def nan_tile(x: float, y: float, width: float, height: float) -> str:
    """What stands for an image that could not be: NaN or infinity arose."""
    middle = y + height / 2 + 4
    return rect(x, y, width, height, DARK) + text(
        x + width / 2, middle, "NaN", 11, PAGE, bold=True, anchor="middle"
    )


def marked(image: Image.Image | Path, x: float, y: float, width: float, height: float) -> str:
    """The baseline: framed and named in the color that is its alone."""
    return (
        picture(image, x, y, width, height)
        + frame(x - 2, y - 2, width + 4, height + 4, ACCENT, 3)
        + text(x - 5, y + height + 22, "baseline", 15, ACCENT, bold=True)
    )


def header(name: str, about: str, margin: float, room: float) -> str:
    """The name of a drawing and what is to be said of it, 104 high from its upper margin on."""
    drawn = [text(margin, margin + 26, line, 46, bold=True) for line in fit(name, 46, room)]
    drawn += [text(margin, margin + 66, line, 21, MUTED) for line in fit(about, 21, room)]
    return "".join(drawn)


def document(width: float, height: float, *children: str, label: str) -> str:
    """A whole drawing on paper; `label` is read out where it cannot be seen."""
    return element(
        "svg", rect(0, 0, width, height, PAGE), *children,
        xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {width:.0f} {height:.0f}",
        width=round(width), height=round(height), font_family=FONT, role="img",
        aria_label=label,
    )  # fmt: skip


def save_drawing(svg: str, path: Path) -> tuple[Path, Path]:
    """Write a drawing as `path` with the suffixes `.svg` and `.png`, each whole or not at all."""
    paths = path.with_name(f"{path.name}.svg"), path.with_name(f"{path.name}.png")
    for file, data in zip(paths, (svg.encode(), png(svg)), strict=True):
        with atomic_write(file) as temporary:
            temporary.write_bytes(data)
    return paths


def png(svg: str) -> bytes:
    """A drawing as PNG, up to twice its own size."""
    import resvg_py

    found = re.search(r'width="(\d+)" height="(\d+)"', svg[svg.index("viewBox") :])
    assert found  # `document` writes it
    width, height = int(found[1]), int(found[2])
    zoom = min(2, max(1, WIDE / width), math.sqrt(LARGEST / (width * height)))
    return bytes(
        resvg_py.svg_to_bytes(
            svg_string=svg,
            width=round(width * zoom),
            skip_system_fonts=True,
            font_family="Inter",
            sans_serif_family="Inter",
            font_files=[str(FONTS / f"Inter-{w}.otf") for w in ("Regular", "SemiBold")],
        )
    )
