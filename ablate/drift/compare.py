"""Two runs side by side: the cells that both have, and how far they differ.

Cells are matched by their labels, not by their keys: the labels of their axes, the name of their
variant, their prompt and seed. Reads the two folders alone.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablate.drift.metrics import WINDOW, rmse, ssim
from ablate.messages import counted
from ablate.store import Run, StoredCell, StoreError, read_latents
from ablate.style import clean

COMPARED = ("rmse", "ssim", "latent")
NAMED = 4  # values that a sentence names before it says that there are more


@dataclass(frozen=True)
class Pair:
    """One cell of two runs, finished in both, and how far its images differ.

    Figures are None where they are not measured, as with NaN; `note` says why.

    Attributes:
        a: The cell of the first run.
        b: The cell of the second run.
        phrases: A phrase for each axis that tells it from other pairs.
        rmse: Root mean square difference of the images, values in [0, 1].
        ssim: Structural similarity; 1 is equal.
        latent: Root mean square difference of the final latents.
        largest: The largest difference of a channel, of 255.
        identical: Whether the images are equal bit for bit.
        states: `ok` or `nan`, of both.
        size: Width and height at which both were compared.
        note: What kept them from being compared as they are.
    """

    a: StoredCell
    b: StoredCell
    phrases: tuple[str, ...] = ()
    rmse: float | None = None
    ssim: float | None = None
    latent: float | None = None
    largest: int | None = None
    identical: bool = False
    states: tuple[str, str] = ("ok", "ok")
    size: tuple[int, int] = (0, 0)
    note: str = ""

    @property
    def title(self) -> str:
        """What the pair is, in a few words."""
        words = ["baseline"] * self.a.is_baseline + list(self.phrases)
        return ", ".join(words) or self.a.variant

    @property
    def broken(self) -> bool:
        """Whether NaN arose in both, so that there is nothing to compare."""
        return "ok" not in self.states

    @property
    def rank(self) -> tuple[bool, float]:
        """The key of the order by drift: NaN in one run alone is more than any figure."""
        return self.states[0] != self.states[1], -1 if self.rmse is None else self.rmse


@dataclass(frozen=True)
class Comparison:
    """Two runs and the pairs of cells that both have.

    Attributes:
        a: The first run.
        b: The second run.
        names: Short names of the runs.
        pairs: In the order of the first run's plan.
        alone: Of each run, the cells that the other one does not plan.
        changes: The settings in which the runs differ.
        notes: Sentences to the user.
    """

    a: Run
    b: Run
    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    alone: tuple[tuple[StoredCell, ...], tuple[StoredCell, ...]]
    changes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """The default folder of its files: beside the first run."""
        name = "-vs-".join(name.replace("/", "-") for name in self.names)
        return Path(os.path.normpath(self.a.folder / "..")) / name

    def summary(self) -> str:
        """All pairs in one sentence."""
        count = len(self.pairs)
        same = sum(pair.identical for pair in self.pairs)
        alike = "all" if same == count else "none" if not same else str(same)
        text = f"{counted(count, 'cell')} compared: {alike} identical bit for bit"
        if count == 1:
            text = f"1 cell compared: {'' if same else 'not '}identical bit for bit"
        measured = [(p.rmse, p.title) for p in self.pairs if p.rmse is not None]
        if not measured or same == count:
            return f"{text}."
        median = statistics.median(figure for figure, _ in measured)
        figure, title = max(measured, key=lambda pair: pair[0])
        if count == 1:
            return f"{text}; rmse {figure:.3g}."
        most = f"{figure:.3g} at most ({title})"
        return f"{text}; rmse {median:.3g} in the median, {most}."

    def sentences(self) -> list[str]:
        """Everything to print: settings that differ, summary, notes."""
        between = f"{self.names[0]} against {self.names[1]}"
        first = [f"{between}: {'; '.join(self.changes)}." if self.changes else f"{between}."]
        return [*first, self.summary(), *self.notes]


def compare_runs(a: Run, b: Run) -> Comparison:
    """Match the cells of two runs and measure how far each pair differs.

    Raises `StoreError` when the runs have no finished cell in common; it names what differs.
    """
    names = _names(a, b)
    sides = first, second = Side(a), Side(b)
    match = Match(first, second, names)
    if not match.pairs:
        raise StoreError(f"{a.folder} and {b.folder} share no cell: {match.reasons()}")
    both = {i: j for i, j in match.pairs.items() if first.cells[i].done and second.cells[j].done}
    if not both:
        raise StoreError(
            f"{a.folder} and {b.folder} share {counted(len(match.pairs), 'cell')}, none of which is"
            " finished in both: run their recipes to the end"
        )
    varying = first.varying(both)
    known: dict[tuple[str, str], Pair] = {}  # one image may be in several places
    pairs = []
    for i, j in both.items():
        x, y = first.cells[i], second.cells[j]
        if (x.key, y.key) not in known:
            known[x.key, y.key] = _measured(x, y)
        phrases = first.phrases(i, varying)
        pairs.append(replace(known[x.key, y.key], a=x, b=y, phrases=phrases))
    notes = [*match.notes, *match.sentences()]
    if waiting := match.pairs.items() - both.items():
        counts = [sum(not x.cells[pair[k]].done for pair in waiting) for k, x in enumerate(sides)]
        notes.append(f"{counted(len(waiting), 'cell')} that both plan are left out: {counts[0]} not"
                     f" finished in {names[0]}, {counts[1]} in {names[1]}.")  # fmt: skip
    notes += _pair_notes(pairs, names)
    changes = _changes(first, second, pairs)
    lone = [tuple(x.cells[i] for i in m) for x, m in zip(sides, match.left, strict=True)]
    return Comparison(a, b, names, tuple(pairs), (lone[0], lone[1]), changes, tuple(notes))


def _names(a: Run, b: Run) -> tuple[str, str]:
    """Short names of two folders: as many last parts of their paths as tell them apart."""
    paths = [run.folder.resolve() for run in (a, b)]
    for count in range(1, max(len(path.parts) for path in paths)):
        first, second = ("/".join(path.parts[-count:]) for path in paths)
        if first != second:
            return first, second
    return paths[0].name, paths[1].name


# ------------------------------------------------------------ which cells belong together


def _some(values: Iterable[str], name: str = "") -> str:
    shown = [f"“{value}”" if name == "prompt" else value for value in values]
    rest = f" and {len(shown) - NAMED} more" if len(shown) > NAMED else ""
    return ", ".join(shown[:NAMED]) + rest


class Side:
    """A run as it is matched.

    Attributes:
        axes: Its axes by name.
        cells: Its cells, each once.
        labels: Of each cell, the label of its value on each axis, and its prompt and seed.
        variants: Of each cell, the name of its variant; empty where it only repeats the axes.
    """

    def __init__(self, run: Run) -> None:
        self.manifest = run.manifest()
        self.axes = {axis.name: axis for axis in run.axes()}
        self.cells = list(run.cells())
        self.labels = [self._labels(cell) for cell in self.cells]
        self.variants = [
            _further_name(cell, labels)
            for cell, labels in zip(self.cells, self.labels, strict=True)
        ]

    def _labels(self, cell: StoredCell) -> dict[str, str]:
        values = {"prompt": cell.prompt, "seed": cell.seed, **cell.axes}
        known = [name for name in self.axes if name in values]
        labels = {}
        for name in dict.fromkeys(["prompt", "seed", *known, *values]):
            axis = self.axes.get(name)
            listed = axis is not None and values[name] in axis.values
            labels[name] = axis.label(values[name]) if axis and listed else str(values[name])
        return labels

    def values(self, name: str) -> list[str]:
        """The labels of an axis that cells have, in their order."""
        return list(dict.fromkeys(labels[name] for labels in self.labels if name in labels))

    def varying(self, cells: Iterable[int]) -> list[str]:
        """All axes of these cells; prompt and seed only where they differ."""
        values: dict[str, set[str]] = {}
        for i in cells:
            for name, label in self.labels[i].items():
                values.setdefault(name, set()).add(label)
        condition = [name for name in ("prompt", "seed") if len(values.get(name, ())) > 1]
        return [*(name for name in values if name not in ("prompt", "seed")), *condition]

    def phrases(self, cell: int, names: Sequence[str]) -> tuple[str, ...]:
        """A phrase for each axis, after the variant where that says more."""
        variant = self.variants[cell]
        first = [variant] if variant and not self.cells[cell].is_baseline else []
        labels = {name: x for name in names if (x := self.labels[cell].get(name)) is not None}
        return (*first, *(f"“{x}”" if n == "prompt" else f"{n} {x}" for n, x in labels.items()))


def _further_name(cell: StoredCell, labels: Mapping[str, str]) -> str:
    """The variant's name, empty where it only repeats the axes."""
    around = f", {cell.variant}, "
    parts = [f"{name}={label}" for name, label in labels.items()]
    repeated = ", ".join(part for part in parts if f", {part}, " in around)
    return "" if repeated == cell.variant else cell.variant


class Match:
    """Which cells of two runs have the same labels, variant, prompt and seed.

    An axis of one run alone does not count where all cells of that run have one value on it.

    Attributes:
        pairs: Numbers of the second run's cells by those of the first's.
        left: Of each run, the numbers of the cells without a counterpart.
        notes: Sentences about axes that do not count.
    """

    def __init__(self, a: Side, b: Side, names: tuple[str, str]) -> None:
        self.sides, self.names = (a, b), names
        self.notes: list[str] = []
        single: set[str] = set()
        for k, side in enumerate(self.sides):
            for axis in side.axes:
                values = side.values(axis)
                if axis not in (*self.sides[1 - k].axes, "prompt", "seed") and len(values) == 1:
                    single.add(axis)
                    self.notes.append(f"`{axis}` is {values[0]} throughout {names[k]} and no axis"
                                      f" of {names[1 - k]}.")  # fmt: skip
        self.places = [
            [[place for place in labels.items() if place[0] not in single] for labels in x.labels]
            for x in self.sides
        ]
        pairs = _paired(*(
            [(frozenset(places), variant) for places, variant in zip(of, x.variants, strict=True)]
            for of, x in zip(self.places, self.sides, strict=True)
        ))  # fmt: skip
        # An edit of strength 0 on an axis is a baseline, like one beside the sweep.
        pairs |= _paired(self._baselines(0, {*pairs}), self._baselines(1, {*pairs.values()}))
        self.pairs = dict(sorted(pairs.items()))
        self.left = [
            [i for i in range(len(x.cells)) if i not in used]
            for x, used in zip(self.sides, ({*pairs}, {*pairs.values()}), strict=True)
        ]

    def _baselines(self, k: int, used: set[int]) -> list[Any]:
        """The conditions of unmatched baselines; None for all other cells."""
        side = self.sides[k]
        kept = {"prompt", "seed", "steps", "width", "height", *side.manifest["sampling"]}
        return [
            frozenset(place for place in places if place[0] in kept)
            if side.cells[i].is_baseline and i not in used
            else None
            for i, places in enumerate(self.places[k])
        ]

    def sentences(self) -> Iterator[str]:
        """A sentence about the cells of each run that the other one does not plan."""
        for k, left in enumerate(self.left):
            if not left:
                continue
            side, other = self.sides[k], self.sides[1 - k]
            known = {place for places in self.places[1 - k] for place in places}
            known |= {("variant", variant) for variant in other.variants}
            missing: dict[str, dict[str, None]] = {}
            for i in left:
                for place in [*self.places[k][i], ("variant", side.variants[i])]:
                    # The axis of a point says more than its description.
                    point = place[0] == "prompt" and side.cells[i].point
                    if place not in known and place[1] and not point:
                        missing.setdefault(place[0], {})[place[1]] = None
            why = "; ".join(f"`{name}` {_some(labels, name)}" for name, labels in missing.items())
            have = "have" if len(left) > 1 else "has"
            start = f"{counted(len(left), 'cell')} of {self.names[k]} {have} no counterpart in"
            yield f"{start} {self.names[1 - k]}{': ' * bool(why)}{why}."

    def reasons(self) -> str:
        """Why nothing matches."""
        a, b = self.sides
        reasons = []
        if set(a.axes) != set(b.axes):
            reasons.append(f"axes {', '.join(a.axes)} against {', '.join(b.axes)}")
        for name in dict.fromkeys(["prompt", "seed", *a.axes]):
            x, y = a.values(name), b.values(name)
            if x and y and not {*x} & {*y}:
                reasons.append(f"`{name}` {_some(x, name)} against {_some(y, name)}")
        if not {*a.variants} & {*b.variants}:
            reasons.append(f"variants {_some(dict.fromkeys(a.variants))} against"
                           f" {_some(dict.fromkeys(b.variants))}")  # fmt: skip
        return "; ".join(reasons) or "no combination of axes, variant, prompt and seed is in both"


def _paired(ours: Sequence[Any], theirs: Sequence[Any]) -> dict[int, int]:
    """Numbers of equal items; each is used once, and None never."""
    places: dict[Any, list[int]] = {}
    for i, item in reversed(list(enumerate(theirs))):
        places.setdefault(item, []).append(i)
    places.pop(None, None)
    return {i: places[item].pop() for i, item in enumerate(ours) if places.get(item)}


# ------------------------------------------------------------ how far a pair differs


def _measured(a: StoredCell, b: StoredCell) -> Pair:
    records = a.record(), b.record()
    states = tuple(str(record.get("state", "ok")) for record in records)
    images = a.image(), b.image()
    size = max(images[0].width, images[1].width), max(images[0].height, images[1].height)
    pair = Pair(a, b, states=(states[0], states[1]), size=size)
    if states != ("ok", "ok"):
        return replace(pair, note="NaN in both" if states[0] == states[1] else "NaN in one")
    sizes = [f"{image.width} × {image.height}" for image in images]
    fitted = at_one_size(images)
    if fitted is None:
        return replace(pair, note=f"not measured: {sizes[0]} against {sizes[1]}")
    x, y = (np.asarray(image) / 255 for image in fitted)
    resized = images[0].size != images[1].size
    ours, theirs = read_latents(a.path), read_latents(b.path)
    if ours is not None and theirs is not None and ours.shape == theirs.shape:
        pair = replace(pair, latent=rmse(ours, theirs))
    return replace(
        pair,
        rmse=rmse(x, y),
        ssim=ssim(x, y) if min(x.shape[:2]) >= WINDOW else None,
        largest=round(float(np.abs(x - y).max()) * 255),
        identical=not resized and bool((x == y).all()),
        note=f"resized: {sizes[0]} against {sizes[1]}" if resized else "",
    )


def at_one_size(images: tuple[Image.Image, Image.Image]) -> tuple[Image.Image, Image.Image] | None:
    """Both images at the size of the larger; None where their proportions differ."""
    a, b = images
    if a.width * b.height != b.width * a.height:
        return None
    size = max(a.size, b.size)
    x, y = (i if i.size == size else i.resize(size, Image.Resampling.LANCZOS) for i in images)
    return x, y


def _pair_notes(pairs: Sequence[Pair], names: tuple[str, str]) -> Iterator[str]:
    """Sentences about pairs that cannot be compared as they are."""
    nan = [{k for k in (0, 1) if pair.states[k] != "ok"} for pair in pairs]
    for where, what in (({0, 1}, "both"), ({0}, f"{names[0]} alone"), ({1}, f"{names[1]} alone")):
        if count := nan.count(where):
            yield f"NaN arose in {counted(count, 'cell')} of {what}; these have no drift."
    for kind, what in (
        ("resized", "different size: measured after the smaller image was resized"),
        ("not measured", "different proportions: not measured"),
    ):
        if count := sum(pair.note.startswith(kind) for pair in pairs):
            yield f"{counted(count, 'cell')} of {what}."


def _changes(a: Side, b: Side, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """The settings in which two runs differ, by the cells of one pair."""
    pair = next((p for p in pairs if not p.a.is_baseline), pairs[0])
    ours, theirs = (_settings(side, cell) for side, cell in ((a, pair.a), (b, pair.b)))
    swept = {*a.axes, *b.axes}
    return tuple(
        f"{name} {value} against {theirs[name]}"
        for name, value in ours.items()
        if name in theirs and name not in swept and value != theirs[name]
    )


def _settings(side: Side, cell: StoredCell) -> dict[str, str]:
    """The settings of a cell by their names: model, device, sampling, versions, edits."""
    record = cell.record()
    model = side.manifest["model"]
    settings = {"model": f"{model['id']} ({model['fingerprint'].rpartition(':')[2][:8]})"}
    settings |= {n: side.manifest[n] for n in ("device", "dtype") if n in side.manifest}
    settings |= {n: record[n] for n in ("component", "dtype", "compile") if n in record}
    settings |= record["condition"].get("sampling", {})
    settings |= {f"{library} version": v for library, v in record.get("versions", {}).items()}
    edits = []
    for edit in record.get("edits", []):
        given = [
            f"{k} {v}" for k, v in edit.items() if k not in ("op", "modules") and v is not None
        ]
        edits.append(f"{edit['op']} ({', '.join(given)})" if given else edit["op"])
    settings["edits"] = " + ".join(edits)
    return {name: clean(str(value)) for name, value in settings.items()}
