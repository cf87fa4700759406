"""Feature visualization: the input that a unit, or any objective over units, responds to most.

Three inputs can be optimized: an image for the CLIP model that reads images, a latent for the
denoiser at a noise level, and the embedding of a prompt (Olah, Mordvintsev & Schubert 2017, Feature
Visualization; Mordvintsev, Olah & Tyka 2015, Inceptionism, for pictures that are dreamed on).

>>> found = of_image(reader, [parse("vision_model.encoder.layers.2.mlp.fc1#12")])
>>> save(found, ["fc1-12"], folder), present(folder)

Optimizing, saving and presenting are apart; a picture that lies in the folder is not made again
(`waiting`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ablate.concepts import Reader
from ablate.pipeline import Pipeline
from ablate.units.ascent import (
    SMALL,
    Ascent,
    Climbed,
    Row,
    Told,
    Visualized,
    batches,
    climb,
    counted,
    fading,
    part_of,
    ready,
    records,
    rows_of,
    started,
    together,
    values_of,
)
from ablate.units.calls import Call, capture, drawn_from, sampled_with, settings_of
from ablate.units.canvas import Fourier, drawn, motions, moved
from ablate.units.gallery import present as present
from ablate.units.gallery import save as save
from ablate.units.gallery import waiting as waiting
from ablate.units.objectives import Objective, check

PLAIN = 16  # inputs that a visualization may start from
STRONGEST = 0.7  # deviation of the color of the last of these pictures, before the sigmoid
LEVEL = 0.8  # of noise: high enough that latents may still become anything
IMAGE = Ascent()
DENOISER = Ascent(rate=0.2, decay=1.0, motion=0.0, batch=16)
PROMPT = Ascent(steps=64, rate=0.1, batch=8)


# ---------------------------------------------------------------- images


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
    which the objective is nearly silent (`started`). What `on_step` raises ends it.
    """
    check(objectives, reader.network)
    rows, side = rows_of(objectives, seeds), reader.preparation.side
    basis = Fourier(side, side, decay=ascent.decay, colors=True)
    tell, parts, device = counted(on_step, len(rows), ascent), [], reader.network.device
    with ready(reader.network):
        for batch in batches(rows, ascent):
            motion = motions(ascent.steps, [row.seed for row in batch], ascent.motion)

            def value(
                coefficients: Tensor, step: int | None, batch: Any = batch, motion: Any = motion
            ) -> Tensor:
                images = basis.map(coefficients).sigmoid()
                if step is not None:
                    images = moved(images, fading(motion, step))
                return _seen(reader, batch, images)

            plain = _plain(basis, batch, device)
            first, typical = started(plain, value)
            climbed = climb(first, value, ascent, tell)
            images = basis.map(climbed.parameter).sigmoid().permute(0, 2, 3, 1).cpu().numpy()
            parts.append(part_of(climbed, images, typical))
    told = records("image", reader.id, objectives, seeds, ascent)
    return together(rows, told, parts)


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
    octaves: int = 4,
    rate: float = 0.01,
    on_step: Told | None = None,
) -> Visualized:
    """DeepDream: what the objectives see in a picture is drawn into it, at its own size.

    Steps along the gradient, smoothed, over its mean size, from a size at which the encoder sees
    the whole picture to its own, in so many octaves; where it is larger than the encoder reads, in
    tiles that lie elsewhere at every step (Mordvintsev, Olah & Tyka 2015).
    """
    check(objectives, reader.network)
    rows = rows_of(objectives, seeds)
    side = reader.preparation.side
    whole = torch.from_numpy(np.asarray(picture.convert("RGB"), np.float32) / 255)
    whole = whole.permute(2, 0, 1)[None].to(reader.network.device)
    sizes = _octaves((whole.shape[2], whole.shape[3]), side, octaves)
    tell = counted(on_step, len(rows), Ascent(steps * len(sizes), batch=1))
    parts = []
    with ready(reader.network):
        for row in rows:
            generator = torch.Generator().manual_seed(row.seed)

            def value(image: Tensor, shift: tuple[int, int] = (0, 0), row: Row = row) -> Tensor:
                tiles = _tiles(image.roll(shift, (2, 3)), side)
                return _seen(reader, [row], tiles, len(tiles))

            seen, lines = F.interpolate(whole, sizes[0], mode="bicubic", antialias=True), []
            with torch.no_grad():
                first = value(F.interpolate(whole, sizes[-1], mode="bicubic"))
            for size in sizes:
                basis = Fourier(*size, decay=0.7)
                base = F.interpolate(whole, size, mode="bicubic", antialias=True)
                shrunk = F.interpolate(whole, seen.shape[2:], mode="bicubic", antialias=True)
                image = base + F.interpolate(seen - shrunk, size, mode="bicubic")
                for _ in range(steps):
                    image = image.clamp(0, 1).detach().requires_grad_()
                    shift = torch.randint(0, side, (2,), generator=generator).tolist()
                    level = value(image, (shift[0], shift[1]))
                    (gradient,) = torch.autograd.grad(level.sum(), image)
                    # What is fine in a gradient is noise to the eye.
                    spectrum = torch.fft.rfft2(gradient, norm="ortho")
                    gradient = basis.map(torch.view_as_real(spectrum))
                    image = image + rate * gradient / gradient.abs().mean().clamp_min(SMALL)
                    lines.append(level.detach().cpu())
                    tell()
                seen = image.clamp(0, 1).detach()
            with torch.no_grad():
                last = value(seen)
            climbed = Climbed(seen, first.cpu(), last.cpu(), torch.stack(lines))
            sized = F.interpolate(seen, whole.shape[2:], mode="bicubic", antialias=True)
            images = sized.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
            parts.append(part_of(climbed, images, first))
    told = dreamed(reader, objectives, picture, seeds, steps, octaves, rate)
    return together(rows, told, parts)


def dreamed(
    reader: Reader,
    objectives: Sequence[Objective],
    picture: Image.Image,
    seeds: Sequence[int],
    steps: int = 12,
    octaves: int = 4,
    rate: float = 0.01,
) -> list[dict[str, Any]]:
    """Everything that determines what is dreamed on a picture."""
    pixels = picture.convert("RGB").tobytes()
    digest = hashlib.blake2b(pixels, digest_size=8).hexdigest()
    return [
        record | {"octaves": octaves, "picture": digest}
        for record in records("dream", reader.id, objectives, seeds, Ascent(steps, rate))
    ]


def _octaves(size: tuple[int, int], side: int, count: int) -> list[tuple[int, int]]:
    """Heights and widths, from the shorter side that the encoder reads up to a picture's own."""
    least = side / min(size)
    if least >= 1 or count == 1:
        factors = [max(1.0, least)]
    else:
        factors = [least ** (1 - i / (count - 1)) for i in range(count)]
    return [(max(side, round(size[0] * f)), max(side, round(size[1] * f))) for f in factors]


def _tiles(image: Tensor, side: int) -> Tensor:
    """All of an image (1, 3, height, width) in tiles of a side, continued as it would repeat."""
    down, right = -image.shape[2] % side, -image.shape[3] % side
    padded = F.pad(image, (0, right, 0, down), mode="circular")
    cut = padded.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side)


# ---------------------------------------------------------------- latents and prompts


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
    one that is plainer by degrees, where the objective is not nearly silent there (`started`); all
    have its standard deviation. Images are the finished ones as the denoiser estimates them in one
    step; `finished` are those that the rest of the sampling comes to. `size`: their width and
    height, the model's own unless told. Raises `Stopped` where the pipeline is asked to stop.
    """
    check(objectives, pipeline.denoiser)
    rows, parts = rows_of(objectives, seeds), []
    tell = counted(on_step, len(rows), ascent, pipeline.stop)
    for batch in batches(rows, ascent):
        call = capture(pipeline, prompt, [row.seed for row in batch], t, size)
        with ready(call.network):
            climbed, maps, typical = _latents(call, batch, ascent, tell)
        images, finished = drawn_from(pipeline, call, maps)
        made = {"inputs": maps.cpu().numpy(), "finished": finished}
        parts.append(part_of(climbed, images, typical, **made))
    more = {"t": t, "prompt": prompt, "size": size and list(size)}
    told = records("latent", pipeline.fingerprint, objectives, seeds, ascent, **more)
    return together(rows, told, parts)


def _latents(
    call: Call, rows: Sequence[Row], ascent: Ascent, tell: Callable[[], object]
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
    start, typical = started(torch.stack(plain), value)
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
    guidance: float = 5.0,
    size: tuple[int, int] | None = None,
    on_step: Told | None = None,
) -> Visualized:
    """Embeddings of prompts that the denoiser responds to most, at noise level `t`, in the mean
    over the latents of the seeds; and the images of the first seed that it makes of them.

    Each starts from the embedding of a prompt, or, where the objective is not nearly silent there,
    from one that lies beside it (`started`); every token keeps its length and mean. Raises
    `Stopped` where the pipeline is asked to stop.
    """
    check(objectives, pipeline.denoiser)
    rows, parts = rows_of(objectives, seeds[:1]), []
    tell = counted(on_step, len(rows), ascent, pipeline.stop)
    for batch in batches(rows, ascent):
        call = capture(pipeline, prompt, list(seeds) * len(batch), t, size)
        first = call.words[:: len(seeds)]
        middle = first.mean(-1, keepdim=True)
        length = (first - middle).norm(dim=-1, keepdim=True)

        def value(words: Tensor, step: int | None, call: Call = call, batch: Any = batch) -> Tensor:
            wide = words.repeat_interleave(len(seeds), dim=0)
            return values_of(call.network, batch, lambda: call(words=wide), len(seeds))

        def kept(words: Tensor, middle: Tensor = middle, length: Tensor = length) -> Tensor:
            free = words - words.mean(-1, keepdim=True)
            put: Tensor = middle + free * (length / free.norm(dim=-1, keepdim=True).clamp_min(1e-8))
            return put

        with ready(call.network):
            start, typical = started(_near(first, kept, batch), value)
            climbed = climb(start, value, ascent, tell, kept)
        found = sampled_with(
            pipeline, call, climbed.parameter, [seeds[0]] * len(batch),
            settings_of(pipeline, guidance, size),
        )  # fmt: skip
        inputs = climbed.parameter.cpu().numpy()
        parts.append(part_of(climbed, found.images, typical, inputs=inputs))
    more = {"t": t, "prompt": prompt, "guidance": guidance, "latents": list(seeds),
            "size": size and list(size)}  # fmt: skip
    told = records("prompt", pipeline.fingerprint, objectives, seeds[:1], ascent, **more)
    return together(rows, told, parts)


def _near(first: Tensor, kept: Callable[[Tensor], Tensor], rows: Sequence[Row]) -> Tensor:
    """Embeddings (embeddings, rows, tokens, width) from a prompt's own ones to ever farther."""
    size = (first - first.mean(-1, keepdim=True)).std(-1, keepdim=True)
    found = []
    for i in range(PLAIN):
        noise = drawn(first.shape, [row.seed * PLAIN + i for row in rows]).to(first)
        found.append(kept(first + i / (PLAIN - 1) * size * noise))
    return torch.stack(found)
