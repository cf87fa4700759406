"""The command line: commands parse, call and print. Heavy modules are imported when needed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablate import __version__
from ablate.cli.errors import (
    DONE,
    FAILED,
    GO_ON,
    INTERRUPTED,
    WRONG,
    Commands,
    Exit,
    model_told,
    overrides,
    run_told,
)
from ablate.cli.look import COMMANDS, report_drift
from ablate.cli.progress import Reporter, clock
from ablate.cli.units import units

if TYPE_CHECKING:
    from ablate.engine import Summary

PACKAGE = Path(__file__).parent.parent
# In a wheel recipes lie inside the package, in a checkout beside it.
RECIPES = next(p for p in (PACKAGE / "recipes", PACKAGE.parent / "recipes") if p.is_dir())


def _recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What all commands that read a recipe take."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", callback=overrides,
        help="Replace a value of the recipe, as in --set sampling.num_inference_steps=5.",
    )(command)  # fmt: skip
    command = click.option("--model", help="`bundled`, a hub id, a folder, or a safetensors file.")(
        command
    )
    command = click.option(
        "--allow-code", is_flag=True, help="Execute the file of ops that the recipe names."
    )(command)
    return click.argument("recipe", type=click.Path(path_type=Path))(command)


def _found(recipe: Path) -> Path:
    """The recipe file, or the one of that name among the recipes that come along."""
    named = RECIPES / f"{recipe.name.removesuffix('.yaml')}.yaml"
    if recipe.is_file() or recipe.parent != Path() or not named.exists():
        return recipe
    return named


def _with(overrides: dict[str, Any], **options: Any) -> dict[str, Any]:
    return overrides | {key: value for key, value in options.items() if value is not None}


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ablate")
def main() -> None:
    """A lab for taking a text-to-image diffusion network apart."""


for command in (*COMMANDS, units):
    main.add_command(command)


@main.command()
@_recipe_options
@click.option("--device", help="`cuda`, `cuda:1`, `mps`, `cpu`. Default: the best there is.")
@click.option("--dtype", help="`float32`, `float16`, `bfloat16`. Default: `auto`.")
@click.option("--batch-size", type=click.IntRange(min=1), help="Images made at once.")
@click.option("--out", type=click.Path(path_type=Path), help="Default: outputs/<recipe name>.")
@click.option("--limit", type=click.IntRange(min=1), help="Make only the first so many cells.")
@click.option("--fresh", is_flag=True, help="Make finished cells again.")
def run(
    recipe: Path,
    overrides: dict[str, Any],
    model: str | None,
    allow_code: bool,
    device: str | None,
    dtype: str | None,
    batch_size: int | None,
    out: Path | None,
    limit: int | None,
    fresh: bool,
) -> None:
    """Run a recipe: make its images, its table and its contact sheet.

    Run it again to resume: finished cells are never made twice.
    """
    from ablate import lab

    _quieten()
    with model_told():
        changes = _with(overrides, model=model, dtype=dtype)
        loaded = lab.load(_found(recipe), changes, allow_code=allow_code)
        reporter = Reporter()
        try:
            result = lab.run(
                loaded,
                out,
                device=device,
                batch_size=batch_size,
                limit=limit,
                fresh=fresh,
                on_progress=reporter,
            )
        finally:
            reporter.close()
    summary = result.summary
    if not result.is_main:
        raise Exit("", INTERRUPTED if summary.interrupted else DONE)
    _report_application(summary)
    _report_quiet(summary.quiet)
    if summary.not_finite:
        click.echo(f"{summary.not_finite} images hold NaN or infinity; they are drawn as such")
    click.echo(
        f"{summary.computed} images computed, {summary.reused} reused, of {summary.total},"
        f" in {clock(summary.seconds)}"
    )
    report_drift(result.store)
    for page in [
        *sorted(result.store.folder.glob("sheet*.png")),
        result.store.folder / "report.html",
    ]:
        if page.exists():
            click.echo(str(page))
    if summary.interrupted:
        raise Exit(GO_ON, INTERRUPTED)


def _report_application(summary: Summary) -> None:
    ways = [(summary.by_rows, "by rows"), (summary.in_place, "in place")]
    used = ", ".join(f"{count} {way}" for count, way in ways if count)
    if used:
        click.echo(f"edits applied {used}, in batches of up to {summary.batch_size}")
    if summary.rowless:
        click.echo(f"in place because they cannot be edited by rows: {_some(summary.rowless)}")


def _some(paths: Collection[str]) -> str:
    """The first few of many module paths."""
    shown = sorted(paths)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _report_quiet(quiet: dict[str, str]) -> None:
    for what, meaning in (
        ("never ran", "never ran while sampling"),
        ("unchanged", "edited but not changed: the edit leaves such weights as they are"),
    ):
        paths = [path for path, found in quiet.items() if found == what]
        if paths:
            many = "modules" if len(paths) > 1 else "module"
            click.echo(f"{len(paths)} {many} {meaning}: {_some(paths)}")


@main.command()
@_recipe_options
def check(recipe: Path, overrides: dict[str, Any], model: str | None, allow_code: bool) -> None:
    """Say whether a recipe is right, without running it."""
    from ablate import lab

    with model_told():
        lab.load(_found(recipe), _with(overrides, model=model), allow_code=allow_code)
    click.echo(f"{recipe}: right")


@main.command()
@_recipe_options
def plan(recipe: Path, overrides: dict[str, Any], model: str | None, allow_code: bool) -> None:
    """Print what a recipe comes to: axes, variants, cells, and an estimate."""
    from ablate import lab
    from ablate.engine import Layout, part_of
    from ablate.models import Source, denoiser_of, estimate_cost, load_catalog
    from ablate.sweep import resolve

    with model_told():
        changes = _with(overrides, model=model)
        loaded = lab.load(_found(recipe), changes, allow_code=allow_code)
        planned = resolve(loaded)
        source = Source.of(loaded)
        effort = estimate_cost(source)
    total = sum(m.parameters for m in planned.catalog)
    click.echo(f"{loaded.name}: {loaded.about}" if loaded.about else loaded.name)
    click.echo(f"model     {loaded.model}: {len(planned.catalog)} modules, {total:,} parameters")
    for axis in planned.axes:
        shown = ", ".join(axis.labels[:4])
        shown += f", ... {axis.labels[-1]}" if len(axis.labels) > 4 else ""
        note = f", {axis.note}" if axis.note else ""
        click.echo(f"axis      {axis.name}: {len(axis.values)} ({shown}){note}")
    images = len(planned.distinct())
    click.echo(f"variants  {len(planned.variants)}")
    floor = f", {len(planned.floor)} of them for the noise floor" if planned.floor else ""
    click.echo(f"cells     {len(planned.cells)}, {images} different images{floor}")
    component = loaded.component or denoiser_of(source)
    whole = not loaded.compile and loaded.offload is None
    layout = Layout(load_catalog(source, None), rows=whole)
    variants = [part_of(c.variant, component, "denoising") for c in planned.distinct()]
    by_rows = sum(map(layout.by_rows, variants))
    click.echo(f"applied   {by_rows} by rows, {images - by_rows} in place")
    rows = planned.denoiser_rows
    seconds = rows * effort.flops / effort.rate
    click.echo(
        f"estimate  {rows:,} denoiser rows of {effort.flops / 1e9:,.1f} GFLOP;"
        f" roughly {clock(seconds)} on this {effort.device}"
    )


@main.command()
@click.argument("model", default="bundled")
@click.option("--select", metavar="SELECTOR", help="Only these, as in --select role=resnet.")
@click.option("--component", help="Another part than the denoiser, as in `text_encoder`.")
@click.option("--blocks", is_flag=True, help="List what holds modules, for `where: output`.")
@click.option("--revision", help="Of a hub model.")
@click.option("--config", help="Where a model that is one safetensors file is described.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def modules(
    model: str,
    select: str | None,
    component: str | None,
    blocks: bool,
    revision: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """List the modules of a model's denoiser, from its configuration alone."""
    from collections import Counter
    from dataclasses import asdict

    from ablate.models import Source, load_catalog
    from ablate.network import SelectorError, select as select_modules

    with model_told():
        catalog = load_catalog(Source(model, revision, config=config), component)
        everything = catalog.blocks if blocks else catalog.modules
        try:
            found = select_modules(select, everything) if select else everything
        except SelectorError as error:
            raise Exit(f"--select: {error}", WRONG) from None
    if as_json:
        click.echo(json.dumps([asdict(m) for m in found], indent=1))
        return
    heads = ("#", "path", "kind", "stage", "role", "heads", "parameters")
    rows = [
        (str(m.number), m.path, m.kind, m.stage, m.role, str(m.heads or ""), f"{m.parameters:,}")
        for m in found
    ]
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = [c.rjust(w) if i in (0, 5, 6) else c.ljust(w)
                 for i, (c, w) in enumerate(zip(row, widths, strict=True))]  # fmt: skip
        click.echo("  ".join(cells).rstrip())
    for field in ("stage", "role"):
        counts = Counter(getattr(m, field) for m in found)
        click.echo(f"{field:6} {', '.join(f'{name} {n}' for name, n in counts.items())}")
    if blocks:  # they lie in one another
        click.echo(f"{len(found)} blocks")
    else:
        click.echo(f"{len(found)} modules, {sum(m.parameters for m in found):,} parameters")


@main.command()
def recipes() -> None:
    """List the recipes that come along; `ablate run NAME` runs one."""
    from ablate.recipe import read_recipe

    for file in sorted(RECIPES.glob("*.yaml")):
        recipe = read_recipe(file).get()
        click.echo(f"{file.stem:26} {recipe.about}")


@main.command()
@click.argument("png", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write the image here.")
@click.option("--verify", is_flag=True, help="End with 1 unless it is the same image.")
@click.option("--device", help="`cuda`, `cuda:1`, `mps`, `cpu`. Default: the best there is.")
@click.option("--code", "file", type=click.Path(path_type=Path),
              help="Execute this file of ops, which the cell was made with.")  # fmt: skip
def replay(
    png: Path, out: Path | None, verify: bool, device: str | None, file: Path | None
) -> None:
    """Make a cell again from its PNG alone, and compare."""
    from ablate.edits import load_code
    from ablate.engine import ALIKE, replay_cell as again

    _quieten()
    with run_told(), model_told():
        if file is not None:
            load_code(file)
        found = again(png, device=device)
        if out is not None:
            found.image.save(out)
    if not found.same_model:
        click.echo("its model has changed since it was made")
    elif not found.same_key:
        click.echo("it is not named by what its record tells: one of the two was changed")
    if found.difference is None:
        told = "of another size"
    elif not found.difference:
        told = "the same, bit for bit"
    else:
        told = f"{'the same but for' if found.is_alike else 'different by'} {found.difference}/255"
    click.echo(f"{png}: {told}")
    if verify and not found.is_alike:
        raise Exit(f"more than {ALIKE}/255 apart", FAILED)


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("variant")
@click.option("--out", type=click.Path(path_type=Path), help="Default: RUN/export/<variant>.")
@click.option("--changed", is_flag=True, help="One safetensors file of only what changed.")
@click.option("--device", help="`cuda`, `cuda:1`, `mps`, `cpu`. Default: the best there is.")
def export(run: Path, variant: str, out: Path | None, changed: bool, device: str | None) -> None:
    """Write a variant as a model of its own, which diffusers loads without the lab.

    VARIANT is its name, as in drift.csv, or a cell: its key or its PNG.
    """
    from ablate.engine import ExportError, export_variant as exported
    from ablate.store import Run

    _quieten()
    with run_told(), model_told():
        try:
            made = exported(Run(run), variant, out, changed=changed, device=device)
        except ExportError as error:
            raise Exit(str(error), WRONG) from None
    for line in made.sentences():
        click.echo(line)


@main.command()
@click.option("--model", default="bundled", help="Also `sd15-random`: real size, random weights.")
@click.option("--steps", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--size", type=click.IntRange(min=8), help="Pixels of a side. Default: the model's.")
@click.option("--modules", type=click.IntRange(min=1), help="So many, evenly spread. Default: all.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--device", help="`cuda`, `cuda:1`, `mps`, `cpu`. Default: the best there is.")
@click.option("--dtype", default="auto", help="`float32`, `float16`, `bfloat16`. Default: `auto`.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures here too.")
@click.option("--peers", is_flag=True, help="Measure nnsight as well, where it is installed.")
def bench(file: Path | None, **options: Any) -> None:
    """Measure the lab against a diffusers script and against what the machine can do."""
    from ablate.bench import bench as measure

    _quieten()
    with model_told():
        try:
            report = measure(**options, tell=lambda what: click.echo(what, err=True))
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith("nnsight"):
                raise
            message = "--peers: nnsight is not installed; `pip install nnsight`"
            raise Exit(message, WRONG) from None
        if file is not None:
            file.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    click.echo(str(report))


@main.command()
def schema() -> None:
    """Print the JSON Schema of recipes, for editors."""
    from ablate.recipe import recipe_schema as made

    click.echo(json.dumps(made(), indent=2))


def _quieten() -> None:
    """Libraries' advice to their own users is not for ours."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
