"""Cells as the records in their PNGs describe them, and the variant that a recipe starts from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.edits import Edit, UnknownOpError, Variant
from ablate.messages import did_you_mean, shown
from ablate.network import Networks
from ablate.recipe import KeyPath, Recipe
from ablate.sampling import SAMPLING, Point, Sampling
from ablate.store import StoreError, check_asked, read_record
from ablate.sweep.cells import Cell, Condition

KEY: KeyPath = ("base",)
SEED: KeyPath = ("perturbation_seed",)


def cell_of(path: Path, record: dict[str, Any]) -> Cell:
    """The cell that a record describes. Raises `StoreError` if it describes none."""
    check_asked(path, record)
    given = record["condition"]
    point = given.get("point")
    condition = Condition(
        prompt=given["prompt"],
        seed=given["seed"],
        sampling=Sampling(**{name: given["sampling"][name] for name in SAMPLING}),
        point=_point(point) if point else None,
        steps=given.get("steps"),
    )
    try:
        edits = tuple(Edit.from_json(edit) for edit in record["edits"])
    except UnknownOpError as error:
        raise StoreError(str(error)) from error
    except (KeyError, TypeError, ValueError) as error:
        raise StoreError(f"{path}: its record describes no cell: {error!r}") from error
    variant = Variant(record["variant"], edits, record.get("perturbation_seed", 0))
    return Cell(variant, condition, record.get("axes", {}), condition)


def _point(given: dict[str, Any]) -> Point:
    return Point(tuple((text, weight) for text, weight in given["weights"]), given["path"])


@dataclass(frozen=True)
class Base:
    """The variant of a cell, from which a recipe starts.

    Attributes:
        file: The PNG.
        variant: Its variant.
        component: The network that it edits.
        fingerprint: That of its model.
    """

    file: Path
    variant: Variant
    component: str
    fingerprint: str

    @classmethod
    def read(cls, file: Path) -> Base:
        """Read the record of a PNG, which may come from anyone; nothing that it names is loaded.

        Raises:
            StoreError: The file is no cell, or its edits need what only its record names.
        """
        record = read_record(file)
        variant = cell_of(file, record).variant
        for edit in variant.edits:
            if edit.component is not None and not edit.component.isidentifier():
                raise StoreError(f"{file}: `{shown(edit.component)}` is the name of no component")
            if edit.checkpoint is not None:
                raise StoreError(
                    f"{file}: it blends with `{shown(edit.checkpoint)}`, a model that only its"
                    " record names; write that edit into the recipe in its place"
                )
        return cls(file, variant, record["component"], record["model"]["fingerprint"])

    def problems(self, recipe: Recipe, networks: Networks) -> Iterator[tuple[KeyPath, str]]:
        """What of it does not fit a recipe and the networks of its model, with the key."""
        if self.component != networks.name:
            yield KEY, f"edits {self.component}; `component: {self.component}` goes on from it"
            return
        for edit in self.variant.edits:
            if not networks.has(edit.component):
                yield KEY, f"edits `{edit.component}`, which this model does not have"
                return
            catalog = networks.of(edit.component)
            known = {module.path for module in (*catalog, *catalog.blocks)}
            for path in edit.all_modules:
                if path not in known:
                    hint = did_you_mean(path, known) or "; it is a cell of another one"
                    yield KEY, f"edits `{shown(path)}`, no module of this model{hint}"
                    return
            if recipe.compile and edit.where == "output":
                yield KEY, "edits outputs, which a compiled network does not return on the way"
        if self.seed is not None:
            drawn = f"the edits of `base` are drawn from {self.seed}; leave it out"
            if "perturbation_seed" in recipe.axes:
                yield ("axes", "perturbation_seed"), drawn
            elif recipe.gives(SEED) and recipe.perturbation_seed != self.seed:
                yield SEED, f"is {recipe.perturbation_seed}, and {drawn}"

    def check_model(self, fingerprint: str) -> None:
        """Raise `StoreError` unless it is of the model with this fingerprint."""
        if fingerprint != self.fingerprint:
            raise StoreError(
                f"{self.file}: it is a cell of the weights {shown(self.fingerprint)}, and those"
                f" here are {fingerprint}; `base` goes on from cells of the same model"
            )

    @property
    def seed(self) -> int | None:
        """What its edits, and all others with them, are drawn from; None where that is open."""
        return self.variant.perturbation_seed if self.variant.is_random else None
