"""`base`: a recipe goes on from a cell, on the same model, and its run needs nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import ablate
from ablate import lab
from ablate.engine.replay import replay_cell
from ablate.messages import RequestError
from ablate.recipe.recipe import Recipe, RecipeError
from ablate.sampling.pipeline import Pipeline
from ablate.store.png import read_record, write_png
from ablate.sweep.binding import plan

pytestmark = pytest.mark.usefixtures("without_report")

Run = Callable[..., lab.Result]
Build = Callable[..., Recipe]
NOISE = [{"randomize": {"modules": "conv_in"}}]
AMOUNTS: dict[str, Any] = {
    "axes": {"amount": [0, 0.5]},
    "edits": [
        {"scale": {"modules": "mid_block*", "factor": 0.5}},
        {"mix_noise": {"modules": "conv_out", "amount": "$amount"}},
    ],
}


@pytest.fixture
def start(build: Build, run: Run) -> Path:
    """A cell whose edits are drawn from a seed of its own."""
    result = run(build(perturbation_seed=7, edits=NOISE), "start")
    return next(cell.path for cell in result if not cell.is_baseline)


def test_edits_of_a_recipe_come_on_top_of_those_of_a_cell(
    start: Path, build: Build, run: Run
) -> None:
    result = run(build(base=str(start), **AMOUNTS))
    first = read_record(start)["edits"]
    for cell in result:
        if not cell.is_baseline:
            record = cell.record()
            assert record["edits"][: len(first)] == first
            assert [edit["op"] for edit in record["edits"][1:2]] == ["scale"]
            assert record["perturbation_seed"] == 7
            assert replay_cell(cell.path, pipeline=ablate.Pipeline.load(
                record["model"]["id"], device="cpu", dtype="float32")).is_alike  # fmt: skip
    written = run(
        build(perturbation_seed=7, axes=AMOUNTS["axes"], edits=[*NOISE, *AMOUNTS["edits"]]), "all"
    )
    assert result.store.keys() == written.store.keys()


def test_where_a_recipe_adds_nothing_it_is_that_cell(start: Path, build: Build, run: Run) -> None:
    result = run(build(base=str(start), edits=[{"scale": {"modules": "*", "factor": 1}}]))
    (edited,) = (cell for cell in result if not cell.is_baseline)
    assert edited.key == start.stem
    assert edited.path.read_bytes() == start.read_bytes() or np.array_equal(
        np.asarray(edited.image()), np.asarray(Image.open(start).convert("RGB"))
    )


def test_its_run_goes_on_without_the_file_it_came_from(
    start: Path, tiny: Pipeline, tiny_folder: Path, tmp_path: Path
) -> None:
    beside = tmp_path / "recipes"
    beside.mkdir()
    (beside / "start.png").write_bytes(start.read_bytes())
    file = beside / "on.yaml"
    file.write_text(
        f"version: 1\nname: goes-on\nmodel: {tiny_folder}\ndtype: float32\nbase: start.png\n"
        "sampling: {num_inference_steps: 2}\naxes: {amount: [0.2, 0.4]}\n"
        "edits: [{mix_noise: {modules: conv_out, amount: $amount}}]\n"
    )
    first = ablate.run(file, tmp_path / "on", pipeline=tiny)
    (beside / "start.png").unlink()
    start.unlink()
    moved = (tmp_path / "on").rename(tmp_path / "moved")
    assert "base: base.png" in (moved / "recipe.yaml").read_text()
    again = ablate.run(moved / "recipe.yaml", moved, pipeline=tiny)
    assert first.summary is not None
    assert again.summary is not None
    assert (first.summary.computed, again.summary.computed) == (3, 0)
    (moved / "cells" / f"{again[1].key}.png").unlink()
    third = ablate.run(moved / "recipe.yaml", moved, pipeline=tiny)
    assert third.summary is not None
    assert third.summary.computed == 1


def test_the_cell_of_another_model_is_refused(
    start: Path, build: Build, run: Run, bundled_pipeline: Pipeline, tmp_path: Path
) -> None:
    recipe = build(base=str(start), **AMOUNTS)
    with pytest.raises(RequestError, match=r"it is a cell of the weights sha256:.*same model"):
        ablate.run(recipe, tmp_path / "out", pipeline=bundled_pipeline)
    assert not list(tmp_path.glob("out/cells/*"))


def forged(start: Path, tmp_path: Path, **edit: Any) -> Path:
    """The same cell with another edit in its record."""
    record = read_record(start)
    record["edits"] = [record["edits"][0] | edit]
    with Image.open(start) as image:
        write_png(tmp_path / "forged.png", image.convert("RGB"), record, None)
    return tmp_path / "forged.png"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"modules": ["conv_inn"]}, "edits `conv_inn`, no module of this model, did you mean"),
        ({"component": "vae", "modules": ["conv_in"]}, "edits `conv_in`, no module"),
        ({"component": "../elsewhere"}, "`../elsewhere` is the name of no component"),
        ({"component": "prior"}, "prior"),
        ({"op": "blend", "amount": 0.5, "checkpoint": "/else/where"}, "blends with `/else/where`"),
        ({"op": "mine", "code": "0" * 32}, "no file is loaded that it comes from.*`ops:`"),
        ({"op": "nothing"}, "its record describes no cell"),
    ],
)
def test_a_record_asks_for_nothing_but_edits_of_the_model(
    edit: dict[str, Any], message: str, start: Path, build: Build, tmp_path: Path
) -> None:
    recipe = build(base=str(forged(start, tmp_path, **edit)), **AMOUNTS)
    with pytest.raises(RecipeError, match=re.compile(f"base: .*{message}", re.DOTALL)):
        plan(recipe)


def test_other_files_and_other_draws_are_refused(start: Path, build: Build, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    Image.new("RGB", (8, 8)).save(picture)
    for name, message in ((str(picture), "not written by ablate"), ("none.png", "none.png")):
        with pytest.raises(RecipeError, match=f"base: .*{message}"):
            plan(build(base=name, **AMOUNTS))
    for keys, key in (
        ({"perturbation_seed": 3}, "perturbation_seed"),
        ({"axes": AMOUNTS["axes"] | {"perturbation_seed": [0, 1]}}, "axes.perturbation_seed"),
    ):
        with pytest.raises(RecipeError, match=f"{key}: .*drawn from 7; leave it out"):
            plan(build(base=str(start), **(AMOUNTS | keys)))
