"""A recipe beside a catalog, expanded: all variants, conditions and cells before any is computed.

Pure: no weights, no device. `plan(recipe, catalog)` may be printed, counted and compared.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ablate.axes import SAMPLING, Sampling, WhenSpec
from ablate.catalog import SelectorError, select
from ablate.document import Problem
from ablate.edits import Edit, Variant
from ablate.embeddings import Point
from ablate.modules import Catalog, ModuleInfo
from ablate.ops import OPS
from ablate.recipe import Draft, Recipe, RecipeError
from ablate.scope import Reference, Unit, When
from ablate.spaces import Ref, Space
from ablate.specs import OF_AXES, EditSpec, keyed
from ablate.sweep import (
    Networks,
    PlanAxis,
    Studied,
    assignments,
    condition_axis,
    paths_of,
    resolve,
    study_problems,
    text_of,
)

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
            (repr(c.variant.sampled.identity()), replace(c.condition, steps=None))
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
            plan(draft.recipe, networks)
        except RecipeError as error:
            problems += untold(draft, error.problems, problems)
    return problems


def untold(draft: Draft, found: Iterable[Problem], told: Iterable[Problem]) -> list[Problem]:
    """Of further mistakes in a recipe those whose place is none of one that is told already, and
    whose words are others. What could not be read has nothing else that is wrong with it."""
    known = {said for problem in told for said in (problem.key, problem.message)}
    return [p for p in map(draft.locate, found) if not known & {p.key, p.message}]


def plan(recipe: Recipe, networks: Networks) -> Plan:
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


class Edits:
    """The edits of a recipe, with what they refer to put in its place."""

    def __init__(self, recipe: Recipe, axes: Mapping[str, PlanAxis], networks: Networks) -> None:
        self.recipe = recipe
        self.axes = axes
        self.networks = networks
        self.components = {a.name: a.component for a in recipe.axes}
        self._infos: dict[str | None, dict[str, ModuleInfo]] = {}
        self._studied: dict[int, Studied | RecipeError] = {}

    def at(self, assignment: Mapping[str, Any]) -> list[list[Edit]]:
        """Those that change anything, at some values of the axes; one of the recipe's may be
        several: one for each module of a study's units."""
        found: list[list[Edit]] = []
        problems: list[Problem] = []
        for i, (key, spec) in enumerate(keyed(self.recipe.edits)):
            try:
                edit = self._edit(spec, assignment, key)
                # Strength nought is the baseline: such a cell is drawn once and marked as it.
                if edit.is_neutral:
                    continue
                if spec.units is not None:
                    found.append(self._of_units(i, edit, assignment, key))
                elif edit.modules or edit.where == "image":
                    found.append([edit])
            except RecipeError as error:
                problems += error.problems
        if problems:
            raise RecipeError(problems)
        return [part for part in found if part]

    def _of_units(
        self, number: int, edit: Edit, assignment: Mapping[str, Any], key: str
    ) -> list[Edit]:
        """An edit for each module that has any of the units which the recipe's edit of that number
        asks for."""
        spec = self.recipe.edits[number]
        assert spec.units is not None
        settings, places = {}, {}
        for name in OF_AXES:
            given = settings[name] = getattr(spec.units, name)
            places[name] = f"{key}.units.{name}"
            if isinstance(given, Ref):
                settings[name] = assignment[given.axis]
                which = self.axes[given.axis].values.index(settings[name])
                places[name] = f"axes.{given.axis}.values[{which}]"
        if number not in self._studied:
            try:
                made = Studied(spec.units, f"{key}.units")
                made.meet(self.networks, edit.component, spec.where == "output")
                self._studied[number] = made
            except RecipeError as error:  # which is read once, whatever the axes
                self._studied[number] = error
        studied = self._studied[number]
        if isinstance(studied, RecipeError):
            raise studied
        found = studied.chosen(replace(spec.units, **settings), places)
        edits = [replace(edit, modules=(path,), unit=unit) for path, unit in found]
        for one in edits:
            self._possible(one, assignment, key, _axis_of(spec.when))
        return edits

    def _edit(self, spec: EditSpec, assignment: Mapping[str, Any], key: str) -> Edit:
        def value(given: Any) -> Any:
            return assignment[given.axis] if isinstance(given, Ref) else given

        if spec.where == "image":
            return Edit(spec.op, where="image", text=value(spec.text))
        component = self._component(spec, key)
        catalog = self.networks.of(component)
        unit = Unit(spec.unit.kind, _numbers(value(spec.unit.numbers))) if spec.unit else None
        if isinstance(spec.modules, Ref):
            axis = self.axes[spec.modules.axis]
            if axis.modules is not None:
                paths = axis.modules(assignment)
            else:  # selectors
                blocks = spec.where == "output"
                paths = paths_of(assignment[axis.name], catalog, f"axes.{axis.name}", blocks)
            unit = axis.unit(assignment) if axis.unit else unit
        elif spec.modules is not None:
            paths = paths_of(spec.modules, catalog, f"{key}.modules", spec.where == "output")
        else:  # units of a study
            paths = ()
        strength, dose = value(spec.strength), value(spec.dose)
        edit = Edit(
            op=spec.op,
            modules=paths,
            strength=None if strength is None else float(strength),
            params=spec.params,
            kind=value(spec.kind),
            when=self._when(spec.when, assignment),
            component=component,
            where=spec.where,
            unit=unit,
            dose=None if dose is None else float(dose),
            partners=self._partners(spec, paths, catalog, key),
            checkpoint=str(spec.partner) if OPS[spec.op].draws == "checkpoint" else None,
            over=self._over(spec),
        )
        if edit.modules:
            self._possible(edit, assignment, key, _axis_of(spec.when))
        return edit

    def _module(self, component: str | None, path: str) -> ModuleInfo:
        """The module or block of a component at a path."""
        if component not in self._infos:
            catalog = self.networks.of(component)
            self._infos[component] = {m.path: m for m in (*catalog, *catalog.blocks)}
        return self._infos[component][path]

    def _component(self, spec: EditSpec, key: str) -> str | None:
        """Its own, or that of the axis which its modules come from; None for the edited one."""
        own = self.networks.other(spec.component)
        if not isinstance(spec.modules, Ref):
            return own
        name = spec.modules.axis
        if self.axes[name].modules is None:  # selectors, of whatever is edited
            return own
        of_axis = self.networks.other(self.components[name])
        if spec.component is not None and own != of_axis:
            there = f"axis `{name}` holds modules of {of_axis or self.networks.name}"
            raise RecipeError([Problem(f"names {spec.component}; {there}", f"{key}.component")])
        return of_axis

    def _when(self, spec: WhenSpec | Ref | None, assignment: Mapping[str, Any]) -> When | None:
        if isinstance(spec, Ref):
            window = self.axes[spec.axis].window
            return window(assignment) if window else None
        if spec is None:
            return None
        ends = [assignment[e.axis] if isinstance(e, Ref) else e for e in (spec.first, spec.last)]
        return When(spec.by, *ends)

    def _partners(
        self, spec: EditSpec, paths: Sequence[str], catalog: Catalog, key: str
    ) -> tuple[str, ...]:
        """The modules that change places with those of the edit, pair by pair."""
        if OPS[spec.op].draws != "partner" or spec.partner is None:
            return ()
        others = paths_of(spec.partner, catalog, f"{key}.with")
        rows = {m.path: m for m in catalog}
        problem = None
        if len(others) != len(paths):
            problem = f"names {len(others)} modules for {len(paths)}"
        elif shared := set(others).intersection(paths):
            problem = f"`{min(shared)}` cannot change places with others and be one of them"
        for one, other in zip(paths, others, strict=False):
            a, b = rows[one], rows[other]
            if problem is None and (a.kind, a.parameters) != (b.kind, b.parameters):
                problem = (f"`{one}`, {a.kind} of {a.parameters:,} parameters, cannot change places"
                           f" with `{other}`, {b.kind} of {b.parameters:,}")  # fmt: skip
        if problem is not None:
            raise RecipeError([Problem(problem, f"{key}.with")])
        return others

    def _over(self, spec: EditSpec) -> tuple[Reference, ...]:
        if OPS[spec.op].draws not in ("mean", "resample"):
            return ()
        prompts, seeds = spec.over

        def own(name: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
            return self.axes[name].values if name in self.axes else values

        prompts = prompts or own("prompt", self.recipe.prompts)
        seeds = seeds or own("seed", self.recipe.seeds)
        return tuple(Reference(prompt, seed) for prompt in prompts for seed in seeds)

    def _possible(
        self,
        edit: Edit,
        assignment: Mapping[str, Any],
        key: str,
        where_from: str | None,
    ) -> None:
        """Raises `RecipeError` where an edit cannot be made where or when it is to be.

        `where_from`: the axis that its window comes from, if it comes from one.
        """
        name = edit.component or self.networks.name
        denoising = self.networks.phase(edit.component) == "denoising"
        if edit.over and not denoising:
            raise RecipeError([Problem(f"`{edit.op}` is for the denoiser; {name} is none", key)])
        if edit.when is not None:
            steps = assignment.get("num_inference_steps", self.recipe.sampling.num_inference_steps)
            problem = None
            first, last = edit.when.first, edit.when.last
            if last < first and edit.when.by != "t":
                problem = f"ends before it begins: {last:g} is less than {first:g}"
            elif not denoising:
                problem = f"{name} is at work once, not at every step; leave `when` out"
            # Which noise levels there are is for the scheduler to say.
            elif edit.when.by != "t" and not edit.when.opens(range(steps, 0, -1)):
                said = {"steps": f"the first one named is {edit.when.first:g}, counted from 0"}
                other = f"none begins within {edit.when.first:g} to {edit.when.last:g} of it"
                problem = (
                    f"never holds: sampling has {steps} steps, and {said.get(edit.when.by, other)}"
                )
            if problem is not None:
                place = f"{key}.when.{edit.when.by}"
                raise RecipeError([Problem(problem, where_from or place)])
        for path in edit.modules if OPS[edit.op].draws == "input" else ():
            if self._module(edit.component, path).passes is False:
                problem = f"`{path}` gives another shape than it is given, and cannot pass that on"
                raise RecipeError([Problem(problem, f"{key}.modules")])
        if edit.unit is not None and edit.unit.kind == "heads" and edit.op == "identity":
            raise RecipeError([Problem("a head has no input of its own to pass on", f"{key}.unit")])
        if edit.unit is not None:
            for path in edit.modules:
                there = getattr(self._module(edit.component, path), edit.unit.kind)
                last = max(edit.unit.numbers)
                if last >= there and (there or edit.unit.kind == "heads"):
                    many = f"{there} {edit.unit.kind}" if there else f"no {edit.unit.kind}"
                    problem = f"`{path}` has {many}; there is none of number {last}"
                    raise RecipeError([Problem(problem, f"{key}.unit.{edit.unit.kind}")])


def _axis_of(when: WhenSpec | Ref | None) -> str | None:
    """The key of the axis that windows come from, if they do."""
    return f"axes.{when.axis}.windows" if isinstance(when, Ref) else None


def _numbers(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)
