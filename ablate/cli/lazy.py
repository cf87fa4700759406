"""A group whose commands are imported when they are called, and whose errors end in sentences."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from ablate.cli.errors import Exit
from ablate.cli.process import FAILED, GO_ON, INTERRUPTED, WRONG
from ablate.messages import RequestError, did_you_mean, message_of, shown

# Of a disk that fails or is full; other errors are about the path that was given.
FAILING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


class LazyGroup(click.Group):
    """Commands by a table, so that help needs none of the libraries that they do.

    Attributes:
        table: of each command its module and its line in the help, by its name.
    """

    def __init__(
        self, *args: Any, table: Mapping[str, tuple[str, str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.table = table or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            return None
        name = f"{cmd_name.replace('-', '_')}_command"
        command = getattr(import_module(self.table[cmd_name][0]), name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.table and name[:1] != "-" and not ctx.resilient_parsing:
            hint = did_you_mean(name, self.table) or f"; there are {', '.join(self.table)}"
            raise click.UsageError(f"there is no command `{shown(name)}`{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in self.table.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command: a wrong request ends with 2 and Ctrl-C with 130, wherever they arise.

        All messages of errors pass here, and are printable and of bounded length.
        """
        try:
            return self._invoked(ctx)
        except click.ClickException as error:
            # In place, so that click prints the usage of the command with it.
            error.message = message_of(error.message)  # type: ignore[misc]
            raise

    def _invoked(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Exit(GO_ON, INTERRUPTED) from None
        except RequestError as error:
            raise Exit(error.report(), WRONG) from None
        except OSError as error:
            message = f"{error.filename or ''}: {error.strerror or error}".lstrip(": ")
            raise Exit(message, FAILED if error.errno in FAILING else WRONG) from error
