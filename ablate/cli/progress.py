"""How far a long command is: a bar with an ETA in a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ablate.engine import Progress


class Reporter:
    """Told of progress, it writes. `noun`: what is counted, unless the progress has a noun of its
    own; what counts something else gets a line of its own."""

    EVERY = 5.0  # seconds between lines in a log

    def __init__(self, noun: str = "images") -> None:
        self.noun = self.told = noun
        self.terminal = sys.stderr.isatty()
        self.last = 0.0
        self.wrote = False

    def __call__(self, now: Progress) -> None:
        noun = now.noun or self.noun
        if noun != self.told:
            self.close()
            self.told, self.last = noun, 0.0
        left = f", {clock(now.left)} left" if now.computed else ""
        count = f"{now.done}/{now.total} {noun}"
        if self.terminal:
            width = 28
            full = round(width * now.done / max(now.total, 1))
            bar = "█" * full + "·" * (width - full)
            click.echo(f"\r\x1b[K{bar} {count}, {clock(now.seconds)}{left}", err=True, nl=False)
            self.wrote = True
        elif now.done == now.total or time.monotonic() - self.last >= self.EVERY:
            self.last = time.monotonic()
            click.echo(f"{count} ({now.computed} computed), {clock(now.seconds)}{left}", err=True)

    def close(self) -> None:
        """Leave the bar's line."""
        if self.wrote:
            click.echo("", err=True)
            self.wrote = False


def clock(seconds: float) -> str:
    """A time in minutes or hours."""
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
