"""Metrics of papers, by torchmetrics (`pip install 'ablate[metrics]'`).

`lpips` is a distance of two images (Zhang et al. 2018, The unreasonable effectiveness of deep
features as a perceptual metric). `fid` (Heusel et al. 2017, GANs trained by a two time-scale update
rule) and `kid` (Bińkowski et al. 2018, Demystifying MMD GANs) are distances between sets, on the
vectors of each image encoder of the run, as it gives them; not on those of Inception.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import Any, get_args

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ablate.drift.encoders import ImageReader
from ablate.drift.images import Extra, Metric
from ablate.drift.sets import SetDistance, SetMetric
from ablate.messages import RequestError, did_you_mean
from ablate.models import cause, find_device

NETWORKS = {"lpips": "alex", "lpips_vgg": "vgg", "lpips_squeeze": "squeeze"}
SMALLEST = 32  # pixels of a side that the networks of LPIPS read
SUBSET = 1000  # images of a subset, of which KID is the mean over many
SUBSETS = 100


def check_extra(name: Extra, *, read: bool) -> None:
    """Raise `RequestError` for a metric that cannot be measured.

    Args:
        read: Whether the run has an image encoder.
    """
    if name not in get_args(Extra):
        hint = did_you_mean(name, get_args(Extra))
        raise RequestError(f"there is no metric `{name}` that a recipe names{hint}")
    packages = ["torchmetrics", *(["torchvision"] if name in NETWORKS else [])]
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise RequestError(f"`{name}` needs {' and '.join(missing)}: pip install 'ablate[metrics]'")
    if name not in NETWORKS and not read:
        raise RequestError(
            f"`{name}` is measured on the vectors of an image encoder, and there is none: name one"
            " by `clip` or `readers`"
        )


def extra_names(names: Sequence[Extra], readers: Sequence[str]) -> list[str]:
    """The names of the distances by metrics; those of sets have one for each image encoder."""
    return [
        column
        for name in names
        for column in ([name] if name in NETWORKS else [_column(name, r) for r in readers])
    ]


def _column(name: str, reader: str) -> str:
    """`fid_dinov2_base` for the reader `embedding_dinov2_base`."""
    return reader.replace("embedding", name, 1)


def load_extras(
    names: Sequence[Extra], readers: Mapping[str, ImageReader], device: str | None = None
) -> tuple[dict[str, Metric], dict[str, SetMetric]]:
    """Load metrics: those of two images, and those of sets, by the names of their distances.

    Args:
        names: Which metrics.
        readers: Image encoders by the names of their distances.
        device: Where networks run.

    Raises:
        RequestError: A metric cannot be measured.
    """
    metrics: dict[str, Metric] = {}
    sets: dict[str, SetMetric] = {}
    vectors = {name: _kept(reader) for name, reader in readers.items()}
    for name in names:
        check_extra(name, read=bool(readers))
        if name in NETWORKS:
            metrics[name] = _Lpips(name, device)
            continue
        for reader, read in vectors.items():
            width = readers[reader].width
            sets[_column(name, reader)] = (
                SetMetric(_Frechet(read), 2, partial(_too_few, width))
                if name == "fid"
                else SetMetric(_Kernel(read), 2, _below_zero)
            )
    return metrics, sets


def _too_few(width: int, distances: Sequence[SetDistance]) -> Iterator[str]:
    count = min((min(d.images, d.baselines) for d in distances), default=width)
    if count < width:
        yield (
            f"`{distances[0].metric}` is of sets of {count} images, by vectors of {width} numbers:"
            " of fewer images than numbers it is biased; prefer `kid`."
        )


def _below_zero(distances: Sequence[SetDistance]) -> Iterator[str]:
    if any(distance.value < 0 for distance in distances):
        yield (
            f"`{distances[0].metric}` is below 0 where images are nearer to their baselines than an"
            " independent set would be, whose mean is 0: they share prompts and seeds."
        )


class _Lpips:
    """A distance of two images on the activations of a network of torchvision."""

    def __init__(self, name: Extra, device: str | None) -> None:
        self.name = name
        self.device = find_device(device)
        try:
            from torchmetrics.image.lpip import (  # optional
                LearnedPerceptualImagePatchSimilarity as Similarity,
            )

            with warnings.catch_warnings():  # of torchvision, on its own options
                warnings.simplefilter("ignore")
                metric = Similarity(NETWORKS[name], normalize=True)
        except Exception as error:  # of a package or of weights that are not there
            raise RequestError(
                f"`{name}` cannot be measured: {cause(error)}; the weights of its network are read"
                f" from {torch.hub.get_dir()}/checkpoints, or fetched by torchvision"
            ) from error
        self.metric = metric.to(self.device)

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, baseline: np.ndarray) -> float:
        if min(image.shape[:2]) < SMALLEST:
            raise RequestError(f"`{self.name}` needs images of {SMALLEST} pixels or more a side")
        planes = (
            torch.from_numpy(each).permute(2, 0, 1)[None].to(self.device)
            for each in (image, baseline)
        )
        self.metric.reset()
        return float(self.metric(*planes))


Vectors = Callable[[Sequence[Image.Image]], Tensor]


def _kept(reader: ImageReader) -> Vectors:
    """The vectors of images by a reader; those of the last two sets are kept."""

    @lru_cache(maxsize=2)
    def vectors(images: Sequence[Image.Image]) -> Tensor:
        return torch.from_numpy(reader.features(images))

    return vectors


class _Given(nn.Module):
    """What torchmetrics takes for its network, where vectors are known already."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors


class _Frechet:
    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def __call__(self, images: Sequence[Image.Image], baselines: Sequence[Image.Image]) -> float:
        from torchmetrics.image.fid import FrechetInceptionDistance  # optional

        return _between(FrechetInceptionDistance, self.vectors(images), self.vectors(baselines))


class _Kernel:
    def __init__(self, vectors: Vectors) -> None:
        self.vectors = vectors

    def __call__(self, images: Sequence[Image.Image], baselines: Sequence[Image.Image]) -> float:
        from torchmetrics.image.kid import KernelInceptionDistance  # optional

        counts = {len(images), len(baselines), SUBSET}
        whole = len(images) == len(baselines) <= SUBSET  # then all subsets are the same
        with torch.random.fork_rng():
            torch.manual_seed(0)  # which subsets
            return _between(
                KernelInceptionDistance, self.vectors(images), self.vectors(baselines),
                subset_size=min(counts), subsets=1 if whole else SUBSETS,
            )  # fmt: skip


def _between(kind: Any, vectors: Tensor, baselines: Tensor, **options: Any) -> float:
    with warnings.catch_warnings():  # that it keeps all vectors in memory
        warnings.simplefilter("ignore")
        metric = kind(_Given(vectors.shape[1]), **options)
    metric.update(baselines, real=True)
    metric.update(vectors, real=False)
    result = metric.compute()
    return float(result[0] if isinstance(result, tuple) else result)
