"""Small image encoders with random weights, saved as transformers saves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from encoders import clip_tokenizer

SIDE = 32


def save_dinov2(folder: Path, **options: Any) -> Path:
    """DINOv2 of two layers: vectors of 24 numbers."""
    config = transformers.Dinov2Config(**_sizes(24, layer_norm_eps=1e-6, **options))
    return _saved(folder, transformers.Dinov2Model, config, "BitImageProcessor", crop_size=SIDE)


def save_vit(folder: Path) -> Path:
    """A classifier, which has no weights for a pooled output."""
    config = transformers.ViTConfig(**_sizes(16))
    return _saved(folder, transformers.ViTForImageClassification, config, "ViTImageProcessor")


def save_masked(folder: Path) -> Path:
    """An autoencoder that hides patches at random."""
    config = transformers.ViTMAEConfig(**_sizes(16))
    return _saved(folder, transformers.ViTMAEModel, config, "ViTImageProcessor")


def save_patches(folder: Path) -> Path:
    """I-JEPA, which gives a vector for each patch and none for the image."""
    config = transformers.IJepaConfig(**_sizes(16))
    return _saved(
        folder, transformers.IJepaModel, config, "ViTImageProcessor", add_pooling_layer=False
    )


def save_siglip(folder: Path) -> Path:
    """SigLIP with the tokenizer of the bundled model: vectors of 16 numbers."""
    tokenizer = clip_tokenizer()
    text = {
        "vocab_size": len(tokenizer), "max_position_embeddings": 24, "pad_token_id": 1,
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "projection_size": 16,
    }  # fmt: skip
    config = transformers.SiglipConfig(text_config=text, vision_config=_sizes(16))
    tokenizer.save_pretrained(folder)
    return _saved(folder, transformers.SiglipModel, config, "SiglipImageProcessor")


def _sizes(width: int, **more: Any) -> dict[str, Any]:
    return {
        "hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": 2,
        "num_attention_heads": 2, "image_size": SIDE, "patch_size": 8, **more,
    }  # fmt: skip


def _saved(
    folder: Path, kind: Any, config: Any, processor: str, add_pooling_layer: bool = True,
    **preprocessing: Any,
) -> Path:  # fmt: skip
    torch.manual_seed(0)
    more = {} if add_pooling_layer else {"add_pooling_layer": False}
    network = kind(config, **more)
    with torch.no_grad():  # as random as after training: the initialization gives almost one vector
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    network.save_pretrained(folder)
    prepares = {
        "image_processor_type": processor, "do_resize": True, "do_normalize": True,
        "size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        **preprocessing,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(prepares), encoding="utf-8")
    return folder
