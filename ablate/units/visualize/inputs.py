"""Kinds of inputs that can be optimized for an objective, behind one interface.

`Images` and `Dreams` drive the CLIP model that reads images, `Latents` and `Prompts` the denoiser
(Olah, Mordvintsev & Schubert 2017, Feature Visualization).

>>> result = Images(reader).optimize([channel("vision_model.encoder.layers.2.mlp.fc1", 12)])
>>> result.images.shape
(1, 224, 224, 3)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, ClassVar, Self

import numpy as np
from torch import nn

from ablate.sampling import Stopped
from ablate.units.visualize.ascent import Advance, Ascent, Target, input_gradients
from ablate.units.visualize.objectives import Objective, ObjectiveError

OnStep = Callable[[int, int], object]  # work done, and work in all
PLAIN = 16  # plain inputs that a row can start from


@dataclass(frozen=True)
class Optimized:
    """Optimized inputs, one row per objective and seed.

    Attributes:
        images: Pictures, float32 in [0, 1], (rows, height, width, 3).
        start: Objective before the first step, without random motions, (rows,).
        end: Objective after the last step, without random motions, (rows,).
        typical: Mean objective of the plain inputs that a row can start from, (rows,).
        curve: Objective at every step, with random motions, (rows, steps).
        inputs: Latents (rows, channels, height, width) or embeddings (rows, tokens, width).
        finished: Of latents, the images at the end of the sampling, as `images`.
    """

    images: np.ndarray
    start: np.ndarray
    end: np.ndarray
    typical: np.ndarray
    curve: np.ndarray
    inputs: np.ndarray | None = None
    finished: np.ndarray | None = None

    @classmethod
    def concatenated(cls, parts: Sequence[Optimized]) -> Optimized:
        """The rows of all parts."""
        columns: dict[str, Any] = {
            name: None if value is None else np.concatenate([vars(part)[name] for part in parts])
            for name, value in vars(parts[0]).items()
        }
        return cls(**columns)


@dataclass(frozen=True, kw_only=True)
class Inputs(ABC):
    """A kind of inputs of one model.

    Attributes:
        seeds: Seeds; each objective has one row per seed (`row_seeds`).
        ascent: How they are optimized.
        kind: Name of the kind in records.
        noun: What `work` counts, in the plural.
    """

    kind: ClassVar[str]
    noun: ClassVar[str] = "steps"
    seeds: tuple[int, ...] = (0,)
    ascent: Ascent

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network that the inputs drive."""

    @property
    @abstractmethod
    def model(self) -> str:
        """The model's name."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """The identity of the model's weights."""

    @property
    def row_seeds(self) -> tuple[int, ...]:
        """Seeds that have a row each."""
        return self.seeds

    @property
    def together(self) -> int:
        """Rows of an objective that are optimized together, and can be compared."""
        return len(self.row_seeds)

    @property
    def work(self) -> int:
        """Work per row, in `noun`."""
        return self.ascent.steps

    @abstractmethod
    def check(self, objectives: Sequence[Objective]) -> None:
        """Raise `ObjectiveError` for objectives that these inputs cannot drive."""

    @abstractmethod
    def parameters(self) -> dict[str, Any]:
        """What determines a picture beside model, objective, seed and ascent."""

    @abstractmethod
    def optimize_batch(self, rows: Sequence[Target], advance: Advance) -> Optimized:
        """Optimize some rows together. Gradients of inputs are enabled."""

    def stop(self) -> bool:
        """Whether to stop after the current step."""
        return False

    def interruptible(self) -> AbstractContextManager[object]:
        """A context in which Ctrl-C makes `stop` true, where the model supports it."""
        return nullcontext()

    def with_steps(self, steps: int | None) -> Self:
        """The same with another number of steps; None keeps it."""
        return self if steps is None else replace(self, ascent=replace(self.ascent, steps=steps))

    def rows(self, objectives: Sequence[Objective]) -> list[Target]:
        """All rows, those of an objective next to each other."""
        single = [part for objective in objectives for part in objective.split()]
        return [Target(objective, seed) for objective in single for seed in self.row_seeds]

    def records(self, objectives: Sequence[Objective]) -> list[dict[str, Any]]:
        """Everything that determines each row's picture; identifies it on disk."""
        common = {"kind": self.kind, "model": self.fingerprint}
        common |= asdict(self.ascent) | self.parameters()
        del common["batch"]  # affects time alone
        return [
            common | {"objective": row.objective.text, "seed": row.seed}
            for row in self.rows(objectives)
        ]

    def optimize(self, objectives: Sequence[Objective], on_step: OnStep | None = None) -> Optimized:
        """Optimize inputs for objectives, in batches of `ascent.batch` rows.

        `on_step`: called with the finished work and all work after every step.

        Raises:
            ObjectiveError: No objectives, or some that these inputs cannot drive.
            Stopped: The model was asked to stop.
        """
        self.check(objectives)
        rows = self.rows(objectives)
        if not rows:
            raise ObjectiveError("there is nothing to visualize: no objective was given")
        done, total = 0, len(rows) * self.work

        def advance(work: int) -> None:
            nonlocal done
            done += work
            if on_step is not None:
                on_step(done, total)
            if self.stop():
                raise Stopped

        batches = _batches(rows, self.ascent.batch)
        with input_gradients(self.network):
            return Optimized.concatenated([self.optimize_batch(b, advance) for b in batches])


def _batches(rows: Sequence[Target], size: int) -> list[list[Target]]:
    """Split rows into batches, rows of an objective next to each other.

    Rows that are compared with one another are in one batch, however many they are.
    """
    batches: list[list[Target]] = []
    for objective, group in groupby(rows, key=lambda row: row.objective):
        same = list(group)
        step = len(same) if objective.compares_rows else size
        for first in range(0, len(same), step):
            part = same[first : first + step]
            if batches and len(batches[-1]) + len(part) <= size:
                batches[-1] += part
            else:
                batches.append(part)
    return batches
