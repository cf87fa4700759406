"""A recipe's axes beside the networks of its model: every value, and what it stands for."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablate.edits import When
from ablate.network import (
    Catalog,
    ModuleInfo,
    Networks,
    Selector,
    SelectorError,
    Unit,
    groups,
    select,
)
from ablate.recipe import CONDITION_AXES, UNIT_FORMS, Axis, Problem, Recipe, RecipeError, Ref, Space
from ablate.sampling import Point, between, on_plane, random_point


@dataclass(frozen=True)
class PlanAxis:
    """An axis with its values known. What a value stands for may depend on other axes, so the
    whole assignment is given: `modules` tells the module paths where it stands for modules, `unit`
    the unit of them, `point` the point of embedding space, `window` that of the sampling.
    `of_condition`: whether the baseline, too, depends on it. `note`: what its numbers mean, where
    its name does not say.
    """

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    modules: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None
    unit: Callable[[Mapping[str, Any]], Unit] | None = None
    point: Callable[[Mapping[str, Any]], tuple[str, Point]] | None = None
    window: Callable[[Mapping[str, Any]], When] | None = None
    of_condition: bool = False
    note: str = ""


def text_of(prompt: Any, assignment: Mapping[str, Any]) -> str:
    """A prompt, or that of the axis which it refers to."""
    return str(assignment[prompt.axis] if isinstance(prompt, Ref) else prompt)


def condition_axis(name: str, values: tuple[Any, ...]) -> PlanAxis:
    """An axis of what is asked of the network."""
    return PlanAxis(name, values, tuple(map(label_of, values)), of_condition=True)


def resolve(axis: Axis, networks: Networks, blocks: bool) -> tuple[PlanAxis, ...]:
    """An axis with its values known; of a plane, one for each of its dimensions.

    `blocks`: whether its selector may name blocks. Raises `RecipeError`.
    """
    if axis.form == "embedding":
        return _of_space(axis)
    if axis.form == "windows":
        windows = dict(zip(axis.values, axis.windows, strict=True))
        return (
            PlanAxis(axis.name, axis.values, axis.values, window=lambda a: windows[a[axis.name]]),
        )
    if axis.form in UNIT_FORMS:
        return (_of_units(axis, networks.of(axis.component)),)
    return (_of_modules(axis, networks.of(axis.component), blocks),)


def _of_space(axis: Axis) -> tuple[PlanAxis, ...]:
    """An axis of points, or the dimensions of a plane; the innermost one gives the point."""
    plane = axis.spaces[0]
    if plane.form != "plane":
        points = dict(zip(axis.values, _points(axis.spaces), strict=True))

        def point(assignment: Mapping[str, Any]) -> tuple[str, Point]:
            found: tuple[str, Point] = points[assignment[axis.name]](assignment)
            return found

        note = " · ".join(_told(space) for space in axis.spaces)
        return (replace(condition_axis(axis.name, axis.values), point=point, note=note),)
    names = [f"{axis.name}.{part}" for part in ("zoom", "v", "u")]
    center, *toward = plane.prompts

    def place(assignment: Mapping[str, Any]) -> tuple[str, Point]:
        zoom = assignment.get(names[0], 1)
        at = [assignment[names[2]] / zoom, assignment[names[1]] / zoom]
        targets = [t if isinstance(t, int) else text_of(t, assignment) for t in toward]
        start = text_of(center, assignment)
        shown = ", ".join(f"{a:+.6g} {_quoted(t)}" for a, t in zip(at, targets, strict=True))
        return f"{_quoted(start)} {shown}", on_plane(start, targets, at)

    notes = [f"from {_quoted(center)} (0) toward {_quoted(t)} (1)" for t in toward]
    axes = [condition_axis(names[0], plane.zoom)] if plane.zoom else []
    # Upward is more, as on any chart.
    axes.append(replace(condition_axis(names[1], plane.numbers[::-1]), note=notes[1]))
    axes.append(replace(condition_axis(names[2], plane.numbers), point=place, note=notes[0]))
    return tuple(axes)


def _told(space: Space) -> str:
    """What the points of a space of one dimension are."""
    if space.form == "between":
        start, end = map(_quoted, space.prompts)
        return f"from {start} (0) to {end} (1)" + ", along the arc" * (space.path == "slerp")
    return f"random points of seed {space.seed}" if space.form == "random" else space.form


def _points(
    spaces: Sequence[Space],
) -> Iterator[Callable[[Mapping[str, Any]], tuple[str, Point]]]:
    """What tells a point and its description, for every point of spaces of one dimension."""
    for space in spaces:
        for number in space.numbers or (0,):

            def point(
                assignment: Mapping[str, Any], space: Space = space, number: float = number
            ) -> tuple[str, Point]:
                texts = [text_of(p, assignment) for p in space.prompts]
                if space.form == "between":
                    start, end = texts
                    told = f"{_quoted(start)} → {_quoted(end)}, {number:.6g} of the way"
                    return told, between(start, end, number, space.path)
                if space.form == "random":
                    told = f"random point {number} of seed {space.seed}"
                    return told, random_point(space.seed, int(number), texts)
                return "", Point((("", 1.0),))

            yield point


def _quoted(target: str | int | Ref) -> str:
    if isinstance(target, Ref):
        return f"the {target.axis}"
    return f"direction {target}" if isinstance(target, int) else f"“{target}”"


def _of_units(axis: Axis, catalog: Catalog) -> PlanAxis:
    """An axis over the heads or channels of modules, one at a time."""
    kind = UNIT_FORMS[axis.form]
    key = f"axes.{axis.name}.{axis.form}"
    # Attention layers are blocks, and have heads by themselves.
    found = selected(axis.modules, catalog, key, blocks=kind == "heads")
    units = {
        f"{module.path} {kind.removesuffix('s')} {number}": (module.path, number)
        for module in found
        for number in range(getattr(module, kind))
    }
    if not units:
        problem = Problem(f"none of these modules has {kind}, {found[0].path} for one", key)
        raise RecipeError([problem])
    return PlanAxis(
        axis.name,
        tuple(units),
        tuple(units),
        modules=lambda a: (units[a[axis.name]][0],),
        unit=lambda a: Unit(kind, (units[a[axis.name]][1],)),
    )


def _of_modules(axis: Axis, catalog: Catalog, blocks: bool) -> PlanAxis:
    if axis.name in CONDITION_AXES:
        return condition_axis(axis.name, axis.values)
    if axis.form == "values":
        return PlanAxis(axis.name, axis.values, tuple(label_of(v) for v in axis.values))
    found = selected(axis.modules, catalog, f"axes.{axis.name}.{axis.form}", blocks)
    paths = tuple(m.path for m in found)
    if axis.form == "each":
        return PlanAxis(axis.name, paths, paths, lambda a: (a[axis.name],))
    if axis.form == "group":
        members = dict(groups(found, axis.by))
        return PlanAxis(axis.name, tuple(members), tuple(members), lambda a: members[a[axis.name]])
    counts = axis.counts or tuple(range(1, len(paths) + 1))
    if max(counts) > len(paths):
        problem = Problem(
            f"asks for {max(counts)} modules; there are {len(paths)}",
            f"axes.{axis.name}.cumulative.counts",
        )
        raise RecipeError([problem])
    by_drift = _by_drift(axis, paths) if axis.order == "drift" else ()

    def first(assignment: Mapping[str, Any]) -> tuple[str, ...]:
        seed = assignment[axis.seed.axis] if isinstance(axis.seed, Ref) else axis.seed
        ordered = list(by_drift or paths)
        if axis.order == "reverse":
            ordered.reverse()
        elif axis.order == "random":
            random.Random(seed).shuffle(ordered)
        kept = set(ordered[: assignment[axis.name]])
        return tuple(p for p in paths if p in kept)

    return PlanAxis(axis.name, counts, tuple(map(str, counts)), first)


def _by_drift(axis: Axis, paths: Sequence[str]) -> tuple[str, ...]:
    """Modules from the least to the most drift, as an earlier run measured it one by one."""
    key = f"axes.{axis.name}.cumulative.run"
    file = Path(axis.run or "") / "drift.csv"
    if not file.exists():
        raise RecipeError([Problem(f"there is no {file}", key)])
    with file.open(newline="", encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines))
    columns = [name for name in (rows[0] if rows else {}) if set(paths) <= {r[name] for r in rows}]
    if not columns or "rmse" not in rows[0]:
        raise RecipeError([Problem(f"{file} does not have every one of these modules by itself",
                                   key)])  # fmt: skip
    drift: dict[str, list[float]] = {}
    for row in rows:
        if row["rmse"]:
            drift.setdefault(row[columns[0]], []).append(float(row["rmse"]))
    mean = {p: sum(d) / len(d) for p in paths if (d := drift.get(p, []))}
    return tuple(sorted(paths, key=lambda p: mean.get(p, float("inf"))))


def assignments(recipe: Recipe, axes: Sequence[PlanAxis]) -> Iterator[dict[str, Any]]:
    """Axis values by name: the product of the axes, those that are zipped counting as one."""
    by_name = {axis.name: axis for axis in axes}
    dimensions: list[list[dict[str, Any]]] = []
    done: set[str] = set()
    for axis in axes:
        if axis.name in done:
            continue
        together = next((g for g in recipe.zipped if axis.name in g), (axis.name,))
        done.update(together)
        columns = [by_name[name].values for name in together]
        if len({len(c) for c in columns}) > 1:
            sizes = ", ".join(f"`{n}` has {len(c)}" for n, c in zip(together, columns, strict=True))
            raise RecipeError([Problem(f"axes of different length cannot be paired: {sizes}",
                                       "zip")])  # fmt: skip
        dimensions.append(
            [dict(zip(together, values, strict=True)) for values in zip(*columns, strict=True)]
        )
    for combination in itertools.product(*dimensions):
        assignment: dict[str, Any] = {}
        for part in combination:
            assignment |= part
        yield {axis.name: assignment[axis.name] for axis in axes}


def paths_of(
    selector: Selector, catalog: Catalog, key: str, blocks: bool = False
) -> tuple[str, ...]:
    """The paths of what a selector names; see `selected`."""
    return tuple(m.path for m in selected(selector, catalog, key, blocks))


def selected(
    selector: Selector, catalog: Catalog, key: str, blocks: bool = False
) -> tuple[ModuleInfo, ...]:
    """What a selector names. `key`: where it stands in the recipe. Raises `RecipeError`."""
    try:
        return select(selector, catalog, blocks=blocks)
    except SelectorError as error:
        raise RecipeError([Problem(str(error), key)]) from error


def label_of(value: Any) -> str:
    """How a value of an axis is written."""
    return f"{value:.10g}" if isinstance(value, float) else str(value) or "no text"
