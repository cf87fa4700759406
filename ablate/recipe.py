"""Recipes: strict YAML to a frozen `Recipe`; every mistake is one sentence with file, line, key.

    recipe = Recipe.load("recipes/quickstart.yaml")
    recipe = Recipe.build({"version": 1, "name": "mine", "edits": [{"zero": {"modules": "*"}}]})

Reading knows nothing of networks: whether selectors match is for `ablate.plan` to say.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from ablate.catalog import FIELDS, Selector, SelectorError, did_you_mean, matcher
from ablate.document import Document, DocumentError, KeyPath, Problem, kind_of, written
from ablate.ops import DISTRIBUTIONS, OPS

VERSION = 1
Order = Literal["network", "reverse", "random", "drift"]
ORDERS: tuple[Order, ...] = ("network", "reverse", "random", "drift")
GROUPINGS = FIELDS[::-1]
TOP_LEVEL = (
    "version", "name", "about", "model", "revision", "dtype", "component", "prompts", "seeds",
    "perturbation_seed", "sampling", "axes", "zip", "edits", "sheet",
)  # fmt: skip
DTYPES = ("auto", "float32", "float16", "bfloat16")
AXIS_FORMS = ("values", "range", "linspace", "geomspace", "each", "group", "cumulative")
CUMULATIVE = ("modules", "order", "seed", "counts", "run")


class RecipeError(DocumentError):
    """A recipe that is wrong; `problems` are all of its mistakes, in the order of the file."""


@dataclass(frozen=True)
class Sampling:
    """How images are sampled. `scheduler` None: the model's own. Sizes in pixels, None: its own."""

    num_inference_steps: int = 20
    guidance_scale: float = 5.0
    scheduler: str | None = None
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None


SAMPLING = tuple(f.name for f in fields(Sampling))
CONDITION_AXES = ("prompt", "seed", *SAMPLING)


@dataclass(frozen=True)
class Ref:
    """`$name` in a recipe: the value of an axis."""

    axis: str


@dataclass(frozen=True)
class Axis:
    """An axis as the recipe gives it.

    `form` is `values`, with the values; or `each`, `group` or `cumulative`, with a selector whose
    modules are known only beside a network.
    """

    name: str
    form: Literal["values", "each", "group", "cumulative"]
    values: tuple[Any, ...] = ()
    modules: Selector = "*"
    by: str = "stage"
    order: Order = "network"
    seed: int | Ref = 0
    counts: tuple[int, ...] | None = None
    run: str | None = None


@dataclass(frozen=True)
class EditSpec:
    """An edit as the recipe gives it: values may be references to axes."""

    op: str
    modules: Selector | Ref
    strength: float | Ref | None = None
    params: str | None = None
    distribution: str | Ref | None = None

    def references(self) -> set[str]:
        parts = (self.modules, self.strength, self.distribution)
        return {p.axis for p in parts if isinstance(p, Ref)}


@dataclass(frozen=True)
class SheetSpec:
    """Which axes the sheet's rows and columns run over."""

    rows: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


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
    component: str | None = None
    prompts: tuple[str, ...] = ("a cat in a party hat",)
    seeds: tuple[int, ...] = (0,)
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
        return parse(yaml.safe_dump(dict(data), sort_keys=False), None).get()


@dataclass(frozen=True)
class Draft:
    """A recipe as read: the recipe, unless it is wrong; its mistakes; where its selectors stand."""

    recipe: Recipe | None
    problems: tuple[Problem, ...]
    selectors: tuple[tuple[Selector, Problem], ...]  # the problem to report, but for its message
    model: str
    revision: str | None
    component: str | None
    schedulers: tuple[tuple[str, Problem], ...]
    lines: Mapping[str, int]  # of each key, as `Problem.key` writes it
    file: str | None

    def locate(self, problem: Problem) -> Problem:
        """The same problem with the line on which its key, or the nearest above it, stands."""
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
    return parse(path.read_text(encoding="utf-8"), str(path), overrides)


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
        problems=tuple(sorted(reader.problems, key=lambda p: p.line or 0)),
        selectors=tuple(reader.selectors),
        model=word("model") or "bundled",
        revision=word("revision"),
        component=word("component"),
        schedulers=tuple(reader.schedulers),
        lines={written(path): line for path, line in reader.lines.items()},
        file=file,
    )


class _Reader(Document):
    """Turns a recipe's text into a `Recipe`."""

    def __init__(self, file: str | None) -> None:
        super().__init__(file)
        self.selectors: list[tuple[Selector, Problem]] = []
        self.schedulers: list[tuple[str, Problem]] = []

    def selector(self, value: Any, path: KeyPath) -> Selector:
        if isinstance(value, str | list | dict) and value:
            try:
                for text in _strings(value):
                    matcher(text)
            except SelectorError as error:
                self.wrong(path, str(error))
                return "*"
            self.selectors.append((value, self.at(path)))
            return value
        self.wrong(path, f"must be a selector (text, a list or a mapping), not {kind_of(value)}")
        return "*"

    # ------------------------------------------------------------ the recipe

    def recipe(self, data: Any, source: str) -> Recipe | None:
        if data is None:  # not even YAML: said already
            return None
        top = self.mapping(data, (), TOP_LEVEL)
        if not isinstance(data, dict):
            return None
        made = Recipe(name=self._name(top), source=source)
        if "version" not in top:
            self.wrong((), f"`version: {VERSION}` is missing")
        elif top["version"] != VERSION or isinstance(top["version"], bool):
            self.wrong(("version",), f"must be {VERSION}, the version of this recipe format,"
                       f" not {kind_of(top['version'])}")  # fmt: skip
        for key in ("about", "model", "revision", "component"):
            if key in top:
                changes: dict[str, Any] = {key: self.text(top[key], (key,))}
                made = replace(made, **changes)
        if "dtype" in top:
            made = replace(made, dtype=self.choice(top["dtype"], ("dtype",), DTYPES))
        if "perturbation_seed" in top:
            seed = self.integer(top["perturbation_seed"], ("perturbation_seed",))
            made = replace(made, perturbation_seed=seed)
        if "prompts" in top:
            found = self.items(top["prompts"], ("prompts",), "prompts")
            prompts = tuple(self.text(p, ("prompts", i)) for i, p in enumerate(found))
            self._distinct(prompts, ("prompts",))
            made = replace(made, prompts=prompts)
        if "seeds" in top:
            found = self.items(top["seeds"], ("seeds",), "whole numbers")
            seeds = tuple(self.integer(s, ("seeds", i)) for i, s in enumerate(found))
            self._distinct(seeds, ("seeds",))
            made = replace(made, seeds=seeds)
        if "sampling" in top:
            made = replace(made, sampling=self._sampling(top["sampling"]))
        axes = self._axes(top.get("axes", {}))
        made = replace(made, axes=axes, edits=self._edits(top.get("edits", [])))
        made = replace(made, zipped=self._zipped(top.get("zip", []), made))
        if "sheet" in top:
            made = replace(made, sheet=self._sheet(top["sheet"], made))
        self._references(made, top)
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

    def _distinct(self, values: Sequence[Any], path: KeyPath) -> None:
        for i, value in enumerate(values):
            if value in values[:i]:
                self.wrong((*path, i), f"`{value}` stands twice")

    def _sampling(self, value: Any) -> Sampling:
        path: KeyPath = ("sampling",)
        given = {k: v for k, v in self.mapping(value, path, SAMPLING).items() if k in SAMPLING}
        return Sampling(**{k: self._sampling_value(k, v, (*path, k)) for k, v in given.items()})

    def _sampling_value(self, key: str, value: Any, path: KeyPath) -> Any:
        match key:
            case "num_inference_steps":
                return self.integer(value, path, least=1)
            case "guidance_scale":
                return float(self.number(value, path))
            case "width" | "height":
                if self.integer(value, path, least=8) % 8:
                    self.wrong(path, f"must be a multiple of 8, not {value}")
                return value
            case "scheduler":
                name = self.text(value, path)
                self.schedulers.append((name, self.at(path)))
                return name
        return self.text(value, path)

    # ------------------------------------------------------------ axes

    def _axes(self, value: Any) -> tuple[Axis, ...]:
        if not isinstance(value, dict):
            self.wrong(("axes",), f"must be a mapping from names to axes, not {kind_of(value)}")
            return ()
        axes = []
        for name, body in value.items():
            path: KeyPath = ("axes", name)
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                self.wrong(path, "an axis is named by letters, digits and `_`")
            axes.append(self._axis(name, body, path))
        return tuple(axes)

    def _axis(self, name: str, value: Any, path: KeyPath) -> Axis:
        if isinstance(value, list):
            self.wrong(path, "an axis is a mapping; write `{values: [...]}`")
            return Axis(name, "values")
        body = self.mapping(value, path, (*AXIS_FORMS, "step"))
        forms = [f for f in AXIS_FORMS if f in body]
        if len(forms) != 1 or not isinstance(value, dict):
            if isinstance(value, dict):
                has = f"has {' and '.join(forms)}" if forms else "has none"
                self.wrong(path, f"an axis has exactly one of {', '.join(AXIS_FORMS)}; this {has}")
            return Axis(name, "values")
        form = forms[0]
        inner = (*path, form)
        if "step" in body and form != "range":
            self.wrong((*path, "step"), f"`step` goes with `range`, not with `{form}`")
        match form:
            case "each":
                return Axis(name, "each", modules=self.selector(body["each"], inner))
            case "group":
                group = self.mapping(body["group"], inner, ("modules", "by"))
                by = self.choice(group.get("by", "stage"), (*inner, "by"), GROUPINGS)
                chosen = self.selector(group.get("modules", "*"), (*inner, "modules"))
                return Axis(name, "group", modules=chosen, by=by)
            case "cumulative":
                return self._cumulative(name, body["cumulative"], inner)
        values = self._values(name, body, form, path)
        self._distinct(values, inner)
        return Axis(name, "values", values=values)

    def _values(self, name: str, body: dict[str, Any], form: str, path: KeyPath) -> tuple[Any, ...]:
        inner = (*path, form)
        if form == "values":
            found = self.items(body["values"], inner, "values")
            if name in SAMPLING:
                return tuple(
                    self._sampling_value(name, v, (*inner, i)) for i, v in enumerate(found)
                )
            for i, v in enumerate(found):
                if name == "prompt":
                    self.text(v, (*inner, i))
                elif name in ("seed", "perturbation_seed"):
                    self.integer(v, (*inner, i))
            return tuple(found)
        length = 2 if form == "range" else 3
        given = self.items(body[form], inner, f"{length} numbers")
        numbers = [self.number(v, (*inner, i)) for i, v in enumerate(given)]
        if len(numbers) != length:
            shape = "[first, last]" if form == "range" else "[first, last, count]"
            if given:
                self.wrong(inner, f"must be {shape}, not {len(numbers)} numbers")
            return ()
        first, last = numbers[:2]
        if form == "range":
            if "step" not in body:
                self.wrong(path, "`range` needs a `step`")
                return ()
            step = abs(self.number(body["step"], (*path, "step")))
            if not step:
                self.wrong((*path, "step"), "must not be 0")
                return ()
            count = math.floor(abs(last - first) / step + 1e-9) + 1
            step = math.copysign(step, last - first)
            values = [first + i * step for i in range(count)]
        else:
            count = self.integer(numbers[2], (*inner, 2), least=1)
            shares = [i / max(count - 1, 1) for i in range(count)]
            if form == "geomspace":
                if first * last <= 0:
                    self.wrong(inner, "geomspace needs two numbers of one sign, neither 0")
                    return ()
                values = [first * (last / first) ** s for s in shares]
            else:
                values = [first + (last - first) * s for s in shares]
        whole = all(isinstance(v, int) or float(v).is_integer() for v in values)
        needs_whole = name in ("seed", "perturbation_seed", "num_inference_steps", "width",
                               "height")  # fmt: skip
        if whole and (needs_whole or all(isinstance(n, int) for n in (first, last))):
            return tuple(round(v) for v in values)
        if needs_whole:
            self.wrong(inner, f"gives values that are no whole numbers, as `{name}` needs")
        # Ten digits: 0.1 + 0.2 is 0.3 to whoever wrote the recipe.
        return tuple(float(f"{v:.10g}") for v in values)

    def _cumulative(self, name: str, value: Any, path: KeyPath) -> Axis:
        body = self.mapping(value, path, CUMULATIVE)
        order = self.choice(body.get("order", "network"), (*path, "order"), ORDERS)
        seed = self._or_ref(body.get("seed", 0))
        if not isinstance(seed, Ref):
            seed = self.integer(seed, (*path, "seed"))
        counts: tuple[int, ...] | None = None
        if isinstance(body.get("counts"), dict):
            body_counts = self.mapping(body["counts"], (*path, "counts"),
                                       (*AXIS_FORMS[:4], "step"))  # fmt: skip
            form = next((f for f in AXIS_FORMS[:4] if f in body_counts), None)
            if form is not None:
                numbers = self._values("counts", body_counts, form, (*path, "counts"))
                counts = tuple(dict.fromkeys(round(n) for n in numbers))
        elif "counts" in body:
            found = self.items(body["counts"], (*path, "counts"), "whole numbers")
            counts = tuple(self.integer(c, (*path, "counts", i)) for i, c in enumerate(found))
            self._distinct(counts, (*path, "counts"))
        run = self.text(body["run"], (*path, "run")) if "run" in body else None
        if order == "drift" and run is None:
            self.wrong(path, "`order: drift` needs `run:`, the folder of a run in which each"
                       " module was edited in turn")  # fmt: skip
        if order != "drift" and run is not None:
            self.wrong((*path, "run"), "`run` goes with `order: drift`")
        return Axis(
            name,
            "cumulative",
            modules=self.selector(body.get("modules", "*"), (*path, "modules")),
            order=next(o for o in ORDERS if o == order),
            seed=seed,
            counts=counts,
            run=run,
        )

    # ------------------------------------------------------------ edits

    def _or_ref(self, value: Any) -> Any:
        return Ref(value[1:]) if isinstance(value, str) and value.startswith("$") else value

    def _edits(self, value: Any) -> tuple[EditSpec, ...]:
        if not isinstance(value, list):
            self.wrong(("edits",), f"must be a list of edits, not {kind_of(value)}")
            return ()
        return tuple(e for i, v in enumerate(value) if (e := self._edit(v, ("edits", i))))

    def _edit(self, value: Any, path: KeyPath) -> EditSpec | None:
        if not isinstance(value, dict) or len(value) != 1:
            self.wrong(path, 'an edit is one op with its settings, as in `zero: {modules: "*"}`')
            return None
        name, body = next(iter(value.items()))
        path = (*path, name)
        if name not in OPS:
            self.wrong(path, f"unknown op{did_you_mean(name, OPS) or f'; known: {_known_ops()}'}")
            return None
        op = OPS[name]
        known = ["modules", "params"]
        known += [op.strength] if op.strength else []
        known += ["distribution"] if op.has_distribution else []
        body = self.mapping(body, path, known)
        modules = self._or_ref(body.get("modules"))
        if "modules" not in body:
            self.wrong(path, '`modules` is missing; `"*"` selects all')
        elif not isinstance(modules, Ref):
            modules = self.selector(modules, (*path, "modules"))
        strength: float | Ref | None = None
        if op.strength:
            if op.strength not in body:
                self.wrong(path, f"`{op.strength}` is missing; `{name}` needs it")
            else:
                given = self._or_ref(body[op.strength])
                inner = (*path, op.strength)
                strength = given if isinstance(given, Ref) else float(self.number(given, inner))
        params = None
        if "params" in body:
            params = self.choice(body["params"], (*path, "params"), ("weight", "bias"))
        distribution = self._or_ref(body.get("distribution"))
        if distribution is not None and not isinstance(distribution, Ref):
            distribution = self.choice(distribution, (*path, "distribution"), DISTRIBUTIONS)
        return EditSpec(name, modules or "*", strength, params, distribution)

    # ------------------------------------------------------------ what refers to axes

    def _zipped(self, value: Any, recipe: Recipe) -> tuple[tuple[str, ...], ...]:
        if value == []:
            return ()
        found = self.items(value, ("zip",), "axis names")
        nested = found if any(isinstance(v, list) for v in found) else [found]
        names = [a.name for a in recipe.axes]
        zipped = []
        for group in nested:
            for name in group:
                if name not in names:
                    self.wrong(("zip",), f"there is no axis `{name}`{did_you_mean(name, names)}")
            if len(group) < 2:
                self.wrong(("zip",), "needs at least two axes")
            sized = {a.name: len(a.values) for a in recipe.axes
                     if a.name in group and a.form == "values"}  # fmt: skip
            if len(set(sized.values())) > 1:
                lengths = ", ".join(f"{n} has {c}" for n, c in sized.items())
                self.wrong(("zip",), f"axes of different length cannot be paired: {lengths}")
            zipped.append(tuple(str(n) for n in group))
        flat = [n for g in zipped for n in g]
        for name in sorted({n for n in flat if flat.count(n) > 1}):
            self.wrong(("zip",), f"`{name}` is zipped twice")
        return tuple(zipped)

    def _sheet(self, value: Any, recipe: Recipe) -> SheetSpec:
        body = self.mapping(value, ("sheet",), ("rows", "columns"))
        known = [*(a.name for a in recipe.axes), "prompt", "seed"]
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
                    hint = did_you_mean(name, known) or f"; there are {', '.join(known)}"
                    self.wrong(("sheet", key), f"there is no axis `{name}`{hint}")
                elif name in found.get("rows", ()) or names.count(name) > 1:
                    self.wrong(("sheet", key), f"axis `{name}` is used twice")
            found[key] = tuple(str(n) for n in names)
        return SheetSpec(**found)

    def _references(self, recipe: Recipe, top: dict[str, Any]) -> None:
        axes = {a.name: a for a in recipe.axes}
        used: set[str] = set()
        for i, spec in enumerate(recipe.edits):
            body = top["edits"][i][spec.op] if isinstance(top["edits"][i], dict) else {}
            for key, value in body.items() if isinstance(body, dict) else ():
                ref = self._or_ref(value)
                if not isinstance(ref, Ref):
                    continue
                path: KeyPath = ("edits", i, spec.op, key)
                used.add(ref.axis)
                if ref.axis not in axes:
                    hint = did_you_mean(ref.axis, axes)
                    self.wrong(path, f"there is no axis `{ref.axis}`{hint}")
                elif key == "modules" and axes[ref.axis].form == "values":
                    self._selectors_of(axes[ref.axis])
                elif key != "modules":
                    self._fitting(axes[ref.axis], key, path)
        for axis in recipe.axes:
            if isinstance(axis.seed, Ref):
                used.add(axis.seed.axis)
                if axis.seed.axis not in axes:
                    hint = did_you_mean(axis.seed.axis, axes)
                    self.wrong(("axes", axis.name, "cumulative", "seed"),
                               f"there is no axis `{axis.seed.axis}`{hint}")  # fmt: skip
        for name in axes:
            if name in ("prompt", "seed") and f"{name}s" in top:
                self.wrong(("axes", name), f"stands beside `{name}s`; keep one of the two")
            if name not in used and name not in (*CONDITION_AXES, "perturbation_seed"):
                self.wrong(("axes", name), f"no edit uses this axis; write `${name}` where it goes")
        if not recipe.edits and not recipe.axes and not self.problems:
            self.wrong((), "an empty sweep: there are neither `edits` nor `axes`")

    def _selectors_of(self, axis: Axis) -> None:
        for i, value in enumerate(axis.values):
            self.selector(value, ("axes", axis.name, "values", i))

    def _fitting(self, axis: Axis, key: str, path: KeyPath) -> None:
        if axis.form != "values":
            self.wrong(path, f"axis `{axis.name}` holds modules; `{key}` needs plain values")
            return
        for i, value in enumerate(axis.values):
            inner: KeyPath = ("axes", axis.name, "values", i)
            if key == "distribution":
                self.choice(value, inner, DISTRIBUTIONS)
            else:
                self.number(value, inner)


def _strings(selector: Any) -> Iterable[str]:
    """The selector strings in a selector, however deep they stand."""
    match selector:
        case str():
            yield selector
        case list():
            for item in selector:
                yield from _strings(item)
        case {"not": inner}:
            yield from _strings(inner)
        case {"sample": {"of": inner}}:
            yield from _strings(inner)
        case dict():
            raise SelectorError(
                f"a selector mapping is `not: S` or `sample: {{of: S, count: n, seed: s}}`,"
                f" not `{', '.join(map(str, selector))}`"
            )
        case _:
            raise SelectorError(f"a selector is text, a list or a mapping, not {kind_of(selector)}")


def _known_ops() -> str:
    return ", ".join(sorted(OPS))
