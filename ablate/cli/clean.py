"""The command that removes what a run does not need any more. Needs no torch."""

from __future__ import annotations

from pathlib import Path

import click

from ablate.cli.output import echo
from ablate.messages import counted
from ablate.store import Run


@click.command("clean")
@click.argument("run", type=click.Path(path_type=Path))
def clean_command(run: Path) -> None:
    """Remove finished cells that are not part of a run's recipe any more."""
    sizes = Run(run).clean()
    echo(f"{run}: {counted(len(sizes), 'cell')} removed, {sum(sizes):,} bytes")
