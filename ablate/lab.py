"""The whole way in one call: recipe, plan, cells, drift, sheets, report.

result = run(Recipe.load("recipes/quickstart.yaml"))
for cell in result:
    print(cell.axes, cell.drift)
result.sheet()[0].show()
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from ablate import drift, engine, recipe, report, sheets
from ablate.classes import classify
from ablate.concepts import Reader
from ablate.document import Problem, in_order
from ablate.drift import MeasuredCell
from ablate.engine import Progress, Summary
from ablate.lettering import wrong_length
from ablate.models import (
    ModelError,
    denoiser_of,
    folder_of,
    guided_rows,
    is_file,
    like,
    load_catalog,
    lora_file,
    outline_of,
    scheduler_class,
)
from ablate.pictures import architecture, curves, maps
from ablate.pipeline import Pipeline
from ablate.plan import Plan, check, plan, untold
from ablate.processes import Processes
from ablate.recipe import Draft, Recipe, RecipeError
from ablate.sizes import own_side, wrong_side
from ablate.sources import Source
from ablate.specs import keyed
from ablate.store import Run
from ablate.sweep import Networks, given_by, study_problems


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
    names = {edit.component for edit in recipe.edits} | {axis.component for axis in recipe.axes}
    source = Source.of(recipe)
    planned = plan(recipe, _networks(source, recipe.component, names))
    problems = list(_of_pictures(recipe))
    if problems:
        raise RecipeError(problems)
    return planned


def _networks(source: Source, component: str | None, named: Collection[str | None]) -> Networks:
    """The catalogs of a model's networks: of the edited one, and of those that are named."""
    name = component or denoiser_of(source)
    others = {other for other in named if other is not None} - {name}
    return Networks(
        load_catalog(source, component),
        name,
        {other: load_catalog(source, other) for other in sorted(others)},
        guided_rows(source),
    )


def read(
    path: Path, overrides: Mapping[str, Any] | None = None, *, allow_code: bool = False
) -> tuple[Draft, tuple[Problem, ...]]:
    """A recipe file and all of its mistakes, those that only its model shows included."""
    draft = recipe.read(path, overrides, allow_code=allow_code)
    problems = list(draft.problems)
    key = "component" if draft.component is not None else "model"
    named: dict[str | None, Problem] = {None: draft.locate(Problem("", key))}
    for chosen in draft.selectors:
        # It stands beside the selector.
        key = f"{chosen.place.key.removesuffix('.modules').removesuffix('.with')}.component"
        named.setdefault(chosen.component, dataclasses.replace(chosen.place, key=key))
    for key, edit in keyed(draft.sketch.edits if draft.sketch is not None else ()):
        named.setdefault(edit.component, draft.locate(Problem("", f"{key}.component")))
    # One by one, so that each mistake is told where it stands.
    unknown = {}
    for component, place in named.items():
        try:
            load_catalog(draft.origin, component or draft.component)
        except ModelError as error:
            unknown[component] = dataclasses.replace(place, message=str(error))
    found: list[Problem] = []
    if None not in unknown:
        there = named.keys() - unknown.keys()
        problems = check(draft, _networks(draft.origin, draft.component, there), unknown)
    elif draft.sketch is not None:
        found += study_problems(draft.sketch, None)
    problems += unknown.values()
    for model, component, place in draft.checkpoints:
        wrong = _unlike(draft, model, component)
        if wrong:
            problems.append(dataclasses.replace(place, message=wrong))
    problems += _lost(draft)
    if draft.sketch is not None:
        found += _of_pictures(draft.sketch)
    problems += untold(draft, found, problems)
    for name, place in draft.schedulers:
        try:
            scheduler_class(name)
        except ModelError as error:
            problems.append(dataclasses.replace(place, message=str(error)))
    return draft, in_order(problems)


def _of_pictures(recipe: Recipe) -> Iterator[Problem]:
    """Sizes that the model cannot make, and words that pictures of those that it can do not hold;
    none where its pipeline is not known."""
    outline = outline_of(Source.of(recipe))
    if outline is None:
        return
    sides: list[list[int]] = []
    for name in ("width", "height"):
        axis = next((axis for axis in recipe.axes if axis.name == name), None)
        places = {f"sampling.{name}": getattr(recipe.sampling, name)}
        if axis is not None:
            places = {f"axes.{name}.values[{i}]": side for i, side in enumerate(axis.values)}
        sides.append([side or own_side(outline, name) for side in places.values()])
        for (place, given), side in zip(places.items(), sides[-1], strict=True):
            wrong = wrong_side(outline, name, side)
            if wrong is not None:
                yield Problem(wrong if given else f"{wrong}, its own where none is given", place)
    zipped = any({"width", "height"} <= set(group) for group in recipe.zipped)
    sizes = list(zip(*sides, strict=False) if zipped else itertools.product(*sides))
    axes = {axis.name: axis for axis in recipe.axes}
    for key, edit in keyed(recipe.edits):
        for text, place in given_by(edit.text, axes, f"{key}.text"):
            found = (wrong_length(str(text or ""), *size) for size in sizes)
            too_long = next((wrong for wrong in found if wrong is not None), None)
            if too_long is not None:
                yield Problem(too_long, place)


def _lost(draft: Draft) -> Iterator[Problem]:
    """LoRAs that are not where a recipe says; those on a hub are looked for when needed."""
    for i, lora in enumerate(draft.sketch.lora if draft.sketch is not None else ()):
        try:
            if is_file(lora.model) or folder_of(lora.model) is not None:
                lora_file(lora)
        except ModelError as error:
            yield draft.locate(Problem(str(error), f"lora[{i}]"))


def _unlike(draft: Draft, model: str, component: str | None) -> str | None:
    """Why a model's weights cannot be blended with another's; None where they can."""
    try:
        name = component or draft.component or denoiser_of(draft.origin)
        one, other = load_catalog(draft.origin, name), load_catalog(like(draft.origin, model), name)
    except ModelError as error:
        return str(error)
    sizes = {module.path: module.parameters for module in other}
    unlike = [m.path for m in one if sizes.get(m.path) != m.parameters]
    if not unlike:
        return None
    return f"`{model}` is of another shape: {len(unlike)} modules differ, `{unlike[0]}` first"


def load(
    path: str | Path, overrides: Mapping[str, Any] | None = None, *, allow_code: bool = False
) -> Recipe:
    """A recipe file that is right for its model. Raises `RecipeError` with all mistakes.

    `allow_code`: execute the file of ops that it names, if it does.
    """
    draft, problems = read(Path(path), overrides, allow_code=allow_code)
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
