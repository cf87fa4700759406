"""The engine: a plan, a pipeline and a store; out come the cells.

Cells are made variant by variant, the conditions of a variant in batches: for each batch the
network is edited in place, sampled, and put back as it was. Finished cells are never made again.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from types import FrameType
from typing import Any

import numpy as np
from PIL import Image

from ablate.edits import Variant, applied, watched
from ablate.pipeline import Pipeline, Request, Settings, Stopped, versions
from ablate.plan import Cell, Plan
from ablate.store import Run, key_of

BATCH = {"cuda": 16, "mps": 4, "cpu": 8}  # cells of one variant at once


@dataclass(frozen=True)
class Progress:
    """Told after every batch. `seconds` since the run began; `left` is an estimate."""

    done: int
    total: int
    computed: int
    seconds: float
    left: float
    variant: str


@dataclass
class Summary:
    """What a run came to. `quiet`: by module path, what is remarkable about an edited module."""

    total: int
    computed: int = 0
    reused: int = 0
    not_finite: int = 0
    interrupted: bool = False
    seconds: float = 0.0
    quiet: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Job:
    """An image to make: a cell, its settings with nothing left open, its key."""

    cell: Cell
    settings: Settings
    key: str


def run(
    plan: Plan,
    pipeline: Pipeline,
    store: Run,
    *,
    batch_size: int | None = None,
    limit: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Summary:
    """Make all cells of a plan that the store does not have yet, or the first `limit` of all.

    Interrupted by Ctrl-C it returns, with `interrupted` set, after the step that it is in; the
    weights are as loaded then, and finished cells are on disk.
    """
    began = time.monotonic()
    jobs = _jobs(plan, pipeline)
    store.sweep_temporaries()
    store.write_text("recipe.yaml", plan.recipe.source)
    store.write_manifest(_manifest(plan, pipeline, jobs))
    distinct = list({job.key: job for job in jobs}.values())
    chosen = _by_variant(distinct)[:limit]
    missing = [job for job in chosen if not store.has(job.key)]
    summary = Summary(total=len(chosen), reused=len(chosen) - len(missing))
    size = batch_size or BATCH.get(pipeline.device.type, 1)
    silent: dict[str, set[str]] = {"unchanged": set(), "never ran": set()}
    loud: dict[str, set[str]] = {"unchanged": set(), "never ran": set()}
    with _stoppable(pipeline):
        try:
            for variant, settings, batch in _batches(missing, size):
                with (
                    watched(pipeline.network, variant.modules) as ran,
                    applied(pipeline.network, variant) as changed,
                ):
                    requests = [Request(j.cell.condition.prompt, j.cell.condition.seed)
                                for j in batch]  # fmt: skip
                    images = pipeline.sample(requests, settings)
                modules = set(variant.modules)
                for what, heard in (("unchanged", changed), ("never ran", ran)):
                    silent[what] |= modules - heard
                    loud[what] |= heard
                for job, image in zip(batch, images, strict=True):
                    summary.not_finite += _write(store, job, image, pipeline)
                summary.computed += len(batch)
                summary.seconds = time.monotonic() - began
                if on_progress is not None:
                    todo = len(missing) - summary.computed
                    left = summary.seconds / summary.computed * todo
                    done = summary.reused + summary.computed
                    on_progress(
                        Progress(done, summary.total, summary.computed, summary.seconds, left,
                                 variant.name)
                    )  # fmt: skip
        except Stopped:
            summary.interrupted = True
    for what in ("never ran", "unchanged"):
        for path in sorted(silent[what] - loud[what]):
            summary.quiet.setdefault(path, what)
    summary.seconds = time.monotonic() - began
    return summary


def _jobs(plan: Plan, pipeline: Pipeline) -> list[_Job]:
    """One job a cell, in plan order; cells that are one image have one key."""
    settings = {s: pipeline.settings(s) for s in {c.condition.sampling for c in plan.cells}}
    shared = {
        "model": pipeline.fingerprint,
        "component": pipeline.component,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
    }
    variants = {variant: variant.identity() for variant in plan.variants}
    jobs = []
    for cell in plan.cells:
        chosen = settings[cell.condition.sampling]
        identity = shared | variants[cell.variant]
        identity |= {"prompt": cell.condition.prompt, "seed": cell.condition.seed}
        jobs.append(_Job(cell, chosen, key_of(identity | {"sampling": asdict(chosen)})))
    return jobs


def _by_variant(jobs: list[_Job]) -> list[_Job]:
    """Variants in order of appearance, so that a run cut short has whole variants."""
    order: dict[Variant, int] = {}
    for job in jobs:
        order.setdefault(job.cell.variant, len(order))
    return sorted(jobs, key=lambda job: order[job.cell.variant])


def _batches(jobs: list[_Job], size: int) -> Iterator[tuple[Variant, Settings, list[_Job]]]:
    groups: dict[tuple[Variant, Settings], list[_Job]] = {}
    for job in jobs:
        groups.setdefault((job.cell.variant, job.settings), []).append(job)
    for (variant, settings), members in groups.items():
        for i in range(0, len(members), size):
            yield variant, settings, members[i : i + size]


def _write(store: Run, job: _Job, image: np.ndarray, pipeline: Pipeline) -> bool:
    """Store one image; True when it is not finite, which is told in its record."""
    finite = bool(np.isfinite(image).all())
    pixels = (np.nan_to_num(image) * 255).round().astype("uint8")
    cell = job.cell
    record: dict[str, Any] = {
        "axes": dict(cell.axes),
        "variant": cell.variant.name,
        **cell.variant.identity(),
        "component": pipeline.component,
        "condition": {
            "prompt": cell.condition.prompt,
            "seed": cell.condition.seed,
            "sampling": asdict(job.settings),
        },
        "size": [job.settings.width, job.settings.height],
        "model": {"id": pipeline.model, "fingerprint": pipeline.fingerprint},
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "versions": versions(),
        "state": "ok" if finite else "nan",
    }
    store.write_cell(job.key, Image.fromarray(pixels), record)
    return not finite


def _manifest(plan: Plan, pipeline: Pipeline, jobs: list[_Job]) -> dict[str, Any]:
    baselines = {j.cell.condition: j.key for j in jobs if j.cell.variant.is_baseline}
    recipe = plan.recipe
    sheet = recipe.sheet
    return {
        "name": recipe.name,
        "about": recipe.about,
        "model": {"id": pipeline.model, "fingerprint": pipeline.fingerprint},
        "component": pipeline.component,
        "modules": len(plan.catalog),
        "device": str(pipeline.device),
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "versions": versions(),
        "sampling": asdict(pipeline.settings(recipe.sampling)),
        "counts": {
            "cells": len(jobs),
            "images": len({job.key for job in jobs}),
            "variants": len(plan.variants),
            "conditions": len(plan.conditions),
        },
        "axes": [
            {"name": a.name, "values": list(a.values), "labels": list(a.labels)} for a in plan.axes
        ],
        "sheet": {"rows": list(sheet.rows), "columns": list(sheet.columns)} if sheet else None,
        "cells": [
            {
                "key": job.key,
                "variant": job.cell.variant.name,
                "prompt": job.cell.condition.prompt,
                "seed": job.cell.condition.seed,
                "axes": dict(job.cell.axes),
                "baseline": baselines[job.cell.condition],
            }
            for job in jobs
        ],
    }


@contextmanager
def _stoppable(pipeline: Pipeline) -> Iterator[None]:
    """Ctrl-C ends sampling after the step it is in; a second one interrupts at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False
    before = signal.getsignal(signal.SIGINT)

    def ask(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, ask)
    pipeline.stop = lambda: asked
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        pipeline.stop = lambda: False
