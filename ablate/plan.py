"""A recipe beside a catalog, expanded: all variants, conditions and cells before any is computed.

Pure: no weights, no device. `plan(recipe, catalog)` may be printed, counted and compared.
"""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ablate.axes import SAMPLING, Axis, Ref, Sampling
from ablate.catalog import ModuleInfo, Selector, SelectorError, groups, select
from ablate.document import Problem
from ablate.edits import Edit, Variant
from ablate.recipe import Draft, EditSpec, Recipe, RecipeError

BASELINE = Variant("baseline")


@dataclass(frozen=True)
class Condition:
    """What is asked of a network."""

    prompt: str
    seed: int
    sampling: Sampling


@dataclass(frozen=True)
class Cell:
    """One image to make. `axes`: the axis values that lead to it, by name."""

    variant: Variant
    condition: Condition
    axes: Mapping[str, Any]


@dataclass(frozen=True)
class PlanAxis:
    """An axis with its values known. `modules` maps a value to module paths where it stands for
    modules; for a cumulative axis that depends on other axes, so it takes the whole assignment."""

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    modules: Callable[[Mapping[str, Any]], tuple[str, ...]] | None = None


@dataclass(frozen=True)
class Plan:
    """A recipe expanded. Cells come in sweep order, added baselines first."""

    recipe: Recipe
    catalog: tuple[ModuleInfo, ...]
    axes: tuple[PlanAxis, ...]
    cells: tuple[Cell, ...]

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
        return sum(
            c.condition.sampling.num_inference_steps
            * (2 if c.condition.sampling.guidance_scale > 1 else 1)
            for c in self.distinct()
        )

    def distinct(self) -> tuple[Cell, ...]:
        """The cells without those whose edits and condition an earlier cell has."""
        found: dict[Any, Cell] = {}
        for cell in self.cells:
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
    axes = [_resolve(axis, catalog) for axis in recipe.axes]
    named = {axis.name for axis in axes}
    if "seed" not in named:
        axes.insert(0, PlanAxis("seed", recipe.seeds, tuple(map(str, recipe.seeds))))
    if "prompt" not in named:
        axes.insert(0, PlanAxis("prompt", recipe.prompts, recipe.prompts))
    cells = [_cell(recipe, axes, assignment, catalog) for assignment in _assignments(recipe, axes)]
    bare = {cell.condition for cell in cells if cell.variant.is_baseline}
    conditions = dict.fromkeys(cell.condition for cell in cells)
    condition_axes = [a.name for a in axes if a.name in ("prompt", "seed", *SAMPLING)]
    added = []
    for condition in conditions:
        if condition not in bare:
            values = {"prompt": condition.prompt, "seed": condition.seed}
            values |= asdict(condition.sampling)
            added.append(Cell(BASELINE, condition, {a: values[a] for a in condition_axes}))
    return Plan(recipe, tuple(catalog), tuple(axes), (*added, *cells))


def _resolve(axis: Axis, catalog: Sequence[ModuleInfo]) -> PlanAxis:
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
    sampling = replace(recipe.sampling, **{k: v for k, v in assignment.items() if k in SAMPLING})
    condition = Condition(assignment["prompt"], assignment["seed"], sampling)
    if not edits:
        return Cell(BASELINE, condition, assignment)
    weights = [a for a in axes if a.name not in ("prompt", "seed", *SAMPLING)]
    name = ", ".join(
        f"{a.name}={a.labels[a.values.index(assignment[a.name])]}" for a in weights
    ) or " + ".join(e.op for e in edits)  # fmt: skip
    seed = int(assignment.get("perturbation_seed", recipe.perturbation_seed))
    return Cell(Variant(name, tuple(edits), seed), condition, assignment)


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
