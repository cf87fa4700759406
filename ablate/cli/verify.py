"""The command that checks whether all files of a run are whole, and repairs them."""

from __future__ import annotations

from pathlib import Path

import click

from ablate.cli.errors import Exit
from ablate.cli.options import DEVICE, quiet_libraries
from ablate.cli.output import echo
from ablate.cli.process import FAILED
from ablate.messages import counted
from ablate.store import Run, Verification, verify_run


@click.command("verify")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--repair", is_flag=True, help="Compute damaged cells again; write damaged files.")
@click.option("--allow-code", is_flag=True, help="Execute the file of ops that the recipe names.")
@DEVICE
def verify_command(run: Path, repair: bool, allow_code: bool, device: str | None) -> None:
    """Check each cell, table and page of a run: end with 1 unless all are whole.

    With --repair damaged cells are computed again from the run's recipe, and damaged tables, sheet
    and report are written again.
    """
    store = Run(run)
    checked = verify_run(store)
    _print(checked)
    if repair and not checked.is_whole:
        from ablate import lab  # slow to load, and only needed to compute

        quiet_libraries()
        checked = lab.repair(store, device, allow_code=allow_code)
        echo("\nafter the repair")
        _print(checked)
    if checked.missing:
        echo(f"{counted(checked.missing, 'planned cell')} not computed yet: run it again")
    if not checked.is_whole:
        damaged = len(checked.cells) + len(checked.files)
        mends = f"; `ablate verify {run} --repair` mends them"
        if repair:
            mends = "; what the run does not draw, the command that drew it draws again"
        if store.is_busy():
            mends = ", but a process is at work there: wait for it"
        raise Exit(f"{counted(damaged, 'file')} of {run} not whole{mends}", FAILED)
    echo(f"{run} is whole")


def _print(checked: Verification) -> None:
    echo(f"{'what':14}{'how many':>10}{'whole':>8}")
    for what, (count, whole) in checked.counts.items():
        echo(f"{what:14}{count:10,}{whole:8,}")
    for key, problem in checked.cells.items():
        echo(f"cells/{key}.png  {problem}")
    for name, problem in checked.files.items():
        echo(f"{name}  {problem}")
