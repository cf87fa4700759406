"""Commands that compute from what a cell's PNG contains: replay it, export its variant."""

from __future__ import annotations

from pathlib import Path

import click

from ablate.cli.errors import Exit
from ablate.cli.options import DEVICE, quiet_libraries
from ablate.cli.process import FAILED
from ablate.edits import load_code
from ablate.engine import ALIKE, export_variant, replay_cell
from ablate.store import Run


@click.command("replay")
@click.argument("png", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write the image here.")
@click.option("--verify", is_flag=True, help="End with 1 unless it is the same image.")
@DEVICE
@click.option("--code", "file", type=click.Path(path_type=Path),
              help="Execute this file of ops, which the cell needs.")  # fmt: skip
def replay_command(
    png: Path, out: Path | None, verify: bool, device: str | None, file: Path | None
) -> None:
    """Compute a cell again from its PNG alone, and compare."""
    quiet_libraries()
    if file is not None:
        load_code(file)
    replay = replay_cell(png, device=device)
    if out is not None:
        replay.image.save(out)
    if not replay.same_model:
        click.echo("its model has changed since this cell was computed")
    elif not replay.same_key:
        click.echo("its name is not the key of its record: one of the two was changed")
    if replay.difference is None:
        result = "of another size"
    elif not replay.difference:
        result = "the same, bit for bit"
    else:
        degree = "the same but for" if replay.is_alike else "different by"
        result = f"{degree} {replay.difference}/255"
    click.echo(f"{png}: {result}")
    if verify and not replay.is_alike:
        raise Exit(f"more than {ALIKE}/255 apart", FAILED)


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("variant")
@click.option("--out", type=click.Path(path_type=Path), help="Default: RUN/export/<variant>.")
@click.option("--changed", is_flag=True, help="One safetensors file of only what changed.")
@DEVICE
def export_command(
    run: Path, variant: str, out: Path | None, changed: bool, device: str | None
) -> None:
    """Write a variant as a model, which diffusers loads without the lab.

    VARIANT is its name, as in drift.csv, or a cell: its key or its PNG.
    """
    quiet_libraries()
    export = export_variant(Run(run), variant, out, changed=changed, device=device)
    for line in export.sentences():
        click.echo(line)
