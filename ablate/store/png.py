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

LATENTS = b"abLt"  # an ancillary, private chunk that editors may keep
MAX_BYTES = 2**28  # of latents: those of images of 8,192 × 8,192 pixels, and more


def key_of(identity: Mapping[str, Any]) -> str:
    """Digest of everything that determines an image, as 32 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_png(
    path: Path, image: Image.Image, record: Mapping[str, Any], latents: np.ndarray | None
) -> None:
    """Write the PNG of a cell."""
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("parameters", parameters_text(record))
    chunks.add_text("ablate", json.dumps(record, sort_keys=True))
    if latents is not None:
        chunks.add(LATENTS, _packed(latents), after_idat=True)
    image.save(path, format="PNG", pnginfo=chunks)


def read_record(path: Path) -> dict[str, Any]:
    """Read the record of a cell's PNG.

    Raises `StoreError` if the file is no image or has no record.
    """
    if path.exists() and not path.is_file():  # reading a pipe would wait for ever
        raise StoreError(f"{path}: no regular file")
    try:
        with Image.open(path) as image:
            # The chunk precedes the pixels, so that they need not be decoded.
            text = image.info.get("ablate")
    except OSError as error:
        raise StoreError(f"{path}: not a readable image ({error})") from error
    if text is None:
        raise StoreError(f"{path}: this image was not written by ablate: it has no `ablate` chunk")
    record: dict[str, Any] = json.loads(text)
    return record


def read_latents(path: Path) -> np.ndarray | None:
    """Read the final latents of a cell, float32, (channels, height, width); None if it has none."""
    with Image.open(path) as image:
        image.load()  # the chunk follows the pixels
        chunks = [c[1] for c in getattr(image, "private_chunks", []) if c[0] == LATENTS]
    if not chunks:
        return None
    # A file may come from anywhere, so that the size of what is unpacked is limited.
    array = zlib.decompressobj().decompress(chunks[0], MAX_BYTES)
    latents: np.ndarray = np.load(io.BytesIO(array), allow_pickle=False)
    return latents.astype(np.float32)


def _packed(latents: np.ndarray) -> bytes:
    array = io.BytesIO()
    limit = np.finfo(np.float16).max  # latents beyond it are broken anyway
    np.save(array, np.clip(latents, -limit, limit).astype(np.float16), allow_pickle=False)
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
