"""Unit cards: what drives a unit, what it stands for, and what it is needed for.

As Goh et al. 2021, Multimodal neurons in artificial neural networks, and Olah et al. 2020, Zoom in:
an introduction to circuits, look at single units: by the pictures that drive them most, and by what
happens without them.

    cards.json       the cards, the units that stand for each concept, multimodal units
    effects/         a run of its own: pictures without the units, and with more of them
    multimodal.csv   units of the CLIP model that answer to pictures and to words alike
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np

from ablate.engine import KeyedCell, describe_run, with_keys
from ablate.models import ModelError
from ablate.store import Layer, Run, Statistics, finished_file
from ablate.units.concepts import ablation as need, multimodal, search, selectivity
from ablate.units.concepts.ablation import Found, Trial
from ablate.units.record.recording import missing_pictures, render_missing
from ablate.units.record.study import CLIP, Study, StudyError
from ablate.units.visualize import objectives
from ablate.units.visualize.denoiser import Latents
from ablate.units.visualize.images import Images
from ablate.units.visualize.render import render
from ablate.view import save_visualizations

FILE = "cards.json"
TOPS, ALIKE = 8, 2  # samples shown that drive a unit most, and of one prompt
SEEDS = tuple(range(8))  # of the pictures that effects are measured on
TOGETHER = 5  # strongest units of a concept that are edited at once
FINEST = 1024  # rows or columns of a layer's grid, at most


def make(
    study: Study,
    units: Sequence[tuple[str, int]] | None = None,
    count: int = 10,
    seeds: Sequence[int] = SEEDS,
    *,
    visualized: bool = True,
) -> Path:
    """Write the cards of some units, by module path and number, or of `count` that stand out.

    Those that stand out are the units with the largest contrast for any concept, the strongest
    first, but one a concept, and of one layer no more than a third of all cards as long as other
    layers have units that stand for something (`ablate.units.search.threshold`).

    Records the study first where that was not done, and goes on where an earlier time stopped.
    `seeds`: of the pictures that effects are measured on. `visualized`: whether inputs are made
    that drive the units most. Raises `StudyError` where there is no
    such unit, `Stopped` after Ctrl-C.
    """
    need.check(study, seeds)
    for path, _ in units or ():  # before anything is recorded
        search.among(path, [module.path for module in study.layers])
    if len(study.samples) == len(study.setup.stimuli.concepts):
        raise StudyError(search.ONE)
    study.begin("selectivity")
    statistics = recorded(study)
    known = search.Contrasts.of(statistics)
    chosen = (
        outstanding(statistics, count, known)
        if units is None
        else [search.number_of(statistics, path, number) for path, number in dict.fromkeys(units)]
    )
    if not chosen:
        raise StudyError("no units were asked for; name some, or a count above 0")
    _draw(study, statistics, chosen)
    deck = _Deck(study, statistics, chosen, known)
    effects = need.measure(study, [*deck.alone, *deck.together], seeds)
    both = multimodal.find(study, statistics, known)
    unseen: list[str] = []
    if visualized:
        deck.seen, unseen = _visualized(study, statistics, chosen)
    table = search.search(statistics, known=known)
    told = {
        "component": study.component,
        "model": study.pipeline.model,
        "concepts": list(statistics.concepts),
        "threshold": known.least,
        "rough": search.rough(statistics) or None,
        "cards": list(deck.cards(effects)),
        "search": [row for row in table if row["units"]],
        "none": [row["concept"] for row in table if not row["units"]],
        "multimodal": both.rows,
        "notes": [*_notes(study, statistics), *deck.notes(), *both.notes, *unseen],
    }
    return Run(study.folder).write_text(FILE, json.dumps(told, indent=1) + "\n")


def recorded(study: Study) -> Statistics:
    """The statistics of all samples of a study, recorded where they were not yet."""
    path = study.folder / selectivity.FILE
    if path.exists():
        statistics = Statistics.load(path)
        if statistics.done == len(study.samples):
            return statistics
    return selectivity.record_selectivity(study)


def outstanding(
    statistics: Statistics, count: int, known: search.Contrasts | None = None
) -> list[int]:
    """The units that `make` takes by itself, by their numbers among all. `known`: the study's
    contrasts."""
    known = known or search.Contrasts.of(statistics)
    contrast, least = known.values, known.least
    concepts, best = contrast.argmax(0), contrast.max(0)
    layers = np.repeat(np.arange(len(statistics.layers)), [x.units for x in statistics.layers])
    ranked = np.argsort(-best, kind="stable").tolist()
    found: list[int] = []
    for most, low in ((ceil(count / 3), least), (count, -np.inf)):
        for unit in ranked:
            if len(found) == count or best[unit] <= low:
                break
            taken = any(concepts[unit] == concepts[other] for other in found)
            alike = sum(layers[unit] == layers[other] for other in found)
            if not taken and alike < most:
                found.append(unit)
    return sorted(found, key=lambda unit: -best[unit])


def _notes(study: Study, statistics: Statistics) -> Iterator[str]:
    if statistics.skipped:
        yield (
            f"{statistics.skipped} of {statistics.done} samples count for nothing: a unit gave a"
            " value that is not finite."
        )
    for note in (search.rough(statistics), study.letters):
        if note:
            yield note
    if study.reader is None:
        yield (
            "No CLIP model reads the pictures, so that the cards tell of no effects; `--clip` names"
            " one, such as `openai/clip-vit-large-patch14`."
        )


def tops(statistics: Statistics, unit: int, prompts: Sequence[str]) -> list[int]:
    """The ranks of the samples that are shown of a unit: those that drive it most, but for further
    ones of a prompt. `prompts`: of all samples."""
    found: list[int] = []
    for rank, sample in enumerate(statistics.top_samples[:, unit].tolist()):
        before = sum(prompts[statistics.top_samples[r, unit]] == prompts[sample] for r in found)
        if sample >= 0 and before < ALIKE and len(found) < TOPS:
            found.append(rank)
    return found


def sides(places: np.ndarray) -> tuple[int, int] | None:
    """Rows and columns of the grid that places of a layer (n, 2) are middles of; None without any.

    A middle is (row + ½) / rows. The fewest rows are taken that all of them agree with: too few
    only where all happen to be middles of a grid an odd number of times as coarse.
    """
    known = places[~np.isnan(places).any(1)]
    if not len(known):
        return None
    found = []
    for along in known.T.astype(np.float64):
        fits = (n for n in range(1, FINEST + 1) if _whole(along * n - 0.5))
        found.append(next(fits, FINEST))
    return found[0], found[1]


def _whole(values: np.ndarray) -> bool:
    return bool((np.abs(values - values.round()) < 1e-3).all())


def _draw(study: Study, statistics: Statistics, units: Sequence[int]) -> None:
    """Have the pictures made that cards show and that are not there, or cannot be read any more: of
    what reads texts none were made before."""
    prompts = [cell.condition.prompt for cell in study.samples]
    shown = {
        int(statistics.top_samples[rank, unit])
        for unit in units
        for rank in tops(statistics, unit, prompts)
    }
    cells = [study.samples[n] for n in sorted(shown)]
    missing = tuple(cells[n] for n in missing_pictures(study, cells, study.pictures))
    if not missing:
        return
    try:
        render_missing(study, replace(study.plan, cells=missing, floor=()))
    finally:
        # The run is that of all stimuli, whatever is there of it.
        everything = with_keys(study.plan.cells, study.pipeline)
        describe_run(study.plan, study.pipeline, study.pictures, everything)


def _visualized(
    study: Study, statistics: Statistics, units: Sequence[int]
) -> tuple[dict[int, Path], list[str]]:
    """What the units respond to most, a file a unit: what the denoiser makes of latents, images of
    the CLIP model's image encoder; of what reads texts there are none. And why, where there can be
    none."""
    if study.texts:
        return {}, []
    make = objectives.head if study.setup.kind == "heads" else objectives.channel
    places = [statistics.place_of(unit) for unit in units]
    driven = [make(layer.path, number) for layer, number in places]
    folder = study.folder / "visualizations"
    try:
        if study.component == CLIP:
            assert study.reader is not None
            files = render(Images(study.reader), driven, folder, study.progress)
        else:
            files = render(Latents(study.pipeline), driven, folder, study.progress)
            files = [finished_file(file) for file in files]
    except (objectives.ObjectiveError, ModelError) as error:
        return {}, [f"Nothing was visualized: {error}."]
    save_visualizations(folder)
    return dict(zip(units, files, strict=True)), []


class _Deck:
    """The cards of some units, by their numbers among all.

    `alone`, `together`: by card, what is tried of its unit, and of the strongest of its concept.
    `seen`: files of feature visualizations, by unit. `known`: the study's contrasts.
    """

    def __init__(
        self, study: Study, statistics: Statistics, units: Sequence[int], known: search.Contrasts
    ) -> None:
        self.study, self.statistics, self.units = study, statistics, units
        self.seen: Mapping[int, Path] = {}
        self.shots: list[KeyedCell] = with_keys(study.samples, study.pipeline)
        self.prompts = [cell.condition.prompt for cell in study.samples]
        self.contrast, self.least = known.values, known.least
        self.grids: dict[Layer, tuple[int, int] | None] = {}
        self.alone = [self._trial(unit, [unit], need.FACTORS) for unit in units]
        several = (*need.FACTORS, need.REVERSED)
        self.together = [self._trial(unit, self._strongest(unit), several) for unit in units]

    def notes(self) -> Iterator[str]:
        """Which cards are not to be trusted."""
        for unit in self.units:
            if search.silent(self.statistics, unit):
                layer, number = self.statistics.place_of(unit)
                yield (
                    f"`{layer.path}#{number}` was never active: that a concept stands on its card"
                    " means nothing."
                )
        below = sum(float(self.contrast[:, unit].max()) <= self.least for unit in self.units)
        if below:
            which = f"{below} of {len(self.units)} cards are of units with"
            if below == len(self.units):
                which = "All cards are of units with" if below > 1 else "The card is of a unit with"
            yield (
                f"{which} a contrast of {self.least:.2f} or less, which chance gives as well:"
                f" {'these stand' if below > 1 else 'it stands'} for nothing."
            )

    def _ranked(self, unit: int) -> list[int]:
        return search.ranked(self.contrast[:, unit], self.statistics.mean[:, unit])

    def _strongest(self, unit: int) -> list[int]:
        return search.strongest(self.contrast, self._ranked(unit)[0], TOGETHER)

    def _trial(self, unit: int, edited: Sequence[int], factors: tuple[float, ...]) -> Trial:
        places = [self.statistics.place_of(number) for number in edited]
        own = self._ranked(unit)
        return Trial(
            tuple((layer.path, number) for layer, number in places),
            own[0],
            need.others_of(own),
            factors,
        )

    def cards(self, effects: Mapping[Trial, Found]) -> Iterator[dict[str, Any]]:
        """All cards in order, as `cards.json` has them."""
        described = search.described(self.statistics, self.units, self.contrast)
        for i, (unit, known) in enumerate(zip(self.units, described, strict=True)):
            alone, together = (effects.get(t[i]) for t in (self.alone, self.together))
            measured = [row for found in (alone, together) if found for row in found.rows]
            yield {
                **known,
                "top": list(self._tops(unit)),
                "effects": [row for row in measured if row["factor"] in need.FACTORS],
                "sentence": need.sentence(alone.rows) if alone else None,
                "examples": list(alone.examples) if alone else [],
                "together": self._together(unit, together),
                "visualization": self._seen(unit),
            }

    def _together(self, unit: int, found: Found | None) -> dict[str, Any]:
        """The strongest units of the card's concept. Their effects, removed and amplified, stand
        beside the unit's own; here those of all of them turned around."""
        concept, own = self._ranked(unit)[0], self._strongest(unit)
        rows = found.rows if found else ()
        factors = (0.0, need.REVERSED) if found else ()
        return {
            "units": [search.told(self.statistics, u, self.contrast[concept, u]) for u in own],
            "sentences": [need.sentence(rows, factor) for factor in factors],
            "reversed": [row for row in rows if row["factor"] == need.REVERSED],
            "examples": list(found.examples) if found else [],
        }

    def _tops(self, unit: int) -> Iterator[dict[str, Any]]:
        layer, _ = self.statistics.place_of(unit)
        places = self.statistics.top_places
        grid = self._grid(layer)
        for rank in tops(self.statistics, unit, self.prompts):
            shot = self.shots[self.statistics.top_samples[rank, unit]]
            path = self.study.pictures.path(shot.key).relative_to(self.study.folder)
            yield {
                "image": path.as_posix(),
                "prompt": shot.cell.condition.prompt,
                "seed": shot.cell.condition.seed,
                "value": float(self.statistics.top_values[rank, unit]),
                "place": _frame(places[rank, unit], grid),
            }

    def _grid(self, layer: Layer) -> tuple[int, int] | None:
        if layer not in self.grids:
            places = self.statistics.top_places[:, self.statistics.slice_of(layer)]
            self.grids[layer] = sides(places.reshape(-1, 2))
        return self.grids[layer]

    def _seen(self, unit: int) -> str | None:
        path = self.seen.get(unit)
        return None if path is None else path.relative_to(self.study.folder).as_posix()


def _frame(middle: np.ndarray, grid: tuple[int, int] | None) -> list[float] | None:
    """The cell of a grid around its middle, y and x: top, left, bottom, right."""
    if grid is None or np.isnan(middle).any():
        return None
    (y, x), (rows, columns) = middle.tolist(), grid
    row, column = round(y * rows - 0.5), round(x * columns - 0.5)
    return [row / rows, column / columns, (row + 1) / rows, (column + 1) / columns]
