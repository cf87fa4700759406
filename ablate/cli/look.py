"""Commands that draw a run from its folder, and print what its files contain. None needs torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from ablate.cli.errors import Exit
from ablate.cli.options import key_values, stored_run
from ablate.cli.output import echo
from ablate.cli.process import WRONG
from ablate.drift import compare_runs
from ablate.store import check_asked, check_folder, parameters_text, read_record
from ablate.view import (
    draw_curves,
    draw_map,
    present_run,
    save_animation,
    save_comparison,
    save_drawing,
    save_sheet,
)


@click.command("sheet")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--rows", multiple=True, metavar="AXIS", help="Axes of the rows.")
@click.option("--columns", multiple=True, metavar="AXIS", help="Axes of the columns.")
@click.option("--concepts", is_flag=True, help="Name what each cell shows.")
def sheet_command(
    run: Path, rows: tuple[str, ...], columns: tuple[str, ...], concepts: bool
) -> None:
    """Draw the contact sheet of a run again, with other rows and columns or with concepts."""
    pages = save_sheet(
        stored_run(run), rows=list(rows) or None, columns=list(columns) or None, concepts=concepts
    )
    for page in pages:
        echo(str(page))


@click.command("report")
@click.argument("run", type=click.Path(path_type=Path))
def report_command(run: Path) -> None:
    """Write the HTML report of a run again, one file."""
    echo(str(present_run(stored_run(run))))


@click.command("map")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--method", type=click.Choice(["pca", "umap"]), default="pca", show_default=True)
def map_command(run: Path, method: str) -> None:
    """Draw all cells of a run on a plane of concept space, as SVG and PNG."""
    drawing = draw_map(stored_run(run), method)
    if drawing is None:
        raise Exit(f"{run}: no model has read its images; see `ablate drift`", WRONG)
    _print_paths(save_drawing(drawing, run / "map"))


@click.command("curves")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--metric", help="`rmse`, `ssim`, `latent`, `embedding` ... Default: the last known.")
def curves_command(run: Path, metric: str | None) -> None:
    """Draw drift over strength, with confidence bands, as SVG and PNG."""
    drawing = draw_curves(stored_run(run), metric)
    if drawing is None:
        raise Exit(
            f"{run}: no drift is known over an axis of three numbers or more that varies the edits"
            " of one seed",
            WRONG,
        )
    _print_paths(save_drawing(drawing, run / "curves"))


def _print_paths(paths: tuple[Path, Path]) -> None:
    for path in paths:
        echo(str(path))


@click.command("animate")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--over", required=True, metavar="AXIS", help="A frame for each of its values.")
@click.option("--where", "fixed", multiple=True, metavar="AXIS=VALUE", callback=key_values,
              help="Keep another axis at one of its values.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="`.webp`, `.gif` or `.mp4`.")
@click.option("--fps", type=click.FloatRange(min=0.1), default=8, show_default=True)
def animate_command(
    run: Path, over: str, fixed: dict[str, Any], out: Path | None, fps: float
) -> None:
    """Write an animation over an axis of a run."""
    echo(str(save_animation(stored_run(run), over, out, where=fixed, fps=fps)))


@click.command("show")
@click.argument("png", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="The whole record, as JSON.")
def show_command(png: Path, as_json: bool) -> None:
    """Print what a cell is, from its PNG alone."""
    record = read_record(png)
    if as_json:
        echo(json.dumps(record, indent=1))
        return
    check_asked(png, record)
    for line in _description(record):
        echo(line)


def _description(record: dict[str, Any]) -> Iterator[str]:
    """What a cell is, in lines; prompts may have several."""
    yield parameters_text(record)
    condition = record["condition"]
    if "steps" in condition:
        yield f"after {condition['steps']} steps"
    for text, weight in (condition.get("point") or {}).get("weights", []):
        yield f"{weight:+.4f} “{text}”"
    for edit in record["edits"]:
        given = {k: v for k, v in edit.items() if k not in ("op", "modules")}
        settings = ", ".join(f"{k} {_as_yaml(v)}" for k, v in given.items())
        yield f"{edit['op']}{f' ({settings})' if settings else ''}"
        yield from (f"    {path}" for path in edit["modules"])
    versions = ", ".join(f"{k} {v}" for k, v in record.get("versions", {}).items())
    yield f"{record['model']['fingerprint']}, {record['dtype']}; {versions}"


def _as_yaml(value: Any) -> str:
    """A setting as a recipe would have it."""
    if not isinstance(value, dict | list):
        return str(value)
    return str(yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)).strip()


@click.command("compare")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("other", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="A folder. Default: beside RUN.")
@click.option("--top", type=click.IntRange(min=1), help="Draw so many pairs; the table has all.")
@click.option("--sort", type=click.Choice(["plan", "drift"]), default="plan", show_default=True,
              help="The order of pairs: the first run's, or the largest drift first.")  # fmt: skip
def compare_command(run: Path, other: Path, out: Path | None, top: int | None, sort: str) -> None:
    """Compare the cells that two runs share: are they the same, and where not?"""
    comparison = compare_runs(stored_run(run), stored_run(other))
    folder = out or comparison.folder
    check_folder(folder)
    paths = save_comparison(comparison, folder, top, sort)
    for line in (*comparison.sentences(), *map(str, paths)):
        echo(line)
