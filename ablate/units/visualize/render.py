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
    paths = visualization_paths(folder, [name for group in names.values() for name in group])
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

            rows = inputs.optimize(batch, on_step)
            named = [pair for one in batch for pair in zip(files[one], names[one], strict=True)]
            for i, record in enumerate(inputs.records(batch)):
                path, name = named[i]
                start, end, typical = (float(v[i]) for v in (rows.start, rows.end, rows.typical))
                curve = tuple(rows.curve[i].tolist())
                visualization = Visualization(
                    name, record, start, end, typical, curve, inputs.model
                )
                finished = None if rows.finished is None else rows.finished[i]
                write_visualization(path, rows.images[i], visualization, finished)
    return [path for one in single for path in files[one]]


def _names(objective: Objective, inputs: Inputs) -> list[str]:
    """The names of an objective's pictures, one per seed."""
    kind = f" {inputs.kind}" if inputs.kind != "image" else ""
    several = len(inputs.row_seeds) > 1
    return [f"{objective.text}{kind}{f' seed {seed}' * several}" for seed in inputs.row_seeds]
