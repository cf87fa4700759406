"""Schedulers of diffusers: by name, matched to a model, and their estimates of finished latents."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
from torch import Tensor

from ablate.messages import did_you_mean, first_line
from ablate.models import ModelError

# The arguments of a scheduler's step.
STEP = ("self", "model_output", "timestep", "sample", "args", "kwargs")
BROWNIAN = "DPMSolverSDEScheduler"  # takes its noise from a Brownian tree


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
    # What diffusers offers in place of a scheduler whose libraries are missing.
    missing = [name for name in vars(scheduler).get("_backends", ()) if name != "torch"]
    if missing:
        raise ModelError(
            f"the scheduler `{name}` needs {' and '.join(missing)}; `pip install"
            f" {' '.join(missing)}`"
        )
    more = [
        parameter.name
        for parameter in inspect.signature(getattr(scheduler, "step", _no_step)).parameters.values()
        if parameter.default is parameter.empty and parameter.name not in STEP
    ]
    if more:
        raise ModelError(
            f"the scheduler `{name}` does not sample images from prompts: a step of it needs more"
            f" than an estimate, a timestep and latents ({', '.join(more)})"
        )
    return scheduler


def _no_step(step: Any) -> None:
    """In place of a method that some schedulers do not have."""


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
    try:
        scheduler = kind.from_config(default.config, **flow)
        _rehearse(scheduler, default)
    except Exception as error:  # schedulers check their configurations in many ways
        raise ModelError(
            f"{kind.__name__} cannot be configured for `{model}`, whose scheduler is"
            f" {type(default).__name__}: {first_line(error)}"
        ) from error
    return scheduler


def _rehearse(scheduler: Any, default: Any) -> None:
    """Raise an error if a scheduler cannot be used as the default one is."""
    for name in ("init_noise_sigma", "scale_model_input", "order"):
        if hasattr(default, name) and not hasattr(scheduler, name):
            raise AttributeError(f"it has no `{name}`")


def _is_flow(kind: type) -> bool:
    """Whether a scheduler is one of flow matching alone."""
    return kind.__name__.startswith("FlowMatch")


def revision_of(name: str, counts_steps: bool) -> int:
    """The revision of what sampling with a scheduler, by the name of its class, gives.

    It is part of the keys of cells where it is not 1: 2 where a scheduler of a random Brownian tree
    has one from the seed now, and where edits or images at a certain step counted the calls of a
    scheduler that takes some steps in several.

    Args:
        counts_steps: Whether the number of a step matters.
    """
    kind: Any = scheduler_class(name)
    several = kind is diffusers.PNDMScheduler or kind.order > 1
    return 2 if name == BROWNIAN or (counts_steps and several) else 1


def steps_of_calls(scheduler: Any) -> list[int]:
    """The step that each call of a scheduler belongs to, from 0, once its timesteps are set."""
    calls = range(len(scheduler.timesteps))
    if isinstance(scheduler, diffusers.PNDMScheduler):
        if scheduler.config.skip_prk_steps:  # the first step is computed and then corrected
            return [max(0, call - 1) for call in calls]
        # Four calls for each step by Runge and Kutta, then one for each linear multistep.
        first = len(scheduler.prk_timesteps)
        return [call // 4 if call < first else call - first + first // 4 for call in calls]
    return [call // scheduler.order for call in calls]


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
