"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path beside another to write to, which takes its place afterwards: a file is there whole or
    not at all. Where something failed nothing is left. Folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary(path: Path) -> Path:
    # The process number keeps processes apart that write into one run.
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")
