"""Ways in which the PNG of a cell is damaged, by name."""

from __future__ import annotations

import io
import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablate.store.png import write_png

Damage = Callable[[Path, Path], None]  # a cell, and another one of the run


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    at, parts = 8, []
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        parts.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return parts


def rewritten(path: Path, change: Callable[[bytes, bytes], bytes | None]) -> None:
    """Write a PNG again with changed chunks and right checksums; None leaves a chunk out."""
    data = path.read_bytes()
    out = data[:8]
    for name, body in chunks(data):
        new = change(name, body)
        if new is not None:
            checksum = zlib.crc32(name + new)
            out += struct.pack(">I", len(new)) + name + new + struct.pack(">I", checksum)
    path.write_bytes(out)


def with_record(path: Path, text: str | None) -> None:
    def change(name: bytes, body: bytes) -> bytes | None:
        if name != b"tEXt" or not body.startswith(b"ablate\0"):
            return body
        return None if text is None else b"ablate\0" + text.encode()

    rewritten(path, change)


def record(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        return dict(json.loads(image.info["ablate"]))


def with_latents(path: Path, content: bytes) -> None:
    rewritten(path, lambda name, body: content if name == b"abLt" else body)


def packed(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return zlib.compress(buffer.getvalue())


def flipped(path: Path, name: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(name) + 9] ^= 0x10
    path.write_bytes(bytes(data))


def other_pixels(path: Path, _other: Path) -> None:
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    pixels[0, 0] ^= 1
    known = record(path)
    text = json.dumps(known, sort_keys=True)
    write_png(path, Image.fromarray(pixels), known, None)
    with_record(path, text)


def in_place(path: Path, make: Callable[[Path], object]) -> None:
    path.unlink()
    make(path)


DAMAGES: dict[str, Damage] = {
    "truncated": lambda p, _: p.write_bytes(p.read_bytes()[:-200]) and None,
    "empty": lambda p, _: p.write_bytes(b"") and None,
    "text": lambda p, _: p.write_text("no picture") and None,
    "a JPEG": lambda p, _: Image.new("RGB", (64, 64)).save(p, "JPEG"),
    "flipped pixels": lambda p, _: flipped(p, b"IDAT"),
    "flipped record": lambda p, _: flipped(p, b"ablate\0"),
    "flipped latents": lambda p, _: flipped(p, b"abLt"),
    "no record": lambda p, _: with_record(p, None),
    "a list as record": lambda p, _: with_record(p, "[1]"),
    "no JSON as record": lambda p, _: with_record(p, "{"),
    "a nested record": lambda p, _: with_record(p, "[" * 100_000),
    "wrong types": lambda p, _: with_record(p, json.dumps(record(p) | {"size": "big"})),
    "wrong edits": lambda p, _: with_record(p, json.dumps(record(p) | {"edits": [1]})),
    "a digest that is a list": lambda p, _: with_record(p, json.dumps(record(p) | {"digest": []})),
    "another cell": lambda p, other: p.write_bytes(other.read_bytes()) and None,
    "other pixels": other_pixels,
    "latents of nothing": lambda p, _: with_latents(p, b"garbage"),
    "latents of another shape": lambda p, _: with_latents(p, packed(np.zeros((2, 2), np.float16))),
    "latents of objects": lambda p, _: with_latents(p, packed(np.array([{}, None]))),
    "latents without end": lambda p, _: with_latents(p, zlib.compress(bytes(2**29), 1)),
    "a folder": lambda p, _: in_place(p, Path.mkdir),
    "a fifo": lambda p, _: in_place(p, os.mkfifo),
    "a broken link": lambda p, _: in_place(p, lambda path: path.symlink_to("nowhere")),
}
