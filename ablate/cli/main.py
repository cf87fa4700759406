"""The command `ablate`: which commands there are, and where each lives."""

from __future__ import annotations

import click

from ablate import __version__
from ablate.cli.lazy import LazyGroup

COMMANDS = {
    "run": ("ablate.cli.recipes", "Run a recipe: images, tables, sheet and report."),
    "find": ("ablate.cli.find", "Answer a question by a part of a recipe's cells."),
    "check": ("ablate.cli.recipes", "Check a recipe without running it."),
    "plan": ("ablate.cli.recipes", "Print axes, variants, cells and an estimate."),
    "recipes": ("ablate.cli.recipes", "List the recipes of this package."),
    "schema": ("ablate.cli.recipes", "Print the JSON Schema of recipes, for editors."),
    "modules": ("ablate.cli.networks", "List the modules of a network."),
    "architecture": ("ablate.cli.networks", "Draw a network with the drift of each module."),
    "clean": ("ablate.cli.clean", "Remove cells that a run's recipe has no more."),
    "sheet": ("ablate.cli.look", "Draw the contact sheet of a run again."),
    "drift": ("ablate.cli.measure", "Measure the drift of a run again."),
    "report": ("ablate.cli.look", "Write the HTML report of a run again."),
    "map": ("ablate.cli.look", "Draw all cells of a run on a plane of concept space."),
    "curves": ("ablate.cli.look", "Draw drift over strength, with confidence bands."),
    "animate": ("ablate.cli.look", "Write an animation over an axis of a run."),
    "compare": ("ablate.cli.look", "Compare the cells that two runs share."),
    "show": ("ablate.cli.look", "Print what a cell is, from its PNG alone."),
    "verify": ("ablate.cli.verify", "Check that all files of a run are whole; repair them."),
    "replay": ("ablate.cli.cells", "Compute a cell again from its PNG alone, and compare."),
    "export": ("ablate.cli.cells", "Write a variant as a model that diffusers loads."),
    "units": ("ablate.cli.units", "Study channels, neurons and attention heads."),
    "bench": ("ablate.cli.bench", "Measure the speed of the lab on this machine."),
}


@click.group(
    cls=LazyGroup,
    table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__, prog_name="ablate")
def main() -> None:
    """A lab for taking a text-to-image diffusion network apart."""
