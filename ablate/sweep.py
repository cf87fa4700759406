"""A recipe's axes beside the networks of its model: every value, and what it stands for."""

from __future__ import annotations

import csv
import itertools
import random
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ablate.axes import CONDITION_AXES, UNIT_FORMS, Axis
from ablate.catalog import Selector, SelectorError, did_you_mean, groups, select
from ablate.document import Problem
from ablate.embeddings import Point, between, drawn, on_plane
from ablate.modules import Catalog, ModuleInfo
from ablate.recipe import Recipe, RecipeError
from ablate.scope import Phase, Unit, When, phase_of
from ablate.spaces import Ref, Space
from ablate.specs import UnitsSpec, keyed
from ablate.units.statistics import Layer, Statistics, StatisticsError


@dataclass(frozen=True)
class Networks:
    """The catalogs that a recipe chooses from. `others`: of further components, by name. `name`: of
    the component that `catalog` is of. `guided`: denoiser rows of a guided cell."""

    catalog: Catalog
    name: str
    others: Mapping[str, Catalog] = field(default_factory=dict)
    guided: int = 2

    def of(self, component: str | None) -> Catalog:
        """The catalog of a component; None is the one that is edited."""
        return self.others.get(component or "", self.catalog)

    def other(self, component: str | None) -> str | None:
        """The component where it is another than the one that is edited."""
        return component if component in self.others else None

    def phase(self, component: str | None) -> Phase:
        return phase_of(component or self.name)


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
                    return told, drawn(space.seed, int(number), texts)
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


# ------------------------------------------------------------ what a study of units found


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
            self.study = _statistics(Path(asked.run) / "activations.npz")
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


def _statistics(path: Path) -> Statistics:
    """A study's statistics, to be read alone: the file is read once until it is another."""
    there = path.stat() if path.exists() else None
    return _read(path, there and (there.st_ino, there.st_mtime_ns, there.st_size))


@lru_cache(maxsize=4)
def _read(path: Path, _version: tuple[int, ...] | None) -> Statistics:
    return Statistics.load(path, whole=True)


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
