"""The weights of a component on disk, tensor by tensor, without its network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ablate.models.catalogs import shapes_of
from ablate.models.errors import ModelError, cause
from ablate.models.files import folder_of, is_file
from ablate.models.folders import only_variant, weight_files
from ablate.models.loading import network_of
from ablate.models.source import Source, as_source


class Weights:
    """The tensors of one component, each given itself or by its file."""

    def __init__(self, places: Mapping[str, Path | Tensor], label: str) -> None:
        self._places = places
        self._label = label

    def __getitem__(self, name: str) -> Tensor:
        """One tensor, in the dtype that it is stored in. Raises `ModelError` without it."""
        if name not in self._places:
            raise ModelError(f"{self._label} has no tensor `{name}`")
        place = self._places[name]
        if isinstance(place, Tensor):
            return place
        try:
            with safe_open(place, framework="pt") as content:
                tensor: Tensor = content.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{place}: `{name}` cannot be read: {cause(error)}") from error
        return tensor


@lru_cache(maxsize=4)
def weights_of(model: str | Source, component: str) -> Weights:
    """The weights of a model's component, from safetensors alone. Raises `ModelError`.

    Where tensors have other names in their files, as in one file and in older folders, the network
    is loaded, and its tensors stay in memory. Where a folder has weights of one variant alone, they
    are read.
    """
    source = as_source(model)
    label = f"`{component}` of `{source.model}`"
    if is_file(source.model):
        return Weights(network_of(source, component).state_dict(), label)
    folder = folder_of(source.model) or _downloaded(source, component, label)
    part = folder / component
    files = weight_files(part, source.variant or only_variant(part))
    if not files:
        raise ModelError(f"{label} has no weights in safetensors")
    there = replace(source, model=str(folder))
    if not shapes_of(there, component).keys() <= files.keys():
        return Weights(network_of(there, component).state_dict(), label)
    return Weights(files, label)


def _downloaded(source: Source, component: str, label: str) -> Path:
    """The folder of a hub model in the cache, with the weights of a component."""
    try:
        return Path(
            snapshot_download(
                source.model,
                revision=source.revision,
                allow_patterns=[f"{component}/*.safetensors", f"{component}/*.json"],
            )
        )
    except Exception as error:  # of the hub, of the network, of the disk
        raise ModelError(f"{label} cannot be read: {cause(error)}") from error


def fingerprint_of_weights(pipe: Any) -> str:
    """`weights:` and a digest of all tensors of a loaded pipeline and of its scheduler's settings.

    Takes about a second for each gigabyte.
    """
    digest = hashlib.sha256(json.dumps(dict(pipe.scheduler.config), default=str).encode())
    for name, network in sorted(pipe.components.items()):
        if isinstance(network, nn.Module):
            for key, tensor in network.state_dict().items():
                digest.update(f"{name}.{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
                bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
                digest.update(bits.numpy().data)
    return f"weights:{digest.hexdigest()[:32]}"
