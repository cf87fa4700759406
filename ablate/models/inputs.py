"""Inputs that fit a network's configuration, so that it runs once on the meta device.

One table by parameter names of `forward`, as in diffusers and transformers, and one with the
exceptions of some classes. Tensors have no values: only their shapes have to be right.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ablate.messages import articled

SIDE = 64  # pixels of an image into an autoencoder, and tokens of a packed latent image of 1024
TOKENS = 77  # of CLIP, and wherever a family is not known to take more
# Text tokens in a family's pipeline, and the side of a latent image of 1024 pixels where the
# configuration has none.
LENGTHS = {
    "SD3Transformer2DModel": 333, "FluxTransformer2DModel": 512, "Flux2Transformer2DModel": 512,
    "ChromaTransformer2DModel": 512, "PixArtTransformer2DModel": 300,
    "SanaTransformer2DModel": 300, "QwenImageTransformer2DModel": 512,
    "ZImageTransformer2DModel": 512, "Lumina2Transformer2DModel": 256,
    "AuraFlowTransformer2DModel": 256, "CogView4Transformer2DModel": 224, "Kandinsky3UNet": 128,
}  # fmt: skip
SIDES = {"Kandinsky3UNet": 128, "ZImageTransformer2DModel": 128, "StableCascadeUNet": 24}
# Widths of the text's features: the first key that a configuration has.
WIDTHS = (
    "joint_attention_dim", "caption_channels", "text_embed_dim", "cap_feat_dim", "encoder_hid_dim",
    "cross_attention_dim", "embedding_dim",
)  # fmt: skip


@dataclass(frozen=True)
class Shapes:
    """The configuration of a network, and tensors of shapes that follow from it.

    Attributes:
        network: The network.
        rows: The rows of the batch.
    """

    network: nn.Module
    rows: int

    def get(self, key: str, default: Any = None) -> Any:
        """A value of the configuration, `default` where it has none."""
        config: Any = self.network.config
        value = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
        return default if value is None else value

    def __getitem__(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise KeyError(f"the configuration of {articled(self.kind)} has no `{key}`")
        return value

    @property
    def kind(self) -> str:
        return type(self.network).__name__

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        return inspect.signature(self.network.forward).parameters

    @property
    def is_autoencoder(self) -> bool:
        return hasattr(self.network, "decoder") or "latent_channels" in getattr(
            self.network, "config", {}
        )

    @property
    def side(self) -> tuple[int, int]:
        """Height and width of the latent image at the model's default size."""
        size = SIDES.get(self.kind) or self.get("sample_size", 64)
        return (size, size) if isinstance(size, int) else (size[0], size[1])

    @property
    def length(self) -> int:
        return LENGTHS.get(self.kind) or int(
            self.get("num_embeddings", self.get("text_len", TOKENS))
        )

    @property
    def width(self) -> int:
        width = next(value for key in WIDTHS if (value := self.get(key)) is not None)
        return int(width if isinstance(width, int) else width[0])

    def tensor(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device="meta")

    def batch(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.tensor(self.rows, *shape, dtype=dtype)


def inputs_of(network: nn.Module, rows: int = 1) -> dict[str, Any] | None:
    """Keyword arguments of `network.forward` on the meta device.

    Denoisers get latents of the model's default size (1024 pixels where its configuration has none)
    and as many text tokens as their pipelines pad to; autoencoders and text encoders, for which the
    size is irrelevant here, small ones. None if the network has no configuration, or a parameter
    without default that is in no table.
    """
    if not hasattr(network, "config"):
        return None
    shapes = Shapes(network, rows)
    is_diffusers = isinstance(network.config, Mapping)
    table = MAKERS | EXCEPTIONS.get(shapes.kind, {}) if is_diffusers else ENCODERS
    inputs: dict[str, Any] = {}
    for name, parameter in shapes.parameters.items():
        try:
            value = table[name](shapes) if name in table else None
        except (KeyError, StopIteration):
            return None
        if value is not None:
            inputs[name] = value
        elif parameter.default is parameter.empty and parameter.kind not in (
            parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD
        ):  # fmt: skip
            return None
    return inputs


def _latents(shapes: Shapes) -> Tensor:
    """Latent images; packed to tokens (rows, tokens, channels) where positions come with them."""
    if {"img_ids", "img_shapes"} & shapes.parameters.keys():
        return shapes.batch(SIDE * SIDE, shapes["in_channels"])
    return shapes.batch(shapes["in_channels"], *shapes.side)


def _sample(shapes: Shapes) -> Tensor:
    if shapes.is_autoencoder:
        return shapes.batch(shapes["in_channels"], SIDE, SIDE)
    return _latents(shapes)


def _text(shapes: Shapes) -> Tensor:
    return shapes.batch(shapes.length, shapes.width)


def _positions(tokens: Callable[[Shapes], int]) -> Callable[[Shapes], Tensor]:
    def positions(shapes: Shapes) -> Tensor:
        return shapes.tensor(tokens(shapes), len(shapes["axes_dims_rope"]))

    return positions


def _guidance(shapes: Shapes) -> Tensor | None:
    return shapes.batch() if shapes.get("guidance_embeds") else None


def _class_labels(shapes: Shapes) -> Tensor | None:
    kind = shapes.get("class_embed_type")
    if kind in ("projection", "simple_projection"):
        return shapes.batch(shapes["projection_class_embeddings_input_dim"])
    if kind == "identity":
        return shapes.batch(shapes["block_out_channels"][0] * 4)
    if kind == "timestep":
        return shapes.batch()
    return shapes.batch(dtype=torch.long) if shapes.get("num_class_embeds") else None


def _time_condition(shapes: Shapes) -> Tensor | None:
    width = shapes.get("time_cond_proj_dim")
    return shapes.batch(width) if width else None


def _added_conditions(shapes: Shapes) -> dict[str, Tensor | None] | None:
    """The further conditions of a U-Net, or of PixArt's transformer, besides the text."""
    if shapes.kind == "PixArtTransformer2DModel":
        sized = shapes.get("use_additional_conditions", shapes.side == (128, 128))
        return {
            "resolution": shapes.batch(2) if sized else None,
            "aspect_ratio": shapes.batch(1) if sized else None,
        }
    form = shapes.get("addition_embed_type")
    if form == "text_time":  # the sizes, original and target, and the corner of the crop
        width = shapes["projection_class_embeddings_input_dim"]
        text = width - 6 * shapes["addition_time_embed_dim"]
        return {"text_embeds": shapes.batch(text), "time_ids": shapes.batch(6)}
    if form == "text_image":
        width = shapes["cross_attention_dim"]
        return {"text_embeds": shapes.batch(width), "image_embeds": shapes.batch(width)}
    if form in ("image", "image_hint"):
        height, width = (8 * n for n in shapes.side)
        hint = {"hint": shapes.batch(3, height, width)} if form == "image_hint" else {}
        return {"image_embeds": shapes.batch(shapes["encoder_hid_dim"]), **hint}
    return None


def _unet_text(shapes: Shapes) -> Tensor | None:
    if shapes.get("encoder_hid_dim_type") == "image_proj":
        return shapes.batch(1, 1)  # ignored: the image replaces it
    return _text(shapes)


def _rotary(shapes: Shapes) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (tokens, channels of a head)."""
    height, width = (n // shapes["patch_size"] for n in shapes.side)
    one = shapes.tensor(height * width, shapes["attention_head_dim"])
    return one, one


def _size_condition(width: int) -> Callable[[Shapes], Tensor | None]:
    def size(shapes: Shapes) -> Tensor | None:
        if not shapes.get("use_style_cond_and_image_meta_size"):
            return None
        return shapes.batch(width) if width else shapes.batch(dtype=torch.long)

    return size


def _cascade(key: str, length: Callable[[Shapes], int]) -> Callable[[Shapes], Tensor | None]:
    def condition(shapes: Shapes) -> Tensor | None:
        width = shapes.get(key)
        return shapes.batch(length(shapes), width) if width else None

    return condition


def _cascade_sample(shapes: Shapes) -> Tensor:
    """For an image of 1024 pixels, stage C works on 24 × 24, stage B, conditioned on C, on 256."""
    side = 256 if shapes.get("effnet_in_channels") else 24
    return shapes.batch(shapes["in_channels"], side, side)


def _cascade_effnet(shapes: Shapes) -> Tensor | None:
    width = shapes.get("effnet_in_channels")
    return shapes.batch(width, 24, 24) if width else None


def _counted_mask(shapes: Shapes) -> Tensor:
    """A mask of all tokens with their number, which the transformer computes from the values."""
    mask = shapes.batch(shapes.length, dtype=torch.bool)
    vars(mask)["sum"] = lambda dim: torch.full((shapes.rows,), shapes.length, device="cpu")
    return mask


def _words(shapes: Shapes) -> Tensor:
    text: Any = getattr(shapes.network.config, "text_config", None) or shapes.network.config
    most = getattr(text, "max_position_embeddings", None) or TOKENS
    return shapes.batch(min(TOKENS, most), dtype=torch.long)


def _mask(shapes: Shapes) -> Tensor | None:
    """A mask in its final shape: that of any other depends on its values."""
    words = _words(shapes).shape[1]
    return shapes.batch(1, words, words)


def _pixels(shapes: Shapes) -> Tensor | None:
    if "input_ids" in shapes.parameters:  # a multimodal language model gets text alone
        return None
    side = shapes["image_size"]
    return shapes.batch(shapes.get("num_channels", 3), side, side)


Maker = Callable[[Shapes], Any]
MAKERS: dict[str, Maker] = {
    "sample": _sample,
    "hidden_states": _latents,
    "encoder_hidden_states": _text,
    "timestep": lambda shapes: shapes.batch(),
    "pooled_projections": lambda shapes: shapes.batch(shapes["pooled_projection_dim"]),
    "img_ids": _positions(lambda _: SIDE * SIDE),
    "txt_ids": _positions(lambda shapes: shapes.length),
    "img_shapes": lambda shapes: [[(1, SIDE, SIDE)]] * shapes.rows,
    "guidance": _guidance,
    "added_cond_kwargs": _added_conditions,
    **{name: lambda shapes: shapes.batch(2) for name in ("original_size", "target_size")},
    "crop_coords": lambda shapes: shapes.batch(2),
}
# Inputs of transformers' models, where the names mean other things.
ENCODERS: dict[str, Maker] = {
    "input_ids": _words,
    "attention_mask": _mask,
    "pixel_values": _pixels,
}
EXCEPTIONS: dict[str, dict[str, Maker]] = {
    "UNet2DConditionModel": {
        "encoder_hidden_states": _unet_text,
        "class_labels": _class_labels,
        "timestep_cond": _time_condition,
    },
    "Kandinsky3UNet": {"encoder_attention_mask": lambda shapes: shapes.batch(shapes.length)},
    "Lumina2Transformer2DModel": {"encoder_attention_mask": _counted_mask},
    "HunyuanDiT2DModel": {
        "text_embedding_mask": lambda shapes: shapes.batch(shapes.length),
        "encoder_hidden_states_t5": lambda shapes: shapes.batch(
            shapes["text_len_t5"], shapes["cross_attention_dim_t5"]
        ),
        "text_embedding_mask_t5": lambda shapes: shapes.batch(shapes["text_len_t5"]),
        "image_meta_size": _size_condition(6),
        "style": _size_condition(0),
        "image_rotary_emb": _rotary,
    },
    "ZImageTransformer2DModel": {
        "x": lambda shapes: [
            shapes.tensor(shapes["in_channels"], 1, *shapes.side) for _ in range(shapes.rows)
        ],
        "t": lambda shapes: shapes.batch(),
        "cap_feats": lambda shapes: [
            shapes.tensor(shapes.length, shapes.width) for _ in range(shapes.rows)
        ],
    },
    "PriorTransformer": {
        "hidden_states": lambda shapes: shapes.batch(shapes["embedding_dim"]),
        "proj_embedding": lambda shapes: shapes.batch(
            shapes.get("embedding_proj_dim", shapes["embedding_dim"])
        ),
    },
    "StableCascadeUNet": {
        "sample": _cascade_sample,
        "timestep_ratio": lambda shapes: shapes.batch(),
        "clip_text_pooled": _cascade("clip_text_pooled_in_channels", lambda _: 1),
        "clip_text": _cascade("clip_text_in_channels", lambda shapes: shapes.length),
        "clip_img": _cascade("clip_image_in_channels", lambda _: 1),
        "effnet": _cascade_effnet,
    },
    "AutoencoderKLQwenImage": {
        "sample": lambda shapes: shapes.batch(shapes.get("input_channels", 3), 1, SIDE, SIDE)
    },
}
