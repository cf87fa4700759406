"""The shape of a U: blocks on two sides of a channel, with the skip connections in it.

Blocks come from `blueprint`, their look from `tiles`. Lengths are user units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from ablate.style import MUTED, text_width
from ablate.view.architecture.blueprint import Blueprint
from ablate.view.architecture.key import Key
from ablate.view.architecture.tiles import Box, Ends, Tiles, boxes, single_box
from ablate.view.chart import rounded
from ablate.view.svg import MARGIN, Canvas

CHANNEL = 250  # between descent and ascent, where the skip connections run
LEVEL = 44  # between levels of a U


@dataclass
class _Sheet:
    """A U as it is drawn."""

    canvas: Canvas  # what is drawn
    left: float  # the left edge of the channel in its middle
    right: float  # the right edge
    ends: dict[tuple[str, str], Ends] = field(default_factory=dict)  # of rows, by block and row

    @property
    def flows(self) -> dict[str, float]:
        """Where the flow runs from block to block, down and up again."""
        return {"down": self.left - 60, "up": self.right + 60}

    def put(self, box: Box, x: float, y: float) -> None:
        rows = box.draw(self.canvas, x, y)
        self.ends.update({(box.block.name, row): place for row, place in rows.items()})

    def flow(self, side: str, top: float, bottom: float) -> None:
        """Draw an arrow on a side, downward in the descent and upward in the ascent."""
        ends = (self.flows[side], top), (self.flows[side], bottom)
        self.canvas.arrow(*(ends if side == "down" else ends[::-1]))


def draw_u(
    canvas: Canvas, plan: Blueprint, tiles: Tiles, key: Key, top: float
) -> tuple[float, float]:
    """Draw a U from `top` on; return the width of the drawing, and where it ends."""
    ordered = [*plan.down, *plan.mid, *plan.up]
    facts = _facts(plan)
    falling, rising = (
        boxes(ordered, tiles, facts, with_mean=not key.by_size, rising=up) for up in (False, True)
    )
    start, stop = len(plan.down), len(ordered) - len(plan.up)
    down, mid, up = falling[:start], falling[start:stop], rising[stop:]
    widest = max(box.width for box in (*down, *up))
    sheet = _Sheet(Canvas(), MARGIN + widest, MARGIN + widest + CHANNEL)
    width = sheet.right + widest + MARGIN

    ceiling = _ends(sheet, plan, tiles, top)
    low, above = _levels(sheet, down, up, ceiling)
    if mid:
        for side in ("down", "up"):
            sheet.flow(side, above[side], low)
    else:
        (left, right), turn = sheet.flows.values(), low - LEVEL / 2
        sheet.canvas.arrow((left, above["down"]), (left, turn), (right, turn), (right, above["up"]))
    middle, y = (sheet.left + sheet.right) / 2, low
    for i, box in enumerate(mid):
        sheet.put(box, middle - box.width / 2, y)
        y += box.height + LEVEL * (i + 1 < len(mid))
    half = max((box.width for box in mid), default=0) / 2 + 60
    tall = key.draw_legend(sheet.canvas, MARGIN, low, middle - half - MARGIN)
    high = key.draw_roles(sheet.canvas, middle + half, low, width - MARGIN - (middle + half))
    _draw_skips(canvas, plan, sheet)  # below the blocks
    canvas.add(sheet.canvas)
    return width, max(y, low + tall, low + high)


def _facts(plan: Blueprint) -> dict[str, str]:
    """By block, its resolution and its size."""
    facts, halves = {}, 0
    for block in (*plan.down, *plan.mid, *plan.up):
        # Kandinsky 3 enlarges in the first ResNet of a block, others at the end.
        early = any(m.role == "upsample" for m in block.rows[0].modules.values())
        scale = f"1/{2 ** (halves - early)} resolution" if halves - early else "full resolution"
        parameters = rounded(float(sum(m.parameters for m in block.modules)))
        facts[block.name] = f"{scale} · {len(block.modules)} modules · {parameters} parameters"
        roles = {module.role for module in block.modules}
        halves += ("downsample" in roles) - ("upsample" in roles)
    return facts


def _ends(sheet: _Sheet, plan: Blueprint, tiles: Tiles, top: float) -> float:
    """Draw what comes before and after the U, above its two sides; return where it ends."""
    entry, exits = (
        [single_box(block, tiles) for block in blocks] for blocks in (plan.entry, plan.exit)
    )
    canvas = sheet.canvas
    bottom = top + max((box.height for box in (*entry, *exits)), default=0)
    inputs = [box for box in entry if box.block.modules[0].role == "input"]
    others = [box for box in entry if box not in inputs]
    paths = [m.path for b in (*plan.down, *plan.up) for m in b.modules]
    is_named = any(path.endswith("time_emb_proj") for path in paths)
    is_timed = any(m.role == "time" for block in plan.entry for m in block.modules)
    words = "to every time_emb_proj →" if is_named else "to every block →" if is_timed else ""
    right = MARGIN + sum(box.width + 16 for box in others) + text_width(words, 16)
    left = sheet.flows["down"] - sum(box.width + 16 for box in inputs) + 16 - 200
    x, floor = float(MARGIN), bottom
    if inputs and others and right > left:  # no room beside one another
        floor = top + max(box.height for box in others)
        bottom = floor + 24 + max(box.height for box in (*inputs, *exits))
    for box in others:
        sheet.put(box, x, floor - box.height)
        x += box.width + 16
    if others and words:
        canvas.text(x, floor - 30, words, 16, MUTED)
    if inputs:
        x = sheet.flows["down"] + inputs[-1].width / 2
        for box in reversed(inputs):
            x -= box.width
            sheet.put(box, x, bottom - box.height)
            x -= 16
        x, y = x + 16, bottom - inputs[0].height / 2
        canvas.text(x - 44, y + 6, "noisy latents" if is_timed else "image", 18, anchor="end")
        canvas.arrow((x - 36, y), (x - 1, y))
    if exits:
        x = sheet.flows["up"] - exits[0].width / 2
        for box in exits:
            sheet.put(box, x, bottom - box.height)
            x, y = x + box.width, bottom - box.height / 2
            canvas.arrow((x, y), (x + (21 if box is not exits[-1] else 34), y))
            x += 22
        canvas.text(x + 20, y + 6, "prediction" if is_timed else "image", 18)
    return bottom


def _levels(
    sheet: _Sheet, down: Sequence[Box], up: Sequence[Box], ceiling: float
) -> tuple[float, dict[str, float]]:
    """Draw both sides, resolution by resolution, and their flow.

    Returns:
        Where the middle may begin, and where each side ends.
    """
    y, above = ceiling + LEVEL, {"down": ceiling, "up": ceiling}
    for descending, ascending in zip_longest(down, reversed(up)):
        pair = {"down": descending, "up": ascending}
        level = max(box.height for box in pair.values() if box)
        for side, box in pair.items():
            if box:
                at = y + (level - box.height) / 2
                sheet.put(box, sheet.left - box.width if side == "down" else sheet.right, at)
                sheet.flow(side, above[side], at)
                above[side] = at + box.height
        y += level + LEVEL
    return y, above


def _draw_skips(canvas: Canvas, plan: Blueprint, sheet: _Sheet) -> None:
    left, right = sheet.left, sheet.right
    with canvas.group(data_part="skips"):
        for source, target in plan.skips():
            (_, start, y1), (_, _, y2) = sheet.ends[source], sheet.ends[target]
            # Level out of the block, then one smooth turn within the channel.
            bend = (right - left) / 2
            path = f"M{start:.1f} {y1:.1f}H{left:.1f}C{left + bend:.1f} {y1:.1f} "
            path += f"{right - bend:.1f} {y2:.1f} {right:.1f} {y2:.1f}"
            canvas.element("path", d=path, fill="none", stroke=MUTED, stroke_width=1.1)
            canvas.circle(start, y1, 2.5, MUTED)
            canvas.line([(right - 6, y2 - 4), (right, y2), (right - 6, y2 + 4)], MUTED, 1.1)
