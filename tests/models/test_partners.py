"""Models to blend with: what fits is taken, and what does not is refused before anything runs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from diffusers import UNet2DConditionModel
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextModel

from ablate.cli.main import main
from ablate.models.weights import weights_of

UNET = "unet/diffusion_pytorch_model.safetensors"
PROJECTION = "down_blocks.0.attentions.0.proj_in"
RECIPE = """version: 1
name: blended
model: {model}
dtype: float32
prompts: [a cat]
seeds: [0]
sampling: {{num_inference_steps: 1}}
edits: [{{blend: {{modules: {modules}, amount: 0.5, with: {partner}}}}}]
"""


@pytest.fixture
def partner(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model whose weights are twice as large."""
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "partner"))
    save(folder, {name: 2 * tensor for name, tensor in load_file(folder / UNET).items()})
    return folder


def save(folder: Path, tensors: dict[str, Tensor], name: str = UNET) -> None:
    save_file(tensors, folder / name, {"format": "pt"})


def with_linear_projections(folder: Path) -> None:
    """Give a model projections of the same size, but of another shape."""
    config = folder / "unet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"use_linear_projection": True}))
    save(folder, {
        name: tensor[:, :, 0, 0].clone() if "proj_" in name and tensor.ndim == 4 else tensor
        for name, tensor in load_file(folder / UNET).items()
    })  # fmt: skip


def check(model: Path, partner: object, folder: Path, modules: str = "conv_in") -> tuple[int, str]:
    recipe = folder / "r.yaml"
    text = RECIPE.format(model=model, partner=partner, modules=modules)
    recipe.write_text(text, encoding="utf-8")
    done = CliRunner().invoke(main, ["check", str(recipe)])
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output.replace("\n", " ")


def test_weights_of_one_variant_alone_are_blended_in(
    partner: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    tensors = load_file(partner / UNET)
    (partner / UNET).unlink()
    half = {name: tensor.half() for name, tensor in tensors.items()}
    save(partner, half, UNET.replace(".safetensors", ".fp16.safetensors"))
    assert check(tiny_folder, partner, tmp_path)[0] == 0
    weights = weights_of(str(partner), "unet")
    assert torch.equal(weights["conv_in.weight"], half["conv_in.weight"])


def test_a_partner_of_another_shape_is_refused_where_it_is_blended_in(
    partner: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    with_linear_projections(partner)
    code, output = check(tiny_folder, partner, tmp_path, "'*.proj_in'")
    assert code == 2
    assert f"`{PROJECTION}.weight` first: it has the shape [16, 16, 1, 1]" in output
    assert check(tiny_folder, partner, tmp_path, "conv_in")[0] == 0


def test_a_partner_with_a_damaged_component_is_refused_only_if_it_is_blended_in(
    partner: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    (partner / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    assert check(tiny_folder, partner, tmp_path)[0] == 0
    (partner / UNET).write_bytes((partner / UNET).read_bytes()[:-100])
    code, output = check(tiny_folder, partner, tmp_path)
    assert code == 2
    assert f"{partner / UNET} has " in output


def test_two_sets_of_weights_are_blended_as_they_are_loaded(partner: Path) -> None:
    """Of networks of diffusers shards are read, of those of transformers the single file."""
    shard = "shard-00001-of-00001.safetensors"
    for name in (UNET, "text_encoder/model.safetensors"):
        file = partner / name
        tensors = load_file(file)
        shards = {key: tensor + 1 for key, tensor in tensors.items()}
        save_file(shards, file.parent / shard, {"format": "pt"})
        index = {"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}
        (file.parent / f"{file.name}.index.json").write_text(json.dumps(index))

    for part, kind in (("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel)):
        loaded = kind.from_pretrained(partner / part).state_dict()
        weights = weights_of(str(partner), part)
        for name in [n for n in loaded if n.endswith("weight")][:3]:
            assert torch.equal(weights[name], loaded[name])


def test_tensors_of_older_names_are_blended_as_they_are_loaded(
    partner: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    file = partner / "vae" / "diffusion_pytorch_model.safetensors"
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = load_file(file)
    names = {name: name for name in tensors}
    for new, old in older.items():
        names = {name: stored.replace(f".{new}.", f".{old}.") for name, stored in names.items()}
    assert sum(name != stored for name, stored in names.items()) == 16
    save_file({stored: tensors[name] for name, stored in names.items()}, file, {"format": "pt"})
    modules = "'*.to_q', component: vae"
    assert check(tiny_folder, partner, tmp_path, modules)[0] == 0
    weights = weights_of(str(partner), "vae")
    assert all(torch.equal(weights[name], tensor) for name, tensor in tensors.items())


def test_a_hub_model_is_blended_from_the_cache(
    partner: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, commit = tmp_path / "hub", "0" * 40
    stored = cache / "models--someone--blended"
    shutil.copytree(partner, stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    weights = weights_of("someone/blended", "unet")
    assert torch.equal(weights["conv_in.weight"], load_file(partner / UNET)["conv_in.weight"])
