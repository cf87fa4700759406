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

from ablate.edits import CodeError, load_code
from ablate.models import OFFLOADS, Lora, Source
from ablate.recipe.axes import Axis, Selected
from ablate.recipe.document import DocumentError, KeyPath, Problem, in_order, kind_of, written
from ablate.recipe.edits import EditSpec
from ablate.recipe.references import ReferenceReader, no_axis
from ablate.sampling import Sampling

VERSION = 1
TOP_LEVEL = (
    "version", "name", "about", "model", "revision", "variant", "config", "lora", "offload",
    "dtype", "compile", "component", "ops", "clip", "vocabulary", "prompts", "seeds", "noise_floor",
    "perturbation_seed", "sampling", "axes", "zip", "edits", "sheet",
)  # fmt: skip
LORA_KEYS = ("model", "weight_name", "scale", "revision")
DTYPES = ("auto", "float32", "float16", "bfloat16")


class RecipeError(DocumentError):
    """A recipe that is wrong; `problems` are all of its mistakes, in the order of the file."""

    def report(self) -> str:
        count = len(self.problems)
        return f"{self}\n{count} problem{'s' * (count != 1)}"


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
    variant: str | None = None
    config: str | None = None
    lora: tuple[Lora, ...] = ()
    offload: str | None = None
    dtype: str = "auto"
    compile: bool = False
    component: str | None = None
    ops: str | None = None
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
    def load(
        cls,
        path: str | Path,
        overrides: Mapping[str, Any] | None = None,
        *,
        allow_code: bool = False,
    ) -> Recipe:
        """Read a recipe file. Raises `RecipeError` with all mistakes, `OSError` when unreadable.

        `allow_code`: execute the file of ops that it names, if it does.
        """
        return read_recipe(Path(path), overrides, allow_code=allow_code).get()

    @classmethod
    def build(cls, data: Mapping[str, Any], *, allow_code: bool = False) -> Recipe:
        """A recipe from plain objects, as strict as a file. Raises `RecipeError`."""
        try:
            text = yaml.safe_dump(dict(data), sort_keys=False)
        except yaml.representer.RepresenterError as error:
            what = error.args[-1]
            raise RecipeError(
                [Problem(f"`{what!r}` is no text, number, list or mapping")]
            ) from error
        return parse_recipe(text, None, allow_code=allow_code).get()


@dataclass(frozen=True)
class Draft:
    """A recipe as read: the recipe, unless it is wrong; its mistakes; where its selectors stand.

    `sketch`: the recipe as far as it could be read, wrong or not; None where it is not even YAML.
    """

    recipe: Recipe | None
    sketch: Recipe | None
    problems: tuple[Problem, ...]
    selectors: tuple[Selected, ...]
    origin: Source  # of the network, as far as its modules depend on it
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


def read_recipe(
    path: Path, overrides: Mapping[str, Any] | None = None, *, allow_code: bool = False
) -> Draft:
    """Read a recipe file as far as it can be read. Raises `OSError` when the file cannot."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError([Problem("is no text in UTF-8", file=str(path))]) from error
    return parse_recipe(text, str(path), overrides, allow_code=allow_code)


def parse_recipe(
    text: str,
    file: str | None,
    overrides: Mapping[str, Any] | None = None,
    *,
    allow_code: bool = False,
) -> Draft:
    """Read a recipe's text; `overrides` maps dotted keys (`sampling.width`) to values."""
    reader = _Reader(file)
    reader.allow_code = allow_code
    data = reader.load(text)
    for key, value in (overrides or {}).items():
        reader.override(data, key, value)
    recipe = reader.recipe(data, text)
    top = data if isinstance(data, dict) else {}

    def word(key: str) -> str | None:
        return top[key] if isinstance(top.get(key), str) else None

    return Draft(
        recipe=None if reader.problems else recipe,
        sketch=recipe,
        problems=in_order(reader.problems),
        selectors=tuple(reader.selectors),
        origin=Source(word("model") or "bundled", word("revision"), config=word("config")),
        component=word("component"),
        schedulers=tuple(reader.schedulers),
        checkpoints=tuple(reader.checkpoints),
        lines={written(path): line for path, line in reader.lines.items()},
        file=file,
        overridden=tuple(written(path) for path in reader.overridden),
    )


class _Reader(ReferenceReader):
    """Turns a recipe's text into a `Recipe`.

    `allow_code`: whether the file of ops that it names may be executed.
    """

    allow_code = False

    def recipe(self, data: Any, source: str) -> Recipe | None:
        if data is None:  # not even YAML: said already
            return None
        if not isinstance(data, dict) or not data:
            what = kind_of(data) if data else "an empty file"
            self.wrong((), f"a recipe is a mapping that begins `version: {VERSION}`, not {what}")
            return None
        top = self.mapping(data, (), TOP_LEVEL)
        made = Recipe(name=self._name(top), source=source)
        if "ops" in top:
            made = replace(made, ops=self._code(top["ops"]))
        if "version" not in top:
            self.wrong((), f"`version: {VERSION}` is missing")
        elif top["version"] != VERSION or isinstance(top["version"], bool):
            self.wrong(("version",), f"must be {VERSION}, the version of this recipe format,"
                       f" not {kind_of(top['version'])}")  # fmt: skip
        for key in ("about", "model", "revision", "variant", "config", "component", "clip"):
            if key in top:
                changes: dict[str, Any] = {key: self.text(top[key], (key,))}
                made = replace(made, **changes)
        if made.config is not None and not made.model.endswith(".safetensors"):
            self.wrong(("config",), "describes a model that is one .safetensors file;"
                       f" `{made.model}` has a configuration of its own")  # fmt: skip
        if "lora" in top:
            found = self.items(top["lora"], ("lora",), "LoRAs")
            loras = tuple(self._lora(item, ("lora", i)) for i, item in enumerate(found))
            made = replace(made, lora=loras)
        if "offload" in top:
            made = replace(made, offload=self.choice(top["offload"], ("offload",), OFFLOADS))
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
        self.references(made.axes, made.edits, top)
        self.of_outputs(made.edits)
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

    def _lora(self, value: Any, path: KeyPath) -> Lora:
        """A LoRA by name alone, or with what else there is to say of it."""
        if isinstance(value, str):
            return Lora(value)
        body = self.mapping(value, path, LORA_KEYS)
        if isinstance(value, dict) and "model" not in body:
            self.wrong(path, "`model` is missing: a safetensors file, a folder or a hub id")
        texts = {
            key: self.text(body[key], (*path, key))
            for key in ("model", "weight_name", "revision")
            if key in body
        }
        scale = self.number(body.get("scale", 1.0), (*path, "scale"))
        return Lora(**({"model": ""} | texts), scale=float(scale))

    def _code(self, value: Any) -> str:
        """Ops of the user's own: the file that defines them, beside the recipe's."""
        name = self.text(value, ("ops",))
        if not self.allow_code:
            self.wrong(("ops",), f"names code, `{name}`; look at it, and allow it to run with"
                       " `--allow-code`, or `allow_code=True` in Python")  # fmt: skip
            self.lacks_ops = True
            return name
        try:
            load_code(Path(self.file or "").parent / name)
        except CodeError as error:
            self.wrong(("ops",), str(error))
            self.lacks_ops = True
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
                    self.wrong(("zip",), no_axis(name, names))
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
                    self.wrong(("sheet", key), no_axis(name, known))
                elif name in found.get("rows", ()) or names.count(name) > 1:
                    self.wrong(("sheet", key), f"axis `{name}` is used twice")
            found[key] = tuple(str(n) for n in names)
        concepts = self.truth(body.get("concepts", False), ("sheet", "concepts"))
        return SheetSpec(**found, concepts=concepts)


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
