"""Edits as a recipe gives them: values may be references to axes, modules are selectors still.

`EditReader` reads them from a document and collects the mistakes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ablate.edits import OPS, Op, wrong_letters, wrong_strength
from ablate.messages import did_you_mean
from ablate.network import UNITS, Selector
from ablate.recipe.axes import AxisReader, WhenSpec
from ablate.recipe.document import KeyPath, kind_of, written
from ablate.recipe.spaces import MOST, Ref

PARAMS = ("weight", "bias")
RANKED = ("most", "least", "random")
CHOSEN = ("run", "order", "concept", "fraction", "count", "modules", "seed")  # keys of `units`
OF_AXES = ("order", "concept", "fraction", "count", "seed")  # those of them that may be axes


@dataclass(frozen=True)
class UnitSpec:
    """`unit:` as the recipe gives it: numbers of channels or heads, or an axis of them."""

    kind: str
    numbers: tuple[int, ...] | Ref


@dataclass(frozen=True)
class UnitsSpec:
    """`units:` as the recipe gives it: those that a study of units found, in an order of it.

    `run`: the study's folder. `order`: by class selectivity, or by how far a unit stands for
    `concept`; or drawn, from `seed`. `fraction` of each module's own units, or so many (`count`) of
    all modules together. `modules`: those of the study that are meant, None: all.
    """

    run: str
    order: str | Ref = "most"
    concept: str | Ref | None = None
    fraction: float | Ref | None = None
    count: int | Ref | None = None
    modules: Selector | None = None
    seed: int | Ref = 0


@dataclass(frozen=True)
class EditSpec:
    """An edit as the recipe gives it.

    `modules`: None where `units` stand in their place, and for edits of the finished picture.
    `partner`: what the op takes its values from: of `swap` a selector, of `blend` a model. `over`:
    prompts and seeds of the references, None where the recipe's own are meant. `text`: what is
    written. `key`: where it stands in the recipe, as `edits[0].zero`.
    """

    op: str
    modules: Selector | Ref | None = None
    strength: float | Ref | None = None
    params: str | None = None
    kind: str | Ref | None = None
    when: WhenSpec | Ref | None = None
    component: str | None = None
    where: str = "weights"
    unit: UnitSpec | None = None
    dose: float | Ref | None = None
    partner: Selector | None = None
    over: tuple[tuple[str, ...] | None, tuple[int, ...] | None] = (None, None)
    units: UnitsSpec | None = None
    text: str | Ref | None = None
    key: str = field(default="", compare=False, repr=False)

    @property
    def settings(self) -> Iterator[tuple[str, Any]]:
        """Its settings that may be references to axes, by their keys in the recipe."""
        op = OPS[self.op]
        yield from (("modules", self.modules), ("dose", self.dose), (op.kind_key, self.kind))
        yield from ((op.strength or "", self.strength), ("text", self.text))
        if isinstance(self.when, WhenSpec):
            yield from ((f"when.{self.when.by}", end) for end in (self.when.first, self.when.last))
        else:
            yield "when", self.when
        if self.unit is not None:
            yield f"unit.{self.unit.kind}", self.unit.numbers
        if self.units is not None:
            yield from ((f"units.{key}", getattr(self.units, key)) for key in OF_AXES)

    def references(self) -> set[str]:
        """The names of the axes that it refers to."""
        return {value.axis for _, value in self.settings if isinstance(value, Ref)}


def keys_of(op: Op) -> list[str]:
    """The settings that an edit with this op may have."""
    if op.draws == "letters":
        return ["text", "where"]
    keys = ["modules", "component", "where"]
    keys += ["params"] if "weights" in op.places else []
    keys += ["when", "unit"] if op.draws == "partner" else ["when", "unit", "units"]
    keys += [op.strength] if op.strength else []
    keys += ["dose"] if op.linear else []
    keys += [op.kind_key] if op.kinds else []
    keys += ["with"] if op.draws in ("partner", "checkpoint") else []
    return keys + (["over"] if op.draws in ("mean", "resample") else [])


def keyed(edits: Iterable[EditSpec]) -> list[tuple[str, EditSpec]]:
    """Edits with their places in the recipe."""
    return [(edit.key or f"edits[{i}].{edit.op}", edit) for i, edit in enumerate(edits)]


class EditReader(AxisReader):
    """Reads edits. `lacks_ops`: whether a file of ops was named that was not read."""

    lacks_ops = False

    def edits(self, value: Any) -> tuple[EditSpec, ...]:
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
        if name not in OPS and self.lacks_ops:
            return None
        if name not in OPS:
            hint = did_you_mean(name, OPS) or f"; there are {', '.join(sorted(OPS))}"
            self.wrong(path, f"unknown op{hint}")
            return None
        op = OPS[name]
        if not isinstance(body, dict):
            self.mapping(body, path, keys_of(op))
            return None
        strengths = {other.strength for other in OPS.values()} - set(keys_of(op))
        for key in [key for key in body if key in strengths]:
            takes = f"takes `{op.strength}`" if op.strength else "has no strength"
            self.wrong((*path, key), f"`{name}` {takes}")
        body = {key: value for key, value in body.items() if key not in strengths}
        body = self._own(op, body, path)
        component = (
            self.text(body["component"], (*path, "component")) if "component" in body else None
        )
        where = op.places[0]
        if "where" in body:
            where = self.choice(body["where"], (*path, "where"), op.places)
        elif where == "output":
            self.wrong(path, f"`where: output` is missing; `{name}` edits what modules give")
        if where == "image":
            return EditSpec(name, where=where, text=self._words(body, path), key=written(path))
        params = None
        if "params" in body:
            params = self.choice(body["params"], (*path, "params"), PARAMS)
            if where == "output":
                self.wrong((*path, "params"), "outputs have no parameters; leave `params` out")
        strength, dose = self._strength(op, body, path, where)
        return EditSpec(
            name,
            self._modules(body, path, component),
            strength,
            params,
            self._kind(op, body, path),
            self.when(body["when"], (*path, "when")) if "when" in body else None,
            component,
            where,
            self._unit(body["unit"], (*path, "unit")) if "unit" in body else None,
            dose,
            self._partner(op, body, path, component),
            self._over(body.get("over", {}), (*path, "over")),
            self._units(body["units"], (*path, "units")) if "units" in body else None,
            key=written(path),
        )

    def _own(self, op: Op, body: dict[str, Any], path: KeyPath) -> dict[str, Any]:
        """Those settings that an edit with the op may have; notes what else there is."""
        known = keys_of(op)
        every = {key for other in OPS.values() for key in keys_of(other)}
        for key in [key for key in body if key in every - set(known)]:
            # No misspelling: it is right elsewhere, whatever key of this op looks like it.
            why = ", which edits the finished picture," if op.draws == "letters" else ""
            self.wrong((*path, key), f"`{op.name}`{why} takes no `{key}`; known here:"
                       f" {', '.join(known)}")  # fmt: skip
        body = {key: value for key, value in body.items() if key in known or key not in every}
        return {k: v for k, v in self.mapping(body, path, known).items() if k in known}

    def _modules(
        self, body: dict[str, Any], path: KeyPath, component: str | None
    ) -> Selector | Ref | None:
        """A selector or an axis; None where a study tells which modules."""
        if "units" in body:
            for key in ("modules", "unit"):
                if key in body:
                    self.wrong((*path, key), "stands beside `units`, which tell modules and unit;"
                               " keep one of the two")  # fmt: skip
            return None
        if "modules" not in body:
            self.wrong(path, '`modules` is missing; `"*"` selects all')
            return "*"
        modules = self.or_ref(body["modules"])
        if isinstance(modules, Ref):
            return modules
        blocks = body.get("where", "weights") != "weights"
        return self.selector(modules, (*path, "modules"), component, blocks=blocks)

    def _units(self, value: Any, path: KeyPath) -> UnitsSpec:
        body = self.mapping(value, path, CHOSEN)
        if isinstance(value, dict):
            if "run" not in body:
                self.wrong(path, "`run` is missing: the folder of a study of units")
            sizes = [key for key in ("fraction", "count") if key in body]
            if len(sizes) != 1:
                has = "both" if sizes else "neither"
                self.wrong(path, f"must have one of fraction, count; this has {has}")
        found: dict[str, Any] = {}
        for key in OF_AXES:
            if key in body:
                given = self.or_ref(body[key])
                is_ref = isinstance(given, Ref)
                found[key] = given if is_ref else self.ranked(key, given, (*path, key))
        if "seed" in body and found.get("order", "most") in ("most", "least"):
            self.wrong((*path, "seed"), "`seed` goes with `order: random`")
        chosen = self.or_ref(body.get("modules"))
        if "modules" in body and not isinstance(chosen, Ref):
            found["modules"] = chosen if self.is_selector(chosen, (*path, "modules")) else "*"
        return UnitsSpec(self.text(body.get("run", ""), (*path, "run")), **found)

    def ranked(self, key: str, value: Any, path: KeyPath) -> Any:
        """A setting of `units`."""
        match key:
            case "order":
                return self.choice(value, path, RANKED)
            case "concept":
                return self.text(value, path)
            case "fraction":
                share = float(self.number(value, path))
                if not 0 <= share <= 1:
                    self.wrong(path, f"must lie between 0 and 1, not {share:g}")
                return share
        return self.integer(value, path)

    def _words(self, body: dict[str, Any], path: KeyPath) -> str | Ref:
        """What is written."""
        if "text" not in body:
            self.wrong(path, "`text` is missing: what is written, or an axis (`$name`)")
            return ""
        given = self.or_ref(body["text"])
        return given if isinstance(given, Ref) else self.words(given, (*path, "text"))

    def words(self, value: Any, path: KeyPath) -> str:
        """A text whose letters can all be drawn."""
        text = self.text(value, path)
        wrong = wrong_letters(text)
        if wrong is not None:
            self.wrong(path, wrong)
        return text

    def _strength(
        self, op: Op, body: dict[str, Any], path: KeyPath, where: str
    ) -> tuple[float | Ref | None, float | Ref | None]:
        """The op's strength, or the dose in its stead."""
        found: dict[str, float | Ref] = {}
        for key in (op.strength, "dose"):
            if key is None or key not in body:
                continue
            given, before = self.or_ref(body[key]), len(self.problems)
            found[key] = (
                given if isinstance(given, Ref) else float(self.number(given, (*path, key)))
            )
            if not isinstance(given, Ref) and len(self.problems) == before:
                self.strong(op, key, found[key], (*path, key))
        if "dose" in found and where == "output":
            self.wrong((*path, "dose"), "is of weights; outputs have none")
        if op.strength and len(found) != 1:
            if found:
                self.wrong((*path, "dose"), f"stands beside `{op.strength}`; keep one of the two")
            else:
                self.wrong(path, f"`{op.strength}` is missing; `{op.name}` needs it,"
                           " a number or an axis (`$name`)")  # fmt: skip
        return found.get(op.strength or ""), found.get("dose")

    def strong(self, op: Op, key: str, value: Any, path: KeyPath) -> None:
        """Note a strength, or a dose, that the op cannot have."""
        if key == "dose":
            wrong = "must not be below 0" if value < 0 else None
        else:
            wrong = wrong_strength(op, value)
        if wrong:
            self.wrong(path, wrong)

    def _kind(self, op: Op, body: dict[str, Any], path: KeyPath) -> str | Ref | None:
        if op.kind_key not in body or not op.kinds:
            return None
        given = self.or_ref(body[op.kind_key])
        if isinstance(given, Ref):
            return given
        return self.choice(given, (*path, op.kind_key), op.kinds)

    def _unit(self, value: Any, path: KeyPath) -> UnitSpec | None:
        body = self.mapping(value, path, UNITS)
        kinds = [kind for kind in UNITS if kind in body]
        if len(kinds) != 1:
            if isinstance(value, dict) and set(body) <= set(UNITS):
                self.wrong(path, f"must have one of {', '.join(UNITS)}, as in `{{heads: [0, 3]}}`")
            return None
        (kind,) = kinds
        given = self.or_ref(body[kind])
        if isinstance(given, Ref):
            return UnitSpec(kind, given)
        inner = (*path, kind)
        items = given if isinstance(given, list) else [given]
        numbers: list[int] = []
        for i, item in enumerate(self.items(items, inner, "numbers")):
            low, dash, high = item.partition("-") if isinstance(item, str) else ("", "", "")
            spanned = dash and low.isdecimal() and high.isdecimal()
            if spanned and int(low) <= int(high) < MOST:
                numbers += range(int(low), int(high) + 1)
            elif isinstance(item, int) and not isinstance(item, bool) and item >= 0:
                numbers.append(item)
            else:
                self.wrong((*inner, i), f"must be a number from 0 or a range such as `0-7`, not"
                           f" {kind_of(item)}")  # fmt: skip
        for number in (n for n, count in Counter(numbers).items() if count > 1):
            self.wrong(inner, f"`{number}` stands twice")
        return UnitSpec(kind, tuple(numbers))

    def _partner(
        self, op: Op, body: dict[str, Any], path: KeyPath, component: str | None
    ) -> Selector | None:
        if op.draws not in ("partner", "checkpoint"):
            return None
        inner = (*path, "with")
        if "with" not in body:
            what = (
                "the modules that take the others' places" if op.draws == "partner" else "a model"
            )
            self.wrong(path, f"`with` is missing; it names {what}")
            return None
        if op.draws == "checkpoint":
            model = self.text(body["with"], inner)
            self.checkpoints.append((model, component, self.at(inner)))
            return model
        return self.selector(body["with"], inner, component)

    def _over(
        self, value: Any, path: KeyPath
    ) -> tuple[tuple[str, ...] | None, tuple[int, ...] | None]:
        body = self.mapping(value, path, ("prompts", "seeds"))
        prompts = seeds = None
        if "prompts" in body:
            given = self.items(body["prompts"], (*path, "prompts"), "prompts")
            prompts = tuple(self.text(p, (*path, "prompts", i)) for i, p in enumerate(given))
            self.distinct(given, (*path, "prompts"))
        if "seeds" in body:
            given = self.items(body["seeds"], (*path, "seeds"), "whole numbers")
            seeds = tuple(self.integer(s, (*path, "seeds", i)) for i, s in enumerate(given))
            self.distinct(given, (*path, "seeds"))
        return prompts, seeds
