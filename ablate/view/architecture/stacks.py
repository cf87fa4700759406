"""The shape of a network that is no U: stacks of equal blocks, from input to output.

A stack is a table, a line a block, equal modules below one another. Image and text come in on
sides of their own, run beside one another where blocks have two streams, and join where they have
one. Blocks come from `blueprint`, the look of modules from `tiles`. Lengths are user units.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ablate.style import HAIRLINE, MUTED
from ablate.view import svg
from ablate.view.architecture.blueprint import STREAMS, Block, Blueprint, Column, Stack
from ablate.view.architecture.roles import THICK, mark
from ablate.view.architecture.tiles import GAP, PAD, Box, Tiles, boxes, offsets, parts
from ablate.view.architecture.u_net import MARGIN, PANEL, Key
from ablate.view.scales import figure, written

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
class Table:
    """A stack as it is drawn, its corner at 0, 0. `entries`: where image and text come in."""

    drawn: str
    width: float
    height: float
    entries: tuple[float, ...]


@dataclass
class Page:
    """A network as it is drawn. `ends`: where image and text have come to; `taken`: bottom and
    right end of what is drawn; `fed`: heights and places at which time comes in."""

    width: float
    y: float
    drawn: list[str] = field(default_factory=list)
    ends: dict[str, tuple[float, float]] = field(default_factory=dict)
    taken: list[tuple[float, float]] = field(default_factory=list)
    fed: list[tuple[float, float]] = field(default_factory=list)

    def take(self, bottom: float, right: float) -> None:
        self.taken.append((bottom, right))
        self.y = max(self.y, bottom)


def column(plan: Blueprint, tiles: Tiles, key: Key, top: float) -> tuple[str, float, float]:
    """The drawing, its width, and where it ends."""
    small = replace(tiles, named=False)
    tables = {id(s): table(s, small, key.by_size) for s in plan.stacks}
    bands = [_placed(band, tables) for band in plan.bands()]
    right = max((x + t.width for band in bands for _, t, x in band), default=MARGIN + 760.0)
    page = Page(right - MARGIN, top)
    feeding = _conditioning(page, plan, tiles)
    anchors = _anchors(bands[0]) if bands else {}
    _inputs(page, plan, tiles, anchors)
    before = [m.role for block in plan.lane("conditioning") for m in block.modules]
    is_global = "modulation" in before or not any(s.has("modulation") for s in plan.stacks)
    for band in bands:
        _band(page, band, is_global)
    _exit(page, plan, tiles)
    if feeding is not None and page.fed:
        _rail(page, feeding)
    told, right, bottom = _key(page, key, top)
    return "".join([*page.drawn, told]), right + MARGIN, bottom


Placed = Sequence[tuple[Stack, Table, float]]


def _placed(band: Sequence[Stack], tables: dict[int, Table]) -> Placed:
    """Stacks of a band with their left ends: those of the text to the right."""
    own = [(stack, tables[id(stack)]) for stack in band]
    image = max((t.width for s, t in own if s.side != "text"), default=0.0)
    right = MARGIN + image + BESIDE * bool(image)
    return [(stack, t, right if stack.side == "text" else MARGIN) for stack, t in own]


def _anchors(band: Placed) -> dict[str, float]:
    """Where image and text come into a band."""
    found: dict[str, float] = {}
    for stack, shown, x in band:
        for name, entry in zip(
            [stack.side] if stack.side else STREAMS, shown.entries, strict=False
        ):
            found.setdefault(name, x + entry)
    return found


def _conditioning(page: Page, plan: Blueprint, tiles: Tiles) -> float | None:
    """What time, guidance and pooled text become; the height at which it leaves, if any."""
    blocks = plan.lane("conditioning")
    if not blocks:
        return None
    start = page.y
    right, low, middle = _shelf(page, blocks, tiles, MARGIN, start)
    before = [module.role for block in blocks for module in block.modules]
    modulates = "modulation" in before or any(s.has("modulation") for s in plan.stacks)
    words = "modulates the blocks" if modulates else "to every block"
    if right + 16 + svg.length(words, 16) < MARGIN + page.width:
        page.drawn.append(svg.text(right + 16, middle + 5, words, 16, MUTED))
    page.take(low + 30, right)
    return start + _box(blocks[0], tiles).height / 2


def _inputs(page: Page, plan: Blueprint, tiles: Tiles, anchors: dict[str, float]) -> None:
    """The image's way in on the left, the text's above what it comes into."""
    start, x, bottom = page.y, float(MARGIN), page.y
    for name in STREAMS:
        blocks = plan.lane(name)
        if not blocks:
            continue
        words, *roles = INPUTS[name]
        told = any(module.role in roles for block in blocks for module in block.modules)
        room = svg.length(words, 18) + 52 if told else 0.0
        first = _box(blocks[0], tiles)
        middle = PAD + first.side + tiles.width / 2  # of its first tile
        if name == "text":
            wide = sum(_box(block, tiles).width + 14 for block in blocks) - 14
            aim = min(anchors.get(name, x) - middle, MARGIN + page.width - wide)
            x = max(x, aim - room)
        if told:
            at = start + first.height / 2
            page.drawn.append(svg.text(x, at + 6, words, 18))
            page.drawn.append(svg.arrow([(x + room - 44, at), (x + room - 1, at)]))
        right, low, _ = _shelf(page, blocks, tiles, x + room, start)
        wraps = low > start + max(_box(block, tiles).height for block in blocks)
        page.ends[name] = (x + room + middle, low if wraps else start + first.height)
        page.taken.append((low, right))
        x, bottom = right + 40, max(bottom, low)
    page.y = bottom


def _box(block: Block, tiles: Tiles) -> Box:
    return boxes([block], tiles, {})[0]


def _shelf(
    page: Page, blocks: Sequence[Block], tiles: Tiles, left: float, y: float
) -> tuple[float, float, float]:
    """Boxes side by side, in as many lines as they need; the right end of the last, where they
    end, and the middle of the last."""
    x, tall, middle = left, 0.0, y
    for block in blocks:
        box = _box(block, tiles)
        if x > left and x + box.width > MARGIN + page.width:
            x, y, tall = left, y + tall + 14, 0.0
        page.drawn.append(box.draw(x, y)[0])
        x, tall, middle = x + box.width + 14, max(tall, box.height), y + box.height / 2
    return x - 14, y + tall, middle


def _exit(page: Page, plan: Blueprint, tiles: Tiles) -> None:
    if not plan.exit:
        return
    first, left, top = _box(plan.exit[0], tiles), float(MARGIN), page.y + 36
    if "image" in page.ends:
        x, y = page.ends["image"]
        left = max(left, x - PAD - first.side - tiles.width / 2)
        page.drawn.append(svg.arrow([(x, y + 4), (x, top - 2)]))
    if any(m.role == "modulation" for block in plan.exit for m in block.modules):
        page.fed.append((top + first.height / 2, left))
    right, low, at = _shelf(page, plan.exit, tiles, left, top)
    if any(m.role == "output" for block in plan.exit for m in block.modules):
        page.drawn.append(svg.arrow([(right, at), (right + 34, at)]))
        page.drawn.append(svg.text(right + 44, at + 6, "prediction", 18))
        right += 140
    page.take(low, right)


def _rail(page: Page, start: float) -> None:
    """The way of the conditioning, down the left side and into what it modulates."""
    x = MARGIN - RAIL
    page.drawn.append(svg.line([(MARGIN, start), (x, start), (x, page.fed[-1][0])], MUTED, 1.2))
    page.drawn += [svg.arrow([(x, y), (left - 5, y)]) for y, left in page.fed]


def _key(page: Page, key: Key, top: float) -> tuple[str, float, float]:
    """Legend and roles where they enlarge the page least; the page's right end and bottom."""
    _, tall = key.legend(0, 0, PANEL)
    high = tall + 48 + key.roles(0, 0, PANEL)[1]
    widest = max((right for _, right in page.taken), default=MARGIN)
    best: tuple[float, ...] = ()
    for y in (top, *(bottom + TITLE for bottom, _ in page.taken)):
        x = max((right for bottom, right in page.taken if bottom > y), default=MARGIN - FREE) + FREE
        right, bottom = max(widest, x + PANEL), max(page.y, y + high)
        # A key below everything is found late.
        cost = right * bottom * (1.4 if bottom > page.y else 1)
        best = min(best or (cost, x, y, right, bottom), (cost, x, y, right, bottom))
    _, x, y, right, bottom = best
    drawn = key.legend(x, y, PANEL)[0] + key.roles(x, y + tall + 48, PANEL)[0]
    return drawn, right, bottom


def _band(page: Page, band: Placed, is_global: bool) -> None:
    """Stacks beside one another, with what comes into them; image and text join where there is one
    way in for both. `is_global`: what modulates them stands before all blocks."""
    top, bottoms = page.y, {"image": page.y, "text": page.y}
    joined = not band[0][0].side and len(band[0][0].streams()) == 1
    facts = _meeting(band[0][0]) if "text" in page.ends and not band[0][0].side else ""
    reads = band[0][0].has("cross_attention")
    _arrive(page, top, joins=joined and not reads, anchors=_anchors(band))
    for stack, shown, x in band:
        side = stack.side or "image"
        y = bottoms[side]
        page.drawn.append(svg.text(x, y + 54, stack.name, 20, bold=True))
        count = len(stack.blocks)
        about = f"{count} block{'s' * (count > 1)} · {len(stack.modules)} modules"
        about += f" · {facts}" if facts else ""
        beside = x + svg.length(stack.name, 20, True) + 14
        page.drawn.append(svg.text(beside, y + 54, about, 15, MUTED))
        place = f"translate({x:.1f} {y + TITLE:.1f})"
        page.drawn.append(svg.element("g", shown.drawn, transform=place, data_stack=stack.name))
        if side == "image" and (is_global or stack.has("modulation", "time")):
            page.fed.append((y + 48, MARGIN))
        bottoms[side] = y + TITLE + shown.height
        page.take(bottoms[side], max(x + shown.width, beside + svg.length(about, 15)))
    for name, x in _anchors(band).items():
        if name in page.ends:
            bottom = bottoms["image" if not band[0][0].side else name]
            page.ends[name] = (page.ends[name][0] if name == "image" else x, bottom)
    if joined:
        page.ends.pop("text", None)
        page.ends["image"] = (
            page.ends.get("image", (MARGIN + NUMBERS + INNER + 33.0, 0))[0],
            page.y,
        )


def _meeting(stack: Stack) -> str:
    """How image and text meet in blocks of both."""
    if len(stack.streams()) == 2:
        return "image and text beside one another, joint attention"
    if stack.has("cross_attention"):
        return "the image reads the text by cross attention"
    return "image and text as one sequence" if stack.has("joint_attention") else ""


def _arrive(page: Page, top: float, joins: bool, anchors: dict[str, float]) -> None:
    """Arrows from what stands above into a band; where image and text join, into one."""
    low = top + 30
    if joins and "image" in page.ends and "text" in page.ends:
        (x, y), (other, from_y) = page.ends["image"], page.ends["text"]
        page.drawn.append(svg.arrow([(other, from_y + 4), (other, top + 14), (x + 2, top + 14)]))
        page.drawn.append(svg.arrow([(x, y + 4), (x, low)]))
        return
    for name, (x, y) in page.ends.items():
        aim = anchors.get(name, x) if name == "text" else x
        turn = [(x, top + 14), (aim, top + 14)] if abs(aim - x) > 1 else []
        page.drawn.append(svg.arrow([(x, y + 4), *turn, (aim, low)]))


def table(stack: Stack, tiles: Tiles, by_size: bool) -> Table:
    """A line a block, in a frame a stream, at its end its mean or the sum of its parameters."""
    streams = stack.streams()
    several = len(streams) > 1
    lefts, edges, x = [], [], float(NUMBERS)
    for shown in streams:
        places = [x + INNER + place for place in offsets(shown, tiles.width)]
        lefts.append(places)
        edges.append((x, places[-1] + INNER))
        x = edges[-1][1] + GUTTER
    heads = [
        _heads(shown, places, stack, tiles, several)
        for shown, places in zip(streams, lefts, strict=True)
    ]
    deepest = max(tall for _, tall in heads)
    pitch = tiles.height + (GAP + 5 if tiles.pictures else GAP)
    height = deepest + len(stack.blocks) * pitch - GAP + INNER
    drawn = [
        svg.rect(left, 0, right - left, height, (255, 255, 255), stroke=HAIRLINE, rx=4,
                 data_stream=name if several else None)
        for (left, right), name in zip(edges, STREAMS, strict=False)
    ]  # fmt: skip
    for (told, tall), name, (left, _) in zip(heads, STREAMS, edges, strict=False):
        drawn.append(svg.element("g", told, transform=f"translate(0 {deepest - tall})"))
        if several:
            drawn.append(svg.text(left + INNER, 24, name, 16, bold=True))
    drawn += _lines(stack, tiles, list(zip(streams, lefts, strict=True)), edges, deepest, pitch)
    drawn += _ends(stack, tiles, by_size, edges[-1][1], deepest, pitch)
    entries = [places[0] + tiles.width / 2 for places in lefts]
    reading = _reading(stack, streams[0])
    if not several and reading is not None:
        entries.append(lefts[0][reading] + tiles.width / 2)
    return Table("".join(drawn), edges[-1][1] + END, height, tuple(entries))


def _reading(stack: Stack, shown: Sequence[Column]) -> int | None:
    """The column at which blocks read the text, if they do by cross attention."""
    names = {n for row in stack.rows for n, m in row.modules.items() if m.role == "cross_attention"}
    return next((i for i, c in enumerate(shown) if c.name in names), None)


def _heads(
    shown: Sequence[Column], places: Sequence[float], stack: Stack, tiles: Tiles, several: bool
) -> tuple[str, float]:
    """The names of columns and of their parts, the marks of their roles; and the height of all."""
    y = 24.0 + 22 * several
    captions = parts(shown, stack.rows, tiles.width, 14)
    drawn = [svg.text(places[i], y, caption, 14, MUTED) for i, caption in captions]
    lines = [_head(column.leaf, tiles.width) for column in shown]
    deepest = max(len(own) for own, _ in lines)
    for column, place, (own, size) in zip(shown, places, lines, strict=False):
        for i, words in enumerate(own):
            at = y + 21 + 15 * (i + deepest - len(own))
            drawn.append(svg.text(place, at, words, size))
        roles = Counter(r.modules[column.name].role for r in stack.rows if column.name in r.modules)
        role = max(roles, key=roles.__getitem__)
        drawn.append(mark(role, place, y + 12 + 15 * deepest, tiles.width))
    return "".join(drawn), y + 12 + 15 * deepest + THICK + GAP


def _head(name: str, width: float) -> tuple[list[str], float]:
    """A name in lines, broken after `_`, and the size of its type: its longest word has room."""
    longest = max(svg.length(f"{word}_", 13) for word in name.split("_"))
    size = min(13.0, 13 * width / longest)
    lines = svg.fit(name.replace("_", "_ "), size, width, 3)
    return [line.replace("_ ", "_") for line in lines], size


def _lines(
    stack: Stack,
    tiles: Tiles,
    streams: Sequence[tuple[Sequence[Column], Sequence[float]]],
    edges: Sequence[tuple[float, float]],
    top: float,
    pitch: float,
) -> list[str]:
    """The modules, block by block, and what goes between two streams."""
    drawn = []
    for line, block in enumerate(stack.blocks):
        y = top + line * pitch
        middle = y + tiles.height / 2
        number = block.name.rpartition(".")[2]
        drawn.append(svg.text(NUMBERS - 10, middle + 5, number, 14, MUTED, anchor="end"))
        modules = block.rows[0].modules
        for shown, places in streams:
            for column, place in zip(shown, places, strict=False):
                if column.name in modules:
                    drawn.append(tiles.tile(modules[column.name], place, y))
        if len(edges) > 1:
            left, right = edges[0][1] + 6, edges[1][0] - 6
            drawn.append(svg.arrow([((left + right) / 2, middle), (right, middle)]))
            drawn.append(svg.arrow([((left + right) / 2, middle), (left, middle)]))
    return drawn


def _ends(
    stack: Stack, tiles: Tiles, by_size: bool, x: float, top: float, pitch: float
) -> list[str]:
    """A bar a block and its figure, below what they are."""
    means = [tiles.mean(block.modules) or 0.0 for block in stack.blocks]
    sizes = [float(sum(module.parameters for module in block.modules)) for block in stack.blocks]
    drawn = [svg.text(x + 26, top - 12, "parameters" if by_size else "mean", 13, MUTED)]
    values = sizes if by_size else means
    for line, value in enumerate(values):
        middle = top + line * pitch + tiles.height / 2
        wide = max(1.5, BAR * value / (max(values) or 1))
        color = svg.ramp(0.6 if by_size else tiles.scale.at(value))
        drawn.append(svg.rect(x + 26, middle - 6, wide, 12, color))
        told = written(value) if by_size else figure(value)
        drawn.append(svg.text(x + 34 + wide, middle + 5, told, 13, MUTED))
    return drawn
