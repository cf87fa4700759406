"""What is optimized when a unit is visualized: pictures and latents by their frequencies.

Gradients of networks are full of high frequencies. Steps along the coefficients of a Fourier basis
whose frequencies weigh as they do in pictures of nature, and along colors that do not correlate
there, go toward forms instead (Olah, Mordvintsev & Schubert 2017, Feature Visualization).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Square root of the covariance of red, green and blue in the pictures of ImageNet, a column each
# for brightness and two differences of color, as Lucid has it; the longest column becomes 1.
COLORS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


class Fourier:
    """A basis of maps (rows, channels, height, width), by frequency.

    Coefficients are real, shape (rows, channels, height, width // 2 + 1, 2). Those of frequency f,
    in cycles a pixel, weigh 1 / f ** `decay`; independent coefficients of deviation 1 make values
    of deviation about 1. `colors`: three channels are mixed as colors correlate in nature.
    """

    def __init__(
        self, height: int, width: int, *, decay: float = 1.0, colors: bool = False
    ) -> None:
        self.size = height, width
        down, across = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
        lowest = 1 / max(height, width)
        self.frequencies = (down**2 + across**2).sqrt()
        weight = self.frequencies.clamp_min(lowest) ** -decay
        whole = torch.fft.fftfreq(width)
        power = (down**2 + whole**2).sqrt().clamp_min(lowest) ** (-2 * decay)
        self.weight = weight / power.mean().sqrt() / math.sqrt(2)  # real and imaginary parts
        mixing = torch.tensor(COLORS)
        self.mixing = mixing / mixing.norm(dim=0).max() if colors else None

    def shape(self, rows: int, channels: int) -> tuple[int, ...]:
        """The shape of coefficients of so many maps."""
        return rows, channels, *self.weight.shape, 2

    def map(self, coefficients: Tensor) -> Tensor:
        """The maps that coefficients make, (rows, channels, height, width)."""
        spectrum = torch.view_as_complex(coefficients.contiguous())
        spectrum = spectrum * self.weight.to(coefficients.device)
        found: Tensor = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        if self.mixing is not None:
            found = torch.einsum("ij,njhw->nihw", self.mixing.to(found), found)
        return found

    def uphill(self, gradient: Tensor, slowest: float = 0.0) -> Tensor:
        """A gradient of maps, as steps along their coefficients go: what is fine in it is noise to
        the eye. Frequencies below `slowest`, in cycles a pixel, are left out."""
        if self.mixing is not None:
            gradient = torch.einsum("ij,nihw->njhw", self.mixing.to(gradient), gradient)
        spectrum = torch.fft.rfft2(gradient, norm="ortho")
        spectrum = spectrum * (self.frequencies >= slowest).to(gradient)
        return self.map(torch.view_as_real(spectrum))

    def coefficients(self, maps: Tensor) -> Tensor:
        """The coefficients that make maps, (rows, channels, height, width)."""
        if self.mixing is not None:
            maps = torch.einsum("ij,njhw->nihw", torch.linalg.inv(self.mixing).to(maps), maps)
        spectrum = torch.fft.rfft2(maps, norm="ortho") / self.weight.to(maps.device)
        return torch.view_as_real(spectrum).contiguous()


def drawn(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Normal noise (rows, ...), each row from its own seed, in float32 on the CPU."""
    generators = map(_seeded, seeds)
    return torch.stack([torch.randn(tuple(shape[1:]), generator=g) for g in generators])


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)  # no larger ones are taken


def motions(steps: int, seeds: Sequence[int], amount: float = 1.0) -> Tensor:
    """Random affine transformations (steps, rows, 2, 3), each row from its own seed.

    Of an `amount` of 1: jitter by up to an eighth of the side, scales from 0.9 to 1.1, turns by up
    to 8 degrees.
    """
    generators = map(_seeded, seeds)
    drawn = torch.stack([2 * torch.rand(steps, 4, generator=g) - 1 for g in generators], dim=1)
    across, down, larger, turn = (amount * drawn).unbind(-1)
    scale, angle = 1 + 0.1 * larger, math.radians(8) * turn
    cos, sin = angle.cos() / scale, angle.sin() / scale
    first = torch.stack([cos, -sin, across / 4], -1)
    return torch.stack([first, torch.stack([sin, cos, down / 4], -1)], -2)


def moved(maps: Tensor, motion: Tensor) -> Tensor:
    """Maps (rows, channels, height, width), each moved (rows, 2, 3); edges are mirrored."""
    grid = F.affine_grid(motion.to(maps), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="reflection", align_corners=False)
