"""The key to the drawing of a network: how to read its colors, and a bar for each role."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ablate.messages import counted
from ablate.network import ModuleInfo
from ablate.style import HAIRLINE, MUTED, VACANT, ramp
from ablate.view.architecture.roles import THICK, draw_mark
from ablate.view.architecture.tiles import Tiles
from ablate.view.chart import capital, draw_legend, figure, rounded
from ablate.view.svg import Canvas

PANEL = 500  # width of legend and roles beside a column
ROLE = 25  # height of a role's line


@dataclass(frozen=True)
class Key:
    """What the key to a drawing consists of."""

    catalog: Sequence[ModuleInfo]  # the modules of the network
    tiles: Tiles  # how they are drawn
    aid: str  # how to read the colors
    by_size: bool  # whether colors show sizes, not values

    def draw_legend(self, canvas: Canvas, x: float, y: float, width: float) -> float:
        """Draw the ramp and its words; return its height."""
        tiles, wide = self.tiles, min(width, PANEL)
        canvas.text(x, y + 18, capital(tiles.unit), 20, bold=True)
        draw_legend(canvas, tiles.scale, x, y + 36, wide)
        bottom, notes = y + 114, [self.aid]
        if "noise floors" in tiles.unit:
            notes.append("1 is as far as another seed moves it.")
        for words in notes:
            bottom = canvas.paragraph(x, bottom, words, 17, min(width, PANEL + 60))
        unknown = sum(module.number not in tiles.values for module in self.catalog)
        broken = sum(not math.isfinite(value) for value in tiles.values.values())
        for count, words in ((unknown, "not measured"), (broken, "nothing but NaN")):
            if count:
                with canvas.group(transform=f"translate({x} {bottom - 6:.1f})"):
                    if words == "not measured":
                        canvas.rect(0, 0, 34, 18, VACANT, stroke=HAIRLINE)
                    else:
                        canvas.nan_tile(0, 0, 34, 18)
                canvas.text(x + 46, bottom + 8, f"{words}: {counted(count, 'module')}", 15, MUTED)
                bottom += 30
        return bottom - y

    def draw_roles(self, canvas: Canvas, x: float, y: float, width: float) -> float:
        """Draw a bar a role, longest first: its mean value, or all of its parameters.

        Returns:
            The height.
        """
        bars = []
        for role in dict.fromkeys(module.role for module in self.catalog):
            modules = [module for module in self.catalog if module.role == role]
            value = self.value(modules)
            bars.append((-1.0 if value is None else value, role, len(modules)))
        bars.sort(reverse=True)  # what is not known comes last
        longest = max((value for value, _, _ in bars), default=0.0)
        canvas.text(
            x, y + 18, "Parameters by role" if self.by_size else "Mean by role", 20, bold=True
        )
        for i, (value, role, count) in enumerate(bars):
            line = y + 50 + i * ROLE
            draw_mark(canvas, role, x, line - 5 - THICK / 2, 44)
            canvas.text(x + 56, line, role.replace("_", " "), 16)
            canvas.text(x + 236, line, str(count), 14, MUTED, anchor="end")
            if value < 0:
                canvas.text(x + 248, line, "not known", 14, MUTED)
            else:
                room = min(width, PANEL) - 326
                self.draw_bar(canvas, value, longest, (x + 248, line, room), 14)
        return 50 + len(bars) * ROLE

    def value(self, modules: Sequence[ModuleInfo]) -> float | None:
        """The value of several modules: their parameters, or their mean if any has a value."""
        if self.by_size:
            return float(sum(module.parameters for module in modules))
        return self.tiles.mean(modules)

    def draw_bar(
        self,
        canvas: Canvas,
        value: float,
        longest: float,
        at: tuple[float, float, float],
        size: int,
    ) -> None:
        """Draw a value as a bar with its figure.

        Args:
            longest: The value whose bar fills the room.
            at: Where it begins, the baseline of the figure, and the room for the bar.
            size: Of the type.
        """
        (x, y, room), high = at, 2 * size - 14
        wide = max(1.5, room * value / (longest or 1))
        color = ramp(0.6 if self.by_size else self.tiles.scale.at(value))
        canvas.rect(x, y - size + 2, wide, high, color)
        words = rounded(value) if self.by_size else figure(value)
        canvas.text(x + 8 + wide, y, words, size, MUTED)
