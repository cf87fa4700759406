"""What is known of a module from its network's configuration: a row of the catalog, and where its
stage, role and heads are read off. Names are those of diffusers and transformers; where a name says
too little, the modules around it are looked at. Nothing here needs torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import overload


@dataclass(frozen=True)
class ModuleInfo:
    """A row of the catalog.

    `kind`: its class (`Conv2d`). `stage`: where in the network (`in`, `down`, `mid`, `up`, `out`;
    in networks that are no U `blocks`, or `double` and `single` for blocks of two streams and of
    one, and `refiner` for those that work on one of two inputs before). `block`: the block that it
    stands in (`down_blocks.0`). `role`: what it does (`cross_attention`). `parameters`: how many
    numbers. `channels`: how many it gives out; 0 where unknown. `heads`: of a projection of an
    attention layer, how many that layer has, which for keys and values may be fewer; else 0.

    A row may also be a block, a module that holds others. Its `parameters` are all those inside;
    its `stage` is theirs, or `several`; its `role` is theirs when they have one beside norms,
    modulation, time and skip (`self_attention` of an attention layer, `resnet`), else `block`.
    `passes`: whether what it gives has the shape of what it is given; None where it was never run.
    """

    number: int
    path: str
    kind: str
    stage: str
    block: str
    role: str
    parameters: int
    channels: int = 0
    heads: int = 0
    passes: bool | None = None


@dataclass(frozen=True, eq=False)
class Catalog(Sequence[ModuleInfo]):
    """All modules of a component in forward order, as a sequence; and beside them its `blocks`:
    modules that hold others and are called themselves, in the order of their first call."""

    modules: tuple[ModuleInfo, ...]
    blocks: tuple[ModuleInfo, ...] = ()

    def __len__(self) -> int:
        return len(self.modules)

    def __iter__(self) -> Iterator[ModuleInfo]:
        return iter(self.modules)

    @overload
    def __getitem__(self, index: int) -> ModuleInfo: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[ModuleInfo, ...]: ...
    def __getitem__(self, index: int | slice) -> ModuleInfo | tuple[ModuleInfo, ...]:
        return self.modules[index]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Catalog):
            return (self.modules, self.blocks) == (other.modules, other.blocks)
        return self.modules == other

    def __hash__(self) -> int:
        return hash(self.modules)
