"""The types of the recipe format: numbers, texts, lists, selectors, references to axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args

import yaml
from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler, TypeAdapter
from pydantic_core import CoreSchema, core_schema
from typing_extensions import TypeAliasType

from ablate.network import Selector as AnySelector, SelectorError, matcher
from ablate.recipe.strict import ENOUGH, INVALID, Mistake, Strict, fail, given

T = TypeVar("T")
Inner = Callable[[Any], Any]


class Rule:
    """How values of an annotated type are read, and what the JSON Schema says of them."""

    def inside(self, source: Any) -> Any:
        """The type of which it is a rule, where that is not the annotated one."""
        return None

    def read(self, value: Any, inner: Inner) -> Any:
        """The value that is meant. `inner` reads it as the type itself does."""
        return inner(value)

    def shape(self, shape: dict[str, Any]) -> dict[str, Any]:
        return shape

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        kind = self.inside(source)
        return core_schema.no_info_wrap_validator_function(
            lambda value, inner: value if value is INVALID else self.read(value, inner),
            handler(source) if kind is None else handler.generate_schema(kind),
        )

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return self.shape(handler(schema))


class AsWritten(Rule):
    """Checked, but not converted: 2 and 2.0 are labeled differently."""

    def read(self, value: Any, inner: Inner) -> Any:
        inner(value)
        return value


class _Below64Bits(Rule):
    """A whole number that the generators of torch take as a seed."""

    def read(self, value: Any, inner: Inner) -> Any:
        number = inner(value)
        if number is not INVALID and number >= 2**64:
            fail(Mistake(f"must be at most 2^64 - 1, which is {2**64 - 1}, not {given(value)}"))
        return number

    def shape(self, shape: dict[str, Any]) -> dict[str, Any]:
        return {**shape, "maximum": 2**64 - 1}


class _Filled(Rule):
    """A text that is not blank."""

    def read(self, value: Any, inner: Inner) -> Any:
        text = inner(value)
        if text is not INVALID and not text.strip():
            fail(Mistake("must not be blank"))
        return text

    def shape(self, shape: dict[str, Any]) -> dict[str, Any]:
        return {**shape, "pattern": r"\S"}


@dataclass(frozen=True, eq=False)
class Json(Rule):
    """What the JSON Schema of a type says in addition."""

    extra: Mapping[str, Any]

    def shape(self, shape: dict[str, Any]) -> dict[str, Any]:
        return {**shape, **self.extra}


Text = Annotated[str, Field(strict=True), Rule()]
Word = Annotated[str, Field(strict=True), _Filled()]
Truth = Annotated[bool, Field(strict=True), Rule()]
Whole = Annotated[int, Field(strict=True, ge=0), Rule()]
Count = Annotated[int, Field(strict=True, ge=1), Rule()]
Seed = Annotated[int, Field(strict=True, ge=0), _Below64Bits()]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False), AsWritten()]
Share = Annotated[float, Field(strict=True, allow_inf_nan=False, ge=0, le=1), AsWritten()]


# ---------------------------------------------------------------- references to axes


@dataclass(frozen=True)
class Ref:
    """`$name` in a recipe: the value of an axis."""

    axis: str


class Literally(str):
    """Text that is meant as it is, also where it begins with `$`."""

    __slots__ = ()


def is_ref(value: object) -> bool:
    """Whether a value is a reference as a recipe writes it."""
    if not isinstance(value, str) or isinstance(value, Literally):
        return False
    return value.startswith("$") and len(value) > 1


class _RefFirst(Rule):
    """Of a union with `Ref`: text that begins with `$` is a reference."""

    def inside(self, source: Any) -> Any:
        return next(member for member in get_args(source) if member is not Ref)

    def read(self, value: Any, inner: Inner) -> Any:
        return Ref(value[1:]) if is_ref(value) else inner(value)

    def shape(self, shape: dict[str, Any]) -> dict[str, Any]:
        return {"anyOf": [shape, {"type": "string", "pattern": r"^\$[A-Za-z_]\w*$"}]}


OrRef = Annotated[T | Ref, _RefFirst()]


# ---------------------------------------------------------------- lists


@dataclass(frozen=True)
class ListOf(Rule):
    """A list.

    Attributes:
        what: The items, as messages call them.
        distinct: Whether all of them differ.
        empty: Whether there may be no item.
    """

    what: str
    distinct: bool = True
    empty: bool = False

    def read(self, value: Any, inner: Inner) -> Any:
        if not isinstance(value, list) or not (value or self.empty):
            fail(Mistake(f"must be a list of {self.what}, not {given(value)}"))
        items = inner(value)
        mistakes = list(islice(repeated(value), ENOUGH)) if self.distinct else []
        if mistakes:
            fail(*mistakes)
        return items

    def shape(self, shape: dict[str, Any]) -> dict[str, Any]:
        distinct = {"uniqueItems": True} if self.distinct else {}
        return {**shape, "minItems": int(not self.empty), **distinct}


@dataclass(frozen=True)
class Exactly(Rule):
    """A list of a fixed length. `what`: the whole, as messages call it."""

    length: int
    what: str

    def read(self, value: Any, inner: Inner) -> Any:
        if not isinstance(value, list) or len(value) != self.length:
            many = f" of {len(value)}" if isinstance(value, list) and value else ""
            fail(Mistake(f"must be {self.what}, not {given(value)}{many}"))
        return inner(value)


def repeated(values: Sequence[Any]) -> Iterator[Mistake]:
    """The mistakes of values of a list that are given before."""
    seen: set[object] = set()
    for i, value in enumerate(values):
        written = in_yaml(value)
        kind = (isinstance(value, bool), written)  # `true` is not 1
        if value is not INVALID and kind in seen:
            yield Mistake(f"`{written}` is given twice", (i,))
        seen.add(kind)


def in_yaml(value: Any) -> Any:
    """Lists and mappings on one line, as a recipe writes them; other values as they are."""
    if not isinstance(value, list | dict):
        return value
    try:
        return yaml.safe_dump(value, default_flow_style=True, width=1000).strip()
    except yaml.YAMLError:  # a part of it is invalid
        return str(value)


# ---------------------------------------------------------------- several ways of writing


@dataclass(frozen=True)
class Either:
    """A union of two types: the second one is meant where `second` is true of what is given."""

    second: Callable[[Any], bool]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        first, second = map(handler.generate_schema, get_args(source))
        return core_schema.tagged_union_schema(
            {"<first>": first, "<second>": second},
            lambda value: "<second>" if self.second(value) else "<first>",
        )


@dataclass(frozen=True)
class Into(Rule):
    """Read with a model; `kind` is created of its fields."""

    model: type[Strict]
    kind: type[Any]

    def inside(self, source: Any) -> Any:
        return self.model

    def read(self, value: Any, inner: Inner) -> Any:
        return self.kind(**dict(inner(value)))


@dataclass(frozen=True)
class Short(Rule):
    """Something that may be written short for a mapping with a single key.

    Attributes:
        key: The key that it is the value of.
        applies: Whether data are written so.
        like: The type of the value, for the JSON Schema alone; a set is a list of distinct items.
    """

    key: str
    applies: Callable[[Any], bool]
    like: Any

    def read(self, value: Any, inner: Inner) -> Any:
        return inner({self.key: value} if self.applies(value) else value)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        short = handler(TypeAdapter(self.like).core_schema)
        return {"anyOf": [short, handler(schema)]}


def is_list(value: Any) -> bool:
    """Whether a value is a list."""
    return isinstance(value, list)


def is_text(value: Any) -> bool:
    """Whether a value is text."""
    return isinstance(value, str)


# ---------------------------------------------------------------- selectors


class Not(Strict):
    """All modules but those of a selector; in a list it takes them out of what is before it."""

    of: SelectorShape = Field(alias="not", description="A selector.")


class Sample(Strict):
    """How modules are drawn."""

    of: SelectorShape = Field(description="The selector that they are drawn from.")
    count: Count = Field(description="How many are drawn.")
    seed: Annotated[int, Field(strict=True)] = Field(0, description="Other seeds draw others.")


class Draw(Strict):
    """Some modules of a selector, drawn at random."""

    sample: Sample = Field(description="How they are drawn.")


if TYPE_CHECKING:
    SelectorShape = Any
else:
    SelectorShape = TypeAliasType(
        "SelectorShape",
        Annotated[str, Field(min_length=1)]
        | Annotated[list["SelectorShape"], Field(min_length=1)]
        | Not
        | Draw,
    )


class _WellFormed(Rule):
    """A selector as it is written, well formed whatever it matches."""

    def inside(self, source: Any) -> Any:
        return SelectorShape

    def read(self, value: Any, inner: Inner) -> Any:
        wrong = _wrong_selector(value)
        if wrong is not None:
            fail(Mistake(wrong))
        return value


Selector = Annotated[AnySelector, _WellFormed()]


def _wrong_selector(selector: Any) -> str | None:
    """Why a selector is not well formed; None where it is."""
    match selector:
        case str() if selector.startswith("$") and len(selector) > 1:
            return f"`{selector}`, an axis, cannot be part of a selector: `modules: {selector}`"
        case str() if selector:
            try:
                matcher(selector)
            except SelectorError as error:
                return str(error)
            return None
        case list() if selector:
            return next(filter(None, map(_wrong_selector, selector)), None)
        case {"not": inner, **rest} if not rest:
            return _wrong_selector(inner)
        case {"sample": {"of": inner, "count": int(count), **rest}} if count > 0 and all(
            key == "seed" and type(seed) is int for key, seed in rest.items()
        ):
            return _wrong_selector(inner)
        case dict():
            return (
                "a selector that is a mapping is `{not: S}` or"
                " `{sample: {of: S, count: 3, seed: 0}}`, with a selector S"
            )
    return f'must be a selector, such as `"*"` or a list of them, not {given(selector)}'
