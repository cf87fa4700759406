"""The JSON Schema of recipes, made from the tables that reading them uses."""

from __future__ import annotations

from typing import Any

from ablate.edits import BY, OPS, Op
from ablate.models import OFFLOADS
from ablate.network import UNITS
from ablate.recipe.axes import AXIS_FORMS, CUMULATIVE, GROUPINGS, ORDERS, UNIT_FORMS
from ablate.recipe.edits import CHOSEN, OF_AXES, PARAMS, RANKED, keys_of
from ablate.recipe.recipe import DTYPES, LORA_KEYS, TOP_LEVEL, VERSION
from ablate.recipe.spaces import NUMERIC, SPACES
from ablate.sampling import INTERPOLATIONS, SAMPLING

Shape = dict[str, Any]
_TEXT: Shape = {"type": "string"}
_WHOLE: Shape = {"type": "integer", "minimum": 0}
_COUNT: Shape = {"type": "integer", "minimum": 1}
_NUMBER: Shape = {"type": "number"}
_SHARE: Shape = {"type": "number", "minimum": 0, "maximum": 1}
_REF: Shape = {"type": "string", "pattern": r"^\$[A-Za-z_]\w*$"}
_SELECTOR: Shape = {"$ref": "#/$defs/selector"}


def recipe_schema() -> Shape:
    """The schema, draft 2020-12. What refers to axes or to a network it cannot check."""
    names = {"type": "array", "items": _TEXT}
    axes = {"anyOf": [_TEXT, names]}
    texts = ("about", "model", "revision", "variant", "config", "component", "ops", "clip")
    shapes = dict.fromkeys(texts, _TEXT) | {
        "version": {"const": VERSION},
        "name": {"type": "string", "pattern": r"^[A-Za-z0-9][A-Za-z0-9._-]*$"},
        "lora": {"type": "array", "items": _lora(), "minItems": 1},
        "offload": {"enum": list(OFFLOADS)},
        "vocabulary": _list(_TEXT),
        "dtype": {"enum": list(DTYPES)},
        "compile": {"type": "boolean"},
        "prompts": _list(_TEXT),
        "seeds": _list(_WHOLE),
        "noise_floor": {"type": "integer", "minimum": 2},
        "perturbation_seed": _WHOLE,
        "sampling": _sampling(),
        "axes": {"type": "object", "additionalProperties": _axis()},
        "zip": {"anyOf": [names, {"type": "array", "items": names}]},
        "edits": {"type": "array", "items": _edits()},
        "sheet": _mapping({"rows": axes, "columns": axes, "concepts": {"type": "boolean"}}),
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ablate recipe",
        **_mapping({key: shapes[key] for key in TOP_LEVEL}, ("version", "name")),
        # A file of ops may define others than are known here.
        "if": {"not": {"required": ["ops"]}},
        "then": {"properties": {"edits": {"items": {"propertyNames": {"enum": list(OPS)}}}}},
        "$defs": {"selector": _selector()},
    }


def _mapping(properties: Shape, required: tuple[str, ...] = ()) -> Shape:
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def _list(items: Shape | bool, least: int = 1) -> Shape:
    """A list of different items."""
    return {"type": "array", "items": items, "minItems": least, "uniqueItems": True}


def _exactly(*items: Shape) -> Shape:
    """A list of these items, one after the other."""
    return {"type": "array", "prefixItems": list(items), "items": False, "minItems": len(items)}


def _or_ref(shape: Shape) -> Shape:
    return {"anyOf": [shape, _REF]}


def _selector() -> Shape:
    sample = _mapping(
        {"of": _SELECTOR, "count": _COUNT, "seed": {"type": "integer"}}, ("of", "count")
    )
    return {
        "anyOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "items": _SELECTOR, "minItems": 1},
            _mapping({"not": _SELECTOR}, ("not",)),
            _mapping({"sample": sample}, ("sample",)),
        ]
    }


def _lora() -> Shape:
    shapes = {key: _NUMBER if key == "scale" else _TEXT for key in LORA_KEYS}
    return {"anyOf": [_TEXT, _mapping(shapes, ("model",))]}


def _sampling() -> Shape:
    size = {"type": "integer", "minimum": 8, "multipleOf": 8}
    shapes = {
        "num_inference_steps": _COUNT,
        "guidance_scale": _NUMBER,
        "width": size,
        "height": size,
    }
    return _mapping({key: shapes.get(key, _TEXT) for key in SAMPLING})


def _axis() -> Shape:
    group = {"modules": _SELECTOR, "component": _TEXT, "by": {"enum": list(GROUPINGS)}}
    cumulative = {
        "modules": _SELECTOR,
        "component": _TEXT,
        "order": {"enum": list(ORDERS)},
        "seed": _or_ref(_WHOLE),
        "counts": {"anyOf": [_list(_WHOLE), *(_numeric(form, _NUMBER) for form in NUMERIC)]},
        "run": _TEXT,
    }
    chosen = _mapping({"modules": _SELECTOR, "component": _TEXT}) | {"minProperties": 1}
    of_modules = {"anyOf": [_SELECTOR, chosen]}
    shapes = dict.fromkeys(("each", *UNIT_FORMS), of_modules) | {
        "group": _mapping(group),
        "cumulative": _mapping({key: cumulative[key] for key in CUMULATIVE}),
        "windows": {"anyOf": [{"type": "integer", "minimum": 2}, _list(_window(refs=False))]},
        "embedding": {"anyOf": [_space(), {"type": "array", "items": _space(), "minItems": 1}]},
    }
    return {
        "oneOf": [
            _numeric(form) if form in NUMERIC else _mapping({form: shapes[form]}, (form,))
            for form in AXIS_FORMS
        ]
    }


def _numeric(form: str, items: Shape | bool = True) -> Shape:
    """Values, which are such items, or what gives numbers."""
    if form == "values":
        return _mapping({form: _list(items)}, (form,))
    if form == "range":
        step = _NUMBER | {"not": {"const": 0}}
        return _mapping({form: _exactly(_NUMBER, _NUMBER), "step": step}, (form, "step"))
    return _mapping({form: _exactly(_NUMBER, _NUMBER, _COUNT)}, (form,))


def _space() -> Shape:
    """Points of embedding space."""
    direction = {"anyOf": [_TEXT, _WHOLE]}
    numbers = {"anyOf": [_list(_NUMBER), *(_numeric(form, _NUMBER) for form in NUMERIC)]}
    shapes = {
        "t": numbers,
        "path": {"enum": list(INTERPOLATIONS)},
        "toward": _exactly(direction, direction),
        "extent": {"type": "number", "exclusiveMinimum": 0},
        "size": {"type": "integer", "minimum": 3},
        "zoom": numbers,
        "count": _COUNT,
        "seed": _WHOLE,
        "prompts": _list(_TEXT, least=2),
    }
    required = {
        "between": ("from", "to", "t"),
        "plane": ("center", "toward", "size"),
        "random": ("count",),
    }
    return {
        "oneOf": [
            _mapping({f: _mapping({k: shapes.get(k, _TEXT) for k in keys}, required[f])}, (f,))
            if keys
            else {"const": f}
            for f, keys in SPACES.items()
        ]
    }


def _edits() -> Shape:
    return {
        "type": "object",
        "properties": {name: _edit(op) for name, op in OPS.items()},
        "additionalProperties": {
            "type": "object",
            "anyOf": [{"required": ["modules"]}, {"required": ["units"]}],
        },
        "minProperties": 1,
        "maxProperties": 1,
    }


def _edit(op: Op) -> Shape:
    """The settings of an edit with this op."""
    shapes = {
        "modules": _SELECTOR,
        "component": _TEXT,
        "where": {"enum": list(op.places)},
        "params": {"enum": list(PARAMS)},
        "when": _or_ref(_window(refs=True)),
        "unit": _unit(),
        "units": _units(),
        "text": _TEXT,
        op.strength: _or_ref(_strength(op)),
        "dose": _or_ref({"type": "number", "minimum": 0}),
        op.kind_key: _or_ref({"enum": list(op.kinds)}),
        "with": _SELECTOR if op.draws == "partner" else _TEXT,
        "over": _mapping({"prompts": _list(_TEXT), "seeds": _list(_WHOLE)}),
    }
    keys = keys_of(op)
    needed: list[str] = [key for key in ("with", "text") if key in keys]
    needed += ["modules"] if "modules" in keys and "units" not in keys else []
    needed += ["where"] if op.places[0] == "output" else []
    needed += [op.strength] if op.strength and "dose" not in keys else []
    made = {"description": op.about, **_mapping({k: shapes[k] for k in keys}, tuple(needed))}
    if "units" in keys:
        alone = {"not": {"anyOf": [{"required": ["modules"]}, {"required": ["unit"]}]}}
        made["anyOf"] = [{"required": ["modules"], "properties": {"units": False}},
                         {"required": ["units"], **alone}]  # fmt: skip
    if "dose" in keys:
        made["oneOf"] = [{"required": [op.strength]}, {"required": ["dose"]}]
    of_weights = [key for key in ("params", "dose") if key in keys]
    if "where" in keys and of_weights:
        output = {"properties": {"where": {"const": "output"}}, "required": ["where"]}
        made |= {"if": output, "then": {"properties": dict.fromkeys(of_weights, False)}}
    return made


def _strength(op: Op) -> Shape:
    """The numbers that the op's strength may be."""
    bounds = {"minimum": op.least, "maximum": op.most, "exclusiveMinimum": op.above}
    made: Shape = _NUMBER | {key: bound for key, bound in bounds.items() if bound is not None}
    if op.counts_from is None:
        return made
    if op.least is not None and op.least >= op.counts_from:
        return made | {"type": "integer"}
    return made | {"anyOf": [{"exclusiveMaximum": op.counts_from}, {"type": "integer"}]}


def _window(*, refs: bool) -> Shape:
    """A window of the sampling; with `refs`, its ends may refer to axes."""
    ends = {by: _WHOLE if by == "steps" else _SHARE for by in BY}
    ends = {by: _or_ref(end) if refs else end for by, end in ends.items()}
    return {"oneOf": [_mapping({by: _exactly(end, end)}, (by,)) for by, end in ends.items()]}


def _units() -> Shape:
    """Units that a study found."""
    shapes: Shape = {
        "order": {"enum": list(RANKED)},
        "fraction": _SHARE,
        "count": _WHOLE,
        "seed": _WHOLE,
        "modules": _SELECTOR,
    }
    held = {key: shapes.get(key, _TEXT) for key in CHOSEN}
    held = {key: _or_ref(shape) if key in OF_AXES else shape for key, shape in held.items()}
    one = [{"required": ["fraction"]}, {"required": ["count"]}]
    return _mapping(held, ("run",)) | {"oneOf": one}


def _unit() -> Shape:
    number = {"anyOf": [_WHOLE, {"type": "string", "pattern": r"^\d+-\d+$"}]}
    numbers = {"anyOf": [number, _REF, _list(number)]}
    return {"oneOf": [_mapping({kind: numbers}, (kind,)) for kind in UNITS]}
