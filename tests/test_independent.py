"""The lab against a plain script that uses diffusers alone.

The script knows nothing of `ablate`: it edits the state dict by the formulas of the README and
seeds its draws as the README says.
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from swept import SWEPT

from ablate import bundled, lab
from ablate.edits.registry import OPS
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("without_report")

MODULES = (
    "conv_in",
    "time_embedding.linear_1",
    "down_blocks.0.resnets.0.conv1",
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v",
    "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q",
    "down_blocks.1.downsamplers.0.conv",
    "mid_block.resnets.1.norm2",
    "up_blocks.1.attentions.0.proj_in",
    "up_blocks.2.attentions.1.transformer_blocks.0.ff.net.2",
    "conv_out",
)
STRENGTHS = {
    "scale": 0.2, "mix_noise": 0.5, "mix_noise_vp": 0.5, "add_noise": 1.5,
    "prune": 0.97, "quantize": 2, "low_rank": 0.25, "flip_sign": 0.3,
}  # fmt: skip
PROMPT, SEED, STEPS, GUIDANCE = "a cat in a party hat", 3, 2, 5.0


def generator(op: str, module: str, parameter: str, shape: tuple[int, ...]) -> torch.Generator:
    stream = "randomize" if op.startswith("mix_noise") else op
    text = json.dumps([0, stream, module, parameter, list(shape)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def by_hand(op: str, state: dict[str, torch.Tensor], module: str, parameter: str) -> torch.Tensor:
    w = state[f"{module}.{parameter}"]
    g = generator(op, module, parameter, tuple(w.shape))
    mean, deviation = w.double().mean().float(), w.double().std(correction=0).float()
    match op:
        case "zero":
            return torch.zeros_like(w)
        case "scale":
            return STRENGTHS[op] * w
        case "randomize":
            return mean + deviation * torch.randn(w.shape, generator=g)
        case "mix_noise":
            noise = mean + deviation * torch.randn(w.shape, generator=g)
            return (1 - STRENGTHS[op]) * w + STRENGTHS[op] * noise
        case "mix_noise_vp":
            noise = deviation * torch.randn(w.shape, generator=g)
            share = STRENGTHS[op]
            return mean + math.sqrt(1 - share**2) * (w - mean) + share * noise
        case "add_noise":
            return w + STRENGTHS[op] * deviation * torch.randn(w.shape, generator=g)
        case "shuffle":
            return w.flatten()[torch.randperm(w.numel(), generator=g)].view_as(w)
        case "prune":
            kept = w.flatten().clone()
            smallest = np.argsort(kept.abs().numpy(), kind="stable")
            kept[smallest[: round(STRENGTHS[op] * w.numel())]] = 0
            return kept.view_as(w)
        case "quantize":
            step = w.abs().max() / (2 ** (STRENGTHS[op] - 1) - 1)
            return step * torch.round(w / step)
        case "low_rank":
            if w.dim() == 1:
                return w
            left, sizes, right = torch.linalg.svd(w.flatten(1).double(), full_matrices=False)
            sizes[round(STRENGTHS[op] * len(sizes)) :] = 0
            return (left @ sizes.diag() @ right).float().view_as(w)
        case "flip_sign":
            return w * (1 - 2 * (torch.rand(w.shape, generator=g) < STRENGTHS[op]).float())
        case "reinitialize":
            weight = state[f"{module}.weight"]
            if weight.dim() == 1:  # a norm
                return torch.full_like(w, parameter == "weight")
            bound = weight[0].numel() ** -0.5
            drawn = torch.empty_like(weight).uniform_(-bound, bound, generator=g)
            # As torch does it: the bias after the weights.
            after = torch.empty_like(w).uniform_(-bound, bound, generator=g)
            return drawn if parameter == "weight" else after
    raise AssertionError(f"no formula here for the op {op}")


@pytest.fixture(scope="module")
def plain() -> StableDiffusionPipeline:
    pipe = StableDiffusionPipeline.from_pretrained(bundled.FOLDER, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def by_script(pipe: StableDiffusionPipeline, op: str, module: str) -> np.ndarray:
    state = pipe.unet.state_dict()
    edited = {
        name: by_hand(op, state, module, name.removeprefix(f"{module}."))
        for name in (f"{module}.weight", f"{module}.bias")
        if name in state
    }
    kept = {name: state[name].clone() for name in edited}
    pipe.unet.load_state_dict(edited, strict=False)
    image = pipe(
        PROMPT,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(SEED),
    ).images[0]
    pipe.unet.load_state_dict(kept, strict=False)
    return np.asarray(image, dtype=int)


@pytest.mark.parametrize("op", SWEPT)
def test_ten_modules_agree_with_a_plain_script(
    op: str, bundled_pipeline: Pipeline, plain: StableDiffusionPipeline, tmp_path: Path
) -> None:
    settings = {"modules": "$module"}
    if OPS[op].strength:
        settings[str(OPS[op].strength)] = STRENGTHS[op]  # type: ignore[assignment]
    recipe = Recipe.build(
        {
            "version": 1,
            "name": "independent",
            "dtype": "float32",
            "prompts": [PROMPT],
            "seeds": [SEED],
            "sampling": {"num_inference_steps": STEPS, "guidance_scale": GUIDANCE},
            "axes": {"module": {"each": list(MODULES)}},
            "edits": [{op: settings}],
        }
    )
    result = lab.run(recipe, tmp_path, pipeline=bundled_pipeline)
    cells = {cell.axes["module"]: cell for cell in result if "module" in cell.axes}
    assert set(cells) == set(MODULES)
    for module, cell in cells.items():
        ours = np.asarray(cell.image(), dtype=int)
        assert np.abs(ours - by_script(plain, op, module)).max() <= 2, module
    assert max(cell.drift["rmse"] for cell in cells.values()) > 0.05
