"""What `run.json` contains, checked once where it is read."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.store.files import StoreError, regular

FORMAT = 1  # of the run folder; raised when an older reader would misread it
WRITES = "`ablate run {0}/recipe.yaml --out {0}` writes it again"
AXIS = {"name": str, "values": list, "labels": [str], "note?": str}
CELL = {"key": str, "prompt": str, "seed": int, "group?": int, "point?": bool}
SPAN = re.compile(r"(\d{1,9}(-\d{1,9})?)?")  # numbers of modules
# The shape of it: mappings with what they need (and may have: `?`), lists of one kind, types.
SHAPE = {
    "name": str,
    "about?": (str, type(None)),
    "model": {"id": str, "fingerprint": str},
    "device": str,
    "dtype": str,
    "sampling": dict,
    "axes": [AXIS],
    "cells": [CELL | {"variant": str, "axes": dict, "baseline": str}],
    "floor?": [CELL],
    "sheet?": (dict, type(None)),
    "clip?": (str, type(None)),
    "readers?": [str],
    "metrics?": [str],
    "code?": {"file": str, "metrics": [str]},
    "vocabulary?": (list, type(None)),
    "notes?": [str],  # of texts
    "touched?": dict,
    "same?": dict,
    "catalog?": [list],
}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read the `run.json` of a folder. Raises `StoreError` if there is none or it is damaged."""
    path, again = folder / "run.json", WRITES.format(folder)
    try:
        manifest = json.loads(regular(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StoreError(f"{folder} is not a run: it has no run.json") from None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read: {error}; {again}") from error
    if not isinstance(manifest, dict):
        raise StoreError(f"{path} cannot be read: it is no mapping; {again}")
    if manifest.get("format") != FORMAT:
        raise StoreError(
            f"{path} has format {str(manifest.get('format'))[:40]}; this version reads {FORMAT};"
            f" {again}"
        )
    if problem := _mismatch(manifest, SHAPE, "") or _contradiction(manifest):
        raise StoreError(f"{path} cannot be read: {problem}; {again}")
    return manifest


def _mismatch(value: Any, shape: Any, where: str) -> str | None:
    """Where a value is not of a shape, and what would be right."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"`{where}` is no mapping"
        for key, inner in shape.items():
            name = key.removesuffix("?")
            if name not in value and name == key:
                return f"it has no `{where}{'.' * bool(where)}{name}`"
            if name in value and (
                problem := _mismatch(value[name], inner, f"{where}{'.' * bool(where)}{name}")
            ):
                return problem
        return None
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"`{where}` is no list"
        problems = (_mismatch(item, shape[0], f"{where}[{i}]") for i, item in enumerate(value))
        return next(filter(None, problems), None)
    if not isinstance(value, shape) or (isinstance(value, bool) and shape is int):
        kinds = shape if isinstance(shape, tuple) else (shape,)
        return f"`{where}` is not of the type {' or '.join(kind.__name__ for kind in kinds)}"
    return None


def _contradiction(manifest: Mapping[str, Any]) -> str | None:
    """What does not fit together in a manifest of the right shape."""
    for i, axis in enumerate(manifest["axes"]):
        if len(axis["values"]) != len(axis["labels"]):
            return f"`axes[{i}]` has {len(axis['values'])} values and {len(axis['labels'])} labels"
    axes = {axis["name"] for axis in manifest["axes"]}
    for i, cell in enumerate(manifest["cells"]):
        if unknown := cell["axes"].keys() - axes:
            return f"`cells[{i}]` has a value of an unknown axis `{min(unknown)}`"
    if not all(isinstance(word, str) for word in manifest.get("vocabulary") or ()):
        return "`vocabulary` is no list of texts"
    for i, row in enumerate(manifest.get("catalog", [])):
        if [type(field) for field in row] != [str] * 5 + [int]:
            return f"`catalog[{i}]` is no module"
    for name, spans in manifest.get("touched", {}).items():
        if not isinstance(spans, str) or not all(map(SPAN.fullmatch, spans.split(","))):
            return f"`touched.{name}` is no list of numbers"
    for name, other in manifest.get("same", {}).items():
        if not isinstance(other, str):
            return f"`same.{name}` is no name of a variant"
    return None
