"""Ops: one operation on one tensor each, as a pure function and a decorator.

An op takes the tensor as it is now, noise matched to the tensor as it was loaded, and a strength:

    @op(strength="amount", neutral=0.0, draws="values", linear=True)
    def mix_noise(tensor, noise, strength): ...

What is called noise is whatever second tensor an op needs (`Draws`). `draw` makes it from a
generator whose seed depends on the perturbation seed, the op's stream, the module path, the
parameter name and the shape, and on nothing else: neither on device, dtype, order, batch and
process nor on the other edits. Two strengths of one op share one draw.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

Draws = Literal[
    "values",  # numbers distributed like W itself
    "spread",  # σ(W)·Normal(0, 1)
    "order",  # a permutation of the entries' numbers
    "uniform",  # numbers in [0, 1)
    "scores",  # how much each entry counts: |W|, or drawn from [0, 1)
    "init",  # what a network's training starts from (`initialized`)
    "partner",  # that parameter of another module
    "checkpoint",  # that parameter in another checkpoint
    "input",  # what the module was given
    "mean",  # the mean of the module's outputs over references
    "resample",  # the module's output for another reference
    "letters",  # a label with a text on it, as it lies on the picture; NaN beside it
]
# Kinds of noise to choose among, and what the choice is called in recipes.
KINDS = {
    "values": ("distribution", ("normal", "uniform")),
    "scores": ("by", ("magnitude", "random")),
}
# What else an edit says, in recipes and in images.
RESERVED = ("op", "code", "modules", "component", "where", "params", "when", "unit", "units",
            "dose", "with", "partners", "checkpoint", "over", "text",
            "distribution", "by")  # fmt: skip
# Noise that is given: another module's, checkpoint's or reference's, what the module ran on, words.
GIVEN = ("partner", "checkpoint", "input", "mean", "resample", "letters")
BOTH = ("weights", "output")
PART = 2**17  # entries of a large tensor that are edited at a time
Apply = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Op:
    """An op as the registry knows it.

    `strength`: name of its strength in recipes, None when it has none. `neutral`: the strength at
    which nothing changes. `draws`: the kind of noise it takes, None for none. `stream`: ops of one
    stream share their draws. `whole`: whether it needs whole tensors, in their shape. `linear`:
    whether its change is the strength times its change at strength 1. `kinds`: the noise to choose
    among, the first by default; `kind_key`: what the choice is called in recipes. `places`: what it
    may be applied to. `code`: digest of the file that a user's op comes from, None for the lab's
    own. `least`, `most` and `above` (which is not reached) bound the strength; from `counts_from`
    on it is a whole number.
    """

    name: str
    apply: Apply
    strength: str | None = None
    neutral: float | None = None
    draws: Draws | None = None
    stream: str = ""
    whole: bool = False
    linear: bool = False
    kinds: tuple[str, ...] = ()
    kind_key: str = ""
    places: tuple[str, ...] = ("weights",)
    code: str | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    counts_from: float | None = None

    @property
    def is_random(self) -> bool:
        """Whether its noise depends on a seed, with at least one of its kinds."""
        return any(self.is_random_by(kind) for kind in self.kinds or (None,))

    def is_random_by(self, kind: str | None) -> bool:
        """Whether noise of that kind, None for the default, depends on a seed."""
        if self.draws == "scores":
            return (kind or next(iter(self.kinds), "")) == "random"
        return self.draws == "resample" or self.draws not in (None, *GIVEN)  # which one is drawn

    @property
    def about(self) -> str:
        """The first line of its docstring: its formula."""
        return next(iter((self.apply.__doc__ or "").strip().splitlines()), "")


OPS: dict[str, Op] = {}


def op(
    *, strength: str | None = None, neutral: float | None = None, draws: Draws | None = None,
    stream: str | None = None, whole: bool = False, linear: bool = False,
    kinds: tuple[str, ...] | None = None, places: tuple[str, ...] = ("weights",),
    least: float | None = None, most: float | None = None, above: float | None = None,
    counts_from: float | None = None,
) -> Callable[[Apply], Apply]:  # fmt: skip
    """Register a function `(tensor, noise, strength) -> tensor` as an op under its own name.

    All three tensors have one shape, and are float32; without noise, `noise` is empty. What is not
    `whole` may get parts of them, flattened. The arguments are the fields of `Op`; kinds of noise
    are by default all that it can draw. Raises `ValueError` for a name that is taken.
    """
    kind_key, all_kinds = KINDS.get(draws or "", ("", ()))
    known = all_kinds if kinds is None else kinds
    if "output" in places and draws not in (None, "values", "input", "mean", "resample"):
        raise ValueError(f"an op of outputs cannot draw `{draws}`")
    if (draws == "letters" or "image" in places) and (draws, places) != ("letters", ("image",)):
        raise ValueError("an op of images draws `letters`, and no other op does")
    if strength in RESERVED:
        raise ValueError(f"a strength cannot be named `{strength}`, which is taken")

    def register(function: Apply) -> Apply:
        name = function.__name__
        if name in OPS:
            raise ValueError(f"there is an op `{name}` already; give this one another name")
        OPS[name] = Op(
            name, function, strength, neutral, draws, stream or name,
            whole or draws == "order", linear, known, kind_key, places, None,
            least, most, above, counts_from,
        )  # fmt: skip
        return function

    return register


@op(places=BOTH)
def zero(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """0: the module is ablated."""
    return torch.zeros_like(tensor)


@op(strength="factor", neutral=1.0, places=BOTH)
def scale(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """s·W."""
    return strength * tensor


@op(draws="values")
def randomize(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """N ~ Normal(μ(W), σ(W)²), or uniform over [min W, max W]."""
    return noise.clone()


# One stream with `randomize`: at amount 1 both are the same network.
@op(strength="amount", neutral=0.0, draws="values", stream="randomize", linear=True, places=BOTH)
def mix_noise(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """(1−a)·W + a·N, N as in `randomize`."""
    return torch.add(strength * noise, tensor, alpha=1 - strength)


@op(strength="amount", neutral=0.0, draws="spread", linear=True)
def add_noise(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """W + a·σ(W)·Normal(0, 1)."""
    return tensor + strength * noise


@op(draws="order")
def shuffle(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The entries of W, permuted."""
    return tensor.flatten()[noise.flatten().long()].view_as(tensor)


@op(strength="amount", neutral=0.0, draws="scores", whole=True, least=0.0, most=1.0)
def prune(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """W, but 0 for the share a of its entries that is smallest in magnitude, or drawn.

    Exactly round(a·n) of n entries; of equal ones the first. Han et al. 2015 (arXiv:1506.02626),
    after LeCun et al. 1989, "Optimal Brain Damage".
    """
    scores, count = noise.flatten(), round(strength * tensor.numel())
    if count == 0:
        return tensor.clone()
    # Faster than sorting: only the entries at the border stand in an order.
    border = scores.kthvalue(count).values
    chosen = scores < border
    equal = (scores == border).nonzero().flatten()
    chosen[equal[: count - int(chosen.sum())]] = True
    return tensor.masked_fill(chosen.view_as(tensor), 0.0)


@op(strength="bits", whole=True, least=1.0, most=16.0, counts_from=1.0)
def quantize(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """W rounded to b bits: step·round(W / step), step = max|W| / (2^(b−1) − 1).

    One step for the whole tensor, symmetric about 0, as absmax quantization in Dettmers et al. 2022
    (arXiv:2208.07339). One bit: the sign times mean|W|, Rastegari et al. 2016 (arXiv:1603.05279).
    """
    if strength < 2:
        mean = tensor.abs().mean()
        return torch.where(tensor >= 0, mean, -mean)
    step = tensor.abs().max() / (2 ** (int(strength) - 1) - 1)
    return torch.where(step > 0, torch.round(tensor / step) * step, tensor)


@op(strength="rank", whole=True, above=0.0, counts_from=1.0)
def low_rank(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The nearest matrix to W of rank r; below 1, r is a share of the full rank.

    The matrix's rows are W's first dimension, the output channels of `Linear` and `Conv`. Vectors,
    scalars and what is not finite stay as they are. Eckart & Young 1936, "The approximation of one
    matrix by another of lower rank".
    """
    matrix = tensor.flatten(1) if tensor.ndim > 1 else tensor.reshape(1, -1)
    short = matrix.T if len(matrix) > matrix.shape[1] else matrix
    rank = max(1, round(strength * len(short))) if strength < 1 else int(strength)
    if rank >= len(short) or not short.isfinite().all():
        return tensor.clone()
    # Singular vectors of the short side alone: of a large kernel five times faster than an SVD.
    wide = _wide(short)
    vectors = torch.linalg.eigh(wide @ wide.T).eigenvectors[:, -rank:]
    nearest: Tensor = (vectors @ (vectors.T @ wide)).to(tensor)
    return (nearest if short is matrix else nearest.T).reshape(tensor.shape)


@op(strength="amount", neutral=0.0, draws="uniform", least=0.0, most=1.0)
def flip_sign(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """−W for a share a of its entries, drawn; W for the others.

    How much a network's signs matter: Zhou et al. 2019 (arXiv:1905.01067).
    """
    return torch.where(noise < strength, -tensor, tensor)


@op(draws="init")
def reinitialize(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """What the module started its training from, drawn anew.

    Zhang, Bengio & Singer 2019, "Are all layers created equal?" (arXiv:1902.01996).
    """
    return noise.clone()


@op(strength="amount", neutral=0.0, draws="checkpoint", linear=True)
def blend(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """(1−a)·W + a·V, V the same parameter in another checkpoint.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv:2109.01903).
    """
    return torch.add(strength * noise, tensor, alpha=1 - strength)


@op(draws="partner")
def swap(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """V, the same parameter of a partner module.

    Veit, Wilber & Belongie 2016 reorder layers so (arXiv:1605.06431).
    """
    return noise.clone()


@op(draws="mean", places=("output",))
def mean(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The mean of the module's output over reference prompts and seeds.

    Mean ablation, as in Wang et al. 2022, "Interpretability in the wild" (arXiv:2211.00593).
    """
    return noise.clone()


@op(draws="resample", places=("output",))
def resample(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The module's output for another reference prompt and seed.

    Resample ablation: Chan et al. 2022, "Causal scrubbing"; activation patching: Meng et al. 2022
    (arXiv:2202.05262).
    """
    return noise.clone()


@op(draws="input", places=("output",))
def identity(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The module's input, passed on as it is.

    Veit, Wilber & Belongie 2016 delete layers so (arXiv:1605.06431).
    """
    return noise.clone()


@op(draws="letters", places=("image",))
def write(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The finished picture with a text on it, on a light label.

    The typographic attack: Goh et al. 2021 (distill.pub/2021/multimodal-neurons).
    """
    return torch.where(noise.isnan(), tensor, noise)


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


def apply(
    op: Op, tensor: Tensor, noise: Tensor, strength: float | None, dose: float | None = None
) -> Tensor:
    """The edited tensor, of `tensor`'s dtype and device; no argument is changed.

    `tensor`: what is edited, as it is now; `noise`: what the op draws, of the same shape, float32.
    `dose`, in place of a strength: as in `dosed`. Raises `ValueError` for noise of another shape,
    and unless exactly one of strength and dose is given to an op that has a strength.
    """
    if dose is not None and strength is None:
        return dosed(op, tensor, noise, dose)
    if dose is not None or (op.strength is not None and strength is None):
        raise ValueError(f"`{op.name}` needs either a strength, `{op.strength}`, or a dose")
    amount = 0.0 if strength is None else strength
    if op.neutral is not None and amount == op.neutral:
        return tensor.clone()
    parts = _parts(op, tensor, noise)
    if not _in_parts(op, tensor):
        ((part, of_noise),) = parts
        return op.apply(part.float(), of_noise, amount).to(tensor.dtype)
    made = torch.empty_like(tensor)
    for out, (part, of_noise) in zip(torch.split(made.view(-1), PART), parts, strict=True):
        out.copy_(op.apply(part.float(), of_noise, amount))
    return made


def dosed(op: Op, tensor: Tensor, noise: Tensor, dose: float) -> Tensor:
    """The tensor, changed by a share of its own size: ‖W′ − W‖ = dose·‖W‖, Frobenius norms.

    That is `apply` at the strength a = dose·‖W‖ / ‖f(W, N, 1) − W‖, or 0 where either norm is 0;
    W is `tensor` as it is now. The norms are of float32 numbers, summed in float64. Raises
    `ValueError` for an op that is not linear: it has no such strength.
    """
    if not op.linear:
        known = ", ".join(name for name, each in OPS.items() if each.linear)
        raise ValueError(f"`{op.name}` is not linear, it takes no dose; these do: {known}")
    size = change = 0.0
    for part, of_noise in _parts(op, tensor, noise):
        before = part.float()
        size += float(_wide(before).square().sum())
        change += float(_wide(op.apply(before, of_noise, 1.0) - before).square().sum())
    strength = dose * math.sqrt(size) / math.sqrt(change) if size and change else 0.0
    return apply(op, tensor, noise, strength)


def _in_parts(op: Op, tensor: Tensor) -> bool:
    """Whether it pays: parts stay in a CPU's cache between one step of a formula and the next."""
    return not op.whole and tensor.device.type == "cpu" and tensor.is_contiguous()


def _parts(op: Op, tensor: Tensor, noise: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """The tensor and its noise, part by part and flattened, or whole."""
    if op.draws and noise.shape != tensor.shape:
        shapes = f"{tuple(tensor.shape)}, not {tuple(noise.shape)}"
        raise ValueError(f"`{op.name}` needs a tensor (`{op.draws}`) of the shape {shapes}")
    if not _in_parts(op, tensor):
        yield tensor, noise
        return
    drawn = torch.split(noise.flatten(), PART) if op.draws else itertools.repeat(noise)
    yield from zip(torch.split(tensor.view(-1), PART), drawn, strict=False)


def wrong_strength(op: Op, value: float) -> str | None:
    """What is wrong with a strength of the op's, in a sentence; None when nothing is."""
    if op.strength is None:
        return f"`{op.name}` takes no strength"
    bounds = ((op.least, operator.ge, "at least"), (op.most, operator.le, "at most"),
              (op.above, operator.gt, "above"))  # fmt: skip
    broken = [f"{w} {bound:g}" for bound, holds, w in bounds
              if bound is not None and not holds(value, bound)]  # fmt: skip
    if not math.isfinite(value):
        broken = ["a finite number"]
    elif op.counts_from is not None and value >= op.counts_from and value != int(value):
        broken.append("a whole number")
    right = " and ".join(broken)
    return f"`{op.strength}` of `{op.name}` must be {right}, not {value:g}" if broken else None
