"""Every recipe that comes along: planned whole on two networks, run small on the bundled model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ablate import lab
from ablate.models.catalogs import load_catalog
from ablate.models.source import Source
from ablate.sampling.pipeline import Pipeline
from ablate.store.activations import Layer, Statistics
from ablate.sweep.binding import plan

ROOT = Path(__file__).parent.parent
FILES = sorted((ROOT / "recipes").glob("*.yaml"))
SD15 = "sd15-random"


def studied(file: Path, model: str, folder: Path) -> dict[str, str]:
    """What a recipe that goes on from a study has to be told: a study of the model, made up here;
    the one that it names is made first by whoever runs it."""
    if file.stem != "selective-units":
        return {}
    found = [m for m in load_catalog(Source(model)) if m.kind == "Conv2d"]
    study = Statistics([Layer("unet", m.path, "channels", m.channels) for m in found], ("a", "b"))
    study.count[:] = 2
    study.done = 4
    study.mean[:] = np.random.default_rng(0).random(study.mean.shape)
    study.save(folder / model / "activations.npz")
    return {"edits.0.zero.units.run": str(folder / model)}


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_is_right_for_the_bundled_model_and_stable_diffusion_1(file: Path, tmp_path: Path) -> None:
    for model in ("bundled", SD15):
        changes = {"model": model, **studied(file, model, tmp_path)}
        planned = plan(file, overrides=changes)
        assert planned.recipe.name == file.stem
        assert planned.recipe.about
        assert len(planned.cells) > 1
        assert any(cell.variant.is_baseline for cell in planned.cells)
        assert len(planned.variants) > 1 or not planned.recipe.edits


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_runs_small(file: Path, bundled_pipeline: Pipeline, tmp_path: Path) -> None:
    steps = {"film-strip": 20, "when-it-matters": 5}.get(file.stem, 1)
    told = {"sampling.num_inference_steps": steps, "dtype": "float32"}
    changes = told | studied(file, "bundled", tmp_path / "studies")
    result = lab.run(
        plan(file, overrides=changes), tmp_path / "run", pipeline=bundled_pipeline, limit=4
    )
    assert len(list((tmp_path / "run" / "cells").iterdir())) == 4
    assert result.summary.computed == 4
    assert (tmp_path / "run" / "sheet.png").exists()


def test_zeroing_each_module_counts_them_all() -> None:
    file = ROOT / "recipes" / "zero-each-module.yaml"
    planned = plan(file, overrides={"model": SD15})
    assert len(planned.cells) == 1 + 391
