"""The HTML page of a study of units, and its pictures: all from the study's folder alone.

The page is whole in itself: it opens from disk and asks nothing of any network. It holds whatever
the study has come to: distributions, concepts and their units, cards, visualizations, atlases.

    >>> folio.save(Path("outputs/units-selectivity"))
    PosixPath('outputs/units-selectivity/report.html')
"""

from __future__ import annotations

import base64
import csv
import html
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from PIL import Image

from ablate.store import StoreError, read_atlas, read_cards, read_image, read_study
from ablate.style import clean
from ablate.view import page, svg as drawing
from ablate.view.errors import PictureError
from ablate.view.report import page as webpage
from ablate.view.studies import atlas as atlases, cards as unitcards, distributions

SCRIPTS = ("elements", "pictures", "folio")
STYLES = ("report.css", "folio.css")
ABOUT = "What single units of a network stand for."
SIDE = 360  # pixels at most of a visualization in the page
ZOOM = 1.6  # of atlases in full size: their pictures hold as much
MANY = 60  # values of a setting that are listed
SHOWN = 6  # units of a concept in the table
VISUALIZATIONS = "visualizations.csv"
Corner = tuple[float, float]  # of a drawing, from its left and its top
ATLASES = {
    "atlas": "Atlas",
    "atlas-patches": "Atlas of patches",
    "atlas-compared": "Atlas compared",
}
REPORT, SHEET, CARDS = "report.html", "cards", "cards"
# The files that are drawn from, and the commands that make them.
SOURCES = {"units.csv": "selectivity", "cards.json": "cards", "atlas.json": "atlas"}
# The drawings of which there is one, by what they are drawn from.
ALONE = {"units.csv": ("selectivity",), "cards.json": ("concepts",), "atlas.json": (*ATLASES,)}
Tell = Callable[[str], None]


def save(
    folder: Path,
    drawn: Mapping[str, str] | None = None,
    without: Collection[str] = (),
    tell: Tell | None = None,
) -> Path:
    """Write `report.html` into the folder of a study and return its path.

    `drawn`: its drawings, where they were made already, but for those from the files `without`.
    Raises `PictureError` when the folder is no study, or one of its files cannot be read; where
    there is someone to `tell`, visualizations that cannot be read are left out.
    """
    study = read_study(folder)
    found = {} if "cards.json" in without else read_cards(folder)
    made = _Sections()
    drawn = dict(drawings(folder)) if drawn is None else drawn
    made.drawing("Selectivity", drawn.get("selectivity"), distributions.BODY)
    made.add("Concepts", _concepts(found))
    reads = found.get("component") == "clip"  # the model whose units may know words and pictures
    made.cards(found.get("cards", []), drawn, "" if reads else _notes(found))
    made.add("Words and pictures", _multimodal(found) if reads else "")
    with _telling(tell, "visualize" if (folder / VISUALIZATIONS).is_file() else "cards"):
        made.add("Visualizations", _visualizations(folder))
    for name, title in ATLASES.items():
        made.drawing(title, drawn.get(name), atlases.BODY, ZOOM)
    made.add("Settings", _settings(study.manifest))
    css = webpage.faces() + "".join(map(webpage.template, STYLES))
    script = "\n".join(webpage.template(f"{name}.js") for name in SCRIPTS)
    text = webpage.filled("folio.html", {
        "policy": webpage.policy(script, css, made.pictures),
        "title": html.escape(f"{study.name} · ablate"),
        "css": css,
        "name": html.escape(study.name),
        "about": html.escape(study.about or ABOUT),
        "facts": html.escape("  ·  ".join(study.facts)),
        "links": "".join(f'<a href="#{_anchor(t)}">{html.escape(t)}</a>' for t in made.titles),
        "sections": "".join(made.parts),
        "script": script,
    })  # fmt: skip
    return webpage.write(folder / REPORT, text)


def present_study(folder: Path, tell: Tell | None = None) -> Iterator[Path]:
    """Write all pictures of a study, each as SVG and as PNG, its sheets of cards, and its page.

    What is drawn from a file that cannot be read, or from pictures that cannot, is left out where
    there is someone to `tell`; else it is a `PictureError`.
    """
    drawn: dict[str, str] = {}
    without = set(SOURCES)
    for source, command in SOURCES.items():
        with _telling(tell, command):
            drawn |= dict(_drawn(source, folder))
            without.remove(source)
    for name, svg in drawn.items():
        yield from drawing.save_drawing(svg, folder / name)
    for source in SOURCES.keys() - without:
        if (folder / source).is_file():  # what it came to at an earlier time, and does not now
            for name in set(ALONE[source]) - drawn.keys():
                for path in _pair(folder, name):
                    path.unlink(missing_ok=True)
    if "cards.json" not in without and unitcards.cards(folder):
        yield from page.write(unitcards.sheet(folder), folder, SHEET)
    yield save(folder, drawn, without, tell)


@contextmanager
def _telling(tell: Tell | None, command: str) -> Iterator[None]:
    """What cannot be drawn is told, with the command that makes anew what it is drawn from."""
    try:
        yield
    except (StoreError, PictureError) as error:
        if tell is None:
            raise
        tell(f"{error}; it is left out, and `ablate units {command}` makes it anew")


def boxes(words: Iterable[str]) -> str:
    """What is to be said of words with letters that drawings cannot show; else nothing."""
    lacking = [word for word in words if clean(word) != " ".join(word.split())]
    if not lacking:
        return ""
    more = f" and {len(lacking) - MANY} more" if len(lacking) > MANY else ""
    return (
        f"Letters of {', '.join(lacking[:MANY])}{more} are boxes in pictures: their typeface,"
        f" Inter, lacks them. The text of {REPORT} shows them."
    )


def _pair(folder: Path, name: str) -> tuple[Path, Path]:
    """The files of a drawing."""
    return folder / f"{name}.svg", folder / f"{name}.png"


def study_pictures(folder: Path) -> Iterator[Path]:
    """All files and folders that `present` may have written into a study's folder."""
    for names in ALONE.values():
        for name in names:
            yield from _pair(folder, name)
    yield from (folder / name for name in (CARDS, f"{SHEET}.png", REPORT))
    for path in folder.glob(f"{SHEET}-*.png"):
        if re.fullmatch(rf"{SHEET}-\d+", path.stem):
            yield path


def drawings(folder: Path) -> Iterator[tuple[str, str]]:
    """Names of files, without suffixes, and drawings of all that the study has come to."""
    for source in SOURCES:
        yield from _drawn(source, folder)


def _drawn(source: str, folder: Path) -> Iterator[tuple[str, str]]:
    """Those that are drawn from one of its files."""
    if source == "units.csv" and (folder / source).is_file():
        yield "selectivity", distributions.svg(folder)
    if source == "cards.json":
        table = unitcards.search(folder)
        if table is not None:
            yield "concepts", table
        for card in unitcards.cards(folder):
            yield f"{CARDS}/{unitcards.slug(card)}", unitcards.svg(card, folder)
    atlas = read_atlas(folder) if source == "atlas.json" else None
    if atlas is None:
        return
    bins = atlas["bins"]
    patches = any(b.get("patch") for b in bins)
    if any(b.get("picture") for b in bins) or not patches:  # names alone, of what reads texts
        yield "atlas", atlases.svg(folder)
    if patches:
        yield "atlas-patches", atlases.svg(folder, "patch")
    if atlas.get("variant") and any(b.get("variant") is not None for b in bins):
        yield "atlas-compared", atlases.compared(folder)


def _anchor(title: str) -> str:
    return title.lower().replace(" ", "-")


class _Sections:
    """The sections of a page as they are made: titles, markup, and the drawings within."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.parts: list[str] = []
        self.pictures: list[Element] = []

    def add(self, title: str, content: str) -> None:
        """A section; none where there is nothing in it."""
        if content:
            self.titles.append(title)
            head = f'<section class="part" id="{_anchor(title)}"><h2>{html.escape(title)}</h2>'
            self.parts.append(f"{head}{content}</section>")

    def drawing(self, title: str, svg: str | None, body: Corner, zoom: float = 1) -> None:
        """A section of one drawing, from a corner of it on: what is above stands in the page.

        `zoom`: how many times its own size is its full size.
        """
        if svg is not None:
            self.add(title, self._drawn(title, svg, body, zoom))

    def cards(
        self, known: Sequence[Mapping[str, Any]], drawn: Mapping[str, str], notes: str
    ) -> None:
        """A section of unit cards, with links to each, and notes."""
        slugs = [unitcards.slug(card) for card in known]
        links = "".join(
            f'<a href="#unit-{html.escape(slug)}"><b>{html.escape(str(card["concept"]))}</b>'
            f" {_unit(card)}</a>"
            for slug, card in zip(slugs, known, strict=True)
        )
        shown = (
            self._drawn(unitcards.name(card), drawn[f"{CARDS}/{slug}"], unitcards.BODY)
            for slug, card in zip(slugs, known, strict=True)
        )
        made = "".join(
            f'<article id="unit-{html.escape(slug)}">{card}</article>'
            for slug, card in zip(slugs, shown, strict=True)
        )
        self.add(
            "Units", made and f'<nav class="units" aria-label="Units">{links}</nav>{notes}{made}'
        )

    def _drawn(self, title: str, svg: str, body: Corner, zoom: float = 1) -> str:
        checked = webpage.drawing(title, svg)
        _, _, width, height = map(float, checked.attrib["viewBox"].split())
        left, top = body
        width, height = width - 2 * left, height - top - left
        checked.set("viewBox", f"{left:g} {top:g} {width:g} {height:g}")
        checked.set("width", f"{zoom * width:g}")
        checked.set("height", f"{zoom * height:g}")
        self.pictures.append(checked)
        return webpage.picture(title, checked)


def _unit(told: Mapping[str, Any]) -> str:
    module, number = html.escape(str(told["module"])), html.escape(str(told["unit"]))
    return f'<span class="path">{module.replace(".", ".<wbr>")}</span> {number}'


def _table(
    heads: Iterable[tuple[str, bool]], rows: Iterable[Iterable[tuple[str, float | None]]]
) -> str:
    """A table whose heads sort it. Heads: words, whether of numbers; cells: markup, its number."""
    numeric = []
    head = ""
    for words, number in heads:
        numeric.append(number)
        side = ' class="number"' if number else ""
        head += f'<th scope="col"{side}>{html.escape(words)}</th>'
    body = "".join(
        "<tr>"
        + "".join(
            (f'<td class="number" data-value="{value}">' if number else "<td>") + f"{cell}</td>"
            for (cell, value), number in zip(row, numeric, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="wide"><table class="sorted"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _concepts(found: Mapping[str, Any]) -> str:
    """Concepts and the units that stand for them, with links to their cards."""
    known = {(str(c["module"]), str(c["unit"])): unitcards.slug(c) for c in found.get("cards", [])}

    def unit(told: Mapping[str, Any]) -> str:
        slug = known.get((str(told["module"]), str(told["unit"])))
        name = _unit(told)
        return f'<a href="#unit-{html.escape(slug)}">{name}</a>' if slug else name

    rows: list[list[tuple[str, float | None]]] = []
    for row in found.get("search", []):
        units = row.get("units") or []
        if not units:
            continue
        first = float(units[0]["contrast"])
        rest = "".join(f"<li>{unit(u)}</li>" for u in units[1:SHOWN])
        concept = f"<b>{html.escape(str(row['concept']))}</b>"
        rows.append([
            (concept, None), (unit(units[0]), None), (f"{first:.2f}", first),
            (f'<ul class="rest">{rest}</ul>' if rest else "", None),
        ])  # fmt: skip
    none = [str(row["concept"]) for row in found.get("search", []) if not row.get("units")]
    none = list(dict.fromkeys([*none, *map(str, found.get("none", []))]))
    heads = [("concept", False), ("unit", False), ("contrast", True), ("further units", False)]
    told = _table(heads, rows) if rows else ""
    if none:
        told += f'<p class="none"><b>No unit stands for</b> {html.escape(", ".join(none))}.</p>'
    note = (
        '<p class="note">Contrast: the mean of the concept less that of the others, in standard'
        " deviations within concepts.</p>"
    )
    return told and told + note


def _multimodal(found: Mapping[str, Any]) -> str:
    """Units that answer to a concept both in pictures and in words."""
    rows = [
        [
            (f"<b>{html.escape(str(u['concept']))}</b>", None),
            (_unit(u), None),
            (f"{float(u['picture']):.2f}", float(u["picture"])),
            (f"{float(u['word']):.2f}", float(u["word"])),
            (html.escape(f"in {u['by']}" if u.get("by") else ""), None),
        ]
        for u in found.get("multimodal", [])
    ]
    heads = [("concept", False), ("unit", False), ("contrast of pictures", True),
             ("contrast of words", True), ("words", False)]  # fmt: skip
    return (_table(heads, rows) if rows else "") + _notes(found)


def _notes(found: Mapping[str, Any]) -> str:
    return "".join(
        f'<p class="note">{html.escape(str(note))}</p>' for note in found.get("notes", [])
    )


def _visualizations(folder: Path) -> str:
    """Inputs made to drive units, with what they reached."""
    places = (folder / VISUALIZATIONS, folder / "visualizations" / VISUALIZATIONS)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return ""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise PictureError(f"{path} cannot be read as a table: {error}") from error
    shown = []
    for row in rows:
        name = row.get("name") or ""
        picture = row.get("finished") or row.get("file") or f"{name}.png"
        image = read_image(path.parent, picture)
        if image is None:
            continue
        told = f"{_figure(row.get('start'))} → {_figure(row.get('end'))}"
        if row.get("typical"):
            told += f", typically {_figure(row['typical'])}"
        objective = row.get("objective") or ""
        objective = "" if name.startswith(objective) else objective  # said already
        shown.append(
            f'<figure><img class="pixels" alt="" src="{_inlined(image)}">'
            f"<figcaption><b>{html.escape(name)}</b>"
            f"<span>{html.escape(objective)}</span>"
            f"<span>{html.escape(told)}</span></figcaption></figure>"
        )
    note = (
        '<p class="note">Objective from the start to the end of its optimization, and what plain'
        " inputs give. Pictures of latents are what the rest of the sampling makes of them.</p>"
    )
    return f'<div class="seen">{"".join(shown)}</div>{note}' if shown else ""


def _figure(value: str | None) -> str:
    try:
        return f"{float(value or ''):.3g}"
    except ValueError:
        return value or "?"


def _inlined(path: Path) -> str:
    """A picture as data, without what else its file holds."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((SIDE, SIDE))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _settings(manifest: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th><td>{html.escape(value)}</td></tr>'
        for key, part in manifest.items()
        if key not in ("format", "name", "about")
        for name, value in webpage.pairs(key, _shortened(part))
    )
    return f'<div class="settings"><table><tbody>{rows}</tbody></table></div>' if rows else ""


def _shortened(value: Any) -> Any:
    """Settings whose long lists, such as those of seeds, end in how many there are."""
    if isinstance(value, Mapping):
        return {key: _shortened(part) for key, part in value.items()}
    if isinstance(value, list) and len(value) > MANY:
        return [*value[:MANY], f"… {len(value):,} in all"]
    return value
