"""A recipe beside a catalog, expanded: all variants, conditions and cells before any is computed.

Pure: no weights, no device. `plan(recipe, catalog)` may be printed, counted and compared.
"""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ablate.axes import CONDITION_AXES, SAMPLING, Axis, Ref, Sampling, Space
from ablate.catalog import ModuleInfo, Selector, SelectorError, groups, select
from ablate.document import Problem
from ablate.edits import Edit, Variant
from ablate.embeddings import Point, between, drawn, on_plane
from ablate.recipe import Draft, EditSpec, Recipe, RecipeError

BASELINE = Variant("baseline")


@dataclass(frozen=True)
class Condition:
    """What is asked of a network.

    `point`: of embedding space; `prompt` is its description then. `steps`: the image as it is
    after so many steps; None, as it is in the end.
    """

    prompt: str
    seed: int
    sampling: Sampling
    point: Point | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Cell:
    """One image to make. `axes`: the axis values that lead to it, by name. `baseline`: the
    condition of the baseline that it is held to."""

    variant: Variant
    condition: Condition
    axes: Mapping[str, Any]
    baseline: Condition

    @property
    def group(self) -> Condition:
        """What all cells have in common that share a noise floor."""
        return replace(self.baseline, seed=0)


@dataclass(frozen=True)
class PlanAxis:
    """An axis with its values known. What a value stands for may depend on other axes, so the
    whole assignment is given: `modules` tells the module paths where it stands for modules,
    `point` the point of embedding space. `of_condition`: whether the baseline, too, depends on it.
    `note`: what its numbers mean, where its name does not say.
    """

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    modules: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None
    point: Callable[[Mapping[str, Any]], tuple[str, Point]] | None = None
    of_condition: bool = False
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """A recipe expanded. Cells come in sweep order, added baselines first. `floor`: further
    baselines, of other seeds, for the noise floor alone."""

    recipe: Recipe
    catalog: tuple[ModuleInfo, ...]
    axes: tuple[PlanAxis, ...]
    cells: tuple[Cell, ...]
    floor: tuple[Cell, ...] = ()

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants in the order in which they first appear."""
        return tuple(dict.fromkeys(cell.variant for cell in self.cells))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(dict.fromkeys(cell.condition for cell in self.cells))

    @property
    def denoiser_rows(self) -> int:
        """How many single-image denoiser evaluations the cells ask for, guidance counted twice."""
        samplings = {
            (repr(c.variant.identity()), replace(c.condition, steps=None)) for c in self.distinct()
        }
        return sum(
            c.sampling.num_inference_steps * (2 if c.sampling.guidance_scale > 1 else 1)
            for _, c in samplings
        )

    def distinct(self) -> tuple[Cell, ...]:
        """All cells without those whose edits and condition an earlier one has."""
        found: dict[Any, Cell] = {}
        for cell in (*self.cells, *self.floor):
            found.setdefault((repr(cell.variant.identity()), cell.condition), cell)
        return tuple(found.values())


def check(draft: Draft, catalog: Sequence[ModuleInfo]) -> list[Problem]:
    """All mistakes of a recipe that is to run on this catalog, its selectors' included."""
    problems = list(draft.problems)
    for selector, place in draft.selectors:
        try:
            select(selector, catalog)
        except SelectorError as error:
            problems.append(replace(place, message=str(error)))
    if not problems and draft.recipe is not None:
        try:
            plan(draft.recipe, catalog)
        except RecipeError as error:
            problems += [draft.locate(p) for p in error.problems]
    return problems


def plan(recipe: Recipe, catalog: Sequence[ModuleInfo]) -> Plan:
    """Expand a recipe over the modules of a component.

    Raises `RecipeError` when a selector matches nothing, a count exceeds the modules, axes that
    are zipped differ in length, or nothing is left to do.
    """
    axes = [made for axis in recipe.axes for made in _resolve(axis, catalog)]
    named = {axis.name for axis in axes}
    if "seed" not in named:
        axes.insert(0, _condition_axis("seed", recipe.seeds))
    spaces = [space for axis in recipe.axes for space in axis.spaces]
    if "prompt" not in named and (not spaces or any(Ref("prompt") in s.prompts for s in spaces)):
        axes.insert(0, _condition_axis("prompt", recipe.prompts))
    cells = [_cell(recipe, axes, assignment, catalog) for assignment in _assignments(recipe, axes)]
    if not recipe.edits:
        cells = [replace(c, baseline=_origin(c.condition, c.axes, spaces)) for c in cells]
    there = {cell.condition for cell in cells if cell.variant.is_baseline}
    condition_axes = [a.name for a in axes if a.of_condition]
    added: dict[Condition, Cell] = {}
    for cell in cells:
        baseline = cell.baseline
        if baseline not in there and baseline not in added:
            # Of a baseline that lies elsewhere than its cells the axes tell only what both share.
            shared = condition_axes if recipe.edits else ["prompt", "seed", *SAMPLING]
            values = {a: cell.axes[a] for a in shared if a in cell.axes}
            added[baseline] = Cell(BASELINE, baseline, values, baseline)
    all_cells = (*added.values(), *cells)
    floor = _floor(recipe.noise_floor or 0, all_cells)
    return Plan(recipe, tuple(catalog), tuple(axes), all_cells, floor)


def _floor(count: int, cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Baselines of as many further seeds as every group of cells lacks of `count`."""
    seeds: dict[Condition, set[int]] = {}
    for cell in cells:
        seeds.setdefault(cell.group, set()).add(cell.baseline.seed)
    found = []
    for group, used in seeds.items():
        others = itertools.filterfalse(used.__contains__, itertools.count())
        for seed in itertools.islice(others, max(count - len(used), 0)):
            condition = replace(group, seed=seed)
            found.append(Cell(BASELINE, condition, {}, condition))
    return tuple(found)


def _origin(condition: Condition, axes: Mapping[str, Any], spaces: Sequence[Space]) -> Condition:
    """Where a sweep without edits starts: the finished image of the first of two prompts, or of
    the center of a plane."""
    start = next((s.prompts[0] for s in spaces if s.form in ("between", "plane")), None)
    if start is None:
        return replace(condition, steps=None)
    return replace(condition, prompt=_text(start, axes), point=None, steps=None)


def _text(prompt: Any, assignment: Mapping[str, Any]) -> str:
    return str(assignment[prompt.axis] if isinstance(prompt, Ref) else prompt)


def _condition_axis(name: str, values: tuple[Any, ...]) -> PlanAxis:
    return PlanAxis(name, values, tuple(map(_label, values)), of_condition=True)


def _resolve(axis: Axis, catalog: Sequence[ModuleInfo]) -> tuple[PlanAxis, ...]:
    if axis.form == "embedding":
        return _of_space(axis)
    return (_of_modules(axis, catalog),)


def _of_space(axis: Axis) -> tuple[PlanAxis, ...]:
    """An axis of points, or the dimensions of a plane; the innermost one gives the point."""
    plane = axis.spaces[0]
    if plane.form != "plane":
        points = dict(zip(axis.values, _points(axis.spaces), strict=True))

        def point(assignment: Mapping[str, Any]) -> tuple[str, Point]:
            found: tuple[str, Point] = points[assignment[axis.name]](assignment)
            return found

        note = " · ".join(_told(space) for space in axis.spaces)
        return (replace(_condition_axis(axis.name, axis.values), point=point, note=note),)
    names = [f"{axis.name}.{part}" for part in ("zoom", "v", "u")]
    center, *toward = plane.prompts

    def place(assignment: Mapping[str, Any]) -> tuple[str, Point]:
        zoom = assignment.get(names[0], 1)
        at = [assignment[names[2]] / zoom, assignment[names[1]] / zoom]
        targets = [t if isinstance(t, int) else _text(t, assignment) for t in toward]
        start = _text(center, assignment)
        shown = ", ".join(f"{a:+.6g} {_quoted(t)}" for a, t in zip(at, targets, strict=True))
        return f"{_quoted(start)} {shown}", on_plane(start, targets, at)

    notes = [f"from {_quoted(center)} (0) toward {_quoted(t)} (1)" for t in toward]
    axes = [_condition_axis(names[0], plane.zoom)] if plane.zoom else []
    # Upward is more, as on any chart.
    axes.append(replace(_condition_axis(names[1], plane.numbers[::-1]), note=notes[1]))
    axes.append(replace(_condition_axis(names[2], plane.numbers), point=place, note=notes[0]))
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
                texts = [_text(p, assignment) for p in space.prompts]
                if space.form == "between":
                    start, end = texts
                    told = f"{_quoted(start)} → {_quoted(end)}, {number:.6g} of the way"
                    return told, between(start, end, number, space.path)
                if space.form == "random":
                    told = f"random point {number} of seed {space.seed}"
                    return told, drawn(space.seed, int(number), texts)
                return "", Point((("", 1.0),))

            yield point


def _quoted(target: str | int | Ref) -> str:
    if isinstance(target, Ref):
        return f"the {target.axis}"
    return f"direction {target}" if isinstance(target, int) else f"“{target}”"


def _of_modules(axis: Axis, catalog: Sequence[ModuleInfo]) -> PlanAxis:
    if axis.name in CONDITION_AXES:
        return _condition_axis(axis.name, axis.values)
    if axis.form == "values":
        labels = tuple(_label(v) for v in axis.values)

        def chosen(assignment: Mapping[str, Any]) -> tuple[str, ...]:
            return _paths(assignment[axis.name], catalog, f"axes.{axis.name}")

        return PlanAxis(axis.name, axis.values, labels, chosen)
    found = _select(axis.modules, catalog, f"axes.{axis.name}.{axis.form}")
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


def _assignments(recipe: Recipe, axes: Sequence[PlanAxis]) -> Iterator[dict[str, Any]]:
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


def _cell(
    recipe: Recipe,
    axes: Sequence[PlanAxis],
    assignment: Mapping[str, Any],
    catalog: Sequence[ModuleInfo],
) -> Cell:
    by_name = {axis.name: axis for axis in axes}
    edits = []
    for i, spec in enumerate(recipe.edits):
        edit = _edit(spec, by_name, assignment, catalog, f"edits[{i}].{spec.op}.modules")
        if edit.when is not None and edit.when[0] >= _steps(recipe, assignment):
            problem = Problem(
                f"never holds: sampling has {_steps(recipe, assignment)} steps,"
                f" and the first one named is {edit.when[0]}, counted from 0",
                f"edits[{i}].{spec.op}.when.steps",
            )
            raise RecipeError([problem])
        # Strength nought is the baseline: such a cell is drawn once and marked as what it is.
        if edit.modules and not edit.is_neutral:
            edits.append(edit)
    condition = _condition(recipe, axes, assignment)
    if not edits:
        return Cell(BASELINE, condition, assignment, condition)
    name = ", ".join(
        f"{a.name}={a.labels[a.values.index(assignment[a.name])]}"
        for a in axes
        if not a.of_condition
    ) or " + ".join(e.op for e in edits)  # fmt: skip
    seed = int(assignment.get("perturbation_seed", recipe.perturbation_seed))
    return Cell(Variant(name, tuple(edits), seed), condition, assignment, condition)


def _condition(
    recipe: Recipe, axes: Sequence[PlanAxis], assignment: Mapping[str, Any]
) -> Condition:
    sampling = replace(recipe.sampling, **{k: v for k, v in assignment.items() if k in SAMPLING})
    last = sampling.num_inference_steps
    steps = assignment.get("steps", last)
    if steps > last:
        problem = Problem(
            f"asks for the image after {steps} steps; sampling has {last}", "axes.steps"
        )
        raise RecipeError([problem])
    place = next((a.point for a in axes if a.point), None)
    prompt, point = place(assignment) if place else (str(assignment["prompt"]), None)
    # A point that is a prompt's own is that prompt, so that it is drawn once and told as it is.
    if point is not None and point.prompt is not None:
        prompt, point = point.prompt, None
    return Condition(prompt, assignment["seed"], sampling, point, None if steps == last else steps)


def _edit(
    spec: EditSpec,
    axes: Mapping[str, PlanAxis],
    assignment: Mapping[str, Any],
    catalog: Sequence[ModuleInfo],
    key: str,
) -> Edit:
    def value(given: Any) -> Any:
        return assignment[given.axis] if isinstance(given, Ref) else given

    if isinstance(spec.modules, Ref):
        of = axes[spec.modules.axis].modules
        paths = of(assignment) if of else ()
    else:
        paths = _paths(spec.modules, catalog, key)
    strength = value(spec.strength)
    return Edit(
        op=spec.op,
        modules=paths,
        strength=None if strength is None else float(strength),
        params=spec.params,
        distribution=value(spec.distribution),
        when=spec.when,
    )


def _steps(recipe: Recipe, assignment: Mapping[str, Any]) -> int:
    given = assignment.get("num_inference_steps", recipe.sampling.num_inference_steps)
    return int(given)


def _paths(selector: Selector, catalog: Sequence[ModuleInfo], key: str) -> tuple[str, ...]:
    return tuple(m.path for m in _select(selector, catalog, key))


def _select(selector: Selector, catalog: Sequence[ModuleInfo], key: str) -> tuple[ModuleInfo, ...]:
    try:
        return select(selector, catalog)
    except SelectorError as error:
        raise RecipeError([Problem(str(error), key)]) from error


def _label(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)
