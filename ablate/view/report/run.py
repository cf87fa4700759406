"""The HTML report of a run: one self-contained page, written from the run's folder alone.

Images are beside the page in `cells/` and load as they come into view. Measurements are in the page
as JSON; scripts insert them as text, never as markup, and a content security policy enforces that.

    >>> save_report(Run("outputs/mix-noise"))
    PosixPath('outputs/mix-noise/report.html')
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ablate.drift import read_cells, read_effects, read_notes, read_sets
from ablate.network import ROOT
from ablate.store import REPORT, Run, StoredCell, spans
from ablate.view.report.page import format_value, parse_drawing, settings_of, write_page
from ablate.view.sheets import sampling_facts
from ablate.view.shown import shown_cells

SCRIPTS = (  # in the order in which they build on each other
    "elements", "sweep", "figures", "filters", "pictures", "rows", "card", "enlargement",
    "grid", "menus", "sliders", "toolbar", "effects", "sets", "settings", "report",
)  # fmt: skip
# Keys of the manifest that are shown elsewhere than among the settings.
LISTED = ("format", "name", "about", "axes", "cells", "catalog", "touched", "floor")
INTERVAL = ("mean", "floor", "drift", "low", "high", "q")  # figures of an effect
NO_PICTURES: Mapping[str, str] = MappingProxyType({})


def save_report(run: Run, pictures: Mapping[str, str] = NO_PICTURES) -> Path:
    """Write `report.html` into the run's folder and return its path.

    Args:
        run: A run, finished or not.
        pictures: SVG documents by the titles of their sections. An element with `data-cell="<key>"`
            opens that cell; one with `data-module="<number>"` filters the cells by this module.

    Raises:
        ValueError: A picture is not well-formed XML or contains more than a drawing.
        StoreError: The folder is no run.
    """
    data = _data(run)
    return write_page(
        run.folder / REPORT,
        "report.html",
        styles=("report.css",),
        scripts=SCRIPTS,
        drawings=[parse_drawing(title, svg) for title, svg in pictures.items()],
        title=data["name"],
        data=data,
    )


def _data(run: Run) -> dict[str, Any]:
    """All that the page shows, as JSON: names and words are listed once, then numbered."""
    manifest = run.manifest()
    axes = run.axes()
    cells, planned = shown_cells(run.cells())
    measured = {(cell.key, cell.baseline): cell for cell in read_cells(run)}
    modules, variants = _variants(run, cells)
    numbered = {name: i for i, name in enumerate(variants)}
    prompts = _numbered(cell.prompt for cell in (*cells, *run.floor()))
    classes = _numbered(m.class_name for m in measured.values() if m.class_name)
    words = _numbered(
        word for m in measured.values() for word in (*dict(m.concepts), m.shows) if word
    )
    metrics = _numbered(name for m in measured.values() for name in (*m.drift, *m.floors))
    places = [{_same(v): i for i, v in enumerate(axis.values)} for axis in axes]
    first: dict[str, int] = {}
    for i, cell in enumerate(cells):
        first.setdefault(cell.key, i)

    def at(values: Mapping[str, Any]) -> list[int | None]:
        return [
            place.get(_same(values[axis.name])) if axis.name in values else None
            for axis, place in zip(axes, places, strict=True)
        ]

    def row(cell: StoredCell) -> dict[str, Any]:
        entry: dict[str, Any] = {
            "key": cell.key,
            "variant": numbered[cell.variant],
            "prompt": prompts[cell.prompt],
            "seed": cell.seed,
            "at": at(cell.values),
            "baseline": first.get(cell.baseline),
        }
        if cell.point:
            entry["point"] = True
        known = measured.get((cell.key, cell.baseline))
        if not cell.done or known is None:
            return entry | {"state": "vacant"}
        if known.state != "ok":
            entry["state"] = known.state
        for name, figures in (("drift", known.drift), ("floors", known.floors)):
            if figures:
                entry[name] = [_rounded(figures.get(metric)) for metric in metrics]
        if known.class_name:
            entry["class"] = classes[known.class_name]
        if known.concepts:
            entry["concepts"] = [[words[word], _rounded(p)] for word, p in known.concepts]
            entry["shows"] = words[known.shows]
        return entry

    return {
        "name": str(manifest["name"]),
        "about": str(manifest.get("about") or ""),
        "facts": _facts(manifest),
        "settings": settings_of(manifest, LISTED),
        "recipe": _recipe(run),
        "notes": [*manifest.get("notes", []), *read_notes(run), *filter(None, [run.damage_note()])],
        "axes": [
            {"name": a.name, "values": a.values, "labels": a.labels, "note": a.note} for a in axes
        ],
        "modules": modules,
        "variants": list(variants.values()),
        "prompts": list(prompts),
        "metrics": list(metrics),
        "classes": list(classes),
        "words": list(words),
        "planned": planned,
        "cells": [row(cell) for cell in cells],
        "floor": [
            {"key": cell.key, "prompt": prompts[cell.prompt], "seed": cell.seed}
            for cell in run.floor()
        ],
        "sets": _sets(run, numbered, at),
        "effects": [
            {
                "variant": numbered[effect.variant],
                "prompt": prompts[effect.prompt],
                "at": at({"prompt": effect.prompt, **effect.axes}),
                "metric": effect.metric,
                "seeds": effect.seeds,
                "verdict": effect.verdict,
                **{n: _rounded(getattr(effect, n)) for n in INTERVAL},
            }
            for effect in read_effects(run)
            if effect.variant in numbered and effect.prompt in prompts
        ],
    }


def _sets(
    run: Run, variants: Mapping[str, int], at: Callable[[Mapping[str, Any]], list[int | None]]
) -> dict[str, Any]:
    """Distances between sets: the names of metrics, and a row a variant with a value for each."""
    distances = [distance for distance in read_sets(run) if distance.variant in variants]
    metrics = _numbered(distance.metric for distance in distances)
    rows: dict[str, dict[str, Any]] = {}
    for distance in distances:
        place = {"variant": variants[distance.variant], "at": at(distance.axes)}
        counts = {"images": distance.images, "baselines": distance.baselines}
        row = rows.setdefault(
            json.dumps([place, counts]), {**place, **counts, "values": [None] * len(metrics)}
        )
        row["values"][metrics[distance.metric]] = _rounded(distance.value)
    return {"metrics": list(metrics), "rows": list(rows.values())}


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _same(value: Any) -> str:
    """A key that is equal for equal values of an axis: lists have no hash, and 1 is not true."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{float(value)}" if number else json.dumps(value, sort_keys=True)


def _rounded(value: float | None) -> float | None:
    """Round to six digits; None for NaN and infinity, which JSON lacks."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _variants(
    run: Run, cells: Sequence[StoredCell]
) -> tuple[list[list[Any]], dict[str, dict[str, Any]]]:
    """All modules as rows, and each variant by name: the modules it touches, and its edits.

    Edits are read from the PNGs, so a variant without a finished cell has none. Runs of older
    versions have no catalog; their modules are those that edits name.
    """
    catalog = run.catalog()
    numbers = {module.path: module.number for module in catalog}
    touched = run.edited_modules()
    edits: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        if cell.variant not in edits and not cell.is_baseline and cell.done:
            edits[cell.variant] = cell.record().get("edits", [])
    for path in (path for parts in edits.values() for part in parts for path in part["modules"]):
        numbers.setdefault(path, len(numbers))

    def modules_of(parts: Iterable[Mapping[str, Any]]) -> list[int]:
        return sorted({numbers[path] for part in parts for path in part["modules"]})

    variants: dict[str, dict[str, Any]] = {}
    names = {cell.variant: cell.same_as for cell in cells}
    numbered = {name: i for i, name in enumerate(names)}
    for name, same in names.items():
        parts = edits.get(name, [])
        variants[name] = {
            "name": name,
            "same": numbered.get(same),
            "touched": spans(touched.get(name, modules_of(parts))),
            "edits": [
                {
                    "op": str(part["op"]),
                    "modules": spans(modules_of([part])),
                    "with": {k: format_value(part[k]) for k in part if k not in ("op", "modules")},
                }
                for part in parts
            ],
        }
    rows: list[list[Any]] = [
        [m.name, m.kind, m.stage, m.block, m.role, m.parameters] for m in catalog
    ]
    rows += [[path or ROOT, "", "", "", "", 0] for path in numbers if numbers[path] >= len(catalog)]
    return rows, variants


def _facts(manifest: Mapping[str, Any]) -> list[str]:
    """How these images were generated, a few words each."""
    sampling, model = manifest.get("sampling") or {}, manifest.get("model") or {}
    facts = [str(model.get("id", ""))]
    varying = {axis["name"] for axis in manifest["axes"] if len(axis["values"]) > 1}
    facts += sampling_facts({k: v for k, v in sampling.items() if k not in varying})
    if {"width", "height"} <= sampling.keys() - varying:
        facts.append(f"{sampling['width']} × {sampling['height']} px")
    facts += [str(manifest[key]) for key in ("dtype", "device") if manifest.get(key)]
    return [fact for fact in facts if fact]


def _recipe(run: Run) -> str:
    path = run.folder / "recipe.yaml"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
