"""The plan of a network, read off the paths of its modules: blocks, their rows, their columns.

A row is a submodule with its modules in forward order (`resnets.0`, a transformer block). Rows of
one family share columns, so that equal modules of different rows are below one another. In a
network that is no U, equal blocks are a stack; image and text go through it beside one another, as
two streams, or as one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from ablate.network import ROOT, ModuleInfo


@dataclass(frozen=True)
class Row:
    """A submodule."""

    name: str  # relative to its block; empty for modules of the block itself
    modules: Mapping[str, ModuleInfo]  # by column, their names relative to the submodule

    @property
    def family(self) -> str:
        """The name without its numbers: rows of one family have columns in common."""
        return re.sub(r"(_in|_out)?\.\d+", "", self.name)


@dataclass(frozen=True)
class Block:
    """A block of a network, rows in forward order."""

    name: str
    stage: str
    rows: tuple[Row, ...]

    @property
    def modules(self) -> list[ModuleInfo]:
        return [module for row in self.rows for module in row.modules.values()]

    @property
    def in_pairs(self) -> bool:
        """Whether ResNets come in pairs, `resnets_in` and `resnets_out`, as in Kandinsky 3."""
        return any(row.name.startswith("resnets_in") for row in self.rows)


# Names of what works on the text, of a whole network and of a block of two streams.
OF_TEXT = re.compile(r"(^|[._])(txt|text|context|caption|cap|clip|byt5)([._]|$)")
TEXT_STREAM = re.compile(
    r"(_context|norm_added_[qk]|_t)(\.|$)|(^|\.)(txt_\w+|add_[qkv]_proj|to_add_out)(\.|$)"
)
STREAMS = ("image", "text")
LANES = {  # what roles of modules before all blocks work on
    "time": "conditioning", "modulation": "conditioning",
    "context_embedding": "text",
    "patch_embedding": "image", "input": "image",
}  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """A run of like blocks."""

    blocks: tuple[Block, ...]  # in forward order
    side: str = ""  # `image` or `text` where they work on it alone, else empty

    @property
    def name(self) -> str:
        return _stem(self.blocks[0].name)

    @property
    def rows(self) -> list[Row]:
        return [row for block in self.blocks for row in block.rows]

    @property
    def modules(self) -> list[ModuleInfo]:
        return [module for block in self.blocks for module in block.modules]

    def has(self, *roles: str) -> bool:
        return any(module.role in roles for module in self.modules)

    def streams(self) -> list[tuple[Column, ...]]:
        """The columns, of the image and of the text where blocks have two streams of modules."""
        if self.blocks[0].stage == "double":
            image = columns(self.rows, lambda name: not TEXT_STREAM.search(name))
            text = columns(self.rows, lambda name: bool(TEXT_STREAM.search(name)))
            if image and text:
                return [image, text]
        return [columns(self.rows)]


@dataclass(frozen=True)
class Blueprint:
    """All blocks of a network. One with `down` and `up` blocks is a U, any other a column."""

    entry: tuple[Block, ...]
    down: tuple[Block, ...]
    mid: tuple[Block, ...]
    up: tuple[Block, ...]
    stacks: tuple[Stack, ...]
    exit: tuple[Block, ...]

    def lane(self, name: str) -> tuple[Block, ...]:
        """The blocks of the entry that work on the `image`, the `text` or the `conditioning`.

        Conditioning is time, guidance and pooled text.
        """
        # Parameters of the network itself are tokens that join those of the text.
        blocks = [
            block for block in self.entry
            if name == (_lane(block.modules) or ("text" if block.name == ROOT else "image"))
        ]  # fmt: skip
        return tuple(sorted(blocks, key=lambda block: block.name == ROOT))

    def bands(self) -> list[list[Stack]]:
        """Stacks from input to output; those of image and text alone are beside one another."""
        bands: list[list[Stack]] = []
        for stack in self.stacks:
            if stack.side and bands and bands[-1][0].side:
                bands[-1].append(stack)
            else:
                bands.append([stack])
        return bands

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
        if all(block.in_pairs for block in (*self.down, *self.up)):
            return self._skips_of_blocks()
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

    def _skips_of_blocks(self) -> list[tuple[tuple[str, str], tuple[str, str]]]:
        """Of Kandinsky 3: from each block of the descent but the last to its opposite."""
        pairs = zip(self.down[:-1], self.up[:0:-1], strict=False)
        return [((a.name, a.rows[-1].name), (b.name, b.rows[0].name)) for a, b in pairs]


def _number(row: str) -> tuple[bool, str]:
    """Which layer of its block a row belongs to; each sampler is a layer."""
    match = re.match(r"(resnets|attentions)\.(\d+)", row)
    return (True, match[2]) if match else (False, row)


def blueprint(catalog: Sequence[ModuleInfo]) -> Blueprint:
    """The plan of the network whose modules these are."""
    blocks = [_block(name, modules) for name, modules in _blocks(catalog).items()]
    stage = {s: tuple(b for b in blocks if b.stage == s) for s in ("down", "mid", "up", "out")}
    known = {*stage, *STACKED}
    entry = tuple(b for b in blocks if b.stage not in known)
    if not (stage["down"] and stage["up"]):  # half a U is a line
        entry += stage["down"] + stage["mid"] + stage["up"]
    stacks = _stacks([b for b in blocks if b.stage in STACKED])
    return Blueprint(entry, stage["down"], stage["mid"], stage["up"], stacks, stage["out"])


STACKED = ("blocks", "double", "single", "refiner")  # stages whose blocks are alike


def _stacks(blocks: Sequence[Block]) -> tuple[Stack, ...]:
    runs: dict[tuple[str, str], list[Block]] = {}
    for block in blocks:
        runs.setdefault((_stem(block.name), block.stage), []).append(block)
    sides = [
        "text" if OF_TEXT.search(stem) else "image" if stage == "refiner" else ""
        for stem, stage in runs
    ]
    if all(side == "text" for side in sides):  # a text encoder
        sides = [""] * len(sides)
    return tuple(Stack(tuple(run), side) for run, side in zip(runs.values(), sides, strict=True))


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _blocks(catalog: Sequence[ModuleInfo]) -> dict[str, list[ModuleInfo]]:
    """The modules by the block that they are drawn in.

    All parts of a middle are one block, and so are those of a module before or after all blocks,
    except for a part that works on something else.
    """
    whole, parts = _grouped(catalog, _home), _grouped(catalog, _child)

    def block(module: ModuleInfo) -> str:
        home, child = _home(module), _child(module)
        lane = _lane(parts[child]) if module.stage == "in" and home else ""
        return child if lane and lane != _lane(whole[home]) else home

    return _grouped(catalog, block)


def _grouped(
    catalog: Sequence[ModuleInfo], name: Callable[[ModuleInfo], str]
) -> dict[str, list[ModuleInfo]]:
    groups: dict[str, list[ModuleInfo]] = {}
    for module in catalog:
        groups.setdefault(name(module), []).append(module)
    return groups


def _home(module: ModuleInfo) -> str:
    middle = re.match(r"(?:\w+\.)?mid_block(?=\.|$)", module.path)
    if middle:
        return middle[0]
    ends = module.stage in ("in", "out") and re.search(r"\.\d", module.block)
    return module.path.partition(".")[0] if ends else module.block


def _child(module: ModuleInfo) -> str:
    return ".".join(module.path.split(".")[:2])


def _lane(modules: Iterable[ModuleInfo]) -> str:
    """What modules before all blocks work on, by the first that shows it; empty when none does."""
    for module in modules:
        lane = LANES.get(module.role) or ("text" if OF_TEXT.search(module.path) else "")
        if lane:
            return lane
    return ""


def _block(name: str, modules: Sequence[ModuleInfo]) -> Block:
    stage = modules[0].stage
    rows: dict[str, list[tuple[str, ModuleInfo]]] = {}
    for module in modules:
        path = module.path[len(name) :].lstrip(".") if name else module.path
        row, column = ("", path) if stage in STACKED else _place(path)
        rows.setdefault(row, []).append((column, module))
    for parent in [p for p in rows if any(r.startswith(f"{p}.") for r in rows)]:
        # What comes before and after inner blocks joins the first and the last of them.
        inner = [r for r in rows if r.startswith(f"{parent}.")]
        opening = min(module.number for _, module in rows[inner[0]])
        outer = rows.pop(parent)
        rows[inner[0]][:0] = [item for item in outer if item[1].number < opening]
        rows[inner[-1]] += [item for item in outer if item[1].number > opening]
    sorts = stage in ("down", "mid", "up") and not any(r.startswith("resnets_in") for r in rows)
    ordered = sorted(rows, key=_order) if sorts else rows
    return Block(name, stage, tuple(Row(r, dict(rows[r])) for r in ordered))


def _place(path: str) -> tuple[str, str]:
    """Row and column of a module whose path within its block is given."""
    # A ResNet of Kandinsky 3 is a row with all its blocks.
    match = re.match(r"resnets_\w+\.\d+\.|(?:[a-z_]+s\.\d+\.)+", path)
    row = match[0] if match else ""
    return row.rstrip("."), path[len(row) :]


def _order(row: str) -> tuple[float, int]:
    """Forward order in a block of a U, which registration does not keep.

    Each ResNet comes before its attention, samplers last.
    """
    numbers = [int(n) for n in re.findall(r"\d+", row)]
    if "samplers" in row or not numbers:
        return float("inf"), 0
    return numbers[0] + 0.5 * (not row.startswith("resnets")), sum(numbers[1:])


@dataclass(frozen=True)
class Column:
    """A column of a family of rows."""

    name: str  # of its modules, relative to the row
    group: str  # the part of the row it belongs to (`attn1`) or, as a norm, precedes; or empty

    @property
    def leaf(self) -> str:
        """A short name, unique within the group: `to_q`, `conv1`, `ff.0`."""
        return leaf(self.name)


def columns(
    rows: Iterable[Row], wanted: Callable[[str], bool] = lambda name: True
) -> tuple[Column, ...]:
    """The columns of rows of one family: all names, or those wanted, in the order of the rows."""
    merged: list[str] = []
    for row in rows:
        at = 0
        for name in filter(wanted, row.modules):
            if name in merged:
                at = merged.index(name) + 1
            else:
                merged.insert(at, name)
                at += 1
    ordered: list[Column] = []
    for name in reversed(merged):
        following = ordered[-1].group if ordered else ""
        is_norm = not _part(name) and leaf(name).startswith("norm")
        ordered.append(Column(name, following if is_norm else _part(name)))
    return tuple(reversed(ordered))


INNER = re.compile(r"\.(net\.\d+(\.proj)?|\w*[a-z]\w*(\.\d+)?)$")  # a leaf within a part of a row


def leaf(name: str) -> str:
    """The short name of a module, unique within its part of the row."""
    name = re.sub(r"\.linear$", "", name)  # of an adaptive norm
    name = re.sub(r"\.net\.(\d+)(\.proj)?$", r".\1", name)
    name = re.sub(r"\.0$", "", name) if "to_out" in name else name
    match = re.search(r"(\w+\.)?\d+$|[^.]+$", name)
    return match[0] if match else "own"


def _part(name: str) -> str:
    """`attn1` of `attn1.to_q`, `timestep_embedder` of `emb.timestep_embedder.linear_1`."""
    name = re.sub(r"\.linear$", "", name)
    if match := re.match(r"resnet_blocks\.\d+", name):
        return match[0]
    outer = INNER.sub("", name)
    return outer.rpartition(".")[2] if outer != name else ""
