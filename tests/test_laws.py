"""The laws of the design for whole runs, as seen in files and pixels.

Laws 1 and 2 are tested in `tests/edits`, law 6 in `tests/engine/test_resume.py`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from swept import strength

from ablate import lab
from ablate.drift.measure import MeasuredCell
from ablate.edits.in_place import applied
from ablate.edits.noise import NoiseCache
from ablate.edits.registry import OPS
from ablate.edits.variants import Edit, Variant
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.store.files import StoreError
from ablate.store.png import read_record

pytestmark = pytest.mark.usefixtures("without_report")

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]
CONV = "mid_block.resnets.0.conv1"


def pixels(cell: MeasuredCell) -> np.ndarray:
    return np.asarray(cell.image(), dtype=int)


@pytest.fixture(scope="module")
def halved(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with other weights."""
    folder = shutil.copytree(tiny_folder, tmp_path_factory.mktemp("models") / "halved")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    save_file({name: weights / 2 for name, weights in load_file(file).items()}, file)
    return folder


def edit(op: str, model: Path, modules: str = "*") -> dict[str, dict[str, Any]]:
    """An edit as a recipe gives it, of the weights where they can be edited so."""
    of_outputs = ("mean", "resample", "identity", "input_mean")
    named = {
        "blend": {"with": str(model)},
        "swap": {"modules": "*.attn1.to_q", "with": "*.attn1.to_k"},
        **{name: {"where": "output", "modules": CONV} for name in of_outputs},
    }
    measure = {OPS[op].strength: strength(op, 0.3)} if OPS[op].strength else {}
    return {op: {"modules": modules, **measure, **named.get(op, {})}}


@pytest.mark.parametrize("place", ["weights", "output"])
def test_weights_are_as_loaded_after_a_run(
    place: str, build: Build, run: RunIt, tiny: Pipeline, halved: Path
) -> None:
    """Law 1, over a whole run with every op."""
    before = {k: v.clone() for k, v in tiny.network.state_dict().items()}
    edits = [edit(name, halved) for name, op in OPS.items() if op.places[0] == place]
    result = run(build(edits=edits))
    assert result.summary.computed == 2
    assert result.cells[1].drift["rmse"] > 0
    assert all(torch.equal(v, before[k]) for k, v in tiny.network.state_dict().items())


def test_the_initial_latent_depends_on_the_seed_alone(tiny: Pipeline, build: Build) -> None:
    """Law 3: with the denoiser silent, DDIM gives what the latent alone decides."""
    settings = tiny.settings(build(edits=[{"zero": {"modules": "*"}}]).sampling)
    silent = Variant("silent", (Edit.on(tiny.network, "zero", "*"),))
    with applied(tiny.network, silent):
        alone = tiny.sample([Request("a cat", 7)], settings).images
        among = tiny.sample([Request("a dog on a beach", s) for s in (3, 7, 9)], settings).images
    np.testing.assert_allclose(alone[0], among[1], atol=1e-5)
    assert np.abs(among[0] - among[1]).max() > 1e-3


@pytest.mark.parametrize("op", [name for name, op in OPS.items() if op.neutral is not None])
def test_strength_nought_is_the_baseline(
    op: str, build: Build, run: RunIt, tiny: Pipeline, halved: Path
) -> None:
    """Law 4, bit for bit when applied; a plan takes it for the baseline that it is."""
    measure, neutral = str(OPS[op].strength), OPS[op].neutral
    given = edit(op, halved)
    given[op][measure] = "$s"
    recipe = build(axes={"s": {"values": [neutral, 0.6]}}, edits=[given])
    settings, requests = tiny.settings(recipe.sampling), [Request("a cat", 0)]
    baseline = tiny.sample(requests, settings).images
    nothing = Edit.on(tiny.network, op, "*", neutral, checkpoint=given[op].get("with"))
    draws = NoiseCache(0, tiny.checkpoint)
    with applied(tiny.network, Variant("nought", (nothing,)), draws) as report:
        assert np.array_equal(tiny.sample(requests, settings).images, baseline)
    assert not report.changed
    nought, strong = run(recipe)
    assert nought.is_baseline
    assert nought.axes["s"] == neutral
    assert not np.array_equal(pixels(strong), pixels(nought))


def test_a_cell_alone_equals_the_same_cell_in_a_batch(build: Build, run: RunIt) -> None:
    """Law 5: at most 2/255 apart across batch sizes, the same bytes with the same."""
    recipe = build(seeds=[0, 1, 2, 3, 4], edits=[{"mix_noise": {"modules": "*", "amount": 0.2}}])
    alone = run(recipe, "alone", batch_size=1)
    batched = run(recipe, "batched", batch_size=5)
    again = run(recipe, "again", batch_size=5)
    for one, many, more in zip(alone, batched, again, strict=True):
        assert one.key == many.key
        assert np.abs(pixels(one) - pixels(many)).max() <= 2
        assert many.path.read_bytes() == more.path.read_bytes()


def test_a_png_tells_what_it_is(build: Build, run: RunIt, tmp_path: Path) -> None:
    """Law 7: under any file name."""
    recipe = build(
        prompts=['a "cat", <b>in</b> a party hat, 猫'],
        axes={"amount": {"values": [0.25]}},
        edits=[{"mix_noise": {"modules": "mid_block.*", "amount": "$amount"}}],
    )
    cell = run(recipe).cells[-1]
    renamed = shutil.copy(cell.path, tmp_path / "anything.png")
    record = read_record(Path(renamed))
    assert record["axes"] == {"prompt": recipe.prompts[0], "seed": 0, "amount": 0.25}
    (edit,) = record["edits"]
    assert edit["op"] == "mix_noise"
    assert edit["amount"] == 0.25
    assert all(path.startswith("mid_block.") for path in edit["modules"])
    assert record["condition"]["prompt"] == recipe.prompts[0]
    assert record["condition"]["sampling"]["num_inference_steps"] == 2
    assert record["model"]["fingerprint"].startswith("sha256:")
    assert record["dtype"] == "float32"
    assert set(record["versions"]) >= {"ablate", "torch", "diffusers"}
    with Image.open(cell.path) as image:
        text = image.text["parameters"]  # type: ignore[attr-defined]
    assert text.startswith(recipe.prompts[0])
    assert "Steps: 2, Sampler: DDIMScheduler, CFG scale: 5.0, Seed: 0, Size: 16x16" in text


def test_a_foreign_png_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "foreign.png")
    with pytest.raises(StoreError, match=r"foreign\.png: this image was not written by ablate"):
        read_record(tmp_path / "foreign.png")


def test_modules_that_never_ran_or_did_not_change_are_reported(
    build: Build, run: RunIt, tiny_folder: Path
) -> None:
    """Law 8: the encoder of the VAE never runs while sampling; some modules have no bias."""
    recipe = build(component="vae", edits=[{"zero": {"modules": "*"}}])
    vae = Pipeline.load(str(tiny_folder), component="vae", device="cpu", dtype="float32")
    quiet = run(recipe, pipeline=vae).summary.without_effect
    assert quiet["encoder.conv_in"] == "never ran"
    assert "decoder.conv_in" not in quiet
    no_bias = build(edits=[{"zero": {"modules": "re:attn1", "params": "bias"}}])
    quiet = run(no_bias, "no-bias").summary.without_effect
    keys = [path for path in quiet if path.endswith("to_k")]
    assert keys
    assert all(quiet[path] == "unchanged" for path in keys)
    assert not any(path.endswith("to_out.0") for path in quiet)


def test_nan_is_a_state_of_the_cell_not_an_error(build: Build, run: RunIt) -> None:
    recipe = build(edits=[{"scale": {"modules": "*", "factor": 1e30}}])
    result = run(recipe)
    baseline, broken = result
    assert result.summary.not_finite == 1
    assert (baseline.state, broken.state) == ("ok", "nan")
    assert broken.drift == {}
    assert (result.store.folder / "sheet.png").exists()
