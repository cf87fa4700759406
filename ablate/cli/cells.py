"""Commands that compute from what a cell's PNG contains: replay it, export its variant."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ablate.cli.errors import Exit
from ablate.cli.options import DEVICE, quiet_libraries
from ablate.cli.output import echo
from ablate.cli.process import FAILED, WRONG
from ablate.edits import load_code
from ablate.engine import ALIKE, Recorded, export_variant, replay_cell
from ablate.messages import counted, shown
from ablate.store import Run, atomic_write, check_folder

FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}


def model_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that load a model because a record names it."""
    command = click.option(
        "--yes", is_flag=True, help="Load what the record names, without a question."
    )(command)
    return click.option(
        "--model", metavar="FOLDER", help="Load this model instead of the one that is recorded."
    )(command)


def _confirmed(recorded: Recorded, yes: bool) -> None:
    """Print what is about to be loaded and computed; ask where the user did not name it."""
    for line in recorded.sentences():
        echo(line, err=True)
    if yes or not recorded.unnamed:
        return
    first, *others = recorded.unnamed
    more = f" and {counted(len(others), 'other')}" if others else ""
    question = f"the record of {recorded.path} names what is loaded: `{shown(first)}`{more}"
    if not sys.stdin.isatty():
        raise Exit(
            f"{question}; `--yes` loads it, `--model FOLDER` loads your own model instead", WRONG
        )
    if not click.confirm(f"{question}; load it?", err=True):
        raise Exit("nothing was loaded", WRONG)


@click.command("replay")
@click.argument("png", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="Write the image here.")
@click.option("--verify", is_flag=True, help="End with 1 unless it is the same image.")
@DEVICE
@model_options
@click.option("--code", "file", type=click.Path(path_type=Path),
              help="Execute this file of ops, which the cell needs.")  # fmt: skip
def replay_command(
    png: Path,
    out: Path | None,
    verify: bool,
    device: str | None,
    file: Path | None,
    model: str | None,
    yes: bool,
) -> None:
    """Compute a cell again from its PNG alone, and compare.

    A PNG may come from anyone: another model than the bundled one is loaded only if you name it
    with --model, or with --yes.
    """
    quiet_libraries()
    if out is not None:
        if out.suffix.lower() not in FORMATS:
            raise Exit(f"--out: {out.name} is no image; it ends in {', '.join(FORMATS)}", WRONG)
        check_folder(out.parent)
    if file is not None:
        load_code(file)
    replay = replay_cell(
        png, device=device, model=model, before=lambda recorded: _confirmed(recorded, yes)
    )
    if out is not None:
        with atomic_write(out) as temporary:
            replay.image.save(temporary, FORMATS[out.suffix.lower()])
    if not replay.same_model:
        echo("its model has changed since this cell was computed")
    elif not replay.same_key:
        echo("its name is not the key of its record: one of the two was changed")
    if replay.difference is None:
        result = "of another size"
    elif not replay.difference:
        result = "the same, bit for bit"
    else:
        degree = "the same but for" if replay.is_alike else "different by"
        result = f"{degree} {replay.difference}/255"
    echo(f"{png}: {result}")
    if verify and not replay.is_alike:
        raise Exit(f"more than {ALIKE}/255 apart", FAILED)


@click.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("variant")
@click.option("--out", type=click.Path(path_type=Path), help="Default: RUN/export/<variant>.")
@click.option("--changed", is_flag=True, help="One safetensors file of only what changed.")
@DEVICE
@model_options
def export_command(
    run: Path,
    variant: str,
    out: Path | None,
    changed: bool,
    device: str | None,
    model: str | None,
    yes: bool,
) -> None:
    """Write a variant as a model, which diffusers loads without the lab.

    VARIANT is its name, as in drift.csv, or a cell: its key or its PNG. As for `ablate replay`,
    another model than the bundled one is loaded with --model or --yes.
    """
    quiet_libraries()
    export = export_variant(
        Run(run),
        variant,
        out,
        changed=changed,
        device=device,
        model=model,
        before=lambda recorded: _confirmed(recorded, yes),
    )
    for line in export.sentences():
        echo(line)
