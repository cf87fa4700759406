"""Every recipe that comes along: planned whole on two networks, run small on the bundled model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ablate import lab
from ablate.pipeline import Pipeline
from ablate.recipe import Recipe

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "recipes").glob("*.yaml"))
SD15 = "sd15-random"


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_is_right_for_the_bundled_model_and_stable_diffusion_1(file: Path) -> None:
    for model in ("bundled", SD15):
        recipe = lab.load(file, {"model": model})
        assert recipe.name == file.stem
        assert recipe.about
        planned = lab.resolve(recipe)
        assert len(planned.cells) > 1
        assert any(cell.variant.is_baseline for cell in planned.cells)
        assert len(planned.variants) > 1 or not recipe.edits


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_runs_small(file: Path, bundled_pipeline: Pipeline, tmp_path: Path) -> None:
    steps = {"film-strip": 20, "when-it-matters": 5}.get(file.stem, 1)
    recipe = lab.load(file, {"sampling.num_inference_steps": steps, "dtype": "float32"})
    result = lab.run(recipe, tmp_path, pipeline=bundled_pipeline, limit=4)
    assert len(list((tmp_path / "cells").iterdir())) == 4
    assert result.summary.computed == 4
    assert (tmp_path / "sheet.png").exists()


def test_zeroing_each_module_counts_them_all() -> None:
    recipe = Recipe.load(ROOT / "recipes" / "zero-each-module.yaml")
    planned = lab.resolve(replace(recipe, model=SD15))
    assert len(planned.cells) == 1 + 391
