"""Class selectivity: which units respond to which concepts, and to how few.

As Leavitt and Morcos 2020 (Selectivity considered harmful: evaluating the causal impact of class
selectivity in DNNs), with concepts of prompts in the place of classes. A unit's activation for a
sample is the mean, over positions and recorded moments, of the part above 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ablate.store import Layer, Statistics, write_table
from ablate.units.record.layers import Grid, middle_of
from ablate.units.record.recording import grids_of, render_missing, stream
from ablate.units.record.setup import CLIP, StudyError
from ablate.units.record.stimuli import shuffled
from ablate.units.record.study import Study

FILE = "activations.npz"
TABLE = "units.csv"
EVERY = 10.0  # seconds between two writes, at least
SHARE = 0.05  # of the time that writing may take
HEADS = ("module", "component", "kind", "unit", "stage", "role", "selectivity", "chance",
         "concept", "mean", "rest", "contrast")  # fmt: skip


class ByConcept:
    """A sink that computes statistics by concept.

    Args:
        layers: Those that may run, in order; the first batch gives their numbers of units.
        concepts: Their names.
        labels: The index of each sample's concept.
        grid: Gives the grid of a layer with so many positions; None where they are no map.
        statistics: Of earlier samples.

    Attributes:
        statistics: Of all samples so far; None before the end of the first batch.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        concepts: Sequence[str],
        labels: Sequence[int],
        grid: Callable[[int], Grid | None] = lambda _: None,
        statistics: Statistics | None = None,
    ) -> None:
        self.layers, self.concepts, self.grid = layers, concepts, grid
        self.labels, self.shuffled = np.array(labels), np.array(shuffled(labels))
        self.kind = layers[0].kind
        self.statistics = statistics
        if statistics is not None:
            statistics.total = len(labels)
        self.begin(0)

    @classmethod
    def of(cls, study: Study, statistics: Statistics | None = None) -> ByConcept:
        """Return the sink of a study's samples."""
        kind = study.setup.kind
        layers = [Layer(study.component, m.path, kind, 0, m.stage, m.role) for m in study.layers]
        concepts = study.setup.stimuli.concepts
        return cls(layers, concepts, study.concepts, grids_of(study), statistics)

    def begin(self, samples: int) -> None:
        self.sums: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}
        self.peaks: dict[str, Tensor] = {}
        self.places: dict[str, Tensor] = {}

    def record(self, path: str, values: Tensor) -> None:
        active = values.clamp(min=0) if self.kind == "channels" else values
        grid = self.grid(values.shape[2])
        skipped = grid[0] if grid else 0
        peaks, at = active[..., skipped:].max(-1)
        places = middle_of(at + skipped, grid)
        if path in self.sums:
            self.sums[path] += active.mean(-1)
            self.calls[path] += 1
            higher = (peaks > self.peaks[path])[..., None]
            self.places[path] = torch.where(higher, places, self.places[path])
            self.peaks[path] = torch.maximum(peaks, self.peaks[path])
        else:
            self.sums[path], self.calls[path] = active.mean(-1), 1
            self.peaks[path], self.places[path] = peaks, places

    def end(self, numbers: Sequence[int]) -> None:
        if self.statistics is None:
            layers = [replace(layer, units=self.sums[layer.path].shape[1])
                      for layer in self.layers if layer.path in self.sums]  # fmt: skip
            self.statistics = Statistics(layers, self.concepts, len(self.labels))
        paths = [layer.path for layer in self.statistics.layers]
        for path in paths:
            if path not in self.sums:
                raise StudyError(f"`{path}` did not run for all samples; leave it out")
        values = torch.cat([self.sums[path] / self.calls[path] for path in paths], 1)
        places = torch.cat([self.places[path] for path in paths], 1)
        batch = list(numbers)
        self.statistics.add(
            self.labels[batch], values.cpu().numpy(), places.cpu().numpy(), self.shuffled[batch]
        )


def recorded_statistics(study: Study) -> Statistics | None:
    """Return the statistics of the samples of a study that were recorded; None without any.

    Raises:
        StatisticsError: Their file cannot be read.
        StudyError: They are of other samples or of other layers than the study.
    """
    path = study.folder / FILE
    if not path.exists():
        return None
    statistics = Statistics.load(path)
    paths = {layer.path for layer in statistics.layers}
    if (
        statistics.concepts != study.setup.stimuli.concepts
        or statistics.done > len(study.samples)
        or not paths <= {module.path for module in study.layers}
    ):
        raise StudyError(
            f"{path} is of another study; without it `ablate units selectivity` records this one"
        )
    return statistics


def record_selectivity(study: Study) -> Statistics:
    """Record all samples of a study, or those that are left of an earlier time.

    Pictures of it that are missing or broken are rendered again. Writes `activations.npz` now and
    then, and `units.csv` at the end.

    Raises:
        StudyError: What was recorded earlier is of another study (`recorded_statistics`).
        Stopped: Ctrl-C was pressed; what was recorded until then is on disk.
    """
    path = study.folder / FILE
    statistics = recorded_statistics(study)
    done = statistics.done if statistics is not None else 0
    sink = ByConcept.of(study, statistics)
    reads = study.component == CLIP and not study.texts
    if reads or (done and not study.texts):
        # Of a CLIP model they are rendered before anything is recorded, and take the most time.
        plan = study.plan if reads else replace(study.plan, cells=study.samples[:done], floor=())
        render_missing(study, plan)
    pace = _Pace()
    study.progress.start("samples", len(study.samples), done)
    study.progress.update(done)
    try:
        for seen in stream(study, sink, done):
            study.progress.update(seen)
            if sink.statistics is not None and pace.due():
                pace.write(sink.statistics, path)
    finally:
        # A batch that was cut short either counts for nothing, or the earlier file stays.
        if sink.statistics is not None and sink.statistics.settled:
            sink.statistics.save(path)
    assert sink.statistics is not None
    write_table(study.folder / TABLE, HEADS, _rows(sink.statistics))
    return sink.statistics


class _Pace:
    """When to write: everything is written anew each time, which may take long."""

    def __init__(self) -> None:
        self.next = time.monotonic() + EVERY

    def due(self) -> bool:
        return time.monotonic() > self.next

    def write(self, statistics: Statistics, path: Path) -> None:
        before = time.monotonic()
        statistics.save(path)
        after = time.monotonic()
        self.next = after + max(EVERY, (after - before) * (1 / SHARE - 1))


def _rows(statistics: Statistics) -> Iterator[list[object]]:
    """Yield a row a unit: its place, its index, that by chance, and its preferred concept."""
    index, chance = statistics.selectivity(), statistics.by_chance()
    preferred, contrast, rest = statistics.preferred(), statistics.contrast(), statistics.rest()
    unit = 0
    for layer in statistics.layers:
        for number in range(layer.units):
            c = preferred[unit]
            figures = (statistics.mean[c, unit], rest[c, unit], contrast[c, unit])
            yield [
                layer.path, layer.component, layer.kind, number, layer.stage, layer.role,
                f"{index[unit]:.6g}", f"{chance[unit]:.6g}", statistics.concepts[c],
                *(f"{figure:.6g}" for figure in figures),
            ]  # fmt: skip
            unit += 1
