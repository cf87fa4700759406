"""Edits of a recipe at one assignment of its axes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ablate.edits import OPS, Edit, Reference, When
from ablate.messages import did_you_mean
from ablate.network import Catalog, ModuleInfo, Networks, Unit
from ablate.recipe import (
    OF_AXES,
    EditSpec,
    Problem,
    Recipe,
    RecipeError,
    Ref,
    UnitsSpec,
    WhenSpec,
    keyed,
)
from ablate.store import Layer, StatisticsError, read_statistics
from ablate.sweep.axes import PlanAxis, paths_of


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
            elif edit.when.by != "t" and not edit.when.is_ever_active(range(steps, 0, -1)):
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


class Studied:
    """The units of a study that an edit may ask for.

    `asked`: as the recipe has it. `key`: where it stands in the recipe. Raises `RecipeError` for a
    study that is not there or not whole.
    """

    def __init__(self, asked: UnitsSpec, key: str) -> None:
        self.asked = asked
        self.key = key
        self.layers: list[Layer] = []
        self._kept: dict[tuple[Any, ...], tuple[tuple[str, Unit], ...]] = {}
        try:
            self.study = read_statistics(Path(asked.run))
        except StatisticsError as error:
            raise RecipeError([Problem(str(error), f"{key}.run")]) from error

    def meet(self, networks: Networks, component: str | None, blocks: bool) -> None:
        """Have its layers in a model's networks. `component`: whose units are edited, None for the
        one that is; `blocks`: whether blocks can be. Raises `RecipeError` for a study of another
        network."""
        asked, key = self.asked, self.key
        self.layers = self._layers(asked, component or networks.name, key)
        catalog = networks.of(component)
        if asked.modules is not None:
            self.layers = _narrowed(self.layers, asked, catalog, f"{key}.modules")
        for layer in self.layers:
            wrong = _unlike(layer, catalog, blocks)
            if wrong is not None:
                raise RecipeError([Problem(f"{asked.run}: {wrong}", f"{key}.run")])

    def no_concept(self, name: object, place: str) -> Problem | None:
        """What is wrong with a concept that it does not have, or that nothing can stand for; None
        for one of its own."""
        known = self.study.concepts
        if name in known and self.study.spreads:
            return None
        if name in known:
            told = f"{self.asked.run} has one sample a concept: no spread to measure contrast in"
            return Problem(f"{told}; more `--seeds` of the study give it", place)
        hint = did_you_mean(str(name), known) or f"; it has {', '.join(known[:8])}"
        return Problem(f"{self.asked.run} has no concept `{name}`{hint}", place)

    def too_many(self, count: object, place: str) -> Problem | None:
        """What is wrong with a number of units that it does not have."""
        there = sum(layer.units for layer in self.layers)
        if not isinstance(count, int) or count <= there:
            return None
        return Problem(f"asks for {count} units; there are {there}", place)

    def _layers(self, asked: UnitsSpec, name: str, key: str) -> list[Layer]:
        found = [layer for layer in self.study.layers if layer.component == name]
        if not found:
            others = sorted({layer.component for layer in self.study.layers} - {"clip"})
            told = (f"{asked.run} has units of {', '.join(others)}, not of {name}; `component:"
                    f" {others[0]}` edits those" if others else
                    f"{asked.run} has only units of the CLIP model that reads images, which no"
                    " recipe edits: it takes no part in making them")  # fmt: skip
            raise RecipeError([Problem(told, f"{key}.run")])
        return found

    def chosen(self, asked: UnitsSpec, places: Mapping[str, str]) -> tuple[tuple[str, Unit], ...]:
        """The units that are asked for, by module path, without modules that none is of.

        Of equal ones the first. What is drawn hangs on the seed and the module path alone. `asked`
        has no references left; `places`: where each of its settings stands.
        """
        known = (asked.order, asked.concept, asked.fraction, asked.count, asked.seed)
        if known not in self._kept:
            self._kept[known] = self._chosen(asked, places)
        return self._kept[known]

    def _chosen(self, asked: UnitsSpec, places: Mapping[str, str]) -> tuple[tuple[str, Unit], ...]:
        scores = self._scores(asked, places["concept"])
        ranks = np.argsort(np.concatenate(scores), kind="stable")
        problem = self.too_many(asked.count, places["count"])
        if problem is not None:
            raise RecipeError([problem])
        count = asked.count if isinstance(asked.count, int) else 0
        wanted = np.zeros(len(ranks), bool)
        wanted[ranks[:count]] = True
        found, start = [], 0
        for layer, own in zip(self.layers, scores, strict=True):
            mask = wanted[start : start + layer.units]
            start += layer.units
            if isinstance(asked.fraction, int | float):
                mask[np.argsort(own, kind="stable")[: round(asked.fraction * layer.units)]] = True
            if mask.any():
                found.append((layer.path, Unit(layer.kind, tuple(np.flatnonzero(mask).tolist()))))
        return tuple(found)

    def _scores(self, asked: UnitsSpec, place: str) -> list[np.ndarray]:
        """A number for each unit of each layer; the smallest come first."""
        if asked.order == "random":
            drawn = [random.Random(f"{asked.seed}/{layer.path}") for layer in self.layers]
            return [
                np.array([generator.random() for _ in range(layer.units)])
                for generator, layer in zip(drawn, self.layers, strict=True)
            ]
        problem = self.no_concept(asked.concept, place)
        if asked.concept is None:
            values = self.study.selectivity()
        elif problem is not None:
            raise RecipeError([problem])
        else:
            values = self.study.contrast()[self.study.concepts.index(str(asked.concept))]
        values = values if asked.order == "least" else -values
        return [values[self.study.slice_of(layer)] for layer in self.layers]


def _narrowed(layers: Sequence[Layer], asked: UnitsSpec, catalog: Catalog, key: str) -> list[Layer]:
    """The layers that the recipe's selector names: some by each item of a list."""
    selector = asked.modules or "*"
    paths = paths_of(selector, catalog, key, blocks=True)
    items = selector if isinstance(selector, list) else [selector]
    for item in items:
        # What is taken out again, or drawn, need not be there.
        alone = paths_of(item, catalog, key, blocks=True) if isinstance(item, str) else paths
        if not any(layer.path in alone for layer in layers):
            which = f"none of `{item}`" if len(items) > 1 else "none of these"
            told = f"{asked.run} has units of {which}; it has those of `{layers[0].path}`"
            told += f" and {len(layers) - 1} more" if len(layers) > 1 else ""
            raise RecipeError([Problem(told, key)])
    return [layer for layer in layers if layer.path in paths]


def _unlike(layer: Layer, catalog: Catalog, blocks: bool) -> str | None:
    """Why the units of a layer cannot be edited in a network; None where they can."""
    info = next((m for m in (*catalog, *catalog.blocks) if m.path == layer.path), None)
    if info is None:
        hint = did_you_mean(layer.path, [m.path for m in (*catalog, *catalog.blocks)])
        return f"`{layer.path}` is no module of this model{hint or '; was it of another one?'}"
    if info in catalog.blocks and not blocks:
        return f"`{layer.path}` is a block, without weights of its own; add `where: output`"
    there = getattr(info, layer.kind)
    if there != layer.units and (there or layer.kind == "heads"):
        return (f"`{layer.path}` has {layer.units} {layer.kind} there and {there} in this model;"
                " was it of another one?")  # fmt: skip
    return None
