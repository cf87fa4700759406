"""What commands print: all of it passes here, and nothing in it controls the terminal."""

from __future__ import annotations

import click

from ablate.messages import printable


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print a text, in which what controls a terminal or hides is escaped; lines stay lines."""
    click.echo(printable(str(text), keep="\n"), err=err, nl=nl)
