"""Distances between sets: the images of a variant, over prompts and seeds, and their baselines.

sets.csv   a row a variant and metric, where a run has metrics of sets
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from PIL import Image

from ablate.drift.effects import explained, figure, read_rows, table_axes
from ablate.store import Run, StoredCell, StoreError, in_table, read_table, write_table

FILE = "sets.csv"
FIGURES = ("metric", "value", "images", "baselines")


class Pictures(Sequence[Image.Image]):
    """The images of cells, each opened when it is asked for."""

    def __init__(self, cells: Iterable[StoredCell]) -> None:
        self._cells = tuple(cells)

    def __len__(self) -> int:
        return len(self._cells)

    @overload
    def __getitem__(self, at: int) -> Image.Image: ...
    @overload
    def __getitem__(self, at: slice) -> list[Image.Image]: ...
    def __getitem__(self, at: int | slice) -> Image.Image | list[Image.Image]:
        if isinstance(at, slice):
            return [cell.image() for cell in self._cells[at]]
        return self._cells[at].image()


@dataclass(frozen=True)
class SetMetric:
    """A distance between the images of a variant and their baselines.

    Attributes:
        distance: The function. The same baselines are the same object in every call.
        fewest: Images of a set that it needs.
        notes: Sentences to the user on what was measured by it.
    """

    distance: Callable[[Sequence[Image.Image], Sequence[Image.Image]], float]
    fewest: int = 1
    notes: Callable[[Sequence[SetDistance]], Iterable[str]] = lambda distances: ()


@dataclass(frozen=True)
class SetDistance:
    """How far a set is from its baselines, by one metric.

    Attributes:
        variant: The name of the variant.
        axes: The values of its axes, without prompt and seed.
        metric: The name of the metric.
        value: The distance.
        images: How many images of the variant were compared.
        baselines: With how many different baselines.
    """

    variant: str
    axes: Mapping[str, Any]
    metric: str
    value: float
    images: int
    baselines: int


def measure_sets(
    cells: Sequence[StoredCell], metrics: Mapping[str, SetMetric]
) -> Iterator[SetDistance]:
    """Measure each variant over all prompts and seeds.

    Args:
        cells: Finished cells with a valid image, baselines among them.
        metrics: Metrics by name.
    """
    baselines = {cell.key: cell for cell in cells if cell.is_baseline}
    groups: dict[str, dict[str, StoredCell]] = {}
    for cell in cells if metrics else ():
        if not cell.is_baseline and cell.baseline in baselines:
            place = [cell.variant, _axes(cell), cell.record().get("size")]
            groups.setdefault(json.dumps(place, sort_keys=True), {})[cell.key] = cell
    sets: dict[tuple[str, ...], Pictures] = {}
    values: dict[tuple[str, Pictures, Pictures], float] = {}  # variants may be one experiment
    for group in groups.values():
        first = next(iter(group.values()))
        images = sets.setdefault(tuple(group), Pictures(group.values()))
        keys = tuple(dict.fromkeys(cell.baseline for cell in group.values()))
        compared = sets.setdefault(keys, Pictures(baselines[key] for key in keys))
        for name, metric in metrics.items():
            if min(len(images), len(compared)) >= metric.fewest:
                asked = name, images, compared
                if asked not in values:
                    values[asked] = metric.distance(images, compared)
                counts = len(images), len(compared)
                yield SetDistance(first.variant, _axes(first), name, values[asked], *counts)


def _axes(cell: StoredCell) -> dict[str, Any]:
    return {name: v for name, v in cell.axes.items() if name not in ("prompt", "seed")}


def write_sets(run: Run, distances: Sequence[SetDistance]) -> None:
    """Write `sets.csv`, or remove it where nothing of sets was measured."""
    path = run.folder / FILE
    if not distances:
        path.unlink(missing_ok=True)
        return
    axes = table_axes(run)
    rows = (
        [
            *(d.variant, *(d.axes.get(axis, "") for axis in axes)),
            *(d.metric, f"{d.value:.6g}", d.images, d.baselines),
        ]
        for d in distances
    )
    write_table(path, ["variant", *axes, *FIGURES], rows)


def read_sets(run: Run) -> list[SetDistance]:
    """The distances between sets of a run from its table; none where there is none."""
    path = run.folder / FILE
    if not path.exists():
        return []
    axes = table_axes(run)
    variants = {in_table(cell.variant): cell.variant for cell in run.cells()}
    header = ["variant", *axes, *FIGURES]

    def read(row: Sequence[str]) -> SetDistance:
        # By position: an axis may have the name of a column.
        variant, *written = row[: 1 + len(axes)]
        metric, value, images, baselines = row[1 + len(axes) :]
        at = {
            name: known.get(text, text)
            for (name, known), text in zip(axes.items(), written, strict=True)
            if text
        }
        name = variants.get(variant, variant)
        return SetDistance(name, at, metric, figure(value), int(images), int(baselines))

    with explained(run, FILE):
        found, rows = read_table(path)
        if found != header:
            raise StoreError(f"its columns are not {', '.join(header)}")
        return read_rows(rows, read)
