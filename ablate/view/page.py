"""Pages of pictures with labels: type, tables and grids of tiles, and how they fit on paper.

Independent of runs: `draw_pages` takes blocks of tiles and the text around. Lengths are pixels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ablate.store import MAX_PIXELS, MAX_SIDE, atomic_write
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

PAPER = math.sqrt(2)  # width : height that free layouts aim at, A4 to A0 in landscape
MOST_ROWS = 40  # rows of a table in one piece, and columns unless more are asked for
NARROWEST = 640  # width of text and pictures together, so that the footer stays readable
BASELINE: Label = (("baseline", ACCENT),)


@dataclass(frozen=True)
class Tile:
    """A picture with its caption.

    Attributes:
        image: Returns the picture, RGB; None where there is none yet.
        broken: Whether NaN or infinity arose, so that "NaN" is shown instead.
        caption: The lines below the picture.
        marked: Whether the tile is framed as the baseline.
    """

    image: Callable[[], Image.Image] | None
    broken: bool = False
    caption: Label = ()
    marked: bool = False


@dataclass(frozen=True)
class Block:
    """A table or, without heads and sides, a grid of captioned tiles.

    Attributes:
        tiles: The tiles by row and column; None where no such cell was planned.
        title: What is written above the block.
        over: What the columns are.
        beside: What the rows are.
        heads: A label for each column.
        sides: A label for each row.
        wide_before: Columns with a wider gap to their left.
        tall_before: Rows with a wider gap above.
    """

    tiles: Sequence[Sequence[Tile | None]]
    title: str = ""
    over: str = ""
    beside: str = ""
    heads: Sequence[Label] = ()
    sides: Sequence[Label] = ()
    wide_before: frozenset[int] = frozenset()
    tall_before: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Style:
    """Sizes on the page.

    Attributes:
        scale: The factor from an image to its thumbnail.
        tile: Width and height of the space for a thumbnail.
        gap: Space between tiles.
        text: Height of the type of labels; captions that need it shrink.
    """

    scale: float
    tile: tuple[int, int]
    gap: int
    text: int

    @classmethod
    def fitting(
        cls, sizes: Collection[tuple[int, int]], crowded: bool, side: int | None = None
    ) -> Style:
        """A style for images of these sizes.

        Args:
            sizes: Widths and heights of the images.
            crowded: Whether there are many, so that thumbnails are smaller.
            side: The longer side of the largest thumbnail. Images that are smaller grow by a whole
                factor.
        """
        longest = max(max(size) for size in sizes)
        side = side or (128 if longest <= 128 else 192 if crowded else 256)
        scale = side // longest if side >= longest else side / longest
        width = max(round(w * scale) for w, _ in sizes)
        height = max(round(h * scale) for _, h in sizes)
        return cls(scale, (width, height), max(14, width // 12), min(10 + width // 24, 20))

    @property
    def head_room(self) -> int:
        """Width for the labels of a column and for captions."""
        return self.tile[0] + self.gap - 8

    @property
    def side_room(self) -> int:
        """Width for the labels of rows."""
        return max(180, round(1.5 * self.tile[0]))


@dataclass(frozen=True)
class PageText:
    """What is written around the blocks.

    Attributes:
        name: The title of the page.
        about: What is written below the title.
        prompt: The first lines of the footer.
        facts: Further phrases of the footer, one after the other.
    """

    name: str
    about: str = ""
    prompt: str = ""
    facts: Sequence[str] = ()


def _write(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    lines: Sequence[tuple[str, Color]],
    size: int,
    bold: bool = False,
) -> None:
    for i, (line, color) in enumerate(lines):
        font = typeface(size, bold or color == ACCENT)
        draw.text((x, y + i * leading(size) + size), line, fill=color, font=font, anchor="ls")


def _join(facts: Sequence[str], font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """Facts on as few lines as possible, none broken unless it is wider than a line."""
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
    """A block with its measures.

    Attributes:
        text: Height of the type of its labels.
        side: Width of the rows' labels, with the space after them.
        top: Height of title and heads.
        rows: Height of every row, with the space below it.
        width: Width of the block.
    """

    block: Block
    text: int
    side: int
    top: int
    rows: list[int]
    width: int

    @property
    def height(self) -> int:
        return self.top + sum(self.rows)


def _measure(block: Block, style: Style, text: int) -> _Measured:
    width, height = style.tile
    lead, room = leading(text), style.head_room
    sides = [set_label(s, text, style.side_room, height // lead) for s in block.sides]
    notes: list[Label] = [((block.beside, MUTED),)] if block.beside else []
    longest = max(
        (typeface(text, c == ACCENT).getlength(t) for s in sides + notes for t, c in s), default=0
    )
    side = math.ceil(longest) + 16 if longest else 0
    heads = max((len(set_label(head, text, room, 4)) for head in block.heads), default=0)
    top = (heads + bool(block.over)) * lead + (8 if heads or block.over else 0)
    top = max(top, lead + 8 if block.beside else 0) + (round(2.4 * text) if block.title else 0)
    rows = []
    for i, row in enumerate(block.tiles):
        captions = max((len(set_label(t.caption, text, room, 4)) for t in row if t), default=0)
        tall = style.gap if i in block.tall_before else 0
        below = captions * lead + 8 + style.gap // 2 if captions else 0
        rows.append(tall + height + below + style.gap)
    columns = len(block.tiles[0])
    across = columns * (width + style.gap) - style.gap + len(block.wide_before) * style.gap
    return _Measured(block, text, side, top, rows, side + across)


def _arrange(whole: Iterable[Block], style: Style, flowing: bool) -> list[list[_Measured]]:
    """Shelves, from top to bottom, of blocks side by side."""
    blocks = [part for b in whole for narrow in _narrow(b, style) for part in _shorten(narrow)]
    labels = [label for b in blocks for label in b.heads]
    labels += [tile.caption for b in blocks for row in b.tiles for tile in row if tile]
    text = style.text
    while text > 10 and not all(label_fits(label, text, style.head_room) for label in labels):
        text -= 1

    def shape(columns: int) -> tuple[float, list[list[_Measured]]]:
        """How far from paper the page is with so many blocks, or tiles of one, side by side."""
        if flowing:
            shelves = [[_measure(_fold(block, columns), style, text)] for block in blocks]
        else:
            measured = [_measure(block, style, text) for block in blocks]
            shelves = [measured[i : i + columns] for i in range(0, len(measured), columns)]
        width = max(sum(m.width + 3 * style.gap for m in shelf) for shelf in shelves)
        height = sum(max(m.height for m in shelf) for shelf in shelves)
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
    (row,) = block.tiles
    return replace(block, tiles=[row[i : i + columns] for i in range(0, len(row), columns)])


def _narrow(block: Block, style: Style) -> Iterator[Block]:
    """Split a table that is wider than a page; each part keeps the baseline's column."""
    count = len(block.heads)
    most = (int(0.9 * MAX_SIDE) - style.side_room) // (style.tile[0] + 2 * style.gap)
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
            tiles=[[row[j] for j in keep] for row in block.tiles],
            wide_before=frozenset(i for i, j in enumerate(keep) if i and j in block.wide_before)
            | frozenset(range(1, first + 1)),
        )


def _shorten(block: Block) -> Iterator[Block]:
    """Split a table of hundreds of rows into several that fit side by side."""
    count = len(block.tiles)
    step = math.ceil(count / math.ceil(count / MOST_ROWS))
    for start in range(0, count, step):
        rows = slice(start, start + step)
        tall = frozenset(i - start for i in block.tall_before if start < i < start + step)
        yield replace(block, sides=block.sides[rows], tiles=block.tiles[rows], tall_before=tall)


Piece = tuple[int, int, int]  # shelf, first row, row after the last


def _paginate(shelves: list[tuple[int, list[int]]], room: int, space: int) -> list[list[Piece]]:
    """Distribute shelves over pages of whole rows.

    Args:
        shelves: Of each shelf the height of its heads and of every row.
        room: Height of a page.
        space: Height between shelves.
    """
    pages: list[list[Piece]] = [[]]
    left = room
    for index, (top, rows) in enumerate(shelves):
        if left < top + sum(rows) <= room and pages[-1]:
            pages.append([])
            left = room
        start = 0
        while start < len(rows):
            stop, used = start, top
            while stop < len(rows) and used + rows[stop] <= left:
                used += rows[stop]
                stop += 1
            if stop == start and pages[-1]:
                pages.append([])
                left = room
                continue
            stop = max(stop, start + 1)
            pages[-1].append((index, start, stop))
            start, left = stop, left - used - space
    return pages


def draw_pages(
    words: PageText, blocks: Iterable[Block], style: Style, *, flowing: bool
) -> Iterator[Image.Image]:
    """Draw blocks on as many pages as they need, RGB.

    Args:
        words: The text around the blocks.
        blocks: One at least.
        style: Sizes on the page.
        flowing: Whether the only row of each block is folded into several.
    """
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
    rows = (itertools.zip_longest(*(m.rows for m in shelf), fillvalue=0) for shelf in shelves)
    heights = [(top, list(map(max, row))) for top, row in zip(tops, rows, strict=True)]
    parts = _paginate(heights, room, space)
    if len(parts) > 1:  # as many pages, evenly filled
        even = (room * i // 40 for i in range(1, 41))
        choices = (_paginate(heights, height, space) for height in even)
        parts = next((choice for choice in choices if len(choice) <= len(parts)), parts)

    for number, pieces in enumerate(parts, 1):
        body = sum(heights[i][0] + sum(heights[i][1][a:b]) for i, a, b in pieces)
        height = 2 * margin + header + body + space * (len(pieces) - 1) + foot
        page = Image.new("RGB", (width, height), PAGE)
        draw = ImageDraw.Draw(page)
        _write(draw, margin, margin, [(line, INK) for line in names], title, bold=True)
        y = margin + len(names) * leading(title) + title // 4
        _write(draw, margin, y, [(line, MUTED) for line in abouts], about)
        y = margin + header
        for index, start, stop in pieces:
            top, row_heights = heights[index]
            x = margin
            for measured in shelves[index]:
                _draw_block(style, page, (x, y + top), measured, row_heights, range(start, stop))
                x += measured.width + space
            y += top + sum(row_heights[start:stop]) + space
        y = height - margin - foot + small
        draw.line((margin, y, width - margin, y), HAIRLINE)
        y += small
        _write(draw, margin, y, footer, small)
        if len(parts) > 1:
            place = (width - margin, y + (len(footer) - 1) * leading(small) + small)
            draw.text(place, f"{number} / {len(parts)}", MUTED, typeface(small), anchor="rs")
        yield page


def _draw_block(
    style: Style,
    page: Image.Image,
    origin: tuple[int, int],
    measured: _Measured,
    heights: list[int],
    shown: range,
) -> None:
    """Draw heads above `origin` and rows from there on; `heights`: of the rows of the shelf."""
    draw, block, text = ImageDraw.Draw(page), measured.block, measured.text
    (width, height), lead = style.tile, leading(text)
    left, y = origin
    if block.title:
        font = typeface(round(1.3 * text), True)
        (line,) = wrap(block.title, font, measured.width, 1)
        draw.text((left, y - measured.top + 1.3 * text), line, INK, font, anchor="ls")
    if block.beside:
        _write(draw, left, y - lead - 8, [(block.beside, MUTED)], text)
    heads = [set_label(head, text, style.head_room, 4) for head in block.heads]
    deepest = max((len(head) for head in heads), default=0)
    columns = [left + measured.side]
    for j in range(1, len(block.tiles[0])):
        columns.append(columns[-1] + width + style.gap * (2 if j in block.wide_before else 1))
    if block.over:
        first = columns[1 if BASELINE in block.heads[:1] else 0]
        _write(draw, first, y - (deepest + 1) * lead - 8, [(block.over, MUTED)], text)
    for x, head in zip(columns, heads, strict=False):
        _write(draw, x, y - len(head) * lead - 8, head, text)
    for i, row in zip(shown, block.tiles[shown.start : shown.stop], strict=False):
        inset = style.gap if i in block.tall_before else 0
        if block.sides:
            side = set_label(block.sides[i], text, style.side_room, height // lead)
            _write(draw, left, y + inset + (height - len(side) * lead) // 2, side, text)
        for x, tile in zip(columns, row, strict=False):
            if tile:
                _draw_tile(style, page, (x, y + inset), tile)
                caption = set_label(tile.caption, text, style.head_room, 4)
                _write(draw, x, y + inset + height + 6, caption, text)
        y += heights[i]


def _draw_tile(style: Style, page: Image.Image, at: tuple[int, int], tile: Tile) -> None:
    draw, (width, height), (x, y) = ImageDraw.Draw(page), style.tile, at
    if tile.broken:
        picture = nan_tile(width, height)
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
    if tile.marked:  # the frame leaves all pixels of the picture visible
        draw.rectangle((x - 4, y - 4, right + 3, bottom + 3), outline=ACCENT, width=3)
    else:
        draw.rectangle((x - 1, y - 1, right, bottom), outline=HAIRLINE)
    page.paste(picture, (x, y))


def nan_tile(width: int, height: int) -> Image.Image:
    """What is shown instead of an image where NaN or infinity arose, RGB."""
    tile = Image.new("RGB", (width, height), DARK)
    draw = ImageDraw.Draw(tile)
    for x in range(-height, width, 12):
        draw.line((x, height, x + height, 0), HATCH, width=3)
    font = typeface(max(10, width // 7), True)
    box = draw.textbbox((width // 2, height // 2), "NaN", font, anchor="mm")
    draw.rectangle((box[0] - 6, box[1] - 6, box[2] + 6, box[3] + 6), fill=DARK)
    draw.text((width // 2, height // 2), "NaN", PAGE, font, anchor="mm")
    return tile


def save_pages(pages: Iterable[Image.Image], folder: Path, name: str) -> list[Path]:
    """Write pages as `name.png`, `name-2.png` ... and remove those of earlier calls that follow.

    Returns the paths of the pages. Each file is written atomically.
    """
    files = (folder / (f"{name}-{number}.png" if number > 1 else f"{name}.png")
             for number in itertools.count(1))  # fmt: skip
    paths: list[Path] = []
    for page, path in zip(pages, files, strict=False):
        with atomic_write(path) as temporary:
            page.save(temporary, format="PNG")
        paths.append(path)
    # No number is left out among pages, so that what follows a gap is no one's page.
    for stale in itertools.takewhile(Path.is_file, files):
        stale.unlink()
    return paths
