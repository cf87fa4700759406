"""Latents, and embeddings of prompts, that the denoiser responds to most at a noise level."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ablate.engine import stoppable
from ablate.sampling import Pipeline
from ablate.units.visualize.ascent import Advance, Ascent, Project, Target, ascend, evaluate
from ablate.units.visualize.capture import (
    capture,
    plain_settings,
    sample_with_embeddings,
    sample_with_latents,
)
from ablate.units.visualize.fourier import Fourier, moved, noise, random_motions
from ablate.units.visualize.inputs import PLAIN, Inputs, Optimized
from ablate.units.visualize.objectives import (
    VISION,
    MissingError,
    Objective,
    ObjectiveError,
    check,
)

LEVEL = 0.9  # of noise: little is decided by then, and few units respond to whatever they see
GUIDANCE = 5.0  # of the images of optimized embeddings


@dataclass(frozen=True)
class DenoiserInputs(Inputs):
    """Inputs of a pipeline's denoiser.

    Attributes:
        pipeline: The pipeline.
        t: Noise level, from 1, noise alone, to 0.
        prompt: The prompt; of embeddings, where they start.
        size: Width and height of the images; None is the model's default size.
    """

    pipeline: Pipeline
    _: KW_ONLY
    t: float = LEVEL
    prompt: str = ""
    size: tuple[int, int] | None = None

    @property
    def network(self) -> nn.Module:
        return self.pipeline.denoiser

    @property
    def model(self) -> str:
        return self.pipeline.model

    @property
    def fingerprint(self) -> str:
        return self.pipeline.fingerprint

    def stop(self) -> bool:
        return self.pipeline.stop()

    def interruptible(self) -> AbstractContextManager[object]:
        return stoppable(self.pipeline)

    def parameters(self) -> dict[str, Any]:
        return {
            "t": self.t,
            "prompt": self.prompt,
            "size": self.size and list(self.size),
            "dtype": str(self.pipeline.dtype),
        }

    def check(self, objectives: Sequence[Objective]) -> None:
        try:
            check(objectives, self.network, self.together)
        except MissingError as error:
            paths = [path for objective in objectives for path in objective.paths]
            if not any(path.startswith((VISION, "vision_model")) for path in paths):
                raise
            raise ObjectiveError(
                f"{error} (latents and prompts drive the denoiser; `text` and units of the CLIP"
                " model are for `--input image`)"
            ) from error


@dataclass(frozen=True)
class Latents(DenoiserInputs):
    """Latents at a noise level.

    Each starts from the latent of sampling with the prompt and seed at that level, or, by degrees,
    from a plainer one in which the objective is silent (`ascend`); its standard deviation stays.
    Images are the denoiser's estimates in one step, `finished` those at the end of the sampling.
    """

    kind = "latent"
    _: KW_ONLY
    ascent: Ascent = field(default=Ascent(quieting=48, rate=0.2, decay=1.0, motion=0.0, batch=16))

    def optimize_batch(self, rows: Sequence[Target], advance: Advance) -> Optimized:
        seeds = [row.seed for row in rows]
        call = capture(self.pipeline, self.prompt, seeds, self.t, self.size)
        first = call.maps
        basis = Fourier(first.shape[2], first.shape[3], decay=self.ascent.decay)
        deviation = _deviation(first)
        motions = random_motions(self.ascent.steps, seeds, self.ascent.motion)

        def maps(coefficients: Tensor) -> Tensor:
            free = basis.map(coefficients)
            return free * (deviation / _deviation(free))

        def value(coefficients: Tensor, step: int | None) -> Tensor:
            latents = moved(maps(coefficients), motions, step)
            return evaluate(call.network, rows, lambda: call(latents=latents))

        plain = []
        for i in range(PLAIN):
            flat = noise(first.shape[:2], [seed * PLAIN + i for seed in seeds])[:, :, None, None]
            share = i / (PLAIN - 1)
            mixed = (1 - share) * first + share * flat.to(first) * deviation
            plain.append(basis.coefficients(mixed))
        coefficients, values = ascend(torch.stack(plain), value, self.ascent, advance)
        latents = maps(coefficients)
        images, finished = sample_with_latents(self.pipeline, call, latents)
        return Optimized(images, *values, inputs=latents.cpu().numpy(), finished=finished)


def _deviation(maps: Tensor) -> Tensor:
    """Standard deviation of each row of maps, (rows, 1, 1, 1)."""
    return maps.flatten(1).std(1)[:, None, None, None]


@dataclass(frozen=True)
class Prompts(DenoiserInputs):
    """Embeddings of prompts, in the mean over the latents of the seeds; one row per objective.

    Each starts from the prompt's embedding, or from one near it in which the objective is silent
    (`ascend`); every token keeps its mean and length. Images are sampled with the first seed.
    """

    kind = "prompt"
    _: KW_ONLY
    seeds: tuple[int, ...] = (0, 1)
    ascent: Ascent = field(default=Ascent(64, quieting=48, rate=0.1, batch=8))

    @property
    def row_seeds(self) -> tuple[int, ...]:
        return self.seeds[:1]

    def parameters(self) -> dict[str, Any]:
        return {**super().parameters(), "guidance": GUIDANCE, "latents": list(self.seeds)}

    def optimize_batch(self, rows: Sequence[Target], advance: Advance) -> Optimized:
        count = len(self.seeds)
        settings = plain_settings(self.pipeline, GUIDANCE, self.size)
        call = capture(self.pipeline, self.prompt, self.seeds * len(rows), self.t, self.size)
        first = call.embeddings[::count]
        middle = first.mean(-1, keepdim=True)
        length = _length(first - middle)

        def value(embeddings: Tensor, _: int | None) -> Tensor:
            repeated = embeddings.repeat_interleave(count, dim=0)
            return evaluate(call.network, rows, lambda: call(embeddings=repeated), count)

        def project(embeddings: Tensor) -> Tensor:
            free = embeddings - embeddings.mean(-1, keepdim=True)
            return middle + free * (length / _length(free).clamp_min(1e-8))

        plain = _near(first, project, rows)
        embeddings, values = ascend(plain, value, self.ascent, advance, project)
        seeds = self.row_seeds * len(rows)
        samples = sample_with_embeddings(self.pipeline, call, embeddings, seeds, settings)
        return Optimized(samples.images, *values, inputs=embeddings.cpu().numpy())


def _length(embeddings: Tensor) -> Tensor:
    length: Tensor = embeddings.norm(dim=-1, keepdim=True)
    return length


def _near(first: Tensor, project: Project, rows: Sequence[Target]) -> Tensor:
    """Embeddings (embeddings, rows, tokens, width), from the prompt's to increasingly far ones."""
    size = (first - first.mean(-1, keepdim=True)).std(-1, keepdim=True)
    embeddings = []
    for i in range(PLAIN):
        random = noise(first.shape, [row.seed * PLAIN + i for row in rows]).to(first)
        embeddings.append(project(first + i / (PLAIN - 1) * size * random))
    return torch.stack(embeddings)
