"""The HTML report of a run: one self-contained page, made from the run's folder alone.

The page opens from disk, without a server, and asks nothing of any network; images lie beside it
in `cells/` and load as they come into view. What was measured travels as JSON inside the page;
scripts put it there as text, never as markup, and a content security policy holds them to it.

    >>> report.save(Run("outputs/mix-noise"))
    PosixPath('outputs/mix-noise/report.html')
"""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ablate.drift import read_cells, read_effects, read_notes
from ablate.network import ModuleInfo
from ablate.store import Run, StoredCell, spans
from ablate.view.report import page as webpage

SCRIPTS = (  # in the order in which they build on each other
    "elements", "sweep", "figures", "filters", "pictures", "rows", "card", "enlargement",
    "grid", "menus", "sliders", "toolbar", "effects", "settings", "report",
)  # fmt: skip
INTERVAL = ("mean", "floor", "drift", "low", "high")  # figures of an effect
NO_PICTURES: Mapping[str, str] = MappingProxyType({})


def save_report(run: Run, pictures: Mapping[str, str] = NO_PICTURES) -> Path:
    """Write `report.html` into the run and return its path.

    `pictures` maps titles of sections to SVG documents that are drawn into the page. What carries
    `data-cell="<key>"` opens that cell; what carries `data-module="<number>"` narrows the sheet
    to the cells that edit this module.

    Raises `ValueError` when a picture is not well-formed XML or holds more than a drawing, and
    `StoreError` when the folder is no run.
    """
    data = _data(run)
    drawn = {title: webpage.drawing(title, svg) for title, svg in pictures.items()}
    css = webpage.faces() + webpage.template("report.css")
    script = "\n".join(webpage.template(f"{name}.js") for name in SCRIPTS)
    text = webpage.filled("report.html", {
        "policy": webpage.policy(script, css, drawn.values()),
        "title": html.escape(f"{data['name']} · ablate"),
        "css": css,
        "data": _json(data),
        "pictures": "".join(webpage.picture(title, svg) for title, svg in drawn.items()),
        "script": script,
    })  # fmt: skip
    return run.write_text("report.html", text)


def _json(data: Any) -> str:
    """JSON that can stand in a page: it ends no element, begins none, and breaks no line."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return re.sub("[<>&]", lambda sign: f"\\u{ord(sign[0]):04x}", text)


def _data(run: Run) -> dict[str, Any]:
    """All that the page shows, ready for JSON; names and words are listed once, then numbered."""
    manifest = run.manifest()
    axes = run.axes()
    cells = list(run.cells())
    measured = {(cell.key, cell.baseline): cell for cell in read_cells(run)}
    modules, variants = _variants(run, cells)
    numbered = {name: i for i, name in enumerate(variants)}
    prompts = _numbered(cell.prompt for cell in (*cells, *run.floor()))
    classes = _numbered(m.class_name for m in measured.values() if m.class_name)
    words = _numbered(word for m in measured.values() for word, _ in m.concepts)
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
        own = measured.get((cell.key, cell.baseline))
        found: dict[str, Any] = {
            "key": cell.key,
            "variant": numbered[cell.variant],
            "prompt": prompts[cell.prompt],
            "seed": cell.seed,
            "at": at({"prompt": cell.prompt, "seed": cell.seed, **cell.axes}),
            "baseline": first.get(cell.baseline),
        }
        if cell.point:
            found["point"] = True
        if not cell.done or own is None:
            return found | {"state": "vacant"}
        if own.state != "ok":
            found["state"] = own.state
        for name, figures in (("drift", own.drift), ("floors", own.floors)):
            if figures:
                found[name] = [_figure(figures.get(metric)) for metric in metrics]
        if own.class_name:
            found["class"] = classes[own.class_name]
        if own.concepts:
            found["concepts"] = [[words[word], _figure(share)] for word, share in own.concepts]
        return found

    return {
        "name": str(manifest["name"]),
        "about": str(manifest.get("about") or ""),
        "facts": _facts(manifest),
        "settings": _settings(manifest),
        "recipe": _recipe(run),
        "notes": read_notes(run),
        "axes": [
            {"name": a.name, "values": a.values, "labels": a.labels, "note": a.note} for a in axes
        ],
        "modules": modules,
        "variants": list(variants.values()),
        "prompts": list(prompts),
        "metrics": list(metrics),
        "classes": list(classes),
        "words": list(words),
        "cells": [row(cell) for cell in cells],
        "floor": [
            {"key": cell.key, "prompt": prompts[cell.prompt], "seed": cell.seed}
            for cell in run.floor()
        ],
        "effects": [
            {
                "variant": numbered[effect.variant],
                "prompt": prompts[effect.prompt],
                "at": at({"prompt": effect.prompt, **effect.axes}),
                "metric": effect.metric,
                "seeds": effect.seeds,
                "verdict": effect.verdict,
                **{n: _figure(getattr(effect, n)) for n in INTERVAL},
            }
            for effect in read_effects(run)
            if effect.variant in numbered and effect.prompt in prompts
        ],
    }


def _numbered(names: Iterable[str]) -> dict[str, int]:
    return {name: i for i, name in enumerate(dict.fromkeys(names))}


def _same(value: Any) -> str:
    """Equal for values of an axis that are the same: lists have no hash, and 1 is not true."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return f"{float(value)}" if number else json.dumps(value, sort_keys=True)


def _figure(value: float | None) -> float | None:
    """To six digits; JSON knows neither NaN nor infinity."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def _variants(
    run: Run, cells: Sequence[StoredCell]
) -> tuple[list[list[Any]], dict[str, dict[str, Any]]]:
    """All modules, and by name each variant: what it touches and the edits it is made of.

    Edits are told by the PNGs, so that a variant without a finished cell has none. Runs of older
    versions have no catalog; their modules are those that edits name.
    """
    catalog = run.catalog()
    numbers = {module.path: module.number for module in catalog}
    touched = run.touched()
    edits: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        if cell.variant not in edits and not cell.is_baseline and cell.done:
            edits[cell.variant] = cell.record().get("edits", [])
    named = [path for parts in edits.values() for part in parts for path in part["modules"]]
    for path in named:
        numbers.setdefault(path, len(numbers))
    variants: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(cell.variant for cell in cells):
        parts = edits.get(name, [])
        own = sorted({numbers[path] for part in parts for path in part["modules"]})
        variants[name] = {
            "name": name,
            "touched": spans(touched.get(name, own)),
            "edits": [_edit(part, numbers) for part in parts],
        }
    rows: list[list[Any]] = [_row(module) for module in catalog]
    rows += [[path, "", "", "", "", 0] for path in numbers if numbers[path] >= len(catalog)]
    return rows, variants


def _row(module: ModuleInfo) -> list[Any]:
    return [
        module.path, module.kind, module.stage, module.block, module.role, module.parameters
    ]  # fmt: skip


def _edit(part: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    return {
        "op": str(part["op"]),
        "modules": spans(sorted({numbers[path] for path in part["modules"]})),
        "with": {key: webpage.told(v) for key, v in part.items() if key not in ("op", "modules")},
    }


def _facts(manifest: Mapping[str, Any]) -> list[str]:
    """How these images came about, a few words each, for the head of the page."""
    sampling, model = manifest.get("sampling") or {}, manifest.get("model") or {}
    facts = [str(model.get("id", ""))]
    words = {"num_inference_steps": "{} steps", "guidance_scale": "guidance {}", "scheduler": "{}"}
    varying = {axis["name"] for axis in manifest["axes"] if len(axis["values"]) > 1}
    facts += [
        form.format(sampling[k]) for k, form in words.items() if k in sampling and k not in varying
    ]
    if {"width", "height"} <= sampling.keys() - varying:
        facts.append(f"{sampling['width']} × {sampling['height']} px")
    facts += [str(manifest[key]) for key in ("dtype", "device") if manifest.get(key)]
    return [fact for fact in facts if fact]


def _settings(manifest: Mapping[str, Any]) -> list[list[str]]:
    """What is fixed for the whole run, as pairs of a dotted name and a value."""
    listed = {"format", "name", "about", "axes", "cells", "catalog", "touched", "floor"}
    return [
        [name, value]
        for key, part in manifest.items()
        if key not in listed
        for name, value in webpage.pairs(key, part)
    ]


def _recipe(run: Run) -> str:
    path = run.folder / "recipe.yaml"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
