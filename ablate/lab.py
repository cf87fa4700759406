"""The whole way in one call: recipe, plan, cells, drift, sheets, report.

result = run(Recipe.load("recipes/quickstart.yaml"))
for cell in result:
    print(cell.axes, cell.drift)
result.sheet()[0].show()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ablate import drift, engine, recipe, report, sheets
from ablate.classes import classify
from ablate.concepts import Reader
from ablate.document import Problem
from ablate.drift import MeasuredCell
from ablate.engine import Progress, Summary
from ablate.models import ModelError, load_catalog, scheduler_class
from ablate.pictures import architecture, curves, maps
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
        return drift.read(self.store)

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
    """Run a recipe into a folder (`outputs/<name>`), resuming what is there; measure its drift, and
    draw its sheet and its report.

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
    # Before anything is made: a reader that is not there is a mistake of the recipe.
    reader = Reader.of(recipe.model, recipe.clip, str(pipeline.device))
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
        drift.write(store, reader, recipe.vocabulary, classify)
        if summary.computed or summary.reused:
            sheets.save(store)
            present(store)
    return Result(store, summary, is_main)


def measure(
    store: Run,
    clip: str | None = None,
    vocabulary: Sequence[str] | None = None,
    device: str | None = None,
) -> list[MeasuredCell]:
    """Measure a run again and write its tables, without its network.

    `clip` and `vocabulary` stand for those that its recipe named. Raises `ModelError` or
    `StoreError`.
    """
    manifest = store.manifest()
    reader = Reader.of(manifest["model"]["id"], clip or manifest.get("clip"), device)
    return drift.write(store, reader, vocabulary or manifest.get("vocabulary"), classify)


def present(store: Run) -> Path:
    """Write the report of a run that has been measured, with all pictures that it can have."""
    drawn = {
        "Architecture": architecture.svg(store),
        "Map of concept space": maps.svg(store),
        "Drift curves": curves.svg(store),
    }
    return report.save(store, {title: svg for title, svg in drawn.items() if svg is not None})
