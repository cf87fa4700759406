"""Units of a module: the channels or attention heads that an edit is limited to."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from ablate.messages import RequestError

UNITS = ("channels", "heads")
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding)
# The last projections of attention layers, by the names that diffusers and transformers give them:
# their inputs are the outputs of the heads.
OUT_PROJECTION = re.compile(r"(^|\.)(to_out(\.0)?|to_add_out|out_proj|o_proj|o|out|dense)$")


class ScopeError(RequestError, ValueError):
    """A window, unit or reference that is impossible here; the message says which and why."""


@dataclass(frozen=True)
class Unit:
    """Some output channels or attention heads of each module.

    Attributes:
        kind: `channels` or `heads`.
        numbers: Which of them, from 0.
    """

    kind: str
    numbers: tuple[int, ...]

    def as_json(self) -> dict[str, list[int]]:
        return {self.kind: list(self.numbers)}

    @classmethod
    def from_json(cls, data: Mapping[str, Sequence[int]]) -> Unit:
        ((kind, numbers),) = data.items()
        if kind not in UNITS:
            raise ValueError(f"there are no units `{kind}`")
        return cls(kind, tuple(numbers))

    def entries(self, size: int, heads: int) -> list[int]:
        """Its entries in a dimension of `size` channels, which `heads` heads share equally.

        Raises:
            ScopeError: There are no heads, or fewer channels than its numbers ask for.
        """
        if self.kind == "channels":
            entries = list(self.numbers)
        elif not heads:
            raise ScopeError("there are no heads here")
        else:
            each = size // heads
            entries = [n * each + i for n in self.numbers for i in range(each)]
        if not entries or max(entries) >= size:
            raise ScopeError(f"there are no {self.kind} {list(self.numbers)} among {size} channels")
        return entries


def drawn_order(seed: int, path: str, units: int) -> list[float]:
    """A number for each unit of a module, by which they are drawn, the smallest first.

    It depends on the seed and the path alone: more units drawn contain fewer.
    """
    draw = random.Random(f"{seed}/{path}").random
    return [draw() for _ in range(units)]


def layer_of(path: str) -> str:
    """The path of the attention layer that a projection belongs to."""
    return OUT_PROJECTION.sub("", path) if is_out_projection(path) else path.rpartition(".")[0]


def is_out_projection(path: str) -> bool:
    """Whether a module is the last projection of an attention layer."""
    return OUT_PROJECTION.search(path) is not None


def weight_entries(
    owner: nn.Module, path: str, weights: Tensor, unit: Unit, heads: int
) -> tuple[int, list[int]] | None:
    """The entries of a module's parameter that belong to a unit: a dimension and numbers along it.

    The heads of a query, key or value projection are among its outputs, those of an attention
    layer's last projection among its inputs. The bias of the latter belongs to no head: None.
    """
    if unit.kind == "heads" and is_out_projection(path):
        return (1, unit.entries(weights.shape[1], heads)) if weights.dim() > 1 else None
    turned = isinstance(owner, TRANSPOSED) and weights.dim() > 1
    dim = 1 if turned else 0
    return dim, unit.entries(weights.shape[dim], heads)


def channel_dim(module: nn.Module, tensor: Tensor) -> int:
    """The dimension of a module's output that counts its channels."""
    if isinstance(module, nn.GroupNorm | nn.modules.conv._ConvNd):
        return 1
    # Modules with one weight a channel work on the last dimension, as linear layers do; blocks
    # return images.
    weight = getattr(module, "weight", None)
    last = isinstance(module, nn.Linear) or (isinstance(weight, Tensor) and weight.dim() == 1)
    return tensor.dim() - 1 if last or tensor.dim() < 4 else 1
