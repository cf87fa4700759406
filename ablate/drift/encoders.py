"""Image encoders: one vector an image, by any model of transformers that gives one.

The vector is that of `get_image_features` where a model has it (CLIP, SigLIP), else its pooled
output (`pooler_output`, as of DINOv2), else its class token. A model that was saved without weights
for its pooling is read by its class token.

>>> reader = ImageReader.load("facebook/dinov2-base")
>>> reader.images(pictures)  # unit vectors, (pictures, 768)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel, CLIPImageProcessorPil
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

from ablate.models import (
    ModelError,
    cause,
    check_component,
    check_loaded,
    find_device,
    fingerprint_of,
    folder_of,
    read_config,
)

BATCH = 32  # images or texts in one forward pass


class ImageReader:
    """An image encoder that embeds images as vectors.

    Attributes:
        id: The hub id or folder that the model was loaded by.
        network: The model, in float32 and evaluation mode.
        processor: Resizes, crops and normalizes images for the network.
        fingerprint: Of the weights; the commit of a model from the hub.
    """

    def __init__(self, id: str, network: Any, processor: Any, fingerprint: str = "") -> None:
        self.id = id
        self.network = network.eval()
        self.processor = processor
        self.fingerprint = fingerprint

    @classmethod
    def load(cls, model: str, device: str | None = None) -> Self:
        """Load a model by hub id or folder; of a pipeline's folder, the one in `clip/`.

        Weights are read from safetensors only, in float32, and no remote code is run.

        Raises:
            ModelError: There is no such model, or it does not give one vector an image.
        """
        reader = cls(model, *load_encoder(model, device))
        reader.check()
        return reader

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Embed images of any size: unit vectors, float32 (images, width)."""
        return self._read(images, lambda vectors: F.normalize(vectors, dim=-1))

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        """The vectors of images as the model gives them, float32 (images, width)."""
        return self._read(images, lambda vectors: vectors)

    @cached_property
    def width(self) -> int:
        """The length of a vector."""
        return int(self.features([Image.new("RGB", (64, 64), "gray")]).shape[1])

    def check(self) -> None:
        """Raise `ModelError` unless the model gives one vector an image, the same each time."""
        image = Image.radial_gradient("L")
        try:
            first, again = self.features([image]), self.features([image])
        except ModelError:
            raise
        except Exception as error:  # of a model that reads something else
            raise ModelError(f"`{self.id}` cannot read an image: {cause(error)}") from error
        if first.ndim != 2 or not np.isfinite(first).all():
            raise ModelError(f"`{self.id}` does not give one vector of finite numbers an image")
        if not np.allclose(first, again, rtol=1e-2, atol=1e-3):
            raise ModelError(f"`{self.id}` gives another vector each time that it reads an image")

    @torch.inference_mode()
    def _read(self, images: Sequence[Image.Image], then: Callable[[Tensor], Tensor]) -> np.ndarray:
        parts = []
        for i in range(0, len(images), BATCH):
            # The processor would blend transparency with white.
            batch = [image.convert("RGB") for image in images[i : i + BATCH]]
            parts.append(then(self._vectors(batch).float()).cpu().numpy())
        return np.concatenate(parts) if parts else np.zeros((0, self.width), np.float32)

    def _vectors(self, images: Sequence[Image.Image]) -> Tensor:
        inputs = self.processor(images, return_tensors="pt").to(self.network.device)
        read = getattr(self.network, "get_image_features", self.network)
        output = read(**inputs)
        pooled = getattr(output, "pooler_output", None)
        if isinstance(pooled, Tensor):
            return pooled.flatten(1)
        names = (name for name, _ in self.network.named_parameters())
        if not any(name.endswith("cls_token") for name in names):
            raise ModelError(
                f"`{self.id}` does not give one vector an image: it has neither image features, nor"
                " a pooled output, nor a class token"
            )
        token: Tensor = output.last_hidden_state[:, 0]
        return token


def load_encoder(model: str, device: str | None) -> tuple[Any, Any, str]:
    """Load the network of an image encoder, its image processor, and its fingerprint.

    Raises:
        ModelError: There is no such model, or it cannot be used.
    """
    folder = check_encoder(model)
    source = model if folder is None else str(folder)
    config = read_config(source, "config.json", None) or {}
    prepares = read_config(source, "preprocessor_config.json", None)
    if folder is None:
        _check_kind(model, config, prepares)
    target = find_device(device)
    try:
        network, loading = AutoModel.from_pretrained(
            source,
            use_safetensors=True,
            dtype=torch.float32,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if config.get("model_type") == "clip":
            processor: Any = image_processor(
                prepares or {}, network.config.vision_config.image_size
            )
        else:
            processor = AutoImageProcessor.from_pretrained(
                source, backend="pil", trust_remote_code=False
            )
    except Exception as error:  # the library raises anything for files that it does not expect
        raise ModelError(f"the model `{model}` cannot be read: {cause(error)}") from error
    _check_missing(network, sorted(loading["missing_keys"]), f"the model `{model}`")
    check_loaded(network, f"the model `{model}`")
    return (
        network.to(target),
        processor,
        f"commit:{network.config._commit_hash}" if folder is None else fingerprint_of(folder),
    )


def _check_missing(network: nn.Module, missing: Sequence[str], what: str) -> None:
    """Raise `ModelError` for weights that are not there, which would be random. Without those of
    its pooling a network goes without it."""
    other = [name for name in missing if not name.startswith("pooler.")]
    if other:
        raise ModelError(f"{what} cannot be loaded: it lacks `{other[0]}`")
    if missing:
        network.pooler = None  # type: ignore[assignment]


def check_encoder(model: str) -> Path | None:
    """The local folder of an image encoder whose files fit each other; None for a hub id.

    Raises `ModelError`, without loading weights.
    """
    folder = encoder_folder(model)
    if folder is not None and model != "bundled":
        config = read_config(str(folder), "config.json", None) or {}
        _check_kind(model, config, read_config(str(folder), "preprocessor_config.json", None))
        # No class: its library renames tensors, and compares them with the network as it loads it.
        kind = "CLIPModel" if config["model_type"] == "clip" else ""
        check_component(folder, "transformers", kind)
    return folder


def _check_kind(model: str, config: Mapping[str, Any], prepares: Mapping[str, Any] | None) -> None:
    kind = str(config.get("model_type", "none"))
    if kind not in MODEL_MAPPING_NAMES:
        raise ModelError(
            f"`{model}` is no image encoder of transformers: the `model_type` of its config.json is"
            f" `{kind[:100]}`"
        )
    if kind != "clip" and prepares is None:
        raise ModelError(
            f"`{model}`, a `{kind}`, has no preprocessor_config.json and so reads no images; one"
            " that does is, for example, `facebook/dinov2-base`"
        )


def image_processor(config: Mapping[str, Any], side: int) -> CLIPImageProcessorPil:
    """Build the image processor of a CLIP model that takes `side` × `side` pixels.

    Args:
        config: A `preprocessor_config.json` of any version; what it lacks is as CLIP was
            published. The PIL backend needs no torchvision, and its pixels are the same with it.
    """
    return CLIPImageProcessorPil(**{"size": side, "crop_size": side, **config})


def encoder_folder(model: str, kind: str = "image encoder") -> Path | None:
    """The local folder of an image encoder, None for a hub id. Raises `ModelError`."""
    folder = folder_of(model) if model == "bundled" or Path(model).is_dir() else None
    if folder is not None:
        return folder / "clip" if (folder / "clip").is_dir() else folder
    if model.count("/") != 1 or model.startswith((".", "/", "~")):
        raise ModelError(
            f"there is no {kind} `{model}`: it is neither `bundled`, nor a folder, nor a hub id"
            " such as `openai/clip-vit-large-patch14`"
        )
    return None
