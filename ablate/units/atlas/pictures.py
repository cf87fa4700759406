"""Pictures of the bins of an atlas: patches of images, and feature visualizations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ablate.engine import compute_cell, stoppable, with_keys
from ablate.store import as_image, atomic_write, key_of, problem_of
from ablate.units.atlas.bins import Bins, central_vectors, mean_places
from ablate.units.atlas.layout import Layout
from ablate.units.atlas.vectors import Vectors
from ablate.units.record.layers import grid_of
from ablate.units.record.recording import is_picture, open_picture
from ablate.units.record.setup import CLIP
from ablate.units.record.study import Study
from ablate.units.visualize.ascent import Ascent
from ablate.units.visualize.denoiser import LEVEL, Latents
from ablate.units.visualize.images import Images
from ablate.units.visualize.inputs import Inputs
from ablate.units.visualize.objectives import HEADS, Objective, Outputs

PICTURES, PATCHES = "bins", "patches"
CONTEXT = 2.5  # positions that a patch spans
NARROWEST, WIDEST = 0.25, 0.75  # shares of an image
LARGEST = 128  # pixels of a patch's side
POWER = 2.0  # of the cosine in the objective
BATCH = 32  # pictures that are rendered together


def cut_patches(study: Study, vectors: Vectors, bins: Bins, grid: str) -> None:
    """Cut the image patch whose vector is nearest to the mean of each bin that is shown.

    A layer that is no map of the image gets whole images, a network that reads texts none. Patches
    that exist are kept.
    """
    if study.texts:
        return
    central, places = central_vectors(vectors, bins), vectors.places()
    cells = with_keys(study.samples, study.pipeline)
    for number in bins.shown.tolist():
        path = study.folder / PATCHES / grid / f"{bins.name(number)}.png"
        if is_picture(path):
            continue
        place = places[central[number]]
        picture = study.pictures.path(cells[place["sample"]].key)
        if problem_of(picture) is None:
            patch = open_picture(picture)
        else:  # removed, or damaged, since it was recorded
            patch = Image.fromarray(compute_cell(study.samples[place["sample"]], study.pipeline)[1])
        if study.component == CLIP:
            patch = _center_square(patch)
        if np.isfinite(place["y"]):
            y, x = float(place["y"]), float(place["x"])
            patch = patch.crop(patch_box(y, x, vectors.rows, patch.width, patch.height))
        patch.thumbnail((LARGEST, LARGEST))
        _save(patch, path)


def patch_box(y: float, x: float, rows: int, width: int, height: int) -> tuple[int, int, int, int]:
    """The square of an image around a place, in pixels: left, top, right, bottom.

    It spans 2.5 positions of a map of so many rows, and a quarter of the image at least; at the
    edges it is moved inside.
    """
    share = min(max(CONTEXT / rows, NARROWEST), WIDEST)
    side = max(1, round(share * min(width, height)))
    left = min(max(round(x * width - side / 2), 0), width - side)
    top = min(max(round(y * height - side / 2), 0), height - side)
    return left, top, left + side, top + side


def _center_square(image: Image.Image) -> Image.Image:
    """The middle square, which a CLIP model reads."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _save(image: Image.Image, path: Path) -> None:
    with atomic_write(path) as temporary:
        image.save(temporary, format="PNG")


def render_bins(
    study: Study,
    path: str,
    layout: Layout,
    vectors: Vectors,
    bins: Bins,
    grid: str,
) -> None:
    """Render feature visualizations of the bins that are shown; pictures that exist are kept.

    A network that reads texts has none. Raises `Stopped` after Ctrl-C.
    """
    inputs = _inputs(study)
    if inputs is None:
        return
    shown = bins.shown.tolist()
    paths = {n: study.folder / PICTURES / grid / f"{bins.name(n)}.png" for n in shown}
    missing = [n for n in shown if not is_picture(paths[n])]
    before = len(shown) - len(missing)
    study.progress.start("bins", len(shown), before)
    if missing:
        study.progress.update(before)
    name = path + HEADS if study.setup.kind == "heads" else path
    # The bins of a denoiser are about one place of the picture each, and are optimized there. With
    # an image encoder, the mean over positions fills the whole picture.
    settings = study.pipeline.settings(study.plan.recipe.sampling)
    size = None if study.component == CLIP else (settings.height, settings.width)
    places = mean_places(vectors, bins)
    with stoppable(study.pipeline) as check_stop:
        for start in range(0, len(missing), BATCH):
            batch = missing[start : start + BATCH]

            def on_step(done: int, total: int, start: int = start, count: int = len(batch)) -> None:
                check_stop()
                study.progress.update(before + start + count * done // total)

            away = bins.mean[batch] - layout.mean
            goal = Goal(name, away, layout.whitened(away), layout.mean, places[batch], size)
            images = inputs.optimize([goal.objective()], on_step).images
            for number, image in zip(batch, images, strict=True):
                _save(as_image(image), paths[number])
            check_stop()


def _inputs(study: Study) -> Inputs | None:
    """The inputs that are optimized for a study's network; None where there are none."""
    if study.texts:
        return None
    # Plain inputs have bins too: there is no need to start where an objective is silent.
    if study.component == CLIP and study.reader is not None:
        return Images(study.reader, ascent=Ascent())
    if study.component == study.pipeline.denoiser_name:
        ascent = replace(Latents.ascent, quieting=0)
        return Latents(study.pipeline, t=_level(study), ascent=ascent)
    return None


def _level(study: Study) -> float:
    """The noise level in the middle of the recorded moments, as if levels fell evenly."""
    when = study.setup.when
    if when is None:
        return LEVEL
    middle = (when.first + when.last) / 2
    if when.by == "steps":
        middle /= study.plan.recipe.sampling.num_inference_steps
    return min(max(middle if when.by == "t" else 1 - middle, 0.02), 1.0)


@dataclass(frozen=True)
class Goal:
    """Directions from the mean of all vectors to those of bins, a row per bin.

    Attributes:
        path: Module path.
        directions: Differences of the means, (rows, units).
        whitened: `Layout.whitened` of these, (rows, units).
        mean: Mean of all vectors, (units,).
        places: Position y and x that counts, NaN for the mean of all, (rows, 2).
        size: Height and width of the images; None takes the mean of all positions.
    """

    path: str
    directions: np.ndarray
    whitened: np.ndarray
    mean: np.ndarray
    places: np.ndarray
    size: tuple[int, int] | None

    def objective(self) -> Objective:
        """The dot product with the whitened direction times a power of the cosine with the plain
        one.

        Carter et al. 2019: the whitened dot product emphasizes what is special about a direction,
        the cosine suppresses what merely drives the layer hard.
        """
        mean, plain, white = (
            torch.as_tensor(a, dtype=torch.float32)
            for a in (self.mean, self.directions, self.whitened)
        )

        def evaluate(outputs: Outputs, row: int | None) -> Tensor:
            output = outputs[self.path]
            rows = slice(None) if row is None else slice(row, row + 1)
            away = self.at_places(output, rows) - mean.to(output)
            dot = (away * white[rows].to(output)).sum(1)
            cosine = F.cosine_similarity(away, plain[rows].to(output), dim=-1)
            # Where the dot product is negative a cosine would count in favor of it.
            return torch.where(dot > 0, dot * cosine.clamp_min(0.1).pow(POWER), dot)

        digest = key_of({"directions": self.directions.tolist(), "places": self.places.tolist()})
        text = f"toward('{self.path}', {digest[:12]})"
        return Objective(text, (self.path,), evaluate, len(self.directions))

    def at_places(self, output: Tensor, rows: slice) -> Tensor:
        """A layer's output (rows, units, *positions) at the position of each row, (rows, units)."""
        if output.dim() == 2:
            return output
        flat = output.flatten(2)
        grid = grid_of(flat.shape[2], *self.size) if self.size else None
        places = self.places[rows]
        if grid is None or not np.isfinite(places).all():
            return flat.mean(2)
        skipped, down, across = grid
        spots = np.minimum((places * [down, across]).astype(int), [down - 1, across - 1])
        indices = torch.as_tensor(skipped + spots @ [across, 1], device=flat.device)
        wide = indices[:, None, None].expand(len(flat), flat.shape[1], 1)
        return flat.gather(2, wide)[..., 0]
