"""Stopping by Ctrl-C or SIGTERM, and the processes of `accelerate launch`."""

from __future__ import annotations

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, TypeVar

from ablate.sampling import Pipeline, Stopped


@contextmanager
def stoppable(pipeline: Pipeline) -> Iterator[Callable[[], None]]:
    """Let Ctrl-C stop work after the step it is in; a second Ctrl-C interrupts at once.

    In the command, SIGTERM is as Ctrl-C.

    Sampling then raises `Stopped`, and so does the function that is yielded, for other work.
    """

    def check() -> None:
        if pipeline.stop():
            raise Stopped

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    asked = False
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    # A program that ignores Ctrl-C, or that SIGTERM ends, still does.
    handlers = {number: handler for number, handler in handlers.items() if callable(handler)}
    stop = pipeline.stop

    def restore() -> None:
        for number, handler in handlers.items():
            signal.signal(number, handler)

    def ask(_signal: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True
        restore()

    for number in handlers:
        signal.signal(number, ask)
    pipeline.stop = lambda: asked or stop()
    try:
        yield check
    finally:
        restore()
        pipeline.stop = stop


Item = TypeVar("Item")


def until_stopped(pipeline: Pipeline, items: Iterable[Item]) -> Iterator[Item]:
    """Yield items; raise `Stopped` after the one at which Ctrl-C was pressed."""
    with stoppable(pipeline) as check:
        for item in items:
            yield item
            check()


# Variables that launchers set: torch and accelerate, Open MPI, MPICH and Intel MPI.
COUNTS = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")
# A process that is done waits for the slowest; by default torch gives up after half an hour.
PATIENCE = timedelta(days=30)


class Processes:
    """This process among those of `accelerate launch`. Alone it does and loads nothing."""

    def __init__(self, device: str) -> None:
        self._state: Any = None
        if any(int(os.environ.get(name, "1")) > 1 for name in COUNTS):
            from accelerate import PartialState  # slow to load, and rarely needed

            self._state = PartialState(cpu=device == "cpu", timeout=PATIENCE)
            # Threads of the group that are left running may abort the process at its end.
            atexit.register(self._state.destroy_process_group)

    @property
    def alone(self) -> bool:
        return self._state is None

    @property
    def is_main(self) -> bool:
        return self._state is None or bool(self._state.is_main_process)

    def wait(self) -> None:
        """Wait until all processes call this."""
        if self._state is not None:
            self._state.wait_for_everyone()

    def share(self, items: Sequence[Item]) -> list[Item]:
        """Every n-th item, those of this process."""
        if self._state is None:
            return list(items)
        return list(items[self._state.process_index :: self._state.num_processes])

    def gather(self, item: Item) -> list[Item]:
        """The items of all processes, the main one's first."""
        if self._state is None:
            return [item]
        from accelerate.utils import gather_object  # slow to load, and rarely needed

        items: list[Item] = gather_object([item])
        return items
