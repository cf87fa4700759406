"""Checks of a recipe beside its model: schedulers, texts, sizes, LoRAs, checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ablate.drift import check_extra, check_further, check_reader, clip_of
from ablate.edits import wrong_length, wrong_letters
from ablate.messages import RequestError, counted
from ablate.models import (
    ModelError,
    Source,
    check_lora,
    check_partner,
    default_scheduler,
    default_side,
    outline_of,
    shapes_of,
    source_like,
    wrong_side,
)
from ablate.recipe import INVALID, KeyPath, Recipe, asked
from ablate.sampling import check_steps, is_usual, matched_scheduler, named_in_full
from ablate.sweep.edits import BoundEdit, Report

Size = tuple[int, int]
MOST_TRIALS = 50  # of pairs of a scheduler and a number of steps


def check_sampling(recipe: Recipe, source: Source | None, report: Report) -> None:
    """Whether there are the schedulers, and whether the model can be sampled with them in the
    steps asked for. Without a source, whether diffusers has them."""
    default = None
    if source is not None:
        try:
            default = default_scheduler(source)
        except ModelError as error:
            report(("model",), str(error))
    schedulers: list[Any] = []
    for name, path in _settings(recipe, "scheduler"):
        schedulers.append(None)
        try:
            if isinstance(name, str):
                named_in_full(name)
            if default is not None and name is not INVALID:
                schedulers[-1] = _scheduler(name, default, recipe.model)
        except ModelError as error:
            report(path, str(error))
    steps = [(n, path) for n, path in _settings(recipe, "num_inference_steps") if n is not INVALID]
    zipped = any({"scheduler", "num_inference_steps"} <= set(group) for group in recipe.zipped)
    pairs = zip(schedulers, steps, strict=False) if zipped else itertools.product(schedulers, steps)
    for scheduler, (count, path) in itertools.islice(pairs, MOST_TRIALS):
        try:
            if scheduler is not None:
                check_steps(scheduler, count, recipe.model)
        except ModelError as error:
            report(path, str(error))


def _scheduler(name: str | None, default: Any, model: str) -> Any:
    """A scheduler that a recipe asks for, configured for its model, or the default; None for one
    that its pipeline may use in a way of its own."""
    if name is None or name == type(default).__name__:
        return default if is_usual(default) else None
    return matched_scheduler(name, default, model)


def check_series(recipe: Recipe, note: Report) -> None:
    """Note the ranges of numbers that end before their last number."""
    for name, axis in recipe.axes.items():
        for series, path in axis.series if axis else ():
            if series.note is not None:
                note(("axes", name, *path), series.note)


def check_texts(edits: Sequence[BoundEdit], sizes: Sequence[Size], report: Report) -> None:
    """Whether what is written can be drawn, and fits images of all these sizes."""
    for edit in edits:
        for text, path in edit.given_by(edit.spec.text, (*edit.path, "text")):
            if not isinstance(text, str):
                continue
            wrong = [wrong_letters(text), *(wrong_length(text, *size) for size in sizes)]
            message = next(filter(None, wrong), None)
            if message is not None:
                report(path, message)


def check_sizes(recipe: Recipe, source: Source, report: Report) -> list[Size]:
    """Whether the model's pipeline can draw the sizes asked for; returns all of them, none where
    the pipeline is not known."""
    outline = outline_of(source)
    if outline is None:
        return []
    sides: list[list[int]] = []
    for name in ("width", "height"):
        sides.append([])
        for given, path in _settings(recipe, name):
            if given is not INVALID:
                side = given or default_side(outline, name)
                sides[-1].append(side)
                wrong = wrong_side(outline, name, side)
                if wrong is not None:
                    default = "" if given else ", which is the default"
                    report(path, f"{wrong}{default}")
    zipped = any({"width", "height"} <= set(group) for group in recipe.zipped)
    return list(zip(*sides, strict=False) if zipped else itertools.product(*sides))


def _settings(recipe: Recipe, name: str) -> Iterator[tuple[Any, KeyPath]]:
    """All values of a sampling setting, each with its key."""
    axis = recipe.axes.get(name)
    if axis is None:
        yield getattr(recipe.sampling, name), ("sampling", name)
    elif axis and axis.kind == "values":
        for i, value in enumerate(axis.numbers):
            yield asked(name, value), recipe.value_path(name, i)


def check_loras(recipe: Recipe, report: Report) -> None:
    """Whether LoRAs can be read, as far as their files show; those of a hub are looked for when
    needed."""
    for i, lora in enumerate(recipe.lora):
        try:
            if lora and lora.model:
                check_lora(lora)
        except ModelError as error:
            report(("lora", i), str(error))


def check_readers(recipe: Recipe, report: Report) -> None:
    """Whether the models that read the images can be loaded, as far as their files show, and
    whether there is what metrics need."""
    try:
        if recipe.clip is not INVALID:
            check_reader(recipe.model, recipe.clip)
    except ModelError as error:
        report(("clip",) if recipe.clip else ("model",), str(error))
    for i, model in enumerate(recipe.readers):
        try:
            if model is not INVALID:
                check_further(model)
        except ModelError as error:
            report(("readers", i), str(error))
    read = bool(recipe.readers) or clip_of(recipe.model, recipe.clip) is not None
    for i, name in enumerate(recipe.metrics):
        try:
            if name is not INVALID:
                check_extra(name, read=read)
        except RequestError as error:
            report(("metrics", i), str(error))


def check_checkpoint(edit: BoundEdit, source: Source, name: str, report: Report) -> None:
    """Whether the weights of the model that an edit blends in fit."""
    model = edit.spec.partner
    if edit.spec.op.draws != "checkpoint" or not isinstance(model, str):
        return
    component = edit.component or name
    other = source_like(source, model)
    try:
        check_partner(other, component)
        ours, theirs = shapes_of(source, component), shapes_of(other, component)
    except ModelError as error:
        report((*edit.path, "with"), str(error))
        return
    chosen = edit.all_paths
    unlike = [
        tensor
        for tensor, shape in ours.items()
        if tensor.rpartition(".")[0] in chosen and theirs.get(tensor) != shape
    ]
    if unlike:
        first = unlike[0]
        there = f"has {list(theirs[first])}" if first in theirs else "does not have it"
        message = (
            f"{counted(len(unlike), 'tensor')} of `{model}` cannot be blended in, `{first}` first:"
            f" it has the shape {list(ours[first])}, `{model}` {there}"
        )
        report((*edit.path, "with"), message)
