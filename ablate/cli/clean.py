"""The command that removes what a run does not need any more. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import click

from ablate.cli.output import echo
from ablate.messages import counted
from ablate.store import Run, listed


@click.command("clean")
@click.argument("run", type=click.Path(path_type=Path))
def clean_command(run: Path) -> None:
    """Remove finished cells that are not part of a run's recipe any more."""
    store = Run(run)
    sizes = store.clean()
    echo(f"{run}: {counted(len(sizes), 'cell')} removed, {sum(sizes):,} bytes")
    if left := store.unrecorded():
        names = listed({path.name: "no record of a cell" for path in left})
        echo(f"{counted(len(left), 'file')} of {run / 'cells'} not removed: {names}")
