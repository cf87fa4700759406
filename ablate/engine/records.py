"""Records: what a cell's PNG and a run's manifest contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from ablate.edits import Variant
from ablate.engine.batches import KeyedCell
from ablate.models import versions
from ablate.network import ModuleInfo
from ablate.sampling import Pipeline
from ablate.store import Run, key_of, spans
from ablate.sweep import Cell, Condition, Plan


def with_keys(cells: Sequence[Cell], pipeline: Pipeline) -> list[KeyedCell]:
    """One shot a cell, in their order; cells that are one image have one key."""
    settings = {s: pipeline.settings(s) for s in {c.condition.sampling for c in cells}}
    for chosen in settings.values():
        pipeline.check_size(chosen)
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
        shots.append(KeyedCell(cell, chosen, key_of(identity | {"sampling": asdict(chosen)})))
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


def _record(shot: KeyedCell, image: np.ndarray, pipeline: Pipeline) -> dict[str, Any]:
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


def describe_run(plan: Plan, pipeline: Pipeline, store: Run, shots: Sequence[KeyedCell]) -> None:
    """Write what a run is, before its first cell. `shots`: of all cells of the plan, and of those
    for its noise floor."""
    store.write_text("recipe.yaml", plan.recipe.source)
    store.write_manifest(_manifest(plan, pipeline, shots))


def _manifest(plan: Plan, pipeline: Pipeline, shots: Sequence[KeyedCell]) -> dict[str, Any]:
    baselines = {s.cell.condition: s.key for s in shots if s.cell.variant.is_baseline}
    groups: dict[Condition, int] = {}
    recipe = plan.recipe
    sheet = recipe.sheet

    def told(shot: KeyedCell) -> dict[str, Any]:
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
    paths = {p for e in variant.edits if e.component is None for p in e.all_modules}
    return [
        m.number
        for m in catalog
        if m.path in paths or any(m.path.startswith(f"{path}.") for path in paths)
    ]
