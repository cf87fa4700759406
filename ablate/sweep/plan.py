"""A recipe beside a catalog, expanded: all variants, conditions and cells before any is computed.

Pure: no weights, no device. `plan(recipe, catalog)` may be printed, counted and compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ablate.edits import Variant
from ablate.network import Catalog, Networks
from ablate.recipe import Problem, Recipe, RecipeError, Ref, Space
from ablate.sampling import SAMPLING, Point, Sampling
from ablate.sweep.axes import PlanAxis, assignments, condition_axis, resolve, text_of
from ablate.sweep.edits import Edits

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
class Plan:
    """A recipe expanded. Cells come in sweep order, added baselines first. `floor`: further
    baselines, of other seeds, for the noise floor alone. `guided`: how many denoiser rows a step of
    a guided cell takes."""

    recipe: Recipe
    catalog: Catalog
    axes: tuple[PlanAxis, ...]
    cells: tuple[Cell, ...]
    floor: tuple[Cell, ...] = ()
    guided: int = 2

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants in the order in which they first appear."""
        return tuple(dict.fromkeys(cell.variant for cell in self.cells))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(dict.fromkeys(cell.condition for cell in self.cells))

    @property
    def denoiser_rows(self) -> int:
        """How many single-image denoiser evaluations the cells ask for, guidance counted twice
        where it is not distilled into the network; references, which run along in every batch,
        once."""
        samplings = {
            (repr(c.variant.for_sampling.identity()), replace(c.condition, steps=None))
            for c in self.distinct()
        } | {
            (repr(reference), replace(c.condition, prompt=reference.prompt, seed=reference.seed))
            for c in self.distinct()
            for reference in c.variant.references
        }
        return sum(
            c.sampling.num_inference_steps * (self.guided if c.sampling.guidance_scale > 1 else 1)
            for _, c in samplings
        )

    def distinct(self) -> tuple[Cell, ...]:
        """All cells without those whose edits and condition an earlier one has."""
        found: dict[Any, Cell] = {}
        for cell in (*self.cells, *self.floor):
            found.setdefault((repr(cell.variant.identity()), cell.condition), cell)
        return tuple(found.values())


def plan_recipe(recipe: Recipe, networks: Networks) -> Plan:
    """Expand a recipe over the modules of a model's networks.

    Raises `RecipeError` when a selector matches nothing, a count exceeds the modules, axes that
    are zipped differ in length, an edit cannot be made where or when it is to be, or nothing is
    left to do.
    """
    blocks = _of_blocks(recipe)
    axes = [made for axis in recipe.axes for made in resolve(axis, networks, axis.name in blocks)]
    named = {axis.name for axis in axes}
    if "seed" not in named:
        axes.insert(0, condition_axis("seed", recipe.seeds))
    spaces = [space for axis in recipe.axes for space in axis.spaces]
    if "prompt" not in named and (not spaces or any(Ref("prompt") in s.prompts for s in spaces)):
        axes.insert(0, condition_axis("prompt", recipe.prompts))
    edits = Edits(recipe, {axis.name: axis for axis in axes}, networks)
    cells = _cells(recipe, axes, edits)
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
    return Plan(recipe, networks.catalog, tuple(axes), all_cells, floor, networks.guided)


def _of_blocks(recipe: Recipe) -> set[str]:
    """The axes of modules that only edits of outputs use."""
    users: dict[str, set[str]] = {}
    for edit in recipe.edits:
        if isinstance(edit.modules, Ref):
            users.setdefault(edit.modules.axis, set()).add(edit.where)
    return {name for name, places in users.items() if places == {"output"}}


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
    return replace(condition, prompt=text_of(start, axes), point=None, steps=None)


def _cells(recipe: Recipe, axes: Sequence[PlanAxis], edits: Edits) -> list[Cell]:
    """One cell for each combination of values. Raises `RecipeError` with the first mistake of each
    place in the recipe."""
    problems: dict[str, Problem] = {}
    cells = []
    for assignment in assignments(recipe, axes):
        try:
            cells.append(_cell(recipe, axes, assignment, edits))
        except RecipeError as error:
            problems = {problem.key: problem for problem in error.problems} | problems
    if problems:
        raise RecipeError(problems.values())
    return cells


def _cell(
    recipe: Recipe,
    axes: Sequence[PlanAxis],
    assignment: Mapping[str, Any],
    edits_of: Edits,
) -> Cell:
    parts = edits_of.at(assignment)
    edits = [edit for part in parts for edit in part]
    condition = _condition(recipe, axes, assignment)
    if not edits:
        return Cell(BASELINE, condition, assignment, condition)
    name = ", ".join(
        f"{a.name}={a.labels[a.values.index(assignment[a.name])]}"
        for a in axes
        if not a.of_condition
    ) or " + ".join(part[0].op for part in parts)  # fmt: skip
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
