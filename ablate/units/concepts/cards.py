"""Unit cards: what drives a unit, which concepts it is selective for, and what it is needed for.

As Goh et al. 2021, Multimodal neurons in artificial neural networks, and Olah et al. 2020, Zoom in:
an introduction to circuits, look at single units: by the pictures that drive them most, and by what
changes without them.

    cards.json       the cards, the units of each concept, multimodal units
    effects/         a run: pictures without the units, and with more of them
    multimodal.csv   units of the CLIP model that respond to pictures and to words alike
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from ablate.engine import describe_run, with_keys
from ablate.models import ModelError
from ablate.store import Layer, Run, Statistics, StoreError, finished_file, read_cards
from ablate.units.concepts import ablation, search
from ablate.units.concepts.ablation import Effects, Trial
from ablate.units.concepts.multimodal import find_multimodal
from ablate.units.concepts.search import Contrasts
from ablate.units.concepts.selectivity import record_selectivity, recorded_statistics
from ablate.units.record.recording import missing_pictures, render_missing
from ablate.units.record.setup import CLIP, StudyError
from ablate.units.record.study import Study
from ablate.units.visualize import objectives
from ablate.units.visualize.denoiser import Latents
from ablate.units.visualize.images import Images
from ablate.units.visualize.render import render
from ablate.view import save_visualizations

FILE = "cards.json"
TOPS, ALIKE = 8, 2  # samples that drive a unit most: on a card, and of one prompt
SEEDS = tuple(range(8))  # of the pictures that effects are measured on
TOGETHER = 5  # strongest units of a concept that are edited at once
FINEST = 1024  # rows or columns of a layer's grid, at most


def write_cards(
    study: Study,
    units: Sequence[tuple[str, int]] | None = None,
    count: int = 10,
    seeds: Sequence[int] = SEEDS,
    *,
    visualized: bool = True,
) -> Path:
    """Write the cards of some units, and return the path of `cards.json`.

    Without named units they are those of the largest contrast for any concept, the strongest first,
    but one a concept, and of one layer no more than a third of all cards as long as other layers
    have units above the threshold (`search.threshold`). Records the study first where that was not
    done.

    Args:
        units: Module path and number of each.
        count: The number of cards where no units are named.
        seeds: Of the pictures that effects are measured on.
        visualized: Whether to optimize inputs that drive the units.

    Raises:
        StudyError: There is no such unit.
        Stopped: Ctrl-C was pressed.
    """
    ablation.check_seeds(study, seeds)
    for path, _ in units or ():  # before anything is recorded
        search.check_layer(path, [module.path for module in study.layers])
    if len(study.samples) == len(study.setup.stimuli.concepts):
        raise StudyError(search.ONE)
    study.begin("selectivity")
    statistics = _statistics(study)
    contrasts = Contrasts.of(statistics)
    if units is None:
        chosen = outstanding_units(statistics, count, contrasts)
    else:
        chosen = [search.unit_index(statistics, *unit) for unit in dict.fromkeys(units)]
    if not chosen:
        raise StudyError("no units were asked for; name some, or a count above 0")
    _render_tops(study, statistics, chosen)
    deck = _Deck(study, statistics, chosen, contrasts)
    effects = ablation.measure_effects(study, [*deck.alone, *deck.together], seeds)
    multimodal = find_multimodal(study, statistics, contrasts)
    pictures, note = _visualize(study, statistics, chosen) if visualized else ({}, "")
    table = search.search_units(statistics, contrasts=contrasts)
    notes = [*_notes(study, statistics), *deck.notes(), *multimodal.notes, note]
    content = {
        "component": study.component,
        "model": study.pipeline.model,
        "concepts": list(statistics.concepts),
        "threshold": contrasts.least,
        "rough": search.few_samples_note(statistics) or None,
        "cards": _with_earlier(study, list(deck.cards(effects, pictures))),
        "search": [row for row in table if row["units"]],
        "none": [row["concept"] for row in table if not row["units"]],
        "multimodal": multimodal.rows,
        "notes": [note for note in notes if note],
    }
    return Run(study.folder).write_text(FILE, json.dumps(content, indent=1) + "\n")


def _with_earlier(study: Study, cards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return cards, and after them those of other units that the study has already."""
    fresh = {(card["module"], card["unit"]) for card in cards}
    try:
        earlier = read_cards(study.folder).get("cards", [])
    except StoreError:  # `cards.json` is written anew
        earlier = []
    return cards + [card for card in earlier if (card["module"], card["unit"]) not in fresh]


def _statistics(study: Study) -> Statistics:
    """Return the statistics of all samples of a study; record those that are missing."""
    statistics = recorded_statistics(study)
    if statistics is not None and statistics.done == len(study.samples):
        return statistics
    return record_selectivity(study)


def outstanding_units(statistics: Statistics, count: int, contrasts: Contrasts) -> list[int]:
    """Return the units that get a card where none are named, by their indices among all."""
    concepts, best = contrasts.values.argmax(0), contrasts.values.max(0)
    layers = np.repeat(np.arange(len(statistics.layers)), [x.units for x in statistics.layers])
    ranked = np.argsort(-best, kind="stable").tolist()
    units: list[int] = []
    for most, least in ((ceil(count / 3), contrasts.least), (count, -np.inf)):
        for unit in ranked:
            if len(units) == count or best[unit] <= least:
                break
            taken = any(concepts[unit] == concepts[other] for other in units)
            alike = sum(layers[unit] == layers[other] for other in units)
            if not taken and alike < most:
                units.append(unit)
    return sorted(units, key=lambda unit: -best[unit])


def _notes(study: Study, statistics: Statistics) -> list[str]:
    skipped = clip = ""
    if statistics.skipped:
        skipped = (
            f"{statistics.skipped} of {statistics.done} samples do not count: a unit had a value"
            " that is not finite."
        )
    if study.reader is None:
        clip = (
            "No CLIP model reads the pictures, so that the cards have no effects; `--clip` names"
            " one, such as `openai/clip-vit-large-patch14`."
        )
    return [skipped, search.few_samples_note(statistics), study.letters_note, clip]


def top_ranks(statistics: Statistics, unit: int, prompts: Sequence[str]) -> list[int]:
    """Return the ranks of the samples on a unit's card: those that drive it most, `ALIKE` of a
    prompt at most. `prompts`: of all samples."""
    ranks: list[int] = []
    for rank, sample in enumerate(statistics.top_samples[:, unit].tolist()):
        before = sum(prompts[statistics.top_samples[r, unit]] == prompts[sample] for r in ranks)
        if sample >= 0 and before < ALIKE and len(ranks) < TOPS:
            ranks.append(rank)
    return ranks


def grid_sides(places: np.ndarray) -> tuple[int, int] | None:
    """Return rows and columns of the grid whose middles places (n, 2) are; None without any.

    A middle is (row + ½) / rows. The fewest rows are taken that all of them agree with: too few
    only where all happen to be middles of a grid an odd number of times as coarse.
    """
    places = places[~np.isnan(places).any(1)]
    if not len(places):
        return None
    rows, columns = (
        next((n for n in range(1, FINEST + 1) if _whole(along * n - 0.5)), FINEST)
        for along in places.T.astype(np.float64)
    )
    return rows, columns


def _whole(values: np.ndarray) -> bool:
    return bool((np.abs(values - values.round()) < 1e-3).all())


def _render_tops(study: Study, statistics: Statistics, units: Sequence[int]) -> None:
    """Render the pictures of cards that are missing or broken: of layers that read texts none were
    rendered before."""
    prompts = [cell.condition.prompt for cell in study.samples]
    samples = {
        int(statistics.top_samples[rank, unit])
        for unit in units
        for rank in top_ranks(statistics, unit, prompts)
    }
    cells = [study.samples[n] for n in sorted(samples)]
    missing = tuple(cells[n] for n in missing_pictures(study, cells))
    if not missing:
        return
    try:
        render_missing(study, replace(study.plan, cells=missing, floor=()))
    finally:
        # The run is that of all stimuli, however many of them have pictures.
        keyed = with_keys(study.plan.cells, study.pipeline)
        describe_run(study.plan, study.pipeline, study.pictures, keyed)


def _visualize(
    study: Study, statistics: Statistics, units: Sequence[int]
) -> tuple[dict[int, Path], str]:
    """Optimize inputs that drive the units: latents of the denoiser, sampled to their end, or
    images of the CLIP model. Layers that read texts have none.

    Returns:
        A file for each unit, and a note where there can be none.
    """
    if study.texts:
        return {}, ""
    objective = objectives.head if study.setup.kind == "heads" else objectives.channel
    places = [statistics.place_of(unit) for unit in units]
    driven = [objective(layer.path, number) for layer, number in places]
    folder = study.folder / "visualizations"
    try:
        if study.component == CLIP:
            assert study.reader is not None
            files = render(Images(study.reader), driven, folder, study.progress)
        else:
            files = render(Latents(study.pipeline), driven, folder, study.progress)
            files = [finished_file(file) for file in files]
    except (objectives.ObjectiveError, ModelError) as error:
        return {}, f"Nothing was visualized: {error}."
    save_visualizations(folder)
    return dict(zip(units, files, strict=True)), ""


class _Deck:
    """The cards of some units, by their indices among all.

    Attributes:
        alone: By card, the trial of its unit.
        together: By card, the trial of the strongest units of its concept.
    """

    def __init__(
        self, study: Study, statistics: Statistics, units: Sequence[int], contrasts: Contrasts
    ) -> None:
        self.study, self.statistics, self.units = study, statistics, units
        self.contrasts = contrasts
        self.shots = with_keys(study.samples, study.pipeline)
        self.prompts = [cell.condition.prompt for cell in study.samples]
        self.grids: dict[Layer, tuple[int, int] | None] = {}
        self.ranked = {
            unit: search.rank_concepts(statistics, contrasts, unit) for unit in units
        }  # all concepts by unit
        self.strongest = {
            unit: search.strongest_units(contrasts, self.ranked[unit][0], TOGETHER)
            for unit in units
        }
        several = (*ablation.FACTORS, ablation.REVERSED)
        self.alone = [self._trial(unit, [unit], ablation.FACTORS) for unit in units]
        self.together = [self._trial(unit, self.strongest[unit], several) for unit in units]

    def notes(self) -> Iterator[str]:
        """Yield which cards are not to be trusted."""
        for unit in self.units:
            if search.is_silent(self.statistics, unit):
                layer, number = self.statistics.place_of(unit)
                yield (
                    f"`{layer.path}#{number}` was never active: the concept on its card means"
                    " nothing."
                )
        least = self.contrasts.least
        below = sum(float(self.contrasts.values[:, unit].max()) <= least for unit in self.units)
        if below:
            which = f"{below} of {len(self.units)} cards are of units with"
            if below == len(self.units):
                which = "All cards are of units with" if below > 1 else "The card is of a unit with"
            yield (
                f"{which} a contrast of {least:.2f} or less, which chance gives as well:"
                f" {'they are' if below > 1 else 'it is'} selective for nothing."
            )

    def _trial(self, unit: int, edited: Sequence[int], factors: tuple[float, ...]) -> Trial:
        places = [self.statistics.place_of(number) for number in edited]
        ranked = self.ranked[unit]
        return Trial(
            tuple((layer.path, number) for layer, number in places),
            ranked[0],
            ablation.other_concepts(ranked),
            factors,
        )

    def cards(
        self, effects: Mapping[Trial, Effects], pictures: Mapping[int, Path]
    ) -> Iterator[dict[str, Any]]:
        """Yield all cards, as `cards.json` has them. `pictures`: visualizations, by unit."""
        described = search.describe_units(self.statistics, self.units, self.contrasts)
        for i, (unit, row) in enumerate(zip(self.units, described, strict=True)):
            alone, together = (effects.get(trials[i]) for trials in (self.alone, self.together))
            measured = [row for result in (alone, together) if result for row in result.rows]
            picture = pictures.get(unit)
            yield {
                **row,
                "top": list(self._tops(unit)),
                "effects": [row for row in measured if row["factor"] in ablation.FACTORS],
                "sentence": ablation.sentence(alone.rows) if alone else None,
                "examples": list(alone.examples) if alone else [],
                "together": self._together(unit, together),
                "visualization": picture and picture.relative_to(self.study.folder).as_posix(),
            }

    def _together(self, unit: int, effects: Effects | None) -> dict[str, Any]:
        """Return the strongest units of the card's concept. The effects of removing and amplifying
        them are beside those of the unit; here are those of reversing all of them."""
        contrasts = self.contrasts.values[self.ranked[unit][0]]
        rows = effects.rows if effects else ()
        factors = (0.0, ablation.REVERSED) if effects else ()
        return {
            "units": [
                search.unit_row(self.statistics, u, contrasts[u]) for u in self.strongest[unit]
            ],
            "sentences": [ablation.sentence(rows, factor) for factor in factors],
            "reversed": [row for row in rows if row["factor"] == ablation.REVERSED],
            "examples": list(effects.examples) if effects else [],
        }

    def _tops(self, unit: int) -> Iterator[dict[str, Any]]:
        layer, _ = self.statistics.place_of(unit)
        if layer not in self.grids:
            places = self.statistics.top_places[:, self.statistics.slice_of(layer)]
            self.grids[layer] = grid_sides(places.reshape(-1, 2))
        for rank in top_ranks(self.statistics, unit, self.prompts):
            shot = self.shots[self.statistics.top_samples[rank, unit]]
            path = self.study.pictures.path(shot.key).relative_to(self.study.folder)
            yield {
                "image": path.as_posix(),
                "prompt": shot.cell.condition.prompt,
                "seed": shot.cell.condition.seed,
                "value": float(self.statistics.top_values[rank, unit]),
                "place": _frame(self.statistics.top_places[rank, unit], self.grids[layer]),
            }


def _frame(middle: np.ndarray, grid: tuple[int, int] | None) -> list[float] | None:
    """Return the cell of a grid around its middle, y and x: top, left, bottom, right."""
    if grid is None or np.isnan(middle).any():
        return None
    (y, x), (rows, columns) = middle.tolist(), grid
    row, column = round(y * rows - 0.5), round(x * columns - 0.5)
    return [row / rows, column / columns, (row + 1) / rows, (column + 1) / columns]
