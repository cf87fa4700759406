"""The shape of a U; and the key to the colors of any network.

Blocks come from `blueprint`, their look from `tiles`. Lengths are user units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from ablate.network import ModuleInfo
from ablate.style import HAIRLINE, MUTED, VACANT
from ablate.view import svg
from ablate.view.architecture.blueprint import Block, Blueprint
from ablate.view.architecture.roles import THICK, mark
from ablate.view.architecture.tiles import Box, Tiles, boxes
from ablate.view.scales import figure, written

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
        ticks = [(value, written(value)) for value in tiles.scale.ticks(ramp)]
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
            bars.append((-1.0 if value is None else float(value), role, len(own)))
        bars.sort(reverse=True)  # what is not known comes last
        longest = max((value for value, _, _ in bars), default=0.0) or 1.0
        head = "Parameters by role" if self.by_size else "Mean by role"
        drawn = [svg.text(x, y + 18, head, 20, bold=True)]
        room = min(width, PANEL) - 326
        for i, (value, role, count) in enumerate(bars):
            line = y + 50 + i * ROLE
            color = svg.ramp(0.6 if self.by_size else self.tiles.scale.at(value))
            wide = max(1.5, room * value / longest)
            drawn.append(mark(role, x, line - 5 - THICK / 2, 44))
            drawn.append(svg.text(x + 56, line, role.replace("_", " "), 16))
            drawn.append(svg.text(x + 236, line, str(count), 14, MUTED, anchor="end"))
            if value < 0:
                drawn.append(svg.text(x + 248, line, "not known", 14, MUTED))
                continue
            drawn.append(svg.rect(x + 248, line - 12, wide, 14, color))
            told = written(value) if self.by_size else figure(value)
            drawn.append(svg.text(x + 256 + wide, line, told, 14, MUTED))
        return "".join(drawn), 50 + len(bars) * ROLE


def _facts(block: Block, scale: str) -> str:
    modules = block.modules
    parameters = written(float(sum(m.parameters for m in modules)))
    facts = [scale, f"{len(modules)} modules", f"{parameters} parameters"]
    return " · ".join(filter(None, facts))


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
    low, above = _levels(sheet, down, up, ceiling)
    if mid:
        for side in ("down", "up"):
            _flow(sheet, side, above[side], low)
    else:
        (left, right), turn = sheet.flows.values(), low - LEVEL / 2
        sheet.arrow((left, above["down"]), (left, turn), (right, turn), (right, above["up"]))
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
        # Kandinsky 3 enlarges in the first ResNet of a block, others at the end.
        early = any(m.role == "upsample" for m in block.rows[0].modules.values())
        facts[block.name] = _facts(block, _resolution(halves - early))
        roles = {module.role for module in block.modules}
        halves += ("downsample" in roles) - ("upsample" in roles)
    return facts


def _ends(sheet: _Sheet, plan: Blueprint, tiles: Tiles, top: float) -> float:
    """What stands before and after the U, above its two sides; and where it ends."""
    entry, exits = (
        [boxes([block], tiles, {})[0] for block in blocks] for blocks in (plan.entry, plan.exit)
    )
    bottom = top + max((box.height for box in (*entry, *exits)), default=0)
    inputs = [box for box in entry if box.block.modules[0].role == "input"]
    others = [box for box in entry if box not in inputs]
    paths = [m.path for b in (*plan.down, *plan.up) for m in b.modules]
    is_named = any(path.endswith("time_emb_proj") for path in paths)
    is_timed = any(m.role == "time" for block in plan.entry for m in block.modules)
    words = "to every time_emb_proj →" if is_named else "to every block →" if is_timed else ""
    right = MARGIN + sum(box.width + 16 for box in others) + svg.length(words, 16)
    left = sheet.flows["down"] - sum(box.width + 16 for box in inputs) + 16 - 200
    x, floor = float(MARGIN), bottom
    if inputs and others and right > left:  # no room beside one another
        floor = top + max(box.height for box in others)
        bottom = floor + 24 + max(box.height for box in (*inputs, *exits))
    for box in others:
        sheet.put(box, x, floor - box.height)
        x += box.width + 16
    if others and words:
        sheet.drawn.append(svg.text(x, floor - 30, words, 16, MUTED))
    if inputs:
        x = sheet.flows["down"] + inputs[-1].width / 2
        for box in reversed(inputs):
            x -= box.width
            sheet.put(box, x, bottom - box.height)
            x -= 16
        x, y = x + 16, bottom - inputs[0].height / 2
        sheet.write(x - 44, y, "noisy latents" if is_timed else "image", "end")
        sheet.arrow((x - 36, y), (x - 1, y))
    if exits:
        x = sheet.flows["up"] - exits[0].width / 2
        for box in exits:
            sheet.put(box, x, bottom - box.height)
            x, y = x + box.width, bottom - box.height / 2
            sheet.arrow((x, y), (x + (21 if box is not exits[-1] else 34), y))
            x += 22
        sheet.write(x + 20, y, "prediction" if is_timed else "image")
    return bottom


def _levels(
    sheet: _Sheet, down: Sequence[Box], up: Sequence[Box], ceiling: float
) -> tuple[float, dict[str, float]]:
    """Both sides, resolution by resolution, and their flow; where the middle may begin, and where
    each side ends."""
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
    return y, above


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
