"""`compile: true`: one compilation that stays valid while weights change in place."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ablate import lab
from ablate.pipeline import Pipeline
from ablate.recipe import Recipe

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch warns of itself
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles with a C++ compiler")
def test_a_compiled_network_gives_the_images_of_a_plain_one(
    build: Build, run: RunIt, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = build(
        compile=True,
        axes={"module": {"each": ["mid_block.*.conv1", "#0", "stage=out"]}},
        edits=[{"scale": {"modules": "$module", "factor": 3}}],
    )
    plain = run(recipe, "plain")
    # A second compilation would be one for each variant.
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)
    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    pipeline = Pipeline.load(str(tiny_folder), device="cpu", dtype="float32", compile=True)
    compiled = run(recipe, "compiled", pipeline=pipeline, batch_size=1)
    assert compiled.summary.in_place == compiled.summary.total > 1
    assert compiled.summary.quiet == plain.summary.quiet == {}
    for one, other in zip(plain, compiled, strict=True):
        difference = np.asarray(one.image(), dtype=int) - np.asarray(other.image(), dtype=int)
        assert np.abs(difference).max() <= 2
        assert one.key != other.key
        assert (one.record()["compile"], other.record()["compile"]) == (False, True)
        assert one.is_baseline or one.drift["rmse"] > 0.001
