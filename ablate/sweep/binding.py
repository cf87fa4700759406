"""A recipe bound to the networks of its model: the plan, or all that is wrong with it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from ablate.edits import Edit, Variant
from ablate.models import (
    ModelError,
    Source,
    check_model,
    denoiser_of,
    guided_rows,
    load_catalog,
    lost_words,
)
from ablate.network import ModuleInfo, Networks
from ablate.recipe import (
    INVALID,
    MAX_CELLS,
    AxisSpec,
    KeyPath,
    Points,
    Problem,
    Recipe,
    RecipeError,
    Ref,
    read_recipe,
    references_in,
    unequal,
)
from ablate.sampling import SAMPLING
from ablate.store import StoreError
from ablate.sweep.axes import (
    Assignment,
    BindingError,
    PlanAxis,
    PlaneAxis,
    PointAxis,
    bind_axis,
    condition_axis,
    selected,
    text_of,
)
from ablate.sweep.cells import BASELINE, Cell, Condition, Plan
from ablate.sweep.check import (
    check_checkpoint,
    check_loras,
    check_readers,
    check_sampling,
    check_series,
    check_sizes,
    check_texts,
)
from ablate.sweep.distinct import equal_variants
from ablate.sweep.edits import BoundEdit
from ablate.sweep.recorded import Base

T = TypeVar("T")
Numbers = Mapping[str, int]  # which value of every axis, by name
_OfNumbers = Callable[[Numbers], T]
EDITS = 2  # edits of variants, on average, for each cell that a plan may have
MORE = "; `--max-cells`, or `max_cells=` in Python, allows more"


def plan(
    recipe: Recipe | str | Path,
    networks: Networks | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    allow_code: bool = False,
    max_cells: int = MAX_CELLS,
) -> Plan:
    """Expand a recipe over the modules of its model, from configuration alone.

    Args:
        recipe: A recipe, or the file of one.
        networks: What modules are chosen from; by default the networks of the recipe's model.
        overrides: Values by the dotted keys of the file that they replace.
        allow_code: Execute the file of ops that a recipe's file names.
        max_cells: A plan of more cells is refused before it is expanded, one whose variants have
            more than twice as many edits together while it is.

    Raises:
        RecipeError: With all mistakes, each once.
        OSError: The file cannot be read.
    """
    problems: list[Problem] = []
    if not isinstance(recipe, Recipe):
        read, problems = read_recipe(Path(recipe), overrides, allow_code=allow_code)
        if read is None:
            raise RecipeError(problems)
        recipe = read
    return _Binding(recipe, problems, networks, max_cells).plan()


class _Binding:
    """One pass over a recipe. `problems`: those of reading it."""

    def __init__(
        self,
        recipe: Recipe,
        problems: Sequence[Problem],
        networks: Networks | None,
        max_cells: int,
    ) -> None:
        self.max_cells = max_cells
        self.recipe = recipe
        self.problems = list(problems)
        self.notes: list[Problem] = []
        self.base = self._base()
        self.source = None if networks is not None else _source_of(recipe)
        self.networks = networks or self._networks()
        if networks is not None:
            for component, path in self._components():
                if not networks.has(component):
                    self.report(path, f"there is no component `{component}` here")
        self.axes: dict[str, PlanAxis] = {}

    def _base(self) -> Base | None:
        """The variant that the recipe starts from, if there is one."""
        file = self.recipe.base_file
        try:
            return None if file is None else Base.read(file)
        except (OSError, StoreError) as error:
            self.report(("base",), str(error))
            return None

    def report(self, path: KeyPath, message: str) -> None:
        """Add a problem, unless there is one with the same key."""
        problem = self.recipe.problem(path, message)
        if all(known.key != problem.key for known in self.problems):
            self.problems.append(problem)

    def note(self, path: KeyPath, message: str) -> None:
        """Note what is valid, but may not be what was meant."""
        self.notes.append(self.recipe.problem(path, message))

    def plan(self) -> Plan:
        self._bind_axes()
        check_series(self.recipe, self.note)
        edits = [
            BoundEdit(self.recipe, i, self.axes, self.networks, self.report)
            for i, edit in enumerate(self.recipe.edits)
            if edit
        ]
        check_sampling(self.recipe, self.source, self.report)
        sizes = []
        if self.source is not None:
            check_loras(self.recipe, self.report)
            check_readers(self.recipe, self.report)
            sizes = check_sizes(self.recipe, self.source, self.report)
        check_texts(edits, sizes, self.report)
        if self.base is not None and self.networks is not None:
            for path, message in self.base.problems(self.recipe, self.networks):
                self.report(path, message)
        if self.source is not None and self.networks is not None:
            for edit in edits:
                check_checkpoint(edit, self.source, self.networks.name, self.report)
        groups = list(self._zipped()) if not self.problems else []
        if not self.problems:
            self._check_size(groups)
        if self.problems or self.networks is None:
            raise RecipeError(self.problems)
        return self._expanded(edits, groups, self.networks)

    # ------------------------------------------------------------ networks

    def _networks(self) -> Networks | None:
        """The catalogs of the components that the recipe names; None where the edited one has
        none."""
        if self.source is None:
            return None
        component = self.recipe.component
        try:
            check_model(self.source)
        except ModelError as error:
            self.report(("model",), str(error))
            self.source = None  # nothing more is asked of it
            return None
        try:
            name = component or denoiser_of(self.source)
            catalog = load_catalog(self.source, component)
            guided = guided_rows(self.source)
        except ModelError as error:
            self.report(("component",) if component else ("model",), str(error))
            return None
        others = {}
        for other, path in self._components():
            if other != name and other not in others:
                try:
                    others[other] = load_catalog(self.source, other)
                except ModelError as error:
                    self.report(path, str(error))
        return Networks(catalog, name, others, guided)

    def _components(self) -> Iterator[tuple[str, KeyPath]]:
        """The further components that axes and edits name, with their keys."""
        for name, axis in self.recipe.axes.items():
            if axis and axis.chosen and axis.chosen.component:
                yield axis.chosen.component, ("axes", name, axis.form, "component")
        for i, edit in enumerate(self.recipe.edits):
            if edit and edit.component:
                yield edit.component, ("edits", i, edit.op.name, "component")
        for part in self.base.variant.edits if self.base else ():
            if part.component:
                yield part.component, ("base",)

    # ------------------------------------------------------------ axes

    @property
    def _spaces(self) -> list[Points]:
        return [space for axis in self.recipe.axes.values() if axis for space in axis.spaces]

    def _bind_axes(self) -> None:
        """Every axis with its values; those that have mistakes are left out."""
        users: dict[str, set[str]] = {}
        for edit in self.recipe.edits:
            if edit and isinstance(edit.modules, Ref):
                users.setdefault(edit.modules.axis, set()).add(edit.where)
        for name, axis in self.recipe.axes.items():
            # Blocks have inputs and outputs, but no weights.
            blocks = "weights" not in users.get(name, {"weights"})
            try:
                for bound in self._bound(name, axis, blocks):
                    self.axes[bound.name] = bound
            except BindingError as error:
                self.report(error.path, str(error))
        spaces = self._spaces
        free: dict[str, PlanAxis] = {}
        if not spaces or any(Ref("prompt") in space.prompts for space in spaces):
            free["prompt"] = condition_axis("prompt", tuple(self.recipe.prompts))
        free["seed"] = condition_axis("seed", tuple(self.recipe.seeds))
        given = self.recipe.axes
        self.axes = {n: axis for n, axis in free.items() if n not in given} | self.axes

    def _bound(self, name: str, axis: AxisSpec, blocks: bool) -> tuple[PlanAxis, ...]:
        if not axis:
            return ()
        if axis.kind != "modules":
            return bind_axis(name, axis) if axis.is_whole else ()
        if axis.chosen is None:
            return ()
        component = axis.chosen.component
        if self.networks is None or component is INVALID or not self.networks.has(component):
            return ()
        modules: tuple[ModuleInfo, ...] = ()
        if axis.chosen.modules:
            path: KeyPath = ("axes", name, axis.form)
            inner = (*path, "modules")
            path = inner if self.recipe.gives(inner) else path
            # Attention layers are blocks, and have heads.
            blocks = blocks or axis.form == "each_head"
            catalog = self.networks.of(component)
            modules = selected(axis.chosen.modules, catalog, path, blocks)
        around: tuple[ModuleInfo, ...] = ()
        if axis.grouped and axis.grouped.within:
            place: KeyPath = ("axes", name, axis.form, "within")
            catalog = self.networks.of(component)
            around = selected(axis.grouped.within, catalog, place, blocks=True)
        return bind_axis(name, axis, modules, around) if axis.is_whole else ()

    # ------------------------------------------------------------ cells

    def _zipped(self) -> Iterator[tuple[PlanAxis, ...]]:
        """The axes, those that are zipped together."""
        done: set[str] = set()
        for name, axis in self.axes.items():
            if name not in done:
                together = next((g for g in self.recipe.zipped if name in g), (name,))
                done.update(together)
                axes = tuple(self.axes[other] for other in together)
                lengths = {other.name: len(other.values) for other in axes}
                if len(set(lengths.values())) > 1:
                    self.report(("zip",), unequal(lengths))
                yield axes if len(axes) > 1 else (axis,)

    def _check_size(self, groups: Sequence[tuple[PlanAxis, ...]]) -> None:
        """Whether the plan has at most `max_cells` cells, from the sizes of its axes alone."""
        cells = math.prod(len(group[0].values) for group in groups)
        # At most: every setting of the sampling and prompt has a noise floor of its own.
        others = [g for g in groups if any(a.of_condition and a.name != "seed" for a in g)]
        floor = (self.recipe.noise_floor or 0) * math.prod(len(g[0].values) for g in others)
        if max(cells, floor) <= self.max_cells:
            return
        sizes = " × ".join(
            f"{'+'.join(axis.name for axis in group)} {len(group[0].values):,}" for group in groups
        )
        self.report(
            ("axes",) if cells >= floor else ("noise_floor",),
            f"the plan has {max(cells, floor):,} cells ({sizes}), more than {self.max_cells:,}"
            + MORE,
        )

    def _expanded(
        self, edits: Sequence[BoundEdit], groups: Sequence[tuple[PlanAxis, ...]], networks: Networks
    ) -> Plan:
        recipe, axes = self.recipe, tuple(self.axes.values())
        variants, conditions = self._variants(edits), self._conditions()
        cells = []
        for numbers in _combinations(groups):
            variant, condition = variants(numbers), conditions(numbers)
            if variant is not None and condition is not None:
                cells.append(Cell(variant, condition, _values(axes, numbers), condition))
        if self.problems:
            raise RecipeError(self.problems)
        edited = bool(recipe.edits) or self.base is not None
        if not edited:
            cells = [replace(c, baseline=self._origin(c.condition, c.axes)) for c in cells]
        there = {cell.condition for cell in cells if cell.variant.is_baseline}
        # A baseline that none of its cells is: of the axes it has only what both share.
        of_condition = [axis.name for axis in axes if axis.of_condition]
        shared = of_condition if edited else ["prompt", "seed", *SAMPLING]
        added: dict[Condition, Cell] = {}
        for cell in cells:
            baseline = cell.baseline
            if baseline not in there and baseline not in added:
                values = {name: cell.axes[name] for name in shared if name in cell.axes}
                added[baseline] = Cell(BASELINE, baseline, values, baseline)
        everything = (*added.values(), *cells)
        floor = _floor(recipe.noise_floor or 0, everything)
        if self.source is not None:
            for note in lost_words(self.source, _texts(everything)):
                self.note(("prompts",), note)
        # Without places in the file, so that they are those of any copy of the recipe.
        notes = tuple(f"{note.key}: {note.message}" for note in self.notes)
        used = {id(cell.variant): cell.variant for cell in everything}.values()
        return Plan(
            recipe, networks.catalog, axes, everything, floor, networks.guided,
            equal_variants(used, networks), notes, self.base,
        )  # fmt: skip

    def _variants(self, edits: Sequence[BoundEdit]) -> _OfNumbers[Variant | None]:
        """The variants by the numbers of the axes that they depend on; None, and problems, where
        one is impossible."""
        used = {"num_inference_steps"}.union(*(edit.used for edit in edits))
        axes = [axis for axis in self.axes.values() if axis.name in used or not axis.of_condition]
        varied = [axis for axis in axes if not axis.of_condition]
        base = self.base.variant.edits if self.base else ()
        drawn = None if self.base is None else self.base.seed
        total = 0

        def variant(numbers: Numbers) -> Variant | None:
            nonlocal total
            values = _values(axes, numbers)
            parts = [part for part in (base, *self._parts(edits, values)) if part]
            total += sum(map(len, parts))
            if total > EDITS * self.max_cells:
                most = EDITS * self.max_cells
                message = f"the variants of the plan have more than {most:,} edits together"
                self.report(("edits",), message + MORE)
                raise RecipeError(self.problems)
            if self.problems:
                return None
            if not parts:
                return BASELINE
            name = ", ".join(f"{axis.name}={axis.labels[numbers[axis.name]]}" for axis in varied)
            seed = int(values.get("perturbation_seed", self.recipe.perturbation_seed))
            seed = seed if drawn is None else drawn
            flat = tuple(itertools.chain(*parts))
            return Variant(name or " + ".join(part[0].op for part in parts), flat, seed)

        return _kept(axes, variant)

    def _parts(self, edits: Sequence[BoundEdit], values: Assignment) -> Iterator[Sequence[Edit]]:
        for edit in edits:
            try:
                yield edit.at(values)
            except BindingError as error:
                self.report(error.path, str(error))

    def _conditions(self) -> _OfNumbers[Condition | None]:
        """The conditions by the numbers of the axes that they depend on; None, and a problem, where
        one is impossible."""
        used = {ref.axis for _, ref in references_in(tuple(self._spaces), ())}
        axes = [axis for axis in self.axes.values() if axis.of_condition or axis.name in used]

        def condition(numbers: Numbers) -> Condition | None:
            try:
                return self._condition(_values(axes, numbers))
            except BindingError as error:
                self.report(error.path, str(error))
                return None

        return _kept(axes, condition)

    def _condition(self, values: Assignment) -> Condition:
        settings = {key: value for key, value in values.items() if key in SAMPLING}
        sampling = replace(self.recipe.sampling, **settings)
        last = sampling.num_inference_steps
        steps = values.get("steps", last)
        if steps > last:
            message = f"asks for the image after {steps} steps; sampling has {last}"
            raise BindingError(("axes", "steps"), message)
        of_points = [a for a in self.axes.values() if isinstance(a, PointAxis | PlaneAxis)]
        prompt, point = of_points[0].point(values) if of_points else (str(values["prompt"]), None)
        # A prompt's point is that prompt, so that it is drawn once and named as what it is.
        if point is not None and point.prompt is not None:
            prompt, point = point.prompt, None
        after = None if steps == last else steps
        return Condition(prompt, values["seed"], sampling, point, after)

    def _origin(self, condition: Condition, values: Assignment) -> Condition:
        """Where a sweep without edits starts: the finished image of the first of two prompts, or of
        the center of a plane."""
        start = next((s.prompts[0] for s in self._spaces if s.between or s.plane), None)
        if start is None:
            return replace(condition, steps=None)
        return replace(condition, prompt=text_of(start, values), point=None, steps=None)


def _texts(cells: Sequence[Cell]) -> Iterator[str]:
    """The prompts and negative prompts of cells."""
    for condition in dict.fromkeys(cell.condition for cell in cells):
        point = condition.point
        yield from [condition.prompt] if point is None else (text for text, _ in point.weights)
        if condition.sampling.guidance_scale > 1:
            yield condition.sampling.negative_prompt


def _source_of(recipe: Recipe) -> Source | None:
    """Where the model comes from; None where the recipe does not say so rightly."""
    if INVALID in (recipe.model, recipe.revision, recipe.config, recipe.component):
        return None
    return Source.of(recipe)


def _combinations(groups: Sequence[tuple[PlanAxis, ...]]) -> Iterator[Numbers]:
    """The product of the axes, those of a group counting as one."""
    for numbers in itertools.product(*(range(len(group[0].values)) for group in groups)):
        yield {axis.name: i for group, i in zip(groups, numbers, strict=True) for axis in group}


def _values(axes: Sequence[PlanAxis], numbers: Numbers) -> dict[str, Any]:
    return {axis.name: axis.values[numbers[axis.name]] for axis in axes}


def _kept(axes: Sequence[PlanAxis], made: _OfNumbers[T]) -> _OfNumbers[T]:
    """A function of the numbers of some axes, called once for each combination of them."""
    known: dict[tuple[int, ...], T] = {}

    def of(numbers: Numbers) -> T:
        key = tuple(numbers[axis.name] for axis in axes)
        if key not in known:
            known[key] = made(numbers)
        return known[key]

    return of


def _floor(count: int, cells: Sequence[Cell]) -> tuple[Cell, ...]:
    """Baselines of as many further seeds as every group of cells lacks of `count`."""
    seeds: dict[Condition, set[int]] = {}
    for cell in cells if count else ():
        seeds.setdefault(cell.group, set()).add(cell.baseline.seed)
    floor = []
    for group, used in seeds.items():
        others = itertools.filterfalse(used.__contains__, itertools.count())
        for seed in itertools.islice(others, max(count - len(used), 0)):
            condition = replace(group, seed=seed)
            floor.append(Cell(BASELINE, condition, {}, condition))
    return tuple(floor)
