"""The kinds of finders, and the call that runs one.

>>> ablate.find("breaking-point", "recipes/mix-noise-everywhere.yaml").finding.sentence
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablate.engine import OnProgress
from ablate.finders.breaking_point import breaking_point
from ablate.finders.dose import dose
from ablate.finders.finding import Finding, forget_finding, write_finding
from ablate.finders.interactions import interactions
from ablate.finders.order import order
from ablate.finders.screen import screen
from ablate.finders.search import search
from ablate.finders.trials import Trials
from ablate.lab import Result, Session, session
from ablate.messages import RequestError, did_you_mean
from ablate.recipe import MAX_CELLS, Recipe
from ablate.sampling import Pipeline, Stopped
from ablate.sweep import Plan, plan

# Each measures what it needs by trials, and returns what it finds. It raises `RequestError` for
# wrong options before it measures anything.
FINDERS: Mapping[str, Callable[..., Finding]] = {
    "breaking-point": breaking_point,
    "dose": dose,
    "interactions": interactions,
    "order": order,
    "screen": screen,
    "search": search,
}


@dataclass(frozen=True)
class Answer(Result):
    """The run of a finder; its cells are those that the finder looked at.

    Attributes:
        finding: The finding; None where the finder was interrupted.
        planned: How many different images the plain sweep has.
    """

    finding: Finding | None = None
    planned: int = 0


def find(
    kind: str,
    recipe: Recipe | Plan | str | Path,
    out: str | Path | None = None,
    *,
    pipeline: Pipeline | Any | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    max_cells: int = MAX_CELLS,
    on_progress: OnProgress | None = None,
    **options: Any,
) -> Answer:
    """Answer a question by a part of a recipe's cells, each round chosen by what the last showed.

    Called again it goes on: a finder asks for the same cells again, and those that are finished are
    not computed again.

    Args:
        kind: `breaking-point`, `dose`, `interactions`, `order`, `screen` or
            `search`.
        recipe: A recipe, its plan, or its file.
        out: The folder of the run. Default: `outputs/<name>-<kind>`.
        pipeline: A loaded pipeline to compute with, in place of the recipe's model.
        device: `cuda`, `cuda:1`, `mps` or `cpu`. Default: the fastest one.
        batch_size: Images in a batch. Default: as many as pays.
        max_cells: Refuse a recipe of more cells before it is expanded.
        on_progress: Called with the progress after every batch.
        options: Those of the kind.

    Raises:
        RequestError: There is no such kind, or the recipe does not fit it.
        RecipeError, ModelError, StoreError: As for `run`.
    """
    if kind not in FINDERS:
        hint = did_you_mean(kind, FINDERS) or f"; there are {', '.join(FINDERS)}"
        raise RequestError(f"there is no finder `{kind}`{hint}")
    planned = recipe if isinstance(recipe, Plan) else plan(recipe, max_cells=max_cells)
    folder = Path(out if out is not None else f"outputs/{planned.recipe.name}-{kind}")
    with ExitStack() as stack:

        def begin() -> Session:
            at_work = stack.enter_context(session(
                planned.recipe, folder, pipeline=pipeline, device=device, on_progress=on_progress
            ))  # fmt: skip
            if at_work.is_main:
                forget_finding(at_work.store)
            return at_work

        trials = Trials(planned, begin, batch_size, max_cells)
        finding = None
        sweep = len(planned.distinct())
        with suppress(Stopped):
            finding = FINDERS[kind](trials, **options)
            sweep = finding.sweep or sweep
        at_work = trials.session
        if finding is not None and at_work.is_main:
            cells = {"used": trials.cost(), "sweep": sweep}
            write_finding(at_work.store, finding, kind, options, cells)
        if trials.summary is not None and (trials.summary.computed or trials.summary.reused):
            at_work.present(sheet=finding is None or not finding.strips)
        return Answer(at_work.store, trials.summary, at_work.is_main, finding, sweep)
