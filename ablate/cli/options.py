"""Options that several commands share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ablate.cli.output import echo
from ablate.messages import shown
from ablate.recipe import MAX_CELLS, RecipeError, parse_value
from ablate.store import Run


def key_values(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any]:
    """KEY=VALUE options as a mapping; values are YAML."""
    values: dict[str, Any] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"`{shown(item)}` is not key=value, as in sampling.width=256")
        try:
            values[key] = parse_value(value)
        except RecipeError as error:
            raise click.BadParameter(f"`{shown(item)}`: {error}") from error
    return values


DEVICE = click.option("--device", help="`cuda`, `cuda:1`, `mps`, `cpu`. Default: the fastest one.")
DTYPE = click.option("--dtype", help="`float32`, `float16`, `bfloat16`. Default: `auto`.")
CLIP = click.option(
    "--clip", help="What reads the images: the hub id or folder of a CLIP or SigLIP model."
)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of all commands that read a recipe."""
    command = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", callback=key_values,
        help="Replace a value of the recipe, as in --set sampling.num_inference_steps=5.",
    )(command)  # fmt: skip
    command = click.option("--model", help="`bundled`, a hub id, a folder, or a safetensors file.")(
        command
    )
    command = click.option(
        "--allow-code", is_flag=True, help="Execute the file of ops that the recipe names."
    )(command)
    command = click.option(
        "--max-cells", type=click.IntRange(min=1), default=MAX_CELLS, show_default=True,
        help="Refuse a plan of more cells before it is expanded.",
    )(command)  # fmt: skip
    return click.argument("recipe", type=click.Path(path_type=Path))(command)


def stored_run(folder: Path) -> Run:
    """The run of a folder, for commands that read it; its damaged cells are named.

    Raises `StoreError` where there is none.
    """
    run = Run(folder)
    run.manifest()
    if note := run.damage_note():
        echo(note, err=True)
    return run


def quiet_libraries() -> None:
    """Keep advice that libraries give to their own users out of the output."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
