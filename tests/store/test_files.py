"""Files and folders appear complete or not at all; tables are read as they were written."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from ablate.store.files import (
    StoreError,
    atomic_write,
    digest_of_file,
    read_ledger,
    read_table,
    write_table,
)


def test_a_file_is_written_atomically(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_write(path) as temporary:
        temporary.write_text("one")
        assert not path.exists()
    assert path.read_text() == "one"

    def fail() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("tw")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="the disk is full"):
        fail()
    assert path.read_text() == "one"
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_read_only_is_named_by_the_file_and_not_by_its_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Path, *_arguments: object, **_options: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    path = write_table(tmp_path / "a.csv", ["a"], [])
    for method in ("open", "unlink", "replace"):  # of a read-only mount, for root too
        monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(OSError, match="Read-only file system") as error:
        write_table(path, ["b"], [])
    assert error.value.filename == str(path)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("renames", range(4))
def test_the_ledger_has_what_is_there_whenever_a_process_ends(
    renames: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a file may be is recorded before it is replaced, and what it is after that."""
    path = tmp_path / "a.csv"
    write_table(tmp_path / "run.json", ["a run"], [])
    write_table(path, ["a"], [[1]])
    assert read_ledger(tmp_path)["a.csv"] == [digest_of_file(path)]
    left, rename = renames, Path.replace

    def killed(self: Path, target: Path) -> Path:
        nonlocal left
        if not left:
            raise Killed
        left -= 1
        return rename(self, target)

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(Path, "replace", killed)
        write_table(path, ["a"], [[2]])
    assert read_table(path)[1] == [["1" if renames < 2 else "2"]]
    assert digest_of_file(path) in read_ledger(tmp_path)["a.csv"]
    write_table(path, ["a"], [[3]])
    assert read_ledger(tmp_path)["a.csv"] == [digest_of_file(path)]


def test_writers_at_once_keep_each_others_entries(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    write_table(tmp_path / "run.json", ["a run"], [])
    with ThreadPoolExecutor(8) as pool:
        paths = [tmp_path / f"{i}.csv" for i in range(40)]
        list(pool.map(lambda path: write_table(path, [path.name], []), paths))
    ledger = read_ledger(tmp_path)
    assert all(ledger[path.name] == [digest_of_file(path)] for path in paths)


def write_folder(path: Path, *names: str) -> None:
    with atomic_write(path) as temporary:
        temporary.mkdir()
        for name in names:
            (temporary / name).write_text(name)
        if "bad" in names:
            raise OSError("the disk is full")


def names_in(path: Path) -> list[str]:
    return sorted(file.relative_to(path).as_posix() for file in path.rglob("*"))


def test_a_folder_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    write_folder(path, "a", "b")
    write_folder(path, "c")
    with pytest.raises(OSError, match="the disk is full"):
        write_folder(path, "d", "bad")
    assert names_in(tmp_path) == ["new", "new/folder", "new/folder/c"]


def test_a_folder_whose_replacement_was_killed_is_restored(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    write_folder(path, "a")
    path.rename(tmp_path / ".folder.old")  # the first of two renames
    with pytest.raises(OSError, match="the disk is full"):
        write_folder(path, "bad")
    assert names_in(tmp_path) == ["folder", "folder/a"]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [["a, “b”", "1.5"], ['"', ""], ["two\nlines", "x"]]
    path = write_table(tmp_path / "new" / "table.csv", ["name", "value"], rows)
    assert read_table(path) == (["name", "value"], rows)
    assert path.read_bytes().startswith(b"name,value\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n3\n", "line 3 has 1 values for the 2 columns"),
        (b"a\n\xff\n", "cannot be read as a table"),
    ],
)
def test_what_is_no_table_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(StoreError, match=message):
        read_table(tmp_path / "t.csv")
