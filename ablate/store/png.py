"""PNGs that describe themselves: keys, records, latents."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablate.store.files import StoreError

LATENTS = b"abLt"  # an ancillary, private chunk that editors may keep
MOST = 2**28  # bytes of latents: those of images of 8,192 × 8,192 pixels, and more


def key_of(identity: Mapping[str, Any]) -> str:
    """Digest of everything that determines an image, as 32 hexadecimal digits."""
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """The `ablate` chunk of a cell's PNG.

    Raises `StoreError` when the file is no PNG or carries no such chunk.
    """
    try:
        with Image.open(path) as image:
            # It stands before the pixels, which need not be decoded for it.
            text = image.info.get("ablate")
    except OSError as error:
        raise StoreError(f"{path}: not a readable image ({error})") from error
    if text is None:
        raise StoreError(f"{path}: this image was not made by ablate: it has no `ablate` chunk")
    record: dict[str, Any] = json.loads(text)
    return record


def read_latents(path: Path) -> np.ndarray | None:
    """The final latents of a cell, float32, shape (channels, height, width); None without any."""
    with Image.open(path) as image:
        image.load()  # the chunk follows the pixels
        found = [c[1] for c in getattr(image, "private_chunks", []) if c[0] == LATENTS]
    if not found:
        return None
    # No more than this is unpacked: a file may come from anywhere.
    array = zlib.decompressobj().decompress(found[0], MOST)
    latents: np.ndarray = np.load(io.BytesIO(array), allow_pickle=False)
    return latents.astype(np.float32)


def _packed(latents: np.ndarray) -> bytes:
    array = io.BytesIO()
    most = np.finfo(np.float16).max  # what goes beyond it is broken anyway
    np.save(array, np.clip(latents, -most, most).astype(np.float16), allow_pickle=False)
    return zlib.compress(array.getvalue())


def parameters_text(record: Mapping[str, Any]) -> str:
    """The `parameters` chunk: prompt, negative prompt, and settings, as image generators write."""
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
    """Ascending numbers in short: `0-3,7`."""
    found: list[list[int]] = []
    for number in numbers:
        if found and found[-1][1] == number - 1:
            found[-1][1] = number
        else:
            found.append([number, number])
    return ",".join(f"{a}-{b}" if a != b else str(a) for a, b in found)
