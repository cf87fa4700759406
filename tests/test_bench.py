"""The benchmark: all contestants render the same pictures, and its figures agree."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ablate import bench
from ablate.cli.main import main
from ablate.models.devices import find_device
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.run import Run

ZERO = {"zero": {"modules": "*"}}
MODULES = ["conv_in", "mid_block.resnets.0.conv1"]


def test_script_and_lab_make_the_same_images(
    bundled_pipeline: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = {
        "version": 1,
        "name": "bench",
        "sampling": {"num_inference_steps": 3, "guidance_scale": bench.GUIDANCE},
    }
    settings = bundled_pipeline.settings(Recipe.build(recipe | {"edits": [ZERO]}).sampling)
    pipe = bench.plain("bundled", torch.float32, find_device("cpu"))
    before = {name: weights.clone() for name, weights in pipe.unet.state_dict().items()}
    assert bench.script(pipe, settings, MODULES, tmp_path) == len(MODULES)
    assert all(torch.equal(w, before[name]) for name, w in pipe.unet.state_dict().items())
    assert bench.lab(MODULES, recipe, bundled_pipeline, tmp_path, None) == len(MODULES) + 1
    cells = {cell.axes.get("module"): cell for cell in Run(tmp_path / "run").cells()}
    for path in MODULES:
        with Image.open(tmp_path / f"{path}.png") as image:
            theirs = np.asarray(image, dtype=int)
        assert np.abs(theirs - np.asarray(cells[path].image(), dtype=int)).max() <= 2


def test_figures_are_printed_and_written(tiny_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = ["bench", "--model", str(tiny_folder), "--modules", "6", "--steps", "2"]
    command += ["--rounds", "2", "--device", "cpu", "--dtype", "bfloat16", "--json", str(file)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    figures = json.loads(file.read_text())
    names = [c["name"] for c in figures["contestants"]]
    assert [name[:3] for name in names] == ["(a)", "(a)", "(b)", "(c)", "(d)"]
    assert all(name in done.stdout for name in names)
    assert (figures["modules"], figures["rounds"]) == (6, 2)
    script, *_, lab, limit = figures["contestants"]
    assert script["images"] == [3, 3]
    assert lab["images"] == limit["images"] == [4, 4]  # the baseline is one of them
    for c in figures["contestants"]:
        rates = [n / s for n, s in zip(c["images"], c["seconds"], strict=True)]
        base = [n / s for n, s in zip(script["images"], script["seconds"], strict=True)]
        assert c["to_script"] == pytest.approx([a / b for a, b in zip(rates, base, strict=True)])
        assert min(rates) <= c["images_a_second"] <= max(rates)
    assert figures["edit"] > 0
    assert figures["image"] > 0


def test_without_nnsight_peers_are_refused(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nnsight", None)
    command = ["bench", "--model", str(tiny_folder), "--device", "cpu", "--peers"]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 2
    assert isinstance(done.exception, SystemExit)
    assert "pip install nnsight" in done.stderr
    assert "Traceback" not in done.stderr
