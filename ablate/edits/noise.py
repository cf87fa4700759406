"""Noise: the draws that ops take, each from its own seed."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

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
    """Noise that `op` takes, float32 (`order`: float64), of the shape and device of `untouched`.

    `values` are of kind `normal`, Normal(μ(W), σ(W)²), or `uniform`, over [min W, max W]; `scores`
    of kind `magnitude`, |W|, or `random`, drawn from [0, 1). Statistics are those of the weights as
    loaded, in float32; a single number has σ = 0.

    `owner`: the module that holds the parameter, for `init`. Raises `ValueError` for what is given,
    not drawn, and for a kind that the op does not have.
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
    generator = _generator(seed, op.stream, module, parameter, shape)
    weights = untouched.detach().float()
    match op.draws, kind:
        case "order", _:
            order = torch.randperm(untouched.numel(), generator=generator)
            return order.view(shape).double().to(device)  # which holds every number exactly
        case "init", _:
            if owner is None:
                raise ValueError(f"`{op.name}` needs the module that holds `{module}.{parameter}`")
            return initialized(owner, parameter, generator).to(device)
        case ("uniform", _) | ("scores", "random"):
            return torch.rand(shape, generator=generator).to(device)
        case "scores", _:
            return weights.abs()
        case "values", "uniform":
            share = torch.rand(shape, generator=generator).to(device)
            low, high = weights.min(), weights.max()
            return low + (high - low) * share
    normal = torch.randn(shape, generator=generator).to(device)
    mean, deviation = _moments(weights)
    return deviation * normal if op.draws == "spread" else mean + deviation * normal


def _moments(weights: Tensor) -> tuple[float, float]:
    """Mean and standard deviation; summed in float64, or the order of summing would show."""
    wide = _wide(weights)
    return float(wide.mean().float()), float(wide.std(correction=0).float())


def _wide(tensor: Tensor) -> Tensor:
    """In float64; on the CPU where the device has none."""
    return tensor.double() if tensor.device.type != "mps" else tensor.cpu().double()


def _generator(
    seed: int, stream: str, module: str, parameter: str, shape: tuple[int, ...]
) -> torch.Generator:
    text = json.dumps([seed, stream, module, parameter, list(shape)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@torch.no_grad()
def initialized(owner: nn.Module, parameter: str, generator: torch.Generator) -> Tensor:
    """What a parameter's training starts from, drawn from the generator's seed; float32, CPU.

    What `owner.reset_parameters()` gives, so for torch's own modules the defaults of `torch.nn`:
    `Linear` and `Conv` U(−1/√fan_in, 1/√fan_in) (uniform after He et al. 2015, arXiv:1502.01852,
    with a = √5), `Embedding` Normal(0, 1), norms 1 and 0. For modules without it, such as the
    RMSNorm of diffusers and transformers, and for parameters that it leaves alone: 1 for vectors
    named `weight` or `scale`, 0 for `bias`, U(−1/√fan_in, 1/√fan_in) for others, where fan_in
    counts the entries to one of the first dimension, or all of a vector.

    `owner` is left as it is. Raises `ValueError` when it has no such parameter.
    """
    twin = _twin(owner)
    made = twin._parameters.get(parameter)
    if made is None:
        raise ValueError(f"this {type(owner).__name__} has no parameter `{parameter}`")
    if parameter in ("weight", "scale") and made.ndim == 1:
        made.fill_(1.0)
    elif parameter == "bias":
        made.zero_()
    else:
        fan_in = math.prod(made.shape[1:]) if made.ndim > 1 else made.numel()
        made.uniform_(-(fan_in**-0.5), fan_in**-0.5, generator=generator)
    reset = getattr(type(twin), "reset_parameters", None)
    if callable(reset):
        # It draws from torch's own generator, and on the CPU alone.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(generator.initial_seed())
            reset(twin)
    return twin._parameters[parameter].detach()  # type: ignore[union-attr]


def _twin(module: nn.Module) -> nn.Module:
    """A copy whose parameters are empty; nothing that is written into it reaches the module."""
    twin = copy.copy(module)
    for held, renewed in (
        ("_parameters", lambda p: nn.Parameter(torch.empty(p.shape, dtype=torch.float32))),
        ("_buffers", Tensor.clone),
        ("_modules", _twin),
    ):
        found = vars(module)[held].items()
        vars(twin)[held] = {name: None if v is None else renewed(v) for name, v in found}
    return twin


class NoiseCache:
    """`ops.draw`, but one draw serves all strengths: kept while the same weights are edited.

    `limit`: bytes to keep. What comes first is kept, for a sweep asks for all of it again, in the
    same order, at every strength; the draws of another perturbation seed start anew. `checkpoint`:
    gives a parameter of the model that an edit blends with: of which model, component, module.
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
            raise ValueError(f"where the weights of `{model}` lie is not known here")
        return self._checkpoint(model, component, module, parameter)

    def __call__(
        self, op: Op, untouched: Tensor, *, seed: int, owner: nn.Module, **where: Any
    ) -> Tensor:
        if op.draws is None or not self.limit:
            return draw(op, untouched, seed=seed, owner=owner, **where)
        if seed != self._seed:
            self._kept.clear()
            self._seed, self._bytes = seed, 0
        # Modules of one path in two components differ as objects; what is offloaded moves.
        key = (op.stream, op.draws, id(owner), untouched.device, *where.values())
        if key not in self._kept:
            noise = draw(op, untouched, seed=seed, owner=owner, **where)
            if self._bytes + noise.nbytes > self.limit:
                return noise
            self._kept[key] = noise
            self._bytes += noise.nbytes
        return self._kept[key]
