"""Recipes: strict YAML to a frozen `Recipe`; every mistake is one sentence with file, line, key.

    recipe = Recipe.load("recipes/quickstart.yaml")
    recipe = Recipe.build({"version": 1, "name": "mine", "edits": [{"zero": {"modules": "*"}}]})

Reading knows nothing of networks: whether selectors match is for `ablate.plan` to say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from ablate.axes import CONDITION_AXES, Axis, Selected
from ablate.axes import Sampling as Sampling
from ablate.catalog import did_you_mean
from ablate.document import DocumentError, KeyPath, Problem, in_order, kind_of, written
from ablate.ops import OPS, Op
from ablate.scope import BY
from ablate.spaces import Ref
from ablate.specs import EditReader, EditSpec

VERSION = 1
TOP_LEVEL = (
    "version", "name", "about", "model", "revision", "dtype", "compile", "component", "clip",
    "vocabulary", "prompts", "seeds", "noise_floor", "perturbation_seed", "sampling", "axes", "zip",
    "edits", "sheet",
)  # fmt: skip
DTYPES = ("auto", "float32", "float16", "bfloat16")


class RecipeError(DocumentError):
    """A recipe that is wrong; `problems` are all of its mistakes, in the order of the file."""


@dataclass(frozen=True)
class SheetSpec:
    """Which axes the sheet's rows and columns run over, and whether cells are named by concepts."""

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    concepts: bool = False


@dataclass(frozen=True)
class Recipe:
    """What to do to a network and what to ask of it; see README, "The recipe format"."""

    name: str
    edits: tuple[EditSpec, ...] = ()
    axes: tuple[Axis, ...] = ()
    about: str = ""
    model: str = "bundled"
    revision: str | None = None
    dtype: str = "auto"
    compile: bool = False
    component: str | None = None
    clip: str | None = None
    vocabulary: tuple[str, ...] | None = None
    prompts: tuple[str, ...] = ("a cat in a party hat",)
    seeds: tuple[int, ...] = (0,)
    noise_floor: int | None = None
    perturbation_seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)
    zipped: tuple[tuple[str, ...], ...] = ()
    sheet: SheetSpec | None = None
    source: str = field(default="", compare=False, repr=False)

    @classmethod
    def load(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
        """Read a recipe file. Raises `RecipeError` with all mistakes, `OSError` when unreadable."""
        return read(Path(path), overrides).get()

    @classmethod
    def build(cls, data: Mapping[str, Any]) -> Recipe:
        """A recipe from plain objects, as strict as a file. Raises `RecipeError`."""
        try:
            text = yaml.safe_dump(dict(data), sort_keys=False)
        except yaml.representer.RepresenterError as error:
            what = error.args[-1]
            raise RecipeError(
                [Problem(f"`{what!r}` is no text, number, list or mapping")]
            ) from error
        return parse(text, None).get()


@dataclass(frozen=True)
class Draft:
    """A recipe as read: the recipe, unless it is wrong; its mistakes; where its selectors stand."""

    recipe: Recipe | None
    problems: tuple[Problem, ...]
    selectors: tuple[Selected, ...]
    model: str
    revision: str | None
    component: str | None
    schedulers: tuple[tuple[str, Problem], ...]  # the problem to report, but for its message
    checkpoints: tuple[tuple[str, str | None, Problem], ...]
    lines: Mapping[str, int]  # of each key, as `Problem.key` writes it
    file: str | None
    overridden: tuple[str, ...]  # keys that did not come from the file

    def locate(self, problem: Problem) -> Problem:
        """The same problem with the line on which its key, or the nearest above it, stands."""
        if any(f"{problem.key}.".startswith((f"{k}.", f"{k}[")) for k in self.overridden):
            return replace(problem, key=f"--set {problem.key}")
        key = problem.key
        while key and key not in self.lines:
            key = key[: max(key.rfind("."), key.rfind("["), 0)]
        return replace(problem, file=self.file, line=self.lines.get(key))

    def get(self) -> Recipe:
        if self.problems or self.recipe is None:
            raise RecipeError(self.problems)
        return self.recipe


def read(path: Path, overrides: Mapping[str, Any] | None = None) -> Draft:
    """Read a recipe file as far as it can be read. Raises `OSError` when the file cannot."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([Problem("is no text in UTF-8", file=str(path))]) from error
    return parse(text, str(path), overrides)


def parse(text: str, file: str | None, overrides: Mapping[str, Any] | None = None) -> Draft:
    """Read a recipe's text; `overrides` maps dotted keys (`sampling.width`) to values."""
    reader = _Reader(file)
    data = reader.load(text)
    for key, value in (overrides or {}).items():
        reader.override(data, key, value)
    recipe = reader.recipe(data, text)
    top = data if isinstance(data, dict) else {}

    def word(key: str) -> str | None:
        return top[key] if isinstance(top.get(key), str) else None

    return Draft(
        recipe=None if reader.problems else recipe,
        problems=in_order(reader.problems),
        selectors=tuple(reader.selectors),
        model=word("model") or "bundled",
        revision=word("revision"),
        component=word("component"),
        schedulers=tuple(reader.schedulers),
        checkpoints=tuple(reader.checkpoints),
        lines={written(path): line for path, line in reader.lines.items()},
        file=file,
        overridden=tuple(written(path) for path in reader.overridden),
    )


class _Reader(EditReader):
    """Turns a recipe's text into a `Recipe`."""

    def recipe(self, data: Any, source: str) -> Recipe | None:
        if data is None:  # not even YAML: said already
            return None
        if not isinstance(data, dict) or not data:
            what = kind_of(data) if data else "an empty file"
            self.wrong((), f"a recipe is a mapping that begins `version: {VERSION}`, not {what}")
            return None
        top = self.mapping(data, (), TOP_LEVEL)
        made = Recipe(name=self._name(top), source=source)
        if "version" not in top:
            self.wrong((), f"`version: {VERSION}` is missing")
        elif top["version"] != VERSION or isinstance(top["version"], bool):
            self.wrong(("version",), f"must be {VERSION}, the version of this recipe format,"
                       f" not {kind_of(top['version'])}")  # fmt: skip
        for key in ("about", "model", "revision", "component", "clip"):
            if key in top:
                changes: dict[str, Any] = {key: self.text(top[key], (key,))}
                made = replace(made, **changes)
        if "dtype" in top:
            made = replace(made, dtype=self.choice(top["dtype"], ("dtype",), DTYPES))
        if "compile" in top:
            made = replace(made, compile=self.truth(top["compile"], ("compile",)))
        if "perturbation_seed" in top:
            seed = self.integer(top["perturbation_seed"], ("perturbation_seed",))
            made = replace(made, perturbation_seed=seed)
        if "prompts" in top:
            found = self.items(top["prompts"], ("prompts",), "prompts")
            prompts = tuple(self.text(p, ("prompts", i)) for i, p in enumerate(found))
            self.distinct(found, ("prompts",))
            made = replace(made, prompts=prompts)
        if "seeds" in top:
            found = self.items(top["seeds"], ("seeds",), "whole numbers")
            seeds = tuple(self.integer(s, ("seeds", i)) for i, s in enumerate(found))
            self.distinct(found, ("seeds",))
            made = replace(made, seeds=seeds)
        if "vocabulary" in top:
            words = self.items(top["vocabulary"], ("vocabulary",), "words")
            texts = tuple(self.text(w, ("vocabulary", i)) for i, w in enumerate(words))
            self.distinct(words, ("vocabulary",))
            made = replace(made, vocabulary=texts)
        if "noise_floor" in top:
            count = self.integer(top["noise_floor"], ("noise_floor",), least=2)
            made = replace(made, noise_floor=count)
        if "sampling" in top:
            made = replace(made, sampling=self.sampling(top["sampling"]))
        axes = self.axes(top.get("axes", {}))
        made = replace(made, axes=axes, edits=self.edits(top.get("edits", [])))
        made = replace(made, zipped=self._zipped(top.get("zip", []), made))
        if "sheet" in top:
            made = replace(made, sheet=self._sheet(top["sheet"], made))
        self._references(made, top)
        self._of_outputs(made)
        if made.compile and any(edit.where == "output" for edit in made.edits):
            self.wrong(("compile",), "does not go with `where: output`: a compiled network gives"
                       " nothing on the way")  # fmt: skip
        return made

    def _name(self, top: dict[str, Any]) -> str:
        if "name" not in top:
            self.wrong((), "`name` is missing; the run's folder is named by it")
            return ""
        name = self.text(top["name"], ("name",))
        if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            self.wrong(("name",), f"`{name}` cannot name a folder; use letters, digits, `-`, `_`"
                       " and `.`, beginning with a letter or digit")  # fmt: skip
        return name

    # ------------------------------------------------------------ what refers to axes

    def _zipped(self, value: Any, recipe: Recipe) -> tuple[tuple[str, ...], ...]:
        if value == []:
            return ()
        found = self.items(value, ("zip",), "axis names")
        nested = found if any(isinstance(v, list) for v in found) else [found]
        if not all(isinstance(group, list) for group in nested):
            self.wrong(("zip",), "must be a list of axis names, or a list of such lists")
            return ()
        lengths = {"prompt": len(recipe.prompts), "seed": len(recipe.seeds)}
        lengths |= {a.name: len(a.values) for a in recipe.axes}
        unknown = {a.name for a in recipe.axes if a.size is None}  # until a network is known
        names = list(lengths)
        zipped = []
        for group in nested:
            for name in group:
                if name not in names:
                    self.wrong(("zip",), _no_axis(name, names))
            if len(group) < 2:
                self.wrong(("zip",), "pairs axes; name at least two")
            sized = {n: c for n, c in lengths.items() if n in group and n not in unknown}
            if len(set(sized.values())) > 1:
                counts = ", ".join(f"`{n}` has {c}" for n, c in sized.items())
                self.wrong(("zip",), f"axes of different length cannot be paired: {counts}")
            zipped.append(tuple(str(n) for n in group))
        flat = [n for g in zipped for n in g]
        for name in sorted({n for n in flat if flat.count(n) > 1}):
            self.wrong(("zip",), f"`{name}` is zipped twice")
        return tuple(zipped)

    def _sheet(self, value: Any, recipe: Recipe) -> SheetSpec:
        body = self.mapping(value, ("sheet",), ("rows", "columns", "concepts"))
        known = list(dict.fromkeys([*planes(recipe.axes), "prompt", "seed"]))
        found: dict[str, tuple[str, ...]] = {}
        for key in ("rows", "columns"):
            given = body.get(key, [])
            names = [given] if isinstance(given, str) else given
            if not isinstance(names, list):
                self.wrong(
                    ("sheet", key), f"must be an axis or a list of axes, not {kind_of(given)}"
                )
                continue
            for name in names:
                if name not in known:
                    self.wrong(("sheet", key), _no_axis(name, known))
                elif name in found.get("rows", ()) or names.count(name) > 1:
                    self.wrong(("sheet", key), f"axis `{name}` is used twice")
            found[key] = tuple(str(n) for n in names)
        concepts = self.truth(body.get("concepts", False), ("sheet", "concepts"))
        return SheetSpec(**found, concepts=concepts)

    def _references(self, recipe: Recipe, top: dict[str, Any]) -> None:
        axes = {a.name: a for a in recipe.axes}
        used: set[str] = set()
        for path, name in _mentions(top.get("edits"), ("edits",)):
            first = name not in used
            used.add(name)
            if name not in axes:
                self.wrong(path, _no_axis(name, axes))
            elif axes[name].form == "embedding":
                self.wrong(path, f"axis `{name}` holds points of embedding space, which are no"
                           " part of an edit; every edit is made at each of them")  # fmt: skip
            elif len(path) >= 4:
                self._fitting(axes[name], path, first)
        used |= self._spaces(recipe, top)
        for axis in recipe.axes:
            if isinstance(axis.seed, Ref):
                used.add(axis.seed.axis)
                self._seeding(axis, axes)
        for name in axes:
            if name in ("prompt", "seed") and f"{name}s" in top:
                self.wrong(("axes", name), f"stands beside `{name}s`; keep one of the two")
            if name not in used and name not in (*CONDITION_AXES, "perturbation_seed"):
                self.wrong(("axes", name), f"no edit uses this axis; write `${name}` where it goes")
        if not recipe.edits and not recipe.axes and not self.problems:
            self.wrong((), "an empty sweep: there are neither `edits` nor `axes`; an edit is, for"
                       ' example, `zero: {modules: "*"}`')  # fmt: skip

    def _spaces(self, recipe: Recipe, top: dict[str, Any]) -> set[str]:
        """Axes of points of embedding space, and those whose prompts they refer to."""
        found = [a for a in recipe.axes if a.form == "embedding"]
        for axis in found[1:]:
            self.wrong(("axes", axis.name), f"a cell is at one point of embedding space, and"
                       f" `{found[0].name}` gives one already")  # fmt: skip
        axes = {a.name: a for a in recipe.axes}
        refs = {(a.name, p.axis) for a in found for s in a.spaces for p in s.prompts
                if isinstance(p, Ref)}  # fmt: skip
        for name, ref in sorted(refs):
            if ref == "prompt" and ref not in axes:
                continue
            if ref not in axes:
                self.wrong(("axes", name, "embedding"), _no_axis(ref, [*axes, "prompt"]))
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
            self.wrong(path, _no_axis(name, axes))
        elif axes[name].form != "values":
            self.wrong(path, f"axis `{name}` holds modules; a seed is a whole number")
        else:
            for i, value in enumerate(axes[name].values):
                self.integer(value, ("axes", name, "values", i))

    def _fitting(self, axis: Axis, path: KeyPath, first: bool) -> None:
        """An axis that an edit refers to: whether its values are of the kind that goes there."""
        op, key = OPS.get(str(path[2])), str(path[3])
        wanted = {"modules": "modules", "when": "windows"}.get(key, "plain values")
        wanted = "plain values" if len(path) > 4 else wanted
        held = "modules" if axis.of_modules else axis.form
        if op is None or (key in ("params", "component", "where", "with", "over")):
            return
        if wanted == "modules" and axis.form == "values":
            for i, value in enumerate(axis.values if first else ()):
                self.selector(value, ("axes", axis.name, "values", i))
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
            case (key,) if key == op.kind_key and op.kinds:
                self.choice(value, inner, op.kinds)
            case (key,):
                before = len(self.problems)
                number = self.number(value, inner)
                if len(self.problems) == before:
                    self.strong(op, str(key), number, inner)

    def _of_outputs(self, recipe: Recipe) -> None:
        """Axes that edits of outputs use, and no others, may hold blocks."""
        users: dict[str, set[str]] = {}
        for edit in recipe.edits:
            if isinstance(edit.modules, Ref):
                users.setdefault(edit.modules.axis, set()).add(edit.where)
        for i, chosen in enumerate(self.selectors):
            key = chosen.place.key.removeprefix("--set ")
            axis = key.removeprefix("axes.").partition(".")[0] if key.startswith("axes.") else ""
            if users.get(axis) == {"output"}:
                self.selectors[i] = replace(chosen, blocks=True)


def planes(axes: Iterable[Axis]) -> tuple[str, ...]:
    """The names of axes as a plan has them: a plane is an axis for each of its dimensions."""
    names: list[str] = []
    for axis in axes:
        plane = next((s for s in axis.spaces if s.form == "plane"), None)
        if plane is None:
            names.append(axis.name)
        else:
            names += [f"{axis.name}.zoom"] * bool(plane.zoom)
            names += [f"{axis.name}.v", f"{axis.name}.u"]
    return tuple(names)


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


def _no_axis(name: object, known: Iterable[str]) -> str:
    there = f"; there are {', '.join(known)}" if known else "; define it under `axes`"
    return f"there is no axis `{name}`{did_you_mean(str(name), known) or there}"
