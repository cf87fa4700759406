"""The recipe format for machines, as JSON Schema, and for people, as a reference in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from ablate.edits import OPS
from ablate.recipe.recipe import Recipe
from ablate.recipe.types import in_yaml

Shape = dict[str, Any]


class _Generator(GenerateJsonSchema):
    """Without titles, and without null: a key that is not meant is left out."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> Shape:
        return self.generate_inner(schema["schema"])

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> Shape:
        choices = schema["choices"].values()
        return {"anyOf": [self.generate_inner(choice) for choice in choices]}

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Shape:
        shape = super().default_schema(schema)
        return {k: v for k, v in shape.items() if k != "default" or v not in (None, [], {})}

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def recipe_schema() -> Shape:
    """The schema, draft 2020-12. What refers to axes or to a network it cannot check."""
    shape = Recipe.model_json_schema(schema_generator=_Generator)
    # A file of ops may define others than are known here.
    known = {"properties": {"edits": {"items": {"propertyNames": {"enum": list(OPS)}}}}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **shape,
        "title": "ablate recipe",
        "if": {"not": {"required": ["ops"]}},
        "then": known,
    }


# ---------------------------------------------------------------- the reference


def recipe_docs() -> str:
    """The reference of the format in Markdown: every key, its type, its default."""
    defined = recipe_schema()["$defs"]
    ops = {name: defined[name] for name in OPS}
    lines = [
        "# The recipe format",
        "",
        *_table(Recipe.model_json_schema(schema_generator=_Generator)),
    ]
    for title in _reached(recipe_schema(), defined):
        if title not in ops:
            shape = defined[title]
            lines += ["", f"## {_title(title)}", "", shape.get("description", ""), ""]
            lines += [_type(shape)] if "properties" not in shape else _table(shape)
    lines += ["", "## Edit", "", "One op with its settings, as in `zero: {modules: '*'}`.", ""]
    lines += ["| op | result | keys |", "|---|---|---|"]
    settings: Shape = {}
    for name, shape in ops.items():
        keys = ", ".join(f"`{key}`" for key in shape["properties"])
        lines.append(f"| `{name}` | {shape['description'].replace('|', '&#124;')} | {keys} |")
        settings |= {k: v for k, v in shape["properties"].items() if k not in settings}
    return "\n".join([*lines, "", *_table({"properties": settings})]) + "\n"


def _reached(shape: Any, defined: Shape) -> dict[str, None]:
    """The definitions that a shape refers to, in the order of the keys that need them."""
    reached: dict[str, None] = {}
    waiting = [shape["properties"]]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, dict):
            title = str(part.get("$ref", "")).rpartition("/")[2]
            if title and title not in reached:
                reached[title] = None
                waiting.append(defined[title])
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    return reached


def _table(shape: Shape) -> Iterator[str]:
    yield from ("| key | type | default | |", "|---|---|---|---|")
    for key, part in shape["properties"].items():
        needed = "required" if key in shape.get("required", ()) else ""
        default = _written(part["default"]) if "default" in part else needed
        yield f"| `{key}` | {_type(part)} | {default} | {part.get('description', '')} |"


def _written(value: Any) -> str:
    text = '""' if value == "" else str(in_yaml(value))
    text = text.lower() if isinstance(value, bool) else text
    return f"`{text}`" if len(text) <= 60 else "of the lab"


def _title(name: str) -> str:
    """The name of a model as a heading."""
    words = re.sub(r"(?<!^)([A-Z])", r" \1", name.removesuffix("Spec").removesuffix("Shape"))
    return words.capitalize()


def _type(shape: Shape) -> str:
    """The type of a value, in words."""
    match shape:
        case {"$ref": ref}:
            title = _title(str(ref).rpartition("/")[2])
            return f"[{title.lower()}](#{title.lower().replace(' ', '-')})"
        case {"anyOf": several}:
            return " or ".join(dict.fromkeys(filter(None, map(_type, several))))
        case {"enum": choices}:
            return " or ".join(f"`{choice}`" for choice in choices)
        case {"const": value}:
            return f"`{value}`"
        case {"pattern": str(pattern)} if pattern.startswith(r"^\$"):
            return "`$axis`"
        case {"type": "array", "prefixItems": items}:
            return f"[{', '.join(map(_type, items))}]"
        case {"type": "array"}:
            return f"list of {_type(shape.get('items', {})) or 'values'}"
        case {"type": "object", "additionalProperties": dict(inner)} if "properties" not in shape:
            return f"mapping from names to {_type(inner)}"
        case {"type": "object", "maxProperties": 1}:
            return "[edit](#edit)"
        case {"type": "object"}:
            return "mapping"
    words = {
        "string": "text",
        "integer": "whole number",
        "number": "number",
        "boolean": "true or false",
    }
    bounds = (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most"))
    limits = " and ".join(f"{words} {shape[key]:g}" for key, words in bounds if key in shape)
    return f"{words.get(shape.get('type', ''), '')} {limits}".strip()
