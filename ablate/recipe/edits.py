"""Edits: an op with its settings, which may refer to axes.

Every setting is declared once, in `EditSpec`. Which of them an op takes, and in what bounds,
follows from the registry of ops: `model_of` narrows `EditSpec` to one op.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    create_model,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

from ablate.edits import OPS, Op
from ablate.messages import did_you_mean
from ablate.network import UNITS
from ablate.recipe.axes import COMPONENT, Window
from ablate.recipe.numbers import MOST
from ablate.recipe.strict import INVALID, Mistake, Strict, fail, given, mistakes_of, optional
from ablate.recipe.types import (
    AsWritten,
    Inner,
    Json,
    ListOf,
    Number,
    OrRef,
    Rule,
    Seed,
    Selector,
    Share,
    Text,
    Whole,
    repeated,
)

Prompts = Annotated[tuple[Text, ...], ListOf("prompts")]
Seeds = Annotated[tuple[Seed, ...], ListOf("whole numbers")]

# ---------------------------------------------------------------- units


class DrawnUnits(Strict):
    """Some of each module's units, drawn: by the seed and the module's path alone, and of a larger
    number those of a smaller one too."""

    one_of: ClassVar[tuple[str, ...]] = ("share", "count")

    share: OrRef[Share] | None = optional("Which part of each module's units, 0 to 1.")
    count: OrRef[Whole] | None = optional("How many units of each module.")
    seed: OrRef[Whole] = optional("Of the draw.", 0)


def _numbers(value: Any) -> tuple[int, ...]:
    """Numbers, some of them as ranges such as `0-7`."""
    items = value if isinstance(value, list) else [value]
    if not items:
        fail(Mistake("must be a list of numbers, not an empty list"))
    numbers: list[int] = []
    mistakes = []
    for i, item in enumerate(items):
        low, dash, high = item.partition("-") if isinstance(item, str) else ("", "", "")
        spanned = dash and low.isdecimal() and high.isdecimal()
        if spanned and int(low) <= int(high) < MOST and len(numbers) < MOST:
            numbers += range(int(low), int(high) + 1)
        elif type(item) is int and item >= 0:
            numbers.append(item)
        elif item is not INVALID:
            message = f"must be a number from 0 or a range such as `0-7`, not {given(item)}"
            mistakes.append(Mistake(message, (i,) if isinstance(value, list) else ()))
    mistakes += [Mistake(again.message) for again in repeated(numbers)]
    if mistakes:
        fail(*dict.fromkeys(mistakes))
    return tuple(numbers)


_NUMBER = {
    "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+-\d+$"}]
}
_NUMBERS = {"type": "array", "items": _NUMBER, "minItems": 1, "uniqueItems": True}


class _UnitNumbers(Rule):
    """Numbers, some of them as ranges such as `0-7`, or a mapping by which they are drawn."""

    def read(self, value: Any, inner: Inner) -> Any:
        if isinstance(value, DrawnUnits):
            return value
        if not isinstance(value, dict):
            return _numbers(value)
        try:
            return DrawnUnits.model_validate(value)
        except ValidationError as error:
            fail(*mistakes_of(error))

    def shape(self, shape: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [_NUMBER, _NUMBERS, shape["anyOf"][-1]]}


UnitNumbers = Annotated[tuple[int, ...] | DrawnUnits, _UnitNumbers()]


class UnitSpec(Strict):
    """Some output channels, or some attention heads, of each module."""

    one_of: ClassVar[tuple[str, ...]] = UNITS
    example: ClassVar[str] = "`{heads: [0, 3]}`"

    channels: OrRef[UnitNumbers] | None = optional(
        "Numbers of channels, from 0, or `{share: 0.3, seed: 0}`, drawn."
    )
    heads: OrRef[UnitNumbers] | None = optional("Numbers of heads, from 0, or drawn likewise.")


class UnitsSpec(Strict):
    """Units of a study, in one of its orders."""

    one_of: ClassVar[tuple[str, ...]] = ("fraction", "count")

    run: Text = Field(description="The folder of a study of units.")
    order: OrRef[Literal["most", "least", "random"]] = optional(
        "The most selective units first, the least, or drawn ones.", "most"
    )
    concept: OrRef[Text] | None = optional(
        "Order by how much units respond to this concept, not by selectivity."
    )
    fraction: OrRef[Share] | None = optional("Which part of each module's units, 0 to 1.")
    count: OrRef[Whole] | None = optional("How many units of all modules together.")
    modules: Selector | None = optional("Which modules of the study. Default: all.")
    seed: OrRef[Whole] = optional("Of `order: random`.", 0)

    def mistakes(self) -> Iterator[Mistake]:
        if "seed" in self.model_fields_set and self.order in ("most", "least"):
            yield Mistake("`seed` goes with `order: random`", ("seed",), "key")


class Over(Strict):
    """The reference images whose outputs are taken."""

    prompts: Prompts | None = optional("Default: those of the recipe.")
    seeds: Seeds | None = optional("Default: those of the recipe.")


# ---------------------------------------------------------------- edits


class EditSpec(Strict):
    """One op with its settings."""

    op: ClassVar[Op]

    modules: OrRef[Selector] | None = optional(
        "The modules to edit: a selector, or an axis (`$name`)."
    )
    component: Text | None = Field(None, description=COMPONENT)
    where: Literal["weights", "output", "input", "image"] = optional(
        "Whether weights are edited, what modules return, or what they are given.", "weights"
    )
    argument: Text | None = optional(
        "Of `where: input`: which argument of the modules. Default: the first."
    )
    params: Literal["weight", "bias"] | None = optional(
        "Only parameters of this name. Default: all."
    )
    when: OrRef[Window] | None = optional(
        "Only in this window of the sampling, or an axis of windows."
    )
    unit: UnitSpec | None = optional("Only these channels or heads of the modules.")
    units: UnitsSpec | None = optional(
        "Units that a study recorded, in place of `modules` and `unit`."
    )
    strength: OrRef[Number] | None = None
    dose: (
        OrRef[Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0), AsWritten()]] | None
    ) = optional("In place of the strength: the norm of the change over that of the weights.")
    kind: OrRef[Text] | None = None
    partner: Any = Field(None, alias="with")
    over: Over | None = optional("Which images the outputs are taken from.")
    text: OrRef[Text] | None = None

    @classmethod
    def known_keys(cls) -> dict[str, FieldInfo]:
        keys = super().known_keys()
        return {key: keys[key] for key in keys_of(cls.op)}

    @classmethod
    def unknown(cls, key: str, data: dict[str, Any]) -> Mistake:
        op = cls.op
        if key in {other.strength for other in OPS.values()}:
            takes = f"takes `{op.strength}`" if op.strength else "has no strength"
            hole = op.strength if op.strength and not {op.strength, "dose"} & set(data) else None
            return Mistake(f"`{op.name}` {takes}", (key,), "key", hole)
        if any(key in keys_of(other) for other in OPS.values()):
            # Not a misspelling: it is right elsewhere, whichever key of this op it resembles.
            known = ", ".join(cls.known_keys())
            why = ", which edits the finished picture," if op.draws == "letters" else ""
            message = f"`{op.name}`{why} takes no `{key}`; known here: {known}"
            return Mistake(message, (key,), "key")
        return super().unknown(key, data)

    def mistakes(self) -> Iterator[Mistake]:
        op = self.op
        if self.units is not None:
            for key in ("modules", "unit"):
                if getattr(self, key) is not None:
                    message = "is given beside `units`, which choose modules and units; keep one"
                    yield Mistake(message, (key,), "key")
        elif self.modules is None and "modules" in keys_of(op):
            yield Mistake('`modules` is missing; `"*"` selects all', hole="modules")
        if self.where in ("output", "input"):
            if self.params is not None:
                message = f"{self.where}s have no parameters; leave `params` out"
                yield Mistake(message, ("params",), "key")
            if self.dose is not None:
                hole = op.strength if self.strength is None else None
                yield Mistake(f"is for weights; {self.where}s have none", ("dose",), "key", hole)
        if self.where == "input":
            for key in ("unit", "units"):
                if getattr(self, key) is not None:
                    message = "names heads or channels of weights and outputs; inputs have none"
                    yield Mistake(message, (key,), "key")
        elif self.argument is not None:
            yield Mistake("`argument` goes with `where: input`", ("argument",), "key")
        if op.strength and self.strength is None and self.dose is None:
            message = f"`{op.strength}` is missing; `{op.name}` needs it, a number or an axis"
            yield Mistake(f"{message} (`$name`)", hole=op.strength)
        elif self.strength is not None and self.dose is not None and self.where == "weights":
            message = f"is given beside `{op.strength}`; keep one of the two"
            yield Mistake(message, ("dose",), "key")

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        shape = handler.resolve_ref_schema(super().__get_pydantic_json_schema__(schema, handler))
        keys = keys_of(cls.op)
        shape["properties"] = {key: shape["properties"][key] for key in keys}
        every: list[Any] = []
        if "units" in keys:
            units = {"required": ["units"], "properties": {"modules": False, "unit": False}}
            every.append(
                {"anyOf": [{"required": ["modules"], "properties": {"units": False}}, units]}
            )
        elif "modules" in keys:
            every.append({"required": ["modules"]})
        if cls.op.strength:
            strengths = [key for key in (cls.op.strength, "dose") if key in keys]
            every.append({"oneOf": [{"required": [key]} for key in strengths]})
        of_weights = dict.fromkeys((key for key in ("params", "dose") if key in keys), False)
        if of_weights and "output" in cls.op.places:
            elsewhere = {
                "properties": {"where": {"enum": ["output", "input"]}},
                "required": ["where"],
            }
            every.append({"if": elsewhere, "then": {"properties": of_weights}})
        return {**shape, "allOf": every} if every else shape


def keys_of(op: Op) -> list[str]:
    """The keys that an edit with this op may have."""
    if op.draws == "letters":
        return ["where", "text"]
    keys = ["modules", "component", "where"]
    keys += ["argument"] if "input" in op.places else []
    keys += ["params"] if "weights" in op.places else []
    keys += ["when", "unit"] if op.draws == "partner" else ["when", "unit", "units"]
    keys += [op.strength] if op.strength else []
    keys += ["dose"] if op.linear else []
    keys += [op.kind_key] if op.kinds else []
    keys += ["with"] if op.draws in ("partner", "checkpoint") else []
    return keys + (["over"] if op.draws in ("mean", "resample") else [])


@cache
def model_of(op: Op) -> type[EditSpec]:
    """The edit with an op: the keys that the op takes, with its bounds and choices."""
    choices: Any = Literal.__getitem__
    or_ref: Any = OrRef
    fields: dict[str, Any] = {}
    if op.places == ("output",):
        needed = f"Always `output`: `{op.name}` edits what modules return."
        fields["where"] = (choices(op.places), Field(description=needed))
    else:
        description = EditSpec.model_fields["where"].description
        place: Any = Annotated[choices(op.places), _Place(op)]
        fields["where"] = (place, Field(op.places[0], description=description))
    if op.strength:
        fields["strength"] = (
            or_ref[_strength(op)] | None,
            Field(None, alias=op.strength, description="The strength: a number or an axis."),
        )
    if op.kinds:
        fields["kind"] = (
            or_ref[choices(op.kinds)] | None,
            Field(None, alias=op.kind_key, description=f"Default: `{op.kinds[0]}`."),
        )
    if op.draws == "partner":
        description = "The modules that take the others' places, as a selector."
        fields["partner"] = (Selector, Field(alias="with", description=description))
    if op.draws == "checkpoint":
        description = "A model, whose weights are blended in."
        fields["partner"] = (Text, Field(alias="with", description=description))
    if op.draws == "letters":
        description = "What is written, or an axis (`$name`)."
        fields["text"] = (or_ref[Text], Field(description=description))
    model = create_model(op.name, __base__=EditSpec, __doc__=op.about, **fields)
    model.op = op
    return model


@dataclass(frozen=True)
class _Place(Rule):
    """Where an op takes effect; of a user's op also what would let it edit outputs or inputs."""

    op: Op

    def read(self, value: Any, inner: Inner) -> Any:
        if value in ("output", "input") and self.op.places == ("weights",):
            message = f"must be `weights`, not `{value}`: `{self.op.name}` edits weights alone"
            if self.op.code and self.op.draws in (None, "values"):
                message += f'; in its file, `@ablate.op(places=("weights", "{value}"))` allows both'
            fail(Mistake(message))
        return inner(value)


@dataclass(frozen=True)
class _Strength(Rule):
    """From `first` on it is a whole number."""

    first: float | None

    def read(self, value: Any, inner: Inner) -> Any:
        inner(value)
        if self.first is not None and value >= self.first and value != int(value):
            fail(Mistake(f"must be a whole number, not {given(value)}"))
        return value


def _strength(op: Op) -> Any:
    """The type of the op's strength."""
    bounds = {"ge": op.least, "le": op.most, "gt": op.above}
    known: Any = {key: bound for key, bound in bounds.items() if bound is not None}
    first = op.counts_from
    extra: dict[str, Any] = {}
    if first is not None:
        whole = {"type": "integer"}
        counted = op.least is not None and op.least >= first
        extra = whole if counted else {"anyOf": [{"exclusiveMaximum": first}, whole]}
    number = Field(strict=True, allow_inf_nan=False, **known)
    return Annotated[float, number, _Strength(first), Json(extra)]


# ---------------------------------------------------------------- any edit


def _edit(value: Any) -> Any:
    if value is INVALID or isinstance(value, EditSpec):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        fail(Mistake('an edit is one op with its settings, as in `zero: {modules: "*"}`'))
    name, body = next(iter(value.items()))
    if body is INVALID:
        return body
    if name not in OPS:
        hint = did_you_mean(name, OPS) or f"; there are {', '.join(sorted(OPS))}"
        fail(Mistake(f"unknown op{hint}", (name,)))
    try:
        return model_of(OPS[name]).model_validate(body)
    except ValidationError as error:
        fail(*(replace(m, place=(name, *m.place)) for m in mistakes_of(error)))


class _ByOp:
    """Read by the model of the op."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(_edit)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        models = {name: model_of(op).__pydantic_core_schema__ for name, op in OPS.items()}
        return {
            "type": "object",
            "properties": {name: handler(model) for name, model in models.items()},
            # Of a file of ops.
            "additionalProperties": {
                "type": "object",
                "anyOf": [{"required": ["modules"]}, {"required": ["units"]}],
            },
            "minProperties": 1,
            "maxProperties": 1,
        }


AnyEdit = Annotated[EditSpec, _ByOp()]
