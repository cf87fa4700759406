"""The finished image as a scheduler expects it, halfway."""

from __future__ import annotations

from typing import Any

import diffusers
from torch import Tensor

from ablate.messages import did_you_mean
from ablate.models import ModelError


def estimate(
    scheduler: Any, number: int, model_output: Tensor, timestep: Any, sample: Tensor, result: Any
) -> Tensor:
    """The finished latents as they look after a step; of a scheduler that tells none, the latents
    as they are."""
    for name in ("pred_original_sample", "denoised"):
        told: Tensor | None = getattr(result, name, None)
        if told is not None:
            return told
    cumulative, sigmas = getattr(scheduler, "alphas_cumprod", None), scheduler_sigmas(scheduler)
    if sigmas is not None:
        # Flow matching: x_t = (1 - sigma) x_0 + sigma * noise, and the network tells noise - x_0
        # (Lipman et al. 2023, Flow matching for generative modeling).
        sigma = sigmas[number].to(sample.device)
        return sample.float() - sigma * model_output.float()
    # Of those that tell no estimate and work on latents of unit variance: eq. 9 of Song et al.
    # 2021 (Denoising diffusion implicit models), and its form for v-prediction.
    kind = scheduler.config.get("prediction_type")
    unit = float(getattr(scheduler, "init_noise_sigma", 0)) == 1
    if cumulative is not None and unit and kind in ("epsilon", "v_prediction"):
        alpha = cumulative.to(sample.device)[int(timestep)]
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        if kind == "v_prediction":
            v_estimate: Tensor = signal * sample - noise * model_output
            return v_estimate
        estimated: Tensor = (sample - noise * model_output) / signal
        return estimated
    latents: Tensor = result[0]
    return latents


def scheduler_sigmas(scheduler: Any) -> Tensor | None:
    """The noise levels of a flow-matching scheduler, one a step; None of any other."""
    if type(scheduler).__name__.startswith("FlowMatchEuler"):
        sigmas: Tensor = scheduler.sigmas
        return sigmas
    return None


def scheduler_class(name: str) -> type:
    """A diffusers scheduler by name: `DDIMScheduler`, `ddim`, `euler_ancestral`, ...

    Raises `ModelError` with the nearest names when there is none.
    """
    known = {_plain(n): n for n in dir(diffusers) if n.endswith("Scheduler") and "Flax" not in n}
    # `euler` is short for EulerDiscreteScheduler, `euler_ancestral` for its sibling.
    found = known.get(_plain(name)) or known.get(_plain(name) + "discrete")
    if not _plain(name) or found is None:
        near = did_you_mean(_plain(name), known)
        listed = ", ".join(sorted(k for k in known if k))
        raise ModelError(f"diffusers has no scheduler `{name}`{near or f'; it has {listed}'}")
    scheduler: type = getattr(diffusers, found)
    return scheduler


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower().removesuffix("scheduler")
