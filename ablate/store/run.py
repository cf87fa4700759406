"""A run on disk, with one PNG per cell that describes itself (`ablate.store.png`).

    outputs/<name>/
      recipe.yaml      as given, with all values that replaced others
      run.json         what was resolved: versions, model, device, axes, and the cells in plan order
      cells/<key>.png  key: digest of everything that determines the image
      drift.csv, sheet.png ...
      files.json       a digest of each file beside the cells

`run.json` contains the order of the cells and the axis values of each. Every file is written
atomically.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablate.messages import counted
from ablate.network import ModuleInfo
from ablate.store.cells import listed, problem_of, problems_of
from ablate.store.files import StoreError, atomic_write, sweep_temporaries
from ablate.store.images import open_image
from ablate.store.manifest import FORMAT, read_manifest
from ablate.store.notebook import run_html
from ablate.store.png import read_record, write_png
from ablate.store.work import Work, at_work, check_run_folder, named_cells, own_cells

WRITERS = min(8, os.cpu_count() or 1)  # threads that write cells


@dataclass(frozen=True)
class Axis:
    """An axis of the sweep as it was run.

    Attributes:
        values: Its values in order.
        labels: How each value is written.
        note: What the values are, where the name does not say it.
    """

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    note: str = ""

    def label(self, value: Any) -> str:
        """The label of a value."""
        return self.labels[self.values.index(value)]


@dataclass(frozen=True)
class StoredCell:
    """One cell of a run.

    Attributes:
        key: Digest of everything that determines the image.
        path: The PNG, which is there and whole if the cell is `done`.
        axes: Values by axis name; of a baseline that the run added, those of its condition.
        baseline: Key of the baseline with the same condition.
        group: Cells of one group share a noise floor.
        point: Whether `prompt` only describes a point in embedding space.
        same_as: A variant whose images these are: it zeroes other modules to the same effect.
    """

    key: str
    path: Path
    variant: str
    prompt: str
    seed: int
    axes: Mapping[str, Any]
    baseline: str
    group: int = 0
    point: bool = False
    same_as: str = ""

    @property
    def is_baseline(self) -> bool:
        return self.key == self.baseline

    @property
    def values(self) -> dict[str, Any]:
        """All that identifies the cell within its sweep: prompt, seed, and its values on axes."""
        return {"prompt": self.prompt, "seed": self.seed, **self.axes}

    @property
    def done(self) -> bool:
        return problem_of(self.path) is None

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()

    def image(self) -> Image.Image:
        """The finished image, RGB."""
        with open_image(self.path) as image:
            return image.convert("RGB")

    def record(self) -> dict[str, Any]:
        """The record in its PNG."""
        return read_record(self.path)


class Run:
    """A run folder. Nothing is created before the first write."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._work: Work | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        return run_html(self)

    # ------------------------------------------------------------ cells

    def path(self, key: str) -> Path:
        """The PNG of a cell. Raises `StoreError` for text that is no key."""
        if not re.fullmatch(r"\w+", key):  # run.json may come from anywhere
            raise StoreError(f"`{key}` is no key of a cell")
        return self.folder / "cells" / f"{key}.png"

    def keys(self) -> set[str]:
        """Keys of all cells on disk, in the plan or not, whole or damaged."""
        return {path.stem for path in named_cells(self.folder)}

    def damaged(self) -> dict[str, str]:
        """What is wrong with cells of the plan that are on disk, by key; without a plan, with all
        cells. Empty where all are whole."""
        problems = self._problems()
        try:
            planned = self._planned()
        except StoreError:
            return problems
        return {key: problem for key, problem in problems.items() if key in planned}

    def _problems(self) -> dict[str, str]:
        problems = problems_of(sorted(named_cells(self.folder)))
        return {path.stem: problem for path, problem in problems.items()}

    def damage_note(self) -> str | None:
        """A sentence that names the damaged cells and says what mends them; None without any."""
        if not (damaged := self.damaged()):
            return None
        return (
            f"{counted(len(damaged), 'cell')} of {self.folder} cannot be used: {listed(damaged)};"
            f" `ablate verify {self.folder} --repair` computes them again"
        )

    def finished(self) -> set[str]:
        """Keys of all whole cells on disk, in the plan or not."""
        return self.keys() - self._problems().keys()

    def write_cells(
        self, cells: Iterable[tuple[str, Image.Image, Mapping[str, Any], np.ndarray | None]]
    ) -> None:
        """Write cells: key, image, record, latents.

        They appear together, so that a run killed at any moment has complete batches.
        """
        # Compressing takes nearly all of the time, and lets other threads run. All are waited for
        # before the stack moves the files to their places.
        with (
            ExitStack() as stack,
            ThreadPoolExecutor(WRITERS, thread_name_prefix="png") as pool,
        ):
            written = []
            for key, image, record, latents in cells:
                path = self.path(key)
                if path.is_dir():  # a file cannot replace it
                    path.rmdir()
                temporary = stack.enter_context(atomic_write(path))
                record = {**record, "key": key}
                # Saving an image writes into it: cells may share one.
                job = pool.submit(_write_cell, temporary, image.copy(), record, latents)
                written.append(job)
            for future in written:
                future.result()

    def forget_cells(self) -> None:
        """Remove all finished cells, and no other file."""
        try:
            planned = self._planned()
        except StoreError:
            planned = set()
        for path in own_cells(self.folder):
            if path.stem in planned or _is_ours(path):
                path.unlink()

    def orphans(self) -> list[Path]:
        """Finished cells that are not part of its plan any more."""
        return [path for path in self._unplanned() if _is_ours(path)]

    def unrecorded(self) -> list[Path]:
        """Files that are named as cells are, but that neither its plan nor a record tells to be."""
        return [path for path in self._unplanned() if not _is_ours(path)]

    def _unplanned(self) -> list[Path]:
        planned = self._planned()
        return sorted(path for path in own_cells(self.folder) if path.stem not in planned)

    def clean(self) -> list[int]:
        """Remove orphans, and incomplete files of killed processes; return the orphans' sizes.

        Raises:
            StoreError: The folder is no run, or a process is at work there.
        """
        self.manifest()
        with self.working_alone():
            self.sweep_temporaries()
            sizes = []
            for path in self.orphans():
                sizes.append(path.stat().st_size)
                path.unlink()
        return sizes

    def _planned(self) -> set[str]:
        manifest = self.manifest()
        return {entry["key"] for entry in (*manifest["cells"], *manifest.get("floor", []))}

    # ------------------------------------------------------------ work

    def claim(self, name: str) -> None:
        """Raise `StoreError` unless the run of a recipe of this name can be written here."""
        check_run_folder(self.folder)
        try:
            other = self.manifest().get("name", name)
        except StoreError:
            return
        if other != name:
            raise StoreError(
                f"{self.folder} has the run of `{other}`, and this recipe is `{name}`; `--out`"
                " names another folder"
            )

    @contextmanager
    def working(self) -> Iterator[None]:
        """Be at work in the folder while inside; processes on the same cells share it."""
        with at_work(self.folder) as work:
            self._work = work
            try:
                yield
            finally:
                self._work = None

    @contextmanager
    def working_alone(self) -> Iterator[None]:
        """Be at work in the folder while inside. Raises `StoreError` if another process is."""
        with self.working():
            if not self.alone:
                raise StoreError(f"{self.folder}: a process is at work there; wait for it")
            yield

    def is_busy(self) -> bool:
        """Whether a process is at work in the folder."""
        with self.working():
            return not self.alone

    @property
    def alone(self) -> bool:
        """Whether no other process is known to be at work in the folder."""
        return self._work is None or self._work.alone

    def share(self, name: str, keys: Collection[str]) -> None:
        """Let others work on the same cells of a recipe of this name.

        Raises `StoreError` if one is at work on another recipe.
        """
        if self._work is None:
            return
        self._work.share()
        self.claim(name)
        if self._planned() != set(keys):
            raise StoreError(
                f"{self.folder}: another process is at work there on another recipe; wait for it,"
                " or name another folder by `--out`"
            )

    def sweep_temporaries(self) -> None:
        """Remove incomplete files of killed processes."""
        for folder in (self.folder, self.folder / "cells"):
            sweep_temporaries(folder)

    # ------------------------------------------------------------ files beside the cells

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the run."""
        path = self.folder / name
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
        return path

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self.write_text("run.json", json.dumps({"format": FORMAT, **manifest}, indent=1) + "\n")

    def manifest(self) -> dict[str, Any]:
        """Read `run.json`. Raises `StoreError` if there is none or it cannot be read."""
        return read_manifest(self.folder)

    def axes(self) -> tuple[Axis, ...]:
        """The axes of the sweep, in recipe order; `prompt` and `seed` are among them."""
        return tuple(
            Axis(a["name"], tuple(a["values"]), tuple(a["labels"]), a.get("note", ""))
            for a in self.manifest()["axes"]
        )

    def cells(self) -> Iterator[StoredCell]:
        """All planned cells in plan order, finished or not (`StoredCell.done`)."""
        manifest = self.manifest()
        same = manifest.get("same", {})
        return (self._cell(e, same.get(e["variant"], "")) for e in manifest["cells"])

    def floor(self) -> tuple[StoredCell, ...]:
        """Further baselines, of other seeds, for the noise floor only."""
        entries = self.manifest().get("floor", [])
        return tuple(
            self._cell(entry | {"variant": "baseline", "axes": {}, "baseline": entry["key"]})
            for entry in entries
        )

    def _cell(self, entry: Mapping[str, Any], same_as: str = "") -> StoredCell:
        return StoredCell(
            key=entry["key"],
            path=self.path(entry["key"]),
            variant=entry["variant"],
            prompt=entry["prompt"],
            seed=entry["seed"],
            axes=entry["axes"],
            baseline=entry["baseline"],
            group=entry.get("group", 0),
            point=entry.get("point", False),
            same_as=same_as,
        )

    def catalog(self) -> tuple[ModuleInfo, ...]:
        """All modules of the edited component, in forward order; none in runs of older versions."""
        rows = self.manifest().get("catalog", [])
        return tuple(ModuleInfo(number, *row) for number, row in enumerate(rows))

    def edited_modules(self) -> dict[str, tuple[int, ...]]:
        """Numbers of the modules that each variant edits, by its name."""
        manifest = self.manifest()
        most = len(manifest.get("catalog", [])) - 1
        modules: dict[str, tuple[int, ...]] = {}
        for variant, spans in manifest.get("touched", {}).items():
            numbers: list[int] = []
            for span in filter(None, spans.split(",")):
                first, _, last = span.partition("-")
                numbers += range(int(first), min(int(last or first), most) + 1)
            modules[variant] = tuple(numbers)
        return modules


def _write_cell(
    temporary: Path, image: Image.Image, record: Mapping[str, Any], latents: np.ndarray | None
) -> None:
    try:
        write_png(temporary, image, record, latents)
    except OSError as error:
        error.filename = error.filename or str(temporary)  # of the cells that are written at once
        raise


def _is_ours(path: Path) -> bool:
    """Whether a picture has a cell's record."""
    try:
        read_record(path)
    except StoreError:
        return False
    return True
