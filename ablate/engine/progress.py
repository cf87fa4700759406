"""Progress of a run, and its pace."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Progress:
    """Told after every batch. `seconds` since the run began; `left` is an estimate. `noun`: what is
    counted, where it is one of several things that a command does."""

    done: int
    total: int
    computed: int
    seconds: float
    left: float
    noun: str = ""


Watch = Callable[[Progress], None]


def counting(noun: str, watch: Watch | None) -> Watch | None:
    """A watch of a part of a command, for one of all of it."""
    if watch is None:
        return None
    return lambda now: watch(replace(now, noun=noun))


class Clock:
    """Tells how far a stream is; time counts from when it is made. `done`: samples of an earlier
    time. `preparing`: the noun while none is done, of a stream whose pace is none of its
    preparation's; what is left is then told by the time since it was last told of none."""

    def __init__(self, total: int, done: int, watch: Watch | None, preparing: str = "") -> None:
        self.total, self.before, self.watch = total, done, watch
        self.preparing = preparing
        self.began = self.paced = time.monotonic()

    def __call__(self, done: int) -> None:
        if self.watch is None:
            return
        now, own = time.monotonic(), done - self.before
        if self.preparing and not own:
            self.paced = now
            self.watch(Progress(done, self.total, 0, now - self.began, 0.0, self.preparing))
            return
        left = (now - self.paced) / own * (self.total - done) if own else 0.0
        self.watch(Progress(done, self.total, own, now - self.began, left))
