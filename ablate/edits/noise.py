"""The noise that ops take, each draw with a seed of its edit and parameter."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ablate.edits.batch import moved
from ablate.edits.registry import GIVEN, Op


def draw(
    op: Op,
    untouched: Tensor,
    *,
    seed: int,
    module: str,
    parameter: str,
    kind: str | None = None,
    owner: nn.Module | None = None,
) -> Tensor:
    """The noise that an op takes, float32 (`order`: float64), of `untouched`'s shape and device.

    Args:
        op: The op; its `draws` says what it takes.
        untouched: The weights as loaded, W. Statistics are theirs, in float32; those of a single
            number have σ = 0.
        seed: The perturbation seed.
        module: The path of the module.
        parameter: The name of the parameter.
        kind: For `values`, `normal`, Normal(μ(W), σ(W)²), or `uniform`, over [min W, max W]; for
            `scores`, `magnitude`, |W|, or `random`, drawn from [0, 1). None is the first.
        owner: The module itself, for `init`.

    Raises:
        ValueError: The op takes a tensor that is given, not drawn, or has no such kind.
    """
    if op.draws is None:
        return torch.empty(0)
    if op.draws in GIVEN:
        raise ValueError(f"`{op.name}` takes a tensor (`{op.draws}`) that is given, not drawn")
    if kind is not None and kind not in op.kinds:
        known = f"there are {', '.join(op.kinds)}" if op.kinds else "it has none to choose among"
        raise ValueError(f"`{op.name}` has no noise of kind `{kind}`; {known}")
    kind = kind or next(iter(op.kinds), None)
    shape, device = tuple(untouched.shape), untouched.device
    # On the CPU, so that every device gets the same numbers.
    generator = seeded_generator(seed, op.stream, module, parameter, shape)
    weights = untouched.detach().float()
    match op.draws, kind:
        case "order", _:
            order = torch.randperm(untouched.numel(), generator=generator)
            return moved(
                order.view(shape).double(), device
            )  # float64 represents each number exactly
        case "init", _:
            if owner is None:
                raise ValueError(f"`{op.name}` needs the module of `{module}.{parameter}`")
            return moved(initialized(owner, parameter, generator), device)
        case ("uniform", _) | ("scores", "random"):
            return moved(torch.rand(shape, generator=generator), device)
        case "scores", _:
            return weights.abs()
        case "values", "uniform":
            share = moved(torch.rand(shape, generator=generator), device)
            low, high = weights.min(), weights.max()
            return low + (high - low) * share
    normal = moved(torch.randn(shape, generator=generator), device)
    mean, deviation = _moments(weights)
    return deviation * normal if op.draws == "spread" else mean + deviation * normal


def _moments(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, float32 and where the weights are, so that nothing waits for
    them. In float64 on the way: else they depend on the order of summation."""
    wide = in_float64(weights)
    mean, deviation = wide.mean().float(), wide.std(correction=0).float()
    return mean.to(weights.device), deviation.to(weights.device)


def in_float64(tensor: Tensor) -> Tensor:
    """A tensor in float64; on the CPU where the device has none."""
    return tensor.double() if tensor.device.type != "mps" else tensor.cpu().double()


def seeded_generator(
    seed: int, stream: str, module: str, parameter: str | int, shape: tuple[int, ...]
) -> torch.Generator:
    """A generator on the CPU whose seed is a digest of the arguments."""
    text = json.dumps([seed, stream, module, parameter, list(shape)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@torch.no_grad()
def initialized(owner: nn.Module, parameter: str, generator: torch.Generator) -> Tensor:
    """The initialization of a parameter before training, from the generator's seed; float32, CPU.

    The result of `owner.reset_parameters()`, so for modules of torch the defaults of `torch.nn`:
    `Linear` and `Conv` U(−1/√fan_in, 1/√fan_in) (uniform after He et al. 2015, arXiv:1502.01852,
    with a = √5), `Embedding` Normal(0, 1), norms 1 and 0. For modules without it, such as the
    RMSNorm of diffusers and transformers, and for parameters that it leaves alone: 1 for vectors
    named `weight` or `scale`, 0 for `bias`, U(−1/√fan_in, 1/√fan_in) for others, where fan_in
    counts the entries to one of the first dimension, or all of a vector.

    `owner` is left as it is. Raises `ValueError` when it has no such parameter.
    """
    twin = _empty_copy(owner)
    initial = twin._parameters.get(parameter)
    if initial is None:
        raise ValueError(f"this {type(owner).__name__} has no parameter `{parameter}`")
    if parameter in ("weight", "scale") and initial.ndim == 1:
        initial.fill_(1.0)
    elif parameter == "bias":
        initial.zero_()
    else:
        fan_in = math.prod(initial.shape[1:]) if initial.ndim > 1 else initial.numel()
        initial.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
    reset = getattr(type(twin), "reset_parameters", None)
    if callable(reset):
        # It draws from torch's global generator, and on the CPU alone.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(generator.initial_seed())
            reset(twin)
    return twin._parameters[parameter].detach()  # type: ignore[union-attr]


def _empty_copy(module: nn.Module) -> nn.Module:
    """A copy with uninitialized parameters; writing into it does not change the module."""
    twin = copy.copy(module)
    for attribute, renew in (
        ("_parameters", lambda p: nn.Parameter(torch.empty(p.shape, dtype=torch.float32))),
        ("_buffers", Tensor.clone),
        ("_modules", _empty_copy),
    ):
        items = vars(module)[attribute].items()
        vars(twin)[attribute] = {name: None if v is None else renew(v) for name, v in items}
    return twin


class NoiseCache:
    """`draw` with a cache, so that edits that differ in strength alone share one draw.

    A sweep over strengths asks for the same noise in the same order at each of them; so the first
    draws are kept. A new perturbation seed empties the cache.

    Args:
        limit: Bytes to keep.
        checkpoint: Returns a parameter of another model, for edits that blend with it, by the name
            of the model, component (None is the edited one), module path and parameter name.
    """

    def __init__(
        self,
        limit: int = 0,
        checkpoint: Callable[[str, str | None, str, str], Tensor] | None = None,
    ) -> None:
        self.limit = limit
        self._checkpoint = checkpoint
        self._kept: dict[tuple[object, ...], Tensor] = {}
        self._bytes = 0
        self._seed: int | None = None

    def checkpoint(
        self, model: str | None, component: str | None, module: str, parameter: str
    ) -> Tensor:
        """A parameter of another model."""
        if self._checkpoint is None or model is None:
            raise ValueError(f"the weights of `{model}` are not available here")
        return self._checkpoint(model, component, module, parameter)

    def __call__(
        self, op: Op, untouched: Tensor, *, seed: int, owner: nn.Module, **where: Any
    ) -> Tensor:
        if op.draws is None or not self.limit:
            return draw(op, untouched, seed=seed, owner=owner, **where)
        if seed != self._seed:
            self._kept.clear()
            self._seed, self._bytes = seed, 0
        # Two components may have modules of one path; offloaded modules move between devices.
        key = (op.stream, op.draws, id(owner), untouched.device, *where.values())
        if key not in self._kept:
            noise = draw(op, untouched, seed=seed, owner=owner, **where)
            if self._bytes + noise.nbytes > self.limit:
                return noise
            self._kept[key] = noise
            self._bytes += noise.nbytes
        return self._kept[key]
