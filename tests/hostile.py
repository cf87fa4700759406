"""Folders of models as strangers may have written them: a tiny sound one, damaged in one way each.

>>> for name, damage in DAMAGES.items():
...     damage(copied(sound))
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Damage = Callable[[Path], None]
UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
WEIGHTS = (UNET, VAE, TEXT)
HUGE = 10**9
DAMAGES: dict[str, Damage] = {}


def _set(file: str, *path: str, value: Any) -> Damage:
    """Replace one value of a JSON file."""

    def damage(folder: Path) -> None:
        data = json.loads((folder / file).read_text())
        inner = data
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
        (folder / file).write_text(json.dumps(data))

    return damage


def _write(file: str, content: bytes | str) -> Damage:
    def damage(folder: Path) -> None:
        data = content.encode() if isinstance(content, str) else content
        (folder / file).write_bytes(data)

    return damage


def _instead(file: str, make: Callable[[Path], object]) -> Damage:
    """Put something else in the place of a file."""

    def damage(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return damage


def _bytes(file: str, change: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        (folder / file).write_bytes(change((folder / file).read_bytes()))

    return damage


def _header(change: Callable[[dict[str, Any]], None], file: str) -> Damage:
    """Change the header of a safetensors file, not its tensors."""

    def changed(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])
        change(header)
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return _bytes(file, changed)


def _tensors(change: Callable[[dict[str, torch.Tensor]], object], file: str) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / file)
        change(tensors)
        save_file(tensors, folder / file, {"format": "pt"})

    return damage


def _first(tensors: dict[str, Any]) -> str:
    return next(name for name in sorted(tensors) if name != "__metadata__")


def _entry(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(header: dict[str, Any]) -> None:
        header[_first(header)][key] = value

    return change


def _shards(index: Any) -> Damage:
    def damage(folder: Path) -> None:
        text = index if isinstance(index, str) else json.dumps(index)
        (folder / f"{UNET}.index.json").write_text(text)

    return damage


# ---------------------------------------------------------------- configurations

for name, content in {
    "empty": "", "a list": "[]", "a number": "7", "null": "null", "cut off": '{"a": ',
    "nested": "[" * 100_000, "NaN": '{"sample_size": NaN}', "no UTF-8": b"\xff\xfe{}",
    "of many bytes": b" " * (2**23), "a long integer": '{"sample_size": ' + "9" * 5000 + "}",
}.items():  # fmt: skip
    for file in ("model_index.json", "unet/config.json", "scheduler/scheduler_config.json",
                 "text_encoder/config.json"):  # fmt: skip
        DAMAGES[f"{file} {name}"] = _write(file, content)

for key, value in {
    "sample_size": HUGE, "in_channels": HUGE, "out_channels": HUGE, "layers_per_block": HUGE,
    "block_out_channels": [HUGE, HUGE], "cross_attention_dim": HUGE, "attention_head_dim": HUGE,
    "norm_num_groups": 0, "transformer_layers_per_block": 10**6, "num_attention_heads": 10**6,
    "down_block_types": ["Nothing"] * 2, "up_block_types": 5, "act_fn": {"a": []},
    "time_embedding_type": "none of them", "mid_block_type": "x" * 10**5, "flip_sin_to_cos": None,
}.items():  # fmt: skip
    DAMAGES[f"unet {key}"] = _set("unet/config.json", key, value=value)
DAMAGES["unet blocks by the hundred thousand"] = _set(
    "unet/config.json", "down_block_types", value=["DownBlock2D"] * 10**5
)
for negative in ("sample_size", "in_channels", "layers_per_block"):
    DAMAGES[f"unet {negative} negative"] = _set("unet/config.json", negative, value=-1)
    DAMAGES[f"unet {negative} text"] = _set("unet/config.json", negative, value="four")
for key in ("latent_channels", "block_out_channels", "layers_per_block"):
    DAMAGES[f"vae {key}"] = _set("vae/config.json", key, value=HUGE)
for key in ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size",
            "max_position_embeddings", "intermediate_size"):  # fmt: skip
    DAMAGES[f"text encoder {key}"] = _set("text_encoder/config.json", key, value=HUGE)
DAMAGES["text encoder model_type"] = _set("text_encoder/config.json", "model_type", value="nope")
DAMAGES["text encoder another"] = _set("text_encoder/config.json", "model_type", value="t5")
for key, value in {"num_train_timesteps": HUGE, "beta_schedule": "none", "beta_start": "x"}.items():
    DAMAGES[f"scheduler {key}"] = _set("scheduler/scheduler_config.json", key, value=value)

# ---------------------------------------------------------------- classes

for value in ("os", "DDIMScheduler", "UNet2DConditionModel", "NoSuchPipeline", 5, None,
              ["own_pipeline", "Own"], {"a": 1}, "__class__", ""):  # fmt: skip
    DAMAGES[f"pipeline {value}"] = _set("model_index.json", "_class_name", value=value)
for value in (["os", "system"], ["own_module", "Own"], ["diffusers", "utils"], ["diffusers"], "x",
              ["transformers", "Trainer"], ["builtins", "eval"], ["diffusers", 3], [],
              ["diffusers", "FluxTransformer2DModel"], [None, "x"]):  # fmt: skip
    DAMAGES[f"unet class {value}"] = _set("model_index.json", "unet", value=value)
    if value:
        DAMAGES[f"vae class {value}"] = _set("model_index.json", "vae", value=value)
for value in ("os", "Trainer", "DDIMScheduler", "UNet3DConditionModel", ["a"], None):
    DAMAGES[f"unet config class {value}"] = _set("unet/config.json", "_class_name", value=value)
for method in ("bitsandbytes", "torchao", "gguf", "quanto"):
    DAMAGES[f"quantized {method}"] = _set(
        "unet/config.json", "quantization_config", value={"quant_method": method}
    )

# ---------------------------------------------------------------- weights

for file in WEIGHTS:
    part = file.partition("/")[0]
    DAMAGES |= {
        f"{part} empty": _write(file, b""),
        f"{part} cut off": _bytes(file, lambda data: data[: len(data) // 2]),
        f"{part} header cut off": _bytes(file, lambda data: data[:40]),
        f"{part} header longer than the file": _bytes(
            file, lambda data: struct.pack("<Q", 2**60) + data[8:]
        ),
        f"{part} header no JSON": _bytes(file, lambda data: data[:8] + b"?" * 64 + data[72:]),
        f"{part} text": _write(file, "version https://git-lfs.github.com/spec/v1\n"),
        f"{part} a folder": _instead(file, Path.mkdir),
        f"{part} a pipe": _instead(file, os.mkfifo),
        f"{part} a link to nothing": _instead(file, lambda path: path.symlink_to("gone")),
        f"{part} a link out": _instead(file, lambda path: path.symlink_to("/etc/hostname")),
        f"{part} missing": _instead(file, lambda path: None),
        f"{part} folder missing": lambda folder, part=part: (  # type: ignore[misc]
            (folder / part).rename(folder / "elsewhere") and None
        ),
        f"{part} a tensor missing": _tensors(lambda t: [t.pop(_first(t))], file),
        f"{part} another shape": _tensors(
            lambda t: t.update({_first(t): torch.zeros(3, 5, 7)}), file
        ),
        f"{part} NaN": _tensors(lambda t: [t[_first(t)].fill_(float("nan"))], file),
        f"{part} infinity": _tensors(lambda t: [t[_first(t)].fill_(float("inf"))], file),
        f"{part} packed": _tensors(
            lambda t: t.update({_first(t): t[_first(t)].to(torch.uint8)}), file
        ),
        f"{part} scaled": _tensors(
            lambda t: t.update({f"{_first(t)}.scale_weight": torch.ones(1)}), file
        ),
        f"{part} dtype": _header(_entry("dtype", "F3"), file),
        f"{part} dtype of another size": _header(_entry("dtype", "F64"), file),
        f"{part} offsets past the end": _header(_entry("data_offsets", [0, 2**40]), file),
        f"{part} offsets of text": _header(_entry("data_offsets", "all"), file),
        f"{part} shape negative": _header(_entry("shape", [-4, -4]), file),
        f"{part} shape of 10^9": _header(_entry("shape", [HUGE, HUGE]), file),
    }
DAMAGES |= {
    "index no mapping": _shards([1]),
    "index without tensors": _shards({"weight_map": {}}),
    "index cut off": _shards("{"),
    "index of another folder": _shards({"weight_map": {"conv_in.weight": f"../{VAE}"}}),
    "index of an absolute file": _shards({"weight_map": {"conv_in.weight": "/etc/passwd"}}),
    "index of a missing file": _shards({"weight_map": {"conv_in.weight": "a.safetensors"}}),
    "index of a pickle": _shards({"weight_map": {"conv_in.weight": "a.bin"}}),
    "index of numbers": _shards({"weight_map": {"conv_in.weight": 3}}),
    "index of another tensor": _shards({"weight_map": {"x": Path(UNET).name}}),
}

# ---------------------------------------------------------------- tokenizers, and the whole

TOKENIZER = "tokenizer/tokenizer.json"
for name, content in {
    "empty": "", "a list": "[]", "cut off": '{"model": ', "another": '{"model": {"type": "x"}}',
    "no UTF-8": b"\xff\xfe\x00", "nested": "[" * 10**5,
}.items():  # fmt: skip
    DAMAGES[f"tokenizer {name}"] = _write(TOKENIZER, content)
    DAMAGES[f"tokenizer_config {name}"] = _write("tokenizer/tokenizer_config.json", content)
DAMAGES |= {
    "tokenizer missing": _instead(TOKENIZER, lambda path: None),
    "tokenizer a pipe": _instead(TOKENIZER, os.mkfifo),
    "tokenizer no vocabulary": _set(TOKENIZER, "model", "vocab", value={}),
    "tokenizer garbage merges": _set(TOKENIZER, "model", "merges", value=["a", 3]),
    "tokenizer class": _set("tokenizer/tokenizer_config.json", "tokenizer_class", value="Own"),
    "index missing": _instead("model_index.json", lambda path: None),
    "index a pipe": _instead("model_index.json", os.mkfifo),
    "config a pipe": _instead("unet/config.json", os.mkfifo),
    "config missing": _instead("unet/config.json", lambda path: None),
    "config a link out": _instead("unet/config.json", lambda path: path.symlink_to("/etc/passwd")),
    "tokenizer without files": lambda folder: (
        [file.unlink() for file in (folder / "tokenizer").iterdir()] and None
    ),
}
# What harms nothing: null is as good as false there; and the classes that model_index.json names
# read the files, whatever else these say of their kind.
HARMLESS = {"unet flip_sin_to_cos", "text encoder another", "tokenizer class"}
# What loading alone shows: the headers are sound.
LOADED = {name for name in DAMAGES if name.endswith((" NaN", " infinity")) and ".json" not in name}
LOADED |= {"scheduler beta_schedule", "scheduler beta_start", "tokenizer_config another"}
# The part of a model that a sentence names, by the first word of a damage where it is another.
PARTS = {
    "text": "text_encoder", "pipeline": "model_index.json", "tokenizer_config": "tokenizer",
    "quantized": "unet/config.json", "config": "unet/config.json",
}  # fmt: skip
