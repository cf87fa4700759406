"""What the record of a cell asks for, within bounds: a PNG may come from anyone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from ablate.messages import shown
from ablate.store.files import StoreError

Text = Annotated[str, Field(strict=True, max_length=100_000)]
Name = Annotated[str, Field(strict=True, max_length=4_000)]
Whole = Annotated[int, Field(strict=True, ge=0, lt=2**64)]
Steps = Annotated[int, Field(strict=True, ge=1, le=10_000)]
Side = Annotated[int, Field(strict=True, ge=1, le=2**14)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Modules = Annotated[list[Name], Field(max_length=50_000)]


class _Sampling(BaseModel):
    num_inference_steps: Steps
    guidance_scale: Number
    scheduler: Name
    negative_prompt: Text
    width: Side
    height: Side


class _Point(BaseModel):
    weights: Annotated[list[tuple[Text, Number]], Field(min_length=1, max_length=1_000)]
    path: Literal["lerp", "slerp"]


class _Condition(BaseModel):
    prompt: Text
    seed: Whole
    sampling: _Sampling
    point: _Point | None = None
    steps: Whole | None = None


class _Edit(BaseModel):
    op: Name
    modules: Modules
    partners: Modules = []
    component: Name | None = None
    checkpoint: Name | None = None
    text: Text | None = None
    dose: Number | None = None
    over: Annotated[list[tuple[Text, Whole]], Field(max_length=10_000)] = []
    when: dict[Name, tuple[Number, Number]] | None = None
    unit: dict[Name, Annotated[list[Whole], Field(max_length=100_000)]] | None = None


class _Lora(BaseModel):
    model: Name
    scale: Number = 1.0
    weight_name: Name | None = None
    revision: Name | None = None


class _Model(BaseModel):
    id: Annotated[Name, Field(min_length=1)]
    fingerprint: Name
    revision: Name | None = None
    variant: Name | None = None
    config: Name | None = None
    lora: Annotated[list[_Lora], Field(max_length=100)] = []


class _Record(BaseModel):
    variant: Text
    condition: _Condition
    edits: Annotated[list[_Edit], Field(max_length=10_000)]
    perturbation_seed: Whole = 0
    model: _Model
    component: Name
    dtype: Literal["float32", "float16", "bfloat16", "float64"]
    compile: Annotated[bool, Field(strict=True)] = False
    axes: dict[Name, Any] = {}
    versions: dict[Name, Name] = {}


def check_asked(path: Path, record: dict[str, Any]) -> None:
    """Raise `StoreError` for a record that describes no cell, or asks for more than one needs."""
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        # Of a key of a mapping, pydantic says so at the end.
        place = ".".join(str(part) for part in first["loc"])
        given = "" if first["type"] == "missing" else f", not {_given(first['input'])}"
        message = first["msg"][:1].lower() + first["msg"][1:]
        raise StoreError(
            f"{path}: its record describes no cell: `{shown(place)}`: {message}{given}"
        ) from error


def _given(value: Any) -> str:
    """A value in a message; of one that is long, its kind."""
    if isinstance(value, dict | list):
        return f"{len(value):,} {'keys' if isinstance(value, dict) else 'entries'}"
    if isinstance(value, int) and not isinstance(value, bool) and value < 10**18:
        return f"{value:,}"
    return f"`{shown(value, 40)}`"
