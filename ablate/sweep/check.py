"""Checks of a recipe beside its model: schedulers, texts, sizes, LoRAs, checkpoints."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

from ablate.drift import check_reader
from ablate.edits import wrong_length, wrong_letters
from ablate.models import (
    ModelError,
    Source,
    check_lora,
    default_side,
    load_catalog,
    outline_of,
    source_like,
    wrong_side,
)
from ablate.recipe import INVALID, KeyPath, Recipe
from ablate.sampling import scheduler_class
from ablate.sweep.edits import BoundEdit, Report

Size = tuple[int, int]


def check_sampling(recipe: Recipe, report: Report) -> None:
    """Whether diffusers has the schedulers."""
    for name, path in _settings(recipe, "scheduler"):
        try:
            if isinstance(name, str):
                scheduler_class(name)
        except ModelError as error:
            report(path, str(error))


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
            yield value, recipe.value_path(name, i)


def check_loras(recipe: Recipe, report: Report) -> None:
    """Whether LoRAs can be read, as far as their files show; those of a hub are looked for when
    needed."""
    for i, lora in enumerate(recipe.lora):
        try:
            if lora and lora.model:
                check_lora(lora)
        except ModelError as error:
            report(("lora", i), str(error))


def check_clip(recipe: Recipe, report: Report) -> None:
    """Whether the CLIP model that reads the images can be loaded, as far as its files show."""
    try:
        if recipe.clip is not INVALID:
            check_reader(recipe.model, recipe.clip)
    except ModelError as error:
        report(("clip",) if recipe.clip else ("model",), str(error))


def check_checkpoint(edit: BoundEdit, source: Source, name: str, report: Report) -> None:
    """Whether the weights of the model that an edit blends in fit."""
    model = edit.spec.partner
    if edit.spec.op.draws != "checkpoint" or not isinstance(model, str):
        return
    try:
        one = load_catalog(source, edit.component or name)
        other = load_catalog(source_like(source, model), edit.component or name)
    except ModelError as error:
        report((*edit.path, "with"), str(error))
        return
    sizes = {module.path: module.parameters for module in other}
    unlike = [module.path for module in one if sizes.get(module.path) != module.parameters]
    if unlike:
        message = (
            f"`{model}` is of another shape: {len(unlike)} modules differ, `{unlike[0]}` first"
        )
        report((*edit.path, "with"), message)
