"""Networks from their configuration alone, on the meta device: all shapes, no weights.

No weights are read and no remote code is run.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, cast

import diffusers
import torch
import transformers
from diffusers.configuration_utils import FrozenDict
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ablate.messages import RequestError, articled
from ablate.models.inputs import inputs_of
from ablate.network import Catalog, build_catalog


class Described:
    """In the place of a component: nothing but its configuration."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = FrozenDict(config)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["config"][name]
        except KeyError as error:
            raise AttributeError(name) from error


def outline(index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> Any | None:
    """The pipeline that a model_index.json names, its components nothing but their configurations
    or None; itself None where it cannot be made so."""
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
        return None
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in configs:
            given[name] = Described(configs[name])
        elif name == "requires_safety_checker":  # it would be missed aloud
            given[name] = False
        elif name in index and not isinstance(index[name], list):
            given[name] = index[name]
        elif parameter.default is parameter.empty:
            given[name] = None
    try:
        return kind(**given)
    except Exception:  # a class that asks more of its components raises anything
        return None


class SkeletonError(RequestError, ValueError):
    """A configuration that no network can be built from, or run; the message says which and why."""


def skeleton(config: Mapping[str, Any]) -> nn.Module:
    """The network of diffusers or transformers that a configuration describes.

    Raises `SkeletonError` when it names no class that the two libraries have.
    """
    name = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    with torch.device("meta"):
        found: Any = getattr(diffusers, str(name), None)
        if isinstance(found, type):
            return cast(nn.Module, found.from_config(dict(config)))  # type: ignore[attr-defined]
        found = getattr(transformers, str(name), None)
        if isinstance(found, type):
            plain = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
            made = transformers.AutoConfig.for_model(config["model_type"], **plain)
            return cast(nn.Module, found(made))
    raise SkeletonError(
        f"its configuration names the class `{name}`, which neither diffusers nor transformers has"
    )


def catalog_of(config: Mapping[str, Any]) -> Catalog:
    """The modules of the network that a configuration describes.

    In forward order where the network runs with the inputs made for it, else in order of
    registration. Raises `SkeletonError` as `skeleton` does.
    """
    network = skeleton(config)
    given = inputs_of(network)
    if given is None:
        return build_catalog(network)
    try:
        return build_catalog(network, lambda: network(**given))
    except Exception:  # a class that takes other shapes, or asks for values, raises anything
        return build_catalog(network)


def flops_of(config: Mapping[str, Any]) -> float:
    """Floating-point operations of one row of a denoiser at its own size, counted as they are run
    on the meta device. Raises `SkeletonError` where it cannot be run there."""
    network = skeleton(config)
    given = inputs_of(network)
    kind = type(network).__name__
    if given is None:
        raise SkeletonError(f"no estimate is known for {articled(kind)}")
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(**given)
    except Exception as error:
        raise SkeletonError(f"no estimate is known for {articled(kind)}: {error}") from error
    return float(counter.get_total_flops())
