"""Modules as tiles: their color or picture, their name, and blocks of them in rows.

The drawing of a network consists of them. Lengths are user units.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablate.network import ModuleInfo
from ablate.style import DARK, HAIRLINE, HATCH, MUTED, VACANT, Color, fit, ink_on, ramp, text_width
from ablate.view.architecture.blueprint import Block, Column, Row, columns
from ablate.view.architecture.roles import THICK, draw_mark
from ablate.view.chart import Scale, figure
from ablate.view.svg import Canvas

WHITE: Color = (255, 255, 255)
GAP = 3  # between tiles
PART = 10  # more, between the parts of a row
PAD = 16  # within the frame of a block
SIDE = 116  # width of the names of rows
TITLE = 42  # height of a block's title
FRAME = 5  # of color around a picture
CAPTION = 19  # height of the names of parts
Ends = tuple[float, float, float]  # left and right end and middle of a row


@dataclass(frozen=True)
class Tiles:
    """How modules are drawn. Mappings are by module number."""

    scale: Scale  # of the colors
    values: Mapping[int, float]  # not finite for an image in which NaN or infinity arose
    pictures: Mapping[int, Path]  # to show in place of colors
    keys: Mapping[int, str]  # of the cells that are shown
    unit: str  # what a value is, for tooltips
    named: bool = True  # whether tiles carry names; lower ones suffice where columns have heads

    @property
    def width(self) -> int:
        return 64 + 2 * FRAME if self.pictures else 66

    @property
    def height(self) -> int:
        """Of a tile alone; where there are pictures, names are below it."""
        return self.width if self.pictures else 38 if self.named else 27

    @property
    def pitch(self) -> int:
        """From one row to the next."""
        below = THICK + 1 if self.named else 0  # its mark
        return self.height + below + (21 if self.pictures else 5)

    def draw(self, canvas: Canvas, module: ModuleInfo, x: float, y: float, name: str = "") -> None:
        """Draw a module at a place."""
        value = self.values.get(module.number)
        broken = value is not None and not math.isfinite(value)
        facts = f"{module.name}\n{module.kind}, {module.role.replace('_', ' ')}, "
        facts += f"{module.parameters:,} parameters"
        if value is not None:
            facts += f"\n{self.unit}: {'NaN' if broken else figure(value)}"
        color = VACANT if value is None else DARK if broken else ramp(self.scale.at(value))
        picture = self.pictures.get(module.number)
        with canvas.group(facts, data_module=module.name, data_cell=self.keys.get(module.number)):
            if picture is not None and broken:
                canvas.nan_tile(x, y, self.width, self.height)
            else:
                edge = HAIRLINE if value is None else None
                canvas.rect(x, y, self.width, self.height, color, stroke=edge)
                if picture is not None:
                    inner = self.width - 2 * FRAME, self.height - 2 * FRAME
                    canvas.picture(picture, x + FRAME, y + FRAME, *inner)
            if name and self.pictures:
                size = min(12.0, 12 * (self.width - 4) / text_width(name, 12))
                canvas.text(x, y + self.height + 17, name, size, MUTED)
            elif broken:
                canvas.line([(x, y + self.height), (x + self.width, y)], HATCH, 2)
            if name and not self.pictures:
                self._name(canvas, name, x, y, ink_on(color))
            if self.named:
                draw_mark(canvas, module.role, x, y + self.height + 1, self.width)

    def _name(self, canvas: Canvas, name: str, x: float, y: float, color: Color) -> None:
        """Within the tile, on up to three lines, as large as there is room for."""
        size, lines = max(
            (self._size(lines), lines) for lines in _broken(name, 3 if len(name) > 16 else 2)
        )
        top = y + self.height / 2 + size * (0.36 - 0.55 * (len(lines) - 1))
        for i, line in enumerate(lines):
            place = x + self.width / 2, top + 1.1 * size * i
            canvas.text(*place, line, size, color, anchor="middle")

    def _size(self, lines: Sequence[str]) -> float:
        longest = max(text_width(line, 13) for line in lines)
        return min(14.0 - len(lines), 13 * (self.width - 6) / longest)

    def mean(self, modules: Sequence[ModuleInfo]) -> float | None:
        """The mean value of modules that have one."""
        values = [self.values[m.number] for m in modules if m.number in self.values]
        finite = [value for value in values if math.isfinite(value)]
        return sum(finite) / len(finite) if finite else None


def _broken(name: str, most: int) -> list[list[str]]:
    """All ways of breaking a name after `_` into so many lines or fewer."""
    ways, cuts = [[name]], [i + 1 for i, c in enumerate(name[:-1]) if c == "_"]
    if most > 1:
        ways += [[name[:cut], *rest] for cut in cuts for rest in _broken(name[cut:], most - 1)]
    return ways


def offsets(shown: Sequence[Column], width: float) -> list[float]:
    """Where the columns begin, from the left of the first; the last is the whole width."""
    places = [0.0]
    for i, column in enumerate(shown):
        turns = i + 1 < len(shown) and shown[i + 1].group != column.group
        places.append(places[-1] + width + GAP + PART * turns)
    return [*places[:-1], places[-1] - GAP]


def parts(
    shown: Sequence[Column], rows: Sequence[Row], width: float, size: float
) -> list[tuple[int, str]]:
    """The parts of a row: the first column of each, and its name and role, as far as there is room.

    Args:
        shown: The columns.
        rows: All rows with these columns.
        width: Of a tile.
        size: Of the type.
    """
    firsts = [
        i for i, c in enumerate(shown) if c.group and (not i or shown[i - 1].group != c.group)
    ]
    places, captions = offsets(shown, width), []
    for i, following in zip(firsts, [*firsts[1:], len(shown)], strict=True):
        column = shown[i]
        names = {c.name for c in shown if c.group == column.group}
        roles = Counter(m.role for row in rows for c, m in row.modules.items() if c in names)
        del roles["norm"]
        role = max(roles, key=roles.__getitem__, default="").replace("_", " ")
        plain = role in ("", "other", "time", "embedding") or role == column.group
        plain |= 2 * max(roles.values(), default=0) <= sum(roles.values())
        forms = [column.group] if plain else [f"{column.group} · {role}", column.group, role]
        room = places[following] - places[i] - (8 if following < len(shown) else 0)
        fitting = (words for words in forms if text_width(words, size) <= room)
        captions.append((i, next(fitting, fit(column.group, size, room))))
    return captions


@dataclass(frozen=True)
class Box:
    """A block in its frame."""

    block: Block  # its modules
    tiles: Tiles  # how they are drawn
    families: Mapping[str, tuple[Column, ...]]  # the columns of each family of rows
    rising: bool  # whether the first row is the lowest
    about: str  # facts beside its name
    with_mean: bool = False  # whether it shows the mean of its modules

    @property
    def side(self) -> float:
        return SIDE if any(row.name for row in self.block.rows) else 0

    @property
    def width(self) -> float:
        widest = max(offsets(self.families[r.family], self.tiles.width)[-1] for r in self.rows)
        return 2 * PAD + max(self.side + widest, self._title_width())

    def _title_width(self) -> float:
        if self.bare:
            return 0
        mean = 110 if self.with_mean else 0
        return text_width(self.block.name, 20, True) + text_width(self.about, 15) + 30 + mean

    @property
    def bare(self) -> bool:
        """A block that is a single module: its tile is its name, if that is short enough."""
        short = len(self.block.name.rpartition(".")[2]) <= 18
        return short and len(self.block.modules) == 1 and not self.block.rows[0].name

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.block.rows[::-1] if self.rising else self.block.rows

    @property
    def _captioned(self) -> set[str]:
        """Rows with the names of their parts above: the first of each run of like rows."""
        above = ["", *(row.family for row in self.rows)]
        return {
            row.name
            for row, before in zip(self.rows, above, strict=False)
            if (row.family != before or not row.name)
            and any(column.group for column in self.families[row.family])
        }

    @property
    def height(self) -> float:
        captions = CAPTION * len(self._captioned)
        title = 0 if self.bare else TITLE
        last = self.tiles.pitch - 5
        return 2 * PAD - 2 + title + captions + (len(self.rows) - 1) * self.tiles.pitch + last

    def draw(self, canvas: Canvas, x: float, y: float) -> dict[str, Ends]:
        """Draw the box at a place; return, by row, its left end, right end and middle."""
        ends = {}
        with canvas.group(data_block=self.block.name):
            canvas.rect(x, y, self.width, self.height, WHITE, stroke=HAIRLINE, rx=4)
            top = y + PAD - 1
            if not self.bare:
                self._title(canvas, x, y + 32)
                top += TITLE
            captioned = self._captioned
            for row in self.rows:
                left = x + PAD + self.side
                shown = self.families[row.family]
                places = offsets(shown, self.tiles.width)
                if row.name in captioned:
                    for i, caption in parts(shown, [row], self.tiles.width, 12):
                        canvas.text(left + places[i], top + 12, caption, 12, MUTED)
                    top += CAPTION
                middle = top + self.tiles.height / 2
                if row.name:
                    canvas.text(x + PAD, middle + 5, self._row_name(row), 13, MUTED)
                for column, place in zip(shown, places, strict=False):
                    if column.name in row.modules:
                        name = column.leaf
                        if self.bare or not column.name:
                            name = self.block.name.rpartition(".")[2] or "network"
                        self.tiles.draw(canvas, row.modules[column.name], left + place, top, name)
                ends[row.name] = (x, x + self.width, middle)
                top += self.tiles.pitch
        return ends

    def _title(self, canvas: Canvas, x: float, y: float) -> None:
        canvas.text(x + PAD, y, self.block.name, 20, bold=True)
        beside = x + PAD + text_width(self.block.name, 20, True) + 14
        canvas.text(beside, y, self.about, 15, MUTED)
        mean = self.tiles.mean(self.block.modules) if self.with_mean else None
        if mean is not None:
            canvas.text(x + self.width - PAD, y, f"mean {figure(mean)}", 16, anchor="end")

    def _row_name(self, row: Row) -> str:
        name, _, inner = row.name.partition(".transformer_blocks.")
        alone = sum(r.name.startswith(f"{name}.") for r in self.rows) < 2
        return name if alone else f"{name} · {inner}"


def boxes(
    blocks: Sequence[Block],
    tiles: Tiles,
    about: Mapping[str, str],
    *,
    rising: bool = False,
    with_mean: bool = False,
) -> list[Box]:
    """Blocks in their frames; rows of one family have the same columns in all of them."""
    rows = [row for block in blocks for row in block.rows]
    families = {
        family: columns(row for row in rows if row.family == family)
        for family in {row.family for row in rows}
    }
    return [
        Box(block, tiles, families, rising, about.get(block.name, ""), with_mean)
        for block in blocks
    ]


def single_box(block: Block, tiles: Tiles) -> Box:
    """A block in its frame, with columns for itself."""
    return boxes([block], tiles, {})[0]
