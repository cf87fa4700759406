"""What of a recipe refers to its axes: whether each reference fits, and each axis is used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ablate.edits import BY, OPS, Op
from ablate.messages import did_you_mean
from ablate.network import UNITS
from ablate.recipe.axes import CONDITION_AXES, UNIT_FORMS, Axis
from ablate.recipe.document import KeyPath
from ablate.recipe.edits import OF_AXES, EditReader, EditSpec, keys_of
from ablate.recipe.spaces import Ref


class ReferenceReader(EditReader):
    """Checks references, when axes and edits have been read."""

    def references(
        self, axes_of: Sequence[Axis], edits: Sequence[EditSpec], top: dict[str, Any]
    ) -> None:
        """Note every reference that does not fit, and every axis that none uses."""
        axes = {a.name: a for a in axes_of}
        used: set[str] = set()
        for path, name in _mentions(top.get("edits"), ("edits",)):
            first = name not in used
            used.add(name)
            if name not in axes:
                self.wrong(path, no_axis(name, axes))
            elif axes[name].form == "embedding":
                self.wrong(path, f"axis `{name}` holds points of embedding space, which are no"
                           " part of an edit; every edit is made at each of them")  # fmt: skip
            elif len(path) >= 4:
                self._fitting(axes[name], path, first, top)
        used |= self._spaces(axes_of, top)
        for axis in axes_of:
            if isinstance(axis.seed, Ref):
                used.add(axis.seed.axis)
                self._seeding(axis, axes)
        for name in axes:
            if name in ("prompt", "seed") and f"{name}s" in top:
                self.wrong(("axes", name), f"stands beside `{name}s`; keep one of the two")
            if name not in used and name not in (*CONDITION_AXES, "perturbation_seed"):
                self.wrong(("axes", name), f"no edit uses this axis; write `${name}` where it goes")
        if not edits and not axes_of and not self.problems:
            self.wrong((), "an empty sweep: there are neither `edits` nor `axes`; an edit is, for"
                       ' example, `zero: {modules: "*"}`')  # fmt: skip

    def _spaces(self, axes_of: Sequence[Axis], top: dict[str, Any]) -> set[str]:
        """Axes of points of embedding space, and those whose prompts they refer to."""
        found = [a for a in axes_of if a.form == "embedding"]
        for axis in found[1:]:
            self.wrong(("axes", axis.name), f"a cell is at one point of embedding space, and"
                       f" `{found[0].name}` gives one already")  # fmt: skip
        axes = {a.name: a for a in axes_of}
        refs = {(a.name, p.axis) for a in found for s in a.spaces for p in s.prompts
                if isinstance(p, Ref)}  # fmt: skip
        for name, ref in sorted(refs):
            if ref == "prompt" and ref not in axes:
                continue
            if ref not in axes:
                self.wrong(("axes", name, "embedding"), no_axis(ref, [*axes, "prompt"]))
            elif axes[ref].form != "values":
                self.wrong(("axes", name, "embedding"), f"axis `{ref}` holds no prompts")
            else:
                for i, value in enumerate(axes[ref].values):
                    self.text(value, ("axes", ref, "values", i))
        used = {ref for _, ref in refs}
        for key, given in (("prompts", top), ("axes.prompt", {f"axes.{n}": n for n in axes})):
            if found and "prompt" not in used and key in given:
                self.wrong(tuple(key.split(".")), f"`{found[0].name}` gives the points of embedding"
                           " space; write `$prompt` where a prompt goes in it, or leave this"
                           " out")  # fmt: skip
        return used | {a.name for a in found}

    def _seeding(self, axis: Axis, axes: Mapping[str, Axis]) -> None:
        """A cumulative axis whose seed is another axis."""
        path: KeyPath = ("axes", axis.name, "cumulative", "seed")
        name = axis.seed.axis if isinstance(axis.seed, Ref) else ""
        if name not in axes:
            self.wrong(path, no_axis(name, axes))
        elif axes[name].form != "values":
            held = "modules" if axes[name].of_modules else axes[name].form
            self.wrong(path, f"axis `{name}` holds {held}; a seed is a whole number")
        else:
            for i, value in enumerate(axes[name].values):
                self.integer(value, ("axes", name, "values", i))

    def _fitting(self, axis: Axis, path: KeyPath, first: bool, top: dict[str, Any]) -> None:
        """An axis that an edit refers to: whether its values are of the kind that goes there."""
        op, key = OPS.get(str(path[2])), str(path[3])
        held = "modules" if axis.of_modules else axis.form
        if op is None or key not in keys_of(op):
            return
        match path[3:]:
            case ("modules",):
                wanted = "modules"
            case ("when",):
                wanted = "windows"
            case ("when", by, _) if by in BY:
                wanted = "plain values"
            case ("unit", kind) if kind in UNITS:
                wanted = "plain values"
            case ("units", setting) if setting in OF_AXES:
                wanted = "plain values"
            case (setting,) if setting in (op.strength, "dose", op.kind_key, "text"):
                wanted = "plain values"
            case ("component",) | ("over", "prompts", _) | ("units", "run" | "modules", *_):
                self.wrong(path, f"no axis can stand here, as `${axis.name}` does")
                return
            case ("with",) if op.draws == "checkpoint":
                self.wrong(path, f"no axis can stand here, as `${axis.name}` does")
                return
            case _:  # told already
                return
        if wanted == "modules" and axis.form == "values":
            body = body_of(top, path)
            component, blocks = body.get("component"), body.get("where") == "output"
            for i, value in enumerate(axis.values if first else ()):
                self.selector(value, ("axes", axis.name, "values", i), component, blocks=blocks)
        elif wanted == "modules" and axis.form in UNIT_FORMS and "unit" in body_of(top, path):
            self.wrong((*path[:3], "unit"), f"axis `{axis.name}` gives units already")
        elif wanted != {"values": "plain values"}.get(held, held):
            self.wrong(path, f"axis `{axis.name}` holds {held}; `{key}` needs {wanted}")
        elif wanted == "plain values":
            for i, value in enumerate(axis.values):
                self._value(op, path, value, ("axes", axis.name, "values", i))

    def _value(self, op: Op, path: KeyPath, value: Any, inner: KeyPath) -> None:
        """A value of an axis that an edit refers to."""
        match path[3:]:
            case ("when", by, *_):
                self.end(next(b for b in BY if b == by), value, inner)
            case ("unit", *_):
                self.integer(value, inner)
            case ("units", setting):
                self.ranked(str(setting), value, inner)
            case ("text",):
                self.words(value, inner)
            case (key,) if key == op.kind_key and op.kinds:
                self.choice(value, inner, op.kinds)
            case (key,):
                before = len(self.problems)
                number = self.number(value, inner)
                if len(self.problems) == before:
                    self.strong(op, str(key), number, inner)

    def of_outputs(self, edits: Sequence[EditSpec]) -> None:
        """Axes that edits of outputs use, and no others, may hold blocks."""
        users: dict[str, set[str]] = {}
        for edit in edits:
            if isinstance(edit.modules, Ref):
                users.setdefault(edit.modules.axis, set()).add(edit.where)
        for i, chosen in enumerate(self.selectors):
            key = chosen.place.key.removeprefix("--set ")
            axis = key.removeprefix("axes.").partition(".")[0] if key.startswith("axes.") else ""
            if users.get(axis) == {"output"}:
                self.selectors[i] = replace(chosen, blocks=True)


def body_of(top: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    """The settings of the edit that a key path leads into."""
    _, number, op, *_ = path
    body: dict[str, Any] = top["edits"][number][op]
    return body


def _mentions(value: Any, path: KeyPath) -> Iterable[tuple[KeyPath, str]]:
    """The axes that edits mention as `$name`, and where."""
    if isinstance(value, str) and value.startswith("$") and len(value) > 1:
        yield path, value[1:]
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _mentions(item, (*path, i))
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _mentions(item, (*path, key))


def no_axis(name: object, known: Iterable[str]) -> str:
    """The sentence that says so."""
    there = f"; there are {', '.join(known)}" if known else "; define it under `axes`"
    return f"there is no axis `{name}`{did_you_mean(str(name), known) or there}"
