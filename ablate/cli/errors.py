"""How a command ends: an exception that prints a sentence."""

from __future__ import annotations

import sys
from typing import Any

import click


class Exit(click.ClickException):
    """A message to the user and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    def show(self, file: Any = None) -> None:
        if self.message:
            click.echo(self.message, err=True)
        sys.exit(self.code)
