"""Activation atlas: what a layer tells apart, on one page (Carter, Armstrong, Schubert, Johnson and
Olah 2019, Activation Atlas, Distill).

Vectors of one module from many samples, positions and moments are laid out in two dimensions and
binned on a grid. A bin is labeled by the concepts that are commoner in it than elsewhere, and shown
by the input that drives the layer toward its mean and by the patch of an image whose vector is most
like its mean. Under edits, vectors are placed by the same map: what they leave goes dark.

    bins/GRID/layout.npz    the map (`ablate.units.layout`)
    bins/GRID/R-C.png       feature visualizations; row 0 is on top
    patches/GRID/R-C.png
    atlas.json              of the grid that was made last

Another grid, or another method, has files of its own: coming back to one finds them again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ablate.engine import compute_cell, stoppable, with_keys
from ablate.store import Run, atomic_write, key_of
from ablate.units.atlas.bins import (
    LEAST,
    LOST,
    Bins,
    binned,
    central,
    darkened,
    labels,
    middles_of,
    placed,
    tally,
)
from ablate.units.atlas.layout import Layout, check, fit
from ablate.units.atlas.vectors import Vectors, alike, collect, planned, size_of
from ablate.units.record.layers import grid_of
from ablate.units.record.recording import is_picture, open_picture
from ablate.units.record.study import CLIP, Study, StudyError
from ablate.units.visualize import visualize
from ablate.units.visualize.objectives import HEADS, Objective, Outputs

FILE = "atlas.json"
SETTINGS = ("method", "spread", "rows", "columns", "each")
LAYOUT = "layout.npz"
PICTURES, PATCHES = "bins", "patches"
EACH, DENSE = 4, 32  # positions of a sample and moment, where there are many moments or one
CONTEXT = 2.5  # positions that a patch spans
NARROWEST, WIDEST = 0.25, 0.75  # of an image
LARGEST = 128  # pixels of a patch's side
POWER = 2.0  # of the cosine in the objective
BATCH = 32  # pictures that are made together
SPARSE = 0.25  # share of bins that are shown, below which an atlas is told to be thin
ROUNDING = 1e-3  # of a deviation and of a value: what differs by less is the same
Atlas = dict[str, Any]
Tell = Callable[[int, int], None]  # how much is done, of how much


def make(
    study: Study,
    path: str,
    *,
    rows: int = 20,
    columns: int = 20,
    method: str = "som",
    spread: str = "even",
    each: int | None = None,
    visualized: bool = True,
    edits: Sequence[Any] = (),
) -> Atlas:
    """Make the atlas of a module into a study's folder, going on where an earlier time stopped.

    `method`, `spread`: `ablate.units.layout.fit`. `each`: positions of a sample and moment, by
    itself 4 of a denoiser that is recorded at all moments, else 32. `visualized`: whether bins get
    pictures by feature visualization, which take most of the time. `edits`: see `compare`. Raises
    `StudyError`, also where vectors are too few for any bin, `RecipeError`, `LayoutError`, or
    `Stopped` after Ctrl-C.
    """
    check(method, spread)
    if edits:  # which may be wrong, and nothing is made then
        planned(study, edits)
    if min(rows, columns) < 2:
        raise StudyError(f"an atlas of {rows} × {columns} bins is none; 2 × 2 is the least")
    if each is None:
        many = study.component != CLIP and not study.texts and study.setup.when is None
        each = EACH if many else DENSE
    settings = {"method": method, "spread": spread, "rows": rows, "columns": columns, "each": each}
    vectors = collect(study, path, each)
    layout = _laid(study, vectors, settings)
    bins = binned(layout, vectors, rows, columns)
    if not len(bins.shown):
        raise StudyError(_few(len(vectors), 0, rows, columns))
    told = _told(study, path, settings, vectors, bins)
    cut(study, vectors, bins, told["grid"])
    write(study, told)
    if visualized:
        draw(study, path, layout, vectors, bins, told["grid"])
        write(study, told)
    return compare(study, path, edits) if edits else told


def _few(vectors: int, shown: int, rows: int, columns: int) -> str:
    """What is to be said of an atlas with few bins or none, and what helps."""
    side = max(int((vectors / (2 * LEAST)) ** 0.5), 2)  # bins of twice as many in the mean
    enough = vectors >= side**2 * LEAST  # so that one at least holds them
    fewer = f"fewer `--rows` and `--columns`, such as {side} × {side}, or " if enough else ""
    hold = "holds" if shown < 2 else "hold"
    some = f"Only {shown}" if shown else "none"
    return (
        f"{some} of {rows} × {columns} bins {hold} the {LEAST} vectors that one needs, of"
        f" {vectors:,} in all; {fewer}more `--seeds` or `--concepts` fill them"
    )


def _notes(told: Atlas) -> list[str]:
    """What is to be said of an atlas."""
    shown, rows, columns = len(told["bins"]), told["rows"], told["columns"]
    thin = shown < SPARSE * rows * columns
    return [f"{_few(told['vectors'], shown, rows, columns)}."] if thin else []


def read(folder: Path) -> Atlas:
    """`atlas.json` of a study's folder. Raises `StudyError`."""
    try:
        found: Atlas = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"there is no atlas in {folder}; `ablate units atlas` makes one") from None
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{folder / FILE} cannot be read: {error}") from error
    if not isinstance(found, dict) or not {*SETTINGS, "grid", "module", "bins"} <= {*found}:
        raise StudyError(f"{folder / FILE} is none of this version; make the atlas anew")
    return found


def write(study: Study, told: Atlas) -> None:
    """Write `atlas.json`; bins name the pictures that are there by now."""
    for one in told["bins"]:
        name = f"{told['grid']}/{one['row']}-{one['column']}.png"
        for key, folder in (("picture", PICTURES), ("patch", PATCHES)):
            there = is_picture(study.folder / folder / name)
            one[key] = f"{folder}/{name}" if there else None
    Run(study.folder).write_text(FILE, json.dumps(told, indent=1) + "\n")


def _laid(study: Study, vectors: Vectors, settings: dict[str, Any]) -> Layout:
    """The layout that lies in the folder, or a new one, with which pictures of another go."""
    key, grid = _key(vectors, settings), _grid(vectors, settings)
    path = study.folder / PICTURES / grid / LAYOUT
    layout = Layout.load(path, key)
    if layout is None:
        for folder in (PICTURES, PATCHES):
            shutil.rmtree(study.folder / folder / grid, ignore_errors=True)
        study.progress.start("layouts", 1)
        study.progress.update(0)
        layout = fit(vectors.chunks, *(settings[name] for name in SETTINGS[:4]))
        layout.save(path, key)
        study.progress.update(1)
    return layout


def _grid(vectors: Vectors, settings: dict[str, Any]) -> str:
    """The name of what is laid out so, as folders are called."""
    return f"{settings['rows']}x{settings['columns']}-{_key(vectors, settings)[:8]}"


def _key(vectors: Vectors, settings: dict[str, Any]) -> str:
    return key_of({**settings, **vectors.about, "vectors": len(vectors)})


def _told(study: Study, path: str, settings: dict[str, Any], vectors: Vectors, bins: Bins) -> Atlas:
    """What `atlas.json` says, before there are pictures."""
    samples, names = vectors.places()["sample"], study.setup.stimuli.concepts
    named = labels(bins, samples, study.concepts, names)
    when = study.setup.when
    told = {
        "module": path,
        "component": study.component,
        "model": study.pipeline.model,
        **settings,
        "grid": _grid(vectors, settings),
        "vectors": len(vectors),
        "samples": vectors.done,
        "outside": int((bins.of < 0).sum()),
        "when": when.as_json() if when else None,
        "concepts": list(names),
        "bins": [
            {
                "row": int(number // bins.columns),
                "column": int(number % bins.columns),
                "count": int(bins.count[number]),
                "concepts": named[number],
                "picture": None,
                "patch": None,
                "variant": None,
            }
            for number in bins.shown.tolist()
        ],
        "variant": None,
        "dark": [],
    }
    return {**told, "notes": _notes(told)}


def cut(study: Study, vectors: Vectors, bins: Bins, grid: str) -> None:
    """Cut, for each bin that is shown, the patch of an image whose vector is nearest to its mean,
    into a folder of `patches/`; the whole image where a layer is no map of it. What reads texts has
    no patches."""
    if study.texts:
        return
    best, places = central(vectors, bins), vectors.places()
    shots = with_keys(study.samples, study.pipeline)
    for number in bins.shown.tolist():
        path = study.folder / PATCHES / grid / f"{bins.name(number)}.png"
        if is_picture(path):
            continue
        place = places[best[number]]
        picture = study.pictures.path(shots[place["sample"]].key)
        if is_picture(picture):
            patch = open_picture(picture)
        else:  # gone, or broken, since it was recorded
            patch = Image.fromarray(compute_cell(study.samples[place["sample"]], study.pipeline)[1])
        if study.component == CLIP:
            patch = _squared(patch)
        if np.isfinite(place["y"]):
            patch = patch.crop(
                box(float(place["y"]), float(place["x"]), vectors.rows, patch.width, patch.height)
            )
        patch.thumbnail((LARGEST, LARGEST))
        _save(patch, path)


def box(y: float, x: float, rows: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The square of an image around a place, in pixels: left, top, right, bottom. It spans 2.5
    positions of a map of so many rows, and at least a quarter of the image; at the edges it is
    moved inside."""
    share = min(max(CONTEXT / rows, NARROWEST), WIDEST)
    side = max(1, round(share * min(width, height)))
    left = min(max(round(x * width - side / 2), 0), width - side)
    top = min(max(round(y * height - side / 2), 0), height - side)
    return left, top, left + side, top + side


def _squared(image: Image.Image) -> Image.Image:
    """The middle square, which is what a CLIP model sees."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _save(image: Image.Image, path: Path) -> None:
    """Write a picture whole or not at all."""
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def draw(
    study: Study,
    path: str,
    layout: Layout,
    vectors: Vectors,
    bins: Bins,
    grid: str,
) -> None:
    """Visualize the bins that are shown into a folder of `bins/`, many at once; those that are
    there stay.

    What reads texts has no pictures. Raises `Stopped` after Ctrl-C.
    """
    optimized = _optimizer(study)
    if optimized is None:
        return
    shown = bins.shown.tolist()
    paths = {n: study.folder / PICTURES / grid / f"{bins.name(n)}.png" for n in shown}
    todo = [n for n in shown if not is_picture(paths[n])]
    before = len(shown) - len(todo)
    study.progress.start("bins", len(shown), before)
    if todo:
        study.progress.update(before)
    name = path + HEADS if study.setup.kind == "heads" else path
    # A denoiser's bins lie each about one place of the picture, and are made clear there; of an
    # image encoder, in the mean over positions, whole pictures fill with what a bin stands for.
    size = None if study.component == CLIP else size_of(study)
    middles = middles_of(vectors, bins)
    with stoppable(study.pipeline) as check_stop:
        for start in range(0, len(todo), BATCH):
            some = todo[start : start + BATCH]

            def tell(step: int, total: int, start: int = start, count: int = len(some)) -> None:
                check_stop()
                study.progress.update(before + start + count * step // total)

            away = bins.mean[some] - layout.mean
            goal = Goal(name, away, layout.whitened(away), layout.mean, middles[some], size)
            for number, image in zip(some, optimized(goal.objective(), tell), strict=True):
                _save(_picture(image), paths[number])
            check_stop()


def _optimizer(study: Study) -> Callable[[Objective, Tell], np.ndarray] | None:
    """What finds the inputs that an objective's rows are largest for, as images (rows, height,
    width, 3) in [0, 1]."""
    reader, pipeline = study.reader, study.pipeline
    # Bins are of plain inputs too: none need start from silence.
    seen, made = (replace(a, quieting=0) for a in (visualize.IMAGE, visualize.DENOISER))
    if study.texts:
        return None
    if study.component == CLIP and reader is not None:
        return lambda goal, tell: visualize.of_image(reader, [goal], (0,), seen, tell).images
    if study.component == pipeline.denoiser_name:
        level = _level(study)
        return lambda goal, tell: (
            visualize.of_latent(pipeline, [goal], level, ascent=made, on_step=tell).images
        )
    return None


def _level(study: Study) -> float:
    """The noise level in the middle of the recorded moments, as if levels fell evenly."""
    when = study.setup.when
    if when is None:
        return visualize.LEVEL
    middle = (when.first + when.last) / 2
    if when.by == "steps":
        middle /= study.plan.recipe.sampling.num_inference_steps
    return min(max(middle if when.by == "t" else 1 - middle, 0.02), 1.0)


@dataclass(frozen=True)
class Goal:
    """What inputs are optimized for: from the mean of all vectors toward those of bins.

    `directions`, `whitened` (rows, units): a bin each, the latter as `Layout.whitened` has them;
    `mean` (units,); `places` (rows, 2): y and x of the position that is looked at, NaN for the mean
    of all; `size`: height and width of what the network sees.
    """

    path: str
    directions: np.ndarray
    whitened: np.ndarray
    mean: np.ndarray
    places: np.ndarray
    size: tuple[int, int] | None

    def objective(self) -> Objective:
        """The dot product with the whitened direction, times the cosine with the direction as it is
        to a power, a row of the batch each.

        Carter et al. 2019: the whitened dot product makes pictures of what is special about a
        direction, the cosine keeps them from what merely drives the layer hard.
        """
        mean, plain, white = (
            torch.as_tensor(a, dtype=torch.float32)
            for a in (self.mean, self.directions, self.whitened)
        )

        def of(outputs: Outputs, row: int | None) -> Tensor:
            given = outputs[self.path]
            rows = slice(None) if row is None else slice(row, row + 1)
            away = self.looked_at(given, rows) - mean.to(given)
            dot = (away * white[rows].to(given)).sum(1)
            cosine = F.cosine_similarity(away, plain[rows].to(given), dim=-1)
            # What lies the wrong way goes back first: a cosine would count for it.
            return torch.where(dot > 0, dot * cosine.clamp_min(0.1).pow(POWER), dot)

        digest = key_of({"directions": self.directions.tolist(), "places": self.places.tolist()})
        text = f"toward('{self.path}', {digest[:12]})"
        return Objective(text, (self.path,), of, len(self.directions))

    def looked_at(self, given: Tensor, rows: slice) -> Tensor:
        """What a layer gave (rows, units, *positions) at the position of each row (rows, units)."""
        if given.dim() == 2:
            return given
        flat = given.flatten(2)
        grid = grid_of(flat.shape[2], *self.size) if self.size else None
        places = self.places[rows]
        if grid is None or not np.isfinite(places).all():
            return flat.mean(2)
        skipped, down, across = grid
        spots = np.minimum((places * [down, across]).astype(int), [down - 1, across - 1])
        numbers = torch.as_tensor(skipped + spots @ [across, 1], device=flat.device)
        wide = numbers[:, None, None].expand(len(flat), flat.shape[1], 1)
        return flat.gather(2, wide)[..., 0]


def _picture(image: np.ndarray) -> Image.Image:
    return Image.fromarray((np.nan_to_num(image).clip(0, 1) * 255).round().astype(np.uint8))


def compare(study: Study, path: str, edits: Sequence[Any]) -> Atlas:
    """Place what the layer gives under edits on the atlas that lies in the folder, and tell in it
    what went dark.

    `edits`: as recipes write them. Bins get the counts of the variant. `dark`: concepts that left
    their own bins, those where their lift is 2 or more: their vectors there before and after, and
    the share that is gone; `dark_bins`: bins that lost most; `notes`: that the edits do not reach
    the module, where they do not. Raises `StudyError` where there is no atlas of this module, or
    for edits that cannot be recorded.
    """
    told = read(study.folder)
    planned(study, edits)
    settings = {name: told[name] for name in SETTINGS}
    if told["module"] != path or told["component"] != study.component:
        raise StudyError(
            f"the atlas in {study.folder} is of `{told['module']}` of `{told['component']}`, not of"
            f" `{path}`; make one of it, in a folder of its own"
        )
    baseline = collect(study, path, told["each"])
    file = study.folder / PICTURES / told["grid"] / LAYOUT
    layout = Layout.load(file, _key(baseline, settings))
    if layout is None:
        raise StudyError(f"{file} is not the layout of this atlas; make it anew")
    variant = collect(study, path, told["each"], edits=edits)
    rows, columns, names = told["rows"], told["columns"], study.setup.stimuli.concepts
    concepts = np.array(study.concepts)
    of = [placed(layout, vectors, rows, columns) for vectors in (baseline, variant)]
    before, after = (
        tally(concepts[vectors.places()["sample"]], own, rows * columns, len(names))
        for vectors, own in zip((baseline, variant), of, strict=True)
    )
    for one in told["bins"]:
        one["variant"] = int(after[one["row"] * columns + one["column"]].sum())
    told["variant"] = ", ".join(named(op, body) for edit in edits for op, body in edit.items())
    told["variant_vectors"] = len(variant)
    told["variant_outside"] = int((of[1] < 0).sum())
    told["dark"] = darkened(before, after, names)
    told["dark_bins"] = [
        {"row": one["row"], "column": one["column"], "before": one["count"],
         "after": one["variant"], "concepts": one["concepts"]}
        for one in sorted(told["bins"], key=lambda b: (b["variant"] / b["count"], -b["count"]))
        if one["variant"] <= (1 - LOST) * one["count"]
    ]  # fmt: skip
    told["notes"] = _notes(told)
    if alike(baseline, variant, ROUNDING, (layout.total / baseline.units) ** 0.5):
        told["notes"].append(
            f"The edits change nothing that reaches `{path}`: its vectors are the baseline's."
        )
    write(study, told)
    return told


def named(op: str, body: Mapping[str, Any]) -> str:
    """An edit in short: `zero conv_in`, or `zero 10 % of units (most for cat; my-study)`."""
    units = body.get("units")
    if not isinstance(units, Mapping):
        return f"{op} {body.get('modules', '')}".strip()
    order, concept = units.get("order", "most"), units.get("concept")
    which = f"{order} for {concept}" if concept else f"{order} selective"
    which = "random" if order == "random" else which
    size = f"{100 * units['fraction']:g} % of" if "fraction" in units else units.get("count")
    within = f"; {units['modules']}" if "modules" in units else ""
    return f"{op} {size} units ({which}; {Path(str(units.get('run'))).name}{within})"
