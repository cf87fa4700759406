"""The files of models: where they are, their configuration and their fingerprints.

A model is `bundled`, a hub id, a local folder in diffusers' format, one safetensors file, or
`sd15-random`: Stable Diffusion 1.x at its real size with random weights, to try its cost.
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
from torch import nn

from ablate import bundled
from ablate.messages import did_you_mean
from ablate.models.errors import ModelError, cause
from ablate.models.formats import check_inside, is_regular, read_headers, read_json
from ablate.models.source import Lora, Source

RANDOM = "sd15-random"
LORA_FILE = "pytorch_lora_weights.safetensors"
# Formats of single files that are not read: pickled ones may run code.
PICKLED = (".ckpt", ".pt", ".pth", ".bin")
UNREAD = (*PICKLED, ".gguf")
# The lab shows its progress instead.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


def is_file(model: str) -> bool:
    """Whether a model is one safetensors file. Raises `ModelError` for one of another format, and
    where there is no such file."""
    suffix = Path(model).suffix
    if suffix not in (".safetensors", *UNREAD) or Path(model).is_dir():
        return False
    if suffix != ".safetensors":
        why = ", which may run code when it is read" if suffix in PICKLED else ""
        raise ModelError(f"`{model}` is a {suffix} file{why}; give its weights as .safetensors")
    if not is_regular(Path(model)):
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
    if model.startswith((".", "/", "~")) or model.count("/") > 1 or model.endswith("/"):
        raise ModelError(f"there is no folder `{model}`{_near_folder(model)}")
    if model.count("/") != 1 or Path(model).exists():
        raise ModelError(
            f"there is no model `{model}`: it is neither `bundled`, nor a folder in diffusers'"
            f" format, nor a safetensors file, nor a hub id such as"
            f" `stable-diffusion-v1-5/stable-diffusion-v1-5`"
            f"{did_you_mean(model, ['bundled', RANDOM, *_folders(Path())])}"
        )
    return None


def _near_folder(model: str) -> str:
    """`, did you mean ...?` with a folder beside where one is missing, or an empty string."""
    path = Path(model)
    beside = {str(path.parent / name): name for name in _folders(path.parent)}
    near = did_you_mean(path.name, beside.values())
    return near.replace("`", f"`{path.parent}/", 1) if near else ""


def _folders(place: Path) -> list[str]:
    """The names of the folders in a folder, as far as they can be read."""
    try:
        return [inner.name for inner in place.iterdir() if inner.is_dir()]
    except (OSError, ValueError):
        return []


def described_by(source: Source) -> tuple[str, str | None]:
    """The folder or hub id with a model's configuration, and its revision.

    For a file it is its `config`, else the one that diffusers assumes for files with such tensors.
    """
    if is_file(source.model):
        return source.config or _usual_config(source.model), source.revision
    if source.config is not None:
        raise ModelError(
            f"`config: {source.config}` describes a model that is one safetensors file;"
            f" `{source.model}` contains its configuration"
        )
    return source.model, source.revision


def source_like(source: Source, model: str) -> Source:
    """The source of another model; a file is assumed to have the same configuration."""
    if not is_file(model):
        return Source(model)
    described, revision = described_by(source)
    return Source(model, revision, config=described)


@lru_cache(maxsize=16)
def _usual_config(file: str) -> str:
    """The hub id of the pipeline that has a file's tensors, by their names and shapes."""
    headers = read_headers(Path(file))
    tensors = {name: torch.empty(tensor.shape, device="meta") for name, tensor in headers.items()}
    unknown = f"diffusers does not know `{file}` by its tensors; `config: FOLDER` says what it is"
    try:
        kind = single_file_utils.infer_diffusers_model_type(tensors)
        # It takes any unknown file for Stable Diffusion 1.x.
        if kind == "v1" and single_file_utils.CHECKPOINT_KEY_NAMES["v1"] not in tensors:
            raise ModelError(unknown)
        paths = single_file_utils.DIFFUSERS_DEFAULT_PIPELINE_PATHS[kind]
        return str(paths["pretrained_model_name_or_path"])
    except (AttributeError, KeyError, NotImplementedError, UnboundLocalError) as error:
        raise ModelError(unknown) from error


def configuration(source: Source, name: str) -> dict[str, Any] | None:
    """A JSON file of a model's configuration; None when there is no such file."""
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
    file: Path | None
    if folder is not None:
        file = folder / name
        if not is_regular(file):
            return None
        check_inside(file, folder)
    elif is_file(model):
        raise ModelError(f"`{model}` is a file; what describes a model is a folder or a hub id")
    else:
        file = download(model, name, revision, f"`{model}`")
    return None if file is None else read_json(file)


def download(model: str, name: str, revision: str | None, what: str) -> Path | None:
    """A file of a model on the hub, in the local cache; None when the model has no such file.

    Raises `ModelError`, with `what` in its message, when the file is neither cached nor reachable.
    """
    try:
        return Path(hf_hub_download(model, name, revision=revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise ModelError(
            f"{what} is not in the hub cache and the hub cannot be reached: {cause(error)}"
            f"{_local(model)}"
        ) from error
    except EntryNotFoundError:
        return None
    except (HfHubHTTPError, HFValidationError) as error:
        message = f"the hub does not provide {what}: {cause(error)}{_local(model)}"
        raise ModelError(message) from error


def _local(model: str) -> str:
    """What is said of a hub id that may be meant as a folder, for one in its place is there."""
    if not Path(model).parent.is_dir():
        return ""
    return f". There is no folder `{model}` either{_near_folder(model)}"


def config_of(network: nn.Module) -> dict[str, Any]:
    """The configuration that a loaded network was built from, its class included."""
    config: Any = network.config
    if hasattr(config, "to_dict"):
        return dict(config.to_dict())
    return {**config, "_class_name": type(network).__name__}


def identify(source: Source) -> tuple[Source, str]:
    """A source with commits as its revisions, and its fingerprint.

    The fingerprint is `commit:` and the commit of a hub model, or else `sha256:` and a digest of
    everything that the source names.
    """
    folder = folder_of(source.model)
    described, revision = described_by(source)
    if is_file(source.model):
        parts = {"file": _digest_of(Path(source.model))}
        beside = folder_of(described)
        parts["config"] = fingerprint_of(beside) if beside else _commit(described, revision)
        pinned = None if beside else parts["config"].removeprefix("commit:")
        source = replace(source, revision=pinned, config=source.config or described)
    elif folder is not None:
        parts = {"model": fingerprint_of(folder)}
        source = replace(source, revision=None)
    else:
        parts = {"model": _commit(source.model, source.revision)}
        source = replace(source, revision=parts["model"].removeprefix("commit:"))
    if source.variant is not None:
        parts["variant"] = source.variant
    for i, lora in enumerate(source.lora):
        file, commit = lora_file(lora)
        parts[f"lora {i}"] = f"{lora.scale:.9g} {_digest_of(file)}"
        pinned_lora = replace(lora, revision=commit)
        source = replace(source, lora=(*source.lora[:i], pinned_lora, *source.lora[i + 1 :]))
    if parts.keys() == {"model"}:
        return source, parts["model"]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
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
        names = sorted(file.name for file in folder.glob("*.safetensors"))
        if lora.weight_name is None and len(names) == 1:
            name = names[0]
        if name not in names:
            raise ModelError(
                f"the LoRA `{lora.model}` has no file {name}{did_you_mean(name, names)};"
                f" `weight_name` says which; it has {', '.join(names) or 'no safetensors files'}"
            )
        return folder / name, None
    file = download(lora.model, name, lora.revision, f"{name} of the LoRA `{lora.model}`")
    if file is None:
        raise ModelError(
            f"the LoRA `{lora.model}` has no file {name}; `weight_name` says which it is"
        )
    return file, _commit_of(file)


def fingerprint_of(folder: Path) -> str:
    """Digest of all configuration and weight files of a local pipeline."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".json", ".safetensors", ".txt", ".model") and file.is_file():
            digest.update(file.relative_to(folder).as_posix().encode())
            digest.update(bytes.fromhex(_digest_of(file)))
    return f"sha256:{digest.hexdigest()[:32]}"


def _digest_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _commit(model: str, revision: str | None) -> str:
    """The fingerprint of a hub model: its commit."""
    file = Path(hf_hub_download(model, "model_index.json", revision=revision))
    return f"commit:{_commit_of(file)}"


def _commit_of(file: Path) -> str:
    """The commit of a cached file, which names the folder of its snapshot."""
    return file.parts[file.parts.index("snapshots") + 1]
