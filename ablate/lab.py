"""The whole way in one call: recipe, plan, cells, drift, sheets.

result = run(Recipe.load("recipes/quickstart.yaml"))
for cell in result:
    print(cell.axes, cell.drift)
result.sheet()[0].show()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ablate import drift, engine, recipe, sheets
from ablate.document import Problem
from ablate.drift import MeasuredCell
from ablate.engine import Progress, Summary
from ablate.models import ModelError, load_catalog, scheduler_class
from ablate.pipeline import Pipeline
from ablate.plan import Plan, check, plan
from ablate.processes import Processes
from ablate.recipe import Draft, Recipe, RecipeError
from ablate.store import Run


@dataclass(frozen=True)
class Result:
    """A run: iterate over it for its finished cells (`axes`, `image()`, `drift`).

    `is_main`: whether this process, of those that `accelerate launch` started, speaks for all.
    """

    store: Run
    summary: Summary
    is_main: bool = True

    def __iter__(self) -> Iterator[MeasuredCell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    @cached_property
    def cells(self) -> list[MeasuredCell]:
        return drift.measure(self.store)

    def sheet(
        self, rows: str | list[str] | None = None, columns: str | list[str] | None = None
    ) -> list[Image.Image]:
        """The pages of a contact sheet; rows and columns run over the named axes."""
        return sheets.contact_sheet(self.store, rows=rows, columns=columns)


def resolve(recipe: Recipe) -> Plan:
    """The plan of a recipe on its own model, from configuration alone.

    Raises `RecipeError` or `ModelError`.
    """
    return plan(recipe, load_catalog(recipe.model, recipe.component, recipe.revision))


def read(
    path: Path, overrides: Mapping[str, Any] | None = None
) -> tuple[Draft, tuple[Problem, ...]]:
    """A recipe file and all of its mistakes, those that only its model shows included."""
    draft = recipe.read(path, overrides)
    problems = list(draft.problems)
    try:
        modules = load_catalog(draft.model, draft.component, draft.revision)
    except ModelError as error:
        problems.append(draft.locate(Problem(str(error), "model")))
    else:
        problems = check(draft, modules)
    for name, place in draft.schedulers:
        try:
            scheduler_class(name)
        except ModelError as error:
            problems.append(dataclasses.replace(place, message=str(error)))
    return draft, tuple(sorted(problems, key=lambda p: p.line or 0))


def load(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe file that is right for its model. Raises `RecipeError` with all mistakes."""
    draft, problems = read(Path(path), overrides)
    if problems:
        raise RecipeError(problems)
    return draft.get()


def run(
    recipe: Recipe,
    out: str | Path | None = None,
    *,
    pipeline: Pipeline | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    fresh: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
) -> Result:
    """Run a recipe into a folder (`outputs/<name>`), resuming what is there, and draw its sheet.

    `limit`: only so many cells. `fresh`: forget the finished cells. `pipeline`: one that is loaded
    already. Raises `RecipeError` or `ModelError` before anything is written.
    """
    planned = resolve(recipe)
    if pipeline is None:
        pipeline = Pipeline.load(
            recipe.model,
            revision=recipe.revision,
            component=recipe.component,
            device=device,
            dtype=recipe.dtype,
            compile=recipe.compile,
        )
    store = Run(out if out is not None else Path("outputs") / recipe.name)
    summary = engine.run(
        planned,
        pipeline,
        store,
        batch_size=batch_size,
        limit=limit,
        fresh=fresh,
        on_progress=on_progress,
    )
    is_main = Processes(pipeline.device.type).is_main
    if is_main:
        drift.write(store)
        if summary.computed or summary.reused:
            sheets.save(store)
    return Result(store, summary, is_main)
