"""PNGs of cells, which describe themselves.

A PNG has two text chunks: `parameters`, in the layout common among image generators, and `ablate`,
the cell's record as JSON; and a chunk `abLt` with its final latents in float16.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ablate.store.files import StoreError
from ablate.store.images import open_image

LATENTS = b"abLt"  # an ancillary, private chunk that editors may keep
MAX_BYTES = 2**28  # of latents: those of images of 8,192 × 8,192 pixels, and more


def key_of(identity: Mapping[str, Any]) -> str:
    """Digest of everything that determines an image, as 32 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_png(
    path: Path, image: Image.Image, record: Mapping[str, Any], latents: np.ndarray | None
) -> None:
    """Write the PNG of a cell; its record gets a digest of pixels and latents."""
    half = None if latents is None else _half(latents)
    record = {**record, "digest": digest_of(np.asarray(image.convert("RGB")), half)}
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", parameters_text(record))
    chunks.add_text("ablate", json.dumps(record, sort_keys=True))
    if half is not None:
        chunks.add(LATENTS, _packed(half), after_idat=True)
    image.save(path, format="PNG", pnginfo=chunks)


def digest_of(pixels: np.ndarray, latents: np.ndarray | None) -> dict[str, str | None]:
    """Digests of the shape and the bytes of RGB pixels and of latents in float16."""
    return {"pixels": _digest(pixels), "latents": None if latents is None else _digest(latents)}


def _digest(array: np.ndarray) -> str:
    digest = hashlib.blake2b(repr(array.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a cell's PNG.

    Raises `StoreError` if the file is no image or has no record.
    """
    with open_image(path) as image:
        # The chunk precedes the pixels, so that they need not be decoded.
        return record_of(path, image)


def record_of(path: Path, image: Image.Image) -> dict[str, Any]:
    """The record in an opened image. Raises `StoreError` if there is none or it describes none."""
    text = image.info.get("ablate")
    if text is None:
        raise StoreError(f"{path}: this image was not written by ablate: it has no `ablate` chunk")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError, TypeError) as error:
        raise StoreError(f"{path}: its record is no JSON that can be read: {error}") from error
    if problem := _problem_of_record(record):
        raise StoreError(f"{path}: its record {problem}")
    return dict(record)


def _problem_of_record(record: Any) -> str | None:
    """What keeps readers from using a record; other keys may be absent in older ones."""
    if not isinstance(record, dict):
        return "is no mapping"
    kinds = {"condition": dict, "size": list, "model": dict, "variant": str, "edits": list}
    kinds |= {"state": str, "versions": dict, "axes": dict, "key": str}
    needed = ("condition", "size", "model", "variant")
    for name, kind in kinds.items():
        if not isinstance(record.get(name, None if name in needed else kind()), kind):
            return f"has no valid `{name}`"
    if len(record["size"]) != 2 or not all(type(n) is int and n > 0 for n in record["size"]):
        return "has a `size` that is not two positive whole numbers"
    if not isinstance(record["condition"].get("sampling"), dict):
        return "has no valid `condition.sampling`"
    if not all(isinstance(edit, dict) and "op" in edit for edit in record.get("edits", [])):
        return "has no valid `edits`"
    return None


def read_latents(path: Path) -> np.ndarray | None:
    """Read the final latents of a cell, float32, (channels, height, width); None if it has none.

    Raises `StoreError` if the file is broken or its latents are no array of numbers.
    """
    with open_image(path) as image:
        latents = latents_of(path, image)
    return None if latents is None else latents.astype(np.float32)


def latents_of(path: Path, image: Image.Image) -> np.ndarray | None:
    """The latents in an opened image, as they are stored; None if it has none."""
    image.load()  # the chunk follows the pixels
    chunks = [c[1] for c in getattr(image, "private_chunks", []) if c[0] == LATENTS]
    if not chunks:
        return None
    try:
        # A file may come from anywhere, so that the size of what is unpacked is limited.
        array = zlib.decompressobj().decompress(chunks[0], MAX_BYTES)
        latents: np.ndarray = np.load(io.BytesIO(array), allow_pickle=False)
    except Exception as error:  # numpy's reader raises anything about headers that are wrong
        raise StoreError(f"{path}: its latents cannot be read: {error}") from error
    if latents.dtype != np.float16 or not latents.size:
        raise StoreError(f"{path}: its latents are no numbers in float16")
    return latents


def _half(latents: np.ndarray) -> np.ndarray:
    limit = np.finfo(np.float16).max  # latents beyond it are broken anyway
    half: np.ndarray = np.clip(latents, -limit, limit).astype(np.float16)
    return half


def _packed(latents: np.ndarray) -> bytes:
    array = io.BytesIO()
    np.save(array, latents, allow_pickle=False)
    return zlib.compress(array.getvalue())


def parameters_text(record: Mapping[str, Any]) -> str:
    """Prompt, negative prompt and settings as image generators write them."""
    condition = record["condition"]
    sampling = condition["sampling"]
    lines = [condition["prompt"]]
    if sampling.get("negative_prompt"):
        lines.append(f"Negative prompt: {sampling['negative_prompt']}")
    settings = {
        "Steps": sampling["num_inference_steps"],
        "Sampler": sampling["scheduler"],
        "CFG scale": sampling["guidance_scale"],
        "Seed": condition["seed"],
        "Size": f"{record['size'][0]}x{record['size'][1]}",
        "Model": record["model"]["id"],
        "Variant": record["variant"],
    }
    quoted = (f"{k}: {json.dumps(v) if ',' in str(v) else v}" for k, v in settings.items())
    lines.append(", ".join(quoted))
    return "\n".join(lines)


def spans(numbers: Iterable[int]) -> str:
    """Ascending numbers as ranges: `0-3,7`."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in ranges)
