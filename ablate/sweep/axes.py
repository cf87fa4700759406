"""The axes of a recipe beside the networks of its model: every value, and what it means."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from ablate.drift import MeasuredCell, read_cells
from ablate.edits import When
from ablate.network import ROOT, Catalog, ModuleInfo, Selector, SelectorError, Unit, groups, select
from ablate.recipe import (
    CONDITION_AXES,
    UNIT_FORMS,
    AxisSpec,
    KeyPath,
    Plane,
    Points,
    Ref,
    asked,
)
from ablate.sampling import Point, between, on_plane, random_point
from ablate.store import Run, StoreError

Assignment = Mapping[str, Any]  # a value of every axis, by name


class BindingError(ValueError):
    """What does not fit a recipe's networks. `path`: its key in the recipe."""

    def __init__(self, path: KeyPath, message: str) -> None:
        super().__init__(message)
        self.path = path


# ---------------------------------------------------------------- axes of a plan


@dataclass(frozen=True)
class PlanAxis:
    """An axis whose values are known; here plain values, or selectors.

    Attributes:
        name: Its name.
        values: Its values, in order.
        labels: The values in writing.
        of_condition: Whether the baseline depends on it, too.
        note: What its numbers mean, where its name does not say.
    """

    name: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    of_condition: bool = False
    note: str = ""

    def limited(self, assignments: Iterable[Assignment]) -> PlanAxis:
        """The axis with only those values that assignments have."""
        used = {repr(values[self.name]) for values in assignments if self.name in values}
        kept = [i for i, value in enumerate(self.values) if repr(value) in used]
        values, labels = (tuple(each[i] for i in kept) for each in (self.values, self.labels))
        return replace(self, values=values, labels=labels)


@dataclass(frozen=True)
class ModuleAxis(PlanAxis):
    """Values that name modules.

    Attributes:
        members: The paths of the modules of every value.
        component: The part of the pipeline that the modules belong to; None for the edited one.
        units: The head or channel of every value, where it is a single one.
    """

    members: Mapping[Any, tuple[str, ...]] = field(default_factory=dict)
    component: str | None = None
    units: Mapping[Any, Unit] = field(default_factory=dict)

    def modules(self, assignment: Assignment) -> tuple[str, ...]:
        return self.members[assignment[self.name]]

    def unit(self, assignment: Assignment) -> Unit | None:
        """The unit of the modules that is meant; None for all of them."""
        return self.units.get(assignment[self.name])


@dataclass(frozen=True)
class CumulativeAxis(ModuleAxis):
    """Numbers of modules, the first of an order.

    Attributes:
        paths: All modules in the order of the network.
        order: All modules in the order in which they are added; where `seed` is given, as they are
            before they are shuffled by it.
        seed: A seed, or the axis of them.
    """

    paths: tuple[str, ...] = ()
    order: tuple[str, ...] = ()
    seed: int | Ref | None = None

    def modules(self, assignment: Assignment) -> tuple[str, ...]:
        seed = assignment[self.seed.axis] if isinstance(self.seed, Ref) else self.seed
        kept = set(_shuffled(self.order, seed)[: assignment[self.name]])
        return tuple(path for path in self.paths if path in kept)


@lru_cache(maxsize=1024)
def _shuffled(order: tuple[str, ...], seed: int | None) -> tuple[str, ...]:
    """An order, shuffled by a seed if there is one."""
    if seed is None:
        return order
    ordered = list(order)
    random.Random(seed).shuffle(ordered)
    return tuple(ordered)


@dataclass(frozen=True)
class WindowAxis(PlanAxis):
    """Values that name windows of the sampling. `windows`: the window of each."""

    windows: Mapping[Any, When] = field(default_factory=dict)

    def window(self, assignment: Assignment) -> When:
        return self.windows[assignment[self.name]]


@dataclass(frozen=True)
class PointAxis(PlanAxis):
    """Values that name points of embedding space. `points`: set and number of each."""

    points: Mapping[Any, tuple[Points, float]] = field(default_factory=dict)

    def point(self, assignment: Assignment) -> tuple[str, Point]:
        """The description of the point, and the point."""
        space, number = self.points[assignment[self.name]]
        texts = [text_of(prompt, assignment) for prompt in space.prompts]
        if space.between:
            start, end = texts
            way = f"{_quoted(start)} → {_quoted(end)}, {number:.6g} of the way"
            return way, between(start, end, number, space.between.path)
        if space.random:
            seed = space.random.seed
            return f"random point {number} of seed {seed}", random_point(seed, int(number), texts)
        return "", Point((("", 1.0),))


@dataclass(frozen=True)
class PlaneAxis(PlanAxis):
    """The innermost dimension of a plane. `across`: the other dimensions' names, zoom and v."""

    plane: Plane | None = None
    across: tuple[str, str] = ("", "")

    def point(self, assignment: Assignment) -> tuple[str, Point]:
        """The description of the point, and the point."""
        assert self.plane is not None
        zoom, v = self.across
        scale = assignment.get(zoom, 1)
        at = [assignment[self.name] / scale, assignment[v] / scale]
        targets = [t if isinstance(t, int) else text_of(t, assignment) for t in self.plane.toward]
        start = text_of(self.plane.center, assignment)
        shown = ", ".join(f"{a:+.6g} {_quoted(t)}" for a, t in zip(at, targets, strict=True))
        return f"{_quoted(start)} {shown}", on_plane(start, targets, at)


def label_of(value: Any) -> str:
    """A value of an axis in writing."""
    return f"{value:.10g}" if isinstance(value, float) else str(value) or "no text"


def text_of(prompt: object, assignment: Assignment) -> str:
    """A prompt, or that of the axis which it refers to."""
    return str(assignment[prompt.axis] if isinstance(prompt, Ref) else prompt)


def _quoted(target: object) -> str:
    if isinstance(target, Ref):
        return f"the {target.axis}"
    return f"direction {target}" if isinstance(target, int) else f"“{target}”"


# ---------------------------------------------------------------- binding


def condition_axis(name: str, values: Sequence[Any]) -> PlanAxis:
    """An axis of what is asked of the network."""
    return PlanAxis(name, tuple(values), tuple(map(label_of, values)), of_condition=True)


def bind_axis(
    name: str,
    axis: AxisSpec,
    modules: Sequence[ModuleInfo] = (),
    around: Sequence[ModuleInfo] = (),
) -> tuple[PlanAxis, ...]:
    """An axis with its values known; of a plane, one for each of its dimensions.

    Args:
        modules: Those that it chooses, if it chooses any.
        around: The blocks by which it groups them, if it does.

    Raises:
        BindingError: It asks for more modules, or for units that they do not have.
    """
    if axis.kind == "embedding":
        return _of_points(name, axis)
    if axis.kind == "windows":
        windows = {str(window): window for window in axis.parts}
        return (WindowAxis(name, tuple(windows), tuple(windows), windows=windows),)
    if axis.kind == "values":
        if name in CONDITION_AXES:
            return (condition_axis(name, [asked(name, value) for value in axis.numbers]),)
        return (PlanAxis(name, axis.numbers, tuple(map(label_of, axis.numbers))),)
    if axis.form in UNIT_FORMS:
        return (_of_units(name, axis, modules),)
    if axis.cumulative:
        return (_of_counts(name, axis, modules),)
    return (_of_modules(name, axis, modules, around),)


def _of_points(name: str, axis: AxisSpec) -> tuple[PlanAxis, ...]:
    plane = axis.spaces[0].plane
    if plane is None:
        points = [(space, number) for space in axis.spaces for number in space.numbers or (0,)]
        plain = condition_axis(name, axis.plain or ())
        note = " · ".join(map(_described, axis.spaces))
        by_value = dict(zip(plain.values, points, strict=True))
        return (PointAxis(name, plain.values, plain.labels, True, note, by_value),)
    zoom, v, u = (f"{name}.{part}" for part in ("zoom", "v", "u"))
    center = _quoted(plane.center)
    notes = [f"from {center} (0) toward {_quoted(target)} (1)" for target in plane.toward]
    # Upward is more, as on any chart.
    rows = replace(condition_axis(v, plane.numbers[::-1]), note=notes[1])
    columns = condition_axis(u, plane.numbers)
    innermost = PlaneAxis(u, columns.values, columns.labels, True, notes[0], plane, (zoom, v))
    zooms = (condition_axis(zoom, plane.zoom.numbers),) if plane.zoom else ()
    return *zooms, rows, innermost


def _described(space: Points) -> str:
    """What the points of a set are."""
    if space.between:
        start, end = map(_quoted, space.prompts)
        return f"from {start} (0) to {end} (1)" + ", along the arc" * (
            space.between.path == "slerp"
        )
    return f"random points of seed {space.random.seed}" if space.random else space.form


def _of_units(name: str, axis: AxisSpec, modules: Sequence[ModuleInfo]) -> ModuleAxis:
    """An axis over the heads or channels of modules, one at a time."""
    assert axis.chosen is not None
    kind = UNIT_FORMS[axis.form]
    units = {
        f"{module.name} {kind.removesuffix('s')} {number}": (module.path, number)
        for module in modules
        for number in range(getattr(module, kind))
    }
    if not units:
        message = f"none of these modules has {kind}, {modules[0].path} for one"
        raise BindingError(("axes", name, axis.form), message)
    return ModuleAxis(
        name,
        tuple(units),
        tuple(units),
        members={label: (module,) for label, (module, _) in units.items()},
        component=axis.chosen.component,
        units={label: Unit(kind, (number,)) for label, (_, number) in units.items()},
    )


def _of_modules(
    name: str, axis: AxisSpec, modules: Sequence[ModuleInfo], around: Sequence[ModuleInfo]
) -> ModuleAxis:
    """An axis over modules, over groups, or over windows of neighbors among these."""
    assert axis.chosen is not None
    path = ("axes", name, axis.form)
    given = axis.grouped.by if axis.grouped else None
    try:
        members = groups(modules, around or given or ("stage" if axis.group else "name"))
    except SelectorError as error:
        raise BindingError((*path, "within"), str(error)) from error
    if axis.window:
        width = axis.window.width
        if width > len(members):
            message = f"is {width}, more than there is to slide over: {len(members)}"
            raise BindingError((*path, "width"), message)
        members = dict(_windows(members, width, axis.window.stride))
    values = tuple(members)
    return ModuleAxis(name, values, values, members=members, component=axis.chosen.component)


def _windows(
    members: Mapping[str, tuple[str, ...]], width: int, stride: int
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """The modules of each window over groups, by the names of its first and last group."""
    names = list(members)
    for first in range(0, len(names) - width + 1, stride):
        inside = names[first : first + width]
        label = inside[0] if width == 1 else f"{inside[0]} to {inside[-1]}"
        yield label, tuple(path for name in inside for path in members[name])


def _of_counts(name: str, axis: AxisSpec, modules: Sequence[ModuleInfo]) -> ModuleAxis:
    """An axis over the numbers of modules of an order."""
    assert axis.cumulative is not None
    path = ("axes", name, axis.form)
    component = axis.cumulative.component
    paths = tuple(module.path for module in modules)
    order = axis.cumulative.order
    counts = axis.cumulative.counts
    numbers = (counts.counts if counts else ()) or tuple(range(1, len(paths) + 1))
    if max(numbers) > len(paths):
        message = f"asks for {max(numbers)} modules; there are {len(paths)}"
        raise BindingError((*path, "counts"), message)
    ordered = paths[::-1] if order == "reverse" else paths
    if order == "drift":
        ordered = _by_drift(Path(axis.cumulative.run or ""), paths, (*path, "run"))
    return CumulativeAxis(
        name,
        numbers,
        tuple(map(str, numbers)),
        component=component,
        paths=paths,
        order=ordered,
        seed=axis.cumulative.seed if order == "random" else None,
    )


def _by_drift(folder: Path, paths: Sequence[str], path: KeyPath) -> tuple[str, ...]:
    """Modules from the least to the most drift, as an earlier run measured it one by one."""
    try:
        cells = read_cells(Run(folder))
    except StoreError as error:
        raise BindingError(path, str(error)) from error
    names = {name for cell in cells for name in cell.axes}
    labels = {path: path or ROOT for path in paths}

    def label(cell: MeasuredCell, axis: str) -> Any:
        value = cell.axes.get(axis)
        return ROOT if value == "" else value  # as runs of older versions name the network itself

    wanted = set(labels.values())
    named = (name for name in names if wanted <= {label(cell, name) for cell in cells})
    axis = next(named, None)
    if axis is None:
        message = f"{folder} does not have every one of these modules by itself"
        raise BindingError(path, message)
    drift: dict[str, list[float]] = {}
    for cell in cells:
        if "rmse" in cell.drift:
            drift.setdefault(str(label(cell, axis)), []).append(cell.drift["rmse"])
    mean = {p: sum(d) / len(d) for p, d in drift.items()}
    return tuple(sorted(paths, key=lambda p: mean.get(labels[p], float("inf"))))


def selected(
    selector: Selector, catalog: Catalog, path: KeyPath, blocks: bool = False
) -> tuple[ModuleInfo, ...]:
    """What a selector names. `path`: its key in the recipe. Raises `BindingError`."""
    try:
        return select(selector, catalog, blocks=blocks)
    except SelectorError as error:
        raise BindingError(path, str(error)) from error
