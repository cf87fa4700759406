"""Concepts: images and words in the one space of a CLIP model (Radford et al. 2021).

>>> reader = Reader.load("bundled")
>>> reader.images(pictures) @ reader.texts(["a cat", "a dog"]).T  # cosines, (pictures, 2)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel

from ablate.models import (
    ModelError,
    cause,
    check_component,
    check_loaded,
    find_device,
    fingerprint_of,
    folder_of,
    is_regular,
    read_config,
)
from ablate.store import StoreError, read_table

MAX_WORDS = 2**22  # bytes of a vocabulary
BATCH = 32  # images or texts in one forward pass


class Reader:
    """A CLIP model that embeds images and texts as unit vectors of one space.

    Attributes:
        id: The hub id or folder that the model was loaded by.
        network: The model, in float32 and evaluation mode.
        side: Height and width in pixels of the images that the network takes.
        processor: Resizes, crops and normalizes images for the network.
        vocabulary: The words that the model names what images show by.
        fingerprint: Of the weights; the commit of a model from the hub.
        scale: The factor of cosines before a softmax.
        margin: The difference of the two largest cosines with words that 95 of 100 images have in
            which a concept can be seen; None where it is not known.
    """

    def __init__(
        self,
        id: str,
        network: CLIPModel,
        tokenizer: Any,
        processor: CLIPImageProcessorPil,
        vocabulary: Sequence[str],
        fingerprint: str = "",
        margin: float | None = None,
    ) -> None:
        self.id = id
        self.network = network.eval()
        self.side: int = network.config.vision_config.image_size
        self.tokenizer = tokenizer
        self.processor = processor
        self.vocabulary = tuple(vocabulary)
        self.fingerprint = fingerprint
        self.scale = float(network.logit_scale.detach().exp())
        self.margin = margin

    @classmethod
    def of(cls, model: str, clip: str | None = None, device: str | None = None) -> Reader | None:
        """Load `clip`, by default the CLIP model in a pipeline's folder; None without one."""
        name = _clip_of(model, clip)
        return None if name is None else cls.load(name, device)

    @classmethod
    def load(cls, clip: str, device: str | None = None) -> Reader:
        """Load a CLIP model by hub id or folder; of a pipeline's folder, the one in `clip/`.

        Weights are read from safetensors only, in float32, and no remote code is run.

        Raises:
            ModelError: There is no such model, or it is no CLIP model that can be used.
        """
        folder = check_clip(clip)
        source = clip if folder is None else str(folder)
        if folder is None:
            _check_kind(clip, read_config(source, "config.json", None))
        target = find_device(device)
        words = _tokenizer(source, folder)
        preprocessing = read_config(source, "preprocessor_config.json", None) or {}
        try:
            network = CLIPModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
            processor = image_processor(preprocessing, network.config.vision_config.image_size)
            tokenizer = AutoTokenizer.from_pretrained(words, trust_remote_code=False)
            tokenizer("a picture")  # one that is damaged fails only when it reads
        except Exception as error:  # the library raises anything for files that it does not expect
            raise ModelError(f"the CLIP model `{clip}` cannot be read: {cause(error)}") from error
        check_loaded(network, f"the CLIP model `{clip}`")
        return cls(
            clip,
            network.to(target),
            tokenizer,
            processor,
            _vocabulary(folder),
            f"commit:{network.config._commit_hash}" if folder is None else fingerprint_of(folder),
            _margin(folder),
        )

    @torch.inference_mode()
    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Embed images of any size: unit vectors, float32 (images, width)."""
        parts = []
        for i in range(0, len(images), BATCH):
            # The processor would blend transparency with white.
            batch = [image.convert("RGB") for image in images[i : i + BATCH]]
            parts.append(self._embed(
                self.network.get_image_features, self.processor(batch, return_tensors="pt")
            ))  # fmt: skip
        return self._concatenated(parts)

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, truncated to the model's length: unit vectors, float32 (texts, width)."""
        longest = self.network.config.text_config.max_position_embeddings
        parts = []
        for i in range(0, len(texts), BATCH):
            tokens = self.tokenizer(
                list(texts[i : i + BATCH]),
                padding=True, truncation=True, max_length=longest, return_tensors="pt",
                return_token_type_ids=False,
            )  # fmt: skip
            parts.append(self._embed(self.network.get_text_features, tokens))
        return self._concatenated(parts)

    def _embed(self, features: Callable[..., Any], inputs: Any) -> np.ndarray:
        vectors = features(**inputs.to(self.network.device)).pooler_output
        unit: np.ndarray = F.normalize(vectors.float(), dim=-1).cpu().numpy()
        return unit

    def _concatenated(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.concatenate(
            [np.zeros((0, self.network.config.projection_dim), np.float32), *parts]
        )


def check_reader(model: str, clip: str | None) -> None:
    """Raise `ModelError` if the CLIP model that `Reader.of` would load is damaged, as far as its
    files show."""
    name = _clip_of(model, clip)
    if name is not None and name != "bundled":
        check_clip(name)


def check_clip(clip: str) -> Path | None:
    """The local folder of a CLIP model whose files fit each other; None for a hub id.

    Raises `ModelError`, without loading weights.
    """
    folder = _folder(clip)
    if folder is not None:
        config = read_config(str(folder), "config.json", None)
        _check_kind(clip, config)
        check_component(folder, "transformers", "CLIPModel")
        _tokenizer(str(folder), folder)
        _vocabulary(folder)
    return folder


def _check_kind(clip: str, config: Mapping[str, Any] | None) -> None:
    kind = (config or {}).get("model_type", "none")
    if kind != "clip":
        raise ModelError(
            f"`{clip}` is no CLIP model: the `model_type`"
            f" of its config.json is `{str(kind)[:100]}`; images are read by one such as"
            " `openai/clip-vit-large-patch14`"
        )


def image_processor(config: Mapping[str, Any], side: int) -> CLIPImageProcessorPil:
    """Build the image processor of a model that takes `side` × `side` pixels.

    Args:
        config: A `preprocessor_config.json` of any version; what it lacks is as CLIP was
            published. The PIL backend needs no torchvision, and its pixels are the same with it.
    """
    return CLIPImageProcessorPil(**{"size": side, "crop_size": side, **config})


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
    """Where the tokenizer is: with the model, or beside it among the parts of a pipeline."""
    if folder is None or any(folder.glob("tokenizer*")) or (folder / "vocab.json").exists():
        return source
    beside = folder.parent / "tokenizer"
    if not beside.is_dir():
        raise ModelError(f"`{folder}` has no tokenizer: there is none in it, nor {beside}")
    return str(beside)


def _clip_of(model: str, clip: str | None) -> str | None:
    """The CLIP model to load: `clip`, else the pipeline's folder if it contains one."""
    if clip is not None:
        return clip
    folder = folder_of(model)
    return model if folder is not None and (folder / "clip").is_dir() else None


def vocabulary_of(model: str, clip: str | None = None) -> tuple[str, ...] | None:
    """The words of the CLIP model that `Reader.of` would load, without loading it."""
    name = _clip_of(model, clip)
    return None if name is None else tuple(_vocabulary(_folder(name)))


def _margin(folder: Path | None) -> float | None:
    """What a model's `margin.csv` says; None without one."""
    file = None if folder is None else folder / "margin.csv"
    if file is None or not file.exists():
        return None
    try:
        _, ((margin, *_), *_) = read_table(file)
        return float(margin)
    except (StoreError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {cause(error)}") from error


def _vocabulary(folder: Path | None) -> list[str]:
    """The lines of a model's `vocabulary.txt`, by default common things."""
    file = Path(__file__).parent / "words.txt"
    if folder is not None and (folder / "vocabulary.txt").exists():
        file = folder / "vocabulary.txt"
    try:
        if is_regular(file) and file.stat().st_size > MAX_WORDS:
            raise ModelError(f"{file} has more than {MAX_WORDS:,} bytes")
        return file.read_text(encoding="utf-8").split("\n")[:-1]
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {cause(error)}") from error
