"""Which cells of two runs belong together.

Cells are matched by what they mean, not by their keys: the labels of their axes, the name of
their variant, their prompt and seed. Where one axis alone has no value in common, its values are
matched by position, and a note says so. Prompts and seeds never are: images of different noise
lie apart whatever was edited.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ablate.store import Run, StoredCell

NAMED = 4  # values that a sentence names before it says that there are more


def count_cells(count: int) -> str:
    """`1 cell`, `2 cells`."""
    return f"{count} cell{'s' * (count != 1)}"


def _some(values: Iterable[str], name: str = "") -> str:
    told = [f"“{value}”" if name == "prompt" else value for value in values]
    rest = f" and {len(told) - NAMED} more" if len(told) > NAMED else ""
    return ", ".join(told[:NAMED]) + rest


Place = tuple[str, str]  # an axis and a label on it
Meaning = tuple[frozenset[Place], str]  # where a cell stands, and the name of its variant


class Side:
    """A run as it is matched: its cells, each once, and what their axes say of them."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.manifest = run.manifest()
        self.axes = {axis.name: axis for axis in run.axes()}
        self.cells = list(run.cells())
        self.labels = [self._labels(cell) for cell in self.cells]
        self.variants = [
            _own_name(cell, labels) for cell, labels in zip(self.cells, self.labels, strict=True)
        ]

    def _labels(self, cell: StoredCell) -> dict[str, str]:
        """By axis, in recipe order, how the cell's value is written; prompt and seed always."""
        values = {"prompt": cell.prompt, "seed": cell.seed, **cell.axes}
        known = [name for name in self.axes if name in values]
        found = {}
        for name in dict.fromkeys(["prompt", "seed", *known, *values]):
            axis = self.axes.get(name)
            there = axis is not None and values[name] in axis.values
            found[name] = axis.label(values[name]) if axis and there else str(values[name])
        return found

    def seen(self, name: str) -> list[str]:
        """The labels of an axis that have cells, in their order."""
        return list(dict.fromkeys(found[name] for found in self.labels if name in found))

    def own(self) -> list[str]:
        """The axes that say more than prompt and seed."""
        return [name for name in self.axes if name not in ("prompt", "seed")]

    def varying(self, cells: Iterable[int]) -> list[str]:
        """The axes that tell these cells apart, and all that are not of prompts and seeds."""
        found: dict[str, set[str]] = {}
        for i in cells:
            for name, label in self.labels[i].items():
                found.setdefault(name, set()).add(label)
        condition = [name for name in ("prompt", "seed") if len(found.get(name, ())) > 1]
        return [*(name for name in found if name not in ("prompt", "seed")), *condition]

    def phrases(self, cell: int, names: Sequence[str]) -> tuple[str, ...]:
        """What a cell is on some of the axes; its variant too, where these do not tell it."""
        own = self.variants[cell]
        told = [own] if own and not self.cells[cell].is_baseline else []
        labels = {name: x for name in names if (x := self.labels[cell].get(name)) is not None}
        return (*told, *(f"“{x}”" if n == "prompt" else f"{n} {x}" for n, x in labels.items()))


def _own_name(cell: StoredCell, labels: Mapping[str, str]) -> str:
    """The variant's name, but empty where it only repeats the axes: these are matched as axes."""
    around = f", {cell.variant}, "
    told = [f"{name}={label}" for name, label in labels.items()]
    repeated = ", ".join(part for part in told if f", {part}, " in around)
    return "" if repeated == cell.variant else cell.variant


class Match:
    """Which cells of two runs belong together, what was assumed for it, and what is left."""

    def __init__(self, a: Side, b: Side, names: tuple[str, str]) -> None:
        self.sides, self.names = (a, b), names
        self.notes: list[str] = []
        self.renamed: list[tuple[str, str]] = []
        self.moved: dict[Place, Place] = {}  # of a, as b has them
        self.dropped: set[str] = set()
        self.variants: dict[str, str] = {}
        self._align()
        meanings, others = ([self._meaning(side, i) for i in range(len(side.cells))]
                            for side in self.sides)  # fmt: skip
        self.meanings = meanings, others
        found = _paired(meanings, others)
        # Strength nought is the baseline: one that stands on an axis is like one beside the sweep.
        taken = set(found.values())
        found |= _paired(
            [self._base(a, i, m) if i not in found else None for i, m in enumerate(meanings)],
            [self._base(b, j, m) if j not in taken else None for j, m in enumerate(others)],
        )
        self.pairs = dict(sorted(found.items()))  # by number of a's cells: that of b's
        taken = set(found.values())
        self.left = (
            [i for i in range(len(a.cells)) if i not in found],
            [j for j in range(len(b.cells)) if j not in taken],
        )

    def _align(self) -> None:
        """Decide what axes, labels and variants of the second run stand for those of the first."""
        a, b = self.sides
        lone = [[n for n in x.own() if n not in y.axes] for x, y in ((a, b), (b, a))]
        facing = [(n, n) for n in a.own() if n in b.axes and not {*a.seen(n)} & {*b.seen(n)}]
        if [len(names) for names in lone] == [1, 1]:
            facing.append((lone[0][0], lone[1][0]))
        # One axis may be matched by position; of several, it could not be told which moved the
        # images. Where all cells of a run have one value, there is nothing to confuse.
        several = [pair for pair in facing if len(a.seen(pair[0])) > 1 or len(b.seen(pair[1])) > 1]
        for old, new in facing:
            olds, news = a.seen(old), b.seen(new)
            if {*olds} & {*news}:
                self.notes.append(f"`{old}` and `{new}` are taken for one axis.")
                news = olds
            elif len(olds) == len(news) and ((old, new) not in several or len(several) == 1):
                self._tell(f"`{old}`" if old == new else f"`{old}` and `{new}`", olds, news)
            else:
                continue
            self.moved |= {(old, x): (new, y) for x, y in zip(olds, news, strict=True)}
            self.renamed.append((old, new))
        for k, side in enumerate(self.sides):
            for name in lone[k]:
                taken = any(name == pair[k] for pair in self.renamed)
                if not taken and len(values := side.seen(name)) == 1:
                    self.dropped.add(name)
                    self.notes.append(f"`{name}` is {values[0]} throughout {self.names[k]} and no"
                                      f" axis of {self.names[1 - k]}.")  # fmt: skip
        variants = [[v for v in dict.fromkeys(x.variants) if v != "baseline"] for x in (a, b)]
        if not {*variants[0]} & {*variants[1]} and len(variants[0]) == len(variants[1]):
            self.variants = dict(zip(*variants, strict=True))
            if told := {x: y for x, y in self.variants.items() if x and y}:
                self._tell("Variants", list(told), list(told.values()))

    def _tell(self, name: str, olds: list[str], news: list[str]) -> None:
        a, b = self.names
        self.notes.append(f"{name}: matched by position, {_some(olds)} of {a} with {_some(news)}"
                          f" of {b}.")  # fmt: skip

    def _places(self, side: Side, cell: int) -> list[Place]:
        """Where a cell stands, in the words of the second run."""
        kept = [place for place in side.labels[cell].items() if place[0] not in self.dropped]
        return [self.moved.get(p, p) for p in kept] if side is self.sides[0] else kept

    def _meaning(self, side: Side, cell: int) -> Meaning:
        variant = side.variants[cell]
        if side is self.sides[0]:
            variant = self.variants.get(variant, variant)
        return frozenset(self._places(side, cell)), variant

    def _base(self, side: Side, cell: int, meaning: Meaning) -> Meaning | None:
        """What a baseline is, but for the axes that vary edits; None of other cells."""
        if not side.cells[cell].is_baseline:
            return None
        kept = {"prompt", "seed", "steps", "width", "height", *side.manifest["sampling"]}
        return frozenset(x for x in meaning[0] if x[0] in kept), "baseline"

    def lone_notes(self) -> Iterator[str]:
        """A sentence for the cells of each run that the other one does not plan."""
        for k, left in enumerate(self.left):
            if not left:
                continue
            there = {place for labels, _ in self.meanings[1 - k] for place in labels}
            there |= {("variant", variant) for _, variant in self.meanings[1 - k]}
            lacking: dict[str, dict[str, None]] = {}
            for i in left:
                variant = self.meanings[k][i][1]
                for place in [*self._places(self.sides[k], i), ("variant", variant)]:
                    # Of a point its axis tells more than its description.
                    point = place[0] == "prompt" and self.sides[k].cells[i].point
                    if place not in there and place[1] and not point:
                        lacking.setdefault(place[0], {})[place[1]] = None
            why = "; ".join(f"`{name}` {_some(labels, name)}" for name, labels in lacking.items())
            have = "have" if len(left) > 1 else "has"
            told = f"{count_cells(len(left))} of {self.names[k]} {have} no counterpart in"
            yield f"{told} {self.names[1 - k]}{': ' * bool(why)}{why}."

    def reasons(self) -> str:
        """Why nothing matches."""
        a, b = self.sides
        told = []
        if set(a.axes) != set(b.axes):
            told.append(f"axes {', '.join(a.axes)} against {', '.join(b.axes)}")
        for name in dict.fromkeys(["prompt", "seed", *a.own()]):
            x, y = a.seen(name), b.seen(name)
            if x and y and not {*x} & {*y}:
                told.append(f"`{name}` {_some(x, name)} against {_some(y, name)}")
        if not {*a.variants} & {*b.variants}:
            told.append(f"variants {_some(dict.fromkeys(a.variants))} against"
                        f" {_some(dict.fromkeys(b.variants))}")  # fmt: skip
        return "; ".join(told) or "no combination of axes, variant, prompt and seed is in both"


def _paired(ours: Sequence[Any], theirs: Sequence[Any]) -> dict[int, int]:
    """Places of what is equal in both; each is given away once, and None never."""
    places: dict[Any, list[int]] = {}
    for i, meaning in reversed(list(enumerate(theirs))):
        places.setdefault(meaning, []).append(i)
    places.pop(None, None)
    return {i: places[m].pop() for i, m in enumerate(ours) if places.get(m)}
