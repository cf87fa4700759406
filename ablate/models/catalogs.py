"""The networks of a model from configuration alone: their catalogs, and the cost of sampling.

Networks are built on the meta device, with all shapes and no weights. No remote code is run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import diffusers
import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ablate.messages import articled, did_you_mean
from ablate.models.devices import find_device, find_dtype
from ablate.models.files import ModelError, configuration
from ablate.models.inputs import inputs_of
from ablate.models.source import Source, as_source
from ablate.network import DENOISERS, Catalog, build_catalog


def load_catalog(model: str | Source, component: str | None = None) -> Catalog:
    """The catalog of a model's denoiser, or of another component.

    Raises:
        ModelError: The model or component does not exist, or is of an unknown class.
    """
    source = as_source(model)
    # Shapes do not depend on the other attributes of a source.
    return _load_catalog(Source(source.model, source.revision, config=source.config), component)


@lru_cache(maxsize=16)
def _load_catalog(source: Source, component: str | None) -> Catalog:
    return catalog_from_config(_component_config(source, component), source.model)


def catalog_from_config(config: Mapping[str, Any], model: str) -> Catalog:
    """The catalog of the network that a configuration of a model describes.

    It is in forward order if the network runs with the inputs of `inputs_of`, else in order of
    registration. Raises `ModelError` as `skeleton` does.
    """
    network = skeleton(config, model)
    inputs = inputs_of(network)
    if inputs is None:
        return build_catalog(network)
    try:
        return build_catalog(network, lambda: network(**inputs))
    except Exception:  # a class that takes other shapes, or asks for values, raises anything
        return build_catalog(network)


def skeleton(config: Mapping[str, Any], model: str) -> nn.Module:
    """The network of diffusers or transformers that a configuration of a model describes.

    It is on the meta device. Raises `ModelError` if neither library has its class.
    """
    name = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    with torch.device("meta"):
        kind: Any = getattr(diffusers, str(name), None)
        if isinstance(kind, type):
            return cast(nn.Module, kind.from_config(dict(config)))  # type: ignore[attr-defined]
        kind = getattr(transformers, str(name), None)
        if isinstance(kind, type):
            plain = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
            settings = transformers.AutoConfig.for_model(config["model_type"], **plain)
            return cast(nn.Module, kind(settings))
    raise ModelError(
        f"`{model}`: its configuration names the class `{name}`, which neither diffusers nor"
        " transformers has"
    )


def denoiser_of(model: str | Source) -> str:
    """The name of a model's denoiser among its components. Raises `ModelError`."""
    index = configuration(as_source(model), "model_index.json")
    if index is None:  # a folder that is itself a component
        return DENOISERS[0]
    return next((name for name in DENOISERS if index.get(name, [None])[0]), DENOISERS[0])


def _component_config(source: Source, component: str | None) -> dict[str, Any]:
    index = configuration(source, "model_index.json")
    present = [k for k, v in (index or {}).items() if isinstance(v, list) and v[0]]
    for name in (component,) if component else DENOISERS:
        # The index of a hub model is asked first: other components may not be cached.
        if index is None or name in present:
            config = configuration(source, f"{name}/config.json")
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


def guided_rows(source: Source) -> int:
    """The rows of the denoiser's batch for each cell with guidance, by a model's configuration."""
    index = configuration(source, "model_index.json") or {}
    return guided_rows_of(_component_config(source, None), index)


def guided_rows_of(denoiser: Mapping[str, Any], index: Mapping[str, Any]) -> int:
    """As `guided_rows`, by the configurations of the denoiser and of the pipeline.

    One if guidance is distilled into the denoiser, which takes its scale as an input, else two.
    """
    distilled = denoiser.get("guidance_embeds") or denoiser.get("time_cond_proj_dim") is not None
    return 1 if distilled or index.get("is_distilled") is True else 2


@dataclass(frozen=True)
class Cost:
    """The cost of sampling.

    Attributes:
        flops: Floating-point operations of one row of the denoiser.
        rate: Operations per second on this machine.
        device: The type of its device.
    """

    flops: float
    rate: float
    device: str


def estimate_cost(model: str | Source) -> Cost:
    """The cost of one row of the denoiser at the model's default size, and the speed of this
    machine: a fifth of that of a matrix product, as sampling typically reaches."""
    source = as_source(model)
    flops = flops_of(_component_config(source, None), source.model)
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


def flops_of(config: Mapping[str, Any], model: str) -> float:
    """Floating-point operations of one row of a denoiser at its default size, counted on the meta
    device. Raises `ModelError` where it does not run there."""
    network = skeleton(config, model)
    inputs = inputs_of(network)
    unknown = f"`{model}`: no estimate is known for {articled(type(network).__name__)}"
    if inputs is None:
        raise ModelError(unknown)
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(**inputs)
    except Exception as error:
        raise ModelError(f"{unknown}: {error}") from error
    return float(counter.get_total_flops())
