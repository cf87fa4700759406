"""Commands on recipes: run, check, plan, and the list and the schema of them."""

from __future__ import annotations

import json
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from shlex import quote
from typing import Any

import click

from ablate import lab
from ablate.cli.errors import Exit
from ablate.cli.measure import print_drift
from ablate.cli.options import DEVICE, DTYPE, quiet_libraries, recipe_options
from ablate.cli.output import echo
from ablate.cli.process import DONE, GO_ON, INTERRUPTED
from ablate.cli.progress import ProgressPrinter, clock
from ablate.cli.tables import print_table
from ablate.engine import Batcher, Summary, edits_in_phase
from ablate.messages import counted, printable
from ablate.models import Source, denoiser_of, estimate_cost, load_catalog
from ablate.recipe import Recipe, recipe_docs, recipe_schema
from ablate.store import Run, listed
from ablate.sweep import Plan, plan

PACKAGE = Path(__file__).parent.parent
# In a wheel the recipes are inside the package, in a checkout beside it.
RECIPES = next(p for p in (PACKAGE / "recipes", PACKAGE.parent / "recipes") if p.is_dir())

SAVED = "recipe.yaml"  # in a run's folder


def _packaged() -> dict[str, Path]:
    """The recipes of this package by name: `hal`, `papers/locogen`."""
    files = sorted(RECIPES.glob("*.yaml")) + sorted(RECIPES.glob("*/*.yaml"))
    return {file.relative_to(RECIPES).with_suffix("").as_posix(): file for file in files}


def file_of(recipe: Path) -> Path:
    """The recipe file: that of a run, or the one of that name among the recipes of this package."""
    if is_run(recipe):
        return recipe / SAVED
    if recipe.is_file():
        return recipe
    return _packaged().get(recipe.as_posix().removesuffix(".yaml"), recipe)


def is_run(recipe: Path) -> bool:
    """Whether a path is the folder of a run."""
    return (recipe / SAVED).is_file()


def changed(overrides: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The values that replace those of a recipe, by options and by `--set`."""
    return overrides | {key: value for key, value in options.items() if value is not None}


@click.command("run")
@recipe_options
@DEVICE
@DTYPE
@click.option("--batch-size", type=click.IntRange(min=1), help="Images in a batch.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: outputs/<recipe name>.")
@click.option("--limit", type=click.IntRange(min=1), help="Compute only the first so many cells.")
@click.option("--fresh", is_flag=True, help="Compute finished cells again.")
def run_command(
    recipe: Path,
    overrides: dict[str, Any],
    model: str | None,
    allow_code: bool,
    max_cells: int,
    device: str | None,
    dtype: str | None,
    batch_size: int | None,
    out: Path | None,
    limit: int | None,
    fresh: bool,
) -> None:
    """Run a recipe: its images, its tables, its contact sheet and its report.

    Run it again to resume: finished cells are never computed twice. RECIPE may also be the folder
    of a run, which goes on there.
    """
    quiet_libraries()
    if out is None and is_run(recipe):
        out = recipe
    changes = changed(overrides, model=model, dtype=dtype)
    planned = plan(file_of(recipe), overrides=changes, allow_code=allow_code, max_cells=max_cells)
    print_notes(planned)
    with closing(ProgressPrinter()) as printer:
        result = lab.run(
            planned,
            out,
            device=device,
            batch_size=batch_size,
            limit=limit,
            fresh=fresh,
            on_progress=printer,
        )
    summary = result.summary
    assert summary is not None  # of a run that was just executed
    if not result.is_main:
        raise Exit("", INTERRUPTED if summary.interrupted else DONE)
    try:
        print_outcome(result.store, summary)
    finally:  # also where nobody reads it any more: Ctrl-C ends all of `ablate run ... | less`
        if summary.interrupted:
            raise Exit(f"{GO_ON}, or: ablate run {quote(str(result.store.folder))}", INTERRUPTED)


def print_outcome(store: Run, summary: Summary) -> None:
    """Print what was computed, what it shows in a few lines, and the pages to look at."""
    if summary.damaged:
        one = len(summary.damaged) == 1
        echo(
            f"{counted(len(summary.damaged), 'cell')} {'was' if one else 'were'} damaged and"
            f" {'is' if one else 'are'} computed again: {listed(summary.damaged)}"
        )
    _print_application(summary)
    _print_without_effect(summary.without_effect)
    if summary.not_finite:
        echo(f"{summary.not_finite} images contain NaN or infinity; they are drawn as such")
    spare = len(store.floor())
    floor = f" ({spare} of them for the noise floor alone)" if spare else ""
    if summary.total < summary.planned:
        floor = f" (--limit; {summary.planned} without it)"
    echo(
        f"{summary.computed} images computed, {summary.reused} reused, of {summary.total}{floor},"
        f" in {clock(summary.seconds)}"
    )
    if same := sum(cell.same_as != "" for cell in store.cells()):
        echo(f"{same} of them are sampled with others: zeroing their modules has the same effect")
    if orphans := len(store.orphans()):
        echo(
            f"{counted(orphans, 'finished cell')} not part of this recipe any more;"
            f" `ablate clean {quote(str(store.folder))}` removes them"
        )
    print_drift(store)
    sheets = sorted(store.folder.glob("sheet*.png"), key=lambda page: (len(page.name), page.name))
    for page in (*sheets, store.folder / "report.html"):
        if page.exists():
            echo(str(page))


def print_notes(planned: Plan) -> None:
    """Print what of a plan may not be meant."""
    for note in planned.notes:
        echo(f"note: {note}")


def _print_application(summary: Summary) -> None:
    ways = [(summary.by_rows, "by rows"), (summary.in_place, "in place")]
    used = ", ".join(f"{count} {way}" for count, way in ways if count)
    if used:
        echo(f"edits applied {used}, in batches of up to {summary.batch_size}")
    if summary.rowless:
        echo(f"in place because they cannot be edited by rows: {_some(summary.rowless)}")


def _print_without_effect(modules: dict[str, str]) -> None:
    for state, meaning in (
        ("never ran", "never ran while sampling"),
        ("unchanged", "edited but not changed: the edit leaves such weights as they are"),
    ):
        paths = [path for path, why in modules.items() if why == state]
        if paths:
            many = "modules" if len(paths) > 1 else "module"
            echo(f"{len(paths)} {many} {meaning}: {_some(paths)}")


def _some(paths: Collection[str]) -> str:
    """The first few of many module paths."""
    shown = sorted(paths)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


@click.command("check")
@recipe_options
def check_command(
    recipe: Path, overrides: dict[str, Any], model: str | None, allow_code: bool, max_cells: int
) -> None:
    """Check a recipe without running it: print OK, or every problem with its file, line and key."""
    changes = changed(overrides, model=model)
    planned = plan(file_of(recipe), overrides=changes, allow_code=allow_code, max_cells=max_cells)
    echo(f"{recipe}: OK")
    print_notes(planned)


@click.command("plan")
@recipe_options
def plan_command(
    recipe: Path, overrides: dict[str, Any], model: str | None, allow_code: bool, max_cells: int
) -> None:
    """Print the plan of a recipe: axes, variants, cells, and an estimate of the time."""
    changes = changed(overrides, model=model)
    planned = plan(file_of(recipe), overrides=changes, allow_code=allow_code, max_cells=max_cells)
    loaded = planned.recipe
    source = Source.of(loaded)
    cost = estimate_cost(source)
    total = sum(m.parameters for m in planned.catalog)
    about = printable(loaded.about)
    echo(f"{loaded.name}: {about}" if about else loaded.name)
    echo(f"model     {loaded.model}: {len(planned.catalog)} modules, {total:,} parameters")
    for axis in planned.axes:
        shown = printable(", ".join(axis.labels[:4]))
        shown += f", ... {printable(axis.labels[-1])}" if len(axis.labels) > 4 else ""
        note = f", {axis.note}" if axis.note else ""
        echo(f"axis      {axis.name}: {len(axis.values)} ({shown}){note}")
    images = planned.distinct()
    same = len(planned.same)
    distinct = f", of which {len(planned.variants) - same} are distinct" if same else ""
    echo(f"variants  {len(planned.variants)}{distinct}")
    echo(f"cells     {len(images)}{_terms(planned)}")
    component = loaded.component or denoiser_of(source)
    whole = not loaded.compile and loaded.offload is None
    layout = Batcher(load_catalog(source, None), rows=whole)
    variants = [edits_in_phase(c.variant, component, "denoising") for c in images]
    by_rows = sum(map(layout.by_rows, variants))
    echo(f"applied   {by_rows} by rows, {len(images) - by_rows} in place")
    rows = planned.denoiser_rows
    echo(
        f"estimate  {rows:,} denoiser rows of {cost.flops / 1e9:,.1f} GFLOP;"
        f" roughly {clock(rows * cost.flops / cost.rate)} on this {cost.device}"
    )
    print_notes(planned)


def _terms(planned: Plan) -> str:
    """Which cells of a plan there are, as a sum; empty if there are those of the axes alone."""
    names = {axis.name for axis in planned.axes}
    on_axes = [cell for cell in planned.cells if names <= cell.axes.keys()]
    beside, spare = len(planned.cells) - len(on_axes), len(planned.floor)
    different = len(planned.distinct()) - beside - spare
    terms = [f"{different} on the axes"]
    if different < len(on_axes):
        terms[0] += f" (in {len(on_axes)} places: equal cells are one)"
    if beside:
        terms.append(f"{counted(beside, 'baseline')} beside them")
    if spare:
        terms.append(f"{counted(spare, 'baseline')} of other seeds for the noise floor alone")
    if len(terms) == 1:
        return terms[0].removeprefix(f"{different} on the axes")
    return f": {', '.join(terms)}"


@click.command("recipes")
def recipes_command() -> None:
    """List the recipes of this package; `ablate run NAME` runs one."""
    rows = [(name, Recipe.load(file).about) for name, file in _packaged().items()]
    print_table(("recipe", "what it shows"), rows)


@click.command("schema")
@click.option("--docs", is_flag=True, help="Print a reference of all keys in Markdown instead.")
def schema_command(docs: bool) -> None:
    """Print the JSON Schema of recipes, for editors."""
    echo(recipe_docs().rstrip() if docs else json.dumps(recipe_schema(), indent=2))
