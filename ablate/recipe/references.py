"""What of a recipe refers to its axes: whether each reference fits, and each axis is used."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from ablate.messages import did_you_mean
from ablate.recipe.axes import AxisSpec
from ablate.recipe.conditions import CONDITION_AXES, Asked
from ablate.recipe.document import KeyPath, replaced, written
from ablate.recipe.edits import EditSpec
from ablate.recipe.strict import INVALID, NOTHING, Strict, mistakes_of
from ablate.recipe.types import Literally, Ref, is_ref

if TYPE_CHECKING:
    from ablate.recipe.recipe import Recipe

Mistakes = Iterator[tuple[KeyPath, str]]
FREE = (*CONDITION_AXES, "perturbation_seed")  # axes that no edit refers to


def reference_mistakes(recipe: Recipe, data: Any, wrong: Collection[KeyPath]) -> Mistakes:
    """Mistakes in what refers to axes, with their places.

    Args:
        data: What the recipe is read from.
        wrong: The places of known mistakes; what is in them is not looked at.
    """
    if recipe.axes is INVALID:
        return
    checks = _References(recipe, data, wrong)
    yield from checks.of_conditions()
    yield from checks.of_edits()
    yield from checks.of_axes()
    yield from checks.of_points()
    yield from checks.unused()
    yield from _zip(recipe)
    yield from _sheet(recipe)


class _References:
    def __init__(self, recipe: Recipe, data: Any, wrong: Collection[KeyPath]) -> None:
        self.recipe, self.data = recipe, data
        self.axes = recipe.axes
        self.wrong = set(wrong)
        self.used: set[str] = set()

    def of_conditions(self) -> Mistakes:
        """Axes that are prompts, seeds or settings of the sampling by their names."""
        for name, axis in self.axes.items():
            if axis and name in FREE and axis.kind != "values":
                what = "points of embedding space" if axis.kind == "embedding" else axis.kind
                message = f"gives {what}; the axis `{name}` needs `values`"
                yield ("axes", name, axis.form), message
            elif axis and name in FREE:
                yield from self._values(name, (), Asked.model_fields[name])

    def of_edits(self) -> Mistakes:
        """References of edits: to axes that there are, of values that fit."""
        typed: dict[KeyPath, tuple[EditSpec, Ref]] = {}
        for i, edit in enumerate(self.recipe.edits):
            if edit:
                for path, ref in references_in(edit, ("edits", i, edit.op.name)):
                    typed[path] = (edit, ref)
        edits = self.data.get("edits")
        for path, name in _mentions(edits, ("edits",)):
            self.used.add(name)
            if any(path[:n] in self.wrong for n in range(len(path) + 1)):
                continue
            if name not in self.axes:
                yield path, no_axis(name, self.axes)
            elif not self.axes[name]:
                continue
            elif self.axes[name].kind == "embedding":
                yield (
                    path,
                    (
                        f"axis `{name}` has points of embedding space, which are not part of an"
                        " edit; every edit is applied at each of them"
                    ),
                )
            elif path in typed:
                yield from self._of_edit(path, typed[path][0], name)
            elif self.recipe.edits and self.recipe.edits[int(path[1])]:
                yield path, f"an axis cannot be given here, as `${name}` is"

    def _of_edit(self, path: KeyPath, edit: EditSpec, name: str) -> Mistakes:
        """Whether the values of an axis are of the kind that a setting needs."""
        _, _, _, key, *inner = path
        kind = self.axes[name].kind
        needed = {"modules": "modules", "when": "windows"}.get(str(key), "values")
        if inner:
            needed = "values"
        fits = kind == needed or (needed == "modules" and kind == "values")
        if not fits:
            plain = "plain values" if needed == "values" else needed
            yield path, f"axis `{name}` has {kind}; `{key}` needs {plain}"
        elif kind == "values":
            yield from self._values(name, path, edit.known_keys()[str(key)])
        elif self.axes[name].form.startswith("each_") and edit.unit is not None:
            yield (*path[:3], "unit"), f"axis `{name}` gives units already"

    def _values(self, name: str, path: KeyPath, field: FieldInfo) -> Mistakes:
        """Whether a field takes each value of an axis. `path`: of the reference in an edit."""
        inner = path[4:]
        around = _at(self.data, path[:4]) if inner else None
        items = [replaced(around, inner, _literal(v)) for v in self.axes[name].numbers]
        values: Any = list[_type_of(field)]  # type: ignore[misc]
        adapter: TypeAdapter[Any] = TypeAdapter(values)
        for first in range(0, len(items), 1000):  # whoever has enough mistakes asks for no more
            try:
                adapter.validate_python(items[first : first + 1000])
            except ValidationError as error:
                for mistake in mistakes_of(error):
                    number, *place = (part for part in mistake.place if str(part)[:1] != "<")
                    value = self.recipe.value_path(name, first + int(number))
                    if tuple(place[: len(inner)]) == inner and value not in self.wrong:
                        self.wrong.add(value)
                        used = f"; it goes to {written(path)}" if path else ""
                        yield value, f"{mistake.message}{used}"

    def of_axes(self) -> Mistakes:
        """References of axes to others: of seeds, and of prompts."""
        for name, axis in self.axes.items():
            for path, ref in references_in(axis, ("axes", name)):
                self.used.add(ref.axis)
                of_prompts = axis.kind == "embedding"
                if ref.axis not in self.axes and not (of_prompts and ref.axis == "prompt"):
                    yield path, no_axis(ref.axis, [*self.axes, *["prompt"] * of_prompts])
                elif not self.axes.get(ref.axis):
                    continue
                elif self.axes[ref.axis].kind != "values":
                    needs = "a prompt is text" if of_prompts else "a seed is a whole number"
                    yield path, f"axis `{ref.axis}` has {self.axes[ref.axis].kind}; {needs}"
                else:
                    yield from self._values(ref.axis, (), _PROMPT if of_prompts else _SEED)

    def of_points(self) -> Mistakes:
        """Axes of points of embedding space beside each other, and beside prompts."""
        names = [name for name, axis in self.axes.items() if axis and axis.kind == "embedding"]
        for name in names[1:]:
            yield (
                ("axes", name),
                (f"a cell is at one point of embedding space, and `{names[0]}` gives one already"),
            )
        for place, given in ((("prompts",), self.data), (("axes", "prompt"), self.axes)):
            if names and "prompt" not in self.used and place[-1] in given:
                yield (
                    place,
                    (
                        f"`{names[0]}` gives the points of embedding space; write `$prompt` where a"
                        " prompt goes in it, or leave this out"
                    ),
                )
        self.used.update(names)

    def unused(self) -> Mistakes:
        for name in self.axes:
            if name in ("prompt", "seed") and f"{name}s" in self.data:
                yield ("axes", name), f"is given beside `{name}s`; keep one of the two"
            if name not in self.used and name not in FREE:
                yield ("axes", name), f"no edit uses this axis; write `${name}` where it goes"


_PROMPT, _SEED = Asked.model_fields["prompt"], Asked.model_fields["seed"]


def _at(data: Any, path: KeyPath) -> Any:
    for part in path:
        data = data[part]
    return data


def _literal(value: Any) -> Any:
    """A value of an axis in the place of the reference."""
    if value is None:
        return NOTHING
    return Literally(value) if isinstance(value, str) else value


def _type_of(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def references_in(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Ref]]:
    """All references in a part of a recipe, with their keys."""
    if isinstance(value, Ref):
        yield path, value
    elif isinstance(value, Strict):
        for name, field in type(value).model_fields.items():
            yield from references_in(getattr(value, name), (*path, field.alias or name))
    elif isinstance(value, tuple):
        for i, item in enumerate(value):
            yield from references_in(item, (*path, i))


def _mentions(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    """What is written like a reference, with its keys."""
    if is_ref(value):
        yield path, value[1:]
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _mentions(item, (*path, i))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _mentions(item, (*path, key))


def no_axis(name: object, known: Iterable[str]) -> str:
    """The sentence that says that there is no such axis."""
    there = f"; there are {', '.join(known)}" if known else "; define it under `axes`"
    return f"there is no axis `{name}`{did_you_mean(str(name), known) or there}"


# ---------------------------------------------------------------- zip and sheet


def _zip(recipe: Recipe) -> Mistakes:
    lengths = {"prompt": len(recipe.prompts), "seed": len(recipe.seeds)}
    lengths |= {name: len(axis.plain or ()) for name, axis in recipe.axes.items() if axis}
    known = dict.fromkeys(("prompt", "seed", *planned_names(recipe.axes)))
    names = [name for group in recipe.zipped for name in group]
    for name in names:
        if name not in known:
            yield ("zip",), no_axis(name, known)
    for group in recipe.zipped:
        if len(group) < 2:
            yield ("zip",), "pairs axes; name at least two"
        sized = {name: lengths[name] for name in lengths if name in group and lengths[name]}
        if len(set(sized.values())) > 1:
            yield ("zip",), unequal(sized)
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield ("zip",), f"`{name}` is zipped twice"


def unequal(lengths: Mapping[str, int]) -> str:
    """The sentence about zipped axes whose lengths differ."""
    counts = ", ".join(f"`{name}` has {count}" for name, count in lengths.items())
    return f"axes of different length cannot be paired: {counts}"


def _sheet(recipe: Recipe) -> Mistakes:
    if not recipe.sheet:
        return
    known = list(dict.fromkeys([*planned_names(recipe.axes), "prompt", "seed"]))
    rows = tuple(recipe.sheet.rows)
    for key, names in (("rows", rows), ("columns", tuple(recipe.sheet.columns))):
        for name in filter(None, names):
            if name not in known:
                yield ("sheet", key), no_axis(name, known)
            elif names.count(name) > 1 or (key == "columns" and name in rows):
                yield ("sheet", key), f"axis `{name}` is used twice"


def planned_names(axes: Mapping[str, AxisSpec]) -> Iterator[str]:
    """The names of axes in a plan, where each dimension of a plane is an axis."""
    for name, axis in axes.items():
        plane = next((space.plane for space in axis.spaces if space.plane), None)
        if plane is None:
            yield name
        else:
            yield from (f"{name}.zoom",) if plane.zoom else ()
            yield from (f"{name}.v", f"{name}.u")
