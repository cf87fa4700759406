"""Recording: stimuli go through a network batch by batch, and activations of its layers to a sink.

Nothing is kept here: a sink reduces what it records, so that memory does not grow with the number
of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from torch import Tensor, nn

from ablate.drift import Reader
from ablate.edits import EditReport, NoiseCache
from ablate.engine import (
    Batch,
    BatchSize,
    PhaseEdits,
    check_opens,
    compute_batches,
    describe_run,
    execute,
    finished_cells,
    jobs_of,
    until_stopped,
    with_keys,
    write_cells,
)
from ablate.models import spare_memory
from ablate.network import ScopeError
from ablate.sampling import Callbacks, Context, Pipeline, Request, Stopped
from ablate.store import Run, StoreError, batched, open_image, problem_of
from ablate.sweep import Cell, Plan
from ablate.units.record.calls import Enough, calls_of, rows_of
from ablate.units.record.layers import Grid, capturing, grid_of
from ablate.units.record.setup import CLIP
from ablate.units.record.study import Study

READ = 32  # images that the CLIP model reads at once
Show = Callable[[Sequence[int]], object]  # shows the samples of these numbers to a network


class Sink(Protocol):
    """Takes activations: of each batch `begin`, `record` for each layer and moment, then `end`.

    A batch that failed is begun again; nothing of it counts before `end`.
    """

    def begin(self, samples: int) -> None:
        """Begin a batch of so many samples."""

    def record(self, path: str, values: Tensor) -> None:
        """Take the activations of a layer at a moment: (samples, units, positions), float32."""

    def end(self, numbers: Sequence[int]) -> None:
        """End the batch, whose samples have these numbers, in order."""


class Recorder:
    """Layers of a network, recorded into a sink.

    Attributes:
        named: Whether someone asked for just these layers. Those that have no row a sample raise
            `ScopeError` then, and are left out otherwise.
        call: The number of the network's last call in this step, from 0.
        rows: The number of rows of that call; 0 where not the network was called, but a part of it.
    """

    def __init__(
        self, network: nn.Module, paths: Sequence[str], kind: str, sink: Sink, named: bool = True
    ) -> None:
        self.network, self.paths, self.kind = network, paths, kind
        self.sink, self.named = sink, named
        self.call, self.rows = -1, 0

    @contextmanager
    def recording(self, record: Callable[[str, Tensor], None]) -> Iterator[None]:
        """Call `record` with the activations of layers that have a row a sample, while inside."""

        def checked(path: str, values: Tensor) -> None:
            if self.rows in (0, len(values)):
                record(path, values)
            elif self.named:
                raise ScopeError(
                    f"`{path}` has {len(values)} rows where its network is called with"
                    f" {self.rows}: it has no row a sample, and its units cannot be recorded;"
                    " leave it out"
                )

        self.call, self.rows = -1, 0
        handle = self.network.register_forward_pre_hook(self._count, with_kwargs=True)
        try:
            with capturing(self.network, self.paths, self.kind, checked):
                yield
        finally:
            handle.remove()

    def _count(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self.call += 1
        self.rows = rows_of((*args, *kwargs.values()))


def stream(
    study: Study,
    sink: Sink,
    start: int = 0,
    *,
    paths: Sequence[str] | None = None,
    plan: Plan | None = None,
) -> Iterator[int]:
    """Show samples to a study's network, and yield after each batch how many are done.

    Images are written into the study's pictures; those that a CLIP model reads have to be there
    (`render_missing`). Of a denoiser only rows that follow the prompts are recorded (`Calls`).
    Layers without a row a sample, such as those that embed all words of all prompts one after the
    other, are left out, unless they were named.

    Args:
        start: The number of the first sample.
        paths: Layers other than the study's.
        plan: With edits (`Study.planned`), whose variant is active meanwhile.

    Raises:
        ScopeError: A layer that was named, by `paths` or in the study's setup, has no row a sample.
        Stopped: Ctrl-C was pressed; raised after the current step.
    """
    plan = plan or study.plan
    cells = study.samples_of(plan)
    named = paths is not None or study.setup.modules is not None
    paths = [module.path for module in study.layers] if paths is None else paths
    recorder = Recorder(study.network, paths, study.setup.kind, sink, named)
    if study.component == CLIP:
        assert study.reader is not None
        if study.texts:
            show, size = show_texts(study.reader, [cell.condition.prompt for cell in cells]), 1
        else:
            show, size = show_pictures(study.reader, study, cells), READ
        batches = stream_shown(recorder, len(cells), show, start, size=size)
    elif study.texts:
        batches = _encoded(recorder, study.pipeline, cells, start)
    else:
        batches = _sampled(recorder, study, plan, cells, start)
    return until_stopped(study.pipeline, batches)


def _sampled(
    recorder: Recorder, study: Study, plan: Plan, cells: Sequence[Cell], start: int
) -> Iterator[int]:
    """Sample images of one variant, recording the denoiser."""
    pipeline, when, sink = study.pipeline, study.setup.when, recorder.sink
    shots = with_keys(cells, pipeline)
    describe_run(plan, pipeline, study.pictures, with_keys(plan.cells, pipeline))
    jobs = jobs_of(shots[start:], pipeline.component)
    if not jobs:
        return
    calls = calls_of(pipeline, jobs[0].settings)
    # All batches are of one size: statistics depend on it in their last digits.
    size = BatchSize(BatchSize(None, pipeline, jobs).unit, pipeline, jobs)

    @contextmanager
    def listen(batch: Batch, callbacks: Callbacks) -> Iterator[Callbacks]:
        noise_levels: list[float] = []
        step = 0

        def on_start(levels: Sequence[float]) -> None:
            noise_levels[:] = levels
            if when is not None:
                check_opens(when, levels)
            callbacks.on_start(levels)

        def on_step(number: int) -> None:
            nonlocal step
            step, recorder.call = number, -1
            callbacks.on_step(number)

        def record(path: str, values: Tensor) -> None:
            if when is None or when.is_active(step, noise_levels):
                for rows in calls.rows(recorder.call, len(values), len(batch)):
                    sink.record(path, values[rows])

        sink.begin(len(batch))
        with recorder.recording(record):
            yield Callbacks(on_start, on_step)

    batches = [Batch(tuple(some), by_rows=False) for some in batched(jobs, size.unit)]
    for batch, samples, _ in compute_batches(
        batches, size, pipeline, _noise(pipeline), listen=listen
    ):
        write_cells(finished_cells(batch, samples), study.pictures, pipeline)
        sink.end(range(start, start + len(batch)))
        start += len(batch)
        yield start


def _noise(pipeline: Pipeline) -> NoiseCache:
    return NoiseCache(spare_memory(pipeline.device) // 4, pipeline.checkpoint)


def _encoded(
    recorder: Recorder, pipeline: Pipeline, cells: Sequence[Cell], start: int
) -> Iterator[int]:
    """Encode prompts one by one by the pipeline's code, recording one of its text encoders."""
    noise = _noise(pipeline)

    def encoded(_levels: Sequence[float]) -> None:
        raise Enough

    for number in range(start, len(cells)):
        (shot,) = with_keys([cells[number]], pipeline)
        (job,) = jobs_of([shot], pipeline.component)
        edits = PhaseEdits(pipeline, noise, EditReport())(job.encoding)
        prompt, seed = job.condition.prompt, job.condition.seed
        request = Request(prompt, seed, encoding=_first_calls(recorder, edits))
        recorder.sink.begin(1)
        with suppress(Enough):
            pipeline.sample([request], shot.settings, Callbacks(on_start=encoded))
        recorder.sink.end([number])
        yield number + 1


def _first_calls(recorder: Recorder, edits: Context | None) -> Context:
    """Return a context that records the first call of each layer: a negative prompt is later."""
    recorded: set[str] = set()

    def record(path: str, values: Tensor) -> None:
        if path not in recorded:
            recorded.add(path)
            recorder.sink.record(path, values[:1])

    @contextmanager
    def context() -> Iterator[None]:
        with (edits or nullcontext)(), recorder.recording(record):
            yield

    return context


def stream_shown(
    recorder: Recorder, count: int, show: Show, start: int = 0, *, size: int = READ
) -> Iterator[int]:
    """Show `count` numbered samples to a CLIP model; yield how many are done.

    `size`: how many at once, 1 of texts: those of a batch are padded to one length.
    """
    for first in range(start, count, size):
        numbers = range(first, min(first + size, count))
        recorder.sink.begin(len(numbers))
        with recorder.recording(recorder.sink.record):
            recorder.rows = len(numbers)
            show(numbers)
        recorder.sink.end(numbers)
        yield numbers[-1] + 1


def show_texts(reader: Reader, texts: Sequence[str]) -> Show:
    """Return a function that has texts of these numbers read."""
    return lambda numbers: reader.texts([texts[n] for n in numbers])


def show_pictures(reader: Reader, study: Study, cells: Sequence[Cell]) -> Show:
    """Return a function that has pictures of a study read, which have to be there."""
    paths = [study.pictures.path(cell.key) for cell in with_keys(cells, study.pipeline)]
    return lambda numbers: reader.images([open_picture(paths[n]) for n in numbers])


def grids_of(study: Study) -> Callable[[int], Grid | None]:
    """Return a function that gives the grid of a study's layer with so many positions (`grid_of`).

    The first call for a denoiser samples a step.
    """
    if study.texts:
        return lambda _: None
    if study.component == CLIP:  # which reads a square, whatever the image
        return partial(grid_of, height=1, width=1)
    settings = study.pipeline.settings(study.plan.recipe.sampling)
    maps = calls_of(study.pipeline, settings).maps
    return partial(grid_of, height=settings.height, width=settings.width, maps=maps)


def check_window(study: Study) -> None:
    """Raise `ScopeError` where a study's window is active at no step of its sampling.

    Begins to sample, and writes nothing.
    """
    when, pipeline = study.setup.when, study.pipeline
    if when is None:
        return

    def on_start(levels: Sequence[float]) -> None:
        check_opens(when, levels)
        raise Enough

    settings = pipeline.settings(study.setup.brief().sampling)
    with suppress(Enough), pipeline.explain_size_errors(settings):
        pipeline.sample([Request("", 0)], settings, Callbacks(on_start))


def render_missing(study: Study, plan: Plan, run: Run | None = None) -> None:
    """Render the pictures of a plan that a run lacks, or that are damaged.

    Args:
        run: None for the study's pictures.

    Raises:
        Stopped: Ctrl-C was pressed.
    """
    run = study.pictures if run is None else run
    if execute(plan, study.pipeline, run, progress=study.progress).interrupted:
        raise Stopped


def missing_pictures(study: Study, cells: Sequence[Cell]) -> list[int]:
    """Return the numbers of the cells without a whole picture in a study."""
    paths = (study.pictures.path(shot.key) for shot in with_keys(cells, study.pipeline))
    return [number for number, path in enumerate(paths) if problem_of(path) is not None]


def is_picture(path: Path) -> bool:
    """Whether a file is a whole picture."""
    try:
        with open_image(path) as image:
            image.verify()
    except StoreError:
        return False
    return True


def open_picture(path: Path) -> Image.Image:
    """Read a picture, RGB. Raises `StoreError`."""
    with open_image(path) as image:
        return image.convert("RGB")
