"""Models by name: where they lie, what their configuration says, and where they can run.

A model is `bundled`, a hub id, a local folder in diffusers' format, one safetensors file, or
`sd15-random`: Stable Diffusion 1.x at its real size with random weights, for trying what it costs.
Catalogs need configuration files only.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers.loaders import single_file_utils
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from safetensors import SafetensorError, safe_open
from torch import nn

from ablate import bundled
from ablate.messages import RequestError, did_you_mean
from ablate.models.source import Lora, Source

RANDOM = "sd15-random"
LORA_FILE = "pytorch_lora_weights.safetensors"
# Formats of single files that are not read: what is pickled may run code, the rest is no weights.
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
UNREAD = (*PICKLED, ".gguf")
# The lab shows progress of its own.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


class ModelError(RequestError):
    """A model that cannot be found, read or used; the message says why and what would do."""


class SizeError(ModelError):
    """A size of pictures that a model turned out not to make, when it was sampled."""


def is_file(model: str) -> bool:
    """Whether a model is one safetensors file. Raises `ModelError` for one of another format, and
    where there is no such file."""
    suffix = Path(model).suffix
    if suffix not in (".safetensors", *UNREAD) or Path(model).is_dir():
        return False
    if suffix != ".safetensors":
        why = ", which may run code when it is read" if suffix in PICKLED else ""
        raise ModelError(f"`{model}` is a {suffix} file{why}; give its weights as .safetensors")
    if not Path(model).exists():
        raise ModelError(f"there is no file `{model}`")
    return True


def folder_of(model: str) -> Path | None:
    """The local folder of a model, None for a hub id or a file."""
    if model == "bundled":
        return bundled.FOLDER
    if model == RANDOM:
        return Path(__file__).parent / "sd15"
    if Path(model).is_dir():
        return Path(model)
    if is_file(model):
        return None
    if model.startswith((".", "/", "~")) or model.count("/") != 1 or Path(model).exists():
        raise ModelError(
            f"there is no model `{model}`: it is neither `bundled`, nor a folder in diffusers'"
            f" format, nor a safetensors file, nor a hub id such as"
            f" `stable-diffusion-v1-5/stable-diffusion-v1-5`"
            f"{did_you_mean(model, ['bundled', RANDOM])}"
        )
    return None


def described_by(source: Source) -> tuple[str, str | None]:
    """The folder or hub id that holds a model's configuration, and its revision.

    Of a file it is what `config` names, else what diffusers takes files of its kind for.
    """
    if is_file(source.model):
        return source.config or _usual_config(source.model), source.revision
    if source.config is not None:
        raise ModelError(
            f"`config: {source.config}` describes a model that is one safetensors file;"
            f" `{source.model}` has a configuration of its own"
        )
    return source.model, source.revision


def source_like(source: Source, model: str) -> Source:
    """Another model, taken to be like a source where it is a file without a description."""
    if not is_file(model):
        return Source(model)
    described, revision = described_by(source)
    return Source(model, revision, config=described)


@lru_cache(maxsize=16)
def _usual_config(file: str) -> str:
    """The hub id of the pipeline that a file's tensors are like, by their names and shapes."""
    try:
        with safe_open(file, framework="pt") as content:
            shapes = {name: content.get_slice(name).get_shape() for name in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(f"`{file}` cannot be read: {error}") from error
    tensors = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    unknown = f"diffusers does not know `{file}` by its tensors; `config: FOLDER` tells what it is"
    try:
        kind = single_file_utils.infer_diffusers_model_type(tensors)
        # What is like nothing else it takes for Stable Diffusion 1.x.
        if kind == "v1" and single_file_utils.CHECKPOINT_KEY_NAMES["v1"] not in tensors:
            raise ModelError(unknown)
        found: str = single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind][
            "pretrained_model_name_or_path"
        ]
    except (AttributeError, KeyError, NotImplementedError, UnboundLocalError) as error:
        raise ModelError(unknown) from error
    return found


def configuration(source: Source, name: str) -> dict[str, Any] | None:
    """A JSON file of those that describe a model; None when there is no such file."""
    model, revision = described_by(source)
    try:
        return read_config(model, name, revision)
    except ModelError as error:
        if model == source.model:
            raise
        raise ModelError(
            f"{error}. `config: FOLDER` names a local folder that describes `{source.model}`"
        ) from error


def read_config(model: str, name: str, revision: str | None) -> dict[str, Any] | None:
    """A JSON file of a model's repository or folder; None when it has no such file."""
    folder = folder_of(model)
    if folder is not None:
        file = folder / name
        if not file.exists():
            return None
    elif is_file(model):
        raise ModelError(f"`{model}` is a file; what describes a model is a folder or a hub id")
    else:
        try:
            file = Path(hf_hub_download(model, name, revision=revision))
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise ModelError(
                f"`{model}` is not in the hub cache and the hub cannot be reached: {error}"
            ) from error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, HFValidationError) as error:
            raise ModelError(f"the hub does not give `{model}`: {error}") from error
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
    return config


def config_of(network: nn.Module) -> dict[str, Any]:
    """The configuration that a loaded network was built from, its class included."""
    config: Any = network.config
    if hasattr(config, "to_dict"):
        found: dict[str, Any] = config.to_dict()
        return found
    return {**config, "_class_name": type(network).__name__}


def identify(source: Source) -> tuple[Source, str]:
    """A source with its revisions as commits, and a fingerprint of all that it names: `commit:` and
    the commit of a hub model, or `sha256:` and a digest."""
    folder = folder_of(source.model)
    described, _ = described_by(source)
    if is_file(source.model):
        found = {"file": _digest_of(Path(source.model))}
        beside = folder_of(described)
        found["config"] = fingerprint_of(beside) if beside else revision_of(*described_by(source))
        pinned = None if beside else found["config"].removeprefix("commit:")
        source = replace(source, revision=pinned, config=source.config or described)
    elif folder is not None:
        found = {"model": fingerprint_of(folder)}
        source = replace(source, revision=None)
    else:
        found = {"model": revision_of(source.model, source.revision)}
        source = replace(source, revision=found["model"].removeprefix("commit:"))
    if source.variant is not None:
        found["variant"] = source.variant
    for i, lora in enumerate(source.lora):
        file, commit = lora_file(lora)
        found[f"lora {i}"] = f"{lora.scale:.9g} {_digest_of(file)}"
        pinned_lora = replace(lora, revision=commit)
        source = replace(source, lora=(*source.lora[:i], pinned_lora, *source.lora[i + 1 :]))
    if found.keys() == {"model"}:
        return source, found["model"]
    digest = hashlib.sha256(json.dumps(found, sort_keys=True).encode())
    return source, f"sha256:{digest.hexdigest()[:32]}"


def lora_file(lora: Lora) -> tuple[Path, str | None]:
    """The safetensors file of a LoRA, and its commit on the hub. Raises `ModelError`."""
    if is_file(lora.model):
        return Path(lora.model), None
    name = lora.weight_name or LORA_FILE
    if Path(name).suffix != ".safetensors":
        raise ModelError(f"`{name}` of `{lora.model}` is no safetensors file")
    folder = folder_of(lora.model)
    if folder is not None:
        there = sorted(file.name for file in folder.glob("*.safetensors"))
        if lora.weight_name is None and len(there) == 1:
            name = there[0]
        if name not in there:
            raise ModelError(
                f"the LoRA `{lora.model}` has no file {name}{did_you_mean(name, there)};"
                f" `weight_name` says which; it has {', '.join(there) or 'no safetensors files'}"
            )
        return folder / name, None
    try:
        file = Path(hf_hub_download(lora.model, name, revision=lora.revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"{name} of the LoRA `{lora.model}` is not in the hub cache and the hub cannot be"
            f" reached: {error}"
        ) from error
    except EntryNotFoundError as error:
        raise ModelError(
            f"the LoRA `{lora.model}` has no file {name}; `weight_name` says which it is"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise ModelError(f"the hub does not give the LoRA `{lora.model}`: {error}") from error
    return file, _commit_of(file)


def fingerprint_of(folder: Path) -> str:
    """Digest of all configuration and weight files of a local pipeline."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".json", ".safetensors", ".txt", ".model") and file.is_file():
            digest.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:32]}"


def _digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def revision_of(model: str, revision: str | None) -> str:
    """The commit of a hub model."""
    return (
        f"commit:{_commit_of(Path(hf_hub_download(model, 'model_index.json', revision=revision)))}"
    )


def _commit_of(file: Path) -> str:
    """The commit of a cached file: it lies in a snapshot's folder, which is named by it."""
    return file.parts[file.parts.index("snapshots") + 1]
