"""`search`: the variant of a recipe that comes nearest to a goal, by random draws and evolution."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.drift import MeasuredCell, read_embeddings
from ablate.finders.finding import Finding
from ablate.finders.thresholds import label_of
from ablate.finders.trials import Trials
from ablate.messages import RequestError, counted, did_you_mean, phrase, shown
from ablate.sweep import Cell, Plan
from ablate.view import Strip, Try, draw_tries

STRUCTURED, NEAREST = "farthest while structured", "nearest to "
NOISE = "noise"  # the class of images without structure
METHODS = ("evolution", "random")
NEWCOMERS = 0.25  # share of a generation that is drawn anew, so that it does not stay where it is
PARENTS = 0.25  # share of the variants so far that the others descend from
ATTEMPTS = 50  # at a child that was not tried before
SHOWN = 6  # images of a variant on the sheet
Genes = tuple[int, ...]  # the number of the value on each axis, zipped ones counting as one


@dataclass(frozen=True)
class Variant:
    """A variant that was tried.

    Attributes:
        genes: Its values on the axes.
        generation: When it was tried, from 1.
        cells: Its cells, one for each condition.
        score: The mean over them; None where one of them is none that the goal allows.
    """

    genes: Genes
    generation: int
    cells: Sequence[MeasuredCell]
    score: float | None

    @property
    def rank(self) -> tuple[bool, float]:
        """What variants are sorted by, the nearest to the goal first."""
        return self.score is None, -(self.score or 0.0)


def search(
    trials: Trials,
    goal: str = STRUCTURED,
    budget: int = 200,
    seed: int = 0,
    method: str = "evolution",
) -> Finding:
    """Try variants of a recipe, those near to the best ones so far first.

    A generation descends from the best quarter of all before it: each takes every axis from one of
    two parents, and moves to the next value of one axis. A quarter of it is drawn anew.

    Args:
        trials: What measures.
        goal: `farthest while structured`, `nearest to CONCEPT`, or a distance such as `rmse`, which
            is to be large; `rmse_floors` is in noise floors.
        budget: Images at most, with baselines and those for the noise floor.
        seed: Of all draws.
        method: `evolution`, or `random` draws alone.

    Raises:
        RequestError: There is no such goal, or the budget is too small for one variant.
    """
    if method not in METHODS:
        hint = did_you_mean(method, METHODS) or f"; there are {', '.join(METHODS)}"
        raise RequestError(f"--method: there is no method `{method}`{hint}")
    space = _Space(trials.plan)
    aim = _Aim(trials, goal)
    dice, tried = random.Random(seed), dict[Genes, Variant]()
    size = max(4, round(math.sqrt(budget / space.conditions)))
    for generation in itertools.count(1):
        parents = list(tried.values()) if method == "evolution" else []
        asked: list[Genes] = []
        for genes in space.drawn(parents, tried, dice):
            cells = [cell for other in (*asked, genes) for cell in space.cells[other]]
            if len(asked) == size or trials.cost(cells) > budget:
                break
            asked.append(genes)
        if not asked:
            break
        measured = iter(trials.measure(cell for genes in asked for cell in space.cells[genes]))
        aim.look()
        for genes in asked:
            looked = list(itertools.islice(measured, len(space.cells[genes])))
            tried[genes] = Variant(genes, generation, looked, aim.score(looked))
    if not tried:
        first = next(iter(space.cells.values()))
        raise RequestError(
            f"--budget: {budget} images are too few: one variant takes {trials.cost(first)}, with"
            " its baselines and those for the noise floor"
        )
    return _finding(trials, space, aim, list(tried.values()))


class _Space:
    """All variants of a plan that edit anything.

    Attributes:
        plan: The plan.
        axes: The names of the axes, those that vary together in one group.
        cells: The cells of each variant, one for each condition.
        conditions: How many cells a variant has at most.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        varied = [a for a in plan.axes if not a.of_condition and len(a.values) > 1]
        numbers = {a.name: {repr(v): i for i, v in enumerate(a.values)} for a in varied}
        groups = [tuple(n for n in group if n in numbers) for group in plan.recipe.zipped]
        zipped = {name: group for group in groups for name in group}
        self.axes = list(dict.fromkeys(zipped.get(name, (name,)) for name in numbers))
        self.sizes = [len(numbers[names[0]]) for names in self.axes]
        self.cells: dict[Genes, list[Cell]] = {}
        for cell in plan.cells:
            if not cell.variant.is_baseline:
                genes = tuple(numbers[names[0]][repr(cell.axes[names[0]])] for names in self.axes)
                self.cells.setdefault(genes, []).append(cell)
        if len(self.cells) < 2:
            count = counted(len(self.cells), "variant")
            raise RequestError(
                f"{plan.recipe.name} has {count}, and nothing to search among; write more values"
                " of more `axes`"
            )
        self.conditions = max(map(len, self.cells.values()))

    def drawn(
        self, parents: Sequence[Variant], tried: Container[Genes], dice: random.Random
    ) -> Iterator[Genes]:
        """Variants that were not tried, children of the best parents and newcomers."""
        best = sorted(parents, key=lambda v: v.rank)[: max(2, math.ceil(PARENTS * len(parents)))]
        left = {genes: None for genes in self.cells if genes not in tried}
        while left:
            child = None
            if best and dice.random() >= NEWCOMERS:
                children = (self._child(best, dice) for _ in range(ATTEMPTS))
                child = next((c for c in children if c in left), None)
            if child is None:
                child = dice.choice(list(left))
            del left[child]
            yield child

    def _child(self, parents: Sequence[Variant], dice: random.Random) -> Genes:
        """Each axis of one of two parents, one of them a value further."""
        pair = dice.choice(parents), dice.choice(parents)
        genes = [dice.choice(both) for both in zip(*(v.genes for v in pair), strict=True)]
        axis = dice.randrange(len(genes))
        genes[axis] = min(max(genes[axis] + dice.choice((-1, 1)), 0), self.sizes[axis] - 1)
        return tuple(genes)

    def values(self, genes: Genes) -> dict[str, Any]:
        """The values of a variant on all axes."""
        axes = self.cells[genes][0].axes
        return {name: axes[name] for names in self.axes for name in names}


class _Aim:
    """A goal, by which variants are scored.

    Attributes:
        concept: What images are to be like, if anything.
        what: The distance that is to be large.
    """

    def __init__(self, trials: Trials, goal: str) -> None:
        self.trials, self.goal = trials, goal
        self.concept = goal.removeprefix(NEAREST) if goal.startswith(NEAREST) else None
        at_work, name = trials.session, trials.plan.recipe.name
        if at_work.reader is None and (self.concept or goal == STRUCTURED):
            raise RequestError(
                f"{name}: no CLIP model reads images, and `{goal}` needs one; name one by `clip:`"
                " in the recipe, or give `--goal` a distance such as `rmse`"
            )
        known = [n for d in at_work.further.distances for n in (d, f"{d}_floors")]
        if self.concept is None and goal not in (STRUCTURED, *known):
            goals = (STRUCTURED, f"{NEAREST}CONCEPT", *known)
            hint = did_you_mean(goal, goals) or f"; there are {', '.join(goals)}"
            raise RequestError(f"--goal: there is no goal `{shown(goal)}`{hint}")
        self.what = goal
        self._near: dict[str, float] = {}

    @property
    def words(self) -> str:
        """What is large where the goal is near."""
        if self.concept is not None:
            return f"likeness to {self.concept}"
        return f"drift by {self.what.removesuffix('_floors')}"

    @property
    def unit(self) -> str:
        """The unit of a score."""
        return " noise floors" if self.what.endswith("_floors") else ""

    def look(self) -> None:
        """Take what was measured last into account."""
        if self.concept is not None:
            at_work = self.trials.session
            embeddings, reader = read_embeddings(at_work.store), at_work.reader
            assert embeddings is not None
            assert reader is not None
            cosines = embeddings.images @ reader.texts([phrase(self.concept)])[0]
            self._near = dict(zip(embeddings.keys, cosines.tolist(), strict=True))
        elif self.goal == STRUCTURED:
            floored = any("embedding" in c.floors for c in self.trials.cells)
            self.what = "embedding_floors" if floored else "embedding"

    def score(self, cells: Sequence[MeasuredCell]) -> float | None:
        """The mean over cells; None where one of them is none that the goal allows."""
        scores = [self.of(cell) for cell in cells]
        known = [score for score in scores if score is not None]
        return float(np.mean(known)) if len(known) == len(scores) else None

    def of(self, cell: MeasuredCell) -> float | None:
        """How near a cell is to the goal, the larger the nearer; None of one that is none."""
        if cell.state != "ok" or (self.goal == STRUCTURED and cell.class_name == NOISE):
            return None
        if self.concept is not None:
            return self._near[cell.key]
        if self.what.endswith("_floors"):
            return cell.floors.get(self.what.removesuffix("_floors"))
        value = cell.drift.get(self.what)
        return 1 - value if self.what == "ssim" and value is not None else value


def _finding(trials: Trials, space: _Space, aim: _Aim, tried: list[Variant]) -> Finding:
    plan, ranked = trials.plan, sorted(tried, key=lambda v: v.rank)
    winner = ranked[0]
    label = {v.genes: label_of(plan, space.values(v.genes)) for v in tried}
    among = f"Of {len(tried):,} variants tried among {len(space.cells):,}"
    if winner.score is None:
        sentence = f"{among}, none is allowed by the goal “{aim.goal}”."
    else:
        start = aim.score([trials.baseline(cell) for cell in winner.cells])
        before = f", where baselines have {start:.3g}" if aim.concept and start is not None else ""
        sentence = (
            f"{among}, {label[winner.genes]} is best for “{aim.goal}”: its {aim.words} is"
            f" {winner.score:.3g}{aim.unit}, the mean of {counted(len(winner.cells), 'image')}"
            f"{before}."
        )
    rows = []
    for rank, v in enumerate(ranked, 1):
        classes, words = (
            ", ".join(f"{n} {name}" for name, n in Counter(names).most_common() if name)
            for names in ([c.class_name for c in v.cells], [c.shows for c in v.cells])
        )
        rows.append([rank, v.generation, *space.values(v.genes).values(), v.score, classes, words,
                     v.cells[0].path.name])  # fmt: skip
    generations = [
        min((v for v in tried if v.generation == n), key=lambda v: v.rank)
        for n in range(1, tried[-1].generation + 1)
    ]
    picture = draw_tries(
        [Try(v.generation, v.score, label[v.genes], v.cells[0]) for v in tried],
        name=f"{plan.recipe.name}: search",
        about=sentence,
        axis=f"Mean {aim.words}{aim.unit and ', in noise floors'}",
        notes=[
            "A dot for each variant, in the order in which they were tried; the line is the best so"
            " far. Below, the best of each generation.",
            "The best of many is so in part by chance: more seeds say what it is worth.",
            f"The best is cells/{winner.cells[0].path.name}: `base:` goes on from it.",
        ],
    )
    strips = [
        Strip("", f"{v.generation}: {label[v.genes]}", [
            (trials.baseline(v.cells[0]), ""),
            *((c, f"{'' if (s := aim.of(c)) is None else f'{s:.3g}'} {c.shows}".strip())
              for c in v.cells[:SHOWN]),
        ])
        for v in generations
    ]  # fmt: skip
    heads = ["baseline", "best of its generation", *[""] * (min(space.conditions, SHOWN) - 1)]
    names = [name for names in space.axes for name in names]
    columns = ("rank", "generation", *names, "score", "classes", "shows", "cell")
    facts = {"winner": f"cells/{winner.cells[0].path.name}", "tried": len(tried),
             "variants": len(space.cells)}  # fmt: skip
    return Finding(sentence, columns, rows, picture, facts, heads, strips)
