"""Activation atlas: what a layer tells apart, on one page (Carter, Armstrong, Schubert, Johnson and
Olah 2019, Activation Atlas, Distill).

Vectors of one module from many samples, positions and moments are laid out in two dimensions and
binned on a grid. A bin is labeled by the concepts that are commoner in it than elsewhere, and shown
by the input that drives the layer toward its mean and by the patch of an image whose vector is most
like its mean. Under edits, vectors are placed by the same map: what they leave goes dark.

    layout.npz           the map (`ablate.units.layout`)
    bins/R-C.png         feature visualizations; row 0 is on top
    patches/R-C.png
    atlas.json
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ablate import engine
from ablate.sampling import Stopped
from ablate.store import Run, key_of, whole
from ablate.units import visualize
from ablate.units.bins import (
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
from ablate.units.clock import Clock, Watch
from ablate.units.layers import grid_of
from ablate.units.layout import Layout, fit
from ablate.units.objectives import HEADS, Objective, Outputs
from ablate.units.study import CLIP, Study, StudyError
from ablate.units.vectors import Vectors, collect, planned, size_of

FILE = "atlas.json"
LAYOUT = "layout.npz"
PICTURES, PATCHES = "bins", "patches"
EACH, DENSE = 4, 32  # positions of a sample and moment, where there are many moments or one
CONTEXT = 2.5  # positions that a patch spans
NARROWEST, WIDEST = 0.25, 0.75  # of an image
LARGEST = 128  # pixels of a patch's side
POWER = 2.0  # of the cosine in the objective
BATCH = 32  # pictures that are made together

Atlas = dict[str, Any]


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
    watch: Watch | None = None,
) -> Atlas:
    """Make the atlas of a module into a study's folder, going on where an earlier time stopped.

    `method`, `spread`: `ablate.units.layout.fit`. `each`: positions of a sample and moment, by
    itself 4 of a denoiser that is recorded at all moments, else 32. `visualized`: whether bins get
    pictures by feature visualization, which take most of the time. `edits`: see `compare`. Raises
    `StudyError`, `RecipeError`, `LayoutError`, or `Stopped` after Ctrl-C.
    """
    if edits:  # which may be wrong, and nothing is made then
        planned(study, edits)
    if min(rows, columns) < 2:
        raise StudyError(f"an atlas of {rows} × {columns} bins is none; 2 × 2 is the least")
    if each is None:
        many = study.component != CLIP and not study.texts and study.setup.when is None
        each = EACH if many else DENSE
    settings = {"method": method, "spread": spread, "rows": rows, "columns": columns, "each": each}
    vectors = collect(study, path, each, watch=watch)
    layout = _laid(study, vectors, settings)
    bins = binned(layout, vectors, rows, columns)
    told = _told(study, path, settings, vectors, bins)
    cut(study, vectors, bins)
    write(study, told)
    if visualized:
        draw(study, path, layout, vectors, bins, watch)
        write(study, told)
    return compare(study, path, edits, watch) if edits else told


def read(folder: Path) -> Atlas:
    """`atlas.json` of a study's folder. Raises `StudyError`."""
    try:
        found: Atlas = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"there is no atlas in {folder}; `ablate units atlas` makes one") from None
    except ValueError as error:
        raise StudyError(f"{folder / FILE} cannot be read: {error}") from error
    return found


def write(study: Study, told: Atlas) -> None:
    """Write `atlas.json`; bins name the pictures that are there by now."""
    for one in told["bins"]:
        name = f"{one['row']}-{one['column']}.png"
        for key, folder in (("picture", PICTURES), ("patch", PATCHES)):
            there = (study.folder / folder / name).exists()
            one[key] = f"{folder}/{name}" if there else None
    Run(study.folder).write_text(FILE, json.dumps(told, indent=1) + "\n")


def _laid(study: Study, vectors: Vectors, settings: dict[str, Any]) -> Layout:
    """The layout that lies in the folder, or a new one, with which pictures of another go."""
    path, key = study.folder / LAYOUT, _key(vectors, settings)
    layout = Layout.load(path, key)
    if layout is None:
        for folder in (PICTURES, PATCHES):
            shutil.rmtree(study.folder / folder, ignore_errors=True)
        method, spread, rows, columns = (
            settings[name] for name in ("method", "spread", "rows", "columns")
        )
        layout = fit(vectors.chunks, method, spread, rows, columns)
        layout.save(path, key)
    return layout


def _key(vectors: Vectors, settings: dict[str, Any]) -> str:
    return key_of({**settings, **vectors.about, "vectors": len(vectors)})


def _told(study: Study, path: str, settings: dict[str, Any], vectors: Vectors, bins: Bins) -> Atlas:
    """What `atlas.json` says, before there are pictures."""
    samples, names = vectors.places()["sample"], study.setup.stimuli.concepts
    named = labels(bins, samples, study.concepts, names)
    when = study.setup.when
    return {
        "module": path,
        "component": study.component,
        "model": study.pipeline.model,
        **settings,
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


# ---------------------------------------------------------------- patches


def cut(study: Study, vectors: Vectors, bins: Bins) -> None:
    """Cut, for each bin that is shown, the patch of an image whose vector is nearest to its mean,
    into `patches/`; the whole image where a layer is no map of it. Images that do not exist, as of
    what reads texts, have no patches."""
    best, places = central(vectors, bins), vectors.places()
    shots = engine.shots_of(study.samples, study.pipeline)
    for number in bins.shown.tolist():
        path = study.folder / PATCHES / f"{bins.name(number)}.png"
        place = places[best[number]]
        picture = study.pictures.path(shots[place["sample"]].key)
        if path.exists() or not picture.exists():
            continue
        with Image.open(picture) as image:
            seen = _squared(image.convert("RGB")) if study.component == CLIP else image
            patch = seen.convert("RGB")
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
    with whole(path) as temporary:
        image.save(temporary, format="PNG")


# ---------------------------------------------------------------- pictures


def draw(
    study: Study,
    path: str,
    layout: Layout,
    vectors: Vectors,
    bins: Bins,
    watch: Watch | None = None,
) -> None:
    """Visualize the bins that are shown into `bins/`, many at once; those that are there stay.

    What reads texts has no pictures. Raises `Stopped` after Ctrl-C.
    """
    optimized = _optimizer(study)
    if optimized is None:
        return
    folder = study.folder / PICTURES
    shown = bins.shown.tolist()
    todo = [n for n in shown if not (folder / f"{bins.name(n)}.png").exists()]
    clock = Clock(len(shown), len(shown) - len(todo), watch)
    name = path + HEADS if study.setup.kind == "heads" else path
    # A denoiser's bins lie each about one place of the picture, and are made clear there; of an
    # image encoder, in the mean over positions, whole pictures fill with what a bin stands for.
    size = None if study.component == CLIP else size_of(study)
    middles = middles_of(vectors, bins)
    with engine.stoppable(study.pipeline):
        for start in range(0, len(todo), BATCH):
            some = todo[start : start + BATCH]
            away = bins.mean[some] - layout.mean
            goal = Goal(name, away, layout.whitened(away), layout.mean, middles[some], size)
            for number, image in zip(some, optimized(goal.objective()), strict=True):
                _save(_picture(image), folder / f"{bins.name(number)}.png")
            clock(len(shown) - len(todo) + start + len(some))
            if study.pipeline.stop():
                raise Stopped


def _optimizer(study: Study) -> Callable[[Objective], np.ndarray] | None:
    """What finds the inputs that an objective's rows are largest for, as images (rows, height,
    width, 3) in [0, 1]."""
    reader, pipeline = study.reader, study.pipeline
    if study.texts:
        return None
    if study.component == CLIP and reader is not None:

        def heed(_done: int, _total: int) -> None:
            if pipeline.stop():
                raise Stopped

        return lambda objective: visualize.of_image(reader, [objective], on_step=heed).images
    if study.component == pipeline.denoiser_name:
        level = _level(study)
        return lambda objective: visualize.of_latent(pipeline, [objective], level).images
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


# ---------------------------------------------------------------- variants


def compare(study: Study, path: str, edits: Sequence[Any], watch: Watch | None = None) -> Atlas:
    """Place what the layer gives under edits on the atlas that lies in the folder, and tell in it
    what went dark.

    `edits`: as recipes write them. Bins get the counts of the variant. `dark`: concepts that left
    their own bins, those where their lift is 2 or more: their vectors there before and after, and
    the share that is gone; `dark_bins`: bins that lost most. Raises `StudyError` where there is no
    atlas of this module, or for edits that cannot be recorded.
    """
    told = read(study.folder)
    planned(study, edits)
    settings = {k: told[k] for k in ("method", "spread", "rows", "columns", "each")}
    if told["module"] != path or told["component"] != study.component:
        raise StudyError(
            f"the atlas in {study.folder} is of `{told['module']}` of `{told['component']}`, not of"
            f" `{path}`; make one of it, in a folder of its own"
        )
    baseline = collect(study, path, told["each"], watch=watch)
    layout = Layout.load(study.folder / LAYOUT, _key(baseline, settings))
    if layout is None:
        raise StudyError(f"{study.folder / LAYOUT} is not the layout of this atlas; make it anew")
    variant = collect(study, path, told["each"], edits=edits, watch=watch)
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
