"""Drawings as SVG text: a canvas of shapes, type and pictures, and files of SVG and PNG.

Lengths are user units: CSS pixels where the drawing is shown at its natural size. Colors and type
are those of `ablate.style`. Text and attributes are made printable and escaped here.
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from PIL import Image

from ablate.messages import printable
from ablate.store import atomic_write, open_image
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
    fit,
    fit_lines,
)

FONT = "Inter, system-ui, sans-serif"
BOLD = f"Inter Semi Bold, {FONT}"  # the name within the font file, and what browsers know
WIDE = 3600  # pixels: width that a PNG aims at, growing by no more than 2
LARGEST = 60_000_000  # pixels of a PNG
MARGIN = 80  # of most drawings
Attribute = str | int | float | Color | None
Point = tuple[float, float]


def _value(value: str | int | float | Color) -> str:
    if isinstance(value, tuple):
        return "#{:02x}{:02x}{:02x}".format(*value)
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return printable(str(value), keep="\n")


def polyline(points: Sequence[Point]) -> str:
    """The data of a path through the points."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


class Canvas:
    """SVG elements in the order in which they are painted.

    In the methods, `attributes` are those of the SVG element; `_` in a name is written as `-`, and
    None leaves an attribute out.
    """

    def __init__(self) -> None:
        self.elements: list[str] = []

    def __str__(self) -> str:
        return "".join(self.elements)

    def add(self, *others: Canvas) -> None:
        """Paint what other canvases contain."""
        for other in others:
            self.elements += other.elements

    def element(self, name: str, *children: str, **attributes: Attribute) -> None:
        """Any element. `children` are elements and escaped text."""
        written = "".join(
            f" {key.rstrip('_').replace('_', '-')}={quoteattr(_value(value))}"
            for key, value in attributes.items()
            if value is not None
        )
        inner = "".join(children)
        self.elements.append(
            f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"
        )

    @contextmanager
    def group(
        self, tooltip: str = "", *, tag: str = "g", **attributes: Attribute
    ) -> Iterator[None]:
        """Collect what is painted meanwhile in a group.

        Args:
            tooltip: What a browser shows when the pointer rests on the group.
            tag: The name of the element, `svg` for one that cuts off what reaches beyond it.
            attributes: Of the group.
        """
        outer, self.elements = self.elements, []
        if tooltip:
            self.element("title", escape(printable(tooltip, keep="\n")))
        yield
        inner, self.elements = self.elements, outer
        self.element(tag, *inner, **attributes)

    # ------------------------------------------------------------ type

    def text(
        self,
        x: float,
        y: float,
        words: str,
        size: float,
        color: Color = INK,
        *,
        bold: bool = False,
        anchor: str | None = None,
        halo: float | None = None,
        **attributes: Attribute,
    ) -> None:
        """A line of type, its baseline at `y`.

        Args:
            x: Where it begins, or what its `anchor` is: its `middle` or its `end`.
            halo: Thickness of an outline in the color of the page, over lines that pass below.
        """
        outline: dict[str, Attribute] = {}
        if halo is not None:
            outline = {"stroke": PAGE, "stroke_width": halo, "paint_order": "stroke"}
        self.element(
            "text", escape(clean(words)), x=x, y=y, font_size=size, fill=color,
            font_family=BOLD if bold else None, font_weight=600 if bold else None,
            text_anchor=anchor, **outline, **attributes,
        )  # fmt: skip

    def lines(
        self,
        x: float,
        y: float,
        lines: Sequence[str],
        size: float,
        step: float,
        color: Color = MUTED,
    ) -> float:
        """Lines of type, the first baseline at `y`; return where the next would be."""
        for i, line in enumerate(lines):
            self.text(x, y + i * step, line, size, color)
        return y + len(lines) * step

    def paragraph(
        self, x: float, y: float, words: str, size: float, width: float, color: Color = MUTED
    ) -> float:
        """Wrapped type, its first baseline at `y`; return where the next line's would be."""
        return self.lines(x, y, fit_lines(words, size, width, 9), size, 1.45 * size, color)

    # ------------------------------------------------------------ shapes

    def rect(
        self, x: float, y: float, width: float, height: float, fill: Color | str = "none",
        **attributes: Attribute,
    ) -> None:  # fmt: skip
        """A rectangle."""
        self.element("rect", x=x, y=y, width=width, height=height, fill=fill, **attributes)

    def frame(
        self, x: float, y: float, width: float, height: float, color: Color, thick: float
    ) -> None:
        """A frame that is wholly outside of the given rectangle."""
        x, y, width, height = x - thick / 2, y - thick / 2, width + thick, height + thick
        self.rect(x, y, width, height, stroke=color, stroke_width=thick)

    def circle(self, x: float, y: float, radius: float, fill: Color, **a: Attribute) -> None:
        """A circle around a place."""
        self.element("circle", cx=x, cy=y, r=radius, fill=fill, **a)

    def line(
        self, points: Sequence[Point], color: Color = MUTED, thick: float = 1.0, **a: Attribute
    ) -> None:
        """A line through the points."""
        self.element("path", d=polyline(points), fill="none", stroke=color, stroke_width=thick, **a)

    def area(self, points: Sequence[Point], fill: Color, opacity: float | None = None) -> None:
        """The area within a line through the points."""
        self.element("path", d=f"{polyline(points)}Z", fill=fill, opacity=opacity)

    def arrow(self, *points: Point) -> None:
        """A line through the points with a head at its end."""
        (x, y), (from_x, from_y) = points[-1], points[-2]
        angle = math.atan2(y - from_y, x - from_x)
        wings = [
            (x - 7 * math.cos(angle + turn), y - 7 * math.sin(angle + turn))
            for turn in (0.45, -0.45)
        ]
        self.line(points, thick=1.2)
        self.line([wings[0], (x, y), wings[1]], thick=1.2)

    # ------------------------------------------------------------ pictures

    def picture(self, path: Path, x: float, y: float, width: float, height: float) -> None:
        """A picture within a rectangle, in its natural proportions.

        Large ones are shrunk to twice the rectangle; enlarged ones keep sharp pixels.
        """
        with open_image(path) as opened:
            image = opened.convert("RGB")
        shrunk = image.width > width
        self.element(
            "image", x=x, y=y, width=width, height=height, href=_embedded(image, width, height),
            image_rendering="auto" if shrunk else "optimizeSpeed",
            style=None if shrunk else "image-rendering:pixelated",
        )  # fmt: skip

    def nan_tile(self, x: float, y: float, width: float, height: float) -> None:
        """A dark tile in place of an image in which NaN or infinity arose."""
        self.rect(x, y, width, height, DARK)
        middle = x + width / 2, y + height / 2 + 4
        self.text(*middle, "NaN", 11, PAGE, bold=True, anchor="middle")

    def cell(
        self, image: Path | None, x: float, y: float, side: float, baseline: float = 0
    ) -> None:
        """A framed picture of a cell, or a dark tile where it is None, as NaN arose in it.

        Args:
            baseline: Thickness of the baseline's frame; 0 for any other cell.
        """
        if image is None:
            self.nan_tile(x, y, side, side)
        else:
            self.picture(image, x, y, side, side)
        if baseline:
            self.frame(x - 1, y - 1, side + 2, side + 2, ACCENT, baseline)
        else:
            self.frame(x, y, side, side, HAIRLINE, 1)

    # ------------------------------------------------------------ the whole

    def document(
        self,
        width: float,
        height: float,
        *,
        label: str,
        name: str = "",
        about: str = "",
        room: float | None = None,
        margin: float = MARGIN,
    ) -> str:
        """A whole drawing on paper.

        Args:
            label: What is read out where the drawing cannot be seen.
            name: The title, in the upper left corner.
            about: The line below it. Both end 104 below the upper margin.
            room: Width of both; without it all that the margins leave.
        """
        page, room = Canvas(), width - 2 * margin if room is None else room
        page.rect(0, 0, width, height, PAGE)
        if name:
            page.text(margin, margin + 26, fit(name, 46, room), 46, bold=True)
        if about:
            page.text(margin, margin + 66, fit(about, 21, room), 21, MUTED)
        page.add(self)
        drawing = Canvas()
        drawing.element(
            "svg", str(page), xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width:.0f} {height:.0f}", width=round(width), height=round(height),
            font_family=FONT, role="img", aria_label=label,
        )  # fmt: skip
        return str(drawing)


def _embedded(image: Image.Image, width: float, height: float) -> str:
    """A data URI. Written anew, so that a cell's chunks of text and latents stay behind."""
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


def save_drawing(svg: str, path: Path) -> tuple[Path, Path]:
    """Write a drawing as `path` with the suffixes `.svg` and `.png`, each whole or not at all."""
    paths = path.with_name(f"{path.name}.svg"), path.with_name(f"{path.name}.png")
    for file, data in zip(paths, (svg.encode(), png(svg)), strict=True):
        with atomic_write(file) as temporary:
            temporary.write_bytes(data)
    return paths


def png(svg: str) -> bytes:
    """A drawing as PNG, up to twice its natural size."""
    import resvg_py  # heavy, and only needed where files are written

    size = re.search(r'width="(\d+)" height="(\d+)"', svg[svg.index("viewBox") :])
    assert size  # `document` writes it
    width, height = int(size[1]), int(size[2])
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
