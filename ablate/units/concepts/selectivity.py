"""Class selectivity: which units answer to which concept, and to how few.

As Leavitt and Morcos 2020 (Selectivity considered harmful: evaluating the causal impact of class
selectivity in DNNs), with concepts of prompts in the place of classes. A unit's activation for a
sample is the mean, over positions and recorded moments, of what lies above 0.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ablate.store import Layer, Run, Statistics
from ablate.units.record.layers import grid_of, middle_of, strength
from ablate.units.record.recording import maps_of_study, render_missing, stream
from ablate.units.record.stimuli import shuffled
from ablate.units.record.study import CLIP, Study, StudyError

FILE = "activations.npz"
TABLE = "units.csv"
EVERY = 10.0  # seconds after which what was heard is written, at the least
SHARE = 0.05  # of the time that writing may take
HEADS = ("module", "component", "kind", "unit", "stage", "role", "selectivity", "chance",
         "concept", "mean", "rest", "contrast")  # fmt: skip


class ByConcept:
    """A sink that keeps statistics by concept."""

    def __init__(self, study: Study, statistics: Statistics | None = None) -> None:
        self.study = study
        self.statistics = statistics
        if statistics is not None:
            statistics.total = len(study.samples)
        self.concepts = np.array(study.concepts)
        self.shuffled = np.array(shuffled(study.concepts))
        size = study.pipeline.settings(study.plan.recipe.sampling)
        self.size = (1, 1) if study.component == CLIP else (size.height, size.width)
        self.maps = maps_of_study(study)
        self.begin(0)

    def begin(self, samples: int) -> None:
        self.sums: dict[str, Tensor] = {}
        self.calls: dict[str, int] = {}
        self.peaks: dict[str, Tensor] = {}
        self.places: dict[str, Tensor] = {}

    def record(self, path: str, values: Tensor) -> None:
        active = strength(values, self.study.setup.kind)
        grid = None if self.study.texts else grid_of(values.shape[2], *self.size, self.maps)
        peaks, at = active[..., grid[0] if grid else 0 :].max(-1)
        places = middle_of(at + (grid[0] if grid else 0), grid)
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
            concepts = self.study.setup.stimuli.concepts
            self.statistics = Statistics(self._layers(), concepts, len(self.study.samples))
        paths = [layer.path for layer in self.statistics.layers]
        silent = next((path for path in paths if path not in self.sums), None)
        if silent is not None:
            raise StudyError(f"`{silent}` did not run for all samples; leave it out")
        values = torch.cat([self.sums[path] / self.calls[path] for path in paths], 1)
        places = torch.cat([self.places[path] for path in paths], 1)
        some = list(numbers)
        self.statistics.add(
            self.concepts[some], values.cpu().numpy(), places.cpu().numpy(), self.shuffled[some]
        )

    def _layers(self) -> list[Layer]:
        """The layers that ran, with as many units as they turned out to have."""
        return [
            Layer(
                self.study.component,
                module.path,
                self.study.setup.kind,
                self.sums[module.path].shape[1],
                module.stage,
                module.role,
            )
            for module in self.study.layers
            if module.path in self.sums
        ]


def record_selectivity(study: Study) -> Statistics:
    """Record all samples of a study, going on where an earlier time stopped.

    Pictures of it that are gone, or cannot be read any more, are made again. Writes
    `activations.npz` now and then, and `units.csv` at the end. Raises `Stopped` after Ctrl-C, with
    what was heard until then on disk.
    """
    path = study.folder / FILE
    statistics = Statistics.load(path) if path.exists() else None
    done = statistics.done if statistics is not None else 0
    sink = ByConcept(study, statistics)
    reads = study.component == CLIP and not study.texts
    if reads or (done and not study.texts):
        # Of a CLIP model they are made before anything is heard, and take the most time.
        some = study.plan if reads else replace(study.plan, cells=study.samples[:done], floor=())
        render_missing(study, some)
    pace = _Pace()
    study.progress.start("samples", len(study.samples), done)
    study.progress.update(done)
    try:
        for seen in stream(study, sink, done):
            study.progress.update(seen)
            if sink.statistics is not None and pace.due():
                pace.write(sink.statistics, path)
    finally:
        # Of a batch that was cut short nothing has been counted, or else nothing is written: what
        # was written before still holds.
        if sink.statistics is not None and sink.statistics.settled:
            sink.statistics.save(path)
    assert sink.statistics is not None
    Run(study.folder).write_text(TABLE, table(sink.statistics))
    return sink.statistics


class _Pace:
    """When it is time to write: all is written anew each time, which may take long."""

    def __init__(self) -> None:
        self.next = time.monotonic() + EVERY

    def due(self) -> bool:
        return time.monotonic() > self.next

    def write(self, statistics: Statistics, path: Path) -> None:
        before = time.monotonic()
        statistics.save(path)
        after = time.monotonic()
        self.next = after + max(EVERY, (after - before) * (1 / SHARE - 1))


def table(statistics: Statistics) -> str:
    """A row a unit, as CSV: its index, what that is by chance, the concept that drives it most."""
    index, chance = statistics.selectivity(), statistics.by_chance()
    preferred, contrast, rest = statistics.preferred(), statistics.contrast(), statistics.rest()
    lines = io.StringIO()
    rows = csv.writer(lines, lineterminator="\n")
    rows.writerow(HEADS)
    unit = 0
    for layer in statistics.layers:
        told = (layer.path, layer.component, layer.kind)
        for number in range(layer.units):
            c = preferred[unit]
            figures = (statistics.mean[c, unit], rest[c, unit], contrast[c, unit])
            rows.writerow(
                [*told, number, layer.stage, layer.role]
                + [f"{index[unit]:.6g}", f"{chance[unit]:.6g}", statistics.concepts[c]]
                + [f"{figure:.6g}" for figure in figures]
            )
            unit += 1
    return lines.getvalue()
