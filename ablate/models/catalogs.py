"""Catalogs of a model's networks, from configuration alone."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from ablate.messages import did_you_mean
from ablate.models import skeletons
from ablate.models.devices import find_device, find_dtype
from ablate.models.files import ModelError, configuration
from ablate.models.skeletons import SkeletonError
from ablate.models.source import Source
from ablate.network import AUTOENCODERS, DENOISERS, Catalog


def load_catalog(
    model: str | Source, component: str | None = None, revision: str | None = None
) -> Catalog:
    """The modules of a model's denoiser, or of another component, from configuration alone.

    Raises `ModelError` when the model or component is not there or of no known class.
    """
    source = _source(model, revision)
    # What else a source tells changes no shapes.
    return _catalog(Source(source.model, source.revision, config=source.config), component)


@lru_cache(maxsize=16)
def _catalog(source: Source, component: str | None) -> Catalog:
    return catalog_from_config(_component_config(source, component), source.model)


def _source(model: str | Source, revision: str | None) -> Source:
    return model if isinstance(model, Source) else Source(model, revision)


def catalog_from_config(config: Mapping[str, Any], model: str) -> Catalog:
    """The modules of the network that a configuration of a model describes, in forward order."""
    try:
        return skeletons.catalog_of(config)
    except SkeletonError as error:
        raise ModelError(f"`{model}`: {error}") from error


def denoiser_of(model: str | Source, revision: str | None = None) -> str:
    """The name of a model's denoiser among its components. Raises `ModelError`."""
    index = configuration(_source(model, revision), "model_index.json")
    if index is None:  # a folder that is itself a component
        return DENOISERS[0]
    return next((name for name in DENOISERS if index.get(name, [None])[0]), DENOISERS[0])


def _component_config(source: Source, component: str | None) -> dict[str, Any]:
    index = configuration(source, "model_index.json")
    present = [k for k, v in (index or {}).items() if isinstance(v, list) and v[0]]
    for name in (component,) if component else DENOISERS:
        # A hub model's index is asked first: of what it does not name nothing may be cached.
        config = (
            configuration(source, f"{name}/config.json")
            if index is None or name in present
            else None
        )
        if config is not None:
            return config
    if component is None and index is None:  # a folder that is itself a component
        config = configuration(source, "config.json")
        if config is not None:
            return config
    what = f"no component `{component}`" if component else "no denoiser (`unet`, `transformer`)"
    other = ("scheduler", "tokenizer", "processor", "feature_extractor", "safety_checker")
    networks = [name for name in present if not any(word in name for word in other)]
    near = did_you_mean(component or "", networks).rstrip("?")
    there = f"{near}; it has {', '.join(networks)}"
    raise ModelError(f"`{source.model}` has {what}{there if present else ''}")


@lru_cache(maxsize=16)
def outline_of(source: Source) -> Any | None:
    """A model's pipeline without its networks, for what it says of sizes (`skeletons.outline`);
    None where it cannot be had."""
    try:
        index = configuration(source, "model_index.json") or {}
        configs = {
            name: configuration(source, f"{name}/config.json")
            for name in (*DENOISERS, *AUTOENCODERS)
            if index.get(name, [None])[0]
        }
    except ModelError:  # told where it matters
        return None
    return skeletons.outline(index, {name: found for name, found in configs.items() if found})


def guided_rows(source: Source) -> int:
    """Denoiser rows of a step of a guided cell, by a model's configuration (`guided_rows_of`)."""
    index = configuration(source, "model_index.json") or {}
    return guided_rows_of(_component_config(source, None), index)


def guided_rows_of(denoiser: Mapping[str, Any], index: Mapping[str, Any]) -> int:
    """One where guidance is distilled into the denoiser, which takes its scale as an input, else
    two. By the configurations of denoiser and pipeline."""
    distilled = denoiser.get("guidance_embeds") or denoiser.get("time_cond_proj_dim") is not None
    return 1 if distilled or index.get("is_distilled") is True else 2


@dataclass(frozen=True)
class Cost:
    """What sampling costs: operations of one denoiser row, operations a second, and where."""

    flops: float
    rate: float
    device: str


def estimate_cost(model: str | Source, revision: str | None = None) -> Cost:
    """The cost of one denoiser row at the model's own size, and a rough speed of this machine.

    Operations are counted on the meta device; the speed is that of a matrix product here, of
    which sampling typically reaches a fifth.
    """
    source = _source(model, revision)
    config = _component_config(source, None)
    try:
        flops = skeletons.flops_of(config)
    except SkeletonError as error:
        raise ModelError(f"`{source.model}`: {error}") from error
    device = find_device()
    dtype = find_dtype("auto", device)
    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    matrix @ matrix
    began = time.perf_counter()
    for _ in range(3):
        result = matrix @ matrix
    float(result[0, 0])  # waits for the device
    rate = 3 * 2 * side**3 / (time.perf_counter() - began) / 5
    return Cost(flops, rate, device.type)
