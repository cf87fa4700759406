"""Concepts: images and words in the one space of a CLIP model (Radford et al. 2021) or of a SigLIP
model (Zhai et al. 2023).

>>> reader = Reader.load("bundled")
>>> reader.images(pictures) @ reader.texts(["a cat", "a dog"]).T  # cosines, (pictures, 2)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer

from ablate.drift.encoders import BATCH, ImageReader, check_encoder, encoder_folder, load_encoder
from ablate.models import ModelError, cause, folder_of, is_regular, read_config
from ablate.store import StoreError, read_table

MAX_WORDS = 2**22  # bytes of a vocabulary
KINDS = ("clip", "siglip")  # of models that read words, too; SigLIP 2 of one size is a `siglip`


class Reader(ImageReader):
    """A CLIP or SigLIP model that embeds images and texts as unit vectors of one space.

    Attributes:
        side: Height and width in pixels of the images that the network takes.
        vocabulary: The words that the model names what images show by.
        scale: The factor of cosines before a softmax.
        margin: The difference of the two largest cosines with words that 95 of 100 images have in
            which a concept can be seen; None where it is not known.
    """

    def __init__(
        self,
        id: str,
        network: Any,
        tokenizer: Any,
        processor: Any,
        vocabulary: Sequence[str],
        fingerprint: str = "",
        margin: float | None = None,
    ) -> None:
        super().__init__(id, network, processor, fingerprint)
        self.side: int = network.config.vision_config.image_size
        self.tokenizer = tokenizer
        self.vocabulary = tuple(vocabulary)
        self.scale = float(network.logit_scale.detach().exp())
        self.margin = margin

    @classmethod
    def of(cls, model: str, clip: str | None = None, device: str | None = None) -> Self | None:
        """Load `clip`, by default the CLIP model in a pipeline's folder; None without one."""
        name = clip_of(model, clip)
        return None if name is None else cls.load(name, device)

    @classmethod
    def load(cls, model: str, device: str | None = None) -> Self:
        """Load a CLIP or SigLIP model; see `ImageReader.load`.

        Raises:
            ModelError: There is no such model, or it cannot be used.
        """
        folder = check_clip(model)
        source = model if folder is None else str(folder)
        if folder is None:
            _check_kind(model, read_config(source, "config.json", None))
        words = _tokenizer(source, folder)
        network, processor, fingerprint = load_encoder(model, device)
        try:
            tokenizer = AutoTokenizer.from_pretrained(words, trust_remote_code=False)
            tokenizer("a picture")  # one that is damaged fails only when it reads
        except Exception as error:  # the library raises anything for files that it does not expect
            raise ModelError(
                f"the tokenizer of `{model}` cannot be read: {cause(error)}"
            ) from error
        return cls(
            model, network, tokenizer, processor, _vocabulary(folder), fingerprint, _margin(folder)
        )

    @torch.inference_mode()
    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, truncated to the model's length: unit vectors, float32 (texts, width)."""
        config = self.network.config
        # A SigLIP model was trained on texts that were all filled up to its length.
        padding = True if config.model_type == "clip" else "max_length"
        parts = [np.zeros((0, self.width), np.float32)]
        for i in range(0, len(texts), BATCH):
            tokens = self.tokenizer(
                list(texts[i : i + BATCH]),
                padding=padding, truncation=True, return_tensors="pt",
                max_length=config.text_config.max_position_embeddings,
                return_token_type_ids=False,
            )  # fmt: skip
            vectors = self.network.get_text_features(**tokens.to(self.network.device)).pooler_output
            parts.append(F.normalize(vectors.float(), dim=-1).cpu().numpy())
        return np.concatenate(parts)


def check_reader(model: str, clip: str | None) -> None:
    """Raise `ModelError` if the CLIP model that `Reader.of` would load is damaged, as far as its
    files show."""
    name = clip_of(model, clip)
    if name is not None and name != "bundled":
        check_clip(name)


def check_clip(clip: str) -> Path | None:
    """The local folder of a CLIP or SigLIP model whose files fit each other; None for a hub id.

    Raises `ModelError`, without loading weights.
    """
    folder = encoder_folder(clip, "CLIP model")
    if folder is not None:
        _check_kind(clip, read_config(str(folder), "config.json", None))
        check_encoder(clip)
        _tokenizer(str(folder), folder)
        _vocabulary(folder)
    return folder


def _check_kind(clip: str, config: Mapping[str, Any] | None) -> None:
    kind = (config or {}).get("model_type", "none")
    if kind not in KINDS:
        raise ModelError(
            f"`{clip}` is no CLIP model: the `model_type`"
            f" of its config.json is `{str(kind)[:100]}`; images are read by one such as"
            " `openai/clip-vit-large-patch14`, or a SigLIP model; other image encoders"
            " go into `readers`"
        )


def _tokenizer(source: str, folder: Path | None) -> str:
    """Where the tokenizer is: with the model, or beside it among the parts of a pipeline."""
    if folder is None or any(folder.glob("tokenizer*")) or (folder / "vocab.json").exists():
        return source
    beside = folder.parent / "tokenizer"
    if not beside.is_dir():
        raise ModelError(f"`{folder}` has no tokenizer: there is none in it, nor {beside}")
    return str(beside)


def clip_of(model: str, clip: str | None) -> str | None:
    """The CLIP model to load: `clip`, else the pipeline's folder if it contains one."""
    if clip is not None:
        return clip
    folder = folder_of(model)
    return model if folder is not None and (folder / "clip").is_dir() else None


def vocabulary_of(model: str, clip: str | None = None) -> tuple[str, ...] | None:
    """The words of the CLIP model that `Reader.of` would load, without loading it."""
    name = clip_of(model, clip)
    return None if name is None else tuple(_vocabulary(encoder_folder(name, "CLIP model")))


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
