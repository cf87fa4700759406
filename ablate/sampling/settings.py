"""The settings of sampling, as asked for and as carried out."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Sampling:
    """How images are to be sampled.

    Attributes:
        num_inference_steps, guidance_scale, negative_prompt: As in diffusers.
        scheduler: The name of a scheduler; None is the model's default.
        width, height: In pixels; None is the model's default.
    """

    num_inference_steps: int = 20
    guidance_scale: float = 5.0
    scheduler: str | None = None
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None


SAMPLING = tuple(f.name for f in fields(Sampling))


@dataclass(frozen=True)
class Settings:
    """Sampling on a certain model, with its defaults filled in. Sizes in pixels."""

    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    negative_prompt: str
    width: int
    height: int

    @property
    def guided(self) -> bool:
        """Whether a cell has two rows in the denoiser's batch: without and with its prompt."""
        return self.guidance_scale > 1
