"""What narrows an edit: to a window of the sampling, to units of its modules; and the references
that an edit of outputs takes its values from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

UNITS = ("channels", "heads")
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding)
# Attention layers' last projections, by the names that diffusers and transformers give them: their
# inputs are what the heads give.
OUT_PROJECTION = re.compile(r"(^|\.)(to_out(\.0)?|to_add_out|out_proj|o_proj|o|out|dense)$")


class ScopeError(ValueError):
    """A window, unit or reference that cannot be had; the message says which and why."""


@dataclass(frozen=True)
class Unit:
    """Some output channels or attention heads of each module, by number from 0."""

    kind: str
    numbers: tuple[int, ...]

    def as_json(self) -> dict[str, list[int]]:
        return {self.kind: list(self.numbers)}

    @classmethod
    def from_json(cls, told: Mapping[str, Sequence[int]]) -> Unit:
        ((kind, numbers),) = told.items()
        if kind not in UNITS:
            raise ValueError(f"there are no units `{kind}`")
        return cls(kind, tuple(numbers))

    def entries(self, size: int, heads: int) -> list[int]:
        """The entries that belong to it of a dimension of so many channels."""
        if self.kind == "channels":
            found = list(self.numbers)
        elif not heads:
            raise ScopeError("there are no heads to tell apart")
        else:
            each = size // heads
            found = [n * each + i for n in self.numbers for i in range(each)]
        if not found or max(found) >= size:
            raise ScopeError(f"there are no {self.kind} {list(self.numbers)} among {size} channels")
        return found


def is_out_projection(path: str) -> bool:
    """Whether a module is the projection that an attention layer ends with."""
    return OUT_PROJECTION.search(path) is not None


def weight_entries(
    owner: nn.Module, path: str, weights: Tensor, unit: Unit, heads: int
) -> tuple[int, list[int]] | None:
    """Which entries of a module's parameter belong to some of its units: a dimension and numbers.

    The heads of a query, key or value projection are among its outputs, those of an attention
    layer's last projection among its inputs: there the bias belongs to none of them, and this is
    None.
    """
    if unit.kind == "heads" and is_out_projection(path):
        return (1, unit.entries(weights.shape[1], heads)) if weights.dim() > 1 else None
    turned = isinstance(owner, TRANSPOSED) and weights.dim() > 1
    dim = 1 if turned else 0
    return dim, unit.entries(weights.shape[dim], heads)


def channel_dim(module: nn.Module, tensor: Tensor) -> int:
    """Which dimension of a module's output holds its channels."""
    if isinstance(module, nn.GroupNorm | nn.modules.conv._ConvNd):
        return 1
    # Of what has a number a channel it is the last, as in linear layers; blocks give images.
    weight = getattr(module, "weight", None)
    last = isinstance(module, nn.Linear) or (isinstance(weight, Tensor) and weight.dim() == 1)
    return tensor.dim() - 1 if last or tensor.dim() < 4 else 1
