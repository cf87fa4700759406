"""Kinds of models and additions that were once read wrongly, or not at all, without a word."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import families
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ablate import bundled
from ablate.drift.clip import check_reader
from ablate.models.errors import ModelError
from ablate.models.folders import check_model
from ablate.models.source import Lora, Source
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.sampling.settings import Sampling


def load(model: str, **options: object) -> Pipeline:
    return Pipeline.load(model, device="cpu", dtype="float32", **options)  # type: ignore[arg-type]


def lora_of(parts: dict[str, torch.nn.Module | int], file: Path) -> Path:
    """A LoRA of rank 2 on some linear layers, by their paths; a number is a layer's size."""
    tensors: dict[str, Tensor] = {}
    for path, layer in parts.items():
        wide, deep = (layer,) * 2 if isinstance(layer, int) else layer.weight.shape
        tensors[f"{path}.lora_A.weight"] = torch.full((2, int(deep)), 0.1)
        tensors[f"{path}.lora_B.weight"] = torch.full((int(wide), 2), 0.1)
    save_file(tensors, file)
    return file


# ---------------------------------------------------------------- LoRAs

QUERY = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"


def test_a_lora_of_which_a_part_does_not_fit_is_refused(
    tiny: Pipeline, tiny_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    layer = tiny.denoiser.get_submodule(QUERY)
    parts = {f"unet.{QUERY}": layer, "unet.mid_block.attentions.7.proj": 4}
    file = lora_of(parts, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match=r"has no 1 module of those|cannot be added") as error:
        load(str(tiny_folder), lora=[Lora(str(file))])
    assert str(file) in str(error.value)


@pytest.mark.slow
def test_both_halves_of_a_lora_of_flux_are_added(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    folder = families.save("flux", tmp_path)
    before = load(str(folder))
    paths = {
        "transformer": "transformer_blocks.0.attn.to_q",
        "text_encoder": "text_model.encoder.layers.0.self_attn.q_proj",
    }
    known = dict(before.pipe.text_encoder.named_modules())
    if paths["text_encoder"] not in known:
        paths["text_encoder"] = paths["text_encoder"].removeprefix("text_model.")
    layers = {n: getattr(before.pipe, n).get_submodule(path) for n, path in paths.items()}
    file = lora_of({f"{n}.{paths[n]}": layers[n] for n in paths}, tmp_path / "a.safetensors")
    after = load(str(folder), lora=[Lora(str(file))])
    for name, path in paths.items():
        changed = getattr(after.pipe, name).get_submodule(path).weight - layers[name].weight
        torch.testing.assert_close(changed, torch.full_like(changed, 0.02), msg=name)


# ---------------------------------------------------------------- parts that are null


@pytest.mark.slow
def test_stable_diffusion_3_without_t5_is_loaded_and_sampled(tmp_path: Path) -> None:
    pipe = families.FAMILIES["sd3"]()
    pipe.register_modules(text_encoder_3=None, tokenizer_3=None)
    pipe.save_pretrained(tmp_path / "sd3")
    check_model(Source(str(tmp_path / "sd3")))
    pipeline = load(str(tmp_path / "sd3"))
    settings = pipeline.settings(Sampling(num_inference_steps=1))
    image = pipeline.sample([Request("a cat", 0)], settings).images
    assert image.shape[0] == 1
    assert image.std() > 0


# ---------------------------------------------------------------- packed weights


def test_a_single_file_of_scaled_weights_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    name = "model.diffusion_model.input_blocks.0.0"
    weights = torch.ones(4, 4).to(torch.float8_e4m3fn)
    save_file(
        {f"{name}.weight": weights, f"{name}.scale_weight": torch.ones(1)},
        tmp_path / "a.safetensors",
    )
    source = Source(str(tmp_path / "a.safetensors"), config=str(tiny_folder))
    with pytest.raises(ModelError, match=r"scaled or quantized weights \(`.*scale_weight`\)"):
        check_model(source)


@pytest.mark.parametrize(
    "config",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        {"quant_method": "torchao", "quant_type": "int8wo"},
        {"quant_method": "gguf", "compute_dtype": "bfloat16"},
    ],
    ids=lambda config: str(config["quant_method"]),
)
def test_quantized_folders_are_refused(
    config: dict[str, object], tiny_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "packed"))
    file = folder / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": config}))
    with pytest.raises(ModelError, match=r"config\.json has a `quantization_config`: weights"):
        check_model(Source(str(folder)))


# ---------------------------------------------------------------- what reads the images


def damaged_clip(folder: Path, tiny_folder: Path) -> Path:
    """A sound model with a CLIP model beside it whose weights are cut off; their file."""
    shutil.copytree(tiny_folder, folder)
    shutil.copytree(bundled.FOLDER / "clip", folder / "clip")
    file = folder / "clip" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    return file


def test_a_damaged_clip_beside_a_sound_model_is_named(tiny_folder: Path, tmp_path: Path) -> None:
    file = damaged_clip(tmp_path / "model", tiny_folder)
    with pytest.raises(ModelError) as error:
        check_reader(str(tmp_path / "model"), None)
    assert str(file) in str(error.value)


def test_a_clip_without_its_text_side_is_refused(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bundled.FOLDER / "clip", tmp_path / "clip"))
    tensors = load_file(folder / "model.safetensors")
    images = {name: tensor for name, tensor in tensors.items() if not name.startswith("text")}
    save_file(images, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks \d+ tensors .*`text_model"):
        check_reader("bundled", str(folder))
    with pytest.raises(ModelError, match="there is no CLIP model"):
        check_reader("bundled", str(tmp_path / "none"))
