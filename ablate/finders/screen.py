"""`screen`: which parts matter, by a first-order score of all and by images of a few."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ablate.finders.finding import Finding
from ablate.finders.parts import COLUMNS, Drift, check_metric, measure_of, parts_of
from ablate.finders.scores import check_scorable, scores_of
from ablate.finders.thresholds import role_of
from ablate.finders.trials import Trials
from ablate.view import Dot, Measure, draw_scatter

Z = 1.959964  # of a 95 % interval
FEWEST = 4  # parts of an interval of a correlation, and more


@dataclass(frozen=True)
class Looked:
    """A part that was measured.

    Attributes:
        value: Its value on the axis.
        score: Its first-order score.
        drift: How far images move without it.
        weight: How many parts it represents: one that was drawn by chance, those beside it, too.
        chosen: Whether it was measured because of its score.
    """

    value: str
    score: float
    drift: Drift
    weight: float
    chosen: bool


def screen(trials: Trials, top: int = 20, sample: int = 20, metric: str | None = None) -> Finding:
    """Score all parts of a recipe's axis, and measure the first ones and some others.

    Args:
        trials: What measures.
        top: How many with the highest scores to measure.
        sample: How many of all to measure, drawn by chance before there are scores; those that are
            not among the first represent the others.
        metric: What drift is measured by. Default: `embedding` or, without a reader, `rmse`.

    Raises:
        RequestError: There is no axis of parts, no such metric, or the edits have no score.
    """
    parts = parts_of(trials.plan)
    check_scorable(trials.plan)
    check_metric(trials, metric)
    values = list(parts.cells)
    drawn = set(random.Random(0).sample(values, min(sample, len(values))))
    trials.measure(cell for value in values if value in drawn for cell in parts.cells[value])
    firsts = [parts.cells[value][0] for value in values]
    scores = dict(zip(values, scores_of(trials, firsts), strict=True))
    ranked = sorted(scores, key=lambda value: -scores[value])
    chosen = set(ranked[:top])
    drawn -= chosen
    asked = [value for value in ranked if value in drawn | chosen]
    cells = iter(trials.measure(cell for value in asked for cell in parts.cells[value]))
    images = {value: [next(cells) for _ in parts.cells[value]] for value in asked}
    measure = measure_of([cell for some in images.values() for cell in some], metric)
    others = len(ranked) - len(chosen)
    looked = [
        Looked(
            value, scores[value], Drift.of(images[value], measure),
            1.0 if value in chosen else others / len(drawn), value in chosen,
        )
        for value in asked
    ]  # fmt: skip
    known = {one.value: one for one in looked}
    roles = {value: role_of(trials.plan, {parts.axis.name: value}) for value in ranked}
    correlation, interval = rank_correlation(looked)
    recall = share_of_farthest(looked, len(chosen))
    axis = parts.axis.name
    sentence = _sentence(looked, len(ranked), axis, measure, correlation, interval, recall)
    picture = draw_scatter(
        [
            Dot(
                value, scores[value], known[value].drift.mean, known[value].drift.interval,
                known[value].chosen, roles[value], images[value][0],
            )
            if value in known else Dot(value, scores[value], role=roles[value])
            for value in ranked
        ],
        name=f"{trials.plan.recipe.name}: screen",
        about=sentence,
        axes=("first-order score", f"{measure.words}, mean"),
        notes=_notes(len(chosen), len(drawn), others),
    )  # fmt: skip
    rows = [
        [rank, value, roles[value], scores[value],
         *(("score" if known[value].chosen else "chance", *known[value].drift.row())
           if value in known else [None] * (1 + len(COLUMNS)))]
        for rank, value in enumerate(ranked, 1)
    ]  # fmt: skip
    facts = {
        "metric": measure.metric,
        "in_floors": measure.in_floors,
        "parts": len(ranked),
        "rank_correlation": correlation,
        "interval": interval,
        "top": len(chosen),
        "recall": recall,
    }
    return Finding(
        sentence, ("rank", axis, "role", "score", "measured", *COLUMNS), rows, picture, facts
    )


def rank_correlation(looked: Sequence[Looked]) -> tuple[float, tuple[float, float] | None]:
    """Spearman's rank correlation of score and drift over all parts, as those measured say.

    Ranks and moments are weighted, so that those drawn by chance represent the others. The 95 %
    interval is that of Bonett and Wright (2000, Sample size requirements for estimating Pearson,
    Kendall and Spearman correlations) for the effective number of parts (Kish 1965, Survey
    sampling).

    Returns:
        The correlation, and its interval; None with too few parts.
    """
    weights = np.array([one.weight for one in looked])
    ranks = [_ranks(np.array(values), weights) for values in zip(
        *((one.score, one.drift.mean) for one in looked), strict=True
    )]  # fmt: skip
    (x, y), total = (rank - np.average(rank, weights=weights) for rank in ranks), weights.sum()
    spread = math.sqrt(float((weights * x * x).sum() * (weights * y * y).sum()))
    correlation = float((weights * x * y).sum()) / spread if spread else 0.0
    count = float(total**2 / (weights**2).sum())
    if count < FEWEST or abs(correlation) > 1 - 1e-9:
        return correlation, None
    reach = Z * math.sqrt((1 + correlation**2 / 2) / (count - 3))
    low, high = (math.tanh(math.atanh(correlation) + sign * reach) for sign in (-1, 1))
    return correlation, (low, high)


def _ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted ranks; those of equal values are their middle."""
    below = (weights * (values[None, :] < values[:, None])).sum(1)
    equal = (weights * (values[None, :] == values[:, None])).sum(1)
    ranks: np.ndarray = below + equal / 2
    return ranks


def share_of_farthest(looked: Sequence[Looked], count: int) -> float:
    """Which share of so many parts that move images farthest has the highest scores, as far as
    those measured say."""
    left, among = float(count), 0.0
    for one in sorted(looked, key=lambda one: -one.drift.mean):
        taken = min(one.weight, left)
        among += taken * one.chosen
        left -= taken
    return among / count if count else 0.0


def _sentence(
    looked: Sequence[Looked], count: int, axis: str, measure: Measure, correlation: float,
    interval: tuple[float, float] | None, recall: float,
) -> str:  # fmt: skip
    first = sum(one.chosen for one in looked)
    farthest = max(looked, key=lambda one: one.drift.mean).value
    ends = f" (95 % interval {interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    about = "" if len(looked) == count else "about "
    return (
        f"Over {count:,} values of {axis}, first-order score and drift by {measure.metric} have a"
        f" rank correlation of {correlation:.2f}{ends}. {farthest} moves images farthest of the"
        f" {len(looked)} measured; the {first} highest scores are those of"
        f" {about}{100 * recall:.0f} % of the {first} that move them farthest."
    )


def _notes(first: int, drawn: int, rest: int) -> list[str]:
    notes = [
        "Score: how far the edit moves the guided noise prediction to first order, root mean square"
        " over 5 steps: |gradient · change|",
        "of random projections of the prediction, one backward pass for all parts at once.",
        f"Full dots: the {first} highest scores, measured. Lines: 95 % intervals over seeds.",
    ]
    if drawn:
        notes.append(f"Rings: {drawn} of the other {rest}, drawn by chance, which represent them.")
    if drawn < rest:
        notes.append("Ticks below: not measured.")
    return notes
