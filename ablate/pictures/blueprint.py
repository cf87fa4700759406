"""The plan of a network, read off the paths of its modules: blocks, their rows, their columns.

A row is a submodule with its modules in forward order (`resnets.0`, a transformer block). Rows of
one family share columns, so that equal modules of different rows stand below one another.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ablate.modules import ModuleInfo


@dataclass(frozen=True)
class Row:
    """A submodule. `modules`: by column, the names relative to the submodule."""

    name: str  # relative to its block, empty for the modules of the block itself
    modules: Mapping[str, ModuleInfo]

    @property
    def family(self) -> str:
        """The name without its numbers: rows of one family have columns in common."""
        return re.sub(r"\.\d+", "", self.name)


@dataclass(frozen=True)
class Block:
    """A block of a network, rows in forward order."""

    name: str
    stage: str
    rows: tuple[Row, ...]

    @property
    def modules(self) -> list[ModuleInfo]:
        return [module for row in self.rows for module in row.modules.values()]

    def has(self, submodule: str) -> bool:
        """Whether a row is of that kind, as in `downsamplers`."""
        return any(row.family.startswith(submodule) for row in self.rows)


@dataclass(frozen=True)
class Blueprint:
    """All blocks of a network. One with `down` and `up` blocks is a U, any other a column."""

    entry: tuple[Block, ...]
    down: tuple[Block, ...]
    mid: tuple[Block, ...]
    up: tuple[Block, ...]
    stacks: tuple[tuple[Block, ...], ...]  # runs of like blocks of a column
    exit: tuple[Block, ...]

    @property
    def is_u(self) -> bool:
        return bool(self.down and self.up)

    def skips(self) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """Skip connections, each from (block, row) to (block, row).

        Every row that ends a layer of the descent, and `conv_in`, feeds one ResNet of the ascent,
        the last the first. Empty where the two do not match, as in an autoencoder, or the rows
        are not those of diffusers.
        """
        if any(block.name.split(".")[0] != "down_blocks" for block in self.down):
            return []
        sources = [(b.name, b.rows[0].name) for b in self.entry if b.name == "conv_in"]
        for block in self.down:
            for i, row in enumerate(block.rows):
                following = block.rows[i + 1].name if i + 1 < len(block.rows) else ""
                if _number(following) != _number(row.name) or row.name.startswith("downs"):
                    sources.append((block.name, row.name))
        targets = [(b.name, r.name) for b in self.up for r in b.rows if r.family == "resnets"]
        if len(sources) != len(targets):
            return []
        return list(zip(reversed(sources), targets, strict=True))


def _number(row: str) -> tuple[bool, str]:
    """Which layer of its block a row belongs to; samplers are layers of their own."""
    found = re.match(r"(resnets|attentions)\.(\d+)", row)
    return (True, found[2]) if found else (False, row)


def blueprint(catalog: Sequence[ModuleInfo]) -> Blueprint:
    """The plan of the network whose modules these are."""
    found: dict[str, list[ModuleInfo]] = {}
    for module in catalog:
        found.setdefault(_home(module), []).append(module)
    blocks = [_block(name, modules) for name, modules in found.items()]
    stage = {s: tuple(b for b in blocks if b.stage == s) for s in ("down", "mid", "up", "out")}
    stacks: list[list[Block]] = []
    for block in blocks:
        if block.stage == "blocks":
            if not stacks or _stem(stacks[-1][0].name) != _stem(block.name):
                stacks.append([])
            stacks[-1].append(block)
    entry = tuple(b for b in blocks if b.stage not in ("down", "mid", "up", "out", "blocks"))
    return Blueprint(
        entry, stage["down"], stage["mid"], stage["up"], tuple(map(tuple, stacks)), stage["out"]
    )


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _home(module: ModuleInfo) -> str:
    """The block that a module is drawn in; all parts of a middle are one."""
    middle = re.match(r"(?:\w+\.)?mid_block(?=\.|$)", module.path)
    return middle[0] if middle else module.block


def _block(name: str, modules: Sequence[ModuleInfo]) -> Block:
    rows: dict[str, list[tuple[str, ModuleInfo]]] = {}
    for module in modules:
        row, column = _place(module.path[len(name) :].lstrip(".") if name else module.path)
        rows.setdefault(row, []).append((column, module))
    for parent in [p for p in rows if any(r.startswith(f"{p}.") for r in rows)]:
        # What stands before and after inner blocks joins the first and the last of them.
        inner = [r for r in rows if r.startswith(f"{parent}.")]
        opening = min(module.number for _, module in rows[inner[0]])
        own = rows.pop(parent)
        rows[inner[0]][:0] = [item for item in own if item[1].number < opening]
        rows[inner[-1]] += [item for item in own if item[1].number > opening]
    ordered = sorted(rows, key=_order) if modules[0].stage in ("down", "mid", "up") else rows
    return Block(name, modules[0].stage, tuple(Row(r, dict(rows[r])) for r in ordered))


def _place(path: str) -> tuple[str, str]:
    """Row and column of a module whose path within its block is given."""
    found = re.match(r"(?:[a-z_]+s\.\d+\.)+", path)
    row = found[0].rstrip(".") if found else ""
    return row, path[len(found[0]) if found else 0 :]


def _order(row: str) -> tuple[float, int]:
    """Forward order in a block of a U, which registration does not keep: each ResNet comes before
    its attention, samplers last."""
    numbers = [int(n) for n in re.findall(r"\d+", row)]
    if "samplers" in row or not numbers:
        return float("inf"), 0
    return numbers[0] + 0.5 * (not row.startswith("resnets")), sum(numbers[1:])


@dataclass(frozen=True)
class Column:
    """A column of a family of rows.

    `name`: of its modules, relative to the row. `group`: the part of the row that it belongs to
    (`attn1`), empty where the row has no such part; a norm belongs to the part that it precedes.
    """

    name: str
    group: str

    @property
    def leaf(self) -> str:
        """A short name, unique within the group: `to_q`, `conv1`, `ff.0`."""
        return leaf(self.name)


def columns(rows: Iterable[Row]) -> tuple[Column, ...]:
    """The columns of rows of one family: all names, each after what it follows in its own row."""
    merged: list[str] = []
    for row in rows:
        at = 0
        for name in row.modules:
            if name in merged:
                at = merged.index(name) + 1
            else:
                merged.insert(at, name)
                at += 1
    found: list[Column] = []
    for name in reversed(merged):
        follows = found[-1].group if found else ""
        is_norm = not _part(name) and leaf(name).startswith("norm")
        found.append(Column(name, follows if is_norm else _part(name)))
    return tuple(reversed(found))


INNER = re.compile(r"\.(net\.\d+(\.proj)?|\w*[a-z]\w*(\.\d+)?)$")  # a leaf within a part of a row


def leaf(name: str) -> str:
    """The short name of a module: what tells it apart within its part of the row."""
    name = re.sub(r"\.linear$", "", name)  # of an adaptive norm
    name = re.sub(r"\.net\.(\d+)(\.proj)?$", r".\1", name)
    name = re.sub(r"\.0$", "", name) if "to_out" in name else name
    found = re.search(r"(\w+\.)?\d+$|[^.]+$", name)
    return found[0] if found else "own"


def _part(name: str) -> str:
    """`attn1` of `attn1.to_q`, `timestep_embedder` of `emb.timestep_embedder.linear_1`."""
    name = re.sub(r"\.linear$", "", name)
    outer = INNER.sub("", name)
    return outer.rpartition(".")[2] if outer != name else ""
