"""Checks: all mistakes of a recipe beside its networks."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ablate.edits import wrong_length
from ablate.models import (
    ModelError,
    Source,
    default_side,
    denoiser_of,
    folder_of,
    guided_rows,
    is_file,
    load_catalog,
    lora_file,
    outline_of,
    source_like,
    wrong_side,
)
from ablate.network import Networks, SelectorError, select
from ablate.recipe import (
    Axis,
    Draft,
    Problem,
    Recipe,
    RecipeError,
    Ref,
    in_order,
    keyed,
    read_recipe,
)
from ablate.sampling import scheduler_class
from ablate.sweep.edits import Studied
from ablate.sweep.plan import Plan, plan_recipe


def resolve(recipe: Recipe) -> Plan:
    """The plan of a recipe on its own model, from configuration alone.

    Raises `RecipeError` or `ModelError`.
    """
    names = {edit.component for edit in recipe.edits} | {axis.component for axis in recipe.axes}
    source = Source.of(recipe)
    planned = plan_recipe(recipe, _networks(source, recipe.component, names))
    problems = list(_of_pictures(recipe))
    if problems:
        raise RecipeError(problems)
    return planned


def _networks(source: Source, component: str | None, named: Collection[str | None]) -> Networks:
    """The catalogs of a model's networks: of the edited one, and of those that are named."""
    name = component or denoiser_of(source)
    others = {other for other in named if other is not None} - {name}
    return Networks(
        load_catalog(source, component),
        name,
        {other: load_catalog(source, other) for other in sorted(others)},
        guided_rows(source),
    )


def read_checked(
    path: Path, overrides: Mapping[str, Any] | None = None, *, allow_code: bool = False
) -> tuple[Draft, tuple[Problem, ...]]:
    """A recipe file and all of its mistakes, those that only its model shows included."""
    draft = read_recipe(path, overrides, allow_code=allow_code)
    problems = list(draft.problems)
    key = "component" if draft.component is not None else "model"
    named: dict[str | None, Problem] = {None: draft.locate(Problem("", key))}
    for chosen in draft.selectors:
        # It stands beside the selector.
        key = f"{chosen.place.key.removesuffix('.modules').removesuffix('.with')}.component"
        named.setdefault(chosen.component, dataclasses.replace(chosen.place, key=key))
    for key, edit in keyed(draft.sketch.edits if draft.sketch is not None else ()):
        named.setdefault(edit.component, draft.locate(Problem("", f"{key}.component")))
    # One by one, so that each mistake is told where it stands.
    unknown = {}
    for component, place in named.items():
        try:
            load_catalog(draft.origin, component or draft.component)
        except ModelError as error:
            unknown[component] = dataclasses.replace(place, message=str(error))
    found: list[Problem] = []
    if None not in unknown:
        there = named.keys() - unknown.keys()
        problems = check(draft, _networks(draft.origin, draft.component, there), unknown)
    elif draft.sketch is not None:
        found += study_problems(draft.sketch, None)
    problems += unknown.values()
    for model, component, place in draft.checkpoints:
        wrong = _unlike_checkpoint(draft, model, component)
        if wrong:
            problems.append(dataclasses.replace(place, message=wrong))
    problems += _lost(draft)
    if draft.sketch is not None:
        found += _of_pictures(draft.sketch)
    problems += untold(draft, found, problems)
    for name, place in draft.schedulers:
        try:
            scheduler_class(name)
        except ModelError as error:
            problems.append(dataclasses.replace(place, message=str(error)))
    return draft, in_order(problems)


def _of_pictures(recipe: Recipe) -> Iterator[Problem]:
    """Sizes that the model cannot make, and words that pictures of those that it can do not hold;
    none where its pipeline is not known."""
    outline = outline_of(Source.of(recipe))
    if outline is None:
        return
    sides: list[list[int]] = []
    for name in ("width", "height"):
        axis = next((axis for axis in recipe.axes if axis.name == name), None)
        places = {f"sampling.{name}": getattr(recipe.sampling, name)}
        if axis is not None:
            places = {f"axes.{name}.values[{i}]": side for i, side in enumerate(axis.values)}
        sides.append([side or default_side(outline, name) for side in places.values()])
        for (place, given), side in zip(places.items(), sides[-1], strict=True):
            wrong = wrong_side(outline, name, side)
            if wrong is not None:
                yield Problem(wrong if given else f"{wrong}, its own where none is given", place)
    zipped = any({"width", "height"} <= set(group) for group in recipe.zipped)
    sizes = list(zip(*sides, strict=False) if zipped else itertools.product(*sides))
    axes = {axis.name: axis for axis in recipe.axes}
    for key, edit in keyed(recipe.edits):
        for text, place in given_by(edit.text, axes, f"{key}.text"):
            found = (wrong_length(str(text or ""), *size) for size in sizes)
            too_long = next((wrong for wrong in found if wrong is not None), None)
            if too_long is not None:
                yield Problem(too_long, place)


def _lost(draft: Draft) -> Iterator[Problem]:
    """LoRAs that are not where a recipe says; those on a hub are looked for when needed."""
    for i, lora in enumerate(draft.sketch.lora if draft.sketch is not None else ()):
        try:
            if is_file(lora.model) or folder_of(lora.model) is not None:
                lora_file(lora)
        except ModelError as error:
            yield draft.locate(Problem(str(error), f"lora[{i}]"))


def _unlike_checkpoint(draft: Draft, model: str, component: str | None) -> str | None:
    """Why a model's weights cannot be blended with another's; None where they can."""
    try:
        name = component or draft.component or denoiser_of(draft.origin)
        one, other = (
            load_catalog(draft.origin, name),
            load_catalog(source_like(draft.origin, model), name),
        )
    except ModelError as error:
        return str(error)
    sizes = {module.path: module.parameters for module in other}
    unlike = [m.path for m in one if sizes.get(m.path) != m.parameters]
    if not unlike:
        return None
    return f"`{model}` is of another shape: {len(unlike)} modules differ, `{unlike[0]}` first"


def check(draft: Draft, networks: Networks, unknown: Collection[str | None] = ()) -> list[Problem]:
    """All mistakes of a recipe that is to run on these networks, its selectors' included.

    `unknown`: components that there are none of; of what is chosen from them nothing is said.
    """
    problems = list(draft.problems)
    for chosen in draft.selectors:
        if chosen.component in unknown:
            continue
        try:
            select(chosen.selector, networks.of(chosen.component), blocks=chosen.blocks)
        except SelectorError as error:
            problems.append(replace(chosen.place, message=str(error)))
    if draft.sketch is not None:
        problems += untold(draft, study_problems(draft.sketch, networks, unknown), problems)
    if not unknown and draft.recipe is not None:
        try:
            plan_recipe(draft.recipe, networks)
        except RecipeError as error:
            problems += untold(draft, error.problems, problems)
    return problems


def untold(draft: Draft, found: Iterable[Problem], told: Iterable[Problem]) -> list[Problem]:
    """Of further mistakes in a recipe those whose place is none of one that is told already, and
    whose words are others. What could not be read has nothing else that is wrong with it."""
    known = {said for problem in told for said in (problem.key, problem.message)}
    return [p for p in map(draft.locate, found) if not known & {p.key, p.message}]


def study_problems(
    recipe: Recipe, networks: Networks | None, unknown: Collection[str | None] = ()
) -> list[Problem]:
    """All mistakes of what the edits of a recipe, perhaps one with others, ask of studies; of
    networks that are not known, or lack the component, those alone that are none of theirs."""
    found: list[Problem | None] = []
    for key, edit in keyed(recipe.edits):
        if edit.units is None or not edit.units.run:
            continue
        try:
            studied = Studied(edit.units, f"{key}.units")
        except RecipeError as error:
            found += error.problems
            continue
        axes = {axis.name: axis for axis in recipe.axes}
        for concept, place in given_by(edit.units.concept, axes, f"{key}.units.concept"):
            found.append(studied.no_concept(concept, place) if concept else None)
        if networks is None or edit.component in unknown:
            continue
        try:
            studied.meet(networks, networks.other(edit.component), edit.where == "output")
        except RecipeError as error:
            found += error.problems
            continue
        for count, place in given_by(edit.units.count, axes, f"{key}.units.count"):
            found.append(studied.too_many(count, place))
    return [problem for problem in found if problem is not None]


def given_by(value: Any, axes: Mapping[str, Axis], place: str) -> Iterator[tuple[Any, str]]:
    """A setting, or the values of the axis that it refers to, each with its place."""
    if not isinstance(value, Ref):
        yield value, place
    elif value.axis in axes and axes[value.axis].form == "values":
        for i, one in enumerate(axes[value.axis].values):
            yield one, f"axes.{value.axis}.values[{i}]"
