"""Whether a folder may be that of a run, and which processes are at work in it."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ablate.store.files import StoreError, fcntl

CELL = re.compile(r"[0-9a-f]{32}\.png")
FIRST = {"recipe.yaml", "cells"}  # what a run writes before `run.json`


class Work:
    """A process at work in a folder; the kernel forgets it when the process ends.

    Attributes:
        alone: Whether no other was at work there when this one began.
    """

    def __init__(self, folder: int | None) -> None:
        self._folder = folder
        self.alone = True
        if folder is not None:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.alone = False
            except OSError:  # not known on this file system
                self._folder = None

    def share(self) -> None:
        """Let others begin; waits for one that has not done so yet."""
        if self._folder is not None:
            fcntl.flock(self._folder, fcntl.LOCK_SH)


@contextmanager
def at_work(folder: Path) -> Iterator[Work]:
    """Be at work in a folder, which is created, while inside."""
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield Work(None)
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        yield Work(descriptor)
    finally:
        os.close(descriptor)


def check_folder(folder: Path) -> None:
    """Raise `StoreError` unless files can be written to a folder, which may not exist yet."""
    nearest = folder.absolute()
    while True:
        try:
            mode = nearest.stat().st_mode
            break
        except (FileNotFoundError, NotADirectoryError):
            if nearest.is_symlink():
                raise StoreError(f"{nearest} is a link to what does not exist") from None
            nearest = nearest.parent
        except OSError as error:  # such as a name that is too long
            raise StoreError(f"{folder} cannot be a folder: {error.strerror}") from error
    if not stat.S_ISDIR(mode):
        raise StoreError(f"{nearest} is a file; `--out` names a folder")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreError(f"{nearest} cannot be written to; `--out` names another folder")


def check_run_folder(folder: Path) -> None:
    """Raise `StoreError` unless a run can be written to a folder without harm to other files."""
    check_folder(folder)
    cells = folder / "cells"
    if cells.is_symlink():
        raise StoreError(f"{cells} is a link; the cells of a run are inside its folder")
    if not folder.exists() or (folder / "run.json").exists():
        return
    others = sorted(p.name for p in folder.iterdir() if p.name[0] != "." and p.name not in FIRST)
    if others and not any(own_cells(folder)):
        raise StoreError(
            f"{folder} has files that no run wrote, such as `{others[0]}`; `--out` names another"
            " folder"
        )


def named_cells(folder: Path) -> Iterator[Path]:
    """What is named in a run's folder as its cells are, whatever it is."""
    return (path for path in (folder / "cells").glob("*.png") if CELL.fullmatch(path.name))


def own_cells(folder: Path) -> Iterator[Path]:
    """The files in a run's folder that are named as its cells are."""
    if (folder / "cells").is_symlink():
        return
    for path in named_cells(folder):
        if path.is_file() and not path.is_symlink():
            yield path
