"""Multimodal units: those of a CLIP model that answer to pictures of a concept and to its word.

As Goh et al. 2021, Multimodal neurons in artificial neural networks: one unit of the image encoder
answers to pictures of a thing and to pictures of its name in letters. Beside these, dimensions of
the space that pictures and texts share: what they are for pictures, and for prompts.

A unit is multimodal for a concept that comes first in both, with both contrasts above what chance
gives. In a network that has never learned to read, every word looks like something as well, and
that is the right concept for one unit in as many as there are concepts. How many that comes to is
known by dealing the words to other concepts, and units are named only as far down as this accounts
for `RATE` of them: the false discovery rate of Tusher, Tibshirani and Chu 2001, Significance
analysis of microarrays.

    multimodal.csv   a row a unit
    multimodal/      statistics of words in letters, and of the shared space
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops
from torch import Tensor

from ablate.drift import Reader
from ablate.edits import word, wrong_letters
from ablate.engine import stoppable, with_keys
from ablate.store import Layer, Run, Statistics, StatisticsError
from ablate.units.concepts.search import Contrasts
from ablate.units.record.layers import capturing, strength
from ablate.units.record.recording import READ, open_picture, render_missing
from ablate.units.record.stimuli import shuffled
from ablate.units.record.study import CLIP, Study

TABLE, FOLDER = "multimodal.csv", "multimodal"
HEADS = ("module", "unit", "by", "concept", "picture", "word")
PICTURE, TEXT = "visual_projection", "text_projection"  # into the shared space
RATE = 0.05  # of the units that are named may be there by chance
# How a word is shown: its size, as a part of the picture's side; where in what is free beside it,
# from the top and from the left; the paper's color. These are to words what templates are to
# concepts: a unit that answers to a word answers to it in all of them.
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
class Both:
    """Units that answer to pictures and to words, as `cards.json` has them, and what there is to
    say of them. `by`: `letters` in pictures, or `prompts`."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def find(
    study: Study,
    statistics: Statistics,
    known: Contrasts | None = None,
) -> Both:
    """The multimodal units of a study of the CLIP model's image encoder, and of the shared space;
    of any other study none. `known`: its contrasts. Writes `multimodal.csv`. Raises `Stopped` after
    Ctrl-C."""
    if study.component != CLIP or study.texts or study.reader is None:
        return Both()
    reader = study.reader
    letters = _kept(study, "words", statistics.layers, len(statistics.concepts) * len(LOOKS),
                    lambda: _of_letters(study, reader, statistics.layers))  # fmt: skip
    pictures = _kept(study, "pictures", None, len(study.samples),
                     lambda: _of_pictures(study, reader))  # fmt: skip
    prompts = _kept(study, "prompts", None, len(study.setup.stimuli.prompts),
                    lambda: _of_prompts(study, reader))  # fmt: skip
    found = Both()
    for by, shown, told in (("letters", statistics, letters), ("prompts", pictures, prompts)):
        seen = known if known is not None and shown is statistics else Contrasts.of(shown)
        read = Contrasts.of(told)
        pairs = paired(seen, read)
        values = seen.values, read.values
        found.rows.extend(_row(by, shown, *values, unit) for unit in pairs.units)
        found.notes.append(_note(by, shown.units, pairs))
    boxes = [concept for concept in statistics.concepts if wrong_letters(concept)]
    if boxes:
        found.notes.append(
            f"{len(boxes)} of {len(statistics.concepts)} concepts, such as “{boxes[0]}”, have"
            " letters that the typeface lacks: as words in letters they are boxes."
        )
    Run(study.folder).write_text(TABLE, table(found.rows))
    return found


@dataclass(frozen=True)
class Pairs:
    """Units that are named, the strongest first; how many have one concept first in both, above
    chance in each; and how many would if the words were dealt to other concepts, on average."""

    units: tuple[int, ...]
    alike: int
    expected: float


def paired(seen: Contrasts, read: Contrasts) -> Pairs:
    """The units that stand for one concept in both, beyond what coincidence gives: `seen`, the
    contrasts of pictures, and `read`, those of words, of the same concepts and units."""
    concepts = len(seen.values)
    first, second = (contrasts.values.argmax(0) for contrasts in (seen, read))
    # How far above chance a unit is in both, in the lesser of the two.
    most = (contrasts.values.max(0) / max(contrasts.least, 1e-9) for contrasts in (seen, read))
    scores = np.minimum(*most)
    alike, named = first == second, scores > 1
    ranked = np.flatnonzero(alike & named)
    ranked = ranked[np.argsort(-scores[ranked], kind="stable")]
    # Words are dealt by shifting them, in all ways but none: at one of these the two concepts of
    # any other unit meet, with the very score that it has.
    dealt, ways = np.sort(scores[~alike & named]), concepts - 1
    if not ways:
        return Pairs((), len(ranked), 0.0)
    by_chance = (len(dealt) - np.searchsorted(dealt, scores[ranked])) / ways
    kept = np.flatnonzero(by_chance <= RATE * np.arange(1, len(ranked) + 1))
    count = int(kept[-1]) + 1 if len(kept) else 0
    return Pairs(tuple(ranked[:count].tolist()), len(ranked), len(dealt) / ways)


def _row(
    by: str, pictures: Statistics, seen: np.ndarray, read: np.ndarray, unit: int
) -> dict[str, Any]:
    """A unit, from the contrasts (C, U) of pictures and of words."""
    layer, number = pictures.place_of(unit)
    concept = int(seen[:, unit].argmax())
    return {
        "module": layer.path,
        "unit": number,
        "by": by,
        "concept": pictures.concepts[concept],
        "picture": float(seen[concept, unit]),
        "word": float(read[concept, unit]),
    }


def _note(by: str, units: int, pairs: Pairs) -> str:
    """What was found, and what chance alone would give."""
    what = {
        "letters": ("units of the image encoder", "pictures of its word in letters"),
        "prompts": ("dimensions of the shared space", "prompts with its word"),
    }[by]
    named = f"{len(pairs.units)} of them are" if pairs.units else "None of them is"
    return (
        f"Of {units:,} {what[0]}, {pairs.alike} answer to pictures of a concept and to {what[1]}"
        f" before all others; with the words dealt to other concepts {pairs.expected:.1f} would."
        f" {named} multimodal beyond chance."
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row a unit, as CSV."""
    lines = io.StringIO()
    written = csv.writer(lines, lineterminator="\n")
    written.writerow(HEADS)
    for row in rows:
        figures = (f"{row[name]:.6g}" for name in ("picture", "word"))
        written.writerow([*(row[name] for name in HEADS[:4]), *figures])
    return lines.getvalue()


def picture(concept: str, look: int, side: int) -> Image.Image:
    """A concept's word in one of the `LOOKS`, RGB, side in pixels."""
    share, top, left, color = LOOKS[look]
    own = round(share * side)
    paper = Image.new("RGB", (side, side), (255, 255, 255))
    paper.paste(word(concept, own), (round(left * (side - own)), round(top * (side - own))))
    return ImageChops.multiply(paper, Image.new("RGB", (side, side), color))


def _of_letters(study: Study, reader: Reader, layers: Sequence[Layer]) -> Statistics:
    concepts, side = study.setup.stimuli.concepts, reader.preparation.side
    samples = [(c, look) for c in range(len(concepts)) for look in range(len(LOOKS))]

    def show(some: Sequence[int]) -> None:
        reader.images([picture(concepts[samples[n][0]], samples[n][1], side) for n in some])

    paths = [layer.path for layer in layers]
    labels = [concept for concept, _ in samples]
    return _heard(study, reader, paths, study.setup.kind, labels, show, READ)


def _of_pictures(study: Study, reader: Reader) -> Statistics:
    render_missing(study, study.plan)
    shots = with_keys(study.samples, study.pipeline)

    def show(some: Sequence[int]) -> None:
        reader.images([open_picture(study.pictures.path(shots[n].key)) for n in some])

    return _heard(study, reader, [PICTURE], "channels", study.concepts, show, READ)


def _of_prompts(study: Study, reader: Reader) -> Statistics:
    stimuli = study.setup.stimuli
    labels = [stimuli.concept_of(prompt) for prompt in stimuli.prompts]

    def show(some: Sequence[int]) -> None:
        reader.texts([stimuli.prompts[n] for n in some])

    # One by one: texts of a batch are filled up to one length.
    return _heard(study, reader, [TEXT], "channels", labels, show, 1)


def _heard(
    study: Study,
    reader: Reader,
    paths: Sequence[str],
    kind: str,
    labels: Sequence[int],
    show: Callable[[Sequence[int]], None],
    most: int,
) -> Statistics:
    """Statistics by concept of some layers of the CLIP model. `labels`: the concept of every
    sample; `show`: has it read the samples of these numbers, `most` at once."""
    own, dealt = np.array(labels), np.array(shuffled(labels))
    found: Statistics | None = None
    what = {PICTURE: "pictures", TEXT: "prompts"}.get(paths[0], "words in letters")
    study.progress.start(what, len(labels))
    with stoppable(study.pipeline) as check_stop:
        for first in range(0, len(labels), most):
            some = list(range(first, min(first + most, len(labels))))
            values: dict[str, Tensor] = {}

            def hear(path: str, given: Tensor, values: dict[str, Tensor] = values) -> None:
                values[path] = strength(given, kind).mean(-1)

            with capturing(reader.network, paths, kind, hear):
                show(some)
            if found is None:
                layers = [Layer(CLIP, path, kind, values[path].shape[1]) for path in paths]
                found = Statistics(layers, study.setup.stimuli.concepts)
            rows = torch.cat([values[path] for path in paths], 1).cpu().numpy()
            found.add(own[some], rows, None, dealt[some])
            study.progress.update(found.done)
            check_stop()
    assert found is not None
    return found


def _kept(
    study: Study,
    name: str,
    layers: Sequence[Layer] | None,
    samples: int,
    record: Callable[[], Statistics],
) -> Statistics:
    """Statistics as an earlier time left them, if they are these; else they are recorded."""
    path: Path = study.folder / FOLDER / f"{name}.npz"
    try:
        found = Statistics.load(path)
    except StatisticsError:
        found = None
    paths = None if layers is None else [layer.path for layer in layers]
    if (
        found is None
        or found.done != samples
        or found.concepts != study.setup.stimuli.concepts
        or (paths is not None and paths != [layer.path for layer in found.layers])
    ):
        found = record()
        found.save(path)
    return found
