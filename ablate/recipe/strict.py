"""Strict models, and what is wrong with the data that they are read from.

A part that is wrong becomes `INVALID`, which every model accepts in any place, and the rest is read
again: so all mistakes are reported, each once, and what is right remains.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, NoReturn, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from ablate.messages import did_you_mean
from ablate.recipe.document import KeyPath, kind_of, replaced, without

M = TypeVar("M", bound="Strict")
ENOUGH = 100  # mistakes: of a recipe with more no further ones are looked for


class _Invalid:
    """A part that is wrong: empty, false, and its attributes are invalid, too."""

    def __len__(self) -> int:
        return 0

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __call__(self, *_: Any) -> Any:
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __repr__(self) -> str:
        return "INVALID"


class _Nothing:
    """A value that is left empty, which no type accepts."""


INVALID: Any = _Invalid()
NOTHING: Any = _Nothing()


# ---------------------------------------------------------------- mistakes


@dataclass(frozen=True)
class Mistake:
    """What is wrong with a part of a recipe.

    Attributes:
        message: The sentence about it.
        place: Its path below the part that is read.
        cut: What is taken out of the data: the place (`part`), what contains it (`parent`), or the
            `key`, which is unknown.
        hole: A key that becomes invalid instead: a missing one, at the place; with `cut: key` the
            one that the unknown key resembles, beside it.
    """

    message: str
    place: KeyPath = ()
    cut: str = "part"
    hole: str | None = None


def fail(*mistakes: Mistake) -> NoReturn:
    """Refuse what is being validated."""
    details = [
        InitErrorDetails(
            type=PydanticCustomError(
                "mistake", "{message}", {"message": m.message, "cut": m.cut, "hole": m.hole}
            ),
            loc=m.place,
            input=None,
        )
        for m in mistakes
    ]
    raise ValidationError.from_exception_data("recipe", details)


def validated(model: type[M], data: Any) -> tuple[M | None, Any, list[tuple[KeyPath, str]]]:
    """Read data with a model.

    Returns:
        The model, or None where all is wrong, or too much; the data that it is read from, in which
        wrong parts are `INVALID`; every mistake with its path.
    """
    known: list[tuple[KeyPath, str]] = []
    while data is not INVALID and len(known) < ENOUGH:
        try:
            return model.model_validate(data), data, known
        except ValidationError as error:
            part = data
            for mistake in islice(mistakes_of(error), ENOUGH):
                path = _path_of(mistake.place, part)
                if (path, mistake.message) in known:  # what contains it does not accept INVALID
                    data = replaced(data, path[:-1], INVALID)
                    continue
                known.append((path, mistake.message))
                data = _cut(data, path, mistake)
    return None, data, known


def invalidated(data: Any, paths: Iterable[KeyPath]) -> Any:
    """The data in which the parts at some paths are `INVALID`."""
    for path in paths:
        data = replaced(data, _path_of(path, data), INVALID)
    return data


def mistakes_of(error: ValidationError) -> Iterator[Mistake]:
    """The mistakes that pydantic reports. Their places also name parts of types, as `<...>`."""
    for line in error.errors(include_url=False):
        context = line.get("ctx", {})
        yield Mistake(_sentence(line), line["loc"], context.get("cut", "part"), context.get("hole"))


def _path_of(place: Sequence[str | int], data: Any) -> KeyPath:
    """The path in the data of a place, without parts that are no keys of them."""
    path: KeyPath = ()
    for part in place:
        if isinstance(data, list):
            there = isinstance(part, int) and part < len(data)
        else:
            there = isinstance(data, dict) and part in data
        if there:
            path, data = (*path, part), data[part]
    return path


def _cut(data: Any, path: KeyPath, mistake: Mistake) -> Any:
    beside = path[:-1]
    if mistake.cut == "parent":
        return replaced(data, beside, INVALID)
    if mistake.cut == "key":
        data = without(data, path)
        return data if mistake.hole is None else replaced(data, (*beside, mistake.hole), INVALID)
    hole = (mistake.hole,) if mistake.hole is not None else ()
    return replaced(data, (*path, *hole), INVALID)


# Errors of pydantic's by their types.
SENTENCES = {
    "mistake": "{message}",
    "string_type": "must be text, not {given}{quotes}",
    "int_type": "must be a whole number, not {given}",
    "int_parsing_size": "must be a smaller number, not {given}",
    "float_type": "must be a number, not {given}",
    "bool_type": "must be true or false, not {given}",
    "dict_type": "must be a mapping, not {given}",
    "finite_number": "must be a finite number, not {given}",
    "greater_than_equal": "must be at least {ge:g}, not {given}",
    "less_than_equal": "must be at most {le:g}, not {given}",
    "greater_than": "must be above {gt:g}, not {given}",
    "multiple_of": "must be a multiple of {multiple_of:g}, not {given}",
    "literal_error": "must be {choices}, not {given}{hint}",
    "string_pattern_mismatch": "{given} cannot name a folder; use letters, digits, `-`, `_` and"
    " `.`, beginning with a letter or digit",
}


def _sentence(error: Any) -> str:
    value, context = error["input"], error.get("ctx", {})
    words = {"given": given(value), "quotes": "", "hint": ""}
    if error["type"] == "literal_error":
        known = re.findall(r"[^' ]+(?='|$)", context["expected"])
        words["choices"] = f"one of {', '.join(known)}" if len(known) > 1 else f"`{known[0]}`"
        words["hint"] = did_you_mean(value, known) if isinstance(value, str) else ""
    elif not isinstance(value, list | dict | _Nothing) and value is not None:
        words["quotes"] = "; put it in quotes to make it text"
    return SENTENCES[error["type"]].format(**context, **words)


def given(value: Any) -> str:
    """What a value is, for the end of "must be ..., not"."""
    return kind_of(None if value is NOTHING else value)


# ---------------------------------------------------------------- models


class Strict(BaseModel):
    """A mapping with known keys.

    Attributes:
        one_of: Keys exactly one of which is given.
        example: How such a mapping is written, for messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    one_of: ClassVar[tuple[str, ...]] = ()
    example: ClassVar[str] = ""

    @classmethod
    def known_keys(cls) -> dict[str, FieldInfo]:
        """The fields by the keys that they have in a recipe."""
        return {field.alias or name: field for name, field in cls.model_fields.items()}

    @property
    def form(self) -> str:
        """Which of `one_of` it has."""
        return next(key for key in self.one_of if getattr(self, key) is not None)

    @property
    def is_whole(self) -> bool:
        """Whether no part of it is invalid."""
        return _is_whole(dict(self))

    def mistakes(self) -> Iterator[Mistake]:
        """What is wrong with it beyond the types of its fields. Some may be `INVALID`."""
        yield from ()

    @classmethod
    def unknown(cls, key: str, data: dict[str, Any]) -> Mistake:
        """The mistake of a key that there is not."""
        near = did_you_mean(key, cls.known_keys())
        known = ", ".join(cls.known_keys())
        message = f"unknown key{near or f'; known here: {known}'}"
        resembled = near.partition("`")[2].partition("`")[0]
        if resembled and resembled not in data:
            return Mistake(message, (key,), "key", resembled)
        lacks_form = cls.one_of and not set(cls.one_of) & set(data)
        return Mistake(message, (key,), "parent" if lacks_form else "key")

    @model_validator(mode="wrap")
    @classmethod
    def _read(cls, data: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        if data is INVALID or isinstance(data, cls):
            return data
        if not isinstance(data, dict):
            names = ", ".join(cls.known_keys())
            fail(Mistake(f"must be a mapping with {names}, not {given(data)}"))
        mistakes = list(islice(cls._of_keys(data), ENOUGH))
        if mistakes:
            fail(*mistakes)
        model = handler(data)
        mistakes = list(islice(model.mistakes(), ENOUGH))
        if mistakes:
            fail(*mistakes)
        return model

    @classmethod
    def _of_keys(cls, data: dict[str, Any]) -> Iterator[Mistake]:
        """Unknown keys; if there are none, missing ones."""
        keys = cls.known_keys()
        if set(data) <= set(keys):
            for key, field in keys.items():
                if field.is_required() and key not in data:
                    clause = (field.description or "").partition(". ")[0].rstrip(".")
                    what = clause[:1].lower() + clause[1:]
                    yield Mistake(f"`{key}` is missing: {what}", hole=key)
            forms = [key for key in cls.one_of if key in data]
            if cls.one_of and len(forms) != 1:
                like = f", as in {cls.example}" if cls.example else ""
                has, names = " and ".join(forms) or "none", ", ".join(cls.one_of)
                yield Mistake(f"must have exactly one of {names}{like}; this has {has}")
        yield from (cls.unknown(key, data) for key in data if key not in keys)

    @field_validator("*", mode="wrap")
    @classmethod
    def _field(cls, value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        return value if value is INVALID else handler(NOTHING if value is None else value)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        shape = handler(schema)
        if cls.one_of:
            one = [{"required": [key]} for key in cls.one_of]
            handler.resolve_ref_schema(shape)["oneOf"] = one
        return shape


def optional(description: str, default: Any = None, **more: Any) -> Any:
    """A key that may be left out."""
    return Field(default, description=description, **more)


def _is_whole(value: Any) -> bool:
    if isinstance(value, Strict):
        return value.is_whole
    if isinstance(value, dict):
        return all(map(_is_whole, value.values()))
    return all(map(_is_whole, value)) if isinstance(value, tuple | list) else value is not INVALID
