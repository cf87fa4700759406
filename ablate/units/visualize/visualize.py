"""Feature visualization: the input that a unit, or any objective over units, responds to most.

Three inputs can be optimized: an image for the CLIP model that reads images, a latent for the
denoiser at a noise level, and the embedding of a prompt (Olah, Mordvintsev & Schubert 2017, Feature
Visualization; Mordvintsev, Olah & Tyka 2015, Inceptionism, for pictures that are dreamed on).

>>> found = of_image(reader, [channel("vision_model.encoder.layers.2.mlp.fc1", 12)])
>>> save(found, ["fc1-12"], folder), present(folder)

Optimizing, saving and presenting are apart; a picture that lies in the folder is not made again
(`waiting`).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ablate.drift import Reader
from ablate.sampling import Pipeline
from ablate.units.visualize.ascent import (
    SMALL,
    Ascent,
    Climbed,
    Row,
    Told,
    Visualized,
    climb,
    counted,
    fading,
    in_batches,
    part_of,
    ready,
    records,
    rows_of,
    started,
    values_of,
)
from ablate.units.visualize.capture import Call, capture, drawn_from, sampled_with, settings_of
from ablate.units.visualize.fourier import Fourier, drawn, motions, moved
from ablate.units.visualize.objectives import VISION, MissingError, Objective, ObjectiveError, check

PLAIN = 16  # inputs that a visualization may start from
STRONGEST = 0.7  # deviation of the color of the last of these pictures, before the sigmoid
LEVEL = 0.9  # of noise: little is decided by then, and few units answer to whatever they see
IMAGE = Ascent(quieting=48)
DENOISER = Ascent(quieting=48, rate=0.2, decay=1.0, motion=0.0, batch=16)
PROMPT = Ascent(64, quieting=48, rate=0.1, batch=8)
GUIDANCE = 5.0  # of the images that optimized embeddings are shown by
OCTAVES = 4  # of dreams
WAVES = 2  # of a dream in what the encoder sees at once; longer ones would tint it, and no more
TILES = 64  # of a dream that are computed at once
EACH = 8  # tiles that take as long as all else in a step of a dream


@torch.inference_mode(mode=False)
def of_image(
    reader: Reader,
    objectives: Sequence[Objective],
    seeds: Sequence[int] = (0,),
    ascent: Ascent = IMAGE,
    on_step: Told | None = None,
) -> Visualized:
    """Images that the CLIP model's image encoder responds to most, as large as it reads them.

    Each starts from the plainest of 16 pictures, from gray to colored with faint forms, in
    which the objective is nearly silent, or is made so by descent (`started`). What `on_step`
    raises ends it.
    """
    check_seen(objectives, reader, len(seeds))
    rows, side, device = rows_of(objectives, seeds), reader.preparation.side, reader.network.device
    basis = Fourier(side, side, decay=ascent.decay, colors=True)
    tell = counted(on_step, len(rows) * ascent.steps)

    def make(batch: Sequence[Row]) -> Visualized:
        motion = motions(ascent.steps, [row.seed for row in batch], ascent.motion)

        def value(coefficients: Tensor, step: int | None) -> Tensor:
            images = basis.map(coefficients).sigmoid()
            if step is not None:
                images = moved(images, fading(motion, step))
            return _seen(reader, batch, images)

        first, typical = started(_plain(basis, batch, device), value, ascent, tell)
        climbed = climb(first, value, ascent, tell)
        images = basis.map(climbed.parameter).sigmoid().permute(0, 2, 3, 1)
        return part_of(climbed, images.cpu().numpy(), typical)

    told = image_records(reader, objectives, seeds, ascent)
    with ready(reader.network):
        return in_batches(rows, told, ascent.batch, make, reader.id)


def image_records(
    reader: Reader, objectives: Sequence[Objective], seeds: Sequence[int], ascent: Ascent
) -> list[dict[str, Any]]:
    """Everything that determines the images that are made of them."""
    return records("image", reader.fingerprint or reader.id, objectives, seeds, ascent)


def check_seen(objectives: Sequence[Objective], reader: Reader, rows: int = 1) -> None:
    """Raise `ObjectiveError` for objectives that so many images, made at once, cannot drive."""
    try:
        check(objectives, reader.network, rows)
    except MissingError as error:
        raise ObjectiveError(
            f"{error} (images drive the CLIP model that reads them, latents and prompts the"
            " denoiser)"
        ) from error
    for objective in objectives:
        for path in objective.paths:
            if path.startswith("text_"):
                raise ObjectiveError(
                    f"`{objective.text}`: `{path}` reads texts, and no image can drive it; what"
                    " reads images is `vision_model` and `visual_projection`"
                )


def check_denoised(objectives: Sequence[Objective], pipeline: Pipeline, rows: int = 1) -> None:
    """Raise `ObjectiveError` for objectives that so many latents or embeddings cannot drive."""
    try:
        check(objectives, pipeline.denoiser, rows)
    except MissingError as error:
        paths = [path for objective in objectives for path in objective.paths]
        if not any(path.startswith((VISION, "vision_model")) for path in paths):
            raise
        raise ObjectiveError(
            f"{error} (latents and prompts drive the denoiser; `text` and units of the CLIP model"
            " are for `--input image`)"
        ) from error


def _seen(reader: Reader, rows: Sequence[Row], images: Tensor, repeats: int = 1) -> Tensor:
    """What the objectives come to of images (rows, 3, side, side) in [0, 1]."""
    mean, deviation = (
        torch.tensor(some, device=images.device).reshape(-1, 1, 1)
        for some in (reader.preparation.mean, reader.preparation.std)
    )
    pixels = (images - mean) / deviation
    return values_of(
        reader.network,
        rows,
        lambda: reader.network.get_image_features(pixel_values=pixels),
        repeats,
    )


def _plain(basis: Fourier, rows: Sequence[Row], device: torch.device) -> Tensor:
    """Coefficients of plain pictures (pictures, rows, ...), the first gray, the last colored."""
    found = []
    for i in range(PLAIN):
        strength = STRONGEST * i / (PLAIN - 1)
        seeds = [row.seed * PLAIN + i for row in rows]
        colors = strength * drawn((len(rows), 3), seeds)
        flat = colors[:, :, None, None].expand(-1, -1, *basis.size)
        forms = (0.01 + 0.05 * strength) * drawn(basis.shape(len(rows), 3), seeds)
        found.append(basis.coefficients(flat) + forms)
    return torch.stack(found).to(device)


@torch.inference_mode(mode=False)
def dream(
    reader: Reader,
    objectives: Sequence[Objective],
    picture: Image.Image,
    seeds: Sequence[int] = (0,),
    *,
    steps: int = 12,
    octaves: int = OCTAVES,
    rate: float = 0.01,
    on_step: Told | None = None,
) -> Visualized:
    """DeepDream: what the objectives see in a picture is drawn into it, at its own size.

    Steps along the gradient over its mean size, smoothed, in colors that go together, and without
    long waves, so that forms arise and the picture keeps its tints; from a size at which the
    encoder sees the whole picture to its own, in so many octaves; where it is larger than the
    encoder reads, in tiles that lie elsewhere at every step (Mordvintsev, Olah & Tyka 2015).
    """
    check_seen(objectives, reader)
    whole = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)
    whole = whole.permute(2, 0, 1)[None].to(reader.network.device)
    sizes = _octaves(picture.size, reader.preparation.side, octaves)
    work = _work(sizes, reader.preparation.side)
    rows = rows_of(objectives, seeds)
    total = work_of(picture.size, reader.preparation.side, steps, octaves)
    tell = counted(on_step, len(rows) * total)

    def make(batch: Sequence[Row]) -> Visualized:
        generator, lines = torch.Generator().manual_seed(batch[0].seed), []

        def value(image: Tensor, shift: tuple[int, int] = (0, 0)) -> tuple[Tensor, Tensor]:
            return _uphill(reader, batch, image, shift)

        seen = F.interpolate(whole, sizes[0], mode="bicubic", antialias=True)
        first, _ = value(F.interpolate(whole, sizes[-1], mode="bicubic").clamp(0, 1))
        tell(work[-1])
        for size, each in zip(sizes, work, strict=True):
            basis = Fourier(*size, decay=0.7, colors=True)
            base = F.interpolate(whole, size, mode="bicubic", antialias=True)
            shrunk = F.interpolate(whole, seen.shape[2:], mode="bicubic", antialias=True)
            seen = (base + F.interpolate(seen - shrunk, size, mode="bicubic")).clamp(0, 1)
            for _ in range(steps):
                down, right = torch.randint(0, reader.preparation.side, (2,), generator=generator)
                level, gradient = value(seen, (int(down), int(right)))
                gradient = basis.uphill(gradient, WAVES / reader.preparation.side)
                seen = seen + rate * gradient / gradient.abs().mean().clamp_min(SMALL)
                seen = seen.clamp(0, 1)
                lines.append(level.cpu())
                tell(each)
        last, _ = value(seen)
        tell(work[-1])
        climbed = Climbed(seen, first.cpu(), last.cpu(), torch.stack(lines))
        sized = F.interpolate(seen, whole.shape[2:], mode="bicubic", antialias=True)
        return part_of(climbed, sized.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy(), first)

    told = dream_records(reader, objectives, picture, seeds, steps, octaves, rate)
    with ready(reader.network):
        return in_batches(rows, told, 1, make, reader.id)


def _uphill(
    reader: Reader, rows: Sequence[Row], image: Tensor, shift: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """What an objective comes to of an image (1, 3, height, width) that is shifted, in the mean
    over its tiles, and its gradient."""
    image = image.detach().requires_grad_()
    tiles = _tiles(image.roll(shift, (2, 3)), reader.preparation.side)
    levels, gradients = list[Tensor](), list[Tensor]()
    for some in torch.split(tiles.detach(), TILES):  # all at once would need as much memory
        some.requires_grad_()
        level = _seen(reader, rows, some, len(some)) * (len(some) / len(tiles))
        gradients += torch.autograd.grad(level.sum(), some)
        levels.append(level.detach())
    (gradient,) = torch.autograd.grad(tiles, image, torch.cat(gradients))
    return torch.stack(levels).sum(0), gradient


def dream_records(
    reader: Reader,
    objectives: Sequence[Objective],
    picture: Image.Image,
    seeds: Sequence[int],
    steps: int = 12,
    octaves: int = OCTAVES,
    rate: float = 0.01,
) -> list[dict[str, Any]]:
    """Everything that determines what is dreamed on a picture."""
    pixels = picture.convert("RGB").tobytes()
    digest = hashlib.blake2b(pixels, digest_size=8).hexdigest()
    return [
        record | {"kind": "dream", "octaves": octaves, "waves": WAVES, "picture": digest}
        for record in image_records(reader, objectives, seeds, Ascent(steps, rate=rate))
    ]


def _octaves(size: tuple[int, int], side: int, count: int) -> list[tuple[int, int]]:
    """Heights and widths that a picture of a width and height is dreamed on at: from the shorter
    side that the encoder reads up to its own."""
    least = side / min(size)
    if least >= 1 or count == 1:
        factors = [max(1.0, least)]
    else:
        factors = [least ** (1 - i / (count - 1)) for i in range(count)]
    return [(max(side, round(size[1] * f)), max(side, round(size[0] * f))) for f in factors]


def work_of(size: tuple[int, int], side: int, steps: int, octaves: int = OCTAVES) -> int:
    """How much work it is to dream on a picture of a width and height: in tiles of a side."""
    work = _work(_octaves(size, side, octaves), side)
    return steps * sum(work) + 2 * work[-1]


def _work(sizes: Sequence[tuple[int, int]], side: int) -> list[int]:
    """That of a step of each octave."""
    return [EACH + math.prod(-(-length // side) for length in size) for size in sizes]


def _tiles(image: Tensor, side: int) -> Tensor:
    """All of an image (1, 3, height, width) in tiles of a side, continued as it would repeat."""
    down, right = -image.shape[2] % side, -image.shape[3] % side
    padded = F.pad(image, (0, right, 0, down), mode="circular")
    cut = padded.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side)


@torch.inference_mode(mode=False)
def of_latent(
    pipeline: Pipeline,
    objectives: Sequence[Objective],
    t: float = LEVEL,
    prompt: str = "",
    seeds: Sequence[int] = (0,),
    ascent: Ascent = DENOISER,
    size: tuple[int, int] | None = None,
    on_step: Told | None = None,
) -> Visualized:
    """Latents at noise level `t` that the denoiser responds to most, and what it takes them for.

    Each starts from the latent that sampling with the prompt and seed has come to by then, or from
    one that is plainer by degrees, where the objective is not nearly silent there, and where it is
    in none, it is made so by descent (`started`); all have its standard deviation. Images are the
    finished ones as the denoiser estimates them in one step; `finished` are those that the rest of
    the sampling comes to. `size`: their width and height, the model's own unless told. Raises
    `Stopped` where the pipeline is asked to stop.
    """
    check_denoised(objectives, pipeline, len(seeds))
    rows = rows_of(objectives, seeds)
    tell = counted(on_step, len(rows) * ascent.steps, pipeline.stop)

    def make(batch: Sequence[Row]) -> Visualized:
        call = capture(pipeline, prompt, [row.seed for row in batch], t, size)
        with ready(call.network):
            climbed, maps, typical = _latents(call, batch, ascent, tell)
        images, finished = drawn_from(pipeline, call, maps)
        return part_of(climbed, images, typical, inputs=maps.cpu().numpy(), finished=finished)

    told = latent_records(pipeline, objectives, t, prompt, seeds, ascent, size)
    return in_batches(rows, told, ascent.batch, make, pipeline.model)


def latent_records(
    pipeline: Pipeline,
    objectives: Sequence[Objective],
    t: float,
    prompt: str,
    seeds: Sequence[int],
    ascent: Ascent,
    size: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Everything that determines the latents that are made of them."""
    more = {"t": t, "prompt": prompt, "size": size and list(size), "dtype": str(pipeline.dtype)}
    return records("latent", pipeline.fingerprint, objectives, seeds, ascent, **more)


def _latents(
    call: Call, rows: Sequence[Row], ascent: Ascent, tell: Callable[[int], object]
) -> tuple[Climbed, Tensor, Tensor]:
    """What an ascent came to, its latents, and what the objectives typically are."""
    first = call.map
    basis = Fourier(first.shape[2], first.shape[3], decay=ascent.decay)
    deviation = first.flatten(1).std(1)[:, None, None, None]
    motion = motions(ascent.steps, [row.seed for row in rows], ascent.motion)

    def maps(coefficients: Tensor) -> Tensor:
        free = basis.map(coefficients)
        kept: Tensor = free * (deviation / free.flatten(1).std(1)[:, None, None, None])
        return kept

    def value(coefficients: Tensor, step: int | None) -> Tensor:
        found = maps(coefficients)
        if step is not None:
            found = moved(found, fading(motion, step))
        return values_of(call.network, rows, lambda: call(found))

    plain = []
    for i in range(PLAIN):
        flat = drawn(first.shape[:2], [row.seed * PLAIN + i for row in rows])[:, :, None, None]
        share = i / (PLAIN - 1)
        plain.append(basis.coefficients((1 - share) * first + share * flat.to(first) * deviation))
    start, typical = started(torch.stack(plain), value, ascent, tell)
    climbed = climb(start, value, ascent, tell)
    return climbed, maps(climbed.parameter).detach(), typical


@torch.inference_mode(mode=False)
def of_prompt(
    pipeline: Pipeline,
    objectives: Sequence[Objective],
    t: float = LEVEL,
    prompt: str = "",
    seeds: Sequence[int] = (0, 1),
    ascent: Ascent = PROMPT,
    guidance: float = GUIDANCE,
    size: tuple[int, int] | None = None,
    on_step: Told | None = None,
) -> Visualized:
    """Embeddings of prompts that the denoiser responds to most, at noise level `t`, in the mean
    over the latents of the seeds; and the images of the first seed that it makes of them.

    Each starts from the embedding of a prompt, or, where the objective is not nearly silent there,
    from one that lies beside it or that is found by descent (`started`); every token keeps its
    length and mean. Raises `Stopped` where the pipeline is asked to stop.
    """
    check_denoised(objectives, pipeline)
    rows = rows_of(objectives, seeds[:1])
    tell = counted(on_step, len(rows) * ascent.steps, pipeline.stop)
    settings = settings_of(pipeline, guidance, size)

    def make(batch: Sequence[Row]) -> Visualized:
        call = capture(pipeline, prompt, list(seeds) * len(batch), t, size)
        first = call.words[:: len(seeds)]
        middle = first.mean(-1, keepdim=True)
        length = (first - middle).norm(dim=-1, keepdim=True)

        def value(words: Tensor, step: int | None) -> Tensor:
            wide = words.repeat_interleave(len(seeds), dim=0)
            return values_of(call.network, batch, lambda: call(words=wide), len(seeds))

        def kept(words: Tensor) -> Tensor:
            free = words - words.mean(-1, keepdim=True)
            put: Tensor = middle + free * (length / free.norm(dim=-1, keepdim=True).clamp_min(1e-8))
            return put

        with ready(call.network):
            start, typical = started(_near(first, kept, batch), value, ascent, tell, kept)
            climbed = climb(start, value, ascent, tell, kept)
        words = climbed.parameter
        found = sampled_with(pipeline, call, words, [seeds[0]] * len(batch), settings)
        return part_of(climbed, found.images, typical, inputs=words.cpu().numpy())

    told = prompt_records(pipeline, objectives, t, prompt, seeds, ascent, guidance, size)
    return in_batches(rows, told, ascent.batch, make, pipeline.model)


def prompt_records(
    pipeline: Pipeline,
    objectives: Sequence[Objective],
    t: float,
    prompt: str,
    seeds: Sequence[int],
    ascent: Ascent,
    guidance: float = GUIDANCE,
    size: tuple[int, int] | None = None,
) -> list[dict[str, Any]]:
    """Everything that determines the embeddings that are made of them, and their images."""
    more = {"t": t, "prompt": prompt, "guidance": guidance, "latents": list(seeds),
            "size": size and list(size), "dtype": str(pipeline.dtype)}  # fmt: skip
    return records("prompt", pipeline.fingerprint, objectives, seeds[:1], ascent, **more)


def _near(first: Tensor, kept: Callable[[Tensor], Tensor], rows: Sequence[Row]) -> Tensor:
    """Embeddings (embeddings, rows, tokens, width) from a prompt's own ones to ever farther."""
    size = (first - first.mean(-1, keepdim=True)).std(-1, keepdim=True)
    found = []
    for i in range(PLAIN):
        noise = drawn(first.shape, [row.seed * PLAIN + i for row in rows]).to(first)
        found.append(kept(first + i / (PLAIN - 1) * size * noise))
    return torch.stack(found)
