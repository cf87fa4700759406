"""Gradient ascent on inputs, many objectives at once, a row each; and what it came to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.sampling import Stopped
from ablate.units.visualize.objectives import HEADS, Objective, ObjectiveError, hearing

Told = Callable[[int, int], object]
Value = Callable[[Tensor, int | None], Tensor]  # of a parameter at a step: objectives, (rows,)
Kept = Callable[[Tensor], Tensor]
SMALL = 1e-20
SCALE = 1024.0  # of gradients, which half precision would lose
SILENT = 0.1  # of what an objective is for plain inputs: nearly nothing


@dataclass(frozen=True)
class Ascent:
    """How an input is optimized: Adam, with steps of `rate`, which shrink in the second half.

    `decay`: frequencies f weigh 1 / f ** decay. `motion`: how far pictures are moved and turned at
    every step, less and less (`ablate.units.canvas.motions`); what does not bear it is noise.
    `quieting`: steps at most toward a start in which the objective is nearly silent (`started`).
    `batch`: rows in one forward pass.
    """

    steps: int = 96
    quieting: int = 0
    rate: float = 0.1
    decay: float = 1.4
    motion: float = 1.0
    batch: int = 32


@dataclass(frozen=True)
class Visualized:
    """What optimizing came to, a row an objective and seed.

    `images`: float32 in [0, 1], (rows, height, width, 3). `start`, `end`: the objective before the
    first step and after the last, both of the input as it is, without random motions. `typical`:
    its mean over the plain inputs that a row could have started from. `curve`: on the way,
    (steps, rows), with motions. `inputs`: latents (rows, channels, height, width) or embeddings
    (rows, tokens, width). `finished`: of latents, the images that the rest of the sampling comes
    to. `records`: everything that determines each row. `model`: what it is called.
    """

    objectives: tuple[str, ...]
    seeds: tuple[int, ...]
    images: np.ndarray
    start: np.ndarray
    end: np.ndarray
    typical: np.ndarray
    curve: np.ndarray
    records: tuple[Mapping[str, Any], ...]
    inputs: np.ndarray | None = None
    finished: np.ndarray | None = None
    model: str = ""


@dataclass(frozen=True)
class Row:
    """One picture to be made."""

    objective: Objective
    seed: int


def rows_of(objectives: Sequence[Objective], seeds: Sequence[int] = (0,)) -> list[Row]:
    """All rows of objectives and seeds, an objective's own together."""
    apart = [single for objective in objectives for single in objective.apart()]
    return [Row(objective, seed) for objective in apart for seed in seeds]


def records(
    kind: str,
    model: str,
    objectives: Sequence[Objective],
    seeds: Sequence[int],
    ascent: Ascent,
    **more: Any,
) -> list[dict[str, Any]]:
    """Everything that determines each row: what its picture on disk is known by."""
    settings = asdict(ascent)
    del settings["batch"]  # which changes nothing but time
    return [
        {"kind": kind, "model": model, "objective": row.objective.text, "seed": row.seed,
         **settings, **more}
        for row in rows_of(objectives, seeds)
    ]  # fmt: skip


@contextmanager
def ready(network: nn.Module) -> Iterator[None]:
    """Gradients of inputs alone; parameters want theirs again afterwards if they did before."""
    wanted = {p: p.requires_grad for p in network.parameters()}
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        with torch.inference_mode(mode=False), torch.enable_grad():
            yield
    finally:
        for parameter, before in wanted.items():
            parameter.requires_grad_(before)


def values_of(
    network: nn.Module, rows: Sequence[Row], call: Callable[[], object], repeats: int = 1
) -> Tensor:
    """The objectives' values, one a row, of a call that computes `repeats` inputs for each.

    Raises `ObjectiveError` for what did not run and, where gradients are wanted, for what does not
    depend on the inputs.
    """
    paths = tuple(dict.fromkeys(path for row in rows for path in row.objective.paths))
    outputs: dict[str, Tensor] = {}
    with hearing(network, paths, outputs):
        call()
    if silent := next((path for path in paths if path not in outputs), None):
        raise ObjectiveError(
            f"`{silent.removesuffix(HEADS)}` did not run when the {type(network).__name__} was"
            " called with the input that is to be optimized: it has no part in it"
        )
    runs = [(o, len(list(same))) for o, same in groupby(row.objective for row in rows)]
    sizes = [count * repeats for _, count in runs]
    for path, found in outputs.items():
        if len(found) != sum(sizes):
            raise ObjectiveError(
                f"`{path}` gives {len(found)} rows for {sum(sizes)} inputs: it cannot be"
                " visualized row by row"
            )
    parts = {path: torch.split(found, sizes) for path, found in outputs.items()}
    values = [
        objective({path: found[i] for path, found in parts.items()})
        for i, (objective, _) in enumerate(runs)
    ]
    for (objective, _), found in zip(runs, values, strict=True):
        if torch.is_grad_enabled() and not found.requires_grad:
            raise ObjectiveError(
                f"`{objective.text}` does not depend on the input that is to be optimized: it is"
                " the same for all"
            )
    return torch.cat(values).reshape(len(rows), repeats).mean(1)


@dataclass(frozen=True)
class Climbed:
    """What an ascent came to: the parameter, and values as `Visualized` has them."""

    parameter: Tensor
    start: Tensor
    end: Tensor
    curve: Tensor


def climb(
    parameter: Tensor,
    value: Value,
    ascent: Ascent,
    tell: Callable[[int], object],
    kept: Kept = lambda parameter: parameter,
) -> Climbed:
    """Raise `value(parameter, step)`, (rows,), by Adam (Kingma & Ba 2015); step None is the input
    without motions. `kept`: where the parameter is put back to after every step."""
    parameter = parameter.detach().clone().requires_grad_()
    with torch.no_grad():
        start = value(parameter, None)
    optimizer = _adam(parameter, ascent)
    curve = []
    for step in range(ascent.steps):
        left = 1 - step / ascent.steps
        optimizer.param_groups[0]["lr"] = ascent.rate * min(1, 2 * left + 0.1)
        values = value(parameter, step)
        _move(optimizer, parameter, -values, kept)
        curve.append(values.detach().cpu())
        tell(len(parameter))
    with torch.no_grad():
        end = value(parameter, None)
    found = parameter.detach()
    lines = torch.stack(curve) if curve else torch.zeros(0, len(start))
    return Climbed(found, start.cpu(), end.cpu(), lines)


def _adam(parameter: Tensor, ascent: Ascent) -> torch.optim.Adam:
    return torch.optim.Adam([parameter], ascent.rate, betas=(0.9, 0.99))


def _move(optimizer: torch.optim.Adam, parameter: Tensor, values: Tensor, kept: Kept) -> None:
    """A step down of all rows alike, however large what they descend is."""
    (gradient,) = torch.autograd.grad(SCALE * values.sum(), parameter)
    gradient = torch.nan_to_num(gradient)
    size = gradient.flatten(1).square().mean(1).sqrt().clamp_min(SMALL)
    parameter.grad = gradient / size.reshape(-1, *[1] * (gradient.dim() - 1))
    optimizer.step()
    with torch.no_grad():
        parameter.copy_(kept(parameter))


def fading(motion: Tensor, step: int) -> Tensor:
    """A step's motion, less and less toward the last, at most a seventh of which remains."""
    still = torch.eye(2, 3)
    left = max(0.15, 1 - step / len(motion))
    faded: Tensor = still + left * (motion[step] - still)
    return faded


def counted(
    on_step: Told | None, total: int, stop: Callable[[], bool] = lambda: False
) -> Callable[[int], None]:
    """Counts work that is done, of so much in all, and raises `Stopped` after a part of it where it
    is time to stop. Work: rows times steps, or whatever takes as long."""
    done = 0

    def tell(work: int) -> None:
        nonlocal done
        done += work
        if on_step is not None:
            on_step(done, total)
        if stop():
            raise Stopped

    return tell


def in_batches(
    rows: Sequence[Row],
    told: Sequence[Mapping[str, Any]],
    size: int,
    make: Callable[[Sequence[Row]], Visualized],
    model: str,
) -> Visualized:
    """All rows, `size` of them made at once. `told`: their records; `model`: what it is called."""

    def joined(values: Sequence[np.ndarray | None]) -> np.ndarray | None:
        present = [value for value in values if value is not None]
        return np.concatenate(present) if present else None

    if not rows:
        raise ObjectiveError("there is nothing to visualize: no objective was given")
    parts = [make(batch) for batch in _batches(rows, size)]
    return Visualized(
        tuple(row.objective.text for row in rows),
        tuple(row.seed for row in rows),
        np.concatenate([p.images for p in parts]),
        np.concatenate([p.start for p in parts]),
        np.concatenate([p.end for p in parts]),
        np.concatenate([p.typical for p in parts]),
        np.concatenate([p.curve for p in parts], axis=1),
        tuple(told),
        joined([p.inputs for p in parts]),
        joined([p.finished for p in parts]),
        model,
    )


def _batches(rows: Sequence[Row], size: int) -> list[list[Row]]:
    """Rows that are made at once, as many as fit, an objective's own together; one that compares
    its rows has them all at once, however many they are."""
    found: list[list[Row]] = []
    for objective, same in groupby(rows, key=lambda row: row.objective):
        own = list(same)
        step = len(own) if objective.compares else size
        for first in range(0, len(own), step):
            part = own[first : first + step]
            if found and len(found[-1]) + len(part) <= size:
                found[-1] += part
            else:
                found.append(part)
    return found


def part_of(climbed: Climbed, images: np.ndarray, typical: Tensor, **more: Any) -> Visualized:
    """What one batch came to; its rows are named when all are together."""
    return Visualized(
        (), (), images, climbed.start.numpy(), climbed.end.numpy(), typical.cpu().numpy(),
        climbed.curve.numpy(), (), **more,
    )  # fmt: skip


def started(
    plain: Tensor,
    value: Value,
    ascent: Ascent,
    tell: Callable[[int], object],
    kept: Kept = lambda parameter: parameter,
) -> tuple[Tensor, Tensor]:
    """Which of several plain inputs (inputs, rows, ...) each row starts from, and the mean of its
    objective over them.

    It is the first in which the objective is nearly silent, a tenth of that mean. Where there is
    none, it is the one in which it is lowest, and from there it is lowered until it is silent.
    """
    found = []
    for some in plain:
        with torch.no_grad():
            found.append(value(some, None))
        tell(0)
    levels = torch.stack(found)
    most = SILENT * levels.abs().mean(0)
    silent = levels <= most
    chosen = torch.where(silent.any(0), silent.int().argmax(0), levels.argmin(0))
    start = plain[chosen, torch.arange(plain.shape[1], device=plain.device)]
    return _quieted(start, value, most, ascent, tell, kept), levels.mean(0)


def _quieted(
    start: Tensor,
    value: Value,
    most: Tensor,
    ascent: Ascent,
    tell: Callable[[int], object],
    kept: Kept,
) -> Tensor:
    """Inputs whose objectives are at most so much, as far as some steps can do it; those that were
    stay as they are."""
    parameter = start.detach().clone().requires_grad_()
    optimizer = _adam(parameter, ascent)
    for _ in range(ascent.quieting):
        values = value(parameter, None)
        loud = values.detach() > most
        if not loud.any():
            break
        before = parameter.detach().clone()
        _move(optimizer, parameter, values, kept)
        with torch.no_grad():
            moving = loud.reshape(-1, *[1] * (before.dim() - 1))
            parameter.copy_(torch.where(moving, parameter, before))
        tell(0)
    return parameter.detach()
