"""Images that the CLIP model's image encoder responds to most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.drift import Reader
from ablate.units.visualize.ascent import Advance, Ascent, Target, ascend, evaluate
from ablate.units.visualize.fourier import Fourier, moved, noise, random_motions
from ablate.units.visualize.inputs import PLAIN, Inputs, Optimized
from ablate.units.visualize.objectives import MissingError, Objective, ObjectiveError, check

STRONGEST = 0.7  # deviation of the color of the last plain picture, before the sigmoid


@dataclass(frozen=True)
class ReaderInputs(Inputs):
    """Inputs that a CLIP model reads as images."""

    reader: Reader

    @property
    def network(self) -> nn.Module:
        network: nn.Module = self.reader.network
        return network

    @property
    def model(self) -> str:
        return self.reader.id

    @property
    def fingerprint(self) -> str:
        return self.reader.fingerprint or self.reader.id

    @property
    def side(self) -> int:
        """Height and width of the images that the encoder reads."""
        return self.reader.side

    def check(self, objectives: Sequence[Objective]) -> None:
        try:
            check(objectives, self.network, self.together)
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

    def evaluate(self, rows: Sequence[Target], images: Tensor, repeats: int = 1) -> Tensor:
        """The objectives (rows,) of images (rows × repeats, 3, side, side) in [0, 1]."""
        processor, network = self.reader.processor, self.reader.network
        mean, deviation = (
            torch.tensor(values, device=images.device).reshape(-1, 1, 1)
            for values in (processor.image_mean, processor.image_std)
        )
        pixels = (images - mean) / deviation
        return evaluate(
            network, rows, lambda: network.get_image_features(pixel_values=pixels), repeats
        )


@dataclass(frozen=True)
class Images(ReaderInputs):
    """Images of the size that the encoder reads.

    Each starts from the plainest of 16 pictures, from gray to colored with faint forms, in which
    the objective is silent (`ascend`).
    """

    kind = "image"
    ascent: Ascent = field(default=Ascent(steps=192, quieting=48), kw_only=True)

    def parameters(self) -> dict[str, Any]:
        return {}

    def optimize_batch(self, rows: Sequence[Target], advance: Advance) -> Optimized:
        basis = Fourier(self.side, self.side, decay=self.ascent.decay, colors=True)
        motions = random_motions(self.ascent.steps, [row.seed for row in rows], self.ascent.motion)

        def value(coefficients: Tensor, step: int | None) -> Tensor:
            return self.evaluate(rows, moved(basis.map(coefficients).sigmoid(), motions, step))

        plain = _plain(basis, rows).to(self.reader.network.device)
        coefficients, values = ascend(plain, value, self.ascent, advance)
        images = basis.map(coefficients).sigmoid()
        return Optimized(as_arrays(images), *values)


def _plain(basis: Fourier, rows: Sequence[Target]) -> Tensor:
    """Coefficients of plain pictures (pictures, rows, ...), from gray to colored."""
    pictures = []
    for i in range(PLAIN):
        strength = STRONGEST * i / (PLAIN - 1)
        seeds = [row.seed * PLAIN + i for row in rows]
        colors = strength * noise((len(rows), 3), seeds)
        flat = colors[:, :, None, None].expand(-1, -1, *basis.size)
        forms = (0.01 + 0.05 * strength) * noise(basis.shape(len(rows), 3), seeds)
        pictures.append(basis.coefficients(flat) + forms)
    return torch.stack(pictures)


def as_arrays(images: Tensor) -> np.ndarray:
    """Images (rows, 3, height, width) as arrays (rows, height, width, 3)."""
    array: np.ndarray = images.permute(0, 2, 3, 1).cpu().numpy()
    return array
