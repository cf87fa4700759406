"""Replay: a cell made again from what its PNG tells, and compared."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablate.edits import Edit, UnknownOpError, Variant
from ablate.engine import run as engine
from ablate.models import Source
from ablate.network import ScopeError
from ablate.sampling import Pipeline, Point, Sampling
from ablate.store import StoreError, read_record
from ablate.sweep import Cell, Condition

ALIKE = 2  # of 255: what another batch size, or another machine in float32, may change


@dataclass(frozen=True)
class Replay:
    """A cell made again. `same_model`: whether its model is what it was; `same_key`: whether its
    file is named by what its record tells.

    `difference`: the largest difference of two color values, of 255; None for images of unequal
    size.
    """

    image: Image.Image
    same_model: bool
    same_key: bool
    difference: int | None

    @property
    def is_alike(self) -> bool:
        return self.difference is not None and self.difference <= ALIKE


def cell_of(record: dict[str, Any]) -> Cell:
    """The cell that a record tells of. Raises `StoreError` when it tells of none."""
    try:
        asked = record["condition"]
        point = asked.get("point")
        condition = Condition(
            prompt=asked["prompt"],
            seed=asked["seed"],
            sampling=Sampling(**asked["sampling"]),
            point=_point(point) if point else None,
            steps=asked.get("steps"),
        )
        edits = tuple(Edit.from_json(edit) for edit in record["edits"])
        variant = Variant(record["variant"], edits, record.get("perturbation_seed", 0))
    except UnknownOpError as error:
        raise StoreError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"this record tells of no cell that can be made: {error!r}") from error
    return Cell(variant, condition, record.get("axes", {}), condition)


def _point(told: dict[str, Any]) -> Point:
    return Point(tuple((text, weight) for text, weight in told["weights"]), told["path"])


def pipeline_of(record: dict[str, Any], device: str | None = None) -> Pipeline:
    """The pipeline that made a cell. Raises `ModelError` when it is not there, `StoreError` when
    the record tells of none."""
    try:
        source = Source.from_json(record["model"])
        kind, _, commit = record["model"]["fingerprint"].partition(":")
        options = {"component": record["component"], "dtype": record["dtype"]}
    except (AttributeError, KeyError, TypeError) as error:
        raise StoreError(f"this record tells of no model that can be loaded: {error!r}") from error
    if kind == "commit":
        source = dataclasses.replace(source, revision=commit)
    return Pipeline.load(source, device=device, compile=record.get("compile", False), **options)


def replay_cell(path: Path, pipeline: Pipeline | None = None, device: str | None = None) -> Replay:
    """Make the cell of a PNG again, alone, and compare it with what the PNG shows.

    Raises `StoreError` for an image that is no cell, `ModelError` when its model is not there.
    """
    record = read_record(path)
    cell = cell_of(record)
    pipeline = pipeline or pipeline_of(record, device)
    try:
        key, pixels, _ = engine.compute_cell(cell, pipeline)
    except ScopeError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: no cell can be made of what it tells: {error!r}") from error
    with Image.open(path) as image:
        before = np.asarray(image.convert("RGB"), dtype=int)
    alike = before.shape == pixels.shape
    difference = int(np.abs(before - pixels).max()) if alike else None
    same_model = record["model"]["fingerprint"] == pipeline.fingerprint
    return Replay(Image.fromarray(pixels), same_model, key == path.stem, difference)
