"""Points of embedding space, each a weighted sum of prompts' embeddings.

A point consists of prompts and their weights alone, and needs no network until it is embedded:

    >>> between("a cat", "a dog", 0.25)
    Point(weights=(('a cat', 0.75), ('a dog', 0.25)), path='lerp')
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Interpolation = Literal["lerp", "slerp"]
INTERPOLATIONS: tuple[Interpolation, ...] = ("lerp", "slerp")
# The tensors of one prompt by the pipeline's names for them: token states (1, tokens, width) of
# every text encoder, pooled embeddings (1, width).
Embedding = Mapping[str, Tensor]
# Ordinary prompts, which determine the spread of random points and directions by default. The
# bundled model knows all of their words.
PROMPTS = (
    "a cat", "a cat in a party hat", "a cat on a beach", "a dog", "a dog in a top hat",
    "a dog in the snow", "a fox in a meadow", "a fox in a crown", "a panda",
    "a panda in a graduation cap", "a bear at night", "a koala on a pink background", "a tiger",
    "a tiger in the desert", "a lion in a crown", "a lion on a beach", "a mouse",
    "a mouse in a party hat", "a rabbit in the snow", "a rabbit in a top hat", "a frog in a meadow",
    "a pig on a yellow background", "a cow in a meadow", "a monkey in a graduation cap",
    "a monkey at night", "a penguin", "a penguin in the snow", "an owl at night",
    "an owl in a top hat", "a red car", "a blue car in the desert", "a rocket",
    "a rocket at night", "a pizza", "a pizza on a red background", "a sunflower in a meadow",
    "a green balloon", "a house in the snow", "a house on a beach", "an apple",
    "a banana on a blue background", "a strawberry", "a cactus in the desert", "a mushroom",
    "a tree in a meadow", "a boat on a beach", "a purple umbrella", "a cupcake", "a butterfly",
)  # fmt: skip


@dataclass(frozen=True)
class Point:
    """A weighted sum of prompts' embeddings, or a point on the arc between two.

    Attributes:
        weights: Prompts and their weights.
        path: `lerp` for the sum, `slerp` for the arc.
    """

    weights: tuple[tuple[str, float], ...]
    path: Interpolation = "lerp"

    @property
    def prompt(self) -> str | None:
        """The prompt whose embedding the point is; None if there is none."""
        (text, weight), *others = self.weights
        return text if weight == 1 and not others else None


def _point(weights: Mapping[str, float], path: Interpolation = "lerp") -> Point:
    return Point(tuple((text, w) for text, w in weights.items() if w), path)


def between(start: str, end: str, t: float, path: Interpolation = "lerp") -> Point:
    """The point at a share `t` of the way from one prompt to another; it may be beyond [0, 1]."""
    if start == end:
        return Point(((start, 1.0),))
    return _point({start: 1 - t, end: t}, path)


def on_plane(center: str, toward: Sequence[str | int], at: Sequence[float]) -> Point:
    """A point on a plane through the embedding of a prompt.

    Args:
        center: The prompt.
        toward: The directions: toward a prompt, which is reached at 1, or a random one by its seed,
            as long as the typical distance of prompts from their mean.
        at: The coordinates along them.
    """
    weights = {center: 1.0}
    for target, amount in zip(toward, at, strict=True):
        step = _deviation(target, 0, PROMPTS) if isinstance(target, int) else {target: 1.0}
        for text, weight in step.items():
            weights[text] = weights.get(text, 0.0) + amount * weight
        if not isinstance(target, int):
            weights[center] -= amount
    return _point(weights)


def random_point(seed: int, number: int, prompts: Sequence[str] = PROMPTS) -> Point:
    """A random point with the mean and covariance of the embeddings of some prompts.

    It is their mean plus a normally distributed share of each one's deviation from it; so it has
    their covariance across tokens, channels and encoders, which is never computed.
    """
    mean = 1 / len(prompts)
    deviation = _deviation(seed, number, prompts)
    return _point({text: mean + share for text, share in deviation.items()})


def _deviation(seed: int, number: int, prompts: Sequence[str]) -> dict[str, float]:
    """Weights, summing to 0, of a random deviation from the mean of prompts' embeddings."""
    source = random.Random(f"{seed}/{number}")
    shares = [source.gauss() / math.sqrt(len(prompts) - 1) for _ in prompts]
    mean = sum(shares) / len(shares)
    return {text: share - mean for text, share in zip(prompts, shares, strict=True)}


def embed(point: Point, encode: Callable[[str], Embedding]) -> dict[str, Tensor]:
    """The embedding of a point, in the shapes and dtypes of `encode`, the embedding of a prompt."""
    prompts = [encode(text) for text, _ in point.weights]
    weights = [weight for _, weight in point.weights]
    if point.prompt is not None:
        return dict(prompts[0])
    return {
        name: _combined([p[name].float() for p in prompts], weights, point.path).to(first.dtype)
        for name, first in prompts[0].items()
    }


def _combined(tensors: list[Tensor], weights: list[float], path: Interpolation) -> Tensor:
    if path == "slerp":
        return slerp(tensors[0], tensors[1], weights[1])
    return sum((w * t for w, t in zip(weights, tensors, strict=True)), torch.zeros(()))


def slerp(start: Tensor, end: Tensor, t: float) -> Tensor:
    """Spherical interpolation of the last dimension (Shoemake 1985, Animating rotation with
    quaternion curves); for parallel vectors, linear interpolation. Shape as given."""
    cosine = torch.nn.functional.cosine_similarity(start, end, dim=-1).unsqueeze(-1)
    angle = torch.acos(cosine.clamp(-1, 1))
    sine = torch.sin(angle)
    arc = (torch.sin((1 - t) * angle) * start + torch.sin(t * angle) * end) / sine
    return torch.where(sine.abs() < 1e-4, (1 - t) * start + t * end, arc)
