"""What of a run is whole: its cells, its tables, its pages, and what describes it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ablate.store.arrays import read_arrays
from ablate.store.files import (
    LEDGER,
    StoreError,
    digest_of_file,
    ledger_to_itself,
    read_ledger,
    read_table,
)
from ablate.store.images import open_image
from ablate.store.run import Run

DRIFT = "drift.csv"
MANIFEST = "run.json"
DESCRIPTIONS = ("recipe.yaml", MANIFEST, LEDGER)
TABLES = (DRIFT, "effects.csv", "drift.json", "embeddings.npz", "sets.csv")
# Files of each run that was measured; one of an older version has no ledger.
NEEDED = (*DESCRIPTIONS[:2], *TABLES[:3], "report.html")
PICTURES = (".png", ".webp", ".gif")
# That a finder writes into the folder of its run.
FINDINGS = ("find.json", "find.csv", "find.svg", "find.png")


@dataclass(frozen=True)
class Verification:
    """What of a run is whole.

    Attributes:
        counts: How many things there are and how many of them are whole, by their kind.
        cells: What is wrong with cells, by key.
        files: What is wrong with files beside the cells, by name.
        missing: Planned cells that have not been computed.
    """

    counts: Mapping[str, tuple[int, int]]
    cells: Mapping[str, str]
    files: Mapping[str, str]
    missing: int

    @property
    def is_whole(self) -> bool:
        return not self.cells and not self.files


def verify_run(run: Run) -> Verification:
    """Check each cell and each file of a run against what was recorded when it was written.

    Files of runs of older versions, of which nothing was recorded, are checked by their format.

    Raises `StoreError` where the folder contains no run.
    """
    if not any((run.folder / name).exists() for name in (*DESCRIPTIONS, "cells")):
        raise StoreError(f"{run.folder} is not a run: it has no run.json")
    names = _names(run)
    files = dict(_file_problems(run, names))
    whole, damaged = run.finished(), run.damaged()
    planned: set[str] = set()
    if MANIFEST not in files:
        planned = {cell.key for cell in (*run.cells(), *run.floor())}
    if DRIFT not in files and planned:
        known = {Path(row[0]).stem for row in read_table(run.folder / DRIFT)[1] if row}
        damaged |= dict.fromkeys(sorted(known & planned - whole - damaged.keys()), "no file")
        if known != {cell.key for cell in run.cells()} & (whole | damaged.keys() | known):
            files[DRIFT] = "out of date: it is of other cells"
    counts = {"cells": (len(whole) + len(damaged), len(whole))}
    kinds: dict[str, list[bool]] = {"tables": [], "pages": [], "descriptions": []}
    for name in names:
        kind = "descriptions" if name in DESCRIPTIONS else "tables" if name in TABLES else "pages"
        kinds[kind].append(name not in files)
    counts |= {kind: (len(states), sum(states)) for kind, states in kinds.items()}
    return Verification(counts, damaged, files, len(planned - whole - damaged.keys()))


def _names(run: Run) -> list[str]:
    """Files beside the cells that are there, or that were recorded, or that each run has."""
    suffixes = (".csv", ".json", ".npz", ".yaml", ".html", ".svg", ".mp4", *PICTURES)
    there = {path.name for path in run.folder.glob("[!.]*") if path.suffix in suffixes}
    return sorted(there | read_ledger(run.folder).keys() | {*NEEDED})


def _file_problems(run: Run, names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """What is wrong with files, by name."""
    for name in names:
        path = run.folder / name
        if not path.is_file():
            yield name, "no regular file" if path.exists() else "missing"
        elif problem := _structure(run, path):
            yield name, problem
        elif not _is_as_written(path):
            yield name, "changed since it was written"


def _is_as_written(path: Path) -> bool:
    """Whether a file is as it was recorded, if it was; it may be replaced meanwhile."""
    with ledger_to_itself(path.parent):
        digests = read_ledger(path.parent).get(path.name)
        return digests is None or digest_of_file(path) in digests


def _structure(run: Run, path: Path) -> str | None:
    """What is wrong with a file by its format."""
    try:
        if path.stat().st_size == 0:
            return "empty"
        if path.name == MANIFEST:
            run.manifest()
        elif path.suffix == ".csv":
            read_table(path)
        elif path.suffix == ".json":
            if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
                return "no mapping"
        elif path.suffix == ".npz":
            read_arrays(path)
        elif path.suffix in PICTURES:
            with open_image(path) as image:
                image.load()
        elif path.suffix == ".html" and not path.read_bytes().rstrip().endswith(b"</html>"):
            return "truncated"
    except (OSError, StoreError, ValueError, RecursionError) as error:
        return str(error).removeprefix(str(path)).lstrip(": ")
    return None
