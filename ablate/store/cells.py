"""Whether the PNG of a cell is whole: its chunks, its record, its pixels and its latents."""

from __future__ import annotations

import io
import stat
import struct
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ablate.store.files import StoreError
from ablate.store.images import open_image
from ablate.store.png import digest_of, latents_of, record_of

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SHOWN = 12  # damaged cells that a sentence names
THREADS = 8  # decoders release the lock of the interpreter


def problems_of(paths: Iterable[Path]) -> dict[Path, str]:
    """What is wrong with cells, by their files, which are named by their keys; whole ones are not
    listed. A file is read once in a process, and again only after it has changed.
    """
    files = list(paths)
    with ThreadPoolExecutor(THREADS) as pool:
        problems = zip(files, pool.map(problem_of, files), strict=True)
        return {path: problem for path, problem in problems if problem is not None}


def listed(problems: Mapping[str, str]) -> str:
    """The keys of damaged cells with what is wrong, the first few of many."""
    named = [f"{key} ({problem})" for key, problem in problems.items()]
    rest = f" and {len(named) - SHOWN:,} more" if len(named) > SHOWN else ""
    return ", ".join(named[:SHOWN]) + rest


def problem_of(path: Path) -> str | None:
    """What is wrong with the cell in a file that is named by its key; None where it is whole."""
    try:
        status = path.stat()
    except OSError:
        return "no file"
    if not stat.S_ISREG(status.st_mode):
        return "no regular file"
    return _problem(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns)


@cache
def _problem(path: Path, _inode: int, _size: int, _changed: int) -> str | None:
    try:
        data = path.read_bytes()
    except OSError as error:
        return error.strerror or "cannot be read"
    if problem := _chunk_problem(data):
        return problem
    try:
        with open_image(path, io.BytesIO(data)) as image:
            record = record_of(path, image)
            pixels = np.asarray(image.convert("RGB"))
            latents = latents_of(path, image)
    except StoreError as error:
        return str(error).removeprefix(f"{path}").lstrip(": ")
    return _record_problem(path.stem, record, pixels, latents)


def _chunk_problem(data: bytes) -> str | None:
    """What is wrong with the bytes of a PNG, by the lengths and checksums of its chunks."""
    if not data:
        return "empty"
    if not data.startswith(SIGNATURE):
        return "not a PNG"
    at = len(SIGNATURE)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        name = data[at + 4 : at + 8]
        if struct.unpack_from(">I", data, end - 4) != (zlib.crc32(data[at + 4 : end - 4]),):
            return f"changed bytes in its chunk {name.decode('latin-1')!r}"
        if name == b"IEND":
            return None
        at = end
    return "truncated"


def _record_problem(
    key: str, record: Mapping[str, Any], pixels: np.ndarray, latents: np.ndarray | None
) -> str | None:
    if record.get("key", key) != key:
        return f"another cell: {str(record['key'])[:64]!r}"
    if "digest" not in record:  # of an older version
        size = [pixels.shape[1], pixels.shape[0]]
        return None if record["size"] == size else "pixels of another size than its record says"
    given, actual = record["digest"], digest_of(pixels, latents)
    if not isinstance(given, Mapping):
        return "a digest that is no mapping"
    others = (what for what, digest in actual.items() if given.get(what) != digest)
    return next((f"other {what} than its record says" for what in others), None)
