"""Commands that look at a finished run: draw it, measure it, name what it shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ablate.cli.errors import WRONG, Exit, model_told, overrides, run_told

if TYPE_CHECKING:
    from ablate.drift import Effect
    from ablate.store import Run


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--rows", multiple=True, metavar="AXIS", help="Axes of the rows.")
@click.option("--columns", multiple=True, metavar="AXIS", help="Axes of the columns.")
@click.option("--concepts", is_flag=True, help="Name what each cell shows.")
def sheet(run: Path, rows: tuple[str, ...], columns: tuple[str, ...], concepts: bool) -> None:
    """Draw the contact sheet of a run again, perhaps laid out differently."""
    from ablate.view import save_sheet

    with run_told():
        pages = save_sheet(
            _run(run), rows=list(rows) or None, columns=list(columns) or None, concepts=concepts
        )
    for page in pages:
        click.echo(str(page))


def _run(folder: Path) -> Run:
    """A folder that is known to be a run."""
    from ablate.store import Run

    store = Run(folder)
    store.manifest()
    return store


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--clip", help="What reads the images: a CLIP model's hub id or folder.")
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file of concepts, one a line.",
)
@click.option("--device", help="`cuda`, `cuda:1`, `mps`, `cpu`. Default: the best there is.")
@click.option("--top", type=click.IntRange(min=0), default=20, show_default=True,
              help="So many of the strongest effects are printed.")  # fmt: skip
@click.option("--metric", default="rmse", show_default=True, help="Which effects are printed.")
def drift(
    run: Path, clip: str | None, vocabulary: Path | None, device: str | None, top: int, metric: str
) -> None:
    """Measure the drift of a run again, without its network, and draw its report anew."""
    from ablate import lab
    from ablate.drift import read_effects

    with run_told(), model_told():
        words = vocabulary.read_text(encoding="utf-8").split("\n") if vocabulary else []
        store = _run(run)
        lab.measure(store, clip, [w.strip() for w in words if w.strip()] or None, device)
        page = lab.present(store)
        found = [e for e in read_effects(store) if e.metric == metric]
    found.sort(key=lambda e: -(e.drift or 0))
    for effect in found[:top]:
        if effect.drift is not None:
            click.echo(_effect(effect))
    report_drift(store)
    click.echo(str(page))


def _effect(effect: Effect) -> str:
    spread = "" if effect.low is None else f"  {effect.low:5.2f} to {effect.high:5.2f}"
    return f"{effect.drift:6.2f}{spread}  {effect.verdict:8}  {effect.variant}"


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write the report of a run, one HTML file, again."""
    from ablate import lab

    with run_told(), model_told():
        click.echo(str(lab.present(_run(run))))


@click.command()
@click.argument("run", metavar="RUN|MODEL")
@click.option("--metric", help="`rmse`, `ssim`, `latent`, `embedding`. Default: the last known.")
@click.option("--thumbnails", is_flag=True, help="Show each module's picture, not its color.")
@click.option("--out", type=click.Path(path_type=Path), help="Files, without their suffix.")
def architecture(run: str, metric: str | None, thumbnails: bool, out: Path | None) -> None:
    """Draw the network as it is, with the drift of every module in its place, as SVG and PNG.

    Of a model, such as `bundled` or a hub id, the layout alone.
    """
    from ablate.models import load_catalog
    from ablate.view import draw_layout, draw_network, save_drawing

    with run_told(), model_told():
        if (Path(run) / "run.json").exists():
            drawn = draw_network(_run(Path(run)), metric, thumbnails)
            if drawn is None:
                raise Exit(f"{run}: no cell edits few enough modules to be placed", WRONG)
            folder = Path(run)
        else:
            title = Path(run).name if Path(run).is_dir() else run
            drawn, folder = draw_layout(load_catalog(run), title), Path()
        _drawn(save_drawing(drawn, out or folder / "architecture"))


@click.command(name="map")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(["pca", "umap"]), default="pca", show_default=True)
def map_(run: Path, method: str) -> None:
    """Draw all cells of a run on a plane of concept space, as SVG and PNG."""
    from ablate.view import draw_map, save_drawing

    with run_told():
        drawn = draw_map(_run(run), method)
        if drawn is None:
            raise Exit(f"{run}: no CLIP model has read its images; see `ablate drift`", WRONG)
        _drawn(save_drawing(drawn, run / "map"))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--metric", help="`rmse`, `ssim`, `latent`, `embedding`. Default: the last known.")
def curves(run: Path, metric: str | None) -> None:
    """Draw drift over strength, with confidence bands, as SVG and PNG."""
    from ablate.view import draw_curves, save_drawing

    with run_told():
        drawn = draw_curves(_run(run), metric)
        if drawn is None:
            raise Exit(f"{run}: no axis of at least three strengths varies its edits", WRONG)
        _drawn(save_drawing(drawn, run / "curves"))


def _drawn(paths: tuple[Path, Path]) -> None:
    for path in paths:
        click.echo(str(path))


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--over", required=True, metavar="AXIS", help="A frame for each of its values.")
@click.option("--where", "fixed", multiple=True, metavar="AXIS=VALUE", callback=overrides,
              help="Hold another axis at one of its values.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="`.webp`, `.gif` or `.mp4`.")
@click.option("--fps", type=click.FloatRange(min=0.1), default=8, show_default=True)
def animate(run: Path, over: str, fixed: dict[str, Any], out: Path | None, fps: float) -> None:
    """Make an animation over an axis of a run."""
    from ablate.view import save_animation

    with run_told():
        click.echo(str(save_animation(_run(run), over, out, where=fixed, fps=fps)))


def report_drift(store: Run) -> None:
    """What the measurements of a run come to, in a few lines."""
    from collections import Counter

    from ablate.drift import read_cells, read_effects, read_notes

    classes = Counter(cell.class_name for cell in read_cells(store) if not cell.is_baseline)
    told = ", ".join(f"{n} {name}" for name, n in classes.most_common() if name)
    if told:
        click.echo(f"classes   {told}")
    found = read_effects(store)
    for metric in ("rmse", "embedding"):
        judged = [e for e in found if e.metric == metric and e.verdict]
        if judged:
            counts = Counter(e.verdict for e in judged)
            click.echo(
                f"{metric:9} {counts['matters']} of {len(judged)} edits lie above the noise floor,"
                f" {counts['nothing']} do nothing"
            )
    for note in read_notes(store):
        click.echo(note)


@click.command()
@click.argument("png", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="All that the PNG tells, as JSON.")
def show(png: Path, as_json: bool) -> None:
    """Print what a cell is, from its PNG alone."""
    import json

    from ablate.store import parameters_text, read_record

    with run_told():
        record = read_record(png)
    if as_json:
        click.echo(json.dumps(record, indent=1))
        return
    click.echo(parameters_text(record))
    condition = record["condition"]
    if "steps" in condition:
        click.echo(f"after {condition['steps']} steps")
    for text, weight in condition.get("point", {}).get("weights", []):
        click.echo(f"{weight:+.4f} “{text}”")
    for edit in record["edits"]:
        given = {k: v for k, v in edit.items() if k not in ("op", "modules")}
        settings = ", ".join(f"{k} {_written(v)}" for k, v in given.items())
        click.echo(f"{edit['op']}{f' ({settings})' if settings else ''}")
        for path in edit["modules"]:
            click.echo(f"    {path}")
    versions = ", ".join(f"{k} {v}" for k, v in record["versions"].items())
    click.echo(f"{record['model']['fingerprint']}, {record['dtype']}; {versions}")


def _written(value: Any) -> str:
    """A setting as a recipe would have it."""
    import yaml

    if not isinstance(value, dict | list):
        return str(value)
    return str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)).strip()


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("other", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="A folder. Default: beside RUN.")
@click.option("--top", type=click.IntRange(min=1), help="Draw so many pairs; the table has all.")
@click.option("--sort", type=click.Choice(["plan", "drift"]), default="plan", show_default=True,
              help="The order of pairs: the first run's, or the largest drift first.")  # fmt: skip
def compare(run: Path, other: Path, out: Path | None, top: int | None, sort: str) -> None:
    """Hold the cells that two runs share side by side: are they the same, and where not?"""
    from ablate.drift import compare_runs
    from ablate.view import save_comparison

    with run_told():
        found = compare_runs(_run(run), _run(other))
        paths = save_comparison(found, out or found.folder, top, sort)
    for line in (*found.sentences(), *map(str, paths)):
        click.echo(line)


COMMANDS = (compare, show, sheet, drift, report, architecture, map_, curves, animate)
