"""Visualizations that are wanted in a folder: those that are not there yet are made.

Ctrl-C ends what a pipeline does by `Stopped`, after the step that it is in; pictures that are
finished stay. What the CLIP model alone does it interrupts at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image

from ablate.drift import Reader
from ablate.engine import Progress, stoppable
from ablate.sampling import Pipeline
from ablate.units.visualize.ascent import Told, Visualized
from ablate.units.visualize.files import fill
from ablate.units.visualize.objectives import Objective
from ablate.units.visualize.visualize import (
    DENOISER,
    IMAGE,
    LEVEL,
    PROMPT,
    check_denoised,
    check_seen,
    dream,
    dream_records,
    image_records,
    latent_records,
    of_image,
    of_latent,
    of_prompt,
    prompt_records,
    work_of,
)

IMAGES = replace(IMAGE, steps=192)  # twice those of an atlas, whose hundreds would take too long


def render_images(
    reader: Reader,
    objectives: Sequence[Objective],
    folder: Path,
    seeds: Sequence[int] = (0,),
    *,
    steps: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Images that the CLIP model's image encoder responds to most, a file for each objective and
    seed (`ablate.units.visualize.of_image`)."""
    check_seen(objectives, reader, len(seeds))
    ascent = replace(IMAGES, steps=steps or IMAGES.steps)

    def make(some: Sequence[Objective], tell: Told) -> Visualized:
        return of_image(reader, some, seeds, ascent, on_step=tell)

    return fill(
        folder, "image", objectives, seeds,
        lambda some: image_records(reader, some, seeds, ascent), make, progress, ascent.batch,
        ascent.steps * len(seeds),
    )  # fmt: skip


def render_dreams(
    reader: Reader,
    objectives: Sequence[Objective],
    picture: Image.Image,
    folder: Path,
    seeds: Sequence[int] = (0,),
    *,
    steps: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """What the objectives see in a picture, drawn into it (`ablate.units.visualize.dream`)."""
    check_seen(objectives, reader)
    count = steps or 12
    work = len(seeds) * work_of(picture.size, reader.preparation.side, count)

    def make(some: Sequence[Objective], tell: Told) -> Visualized:
        return dream(reader, some, picture, seeds, steps=count, on_step=tell)

    return fill(
        folder, "dream", objectives, seeds,
        lambda some: dream_records(reader, some, picture, seeds, count), make, progress, 1, work,
    )  # fmt: skip


def render_latents(
    pipeline: Pipeline,
    objectives: Sequence[Objective],
    folder: Path,
    seeds: Sequence[int] = (0,),
    *,
    t: float = LEVEL,
    prompt: str = "",
    steps: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Latents at noise level `t` that the denoiser responds to most
    (`ablate.units.visualize.of_latent`). Raises `Stopped` after Ctrl-C."""
    check_denoised(objectives, pipeline, len(seeds))
    ascent = replace(DENOISER, steps=steps or DENOISER.steps)

    def make(some: Sequence[Objective], told: Told) -> Visualized:
        return of_latent(pipeline, some, t, prompt, seeds, ascent, on_step=told)

    with stoppable(pipeline):
        return fill(
            folder, "latent", objectives, seeds,
            lambda some: latent_records(pipeline, some, t, prompt, seeds, ascent),
            make, progress, ascent.batch, ascent.steps * len(seeds),
        )  # fmt: skip


def render_prompts(
    pipeline: Pipeline,
    objectives: Sequence[Objective],
    folder: Path,
    seeds: Sequence[int] = (0, 1),
    *,
    t: float = LEVEL,
    prompt: str = "",
    steps: int | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """Embeddings of prompts that the denoiser responds to most at noise level `t`, over the latents
    of all seeds (`ablate.units.visualize.of_prompt`). Raises `Stopped` after Ctrl-C."""
    check_denoised(objectives, pipeline)
    ascent = replace(PROMPT, steps=steps or PROMPT.steps)

    def make(some: Sequence[Objective], told: Told) -> Visualized:
        return of_prompt(pipeline, some, t, prompt, seeds, ascent, on_step=told)

    with stoppable(pipeline):
        return fill(
            folder, "prompt", objectives, seeds[:1],
            lambda some: prompt_records(pipeline, some, t, prompt, seeds, ascent),
            make, progress, ascent.batch, ascent.steps,
        )  # fmt: skip
