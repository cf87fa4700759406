"""Sampling settings, and those that a pipeline draws with."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Sampling:
    """How images are sampled. `scheduler` None: the model's own. Sizes in pixels, None: its own."""

    num_inference_steps: int = 20
    guidance_scale: float = 5.0
    scheduler: str | None = None
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None


SAMPLING = tuple(f.name for f in fields(Sampling))


@dataclass(frozen=True)
class Settings:
    """Sampling as it is carried out: nothing left open. Sizes in pixels."""

    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    negative_prompt: str
    width: int
    height: int

    @property
    def guided(self) -> bool:
        """Whether a cell takes two denoiser rows a step: without and with its prompt."""
        return self.guidance_scale > 1
