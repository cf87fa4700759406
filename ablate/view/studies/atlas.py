"""Activation atlases: what a layer tells apart, as a plane of feature visualizations.

After Carter et al. (2019, Activation Atlas): activations on a plane, the plane in bins, and of each
bin a picture of what it stands for; bins of fewer activations are drawn smaller. Areas of bins that
show the same concept carry its name.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from ablate.store import model_name, read_atlas, read_image, read_study
from ablate.style import ACCENT, HAIRLINE, INK, MUTED, PAGE, VACANT
from ablate.view import svg as drawing
from ablate.view.errors import PictureError

MARGIN = 80
HEAD = 128
BODY = (MARGIN - 10, MARGIN + HEAD - 24)  # upper left corner of what is below the header
PITCH, BROAD = 66.0, 200.0  # of a bin in an atlas that stands alone
NARROW = 1500  # longer side that fewer bins fill too, as far as they may
BESIDE = 620  # width up to which an atlas has its notes to its right
COLUMN, LINE = 520.0, 800.0  # widths of notes: to its right, and below it at least
KEY = 66.0  # of a bin in the legend
LARGE = 120.0  # pitch from which on single bins are named
SMALLEST = 0.34  # side of a tile of the fewest vectors, of a bin's
BUDGET = 3_200_000  # bytes of all pictures
# Sides and qualities of pictures, tried one after the other.
QUALITIES = ((340, 84), (224, 84), (112, 84), (88, 80), (72, 76), (56, 70), (40, 60))
MOST = 44  # names of concepts
SMALL = 11.0  # their type at least
KINDS = {
    "picture": "Tiles: feature visualizations of the mean of a bin's vectors.",
    "patch": "Tiles: the patch of an image whose vector lies nearest to the middle of its bin.",
}
DARK, GROWN = 0.5, 2.0  # shares of what was expected, and less or more
LISTED = 12  # concepts that lost most
FADED = 0.22
STRIKE = 1.4  # thickness
BESIDES = 370.0  # width of each of two atlases at least
MARK = drawing.ramp(0.78)
PLAIN = drawing.ramp(0.16)  # tiles of atlases without pictures
BEFORE, AFTER = drawing.ramp(0.25), drawing.ramp(0.7)  # bars of concepts
Place = tuple[int, int]  # row, column


@dataclass(frozen=True)
class _Bin:
    """A bin. `after`: vectors of the variant; None where there is none."""

    row: int
    column: int
    count: int
    concepts: tuple[tuple[str, float], ...]
    path: Path | None
    after: int | None

    @property
    def concept(self) -> str:
        return self.concepts[0][0] if self.concepts else ""


@dataclass(frozen=True)
class _Atlas:
    told: Mapping[str, Any]
    rows: int
    columns: int
    bins: tuple[_Bin, ...]

    @property
    def most(self) -> int:
        """The count from which on a tile fills its bin: that of the bin at three quarters."""
        counts = sorted(b.count for b in self.bins if b.count)
        return counts[int(0.75 * (len(counts) - 1))] if counts else 1

    def side(self, count: float) -> float:
        """The side of a tile, of a bin's: its area grows with the count."""
        if count <= 0:
            return 0
        return min(max(math.sqrt(count / self.most), SMALLEST), 1) * 0.97


@dataclass(frozen=True)
class _Frame:
    """Where the bins of an atlas are drawn."""

    left: float
    top: float
    pitch: float

    def corner(self, b: _Bin, side: float) -> tuple[float, float]:
        """Of a tile in the middle of its bin."""
        edge = (self.pitch - side) / 2
        return self.left + b.column * self.pitch + edge, self.top + b.row * self.pitch + edge


def svg(folder: Path, picture: str = "picture") -> str:
    """The atlas of a study. `picture`: of each bin its feature visualization (`picture`) or the
    patch of an image that lies nearest to its middle (`patch`).

    Raises `PictureError` where the folder has no atlas, or for another kind of picture.
    """
    atlas = _read(folder, picture)
    pitch = min(max(NARROW / max(atlas.rows, atlas.columns), PITCH), BROAD)
    width, height = atlas.columns * pitch, atlas.rows * pitch
    left, top = float(MARGIN), float(MARGIN + HEAD)
    stock, at = _Stock(atlas.bins, pitch), _Frame(left, top, pitch)
    drawn = [_tile(atlas, b, stock, at, b.count) for b in atlas.bins]
    names = _names(atlas, at, 1)
    beside = width < BESIDE
    room = COLUMN if beside else max(width, LINE)
    x, y = (left + width + 60, top) if beside else (left, top + height + 34)
    legend, y = _scale(atlas, x, y, room)
    told = _facts(atlas)
    notes = [*_tiles(atlas, picture), *_named(names), _method(atlas)]
    notes += told if beside else [" · ".join(told)]
    foot, y = _notes(notes, x, y + 34, room)
    study, about = read_study(folder), f"Activation atlas of {atlas.told.get('module', '')}"
    full = width + 60 + COLUMN if beside else room
    return drawing.document(
        full + 2 * MARGIN, max(top + height, y - 20) + MARGIN - 10, stock.defined(),
        drawing.header(study.name, about, MARGIN, full), *drawn, names, legend, foot,
        label=f"{about} of {study.name}",
    )  # fmt: skip


def _read(folder: Path, picture: str) -> _Atlas:
    if picture not in KINDS:
        known = " and ".join(KINDS)
        raise PictureError(f"tiles show no `{picture}`; choose one of {known}")
    told = read_atlas(folder)
    if told is None:
        raise PictureError(f"{folder} has no atlas.json to draw from")
    bins = tuple(
        _Bin(
            b["row"], b["column"], b["count"],
            tuple((c, float(lift)) for c, lift in b.get("concepts", ())),
            read_image(folder, b.get(picture)),
            b.get("variant"),
        )
        for b in told["bins"]
    )  # fmt: skip
    return _Atlas(told, told["rows"], told["columns"], bins)


def _facts(atlas: _Atlas) -> list[str]:
    found = [model_name(atlas.told.get("model")), str(atlas.told.get("component") or "")]
    found += [str(atlas.told.get("module") or ""), _counted(atlas.told["vectors"], "vector")]
    filled = sum(b.count > 0 for b in atlas.bins)
    found.append(f"{atlas.rows} × {atlas.columns} bins, {filled:,} of them filled")
    return [fact for fact in found if fact]


def _tiles(atlas: _Atlas, picture: str) -> list[str]:
    """What the tiles are, of those that there are."""
    seen = [b.path is not None for b in atlas.bins if b.count]
    if not any(seen):
        return ["Tiles: bins, as large as they hold vectors; there are no pictures of them."]
    return [KINDS[picture], *(["Empty tiles: bins without a picture."] * (not all(seen)))]


def _named(names: str) -> list[str]:
    return ["Names: the concept of most lift, in areas of bins that share it."] * bool(names)


def _notes(notes: Sequence[str], x: float, y: float, room: float) -> tuple[str, float]:
    """Paragraphs, the first baseline at `y`; and where the next would be."""
    drawn = []
    for note in notes:
        part, y = drawing.paragraph(x, y, note, 16, room)
        drawn.append(part)
        y += 2
    return "".join(drawn), y


def _counted(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'s' * (count != 1)}"


def _method(atlas: _Atlas) -> str:
    by = str(atlas.told.get("method", ""))
    even = atlas.told.get("spread") == "even" and by != "som"
    told = {
        "pca": "Plane: the first two principal components of the vectors, across and up",
        "som": "Plane: a self-organizing map (Kohonen 1982); neighbors are alike",
        "umap": "Plane: UMAP (McInnes et al. 2018); near is alike, far is not to scale",
    }.get(by, f"Plane: {by}")
    evened = "; along both axes bins are as wide as to hold about as many vectors" if even else ""
    return f"{told}{evened}."


class _Stock:
    """Pictures of bins, each embedded once however often it is drawn, and small in all."""

    def __init__(self, bins: Sequence[_Bin], side: float) -> None:
        self.names: dict[Path, str] = {}
        paths = dict.fromkeys(b.path for b in bins if b.path is not None and b.count)
        for most, quality in QUALITIES:
            data = [_packed(path, min(most, round(1.7 * side)), quality) for path in paths]
            if sum(map(len, data)) <= BUDGET:
                break
        self.data = data
        self.names = {path: f"bin{i}" for i, path in enumerate(paths)}

    def defined(self) -> str:
        """The pictures, each a unit square."""
        return drawing.element("defs", *(
            drawing.element(
                "image", id=f"bin{i}", width=1, height=1, preserveAspectRatio="none",
                href=f"data:image/webp;base64,{base64.b64encode(data).decode()}",
            )
            for i, data in enumerate(self.data)
        ))  # fmt: skip

    def drawn(self, path: Path, x: float, y: float, side: float, opacity: float | None) -> str:
        """A picture at a place."""
        return drawing.element(
            "use", href=f"#{self.names[path]}", opacity=opacity,
            transform=f"translate({x:.1f} {y:.1f}) scale({side:.2f})",
        )  # fmt: skip


def _packed(path: Path, side: int, quality: int) -> bytes:
    """A picture, square and no larger than a side, as WebP."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    if max(image.size) > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=quality, method=4)
    return data.getvalue()


def _tile(
    atlas: _Atlas, b: _Bin, stock: _Stock, at: _Frame, count: float, opacity: float | None = None
) -> str:
    """A bin, as large as `count` tells."""
    side = atlas.side(count) * at.pitch
    if not side:
        return ""
    x, y = at.corner(b, side)
    told = _counted(b.count, "vector")
    if b.after is not None:
        told += f", {b.after:,} with {atlas.told.get('variant')}"
    told += "".join(f"\n{concept} × {lift:.1f}" for concept, lift in b.concepts)
    if b.path is not None:
        inside = stock.drawn(b.path, x, y, side, opacity)
    elif stock.data:
        inside = drawing.rect(x, y, side, side, VACANT, stroke=HAIRLINE, opacity=opacity)
    else:
        inside = drawing.rect(x, y, side, side, PLAIN, opacity=opacity)
    return drawing.element("g", drawing.tooltip(told), inside)


def _scale(atlas: _Atlas, x: float, y: float, room: float) -> tuple[str, float]:
    """What the sizes of tiles mean, each in its bin; and where what follows may begin."""
    counts = [b.count for b in atlas.bins if b.count]
    if not counts:
        return "", y
    least = max(1, math.ceil(SMALLEST**2 * atlas.most), min(counts))
    keys = {atlas.most: "≥ " * (max(counts) > atlas.most)}
    if least < atlas.most:
        keys = {least: "≤ " * (min(counts) < least), **keys}
        keys.setdefault(max(round(atlas.most / 3), least), "")
    words = {count: f"{keys[count]}{count:,}" for count in sorted(keys)}
    title, step = "Vectors in a bin", KEY + 42
    start = drawing.length(title, 16) + 26
    wide = sum(step + drawing.length(told, 16) for told in words.values())
    drawn = [drawing.text(x, y + (KEY / 2 + 5 if start + wide <= room else 16), title, 16, MUTED)]
    at, y = (x + start, y) if start + wide <= room else (x, y + 34)
    for count, told in words.items():
        side, edge = atlas.side(count) * KEY, (1 - atlas.side(count)) * KEY / 2
        drawn.append(drawing.rect(at, y, KEY, KEY, stroke=HAIRLINE))
        drawn.append(drawing.rect(at + edge, y + edge, side, side, PLAIN))
        drawn.append(drawing.text(at + KEY + 10, y + KEY / 2 + 5, told, 16, MUTED))
        at += step + drawing.length(told, 16)
    return "".join(drawn), y + KEY


def _areas(bins: Sequence[_Bin]) -> Iterator[tuple[str, list[Place]]]:
    """Bins that touch and share their first concept, the largest areas first."""
    left = {(b.row, b.column): b.concept for b in bins if b.count and b.concept}
    found = []
    while left:
        start, concept = next(iter(left.items()))
        area, reached = [], [start]
        del left[start]
        while reached:
            row, column = reached.pop()
            area.append((row, column))
            for down, across in ((1, 0), (-1, 0), (0, 1), (0, -1)):
                near = row + down, column + across
                if left.get(near) == concept:
                    del left[near]
                    reached.append(near)
        found.append((concept, sorted(area)))
    yield from sorted(found, key=lambda one: (-len(one[1]), one[1]))


def _names(atlas: _Atlas, at: _Frame, zoom: float) -> str:
    """Names of concepts on their areas, none over another."""
    taken: list[tuple[float, float, float, float]] = []
    drawn: list[str] = []
    seen: set[str] = set()
    width, least = atlas.columns * at.pitch, 2 if at.pitch < LARGE else 1
    for concept, area in _areas(atlas.bins):
        small = len(area) < 3 and concept in seen
        if len(drawn) == MOST or small or len(area) < least:
            continue
        size = min(17 + 3.4 * math.sqrt(len(area)), 44) * zoom
        shown, size = _fitted(concept, size, width - 10)
        half, tall = drawing.length(shown, size, True) / 2 + 5, 0.62 * size
        middle = [sum(place[i] for place in area) / len(area) for i in (0, 1)]
        for row, column in sorted(area, key=lambda place: math.dist(place, middle)):
            x, y = at.left + (column + 0.5) * at.pitch, at.top + (row + 0.5) * at.pitch
            x = min(max(x, at.left + half), at.left + width - half)
            box = x - half, y - tall, x + half, y + tall
            if all(
                box[0] >= c or a >= box[2] or box[1] >= d or b >= box[3] for a, b, c, d in taken
            ):
                taken.append(box)
                seen.add(concept)
                drawn.append(drawing.text(
                    x, y + 0.36 * size, shown, size, INK, bold=True, anchor="middle",
                    stroke=PAGE, stroke_width=0.26 * size, stroke_linejoin="round",
                    paint_order="stroke", pointer_events="none",
                ))  # fmt: skip
                break
    return "".join(drawn)


def _fitted(words: str, size: float, width: float) -> tuple[str, float]:
    """Bold type no wider than that: smaller where it has to be, and elided where that is not
    enough."""
    long = drawing.length(words, size, True)
    size = max(min(size, size * width / max(long, 1)), SMALL)
    while len(words) > 1 and drawing.length(words, size, True) > width:
        words = words.removesuffix("…")[:-1].rstrip() + "…"
    return words, size


def compared(folder: Path) -> str:
    """The baseline's atlas beside a variant's: which bins went dark, and which grew.

    Counts are compared as shares of all vectors. Raises `PictureError` where there is no variant.
    """
    atlas = _read(folder, "picture")
    picture = "picture" if any(b.path for b in atlas.bins) else "patch"
    atlas = _read(folder, picture)
    variant = str(atlas.told.get("variant") or "")
    if not variant or all(b.after is None for b in atlas.bins):
        raise PictureError(f"the atlas of {folder} is of no variant beside the baseline")
    pitch = min(max(800 / max(atlas.rows, atlas.columns), 34), LARGE)
    wide, gap = max(atlas.columns * pitch, BESIDES), 60.0
    left, right, top = float(MARGIN), MARGIN + wide + gap, float(MARGIN + HEAD + 34)
    room = max(2 * wide + gap, LINE)
    stock, at, to = _Stock(atlas.bins, pitch), _Frame(left, top, pitch), _Frame(right, top, pitch)
    total = (
        int(atlas.told["vectors"]),
        int(atlas.told.get("variant_vectors") or sum(b.after or 0 for b in atlas.bins)),
    )  # those outside of the grid are among them
    share = total[0] / max(total[1], 1)  # what a vector of the variant counts
    drawn = [_tile(atlas, b, stock, at, b.count) for b in atlas.bins]
    names = _names(atlas, at, 0.72)
    dark = grown = 0
    marks = []
    for b in atlas.bins:
        after = (b.after or 0) * share
        change = _change(b.count, after)
        went = change < 0
        size = b.count if went else after
        drawn.append(_tile(atlas, b, stock, to, size, FADED * went or None))
        if change:
            marks.append(_mark(atlas, b, to, after, went))
        dark, grown = dark + went, grown + (change > 0)
    for x, words, color in ((left, "baseline", ACCENT), (right, variant, INK)):
        (shown,) = drawing.fit(words, 19, wide) or [""]
        drawn.append(drawing.text(x, top - 22, shown, 20, color, bold=True))
    listed, bottom = _dark(atlas, left, top + atlas.rows * pitch + 30, room)
    notes = [*atlas.told.get("notes", []), _changes(dark, grown)]
    notes += [*_tiles(atlas, picture), *_named(names), _method(atlas)]
    notes.append(f"Vectors: {total[0]:,} of the baseline, {total[1]:,} of the variant.")
    foot, bottom = _notes([*notes, " · ".join(_facts(atlas))], left, bottom, room)
    study, about = (
        read_study(folder),
        f"What {variant} does to {atlas.told.get('module', '')}",
    )
    return drawing.document(
        room + 2 * MARGIN, bottom + MARGIN - 25, stock.defined(),
        drawing.header(study.name, about, MARGIN, room), listed, *drawn, names, *marks, foot,
        label=f"{about}, of {study.name}",
    )  # fmt: skip


def _changes(dark: int, grown: int) -> str:
    """What is marked in a comparison, of what there is."""
    told = []
    if dark:
        told.append(
            f"Faded and struck: {_counted(dark, 'bin')} that went dark, with less than half of the"
            " vectors expected."
        )
    if grown:
        told.append(f"Framed: {_counted(grown, 'bin')} that grew to twice as many or more.")
    if not told:
        told.append(
            "No bin went dark, to less than half of the vectors expected, nor grew twofold."
        )
    return " ".join([
        *told, "Expected: the baseline's, scaled to as many in all; a change counts where it"
        " exceeds two deviations of chance. Tiles are as large as in the baseline's scale.",
    ])  # fmt: skip


def _change(before: int, after: float) -> int:
    """-1: it went dark, 1: it grew; 0 where it did neither, or chance would do as much."""
    chance = 2 * math.sqrt(max(before, after, 1))
    if after < DARK * before and before - after > chance:
        return -1
    return int(after > GROWN * before and after - before > chance)


def _mark(atlas: _Atlas, b: _Bin, at: _Frame, after: float, dark: bool) -> str:
    side = atlas.side(b.count if dark else after) * at.pitch
    x, y = at.corner(b, side)
    if dark:
        inner = STRIKE / 2  # so that its ends lie within the tile
        ends = (x + inner, y + side - inner), (x + side - inner, y + inner)
        return drawing.line(ends, INK, STRIKE)
    return drawing.rect(x, y, side, side, stroke=MARK, stroke_width=3)


def _dark(atlas: _Atlas, x: float, y: float, width: float) -> tuple[str, float]:
    """The concepts that lost most, before and after, as bars; and where what follows begins."""
    lost = [
        (str(d["concept"]), float(d["before"]), float(d["after"]))
        for d in atlas.told.get("dark", [])
    ]
    if not lost:
        return "", y + 20
    shares = all(0 <= v <= 1 for _, *both in lost for v in both)
    lost, left_out = lost[:LISTED], len(lost) - LISTED
    title = "Concepts that lost most of the vectors in their own bins"
    drawn = [drawing.text(x, y + 18, title, 18, bold=True)]
    at = x + drawing.length(title, 18, True) + 26
    for words, color in (("baseline", BEFORE), (str(atlas.told["variant"]), AFTER)):
        drawn.append(drawing.rect(at, y + 7, 12, 12, color))
        (words,) = drawing.fit(words, 15, min(500, x + width - at - 19)) or [""]
        drawn.append(drawing.text(at + 19, y + 18, words, 15, MUTED))
        at += 19 + drawing.length(words, 15) + 22
    y += 52
    top = max(max(before, after) for _, before, after in lost) or 1
    across = 3 if len(lost) > 4 and width > 1200 else 2
    cell = (width - (across - 1) * 50) / across
    rows = math.ceil(len(lost) / across)
    for i, one in enumerate(lost):
        at, line = x + i // rows * (cell + 50), y + i % rows * 34
        drawn.append(_loss(one, top, shares, at, line, cell))
    y += rows * 34
    if left_out > 0:
        drawn.append(drawing.text(x, y, f"and {left_out} more", 15, MUTED))
        y += 24
    return "".join(drawn), y + 24


def _loss(
    lost: tuple[str, float, float], top: float, shares: bool, x: float, y: float, width: float
) -> str:
    """A concept before and after: two bars with their figures."""
    concept, before, after = lost

    def figure(value: float) -> str:
        return f"{100 * value:.3g} %" if shares else f"{value:,.4g}"

    named, room = 130.0, width - 130 - 150
    (word,) = drawing.fit(concept, 15, named - 10) or [""]
    return (
        drawing.text(x, y + 5, word, 15, bold=True)
        + drawing.rect(x + named, y - 8, max(room * before / top, 1), 7, BEFORE)
        + drawing.rect(x + named, y + 1, max(room * after / top, 1), 7, AFTER)
        + drawing.text(
            x + width, y + 5, f"{figure(before)} → {figure(after)}", 15, MUTED, anchor="end"
        )
    )
