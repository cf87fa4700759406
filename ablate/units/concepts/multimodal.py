"""Multimodal units: those of a CLIP model that respond to pictures of a concept and to its word.

As Goh et al. 2021, Multimodal neurons in artificial neural networks: one unit of the image encoder
responds to pictures of a thing and to pictures of its name in letters. Beside these, dimensions of
the space that pictures and texts share, for pictures and for prompts.

A unit is multimodal for a concept that is first in both, with both contrasts above chance. In a
network that has never learned to read, every word resembles something as well, which is the right
concept for one unit in as many as there are concepts. Their number is estimated by giving the words
to other concepts, and units are named only as far down as this accounts for `RATE` of them: the
false discovery rate of Tusher, Tibshirani and Chu 2001, Significance analysis of microarrays.

    multimodal.csv   a row a unit
    multimodal/      statistics of words in letters, and of the shared space
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageChops

from ablate.edits import word, wrong_letters
from ablate.engine import until_stopped
from ablate.store import Layer, Statistics, StatisticsError, write_table
from ablate.units.concepts.search import Contrasts
from ablate.units.concepts.selectivity import ByConcept
from ablate.units.record.recording import (
    READ,
    Recorder,
    Show,
    show_pictures,
    show_texts,
    stream_shown,
)
from ablate.units.record.setup import CLIP
from ablate.units.record.study import Study

TABLE, FOLDER = "multimodal.csv", "multimodal"
HEADS = ("module", "unit", "by", "concept", "picture", "word")
PICTURE, TEXT = "visual_projection", "text_projection"  # into the shared space
RATE = 0.05  # of the units that are named may be there by chance
# How a word is drawn: its size, as a part of the picture's side; its position in the free space,
# from the top and from the left; the paper's color. These are to words what templates are to
# concepts: a unit that responds to a word does so in all of them.
LOOKS = (
    (1.0, 0.0, 0.0, (255, 255, 255)),
    (1.0, 0.0, 0.0, (205, 205, 205)),
    (0.8, 0.5, 0.5, (255, 240, 170)),
    (0.8, 0.0, 0.0, (190, 215, 255)),
    (0.8, 1.0, 1.0, (200, 240, 200)),
    (0.65, 0.0, 1.0, (255, 205, 205)),
    (0.65, 1.0, 0.0, (255, 255, 255)),
    (0.65, 0.5, 0.5, (220, 200, 170)),
)


@dataclass(frozen=True)
class Multimodal:
    """The multimodal units of a study.

    Attributes:
        rows: A unit each, as `cards.json` has them; `by`: `letters` in pictures, or `prompts`.
        notes: Sentences on how many they are and what chance would give.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find_multimodal(study: Study, statistics: Statistics, contrasts: Contrasts) -> Multimodal:
    """Find multimodal units of the CLIP model's image encoder and of the shared space.

    Other studies have none. Writes `multimodal.csv`. The study's pictures have to be there.

    Args:
        contrasts: Of the study's statistics.

    Raises:
        Stopped: Ctrl-C was pressed.
    """
    if study.component != CLIP or study.texts or study.reader is None:
        return Multimodal()
    reader, stimuli = study.reader, study.setup.stimuli
    drawn = [(c, look) for c in range(len(stimuli.concepts)) for look in range(len(LOOKS))]

    def show_letters(numbers: Sequence[int]) -> None:
        looks = (drawn[n] for n in numbers)
        reader.images([draw_word(stimuli.concepts[c], look, reader.side) for c, look in looks])

    layers = [(layer.path, layer.kind) for layer in statistics.layers]
    of_prompts = [stimuli.concept_of(prompt) for prompt in stimuli.prompts]
    letters = _recorded(study, "words", layers, [c for c, _ in drawn], show_letters)
    pictures = _recorded(study, "pictures", [(PICTURE, "channels")], study.concepts,
                         show_pictures(reader, study, study.samples))  # fmt: skip
    prompts = _recorded(study, "prompts", [(TEXT, "channels")], of_prompts,
                        show_texts(reader, stimuli.prompts), size=1)  # fmt: skip
    result = Multimodal()
    for by, shown, seen, read in (
        ("letters", statistics, contrasts, Contrasts.of(letters)),
        ("prompts", pictures, Contrasts.of(pictures), Contrasts.of(prompts)),
    ):
        pairs = pair_units(seen, read)
        result.rows.extend(_row(by, shown, seen, read, unit) for unit in pairs.units)
        result.notes.append(_note(by, shown.units, pairs))
    boxes = [concept for concept in statistics.concepts if wrong_letters(concept)]
    if boxes:
        result.notes.append(
            f"{len(boxes)} of {len(statistics.concepts)} concepts, such as “{boxes[0]}”, have"
            " letters that the typeface lacks: as words in letters they are boxes."
        )
    rows = (
        [*(row[name] for name in HEADS[:4]), *(f"{row[name]:.6g}" for name in HEADS[4:])]
        for row in result.rows
    )
    write_table(study.folder / TABLE, HEADS, rows)
    return result


def _recorded(
    study: Study,
    name: str,
    layers: Sequence[tuple[str, str]],
    labels: Sequence[int],
    show: Show,
    size: int = READ,
) -> Statistics:
    """Return statistics of the CLIP model: those in the study's folder, else recorded ones.

    Args:
        name: Of the file and of its samples.
        layers: Path and kind of each.
        labels: The index of each sample's concept.
        show, size: As of `stream_shown`.
    """
    path: Path = study.folder / FOLDER / f"{name}.npz"
    concepts, paths = study.setup.stimuli.concepts, [path for path, _ in layers]
    try:
        known = Statistics.load(path)
        known_paths = [layer.path for layer in known.layers]
        if (known.done, known.concepts, known_paths) == (len(labels), concepts, paths):
            return known
    except StatisticsError:
        pass
    sink = ByConcept([Layer(CLIP, path, kind, 0) for path, kind in layers], concepts, labels)
    recorder = Recorder(study.network, paths, sink.kind, sink)
    samples = stream_shown(recorder, len(labels), show, size=size)
    study.progress.start("words in letters" if name == "words" else name, len(labels))
    for done in until_stopped(study.pipeline, samples):
        study.progress.update(done)
    assert sink.statistics is not None
    sink.statistics.save(path)
    return sink.statistics


@dataclass(frozen=True)
class Pairs:
    """Units that have one concept first in pictures and in words, above chance in each.

    Attributes:
        units: Those that are named, the strongest first.
        alike: How many have one concept first in both.
        expected: How many would, on average, if the words were given to other concepts.
    """

    units: tuple[int, ...]
    alike: int
    expected: float


def pair_units(seen: Contrasts, read: Contrasts) -> Pairs:
    """Return the units that respond to one concept in both, beyond coincidence.

    Args:
        seen: Contrasts of pictures.
        read: Contrasts of words, of the same concepts and units.
    """
    concepts = len(seen.values)
    first, second = (contrasts.values.argmax(0) for contrasts in (seen, read))
    # How far above chance a unit is in both, in the lesser of the two.
    most = (contrasts.values.max(0) / max(contrasts.least, 1e-9) for contrasts in (seen, read))
    scores = np.minimum(*most)
    alike, named = first == second, scores > 1
    ranked = np.flatnonzero(alike & named)
    ranked = ranked[np.argsort(-scores[ranked], kind="stable")]
    # Words are given to other concepts by shifting them, in all ways but none: at one of these the
    # two concepts of any other unit meet, with the very score that it has.
    shifted, ways = np.sort(scores[~alike & named]), concepts - 1
    if not ways:
        return Pairs((), len(ranked), 0.0)
    by_chance = (len(shifted) - np.searchsorted(shifted, scores[ranked])) / ways
    kept = np.flatnonzero(by_chance <= RATE * np.arange(1, len(ranked) + 1))
    count = int(kept[-1]) + 1 if len(kept) else 0
    return Pairs(tuple(ranked[:count].tolist()), len(ranked), len(shifted) / ways)


def _row(
    by: str, pictures: Statistics, seen: Contrasts, read: Contrasts, unit: int
) -> dict[str, Any]:
    layer, number = pictures.place_of(unit)
    concept = int(seen.values[:, unit].argmax())
    return {
        "module": layer.path,
        "unit": number,
        "by": by,
        "concept": pictures.concepts[concept],
        "picture": float(seen.values[concept, unit]),
        "word": float(read.values[concept, unit]),
    }


def _note(by: str, units: int, pairs: Pairs) -> str:
    what = {
        "letters": ("units of the image encoder", "pictures of its word in letters"),
        "prompts": ("dimensions of the shared space", "prompts with its word"),
    }[by]
    named = f"{len(pairs.units)} of them are" if pairs.units else "None of them is"
    return (
        f"Of {units:,} {what[0]}, {pairs.alike} respond to pictures of a concept and to {what[1]}"
        f" before all others; with the words given to other concepts {pairs.expected:.1f} would."
        f" {named} multimodal beyond chance."
    )


def draw_word(concept: str, look: int, side: int) -> Image.Image:
    """Draw a concept's word in one of the `LOOKS`, RGB, on a square of `side` pixels."""
    share, top, left, color = LOOKS[look]
    size = round(share * side)
    paper = Image.new("RGB", (side, side), (255, 255, 255))
    paper.paste(word(concept, size), (round(left * (side - size)), round(top * (side - size))))
    return ImageChops.multiply(paper, Image.new("RGB", (side, side), color))
