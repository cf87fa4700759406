"""First-order scores of variants, kept in the folder of the run.

scores.json   the scores by variant, and a digest of all that they depend on
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict

from ablate.engine import first_order
from ablate.finders.trials import Trials
from ablate.messages import RequestError
from ablate.network import phase_of
from ablate.sampling import Pipeline, Stopped
from ablate.store import key_of, regular
from ablate.sweep import Cell, Condition, Plan

FILE = "scores.json"
CONDITIONS = 4  # at most that scores are the mean over


def check_scorable(plan: Plan) -> None:
    """Raise `RequestError` where a plan has edits without a first-order score."""
    recipe = plan.recipe
    if recipe.offload is not None:
        raise RequestError("offload: scores need gradients, which offloaded networks do not give")
    for variant in plan.variants:
        for edit in variant.edits:
            component = edit.component or recipe.component
            if component and phase_of(component) != "denoising":
                raise RequestError(
                    f"scores are of the denoiser's predictions; `{edit.op}` edits {component}"
                )
            if edit.where == "image" or edit.over:
                what = "the finished image" if edit.where == "image" else "by other conditions"
                raise RequestError(f"`{edit.op}` edits {what}, which has no first-order score")


def scores_of(trials: Trials, cells: Sequence[Cell]) -> list[float]:
    """The first-order score of each cell's variant (`ablate.engine.first_order`).

    It is the mean over the first conditions, of equal settings.

    Raises:
        Stopped: Ctrl-C was pressed.
    """
    at_work, variants = trials.session, [cell.variant for cell in cells]
    conditions = list(dict.fromkeys(cell.baseline for cell in trials.plan.cells))
    first = [c for c in conditions if c.sampling == conditions[0].sampling][:CONDITIONS]
    key = key_of({
        "model": at_work.pipeline.fingerprint,
        "dtype": str(at_work.pipeline.dtype),
        "conditions": [_plain(at_work.pipeline, condition) for condition in first],
        "variants": [variant.identity() for variant in variants],
    })  # fmt: skip
    path = at_work.store.folder / FILE
    scores: list[float] | None = None
    try:
        known = json.loads(regular(path).read_text(encoding="utf-8"))
        if known["key"] == key:
            scores = [float(known["scores"][variant.name]) for variant in variants]
    except (OSError, ValueError, LookupError, TypeError):
        pass  # there are none yet, or they are damaged
    if scores is None and at_work.is_main:
        with suppress(Stopped):
            scores = first_order(variants, first, at_work.pipeline)
            named = {variant.name: s for variant, s in zip(variants, scores, strict=True)}
            text = json.dumps({"key": key, "scores": named}, indent=1)
            at_work.store.write_text(FILE, f"{text}\n")
    # One process computes them for all: another's gradients may be rounded differently.
    scores = at_work.processes.gather(scores)[0]
    if scores is None:
        raise Stopped
    return scores


def _plain(pipeline: Pipeline, condition: Condition) -> dict[str, object]:
    """What a condition is, with the defaults of its sampling."""
    settings = asdict(pipeline.settings(condition.sampling))
    return asdict(condition) | {"sampling": settings}
