"""Finished images with everything they are compared by: pixels, latents, embeddings.

A `ConceptReader`, such as `ablate.drift.Reader`, embeds images and names what they show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Protocol

import numpy as np
from PIL import Image

from ablate.drift.metrics import WINDOW, Luma, embedding_distance, judged, rmse, softmax
from ablate.messages import phrase
from ablate.store import StoredCell, read_latents

DISTANCES = ("rmse", "ssim", "latent", "embedding")
NAMED = 3  # concepts of an image
BATCH = 64  # images in memory at once


class ConceptReader(Protocol):
    """A model that embeds images and texts in one space."""

    @property
    def id(self) -> str:
        """The name of the model."""

    @property
    def scale(self) -> float:
        """The factor of cosines before a softmax over texts."""

    @property
    def vocabulary(self) -> Sequence[str]:
        """The default concepts."""

    @property
    def margin(self) -> float | None:
        """The least margin of an image that shows a concept; None where it is not known."""

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Embed images: unit vectors, shape (images, width)."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: unit vectors, shape (texts, width)."""


@dataclass(frozen=True)
class Features:
    """A finished image and everything it is compared by.

    Attributes:
        key: The key of the cell.
        state: `ok` or `nan`.
        pixels: uint8, shape (height, width, 3).
        latents: The final latents, None where none are stored.
        embedding: A unit vector, None without a CLIP model.
    """

    key: str
    state: str
    pixels: np.ndarray
    latents: np.ndarray | None
    embedding: np.ndarray | None

    @cached_property
    def image(self) -> np.ndarray:
        """float32 in [0, 1], shape (height, width, 3)."""
        return self.pixels.astype(np.float32) / 255

    @cached_property
    def luma(self) -> Luma:
        return Luma(self.image)

    def distances(self, other: Features) -> dict[str, float]:
        """Distances to an image of the same size, by metric; `ssim` as 1 - ssim."""
        distances = {"rmse": rmse(self.image, other.image)}
        if min(self.pixels.shape[:2]) >= WINDOW:
            distances["ssim"] = 1 - self.luma.similarity(other.luma)
        if self.latents is not None and other.latents is not None:
            distances["latent"] = rmse(self.latents, other.latents)
        if self.embedding is not None and other.embedding is not None:
            distances["embedding"] = embedding_distance(self.embedding, other.embedding)
        return distances


class Embedder:
    """Embeds each valid image once.

    Attributes:
        embeddings: Unit vectors by the key of the cell.
    """

    def __init__(self, reader: ConceptReader | None) -> None:
        self.reader = reader
        self.embeddings: dict[str, np.ndarray] = {}

    def features(self, cells: Iterable[StoredCell]) -> Iterator[Features]:
        """The features of each cell, in order; a batch of them is in memory at once."""
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
                yield Features(
                    cell.key,
                    state,
                    np.asarray(image),
                    read_latents(cell.path) if state == "ok" else None,
                    self.embeddings.get(cell.key),
                )


class Concepts:
    """Embedded words and prompts, to name what images show.

    Attributes:
        words: The vocabulary, each word once.
        texts: Their unit vectors, shape (words, width).
        prompts: Unit vectors of prompts, by prompt.
    """

    def __init__(self, reader: ConceptReader, words: Sequence[str], prompts: Sequence[str]) -> None:
        self.words = tuple(dict.fromkeys(words))
        self.scale = reader.scale
        self.texts = reader.texts([phrase(word) for word in self.words])
        vectors = reader.texts(prompts) if prompts else np.zeros((0, 0))
        self.prompts = dict(zip(prompts, vectors, strict=True))

    def margin(self, embedding: np.ndarray) -> float | None:
        """The difference of the two largest cosines of an image and words; None of one word."""
        if len(self.words) < 2:
            return None
        cosines = np.sort(self.texts.astype(np.float64) @ embedding)
        return float(cosines[-1] - cosines[-2])

    def likeliest(self, embedding: np.ndarray) -> tuple[tuple[str, float], ...]:
        """The words nearest to an image, with their probabilities among all words."""
        logits = self.scale * (self.texts.astype(np.float64) @ embedding)
        odds = softmax(logits)
        best = np.argsort(-odds, kind="stable")[:NAMED]
        return tuple((self.words[i], float(odds[i])) for i in best)


def pairwise_distances(images: Sequence[Features]) -> dict[str, np.ndarray]:
    """Distances of all pairs of images as `judged`, shape (n, n), by the metrics that all have."""
    count = len(images)
    pairs = [(i, j, images[i].distances(images[j])) for j in range(count) for i in range(j)]
    matrices: dict[str, np.ndarray] = {}
    for metric in DISTANCES:
        if pairs and all(metric in distances for _, _, distances in pairs):
            matrix = matrices[metric] = np.zeros((count, count))
            for i, j, distances in pairs:
                matrix[i, j] = matrix[j, i] = judged(metric, distances[metric])
    return matrices
