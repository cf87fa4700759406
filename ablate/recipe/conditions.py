"""What is asked of the network: prompts, seeds, and how images are sampled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ablate.recipe.strict import Strict, optional
from ablate.recipe.types import Into, Rule, Text, Whole
from ablate.sampling import SAMPLING, Sampling as Settings

Side = Annotated[int, Field(strict=True, ge=8, le=65_536, multiple_of=8)]
Steps = Annotated[int, Field(strict=True, ge=1, le=10_000), Rule()]


class SamplingSpec(Strict):
    """How images are sampled."""

    num_inference_steps: Steps = optional("How many steps a sampling has.", 20)
    guidance_scale: Annotated[float, Field(strict=True, allow_inf_nan=False)] = optional(
        "Classifier-free guidance; at most 1 is none, and takes half the time.", 5.0
    )
    scheduler: Text | None = optional("A scheduler of diffusers, as `ddim`. Default: the model's.")
    negative_prompt: Text = optional("What guidance leads away from.", "")
    width: Side | None = optional("In pixels. Default: the model's.")
    height: Side | None = optional("In pixels. Default: the model's.")


Sampling = Annotated[Settings, Into(SamplingSpec, Settings)]


def asked(name: str, value: Any) -> Any:
    """A value of an axis of prompts, seeds or settings, as sampling takes it."""
    return getattr(Asked.model_validate({name: value}), name)


class Asked(SamplingSpec):
    """What an axis may vary by its name alone."""

    prompt: Text = ""
    seed: Whole = 0
    steps: Steps = 1
    perturbation_seed: Whole = 0


CONDITION_AXES: tuple[str, ...] = ("prompt", "seed", "steps", *SAMPLING)
