"""`breaking-point`: the strength at which images stop being their concept."""

from __future__ import annotations

from ablate.drift import NONE, MeasuredCell
from ablate.finders.chains import (
    Bisection,
    Strength,
    bisect,
    chains_of,
    check_once,
    strength_axis,
)
from ablate.finders.finding import Finding
from ablate.finders.thresholds import Threshold, finding_of, thresholds_of
from ablate.finders.trials import Trials
from ablate.messages import RequestError, counted

UNNAMED = (NONE, "")  # what images show that no word names, NaN among them


def breaking_point(trials: Trials, axis: str | None = None) -> Finding:
    """Bisect where images stop being their concept, for each combination of the other axes.

    An image is its concept where the reader names what it names in the baseline; of noise and of
    structure without concept it names none.

    Args:
        trials: What measures.
        axis: Along which edits grow. Default: the only one.

    Raises:
        RequestError: There is no such axis, or no reader that names concepts.
    """
    strength = strength_axis(trials.plan, axis)
    chains = chains_of(trials.plan, strength)

    def is_lost(cell: MeasuredCell) -> bool:
        return cell.shows != trials.baseline(cell).shows

    name = trials.plan.recipe.name
    if trials.session.reader is None:
        raise RequestError(
            f"{name}: no CLIP model names what images show; name one by `clip:` in the recipe"
        )
    middles = trials.measure(chain.cells[(len(chain.cells) - 1) // 2] for chain in chains)
    words = [trials.baseline(cell).shows for cell in middles]
    named = [chain for chain, word in zip(chains, words, strict=True) if word not in UNNAMED]
    if not named:
        raise RequestError(
            f"{name}: the reader names no concept in any baseline, so that none can be lost; ask"
            " for what it knows, or name its words by `vocabulary`"
        )
    bisections = bisect(trials, named, is_lost)
    looked, wrong = check_once(trials, bisections, is_lost)
    thresholds = thresholds_of(trials.plan, strength, bisections, lambda b: _ends(b, strength))
    notes = [
        f"A dot for each seed, halfway between the last {strength.name} with the concept and the"
        " first without it; the line is the 95 % interval of their mean.",
        f"A concept is taken to be lost once: {looked - wrong} of {looked} further images agree.",
    ]
    if any(t.unchanged for t in thresholds):
        notes.append(
            "An arrow is a seed that keeps it to the end, and counts with the strongest edit: the"
            " mean is a lower bound."
        )
    if skipped := len(chains) - len(named):
        notes.append(
            f"Left out: {counted(skipped, 'chain')} of images whose baseline shows no concept that"
            " is known."
        )
    concepts = sorted(set(words).difference(UNNAMED))
    return finding_of(
        trials,
        thresholds,
        strength,
        title=f"{name}: breaking points",
        sentence=_sentence(thresholds, strength, concepts),
        heads=("last with it", "first without"),
        notes=notes,
        facts={"concepts": concepts, "looked_again": looked, "contradict": wrong},
    )


def _ends(b: Bisection, strength: Strength) -> tuple[float, float]:
    """The last strength with the concept, or nothing at all, and the first without it."""
    assert b.after is not None
    before = strength.nought if b.before is None else b.before
    return (b.after if before is None else before), b.after


def _sentence(thresholds: list[Threshold], strength: Strength, concepts: list[str]) -> str:
    what = f"the {concepts[0]}" if len(concepts) == 1 else "their concept"
    first, last = thresholds[0], thresholds[-1]
    if first.mean is None:
        most = strength.label(strength.values()[-1])
        return f"Images stay {what} up to the strongest edit, {strength.name} = {most}."
    if len(thresholds) == 1:
        return f"Images stop being {what} {first.words}."
    kept = [t.label for t in thresholds if t.mean is None]
    sentence = f"Of {len(thresholds)} edits {first.label} loses {what} first, {first.words}"
    if not kept:
        return f"{sentence}, and {last.label} last, {last.words}."
    return f"{sentence}; {f'{kept[0]} never does' if len(kept) == 1 else f'{len(kept)} never do'}."
