"""The HTML page of a study of units, and its pictures: all from the study's folder alone.

The page shows whatever the study has so far: distributions, concepts and their units, cards,
visualizations, atlases.

    >>> save_study_report(Path("outputs/units-selectivity"))
    PosixPath('outputs/units-selectivity/report.html')
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ablate.store import (
    ATLASES,
    CARDS,
    DRAWINGS,
    REPORT,
    StoreError,
    drawing_files,
    open_image,
    read_atlas,
    read_cards,
    read_image,
    read_study,
    read_table,
)
from ablate.style import clean
from ablate.view import svg as drawing
from ablate.view.errors import PictureError
from ablate.view.page import save_pages
from ablate.view.report.page import parse_drawing, settings_of, write_page
from ablate.view.studies import atlas as atlases, cards as unitcards, distributions

ABOUT = "What single units of a network stand for."
THUMBNAIL = 360  # largest side of a visualization on the page, in pixels
ZOOM = 1.6  # of atlases in full size: their pictures have as many pixels
LONGEST = 60  # values of a setting, and words of a note, that are listed
VISUALIZATIONS = "visualizations.csv"
# The commands that write the files from which drawings are created.
COMMANDS = {"units.csv": "selectivity", "cards.json": "cards", "atlas.json": "atlas"}
Warn = Callable[[str], None]


def save_study_report(
    folder: Path,
    svgs: Mapping[str, str] | None = None,
    skipped: Collection[str] = (),
    warn: Warn | None = None,
) -> Path:
    """Write `report.html` into the folder of a study and return its path.

    Args:
        folder: The study's folder.
        svgs: Its drawings by name; they are drawn unless given.
        skipped: Files of the study that cannot be read and are left out.
        warn: Called with a sentence where visualizations cannot be read; they are left out then.

    Raises:
        StoreError: The folder is no study, or one of its files cannot be read.
    """
    study = read_study(folder)
    content = {} if "cards.json" in skipped else read_cards(folder)
    svgs = dict(draw_study(folder)) if svgs is None else svgs
    cards = [{**card, "slug": unitcards.slug(card)} for card in content.get("cards", [])]
    placed = {"selectivity": ("Selectivity", distributions.BODY, 1.0)}
    placed |= {name: (title, atlases.BODY, ZOOM) for name, title in ATLASES.items()}
    placed |= {f"{CARDS}/{c['slug']}": (unitcards.name(c), unitcards.BODY, 1.0) for c in cards}
    drawings = {
        name: parse_drawing(title, svgs[name]).crop(*body, zoom)
        for name, (title, body, zoom) in placed.items()
        if name in svgs
    }
    for card in cards:
        card["drawing"] = drawings[f"{CARDS}/{card['slug']}"]
    visualizations: list[dict[str, str]] = []
    with _warning(warn, "visualize" if (folder / VISUALIZATIONS).is_file() else "cards"):
        visualizations += _visualizations(folder)
    settings = settings_of(_shorten(study.manifest), ("format", "name", "about"))
    sections: list[tuple[str, str, Any]] = [  # title, macro of the template, what it shows
        ("Selectivity", "drawing", drawings.get("selectivity")),
        ("Concepts", "concepts", _concepts(content, cards)),
        *_units(content, cards),
        ("Visualizations", "visualizations", visualizations),
        *((title, "drawing", drawings.get(name)) for name, title in ATLASES.items()),
        ("Settings", "settings", settings),
    ]
    return write_page(
        folder / REPORT,
        "study.html",
        styles=("report.css", "study.css"),
        scripts=("elements", "pictures", "study"),
        drawings=drawings.values(),
        title=study.name,
        name=study.name,
        about=study.about or ABOUT,
        facts=study.facts,
        sections=[section for section in sections if section[2]],
    )


def present_study(folder: Path, warn: Warn | None = None) -> Iterator[Path]:
    """Write all pictures of a study, each as SVG and as PNG, its sheets of cards, and its page.

    Drawings whose file or pictures cannot be read are left out where there is `warn`, which is
    called with a sentence; else `StoreError` or `PictureError` is raised.
    """
    svgs: dict[str, str] = {}
    skipped = set(DRAWINGS)
    for source, command in COMMANDS.items():
        with _warning(warn, command):
            svgs |= dict(_draw(source, folder))
            skipped.remove(source)
    for name, svg in svgs.items():
        yield from drawing.save_drawing(svg, folder / name)
    for source in DRAWINGS.keys() - skipped:
        if (folder / source).is_file():  # remove drawings that it does not lead to any more
            for name in set(DRAWINGS[source]) - svgs.keys():
                for path in drawing_files(folder, name):
                    path.unlink(missing_ok=True)
    if "cards.json" not in skipped and unitcards.cards(folder):
        yield from save_pages(unitcards.sheet(folder), folder, CARDS)
    yield save_study_report(folder, svgs, skipped, warn)


@contextmanager
def _warning(warn: Warn | None, command: str) -> Iterator[None]:
    """Turn an error into a warning that names the command which writes the file anew."""
    try:
        yield
    except (StoreError, PictureError) as error:
        if warn is None:
            raise
        warn(f"{error}; it is left out, and `ablate units {command}` makes it anew")


def letters_note(words: Iterable[str]) -> str:
    """A sentence on words with letters that drawings cannot show; empty where there are none."""
    lacking = [word for word in words if clean(word) != " ".join(word.split())]
    if not lacking:
        return ""
    more = f" and {len(lacking) - LONGEST} more" if len(lacking) > LONGEST else ""
    return (
        f"Letters of {', '.join(lacking[:LONGEST])}{more} are boxes in pictures: their typeface,"
        f" Inter, lacks them. The text of {REPORT} shows them."
    )


def draw_study(folder: Path) -> Iterator[tuple[str, str]]:
    """Draw all that a study has so far: names of files, without suffixes, and SVG documents."""
    for source in DRAWINGS:
        yield from _draw(source, folder)


def _draw(source: str, folder: Path) -> Iterator[tuple[str, str]]:
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
    if any(b.get("picture") for b in bins) or not patches:  # names alone, of text encoders
        yield "atlas", atlases.svg(folder)
    if patches:
        yield "atlas-patches", atlases.svg(folder, "patch")
    if atlas.get("variant") and any(b.get("variant") is not None for b in bins):
        yield "atlas-compared", atlases.compared(folder)


def _concepts(
    content: Mapping[str, Any], cards: Iterable[Mapping[str, Any]]
) -> dict[str, Any] | None:
    """Concepts with their strongest units, and concepts without any."""
    rows = [row for row in content.get("search", []) if row.get("units")]
    none = [row["concept"] for row in content.get("search", []) if not row.get("units")]
    none = list(dict.fromkeys([*none, *content.get("none", [])]))
    slugs = {(card["module"], card["unit"]): card["slug"] for card in cards}
    return {"rows": rows, "none": none, "slugs": slugs} if rows or none else None


def _units(
    content: Mapping[str, Any], cards: list[dict[str, Any]]
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """The sections of cards and, for CLIP, of units that respond to both words and pictures."""
    notes, multimodal = content.get("notes", []), content.get("multimodal", [])
    clip = content.get("component") == "clip"
    if cards:
        yield "Units", "units", {"cards": cards, "notes": [] if clip else notes}
    if clip and (multimodal or notes):
        yield "Words and pictures", "multimodal", {"rows": multimodal, "notes": notes}


def _visualizations(folder: Path) -> Iterator[dict[str, str]]:
    """Inputs that were optimized to drive units, with the values they reached."""
    places = (folder / VISUALIZATIONS, folder / "visualizations" / VISUALIZATIONS)
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        return
    header, rows = read_table(path)
    for row in (dict(zip(header, values, strict=True)) for values in rows):
        name = row.get("name") or ""
        image = read_image(path.parent, row.get("finished") or row.get("file") or f"{name}.png")
        if image is None:
            continue
        figures = f"{_figure(row.get('start'))} → {_figure(row.get('end'))}"
        if row.get("typical"):
            figures += f", typically {_figure(row['typical'])}"
        objective = row.get("objective") or ""
        yield {
            "name": name,
            "objective": "" if name.startswith(objective) else objective,
            "figures": figures,
            "image": _data_uri(image),
        }


def _figure(value: str | None) -> str:
    try:
        return f"{float(value or ''):.3g}"
    except ValueError:
        return value or "?"


def _data_uri(path: Path) -> str:
    """A thumbnail of a picture as data, without the file's metadata."""
    with open_image(path) as opened:
        image = opened.convert("RGB")
    image.thumbnail((THUMBNAIL, THUMBNAIL))
    data = io.BytesIO()
    image.save(data, "WEBP", quality=88)
    return f"data:image/webp;base64,{base64.b64encode(data.getvalue()).decode()}"


def _shorten(value: Any) -> Any:
    """Settings whose long lists, such as those of seeds, end in their number of values."""
    if isinstance(value, Mapping):
        return {key: _shorten(part) for key, part in value.items()}
    if isinstance(value, list) and len(value) > LONGEST:
        return [*value[:LONGEST], f"… {len(value):,} in all"]
    return value
