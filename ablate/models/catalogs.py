"""The networks of a model from configuration alone: their catalogs, and the cost of sampling.

Networks are built on the meta device, with all shapes and no weights. No remote code is run.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import diffusers
import torch
import transformers
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.module import register_module_module_registration_hook
from torch.utils.flop_counter import FlopCounterMode

from ablate.messages import articled, did_you_mean
from ablate.models.devices import find_device, find_dtype
from ablate.models.errors import ModelError, cause
from ablate.models.files import configuration, described_by
from ablate.models.formats import MOST_MODULES, check_bounds
from ablate.models.inputs import inputs_of
from ablate.models.source import Source, as_source
from ablate.network import DENOISERS, Catalog, Flow, FlowRecorder, build_catalog


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
    return catalog_from_config(component_config(source, component), source.model)


def shapes_of(source: Source, component: str) -> dict[str, tuple[int, ...]]:
    """The shapes of a component's parameters by configuration. Raises `ModelError`."""
    network = skeleton(component_config(source, component), source.model)
    return {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}


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


def flow_of(network: nn.Module) -> Flow | None:
    """The data flow of a loaded network, with whatever was replaced in it; None if its class takes
    inputs that are not known, or runs only where it was loaded.

    Its code runs on tensors of the meta device in the place of its own.
    """
    inputs = inputs_of(network)
    if inputs is None:
        return None
    own = [
        *network.named_parameters(remove_duplicate=False),
        *network.named_buffers(remove_duplicate=False),
    ]
    one_for = {id(t): torch.empty(t.shape, dtype=_wide(t), device="meta") for _, t in own}
    stand_ins = {name: one_for[id(tensor)] for name, tensor in own}
    try:
        with torch.no_grad(), FlowRecorder(stand_ins.items()) as recorder:
            result = functional_call(network, stand_ins, (), inputs, tie_weights=False)
    except Exception:  # code that anybody may have replaced raises anything
        return None
    flow: Flow = recorder.finish(result)
    return flow


def _wide(tensor: Tensor) -> torch.dtype:
    """The type of inputs, for numbers of any precision."""
    return torch.float32 if tensor.is_floating_point() else tensor.dtype


def skeleton(config: Mapping[str, Any], model: str) -> nn.Module:
    """The network of diffusers or transformers that a configuration of a model describes.

    It is on the meta device. Raises `ModelError` if neither library has its class.
    """
    return _skeleton(json.dumps(dict(config), default=str), model)


@lru_cache(maxsize=8)
def _skeleton(text: str, model: str) -> nn.Module:
    config = json.loads(text)
    name = _class_name(config)
    kind = class_of("diffusers", name) or class_of("transformers", name)
    if kind is None or not issubclass(kind, nn.Module):
        raise ModelError(
            f"`{model}`: its configuration names the class `{name}`, which neither diffusers nor"
            " transformers has as a network"
        )
    try:
        with torch.device("meta"), _limited_modules():
            if hasattr(kind, "from_config"):
                return cast(nn.Module, kind.from_config(config))
            plain = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
            settings = transformers.AutoConfig.for_model(config["model_type"], **plain)
            return cast(nn.Module, kind(settings))
    except ModelError as error:
        raise ModelError(f"`{model}`: its `{name}` {error}") from error
    except Exception as error:  # a class raises anything for values that it does not expect
        raise ModelError(
            f"`{model}`: no {name} can be built from its configuration: {cause(error)}"
        ) from error


def _class_name(config: Mapping[str, Any]) -> str:
    """The class of the network that a configuration describes."""
    architectures = config.get("architectures")
    first = architectures[0] if isinstance(architectures, list) and architectures else None
    return str(config.get("_class_name") or first)


def class_of(library: str, name: object) -> Any | None:
    """A class of diffusers or transformers by name; None where the library has none."""
    try:
        kind = getattr({"diffusers": diffusers, "transformers": transformers}[library], str(name))
    except Exception:  # modules are imported on demand, and may lack a package
        return None
    return kind if isinstance(kind, type) else None


@contextmanager
def _limited_modules() -> Iterator[None]:
    """Raise `ModelError` when a network of more modules than any has is built."""
    numbers = itertools.count(1)

    def count(*_: object) -> None:
        if next(numbers) > MOST_MODULES:
            raise ModelError(f"has more than {MOST_MODULES:,} modules")

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def denoiser_of(model: str | Source) -> str:
    """The name of a model's denoiser among its components. Raises `ModelError`."""
    index = configuration(as_source(model), "model_index.json")
    if index is None:  # a folder that is itself a component
        return DENOISERS[0]
    return next((name for name in DENOISERS if is_listed(index, name)), DENOISERS[0])


def is_listed(index: Mapping[str, Any], name: str) -> bool:
    """Whether a model_index.json has a component, which is not null."""
    entry = index.get(name)
    return isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)


def component_config(source: Source, component: str | None) -> dict[str, Any]:
    """The configuration of a model's denoiser, or of another component. Raises `ModelError`."""
    index = configuration(source, "model_index.json")
    present = [name for name in index or {} if is_listed(index or {}, name)]
    for name in (component,) if component else DENOISERS:
        # The index of a hub model is asked first: other components may not be cached.
        if index is None or name in present:
            config = configuration(source, f"{name}/config.json")
            if config is not None:
                check_bounds(config, f"{described_by(source)[0]}/{name}/config.json")
                return config
    if component is None and index is None:  # a folder that is itself a component
        config = configuration(source, "config.json")
        if config is not None:
            check_bounds(config, f"{source.model}/config.json")
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
    return guided_rows_of(component_config(source, None), index)


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
    flops = flops_of(component_config(source, None), source.model)
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
