"""The whole way in one call: recipe, plan, cells, drift, sheets, report.

result = run(Recipe.load("recipes/quickstart.yaml"))
for cell in result:
    print(cell.axes, cell.drift)
result.sheet()[0].show()
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from PIL import Image

from ablate.drift import MeasuredCell, Reader, classify, read_cells, write_drift
from ablate.engine import OnProgress, Processes, Progress, Summary, execute
from ablate.models import Source
from ablate.recipe import Recipe
from ablate.sampling import Pipeline
from ablate.store import Run
from ablate.sweep import Plan, plan
from ablate.view import contact_sheet, present_run, save_sheet


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
        return read_cells(self.store)

    def sheet(
        self, rows: str | list[str] | None = None, columns: str | list[str] | None = None
    ) -> list[Image.Image]:
        """The pages of a contact sheet; rows and columns run over the named axes."""
        return contact_sheet(self.store, rows=rows, columns=columns)


def run(
    recipe: Recipe | Plan | str | Path,
    out: str | Path | None = None,
    *,
    pipeline: Pipeline | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    fresh: bool = False,
    on_progress: OnProgress | None = None,
) -> Result:
    """Run a recipe into a folder (`outputs/<name>`), resuming what is there; measure its drift, and
    draw its sheet and its report.

    `recipe`: one, its file, or its plan. `limit`: only so many cells. `fresh`: forget the finished
    cells. `pipeline`: one that is loaded already. Raises `RecipeError` or `ModelError` before
    anything is written.
    """
    planned = recipe if isinstance(recipe, Plan) else plan(recipe)
    recipe = planned.recipe
    if pipeline is None:
        pipeline = Pipeline.load(
            Source.of(recipe),
            component=recipe.component,
            device=device,
            dtype=recipe.dtype,
            compile=recipe.compile,
        )
    pipeline = pipeline.editing(recipe.component)
    # Before anything is made: a reader that is not there is a mistake of the recipe.
    reader = Reader.of(recipe.model, recipe.clip, str(pipeline.device))
    store = Run(out if out is not None else Path("outputs") / recipe.name)
    summary = execute(
        planned,
        pipeline,
        store,
        batch_size=batch_size,
        limit=limit,
        fresh=fresh,
        progress=Progress(on_progress),
    )
    is_main = Processes(pipeline.device.type).is_main
    if is_main:
        write_drift(store, reader, recipe.vocabulary, classify)
        if summary.computed or summary.reused:
            save_sheet(store)
            present_run(store)
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
    return write_drift(store, reader, vocabulary or manifest.get("vocabulary"), classify)
