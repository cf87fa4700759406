"""Replay: compute a cell again from the record in its PNG, and compare."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablate.edits import Edit, UnknownOpError, Variant
from ablate.engine.run import compute_cell
from ablate.models import Source
from ablate.network import ScopeError
from ablate.sampling import Pipeline, Point, Sampling
from ablate.store import StoreError, open_image, read_record
from ablate.sweep import Cell, Condition

# The most that a record may ask for: it may come from anyone.
MOST_STEPS, MOST_EDITS, MOST_PIXELS = 10_000, 10_000, 2**14
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


def cell_of(record: dict[str, Any]) -> Cell:
    """The cell that a record describes. Raises `StoreError` if it describes none."""
    check_bounds(record)
    try:
        given = record["condition"]
        point = given.get("point")
        condition = Condition(
            prompt=given["prompt"],
            seed=given["seed"],
            sampling=Sampling(**given["sampling"]),
            point=_point(point) if point else None,
            steps=given.get("steps"),
        )
        edits = tuple(Edit.from_json(edit) for edit in record["edits"])
        variant = Variant(record["variant"], edits, record.get("perturbation_seed", 0))
    except UnknownOpError as error:
        raise StoreError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"this record describes no cell: {error!r}") from error
    return Cell(variant, condition, record.get("axes", {}), condition)


def check_bounds(record: dict[str, Any]) -> None:
    """Raise `StoreError` for a record that asks for more than any cell needs."""
    try:
        sampling = record["condition"]["sampling"]
        steps, sides = sampling["num_inference_steps"], (sampling["width"], sampling["height"])
        counts = [(steps, MOST_STEPS, "steps"), (len(record["edits"]), MOST_EDITS, "edits")]
        counts += [(side, MOST_PIXELS, "pixels along a side") for side in sides]
        for count, most, what in counts:
            if not 0 <= count <= most:
                raise StoreError(f"this record asks for {count:,} {what}; {most:,} is the most")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise StoreError(f"this record describes no cell: {error!r}") from error


def _point(given: dict[str, Any]) -> Point:
    return Point(tuple((text, weight) for text, weight in given["weights"]), given["path"])


def pipeline_of(record: dict[str, Any], device: str | None = None) -> Pipeline:
    """Load the pipeline that a record names.

    Raises:
        ModelError: The model is not there.
        StoreError: The record names none.
    """
    try:
        source = Source.from_json(record["model"])
        kind, _, commit = record["model"]["fingerprint"].partition(":")
        options = {"component": record["component"], "dtype": record["dtype"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise StoreError(f"this record names no model that can be loaded: {error!r}") from error
    if kind == "commit":
        source = dataclasses.replace(source, revision=commit)
    return Pipeline.load(source, device=device, compile=record.get("compile", False), **options)


def replay_cell(path: Path, pipeline: Pipeline | None = None, device: str | None = None) -> Replay:
    """Compute the cell of a PNG again, alone, and compare it with the image in the PNG.

    Raises:
        StoreError: The file is not the PNG of a cell.
        ModelError: Its model is not there.
        ScopeError: Its edits do not fit the model.
    """
    record = read_record(path)
    cell = cell_of(record)
    pipeline = pipeline or pipeline_of(record, device)
    try:
        key, pixels, _ = compute_cell(cell, pipeline)
    except ScopeError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: its cell cannot be computed: {error!r}") from error
    with open_image(path) as image:
        before = np.asarray(image.convert("RGB"), dtype=int)
    same_size = before.shape == pixels.shape
    difference = int(np.abs(before - pixels).max()) if same_size else None
    same_model = record["model"]["fingerprint"] == pipeline.fingerprint
    return Replay(Image.fromarray(pixels), same_model, key == path.stem, difference)
