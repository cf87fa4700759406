"""DeepDream: what objectives respond to in a picture, drawn into it (Mordvintsev et al. 2015)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from ablate.store import StoreError, open_image
from ablate.units.visualize.ascent import SMALL, Advance, Ascent, Target, Values
from ablate.units.visualize.fourier import Fourier
from ablate.units.visualize.images import ReaderInputs, as_arrays
from ablate.units.visualize.inputs import Optimized

OCTAVES = 4
WAVES = 2  # in what the encoder sees at once; longer ones would only tint the picture
TILES = 64  # computed at once
OVERHEAD = 8  # of a step, in tiles
MAX_PIXELS = 2048 * 2048  # of a picture; more would take minutes and show nothing more
MAX_RATIO = 50  # of a picture's sides


@dataclass(frozen=True)
class Dreams(ReaderInputs):
    """DeepDream: what the objectives respond to in a picture, drawn into it at its size.

    Steps follow the gradient over its mean size, smoothed, in correlated colors and without long
    waves, so that forms arise and the picture keeps its tints. They start at a size at which the
    encoder sees the whole picture and reach its full size in octaves; what is larger than the
    encoder reads is computed in tiles whose edges are elsewhere at every step.

    Attributes:
        picture: What is dreamed on.
    """

    kind = "dream"
    noun = "tiles"
    picture: Image.Image
    ascent: Ascent = field(default=Ascent(steps=12, rate=0.01, batch=1), kw_only=True)

    @property
    def together(self) -> int:
        return 1

    @property
    def work(self) -> int:
        """Tiles per row."""
        tiles = [self._tiles_of(size) for size in self._octaves()]
        return self.ascent.steps * sum(tiles) + 2 * tiles[-1]

    def parameters(self) -> dict[str, Any]:
        pixels = self.picture.convert("RGB").tobytes()
        digest = hashlib.blake2b(pixels, digest_size=8).hexdigest()
        return {"octaves": OCTAVES, "waves": WAVES, "picture": digest}

    def optimize_batch(self, rows: Sequence[Target], advance: Advance) -> Optimized:
        picture = torch.from_numpy(np.asarray(self.picture.convert("RGB"), np.float32) / 255)
        picture = picture.permute(2, 0, 1)[None].to(self.reader.network.device)
        sizes = self._octaves()
        generator = torch.Generator().manual_seed(rows[0].seed)
        seen = F.interpolate(picture, sizes[0], mode="bicubic", antialias=True)
        full = F.interpolate(picture, sizes[-1], mode="bicubic").clamp(0, 1)
        first, _ = self._gradient(rows, full)
        advance(self._tiles_of(sizes[-1]))
        curve = []
        for size in sizes:
            basis = Fourier(*size, decay=0.7, colors=True)
            base = F.interpolate(picture, size, mode="bicubic", antialias=True)
            shrunk = F.interpolate(picture, seen.shape[2:], mode="bicubic", antialias=True)
            seen = (base + F.interpolate(seen - shrunk, size, mode="bicubic")).clamp(0, 1)
            for _ in range(self.ascent.steps):
                down, right = torch.randint(0, self.side, (2,), generator=generator).tolist()
                level, gradient = self._gradient(rows, seen, (down, right))
                gradient = basis.smooth_gradient(gradient, WAVES / self.side)
                scale = gradient.abs().mean().clamp_min(SMALL)
                seen = (seen + self.ascent.rate * gradient / scale).clamp(0, 1)
                curve.append(level)
                advance(self._tiles_of(size))
        last, _ = self._gradient(rows, seen)
        advance(self._tiles_of(sizes[-1]))
        image = F.interpolate(seen, picture.shape[2:], mode="bicubic", antialias=True).clamp(0, 1)
        tensors = (first, last, first, torch.stack(curve, 1))
        return Optimized(as_arrays(image), *Values(*(t.cpu().numpy() for t in tensors)))

    def _gradient(
        self, rows: Sequence[Target], image: Tensor, shift: tuple[int, int] = (0, 0)
    ) -> tuple[Tensor, Tensor]:
        """The mean objective (rows,) over the tiles of a shifted image, and its gradient."""
        image = image.detach().requires_grad_()
        tiles = _tiles(image.roll(shift, (2, 3)), self.side)
        levels, gradients = list[Tensor](), list[Tensor]()
        for part in torch.split(tiles.detach(), TILES):  # all at once would need as much memory
            part.requires_grad_()
            level = self.evaluate(rows, part, len(part)) * (len(part) / len(tiles))
            gradients += torch.autograd.grad(level.sum(), part)
            levels.append(level.detach())
        (gradient,) = torch.autograd.grad(tiles, image, torch.cat(gradients))
        return torch.stack(levels).sum(0), gradient

    def _octaves(self) -> list[tuple[int, int]]:
        """Heights and widths on the way, from the encoder's size to the picture's."""
        width, height = self.picture.size
        least = self.side / min(width, height)
        factors = [least ** (1 - i / (OCTAVES - 1)) for i in range(OCTAVES)]
        if least >= 1:
            factors = [least]
        return [(max(self.side, round(height * f)), max(self.side, round(width * f)))
                for f in factors]  # fmt: skip

    def _tiles_of(self, size: tuple[int, int]) -> int:
        """Work of a step at a height and width."""
        return OVERHEAD + math.prod(-(-length // self.side) for length in size)


def _tiles(image: Tensor, side: int) -> Tensor:
    """All of an image (1, 3, height, width) in tiles of a side; it repeats beyond its edges."""
    down, right = -image.shape[2] % side, -image.shape[3] % side
    padded = F.pad(image, (0, right, 0, down), mode="circular")
    cut = padded.unfold(2, side, side).unfold(3, side, side)
    return cut.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side)


def read_picture(path: Path) -> tuple[Image.Image, tuple[int, int]]:
    """A picture to dream on, RGB, scaled down to 2048 × 2048 pixels at most; and its full size.

    Raises `StoreError` for a file that is no picture or whose picture is too large or too narrow.
    """
    with open_image(path) as opened:
        width, height = opened.size
        if max(width, height) > MAX_RATIO * min(width, height):
            raise StoreError(
                f"{path} has {width:,} × {height:,} pixels: a picture that is dreamed on is at most"
                f" {MAX_RATIO} times as long as it is wide"
            )
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    size, factor = picture.size, math.sqrt(MAX_PIXELS / math.prod(picture.size))
    if factor < 1:
        width, height = (max(1, int(length * factor)) for length in size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return picture, size
