"""Activation atlases: what a layer distinguishes, as a plane of feature visualizations.

After Carter et al. (2019, Activation Atlas): activations on a plane, the plane in bins, and of each
bin a picture of what it represents; bins of fewer activations are drawn smaller. Areas of bins that
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

from ablate.messages import counted
from ablate.store import model_name, open_image, read_atlas, read_image, read_study
from ablate.style import ACCENT, HAIRLINE, INK, MUTED, VACANT, elide, fit, ramp, text_width
from ablate.view.chart import Labels
from ablate.view.errors import PictureError
from ablate.view.svg import MARGIN, Canvas, Point

HEAD = 128
BODY = (MARGIN - 10, MARGIN + HEAD - 24)  # upper left corner of what is below the header
PITCH, BROAD = 66.0, 200.0  # of a bin in a single atlas
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
    "patch": "Tiles: the patch of an image whose vector is nearest to the middle of its bin.",
}
METHODS = {
    "pca": "Plane: the first two principal components of the vectors, across and up",
    "som": "Plane: a self-organizing map (Kohonen 1982); neighbors are alike",
    "umap": "Plane: UMAP (McInnes et al. 2018); near is alike, far is not to scale",
}
EVEN = "; along both axes bins are as wide as to hold about as many vectors"
DARK, GROWN = 0.5, 2.0  # shares of what was expected, and less or more
LISTED = 12  # concepts that lost most
FADED = 0.22
STRIKE = 1.4  # thickness
BESIDES = 370.0  # width of each of two atlases at least
MARK = ramp(0.78)
PLAIN = ramp(0.16)  # tiles of atlases without pictures
BEFORE, AFTER = ramp(0.25), ramp(0.7)  # bars of concepts
EXPECTED = (
    "Expected: the baseline's, scaled to as many in all; a change counts where it exceeds two"
    " deviations of chance. Tiles are as large as in the baseline's scale."
)
Place = tuple[int, int]  # row, column


@dataclass(frozen=True)
class _Bin:
    """A bin of an atlas."""

    row: int  # from the top
    column: int  # from the left
    count: int  # vectors of the baseline
    concepts: tuple[tuple[str, float], ...]  # with their lift, the most first
    path: Path | None  # of its picture; None where there is none
    after: int | None  # vectors of the variant; None where there is no variant

    @property
    def concept(self) -> str:
        return self.concepts[0][0] if self.concepts else ""


@dataclass(frozen=True)
class _Atlas:
    """An atlas as it is stored: `facts` are what `atlas.json` contains besides the bins."""

    facts: Mapping[str, Any]
    rows: int
    columns: int
    bins: tuple[_Bin, ...]

    @property
    def variant(self) -> str:
        return str(self.facts.get("variant") or "")

    @property
    def module(self) -> str:
        return str(self.facts.get("module") or "")

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


def svg(folder: Path, picture: str = "picture") -> str:
    """Draw the atlas of a study.

    Args:
        folder: Of the study.
        picture: Of each bin its feature visualization (`picture`), or the patch of an image that is
            nearest to its middle (`patch`).

    Raises:
        PictureError: The folder has no atlas, or there is no such kind of picture.
    """
    atlas = _read(folder, picture)
    pitch = min(max(NARROW / max(atlas.rows, atlas.columns), PITCH), BROAD)
    width, height = atlas.columns * pitch, atlas.rows * pitch
    left, top = float(MARGIN), float(MARGIN + HEAD)
    canvas, stock = Canvas(), _Stock(atlas.bins, pitch)
    grid = _Grid(canvas, atlas, stock, left, top, pitch)
    stock.define(canvas)
    for b in atlas.bins:
        grid.draw_tile(b, b.count)
    named = grid.draw_names(1)
    beside = width < BESIDE
    room = COLUMN if beside else max(width, LINE)
    x, y = (left + width + 60, top) if beside else (left, top + height + 34)
    y = _draw_sizes(canvas, atlas, x, y, room)
    facts = _facts(atlas)
    notes = [*_notes(atlas, picture, named), *(facts if beside else [" · ".join(facts)])]
    y = _write(canvas, notes, x, y + 34, room)
    name, about = read_study(folder).name, f"Activation atlas of {atlas.module}"
    full = width + 60 + COLUMN if beside else room
    return canvas.document(
        full + 2 * MARGIN, max(top + height, y - 20) + MARGIN - 10, name=name, about=about,
        label=f"{about} of {name}",
    )  # fmt: skip


def _read(folder: Path, picture: str) -> _Atlas:
    if picture not in KINDS:
        known = " and ".join(KINDS)
        raise PictureError(f"tiles show no `{picture}`; choose one of {known}")
    facts = read_atlas(folder)
    if facts is None:
        raise PictureError(f"{folder} has no atlas.json to draw from")
    bins = tuple(
        _Bin(
            b["row"], b["column"], b["count"],
            tuple((c, float(lift)) for c, lift in b.get("concepts", ())),
            read_image(folder, b.get(picture)),
            b.get("variant"),
        )
        for b in facts["bins"]
    )  # fmt: skip
    return _Atlas(facts, facts["rows"], facts["columns"], bins)


def _facts(atlas: _Atlas) -> list[str]:
    filled = sum(b.count > 0 for b in atlas.bins)
    facts = [
        model_name(atlas.facts.get("model")),
        str(atlas.facts.get("component") or ""),
        atlas.module,
        counted(atlas.facts["vectors"], "vector"),
        f"{atlas.rows} × {atlas.columns} bins, {filled:,} of them filled",
    ]
    return [fact for fact in facts if fact]


def _notes(atlas: _Atlas, picture: str, named: bool) -> list[str]:
    """What the tiles and names are, of those that there are, and the plane."""
    seen = [b.path is not None for b in atlas.bins if b.count]
    notes = ["Tiles: bins, as large as they hold vectors; there are no pictures of them."]
    if any(seen):
        notes = [KINDS[picture], *(["Empty tiles: bins without a picture."] * (not all(seen)))]
    if named:
        notes.append("Names: the concept of most lift, in areas of bins that share it.")
    method = str(atlas.facts.get("method", ""))
    plane = METHODS.get(method, f"Plane: {method}")
    even = atlas.facts.get("spread") == "even" and method != "som"
    return [*notes, f"{plane}{EVEN * even}."]


def _write(canvas: Canvas, notes: Sequence[str], x: float, y: float, room: float) -> float:
    """Write paragraphs, the first baseline at `y`; return where the next would be."""
    for note in notes:
        y = canvas.paragraph(x, y, note, 16, room) + 2
    return y


class _Stock:
    """Pictures of bins, each embedded once however often it is drawn, and small in all."""

    def __init__(self, bins: Sequence[_Bin], side: float) -> None:
        paths = dict.fromkeys(b.path for b in bins if b.path is not None and b.count)
        for most, quality in QUALITIES:
            self.data = [_packed(path, min(most, round(1.7 * side)), quality) for path in paths]
            if sum(map(len, self.data)) <= BUDGET:
                break
        self.names = {path: f"bin{i}" for i, path in enumerate(paths)}

    def define(self, canvas: Canvas) -> None:
        """Embed the pictures, each a unit square."""
        with canvas.group(tag="defs"):
            for name, data in zip(self.names.values(), self.data, strict=True):
                canvas.element(
                    "image", id=name, width=1, height=1, preserveAspectRatio="none",
                    href=f"data:image/webp;base64,{base64.b64encode(data).decode()}",
                )  # fmt: skip


def _packed(path: Path, side: int, quality: int) -> bytes:
    """A picture, square and no larger than a side, as WebP."""
    with open_image(path) as opened:
        image = opened.convert("RGB")
    if max(image.size) > side:
        image = image.resize((side, side), Image.Resampling.LANCZOS, reducing_gap=2)
    data = io.BytesIO()
    image.save(data, "WEBP", quality=quality, method=4)
    return data.getvalue()


@dataclass(frozen=True)
class _Grid:
    """Where the bins of an atlas are drawn."""

    canvas: Canvas
    atlas: _Atlas
    stock: _Stock
    left: float
    top: float
    pitch: float  # side of a bin

    def corner(self, b: _Bin, side: float) -> Point:
        """The upper left corner of a tile in the middle of its bin."""
        edge = (self.pitch - side) / 2
        return self.left + b.column * self.pitch + edge, self.top + b.row * self.pitch + edge

    def draw_tile(self, b: _Bin, count: float, opacity: float | None = None) -> None:
        """Draw a bin, as large as for that count of vectors."""
        side = self.atlas.side(count) * self.pitch
        if not side:
            return
        x, y = self.corner(b, side)
        facts = counted(b.count, "vector")
        if b.after is not None:
            facts += f", {b.after:,} with {self.atlas.facts.get('variant')}"
        facts += "".join(f"\n{concept} × {lift:.1f}" for concept, lift in b.concepts)
        with self.canvas.group(facts):
            if b.path is not None:
                place = f"translate({x:.1f} {y:.1f}) scale({side:.2f})"
                href = f"#{self.stock.names[b.path]}"
                self.canvas.element("use", href=href, opacity=opacity, transform=place)
            elif self.stock.data:
                self.canvas.rect(x, y, side, side, VACANT, stroke=HAIRLINE, opacity=opacity)
            else:
                self.canvas.rect(x, y, side, side, PLAIN, opacity=opacity)

    def draw_names(self, zoom: float) -> bool:
        """Write concepts on their areas, none over another; return whether there are any."""
        labels, seen = Labels(), set()
        width, least = self.atlas.columns * self.pitch, 2 if self.pitch < LARGE else 1
        for concept, area in _areas(self.atlas.bins):
            small = len(area) < 3 and concept in seen
            if len(labels.taken) == MOST or small or len(area) < least:
                continue
            size = min(17 + 3.4 * math.sqrt(len(area)), 44) * zoom
            wide = text_width(concept, size, True)
            size = max(min(size, size * (width - 10) / max(wide, 1)), SMALL)
            shown = elide(concept, size, width - 10)
            half = text_width(shown, size, True) / 2 + 5
            middle = [sum(place[i] for place in area) / len(area) for i in (0, 1)]
            area.sort(key=lambda place: math.dist(place, middle))
            across = (min(max((c + 0.5) * self.pitch, half), width - half) for _, c in area)
            down = ((row + 0.5) * self.pitch for row, _ in area)
            spots = [(self.left + x, self.top + y) for x, y in zip(across, down, strict=True)]
            spot = labels.place(spots, (half, 0.62 * size))
            if spot:
                seen.add(concept)
                self.canvas.text(
                    spot[0], spot[1] + 0.36 * size, shown, size, bold=True, anchor="middle",
                    halo=0.26 * size, stroke_linejoin="round", pointer_events="none",
                )  # fmt: skip
        return bool(seen)


def _draw_sizes(canvas: Canvas, atlas: _Atlas, x: float, y: float, room: float) -> float:
    """Draw what the sizes of tiles mean, each in its bin; return where they end."""
    counts = [b.count for b in atlas.bins if b.count]
    if not counts:
        return y
    least = max(1, math.ceil(SMALLEST**2 * atlas.most), min(counts))
    keys = {atlas.most: "≥ " * (max(counts) > atlas.most)}
    if least < atlas.most:
        keys = {least: "≤ " * (min(counts) < least), **keys}
        keys.setdefault(max(round(atlas.most / 3), least), "")
    labels = {count: f"{keys[count]}{count:,}" for count in sorted(keys)}
    title, step = "Vectors in a bin", KEY + 42
    start = text_width(title, 16) + 26
    in_line = start + sum(step + text_width(label, 16) for label in labels.values()) <= room
    canvas.text(x, y + (KEY / 2 + 5 if in_line else 16), title, 16, MUTED)
    at, y = (x + start, y) if in_line else (x, y + 34)
    for count, label in labels.items():
        side, edge = atlas.side(count) * KEY, (1 - atlas.side(count)) * KEY / 2
        canvas.rect(at, y, KEY, KEY, stroke=HAIRLINE)
        canvas.rect(at + edge, y + edge, side, side, PLAIN)
        canvas.text(at + KEY + 10, y + KEY / 2 + 5, label, 16, MUTED)
        at += step + text_width(label, 16)
    return y + KEY


def _areas(bins: Sequence[_Bin]) -> Iterator[tuple[str, list[Place]]]:
    """Bins that touch and share their first concept, the largest areas first."""
    left = {(b.row, b.column): b.concept for b in bins if b.count and b.concept}
    areas = []
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
        areas.append((concept, sorted(area)))
    yield from sorted(areas, key=lambda one: (-len(one[1]), one[1]))


# ------------------------------------------------------------ two beside one another


def compared(folder: Path) -> str:
    """Draw the baseline's atlas beside a variant's: which bins went dark, and which grew.

    Counts are compared as shares of all vectors.

    Raises:
        PictureError: There is no variant.
    """
    atlas = _read(folder, "picture")
    picture = "picture" if any(b.path for b in atlas.bins) else "patch"
    atlas = _read(folder, picture)
    variant = atlas.variant
    if not variant or all(b.after is None for b in atlas.bins):
        raise PictureError(f"the atlas of {folder} is of no variant beside the baseline")
    pitch = min(max(800 / max(atlas.rows, atlas.columns), 34), LARGE)
    wide, gap = max(atlas.columns * pitch, BESIDES), 60.0
    left, right, top = float(MARGIN), MARGIN + wide + gap, float(MARGIN + HEAD + 34)
    room = max(2 * wide + gap, LINE)
    canvas, stock, marks = Canvas(), _Stock(atlas.bins, pitch), Canvas()
    grid, other = (_Grid(canvas, atlas, stock, x, top, pitch) for x in (left, right))
    vectors = int(atlas.facts["vectors"])  # those outside of the grid are among them
    changed = int(atlas.facts.get("variant_vectors") or sum(b.after or 0 for b in atlas.bins))
    share = vectors / max(changed, 1)  # what a vector of the variant counts
    stock.define(canvas)
    bottom = _draw_losses(canvas, atlas, left, top + atlas.rows * pitch + 30, room)
    for b in atlas.bins:
        grid.draw_tile(b, b.count)
    dark = grown = 0
    for b in atlas.bins:
        after = (b.after or 0) * share
        change = _change(b.count, after)
        went = change < 0
        size = b.count if went else after
        other.draw_tile(b, size, FADED * went or None)
        if change:
            side = atlas.side(size) * pitch
            _mark(marks, *other.corner(b, side), side, went)
        dark, grown = dark + went, grown + (change > 0)
    for x, words, color in ((left, "baseline", ACCENT), (right, variant, INK)):
        canvas.text(x, top - 22, fit(words, 19, wide), 20, color, bold=True)
    named = grid.draw_names(0.72)
    canvas.add(marks)
    counts = f"Vectors: {vectors:,} of the baseline, {changed:,} of the variant."
    notes = [*atlas.facts.get("notes", []), _changes(dark, grown), *_notes(atlas, picture, named)]
    bottom = _write(canvas, [*notes, counts, " · ".join(_facts(atlas))], left, bottom, room)
    name, about = read_study(folder).name, f"What {variant} does to {atlas.module}"
    return canvas.document(
        room + 2 * MARGIN, bottom + MARGIN - 25, name=name, about=about,
        label=f"{about}, of {name}",
    )  # fmt: skip


def _changes(dark: int, grown: int) -> str:
    """What is marked in a comparison, of what there is."""
    changes = []
    if dark:
        changes.append(
            f"Faded and struck: {counted(dark, 'bin')} that went dark, with less than half of the"
            " vectors expected."
        )
    if grown:
        changes.append(f"Framed: {counted(grown, 'bin')} that grew to twice as many or more.")
    if not changes:
        changes = ["No bin went dark, to less than half of the vectors expected, nor grew twofold."]
    return " ".join([*changes, EXPECTED])


def _change(before: int, after: float) -> int:
    """-1: it went dark, 1: it grew; 0 where it did neither, or chance would do as much."""
    chance = 2 * math.sqrt(max(before, after, 1))
    if after < DARK * before and before - after > chance:
        return -1
    return int(after > GROWN * before and after - before > chance)


def _mark(canvas: Canvas, x: float, y: float, side: float, dark: bool) -> None:
    """Strike a tile that went dark, and frame one that grew."""
    if dark:
        inner = STRIKE / 2  # so that its ends are within the tile
        ends = [(x + inner, y + side - inner), (x + side - inner, y + inner)]
        canvas.line(ends, INK, STRIKE)
    else:
        canvas.rect(x, y, side, side, stroke=MARK, stroke_width=3)


def _draw_losses(canvas: Canvas, atlas: _Atlas, x: float, y: float, width: float) -> float:
    """Draw the concepts that lost most, before and after, as bars; return where they end."""
    lost = [(str(d["concept"]), float(d["before"]), float(d["after"]))
            for d in atlas.facts.get("dark", [])]  # fmt: skip
    if not lost:
        return y + 20
    form = "{:,.4g}"
    if all(0 <= value <= 1 for _, *both in lost for value in both):
        lost, form = [(c, 100 * before, 100 * after) for c, before, after in lost], "{:.3g} %"
    title = "Concepts that lost most of the vectors in their own bins"
    canvas.text(x, y + 18, title, 18, bold=True)
    at = x + text_width(title, 18, True) + 26
    for words, color in (("baseline", BEFORE), (atlas.variant, AFTER)):
        canvas.rect(at, y + 7, 12, 12, color)
        words = fit(words, 15, min(500, x + width - at - 19))
        canvas.text(at + 19, y + 18, words, 15, MUTED)
        at += 19 + text_width(words, 15) + 22
    y += 52
    shown = lost[:LISTED]
    top = max(max(before, after) for _, before, after in shown) or 1
    across = 3 if len(shown) > 4 and width > 1200 else 2
    cell, rows = (width - (across - 1) * 50) / across, math.ceil(len(shown) / across)
    named = 130.0
    longest = cell - named - 150
    for i, (concept, before, after) in enumerate(shown):
        at, line = x + i // rows * (cell + 50), y + i % rows * 34
        canvas.text(at, line + 5, fit(concept, 15, named - 10), 15, bold=True)
        canvas.rect(at + named, line - 8, max(longest * before / top, 1), 7, BEFORE)
        canvas.rect(at + named, line + 1, max(longest * after / top, 1), 7, AFTER)
        words = f"{form.format(before)} → {form.format(after)}"
        canvas.text(at + cell, line + 5, words, 15, MUTED, anchor="end")
    y += rows * 34
    if len(lost) > LISTED:
        canvas.text(x, y, f"and {len(lost) - LISTED} more", 15, MUTED)
        y += 24
    return y + 24
