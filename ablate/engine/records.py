"""What a cell's PNG and a run's `run.json` contain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ablate.edits import Variant, load_metrics
from ablate.engine.batches import KeyedCell
from ablate.models import versions
from ablate.network import ModuleInfo
from ablate.recipe import BASE
from ablate.sampling import Pipeline, revision_of
from ablate.store import Run, atomic_write, key_of, spans
from ablate.sweep import Cell, Condition, Plan


def with_keys(cells: Sequence[Cell], pipeline: Pipeline) -> list[KeyedCell]:
    """Cells with their settings and keys, in their order; cells of one image have one key."""
    settings = {s: pipeline.settings(s) for s in {c.condition.sampling for c in cells}}
    for resolved in settings.values():
        pipeline.check_size(resolved)
    shared: dict[str, Any] = {
        "model": pipeline.fingerprint,
        "component": pipeline.component,
        "dtype": _dtype(pipeline),
    }
    if pipeline.compiled:
        shared["compile"] = True
    variants = {variant: variant.identity() for variant in {c.variant for c in cells}}
    keyed = []
    for cell in cells:
        resolved = settings[cell.condition.sampling]
        identity = shared | variants[cell.variant] | _condition(cell.condition)
        if cell.condition.point is not None:  # the prompt only describes it
            del identity["prompt"]
        identity |= _checkpoints(cell.variant, pipeline) | {"sampling": asdict(resolved)}
        windows = any(edit.when is not None for edit in cell.variant.edits)
        revision = revision_of(
            resolved.scheduler, counts_steps=windows or cell.condition.steps is not None
        )
        if revision > 1:
            identity["revision"] = revision
        keyed.append(KeyedCell(cell, resolved, key_of(identity)))
    return keyed


def _dtype(pipeline: Pipeline) -> str:
    return str(pipeline.dtype).removeprefix("torch.")


def _checkpoints(variant: Variant, pipeline: Pipeline) -> dict[str, Any]:
    """Fingerprints of the models that a variant blends with, if any."""
    models = dict.fromkeys(e.checkpoint for e in variant.edits if e.checkpoint is not None)
    if not models:
        return {}
    return {"checkpoints": {model: pipeline.checkpoint_fingerprint(model) for model in models}}


def _condition(condition: Condition) -> dict[str, Any]:
    """A condition without its sampling, as plain objects."""
    plain: dict[str, Any] = {"prompt": condition.prompt, "seed": condition.seed}
    if condition.point is not None:
        plain["point"] = asdict(condition.point)
    if condition.steps is not None:
        plain["steps"] = condition.steps
    return plain


def cell_record(cell: KeyedCell, image: np.ndarray, pipeline: Pipeline) -> dict[str, Any]:
    """The record in a cell's PNG."""
    variant, condition = cell.cell.variant, cell.cell.condition
    return {
        "axes": dict(cell.cell.axes),
        "variant": variant.name,
        **variant.identity(),
        **_checkpoints(variant, pipeline),
        "component": pipeline.component,
        "condition": {**_condition(condition), "sampling": asdict(cell.settings)},
        "size": [cell.settings.width, cell.settings.height],
        "model": pipeline.identity,
        "dtype": _dtype(pipeline),
        "compile": pipeline.compiled,
        "versions": versions(),
        "state": "ok" if np.isfinite(image).all() else "nan",
    }


def describe_run(plan: Plan, pipeline: Pipeline, store: Run, cells: Sequence[KeyedCell]) -> None:
    """Write `recipe.yaml` and `run.json`, and a copy of the cell that the recipe starts from.

    `cells`: those of the plan, then of its noise floor.
    """
    store.write_manifest(_manifest(plan, pipeline, cells))
    store.write_text("recipe.yaml", plan.recipe.source)
    if plan.base is not None:
        data = plan.base.file.read_bytes()
        with atomic_write(store.folder / BASE) as temporary:
            temporary.write_bytes(data)


def _manifest(plan: Plan, pipeline: Pipeline, cells: Sequence[KeyedCell]) -> dict[str, Any]:
    baselines = {c.cell.condition: c.key for c in cells if c.cell.variant.is_baseline}
    groups: dict[Condition, int] = {}
    recipe = plan.recipe

    def entry(keyed: KeyedCell) -> dict[str, Any]:
        cell = keyed.cell
        plain = {
            "key": keyed.key,
            "variant": cell.variant.name,
            "prompt": cell.condition.prompt,
            "seed": cell.condition.seed,
            "axes": dict(cell.axes),
            "baseline": baselines[cell.baseline],
            "group": groups.setdefault(cell.group, len(groups)),
        }
        return plain | ({"point": True} if cell.condition.point else {})

    return {
        "name": recipe.name,
        "about": recipe.about,
        "model": pipeline.identity,
        "component": pipeline.component,
        "modules": len(plan.catalog),
        "device": str(pipeline.device),
        "dtype": _dtype(pipeline),
        "compile": pipeline.compiled,
        "offload": pipeline.source.offload,
        "versions": versions(),
        "sampling": asdict(pipeline.settings(recipe.sampling)),
        "counts": {
            "cells": len(plan.cells),
            "images": len({cell.key for cell in cells}),
            "variants": len(plan.variants),
            "conditions": len(plan.conditions),
        },
        "axes": [
            {"name": a.name, "values": list(a.values), "labels": list(a.labels), "note": a.note}
            for a in plan.axes
        ],
        "sheet": dict(recipe.sheet) if recipe.sheet else None,
        "clip": recipe.clip,
        **({"readers": list(recipe.readers)} if recipe.readers else {}),
        **({"metrics": list(recipe.metrics)} if recipe.metrics else {}),
        **_code(recipe.code_file),
        "vocabulary": list(recipe.vocabulary) if recipe.vocabulary else None,
        **({"notes": list(plan.notes)} if plan.notes else {}),
        "cells": [entry(cell) for cell in cells[: len(plan.cells)]],
        "floor": [entry(cell) for cell in cells[len(plan.cells) :]],
        "touched": {
            v.name: spans(_numbers(v, plan.catalog)) for v in plan.variants if not v.is_baseline
        },
        **({"same": same} if (same := _names(plan.same)) else {}),
        "catalog": [[m.path, m.kind, m.stage, m.block, m.role, m.parameters] for m in plan.catalog],
    }


def _code(file: Path | None) -> dict[str, Any]:
    """The metrics of a recipe's file, which measure the run, and where they are."""
    metrics = [] if file is None else [metric.name for metric in load_metrics(file)]
    return {"code": {"file": str(file), "metrics": metrics}} if metrics else {}


def _names(same: Mapping[Variant, Variant]) -> dict[str, str]:
    return {variant.name: first.name for variant, first in same.items()}


def _numbers(variant: Variant, catalog: Sequence[ModuleInfo]) -> list[int]:
    """Numbers of the modules of a catalog that a variant edits, with those inside its blocks."""
    paths = {p for e in variant.edits if e.component is None for p in e.all_modules}
    return [
        m.number
        for m in catalog
        if m.path in paths or any(m.path.startswith(f"{path}.") for path in paths)
    ]
