"""How far a study is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from ablate.engine import Progress

Watch = Callable[[Progress], None]


@dataclass(frozen=True)
class Part(Progress):
    """How far one of several parts of a command is. `noun`: what is counted."""

    noun: str = ""


def counting(noun: str, watch: Watch | None) -> Watch | None:
    """A watch of a part of a command, for one of all of it."""
    if watch is None:
        return None
    return lambda now: watch(Part(**{**vars(now), "noun": noun}))


class Clock:
    """Tells how far a stream is; time counts from when it is made. `done`: samples of an earlier
    time."""

    def __init__(self, total: int, done: int, watch: Watch | None) -> None:
        self.total, self.before, self.watch = total, done, watch
        self.began = time.monotonic()

    def __call__(self, done: int) -> None:
        if self.watch is None:
            return
        seconds, own = time.monotonic() - self.began, done - self.before
        left = seconds / own * (self.total - done) if own else 0.0
        self.watch(Progress(done, self.total, own, seconds, left))
