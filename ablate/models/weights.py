"""The weights of a component on disk, tensor by tensor, without its network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ablate.models.files import ModelError, download, folder_of, is_file
from ablate.models.loading import network_of
from ablate.models.source import Source, as_source

# As diffusers and transformers name them.
NAMES = ("diffusion_pytorch_model.safetensors", "model.safetensors")


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
        with safe_open(place, framework="pt") as content:
            tensor: Tensor = content.get_tensor(name)
        return tensor


@lru_cache(maxsize=4)
def weights_of(model: str | Source, component: str) -> Weights:
    """The weights of a model's component, from safetensors alone. Raises `ModelError`.

    Those of a model that is one file stay in memory: they have other names in the file.
    """
    source = as_source(model)
    label = f"`{component}` of `{source.model}`"
    if is_file(source.model):
        return Weights(network_of(source, component).state_dict(), label)
    try:
        for name in NAMES:
            file = _file(source, f"{component}/{name}")
            if file is not None:
                with safe_open(file, framework="pt") as content:
                    return Weights(dict.fromkeys(content.keys(), file), label)
            index = _file(source, f"{component}/{name}.index.json")
            if index is not None:
                shards: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
                files = {
                    shard: _file(source, f"{component}/{shard}") for shard in {*shards.values()}
                }
                missing = sorted(shard for shard, file in files.items() if file is None)
                if missing:
                    raise ModelError(f"{label} lacks {missing[0]}")
                return Weights({n: f for n, s in shards.items() if (f := files[s])}, label)
    except (OSError, ValueError, SafetensorError) as error:
        raise ModelError(f"{label} cannot be read: {error}") from error
    raise ModelError(f"{label} has no weights in safetensors")


def _file(source: Source, name: str) -> Path | None:
    """A file of a model, None when it has none of that name."""
    folder = folder_of(source.model)
    if folder is not None:
        file = folder / name
        return file if file.exists() else None
    try:
        return download(source.model, name, source.revision, f"`{source.model}`")
    except (ModelError, OSError):
        return None


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
