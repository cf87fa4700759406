"""Activation atlas: what a layer distinguishes, on one page (Carter, Armstrong, Schubert, Johnson
and Olah 2019, Activation Atlas, Distill).

Vectors of one module from many samples, positions and moments are laid out on a plane and binned on
a grid. A bin is labeled by the concepts that are more common in it than elsewhere, and shown by the
input that drives the layer toward its mean and by the image patch whose vector is nearest to its
mean. Under edits, vectors are placed by the same layout: bins that they leave go dark.

    bins/GRID/layout.npz    the layout
    bins/GRID/R-C.png       feature visualizations; row 0 is on top
    patches/GRID/R-C.png
    atlas.json              of the latest grid

Each grid and method has separate files, so that returning to one reuses them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablate.store import Run, key_of, regular
from ablate.units.atlas.bins import (
    LEAST,
    LOST,
    Bins,
    assign,
    bin_vectors,
    concept_counts,
    darkened_concepts,
    label_bins,
)
from ablate.units.atlas.layout import Layout, check_method, fit
from ablate.units.atlas.pictures import PATCHES, PICTURES, cut_patches, render_bins
from ablate.units.atlas.vectors import Vectors, collect, plan_edits
from ablate.units.record.recording import is_picture
from ablate.units.record.setup import CLIP, StudyError
from ablate.units.record.study import Study

FILE = "atlas.json"
SPREAD = "even"  # of the axes, as keys and files have it; older atlases may have another
SETTINGS = ("method", "spread", "rows", "columns", "each")
LAYOUT = "layout.npz"
EACH, DENSE = 4, 32  # positions per sample and moment, for many moments or one
SPARSE = 0.25  # share of bins that are shown, below which a note says that there are few
ROUNDING = 1e-3  # relative difference up to which vectors are the same
Atlas = dict[str, Any]


def make_atlas(
    study: Study,
    path: str,
    *,
    rows: int = 20,
    columns: int = 20,
    method: str = "som",
    each: int | None = None,
    visualized: bool = True,
    edits: Sequence[Any] = (),
) -> Atlas:
    """Make the atlas of a module in a study's folder, continuing an earlier one.

    Args:
        study: The study.
        path: Module path.
        rows: Rows of the grid.
        columns: Columns of the grid.
        method: Layout, one of `ablate.units.atlas.layout.METHODS`.
        each: Positions per sample and moment; by default 4 of a denoiser that is recorded at all
            moments, else 32.
        visualized: Render feature visualizations of the bins, which takes most of the time.
        edits: Compare with a variant; see `compare_atlas`.

    Returns:
        The content of `atlas.json`.

    Raises:
        StudyError: Wrong settings, or too few vectors for any bin.
        RecipeError: Wrong edits.
        LayoutError: A layout that cannot be fitted.
        Stopped: After Ctrl-C.
    """
    check_method(method)
    if edits:  # before anything is written
        plan_edits(study, edits)
    if min(rows, columns) < 2:
        raise StudyError(f"an atlas of {rows} × {columns} bins is none; 2 × 2 is the least")
    if each is None:
        many = study.component != CLIP and not study.texts and study.setup.when is None
        each = EACH if many else DENSE
    settings = dict(zip(SETTINGS, (method, SPREAD, rows, columns, each), strict=True))
    vectors = collect(study, path, each)
    layout = _layout(study, vectors, settings)
    bins = bin_vectors(layout, vectors, rows, columns)
    if not len(bins.shown):
        raise StudyError(_too_few(len(vectors), 0, rows, columns))
    atlas = _describe(study, path, settings, vectors, bins)
    cut_patches(study, vectors, bins, atlas["grid"])
    write_atlas(study, atlas)
    if visualized:
        render_bins(study, path, layout, vectors, bins, atlas["grid"])
        write_atlas(study, atlas)
    return compare_atlas(study, path, edits) if edits else atlas


def _too_few(vectors: int, shown: int, rows: int, columns: int) -> str:
    """A sentence on few or no bins with enough vectors, and what helps."""
    side = max(int((vectors / (2 * LEAST)) ** 0.5), 2)  # bins of twice as many on average
    enough = vectors >= side**2 * LEAST  # for one bin at least
    fewer = f"fewer `--rows` and `--columns`, such as {side} × {side}, or " if enough else ""
    have = "has" if shown < 2 else "have"
    some = f"Only {shown}" if shown else "none"
    return (
        f"{some} of {rows} × {columns} bins {have} the {LEAST} vectors that one needs, of"
        f" {vectors:,} in all; {fewer}more `--seeds` or `--concepts` fill them"
    )


def _notes(atlas: Atlas) -> list[str]:
    """Notes on the quality of an atlas."""
    shown, rows, columns = len(atlas["bins"]), atlas["rows"], atlas["columns"]
    sparse = shown < SPARSE * rows * columns
    return [f"{_too_few(atlas['vectors'], shown, rows, columns)}."] if sparse else []


def read_atlas(folder: Path) -> Atlas:
    """Read `atlas.json` of a study's folder.

    Raises `StudyError` where there is none, or it cannot be read or is of another version.
    """
    path = folder / FILE
    try:
        atlas: Atlas = json.loads(regular(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"there is no atlas in {folder}; `ablate units atlas` makes one") from None
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{path} cannot be read: {error}") from error
    if not isinstance(atlas, dict) or not {*SETTINGS, "grid", "module", "bins"} <= {*atlas}:
        raise StudyError(f"{path} is not of this version; make the atlas again")
    if atlas["spread"] != SPREAD:
        raise StudyError(
            f"{path} has axes by `{atlas['spread']}`, which this version does not place vectors"
            " on; make the atlas again"
        )
    return atlas


def write_atlas(study: Study, atlas: Atlas) -> None:
    """Write `atlas.json`, with the pictures of bins that exist by now."""
    for one in atlas["bins"]:
        name = f"{atlas['grid']}/{one['row']}-{one['column']}.png"
        for key, folder in (("picture", PICTURES), ("patch", PATCHES)):
            there = is_picture(study.folder / folder / name)
            one[key] = f"{folder}/{name}" if there else None
    Run(study.folder).write_text(FILE, json.dumps(atlas, indent=1) + "\n")


def _layout(study: Study, vectors: Vectors, settings: Mapping[str, Any]) -> Layout:
    """The layout in the folder, or a new one, which removes the pictures of a previous one."""
    key, grid = _key(vectors, settings), _grid(vectors, settings)
    path = study.folder / PICTURES / grid / LAYOUT
    layout = Layout.load(path, key)
    if layout is None:
        for folder in (PICTURES, PATCHES):
            shutil.rmtree(study.folder / folder / grid, ignore_errors=True)
        study.progress.start("layouts", 1)
        study.progress.update(0)
        layout = fit(vectors.chunks, settings["method"], settings["rows"], settings["columns"])
        layout.save(path, key)
        study.progress.update(1)
    return layout


def _grid(vectors: Vectors, settings: Mapping[str, Any]) -> str:
    """The folder name of a grid."""
    return f"{settings['rows']}x{settings['columns']}-{_key(vectors, settings)[:8]}"


def _key(vectors: Vectors, settings: Mapping[str, Any]) -> str:
    return key_of({**settings, **vectors.about, "vectors": len(vectors)})


def _describe(
    study: Study, path: str, settings: Mapping[str, Any], vectors: Vectors, bins: Bins
) -> Atlas:
    """The content of `atlas.json`, without pictures."""
    samples, names = vectors.places()["sample"], study.setup.stimuli.concepts
    labels = label_bins(bins, samples, study.concepts, names)
    when = study.setup.when
    atlas = {
        "module": path,
        "component": study.component,
        "model": study.pipeline.model,
        **settings,
        "grid": _grid(vectors, settings),
        "vectors": len(vectors),
        "samples": vectors.done,
        "outside": int((bins.assigned < 0).sum()),
        "when": when.as_json() if when else None,
        "concepts": list(names),
        "bins": [
            {
                "row": int(number // bins.columns),
                "column": int(number % bins.columns),
                "count": int(bins.count[number]),
                "concepts": labels[number],
                "picture": None,
                "patch": None,
                "variant": None,
            }
            for number in bins.shown.tolist()
        ],
        "variant": None,
        "dark": [],
    }
    return {**atlas, "notes": _notes(atlas)}


def compare_atlas(study: Study, path: str, edits: Sequence[Any]) -> Atlas:
    """Place the vectors of a variant on the atlas in a study's folder, and record what goes dark.

    Bins get the counts of the variant. `dark` lists concepts whose vectors left the bins where
    their lift is 2 or more: vectors there before and after, and the share that is gone; `dark_bins`
    the bins that lost most; `notes` says where the edits do not reach the module.

    Args:
        study: The study.
        path: Module path of the atlas.
        edits: Edits, as recipes write them.

    Raises:
        StudyError: No atlas of this module, or edits that cannot be recorded.
    """
    atlas = read_atlas(study.folder)
    plan_edits(study, edits)
    settings = {name: atlas[name] for name in SETTINGS}
    if atlas["module"] != path or atlas["component"] != study.component:
        raise StudyError(
            f"the atlas in {study.folder} is of `{atlas['module']}` of `{atlas['component']}`, not"
            f" of `{path}`; make one of it, in another folder"
        )
    baseline = collect(study, path, atlas["each"])
    file = study.folder / PICTURES / atlas["grid"] / LAYOUT
    layout = Layout.load(file, _key(baseline, settings))
    if layout is None:
        raise StudyError(f"{file} is not the layout of this atlas; make it again")
    variant = collect(study, path, atlas["each"], edits=edits)
    rows, columns, names = atlas["rows"], atlas["columns"], study.setup.stimuli.concepts
    concepts = np.array(study.concepts)
    assigned = [assign(layout, vectors, rows, columns) for vectors in (baseline, variant)]
    before, after = (
        concept_counts(concepts[vectors.places()["sample"]], bins, rows * columns, len(names))
        for vectors, bins in zip((baseline, variant), assigned, strict=True)
    )
    for one in atlas["bins"]:
        one["variant"] = int(after[one["row"] * columns + one["column"]].sum())
    atlas["variant"] = ", ".join(edit_name(op, body) for edit in edits for op, body in edit.items())
    atlas["variant_vectors"] = len(variant)
    atlas["variant_outside"] = int((assigned[1] < 0).sum())
    atlas["dark"] = darkened_concepts(before, after, names)
    atlas["dark_bins"] = [
        {"row": one["row"], "column": one["column"], "before": one["count"],
         "after": one["variant"], "concepts": one["concepts"]}
        for one in sorted(atlas["bins"], key=lambda b: (b["variant"] / b["count"], -b["count"]))
        if one["variant"] <= (1 - LOST) * one["count"]
    ]  # fmt: skip
    atlas["notes"] = _notes(atlas)
    deviation = (layout.total / baseline.units) ** 0.5
    if baseline.equals(variant, ROUNDING, deviation * ROUNDING):
        atlas["notes"].append(
            f"The edits change nothing that reaches `{path}`: its vectors are the baseline's."
        )
    write_atlas(study, atlas)
    return atlas


def edit_name(op: str, body: Mapping[str, Any]) -> str:
    """A short name of an edit: `zero conv_in`, or `zero 10 % of units (most for cat; study)`."""
    units = body.get("units")
    if not isinstance(units, Mapping):
        return f"{op} {body.get('modules', '')}".strip()
    order, concept = units.get("order", "most"), units.get("concept")
    which = f"{order} for {concept}" if concept else f"{order} selective"
    which = "random" if order == "random" else which
    size = f"{100 * units['fraction']:g} % of" if "fraction" in units else units.get("count")
    within = f"; {units['modules']}" if "modules" in units else ""
    return f"{op} {size} units ({which}; {Path(str(units.get('run'))).name}{within})"
