"""The Inception network that published FID and KID are measured by (Szegedy et al. 2016, Rethinking
the Inception architecture for computer vision), in the weights of the original implementation."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ablate.drift.encoders import ImageReader
from ablate.models import ModelError, cause, find_device

INCEPTION = "inception"  # the id of the reader
POOLED = "2048"  # the features of its last pooling, by their number


def is_inception(model: str) -> bool:
    """Whether a reader is meant, not a folder of that name."""
    return model == INCEPTION and not Path(model).is_dir()


def check_inception() -> None:
    """Raise `ModelError` without the packages that contain the network."""
    missing = [name for name in ("torchmetrics", "torch_fidelity") if find_spec(name) is None]
    if missing:
        names = " and ".join(name.replace("_", "-") for name in missing)
        raise ModelError(f"`{INCEPTION}` needs {names}: pip install 'ablate[metrics]'")


class InceptionReader(ImageReader):
    """Reads images of any size as torchmetrics does for FID: 2,048 numbers each."""

    @classmethod
    def load(cls, model: str = INCEPTION, device: str | None = None) -> Self:
        """Load the network. Raises `ModelError`."""
        check_inception()
        target = find_device(device)
        try:
            with warnings.catch_warnings():  # of packages, on each other
                warnings.simplefilter("ignore")
                from torchmetrics.image.fid import NoTrainInceptionV3  # optional

                network = NoTrainInceptionV3("inception-v3-compat", [POOLED])
        except Exception as error:  # of a package or of weights that are not there
            raise ModelError(
                f"`{INCEPTION}` cannot be loaded: {cause(error)}; its weights are read from"
                f" {torch.hub.get_dir()}/checkpoints, or fetched by torch-fidelity"
            ) from error
        return cls(INCEPTION, network.to(target), None)

    def _vectors(self, images: Sequence[Image.Image]) -> Tensor:
        device = next(self.network.parameters()).device
        parts = []
        # Only images of one size share a batch: the network resizes them itself.
        for _, alike in groupby(images, key=lambda image: image.size):
            pixels = torch.from_numpy(np.stack([np.asarray(image) for image in alike]))
            parts.append(self.network(pixels.permute(0, 3, 1, 2).to(device)))
        return torch.cat(parts)
