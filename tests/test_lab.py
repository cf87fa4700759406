"""The public face: what a user of torch or diffusers tries first."""

from __future__ import annotations

import base64
import io
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

import ablate
from ablate import bundled
from ablate.lab import Keys
from ablate.messages import RequestError

SETTINGS = {"num_inference_steps": 3}


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return DiffusionPipeline.from_pretrained(bundled.FOLDER, dtype=torch.float32)


def draw(pipe: DiffusionPipeline) -> np.ndarray:
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    prompt = "a cat in a party hat"
    image = pipe(prompt, num_inference_steps=3, generator=generator).images[0]
    return np.asarray(image)


def test_an_edit_lasts_as_long_as_its_block(pipe: DiffusionPipeline) -> None:
    before = {name: tensor.clone() for name, tensor in pipe.unet.state_dict().items()}
    plain = draw(pipe)
    with ablate.edit(pipe.unet, "up_blocks.1.*attn2*", ablate.zero()):
        assert not pipe.unet.get_submodule(
            "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k"
        ).weight.any()
        changed = draw(pipe)
    assert (changed != plain).any()
    assert (draw(pipe) == plain).all()
    for name, tensor in pipe.unet.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_edits_of_any_network_and_several_at_once() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    weight = network[0].weight.clone()
    edits = (ablate.scale(factor=0.5, params="weight"), ablate.zero(params="bias"))
    with ablate.edit(network, "kind=Linear", *edits):
        assert torch.equal(network[0].weight, weight * 0.5)
        assert not network[2].bias.any()
    with suppress(ZeroDivisionError), ablate.edit(network, "kind=Linear", *edits):
        raise ZeroDivisionError
    assert torch.equal(network[0].weight, weight)


def test_a_selector_that_matches_nothing_is_a_sentence() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(4, 4))
    with (
        pytest.raises(ablate.RecipeError, match="matches"),
        ablate.edit(network, "convv", ablate.zero()),
    ):
        pass


@pytest.fixture(scope="module")
def result(pipe: DiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> ablate.Result:
    return ablate.run(
        pipe,
        tmp_path_factory.mktemp("run") / "out",
        prompts=["a cat in a party hat"],
        seeds=range(2),
        sampling=SETTINGS,
        axes={"stage": ablate.group(by="stage"), "amount": np.array([0, 0.2])},
        edits=[ablate.mix_noise(modules="$stage", amount="$amount")],
    )


def test_a_pipeline_that_is_loaded_runs_and_stays_as_it_is(
    pipe: DiffusionPipeline, result: ablate.Result
) -> None:
    """The baseline is what the same weights give through a recipe on their folder."""
    assert pipe.vae.decoder.conv_in.weight.is_contiguous()
    assert len(result) == 2 * 2 * 5
    assert result.summary is not None
    recipe = ablate.Recipe.build(
        {"version": 1, "name": "plain", "model": str(bundled.FOLDER), "dtype": "float32",
         "sampling": SETTINGS, "edits": [ablate.scale(modules="*", factor=1.0)]}
    )  # fmt: skip
    other = ablate.run(recipe, result.store.folder.parent / "other", device="cpu")
    ours = next(cell for cell in result if cell.is_baseline and cell.seed == 0)
    difference = np.asarray(ours.image(), int) - np.asarray(other[0].image(), int)
    assert abs(difference).max() <= 2  # which the memory format of the decoder may cause
    record = ours.record()
    assert record["model"]["id"] == str(bundled.FOLDER)
    assert record["model"]["fingerprint"].startswith("weights:")


def test_another_weight_is_another_fingerprint(pipe: DiffusionPipeline) -> None:
    first = ablate.Pipeline.of(pipe).fingerprint
    assert ablate.Pipeline.of(pipe).fingerprint == first
    with ablate.edit(pipe.unet, "conv_in", ablate.scale(factor=0.5)):
        assert ablate.Pipeline.of(pipe).fingerprint != first


def test_the_table_groups_by_axes(result: ablate.Result) -> None:
    table = result.table()
    assert len(table) == len(result)
    means = table.groupby("stage")["rmse"].mean()
    assert set(means.index) == {"in", "down", "mid", "up", "out"}
    zero = table[table["amount"] == 0]
    assert (zero["rmse"] == 0).all()
    assert means["up"] > 0


def test_without_pandas_a_table_is_refused_in_a_sentence(
    result: ablate.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(RequestError, match="pip install pandas"):
        result.table()


def test_notebooks_show_runs_results_and_cells(result: ablate.Result) -> None:
    for shown in (result, result.store, ablate.open(result.store.folder)):
        page = shown._repr_html_()
        assert "12 of 12 cells finished" in page  # equal ones are one
        _, _, data = page.partition("base64,")
        with Image.open(io.BytesIO(base64.b64decode(data.partition('"')[0]))) as sheet:
            assert sheet.width > 200
    with Image.open(io.BytesIO(result[0]._repr_png_())) as image:
        assert image.size == result[0].image().size


def test_a_run_is_opened_later(result: ablate.Result) -> None:
    opened = ablate.open(result.store.folder)
    assert [cell.key for cell in opened] == [cell.key for cell in result]
    assert opened.summary is None
    with pytest.raises(RequestError, match="is not a run"):
        ablate.open(result.store.folder / "cells")


def test_a_recipe_file_runs_with_other_values(tmp_path: Path) -> None:
    file = Path(__file__).parent.parent / "recipes" / "quickstart.yaml"
    ours = ablate.run(file, tmp_path / "run", limit=2, seeds=[7], sampling=SETTINGS)
    assert {cell.seed for cell in ours} == {7}


def test_what_is_no_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="int is no pipeline"):
        ablate.run(3, tmp_path)
    recipe = ablate.Recipe.build(
        {"version": 1, "name": "x", "seeds": [0, 1], "edits": [ablate.zero(modules="*")]}
    )
    with pytest.raises(ablate.RecipeError, match=r"cells .*, more than 1"):
        ablate.run(recipe, tmp_path, max_cells=1)
    with pytest.raises(TypeError, match="a recipe is complete"):
        ablate.run(recipe, tmp_path, seeds=[1])


def test_the_keys_of_a_run_are_keys_of_recipes() -> None:
    """All but those of the model, which a loaded pipeline has, and of the file."""
    of_the_model = {"model", "revision", "variant", "config", "lora", "offload", "dtype", "compile"}
    known = {field.alias or name for name, field in ablate.Recipe.model_fields.items()}
    assert set(Keys.__annotations__) == known - of_the_model - {"version", "ops"}


def test_numbers_of_numpy_are_numbers() -> None:
    axes = {"amount": {"values": [np.float64(0.1), np.float32(0.5)]}, "seed": list(np.arange(2))}
    data = {"version": 1, "name": "x", "axes": axes,
            "edits": [ablate.mix_noise(modules="*", amount="$amount")]}  # fmt: skip
    assert [axis.values for axis in ablate.plan(ablate.Recipe.build(data)).axes][1:] == [
        (0.1, 0.5),
        (0, 1),
    ]


@pytest.mark.slow  # as the checker starts with all libraries, without a cache
def test_the_package_is_typed() -> None:
    assert (Path(ablate.__file__).parent / "py.typed").exists()
    program = (
        "import ablate\n"
        "from pathlib import Path\n"
        "result = ablate.run(Path('r.yaml'), seeds=range(3))\n"
        "reveal_type(result)\n"
        "reveal_type(ablate.zero(modules='*'))\n"
        "ablate.zero(modls='*')\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file=", "--ignore-missing-imports",
         "--follow-imports=silent", "-c", program],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent,
    )  # fmt: skip
    assert 'Revealed type is "ablate.lab.Result"' in done.stdout
    assert "dict[str, Any]" in done.stdout
    assert 'Unexpected keyword argument "modls"' in done.stdout
