"""Drift: how far each cell lies from the baseline of its own condition, and what it shows.

Reads the store alone: a run can be measured again without its network. What a picture shows is
told by a `Reader`, such as `ablate.concepts.Reader`; without one the columns of meaning stay empty.

    drift.csv        a row a finished cell: metrics, metrics in noise floors, class, concepts
    effects.csv      drift over seeds with its interval (see `ablate.effects`)
    drift.json       who read the images, over which words, the noise floors, notes to the user
    embeddings.npz   what the reader made of images and words
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ablate.drift import effects
from ablate.drift.effects import Floor, Sample
from ablate.drift.images import DISTANCES, NAMED, Eye, Look, Reader, Words, apart
from ablate.drift.metrics import score
from ablate.store import Run, StoredCell, atomic_write, read_table, write_table

METRICS = (*DISTANCES, "score")
NAMES = ("concept", "probability", "concept_2", "probability_2", "concept_3", "probability_3")
MEASURED = ("state", *METRICS, *(f"{metric}_floors" for metric in DISTANCES), "class", *NAMES)
TABLE = "drift.csv"
EMBEDDINGS = "embeddings.npz"
FLOOR_SEEDS = 32  # whose pairs, nearly 500, are compared; more would cost time and tell no more


@dataclass(frozen=True)
class MeasuredCell(StoredCell):
    """A finished cell with what was measured of it. NaN cells have no drift.

    `drift`: by metric, those of `METRICS` that are known. `floors`: the distances among them in
    units of the noise floor. `class_name`: what became of the picture, empty where unknown.
    `concepts`: the likeliest words and their probabilities, likeliest first.
    """

    state: str = "ok"
    drift: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    class_name: str = ""
    concepts: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Embeddings:
    """Unit vectors of the images and words of a run, rows in the order of `keys` and `words`."""

    keys: tuple[str, ...]
    images: np.ndarray  # (keys, width)
    words: tuple[str, ...]
    texts: np.ndarray  # (words, width)


# Class of a cell from the cell, its image in [0, 1] of shape (height, width, 3), and its baseline.
Classify = Callable[[MeasuredCell, np.ndarray, MeasuredCell | None], str]


def measure(run: Run) -> list[MeasuredCell]:
    """All finished cells of a run with what pixels and latents tell of them, in plan order."""
    return _Work(run).cells


def write_drift(
    run: Run,
    reader: Reader | None = None,
    vocabulary: Sequence[str] | None = None,
    classify: Classify | None = None,
) -> list[MeasuredCell]:
    """Measure all finished cells of a run and write what was found into its folder.

    `reader`: what tells what images show, in the words of `vocabulary` or else its own.
    `classify`: what names the class of a cell.
    """
    work = _Work(run, reader, vocabulary, classify)
    found = {
        "clip": reader.id if reader else None,
        "vocabulary": work.words.words if work.words else [],
        "notes": list(work.notes()),
        "floors": [
            {"group": floor.group, "prompt": floor.prompt, "seeds": len(floor.seeds)}
            | {metric: floor.mean(metric) for metric in DISTANCES}
            for floor in work.floors.values()
        ],
    }
    _write_embeddings(run, work)
    effects.write_effects(run, effects.estimate(list(work.samples())))
    run.write_text("drift.json", json.dumps(found, indent=1) + "\n")
    _write_table(run, work.cells)
    return work.cells


# A noise floor holds for one group, prompt and size: runs of older versions have a single group.
_Group = tuple[int, str, tuple[int, ...]]


class _Work:
    """A run measured: its finished cells in plan order, and the noise floors of their groups."""

    def __init__(
        self,
        run: Run,
        reader: Reader | None = None,
        vocabulary: Sequence[str] | None = None,
        classify: Classify | None = None,
    ) -> None:
        planned = [cell for cell in run.cells() if cell.done]
        spare = [cell for cell in run.floor() if cell.done]
        self.eye = Eye(reader)
        self.classify = classify
        self.words: Words | None = None
        if reader is not None:
            prompts = dict.fromkeys(cell.prompt for cell in planned if not cell.point)
            self.words = Words(reader, vocabulary or reader.vocabulary, list(prompts))
        baselines = [c for c in planned if c.is_baseline] + spare
        # Of a point in embedding space the baseline may be the image of another prompt.
        self.prompts = {cell.key: cell.prompt for cell in baselines}
        self.floors = dict(self._floors(baselines))
        self.floor_of: dict[str, Floor] = {}  # by key of the cell
        found = self._measured(planned)
        self.cells = [replace(found[cell.key, cell.baseline], **vars(cell)) for cell in planned]
        self.order = [cell.key for cell in (*planned, *spare)]

    def _floors(self, baselines: Sequence[StoredCell]) -> Iterator[tuple[_Group, Floor]]:
        groups: dict[tuple[int, str], dict[str, StoredCell]] = {}
        for cell in baselines:
            groups.setdefault((cell.group, cell.prompt), {}).setdefault(cell.key, cell)
        for (group, prompt), by_key in groups.items():
            sizes: dict[tuple[int, ...], dict[int, Look]] = {}
            cells = by_key.values()
            for cell, look in zip(cells, self.eye.looks(cells), strict=True):
                alike = sizes.setdefault(look.pixels.shape, {})
                if look.state == "ok" and len(alike) < FLOOR_SEEDS:
                    alike.setdefault(cell.seed, look)
            for size, alike in sizes.items():
                seeds = tuple(sorted(alike))
                pairs = apart([alike[seed] for seed in seeds])
                yield (group, prompt, size), Floor(group, prompt, seeds, pairs)

    def _measured(self, planned: Sequence[StoredCell]) -> dict[tuple[str, str], MeasuredCell]:
        """What was measured, by key of a cell and of its baseline."""
        found: dict[tuple[str, str], MeasuredCell] = {}
        order = {key: i for i, key in enumerate(dict.fromkeys(c.baseline for c in planned))}
        distinct = {(cell.key, cell.baseline): cell for cell in planned}.values()
        # Each baseline directly before its cells, so that no other has to be kept.
        todo = sorted(distinct, key=lambda c: (order[c.baseline], not c.is_baseline))
        baseline: Look | None = None
        for cell, look in zip(todo, self.eye.looks(todo), strict=True):
            if cell.is_baseline:
                baseline = look
            elif baseline is not None and baseline.key != cell.baseline:
                baseline = None
            measured = self._one(cell, look, baseline)
            if self.classify is not None and look.state == "ok":
                own = found.get((cell.baseline, cell.baseline))
                name = self.classify(measured, look.image, own)
                measured = replace(measured, class_name=name)
            found[cell.key, cell.baseline] = measured
        return found

    def _one(self, cell: StoredCell, look: Look, baseline: Look | None) -> MeasuredCell:
        prompt = self.prompts.get(cell.baseline, cell.prompt)
        empty = Floor(cell.group, prompt, (), {})
        floor = self.floors.get((cell.group, prompt, look.pixels.shape), empty)
        self.floor_of[cell.key] = floor
        drift: dict[str, float] = {}
        floors: dict[str, float] = {}
        concepts: tuple[tuple[str, float], ...] = ()
        if look.state == "ok" and baseline is not None and baseline.state == "ok":
            drift = look.distances(baseline)
            units = {metric: floor.mean(metric) for metric in drift}
            floors = {metric: drift[metric] / unit for metric, unit in units.items() if unit}
            if "ssim" in drift:
                drift["ssim"] = 1 - drift["ssim"]
        if look.embedding is not None and self.words is not None:
            concepts = self.words.likeliest(look.embedding)
            if not cell.point:
                drift["score"] = score(look.embedding, self.words.prompts[cell.prompt])
        return MeasuredCell(
            **vars(cell), state=look.state, drift=drift, floors=floors, concepts=concepts
        )

    def samples(self) -> Iterator[Sample]:
        """Distances of each variant in each condition, by metric and seed."""
        known = [m for m in DISTANCES if any(m in cell.drift for cell in self.cells)]
        alike: dict[str, list[MeasuredCell]] = {}
        for cell in self.cells:
            if not cell.is_baseline:
                told = [cell.variant, cell.prompt, _axes(cell)]
                alike.setdefault(json.dumps(told, sort_keys=True), []).append(cell)
        for cells in alike.values():
            first = cells[0]
            for metric in known:
                by_seed = {c.seed: _distance(c, metric) for c in cells if metric in c.drift}
                yield Sample(first.variant, first.prompt, _axes(first), metric, by_seed,
                             self.floor_of[first.key])  # fmt: skip

    def notes(self) -> Iterator[str]:
        """What the user should know of empty columns, and how they would be filled."""
        if self.words is None:
            yield (
                "No CLIP model has read these images, so that `embedding`, `score` and the concepts"
                " are empty: name one by `clip:` in the recipe, or by `ablate drift RUN --clip ID`."
            )
        bare = sum(len(floor.seeds) < 2 for floor in self.floors.values())
        if bare:
            yield (
                f"{_share(bare, len(self.floors), 'condition')} fewer than two baselines of"
                " different seeds, and so no noise floor to hold drift against: write"
                " `noise_floor: 8` into the recipe, or more `seeds`."
            )
        most = max((len(sample.by_seed) for sample in self.samples()), default=effects.FEWEST)
        if most < effects.FEWEST:
            seeds = "one seed" if most == 1 else f"{most} seeds"
            yield (
                f"Each variant was made with {seeds}, too few to say whether it matters: write"
                f" {effects.FEWEST} `seeds` or more into the recipe."
            )
        compared = [cell.drift for cell in self.cells if "rmse" in cell.drift]
        lacking = sum("latent" not in drift for drift in compared)
        if lacking:
            yield (
                f"{_share(lacking, len(compared), 'image')} no final latents stored, so that"
                " `latent` is empty there: `ablate run RECIPE --fresh` makes images that have them."
            )


def _distance(cell: MeasuredCell, metric: str) -> float:
    return 1 - cell.drift[metric] if metric == "ssim" else cell.drift[metric]


def _axes(cell: StoredCell) -> dict[str, Any]:
    return {name: v for name, v in cell.axes.items() if name not in ("prompt", "seed")}


def _share(count: int, total: int, noun: str) -> str:
    if count < total:
        return f"{count} of {total} {noun}s have"
    return f"All {count} {noun}s have" if count > 1 else f"The only {noun} has"


def read_cells(run: Run) -> list[MeasuredCell]:
    """All finished cells of a run as they were measured, in plan order.

    They are measured anew where `drift.csv` is missing, of an older version, or of other cells.
    """
    cells = [cell for cell in run.cells() if cell.done]
    heads = _heads(run)
    try:
        header, rows = read_table(run.folder / TABLE)
    except FileNotFoundError:
        return measure(run)
    if header != heads or [row[0] for row in rows] != [cell.path.name for cell in cells]:
        return measure(run)
    # By position: an axis may bear the name of a column.
    start = len(heads) - len(MEASURED)
    return [_cell(cell, row[start:]) for cell, row in zip(cells, rows, strict=True)]


def read_notes(run: Run) -> list[str]:
    """Sentences to the user about what could not be measured, and how it could."""
    try:
        text = (run.folder / "drift.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    return list(json.loads(text)["notes"])


def read_embeddings(run: Run) -> Embeddings | None:
    """What a reader made of the images and words of a run; None when none has read them."""
    path = run.folder / EMBEDDINGS
    if not path.exists():
        return None
    with np.load(path, allow_pickle=False) as found:
        keys, words = tuple(found["keys"].tolist()), tuple(found["words"].tolist())
        return Embeddings(keys, found["images"], words, found["texts"])


def _heads(run: Run) -> list[str]:
    axes = [axis.name for axis in run.axes() if axis.name not in ("prompt", "seed")]
    return ["cell", "variant", "prompt", "seed", *axes, *MEASURED]


def _write_table(run: Run, cells: Sequence[MeasuredCell]) -> None:
    heads = _heads(run)
    axes = heads[4 : len(heads) - len(MEASURED)]
    rows = (
        [
            cell.path.name, cell.variant, cell.prompt, cell.seed,
            *(cell.axes.get(axis, "") for axis in axes), cell.state,
            *(f"{cell.drift[m]:.6f}" if m in cell.drift else "" for m in METRICS),
            *(f"{cell.floors[m]:.6f}" if m in cell.floors else "" for m in DISTANCES),
            cell.class_name, *_named(cell),
        ]
        for cell in cells
    )  # fmt: skip
    write_table(run.folder / TABLE, heads, rows)


def _named(cell: MeasuredCell) -> list[str]:
    """The columns of concepts and their probabilities; empty where there are fewer."""
    named = [part for word, odds in cell.concepts for part in (word, f"{odds:.6f}")]
    return named + [""] * (2 * NAMED - len(named))


def _cell(cell: StoredCell, row: Sequence[str]) -> MeasuredCell:
    state, *figures = row[: 1 + len(METRICS) + len(DISTANCES)]
    class_name, *named = row[1 + len(METRICS) + len(DISTANCES) :]
    drift = zip(METRICS, figures, strict=False)
    floors = zip(DISTANCES, figures[len(METRICS) :], strict=True)
    return MeasuredCell(
        **vars(cell),
        state=state,
        drift={metric: float(figure) for metric, figure in drift if figure},
        floors={metric: float(figure) for metric, figure in floors if figure},
        class_name=class_name,
        concepts=tuple(
            (word, float(odds)) for word, odds in zip(named[::2], named[1::2], strict=True) if word
        ),
    )


def _write_embeddings(run: Run, work: _Work) -> None:
    path = run.folder / EMBEDDINGS
    if work.words is None:
        path.unlink(missing_ok=True)
        return
    keys = [key for key in dict.fromkeys(work.order) if key in work.eye.embeddings]
    width = work.words.texts.shape[1]
    images = np.array([work.eye.embeddings[key] for key in keys], np.float32)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            keys=np.array(keys, dtype=str),
            images=images.reshape(-1, width),
            words=np.array(work.words.words, dtype=str),
            texts=work.words.texts.astype(np.float32),
        )
