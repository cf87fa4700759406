"""The JSON Schema of recipes, made from the tables that reading them uses."""

from __future__ import annotations

from typing import Any

from ablate.axes import GROUPINGS, ORDERS, SAMPLING
from ablate.embeddings import PATHS
from ablate.ops import DISTRIBUTIONS, OPS
from ablate.recipe import DTYPES, VERSION

_TEXT = {"type": "string"}
_WHOLE = {"type": "integer", "minimum": 0}
_NUMBER = {"type": "number"}
_REF = {"type": "string", "pattern": r"^\$[A-Za-z_]\w*$"}
_SELECTOR = {"$ref": "#/$defs/selector"}
_NUMBERS = {
    "values": {"type": "array", "minItems": 1, "uniqueItems": True},
    "range": {"type": "array", "items": _NUMBER, "minItems": 2, "maxItems": 2},
    "linspace": {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3},
    "geomspace": {"type": "array", "items": _NUMBER, "minItems": 3, "maxItems": 3},
}


def schema() -> dict[str, Any]:
    """The schema, draft 2020-12. What refers to axes or to a network it cannot check."""
    sampling = dict.fromkeys(SAMPLING, _TEXT) | {
        "num_inference_steps": {"type": "integer", "minimum": 1},
        "guidance_scale": _NUMBER,
        "width": {"type": "integer", "minimum": 8, "multipleOf": 8},
        "height": {"type": "integer", "minimum": 8, "multipleOf": 8},
    }
    names = {"type": "array", "items": _TEXT}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ablate recipe",
        **_mapping(
            {
                "version": {"const": VERSION},
                "name": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*$"},
                "about": _TEXT,
                "model": _TEXT,
                "revision": _TEXT,
                "component": _TEXT,
                "clip": _TEXT,
                "vocabulary": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
                "dtype": {"enum": list(DTYPES)},
                "compile": {"type": "boolean"},
                "prompts": {"type": "array", "items": _TEXT, "minItems": 1, "uniqueItems": True},
                "seeds": {"type": "array", "items": _WHOLE, "minItems": 1, "uniqueItems": True},
                "noise_floor": {"type": "integer", "minimum": 2},
                "perturbation_seed": _WHOLE,
                "sampling": _mapping(sampling),
                "axes": {"type": "object", "additionalProperties": _axis()},
                "zip": {"anyOf": [names, {"type": "array", "items": names}]},
                "edits": {"type": "array", "items": {"oneOf": [_edit(name) for name in OPS]}},
                "sheet": _mapping(
{"rows": {"anyOf": [_TEXT, names]}, "columns": {"anyOf": [_TEXT, names]},
                     "concepts": {"type": "boolean"}}),
            },
            required=("version", "name"),
        ),
        "$defs": {
            "selector": {
                "anyOf": [
                    {"type": "string", "minLength": 1},
                    {"type": "array", "items": _SELECTOR, "minItems": 1},
                    _mapping({"not": _SELECTOR}, required=("not",)),
                    _mapping({"sample": _mapping(
                        {"of": _SELECTOR, "count": {"type": "integer", "minimum": 1},
                         "seed": {"type": "integer"}}, required=("of", "count"))},
                        required=("sample",)),
                ]
            }
        },
    }  # fmt: skip


def _mapping(properties: dict[str, Any], required: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _axis() -> dict[str, Any]:
    group = {"modules": _SELECTOR, "by": {"enum": list(GROUPINGS)}}
    counts = [_with_step(form) for form in _NUMBERS] + [{"type": "array", "items": _WHOLE}]
    cumulative = {
        "modules": _SELECTOR,
        "order": {"enum": list(ORDERS)},
        "seed": {"anyOf": [_WHOLE, _REF]},
        "counts": {"anyOf": counts},
        "run": _TEXT,
    }
    return {
        "oneOf": [
            *(_with_step(form) for form in _NUMBERS),
            _mapping({"each": _SELECTOR}, required=("each",)),
            _mapping({"group": _mapping(group)}, required=("group",)),
            _mapping({"cumulative": _mapping(cumulative)}, required=("cumulative",)),
            _mapping(
                {"embedding": {"anyOf": [_space(), {"type": "array", "items": _space()}]}},
                required=("embedding",),
            ),
        ]
    }


def _space() -> dict[str, Any]:
    """Points of embedding space."""
    forms = [_with_step(form) for form in _NUMBERS if form != "values"]
    numbers = {"anyOf": [{"type": "array", "items": _NUMBER, "minItems": 1}, *forms]}
    between = {"from": _TEXT, "to": _TEXT, "t": numbers, "path": {"enum": list(PATHS)}}
    directions = {"anyOf": [_TEXT, _WHOLE]}
    plane = {
        "center": _TEXT,
        "toward": {"type": "array", "items": directions, "minItems": 2, "maxItems": 2},
        "extent": {"type": "number", "exclusiveMinimum": 0},
        "size": {"type": "integer", "minimum": 3},
        "zoom": numbers,
    }
    prompts = {"type": "array", "items": _TEXT, "minItems": 2, "uniqueItems": True}
    random = {"count": {"type": "integer", "minimum": 1}, "seed": _WHOLE, "prompts": prompts}
    return {
        "oneOf": [
            {"const": "unconditional"},
            _mapping({"between": _mapping(between, ("from", "to", "t"))}, ("between",)),
            _mapping({"plane": _mapping(plane, ("center", "toward", "size"))}, ("plane",)),
            _mapping({"random": _mapping(random, ("count",))}, ("random",)),
        ]
    }


def _with_step(form: str) -> dict[str, Any]:
    if form == "range":
        step = _NUMBER | {"not": {"const": 0}}
        return _mapping({form: _NUMBERS[form], "step": step}, required=(form, "step"))
    return _mapping({form: _NUMBERS[form]}, required=(form,))


def _edit(name: str) -> dict[str, Any]:
    op = OPS[name]
    settings: dict[str, Any] = {"modules": _SELECTOR, "params": {"enum": ["weight", "bias"]}}
    steps = {"type": "array", "items": _WHOLE, "minItems": 2, "maxItems": 2}
    settings["when"] = _mapping({"steps": steps}, required=("steps",))
    required = ["modules"]
    if op.strength:
        settings[op.strength] = {"anyOf": [_NUMBER, _REF]}
        required.append(op.strength)
    if op.has_distribution:
        settings["distribution"] = {"anyOf": [{"enum": list(DISTRIBUTIONS)}, _REF]}
    body = _mapping(settings, required=tuple(required)) | {"description": op.about}
    return _mapping({name: body}, required=(name,))
