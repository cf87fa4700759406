"""Parameters of optimized pictures and latents: Fourier coefficients, and random motions.

Gradients of networks are full of high frequencies. Steps along the coefficients of a Fourier basis,
weighted as frequencies are in natural images, and along decorrelated colors lead to forms instead
(Olah, Mordvintsev & Schubert 2017, Feature Visualization).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

# Square root of the covariance of red, green and blue in ImageNet: a column for brightness and for
# two differences of color each, from Lucid. The longest column is scaled to 1.
COLORS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


class Fourier:
    """A basis of maps (rows, channels, height, width), by frequency.

    Coefficients are real, (rows, channels, height, width // 2 + 1, 2). Those of frequency f, in
    cycles per pixel, weigh 1 / f ** `decay`; independent coefficients of deviation 1 give values of
    deviation about 1. `colors`: mix three channels as colors correlate in nature.
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
        """The shape of the coefficients of maps."""
        return rows, channels, *self.weight.shape, 2

    def map(self, coefficients: Tensor) -> Tensor:
        """The maps (rows, channels, height, width) of coefficients."""
        spectrum = torch.view_as_complex(coefficients.contiguous())
        spectrum = spectrum * self.weight.to(coefficients.device)
        maps: Tensor = torch.fft.irfft2(spectrum, s=self.size, norm="ortho")
        if self.mixing is not None:
            maps = torch.einsum("ij,njhw->nihw", self.mixing.to(maps), maps)
        return maps

    def smooth_gradient(self, gradient: Tensor, slowest: float = 0.0) -> Tensor:
        """A gradient of maps as a step along its coefficients, without high-frequency noise.

        Frequencies below `slowest`, in cycles per pixel, are left out.
        """
        if self.mixing is not None:
            gradient = torch.einsum("ij,nihw->njhw", self.mixing.to(gradient), gradient)
        spectrum = torch.fft.rfft2(gradient, norm="ortho")
        spectrum = spectrum * (self.frequencies >= slowest).to(gradient)
        return self.map(torch.view_as_real(spectrum))

    def coefficients(self, maps: Tensor) -> Tensor:
        """The coefficients of maps (rows, channels, height, width)."""
        if self.mixing is not None:
            maps = torch.einsum("ij,njhw->nihw", torch.linalg.inv(self.mixing).to(maps), maps)
        spectrum = torch.fft.rfft2(maps, norm="ortho") / self.weight.to(maps.device)
        return torch.view_as_real(spectrum).contiguous()


def noise(shape: Sequence[int], seeds: Sequence[int]) -> Tensor:
    """Normal noise (rows, ...), one seed per row, float32 on the CPU."""
    rows = [torch.randn(tuple(shape[1:]), generator=_generator(seed)) for seed in seeds]
    return torch.stack(rows)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)  # larger seeds are refused


def random_motions(steps: int, seeds: Sequence[int], amount: float = 1.0) -> Tensor:
    """Random affine transformations (steps, rows, 2, 3), one seed per row.

    An `amount` of 1 shifts by up to an eighth of the side, scales by 0.9 to 1.1 and turns by up to
    8 degrees.
    """
    rows = [2 * torch.rand(steps, 4, generator=_generator(seed)) - 1 for seed in seeds]
    across, down, larger, turn = (amount * torch.stack(rows, dim=1)).unbind(-1)
    scale, angle = 1 + 0.1 * larger, math.radians(8) * turn
    cos, sin = angle.cos() / scale, angle.sin() / scale
    first = torch.stack([cos, -sin, across / 4], -1)
    return torch.stack([first, torch.stack([sin, cos, down / 4], -1)], -2)


def moved(maps: Tensor, motions: Tensor, step: int | None) -> Tensor:
    """Move maps (rows, channels, height, width) by a step's motions; edges are mirrored.

    Motions (steps, rows, 2, 3) fade over the steps, to about a seventh at the end. At step None
    maps stay as they are.
    """
    if step is None:
        return maps
    still = torch.eye(2, 3)
    left = max(0.15, 1 - step / len(motions))
    motion = still + left * (motions[step] - still)
    grid = F.affine_grid(motion.to(maps), list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, padding_mode="reflection", align_corners=False)
