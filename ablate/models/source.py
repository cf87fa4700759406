"""Where a model comes from: given by recipes, kept in the records of cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

OFFLOADS = ("model",)


@dataclass(frozen=True)
class Lora:
    """Low-rank matrices to be added to a model's weights (Hu et al. 2021, LoRA).

    Attributes:
        model: A safetensors file, a folder or a hub id.
        weight_name: The file in it.
        scale: The factor of the matrices.
        revision: The revision on the hub.
    """

    model: str
    weight_name: str | None = None
    scale: float = 1.0
    revision: str | None = None


@dataclass(frozen=True)
class Source:
    """Where a model comes from.

    Attributes:
        model: `bundled`, a hub id, a folder in diffusers' format, `sd15-random`, or one safetensors
            file.
        revision: The revision on the hub.
        variant: The variant of weight files, such as `fp16`.
        config: The folder or hub id with the configuration of a model that is one file.
        lora: Added to the weights, one after the other.
        offload: `model` keeps only the network in use on the accelerator; images do not depend on
            it.
    """

    model: str = "bundled"
    revision: str | None = None
    variant: str | None = None
    config: str | None = None
    lora: tuple[Lora, ...] = ()
    offload: str | None = None

    @classmethod
    def of(cls, recipe: Any) -> Source:
        """The source of a recipe's model: the attributes of the same names."""
        return cls(**{field.name: getattr(recipe, field.name) for field in fields(cls)})

    def as_json(self) -> dict[str, Any]:
        """Plain objects for the record of a cell; what is not set is left out."""
        data = asdict(self) | {"lora": [_without_none(asdict(lora)) for lora in self.lora] or None}
        del data["offload"]
        return {"id": data.pop("model")} | _without_none(data)

    def located(self) -> Source:
        """The same source, with full paths of all files and folders."""
        return replace(
            self,
            model=located(self.model),
            config=self.config and located(self.config),
            lora=tuple(replace(lora, model=located(lora.model)) for lora in self.lora),
        )

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Source:
        """The source of `as_json`; further keys are ignored. Raises `KeyError` or `TypeError`."""
        names = ("revision", "variant", "config")
        return cls(
            data["id"],
            lora=tuple(Lora(**lora) for lora in data.get("lora", ())),
            **{name: data[name] for name in names if name in data},
        )


def located(model: str) -> str:
    """The name of a model as it is understood from every folder: a file's or folder's full path."""
    path = Path(model)
    return str(path.absolute()) if model != "bundled" and path.exists() else model


def as_source(model: str | Source) -> Source:
    """The source of a model that is given by its name alone."""
    return model if isinstance(model, Source) else Source(model)


def _without_none(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if value is not None}
