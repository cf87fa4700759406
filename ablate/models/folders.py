"""Check the files of a model from their names, configurations and headers, before any is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import diffusers
from torch import nn

from ablate.messages import counted, did_you_mean
from ablate.models.catalogs import class_of, is_listed, skeleton
from ablate.models.classes import check_pipeline
from ablate.models.errors import ModelError
from ablate.models.files import (
    RANDOM,
    configuration,
    described_by,
    folder_of,
    is_file,
    lora_file,
)
from ablate.models.formats import (
    MAX_INDEX,
    PACKED,
    Header,
    check_bounds,
    check_inside,
    check_vocabulary,
    is_regular,
    read_headers,
    read_json,
)
from ablate.models.source import Lora, Source

DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model.safetensors", "model.safetensors"
PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth", "*.msgpack", "*.h5")
# Components that are never loaded.
UNUSED = ("safety_checker",)
# Tensors beside weights that are stored as small numbers times a scale.
SCALES = re.compile(
    r"(weight_scale|scale_weight|scale_input|input_scale|scaled_fp8|scale_inv|comfy_quant"
    r"|qweight|quant_map|absmax|quant_state\.\w+)$"
)
# Older names of the projections of attention in autoencoders, which diffusers still reads.
OLDER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def check_model(source: Source) -> None:
    """Raise `ModelError` for a model whose files show that it cannot be loaded.

    Weights of hub models are not looked at: they may not be cached. Neither are those of a folder
    of configurations alone.
    """
    if source.model in ("bundled", RANDOM):
        return
    index = configuration(source, "model_index.json")
    where, _ = described_by(source)
    if index is None:
        raise ModelError(f"`{where}` has no model_index.json; it is no diffusers pipeline")
    _check_classes(index, f"{where}/model_index.json")
    if is_file(source.model):
        _check_plain(read_headers(Path(source.model)), f"`{source.model}`")
    folder = folder_of(source.model)
    if folder is not None:
        for name in index:
            if is_listed(index, name) and name not in UNUSED:
                if not (folder / name).is_dir():
                    raise ModelError(
                        f"`{folder}` has no folder `{name}`, which its model_index.json names"
                    )
                library, kind = index[name]
                check_component(folder / name, library, kind, source.variant)


def check_partner(source: Source, component: str) -> None:
    """Raise `ModelError` for a model to blend with whose component cannot be read, as far as its
    files show."""
    if is_file(source.model):
        _check_plain(read_headers(Path(source.model)), f"`{source.model}`")
        return
    folder = folder_of(source.model)
    index = configuration(source, "model_index.json") if folder is not None else None
    if folder is not None and index is not None and is_listed(index, component):
        _check_classes(index, f"{source.model}/model_index.json")
        part = folder / component
        if not part.is_dir():
            raise ModelError(f"`{folder}` has no folder `{component}`")
        library, kind = index[component]
        check_component(part, library, kind, only_variant(part))


def _check_classes(index: Mapping[str, Any], what: str) -> None:
    """Whether a model_index.json names a pipeline of diffusers, and classes that are its parts."""
    name = index.get("_class_name")
    kind = class_of("diffusers", name) if isinstance(name, str) else None
    if kind is None or not issubclass(kind, diffusers.DiffusionPipeline):
        near = did_you_mean(str(name), _pipelines()) if isinstance(name, str) else ""
        shown = str(name)[:100]
        raise ModelError(f"{what}: `_class_name` is `{shown}`, no pipeline of diffusers{near}")
    check_pipeline(kind, what)
    needed, _ = kind._get_signature_keys(kind)
    for part, entry in index.items():
        is_setting = part not in needed and not isinstance(entry, list)
        if part.startswith("_") or is_setting or entry == [None, None]:
            continue
        if not is_listed(index, part):
            raise ModelError(
                f"{what}: `{part}` must be the names of a library and a class, not"
                f" {str(entry)[:100]}"
            )
        library, name = entry
        if library in ("diffusers", "transformers"):
            kind = class_of(library, name)
            if kind is None or not hasattr(kind, "from_pretrained"):
                raise ModelError(
                    f"{what}: `{part}` is `{name[:100]}`, which {library} does not have"
                )
        elif not library.isidentifier() or not hasattr(diffusers.pipelines, library):
            raise ModelError(
                f"{what}: `{part}` is of `{library[:100]}`; code beside a model is not run, only"
                " classes of diffusers and transformers are loaded"
            )


def _pipelines() -> list[str]:
    return [name for name in dir(diffusers) if name.endswith("Pipeline")]


def check_component(folder: Path, library: str, kind: str, variant: str | None = None) -> None:
    """Raise `ModelError` for a component's folder whose files do not fit each other."""
    root = folder.parent
    for file in sorted(folder.iterdir()):
        if not file.is_dir():
            is_regular(file)
            check_inside(file, root)
            if file.name in ("tokenizer.json", "merges.txt", "vocab.txt"):
                check_vocabulary(file)
            elif file.suffix == ".json":
                content = read_json(file, MAX_INDEX)
                if file.name == "scheduler_config.json":
                    check_bounds(content, str(file))
    if kind.removesuffix("Fast").endswith("Tokenizer") and not _has_vocabulary(folder, kind):
        raise ModelError(
            f"`{folder}` has no vocabulary, such as a tokenizer.json, for its `{kind}`"
        )
    built = class_of(library, kind)
    if built is None or not issubclass(built, nn.Module):
        return
    file = folder / "config.json"
    if not is_regular(file):
        raise ModelError(f"there is no file `{file}`, which describes the component")
    config = read_json(file)
    check_bounds(config, str(file))
    if config.get("quantization_config"):
        raise ModelError(
            f"{file} has a `quantization_config`: weights that are packed into fewer bits are not"
            " edited; give the model in float32, float16 or bfloat16"
        )
    if library == "diffusers" and config.get("_class_name", kind) != kind:
        raise ModelError(
            f"{file} is of the class `{str(config['_class_name'])[:100]}`, model_index.json says"
            f" `{kind}`"
        )
    if any(any(root.glob(f"*/{pattern}")) for pattern in ("*.safetensors", *PICKLES)):
        _check_weights(folder, variant, config)


def _has_vocabulary(folder: Path, kind: str) -> bool:
    names = ("tokenizer.json", "vocab.json", "vocab.txt", "*.model")
    return kind.startswith("ByT5") or any(any(folder.glob(name)) for name in names)


def _check_weights(folder: Path, variant: str | None, config: Mapping[str, Any]) -> None:
    files = weight_files(folder, variant)
    if not files:
        raise ModelError(_without_weights(folder, variant))
    tensors: dict[str, Header] = {}
    for file in dict.fromkeys(files.values()):
        check_inside(file, folder.parent)
        headers = read_headers(file)
        absent = next((t for t, f in files.items() if f == file and t not in headers), None)
        if absent is not None:
            raise ModelError(f"{file} has no tensor `{absent}`, which the index of shards names")
        _check_plain(headers, str(file))
        tensors |= headers
    network = skeleton(config, str(folder))
    expected = {n: tuple(p.shape) for n, p in network.named_parameters()}
    found = _renamed(tensors, network)
    where = next(iter(files.values()))
    for tensor, shape in expected.items():
        header = found.get(tensor)
        if header is None:
            continue
        if header.dtype in PACKED:
            raise ModelError(
                f"{files.get(tensor, where)}: `{tensor}` is of packed numbers ({header.dtype}),"
                " which are not edited; give the model in float32, float16 or bfloat16"
            )
        if header.shape != shape:
            raise ModelError(
                f"{files.get(tensor, where)}: `{tensor}` has the shape {list(header.shape)}, the"
                f" configuration of `{folder.name}` asks for {list(shape)}"
            )
    missing = [tensor for tensor in expected if tensor not in found]
    tied = any(shared for shared in getattr(network, "_tied_weights_keys", None) or ())
    # Names that mostly differ are of another release, which its library translates.
    if missing and not tied and 2 * len(missing) < len(expected):
        raise ModelError(
            f"{where} lacks {counted(len(missing), 'tensor')} that the configuration of"
            f" `{folder.name}` asks for, `{missing[0]}` first"
        )


def _renamed(tensors: Mapping[str, Header], network: nn.Module) -> dict[str, Header]:
    """Tensors by the names that they have in the network."""
    parameters = dict(network.named_parameters())
    prefix = f"{getattr(network, 'base_model_prefix', '') or ' '}."
    found = {}
    for name, header in tensors.items():
        parts = [OLDER.get(part, part) for part in name.split(".")]
        others = (name, ".".join(parts), name.removeprefix(prefix), f"{prefix}{name}")
        found[next((other for other in others if other in parameters), name)] = header
    return found


def _check_plain(headers: Iterable[str], what: str) -> None:
    """Whether weights are stored as they are, not as small numbers with a scale beside."""
    scale = next((name for name in headers if SCALES.search(name)), None)
    if scale is not None:
        raise ModelError(
            f"{what} contains scaled or quantized weights (`{scale[:200]}`), which would be read"
            " as if they were not; give the model in float32, float16 or bfloat16"
        )


def weight_files(folder: Path, variant: str | None = None) -> dict[str, Path]:
    """The file of each tensor of a component's folder: the one that is loaded. Empty without any.

    As in the libraries: shards before one file for networks of diffusers, one file before shards
    for those of transformers, and a variant wherever there are files of it. Raises `ModelError`.
    """
    if variant is not None and not any(folder.glob(f"*.{variant}*.safetensors")):
        variant = None
    infix = f".{variant}" if variant else ""
    for base, shards_first in ((DIFFUSERS, True), (TRANSFORMERS, False)):
        single = folder / base.replace(".safetensors", f"{infix}.safetensors")
        indexes = [folder / f"{base}.index{infix}.json"]
        if variant:  # as older releases wrote it
            indexes.append(folder / base.replace(".safetensors", f"{infix}.safetensors.index.json"))
        for candidate in (*indexes, single) if shards_first else (single, *indexes):
            if is_regular(candidate):
                if candidate.suffix == ".json":
                    return _shards(candidate)
                return dict.fromkeys(read_headers(candidate), candidate)
    return {}


def only_variant(folder: Path) -> str | None:
    """The variant of a component's weights where there are no others; None elsewhere."""
    variants = variants_of(folder)
    return variants[0] if len(variants) == 1 and not weight_files(folder) else None


def _shards(index: Path) -> dict[str, Path]:
    """The shard of each tensor, by an index. Raises `ModelError`."""
    weights = read_json(index, MAX_INDEX).get("weight_map")
    if not isinstance(weights, dict) or not weights:
        raise ModelError(f"{index}: `weight_map` must map names of tensors to files")
    files = {}
    for name in dict.fromkeys(map(str, weights.values())):
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ModelError(f"{index}: `{name[:200]}` must be the name of a file beside it")
        files[name] = index.parent / name
        if not is_regular(files[name]):
            raise ModelError(f"{index}: there is no file `{files[name]}`")
    return {tensor: files[str(name)] for tensor, name in weights.items()}


def variants_of(folder: Path) -> list[str]:
    """The variants of weights in a component's folder, such as `fp16`."""
    pattern = re.compile(r"^(?:diffusion_pytorch_model|model)(?:\.safetensors\.index)?\.([\w-]+?)"
                         r"(?:-\d+-of-\d+)?\.(?:safetensors|json)$")  # fmt: skip
    matches = (pattern.match(file.name) for file in folder.iterdir()) if folder.is_dir() else ()
    return sorted({m[1] for m in matches if m} - {"safetensors", "index"})


def _without_weights(folder: Path, variant: str | None) -> str:
    """What is wrong with a component that has no weights that are read."""
    others = variants_of(folder)
    asked = f" of the variant `{variant}`" if variant else ""
    if others:
        return f"`{folder}` has weights of {', '.join(others)} only: write `variant: {others[0]}`"
    if any(any(folder.glob(pattern)) for pattern in PICKLES):
        return (
            f"`{folder}` has weights in formats only that may run code when they are read; give"
            " them as .safetensors"
        )
    return f"`{folder}` has no weights{asked} in safetensors"


def check_lora(lora: Lora) -> None:
    """Raise `ModelError` for a LoRA that cannot be read, as far as its file shows."""
    if find_spec("peft") is None:
        raise ModelError('`lora` needs the package peft: pip install "ablate[lora]"')
    if is_file(lora.model) or folder_of(lora.model) is not None:
        file, _ = lora_file(lora)
        if not read_headers(file):
            raise ModelError(f"{file} contains no tensors")
