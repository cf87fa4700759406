"""Schedulers of diffusers: by name, matched to a model, and their estimates of finished latents."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
from torch import Tensor

from ablate.messages import did_you_mean
from ablate.models import ModelError


def scheduler_class(name: str) -> type:
    """A scheduler of diffusers by name: `DDIMScheduler`, `ddim`, `euler_ancestral`, ...

    Raises `ModelError` with the nearest names when there is none.
    """
    known = {_plain(n): n for n in dir(diffusers) if n.endswith("Scheduler") and "Flax" not in n}
    # `euler` is short for EulerDiscreteScheduler, `euler_ancestral` for its sibling.
    full_name = known.get(_plain(name)) or known.get(_plain(name) + "discrete")
    if not _plain(name) or full_name is None:
        near = did_you_mean(_plain(name), known)
        listed = ", ".join(sorted(k for k in known if k))
        raise ModelError(f"diffusers has no scheduler `{name}`{near or f'; it has {listed}'}")
    scheduler: type = getattr(diffusers, full_name)
    return scheduler


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower().removesuffix("scheduler")


def matched_scheduler(name: str, default: Any, model: str) -> Any:
    """A scheduler by name, with the configuration of a model's default one.

    Raises `ModelError` if there is none, or if it solves other equations than the model was trained
    for.
    """
    kind: Any = scheduler_class(name)
    flow: dict[str, Any] = {}
    if _is_flow(type(default)) or default.config.get("prediction_type") == "flow_prediction":
        if "use_flow_sigmas" in inspect.signature(kind).parameters:
            flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
        elif not _is_flow(kind):
            raise ModelError(
                f"`{model}` was trained by flow matching, which {kind.__name__} does not solve;"
                " flow_match_euler_discrete, uni_p_c_multistep and dpm_solver_multistep do"
            )
    elif _is_flow(kind):
        raise ModelError(
            f"`{model}` was not trained by flow matching, which is all that {kind.__name__} solves"
        )
    return kind.from_config(default.config, **flow)


def _is_flow(kind: type) -> bool:
    """Whether a scheduler is one of flow matching alone."""
    return kind.__name__.startswith("FlowMatch")


def estimated_latents(
    scheduler: Any, number: int, model_output: Tensor, timestep: Any, sample: Tensor, result: Any
) -> Tensor:
    """The finished latents as estimated at a step; without an estimate, the latents after it.

    `number` counts the calls of the scheduler; `sample` are the latents before the step, `result`
    is the scheduler's output.
    """
    for name in ("pred_original_sample", "denoised"):
        estimate: Tensor | None = getattr(result, name, None)
        if estimate is not None:
            return estimate
    if type(scheduler).__name__.startswith("FlowMatchEuler"):
        # Flow matching: x_t = (1 - sigma) x_0 + sigma * noise, and the network predicts noise - x_0
        # (Lipman et al. 2023, Flow matching for generative modeling).
        flow: Tensor = sample.float() - scheduler.sigmas[number].to(sample.device) * (
            model_output.float()
        )
        return flow
    # Other schedulers on latents of unit variance: eq. 9 of Song et al. 2021 (Denoising diffusion
    # implicit models), and its form for v-prediction.
    kind = scheduler.config.get("prediction_type")
    cumulative = getattr(scheduler, "alphas_cumprod", None)
    is_unit = float(getattr(scheduler, "init_noise_sigma", 0)) == 1
    if cumulative is not None and is_unit and kind in ("epsilon", "v_prediction"):
        alpha = cumulative.to(sample.device)[int(timestep)]
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        if kind == "v_prediction":
            v_estimate: Tensor = signal * sample - noise * model_output
            return v_estimate
        estimated: Tensor = (sample - noise * model_output) / signal
        return estimated
    latents: Tensor = result[0]
    return latents
