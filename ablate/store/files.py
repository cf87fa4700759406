"""Files and folders written atomically, the digests of a run's files, and tables as CSV."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from ablate.messages import RequestError, printable

try:
    import fcntl as fcntl  # also for others in this package
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

HOST = re.sub(r"[^\w]", "", socket.gethostname(), flags=re.ASCII)[:30] or "host"
# Those of older versions name no host.
TEMPORARY = re.compile(r"\..+\.(?:(?P<host>\w+)-)?(?P<process>\d{1,9})\.tmp", re.ASCII)
ABANDONED = 86_400  # seconds after which a temporary of another host is taken to be no one's
LEDGER = "files.json"  # of a run: a digest of each file beside its cells
LONGEST = 255  # bytes of a file's name
MAX_BYTES = 2_000_000  # of a file that is read at once: lists of words, files of ops


class StoreError(RequestError):
    """A run folder or a file in it that cannot be read or used; the message says why."""


def regular(path: Path) -> Path:
    """The path of a file to open. Raises `OSError` for a pipe or a device, which may never end."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "No regular file", str(path))
    return path


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """The content of a file that the user names. Raises `StoreError`."""
    try:
        size = regular(path).stat().st_size
        if size > most:
            raise StoreError(f"{path} has {size:,} bytes; {most:,} is the most")
        return path.read_bytes()
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error


def read_words(path: Path) -> list[str]:
    """The words in a file with one a line. Raises `StoreError`, also where there are none."""
    try:
        lines = read_bytes(path).decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise StoreError(f"{path} is no text in UTF-8") from error
    words = [line.strip() for line in lines if line.strip()]
    if not words:
        raise StoreError(f"{path} has no words; write one a line")
    return words


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write a file or a folder to, then move it to `path`.

    Beside a `run.json` the digest of the file is recorded, so that it can be verified.
    On an error `path` stays as it is and the temporary is removed. Parent folders are created.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _restore(path)
    # Host and process separate those that write into one run.
    temporary = path.with_name(f".{path.name}.{HOST}-{os.getpid()}.tmp")
    try:
        yield temporary
        if temporary.is_dir() and path.exists():
            _replace_folder(temporary, path)
        elif temporary.is_file() and _is_recorded(path):
            _replace_recorded(temporary, path)
        else:
            temporary.replace(path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None  # as of a disk that is full
        raise
    finally:
        remove(temporary)


def _is_recorded(path: Path) -> bool:
    """Whether a file is beside the cells of a run."""
    return path.name == "run.json" or (path.name != LEDGER and (path.parent / "run.json").is_file())


def _replace_recorded(new: Path, path: Path) -> None:
    """Rename `new` to `path`. At each moment the ledger has a digest of the file that is there."""
    digest = digest_of_file(new)
    with ledger_to_itself(path.parent):
        _record(path, [digest, *read_ledger(path.parent).get(path.name, ())])
        new.replace(path)
        _record(path, [digest])


def _record(path: Path, digests: list[str]) -> None:
    """Record what a file may be in its folder's ledger; files that are gone leave it."""
    before = read_ledger(path.parent)
    known = {name: ds for name, ds in before.items() if (path.parent / name).exists()}
    known[path.name] = list(dict.fromkeys(digests))
    if known != before:
        plain = {name: ds[0] if len(ds) == 1 else ds for name, ds in known.items()}
        with atomic_write(path.parent / LEDGER) as temporary:
            text = json.dumps(plain, indent=1, sort_keys=True) + "\n"
            temporary.write_text(text, encoding="utf-8")


def read_ledger(folder: Path) -> dict[str, list[str]]:
    """Digests of the files of a run by their names: one each, or several of a file that was being
    replaced when its process ended. Empty where none can be read."""
    try:
        known = json.loads(regular(folder / LEDGER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return {
        name: [digest for digest in (ds if isinstance(ds, list) else [ds]) if type(digest) is str]
        for name, ds in (known.items() if isinstance(known, dict) else ())
        if _is_name(name)
    }


def _is_name(text: str) -> bool:
    """Whether a text can be the name of a file in a folder."""
    size = len(text.encode(errors="replace"))
    return 0 < size <= LONGEST and Path(text).name == text != ".."


@contextmanager
def ledger_to_itself(folder: Path) -> Iterator[None]:
    """Keep other processes from changing the ledger of a run while inside."""
    cells = folder / "cells"  # the folder itself is locked by processes at work in it
    if fcntl is None or not cells.is_dir():
        yield
        return
    descriptor = os.open(cells, os.O_RDONLY)
    try:
        with suppress(OSError):  # not known on this file system
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def digest_of_file(path: Path) -> str:
    """A digest of the bytes of a file."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(2**20):
            digest.update(part)
    return digest.hexdigest()


def _replace_folder(new: Path, path: Path) -> None:
    """Rename `new` to `path`; what is there is removed only after that."""
    backup = _backup_of(path)
    remove(backup)
    try:
        path.rename(backup)
        new.rename(path)
    finally:
        _restore(path)
    remove(backup)


def _restore(path: Path) -> None:
    """Undo a replacement that ended between the two renames."""
    backup = _backup_of(path)
    if backup.is_dir() and not path.exists():
        backup.rename(path)


def _backup_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.old")


def sweep_temporaries(folder: Path) -> None:
    """Remove the temporaries in a folder whose processes are gone."""
    for path in folder.glob(".*.tmp"):
        if _is_abandoned(path):
            remove(path)


def _is_abandoned(path: Path) -> bool:
    """Whether a path is a temporary that no process writes to any more."""
    match = TEMPORARY.fullmatch(path.name)
    try:
        written = path.lstat().st_mtime
    except FileNotFoundError:  # moved to its place just now
        return False
    if match is None:
        return False
    if match["host"] not in (None, HOST):
        return time.time() - written > ABANDONED
    try:
        # A later process may have got the number.
        return bool(psutil.Process(int(match["process"])).create_time() > written + 2)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def remove(path: Path) -> None:
    """Remove a file or a folder, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif os.path.lexists(path):  # a read-only file system refuses to remove even what is not there
        path.unlink(missing_ok=True)


def write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a CSV file in UTF-8, with a line feed after each row; return its path.

    Texts are written as by `in_table`.
    """
    with atomic_write(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        for row in (header, *rows):
            writer.writerow([in_table(v) if isinstance(v, str) else v for v in row])
    return path


def in_table(text: str) -> str:
    """A text as tables have it: printable, in as many lines."""
    return printable(text, keep="\n\t")


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of a CSV file; blank lines are left out.

    Raises:
        FileNotFoundError: There is no such file.
        StoreError: It is no table, or a row has more or fewer values than the header.
    """
    try:
        with regular(path).open(newline="", encoding="utf-8") as file:
            reader = csv.reader(file)
            header, rows = next(reader, []), []
            for row in filter(None, reader):
                if len(row) != len(header):
                    raise StoreError(
                        f"{path}: line {reader.line_num} has {len(row)} values for the"
                        f" {len(header)} columns"
                    )
                rows.append(row)
    except FileNotFoundError:
        raise
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise StoreError(f"{path} cannot be read as a table: {error}") from error
    return header, rows
