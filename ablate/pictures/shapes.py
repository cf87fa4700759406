"""The two shapes of networks: a U and a column of blocks; and the key to their colors.

Blocks come from `blueprint`, their look from `tiles`. Lengths are user units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from ablate.modules import ModuleInfo
from ablate.page import HAIRLINE, MUTED, VACANT
from ablate.pictures import svg
from ablate.pictures.blueprint import Block, Blueprint, columns
from ablate.pictures.measures import figure
from ablate.pictures.tiles import GAP, SIDE, Box, Tiles, boxes, offsets, parts

MARGIN = 80
CHANNEL = 250  # between descent and ascent, where the skip connections run
LEVEL = 44  # between levels of a U
PANEL = 500  # width of legend and roles beside a column
ROLE = 25  # height of a role's line


@dataclass(frozen=True)
class Key:
    """How to read the colors, and what roles come to."""

    catalog: Sequence[ModuleInfo]
    tiles: Tiles
    aid: str
    by_size: bool

    def legend(self, x: float, y: float, width: float) -> tuple[str, float]:
        """The ramp and its words; and its height."""
        tiles, unit = self.tiles, self.tiles.unit
        head = unit[:1].upper() + unit[1:]
        ramp = min(width, PANEL)
        ticks = [(value, _written(value)) for value in tiles.scale.ticks(ramp)]
        drawn = svg.text(x, y + 18, head, 20, bold=True)
        drawn += svg.legend(x, y + 36, ramp, ticks, tiles.scale.at)
        bottom, told = y + 114, [self.aid]
        if "noise floors" in unit:
            told.append("1 is as far as another seed moves it.")
        for words in told:
            lines, bottom = svg.paragraph(x, bottom, words, 17, min(width, PANEL + 60))
            drawn += lines
        unknown = sum(module.number not in tiles.values for module in self.catalog)
        broken = sum(not math.isfinite(value) for value in tiles.values.values())
        for count, words, tile in (
            (unknown, "not edited", svg.rect(0, 0, 34, 18, VACANT, stroke=HAIRLINE)),
            (broken, "nothing but NaN", svg.nan_tile(0, 0, 34, 18)),
        ):
            if count:
                words = f"{words}: {count} module{'s' * (count > 1)}"
                place = svg.element("g", tile, transform=f"translate({x} {bottom - 6:.1f})")
                drawn += place + svg.text(x + 46, bottom + 8, words, 15, MUTED)
                bottom += 30
        return drawn, bottom - y

    def roles(self, x: float, y: float, width: float) -> tuple[str, float]:
        """A bar a role, longest first: its mean value, or all of its parameters; its height."""
        bars = []
        for role in dict.fromkeys(module.role for module in self.catalog):
            own = [module for module in self.catalog if module.role == role]
            value = sum(m.parameters for m in own) if self.by_size else self.tiles.mean(own)
            if value is not None:
                bars.append((float(value), role.replace("_", " "), len(own)))
        bars.sort(reverse=True)
        longest = max((value for value, _, _ in bars), default=0.0) or 1.0
        head = "Parameters by role" if self.by_size else "Mean by role"
        drawn = [svg.text(x, y + 18, head, 20, bold=True)]
        room = min(width, PANEL) - 260
        for i, (value, role, count) in enumerate(bars):
            line = y + 50 + i * ROLE
            color = svg.ramp(0.6 if self.by_size else self.tiles.scale.at(value))
            wide = max(1.5, room * value / longest)
            drawn.append(svg.text(x, line, role, 16))
            drawn.append(svg.text(x + 166, line, str(count), 14, MUTED, anchor="end"))
            drawn.append(svg.rect(x + 180, line - 12, wide, 14, color))
            told = _written(value) if self.by_size else figure(value)
            drawn.append(svg.text(x + 188 + wide, line, told, 14, MUTED))
        return "".join(drawn), 50 + len(bars) * ROLE


def _written(value: float) -> str:
    """A figure as ticks carry it: `0.05`, `2`, `10 k`, `3.3 M`."""
    for unit, size in ((" B", 1e9), (" M", 1e6), (" k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.2g}" if value < 100 else f"{value:.0f}"


def _facts(block: Block, scale: str) -> str:
    modules = block.modules
    parameters = _written(float(sum(m.parameters for m in modules)))
    facts = [scale, f"{len(modules)} modules", f"{parameters} parameters"]
    return " · ".join(filter(None, facts))


# ------------------------------------------------------------ a U


@dataclass
class _Sheet:
    """A U as it is drawn. `left`, `right`: the edges of the channel in its middle."""

    left: float
    right: float
    drawn: list[str] = field(default_factory=list)
    ends: dict[tuple[str, str], tuple[float, float, float]] = field(default_factory=dict)

    @property
    def flows(self) -> dict[str, float]:
        """Where the flow runs from block to block, down and up again."""
        return {"down": self.left - 60, "up": self.right + 60}

    def put(self, box: Box, x: float, y: float) -> None:
        told, rows = box.draw(x, y)
        self.drawn.append(told)
        self.ends.update({(box.block.name, row): place for row, place in rows.items()})

    def arrow(self, *points: tuple[float, float]) -> None:
        self.drawn.append(svg.arrow(points))

    def write(self, x: float, y: float, words: str, anchor: str | None = None) -> None:
        self.drawn.append(svg.text(x, y + 6, words, 18, anchor=anchor))


def u(plan: Blueprint, tiles: Tiles, key: Key, top: float) -> tuple[str, float, float]:
    """The drawing, its width, and where it ends."""
    ordered = [*plan.down, *plan.mid, *plan.up]
    facts = _facts_by_block(plan)
    made = boxes(ordered, tiles, facts, with_mean=not key.by_size)
    rising = boxes(ordered, tiles, facts, with_mean=not key.by_size, rising=True)
    down, mid = made[: len(plan.down)], made[len(plan.down) : len(ordered) - len(plan.up)]
    up = rising[len(ordered) - len(plan.up) :]
    widest = max(box.width for box in (*down, *up))
    sheet = _Sheet(MARGIN + widest, MARGIN + widest + CHANNEL)
    width = sheet.right + widest + MARGIN

    ceiling = _ends(sheet, plan, tiles, top)
    low = _levels(sheet, down, up, ceiling)
    middle, y = (sheet.left + sheet.right) / 2, low
    for i, box in enumerate(mid):
        sheet.put(box, middle - box.width / 2, y)
        y += box.height + LEVEL * (i + 1 < len(mid))
    half = max((box.width for box in mid), default=0) / 2
    told, tall = key.legend(MARGIN, low, middle - half - 60 - MARGIN)
    bars, high = key.roles(middle + half + 60, low, width - MARGIN - (middle + half + 60))
    skips = _skips(plan, sheet)  # below the blocks
    return "".join([skips, *sheet.drawn, told, bars]), width, max(y, low + tall, low + high)


def _facts_by_block(plan: Blueprint) -> dict[str, str]:
    facts, halves = {}, 0
    for block in (*plan.down, *plan.mid, *plan.up):
        facts[block.name] = _facts(block, _resolution(halves))
        halves += block.has("downsamplers") - block.has("upsamplers")
    return facts


def _ends(sheet: _Sheet, plan: Blueprint, tiles: Tiles, top: float) -> float:
    """What stands before and after the U, above its two sides; and where it ends."""
    entry, exits = (
        [boxes([block], tiles, {})[0] for block in blocks] for blocks in (plan.entry, plan.exit)
    )
    bottom = top + max((box.height for box in (*entry, *exits)), default=0)
    inputs = [box for box in entry if box.block.modules[0].role == "input"]
    x = float(MARGIN)
    for box in entry:
        if box not in inputs:
            sheet.put(box, x, bottom - box.height)
            x += box.width + 16
    if x > MARGIN:
        sheet.drawn.append(svg.text(x, bottom - 30, "to every time_emb_proj →", 16, MUTED))
    if inputs:
        x = sheet.flows["down"] + inputs[-1].width / 2
        for box in reversed(inputs):
            x -= box.width
            sheet.put(box, x, bottom - box.height)
            x -= 16
        x, y = x + 16, bottom - inputs[0].height / 2
        sheet.write(x - 44, y, "noisy latents", "end")
        sheet.arrow((x - 36, y), (x - 1, y))
    if exits:
        x = sheet.flows["up"] - exits[0].width / 2
        for box in exits:
            sheet.put(box, x, bottom - box.height)
            x, y = x + box.width, bottom - box.height / 2
            sheet.arrow((x, y), (x + (21 if box is not exits[-1] else 34), y))
            x += 22
        sheet.write(x + 20, y, "prediction")
    return bottom


def _levels(sheet: _Sheet, down: Sequence[Box], up: Sequence[Box], ceiling: float) -> float:
    """Both sides, resolution by resolution, and their flow; where the middle may begin."""
    y, above = ceiling + LEVEL, {"down": ceiling, "up": ceiling}
    for descending, ascending in zip_longest(down, reversed(up)):
        pair = {"down": descending, "up": ascending}
        level = max(box.height for box in pair.values() if box)
        for side, box in pair.items():
            if box:
                at = y + (level - box.height) / 2
                sheet.put(box, sheet.left - box.width if side == "down" else sheet.right, at)
                _flow(sheet, side, above[side], at)
                above[side] = at + box.height
        y += level + LEVEL
    for side in ("down", "up"):
        _flow(sheet, side, above[side], y)
    return y


def _flow(sheet: _Sheet, side: str, top: float, bottom: float) -> None:
    x = sheet.flows[side]
    ends = ((x, top), (x, bottom))
    sheet.arrow(*(ends if side == "down" else ends[::-1]))


def _resolution(halves: int) -> str:
    return f"1/{2**halves} resolution" if halves else "full resolution"


def _skips(plan: Blueprint, sheet: _Sheet) -> str:
    left, right = sheet.left, sheet.right
    drawn = []
    for source, target in plan.skips():
        _, start, y1 = sheet.ends[source]
        y2 = sheet.ends[target][2]
        # Level out of the block, then one smooth turn within the channel.
        bend = (right - left) / 2
        path = f"M{start:.1f} {y1:.1f}H{left:.1f}C{left + bend:.1f} {y1:.1f} "
        path += f"{right - bend:.1f} {y2:.1f} {right:.1f} {y2:.1f}"
        drawn.append(svg.element("path", d=path, fill="none", stroke=MUTED, stroke_width=1.1))
        drawn.append(svg.element("circle", cx=start, cy=y1, r=2.5, fill=MUTED))
        drawn.append(svg.line([(right - 6, y2 - 4), (right, y2), (right - 6, y2 + 4)], MUTED, 1.1))
    return svg.element("g", *drawn, data_part="skips")


# ------------------------------------------------------------ a column


def column(plan: Blueprint, tiles: Tiles, key: Key, top: float) -> tuple[str, float, float]:
    """The drawing, its width, and where it ends."""
    drawn: list[str] = []
    tables = [_table(stack, replace(tiles, named=False), key.by_size) for stack in plan.stacks]
    widest = max((width for _, width, _ in tables), default=760.0)
    y = top
    y = _shelf(plan.entry, tiles, drawn, y, widest)
    for (told, _, tall), stack in zip(tables, plan.stacks, strict=True):
        drawn.append(svg.arrow([(MARGIN + 40, y), (MARGIN + 40, y + 26)]))
        head = f"{len(stack)} blocks · {sum(len(b.modules) for b in stack)} modules"
        name = stack[0].name.rpartition(".")[0]
        drawn.append(svg.text(MARGIN, y + 54, name, 20, bold=True))
        beside = MARGIN + svg.length(name, 20, True) + 14
        drawn.append(svg.text(beside, y + 54, head, 15, MUTED))
        drawn.append(svg.element("g", told, transform=f"translate({MARGIN} {y + 68:.1f})"))
        y += 68 + tall
    if plan.exit and plan.stacks:
        drawn.append(svg.arrow([(MARGIN + 40, y + 6), (MARGIN + 40, y + 32)]))
        y += 34
    y = _shelf(plan.exit, tiles, drawn, y, widest)
    x = MARGIN + widest + 90
    told, tall = key.legend(x, top, PANEL)
    bars, high = key.roles(x, top + tall + 48, PANEL)
    return "".join([*drawn, told, bars]), x + PANEL + MARGIN, max(y, top + tall + 48 + high)


def _shelf(
    blocks: Sequence[Block], tiles: Tiles, drawn: list[str], y: float, width: float
) -> float:
    """Boxes side by side, in as many lines as they need; where they end."""
    x, tall = float(MARGIN), 0.0
    for block in blocks:
        box = boxes([block], tiles, {})[0]
        if x > MARGIN and x + box.width > MARGIN + width:
            x, y, tall = MARGIN, y + tall + 14, 0.0
        drawn.append(box.draw(x, y)[0])
        x, tall = x + box.width + 14, max(tall, box.height)
    return y + tall


def _table(stack: Sequence[Block], tiles: Tiles, by_size: bool) -> tuple[str, float, float]:
    """A line a block, equal modules below one another, and its width and height.

    Each line ends with its mean, or the sum of its parameters.
    """
    rows = [row for block in stack for row in block.rows]
    shown = columns(rows)
    places = [SIDE / 2 + place for place in offsets(shown, tiles.width)]
    drawn, y = [], 14.0
    for i, caption in parts(shown, rows):
        drawn.append(svg.text(places[i], y, caption, 14, MUTED))
    heads = [svg.fit(column.leaf.replace("_", "_ "), 13, tiles.width, 3) for column in shown]
    heads = [[line.replace("_ ", "_") for line in head] for head in heads]
    deepest = max(map(len, heads))
    for head, place in zip(heads, places, strict=False):
        for i, words in enumerate(head):
            drawn.append(svg.text(place, y + 21 + 15 * (i + deepest - len(head)), words, 13))
    y += 14 + 15 * deepest
    if by_size:
        ends = [float(sum(module.parameters for module in block.modules)) for block in stack]
    else:
        ends = [tiles.mean(block.modules) or 0.0 for block in stack]
    over = "parameters" if by_size else "mean"
    drawn.append(svg.text(places[-1] + 26, y - 8, over, 13, MUTED))
    pitch = tiles.height + (GAP + 5 if tiles.pictures else GAP)
    for block, end in zip(stack, ends, strict=True):
        middle = y + tiles.height / 2
        number = block.name.rpartition(".")[2]
        drawn.append(svg.text(SIDE / 2 - 12, middle + 5, number, 14, MUTED, anchor="end"))
        for row in block.rows:
            for column, place in zip(shown, places, strict=False):
                if column.name in row.modules:
                    drawn.append(tiles.tile(row.modules[column.name], place, y))
        wide = max(1.5, 130 * end / (max(ends) or 1))
        color = svg.ramp(0.6 if by_size else tiles.scale.at(end))
        drawn.append(svg.rect(places[-1] + 26, middle - 6, wide, 12, color))
        told = _written(end) if by_size else figure(end)
        drawn.append(svg.text(places[-1] + 34 + wide, middle + 5, told, 13, MUTED))
        y += pitch
    return "".join(drawn), places[-1] + 230, y
