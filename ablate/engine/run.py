"""The engine: a plan, a pipeline and a store; out come the cells.

Cells are made batch by batch, the variants of a batch applied by rows where they touch little of
the network and in place where they touch much. Images are encoded and written while the next batch
is computed. Under `accelerate launch` each process makes its share of the batches.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image

from ablate.edits import EditReport, NoiseCache, NoRowsError
from ablate.engine.applying import PhaseEdits, denoiser_edits, finished
from ablate.engine.batches import (
    Batch,
    Batcher,
    BatchSize,
    KeyedCell,
    in_order,
    jobs_of,
    refuse,
    unfinished,
)
from ablate.engine.processes import Processes, stoppable
from ablate.engine.progress import Progress
from ablate.engine.records import _record, describe_run, with_keys
from ablate.models import is_out_of_memory, spare_memory
from ablate.network import ScopeError, watched
from ablate.sampling import Callbacks, Pipeline, Request, Samples, Stopped, UnevenError
from ablate.store import Run
from ablate.sweep import Cell, Plan

# A shot with its image, float32 (height, width, 3) in [0, 1], and its final latents.
FinishedCell = tuple[KeyedCell, np.ndarray, np.ndarray]


@dataclass
class Summary:
    """What a run came to, all processes together.

    `by_rows`, `in_place`: images, by how their variants were applied. `batch_size`: cells of the
    largest batch. `rowless`: modules that could not be edited by rows. `edited`, `ran`, `changed`:
    modules by what was to become of them and what became of them.
    """

    total: int
    reused: int = 0
    by_rows: int = 0
    in_place: int = 0
    batch_size: int = 0
    not_finite: int = 0
    interrupted: bool = False
    seconds: float = 0.0
    rowless: set[str] = field(default_factory=set)
    edited: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)

    @property
    def computed(self) -> int:
        return self.by_rows + self.in_place

    @property
    def quiet(self) -> dict[str, str]:
        """By module path, what is remarkable about an edited module."""
        never = dict.fromkeys(sorted(self.edited - self.ran), "never ran")
        return never | dict.fromkeys(sorted(self.edited & self.ran - self.changed), "unchanged")

    def hear(self, batch: Batch, found: EditReport, pipeline: Pipeline) -> None:
        """Count a batch that was computed, and what became of its edits."""
        if batch.by_rows:
            self.by_rows += batch.images
        else:
            self.in_place += batch.images
        self.batch_size = max(self.batch_size, len(batch))
        self.edited |= found.edited | pipeline.qualified(pipeline.denoiser_name, batch.modules)
        self.ran |= found.ran
        self.changed |= found.changed

    def add(self, other: Summary) -> None:
        """Count what another process computed."""
        self.by_rows += other.by_rows
        self.in_place += other.in_place
        self.batch_size = max(self.batch_size, other.batch_size)
        self.not_finite += other.not_finite
        self.interrupted |= other.interrupted
        for name in ("rowless", "edited", "ran", "changed"):
            getattr(self, name).update(getattr(other, name))


def execute(
    plan: Plan,
    pipeline: Pipeline,
    store: Run,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Summary:
    """Make all cells of a plan that the store does not have yet, or the first `limit` of all.

    `batch_size`: images made at once; without it the size is found while running. `fresh`: forget
    the finished cells. Interrupted by Ctrl-C it returns, with `interrupted` set, after the step
    that it is in; the weights are as loaded then, and finished cells are on disk.
    """
    began = time.monotonic()
    processes = Processes(pipeline.device.type)
    shots = with_keys((*plan.cells, *plan.floor), pipeline)
    if processes.is_main:
        if fresh:
            store.forget_cells()
        store.sweep_temporaries()
        describe_run(plan, pipeline, store, shots)
    processes.wait()  # until the folder is as it should be
    layout = Batcher(pipeline.catalog_of(pipeline.denoiser_name), rows=pipeline.edits_by_rows)
    jobs = in_order(jobs_of({shot.key: shot for shot in shots}.values(), pipeline.component))
    chosen = [shot for job in jobs for shot in job.shots][:limit]
    jobs = jobs_of(chosen, pipeline.component)
    size = BatchSize(batch_size, pipeline, jobs)
    finished = store.finished()
    todo = unfinished(
        layout.batches(jobs, size.unit),
        lambda shot: shot.key in finished,
        lambda rest: layout.batches(rest, size.unit),
    )
    summary = Summary(len(chosen), reused=sum(shot.key in finished for shot in chosen))
    processes.wait()  # until all know what is finished, before anything else is
    missing = len(chosen) - summary.reused

    progress = progress or Progress()
    if missing and processes.is_main:
        progress.start("images", len(chosen), summary.reused)
        progress.update(summary.reused)

    def tell(own: Summary) -> None:
        if not processes.is_main:
            return
        # With other processes at work the folder knows best how far the run is.
        done = own.computed
        if not processes.alone:
            done = max(done, len(store.finished() - finished))
        progress.update(summary.reused + done)

    own = _make(processes.share(todo), pipeline, store, layout, size, tell)
    for part in processes.gather(own):
        summary.add(part)
    summary.seconds = time.monotonic() - began
    return summary


def _make(
    todo: Sequence[Batch],
    pipeline: Pipeline,
    store: Run,
    layout: Batcher,
    size: BatchSize,
    tell: Callable[[Summary], None],
) -> Summary:
    """Compute batches and have them written, until all are or Ctrl-C is pressed."""
    own = Summary(sum(map(len, todo)))
    draws = NoiseCache(spare_memory(pipeline.device) // 4, pipeline.checkpoint)
    with stoppable(pipeline), _Writer(store, pipeline) as writer:
        if pipeline.compiled and todo:
            try:
                own.ran = pipeline.qualified(pipeline.denoiser_name, _that_run(pipeline, todo))
            except Stopped:
                own.interrupted = True
                return own

        def again(batches: Sequence[Batch], error: NoRowsError) -> list[Batch]:
            refuse(batches[0], error)
            layout.rowless |= error.paths or batches[0].modules
            return [part for batch in batches for part in layout.again(batch, size.unit)]

        try:
            for batch, samples, found in compute_batches(todo, size, pipeline, draws, again=again):
                own.hear(batch, found, pipeline)
                images = finished_cells(batch, samples)
                own.not_finite += sum(not np.isfinite(image).all() for _, image, _ in images)
                writer.put(images)
                tell(own)
        except Stopped:
            own.interrupted = True
    own.rowless = layout.rowless
    return own


def compute_batches(
    batches: Iterable[Batch],
    size: BatchSize,
    pipeline: Pipeline,
    draws: NoiseCache,
    *,
    listen: Callable[[Batch, Callbacks], AbstractContextManager[Callbacks]] | None = None,
    again: Callable[[Sequence[Batch], NoRowsError], list[Batch]] | None = None,
) -> Iterator[tuple[Batch, Samples, EditReport]]:
    """Compute batches in order, in smaller parts where they do not fit.

    A batch that is out of memory is halved; one whose prompts have embeddings of different lengths
    is split by prompt.

    Args:
        listen: Enters a context in which a batch is sampled, with other callbacks.
        again: Lays out a batch that cannot be applied by rows, and all that follow it, anew.
    """
    queue = deque(batches)
    while queue:
        batch = size.take(queue)
        began = time.perf_counter()
        try:
            samples, applied = compute(batch, pipeline, draws, listen)
        except NoRowsError as error:
            if again is None:
                raise
            queue = deque(again([batch, *queue], error))
            continue
        except UnevenError as error:
            parts = batch.by_prompt()
            if len(parts) == 1:
                raise ScopeError(
                    "prompts that run along as references must have embeddings as long as"
                    f" those of the cells; “{batch.jobs[0].condition.prompt}” has not"
                ) from error
            size.apart = True
            queue.extendleft(reversed(parts))
            continue
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            size.shrink(batch)
            queue.extendleft(reversed(batch.halves()))
            continue
        size.measured(batch, time.perf_counter() - began)
        yield batch, samples, applied


def compute(
    batch: Batch,
    pipeline: Pipeline,
    draws: NoiseCache,
    listen: Callable[[Batch, Callbacks], AbstractContextManager[Callbacks]] | None = None,
) -> tuple[Samples, EditReport]:
    """The images of a batch, and what became of its edits.

    Raises `NoRowsError` when one of its variants has to be applied in place.
    """
    found, own = EditReport(), EditReport()
    within = PhaseEdits(pipeline, draws, found)
    requests = [
        Request(c.prompt, c.seed, c.point, within(job.encoding), within(job.decoding))
        for job, c in ((job, job.condition) for job in batch.jobs)
    ]
    references = [Request(r.prompt, r.seed, shown=False) for r in batch.references]
    settings = batch.jobs[0].settings
    with ExitStack() as stack:
        stack.enter_context(pipeline.explain_size_errors(settings))
        callbacks = stack.enter_context(denoiser_edits(batch, pipeline, draws, own))
        if listen is not None:
            callbacks = stack.enter_context(listen(batch, callbacks))
        samples = pipeline.sample([*requests, *references], settings, callbacks, batch.frames)
    weighed = {p for v in set(batch.variants) for e in v.edits if e.where == "weights"
               for p in e.all_modules}  # fmt: skip
    if batch.by_rows and weighed - own.ran:
        # Perhaps their weights are used without them being called.
        raise NoRowsError(weighed - own.ran)
    for name in ("edited", "changed", "ran"):
        getattr(found, name).update(pipeline.qualified(pipeline.denoiser_name, getattr(own, name)))
    return samples, found


def finished_cells(batch: Batch, samples: Samples) -> list[FinishedCell]:
    """The shots of a batch, each with its image and latents."""
    images = []
    for i, job in enumerate(batch.jobs):
        for shot in job.shots:
            steps = shot.cell.condition.steps
            taken = samples if steps is None else samples.frames[steps]
            images.append((shot, finished(taken.images[i], shot.cell.variant), taken.latents[i]))
    return images


def _that_run(pipeline: Pipeline, todo: Sequence[Batch]) -> set[str]:
    """The modules of some batches that run at all: a compiled network calls none of their hooks."""
    modules = tuple({path for batch in todo for path in batch.modules})
    short = replace(todo[0].jobs[0].settings, num_inference_steps=2)
    with torch.compiler.set_stance("force_eager"), watched(pipeline.denoiser, modules) as ran:
        pipeline.sample([Request("", 0)], short)
    return ran


class _Writer:
    """Encodes and writes images on a thread of its own, two batches behind at most."""

    WAITING = 2

    def __init__(self, store: Run, pipeline: Pipeline) -> None:
        self.store = store
        self.pipeline = pipeline
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="writer")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_error: object) -> None:
        self._pool.shutdown(wait=True)
        for future in self._pending:
            future.result()

    def put(self, images: list[FinishedCell]) -> None:
        """Have a batch written. Waits while too many are; raises what an earlier one raised."""
        while len(self._pending) >= self.WAITING:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(write_cells, images, self.store, self.pipeline))


def write_cells(images: Sequence[FinishedCell], store: Run, pipeline: Pipeline) -> None:
    """Write images as cells; they appear together."""
    store.write_cells(
        (shot.key, Image.fromarray(_pixels(image)), _record(shot, image, pipeline), latents)
        for shot, image, latents in images
    )


def compute_cell(cell: Cell, pipeline: Pipeline) -> tuple[str, np.ndarray, np.ndarray]:
    """One cell by itself: its key, its image, uint8 (height, width, 3), and its final latents."""
    shots = with_keys([cell], pipeline)
    layout = Batcher(pipeline.catalog_of(pipeline.denoiser_name), rows=pipeline.edits_by_rows)
    (batch,) = layout.batches(jobs_of(shots, pipeline.component), 1)
    draws = NoiseCache(spare_memory(pipeline.device) // 4, pipeline.checkpoint)
    try:
        samples, _ = compute(batch, pipeline, draws)
    except NoRowsError as error:
        refuse(batch, error)
        samples, _ = compute(replace(batch, by_rows=False), pipeline, draws)
    ((shot, image, latents),) = finished_cells(batch, samples)
    return shot.key, _pixels(image), latents


def _pixels(image: np.ndarray) -> np.ndarray:
    """A float image in [0, 1] in 8 bits; what is not finite is black."""
    pixels: np.ndarray = (np.nan_to_num(image) * 255).round().astype("uint8")
    return pixels
