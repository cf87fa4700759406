"""Every scheduler of diffusers: the same recipe gives the same image, steps are solver steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from families import save

from ablate.engine.run import compute_cell
from ablate.models.files import ModelError
from ablate.recipe.document import RecipeError
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
# Those that sample a network that was trained by flow matching.
OF_FLOW = (
    "DEISMultistepScheduler",
    "DPMSolverMultistepInverseScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "FlowMatchLCMScheduler",
    "SASolverScheduler",
    "UniPCMultistepScheduler",
)
SAMPLED = [
    *(("tiny", name) for name in [*NAMES, *VARIANTS] if name not in REFUSED),
    *(("flow", name) for name in OF_FLOW),
]
# They go from an image to noise, so that there is no estimate of a finished image.
INVERSE = ("DDIMInverseScheduler", "DPMSolverMultistepInverseScheduler")
# With noise levels of flow matching they end at the level that the last step begins at.
ENDS_EARLY = (
    ("flow", "DEISMultistepScheduler"),
    ("flow", "DPMSolverMultistepInverseScheduler"),
)
STEPS = 4
MODULES = {"tiny": "stage=up", "flow": "*"}  # what windows edit

pytestmark = pytest.mark.filterwarnings("ignore")  # of diffusers, about configurations


@pytest.fixture(scope="module")
def loaded(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pipeline]:
    """A network that predicts noise and one that was trained by flow matching."""
    folder = save("sd3", tmp_path_factory.mktemp("flow"))
    return {"tiny": tiny, "flow": Pipeline.load(str(folder), device="cpu", dtype="float32")}


def sampled(pipeline: Pipeline, name: str, seeds: Sequence[int]) -> Samples:
    settings = pipeline.settings(Sampling(num_inference_steps=STEPS, scheduler=name))
    frames = {1, STEPS - 1, STEPS}
    return pipeline.sample([Request("a cat", seed) for seed in seeds], settings, frames=frames)


@pytest.mark.parametrize(("network", "name"), SAMPLED)
def test_an_image_depends_on_its_seed_alone(
    network: str, name: str, loaded: dict[str, Pipeline]
) -> None:
    pipeline = loaded[network]
    torch.manual_seed(1)
    first = sampled(pipeline, name, [3, 2**64 - 1, 5])
    torch.manual_seed(2)  # nothing is drawn from the global generator
    again, alone = sampled(pipeline, name, [3, 2**64 - 1, 5]), sampled(pipeline, name, [2**64 - 1])
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.latents, again.latents)
    assert np.abs(first.images[1] - alone.images[0]).max() <= 2 / 255
    assert np.abs(first.images[0] - first.images[1]).max() > 2 / 255
    assert sorted(first.frames) == [1, STEPS - 1, STEPS]
    if name not in INVERSE:
        assert np.abs(first.frames[STEPS].images - first.images).max() <= 1 / 255


@pytest.mark.parametrize(("network", "name"), SAMPLED)
def test_windows_count_steps_of_the_solver(
    network: str, name: str, build: Callable[..., Recipe], loaded: dict[str, Pipeline]
) -> None:
    """All steps are those of no window; without the first two or the last it is another."""

    def latents(when: dict[str, list[int]] | None, last: int = STEPS) -> np.ndarray:
        sampling = {"num_inference_steps": STEPS, "scheduler": name}
        body: dict[str, Any] = {"modules": MODULES[network], "factor": 0.2}
        body |= {"when": when} if when else {}
        pipeline = loaded[network]
        recipe = build(model=pipeline.source.model, sampling=sampling, edits=[{"scale": body}])
        return compute_cell(plan(recipe).cells[-1], pipeline)[2]

    plain = latents(None)
    assert np.array_equal(latents({"steps": [0, STEPS - 1]}), plain)
    assert np.array_equal(latents({"fraction": [0, 1]}), plain)
    if (network, name) not in ENDS_EARLY:
        assert not np.array_equal(latents({"steps": [0, STEPS - 2]}), plain)
    assert not np.array_equal(latents({"steps": [2, STEPS - 1]}), plain)


@pytest.mark.parametrize("name", REFUSED)
def test_a_scheduler_that_does_not_fit_is_refused_before_anything_is_computed(
    name: str, build: Callable[..., Recipe], tiny: Pipeline
) -> None:
    with pytest.raises(ModelError, match=REFUSED[name]):
        tiny.settings(Sampling(num_inference_steps=STEPS, scheduler=name))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OF_FLOW])
def test_a_scheduler_that_does_not_solve_flow_matching_is_a_mistake_of_the_recipe(
    name: str, build: Callable[..., Recipe], loaded: dict[str, Pipeline]
) -> None:
    model, edits = loaded["flow"].source.model, [{"zero": {"modules": "*"}}]
    sampling = {"num_inference_steps": STEPS, "scheduler": name}
    with pytest.raises(RecipeError, match=rf"^sampling.[a-z_]+: .*{name}"):
        plan(build(model=model, sampling=sampling, edits=edits))
