"""A recipe expanded: variants, conditions and cells, before any is computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ablate.edits import Variant
from ablate.network import Catalog
from ablate.recipe import Recipe
from ablate.sampling import Point, Sampling
from ablate.sweep.axes import PlanAxis

if TYPE_CHECKING:
    from ablate.sweep.recorded import Base

BASELINE = Variant("baseline")


@dataclass(frozen=True)
class Condition:
    """What is asked of a network.

    Attributes:
        prompt: The prompt; the description of `point`, where there is one.
        seed: What the first latents are drawn from.
        sampling: How the image is sampled.
        point: A point of embedding space in place of the prompt's embedding.
        steps: The image as it is after so many steps; None, as it is in the end.
    """

    prompt: str
    seed: int
    sampling: Sampling
    point: Point | None = None
    steps: int | None = None


@dataclass(frozen=True)
class Cell:
    """One image.

    Attributes:
        variant: The edits of the network.
        condition: What is asked of it.
        axes: The values of the axes that lead to the cell, by name.
        baseline: The condition of the baseline that it is compared with.
    """

    variant: Variant
    condition: Condition
    axes: Mapping[str, Any]
    baseline: Condition

    @property
    def group(self) -> Condition:
        """What all cells have in common that share a noise floor."""
        return replace(self.baseline, seed=0)


@dataclass(frozen=True)
class Plan:
    """A recipe expanded over the modules of its networks.

    Attributes:
        recipe: The recipe.
        catalog: The modules of the network that is edited.
        axes: The axes, whose values are known.
        cells: All images in the order of the sweep, added baselines first.
        floor: Further baselines, of other seeds, for the noise floor alone.
        guided: How many rows of the denoiser a step of a guided cell takes.
        same: Variants that give the images of an earlier one, with that one.
        notes: Sentences on what is valid, but may not be what was meant.
        base: What all its variants start from, if anything.
    """

    recipe: Recipe
    catalog: Catalog
    axes: tuple[PlanAxis, ...]
    cells: tuple[Cell, ...]
    floor: tuple[Cell, ...] = ()
    guided: int = 2
    same: Mapping[Variant, Variant] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    base: Base | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All variants in the order in which they first appear."""
        return tuple(dict.fromkeys(cell.variant for cell in self.cells))

    @property
    def conditions(self) -> tuple[Condition, ...]:
        return tuple(dict.fromkeys(cell.condition for cell in self.cells))

    def part(self, cells: Iterable[Cell]) -> Plan:
        """The plan of some cells, its own or others of its conditions, in the order given.

        It has their baselines and noise floors, and only those values of axes that they have.
        """
        baselines = {c.condition: c for c in reversed(self.cells) if c.variant.is_baseline}
        chosen = tuple(cells)
        there = {cell.condition for cell in chosen if cell.variant.is_baseline}
        wanted = dict.fromkeys(cell.baseline for cell in chosen)
        added = tuple(baselines[c] for c in wanted if c not in there)
        cells, groups = (*added, *chosen), {cell.group for cell in chosen}
        first: dict[Variant, Variant] = {}
        for variant in {id(cell.variant): cell.variant for cell in cells}.values():
            first.setdefault(self.same.get(variant, variant), variant)
        firsts = {cell.variant: first[self.same.get(cell.variant, cell.variant)] for cell in cells}
        return replace(
            self,
            cells=cells,
            same={variant: one for variant, one in firsts.items() if variant != one},
            floor=tuple(cell for cell in self.floor if cell.group in groups),
            axes=tuple(axis.limited([cell.axes for cell in cells]) for axis in self.axes),
        )

    @property
    def denoiser_rows(self) -> int:
        """How many single-image evaluations of the denoiser the cells need.

        Guidance counts twice where it is not distilled into the network; references, which run
        along in every batch, count once.
        """
        distinct = self.distinct()
        exact = {v: _exact(self.same.get(v, v).for_sampling) for v in self.variants}
        samplings = {(exact[c.variant], replace(c.condition, steps=None)) for c in distinct} | {
            (reference, replace(c.condition, prompt=reference.prompt, seed=reference.seed))
            for c in distinct
            for reference in c.variant.references
        }
        return sum(
            c.sampling.num_inference_steps * (self.guided if c.sampling.guidance_scale > 1 else 1)
            for _, c in samplings
        )

    def distinct(self) -> tuple[Cell, ...]:
        """All cells without those whose edits and condition an earlier one has."""
        cells: dict[Any, Cell] = {}
        for cell in (*self.cells, *self.floor):
            cells.setdefault((_exact(cell.variant), cell.condition), cell)
        return tuple(cells.values())


def _exact(variant: Variant) -> Any:
    """What determines images of a variant, as `Variant.identity`; 1 and 1.0 are written unlike."""
    numbers = [repr((edit.strength, edit.dose, edit.when)) for edit in variant.edits]
    return variant.edits, *numbers, variant.perturbation_seed if variant.is_random else None
