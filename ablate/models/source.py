"""Where a model comes from: what a recipe tells of it, and what a cell's record keeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

OFFLOADS = ("model",)


@dataclass(frozen=True)
class Lora:
    """Low-rank matrices to be added to a model's weights (Hu et al. 2021, LoRA).

    `model`: a safetensors file, a folder or a hub id; `weight_name`: which file of it; `scale`: how
    much of what it says is added.
    """

    model: str
    weight_name: str | None = None
    scale: float = 1.0
    revision: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    `model`: `bundled`, a hub id, a folder in diffusers' format, `sd15-random`, or one safetensors
    file, which the folder or hub id `config` describes; `revision`: of what is on the hub;
    `variant`: of weight files, as `fp16`; `lora`: added to the weights, one after the other.
    `offload`: `model` keeps on the accelerator only the network at work; no image depends on it.
    """

    model: str = "bundled"
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    lora: tuple[Lora, ...] = ()
    offload: str | None = None

    @classmethod
    def of(cls, asked: Any) -> Source:
        """What a recipe says of its model."""
        return cls(**{field.name: getattr(asked, field.name) for field in fields(cls)})

    def as_json(self) -> dict[str, Any]:
        """Plain objects for a cell's PNG; what is not set is left out."""
        told = asdict(self) | {"lora": [_set(asdict(lora)) for lora in self.lora] or None}
        return {"id": told.pop("model")} | _set(told, "offload")

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Source:
        """The source that `as_json` told of; other keys stand beside it. Raises `KeyError` or
        `TypeError` when it is none."""
        names = ("revision", "variant", "config")
        return cls(
            told["id"],
            lora=tuple(Lora(**lora) for lora in told.get("lora", ())),
            **{name: told[name] for name in names if name in told},
        )


def _set(told: Mapping[str, Any], *but: str) -> dict[str, Any]:
    return {key: value for key, value in told.items() if value is not None and key not in but}
