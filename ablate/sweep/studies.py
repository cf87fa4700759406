"""Units that a study recorded, as edits name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ablate.messages import did_you_mean
from ablate.network import Catalog, Networks, Unit, drawn_order
from ablate.recipe import KeyPath, UnitsSpec
from ablate.store import Layer, StatisticsError, read_statistics
from ablate.sweep.axes import BindingError, selected


class StudyUnits:
    """The units of a study that an edit may choose from.

    Args:
        spec: What the edit asks for.
        path: The key of it in the recipe.

    Raises:
        BindingError: The study is not there, or not whole.
    """

    def __init__(self, spec: UnitsSpec, path: KeyPath) -> None:
        self.spec = spec
        self.path = path
        self.layers: list[Layer] = []
        self._kept: dict[tuple[Any, ...], tuple[tuple[str, Unit], ...]] = {}
        try:
            self.study = read_statistics(Path(spec.run))
        except StatisticsError as error:
            raise BindingError((*path, "run"), str(error)) from error

    def bind(self, networks: Networks, component: str | None, blocks: bool) -> None:
        """Look its layers up in a model's networks.

        Args:
            component: Whose units are edited; None for the network that is.
            blocks: Whether blocks can be edited.

        Raises:
            BindingError: The study is of another network.
        """
        run, path = self.spec.run, (*self.path, "run")
        name = component or networks.name
        self.layers = [layer for layer in self.study.layers if layer.component == name]
        if not self.layers:
            others = sorted({layer.component for layer in self.study.layers} - {"clip"})
            message = (
                f"{run} has units of {', '.join(others)}, not of {name}; `component: {others[0]}`"
                " edits those"
                if others
                else f"{run} has only units of the CLIP model that reads images, which no recipe"
                " edits: it takes no part in rendering them"
            )
            raise BindingError(path, message)
        catalog = networks.of(component)
        if self.spec.modules:
            self._narrow(catalog)
        for layer in self.layers:
            wrong = _unlike(layer, catalog, blocks)
            if wrong is not None:
                raise BindingError(path, f"{run}: {wrong}")

    def wrong_concept(self, name: object) -> str | None:
        """Why units cannot be ordered by a concept; None where they can."""
        known = self.study.concepts
        if name in known and self.study.spreads:
            return None
        if name in known:
            return (
                f"{self.spec.run} has one sample a concept: no spread to measure contrast in; more"
                " `--seeds` of the study give it"
            )
        hint = did_you_mean(str(name), known) or f"; it has {', '.join(known[:8])}"
        return f"{self.spec.run} has no concept `{name}`{hint}"

    def wrong_count(self, count: object) -> str | None:
        """Why there are not so many units; None where there are."""
        there = sum(layer.units for layer in self.layers)
        if not isinstance(count, int) or count <= there:
            return None
        return f"asks for {count} units; there are {there}"

    def chosen(self, settings: Mapping[str, Any]) -> tuple[tuple[str, Unit], ...]:
        """The units that are asked for, by module path, without modules that have none of them.

        Of equal ones the first. Drawn ones depend on the seed and the module path alone.

        Args:
            settings: `order`, `concept`, `fraction`, `count` and `seed`, without references.
        """
        known = tuple(settings.values())
        if known not in self._kept:
            self._kept[known] = self._choose(**settings)
        return self._kept[known]

    def _choose(
        self,
        order: str,
        concept: str | None,
        fraction: float | None,
        count: int | None,
        seed: int,
    ) -> tuple[tuple[str, Unit], ...]:
        scores = self._scores(order, concept, seed)
        ranks = np.argsort(np.concatenate(scores), kind="stable")
        wanted = np.zeros(len(ranks), bool)
        wanted[ranks[: count or 0]] = True
        chosen, start = [], 0
        for layer, of_layer in zip(self.layers, scores, strict=True):
            mask = wanted[start : start + layer.units]
            start += layer.units
            if fraction is not None:
                mask[np.argsort(of_layer, kind="stable")[: round(fraction * layer.units)]] = True
            if mask.any():
                chosen.append((layer.path, Unit(layer.kind, tuple(np.flatnonzero(mask).tolist()))))
        return tuple(chosen)

    def _scores(self, order: str, concept: str | None, seed: int) -> list[np.ndarray]:
        """A number for each unit of each layer; the smallest come first."""
        if order == "random":
            return [np.array(drawn_order(seed, of.path, of.units)) for of in self.layers]
        if concept is None:
            values = self.study.selectivity()
        else:
            values = self.study.contrast()[self.study.concepts.index(str(concept))]
        values = values if order == "least" else -values
        return [values[self.study.slice_of(layer)] for layer in self.layers]

    def _narrow(self, catalog: Catalog) -> None:
        """Keep the layers that the selector names: some by each item of a list."""
        selector, path = self.spec.modules or "*", (*self.path, "modules")

        def paths_of(part: Any) -> set[str]:
            return {module.path for module in selected(part, catalog, path, blocks=True)}

        paths = paths_of(selector)
        items: Sequence[Any] = selector if isinstance(selector, list) else [selector]
        for item in items:
            # What is taken out again, or drawn, need not be there.
            alone = paths_of(item) if isinstance(item, str) else paths
            if not any(layer.path in alone for layer in self.layers):
                which = f"none of `{item}`" if len(items) > 1 else "none of these"
                rest = f" and {len(self.layers) - 1} more" if len(self.layers) > 1 else ""
                message = (
                    f"{self.spec.run} has units of {which}; it has those of"
                    f" `{self.layers[0].path}`{rest}"
                )
                raise BindingError(path, message)
        self.layers = [layer for layer in self.layers if layer.path in paths]


def _unlike(layer: Layer, catalog: Catalog, blocks: bool) -> str | None:
    """Why the units of a layer cannot be edited in a network; None where they can."""
    info = next((m for m in (*catalog, *catalog.blocks) if m.path == layer.path), None)
    if info is None:
        hint = did_you_mean(layer.path, [m.path for m in (*catalog, *catalog.blocks)])
        return f"`{layer.path}` is no module of this model{hint or '; was it of another one?'}"
    if info in catalog.blocks and not blocks:
        return f"`{layer.path}` is a block, which has no weights; add `where: output`"
    there = getattr(info, layer.kind)
    if there != layer.units and (there or layer.kind == "heads"):
        return (
            f"`{layer.path}` has {layer.units} {layer.kind} there and {there} in this model; was it"
            " of another one?"
        )
    return None
