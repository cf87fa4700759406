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

from ablate.page import ACCENT, HAIRLINE, INK, MUTED, PAGE, VACANT
from ablate.pictures import facts
from ablate.pictures import svg as drawing

MARGIN = 80
HEAD = 128
BODY = (MARGIN - 10, MARGIN + HEAD - 24)  # upper left corner of what is below the header
PITCH = 66.0  # of a bin in an atlas that stands alone
NARROW = 1500  # width that fewer bins fill too
SMALLEST = 0.34  # side of a tile of the fewest vectors, of a bin's
BUDGET = 3_200_000  # bytes of all pictures
QUALITIES = ((112, 84), (88, 80), (72, 76), (56, 70), (40, 60))  # side, quality
MOST = 44  # names of concepts
KINDS = ("picture", "patch")
DARK, GROWN = 0.5, 2.0  # shares of what was expected, and less or more
LISTED = 12  # concepts that lost most
FADED = 0.22
MARK = drawing.ramp(0.78)
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


def svg(folder: Path, picture: str = "picture") -> str:
    """The atlas of a study. `picture`: of each bin its feature visualization (`picture`) or the
    patch of an image that lies nearest to its middle (`patch`).

    Raises `PictureError` where the folder has no atlas, or for another kind of picture.
    """
    atlas = _read(folder, picture)
    pitch = max(PITCH, NARROW / atlas.columns)
    width = atlas.columns * pitch
    left, top = float(MARGIN), float(MARGIN + HEAD)
    stock = _Stock(atlas.bins, pitch)
    drawn = [_tile(atlas, b, stock, left, top, pitch, b.count) for b in atlas.bins]
    drawn.append(_names(atlas, left, top, pitch, 1))
    bottom = top + atlas.rows * pitch
    drawn.append(_scale(atlas, left, bottom + 34, pitch))
    what = {
        "picture": "Tiles: feature visualizations of the mean of a bin's vectors.",
        "patch": "Tiles: the patch of an image whose vector lies nearest to the middle of its bin.",
    }[picture]
    notes = [f"{what} Names: the concept of most lift in areas of bins that share it."]
    lines = [*notes, _method(atlas), "  ·  ".join(_facts(folder, atlas))]
    foot = [drawing.text(left, bottom + 140 + 25 * i, w, 16, MUTED) for i, w in enumerate(lines)]
    study, about = facts.study(folder), f"Activation atlas of {atlas.told.get('module', '')}"
    return drawing.document(
        width + 2 * MARGIN, bottom + 140 + 25 * len(lines) + MARGIN - 30, stock.defined(),
        drawing.header(study.name, about, MARGIN, width), *drawn, *foot,
        label=f"{about} of {study.name}",
    )  # fmt: skip


def _read(folder: Path, picture: str) -> _Atlas:
    if picture not in KINDS:
        known = " and ".join(KINDS)
        raise drawing.PictureError(f"tiles show no `{picture}`; choose one of {known}")
    told = facts.atlas(folder)
    if told is None:
        raise drawing.PictureError(f"{folder} has no atlas.json to draw from")
    bins = tuple(
        _Bin(
            b["row"], b["column"], b["count"],
            tuple((c, float(lift)) for c, lift in b.get("concepts", ())),
            facts.image(folder, b.get(picture)),
            b.get("variant"),
        )
        for b in told["bins"]
    )  # fmt: skip
    return _Atlas(told, told["rows"], told["columns"], bins)


def _facts(folder: Path, atlas: _Atlas) -> list[str]:
    found = [facts.model(atlas.told.get("model")), str(atlas.told.get("component") or "")]
    found += [str(atlas.told.get("module") or ""), f"{atlas.told['vectors']:,} vectors"]
    filled = sum(b.count > 0 for b in atlas.bins)
    found.append(f"{atlas.rows} × {atlas.columns} bins, {filled:,} of them filled")
    return [fact for fact in found if fact]


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


# ------------------------------------------------------------ pictures of bins


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
    atlas: _Atlas,
    b: _Bin,
    stock: _Stock,
    left: float,
    top: float,
    pitch: float,
    count: float,
    opacity: float | None = None,
) -> str:
    """A bin, as large as `count` tells."""
    side = atlas.side(count) * pitch
    if not side:
        return ""
    x = left + b.column * pitch + (pitch - side) / 2
    y = top + b.row * pitch + (pitch - side) / 2
    told = f"{b.count:,} vectors"
    if b.after is not None:
        told += f", {b.after:,} with {atlas.told.get('variant')}"
    told += "".join(f"\n{concept} × {lift:.1f}" for concept, lift in b.concepts)
    inside = (
        drawing.rect(x + side / 4, y + side / 4, side / 2, side / 2, VACANT, stroke=HAIRLINE)
        if b.path is None
        else stock.drawn(b.path, x, y, side, opacity)
    )
    return drawing.element("g", drawing.tooltip(told), inside)


def _scale(atlas: _Atlas, x: float, y: float, pitch: float) -> str:
    """What the sizes of tiles mean."""
    drawn = [drawing.text(x, y + pitch / 2 + 5, "Vectors in a bin", 16, MUTED)]
    x += drawing.length("Vectors in a bin", 16) + 26
    least = max(1, math.ceil(SMALLEST**2 * atlas.most))
    for count in sorted({least, max(1, round(atlas.most / 3)), atlas.most}):
        side = atlas.side(count) * pitch
        drawn.append(drawing.rect(x, y + (pitch - side) / 2, side, side, drawing.ramp(0.16)))
        words = f"{count:,}"
        words = f"≤ {words}" if count == least else words
        words = f"≥ {words}" if count == atlas.most and count != least else words
        drawn.append(drawing.text(x + side + 10, y + pitch / 2 + 5, words, 16, MUTED))
        x += side + 10 + drawing.length(words, 16) + 32
    return "".join(drawn)


# ------------------------------------------------------------ names of areas


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
            for near in (
                (row + 1, column),
                (row - 1, column),
                (row, column + 1),
                (row, column - 1),
            ):
                if left.get(near) == concept:
                    del left[near]
                    reached.append(near)
        found.append((concept, sorted(area)))
    yield from sorted(found, key=lambda one: (-len(one[1]), one[1]))


def _names(atlas: _Atlas, left: float, top: float, pitch: float, zoom: float) -> str:
    """Names of concepts on their areas, none over another."""
    taken: list[tuple[float, float, float, float]] = []
    drawn: list[str] = []
    seen: set[str] = set()
    edge = left + atlas.columns * pitch
    for concept, area in _areas(atlas.bins):
        small = len(area) < 3 and concept in seen
        if len(drawn) == MOST or small or len(area) < 2:
            continue
        size = min(17 + 3.4 * math.sqrt(len(area)), 44) * zoom
        half, tall = drawing.length(concept, size, True) / 2 + 5, 0.62 * size
        middle = [sum(place[i] for place in area) / len(area) for i in (0, 1)]
        for row, column in sorted(area, key=lambda place: math.dist(place, middle)):
            x, y = left + (column + 0.5) * pitch, top + (row + 0.5) * pitch
            x = min(max(x, left + half), edge - half)
            box = x - half, y - tall, x + half, y + tall
            if all(
                box[0] >= c or a >= box[2] or box[1] >= d or b >= box[3] for a, b, c, d in taken
            ):
                taken.append(box)
                seen.add(concept)
                drawn.append(drawing.text(
                    x, y + 0.36 * size, concept, size, INK, bold=True, anchor="middle",
                    stroke=PAGE, stroke_width=0.26 * size, stroke_linejoin="round",
                    paint_order="stroke", pointer_events="none",
                ))  # fmt: skip
                break
    return "".join(drawn)


# ------------------------------------------------------------ beside a variant


def compared(folder: Path) -> str:
    """The baseline's atlas beside a variant's: which bins went dark, and which grew.

    Counts are compared as shares of all vectors. Raises `PictureError` where there is no variant.
    """
    atlas = _read(folder, "picture")
    variant = str(atlas.told.get("variant") or "")
    if not variant or all(b.after is None for b in atlas.bins):
        raise drawing.PictureError(f"the atlas of {folder} is of no variant beside the baseline")
    pitch = max(34.0, 800 / atlas.columns)
    wide, gap = atlas.columns * pitch, 60.0
    left, right, top = float(MARGIN), MARGIN + wide + gap, float(MARGIN + HEAD + 34)
    stock = _Stock(atlas.bins, pitch)
    total = (
        int(atlas.told["vectors"]),
        int(atlas.told.get("variant_vectors") or sum(b.after or 0 for b in atlas.bins)),
    )  # those outside of the grid are among them
    share = total[0] / max(total[1], 1)  # what a vector of the variant counts
    drawn = [_tile(atlas, b, stock, left, top, pitch, b.count) for b in atlas.bins]
    drawn.append(_names(atlas, left, top, pitch, 0.72))
    dark = grown = 0
    marks = []
    for b in atlas.bins:
        after = (b.after or 0) * share
        change = _change(b.count, after)
        went = change < 0
        drawn.append(
            _tile(
                atlas, b, stock, right, top, pitch, b.count if went else after, FADED * went or None
            )
        )
        if change:
            marks.append(_mark(atlas, b, right, top, pitch, after, went))
        dark, grown = dark + went, grown + (change > 0)
    drawn += marks
    for x, words, color in ((left, "baseline", ACCENT), (right, variant, INK)):
        (shown,) = drawing.fit(words, 20, wide) or [""]
        drawn.append(drawing.text(x, top - 22, shown, 20, color, bold=True))
    bottom = top + atlas.rows * pitch + 30
    listed, bottom = _dark(atlas, left, bottom, 2 * wide + gap)
    notes = [
        f"Faded and struck: {dark:,} bins that went dark, with less than half of the vectors"
        f" expected.  Framed: {grown:,} bins that grew to twice as many or more.  Expected: the"
        " baseline's, scaled to as many in all;",
        "a change counts where it exceeds two deviations of chance. Tiles are as large as in the"
        f" baseline's scale.  Vectors: {total[0]:,} of the baseline, {total[1]:,} of the variant.",
        _method(atlas),
        "  ·  ".join(_facts(folder, atlas)),
    ]
    foot = [drawing.text(left, bottom + 25 * i, w, 16, MUTED) for i, w in enumerate(notes)]
    study, about = facts.study(folder), f"What {variant} does to {atlas.told.get('module', '')}"
    return drawing.document(
        2 * wide + gap + 2 * MARGIN, bottom + 25 * len(notes) + MARGIN - 25, stock.defined(),
        drawing.header(study.name, about, MARGIN, 2 * wide + gap), listed, *drawn, *foot,
        label=f"{about}, of {study.name}",
    )  # fmt: skip


def _change(before: int, after: float) -> int:
    """-1: it went dark, 1: it grew; 0 where it did neither, or chance would do as much."""
    chance = 2 * math.sqrt(max(before, after, 1))
    if after < DARK * before and before - after > chance:
        return -1
    return int(after > GROWN * before and after - before > chance)


def _mark(
    atlas: _Atlas, b: _Bin, left: float, top: float, pitch: float, after: float, dark: bool
) -> str:
    side = max(atlas.side(b.count if dark else after) * pitch, 8)
    x = left + b.column * pitch + (pitch - side) / 2
    y = top + b.row * pitch + (pitch - side) / 2
    if dark:
        return drawing.line([(x, y + side), (x + side, y)], INK, 1.4)
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
        (words,) = drawing.fit(words, 15, 500) or [""]
        drawn.append(drawing.text(at + 19, y + 18, words, 15, MUTED))
        at += 19 + drawing.length(words, 15) + 22
    y += 52
    top = max(max(before, after) for _, before, after in lost) or 1
    across = 3 if len(lost) > 4 else 2
    cell = (width - (across - 1) * 50) / across
    rows = math.ceil(len(lost) / across)
    for i, (concept, before, after) in enumerate(lost):
        at, line = x + i // rows * (cell + 50), y + i % rows * 34
        drawn.append(_loss(concept, before, after, top, shares, at, line, cell))
    y += rows * 34
    if left_out > 0:
        drawn.append(drawing.text(x, y, f"and {left_out} more", 15, MUTED))
        y += 24
    return "".join(drawn), y + 24


def _loss(
    concept: str,
    before: float,
    after: float,
    top: float,
    shares: bool,
    x: float,
    y: float,
    width: float,
) -> str:
    """A concept before and after: two bars with their figures."""

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
