"""The rows of a catalog, and the catalog itself: plain data, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

if TYPE_CHECKING:
    from ablate.network.dataflow import Flow

ROOT = "(root)"  # the network itself, whose path is empty


@dataclass(frozen=True)
class ModuleInfo:
    """A row of the catalog: a module with parameters, or a block, a module around others.

    Attributes:
        number: Its place in forward order, from 0.
        path: Its dotted path in the network (`down_blocks.0.resnets.0.conv1`).
        kind: Its class (`Conv2d`).
        stage: Its part of the network: `in`, `down`, `mid`, `up` or `out`; in networks that are not
            U-shaped `blocks` instead of the middle three, or `double` and `single` for blocks with
            two streams and with one, and `refiner` for earlier blocks on one of two inputs. Of a
            block it is the stage of all modules inside, or `several`.
        block: The block around it (`down_blocks.0`).
        role: What it does (`cross_attention`). Of a block, the common role of the modules inside
            apart from norms, modulation, time and skip (`self_attention`, `resnet`), or `block`.
        parameters: The number of its parameters; of a block, of all modules inside.
        channels: The number of its output channels; 0 where unknown.
        heads: The number of heads of the attention layer that it is a projection of (for keys and
            values possibly fewer than for queries), else 0.
        passes: Whether its output has the shape of its input; None if it was never run.
        takes: The names of its arguments.
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
    takes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its path, as people read and write it: that of the network itself is not empty."""
        return self.path or ROOT


@dataclass(frozen=True, eq=False)
class Catalog(Sequence[ModuleInfo]):
    """All modules of a component that have parameters, in forward order, as a sequence.

    Attributes:
        modules: The modules.
        blocks: Modules around others that are called themselves, in the order of first calls.
        flow: The operations of a call; None if the network was never run.
    """

    modules: tuple[ModuleInfo, ...]
    blocks: tuple[ModuleInfo, ...] = ()
    flow: Flow | None = None

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
