"""Finished images with everything they are compared by: pixels, latents, embeddings, metrics.

A `ConceptReader`, such as `ablate.drift.Reader`, embeds images and names what they show. `Further`
readers and metrics give further distances.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from ablate.drift.metrics import WINDOW, Luma, embedding_distance, judged, rmse, softmax
from ablate.drift.sets import SetMetric
from ablate.messages import phrase
from ablate.store import StoredCell, read_latents

DISTANCES = ("rmse", "ssim", "latent", "embedding")  # of every run
Extra = Literal["lpips", "lpips_vgg", "lpips_squeeze", "fid", "kid"]  # metrics that recipes name
NAMED = 3  # concepts of an image
BATCH = 64  # images in memory at once


class VectorReader(Protocol):
    """A model that embeds images."""

    @property
    def id(self) -> str:
        """The name of the model."""

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Embed images: unit vectors, shape (images, width)."""


class ConceptReader(VectorReader, Protocol):
    """A model that embeds images and texts in one space."""

    @property
    def scale(self) -> float:
        """The factor of cosines before a softmax over texts."""

    @property
    def vocabulary(self) -> Sequence[str]:
        """The default concepts."""

    @property
    def margin(self) -> float | None:
        """The least margin of an image that shows a concept; None where it is not known."""

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts: unit vectors, shape (texts, width)."""


# A distance of two images, float32 (height, width, 3) in [0, 1], 0 for equal ones.
Metric = Callable[[np.ndarray, np.ndarray], float]


@dataclass(frozen=True)
class Further:
    """What measures a run besides pixels, latents and the model that names what images show.

    Attributes:
        readers: Image encoders, by the names of their distances.
        metrics: Distances of two images, by name.
        sets: Distances of two sets of images, by name.
    """

    readers: Mapping[str, VectorReader] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    sets: Mapping[str, SetMetric] = field(default_factory=dict)

    @property
    def distances(self) -> tuple[str, ...]:
        """The names of all distances of an image from its baseline."""
        return (*DISTANCES, *self.readers, *self.metrics)


@dataclass(frozen=True)
class Features:
    """A finished image and everything it is compared by.

    Attributes:
        key: The key of the cell.
        state: `ok` or `nan`.
        pixels: uint8, shape (height, width, 3).
        latents: The final latents, None where none are stored.
        embeddings: Unit vectors, by the names of their distances.
        metrics: Further distances, by name.
    """

    key: str
    state: str
    pixels: np.ndarray
    latents: np.ndarray | None
    embeddings: Mapping[str, np.ndarray]
    metrics: Mapping[str, Metric]

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
        for name, vector in self.embeddings.items():
            if name in other.embeddings:
                distances[name] = embedding_distance(vector, other.embeddings[name])
        for name, metric in self.metrics.items():
            distances[name] = metric(self.image, other.image)
        return distances


class Embedder:
    """Embeds each valid image once.

    Attributes:
        embeddings: Unit vectors by the name of their distance, and by the key of the cell.
    """

    def __init__(self, reader: VectorReader | None, further: Further) -> None:
        first = {} if reader is None else {"embedding": reader}
        self.readers: Mapping[str, VectorReader] = {**first, **further.readers}
        self.embeddings: dict[str, dict[str, np.ndarray]] = {name: {} for name in self.readers}
        self.metrics = further.metrics
        self._known: set[str] = set()

    def features(self, cells: Iterable[StoredCell]) -> Iterator[Features]:
        """The features of each cell, in order; a batch of them is in memory at once."""
        rest = iter(cells)
        while batch := list(islice(rest, BATCH)):
            images = [cell.image() for cell in batch]
            states = [str(cell.record().get("state", "ok")) for cell in batch]
            new = {
                cell.key: image
                for cell, image, state in zip(batch, images, states, strict=True)
                if state == "ok" and cell.key not in self._known
            }
            self._known.update(new)
            for name, reader in self.readers.items():
                if new:
                    vectors = reader.images(list(new.values()))
                    self.embeddings[name] |= zip(new, vectors, strict=True)
            for cell, image, state in zip(batch, images, states, strict=True):
                yield Features(
                    cell.key,
                    state,
                    np.asarray(image),
                    read_latents(cell.path) if state == "ok" else None,
                    {
                        name: vectors[cell.key]
                        for name, vectors in self.embeddings.items()
                        if cell.key in vectors
                    },
                    self.metrics,
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
    for metric in pairs[0][2] if pairs else ():
        if all(metric in distances for _, _, distances in pairs):
            matrix = matrices[metric] = np.zeros((count, count))
            for i, j, distances in pairs:
                matrix[i, j] = matrix[j, i] = judged(metric, distances[metric])
    return matrices
