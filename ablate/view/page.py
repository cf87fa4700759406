"""A page of pictures with labels: type, tables and grids of tiles, and paper to put them on.

Knows nothing of runs: `pages` takes blocks of tiles and the words around. Lengths are pixels.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ablate.style import (
    ACCENT,
    DARK,
    HAIRLINE,
    HATCH,
    INK,
    MUTED,
    PAGE,
    VACANT,
    Color,
    Label,
    label_fits,
    leading,
    set_label,
    typeface,
    wrap,
)

MAX_SIDE = 16_000  # viewers and printers stumble beyond this
MAX_PIXELS = 89_000_000  # a page; Pillow warns of a decompression bomb above 89.5 million
PAPER = math.sqrt(2)  # width : height that free layouts aim at, A4 to A0 on its side
WIDEST = 40  # rows of a table in one piece, and columns that are chosen when nobody asked
NARROWEST = 640  # width of text and pictures together, so that the footer stays readable
BASELINE: Label = (("baseline", ACCENT),)


@dataclass(frozen=True)
class Tile:
    """A picture with its caption. `image`: None where there is none yet; `broken`: NaN arose."""

    image: Callable[[], Image.Image] | None
    broken: bool
    caption: Label
    marked: bool  # as the baseline


@dataclass(frozen=True)
class Block:
    """A table or, without heads, a grid of captioned tiles. None: no such cell was planned."""

    title: str
    over: str  # what the columns are
    beside: str  # what the rows are
    heads: list[Label]
    sides: list[Label]
    tiles: list[list[Tile | None]]
    wide_before: frozenset[int]  # columns with a wider gap to their left
    tall_before: frozenset[int]  # rows with a wider gap above


@dataclass(frozen=True)
class Style:
    """Sizes on the page."""

    scale: float  # from a cell to its thumbnail
    tile: tuple[int, int]  # width and height kept for every thumbnail
    gap: int
    text: int  # height of the type of labels


@dataclass(frozen=True)
class Words:
    """What is written around the tiles: name and about above, the prompt and facts below."""

    name: str
    about: str
    prompt: str
    facts: Sequence[str]


def _write(
    draw: ImageDraw.ImageDraw, x: float, y: float, lines: Sequence[tuple[str, Color]], size: int
) -> None:
    for i, (line, color) in enumerate(lines):
        font = typeface(size, color == ACCENT)
        draw.text((x, y + i * leading(size) + size), line, fill=color, font=font, anchor="ls")


def _join(facts: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Facts on as few lines as hold them, none torn apart unless wider than a line."""
    lines: list[str] = []
    for fact in facts:
        joined = f"{lines[-1]}  ·  {fact}" if lines else fact
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines += wrap(fact, font, width, 2)
    return lines


@dataclass(frozen=True)
class _Measured:
    block: Block
    text: int  # size of its labels
    side: int  # width of the rows' labels, with the space after them
    top: int  # height of title and heads
    lines: list[int]  # height of every row, with the space below it
    width: int


def _measure(block: Block, style: Style, text: int) -> _Measured:
    width, height = style.tile
    lead, room = leading(text), _head_room(style)
    sides = [set_label(s, text, _side_room(style), height // lead) for s in block.sides]
    notes: list[Label] = [((block.beside, MUTED),)] if block.beside else []
    longest = max(
        (typeface(text, c == ACCENT).getlength(t) for s in sides + notes for t, c in s), default=0
    )
    side = math.ceil(longest) + 16 if longest else 0
    heads = max((len(set_label(head, text, room, 4)) for head in block.heads), default=0)
    top = (heads + bool(block.over)) * lead + (8 if heads or block.over else 0)
    top = max(top, lead + 8 if block.beside else 0) + (round(2.4 * text) if block.title else 0)
    lines = []
    for i, line in enumerate(block.tiles):
        captions = (
            max(len(set_label(t.caption, text, room, 4)) for t in line if t) if any(line) else 0
        )
        tall = style.gap if i in block.tall_before else 0
        below = captions * lead + 8 + style.gap // 2 if captions else 0
        lines.append(tall + height + below + style.gap)
    columns = len(block.tiles[0])
    across = columns * (width + style.gap) - style.gap + len(block.wide_before) * style.gap
    return _Measured(block, text, side, top, lines, side + across)


def _head_room(style: Style) -> int:
    return style.tile[0] + style.gap - 8


def _side_room(style: Style) -> int:
    return max(180, round(1.5 * style.tile[0]))


def _arrange(whole: Iterable[Block], style: Style, flowing: bool) -> list[list[_Measured]]:
    """Shelves, from top to bottom, of blocks that stand side by side."""
    blocks = [part for b in whole for narrow in _narrow(b, style) for part in _shorten(narrow)]
    labels = [label for b in blocks for label in b.heads]
    labels += [tile.caption for b in blocks for line in b.tiles for tile in line if tile]
    text = style.text
    while text > 10 and not all(label_fits(x, text, _head_room(style)) for x in labels):
        text -= 1

    def shape(columns: int) -> tuple[float, list[list[_Measured]]]:
        """How far from paper the sheet is: with so many blocks, or tiles of one, in a line."""
        if flowing:
            shelves = [[_measure(_fold(block, columns), style, text)] for block in blocks]
        else:
            measured = [_measure(block, style, text) for block in blocks]
            shelves = [measured[i : i + columns] for i in range(0, len(measured), columns)]
        width = max(sum(m.width + 3 * style.gap for m in shelf) for shelf in shelves)
        height = sum(max(m.top + sum(m.lines) for m in shelf) for shelf in shelves)
        sheets = math.ceil(max(height / MAX_SIDE, width * height / MAX_PIXELS))
        bare = max(1, NARROWEST / width) - 1
        width, height = max(width, NARROWEST), height + width // 10 + 150
        loose = -count % columns / columns if count > columns else 0
        over = 100 * (width > 0.9 * MAX_SIDE)
        return abs(math.log(width * sheets / height / PAPER)) + loose / 4 + bare + over, shelves

    count = max(len(b.tiles[0]) for b in blocks) if flowing else len(blocks)
    start = max(1, int(math.sqrt(count) / 2))
    choices = range(start, min(count, 4 * start + 12) + 1) if flowing else range(1, count + 1)
    return min((shape(columns) for columns in choices), key=lambda choice: choice[0])[1]


def _fold(block: Block, columns: int) -> Block:
    (line,) = block.tiles
    return replace(block, tiles=[line[i : i + columns] for i in range(0, len(line), columns)])


def _narrow(block: Block, style: Style) -> Iterator[Block]:
    """A table wider than a page, as several that are not; each keeps the baseline's column."""
    count = len(block.heads)
    most = (int(0.9 * MAX_SIDE) - _side_room(style)) // (style.tile[0] + 2 * style.gap)
    if count <= most:
        yield block
        return
    first = 1 if block.heads[0] == BASELINE else 0
    step = math.ceil((count - first) / math.ceil((count - first) / max(1, most - first)))
    for start in range(first, count, step):
        keep = [*range(first), *range(start, min(start + step, count))]
        yield replace(
            block,
            heads=[block.heads[j] for j in keep],
            tiles=[[line[j] for j in keep] for line in block.tiles],
            wide_before=frozenset(i for i, j in enumerate(keep) if i and j in block.wide_before)
            | frozenset(range(1, first + 1)),
        )


def _shorten(block: Block) -> Iterator[Block]:
    """A table of hundreds of rows as several that can stand side by side."""
    count = len(block.tiles)
    step = math.ceil(count / math.ceil(count / WIDEST))
    for start in range(0, count, step):
        rows = slice(start, start + step)
        tall = frozenset(i - start for i in block.tall_before if start < i < start + step)
        yield replace(block, sides=block.sides[rows], tiles=block.tiles[rows], tall_before=tall)


Piece = tuple[int, int, int]  # shelf, first row, row after the last


def _paginate(shelves: list[tuple[int, list[int]]], room: int, space: int) -> list[list[Piece]]:
    """Pages that hold whole rows; `shelves` gives the height of the heads and of every row."""
    pages: list[list[Piece]] = [[]]
    left = room
    for index, (top, lines) in enumerate(shelves):
        if left < top + sum(lines) <= room and pages[-1]:
            pages.append([])
            left = room
        start = 0
        while start < len(lines):
            stop, used = start, top
            while stop < len(lines) and used + lines[stop] <= left:
                used += lines[stop]
                stop += 1
            if stop == start and pages[-1]:
                pages.append([])
                left = room
                continue
            stop = max(stop, start + 1)
            pages[-1].append((index, start, stop))
            start, left = stop, left - used - space
    return pages


def pages(
    words: Words, blocks: Iterable[Block], style: Style, *, flowing: bool
) -> Iterator[Image.Image]:
    """As many pages as hold all blocks, RGB. `flowing`: the one line of a block may be folded."""
    shelves = _arrange(blocks, style, flowing)
    space = 3 * style.gap
    content = max(NARROWEST, *(sum(m.width + space for m in shelf) - space for shelf in shelves))
    margin = min(max(content // 28, 36), 140)
    title, about, small = (
        min(max(content // share, low), high)
        for share, low, high in ((40, 28, 88), (82, 14, 36), (100, 12, 28))
    )
    names = wrap(words.name, typeface(title, True), content, 2)
    abouts = wrap(words.about, typeface(about), min(content, 48 * about), 4)
    header = len(names) * leading(title) + len(abouts) * leading(about) + round(1.2 * title)
    footer = [(line, INK) for line in wrap(words.prompt, typeface(small), content, 3)]
    facts = _join(words.facts, typeface(small), content - 6 * small)
    footer += [(line, MUTED) for line in facts]
    foot = round(2 * small) + len(footer) * leading(small)  # a rule and air above

    width = content + 2 * margin
    room = min(MAX_SIDE, MAX_PIXELS // width) - 2 * margin - header - foot
    tops = (max(m.top for m in shelf) for shelf in shelves)
    rows = (zip_longest(*(m.lines for m in shelf), fillvalue=0) for shelf in shelves)
    heights = [(top, list(map(max, lines))) for top, lines in zip(tops, rows, strict=True)]
    parts = _paginate(heights, room, space)
    if len(parts) > 1:  # as many pages, evenly filled
        even = (room * i // 40 for i in range(1, 41))
        fits = (_paginate(heights, r, space) for r in even)
        parts = next((p for p in fits if len(p) <= len(parts)), parts)

    for number, pieces in enumerate(parts, 1):
        body = sum(heights[i][0] + sum(heights[i][1][a:b]) for i, a, b in pieces)
        height = 2 * margin + header + body + space * (len(pieces) - 1) + foot
        page = Image.new("RGB", (width, height), PAGE)
        draw = ImageDraw.Draw(page)
        for i, line in enumerate(names):
            y = margin + i * leading(title) + title
            draw.text((margin, y), line, fill=INK, font=typeface(title, True), anchor="ls")
        y = margin + len(names) * leading(title) + title // 4
        _write(draw, margin, y, [(line, MUTED) for line in abouts], about)
        y = margin + header
        for index, start, stop in pieces:
            top, lines = heights[index]
            x = margin
            for measured in shelves[index]:
                _paint_block(style, page, (x, y + top), measured, lines, (start, stop))
                x += measured.width + space
            y += top + sum(lines[start:stop]) + space
        y = height - margin - foot + small
        draw.line((margin, y, width - margin, y), HAIRLINE)
        y += small
        _write(draw, margin, y, footer, small)
        if len(parts) > 1:
            y += (len(footer) - 1) * leading(small) + small
            place = (width - margin, y)
            draw.text(place, f"{number} / {len(parts)}", MUTED, typeface(small), anchor="rs")
        yield page


def _paint_block(
    style: Style,
    page: Image.Image,
    origin: tuple[int, int],
    measured: _Measured,
    lines: list[int],
    shown: tuple[int, int],
) -> None:
    """Heads above `origin`, rows from there on; `lines` are the heights the shelf agreed on."""
    draw, block, text = ImageDraw.Draw(page), measured.block, measured.text
    (width, height), lead = style.tile, leading(text)
    left, y = origin
    if block.title:
        font = typeface(round(1.3 * text), True)
        (line,) = wrap(block.title, font, measured.width, 1)
        draw.text((left, y - measured.top + 1.3 * text), line, INK, font, anchor="ls")
    if block.beside:
        _write(draw, left, y - lead - 8, [(block.beside, MUTED)], text)
    heads = [set_label(head, text, _head_room(style), 4) for head in block.heads]
    deepest = max((len(head) for head in heads), default=0)
    columns = [left + measured.side]
    for j in range(1, len(block.tiles[0])):
        columns.append(columns[-1] + width + style.gap * (2 if j in block.wide_before else 1))
    if block.over:
        first = columns[1 if block.heads[:1] == [BASELINE] else 0]
        _write(draw, first, y - (deepest + 1) * lead - 8, [(block.over, MUTED)], text)
    for x, head in zip(columns, heads, strict=False):
        _write(draw, x, y - len(head) * lead - 8, head, text)
    for i in range(shown[0], min(shown[1], len(block.tiles))):
        inset = style.gap if i in block.tall_before else 0
        if block.sides:
            side = set_label(block.sides[i], text, _side_room(style), height // lead)
            _write(draw, left, y + inset + (height - len(side) * lead) // 2, side, text)
        for x, tile in zip(columns, block.tiles[i], strict=False):
            if tile:
                _paint_tile(style, page, (x, y + inset), tile)
                caption = set_label(tile.caption, text, _head_room(style), 4)
                _write(draw, x, y + inset + height + 6, caption, text)
        y += lines[i]


def _paint_tile(style: Style, page: Image.Image, at: tuple[int, int], tile: Tile) -> None:
    draw, (width, height), (x, y) = ImageDraw.Draw(page), style.tile, at
    if tile.broken:
        picture = _nan(width, height)
    elif tile.image:
        image = tile.image()
        how = Image.Resampling.NEAREST if style.scale >= 1 else Image.Resampling.LANCZOS
        size = (round(image.width * style.scale), round(image.height * style.scale))
        picture = image.resize(size, how)
    else:
        picture = Image.new("RGB", (width, height), VACANT)
    if not tile.caption:  # which begins where its picture does
        x += (width - picture.width) // 2
    y += (height - picture.height) // 2
    right, bottom = x + picture.width, y + picture.height
    if tile.marked:  # clear of the picture, whose pixels all stay visible
        draw.rectangle((x - 4, y - 4, right + 3, bottom + 3), outline=ACCENT, width=3)
    else:
        draw.rectangle((x - 1, y - 1, right, bottom), outline=HAIRLINE)
    page.paste(picture, (x, y))


def _nan(width: int, height: int) -> Image.Image:
    """What stands for an image that could not be: NaN or infinity arose."""
    tile = Image.new("RGB", (width, height), DARK)
    draw = ImageDraw.Draw(tile)
    for x in range(-height, width, 12):
        draw.line((x, height, x + height, 0), HATCH, width=3)
    font = typeface(max(10, width // 7), True)
    box = draw.textbbox((width // 2, height // 2), "NaN", font, anchor="mm")
    draw.rectangle((box[0] - 6, box[1] - 6, box[2] + 6, box[3] + 6), fill=DARK)
    draw.text((width // 2, height // 2), "NaN", PAGE, font, anchor="mm")
    return tile


def write(made: Iterable[Image.Image], folder: Path, name: str) -> list[Path]:
    """Write pages as `name.png`, `name-2.png` ..., each whole or not at all, and remove those that
    earlier ones left."""
    paths: list[Path] = []
    for page in made:
        path = folder / (f"{name}-{len(paths) + 1}.png" if paths else f"{name}.png")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            page.save(temporary, format="PNG")
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        paths.append(path)
    for stale in folder.glob(f"{name}*.png"):
        if re.fullmatch(rf"{name}(-\d+)?", stale.stem) and stale not in paths:
            stale.unlink()
    return paths
