"""Effects of units: changes of pictures, or of how they are read, without units and with more.

Of a network that renders pictures the pictures are rendered again with edits, as a run; a CLIP
model reads what they show. Of the CLIP model itself the study's pictures are read again. An effect
is the change of the probability of a concept for its pictures, among all concepts of the study.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ablate.drift import Reader, read_embeddings, softmax, t_interval, write_drift
from ablate.edits import Edit, Variant, applied
from ablate.engine import stoppable, with_keys
from ablate.messages import phrase
from ablate.network import Unit
from ablate.store import Run, batched
from ablate.sweep import BASELINE, Cell, Condition, Plan, PlanAxis, condition_axis
from ablate.units.record.recording import READ, open_picture, render_missing
from ablate.units.record.setup import CLIP, StudyError
from ablate.units.record.stimuli import fill_template
from ablate.units.record.study import Study

FOLDER = "effects"
FACTORS = (0.0, 4.0)  # by which units are multiplied: removed, amplified
# Reversed: where a concept has so many units that none is missed, this still shows whether they are
# units of the concept.
REVERSED = -4.0
NAMES = {0.0: "ablated", 4.0: "amplified", REVERSED: "reversed"}
NEXT, OTHERS = 3, 7  # other concepts that are measured: the next by contrast, and all
EXAMPLES = 3
# The source of the run's recipe; the run can be read, and its cells have their edits with them.
HEAD = "# Planned by `ablate units cards`, from the edits of its cells. Its study:\n"


@dataclass(frozen=True)
class Trial:
    """Units that are edited together, and the concepts whose change is measured.

    Attributes:
        units: Module path and number of each.
        concept: The index of their concept.
        others: Those of other concepts.
        factors: By which the units are multiplied.
    """

    units: tuple[tuple[str, int], ...]
    concept: int
    others: tuple[int, ...]
    factors: tuple[float, ...] = FACTORS

    @property
    def concepts(self) -> tuple[int, ...]:
        """The indices of all measured concepts, that of the units first."""
        return (self.concept, *self.others)


@dataclass(frozen=True)
class Effects:
    """The results of a trial.

    Attributes:
        rows: One for each factor and concept, as `cards.json` has them.
        examples: Paths of pictures before and after.
    """

    rows: tuple[dict[str, Any], ...]
    examples: tuple[dict[str, Any], ...] = ()


# Of some pictures: embeddings (n, width), and the probabilities of all concepts (n, C).
Read = tuple[np.ndarray, np.ndarray]


def other_concepts(ranked: Sequence[int]) -> tuple[int, ...]:
    """Return the other concepts that are measured for a unit, of all in its order.

    The next ones, and some drawn at random: the same for all units where that is possible, so that
    they share baselines.
    """
    drawn = sorted(ranked)
    random.Random("others").shuffle(drawn)
    rest = [concept for concept in drawn if concept not in ranked[: NEXT + 1]]
    return (*ranked[1 : NEXT + 1], *rest[: OTHERS - NEXT])


def check_seeds(study: Study, seeds: Sequence[int]) -> None:
    """Raise `StudyError` where pictures of these seeds are too few for an interval."""
    if study.reader is not None and study.component != CLIP and len(set(seeds)) < 2:
        raise StudyError("effects take two seeds at least: their intervals are over seeds")


def measure_effects(
    study: Study, trials: Sequence[Trial], seeds: Sequence[int]
) -> dict[Trial, Effects]:
    """Measure the effects of every trial; none without a CLIP model that reads pictures.

    Args:
        seeds: Of the pictures that are rendered. For units of the CLIP model the study's pictures
            are read.

    Raises:
        Stopped: Ctrl-C was pressed; pictures until then are kept.
    """
    if study.reader is None:
        return {}
    if study.component == CLIP:
        return dict(_by_reading(study, study.reader, trials))
    return dict(_by_rendering(study, study.reader, trials, tuple(dict.fromkeys(seeds))))


def variant_of(study: Study, trial: Trial, factor: float) -> Variant:
    """Return the edits that multiply the outputs of a trial's units by a factor."""
    by_path: dict[str, list[int]] = {}
    for path, number in trial.units:
        by_path.setdefault(path, []).append(number)
    other = None if study.component in (study.pipeline.denoiser_name, CLIP) else study.component
    edits = (
        Edit("scale", (path,), factor, component=other, where="output",
             unit=Unit(study.setup.kind, tuple(sorted(numbers))))
        for path, numbers in by_path.items()
    )  # fmt: skip
    return Variant(f"{_name(study, trial)} × {factor:g}", tuple(edits))


def _name(study: Study, trial: Trial) -> str:
    if len(trial.units) > 1:
        return f"{len(trial.units)} units of {study.setup.stimuli.concepts[trial.concept]}"
    ((path, number),) = trial.units
    return f"{path} {study.setup.kind.removesuffix('s')} {number}"


def plan_effects(study: Study, trials: Sequence[Trial], seeds: Sequence[int]) -> Plan:
    """Return the plan of units × factors × plain prompts × seeds, each trial with its concepts;
    baselines first."""
    names = {trial: _name(study, trial) for trial in trials}
    prompts = {c: _prompt(study, c) for t in trials for c in t.concepts}

    def cells_of(concepts: Sequence[int], edited: Variant, axes: Mapping[str, Any]) -> list[Cell]:
        cells = []
        for prompt in (prompts[concept] for concept in concepts):
            for seed in seeds:
                condition = Condition(prompt, seed, study.plan.recipe.sampling)
                values = {**axes, "prompt": prompt, "seed": seed}
                cells.append(Cell(edited, condition, values, condition))
        return cells

    cells = cells_of(tuple(prompts), BASELINE, {})
    for trial in dict.fromkeys(trials):
        for factor in trial.factors:
            axes = {"units": names[trial], "factor": factor}
            cells += cells_of(trial.concepts, variant_of(study, trial, factor), axes)
    # Trials of one concept may share some.
    cells = list({(cell.variant, cell.condition): cell for cell in cells}.values())
    units = tuple(dict.fromkeys(names.values()))
    factors = tuple(sorted({factor for trial in trials for factor in trial.factors}))
    recipe = study.setup.recipe(name=FOLDER).revised(
        HEAD + study.plan.recipe.source,
        about="Pictures without some units, with more of them, and with them turned around.",
        vocabulary=study.setup.stimuli.concepts,
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
    return fill_template(stimuli.templates[0], stimuli.concepts[concept])


def _by_rendering(
    study: Study, reader: Reader, trials: Sequence[Trial], seeds: tuple[int, ...]
) -> Iterator[tuple[Trial, Effects]]:
    plan, run = plan_effects(study, trials, seeds), Run(study.folder / FOLDER)
    render_missing(study, plan, run)
    write_drift(run, reader, study.setup.stimuli.concepts)
    embedded = read_embeddings(run)
    assert embedded is not None
    read = probabilities(embedded.images, embedded.texts, reader.scale)
    odds = dict(zip(embedded.keys, read, strict=True))
    vectors = dict(zip(embedded.keys, embedded.images, strict=True))
    keyed = with_keys(plan.cells, study.pipeline)
    keys = {
        (cell.variant.name, cell.condition.prompt, cell.condition.seed): one.key
        for cell, one in zip(plan.cells, keyed, strict=True)
    }

    def row(trial: Trial, factor: float, concept: int) -> dict[str, Any]:
        prompt, variant = _prompt(study, concept), variant_of(study, trial, factor)
        before = [keys[BASELINE.name, prompt, seed] for seed in seeds]
        after = [keys[variant.name, prompt, seed] for seed in seeds]
        # A broken picture, of a network with NaN in its output, shows nothing.
        first, second = (
            np.array([float(odds[key][concept]) if key in odds else 0.0 for key in some])
            for some in (before, after)
        )
        pairs = [(a, b) for a, b in zip(before, after, strict=True) if a in odds and b in odds]
        apart = np.array([1 - float(vectors[a] @ vectors[b]) for a, b in pairs])
        return _row(study, trial, factor, concept, first, second, apart)

    def examples(trial: Trial) -> Iterator[dict[str, Any]]:
        """Of the units' concept, of the next, and of one that was drawn."""
        concepts = (trial.concept, *trial.others[:1], *trial.others[NEXT:], *trial.others[1:])
        variants = {NAMES[f]: variant_of(study, trial, f).name for f in trial.factors}
        for prompt in (_prompt(study, concept) for concept in concepts[:EXAMPLES]):
            paths = {
                name: run.path(keys[variant, prompt, seeds[0]]).relative_to(study.folder).as_posix()
                for name, variant in {"baseline": BASELINE.name, **variants}.items()
            }
            yield {"prompt": prompt, "seed": seeds[0], **paths}

    for trial in trials:
        rows = (row(trial, f, concept) for f in trial.factors for concept in trial.concepts)
        yield trial, Effects(tuple(rows), tuple(examples(trial)))


def _by_reading(
    study: Study, reader: Reader, trials: Sequence[Trial]
) -> Iterator[tuple[Trial, Effects]]:
    render_missing(study, study.plan)
    words = study.setup.stimuli.concepts
    paths: dict[int, list[Path]] = {}  # of pictures, by concept
    for keyed in with_keys(study.plan.cells, study.pipeline):
        concept = study.setup.stimuli.concept_of(keyed.cell.condition.prompt)
        paths.setdefault(concept, []).append(study.pictures.path(keyed.key))

    def read(concepts: Sequence[int]) -> dict[int, Read]:
        """Have the CLIP model, as it is at the moment, read the pictures of some concepts."""
        texts = reader.texts([phrase(word) for word in words])
        batches = batched([path for concept in concepts for path in paths[concept]], READ)
        images = (reader.images([open_picture(path) for path in batch]) for batch in batches)
        vectors = np.concatenate(list(images))
        odds = probabilities(vectors, texts, reader.scale)
        ends = np.cumsum([len(paths[concept]) for concept in concepts])[:-1]
        parts = zip(np.split(vectors, ends), np.split(odds, ends), strict=True)
        return dict(zip(concepts, parts, strict=True))

    before = {c: read([c])[c] for c in dict.fromkeys(c for trial in trials for c in trial.concepts)}
    study.progress.start("readings", sum(len(trial.factors) for trial in trials))
    done = 0
    with stoppable(study.pipeline) as check_stop:
        for trial in trials:
            rows = []
            for factor in trial.factors:
                with applied(reader.network, variant_of(study, trial, factor)):
                    after = read(trial.concepts)
                for concept in trial.concepts:
                    (vectors, odds), (others, changed) = before[concept], after[concept]
                    apart = 1 - (vectors * others).sum(1)
                    rows.append(_row(study, trial, factor, concept, odds[:, concept],
                                     changed[:, concept], apart))  # fmt: skip
                study.progress.update(done := done + 1)
                check_stop()
            yield trial, Effects(tuple(rows))


def probabilities(images: np.ndarray, texts: np.ndarray, scale: float) -> np.ndarray:
    """Return the probability of each text for each image (images, texts), from embeddings."""
    return softmax(scale * (images.astype(np.float64) @ texts.T.astype(np.float64)))


def _row(
    study: Study,
    trial: Trial,
    factor: float,
    concept: int,
    before: np.ndarray,
    after: np.ndarray,
    apart: np.ndarray,
) -> dict[str, Any]:
    """Return the effect on a concept, from its probabilities before and after for each of its
    pictures, and the distances of their embeddings."""
    # Probabilities change by no more than 1.
    low, high = (min(max(end, -1.0), 1.0) for end in t_interval(after - before))
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
        # Where a probability is near 0 or 1, its odds still show the size of a change.
        "log_odds": float((_log_odds(after) - _log_odds(before)).mean()),
        "drift": float(apart.mean()) if len(apart) else None,
    }


def _log_odds(odds: np.ndarray) -> np.ndarray:
    odds = odds.clip(1e-9, 1 - 1e-9)
    logs: np.ndarray = np.log(odds / (1 - odds))
    return logs


def sentence(rows: Sequence[Mapping[str, Any]], factor: float = 0.0) -> str:
    """Return the effects of a trial at a factor in a sentence or two."""
    rows = [row for row in rows if row["factor"] == factor]
    row = next(row for row in rows if row["own"])
    others = [row for row in rows if not row["own"]]
    units = "it" if row["units"] == 1 else f"these {row['units']}"
    how = f"Without {units}" if not factor else f"With {units} times {factor:g}".replace("-", "−")
    words = phrase(row["concept"])
    text = (
        f"{how} {words} is read as {words} with a probability of {100 * row['after']:.1f} %"
        f" ({100 * row['before']:.1f} % before)"
    )
    if others:
        points = 100 * float(np.mean([abs(row["change"]) for row in others]))
        text += f"; other concepts change by {points:.1f} points on average"
    drifts = [row["drift"] for row in others if row["drift"] is not None]
    if row["drift"] is None or not drifts:
        return f"{text}."
    return (
        f"{text}. In embedding distance its pictures move by {_plain(row['drift'])}, those of"
        f" others by {_plain(float(np.mean(drifts)))}."
    )


def _plain(value: float) -> str:
    """Two digits, without an exponent."""
    return np.format_float_positional(value, 2, fractional=False, trim="-")
