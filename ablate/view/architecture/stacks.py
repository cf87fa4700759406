"""The shape of a network that is no U: stacks of equal blocks, from input to output.

A stack is a table, a line a block, equal modules below one another. Image and text come in on
separate sides, run beside one another where blocks have two streams, and join where they have
one. Blocks come from `blueprint`, the look of modules from `tiles`. Lengths are user units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ablate.messages import counted
from ablate.style import HAIRLINE, INK, MUTED, fit_lines, text_width
from ablate.view.architecture.blueprint import STREAMS, Block, Blueprint, Column, Stack
from ablate.view.architecture.key import PANEL, Key
from ablate.view.architecture.roles import THICK, draw_mark
from ablate.view.architecture.tiles import GAP, PAD, WHITE, Tiles, offsets, parts, single_box
from ablate.view.svg import MARGIN, Canvas, Point

NUMBERS = 40  # width of the numbers of blocks
INNER = 12  # within the frame of a stream
GUTTER = 56  # between two streams
BESIDE = 64  # between stacks beside one another
BAR = 130  # the longest
END = 26 + BAR + 76  # a bar and its figure
TITLE = 68  # an arrow and the name of a stack
RAIL = 34  # from the left of all stacks to the line that carries time to them
FREE = 90  # between the network and its key
INPUTS = {
    "image": ("noisy latents", "patch_embedding", "input"),
    "text": ("text", "context_embedding"),
}


@dataclass(frozen=True)
class _Table:
    """A stack as it is drawn, its corner at 0, 0."""

    canvas: Canvas  # what is drawn
    width: float  # of all
    height: float  # of all
    entries: tuple[float, ...]  # places across at which image and text come in


_Placed = Sequence[tuple[Stack, _Table, float]]  # stacks with their left ends


@dataclass
class _Page:
    """A network as it is drawn."""

    canvas: Canvas  # what is drawn
    width: float  # of the stacks
    y: float  # where what follows begins
    ends: dict[str, Point] = field(default_factory=dict)  # how far the lines of image and text are
    taken: list[Point] = field(default_factory=list)  # bottom and right end of each part
    fed: list[Point] = field(default_factory=list)  # heights and left ends of what time goes into

    def take(self, bottom: float, right: float) -> None:
        """Note that a part has been drawn."""
        self.taken.append((bottom, right))
        self.y = max(self.y, bottom)


def draw_column(
    canvas: Canvas, plan: Blueprint, tiles: Tiles, key: Key, top: float
) -> tuple[float, float]:
    """Draw a network from `top` on; return the width of the drawing, and where it ends."""
    small = replace(tiles, named=False)
    tables = {id(stack): _table(stack, small, key) for stack in plan.stacks}
    bands = [_placed(band, tables) for band in plan.bands()]
    right = max((x + t.width for band in bands for _, t, x in band), default=MARGIN + 760.0)
    page = _Page(canvas, right - MARGIN, top)
    feeding = _conditioning(page, plan, tiles)
    _inputs(page, plan, tiles, _anchors(bands[0]) if bands else {})
    before = [m.role for block in plan.lane("conditioning") for m in block.modules]
    is_global = "modulation" in before or not any(s.has("modulation") for s in plan.stacks)
    for band in bands:
        _band(page, band, is_global)
    _exit(page, plan, tiles)
    if feeding is not None and page.fed:
        _rail(page, feeding)
    right, bottom = _key(page, key, top)
    return right + MARGIN, bottom


def _placed(band: Sequence[Stack], tables: dict[int, _Table]) -> _Placed:
    """Stacks of a band with their left ends: those of the text to the right."""
    shown = [(stack, tables[id(stack)]) for stack in band]
    image = max((t.width for s, t in shown if s.side != "text"), default=0.0)
    right = MARGIN + image + BESIDE * bool(image)
    return [(stack, t, right if stack.side == "text" else MARGIN) for stack, t in shown]


def _anchors(band: _Placed) -> dict[str, float]:
    """Where image and text come into a band."""
    anchors: dict[str, float] = {}
    for stack, shown, x in band:
        names = [stack.side] if stack.side else STREAMS
        for name, entry in zip(names, shown.entries, strict=False):
            anchors.setdefault(name, x + entry)
    return anchors


def _conditioning(page: _Page, plan: Blueprint, tiles: Tiles) -> float | None:
    """Draw what works on time, guidance and pooled text; return the height at which it leaves."""
    blocks = plan.lane("conditioning")
    if not blocks:
        return None
    start = page.y
    right, low, middle = _shelf(page, blocks, tiles, MARGIN, start)
    before = [module.role for block in blocks for module in block.modules]
    modulates = "modulation" in before or any(s.has("modulation") for s in plan.stacks)
    words = "modulates the blocks" if modulates else "to every block"
    if right + 16 + text_width(words, 16) < MARGIN + page.width:
        page.canvas.text(right + 16, middle + 5, words, 16, MUTED)
    page.take(low + 30, right)
    return start + single_box(blocks[0], tiles).height / 2


def _inputs(page: _Page, plan: Blueprint, tiles: Tiles, anchors: dict[str, float]) -> None:
    """Draw the image's way in on the left, the text's above what it comes into."""
    start, x, bottom = page.y, float(MARGIN), page.y
    for name in STREAMS:
        blocks = plan.lane(name)
        if not blocks:
            continue
        words, *roles = INPUTS[name]
        known = any(module.role in roles for block in blocks for module in block.modules)
        room = text_width(words, 18) + 52 if known else 0.0
        first = single_box(blocks[0], tiles)
        middle = PAD + first.side + tiles.width / 2  # of its first tile
        if name == "text":
            wide = sum(single_box(block, tiles).width + 14 for block in blocks) - 14
            aim = min(anchors.get(name, x) - middle, MARGIN + page.width - wide)
            x = max(x, aim - room)
        if known:
            at = start + first.height / 2
            page.canvas.text(x, at + 6, words, 18)
            page.canvas.arrow((x + room - 44, at), (x + room - 1, at))
        right, low, _ = _shelf(page, blocks, tiles, x + room, start)
        wraps = low > start + max(single_box(block, tiles).height for block in blocks)
        page.ends[name] = (x + room + middle, low if wraps else start + first.height)
        page.taken.append((low, right))
        x, bottom = right + 40, max(bottom, low)
    page.y = bottom


def _shelf(
    page: _Page, blocks: Sequence[Block], tiles: Tiles, left: float, y: float
) -> tuple[float, float, float]:
    """Draw boxes side by side, in as many lines as they need.

    Returns:
        The right end of the last, where they end, and the middle of the last.
    """
    x, tall, middle = left, 0.0, y
    for block in blocks:
        box = single_box(block, tiles)
        if x > left and x + box.width > MARGIN + page.width:
            x, y, tall = left, y + tall + 14, 0.0
        box.draw(page.canvas, x, y)
        x, tall, middle = x + box.width + 14, max(tall, box.height), y + box.height / 2
    return x - 14, y + tall, middle


def _exit(page: _Page, plan: Blueprint, tiles: Tiles) -> None:
    if not plan.exit:
        return
    first, left, top = single_box(plan.exit[0], tiles), float(MARGIN), page.y + 36
    if "image" in page.ends:
        x, y = page.ends["image"]
        left = max(left, x - PAD - first.side - tiles.width / 2)
        page.canvas.arrow((x, y + 4), (x, top - 2))
    if any(m.role == "modulation" for block in plan.exit for m in block.modules):
        page.fed.append((top + first.height / 2, left))
    right, low, at = _shelf(page, plan.exit, tiles, left, top)
    if any(m.role == "output" for block in plan.exit for m in block.modules):
        page.canvas.arrow((right, at), (right + 34, at))
        page.canvas.text(right + 44, at + 6, "prediction", 18)
        right += 140
    page.take(low, right)


def _rail(page: _Page, start: float) -> None:
    """Draw the way of the conditioning, down the left side and into what it modulates."""
    x = MARGIN - RAIL
    page.canvas.line([(MARGIN, start), (x, start), (x, page.fed[-1][0])], MUTED, 1.2)
    for y, left in page.fed:
        page.canvas.arrow((x, y), (left - 5, y))


def _key(page: _Page, key: Key, top: float) -> tuple[float, float]:
    """Draw legend and roles where they enlarge the page least; return its right end and bottom."""
    tall = key.draw_legend(Canvas(), 0, 0, PANEL) + 48
    high = tall + key.draw_roles(Canvas(), 0, 0, PANEL)
    widest = max((right for _, right in page.taken), default=MARGIN)
    choices = []
    for y in (top, *(bottom + TITLE for bottom, _ in page.taken)):
        x = max((right for bottom, right in page.taken if bottom > y), default=MARGIN - FREE) + FREE
        right, bottom = max(widest, x + PANEL), max(page.y, y + high)
        # A key below everything is seen late.
        cost = right * bottom * (1.4 if bottom > page.y else 1)
        choices.append((cost, x, y, right, bottom))
    _, x, y, right, bottom = min(choices)
    key.draw_legend(page.canvas, x, y, PANEL)
    key.draw_roles(page.canvas, x, y + tall, PANEL)
    return right, bottom


def _band(page: _Page, band: _Placed, is_global: bool) -> None:
    """Draw stacks beside one another, with what comes into them.

    Image and text join where there is one way in for both.

    Args:
        is_global: Whether what modulates the blocks comes before all of them.
    """
    top, bottoms = page.y, {"image": page.y, "text": page.y}
    joined = not band[0][0].side and len(band[0][0].streams()) == 1
    facts = _meeting(band[0][0]) if "text" in page.ends and not band[0][0].side else ""
    reads = band[0][0].has("cross_attention")
    _arrive(page, top, joins=joined and not reads, anchors=_anchors(band))
    for stack, shown, x in band:
        side = stack.side or "image"
        y = bottoms[side]
        page.canvas.text(x, y + 54, stack.name, 20, bold=True)
        about = f"{counted(len(stack.blocks), 'block')} · {len(stack.modules)} modules"
        about += f" · {facts}" if facts else ""
        beside = x + text_width(stack.name, 20, True) + 14
        page.canvas.text(beside, y + 54, about, 15, MUTED)
        with page.canvas.group(transform=f"translate({x:.1f} {y + TITLE:.1f})",
                               data_stack=stack.name):  # fmt: skip
            page.canvas.add(shown.canvas)
        if side == "image" and (is_global or stack.has("modulation", "time")):
            page.fed.append((y + 48, MARGIN))
        bottoms[side] = y + TITLE + shown.height
        page.take(bottoms[side], max(x + shown.width, beside + text_width(about, 15)))
    for name, x in _anchors(band).items():
        if name in page.ends:
            bottom = bottoms["image" if not band[0][0].side else name]
            page.ends[name] = (page.ends[name][0] if name == "image" else x, bottom)
    if joined:
        page.ends.pop("text", None)
        x, _ = page.ends.get("image", (MARGIN + NUMBERS + INNER + 33.0, 0))
        page.ends["image"] = (x, page.y)


def _meeting(stack: Stack) -> str:
    """How image and text meet in blocks of both."""
    if len(stack.streams()) == 2:
        return "image and text beside one another, joint attention"
    if stack.has("cross_attention"):
        return "the image reads the text by cross attention"
    return "image and text as one sequence" if stack.has("joint_attention") else ""


def _arrive(page: _Page, top: float, joins: bool, anchors: dict[str, float]) -> None:
    """Draw arrows from what is above into a band; where image and text join, into one."""
    low = top + 30
    if joins and "image" in page.ends and "text" in page.ends:
        (x, y), (other, from_y) = page.ends["image"], page.ends["text"]
        page.canvas.arrow((other, from_y + 4), (other, top + 14), (x + 2, top + 14))
        page.canvas.arrow((x, y + 4), (x, low))
        return
    for name, (x, y) in page.ends.items():
        aim = anchors.get(name, x) if name == "text" else x
        turn = [(x, top + 14), (aim, top + 14)] if abs(aim - x) > 1 else []
        page.canvas.arrow((x, y + 4), *turn, (aim, low))


# ------------------------------------------------------------ stacks as tables


def _table(stack: Stack, tiles: Tiles, key: Key) -> _Table:
    """Draw a line a block, in a frame a stream; at its end its mean, or its parameters."""
    streams = stack.streams()
    several = len(streams) > 1
    lefts, edges, x = [], [], float(NUMBERS)
    for shown in streams:
        places = [x + INNER + place for place in offsets(shown, tiles.width)]
        lefts.append(places)
        edges.append((x, places[-1] + INNER))
        x = edges[-1][1] + GUTTER
    canvas, heads = Canvas(), [Canvas() for _ in streams]
    heights = [
        _heads(*drawn, stack, tiles, several) for drawn in zip(heads, streams, lefts, strict=True)
    ]
    deepest = max(heights)
    pitch = tiles.height + (GAP + 5 if tiles.pictures else GAP)
    height = deepest + len(stack.blocks) * pitch - GAP + INNER
    for (left, right), name in zip(edges, STREAMS, strict=False):
        stream = name if several else None
        canvas.rect(left, 0, right - left, height, WHITE, stroke=HAIRLINE, rx=4, data_stream=stream)
    for head, tall, name, (left, _) in zip(heads, heights, STREAMS, edges, strict=False):
        with canvas.group(transform=f"translate(0 {deepest - tall})"):
            canvas.add(head)
        if several:
            canvas.text(left + INNER, 24, name, 16, bold=True)
    for line, block in enumerate(stack.blocks):
        y = deepest + line * pitch
        number = block.name.rpartition(".")[2]
        middle = y + tiles.height / 2
        canvas.text(NUMBERS - 10, middle + 5, number, 14, MUTED, anchor="end")
        modules = block.rows[0].modules
        for shown, places in zip(streams, lefts, strict=True):
            for column, place in zip(shown, places, strict=False):
                if column.name in modules:
                    tiles.draw(canvas, modules[column.name], place, y)
        if several:
            left, right = edges[0][1] + 6, edges[1][0] - 6
            for end in (right, left):
                canvas.arrow(((left + right) / 2, middle), (end, middle))
    end = edges[-1][1]
    canvas.text(end + 26, deepest - 12, "parameters" if key.by_size else "mean", 13, MUTED)
    values = [key.value(block.modules) for block in stack.blocks]
    longest = max((value for value in values if value is not None), default=0.0)
    for line, value in enumerate(values):
        if value is not None:  # what is not known has no bar
            middle = deepest + line * pitch + tiles.height / 2
            key.draw_bar(canvas, value, longest, (end + 26, middle + 5, BAR), 13)
    entries = [places[0] + tiles.width / 2 for places in lefts]
    reading = _reading(stack, streams[0])
    if not several and reading is not None:
        entries.append(lefts[0][reading] + tiles.width / 2)
    return _Table(canvas, end + END, height, tuple(entries))


def _reading(stack: Stack, shown: Sequence[Column]) -> int | None:
    """The column at which blocks read the text, if they do by cross attention."""
    names = {n for row in stack.rows for n, m in row.modules.items() if m.role == "cross_attention"}
    return next((i for i, c in enumerate(shown) if c.name in names), None)


def _heads(
    canvas: Canvas,
    shown: Sequence[Column],
    places: Sequence[float],
    stack: Stack,
    tiles: Tiles,
    several: bool,
) -> float:
    """Draw the names of columns and of their parts, and the marks of roles; return the height."""
    y = 24.0 + 22 * several
    for i, caption in parts(shown, stack.rows, tiles.width, 14):
        canvas.text(places[i], y, caption, 14, MUTED)
    heads = [_head(column.leaf, tiles.width) for column in shown]
    deepest = max(len(lines) for lines, _ in heads)
    bottom = y + 12 + 15 * deepest
    for column, place, (lines, size) in zip(shown, places, heads, strict=False):
        canvas.lines(place, y + 21 + 15 * (deepest - len(lines)), lines, size, 15, INK)
        roles = Counter(r.modules[column.name].role for r in stack.rows if column.name in r.modules)
        draw_mark(canvas, max(roles, key=roles.__getitem__), place, bottom, tiles.width)
    return bottom + THICK + GAP


def _head(name: str, width: float) -> tuple[list[str], float]:
    """A name in lines, broken after `_`, and the size of its type: its longest word has room."""
    longest = max(text_width(f"{word}_", 13) for word in name.split("_"))
    size = min(13.0, 13 * width / longest)
    lines = fit_lines(name.replace("_", "_ "), size, width, 3)
    return [line.replace("_ ", "_") for line in lines], size
