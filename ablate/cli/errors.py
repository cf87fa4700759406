"""How a command ends: errors of the request become a message and an exit code."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
GO_ON = "interrupted; run the same command again to go on"


class Exit(click.ClickException):
    """A message to the user and an exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code

    def show(self, file: Any = None) -> None:
        if self.message:
            click.echo(self.message, err=True)
        sys.exit(self.code)


class Commands(click.Group):
    """Commands that Ctrl-C ends with a sentence and 130, wherever they are."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Exit(GO_ON, INTERRUPTED) from None


@contextmanager
def told() -> Iterator[None]:
    """Known errors become a message and an exit code; unknown ones keep their traceback."""
    from ablate.edits import CodeError
    from ablate.network import ScopeError
    from ablate.recipe import RecipeError

    try:
        yield
    except (CodeError, ScopeError) as error:
        raise Exit(str(error), WRONG) from None
    except RecipeError as error:
        count = len(error.problems)
        raise Exit(f"{error}\n{count} problem{'s' * (count != 1)}", WRONG) from None
    except OSError as error:
        raise Exit(
            f"{error.filename or ''}: {error.strerror or error}".lstrip(": "), WRONG
        ) from error


@contextmanager
def model_told() -> Iterator[None]:
    """What may be wrong with a recipe and its model."""
    from ablate.models import ModelError

    try:
        with told():
            yield
    except ModelError as error:
        raise Exit(str(error), WRONG) from None


@contextmanager
def run_told() -> Iterator[None]:
    """What may be wrong with a run and with what is asked of it."""
    from ablate.store import StoreError
    from ablate.view import PictureError

    try:
        with told():
            yield
    except (StoreError, PictureError) as error:
        raise Exit(str(error), WRONG) from None


def overrides(
    _context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]
) -> dict[str, Any]:
    """KEY=VALUE options as a mapping; values are YAML."""
    import yaml

    found: dict[str, Any] = {}
    for item in given:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise click.BadParameter(f"`{item}` is not key=value, as in sampling.width=256")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise click.BadParameter(f"`{value}` is not valid YAML") from error
    return found
