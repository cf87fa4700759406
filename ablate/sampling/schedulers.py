"""Schedulers of diffusers: matched to a model, tried, and their estimates of finished latents."""

from __future__ import annotations

import copy
import inspect
import warnings
from typing import Any

import diffusers
import torch
from diffusers.schedulers import KarrasDiffusionSchedulers
from torch import Tensor

from ablate.messages import counted, first_line
from ablate.models import ModelError
from ablate.sampling.names import chosen_scheduler

OPTIONAL = ("scipy", "torchsde")  # packages that some schedulers ask for when they are created
MOST_CALLS = 2_000  # of a scheduler in a trial
BROWNIAN = "DPMSolverSDEScheduler"  # takes its noise from a Brownian tree


def matched_scheduler(name: str, default: Any, model: str) -> Any:
    """A scheduler by name, with the configuration of a model's default one and its own options.

    Raises `ModelError` if there is none, or if it solves other equations than the model was trained
    for.
    """
    kind, options = chosen_scheduler(name)
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
        scheduler = kind.from_config(default.config, **(flow | options))
        for method in ("init_noise_sigma", "scale_model_input", "order"):
            if hasattr(default, method) and not hasattr(scheduler, method):
                raise AttributeError(f"it has no `{method}`")
    except Exception as error:  # schedulers check their configurations in many ways
        package = next((name for name in OPTIONAL if name in str(error)), None)
        needs = isinstance(error, ImportError) and package is not None
        raise ModelError(
            f"{kind.__name__} cannot be configured for `{model}`, whose scheduler is"
            f" {type(default).__name__}: {first_line(error)}"
            + (f"; `pip install {package}`" if needs else "")
        ) from error
    return scheduler


def check_steps(scheduler: Any, steps: int, model: str) -> None:
    """Raise `ModelError` where a scheduler cannot take so many steps.

    They are taken on a few zeros; of very many steps the first ones.
    """
    trial = copy.deepcopy(scheduler)
    config = trial.config
    options = {"mu": 1.0} if config.get("use_dynamic_shifting") else {}  # as pipelines call it
    latents = torch.zeros(1, 4, 4, 4)
    learned = str(config.get("variance_type")).startswith("learned")
    estimate = torch.zeros(1, 8 if learned else 4, 4, 4)
    generator = torch.Generator().manual_seed(0)
    if hasattr(trial, "noise_sampler_seed"):
        trial.noise_sampler_seed = 0
    drawing = "generator" in inspect.signature(trial.step).parameters
    drawn = {"generator": generator} if drawing else {}
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
            warnings.simplefilter("ignore")
            trial.set_timesteps(steps, **options)
            for timestep in trial.timesteps[:MOST_CALLS]:
                if hasattr(trial, "scale_model_input"):  # which flow matching does not need
                    trial.scale_model_input(latents, timestep)
                latents = trial.step(estimate, timestep, latents, **drawn)[0]
    except Exception as error:  # schedulers fail in many ways
        raise ModelError(
            f"`{model}` cannot be sampled with {type(scheduler).__name__} in"
            f" {counted(steps, 'step')}: {first_line(error)}"
        ) from error


def is_usual(scheduler: Any) -> bool:
    """Whether pipelines use a scheduler as all others of its kind, so that `check_steps` does what
    they do."""
    kind = type(scheduler)
    return _is_flow(kind) or kind.__name__ in KarrasDiffusionSchedulers.__members__


def _is_flow(kind: type) -> bool:
    """Whether a scheduler is one of flow matching alone."""
    return kind.__name__.startswith("FlowMatch")


def revision_of(name: str, counts_steps: bool) -> int:
    """The revision of what sampling with a scheduler, by its name, gives.

    It is part of the keys of cells where it is not 1: 2 where a scheduler of a random Brownian tree
    has one from the seed now, and where edits or images at a certain step counted the calls of a
    scheduler that takes some steps in several.

    Args:
        counts_steps: Whether the number of a step matters.
    """
    kind, _ = chosen_scheduler(name)
    several = kind is diffusers.PNDMScheduler or kind.order > 1
    return 2 if kind.__name__ == BROWNIAN or (counts_steps and several) else 1


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
