"""Replay: compute a cell again from the record in its PNG, and compare."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablate.engine.run import compute_cell
from ablate.messages import counted, shown
from ablate.models import Source, located
from ablate.network import ScopeError
from ablate.sampling import Pipeline
from ablate.store import StoreError, open_image, read_record
from ablate.sweep import Cell, cell_of

ALIKE = 2  # of 255: what another batch size, or another machine in float32, may change


@dataclass(frozen=True)
class Replay:
    """A cell that was computed again.

    Attributes:
        image: The image computed now.
        same_model: Whether the model's weights are those that the record names.
        same_key: Whether the file's name is the key of its record.
        difference: Largest difference of two color values, of 255; None for unequal sizes.
    """

    image: Image.Image
    same_model: bool
    same_key: bool
    difference: int | None

    @property
    def is_alike(self) -> bool:
        return self.difference is not None and self.difference <= ALIKE


@dataclass(frozen=True)
class Recorded:
    """What the record of a cell asks for; nothing is loaded.

    Attributes:
        path: The PNG.
        record: Its record.
        cell: The cell.
        source: The model that computes it: of the record, or the one given instead.
        unnamed: What would be loaded besides that the user did not name: the model of the record
            unless it is the bundled one, LoRAs, models to blend with.
    """

    path: Path
    record: dict[str, Any]
    cell: Cell
    source: Source
    unnamed: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, record: dict[str, Any], model: str | None = None) -> Recorded:
        """What a record asks for.

        Args:
            path: Where it was read.
            model: A folder, file or hub id that the user names; it replaces the record's model.

        Raises:
            StoreError: The record describes no cell.
        """
        cell = cell_of(path, record)
        source = Source.from_json(record["model"])
        kind, _, commit = record["model"]["fingerprint"].partition(":")
        if kind == "commit":
            source = dataclasses.replace(source, revision=commit)
        if model is not None and located(model) != source.model:
            source = dataclasses.replace(source, model=located(model), revision=None)
        names = [source.config, *(lora.model for lora in source.lora)]
        names += [edit.checkpoint for edit in cell.variant.edits]
        if model is None:
            names.insert(0, source.model)
        known = ("bundled", source.model if model is not None else None, None)
        unnamed = tuple(dict.fromkeys(n for n in names if n is not None and n not in known))
        return cls(path, record, cell, source, unnamed)

    def sentences(self) -> list[str]:
        """Lines for the user: what would be loaded and computed."""
        sampling, edits = self.cell.condition.sampling, self.cell.variant.edits
        modules = sum(len(edit.all_modules) for edit in edits)
        references = len(self.cell.variant.references)
        besides = [f"and {shown(name)}" for name in self.unnamed if name != self.source.model]
        return [
            ", ".join([f"model  {shown(self.source.model)}", self.record["dtype"], *besides[:5]]),
            f"cell   {sampling.width} × {sampling.height} pixels,"
            f" {counted(sampling.num_inference_steps, 'step')},"
            f" {counted(len(edits), 'edit')} of {counted(modules, 'module')}"
            + (f", {counted(references, 'reference')}" if references else ""),
        ]

    def load(self, device: str | None = None) -> Pipeline:
        """Load its pipeline. Raises `ModelError`."""
        return Pipeline.load(
            self.source,
            component=self.record["component"],
            device=device,
            dtype=self.record["dtype"],
            compile=self.record.get("compile", False),
        )


def replay_cell(
    path: Path,
    pipeline: Pipeline | None = None,
    device: str | None = None,
    *,
    model: str | None = None,
    before: Callable[[Recorded], object] = lambda _: None,
) -> Replay:
    """Compute the cell of a PNG again, alone, and compare it with the image in the PNG.

    Args:
        pipeline: Its pipeline, if it is loaded.
        device: Where to load it else.
        model: Loaded instead of the model that the record names.
        before: Called before anything is loaded; it may raise.

    Raises:
        StoreError: The file is not the PNG of a cell, or the cell cannot be computed.
        ModelError: Its model is not there.
        ScopeError: Its edits do not fit the model.
    """
    record = read_record(path)
    recorded = Recorded.of(path, record, model)
    before(recorded)
    pipeline = pipeline or recorded.load(device)
    try:
        key, pixels, _ = compute_cell(recorded.cell, pipeline)
    except ScopeError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: its cell cannot be computed: {error!r}") from error
    with open_image(path) as image:
        first = np.asarray(image.convert("RGB"), dtype=int)
    same_size = first.shape == pixels.shape
    difference = int(np.abs(first - pixels).max()) if same_size else None
    same_model = record["model"]["fingerprint"] == pipeline.fingerprint
    return Replay(Image.fromarray(pixels), same_model, key == path.stem, difference)
