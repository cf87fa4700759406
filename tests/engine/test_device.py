"""On a simulated accelerator: no tensor is on another device than those it meets, images are those
of the CPU, and what a GPU would be waited for is a few copies for each batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import FAMILIES, save
from simulated import accelerator
from test_families import SIDES

from ablate import lab
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline

pytestmark = [
    pytest.mark.usefixtures("without_report"),
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),
]
STEPS = 4
MODULES = {"each": {"sample": {"of": "kind=Linear", "count": 4, "seed": 1}}}
AMOUNTS = {"values": [0.1, 0.2]}
# Waits of a batch: for embeddings of prompts, first latents and timesteps, for images, latents and
# whether these are finite, and for what the edits changed.
A_BATCH = 10
SWEEPS: dict[str, dict[str, Any]] = {
    "zeroed by rows": {"axes": {"m": MODULES}, "edits": [{"zero": {"modules": "$m"}}]},
    "drawn by rows": {"axes": {"m": MODULES}, "edits": [{"randomize": {"modules": "$m"}}]},
    "in place": {
        "axes": {"a": AMOUNTS},
        "edits": [{"mix_noise": {"modules": "*", "amount": "$a"}}],
    },
    "outputs": {
        "axes": {"m": MODULES},
        "edits": [{"mix_noise": {"modules": "$m", "amount": 0.3, "where": "output"}}],
    },
    "references": {
        "axes": {"m": MODULES},
        "edits": [{"mean": {"modules": "$m", "where": "output", "over": {"prompts": ["a dog"]}}}],
    },
    "a window": {
        "axes": {"m": MODULES},
        "edits": [{"zero": {"modules": "$m", "when": {"steps": [1, 2]}}}],
    },
    "channels": {
        "axes": {"m": MODULES},
        "edits": [{"zero": {"modules": "$m", "unit": {"channels": [0, 1]}}}],
    },
}


def swept(folder: Path, model: Path, device: str, **keys: Any) -> tuple[lab.Result, int]:
    """A run, and how many batches it has."""
    pipeline = Pipeline.load(str(model), device=device, dtype="float32")
    recipe = Recipe.build({
        "version": 1, "name": "swept", "model": str(model), "dtype": "float32",
        "prompts": ["a cat"], "sampling": {"num_inference_steps": STEPS}, **keys,
    })  # fmt: skip
    calls = []
    sample = pipeline.sample
    pipeline.sample = lambda *args: calls.append(1) or sample(*args)  # type: ignore
    return lab.run(recipe, folder, pipeline=pipeline, batch_size=8), len(calls)


@pytest.mark.parametrize("name", SWEEPS)
def test_images_are_those_of_the_cpu_and_a_gpu_is_hardly_waited_for(
    name: str, tiny_folder: Path, tmp_path: Path
) -> None:
    expected, _ = swept(tmp_path / "cpu", tiny_folder, "cpu", **SWEEPS[name])
    with accelerator() as waits:
        result, batches = swept(tmp_path / "cuda", tiny_folder, "cuda", **SWEEPS[name])
    for cell, other in zip(result, expected, strict=True):
        assert cell.variant == other.variant
        assert np.abs(np.asarray(cell.image(), int) - np.asarray(other.image(), int)).max() <= 2
    assert result.store.manifest()["device"] == "cuda:0"
    assert sum(waits.values()) <= A_BATCH * batches + 4, waits


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_on_one_device(name: str, tmp_path: Path) -> None:
    model = save(name, tmp_path)
    side = SIDES.get(name)
    size = {"width": side, "height": side} if side else {}
    keys = {"sampling": {"num_inference_steps": 2, **size}}
    for sweep in ("drawn by rows", "in place", "outputs"):
        with accelerator() as waits:
            result, batches = swept(tmp_path / sweep, model, "cuda", **SWEEPS[sweep], **keys)
        assert all(cell.state == "ok" for cell in result)
        ours = {place: n for place, n in waits.items() if not place[1].startswith("library")}
        assert sum(ours.values()) <= 6 * batches, ours
