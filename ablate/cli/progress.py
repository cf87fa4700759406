"""Progress on the terminal: a bar with an estimate of the time left, or lines in a log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ablate.engine import Progress


class ProgressPrinter:
    """Prints a progress each time it is called with one; a new line for each part."""

    EVERY = 5.0  # seconds between lines in a log
    WIDTH = 28  # of the bar, in characters

    def __init__(self) -> None:
        self.noun = ""
        self.terminal = sys.stderr.isatty()
        self.last = 0.0
        self.in_line = False

    def __call__(self, now: Progress) -> None:
        if now.noun != self.noun:
            self.close()
            self.noun, self.last = now.noun, 0.0
        left = f", {clock(now.left)} left" if now.computed else ""
        count = f"{now.done}/{now.total} {now.noun}"
        if self.terminal:
            full = round(self.WIDTH * now.done / max(now.total, 1))
            bar = "█" * full + "·" * (self.WIDTH - full)
            click.echo(f"\r\x1b[K{bar} {count}, {clock(now.seconds)}{left}", err=True, nl=False)
            self.in_line = True
        elif now.done == now.total or time.monotonic() - self.last >= self.EVERY:
            self.last = time.monotonic()
            click.echo(f"{count} ({now.computed} computed), {clock(now.seconds)}{left}", err=True)

    def close(self) -> None:
        """End the line of the bar."""
        if self.in_line:
            click.echo("", err=True)
            self.in_line = False


def clock(seconds: float) -> str:
    """A time in minutes or hours."""
    total = round(seconds)
    if total < 3600:
        return f"{total // 60}:{total % 60:02d} min"
    return f"{total // 3600}:{total % 3600 // 60:02d} h"
