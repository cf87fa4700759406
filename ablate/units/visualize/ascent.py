"""Gradient ascent on a batch of inputs, one row per objective and seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ablate.units.visualize.objectives import HEADS, Objective, ObjectiveError, output_hooks

# Objectives (rows,) of a parameter (rows, ...) at a step; at None without random motions.
Value = Callable[[Tensor, int | None], Tensor]
Project = Callable[[Tensor], Tensor]  # onto the parameters that are allowed
Advance = Callable[[int], object]  # counts finished work
SMALL = 1e-20
SCALE = 1024.0  # of gradients, which half precision would lose
SILENT = 0.1  # share of its mean over plain inputs up to which an objective counts as silent


@dataclass(frozen=True)
class Ascent:
    """How an input is optimized, by Adam.

    Attributes:
        steps: Steps of ascent.
        quieting: Steps of descent at most toward a start where the objective is silent (`ascend`).
        rate: Learning rate; it falls in the second half.
        decay: Frequencies f weigh 1 / f ** decay.
        motion: Amount of random motion of pictures at every step, fading out
            (`ablate.units.visualize.fourier.random_motions`). What does not survive it is noise.
        batch: Rows in one forward pass; affects time alone.
    """

    steps: int = 96
    quieting: int = 0
    rate: float = 0.1
    decay: float = 1.4
    motion: float = 1.0
    batch: int = 32


@dataclass(frozen=True)
class Target:
    """What one input is optimized for: a row of a batch."""

    objective: Objective
    seed: int


class Values(NamedTuple):
    """Objectives during an ascent, as `Optimized` has them."""

    start: np.ndarray
    end: np.ndarray
    typical: np.ndarray
    curve: np.ndarray


@contextmanager
def input_gradients(network: nn.Module) -> Iterator[None]:
    """Enable gradients for inputs alone; parameters are as before on exit."""
    required = {p: p.requires_grad for p in network.parameters()}
    try:
        for parameter in required:
            parameter.requires_grad_(False)
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        for parameter, before in required.items():
            parameter.requires_grad_(before)


def evaluate(
    network: nn.Module, rows: Sequence[Target], call: Callable[[], object], repeats: int = 1
) -> Tensor:
    """Evaluate objectives on a call of the network.

    Args:
        network: The network.
        rows: What each row of the batch is optimized for.
        call: Calls the network.
        repeats: Consecutive inputs per row, whose objectives are averaged.

    Returns:
        Objectives (rows,).

    Raises:
        ObjectiveError: A module did not run, has other rows than the batch, or, where gradients
            are enabled, does not depend on the input.
    """
    paths = tuple(dict.fromkeys(path for row in rows for path in row.objective.paths))
    outputs: dict[str, Tensor] = {}
    with output_hooks(network, paths, outputs):
        call()
    if missing := next((path for path in paths if path not in outputs), None):
        raise ObjectiveError(
            f"`{missing.removesuffix(HEADS)}` did not run when the {type(network).__name__} was"
            " called with the input that is to be optimized: it has no part in it"
        )
    runs = [(o, len(list(same)) * repeats) for o, same in groupby(row.objective for row in rows)]
    sizes = [size for _, size in runs]
    for path, output in outputs.items():
        if len(output) != sum(sizes):
            raise ObjectiveError(
                f"`{path}` gives {len(output)} rows for {sum(sizes)} inputs: it cannot be"
                " visualized row by row"
            )
    parts = {path: torch.split(output, sizes) for path, output in outputs.items()}
    values = []
    for i, (objective, _) in enumerate(runs):
        values.append(objective({path: part[i] for path, part in parts.items()}))
        if torch.is_grad_enabled() and not values[-1].requires_grad:
            raise ObjectiveError(
                f"`{objective.text}` does not depend on the input that is to be optimized: it is"
                " the same for all"
            )
    return torch.cat(values).reshape(len(rows), repeats).mean(1)


def unchanged(parameter: Tensor) -> Tensor:
    """The projection that allows every parameter."""
    return parameter


def ascend(
    plain: Tensor, value: Value, ascent: Ascent, advance: Advance, project: Project = unchanged
) -> tuple[Tensor, Values]:
    """Raise an objective by Adam (Kingma & Ba 2015) from a start where it is silent.

    Args:
        plain: Candidates for the start, (candidates, rows, ...).
        value: The objective.
        ascent: Settings.
        advance: Called with the number of rows after every step, with 0 while a start is sought.
        project: Applied to the parameter after every step.

    Returns:
        The optimized parameter (rows, ...) and the objective on the way.
    """
    start, typical = quiet_start(plain, value, ascent, advance, project)
    parameter = start.clone().requires_grad_()
    with torch.no_grad():
        first = value(parameter, None)
    optimizer = _adam(parameter, ascent)
    curve = torch.zeros(len(parameter), ascent.steps)
    for step in range(ascent.steps):
        left = 1 - step / ascent.steps
        optimizer.param_groups[0]["lr"] = ascent.rate * min(1, 2 * left + 0.1)
        values = value(parameter, step)
        _descend(optimizer, parameter, -values, project)
        curve[:, step] = values.detach()
        advance(len(parameter))
    with torch.no_grad():
        last = value(parameter, None)
    arrays = (t.cpu().numpy() for t in (first, last, typical, curve))
    return parameter.detach(), Values(*arrays)


def quiet_start(
    plain: Tensor, value: Value, ascent: Ascent, advance: Advance, project: Project = unchanged
) -> tuple[Tensor, Tensor]:
    """Choose a start for each row, and average the objective over the candidates.

    A row starts from the first candidate in which its objective is silent: at most a tenth of the
    mean of its magnitude. Without one it starts from the candidate with the lowest objective, which
    descent then lowers until it is silent, by `ascent.quieting` steps at most.
    """
    levels = []
    for candidate in plain:
        with torch.no_grad():
            levels.append(value(candidate, None))
        advance(0)
    level = torch.stack(levels)
    threshold = SILENT * level.abs().mean(0)
    silent = level <= threshold
    chosen = torch.where(silent.any(0), silent.int().argmax(0), level.argmin(0))
    parameter = plain[chosen, torch.arange(plain.shape[1], device=plain.device)]
    parameter = parameter.detach().clone().requires_grad_()
    optimizer = _adam(parameter, ascent)
    for _ in range(ascent.quieting):
        values = value(parameter, None)
        loud = values.detach() > threshold
        if not loud.any():
            break
        before = parameter.detach().clone()
        _descend(optimizer, parameter, values, project)
        with torch.no_grad():
            parameter.copy_(torch.where(_wide(loud, before), parameter, before))
        advance(0)
    return parameter.detach(), level.mean(0)


def _adam(parameter: Tensor, ascent: Ascent) -> torch.optim.Adam:
    return torch.optim.Adam([parameter], ascent.rate, betas=(0.9, 0.99))


def _descend(
    optimizer: torch.optim.Adam, parameter: Tensor, values: Tensor, project: Project
) -> None:
    """Take a step down, of the same size in all rows however large their values."""
    (gradient,) = torch.autograd.grad(SCALE * values.sum(), parameter)
    gradient = torch.nan_to_num(gradient)
    size = gradient.flatten(1).square().mean(1).sqrt().clamp_min(SMALL)
    parameter.grad = gradient / _wide(size, gradient)
    optimizer.step()
    with torch.no_grad():
        parameter.copy_(project(parameter))


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Values (rows,) in as many dimensions as a tensor."""
    return values.reshape(-1, *[1] * (like.dim() - 1))
