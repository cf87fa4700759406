"""Visualizations rendered into a folder; pictures that are there already are kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ablate.engine import Progress
from ablate.store import (
    Visualization,
    has_visualization,
    visualization_paths,
    write_visualization,
)
from ablate.units.visualize.inputs import Inputs
from ablate.units.visualize.objectives import Objective


def render(
    inputs: Inputs,
    objectives: Sequence[Objective],
    folder: Path,
    progress: Progress | None = None,
) -> list[Path]:
    """Render missing pictures, one per objective and seed, and return the paths of all.

    Each batch of pictures is on disk before the next begins. An objective that is given twice has
    one picture, whose path is returned twice. Ctrl-C stops a pipeline after the step that it is in.

    Raises:
        ObjectiveError: The inputs cannot drive an objective.
        StoreError: Two pictures would have the same file; nothing is rendered.
        Stopped: After Ctrl-C; finished pictures stay.
    """
    inputs.check(objectives)
    single = [part for objective in objectives for part in objective.split()]
    count = len(inputs.row_seeds)
    names = {one: _names(one, inputs) for one in single}
    paths = visualization_paths(folder, [name for own in names.values() for name in own])
    files = {one: paths[i * count : (i + 1) * count] for i, one in enumerate(names)}
    missing = [
        one for one in names if not all(map(has_visualization, files[one], inputs.records([one])))
    ]
    size, work = max(1, inputs.ascent.batch // count), inputs.work * count
    progress = progress or Progress()
    progress.start(inputs.noun, len(missing) * work, preparing="steps, looking for a start")
    with inputs.interruptible():
        for first in range(0, len(missing), size):
            batch = missing[first : first + size]

            def on_step(done: int, _: int, before: int = first * work) -> None:
                progress.update(before + done)

            optimized = inputs.optimize(batch, on_step)
            records = inputs.records(batch)
            for i, record in enumerate(records):
                one, number = batch[i // count], i % count
                write_visualization(
                    files[one][number],
                    optimized.images[i],
                    Visualization(
                        names[one][number],
                        record,
                        float(optimized.start[i]),
                        float(optimized.end[i]),
                        float(optimized.typical[i]),
                        tuple(optimized.curve[i].tolist()),
                        inputs.model,
                    ),
                    None if optimized.finished is None else optimized.finished[i],
                )
    return [path for one in single for path in files[one]]


def _names(objective: Objective, inputs: Inputs) -> list[str]:
    """The names of an objective's pictures, one per seed."""
    kind = f" {inputs.kind}" if inputs.kind != "image" else ""
    several = len(inputs.row_seeds) > 1
    return [f"{objective.text}{kind}{f' seed {seed}' * several}" for seed in inputs.row_seeds]
