"""How far a long command is, and its pace."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy

OnProgress = Callable[["Progress"], None]


class Progress:
    """The progress of a command, one part after another, such as images and then samples.

    Attributes:
        noun: What the current part counts, in the plural.
        total: How many there are in this part.
        done: How many are finished, those of earlier runs included.
        computed: How many this run finished.
        seconds: Time since the part began.
        left: An estimate of the seconds until it ends; 0 while nothing is computed.
    """

    noun = ""
    total = done = computed = 0
    seconds = left = 0.0

    def __init__(self, report: OnProgress | None = None) -> None:
        """`report` is called with a copy after every change."""
        self._report = report

    def start(self, noun: str, total: int, done: int = 0, preparing: str = "") -> None:
        """Begin a part, of which `done` are finished. `preparing`: its noun until one is computed.

        The pace counts from the last update with nothing computed, so that preparation is no part
        of it.
        """
        self._nouns = noun, preparing or noun
        self.total, self._before = total, done
        self._began = self._paced = time.monotonic()

    def update(self, done: int) -> None:
        """Report that so many of the part are finished."""
        now = time.monotonic()
        self.done, self.computed = done, done - self._before
        self.noun = self._nouns[self.computed == 0]
        self.seconds = now - self._began
        if self.computed:
            self.left = (now - self._paced) / self.computed * (self.total - done)
        else:
            self._paced, self.left = now, 0.0
        if self._report is not None:
            self._report(copy(self))
