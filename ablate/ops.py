"""Ops: one operation on one tensor each, as a pure function and a decorator.

An op takes the tensor as it is now, noise matched to the tensor as it was loaded, and a strength:

    @op(strength="amount", neutral=0.0, draws="values")
    def mix_noise(tensor, noise, strength): ...

Noise is drawn by `draw` from a generator whose seed depends on the perturbation seed, the op's
stream, the module path, the parameter name and the shape, and on nothing else: neither on device,
dtype, order, batch and process nor on the other edits. Two strengths of one op share one draw.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Draws = Literal["values", "spread", "order"]
DISTRIBUTIONS = ("normal", "uniform")
PART = 2**17  # entries of a large tensor that are edited at a time
Apply = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Op:
    """An op as the registry knows it.

    `strength`: name of its strength in recipes, None when it has none. `neutral`: the strength at
    which nothing changes. `draws`: the kind of noise it takes (see `draw`), None for none.
    `stream`: ops of one stream share their draws.
    """

    name: str
    apply: Apply
    strength: str | None
    neutral: float | None
    draws: Draws | None
    stream: str

    @property
    def has_distribution(self) -> bool:
        return self.draws == "values"

    @property
    def is_elementwise(self) -> bool:
        """Whether each entry of the result depends on the same entry of weights and noise alone."""
        return self.draws != "order"

    @property
    def about(self) -> str:
        return (self.apply.__doc__ or "").strip().splitlines()[0]


OPS: dict[str, Op] = {}


def op(
    *,
    strength: str | None = None,
    neutral: float | None = None,
    draws: Draws | None = None,
    stream: str | None = None,
) -> Callable[[Apply], Apply]:
    """Register a function `(tensor, noise, strength) -> tensor` as an op under its own name.

    All three tensors have one shape, and are float32. A function that takes noise of the kind
    `order` gets whole parameters; the others may get parts of them, flattened.
    """

    def register(function: Apply) -> Apply:
        name = function.__name__
        OPS[name] = Op(name, function, strength, neutral, draws, stream or name)
        return function

    return register


@op()
def zero(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """0: the module is ablated."""
    return torch.zeros_like(tensor)


@op(strength="factor", neutral=1.0)
def scale(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """s·W."""
    return strength * tensor


@op(draws="values")
def randomize(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """N ~ Normal(μ(W), σ(W)²), or uniform over [min W, max W]."""
    return noise.clone()


# One stream with `randomize`: at amount 1 both are the same network.
@op(strength="amount", neutral=0.0, draws="values", stream="randomize")
def mix_noise(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """(1−a)·W + a·N, N as in `randomize`."""
    return torch.add(strength * noise, tensor, alpha=1 - strength)


@op(strength="amount", neutral=0.0, draws="spread")
def add_noise(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """W + a·σ(W)·Normal(0, 1)."""
    return tensor + strength * noise


@op(draws="order")
def shuffle(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The entries of W, permuted."""
    return tensor.flatten()[noise.flatten().long()].view_as(tensor)


def draw(
    op: Op,
    untouched: Tensor,
    *,
    seed: int,
    module: str,
    parameter: str,
    distribution: str | None = None,
) -> Tensor:
    """Noise of the kind that `op` takes, float32, on the device and of the shape of `untouched`.

    `values`: like W itself, Normal(μ(W), σ(W)²) or uniform over [min W, max W]. `spread`:
    σ(W)·Normal(0, 1). `order`: a permutation of the entries' numbers. Statistics are those of the
    weights as loaded, in float32; a single number has σ = 0.
    """
    if op.draws is None:
        return torch.empty(0)
    shape = tuple(untouched.shape)
    generator = _generator(seed, op.stream, module, parameter, shape)
    if op.draws == "order":
        # float64 holds every entry's number exactly.
        order = torch.randperm(untouched.numel(), generator=generator)
        return order.view(shape).double().to(untouched.device)
    # On the CPU, so that every device gets the same numbers.
    weights = untouched.detach().float()
    if op.draws == "values" and distribution == "uniform":
        share = torch.rand(shape, generator=generator).to(untouched.device)
        low, high = weights.min(), weights.max()
        return low + (high - low) * share
    normal = torch.randn(shape, generator=generator).to(untouched.device)
    mean, deviation = _moments(weights)
    return deviation * normal if op.draws == "spread" else mean + deviation * normal


def _moments(weights: Tensor) -> tuple[float, float]:
    """Mean and standard deviation; summed in float64, or the order of summing would show."""
    wide = weights.double() if weights.device.type != "mps" else weights.cpu().double()
    return float(wide.mean().float()), float(wide.std(correction=0).float())


def _generator(
    seed: int, stream: str, module: str, parameter: str, shape: tuple[int, ...]
) -> torch.Generator:
    text = json.dumps([seed, stream, module, parameter, list(shape)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def apply(op: Op, tensor: Tensor, noise: Tensor, strength: float | None) -> Tensor:
    """The edited tensor, of `tensor`'s dtype and device; no argument is changed.

    `tensor`: the weights as they are now; `noise`: a draw of the op's for them as loaded.
    """
    amount = 0.0 if strength is None else strength
    if tensor.device.type != "cpu" or not op.is_elementwise or not tensor.is_contiguous():
        return op.apply(tensor.float(), noise, amount).to(tensor.dtype)
    # In parts that stay in the processor's cache between one step of a formula and the next.
    made = torch.empty_like(tensor)
    drawn = torch.split(noise.flatten(), PART) if op.draws else itertools.repeat(noise)
    parts = zip(
        torch.split(made.view(-1), PART), torch.split(tensor.view(-1), PART), drawn, strict=False
    )
    for out, part, of_noise in parts:
        out.copy_(op.apply(part.float(), of_noise, amount))
    return made
