"""Every scheduler of diffusers: the same recipe gives the same image, steps are solver steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import diffusers
import numpy as np
import pytest
import torch

from ablate.engine.run import compute_cell
from ablate.models.files import ModelError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request, Samples
from ablate.sampling.settings import Sampling
from ablate.sweep.binding import plan

NAMES = sorted(n for n in dir(diffusers) if n.endswith("Scheduler") and "Flax" not in n)
FLOW = "was not trained by flow matching"
STEP = "a step of it needs more than an estimate"
CONFIGURED = "cannot be configured for"
# Those that do not sample a network like the tiny one, which predicts noise, and why.
REFUSED = {
    "AmusedScheduler": CONFIGURED,
    "BlockRefinementScheduler": CONFIGURED,
    "CogVideoXDPMScheduler": STEP,
    "DDPMWuerstchenScheduler": CONFIGURED,
    "DiscreteDDIMScheduler": CONFIGURED,
    "EntropyBoundScheduler": CONFIGURED,
    "FlowMapEulerDiscreteScheduler": CONFIGURED,
    "FlowMatchEulerDiscreteScheduler": FLOW,
    "FlowMatchHeunDiscreteScheduler": FLOW,
    "FlowMatchLCMScheduler": FLOW,
    "HeliosDMDScheduler": CONFIGURED,
    "HeliosScheduler": CONFIGURED,
    "KarrasVeScheduler": STEP,
    "LTXEulerAncestralRFScheduler": CONFIGURED,
    "MiniMaxH3Scheduler": CONFIGURED,
    "PiflowScheduler": CONFIGURED,
    "RFD4ProteinaScheduler": STEP,
    "RePaintScheduler": STEP,
    "SCMScheduler": CONFIGURED,
    "ScoreSdeVeScheduler": STEP,
    "UnCLIPScheduler": CONFIGURED,
    "VQDiffusionScheduler": CONFIGURED,
}
VARIANTS = ("DPM++ 2M SDE Karras", "Euler exponential", "Heun beta")
SAMPLED = [*(name for name in NAMES if name not in REFUSED), *VARIANTS]
# They go from an image to noise, so that there is no estimate of a finished image.
INVERSE = ("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler")
STEPS = 4

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers, about configurations


def sampled(pipeline: Pipeline, name: str, seeds: Sequence[int]) -> Samples:
    settings = pipeline.settings(Sampling(num_inference_steps=STEPS, scheduler=name))
    frames = {1, STEPS - 1, STEPS}
    return pipeline.sample([Request("a cat", seed) for seed in seeds], settings, frames=frames)


@pytest.mark.parametrize("name", SAMPLED)
def test_an_image_depends_on_its_seed_alone(name: str, tiny: Pipeline) -> None:
    torch.manual_seed(1)
    first = sampled(tiny, name, [3, 2**64 - 1, 5])
    torch.manual_seed(2)  # nothing is drawn from the global generator
    again, alone = sampled(tiny, name, [3, 2**64 - 1, 5]), sampled(tiny, name, [2**64 - 1])
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.latents, again.latents)
    assert np.abs(first.images[1] - alone.images[0]).max() <= 2 / 255
    assert np.abs(first.images[0] - first.images[1]).max() > 2 / 255
    assert sorted(first.frames) == [1, STEPS - 1, STEPS]
    if name not in INVERSE:
        assert np.abs(first.frames[STEPS].images - first.images).max() <= 1 / 255


@pytest.mark.parametrize("name", SAMPLED)
def test_windows_count_steps_of_the_solver(
    name: str, build: Callable[..., Recipe], tiny: Pipeline
) -> None:
    """All steps are those of no window; without the first two or the last it is another."""

    def latents(when: dict[str, list[int]] | None, last: int = STEPS) -> np.ndarray:
        sampling = {"num_inference_steps": STEPS, "scheduler": name}
        body = {"modules": "stage=up", "factor": 0.2} | ({"when": when} if when else {})
        recipe = build(sampling=sampling, edits=[{"scale": body}])
        return compute_cell(plan(recipe).cells[-1], tiny)[2]

    plain = latents(None)
    assert np.array_equal(latents({"steps": [0, STEPS - 1]}), plain)
    assert np.array_equal(latents({"fraction": [0, 1]}), plain)
    assert not np.array_equal(latents({"steps": [0, STEPS - 2]}), plain)
    assert not np.array_equal(latents({"steps": [2, STEPS - 1]}), plain)


@pytest.mark.parametrize("name", REFUSED)
def test_a_scheduler_that_does_not_fit_is_refused_before_anything_is_computed(
    name: str, build: Callable[..., Recipe], tiny: Pipeline
) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]):
        tiny.settings(Sampling(num_inference_steps=STEPS, scheduler=name))
