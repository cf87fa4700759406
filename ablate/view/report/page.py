"""Self-contained pages: templates, type, a content security policy, and drawings put into them.

A page opens from disk, without a server, and asks nothing of any network. What is drawn into it is
checked first: an SVG document that runs nothing and asks for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ablate.store import atomic_write
from ablate.style import FONTS

TEMPLATES = Path(__file__).parent / "templates"
SVG = "http://www.w3.org/2000/svg"
DRAWING = {
    "svg", "g", "defs", "title", "desc", "path", "rect", "circle", "ellipse", "line", "polyline",
    "polygon", "text", "tspan", "textPath", "image", "clipPath", "mask", "pattern", "style",
    "linearGradient", "radialGradient", "stop", "marker", "symbol", "use", "a",
}  # fmt: skip
FITTED = (  # style of a picture: as wide as the page, unless that is too small or all is asked for
    "svg{display:block;max-width:max(100%,1200px);height:auto}"
    ":host([data-full]) svg{max-width:none}"
    "[data-cell],[data-module]{cursor:pointer}"
)


def template(name: str) -> str:
    """The text of a file of `templates`."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def filled(name: str, parts: Mapping[str, str]) -> str:
    """A template with its `{{places}}` filled, in one pass: nothing filled in is taken for one."""
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], template(name))


def write(path: Path, text: str) -> Path:
    """Write a page, whole or not at all."""
    with atomic_write(path) as temporary:
        # What is half a letter alone, as JSON may have it, becomes `?`.
        temporary.write_text(text, encoding="utf-8", errors="replace", newline="")
    return path


def faces() -> str:
    """Inter, inlined: drawings are laid out by its widths, and not everyone has it."""
    made = []
    for name, weight in (("Regular", 400), ("SemiBold", 600)):
        font = base64.b64encode((FONTS / f"Inter-{name}.otf").read_bytes()).decode()
        made.append(
            f"@font-face{{font-family:Inter;font-weight:{weight};"
            f"src:url(data:font/otf;base64,{font})}}\n"
        )
    return "".join(made)


def policy(script: str, css: str, pictures: Iterable[ElementTree.Element]) -> str:
    """A content security policy: nothing from outside, no script or style but those of the page."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    parts = [part for picture in pictures for part in picture.iter()]
    styles = [css, FITTED, *(part.text or "" for part in parts if part.tag == "style")]
    rules = [
        "default-src 'none'",
        "img-src 'self' data: file:",
        "font-src data:",
        f"script-src {digest(script)}",
        f"style-src {' '.join(dict.fromkeys(map(digest, styles)))}",
    ]
    if any("style" in part.attrib for part in parts):
        rules.append("style-src-attr 'unsafe-inline'")
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def pairs(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Settings as pairs of a dotted name and a value; what is empty is left out."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from pairs(f"{name}.{key}", part)
    elif value not in (None, "", []):
        yield name, told(value)


def told(value: Any) -> str:
    """A value as a reader would write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(told, value))
    return value if isinstance(value, str) else json.dumps(value)


def drawing(title: str, svg: str) -> ElementTree.Element:
    """An SVG document that is a drawing and nothing else: it runs nothing and asks for nothing.

    Raises `ValueError` when it is not well-formed XML or holds more than a drawing.
    """

    def refuse(why: str) -> ValueError:
        return ValueError(f"the picture `{title}` {why}")

    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise refuse(f"is not well-formed XML: {error}") from error
    if root.tag != f"{{{SVG}}}svg":
        raise refuse(f"is no SVG document: its root is `{root.tag}`, not `svg` of {SVG}")
    for part in root.iter():
        space, _, name = str(part.tag).rpartition("}")
        if space != f"{{{SVG}" or name not in DRAWING:
            raise refuse(f"holds `{name}`, which is no element of a drawing")
        if name == "style" and re.search(r"@import|url\(", part.text or "", re.IGNORECASE):
            raise refuse("has a style that asks for a file")
        for full, value in part.attrib.items():
            attribute = full.rpartition("}")[2]
            if attribute.lower().startswith("on"):
                raise refuse(f"has `{attribute}`, which would run a script")
            link = attribute.lower() in ("href", "src") and not value.startswith("#")
            inline = name == "image" and re.match(r"data:image/(png|jpeg|webp);base64,", value)
            if link and not inline and not re.fullmatch(r"cells/\w+\.png", value):
                raise refuse(f"links to `{value[:60]}`, which lies outside of it")
            if re.search(r"url\(\s*['\"]?\s*[^'\"\s#]", value, re.IGNORECASE):
                raise refuse(f"asks for a file in `{attribute}`")
    for part in root.iter():  # HTML knows these elements without a namespace
        part.tag = str(part.tag).rpartition("}")[2]
        for full in [name for name in part.attrib if name.startswith("{")]:
            value = part.attrib.pop(full)
            part.set(full.rpartition("}")[2], value)
    return root


def picture(title: str, svg: ElementTree.Element) -> str:
    """A section of the page. A shadow root keeps the picture's names and styles to itself."""
    drawn = ElementTree.tostring(svg, encoding="unicode", short_empty_elements=False)
    return (
        f'<div class="picture" data-title="{html.escape(title)}">'
        f'<template shadowrootmode="open"><style>{FITTED}</style>{drawn}</template></div>'
    )
