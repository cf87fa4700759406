"""Embeddings of the images and words of a run, as measuring leaves them in its folder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from ablate.drift.effects import explained
from ablate.drift.images import Concepts
from ablate.store import Run, StoreError, read_arrays, write_arrays

EMBEDDINGS = "embeddings.npz"


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors of the images and words of a run, rows in the order of `keys` and `words`."""

    keys: tuple[str, ...]
    images: np.ndarray  # (keys, width)
    words: tuple[str, ...]
    texts: np.ndarray  # (words, width)


def write_embeddings(
    run: Run, images: Mapping[str, np.ndarray], keys: Iterable[str], concepts: Concepts | None
) -> None:
    """Write the embeddings of images, by key, and of the words of concepts.

    `keys`: their order; those without an embedding are left out. Without any, there is no file.
    """
    path = run.folder / EMBEDDINGS
    if not images:
        path.unlink(missing_ok=True)
        return
    known = [key for key in keys if key in images]
    vectors = np.array([images[key] for key in known], np.float32)
    texts = vectors[:0] if concepts is None else concepts.texts.astype(np.float32)
    write_arrays(path, {
        "keys": np.array(known, dtype=str),
        "images": vectors,
        "words": np.array(concepts.words if concepts else (), dtype=str),
        "texts": texts,
    })  # fmt: skip


def read_embeddings(run: Run) -> Embeddings | None:
    """The embeddings of the images and words of a run; None where no model has read them."""
    path = run.folder / EMBEDDINGS
    if not path.exists():
        return None
    with explained(run, EMBEDDINGS):
        arrays = read_arrays(path)
        keys, words = (tuple(arrays[name].ravel().tolist()) for name in ("keys", "words"))
        images, texts = arrays["images"], arrays["texts"]
        shapes = [(len(keys), *images.shape[1:]), (len(words), *images.shape[1:])]
        if images.ndim != 2 or [images.shape, texts.shape] != shapes:
            raise StoreError("its arrays do not fit together")
        return Embeddings(keys, images, words, texts)
