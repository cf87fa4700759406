"""Requests for images, the callbacks and results of sampling, and its errors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np

from ablate.sampling.embeddings import Point

Context = Callable[[], AbstractContextManager[object]]


class SamplingError(Exception):
    """A pipeline that cannot be sampled like this; the message says why."""


class UnevenError(Exception):
    """Prompts whose embeddings differ in length, and that cannot share a batch: padding would
    change the images of some families."""


class Stopped(Exception):  # noqa: N818, it is no error
    """Raised out of sampling on request (`Callbacks.should_stop`)."""


@dataclass(frozen=True)
class Request:
    """One image. All requests of a batch share the settings.

    Attributes:
        prompt: The prompt.
        seed: The seed of its noise.
        point: A point of embedding space instead of the prompt.
        encoding: A context for the encoding of the prompt, with the edits of text encoders; the
            same object for requests with the same edits.
        decoding: A context for the decoding of the image, with the edits of the autoencoder.
        shown: Whether the image is decoded; else it is black.
    """

    prompt: str
    seed: int
    point: Point | None = None
    encoding: Context | None = None
    decoding: Context | None = None
    shown: bool = True


@dataclass(frozen=True)
class Samples:
    """The result of sampling n requests.

    Attributes:
        images: float32 in [0, 1], (n, height, width, 3); NaN where a network returned NaN or
            infinity.
        latents: The latents that were decoded, float32, (n, channels, height, width).
        frames: By number of steps, the finished images as they were estimated then.
    """

    images: np.ndarray
    latents: np.ndarray
    frames: Mapping[int, Samples] = field(default_factory=dict)


@dataclass(frozen=True)
class Callbacks:
    """Functions that are called during sampling.

    Attributes:
        on_start: Gets the noise level of every step, from 1, noise alone, to 0.
        on_step: Gets the number of the step that comes next, and in the end the number of steps.
        should_stop: Called after every step; if it returns True, `Stopped` is raised.
    """

    on_start: Callable[[Sequence[float]], None] = lambda _: None
    on_step: Callable[[int], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False
