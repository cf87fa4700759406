"""Need: what becomes of pictures, or of how they are read, without some units and with more of
them.

Of a network that makes pictures the pictures are made anew, as a run of its own; a CLIP model reads
what they show then. Of the CLIP model itself the pictures stay, and are read anew. Either way an
effect is by how much the probability of a concept changes for its own pictures, among all concepts
of the study.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ablate.drift import COVERED, Reader, read_embeddings, write_drift
from ablate.edits import Edit, Variant, applied
from ablate.engine import stoppable, with_keys
from ablate.messages import phrase
from ablate.network import Unit
from ablate.store import Run, student
from ablate.sweep import BASELINE, Cell, Condition, Plan, PlanAxis, condition_axis
from ablate.units.record.recording import READ, open_picture, render_missing
from ablate.units.record.stimuli import told
from ablate.units.record.study import CLIP, Study, StudyError

FOLDER = "effects"
FACTORS = (0.0, 4.0)  # by which the units are multiplied: removed, amplified
# Turned around: where a concept has so many units that none is missed, this still tells whether
# they are its own.
REVERSED = -4.0
NAMES = {0.0: "ablated", 4.0: "amplified", REVERSED: "reversed"}
NEXT, OTHERS = 3, 7  # concepts asked about beside a unit's own: those next in contrast, and all
EXAMPLES = 3
# What the run of effects was planned from; it can be read, and its cells tell their own edits.
HEAD = "# Planned by `ablate units cards`, from the cells' own edits. The study that it is of:\n"


@dataclass(frozen=True)
class Trial:
    """Units that are edited together, by module path and number, and what is asked: the number of
    the concept that they stand for, and of others. `factors`: by which they are multiplied."""

    units: tuple[tuple[str, int], ...]
    concept: int
    others: tuple[int, ...]
    factors: tuple[float, ...] = FACTORS

    @property
    def concepts(self) -> tuple[int, ...]:
        """The numbers of all concepts that are asked about, its own first."""
        return (self.concept, *self.others)


@dataclass(frozen=True)
class Found:
    """What a trial came to: a row a factor and concept, and pictures before and after, by path."""

    rows: tuple[dict[str, Any], ...]
    examples: tuple[dict[str, Any], ...] = ()


# Probabilities of a concept before and after, and distances, one for each of its pictures.
Reading = tuple[np.ndarray, np.ndarray, np.ndarray]


def others_of(ranked: Sequence[int]) -> tuple[int, ...]:
    """Which other concepts are asked about, of all in a unit's order, its own first: the next, and
    some drawn, the same for all units where that is possible, so that their baselines are made
    once."""
    drawn = sorted(ranked)
    random.Random("others").shuffle(drawn)
    rest = [concept for concept in drawn if concept not in ranked[: NEXT + 1]]
    return (*ranked[1 : NEXT + 1], *rest[: OTHERS - NEXT])


def check(study: Study, seeds: Sequence[int]) -> None:
    """Raises `StudyError` where pictures of these seeds would tell nothing."""
    if study.reader is not None and study.component != CLIP and len(set(seeds)) < 2:
        raise StudyError("effects take two seeds at least: their intervals are over seeds")


def measure(study: Study, trials: Sequence[Trial], seeds: Sequence[int]) -> dict[Trial, Found]:
    """The effects of every trial at each factor; none without a CLIP model that reads pictures.

    `seeds`: of the pictures that are made; of the CLIP model's own units the study's pictures are
    read. Raises `Stopped` after Ctrl-C; what was made until then is not made again.
    """
    if study.reader is None:
        return {}
    if study.component == CLIP:
        return dict(_read_anew(study, study.reader, trials))
    return _made_anew(study, study.reader, trials, tuple(dict.fromkeys(seeds)))


def variant(study: Study, trial: Trial, factor: float) -> Variant:
    """The units of a trial, multiplied by a factor where their modules give them out."""
    by_path: dict[str, list[int]] = {}
    for path, number in trial.units:
        by_path.setdefault(path, []).append(number)
    own = None if study.component == study.pipeline.denoiser_name else study.component
    kind = study.setup.kind
    edits = (
        Edit("scale", (path,), factor, component=None if own == CLIP else own, where="output",
             unit=Unit(kind, tuple(sorted(numbers))))
        for path, numbers in by_path.items()
    )  # fmt: skip
    return Variant(f"{_name(study, trial)} × {factor:g}", tuple(edits))


def _name(study: Study, trial: Trial) -> str:
    if len(trial.units) > 1:
        return f"{len(trial.units)} units of {study.setup.stimuli.concepts[trial.concept]}"
    ((path, number),) = trial.units
    return f"{path} {study.setup.kind.removesuffix('s')} {number}"


def plan(study: Study, trials: Sequence[Trial], seeds: Sequence[int]) -> Plan:
    """Units × factors × plain prompts × seeds, each trial with the concepts that it asks about;
    baselines first."""
    names = {trial: _name(study, trial) for trial in trials}
    prompts = {c: _prompt(study, c) for t in trials for c in t.concepts}
    cells = [_cell(study, p, seed, BASELINE, {}) for p in prompts.values() for seed in seeds]
    for trial in dict.fromkeys(trials):
        for factor in trial.factors:
            edited = variant(study, trial, factor)
            axes = {"units": names[trial], "factor": factor}
            cells += [
                _cell(study, prompts[concept], seed, edited, axes)
                for concept in trial.concepts
                for seed in seeds
            ]
    # Trials of one concept may share some.
    cells = list({(cell.variant, cell.condition): cell for cell in cells}.values())
    units = tuple(dict.fromkeys(names.values()))
    factors = tuple(sorted({factor for trial in trials for factor in trial.factors}))
    recipe = replace(
        study.setup.recipe(name=FOLDER),
        about="Pictures without some units, with more of them, and with them turned around.",
        vocabulary=study.setup.stimuli.concepts,
        source=HEAD + study.plan.recipe.source,
    )
    return Plan(
        recipe,
        study.plan.catalog,
        (
            PlanAxis("units", units, units),
            PlanAxis("factor", factors, tuple(f"{factor:g}" for factor in factors)),
            condition_axis("prompt", tuple(prompts.values())),
            condition_axis("seed", tuple(seeds)),
        ),
        tuple(cells),
    )


def _prompt(study: Study, concept: int) -> str:
    stimuli = study.setup.stimuli
    return told(stimuli.templates[0], stimuli.concepts[concept])


def _cell(study: Study, prompt: str, seed: int, edited: Variant, axes: Mapping[str, Any]) -> Cell:
    condition = Condition(prompt, seed, study.plan.recipe.sampling)
    return Cell(edited, condition, {**axes, "prompt": prompt, "seed": seed}, condition)


def _made_anew(
    study: Study,
    reader: Reader,
    trials: Sequence[Trial],
    seeds: tuple[int, ...],
) -> dict[Trial, Found]:
    planned = plan(study, trials, seeds)
    run = Run(study.folder / FOLDER)
    render_missing(study, planned, run)
    write_drift(run, reader, study.setup.stimuli.concepts)
    pictures = _Pictures(study, reader, run, planned)
    return {trial: pictures.found(trial, seeds) for trial in trials}


class _Pictures:
    """The pictures of a run of effects, as they were read."""

    def __init__(self, study: Study, reader: Reader, run: Run, planned: Plan) -> None:
        self.study, self.run = study, run
        shots = with_keys(planned.cells, study.pipeline)
        self.keys = {
            (shot.cell.variant.name, shot.cell.condition.prompt, shot.cell.condition.seed): shot.key
            for shot in shots
        }
        read = read_embeddings(run)
        assert read is not None
        odds = probabilities(read.images, read.texts, reader.scale)
        self.vectors = dict(zip(read.keys, read.images, strict=True))
        self.odds = dict(zip(read.keys, odds, strict=True))

    def found(self, trial: Trial, seeds: Sequence[int]) -> Found:
        rows = []
        for factor in trial.factors:
            edited = variant(self.study, trial, factor).name
            for concept in trial.concepts:
                pairs = [
                    (self._key(BASELINE.name, concept, seed), self._key(edited, concept, seed))
                    for seed in seeds
                ]
                rows.append(_row(self.study, trial, factor, concept, self._reading(pairs, concept)))
        return Found(tuple(rows), tuple(self._examples(trial, seeds[0])))

    def _key(self, edited: str, concept: int, seed: int) -> str:
        return self.keys[edited, _prompt(self.study, concept), seed]

    def _reading(self, pairs: Sequence[tuple[str, str]], concept: int) -> Reading:
        # A picture that broke, of a network that gave NaN, is read as nothing.
        def odds(key: str) -> float:
            return float(self.odds[key][concept]) if key in self.odds else 0.0

        apart = [
            1 - float(self.vectors[a] @ self.vectors[b])
            for a, b in pairs
            if a in self.vectors and b in self.vectors
        ]
        before, after = ([odds(pair[i]) for pair in pairs] for i in (0, 1))
        return np.array(before), np.array(after), np.array(apart)

    def _examples(self, trial: Trial, seed: int) -> Iterator[dict[str, Any]]:
        """Of its own concept, of the next, and of one that was drawn."""
        chosen = (trial.concept, *trial.others[:1], *trial.others[NEXT:], *trial.others[1:])
        for concept in chosen[:EXAMPLES]:
            edited = {NAMES[f]: variant(self.study, trial, f).name for f in trial.factors}
            shown = {
                name: self.run.path(self._key(its, concept, seed)).relative_to(self.study.folder)
                for name, its in {"baseline": BASELINE.name, **edited}.items()
            }
            paths = {name: path.as_posix() for name, path in shown.items()}
            yield {"prompt": _prompt(self.study, concept), "seed": seed, **paths}


def _read_anew(
    study: Study, reader: Reader, trials: Sequence[Trial]
) -> Iterator[tuple[Trial, Found]]:
    render_missing(study, study.plan)
    pictures = _by_concept(study)
    asked = dict.fromkeys(c for trial in trials for c in trial.concepts)
    before = {c: _read(study, reader, pictures, [c]) for c in asked}
    total, done = sum(len(trial.factors) for trial in trials), 0
    study.progress.start("readings", total)
    with stoppable(study.pipeline) as check_stop:
        for trial in trials:
            rows = []
            for factor in trial.factors:
                with applied(reader.network, variant(study, trial, factor)):
                    after = _read(study, reader, pictures, trial.concepts)
                for concept in trial.concepts:
                    rows.append(
                        _row(study, trial, factor, concept,
                             _compared(before[concept][concept], after[concept], concept))
                    )  # fmt: skip
                study.progress.update(done := done + 1)
                check_stop()
            yield trial, Found(tuple(rows))


# Of some pictures: what they are as vectors, and the probabilities of all concepts.
Seen = tuple[np.ndarray, np.ndarray]


def _compared(before: Seen, after: Seen, concept: int) -> Reading:
    apart = 1 - (before[0] * after[0]).sum(1)
    return before[1][:, concept], after[1][:, concept], apart


def _by_concept(study: Study) -> dict[int, list[Path]]:
    """The files of the study's pictures by concept, of all seeds."""
    found: dict[int, list[Path]] = {}
    for shot in with_keys(study.plan.cells, study.pipeline):
        concept = study.setup.stimuli.concept_of(shot.cell.condition.prompt)
        found.setdefault(concept, []).append(study.pictures.path(shot.key))
    return found


def _read(
    study: Study,
    reader: Reader,
    pictures: Mapping[int, Sequence[Path]],
    concepts: Sequence[int],
) -> dict[int, Seen]:
    """How a CLIP model, as it is at the moment, reads the pictures of some concepts."""
    texts = reader.texts([phrase(word) for word in study.setup.stimuli.concepts])
    paths = [path for concept in concepts for path in pictures[concept]]
    batches = [paths[first : first + READ] for first in range(0, len(paths), READ)]
    vectors = np.concatenate(
        [reader.images([open_picture(path) for path in some]) for some in batches]
    )
    odds = probabilities(vectors, texts, reader.scale)
    found, start = {}, 0
    for concept in concepts:
        own = slice(start, start + len(pictures[concept]))
        found[concept] = vectors[own], odds[own]
        start = own.stop
    return found


def probabilities(images: np.ndarray, texts: np.ndarray, scale: float) -> np.ndarray:
    """The probability of each text for each image (images, texts): softmax of scaled cosines."""
    logits = scale * (images.astype(np.float64) @ texts.T.astype(np.float64))
    odds = np.exp(logits - logits.max(1, keepdims=True))
    found: np.ndarray = odds / odds.sum(1, keepdims=True)
    return found


def interval(changes: np.ndarray) -> tuple[float, float]:
    """Low and high end of the 95 % t interval of a mean (Student 1908, The probable error of a
    mean), over seeds or pictures. Of a single one, which tells nothing of the spread, -∞ to ∞.

    Not by resampling: of four seeds the percentiles of a bootstrap cover the mean four times in
    five.
    """
    count = len(changes)
    if count < 2:
        return -np.inf, np.inf
    mean, error = float(changes.mean()), float(changes.std(ddof=1)) / count**0.5
    reach = error * student((1 - COVERED) / 2, count - 1)
    return mean - reach, mean + reach


def _row(
    study: Study, trial: Trial, factor: float, concept: int, reading: Reading
) -> dict[str, Any]:
    before, after, apart = reading
    # Probabilities change by no more than 1.
    low, high = (min(max(end, -1.0), 1.0) for end in interval(after - before))
    return {
        "units": len(trial.units),
        "factor": factor,
        "concept": study.setup.stimuli.concepts[concept],
        "own": concept == trial.concept,
        "before": float(before.mean()),
        "after": float(after.mean()),
        "change": float((after - before).mean()),
        "low": low,
        "high": high,
        # Where a probability is near 0 or 1, its odds still tell by how much it moved.
        "log_odds": float((_log_odds(after) - _log_odds(before)).mean()),
        "drift": float(apart.mean()) if len(apart) else None,
    }


def _log_odds(odds: np.ndarray) -> np.ndarray:
    known = odds.clip(1e-9, 1 - 1e-9)
    found: np.ndarray = np.log(known / (1 - known))
    return found


def sentence(rows: Sequence[Mapping[str, Any]], factor: float = 0.0) -> str:
    """What the effects of a trial at a factor come to, for a reader in a hurry."""
    rows = [row for row in rows if row["factor"] == factor]
    own = next(row for row in rows if row["own"])
    others = [row for row in rows if not row["own"]]
    units = "it" if own["units"] == 1 else f"these {own['units']}"
    how = f"Without {units}" if not factor else f"With {units} times {factor:g}".replace("-", "−")
    words = phrase(own["concept"])
    said = (
        f"{how} {words} is read as {words} with a probability of {100 * own['after']:.1f} %"
        f" ({100 * own['before']:.1f} % before)"
    )
    if others:
        points = 100 * float(np.mean([abs(row["change"]) for row in others]))
        said += f"; other concepts change by {points:.1f} points on average"
    known = [row["drift"] for row in others if row["drift"] is not None]
    if own["drift"] is None or not known:
        return f"{said}."
    return (
        f"{said}. In embedding distance its pictures move by {_plain(own['drift'])}, those of"
        f" others by {_plain(float(np.mean(known)))}."
    )


def _plain(value: float) -> str:
    """Two digits, without an exponent."""
    return np.format_float_positional(value, 2, fractional=False, trim="-")
