"""Two runs side by side: the cells that both have, and how far these lie apart.

Cells are matched by what they mean, not by their keys: the labels of their axes, the name of
their variant, their prompt and seed. Reads the two folders alone.

    compare.csv      a row a pair: what it is, metrics, whether the images are equal bit for bit
    compare.png      each pair with its difference, brightened; compare-2.png ... where it is long

    >>> compare.save(compare.compare(Run("outputs/a"), Run("outputs/b")), Path("outputs/a-vs-b"))
    [PosixPath('outputs/a-vs-b/compare.csv'), PosixPath('outputs/a-vs-b/compare.png')]
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from ablate.drift.matching import Match, Side, count_cells
from ablate.drift.metrics import WINDOW, rmse, ssim
from ablate.store import Run, StoredCell, StoreError, read_latents
from ablate.style import clean

COMPARED = ("rmse", "ssim", "latent")


@dataclass(frozen=True)
class Pair:
    """One cell of two runs, finished in both, and how far its images lie apart.

    `told`: what it is among the pairs, a phrase an axis. `rmse` of images in [0, 1], `ssim` (1 is
    equal) and `latent`, the rmse of final latents, as in `drift.csv`; `largest`: the largest
    difference of a channel, of 255. None: not measured, as where NaN arose; `note` says why.
    `states`: "ok" or "nan", of both. `size`: width and height at which both were compared.
    """

    a: StoredCell
    b: StoredCell
    told: tuple[str, ...] = ()
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
        words = ["baseline"] * self.a.is_baseline + list(self.told)
        return ", ".join(words) or self.a.variant

    @property
    def broken(self) -> bool:
        """Whether NaN arose in both, so that there is nothing to compare."""
        return "ok" not in self.states

    @property
    def rank(self) -> tuple[bool, float]:
        """What the largest drift is found by: NaN in one run alone lies beyond all that is."""
        return self.states[0] != self.states[1], -1 if self.rmse is None else self.rmse


@dataclass(frozen=True)
class Comparison:
    """Two runs, the pairs of cells that both have in the order of the first one's plan, and more.

    `names`: of the runs, short. `alone`: cells that the other run does not plan. `renamed`: axes
    whose values were matched by position or under another name, as (name in a, name in b).
    `changes`: what the runs were made with, where that differs. `notes`: sentences to the user.
    """

    a: Run
    b: Run
    names: tuple[str, str]
    pairs: tuple[Pair, ...]
    alone: tuple[tuple[StoredCell, ...], tuple[StoredCell, ...]]
    renamed: tuple[tuple[str, str], ...]
    changes: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where files go unless asked: beside the first run."""
        name = "-vs-".join(name.replace("/", "-") for name in self.names)
        return Path(os.path.normpath(self.a.folder / "..")) / name

    def summary(self) -> str:
        """What the pairs come to, in one sentence."""
        count = len(self.pairs)
        same = sum(pair.identical for pair in self.pairs)
        alike = "all" if same == count else "none" if not same else str(same)
        told = f"{count_cells(count)} compared: {alike} identical bit for bit"
        if count == 1:
            told = f"1 cell compared: {'' if same else 'not '}identical bit for bit"
        measured = [(p.rmse, p.title) for p in self.pairs if p.rmse is not None]
        if not measured or same == count:
            return f"{told}."
        median = statistics.median(figure for figure, _ in measured)
        figure, title = max(measured, key=lambda found: found[0])
        if count == 1:
            return f"{told}; rmse {figure:.3g}."
        most = f"{figure:.3g} at most ({title})"
        return f"{told}; rmse {median:.3g} in the median, {most}."

    def sentences(self) -> list[str]:
        """All that there is to say, to be printed."""
        between = f"{self.names[0]} against {self.names[1]}"
        made = [f"{between}: {'; '.join(self.changes)}." if self.changes else f"{between}."]
        return [*made, self.summary(), *self.notes]


def compare_runs(a: Run, b: Run) -> Comparison:
    """Match the cells of two runs and measure how far each pair lies apart.

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
            f"{a.folder} and {b.folder} share {count_cells(len(match.pairs))}, none of which is"
            " finished in both: run their recipes to the end"
        )
    varying = first.varying(both)
    known: dict[tuple[str, str], Pair] = {}  # one image may stand at several places
    pairs = []
    for i, j in both.items():
        x, y = first.cells[i], second.cells[j]
        if (x.key, y.key) not in known:
            known[x.key, y.key] = _measured(x, y)
        told = first.phrases(i, varying)
        pairs.append(replace(known[x.key, y.key], a=x, b=y, told=told))
    notes = [*match.notes, *match.lone_notes()]
    if waiting := match.pairs.items() - both.items():
        counts = [sum(not x.cells[pair[k]].done for pair in waiting) for k, x in enumerate(sides)]
        notes.append(f"{count_cells(len(waiting))} that both plan are left out: {counts[0]} not"
                     f" finished in {names[0]}, {counts[1]} in {names[1]}.")  # fmt: skip
    notes += _pair_notes(pairs, names)
    changes = _changes(first, second, pairs, match.renamed)
    lone = [tuple(x.cells[i] for i in m) for x, m in zip(sides, match.left, strict=True)]
    return Comparison(
        a, b, names, tuple(pairs), (lone[0], lone[1]), tuple(match.renamed), changes, tuple(notes)
    )


def _names(a: Run, b: Run) -> tuple[str, str]:
    """Short names of two folders: as many last parts of their paths as tell them apart."""
    paths = [run.folder.resolve() for run in (a, b)]
    for count in range(1, max(len(path.parts) for path in paths)):
        first, second = ("/".join(path.parts[-count:]) for path in paths)
        if first != second:
            return first, second
    return paths[0].name, paths[1].name


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
    """What the user should know of pairs that could not be held against each other as they are."""
    nan = [{k for k in (0, 1) if pair.states[k] != "ok"} for pair in pairs]
    for where, told in (({0, 1}, "both"), ({0}, f"{names[0]} alone"), ({1}, f"{names[1]} alone")):
        if count := nan.count(where):
            yield f"NaN arose in {count_cells(count)} of {told}; these have no drift."
    for kind, told in (
        ("resized", "different size: measured after the smaller image was resized"),
        ("not measured", "different proportions: not measured"),
    ):
        if count := sum(pair.note.startswith(kind) for pair in pairs):
            yield f"{count_cells(count)} of {told}."


def _changes(
    a: Side, b: Side, pairs: Sequence[Pair], renamed: Sequence[tuple[str, str]]
) -> tuple[str, ...]:
    """What two runs were made with, where that differs, as the cells of one pair tell it."""
    pair = next((p for p in pairs if not p.a.is_baseline), pairs[0])
    told = [_made(side, cell) for side, cell in ((a, pair.a), (b, pair.b))]
    swept = {*a.axes, *b.axes}
    if renamed:  # edits, too, differ by what stands for each other
        swept.add("edits")
    return tuple(
        f"{name} {told[0][name]} against {told[1][name]}"
        for name in told[0]
        if name in told[1] and name not in swept and told[0][name] != told[1][name]
    )


def _made(side: Side, cell: StoredCell) -> dict[str, str]:
    """How a cell was made, in words, by what it is called."""
    record = cell.record()
    model = side.manifest["model"]
    found = {"model": f"{model['id']} ({model['fingerprint'].rpartition(':')[2][:8]})"}
    found |= {n: side.manifest[n] for n in ("device", "dtype") if n in side.manifest}
    found |= {n: record[n] for n in ("component", "dtype", "compile") if n in record}
    found |= record["condition"].get("sampling", {})
    found |= {f"{library} version": v for library, v in record.get("versions", {}).items()}
    edits = []
    for edit in record.get("edits", []):
        given = [
            f"{k} {v}" for k, v in edit.items() if k not in ("op", "modules") and v is not None
        ]
        edits.append(f"{edit['op']} ({', '.join(given)})" if given else edit["op"])
    found["edits"] = " + ".join(edits)
    return {name: clean(str(value)) for name, value in found.items()}
