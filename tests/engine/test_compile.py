"""`compile: true`: one compilation that stays valid while weights change in place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from ablate import lab
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]


@pytest.fixture
def tinier_folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny pipeline with the smallest denoiser that has all kinds of blocks: compiling takes as
    long as a network is deep."""
    folder = shutil.copytree(tiny_folder, tmp_path / "tinier")
    torch.manual_seed(0)
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=4,
    ).save_pretrained(folder / "unet")
    return folder


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch warns of itself
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles with a C++ compiler")
def test_a_compiled_network_gives_the_images_of_a_plain_one(
    build: Build, run: RunIt, tinier_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = build(
        model=str(tinier_folder),
        compile=True,
        axes={"module": {"each": ["mid_block.*.conv1", "#0", "stage=out"]}},
        edits=[{"scale": {"modules": "$module", "factor": 3}}],
    )
    loaded = {"device": "cpu", "dtype": "float32"}
    plain = run(recipe, "plain", pipeline=Pipeline.load(str(tinier_folder), **loaded))
    # A second compilation would be one for each variant.
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    pipeline = Pipeline.load(str(tinier_folder), compile=True, **loaded)
    compiled = run(recipe, "compiled", pipeline=pipeline, batch_size=1)
    assert compiled.summary.in_place == compiled.summary.total > 1
    assert compiled.summary.without_effect == plain.summary.without_effect == {}
    for one, other in zip(plain, compiled, strict=True):
        difference = np.asarray(one.image(), dtype=int) - np.asarray(other.image(), dtype=int)
        assert np.abs(difference).max() <= 2
        assert one.key != other.key
        assert (one.record()["compile"], other.record()["compile"]) == (False, True)
        assert one.is_baseline or one.drift["rmse"] > 0.001
