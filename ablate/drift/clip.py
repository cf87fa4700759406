"""Concepts: images and words in the one space of a CLIP model (Radford et al. 2021).

>>> reader = Reader.load("bundled")
>>> reader.images(pictures) @ reader.texts(["a cat", "a dog"]).T  # cosines, (pictures, 2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel

from ablate.models import ModelError, find_device, fingerprint_of, folder_of, read_config

BATCH = 32  # images or texts in one forward pass
# What CLIP was published with; models without a file of their own were trained like it.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Preparation:
    """What becomes of an image before a model sees it: its middle square, scaled and centered.

    `resize`: pixels of the shorter side before the middle of `side` × `side` is cut out. Values
    in [0, 1] lose `mean` and are divided by `std`, channel by channel.
    """

    resize: int
    side: int
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    resample: int = Image.Resampling.BICUBIC

    @classmethod
    def of(cls, config: Mapping[str, Any], side: int) -> Preparation:
        """From a `preprocessor_config.json`, of whatever version; `side`: what the model takes."""
        return cls(
            resize=_pixels(config.get("size"), side),
            side=_pixels(config.get("crop_size"), side),
            mean=tuple(config.get("image_mean", MEAN)),
            std=tuple(config.get("image_std", STD)),
            resample=config.get("resample", Image.Resampling.BICUBIC),
        )

    def __call__(self, image: Image.Image) -> np.ndarray:
        """An image of any size as float32, shape (3, side, side)."""
        image = image.convert("RGB")
        shorter = min(image.size)
        width, height = (int(self.resize * length / shorter) for length in image.size)
        image = image.resize((width, height), Image.Resampling(self.resample))
        left, top = (width - self.side) // 2, (height - self.side) // 2
        image = image.crop((left, top, left + self.side, top + self.side))
        values = np.asarray(image, np.float32) / 255
        values = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return values.transpose(2, 0, 1)


def _pixels(size: Any, default: int) -> int:
    """A side in pixels as configurations of several versions write it."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge", size.get("height"))
    return default if size is None else int(size)


class Reader:
    """A CLIP model that reads images and texts into unit vectors of one space."""

    def __init__(
        self,
        id: str,
        network: CLIPModel,
        tokenizer: Any,
        preparation: Preparation,
        vocabulary: Sequence[str],
        fingerprint: str = "",
    ) -> None:
        self.id = id
        self.network = network.eval()
        self.tokenizer = tokenizer
        self.preparation = preparation
        self.vocabulary = tuple(vocabulary)
        self.fingerprint = fingerprint
        self.scale = float(network.logit_scale.detach().exp())

    @classmethod
    def of(cls, model: str, clip: str | None = None, device: str | None = None) -> Reader | None:
        """The CLIP model asked for, or the one that lies beside a model's parts, or none."""
        if clip is not None:
            return cls.load(clip, device)
        folder = folder_of(model)
        beside = folder is not None and (folder / "clip").is_dir()
        return cls.load(model, device) if beside else None

    @classmethod
    def load(cls, clip: str, device: str | None = None) -> Reader:
        """A CLIP model by hub id or folder; of a pipeline's folder, the one in `clip/`.

        Weights are read from safetensors only, in float32, and no remote code is run. Raises
        `ModelError` when there is no such model, or it is none that can be used.
        """
        folder = _folder(clip)
        source = clip if folder is None else str(folder)
        config = read_config(source, "config.json", None)
        kind = (config or {}).get("model_type", "none")
        if kind != "clip":
            raise ModelError(
                f"`{clip}` is no CLIP model: the `model_type` of its config.json is `{kind}`;"
                " images are read by one such as `openai/clip-vit-large-patch14`"
            )
        prepared = read_config(source, "preprocessor_config.json", None) or {}
        target = find_device(device)
        try:
            network = CLIPModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
            tokenizer = AutoTokenizer.from_pretrained(_tokenizer(source, folder))
        except (OSError, ValueError) as error:
            raise ModelError(f"`{clip}` cannot be read: {str(error).splitlines()[0]}") from error
        return cls(
            clip,
            network.to(target),
            tokenizer,
            Preparation.of(prepared, network.config.vision_config.image_size),
            _vocabulary(folder),
            f"commit:{network.config._commit_hash}" if folder is None else fingerprint_of(folder),
        )

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors of images of any size, float32 (images, width)."""
        found = []
        for i in range(0, len(images), BATCH):
            pixels = np.stack([self.preparation(image) for image in images[i : i + BATCH]])
            found.append(self._unit(self.network.get_image_features(
                pixel_values=torch.from_numpy(pixels).to(self.network.device))))  # fmt: skip
        return self._stacked(found)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, cut where the model reads no further, float32 (texts, width)."""
        longest = self.network.config.text_config.max_position_embeddings
        found = []
        for i in range(0, len(texts), BATCH):
            tokens = self.tokenizer(
                list(texts[i : i + BATCH]),
                padding=True, truncation=True, max_length=longest, return_tensors="pt",
            )  # fmt: skip
            found.append(self._unit(self.network.get_text_features(
                input_ids=tokens["input_ids"].to(self.network.device),
                attention_mask=tokens["attention_mask"].to(self.network.device))))  # fmt: skip
        return self._stacked(found)

    def _unit(self, features: Any) -> np.ndarray:
        # Versions of transformers differ in whether features come as they are.
        vectors: torch.Tensor = getattr(features, "pooler_output", features)
        unit: np.ndarray = F.normalize(vectors.float(), dim=-1).cpu().numpy()
        return unit

    def _stacked(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(
            [np.zeros((0, self.network.config.projection_dim), np.float32), *parts]
        )


def _folder(clip: str) -> Path | None:
    """The local folder of a CLIP model, None for a hub id."""
    folder = folder_of(clip) if clip == "bundled" or Path(clip).is_dir() else None
    if folder is not None:
        return folder / "clip" if (folder / "clip").is_dir() else folder
    if clip.count("/") != 1 or clip.startswith((".", "/", "~")):
        raise ModelError(
            f"there is no CLIP model `{clip}`: it is neither `bundled`, nor a folder, nor a hub id"
            " such as `openai/clip-vit-large-patch14`"
        )
    return None


def _tokenizer(source: str, folder: Path | None) -> str:
    """Where the tokenizer lies: with the model, or beside it among the parts of a pipeline."""
    if folder is None or any(folder.glob("tokenizer*")) or (folder / "vocab.json").exists():
        return source
    beside = folder.parent / "tokenizer"
    if not beside.is_dir():
        raise ModelError(f"`{folder}` has no tokenizer: there is none in it, nor {beside}")
    return str(beside)


def vocabulary_of(model: str, clip: str | None = None) -> tuple[str, ...] | None:
    """The words of the CLIP model that `Reader.of` would load, without loading it."""
    if clip is not None:
        return tuple(_vocabulary(_folder(clip)))
    folder = folder_of(model)
    beside = folder is not None and (folder / "clip").is_dir()
    return tuple(_vocabulary(_folder(model))) if beside else None


def _vocabulary(folder: Path | None) -> list[str]:
    """The words that a model names by itself, else common things."""
    own = folder / "vocabulary.txt" if folder is not None else None
    file = own if own is not None and own.exists() else Path(__file__).parent / "words.txt"
    return file.read_text(encoding="utf-8").split("\n")[:-1]
