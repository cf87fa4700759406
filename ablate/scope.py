"""What narrows an edit: to a window of the sampling, to units of its modules; and the references
that an edit of outputs takes its values from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

By = Literal["steps", "fraction", "t"]
BY: tuple[By, ...] = ("steps", "fraction", "t")
UNITS = ("channels", "heads")
Phase = Literal["encoding", "denoising", "decoding"]
DENOISERS = ("unet", "transformer")
AUTOENCODERS = ("vae", "movq", "vqgan")
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Embedding)
# Attention layers' last projections, by the names that diffusers and transformers give them: their
# inputs are what the heads give.
OUT_PROJECTION = re.compile(r"(^|\.)(to_out(\.0)?|to_add_out|out_proj|o_proj|o|out|dense)$")


class ScopeError(ValueError):
    """A window, unit or reference that cannot be had; the message says which and why."""


def phase_of(component: str) -> Phase:
    """When a component of a pipeline is at work: what is neither denoiser nor autoencoder reads the
    prompt, before the first step."""
    if component in DENOISERS:
        return "denoising"
    return "decoding" if component in AUTOENCODERS else "encoding"


def number_of(call: int, levels: Sequence[float]) -> int:
    """The number of the step that a call of the scheduler belongs to: some schedulers take several
    at one noise level."""
    return sum(levels[i] != levels[i - 1] for i in range(1, call + 1))


# Networks, by `id`, that are edited in place at the moment: what was computed of them before and
# will be afterwards does not hold meanwhile.
EDITED: Counter[int] = Counter()


@dataclass(frozen=True)
class When:
    """A window of the sampling, from `first` to `last`.

    `by`: `steps`, by number, counted from 0, both ends in it (calls of the network at one noise
    level are one step); `fraction`, by the part of the sampling that is done before a step, 0 to 1;
    `t`, by noise level, the timestep over the number of timesteps in training: 1 is noise alone, 0
    none. Windows of the last two that meet share no step.
    """

    by: By
    first: float
    last: float

    def holds(self, step: int, levels: Sequence[float]) -> bool:
        """Whether it is open at a step of a sampling with these noise levels."""
        if self.by == "steps":
            return self.first <= number_of(step, levels) <= self.last
        if self.by == "fraction":
            done = step / len(levels)
            return self.first <= done < self.last or (self.last >= 1 and done >= self.first)
        low, high = sorted((self.first, self.last))
        return low < levels[step] <= high or levels[step] == low == 0

    def opens(self, levels: Sequence[float]) -> bool:
        """Whether it is open at any step."""
        return any(self.holds(step, levels) for step in range(len(levels)))

    def as_json(self) -> dict[str, list[float]]:
        ends = [self.first, self.last]
        return {self.by: [int(e) for e in ends] if self.by == "steps" else ends}

    @classmethod
    def from_json(cls, told: Mapping[str, Sequence[float]]) -> When:
        ((by, (first, last)),) = told.items()
        if by not in BY or not all(type(end) in (int, float) for end in (first, last)):
            raise ValueError(f"there are no windows by `{by}` from {first!r} to {last!r}")
        return cls(next(b for b in BY if b == by), first, last)

    def __str__(self) -> str:
        if self.by == "fraction":
            return f"{100 * self.first:.3g}–{100 * self.last:.3g} %"
        return f"{self.by} {self.first:g}–{self.last:g}"


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


@dataclass(frozen=True)
class Reference:
    """A condition of the baseline whose outputs stand for a module's own, in `mean`, `resample`."""

    prompt: str
    seed: int


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


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in what a module takes or gives, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def rebuilt(value: Any, found: Iterator[Tensor]) -> Any:
    """The same structure with other tensors, in their order."""
    if isinstance(value, Tensor):
        return next(found)
    if isinstance(value, Mapping):
        made = {name: rebuilt(item, found) for name, item in value.items()}
        return made if type(value) is dict else type(value)(**made)
    if isinstance(value, tuple | list):
        return type(value)(rebuilt(item, found) for item in value)
    return value
