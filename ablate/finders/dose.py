"""`dose`: how much of an edit each part of a network bears, at equal dose."""

from __future__ import annotations

import math
from dataclasses import replace

from ablate.drift import MeasuredCell
from ablate.finders.chains import Bisection, bisect, chains_of, check_once, strength_axis
from ablate.finders.finding import Finding
from ablate.finders.thresholds import Threshold, finding_of, thresholds_of
from ablate.finders.trials import Trials
from ablate.messages import RequestError, did_you_mean


def dose(trials: Trials, axis: str | None = None, metric: str | None = None) -> Finding:
    """Bisect the dose at which drift passes the noise floor, for each combination of other axes.

    Between the two doses around it drift is taken to be a power of the dose.

    Args:
        trials: What measures.
        axis: The axis of doses. Default: the only one.
        metric: What drift is measured by. Default: `embedding` or, without a reader, `rmse`.

    Raises:
        RequestError: There is no such axis, no such metric, or no noise floor.
    """
    strength = strength_axis(trials.plan, axis, dose=True)
    chains = chains_of(trials.plan, strength)
    middles = trials.measure(chain.cells[(len(chain.cells) - 1) // 2] for chain in chains)
    known = list(dict.fromkeys(name for cell in middles for name in cell.floors))
    name = trials.plan.recipe.name
    if not known:
        raise RequestError(
            f"{name}: there is no noise floor that drift could pass; write `noise_floor: 8` into"
            " the recipe, or more `seeds`"
        )
    by = metric or ("embedding" if "embedding" in known else "rmse")
    if by not in known:
        hint = did_you_mean(by, known) or f"; there are {', '.join(known)}"
        raise RequestError(f"--metric: there is no noise floor by `{by}`{hint}")

    def drift(cell: MeasuredCell) -> float:
        return cell.floors.get(by, math.inf)  # of NaN

    def passes(cell: MeasuredCell) -> bool:
        return drift(cell) > 1

    def around(b: Bisection) -> tuple[float, float, float, float] | None:
        """Dose and drift before and after; None where one of the two is not known."""
        if b.before is None or b.after is None:
            return None
        low, high = drift(b.known[b.low]), drift(b.known[b.high])
        return (b.before, low, b.after, high) if low > 0 and high < math.inf else None

    def slope(b: Bisection) -> float | None:
        if (ends := around(b)) is None:
            return None
        before, low, after, high = ends
        return math.log(high / low) / math.log(after / before)

    def point(b: Bisection) -> tuple[float, float]:
        assert b.after is not None
        power, at_after = slope(b) or 1.0, drift(b.known[b.high])
        at = b.after if at_after == math.inf else b.after * at_after ** (-1 / power)
        return at, at

    bisections = bisect(trials, chains, passes)
    looked, wrong = check_once(trials, bisections, passes)
    thresholds = thresholds_of(trials.plan, strength, bisections, point)
    notes = [
        f"Where drift by {by} passes one noise floor: a dot for each seed, the line is the 95 %"
        " interval of their mean.",
        f"It is taken to pass it once: {looked - wrong} of {looked} further images agree.",
    ]
    if any(t.unchanged for t in thresholds):
        notes.append(
            "An arrow is a seed of which it never passes, and counts with the largest dose: the"
            " mean is a lower bound."
        )
    finding = finding_of(
        trials,
        thresholds,
        strength,
        title=f"{name}: doses at the noise floor",
        sentence=_sentence(thresholds, by),
        heads=("last below", "first above"),
        notes=notes,
        facts={"metric": by, "looked_again": looked, "contradict": wrong},
        kind="log",
    )
    slopes = []
    for threshold in thresholds:
        powers = [power for b in threshold.bisections if (power := slope(b)) is not None]
        slopes.append(sum(powers) / len(powers) if powers else None)
    rows = [[*row, power] for row, power in zip(finding.rows, slopes, strict=True)]
    return replace(finding, columns=(*finding.columns, "slope"), rows=rows)


def _sentence(thresholds: list[Threshold], by: str) -> str:
    passed = [t for t in thresholds if t.mean is not None]
    drift = f"drift by {by} passes the noise floor"
    if not passed:
        return f"No edit moves images as another seed does: {drift} at no dose."
    first, last = passed[0], passed[-1]
    if len(thresholds) == 1:
        return f"The {drift} {first.words}."
    sentence = (
        f"Of {len(thresholds)} edits {first.label} is the most fragile: {drift} {first.words}"
    )
    never = [t.label for t in thresholds if t.mean is None]
    if not never:
        return f"{sentence}; {last.label} is the most robust, {last.words}."
    if len(never) == 1:
        return f"{sentence}; {never[0]} is the most robust, and never passes it."
    return f"{sentence}; {len(never)} never pass it."
