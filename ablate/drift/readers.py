"""The further image encoders of a run: `readers:` of a recipe."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ablate.drift.encoders import ImageReader, check_encoder
from ablate.drift.inception import InceptionReader, check_inception, is_inception


def check_further(model: str) -> None:
    """Raise `ModelError` if an image encoder cannot be loaded, as far as its files show."""
    if is_inception(model):
        check_inception()
    else:
        check_encoder(model)


def load_readers(models: Iterable[str], device: str | None = None) -> dict[str, ImageReader]:
    """Load the further image encoders of a run, by the names of their distances.

    Raises `ModelError`.
    """
    models = list(models)
    kinds = (InceptionReader if is_inception(model) else ImageReader for model in models)
    loaded = [kind.load(model, device) for kind, model in zip(kinds, models, strict=True)]
    return dict(zip(reader_names(models), loaded, strict=True))


def reader_names(models: Iterable[str]) -> list[str]:
    """The names of the distances by image encoders: `embedding_dinov2_base` of
    `facebook/dinov2-base`. Those of one name are numbered."""
    names: list[str] = []
    for model in models:
        words = re.findall(r"[a-z0-9]+", Path(model).name.lower())
        plain = name = "_".join(["embedding", *words])
        number = 1
        while name in names:
            number += 1
            name = f"{plain}_{number}"
        names.append(name)
    return names
