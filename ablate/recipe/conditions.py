"""What is asked of the network: prompts, seeds, and how images are sampled."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ablate.recipe.strict import INVALID, Mistake, Strict, fail, optional
from ablate.recipe.types import Inner, Into, Rule, Seed, Text, Whole
from ablate.sampling import SAMPLING, Sampling as Settings, with_options


class _Named(Rule):
    """The name of a scheduler, or a mapping of its `name` and options, which becomes one text."""

    def read(self, value: Any, inner: Inner) -> Any:
        if not isinstance(value, dict):
            return inner(value)
        name = value.get("name")
        if name is INVALID:
            return name
        if not isinstance(name, str):
            fail(Mistake("must have the `name` of a scheduler, beside its options"))
        try:
            return with_options(name, {key: v for key, v in value.items() if key != "name"})
        except (TypeError, ValueError, RecursionError):
            fail(Mistake("has options that are no numbers, texts or truth values"))

    def shape(self, shape: dict[str, Any]) -> dict[str, Any]:
        named = {"type": "object", "required": ["name"], "properties": {"name": shape}}
        return {"anyOf": [shape, named]}


SchedulerName = Annotated[str, Field(strict=True), _Named()]
Side = Annotated[int, Field(strict=True, ge=8, le=65_536, multiple_of=8)]
Steps = Annotated[int, Field(strict=True, ge=1, le=10_000), Rule()]


class SamplingSpec(Strict):
    """How images are sampled."""

    num_inference_steps: Steps = optional("How many steps a sampling has.", 20)
    guidance_scale: Annotated[float, Field(strict=True, allow_inf_nan=False)] = optional(
        "Classifier-free guidance; at most 1 is none, and takes half the time.", 5.0
    )
    scheduler: SchedulerName | None = optional(
        "A scheduler by name, as `ddim` or `DPM++ 2M Karras`, or a mapping of its `name` and of"
        " options. Default: the model's."
    )
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
    seed: Seed = 0
    steps: Steps = 1
    perturbation_seed: Whole = 0


CONDITION_AXES: tuple[str, ...] = ("prompt", "seed", "steps", *SAMPLING)
