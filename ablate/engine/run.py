"""The engine: from a plan to PNGs.

`execute` divides the cells of a plan into batches, computes them and writes them. Variants are
applied by rows where they edit little of the network, and in place where they edit much. PNGs are
encoded and written while the next batch is computed. Under `accelerate launch` each process
computes its share of the batches.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image

from ablate.edits import EditReport, NoiseCache, NoRowsError
from ablate.engine.applying import PhaseEdits, denoiser_edits, edit_image
from ablate.engine.batches import (
    Batch,
    Batcher,
    BatchSize,
    KeyedCell,
    in_order,
    jobs_of,
    unfinished,
)
from ablate.engine.processes import Processes, stoppable
from ablate.engine.progress import Progress
from ablate.engine.records import cell_record, describe_run, with_keys
from ablate.models import flow_of, is_out_of_memory, spare_memory
from ablate.network import ScopeError, watched
from ablate.sampling import Callbacks, Pipeline, Request, Samples, Stopped, UnevenError
from ablate.store import Run, StoreError
from ablate.sweep import Cell, Plan, as_loaded

# A cell with its image, float32 (height, width, 3) in [0, 1], and its final latents, float32.
FinishedCell = tuple[KeyedCell, np.ndarray, np.ndarray]
# Enters a context in which a batch is sampled with the callbacks that it yields.
Listen = Callable[[Batch, Callbacks], AbstractContextManager[Callbacks]]


@dataclass
class Summary:
    """Counts of a run, over all processes.

    Attributes:
        total: Images of the plan, or of the part that `limit` allows.
        planned: Images of the plan, those for the noise floor among them.
        reused: Images that were on disk before.
        damaged: What was wrong with images that are computed again, by key.
        by_rows: Images computed with their variants applied by rows.
        in_place: Images computed with their variants applied in place.
        batch_size: Samplings in the largest batch.
        not_finite: Images with NaN or infinity.
        interrupted: Whether Ctrl-C ended the run.
        seconds: Time that the run took.
        rowless: Modules that cannot be edited by rows.
        edited: Modules that the variants edit.
        ran: Edited modules that the network called.
        changed: Edited modules in which a number changed.
    """

    total: int
    planned: int = 0
    reused: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
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
    def without_effect(self) -> dict[str, str]:
        """Edited modules whose edit did nothing: why, by module path."""
        never = dict.fromkeys(sorted(self.edited - self.ran), "never ran")
        return never | dict.fromkeys(sorted(self.edited & self.ran - self.changed), "unchanged")

    def count(self, batch: Batch, report: EditReport) -> None:
        """Count a batch that was computed, and the modules that it edited."""
        if batch.by_rows:
            self.by_rows += batch.images
        else:
            self.in_place += batch.images
        self.batch_size = max(self.batch_size, len(batch))
        self.edited |= report.edited
        self.ran |= report.ran
        self.changed |= report.changed

    def merge(self, other: Summary) -> None:
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
    only: Collection[str] | None = None,
    progress: Progress | None = None,
) -> Summary:
    """Compute and write all cells of a plan that the store does not contain yet.

    After Ctrl-C it finishes the step of sampling that it is in and returns with `interrupted` set;
    finished cells are on disk then, and the weights are as they were loaded.

    Args:
        batch_size: Images computed at once; by default measured while running.
        limit: Compute only the first so many cells of the plan; those for the noise floor alone
            are its last.
        fresh: Remove finished cells first.
        only: Compute only cells of these keys.

    Raises `StoreError` where the plan starts from a cell of another model.
    """
    began = time.monotonic()
    if plan.base is not None:
        plan.base.check_model(pipeline.fingerprint)
    processes = Processes(pipeline.device.type)
    if plan.same:
        plan = as_loaded(plan, flow_of(pipeline.denoiser), pipeline.denoiser_name)
    cells = with_keys((*plan.cells, *plan.floor), pipeline)
    if processes.is_main:
        _prepare(plan, pipeline, store, cells, fresh)
    processes.wait()  # until the folder is ready
    batcher = Batcher(pipeline.catalog_of(pipeline.denoiser_name), rows=pipeline.edits_by_rows)
    by_key = {cell.key: cell for cell in cells}
    jobs = in_order(jobs_of(by_key.values(), pipeline.component, plan.same))
    spare = {cell.key for cell in cells[len(plan.cells) :]}
    everything = [cell for job in jobs for cell in job.cells]
    chosen = sorted(everything, key=lambda cell: cell.key in spare)[:limit]
    if only is not None:
        chosen = [cell for cell in chosen if cell.key in only]
    jobs = in_order(jobs_of(chosen, pipeline.component, plan.same))
    size = BatchSize(batch_size, pipeline, jobs)
    known, damaged = store.keys(), store.damaged()
    finished = known - damaged.keys()
    batches = unfinished(
        batcher.batches(jobs, size.unit),
        lambda cell: cell.key in finished,
        lambda rest: batcher.batches(rest, size.unit),
    )
    reused = sum(cell.key in finished for cell in chosen)
    summary = Summary(len(chosen), len(everything), reused)
    summary.damaged = {c.key: damaged[c.key] for c in chosen if c.key in damaged}
    processes.wait()  # until every process knows what is finished, before more is
    progress = progress or Progress()
    if batches and processes.is_main:
        progress.start("images", summary.total, summary.reused)
        progress.update(summary.reused)

    def report(computed: int) -> None:
        if not processes.is_main:
            return
        if not processes.alone:  # the folder has the cells of all processes
            computed = max(computed, len(store.keys() - known))
        progress.update(summary.reused + computed)

    part = _compute_and_write(processes.share(batches), pipeline, store, batcher, size, report)
    for each in processes.gather(part):
        summary.merge(each)
    summary.seconds = time.monotonic() - began
    return summary


def _prepare(
    plan: Plan, pipeline: Pipeline, store: Run, cells: Sequence[KeyedCell], fresh: bool
) -> None:
    """Write what the run is, unless another process is at work on the same."""
    if store.alone:
        if fresh:
            store.forget_cells()
        store.sweep_temporaries()
        describe_run(plan, pipeline, store, cells)
    elif fresh:
        raise StoreError(f"{store.folder}: another process is at work there; wait for it")
    store.share(plan.recipe.name, {cell.key for cell in cells})


def _compute_and_write(
    batches: Sequence[Batch],
    pipeline: Pipeline,
    store: Run,
    batcher: Batcher,
    size: BatchSize,
    report: Callable[[int], None],
) -> Summary:
    """Compute this process's batches until all are written or Ctrl-C is pressed."""
    summary = Summary(sum(map(len, batches)))
    noise = NoiseCache(spare_memory(pipeline.device) // 4, pipeline.checkpoint)
    with stoppable(pipeline) as check, _Writer(store, pipeline) as writer:
        try:
            if pipeline.compiled and batches:
                summary.ran = _modules_that_run(pipeline, batches)
            for batch, samples, edited in compute_batches(
                batches, size, pipeline, noise, batcher=batcher
            ):
                summary.count(batch, edited)
                cells = finished_cells(batch, samples)
                summary.not_finite += sum(not np.isfinite(image).all() for _, image, _ in cells)
                writer.put(cells)
                report(summary.computed)
            check()  # Ctrl-C after the last step, while images were decoded
        except Stopped:
            summary.interrupted = True
    summary.rowless = batcher.rowless
    return summary


def compute_batches(
    batches: Iterable[Batch],
    size: BatchSize,
    pipeline: Pipeline,
    noise: NoiseCache,
    *,
    listen: Listen | None = None,
    batcher: Batcher | None = None,
) -> Iterator[tuple[Batch, Samples, EditReport]]:
    """Compute batches in order, as many at once as `size` allows, and divide those that do not fit.

    A batch that runs out of memory is halved; one whose prompts have embeddings of different
    lengths is divided by prompt; one that cannot be edited by rows is laid out again by `batcher`,
    with all that follow.

    Raises:
        ScopeError: The references of a batch cannot be computed along with it.
    """
    queue = deque(batches)
    while queue:
        batch = size.take(queue)
        began = time.perf_counter()
        try:
            samples, report = _compute_batch(batch, pipeline, noise, listen)
        except NoRowsError as error:
            if batcher is None:
                raise
            _check_references(batch, error)
            batcher.rowless |= error.paths or batch.modules
            queue = deque(part for b in (batch, *queue) for part in batcher.again(b, size.unit))
        except UnevenError as error:
            parts = batch.by_prompt()
            if len(parts) == 1:
                raise ScopeError(
                    "prompts that run along as references must have embeddings as long as those of"
                    f" the cells; “{batch.jobs[0].condition.prompt}” has not"
                ) from error
            size.one_prompt = True
            queue.extendleft(reversed(parts))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(batch) == 1:
                raise
            size.shrink(batch)
            queue.extendleft(reversed(batch.halves()))
        else:
            size.record(batch, time.perf_counter() - began)
            yield batch, samples, report


def _compute_batch(
    batch: Batch, pipeline: Pipeline, noise: NoiseCache, listen: Listen | None
) -> tuple[Samples, EditReport]:
    """Sample a batch under its variants.

    Raises:
        NoRowsError: One of its variants has to be applied in place.
    """
    outer, inner = EditReport(), EditReport()
    around = PhaseEdits(pipeline, noise, outer)
    requests = [
        Request(c.prompt, c.seed, c.point, around(job.encoding), around(job.decoding))
        for job, c in ((job, job.condition) for job in batch.jobs)
    ]
    references = [Request(r.prompt, r.seed, shown=False) for r in batch.references]
    settings = batch.jobs[0].settings
    with ExitStack() as stack:
        stack.enter_context(pipeline.explain_size_errors(settings))
        callbacks = stack.enter_context(denoiser_edits(batch, pipeline, noise, inner))
        if listen is not None:
            callbacks = stack.enter_context(listen(batch, callbacks))
        samples = pipeline.sample([*requests, *references], settings, callbacks, batch.frames)
    weighed = {p for v in set(batch.variants) for e in v.edits if e.where == "weights"
               for p in e.all_modules}  # fmt: skip
    if batch.by_rows and weighed - inner.ran:
        # Their weights may be used by another module, without their being called.
        raise NoRowsError(weighed - inner.ran)
    inner.edited |= batch.modules
    name = pipeline.denoiser_name
    sets = (inner.edited, inner.changed, inner.ran)
    outer.add(EditReport(*(pipeline.qualified(name, paths) for paths in sets)))
    return samples, outer


def _check_references(batch: Batch, error: NoRowsError) -> None:
    """Raise `ScopeError` if a variant without rows takes other conditions' outputs."""
    for variant in set(batch.variants):
        paths = sorted((error.paths or batch.modules).intersection(variant.modules))
        if variant.references and paths:
            raise ScopeError(
                f"`{paths[0]}` does not have a row a cell in this network, so that no references"
                " can run along: neither `mean` nor `resample` can be had there"
            ) from error


def _modules_that_run(pipeline: Pipeline, batches: Sequence[Batch]) -> set[str]:
    """The edited modules that the network calls; a compiled network calls none of their hooks."""
    modules = tuple({path for batch in batches for path in batch.modules})
    short = replace(batches[0].jobs[0].settings, num_inference_steps=2)
    with torch.compiler.set_stance("force_eager"), watched(pipeline.denoiser, modules) as ran:
        pipeline.sample([Request("", 0)], short)
    return pipeline.qualified(pipeline.denoiser_name, ran)


def finished_cells(batch: Batch, samples: Samples) -> list[FinishedCell]:
    """The cells of a batch with their images and latents."""
    cells = []
    for i, job in enumerate(batch.jobs):
        for cell in job.cells:
            steps = cell.cell.condition.steps
            taken = samples if steps is None else samples.frames[steps]
            cells.append((cell, edit_image(taken.images[i], cell.cell.variant), taken.latents[i]))
    return cells


class _Writer:
    """Encodes and writes batches on a thread, at most two behind."""

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

    def put(self, cells: list[FinishedCell]) -> None:
        """Queue a batch. Waits while too many are queued; raises errors of earlier ones."""
        while len(self._pending) >= self.WAITING:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(write_cells, cells, self.store, self.pipeline))


def write_cells(cells: Sequence[FinishedCell], store: Run, pipeline: Pipeline) -> None:
    """Write cells as PNGs, which appear together."""
    store.write_cells(
        (cell.key, Image.fromarray(_pixels(image)), cell_record(cell, image, pipeline), latents)
        for cell, image, latents in cells
    )


def _pixels(image: np.ndarray) -> np.ndarray:
    """A float image in [0, 1] as uint8; NaN becomes black."""
    pixels: np.ndarray = (np.nan_to_num(image) * 255).round().astype("uint8")
    return pixels


def compute_cell(cell: Cell, pipeline: Pipeline) -> tuple[str, np.ndarray, np.ndarray]:
    """Compute one cell alone.

    Returns:
        Its key, its image (height, width, 3) as uint8, and its final latents.
    """
    batcher = Batcher(pipeline.catalog_of(pipeline.denoiser_name), rows=pipeline.edits_by_rows)
    jobs = jobs_of(with_keys([cell], pipeline), pipeline.component)
    size = BatchSize(1, pipeline, jobs)
    noise = NoiseCache(spare_memory(pipeline.device) // 4, pipeline.checkpoint)
    batches = batcher.batches(jobs, size.unit)
    ((batch, samples, _),) = compute_batches(batches, size, pipeline, noise, batcher=batcher)
    ((keyed, image, latents),) = finished_cells(batch, samples)
    return keyed.key, _pixels(image), latents
