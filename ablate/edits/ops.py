"""Ops: each a pure function on one tensor, with a decorator that registers it.

An op takes the tensor as it is now, noise matched to the tensor as it was loaded, and a strength:

    @op(strength="amount", neutral=0.0, draws="values", linear=True)
    def mix_noise(tensor, noise, strength): ...

Noise is whatever second tensor an op needs (`NoiseSource`). If it is drawn, its generator's seed
depends on the perturbation seed, the op's stream, the module path, the parameter name and the shape
alone: not on device, dtype, order, batch or process, nor on the other edits. So two strengths of
one op share one draw.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Iterator

import torch
from torch import Tensor

from ablate.edits.noise import in_float64
from ablate.edits.registry import ANYWHERE, OPS as OPS, WEIGHTS, Op, op

PART = 2**17  # entries of a large tensor that are edited at a time


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
@op(
    strength="amount", neutral=0.0, draws="values", stream="randomize", linear=True,
    places=ANYWHERE, least=0.0, most=1.0,
)  # fmt: skip
def mix_noise(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """(1−a)·W + a·N, N as in `randomize`."""
    return torch.add(strength * noise, tensor, alpha=1 - strength)


@op(
    strength="amount", neutral=0.0, draws="values", kinds=(), stream="randomize", whole=True,
    places=WEIGHTS, least=0.0, most=1.0,
)  # fmt: skip
def mix_noise_vp(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """μ + √(1−a²)·(W−μ) + a·(N−μ), N as in `randomize`: `mix_noise` that keeps the spread.

    Variance preserving, as the noise of diffusion (Song et al. 2021, arXiv:2011.13456). That of
    `mix_noise` shrinks W: its spread is √((1−a)² + a²)·σ, 0.82·σ at a = 0.2.
    """
    kept = math.sqrt(1 - strength**2)
    mixed = torch.add(strength * noise, tensor, alpha=kept)
    return mixed + (1 - kept - strength) * in_float64(tensor).mean().to(tensor)


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
    # Faster than sorting: only the entries at the border need an order.
    border = scores.kthvalue(count).values
    chosen = scores < border
    equal = (scores == border).nonzero().flatten()
    chosen[equal[: count - int(chosen.sum())]] = True
    return tensor.masked_fill(chosen.view_as(tensor), 0.0)


@op(strength="bits", whole=True, places=WEIGHTS, least=1.0, most=16.0, counts_from=1.0)
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


@op(strength="rank", whole=True, places=WEIGHTS, above=0.0, counts_from=1.0)
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
    wide = in_float64(short)
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
    """The module's initialization before training, drawn anew.

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


@op(draws="input_mean", places=("output",))
def input_mean(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The mean of the module's input over its channels, at each position.

    As layers are ablated in github.com/Moslem-Sh21/Diffusion-Transformer-Ablations (mode `mean`).
    """
    return noise.clone()


@op(draws="letters", places=("image",))
def write(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
    """The finished picture with a text on it, on a light label.

    The typographic attack: Goh et al. 2021 (distill.pub/2021/multimodal-neurons).
    """
    return torch.where(noise.isnan(), tensor, noise)


def apply(
    op: Op, tensor: Tensor, noise: Tensor, strength: float | None, dose: float | None = None
) -> Tensor:
    """The edited tensor, of `tensor`'s dtype and device; no argument is changed.

    Args:
        op: The op.
        tensor: The tensor as it is now.
        noise: The noise that the op takes, of the same shape, float32.
        strength: The strength, None for an op without.
        dose: The size of the change instead of a strength, as in `dosed`.

    Raises:
        ValueError: The noise has another shape, or the op has a strength and not exactly one of
            strength and dose is given.
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
    result = torch.empty_like(tensor)
    for out, (part, of_noise) in zip(torch.split(result.view(-1), PART), parts, strict=True):
        out.copy_(op.apply(part.float(), of_noise, amount))
    return result


def dosed(op: Op, tensor: Tensor, noise: Tensor, dose: float) -> Tensor:
    """The tensor changed by a share of its size: ‖W′ − W‖ = dose·‖W‖, Frobenius norms.

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
        size += float(in_float64(before).square().sum())
        change += float(in_float64(op.apply(before, of_noise, 1.0) - before).square().sum())
    strength = dose * math.sqrt(size) / math.sqrt(change) if size and change else 0.0
    return apply(op, tensor, noise, strength)


def _in_parts(op: Op, tensor: Tensor) -> bool:
    """Whether parts are faster: they stay in a CPU's cache between the steps of a formula."""
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
    """A sentence on what is wrong with a strength of an op; None for a valid one."""
    if op.strength is None:
        return f"`{op.name}` takes no strength"
    bounds = ((op.least, operator.ge, "at least"), (op.most, operator.le, "at most"),
              (op.above, operator.gt, "above"))  # fmt: skip
    broken = [f"{w} {bound:g}" for bound, compare, w in bounds
              if bound is not None and not compare(value, bound)]  # fmt: skip
    if not math.isfinite(value):
        broken = ["a finite number"]
    elif op.counts_from is not None and value >= op.counts_from and value != int(value):
        broken.append("a whole number")
    right = " and ".join(broken)
    return f"`{op.strength}` of `{op.name}` must be {right}, not {value:g}" if broken else None
