"""The engine: a plan, a pipeline and a store; out come the cells.

Cells are made batch by batch, the variants of a batch applied by rows where they touch little of
the network and in place where they touch much. Images are encoded and written while the next batch
is computed. Under `accelerate launch` each process makes its share of the batches.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from types import FrameType
from typing import Any

import numpy as np
import torch
from PIL import Image

from ablate.batches import (
    Batch,
    Layout,
    Shot,
    Size,
    in_order,
    jobs_of,
    spare_memory,
    unfinished,
)
from ablate.edits import Draws, Variant, watched
from ablate.models import versions
from ablate.modules import ModuleInfo
from ablate.phases import Within, denoised, finished, refuse
from ablate.pipeline import Pipeline, is_out_of_memory
from ablate.plan import Cell, Condition, Plan
from ablate.processes import Processes
from ablate.rowmap import NoRowsError
from ablate.rows import Applied
from ablate.sampling import Request, Samples, Stopped, UnevenError
from ablate.scope import ScopeError
from ablate.store import Run, key_of, spans

# A shot with its image, float32 (height, width, 3) in [0, 1], and its final latents.
Made = tuple[Shot, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Progress:
    """Told after every batch. `seconds` since the run began; `left` is an estimate. `noun`: what is
    counted, where it is one of several things that a command does."""

    done: int
    total: int
    computed: int
    seconds: float
    left: float
    noun: str = ""


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

    def hear(self, batch: Batch, found: Applied, pipeline: Pipeline) -> None:
        """Count a batch that was computed, and what became of its edits."""
        if batch.by_rows:
            self.by_rows += batch.images
        else:
            self.in_place += batch.images
        self.batch_size = max(self.batch_size, len(batch))
        self.edited |= found.edited | pipeline.told(pipeline.denoiser_name, batch.modules)
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


def run(
    plan: Plan,
    pipeline: Pipeline,
    store: Run,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    fresh: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Make all cells of a plan that the store does not have yet, or the first `limit` of all.

    `batch_size`: images made at once; without it the size is found while running. `fresh`: forget
    the finished cells. Interrupted by Ctrl-C it returns, with `interrupted` set, after the step
    that it is in; the weights are as loaded then, and finished cells are on disk.
    """
    began = time.monotonic()
    processes = Processes(pipeline.device.type)
    shots = shots_of((*plan.cells, *plan.floor), pipeline)
    if processes.is_main:
        if fresh:
            store.forget_cells()
        store.sweep_temporaries()
        describe(plan, pipeline, store, shots)
    processes.wait()  # until the folder is as it should be
    layout = Layout(pipeline.catalog_of(pipeline.denoiser_name), rows=pipeline.rows)
    jobs = in_order(jobs_of({shot.key: shot for shot in shots}.values(), pipeline.component))
    chosen = [shot for job in jobs for shot in job.shots][:limit]
    jobs = jobs_of(chosen, pipeline.component)
    size = Size(batch_size, pipeline, jobs)
    finished = store.finished()
    todo = unfinished(
        layout.batches(jobs, size.unit),
        lambda shot: shot.key in finished,
        lambda rest: layout.batches(rest, size.unit),
    )
    summary = Summary(len(chosen), reused=sum(shot.key in finished for shot in chosen))
    processes.wait()  # until all know what is finished, before anything else is
    missing = len(chosen) - summary.reused

    def tell(own: Summary) -> None:
        if on_progress is None or not processes.is_main:
            return
        # With other processes at work the folder knows best how far the run is.
        done = own.computed
        if not processes.alone:
            done = max(done, len(store.finished() - finished))
        seconds = time.monotonic() - began
        left = seconds / done * (missing - done)
        on_progress(Progress(summary.reused + done, len(chosen), done, seconds, left))

    own = _make(processes.share(todo), pipeline, store, layout, size, tell)
    for part in processes.gather(own):
        summary.add(part)
    summary.seconds = time.monotonic() - began
    return summary


def _make(
    todo: Sequence[Batch],
    pipeline: Pipeline,
    store: Run,
    layout: Layout,
    size: Size,
    tell: Callable[[Summary], None],
) -> Summary:
    """Compute batches and have them written, until all are or Ctrl-C is pressed."""
    queue = deque(todo)
    own = Summary(sum(map(len, todo)))
    draws = Draws(spare_memory(pipeline.device) // 4, pipeline.checkpoint)
    with stoppable(pipeline), _Writer(store, pipeline) as writer:
        if pipeline.compiled and todo:
            try:
                own.ran = pipeline.told(pipeline.denoiser_name, _that_run(pipeline, todo))
            except Stopped:
                own.interrupted = True
                return own
        while queue:
            batch = size.take(queue)
            try:
                samples, found = _compute(batch, pipeline, draws, size)
            except Stopped:
                own.interrupted = True
                break
            except NoRowsError as error:
                refuse(batch, error)
                layout.rowless |= error.paths or batch.modules
                rest = [layout.again(b, size.unit) for b in (batch, *queue)]
                queue = deque(b for parts in rest for b in parts)
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
            own.hear(batch, found, pipeline)
            images = images_of(batch, samples)
            own.not_finite += sum(not np.isfinite(image).all() for _, image, _ in images)
            writer.put(images)
            tell(own)
    own.rowless = layout.rowless
    return own


def _compute(batch: Batch, pipeline: Pipeline, draws: Draws, size: Size) -> tuple[Samples, Applied]:
    """The images of a batch, and what became of its edits.

    Raises `NoRowsError` when one of its variants has to be applied in place.
    """
    began = time.perf_counter()
    found, own = Applied(), Applied()
    within = Within(pipeline, draws, found)
    requests = [
        Request(c.prompt, c.seed, c.point, within(job.encoding), within(job.decoding))
        for job, c in ((job, job.condition) for job in batch.jobs)
    ]
    references = [Request(r.prompt, r.seed, shown=False) for r in batch.references]
    settings = batch.jobs[0].settings
    with pipeline.sized(settings), denoised(batch, pipeline, draws, own) as moments:
        samples = pipeline.sample([*requests, *references], settings, moments, batch.frames)
    weighed = {p for v in set(batch.variants) for e in v.edits if e.where == "weights"
               for p in e.touches}  # fmt: skip
    if batch.by_rows and weighed - own.ran:
        # Perhaps their weights are used without them being called.
        raise NoRowsError(weighed - own.ran)
    for name in ("edited", "changed", "ran"):
        getattr(found, name).update(pipeline.told(pipeline.denoiser_name, getattr(own, name)))
    size.measured(batch, time.perf_counter() - began)
    return samples, found


def images_of(batch: Batch, samples: Samples) -> list[Made]:
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

    def put(self, images: list[Made]) -> None:
        """Have a batch written. Waits while too many are; raises what an earlier one raised."""
        while len(self._pending) >= self.WAITING:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(write, images, self.store, self.pipeline))


def write(images: Sequence[Made], store: Run, pipeline: Pipeline) -> None:
    """Write images as cells; they appear together."""
    store.write_cells(
        (shot.key, Image.fromarray(_pixels(image)), _record(shot, image, pipeline), latents)
        for shot, image, latents in images
    )


def make(cell: Cell, pipeline: Pipeline) -> tuple[str, np.ndarray, np.ndarray]:
    """One cell by itself: its key, its image, uint8 (height, width, 3), and its final latents."""
    shots = shots_of([cell], pipeline)
    layout = Layout(pipeline.catalog_of(pipeline.denoiser_name), rows=pipeline.rows)
    (batch,) = layout.batches(jobs_of(shots, pipeline.component), 1)
    draws = Draws(spare_memory(pipeline.device) // 4, pipeline.checkpoint)
    size = Size(1, pipeline, batch.jobs)
    try:
        samples, _ = _compute(batch, pipeline, draws, size)
    except NoRowsError as error:
        refuse(batch, error)
        samples, _ = _compute(replace(batch, by_rows=False), pipeline, draws, size)
    ((shot, image, latents),) = images_of(batch, samples)
    return shot.key, _pixels(image), latents


def _pixels(image: np.ndarray) -> np.ndarray:
    """A float image in [0, 1] in 8 bits; what is not finite is black."""
    pixels: np.ndarray = (np.nan_to_num(image) * 255).round().astype("uint8")
    return pixels


def shots_of(cells: Sequence[Cell], pipeline: Pipeline) -> list[Shot]:
    """One shot a cell, in their order; cells that are one image have one key."""
    settings = {s: pipeline.settings(s) for s in {c.condition.sampling for c in cells}}
    for chosen in settings.values():
        pipeline.refuse(chosen)
    shared: dict[str, Any] = {
        "model": pipeline.fingerprint,
        "component": pipeline.component,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
    if pipeline.compiled:
        shared["compile"] = True
    variants = {variant: variant.identity() for variant in {c.variant for c in cells}}
    shots = []
    for cell in cells:
        chosen = settings[cell.condition.sampling]
        identity = shared | variants[cell.variant] | _asked(cell.condition)
        if cell.condition.point is not None:  # whatever its description says
            del identity["prompt"]
        identity |= _checkpoints(cell.variant, pipeline)
        shots.append(Shot(cell, chosen, key_of(identity | {"sampling": asdict(chosen)})))
    return shots


def _checkpoints(variant: Variant, pipeline: Pipeline) -> dict[str, Any]:
    """What tells the models that a variant blends with, if any."""
    models = dict.fromkeys(e.checkpoint for e in variant.edits if e.checkpoint is not None)
    if not models:
        return {}
    return {"checkpoints": {model: pipeline.checkpoint_fingerprint(model) for model in models}}


def _asked(condition: Condition) -> dict[str, Any]:
    """A condition, but for its sampling, in plain objects."""
    asked: dict[str, Any] = {"prompt": condition.prompt, "seed": condition.seed}
    if condition.point is not None:
        asked["point"] = asdict(condition.point)
    if condition.steps is not None:
        asked["steps"] = condition.steps
    return asked


def _record(shot: Shot, image: np.ndarray, pipeline: Pipeline) -> dict[str, Any]:
    """What the PNG of an image tells about it."""
    cell = shot.cell
    return {
        "axes": dict(cell.axes),
        "variant": cell.variant.name,
        **cell.variant.identity(),
        **_checkpoints(cell.variant, pipeline),
        "component": pipeline.component,
        "condition": {**_asked(cell.condition), "sampling": asdict(shot.settings)},
        "size": [shot.settings.width, shot.settings.height],
        "model": pipeline.identity,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "compile": pipeline.compiled,
        "versions": versions(),
        "state": "ok" if np.isfinite(image).all() else "nan",
    }


def describe(plan: Plan, pipeline: Pipeline, store: Run, shots: Sequence[Shot]) -> None:
    """Write what a run is, before its first cell. `shots`: of all cells of the plan, and of those
    for its noise floor."""
    store.write_text("recipe.yaml", plan.recipe.source)
    store.write_manifest(_manifest(plan, pipeline, shots))


def _manifest(plan: Plan, pipeline: Pipeline, shots: Sequence[Shot]) -> dict[str, Any]:
    baselines = {s.cell.condition: s.key for s in shots if s.cell.variant.is_baseline}
    groups: dict[Condition, int] = {}
    recipe = plan.recipe
    sheet = recipe.sheet

    def told(shot: Shot) -> dict[str, Any]:
        cell = shot.cell
        found = {
            "key": shot.key,
            "variant": cell.variant.name,
            "prompt": cell.condition.prompt,
            "seed": cell.condition.seed,
            "axes": dict(cell.axes),
            "baseline": baselines[cell.baseline],
            "group": groups.setdefault(cell.group, len(groups)),
        }
        return found | ({"point": True} if cell.condition.point else {})

    return {
        "name": recipe.name,
        "about": recipe.about,
        "model": pipeline.identity,
        "component": pipeline.component,
        "modules": len(plan.catalog),
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "compile": pipeline.compiled,
        "offload": pipeline.source.offload,
        "versions": versions(),
        "sampling": asdict(pipeline.settings(recipe.sampling)),
        "counts": {
            "cells": len(plan.cells),
            "images": len({shot.key for shot in shots}),
            "variants": len(plan.variants),
            "conditions": len(plan.conditions),
        },
        "axes": [
            {"name": a.name, "values": list(a.values), "labels": list(a.labels), "note": a.note}
            for a in plan.axes
        ],
        "sheet": asdict(sheet) if sheet else None,
        "clip": recipe.clip,
        "vocabulary": list(recipe.vocabulary) if recipe.vocabulary else None,
        "cells": [told(shot) for shot in shots[: len(plan.cells)]],
        "floor": [told(shot) for shot in shots[len(plan.cells) :]],
        "touched": {
            v.name: spans(_numbers(v, plan.catalog)) for v in plan.variants if not v.is_baseline
        },
        "catalog": [[m.path, m.kind, m.stage, m.block, m.role, m.parameters] for m in plan.catalog],
    }


def _numbers(variant: Variant, catalog: Sequence[ModuleInfo]) -> list[int]:
    """The modules of a catalog that a variant edits, those inside of its blocks included."""
    paths = {p for e in variant.edits if e.component is None for p in e.touches}
    return [
        m.number
        for m in catalog
        if m.path in paths or any(m.path.startswith(f"{path}.") for path in paths)
    ]


@contextmanager
def stoppable(pipeline: Pipeline) -> Iterator[None]:
    """Ctrl-C ends sampling after the step it is in; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False
    before, stop = signal.getsignal(signal.SIGINT), pipeline.stop

    def ask(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    pipeline.stop = lambda: asked or stop()
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        pipeline.stop = stop
