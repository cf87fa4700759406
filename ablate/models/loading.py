"""Load pipelines: from folders, hubs and single files, with LoRAs added, onto a device.

Weights are read from safetensors alone, and no code beside them is run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders.single_file_utils import SingleFileComponentError
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import nn

from ablate import bundled
from ablate.messages import articled, counted
from ablate.models.catalogs import class_of, denoiser_of, is_listed
from ablate.models.errors import ModelError, cause
from ablate.models.files import (
    RANDOM,
    configuration,
    described_by,
    folder_of,
    is_file,
    lora_file,
    read_config,
)
from ablate.models.folders import check_lora, check_model, only_variant
from ablate.models.source import OFFLOADS, Lora, Source
from ablate.network import AUTOENCODERS

# How the names of tensors of text encoders and autoencoders begin in single files.
ENCODERS = ("cond_stage_model.", "conditioner.", "text_encoders.")
DECODERS = ("first_stage_model.", "vae.")
# The files of a pipeline without its weights.
DESCRIBING = ("*.json", "*.txt", "*.model")


def load_pipeline(source: Source, device: torch.device, dtype: torch.dtype) -> Any:
    """A pipeline of diffusers with its weights, on a device. Raises `ModelError`."""
    if source.offload is not None and device.type == "cpu":
        raise ModelError(
            "`offload` keeps a network on the accelerator only while it is in use; here all run on"
            " the CPU, so leave it out"
        )
    index = configuration(source, "model_index.json")
    if index is None:
        model, _ = described_by(source)
        raise ModelError(f"`{model}` has no model_index.json; it is no diffusers pipeline")
    check_model(source)
    try:
        pipe = _loaded(source, index, dtype)
    except (NotImplementedError, SingleFileComponentError) as error:
        model, _ = described_by(source)  # the first of the two is about tensors never filled
        text = (
            str(error).strip().splitlines() if isinstance(error, SingleFileComponentError) else []
        )
        raise ModelError(
            f"`{source.model}` lacks weights that its configuration, `{model}`, asks for"
            f"{f': {text[0]}' if text else ''}"
        ) from error
    except ModelError:
        raise
    except Exception as error:  # the libraries raise anything for files that they do not expect
        raise ModelError(f"`{source.model}` cannot be loaded: {cause(error)}") from error
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            check_loaded(part, f"the `{name}` of `{source.model}`")
    for lora in source.lora:
        _fuse(pipe, lora)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.eval().requires_grad_(False)
    return _placed(pipe, device, source.offload)


def check_loaded(network: nn.Module, what: str) -> None:
    """Whether all parameters of a network were loaded, as numbers that can be computed with."""
    for name, parameter in network.named_parameters():
        if parameter.is_meta:
            raise ModelError(f"{what} cannot be loaded: it lacks `{name}`")
        if not parameter.is_floating_point():
            raise ModelError(f"{what} has packed numbers in `{name}` ({parameter.dtype})")
        # The largest magnitude needs no second copy, as a mask of all entries would.
        if parameter.numel() and not torch.linalg.vector_norm(parameter, math.inf).isfinite():
            raise ModelError(f"{what} has NaN or infinity in `{name}`")


def _loaded(source: Source, index: dict[str, Any], dtype: torch.dtype) -> Any:
    if source.model == RANDOM:
        return random_pipeline().to(dtype=dtype)
    options: dict[str, Any] = {"dtype": dtype}
    if "safety_checker" in index:  # it would replace edited images by black ones
        options |= {"safety_checker": None, "requires_safety_checker": False}
    # Diffusers refuses a model whose parts are null unless they are passed as such.
    options |= {name: None for name, entry in index.items() if entry == [None, None]}
    if is_file(source.model):
        return _from_file(source, index, options)
    return _from_folder(source.model, source.revision, options, source.variant)


def _from_folder(
    model: str, revision: str | None, options: dict[str, Any], variant: str | None = None
) -> Any:
    return diffusers.DiffusionPipeline.from_pretrained(
        str(folder_of(model) or model),
        revision=revision,
        variant=variant,
        use_safetensors=True,
        **options,
    )


def _from_file(source: Source, index: dict[str, Any], options: dict[str, Any]) -> Any:
    """A pipeline from one file.

    A file without text encoders gets them, and a missing autoencoder, from its configuration's
    folder or hub id.
    """
    model, revision = described_by(source)
    if source.variant is not None:
        raise ModelError(f"`{source.model}` is one file; it has no variant `{source.variant}`")
    with safe_open(source.model, framework="pt") as content:
        tensors = list(content.keys())
    if not any(name.startswith(ENCODERS) for name in tensors):
        names = [denoiser_of(source)]
        if any(name.startswith(DECODERS) for name in tensors):
            names += [name for name in AUTOENCODERS if name in index]
        networks = {name: _network(source, name, index, options["dtype"]) for name in names}
        return _from_folder(model, revision, options | networks)
    folder = folder_of(model)
    if folder is None:
        patterns = [f"{inside}{pattern}" for inside in ("", "**/") for pattern in DESCRIBING]
        folder = Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    kind = _class(source, index["_class_name"])
    return kind.from_single_file(source.model, config=str(folder), **options)


def network_of(source: Source, component: str) -> nn.Module:
    """A component of a model that is a folder or one file, on the CPU. Raises `ModelError`."""
    index = configuration(source, "model_index.json") or {}
    if not is_listed(index, component):
        raise ModelError(f"`{source.model}` has no component `{component}`")
    what = f"`{component}` of `{source.model}`"
    try:
        if is_file(source.model):
            return _network(source, component, index, None)
        part = Path(source.model) / component
        kind: Any = class_of(*index[component])
        variant = source.variant or only_variant(part)
        network: nn.Module = kind.from_pretrained(part, variant=variant, use_safetensors=True)
    except ModelError:
        raise
    except Exception as error:  # as above
        raise ModelError(f"{what} cannot be read: {cause(error)}") from error
    check_loaded(network, what)
    return network


def _network(
    source: Source, name: str, index: dict[str, Any], dtype: torch.dtype | None
) -> nn.Module:
    model, revision = described_by(source)
    network: nn.Module = _class(source, index[name][1]).from_single_file(
        source.model,
        config=str(folder_of(model) or model),
        config_revision=revision,
        subfolder=name,
        dtype=dtype,
    )
    return network


def _class(source: Source, name: str) -> Any:
    """A class of diffusers that can be loaded from one file."""
    kind = getattr(diffusers, name, None)
    if not hasattr(kind, "from_single_file"):
        raise ModelError(f"`{source.model}`: diffusers loads no {name} from one file")
    return kind


def _fuse(pipe: Any, lora: Lora) -> None:
    """Add a LoRA to the weights; nothing else of the networks changes."""
    kind = type(pipe).__name__
    if not hasattr(pipe, "load_lora_weights"):
        raise ModelError(f"`lora`: diffusers adds none to {articled(kind)}")
    check_lora(lora)
    file, _ = lora_file(lora)
    try:
        given = pipe.lora_state_dict(str(file.parent), weight_name=file.name, use_safetensors=True)
        pipe.load_lora_weights(
            str(file.parent), weight_name=file.name, adapter_name="lora", use_safetensors=True
        )
    except Exception as error:  # a file of any names and shapes
        raise ModelError(f"the LoRA `{lora.model}` cannot be added: {cause(error)}") from error
    if not pipe.get_list_adapters():
        raise ModelError(f"the LoRA `{lora.model}` fits no module of this {kind}")
    parts = {
        name: {path for path, layer in pipe.components[name].named_modules() if _has_lora(layer)}
        for name in pipe._lora_loadable_modules
        if isinstance(pipe.components.get(name), nn.Module)
    }
    loaded = {f"{name}.{path}" for name, paths in parts.items() for path in paths}
    tensors = given[0] if isinstance(given, tuple) else given
    unfit = [path for path in _paths(tensors) if not any(_same(path, other) for other in loaded)]
    if unfit:
        raise ModelError(
            f"the LoRA `{lora.model}` does not fit: this {kind} has no"
            f" {counted(len(unfit), 'module')} of those it changes, `{unfit[0]}` first"
        )
    try:
        pipe.fuse_lora(
            components=[name for name, paths in parts.items() if paths],
            lora_scale=lora.scale,
            adapter_names=["lora"],
        )
        pipe.unload_lora_weights()
    except Exception as error:  # as above
        raise ModelError(f"the LoRA `{lora.model}` cannot be added: {cause(error)}") from error


def _has_lora(layer: nn.Module) -> bool:
    """Whether a layer has the matrices of the LoRA that is being added."""
    return any("lora" in getattr(layer, kind, ()) for kind in ("lora_A", "lora_embedding_A"))


def _paths(tensors: Mapping[str, Any]) -> Iterator[str]:
    """The modules that a LoRA in the names of diffusers changes, with their components."""
    for name in tensors:
        path, found, _ = name.partition(".lora")
        if found and name.endswith(("lora_A.weight", "lora.down.weight", "lora_embedding_A")):
            yield path


def _same(path: str, other: str) -> bool:
    """Whether two paths name one module: releases differ in names around text encoders."""
    return path == other or path.replace(".text_model.", ".") == other.replace(".text_model.", ".")


def _placed(pipe: Any, device: torch.device, offload: str | None) -> Any:
    """A pipeline on its device, or set up to move each network there while it is in use."""
    if offload is None:
        return pipe.to(device)
    if offload not in OFFLOADS:
        raise ModelError(f"`offload` is one of {', '.join(OFFLOADS)}, not `{offload}`")
    try:
        pipe.enable_model_cpu_offload(device=device)
    except (ValueError, RuntimeError) as error:
        raise ModelError(f"`offload`: {error}") from error
    return pipe


def random_pipeline() -> Any:
    """Stable Diffusion 1.x of its real size; the weights are torch's default initialization."""
    configs = {
        part: read_config(RANDOM, f"{part}/config.json", None) or {}
        for part in ("unet", "vae", "text_encoder")
    }
    schedule = read_config(RANDOM, "scheduler/scheduler_config.json", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.StableDiffusionPipeline(
            vae=diffusers.AutoencoderKL.from_config(configs["vae"]),
            text_encoder=transformers.CLIPTextModel(
                transformers.CLIPTextConfig(**configs["text_encoder"])
            ),
            # Any tokenizer will do: the meaning of its tokens is random too.
            tokenizer=transformers.CLIPTokenizer.from_pretrained(
                bundled.FOLDER / "tokenizer", model_max_length=77
            ),
            unet=diffusers.UNet2DConditionModel.from_config(configs["unet"]),
            scheduler=diffusers.PNDMScheduler.from_config(schedule),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
