"""A run on disk: one self-describing PNG a cell, written whole or not at all.

    outputs/<name>/
      recipe.yaml      as given
      run.json         what was resolved: versions, model, device, axes, and the cells in plan order
      cells/<key>.png  key = digest of everything that determines the image
      drift.csv, sheet.png ...

A PNG carries its own meaning in two text chunks: `parameters`, in the layout common among image
generators, and `ablate`, the full cell as JSON; and its final latents in a chunk `abLt`. `run.json`
holds the order of the cells and which axis values led to each.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ablate.network import ModuleInfo
from ablate.store.files import StoreError, atomic_write, remove
from ablate.store.png import LATENTS, _packed, parameters_text, read_record

FORMAT = 1  # of the run folder; raised when an older reader would misread it


@dataclass(frozen=True)
class Axis:
    """An axis of the sweep as it was run: its values in order, how each is written, and what they
    mean where its name does not say."""

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    note: str = ""

    def label(self, value: Any) -> str:
        """How a value of this axis is written on sheets."""
        return self.labels[self.values.index(value)]


@dataclass(frozen=True)
class StoredCell:
    """One cell of a run: where its image lies and what it stands for.

    `axes` maps axis names to values; of a baseline that the run added by itself, those of its
    condition. `group`: cells of one group share a noise floor. `point`: whether `prompt` is only
    the description of a point in embedding space.
    """

    key: str
    path: Path
    variant: str
    prompt: str
    seed: int
    axes: Mapping[str, Any]
    baseline: str  # key of the baseline of this cell's own condition
    group: int = 0
    point: bool = False

    @property
    def is_baseline(self) -> bool:
        return self.key == self.baseline

    @property
    def values(self) -> dict[str, Any]:
        """All that identifies the cell within its sweep: prompt, seed, and its values on axes."""
        return {"prompt": self.prompt, "seed": self.seed, **self.axes}

    @property
    def done(self) -> bool:
        return self.path.exists()

    def image(self) -> Image.Image:
        """The finished image, RGB."""
        with Image.open(self.path) as image:
            return image.convert("RGB")

    def record(self) -> dict[str, Any]:
        """The full cell as its PNG tells it."""
        return read_record(self.path)


class Run:
    """A run folder. Nothing is created before the first write."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    # ------------------------------------------------------------ cells

    def path(self, key: str) -> Path:
        if not re.fullmatch(r"\w+", key):  # run.json may come from anywhere
            raise StoreError(f"`{key}` is no key of a cell")
        return self.folder / "cells" / f"{key}.png"

    def has(self, key: str) -> bool:
        return self.path(key).exists()

    def finished(self) -> set[str]:
        """Keys of all cells on disk, in the plan or not."""
        return {path.stem for path in (self.folder / "cells").glob("*.png")}

    def write_cells(
        self, cells: Iterable[tuple[str, Image.Image, Mapping[str, Any], np.ndarray | None]]
    ) -> None:
        """Write finished cells (key, image, record, latents); one is read whole or not at all.

        They appear together, so that a run killed at any moment has whole batches.
        """
        with ExitStack() as stack:  # which moves all files to their places at its end
            for key, image, record, latents in cells:
                chunks = PngImagePlugin.PngInfo()
                chunks.add_text("parameters", parameters_text(record))
                chunks.add_text("ablate", json.dumps(record, sort_keys=True))
                if latents is not None:
                    chunks.add(LATENTS, _packed(latents), after_idat=True)
                temporary = stack.enter_context(atomic_write(self.path(key)))
                image.save(temporary, format="PNG", pnginfo=chunks)

    def forget_cells(self) -> None:
        """Remove all finished cells."""
        shutil.rmtree(self.folder / "cells", ignore_errors=True)

    def sweep_temporaries(self) -> None:
        """Remove what a killed process left half-written."""
        for leftover in self.folder.glob("**/*.tmp"):
            remove(leftover)

    # ------------------------------------------------------------ files beside the cells

    def write_text(self, name: str, text: str) -> Path:
        """Write a file of the run whole or not at all."""
        path = self.folder / name
        with atomic_write(path) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="")
        return path

    def write_manifest(self, manifest: Mapping[str, Any]) -> None:
        self.write_text("run.json", json.dumps({"format": FORMAT, **manifest}, indent=1) + "\n")

    def manifest(self) -> dict[str, Any]:
        """`run.json`. Raises `StoreError` when there is none or it cannot be read."""
        path = self.folder / "run.json"
        try:
            manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StoreError(f"{self.folder} is not a run: it has no run.json") from None
        except ValueError as error:
            raise StoreError(f"{path} cannot be read: {error}") from error
        if manifest.get("format") != FORMAT:
            raise StoreError(
                f"{path} has format {manifest.get('format')!r}; this version reads {FORMAT}"
            )
        return manifest

    def axes(self) -> tuple[Axis, ...]:
        """The axes of the sweep, in recipe order; `prompt` and `seed` are among them."""
        return tuple(
            Axis(a["name"], tuple(a["values"]), tuple(a["labels"]), a.get("note", ""))
            for a in self.manifest()["axes"]
        )

    def cells(self) -> Iterator[StoredCell]:
        """All planned cells in plan order, finished or not (`StoredCell.done`)."""
        for cell in self.manifest()["cells"]:
            yield StoredCell(
                key=cell["key"],
                path=self.path(cell["key"]),
                variant=cell["variant"],
                prompt=cell["prompt"],
                seed=cell["seed"],
                axes=cell["axes"],
                baseline=cell["baseline"],
                group=cell.get("group", 0),
                point=cell.get("point", False),
            )

    def floor(self) -> tuple[StoredCell, ...]:
        """Further baselines, of other seeds, that were made for the noise floor alone."""
        return tuple(
            StoredCell(
                key=cell["key"],
                path=self.path(cell["key"]),
                variant="baseline",
                prompt=cell["prompt"],
                seed=cell["seed"],
                axes={},
                baseline=cell["key"],
                group=cell["group"],
                point=cell.get("point", False),
            )
            for cell in self.manifest().get("floor", [])
        )

    def catalog(self) -> tuple[ModuleInfo, ...]:
        """All modules of the edited component, in forward order; none in runs of older versions."""
        rows = self.manifest().get("catalog", [])
        return tuple(ModuleInfo(number, *row) for number, row in enumerate(rows))

    def touched(self) -> dict[str, tuple[int, ...]]:
        """Numbers of the modules that each variant edits, by its name."""
        manifest = self.manifest()
        most = len(manifest.get("catalog", [])) - 1
        found: dict[str, tuple[int, ...]] = {}
        for variant, written in manifest.get("touched", {}).items():
            numbers: list[int] = []
            for span in filter(None, written.split(",")):
                first, _, last = span.partition("-")
                numbers += range(int(first), min(int(last or first), most) + 1)
            found[variant] = tuple(numbers)
        return found
