"""Self-contained pages: Jinja2 templates, fonts, a content security policy, and inlined drawings.

A page opens from disk, without a server, and requests nothing from any network. Drawings are
checked before they are inlined: an SVG document that runs nothing and loads nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ablate.messages import printable
from ablate.store import atomic_write
from ablate.style import FONTS

TEMPLATES = Path(__file__).parent / "templates"
SVG = "http://www.w3.org/2000/svg"
ELEMENTS = {
    "svg", "g", "defs", "title", "desc", "path", "rect", "circle", "ellipse", "line", "polyline",
    "polygon", "text", "tspan", "textPath", "image", "clipPath", "mask", "pattern", "style",
    "linearGradient", "radialGradient", "stop", "marker", "symbol", "use", "a",
}  # fmt: skip
DRAWING_CSS = (  # as wide as the page, unless that is too small or the full size is asked for
    "svg{display:block;max-width:max(100%,1200px);height:auto}"
    ":host([data-full]) svg{max-width:none}"
    "[data-cell],[data-module]{cursor:pointer}"
)
ENVIRONMENT = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
ENVIRONMENT.globals["drawing_css"] = Markup(DRAWING_CSS)
ENVIRONMENT.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}


@dataclass(frozen=True)
class Drawing:
    """A checked SVG document for a page.

    Attributes:
        title: What the drawing is called on the page.
        root: Its elements, without namespaces, as HTML has them.
    """

    title: str
    root: ElementTree.Element

    def __html__(self) -> str:
        return ElementTree.tostring(self.root, encoding="unicode", short_empty_elements=False)

    def crop(self, left: float, top: float, zoom: float = 1) -> Drawing:
        """Cut off the head of a drawing and as much at its other sides as on the left; return it.

        Its full size becomes `zoom` times its size.
        """
        _, _, width, height = map(float, self.root.attrib["viewBox"].split())
        width, height = width - 2 * left, height - top - left
        self.root.set("viewBox", f"{left:g} {top:g} {width:g} {height:g}")
        self.root.set("width", f"{zoom * width:g}")
        self.root.set("height", f"{zoom * height:g}")
        return self


def parse_drawing(title: str, svg: str) -> Drawing:
    """Parse and check an SVG document: it runs nothing and loads nothing.

    Raises:
        ValueError: It is not well-formed XML or contains more than a drawing.
    """

    def refuse(why: str) -> ValueError:
        return ValueError(f"the picture `{title}` {why}")

    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise refuse(f"is not well-formed XML: {error}") from error
    if root.tag != f"{{{SVG}}}svg":
        raise refuse(f"is no SVG document: its root is `{root.tag}`, not `svg` of {SVG}")
    for element in root.iter():
        space, _, name = str(element.tag).rpartition("}")
        if space != f"{{{SVG}" or name not in ELEMENTS:
            raise refuse(f"contains `{name}`, which is no element of a drawing")
        if name == "style" and re.search(r"@import|url\(", element.text or "", re.IGNORECASE):
            raise refuse("has a style that loads a file")
        for full, value in element.attrib.items():
            attribute = full.rpartition("}")[2]
            if attribute.lower().startswith("on"):
                raise refuse(f"has `{attribute}`, which would run a script")
            link = attribute.lower() in ("href", "src") and not value.startswith("#")
            inline = name == "image" and re.match(r"data:image/(png|jpeg|webp);base64,", value)
            if link and not inline and not re.fullmatch(r"cells/\w+\.png", value):
                raise refuse(f"links to `{value[:60]}`, which is outside of it")
            if re.search(r"url\(\s*['\"]?\s*[^'\"\s#]", value, re.IGNORECASE):
                raise refuse(f"loads a file in `{attribute}`")
    for element in root.iter():
        element.tag = str(element.tag).rpartition("}")[2]
        for full in [name for name in element.attrib if name.startswith("{")]:
            element.set(full.rpartition("}")[2], element.attrib.pop(full))
    return Drawing(printable(title), root)


def write_page(
    path: Path,
    template: str,
    *,
    styles: Sequence[str],
    scripts: Sequence[str],
    drawings: Collection[Drawing],
    **context: Any,
) -> Path:
    """Render a template and write it to `path`, which is returned.

    Args:
        path: The file of the page.
        template: A file of `templates/`, which extends `page.html`.
        styles: Files of CSS, in order.
        scripts: Names of scripts, without suffix, in the order in which they depend on each other.
        drawings: All drawings on the page.
        context: What else the template uses.
    """
    css = _font_faces() + "".join(map(_source, styles))
    script = "\n".join(_source(f"{name}.js") for name in scripts)
    text = ENVIRONMENT.get_template(template).render(
        css=Markup(css),
        script=Markup(script),
        policy=Markup(_policy(script, css, drawings)),
        drawings=drawings,
        **_printable(context),
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    return path


def _printable(value: Any) -> Any:
    """What a page shows, in which each text is printable. Lines stay lines."""
    if isinstance(value, str):
        return printable(value, keep="\n\t")
    if isinstance(value, Mapping):
        return {_printable(key): _printable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_printable, value))
    return value


def _source(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _font_faces() -> str:
    """CSS with Inter inlined: drawings are laid out by its widths, and not everyone has it."""
    faces = []
    for name, weight in (("Regular", 400), ("SemiBold", 600)):
        font = base64.b64encode((FONTS / f"Inter-{name}.otf").read_bytes()).decode()
        faces.append(
            f"@font-face{{font-family:Inter;font-weight:{weight};"
            f"src:url(data:font/otf;base64,{font})}}\n"
        )
    return "".join(faces)


def _policy(script: str, css: str, drawings: Collection[Drawing]) -> str:
    """A content security policy: nothing from outside, only the page's scripts and styles."""

    def digest(text: str) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"

    elements = [element for drawing in drawings for element in drawing.root.iter()]
    styles = [css, DRAWING_CSS, *(e.text or "" for e in elements if e.tag == "style")]
    rules = [
        "default-src 'none'",
        "img-src 'self' data: file:",
        "font-src data:",
        f"script-src {digest(script)}",
        f"style-src {' '.join(dict.fromkeys(map(digest, styles)))}",
    ]
    if any("style" in element.attrib for element in elements):
        rules.append("style-src-attr 'unsafe-inline'")
    return "; ".join([*rules, "base-uri 'none'", "form-action 'none'"])


def settings_of(manifest: Mapping[str, Any], left_out: Collection[str]) -> list[tuple[str, str]]:
    """Settings of a manifest as pairs of a dotted name and a value, without empty ones.

    `left_out`: keys of the manifest that are shown elsewhere.
    """
    kept = {key: value for key, value in manifest.items() if key not in left_out}
    return list(_flatten("", kept))


def _flatten(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _flatten(f"{name}.{key}" if name else key, part)
    elif value not in (None, "", []):
        yield name, format_value(value)


def format_value(value: Any) -> str:
    """A value of JSON as a reader would write it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(format_value, value))
    return value if isinstance(value, str) else json.dumps(value)
