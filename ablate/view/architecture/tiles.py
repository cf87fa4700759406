"""Modules as tiles: their color or picture, their name, and blocks of them in rows.

What `ablate.pictures.architecture` builds the drawing of a network from. Lengths are user units.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ablate.network import ModuleInfo
from ablate.style import DARK, HAIRLINE, HATCH, MUTED, VACANT
from ablate.view import svg
from ablate.view.architecture.blueprint import Block, Column, Row, columns
from ablate.view.architecture.roles import THICK, mark
from ablate.view.scales import Scale, figure

GAP = 3  # between tiles
PART = 10  # more, between the parts of a row
PAD = 16  # within the frame of a block
SIDE = 116  # width of the names of rows
TITLE = 42  # height of a block's title
FRAME = 5  # of color around a picture
CAPTION = 19  # height of the names of parts


@dataclass(frozen=True)
class Tiles:
    """How modules are drawn. `values`, `pictures` and `keys` (of cells) go by module number.

    A value that is not a number stands for an image in which NaN or infinity arose.
    """

    scale: Scale
    values: Mapping[int, float]
    pictures: Mapping[int, Path]
    keys: Mapping[int, str]
    unit: str  # what a value is, for tooltips
    named: bool = True  # whether tiles carry names; lower ones suffice where columns have heads

    @property
    def width(self) -> int:
        return 64 + 2 * FRAME if self.pictures else 66

    @property
    def height(self) -> int:
        """Of a tile alone; where there are pictures, names stand below it."""
        return self.width if self.pictures else 38 if self.named else 27

    @property
    def pitch(self) -> int:
        """From one row to the next."""
        return self.height + self.below + (21 if self.pictures else 5)

    @property
    def below(self) -> int:
        """Height of what stands below a tile: its mark, where it has a name."""
        return THICK + 1 if self.named else 0

    def tile(self, module: ModuleInfo, x: float, y: float, name: str = "") -> str:
        """A module at a place."""
        value = self.values.get(module.number)
        broken = value is not None and not math.isfinite(value)
        told = f"{module.path or module.kind}\n{module.kind}, {module.role.replace('_', ' ')}, "
        told += f"{module.parameters:,} parameters"
        if value is not None:
            told += f"\n{self.unit}: {'NaN' if broken else figure(value)}"
        color = VACANT if value is None else DARK if broken else svg.ramp(self.scale.at(value))
        drawn = svg.rect(
            x, y, self.width, self.height, color, stroke=HAIRLINE if value is None else None
        )
        picture = self.pictures.get(module.number)
        inner = (x + FRAME, y + FRAME, self.width - 2 * FRAME, self.height - 2 * FRAME)
        if picture is not None and broken:
            drawn = svg.nan_tile(x, y, self.width, self.height)
        elif picture is not None:
            drawn += svg.picture(picture, *inner)
        if name and self.pictures:
            size = min(12.0, 12 * (self.width - 4) / svg.length(name, 12))
            drawn += svg.text(x, y + self.height + 17, name, size, MUTED)
        elif broken:
            drawn += svg.line([(x, y + self.height), (x + self.width, y)], HATCH, 2)
        if name and not self.pictures:
            drawn += self._name(name, x, y, svg.ink_on(color))
        if self.named:
            drawn += mark(module.role, x, y + self.height + 1, self.width)
        return svg.element(
            "g", svg.tooltip(told), drawn,
            data_module=module.path, data_cell=self.keys.get(module.number),
        )  # fmt: skip

    def _name(self, name: str, x: float, y: float, color: tuple[int, int, int]) -> str:
        """Within the tile, on up to three lines, as large as there is room for."""
        size, lines = max(
            (self._size(lines), lines) for lines in _broken(name, 3 if len(name) > 16 else 2)
        )
        top = y + self.height / 2 + size * (0.36 - 0.55 * (len(lines) - 1))
        return "".join(
            svg.text(x + self.width / 2, top + 1.1 * size * i, line, size, color, anchor="middle")
            for i, line in enumerate(lines)
        )

    def _size(self, lines: Sequence[str]) -> float:
        longest = max(svg.length(line, 13) for line in lines)
        return min(14.0 - len(lines), 13 * (self.width - 6) / longest)

    def mean(self, modules: Sequence[ModuleInfo]) -> float | None:
        """The mean value of modules that have one."""
        values = [self.values[m.number] for m in modules if m.number in self.values]
        finite = [value for value in values if math.isfinite(value)]
        return sum(finite) / len(finite) if finite else None


def _broken(name: str, most: int) -> list[list[str]]:
    """All ways of breaking a name after `_` into so many lines or fewer."""
    found, cuts = [[name]], [i + 1 for i, c in enumerate(name[:-1]) if c == "_"]
    if most > 1:
        found += [[name[:cut], *rest] for cut in cuts for rest in _broken(name[cut:], most - 1)]
    return found


def offsets(shown: Sequence[Column], width: float) -> list[float]:
    """Where the columns stand, from the left of the first; the last is the whole width."""
    found = [0.0]
    for i, column in enumerate(shown):
        turns = i + 1 < len(shown) and shown[i + 1].group != column.group
        found.append(found[-1] + width + GAP + PART * turns)
    return [*found[:-1], found[-1] - GAP]


def parts(
    shown: Sequence[Column], rows: Sequence[Row], width: float, size: float
) -> list[tuple[int, str]]:
    """The parts of a row: the first column of each, and what it is and does, as far as type of that
    size has room. `width`: of a tile."""
    firsts = [
        i for i, c in enumerate(shown) if c.group and (not i or shown[i - 1].group != c.group)
    ]
    places = offsets(shown, width)
    found = []
    for i, following in zip(firsts, [*firsts[1:], len(shown)], strict=True):
        column = shown[i]
        names = {c.name for c in shown if c.group == column.group}
        roles = Counter(m.role for row in rows for c, m in row.modules.items() if c in names)
        del roles["norm"]
        role = max(roles, key=roles.__getitem__, default="").replace("_", " ")
        plain = role in ("", "other", "time", "embedding") or role == column.group
        plain |= 2 * max(roles.values(), default=0) <= sum(roles.values())
        told = [column.group] if plain else [f"{column.group} · {role}", column.group, role]
        room = places[following] - places[i] - (8 if following < len(shown) else 0)
        fitting = (words for words in told if svg.length(words, size) <= room)
        found.append((i, next(fitting, svg.fit(column.group, size, room)[0])))
    return found


@dataclass(frozen=True)
class Box:
    """A block in its frame. `ends`: by row, left and right end and middle, once it is placed."""

    block: Block
    tiles: Tiles
    families: Mapping[str, tuple[Column, ...]]
    rising: bool  # the first row lowest
    about: str  # beside its name
    with_mean: bool = False

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
        return svg.length(self.block.name, 20, True) + svg.length(self.about, 15) + 30 + mean

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

    def draw(self, x: float, y: float) -> tuple[str, dict[str, tuple[float, float, float]]]:
        """The box at a place; and by row its left end, right end and middle."""
        tiles, right = self.tiles, x + self.width
        drawn = [svg.rect(x, y, self.width, self.height, (255, 255, 255), stroke=HAIRLINE, rx=4)]
        top = y + PAD - 1
        if not self.bare:
            drawn.append(svg.text(x + PAD, y + 32, self.block.name, 20, bold=True))
            beside = x + PAD + svg.length(self.block.name, 20, True) + 14
            drawn.append(svg.text(beside, y + 32, self.about, 15, MUTED))
            mean = tiles.mean(self.block.modules) if self.with_mean else None
            if mean is not None:
                told = f"mean {figure(mean)}"
                drawn.append(svg.text(right - PAD, y + 32, told, 16, anchor="end"))
            top += TITLE
        ends, captioned = {}, self._captioned
        for row in self.rows:
            shown = self.families[row.family]
            places = offsets(shown, tiles.width)
            if row.name in captioned:
                for i, caption in parts(shown, [row], tiles.width, 12):
                    place = x + PAD + self.side + places[i]
                    drawn.append(svg.text(place, top + 12, caption, 12, MUTED))
                top += CAPTION
            if row.name:
                label, _, inner = row.name.partition(".transformer_blocks.")
                middle = top + tiles.height / 2 + 5
                alone = sum(r.name.startswith(f"{label}.") for r in self.rows) < 2
                label = label if alone else f"{label} · {inner}"
                drawn.append(svg.text(x + PAD, middle, label, 13, MUTED))
            for column, place in zip(shown, places, strict=False):
                if column.name in row.modules:
                    name = column.leaf
                    if self.bare or not column.name:
                        name = self.block.name.rpartition(".")[2] or "network"
                    at = x + PAD + self.side + place
                    drawn.append(tiles.tile(row.modules[column.name], at, top, name))
            ends[row.name] = (x, right, top + tiles.height / 2)
            top += tiles.pitch
        return svg.element("g", *drawn, data_block=self.block.name), ends


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
