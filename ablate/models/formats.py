"""Read the files of a model as data that may come from anyone: JSON, and headers of safetensors.

Only regular files are opened, and sizes are limited before anything is read or built.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.messages import counted
from ablate.models.errors import ModelError, cause

MAX_JSON = 2**22  # bytes of a configuration
MAX_INDEX = 2**25  # bytes of the index of shards, and of a header of safetensors
MAX_VOCABULARY = 2**27  # bytes of a tokenizer's file
DEPTH = 30  # levels of a configuration
# Bytes of one entry by dtype; those that hold no plain floating point numbers are `PACKED`.
BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1,
    "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2, "U8": 1, "BOOL": 1,
    "C64": 8,
}  # fmt: skip
PACKED = ("I8", "U8", "I16", "U16", "I32", "U32")
# The largest values of integers in configurations, by the first pattern that fits the key; networks
# of today are below a tenth of each.
LIMITS = (
    (re.compile(r"theta|base$|_ids?$|seed|version|(^|_)eps|scale|spatial|dropout"), None),
    (re.compile(r"per_block"), 64),
    (re.compile(r"layers|depth|blocks"), 1000),
    (re.compile(r"heads|experts|groups$"), 4096),
    (re.compile(r"sample_size|image_size|patch"), 4096),
    (re.compile(r"vocab|position|token|length|window|timesteps"), 2**21),
    (re.compile(r""), 2**18),
)
SMALL = 4096  # up to this limit, values are counts and sides, which are never negative
NUMBERS = re.compile(r"^num_|sample_size|image_size|channels$")  # keys of numbers, or lists of them
LONGEST_LIST = 4096  # entries of a list in a configuration
MOST_MODULES = 50_000  # of a network


@dataclass(frozen=True)
class Header:
    """What the header of a safetensors file says of a tensor.

    Attributes:
        dtype: Its dtype, as safetensors names it.
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]


def is_regular(file: Path) -> bool:
    """Whether there is a file that can be read. Raises `ModelError` for one of another kind."""
    try:
        if file.is_file():
            return True
        other = file.exists()
    except (OSError, ValueError) as error:
        raise ModelError(f"{file} cannot be read: {cause(error)}") from error
    if other:
        raise ModelError(f"{file} is no regular file")
    if file.is_symlink():
        raise ModelError(f"{file} is a link to a file that does not exist")
    return False


def check_inside(file: Path, folder: Path) -> None:
    """Raise `ModelError` for a file that a link takes out of its model's folder.

    In a cache of the hub, files of a snapshot are links to blobs beside it.
    """
    root = folder.resolve()
    snapshots = next((p for p in (folder.absolute(), *folder.absolute().parents)
                      if p.name == "snapshots"), None)  # fmt: skip
    roots = (root,) if snapshots is None else (root, snapshots.parent.resolve())
    if not any(file.resolve().is_relative_to(allowed) for allowed in roots):
        raise ModelError(
            f"{file} is a link out of the folder `{folder}`, which is not followed: a folder from"
            f" someone else could name any file; put a copy of `{file.resolve()}` in its place"
        )


def read_json(file: Path, largest: int = MAX_JSON) -> dict[str, Any]:
    """The object in a JSON file. Raises `ModelError`."""
    try:
        is_regular(file)
        size = file.stat().st_size
        if size > largest:
            raise ModelError(f"{file} has {size:,} bytes; {largest:,} is the most")
        data = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {cause(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} is not JSON: {cause(error)}") from error
    if not isinstance(data, dict):
        raise ModelError(f"{file} contains no mapping of keys to values, but {_kind(data)}")
    return data


def check_vocabulary(file: Path) -> None:
    """Raise `ModelError` for a file of a tokenizer, `tokenizer.json` or `merges.txt`, that is none.

    Tokenizers that are built from such files name neither the file nor what it lacks.
    """
    if file.suffix == ".txt":
        try:
            if file.stat().st_size > MAX_VOCABULARY:
                raise ModelError(f"{file} has more than {MAX_VOCABULARY:,} bytes")
            file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ModelError(f"{file} cannot be read: {cause(error)}") from error
        return
    model = read_json(file, MAX_VOCABULARY).get("model")
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise ModelError(f"{file} has no `model.vocab`, the vocabulary of a tokenizer")
    if not model["vocab"]:
        raise ModelError(f"{file}: its vocabulary, `model.vocab`, is empty")
    for merge in model.get("merges") or ():
        pair = merge.split(" ") if isinstance(merge, str) else merge
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(p) is str for p in pair):
            raise ModelError(f"{file}: `{str(merge)[:100]}` in `model.merges` is no pair of texts")


def _kind(value: Any) -> str:
    return {list: "a list", str: "a text", type(None): "null"}.get(type(value), "a number")


def check_bounds(config: Mapping[str, Any], what: str) -> None:
    """Raise `ModelError` for sizes in a configuration that no network or scheduler has.

    Building one costs time for each layer, and memory for each channel and step. `what`: its file.
    """
    for path, value in _leaves(config, (), what):
        key = str(path[-1])
        named = f"{what}: `{'.'.join(path)}`"
        # Schedulers are written with infinity where they limit nothing.
        if isinstance(value, float) and not math.isfinite(value) and "lambda" not in key:
            raise ModelError(f"{named} is {value}")
        if isinstance(value, list) and len(value) > LONGEST_LIST:
            raise ModelError(f"{named} has {len(value):,} entries; {LONGEST_LIST:,} is the most")
        if isinstance(value, str) and NUMBERS.search(key):
            raise ModelError(f"{named} must be a number, not a text")
        if isinstance(value, int) and not isinstance(value, bool):
            most = next(most for pattern, most in LIMITS if pattern.search(key))
            if value < 0 and most is not None and most <= SMALL:
                raise ModelError(f"{named} is {value:,}; it must be 0 or more")
            if most is not None and abs(value) > most:
                shown = f"{value:,}" if abs(value) < 10**18 else "an integer of many digits"
                raise ModelError(f"{named} is {shown}; {most:,} is the most")


def _leaves(value: Any, path: tuple[str, ...], what: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    """All lists, numbers and texts with their keys; entries of a list have the key of the list."""
    if len(path) > DEPTH:
        raise ModelError(f"{what}: `{path[0]}` is nested more than {DEPTH} levels deep")
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, str(key)), what)
    elif isinstance(value, list | tuple):
        yield path, list(value)
        for inner in value[:LONGEST_LIST]:
            deeper = isinstance(inner, list | tuple | Mapping)
            yield from _leaves(inner, (*path, path[-1]) if deeper else path, what)
    else:
        yield path, value


def read_headers(file: Path) -> dict[str, Header]:
    """Names, dtypes and shapes of the tensors in a safetensors file. Raises `ModelError`."""
    try:
        if not is_regular(file):
            raise ModelError(f"there is no file `{file}`")
        size = file.stat().st_size
        with file.open("rb") as content:
            length = int.from_bytes(content.read(8), "little")
            if size < 8 or length > size - 8:
                raise ModelError(f"{file} is no safetensors file, or it was cut off")
            if length > MAX_INDEX:
                raise ModelError(
                    f"{file} has a header of {length:,} bytes; {MAX_INDEX:,} is the most"
                )
            header = json.loads(content.read(length))
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {cause(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{file} has a damaged header: {cause(error)}") from error
    if not isinstance(header, dict):
        raise ModelError(f"{file} has a damaged header: it contains {_kind(header)}")
    header.pop("__metadata__", None)
    tensors, spans = {}, []
    for name, entry in header.items():
        tensors[name], span = _tensor(entry, f"{file}: its tensor `{name[:200]}`")
        spans.append((*span, name))
    end = 0
    for start, stop, name in sorted(spans):
        if start != end:
            raise ModelError(f"{file}: its tensor `{name[:200]}` does not follow the one before it")
        end = stop
    if end != size - 8 - length:
        raise ModelError(
            f"{file} has {counted(size - 8 - length, 'byte')} of tensors, its header says {end:,}:"
            " it was cut off or changed"
        )
    return tensors


def _tensor(entry: Any, what: str) -> tuple[Header, tuple[int, int]]:
    """A tensor of a header, and where its bytes are."""
    try:
        dtype, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        count = math.prod(shape) if all(type(n) is int and n >= 0 for n in shape) else -1
        whole = type(start) is int and type(stop) is int and 0 <= start <= stop
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{what} is described wrongly in the header") from error
    if not isinstance(dtype, str) or dtype not in BYTES:
        raise ModelError(f"{what} is of the dtype `{str(dtype)[:40]}`, which is not read here")
    if not whole or count < 0 or stop - start != count * BYTES[dtype]:
        raise ModelError(f"{what} has other bytes than its shape needs")
    return Header(dtype, tuple(shape)), (start, stop)
