"""Looks: finished images with all that they are compared by.

What a picture shows is told by a `Reader`, such as `ablate.concepts.Reader`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol

import numpy as np
from PIL import Image

from ablate.drift.metrics import WINDOW, Luma, embedding_distance, rmse
from ablate.messages import phrase
from ablate.store import StoredCell, read_latents

DISTANCES = ("rmse", "ssim", "latent", "embedding")
NAMED = 3  # concepts an image
BATCH = 64  # images read and embedded at once


class Reader(Protocol):
    """What reads images: a model that puts them and texts into one space."""

    @property
    def id(self) -> str:
        """The model, as the user names it."""

    @property
    def scale(self) -> float:
        """What cosines are multiplied by before a softmax over texts."""

    @property
    def vocabulary(self) -> Sequence[str]:
        """Words that images are read in unless others are asked for."""

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit vectors, shape (images, width)."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors, shape (texts, width)."""


@dataclass(frozen=True)
class Look:
    """A finished image and all that it is compared by."""

    key: str
    state: str
    pixels: np.ndarray  # uint8 (height, width, 3)
    latents: np.ndarray | None
    embedding: np.ndarray | None

    @cached_property
    def image(self) -> np.ndarray:
        """float32 in [0, 1], shape (height, width, 3)."""
        return self.pixels.astype(np.float32) / 255

    @cached_property
    def luma(self) -> Luma:
        return Luma(self.image)

    def distances(self, other: Look) -> dict[str, float]:
        """Distances from an image of the same size, by metric; `ssim` as 1 - ssim."""
        found = {"rmse": rmse(self.image, other.image)}
        if min(self.pixels.shape[:2]) >= WINDOW:
            found["ssim"] = 1 - self.luma.similarity(other.luma)
        if self.latents is not None and other.latents is not None:
            found["latent"] = rmse(self.latents, other.latents)
        if self.embedding is not None and other.embedding is not None:
            found["embedding"] = embedding_distance(self.embedding, other.embedding)
        return found


class Eye:
    """Looks at finished cells, and has each that is not broken embedded once."""

    def __init__(self, reader: Reader | None) -> None:
        self.reader = reader
        self.embeddings: dict[str, np.ndarray] = {}

    def looks(self, cells: Iterable[StoredCell]) -> Iterator[Look]:
        """What is seen of each cell, in order; a batch of them is held at once."""
        rest = iter(cells)
        while batch := list(islice(rest, BATCH)):
            images = [cell.image() for cell in batch]
            states = [str(cell.record().get("state", "ok")) for cell in batch]
            new = {
                cell.key: image
                for cell, image, state in zip(batch, images, states, strict=True)
                if state == "ok" and cell.key not in self.embeddings
            }
            if self.reader is not None and new:
                vectors = self.reader.images(list(new.values()))
                self.embeddings |= zip(new, vectors, strict=True)
            for cell, image, state in zip(batch, images, states, strict=True):
                yield Look(
                    cell.key,
                    state,
                    np.asarray(image),
                    read_latents(cell.path) if state == "ok" else None,
                    self.embeddings.get(cell.key),
                )


class Words:
    """Words and prompts that images are read by."""

    def __init__(self, reader: Reader, words: Sequence[str], prompts: Sequence[str]) -> None:
        self.words = tuple(dict.fromkeys(words))
        self.scale = reader.scale
        self.texts = reader.texts([phrase(word) for word in self.words])
        vectors = reader.texts(prompts) if prompts else np.zeros((0, 0))
        self.prompts = dict(zip(prompts, vectors, strict=True))

    def likeliest(self, embedding: np.ndarray) -> tuple[tuple[str, float], ...]:
        """The words nearest to an image, with their probabilities among all words."""
        logits = self.scale * (self.texts.astype(np.float64) @ embedding)
        odds = np.exp(logits - logits.max())
        best = np.argsort(-odds, kind="stable")[:NAMED]
        return tuple((self.words[i], float(odds[i] / odds.sum())) for i in best)


def apart(looks: Sequence[Look]) -> dict[str, np.ndarray]:
    """Distances of all pairs of images, shape (n, n), by the metrics that all pairs have."""
    count = len(looks)
    pairs = [(i, j, looks[i].distances(looks[j])) for j in range(count) for i in range(j)]
    matrices: dict[str, np.ndarray] = {}
    for metric in DISTANCES:
        if pairs and all(metric in found for _, _, found in pairs):
            matrix = matrices[metric] = np.zeros((count, count))
            for i, j, found in pairs:
                matrix[i, j] = matrix[j, i] = found[metric]
    return matrices
