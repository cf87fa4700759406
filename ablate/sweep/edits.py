"""The edits of a recipe beside the networks of its model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

from ablate.edits import OF_INPUT, Edit, Reference, When
from ablate.messages import did_you_mean
from ablate.network import Catalog, ModuleInfo, Networks, Unit, drawn_order, layer_of
from ablate.recipe import DrawnUnits, KeyPath, Recipe, Ref, UnitSpec, references_in
from ablate.sweep.axes import (
    Assignment,
    BindingError,
    CumulativeAxis,
    ModuleAxis,
    PlanAxis,
    WindowAxis,
    selected,
)
from ablate.sweep.studies import StudyUnits

Report = Callable[[KeyPath, str], None]
OF_UNITS = ("order", "concept", "fraction", "count", "seed")


class BoundEdit:
    """An edit of a recipe whose modules are known, or are those of an axis.

    Args:
        number: Which edit of the recipe.
        axes: The axes of the plan by name, without those that have mistakes.
        networks: What modules are chosen from; None where it is not known.
        report: Called with every mistake that does not depend on the values of axes.
    """

    def __init__(
        self,
        recipe: Recipe,
        number: int,
        axes: Mapping[str, PlanAxis],
        networks: Networks | None,
        report: Report,
    ) -> None:
        self.recipe, self.axes, self.networks = recipe, axes, networks
        self.spec = recipe.edits[number]
        self.path: KeyPath = ("edits", number, self.spec.op.name)
        self.component: str | None = None
        self.paths: dict[str, tuple[str, ...]] = {}  # of selectors
        self.partners: tuple[str, ...] = ()
        self.study: StudyUnits | None = None
        for bind in (self._bind_study, self._bind_component, self._bind_modules):
            try:
                for path, message in bind():
                    report(path, message)
            except BindingError as error:
                report(error.path, str(error))

    def given_by(self, value: Any, path: KeyPath) -> Iterator[tuple[Any, KeyPath]]:
        """A setting, or the values of the axis that it refers to, each with its key."""
        if not isinstance(value, Ref):
            yield value, path
        elif value.axis in self.axes and self.recipe.axes[value.axis].kind == "values":
            for i, one in enumerate(self.axes[value.axis].values):
                yield one, self.recipe.value_path(value.axis, i)

    @property
    def used(self) -> set[str]:
        """The axes that it refers to, itself or through another axis."""
        names = {ref.axis for _, ref in references_in(self.spec, ())}
        axes = [self.axes.get(name) for name in names]
        seeds = [axis.seed for axis in axes if isinstance(axis, CumulativeAxis)]
        return names | {seed.axis for seed in seeds if isinstance(seed, Ref)}

    @property
    def all_paths(self) -> frozenset[str]:
        """The paths of all modules that it may edit, whatever the values of axes are."""
        axis = self._axis_of(self.spec.modules)
        groups: list[Iterable[str]] = [*self.paths.values()]
        if isinstance(axis, ModuleAxis):
            groups += [axis.paths] if isinstance(axis, CumulativeAxis) else axis.members.values()
        if self.study is not None:
            groups.append(module.path for module in self._catalog)
        return frozenset(path for group in groups for path in group)

    # ------------------------------------------------------------ binding

    @property
    def _catalog(self) -> Catalog:
        assert self.networks is not None
        return self.networks.of(self.component)

    def _bind_component(self) -> Iterator[tuple[KeyPath, str]]:
        if self.networks is None:
            return
        self.component = self.networks.other(self.spec.component)
        axis = self._axis_of(self.spec.modules)
        if isinstance(axis, ModuleAxis):
            named, self.component = self.component, self.networks.other(axis.component)
            if self.spec.component and named != self.component:
                there = self.component or self.networks.name
                message = f"names {self.spec.component}; axis `{axis.name}` has modules of {there}"
                yield (*self.path, "component"), message

    def _bind_modules(self) -> Iterator[tuple[KeyPath, str]]:
        """Look up what selectors name: of the edit, of its axis, and of its partners."""
        if self.networks is None or not self.networks.has(self.spec.component or self.component):
            return
        blocks = self.spec.where != "weights"  # a mistake there is not one of the selector too
        modules, place = self.spec.modules, (*self.path, "modules")
        if not isinstance(self._axis_of(modules), ModuleAxis):
            for selector, path in self.given_by(modules, place) if modules else ():
                try:
                    chosen = selected(selector, self._catalog, path, blocks)
                    self.paths[repr(selector)] = tuple(module.path for module in chosen)
                except BindingError as error:
                    yield error.path, str(error)
        if self.spec.op.draws == "partner" and self.spec.partner:
            chosen = selected(self.spec.partner, self._catalog, (*self.path, "with"))
            self.partners = tuple(module.path for module in chosen)

    def _bind_study(self) -> Iterator[tuple[KeyPath, str]]:
        units = self.spec.units
        if not units or not units.run:
            return
        place = (*self.path, "units")
        study = StudyUnits(units, place)
        for concept, path in self.given_by(units.concept, (*place, "concept")):
            wrong = study.wrong_concept(concept) if concept else None
            if wrong is not None:
                yield path, wrong
        networks = self.networks
        if networks is None or not networks.has(self.spec.component):
            return
        study.bind(networks, networks.other(self.spec.component), self.spec.where != "weights")
        for count, path in self.given_by(units.count, (*place, "count")):
            wrong = study.wrong_count(count)
            if wrong is not None:
                yield path, wrong
        self.study = study

    def _axis_of(self, value: Any) -> PlanAxis | None:
        return self.axes.get(value.axis) if isinstance(value, Ref) else None

    # ------------------------------------------------------------ at an assignment

    def at(self, assignment: Assignment) -> list[Edit]:
        """What it does at some values of the axes: nothing, one edit, or one for each module of a
        study's units. Raises `BindingError` where it cannot be done."""
        edit = self._edit(assignment)
        if edit.modules:
            self._check(edit, assignment)
        # Without strength it is the baseline: such a cell is drawn once and marked as it.
        if edit.is_neutral:
            return []
        units = self._units(edit, assignment)
        if units is None:
            return [edit] if edit.modules or edit.where == "image" else []
        partners = {
            path: (other,) for path, other in zip(edit.modules, edit.partners, strict=False)
        }
        edits = [
            replace(edit, modules=(path,), unit=unit, partners=partners.get(path, ()))
            for path, unit in units
        ]
        for one in edits:
            self._check(one, assignment)
        return edits

    def _units(self, edit: Edit, assignment: Assignment) -> Sequence[tuple[str, Unit]] | None:
        """The units of each module where they differ between modules: of a study, or drawn."""
        if self.study is not None:
            units = self.spec.units
            return self.study.chosen(
                {key: _value(getattr(units, key), assignment) for key in OF_UNITS}
            )
        drawn = self._drawn
        if drawn is None:
            return None
        share, count = _value(drawn.share, assignment), _value(drawn.count, assignment)
        seed, kind = _value(drawn.seed, assignment), self.spec.unit.form  # type: ignore[union-attr]
        chosen = [(path, self._draw(path, kind, seed, share, count)) for path in edit.modules]
        return [(path, Unit(kind, numbers)) for path, numbers in chosen if numbers]

    @cached_property
    def _drawn(self) -> DrawnUnits | None:
        unit = self.spec.unit
        given = getattr(unit, unit.form) if unit is not None else None
        return given if isinstance(given, DrawnUnits) else None

    def _draw(
        self, path: str, kind: str, seed: int, share: float | None, count: int | None
    ) -> tuple[int, ...]:
        """Some units of a module. The projections of an attention layer have the same heads."""
        module = self._modules[path]
        there = getattr(module, kind)
        place = (*self.path, "unit", kind)
        if not there:
            why = "is not known to have" if kind == "channels" else "has no"
            raise BindingError(place, f"`{path}` {why} {kind} to draw from")
        if count is not None and count > there:
            message = f"`{path}` has {there} {kind}; there are no {count}"
            raise BindingError((*place, "count"), message)
        of_layer = kind == "heads" and module not in self._catalog.blocks
        ranked = _ranked(seed, layer_of(path) if of_layer else path, there)
        return tuple(sorted(ranked[: round(share * there) if share is not None else count]))

    def _edit(self, assignment: Assignment) -> Edit:
        spec = self.spec
        if spec.where == "image":
            return Edit(spec.op.name, where="image", text=_value(spec.text, assignment))
        axis = self._axis_of(spec.modules)
        unit = None
        if spec.unit is not None and self._drawn is None:
            kind = spec.unit.form
            numbers = getattr(spec.unit, kind)
            if isinstance(numbers, Ref):
                numbers = getattr(UnitSpec.model_validate({kind: assignment[numbers.axis]}), kind)
            unit = Unit(kind, numbers)
        if isinstance(axis, ModuleAxis):
            paths = axis.modules(assignment)
            unit = axis.unit(assignment) or unit
        else:  # a selector, or the units of a study
            paths = self.paths.get(repr(_value(spec.modules, assignment)), ())
        strength, dose = _value(spec.strength, assignment), _value(spec.dose, assignment)
        return Edit(
            op=spec.op.name,
            modules=paths,
            strength=None if strength is None else float(strength),
            params=spec.params,
            kind=_value(spec.kind, assignment),
            when=self._when(assignment),
            component=self.component,
            where=spec.where,
            argument=spec.argument,
            unit=unit,
            dose=None if dose is None else float(dose),
            partners=self._partners(paths),
            checkpoint=str(spec.partner) if spec.op.draws == "checkpoint" else None,
            over=self._over,
        )

    def _when(self, assignment: Assignment) -> When | None:
        given = self.spec.when
        if isinstance(given, Ref):
            axis = self.axes[given.axis]
            return axis.window(assignment) if isinstance(axis, WindowAxis) else None
        if given is None:
            return None
        return When(given.form, *(_value(end, assignment) for end in given.ends))  # type: ignore[arg-type]

    def _partners(self, paths: Sequence[str]) -> tuple[str, ...]:
        """The modules that change places with those of the edit, pair by pair."""
        others = self.partners
        if self.spec.op.draws != "partner":
            return ()
        problem = None
        if len(others) != len(paths):
            problem = f"names {len(others)} modules for {len(paths)}"
        elif shared := set(others).intersection(paths):
            problem = f"`{min(shared)}` cannot change places with others and be one of them"
        for one, other in zip(paths, others, strict=False):
            a, b = self._modules[one], self._modules[other]
            if problem is None and (a.kind, a.parameters) != (b.kind, b.parameters):
                problem = (
                    f"`{one}`, {a.kind} of {a.parameters:,} parameters, cannot change places with"
                    f" `{other}`, {b.kind} of {b.parameters:,}"
                )
        if problem is not None:
            raise BindingError((*self.path, "with"), problem)
        return others

    @cached_property
    def _over(self) -> tuple[Reference, ...]:
        if self.spec.op.draws not in ("mean", "resample"):
            return ()

        def used(key: str, name: str) -> tuple[Any, ...]:
            given = getattr(self.spec.over, key, None)
            if given:
                return tuple(given)
            return self.axes[name].values if name in self.axes else getattr(self.recipe, key)

        prompts, seeds = used("prompts", "prompt"), used("seeds", "seed")
        return tuple(Reference(prompt, seed) for prompt in prompts for seed in seeds)

    @cached_property
    def _modules(self) -> dict[str, ModuleInfo]:
        """The modules and blocks that it may edit, by path."""
        return {module.path: module for module in (*self._catalog, *self._catalog.blocks)}

    # ------------------------------------------------------------ what cannot be done

    def _check(self, edit: Edit, assignment: Assignment) -> None:
        """Raise `BindingError` where an edit is impossible in its place or at its time."""
        assert self.networks is not None
        denoising = self.networks.phase(edit.component) == "denoising"
        if edit.over and not denoising:
            name = edit.component or self.networks.name
            raise BindingError(self.path, f"`{edit.op}` is for the denoiser; {name} is none")
        if edit.when is not None:
            self._check_window(edit.when, assignment, denoising)
        for path in edit.modules if self.spec.op.draws in OF_INPUT else ():
            if self._modules[path].passes is False:
                message = (
                    f"`{path}` returns another shape than it is given, and cannot pass that on"
                )
                raise BindingError((*self.path, "modules"), message)
        argument = edit.argument or ""
        for path in edit.modules if argument else ():
            takes = self._modules[path].takes
            if takes and argument not in takes:
                hint = did_you_mean(argument, takes) or f"; it takes {', '.join(takes)}"
                message = f"`{path}` takes no `{argument}`{hint}"
                raise BindingError((*self.path, "argument"), message)
        if edit.unit is not None:
            self._check_unit(edit, edit.unit)

    def _check_window(self, when: When, assignment: Assignment, denoising: bool) -> None:
        steps = assignment.get("num_inference_steps", self.recipe.sampling.num_inference_steps)
        message = None
        if when.last < when.first and when.by != "t":
            message = f"ends before it begins: {when.last:g} is less than {when.first:g}"
        elif not denoising:
            name = self.component or self.networks.name  # type: ignore[union-attr]
            message = f"{name} is at work once, not at every step; leave `when` out"
        # Which noise levels there are only the scheduler knows.
        elif when.by != "t" and not when.is_ever_active(range(steps, 0, -1)):
            why = f"none begins within {when.first:g} to {when.last:g} of it"
            if when.by == "steps":
                why = f"the first one named is {when.first:g}, counted from 0"
            message = f"is never open: sampling has {steps} steps, and {why}"
        elif when.by == "steps" and when.last >= steps:
            message = (
                f"ends beyond the last step: sampling has {steps} steps, the last one is"
                f" {steps - 1}, counted from 0, not {when.last:g}"
            )
        if message is not None:
            given = self.spec.when
            of_axis = ("axes", given.axis, "windows") if isinstance(given, Ref) else None
            raise BindingError(of_axis or (*self.path, "when", when.by), message)

    def _check_unit(self, edit: Edit, unit: Unit) -> None:
        if unit.kind == "heads" and edit.op == "identity":
            raise BindingError((*self.path, "unit"), "a head has no input that it could pass on")
        for path in edit.modules:
            there = getattr(self._modules[path], unit.kind)
            last = max(unit.numbers)
            if last >= there and (there or unit.kind == "heads"):
                many = f"{there} {unit.kind}" if there else f"no {unit.kind}"
                message = f"`{path}` has {many}; there is none of number {last}"
                raise BindingError((*self.path, "unit", unit.kind), message)


@lru_cache(maxsize=10_000)
def _ranked(seed: int, path: str, units: int) -> tuple[int, ...]:
    return tuple(sorted(range(units), key=drawn_order(seed, path, units).__getitem__))


def _value(given: Any, assignment: Assignment) -> Any:
    """A setting, or the value of the axis that it refers to."""
    return assignment[given.axis] if isinstance(given, Ref) else given
