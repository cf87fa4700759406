"""Files of named arrays (`.npz`), with a digest of what is in them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ablate.store.files import StoreError, atomic_write, regular

DIGEST = "digest"  # the name of the digest among the arrays


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays, or what numpy makes arrays of, by their names."""
    named: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    named[DIGEST] = np.array(_digest(named))
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **named)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays that `write_arrays` wrote. Files of older versions have no digest.

    Raises:
        FileNotFoundError: There is no such file.
        StoreError: It cannot be read, or has other arrays than were written.
    """
    try:
        with regular(path).open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
    except FileNotFoundError:
        raise
    except Exception as error:  # numpy and zipfile raise anything about files that are damaged
        raise StoreError(f"{path} cannot be read as arrays: {error}") from error
    digest = arrays.pop(DIGEST, None)
    if digest is not None and str(digest) != _digest(arrays):
        raise StoreError(f"{path} has other arrays than were written")
    return arrays


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    """A digest of the names, types, shapes and bytes of arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for name, array in sorted(arrays.items()):
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
