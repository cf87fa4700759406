"""Drift: how far each cell is from the baseline of its condition, and what it shows.

Reads the run's folder alone: a run can be measured again without its network. A `ConceptReader`,
such as `ablate.drift.Reader`, names concepts; without one their columns stay empty.

    drift.csv        a row a finished cell: distances, distances in noise floors, class, concepts
    effects.csv      drift over seeds with its interval (`ablate.drift.effects`)
    sets.csv         distances between sets of images (`ablate.drift.sets`)
    drift.json       the models that read, the vocabulary, the noise floors, notes to the user
    embeddings.npz   embeddings of images and words by the model that names; without one, of images
                     by the first of the further readers
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ablate.drift import effects
from ablate.drift.effects import Floor, Sample, decimal, explained, figure, read_rows
from ablate.drift.embeddings import write_embeddings
from ablate.drift.images import (
    DISTANCES,
    NAMED,
    ConceptReader,
    Concepts,
    Embedder,
    Features,
    Further,
    pairwise_distances,
)
from ablate.drift.metrics import judged, score
from ablate.drift.sets import SetDistance, measure_sets, write_sets
from ablate.store import (
    Run,
    StoredCell,
    StoreError,
    read_table,
    regular,
    write_table,
)

NAMES = ("concept", "probability", "concept_2", "probability_2", "concept_3", "probability_3")
NONE = "none"  # what an image shows that no word names
NAMELESS = ("noise", "structure without concept")  # classes of images that show none
KNOWN = 0.05  # quantile of the margins of known images below which an image shows none
ENOUGH = (20, 4)  # baselines and prompts that make a sample of known images
TABLE = "drift.csv"
SUMMARY = "drift.json"
FLOOR_SEEDS = 32  # their pairs, nearly 500, are enough; more would only cost time


@dataclass(frozen=True)
class MeasuredCell(StoredCell):
    """A finished cell with its measurements. NaN cells have no drift.

    Attributes:
        state: `ok` or `nan`.
        drift: The distances that are known, and `score`, by name.
        floors: The distances among them in units of the noise floor.
        class_name: One of `CLASSES`, empty where unknown.
        margin: The difference of its two largest cosines with words.
        named: Whether the likeliest word names what it shows.
        concepts: The likeliest words with their probabilities, the likeliest first.
    """

    state: str = "ok"
    drift: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    class_name: str = ""
    margin: float | None = None
    named: bool = True
    concepts: tuple[tuple[str, float], ...] = ()

    @property
    def shows(self) -> str:
        """The word for what it shows, or `none`; empty without a CLIP model."""
        return "" if not self.concepts else self.concepts[0][0] if self.named else NONE


# Class of a cell from the cell, its image in [0, 1] of shape (height, width, 3), and its baseline.
Classify = Callable[[MeasuredCell, np.ndarray, MeasuredCell | None], str]


def write_drift(
    run: Run,
    reader: ConceptReader | None = None,
    vocabulary: Sequence[str] | None = None,
    classify: Classify | None = None,
    further: Further | None = None,
) -> list[MeasuredCell]:
    """Measure all finished cells of a run and write the tables into its folder.

    Args:
        run: The run.
        reader: A model that names what images show; None for drift alone.
        vocabulary: The concepts; the reader's by default.
        classify: A function that returns the class of a cell.
        further: Further readers and metrics.
    """
    measured = _Measurement(run, reader, vocabulary, classify, further)
    valid = [cell for cell in measured.cells if cell.state == "ok"]
    distances = list(measure_sets(valid, measured.further.sets))
    summary = {
        "clip": reader.id if reader else None,
        "vocabulary": measured.concepts.words if measured.concepts else [],
        "readers": [reader.id for reader in measured.further.readers.values()],
        "notes": [*measured.notes(), *measured.notes_on_sets(distances)],
        "floors": [
            {"group": floor.group, "prompt": floor.prompt, "seeds": len(floor.seeds)}
            | {metric: floor.mean(metric) for metric in measured.further.distances}
            for floor in measured.floors.values()
        ],
    }
    embeddings = next(iter(measured.embedder.embeddings.values()), {})
    write_embeddings(run, embeddings, dict.fromkeys(measured.order), measured.concepts)
    effects.write_effects(run, effects.estimate(list(measured.samples())))
    write_sets(run, distances)
    run.write_text(SUMMARY, json.dumps(summary, indent=1) + "\n")
    _write_table(run, measured.cells, measured.further.distances)
    return measured.cells


# A noise floor is that of one group, prompt and size: runs of older versions have a single group.
_Group = tuple[int, str, tuple[int, ...]]


class _Measurement:
    """The measurements of a run: its finished cells in plan order, and their noise floors."""

    def __init__(
        self,
        run: Run,
        reader: ConceptReader | None = None,
        vocabulary: Sequence[str] | None = None,
        classify: Classify | None = None,
        further: Further | None = None,
    ) -> None:
        self.further = further or Further()
        everything, floor = list(run.cells()), run.floor()
        planned = [cell for cell in everything if cell.done]
        spare = [cell for cell in floor if cell.done]
        self.unfinished = {  # conditions of which a baseline is planned and not there yet
            (cell.group, cell.prompt)
            for cell in (*everything, *floor) if cell.is_baseline and not cell.done
        }  # fmt: skip
        self.seeds: dict[tuple[str, str], set[int]] = {}  # as planned, by variant and prompt
        for cell in everything:
            if not cell.is_baseline:
                self.seeds.setdefault((cell.variant, cell.prompt), set()).add(cell.seed)
        self.embedder = Embedder(reader, self.further)
        self.classify = classify
        self.concepts: Concepts | None = None
        if reader is not None:
            prompts = dict.fromkeys(cell.prompt for cell in planned if not cell.point)
            self.concepts = Concepts(reader, vocabulary or reader.vocabulary, list(prompts))
        baselines = [c for c in planned if c.is_baseline] + spare
        # Of a point in embedding space the baseline may be the image of another prompt.
        self.prompts = {cell.key: cell.prompt for cell in baselines}
        self.floors = dict(self._floors(baselines))
        self.floor_of: dict[str, Floor] = {}  # by key of the cell
        measured = self._measured(planned)
        cells = [replace(measured[cell.key, cell.baseline], **vars(cell)) for cell in planned]
        least = _least_margin(reader, cells)
        self.cells = [replace(cell, named=_is_named(cell, least)) for cell in cells]
        self.order = [cell.key for cell in (*planned, *spare)]

    def _floors(self, baselines: Sequence[StoredCell]) -> Iterator[tuple[_Group, Floor]]:
        groups: dict[tuple[int, str], dict[str, StoredCell]] = {}
        for cell in baselines:
            groups.setdefault((cell.group, cell.prompt), {}).setdefault(cell.key, cell)
        for (group, prompt), by_key in groups.items():
            sizes: dict[tuple[int, ...], dict[int, Features]] = {}
            cells = by_key.values()
            for cell, image in zip(cells, self.embedder.features(cells), strict=True):
                alike = sizes.setdefault(image.pixels.shape, {})
                if image.state == "ok" and len(alike) < FLOOR_SEEDS:
                    alike.setdefault(cell.seed, image)
            for size, alike in sizes.items():
                seeds = tuple(sorted(alike))
                pairs = pairwise_distances([alike[seed] for seed in seeds])
                yield (group, prompt, size), Floor(group, prompt, seeds, pairs)

    def _measured(self, planned: Sequence[StoredCell]) -> dict[tuple[str, str], MeasuredCell]:
        """Measured cells by their key and that of their baseline."""
        results: dict[tuple[str, str], MeasuredCell] = {}
        order = {key: i for i, key in enumerate(dict.fromkeys(c.baseline for c in planned))}
        distinct = {(cell.key, cell.baseline): cell for cell in planned}.values()
        # Each baseline directly before its cells, so that one at a time is in memory.
        todo = sorted(distinct, key=lambda c: (order[c.baseline], not c.is_baseline))
        baseline: Features | None = None
        for cell, image in zip(todo, self.embedder.features(todo), strict=True):
            if cell.is_baseline:
                baseline = image
            elif baseline is not None and baseline.key != cell.baseline:
                baseline = None
            measured = self._one(cell, image, baseline)
            if self.classify is not None and image.state == "ok":
                reference = results.get((cell.baseline, cell.baseline))
                name = self.classify(measured, image.image, reference)
                measured = replace(measured, class_name=name)
            results[cell.key, cell.baseline] = measured
        return results

    def _one(self, cell: StoredCell, image: Features, baseline: Features | None) -> MeasuredCell:
        prompt = self.prompts.get(cell.baseline, cell.prompt)
        empty = Floor(cell.group, prompt, (), {})
        floor = self.floors.get((cell.group, prompt, image.pixels.shape), empty)
        self.floor_of[cell.key] = floor
        drift: dict[str, float] = {}
        floors: dict[str, float] = {}
        concepts: tuple[tuple[str, float], ...] = ()
        margin: float | None = None
        if image.state == "ok" and baseline is not None and baseline.state == "ok":
            drift = image.distances(baseline)
            units = {metric: floor.mean(metric) for metric in drift}
            floors = {m: judged(m, drift[m]) / unit for m, unit in units.items() if unit}
            if "ssim" in drift:
                drift["ssim"] = 1 - drift["ssim"]
        embedding = image.embeddings.get("embedding")
        if embedding is not None and self.concepts is not None:
            concepts = self.concepts.likeliest(embedding)
            margin = self.concepts.margin(embedding)
            if not cell.point:
                drift["score"] = score(embedding, self.concepts.prompts[cell.prompt])
        return MeasuredCell(
            **vars(cell), state=image.state, drift=drift, floors=floors, margin=margin,
            concepts=concepts,
        )  # fmt: skip

    def samples(self) -> Iterator[Sample]:
        """Distances of each variant in each condition, by metric and seed."""
        distances = self.further.distances
        known = [m for m in distances if any(m in cell.drift for cell in self.cells)]
        alike: dict[str, list[MeasuredCell]] = {}
        for cell in self.cells:
            if not cell.is_baseline:
                key = json.dumps([cell.variant, cell.prompt, _axes(cell)], sort_keys=True)
                alike.setdefault(key, []).append(cell)
        for cells in alike.values():
            first = cells[0]
            for metric in known:
                by_seed = {c.seed: _distance(c, metric) for c in cells if metric in c.drift}
                yield Sample(first.variant, first.prompt, _axes(first), metric, by_seed,
                             self.floor_of[first.key], first.same_as)  # fmt: skip

    def notes(self) -> Iterator[str]:
        """Sentences to the user about empty columns, and how to fill them."""
        if self.concepts is None:
            yield (
                "No CLIP model has read these images, so that `embedding`, `score` and the concepts"
                " are empty: name one by `clip:` in the recipe, or by `ablate drift RUN --clip ID`."
            )
        bare = sum(
            len(floor.seeds) < 2 and (floor.group, floor.prompt) not in self.unfinished
            for floor in self.floors.values()
        )
        if bare:
            yield (
                f"{_share(bare, len(self.floors), 'condition')} fewer than two baselines of"
                " different seeds, and so no noise floor: write"
                " `noise_floor: 8` into the recipe, or more `seeds`."
            )
        most = max(map(len, self.seeds.values()), default=effects.FEWEST)
        if most < effects.FEWEST:
            seeds = "one seed" if most == 1 else f"{most} seeds"
            yield (
                f"Each variant has {seeds}, too few to say whether it matters: write"
                f" {effects.FEWEST} `seeds` or more into the recipe."
            )
        compared = [cell.drift for cell in self.cells if "rmse" in cell.drift]
        lacking = sum("latent" not in drift for drift in compared)
        if lacking:
            yield (
                f"{_share(lacking, len(compared), 'image')} no final latents stored, so that"
                " `latent` is empty there: `ablate run RECIPE --fresh` stores them."
            )

    def notes_on_sets(self, distances: Sequence[SetDistance]) -> Iterator[str]:
        """Sentences to the user about sets, as those that are too small."""
        for name, metric in self.further.sets.items():
            known = [distance for distance in distances if distance.metric == name]
            if not known and any(not cell.is_baseline for cell in self.cells):
                yield (
                    f"`{name}` needs sets of {metric.fewest} images or more: give more `prompts` or"
                    " `seeds`."
                )
            yield from metric.notes(known)


def _least_margin(reader: ConceptReader | None, cells: Sequence[MeasuredCell]) -> float | None:
    """The margin below which images show no concept: the reader's, or that of baselines of several
    prompts, which show what was asked for; None where there are too few."""
    if reader is None or reader.margin is not None:
        return reader.margin if reader else None
    known = {c.key: c for c in cells if c.is_baseline and not c.point and c.margin is not None}
    baselines, prompts = ENOUGH
    if len(known) < baselines or len({cell.prompt for cell in known.values()}) < prompts:
        return None
    margins = [cell.margin for cell in known.values() if cell.margin is not None]
    return float(np.quantile(margins, KNOWN))


def _is_named(cell: MeasuredCell, least: float | None) -> bool:
    if cell.class_name in NAMELESS:
        return False
    return least is None or cell.margin is None or cell.margin >= least


def _distance(cell: MeasuredCell, metric: str) -> float:
    value = cell.drift[metric]
    return judged(metric, 1 - value if metric == "ssim" else value)


def _axes(cell: StoredCell) -> dict[str, Any]:
    return {name: v for name, v in cell.axes.items() if name not in ("prompt", "seed")}


def _share(count: int, total: int, noun: str) -> str:
    if count < total:
        return f"{count} of {total} {noun}s have"
    return f"All {count} {noun}s have" if count > 1 else f"The only {noun} has"


def read_cells(run: Run) -> list[MeasuredCell]:
    """All finished cells of a run with their measurements, in plan order.

    They are measured again where `drift.csv` is missing, of an older version, or of other cells.
    """
    cells = [cell for cell in run.cells() if cell.done]
    header, rows = _table(run)
    distances = _distances(run, header)
    if distances is None or [row[0] for row in rows] != [cell.path.name for cell in cells]:
        return _Measurement(run).cells
    start = len(_heads(run))
    with explained(run, TABLE):
        pairs = list(zip(cells, rows, strict=True))
        return read_rows(pairs, lambda pair: _cell(pair[0], pair[1][start:], distances))


def _table(run: Run) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of `drift.csv`; none where there is no such file."""
    if not (run.folder / TABLE).exists():
        return [], []
    with explained(run, TABLE):
        header, rows = read_table(run.folder / TABLE)
        if not header:
            raise StoreError("it is empty")
    return header, rows


def _distances(run: Run, header: Sequence[str]) -> tuple[str, ...] | None:
    """The distances of a table by its header; None if that is not of this version."""
    heads = _heads(run)
    measured = header[len(heads) :]  # by position: an axis may have the name of a column
    if "score" not in measured:
        return None
    distances = tuple(measured[1 : measured.index("score")])
    known = distances[: len(DISTANCES)] == DISTANCES
    return distances if known and header == [*heads, *_measured(distances)] else None


def read_notes(run: Run) -> list[str]:
    """The sentences to the user about what could not be measured."""
    notes = [str(note) for note in _summary(run).get("notes", ())]
    header, _ = _table(run)
    if header and _distances(run, header) is None:
        notes.append(
            f"`{TABLE}` is of another version, so that concepts are missing: `ablate drift"
            f" {run.folder}` writes it again."
        )
    return notes


def measured_with(run: Run) -> tuple[str | None, list[str] | None, list[str] | None]:
    """The CLIP model, the vocabulary and the further readers that a run was last measured with;
    None where there were none, or that is not known any more."""
    try:
        summary = _summary(run)
    except StoreError:
        summary = {}
    clip, words, readers = (summary.get(key) for key in ("clip", "vocabulary", "readers"))
    return clip if isinstance(clip, str) else None, _texts(words) or None, _texts(readers)


def _texts(value: Any) -> list[str] | None:
    known = isinstance(value, list) and all(isinstance(text, str) for text in value)
    return value if known else None


def _summary(run: Run) -> dict[str, Any]:
    """What `drift.json` contains; empty without one."""
    path = run.folder / SUMMARY
    if not path.exists():
        return {}
    with explained(run, SUMMARY):
        summary = json.loads(regular(path).read_text(encoding="utf-8"))
        if not isinstance(summary, dict) or not isinstance(summary.get("notes"), list):
            raise StoreError("it has no list of `notes`")
        return summary


def _heads(run: Run) -> list[str]:
    """The columns that say which cell a row is of."""
    axes = [axis.name for axis in run.axes() if axis.name not in ("prompt", "seed")]
    return ["cell", "variant", "prompt", "seed", *axes]


def _measured(distances: Sequence[str]) -> list[str]:
    """The columns of what is measured."""
    floors = (f"{metric}_floors" for metric in distances)
    return ["state", *distances, "score", *floors, "class", "shows", "margin", *NAMES, "same_as"]


def _write_table(run: Run, cells: Sequence[MeasuredCell], distances: Sequence[str]) -> None:
    heads = _heads(run)
    rows = (
        [
            cell.path.name, cell.variant, cell.prompt, cell.seed,
            *(cell.axes.get(axis, "") for axis in heads[4:]), cell.state,
            *(decimal(cell.drift[m]) if m in cell.drift else "" for m in (*distances, "score")),
            *(decimal(cell.floors[m]) if m in cell.floors else "" for m in distances),
            cell.class_name, cell.shows, "" if cell.margin is None else f"{cell.margin:.6f}",
            *_named(cell), cell.same_as,
        ]
        for cell in cells
    )  # fmt: skip
    write_table(run.folder / TABLE, [*heads, *_measured(distances)], rows)


def _named(cell: MeasuredCell) -> list[str]:
    """The columns of concepts and their probabilities; empty where there are fewer."""
    named = [part for word, odds in cell.concepts for part in (word, f"{odds:.6f}")]
    return named + [""] * (2 * NAMED - len(named))


def _cell(cell: StoredCell, row: Sequence[str], distances: Sequence[str]) -> MeasuredCell:
    metrics = (*distances, "score")
    state, *figures = row[: 1 + len(metrics) + len(distances)]
    class_name, shows, margin, *named, _ = row[1 + len(metrics) + len(distances) :]
    drift = zip(metrics, figures, strict=False)
    floors = zip(distances, figures[len(metrics) :], strict=True)
    return MeasuredCell(
        **vars(cell),
        state=state,
        drift={metric: figure(text) for metric, text in drift if text},
        floors={metric: figure(text) for metric, text in floors if text},
        class_name=class_name,
        margin=figure(margin) if margin else None,
        named=shows != NONE,
        concepts=tuple(
            (word, figure(odds)) for word, odds in zip(named[::2], named[1::2], strict=True) if word
        ),
    )
