"""First-order effects: how far each of many edits moves the denoiser's predictions, all at once.

An edit adds Δ to weights or outputs a, and so moves the prediction y by J·Δ to first order, where J
is ∂y/∂a. Zeroing has Δ = -a, so that this is gradient times weight, summed (Molchanov et al. 2019,
Importance estimation for neural network pruning), or gradient times activation, as in attribution
patching (Nanda 2023; Kramár et al. 2024, AtP*). Theirs is the gradient of a loss. The distance from
the network's own prediction has none, as it is smallest there, so the size of J·Δ itself is
estimated: for random signs v the mean of (v·JΔ)² is |JΔ|² (Hutchinson 1990, A stochastic estimator
of the trace of the influence matrix), and one backward pass from v·y gives v·JΔ of all edits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

import torch
from torch import Tensor, nn

from ablate.edits import Derivatives, NoiseCache, Variant
from ablate.engine.processes import stoppable
from ablate.models import spare_memory
from ablate.network import rebuilt, tensors
from ablate.sampling import Callbacks, Pipeline, Request, Settings
from ablate.sweep import Condition

STEPS = 5  # of each sampling, evenly spread
DRAWS = 64  # of signs, over all steps and conditions: the error of a size is about 9 %
OUTPUTS = 64  # variants that edit outputs, whose changes are in memory, at once


@dataclass(frozen=True)
class _Call:
    """A recorded call of the denoiser. `step`: which step it was; `levels`: those of noise."""

    arguments: Any
    step: int
    levels: Sequence[float]

    def __call__(self, network: nn.Module) -> Tensor:
        args, kwargs = self.arguments
        output: Tensor = next(tensors(network(*args, **kwargs)))
        return output.float()


def first_order(
    variants: Sequence[Variant], conditions: Sequence[Condition], pipeline: Pipeline
) -> list[float]:
    """How far each variant moves the denoiser's guided predictions, to first order.

    Args:
        variants: Of edits of the denoiser, none with references.
        conditions: Where: in the samplings of the untouched network; of equal settings.
        pipeline: The pipeline.

    Returns:
        The root mean square of the change, over pixels of latents, steps and conditions.

    Raises:
        Stopped: Ctrl-C was pressed.
    """
    noise = NoiseCache(spare_memory(pipeline.device) // 4, pipeline.checkpoint)
    settings = pipeline.settings(conditions[0].sampling)
    squares = [0.0] * len(variants)
    with stoppable(pipeline) as check, torch.compiler.set_stance("force_eager"):
        calls = [call for c in conditions for call in _recorded(pipeline, c, settings)]
        draws = ceil(DRAWS / len(calls))
        for part in _parts(variants):
            active: dict[tuple[Variant, ...], list[_Call]] = {}
            for call in calls:
                now = tuple(variants[i].at(call.step, call.levels) for i in part)
                active.setdefault(now, []).append(call)
            for some, now_calls in active.items():
                derivatives = Derivatives(pipeline.denoiser, some, noise)
                for call in now_calls:
                    means = _mean_squares(derivatives, call, pipeline, settings, draws, check)
                    for i, mean in zip(part, means.tolist(), strict=True):
                        squares[i] += mean / len(calls)
    return [square**0.5 for square in squares]


def _parts(variants: Sequence[Variant]) -> list[list[int]]:
    """Numbers of the variants whose changes fit into memory together."""
    of_outputs = [i for i, v in enumerate(variants) if any(e.where != "weights" for e in v.edits)]
    of_weights = sorted(set(range(len(variants))) - set(of_outputs))
    parts = [of_outputs[i : i + OUTPUTS] for i in range(0, len(of_outputs), OUTPUTS)]
    return [part for part in (of_weights, *parts) if part]


def _recorded(pipeline: Pipeline, condition: Condition, settings: Settings) -> list[_Call]:
    """Calls of the denoiser in some steps of the sampling of a condition."""
    steps = settings.num_inference_steps
    chosen = {round((i + 0.5) * steps / STEPS - 0.5) for i in range(STEPS)}
    calls: list[_Call] = []
    levels: list[float] = []
    at = 0

    def begin(step: int) -> None:
        nonlocal at
        at = step

    def record(_module: nn.Module, args: Any, kwargs: Any) -> None:
        if at in chosen:
            with torch.inference_mode(False):  # copies that gradients can pass
                copies = (tensor.clone() for tensor in tensors((args, kwargs)))
                calls.append(_Call(rebuilt((args, kwargs), copies), at, levels))

    request = Request(condition.prompt, condition.seed, condition.point)
    handle = pipeline.denoiser.register_forward_pre_hook(record, with_kwargs=True)
    try:
        pipeline.sample([request], settings, Callbacks(levels.extend, begin))
    finally:
        handle.remove()
    return calls


def _mean_squares(
    derivatives: Derivatives,
    call: _Call,
    pipeline: Pipeline,
    settings: Settings,
    draws: int,
    check: Callable[[], None],
) -> Tensor:
    """The mean square of the change of one prediction, of each variant."""
    generator = torch.Generator().manual_seed(call.step)
    with derivatives.watching():
        prediction = call(pipeline.denoiser)
        if settings.guided and len(prediction) == 2:
            prediction = torch.lerp(prediction[0], prediction[1], settings.guidance_scale)
        total: Tensor | float = 0.0
        for _ in range(draws):
            signs = torch.randint(0, 2, prediction.shape, generator=generator) * 2.0 - 1.0
            change = derivatives.of((signs.to(prediction.device) * prediction).sum())
            total = total + change**2
            check()
        return total / (draws * prediction.numel())  # type: ignore[return-value]
