"""The process of the command: signals end it with a sentence, and so do streams that are full.

Loads nothing but Python's own, so that it is in force before any library is imported.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

DONE, FAILED, WRONG, INTERRUPTED = 0, 1, 2, 130
NO_READER = 128 + 13  # what a shell reports of a filter that SIGPIPE ended
GO_ON = "interrupted; run the same command again to go on"
SIGNALS = (signal.SIGINT, signal.SIGTERM)
IMPORTING = "<frozen importlib._bootstrap>"


class OutputError(Exception):
    """Standard output that cannot be written to."""


def run_command(command: Callable[[], Any]) -> NoReturn:
    """Run a command that exits, and end the process with its code."""
    _guard_streams()
    _catch_signals()
    try:
        command()
        code: Any = DONE
    except SystemExit as error:
        code = error.code
    except OutputError as error:
        code = _without_output(error)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OutputError as error:
        code = code or _without_output(error)
    # The work is done: what is left is to unload libraries, which a signal would only make noisy.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    sys.exit(code)


# ---------------------------------------------------------------- signals


def _catch_signals() -> None:
    """Let Ctrl-C and SIGTERM raise `KeyboardInterrupt` once, and end the process after that."""
    asked = False

    def interrupt(_signal: int, frame: FrameType | None) -> None:
        nonlocal asked
        # Code that is being imported may swallow the exception, or print it.
        if asked or _imports(frame):
            _end()
        asked = True
        raise KeyboardInterrupt

    def unraisable(problem: sys.UnraisableHookArgs) -> None:
        # Raised where Python can only print it, in a finalizer or a callback.
        if isinstance(problem.exc_value, KeyboardInterrupt):
            _end()
        sys.__unraisablehook__(problem)

    sys.unraisablehook = unraisable
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` and `&` have it
            signal.signal(number, interrupt)


def _imports(frame: FrameType | None) -> bool:
    """Whether a frame is inside an import."""
    while frame is not None:
        if frame.f_code.co_filename == IMPORTING:
            return True
        frame = frame.f_back
    return False


def _end() -> NoReturn:
    with suppress(OSError):
        os.write(2, f"{GO_ON}\n".encode())
    os._exit(INTERRUPTED)


# ---------------------------------------------------------------- standard streams


class _Output(io.FileIO):
    """Standard output, whose errors differ from those of other files."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError as error:
            raise OutputError from error


class _Messages(io.FileIO):
    """Standard error. Work goes on where its progress cannot be printed."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return memoryview(data).nbytes


def _guard_streams() -> None:
    """Replace standard output and error, unless they are terminals."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            # Closed: a file that is opened later must not take its number. Writing to it fails.
            os.open(os.devnull, os.O_RDONLY)
    sys.stdout = _guarded(sys.stdout, _Output, 1)
    sys.stderr = _guarded(sys.stderr, _Messages, 2)


def _guarded(stream: Any, kind: type[io.FileIO], number: int) -> Any:
    if stream is None:
        return io.TextIOWrapper(io.BufferedWriter(kind(number, "w", closefd=False)), "utf-8")
    if stream.isatty():
        return stream
    stream.flush()
    raw = io.BufferedWriter(kind(number, "w", closefd=False))
    return io.TextIOWrapper(raw, stream.encoding, stream.errors, line_buffering=number == 2)


def _without_output(error: OutputError) -> int:
    """Print why standard output cannot be written to; return the exit code."""
    # What is buffered would fail again when Python flushes it at the end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    why = error.__cause__
    if isinstance(why, OSError) and why.errno == errno.EPIPE:
        return NO_READER
    reason = why.strerror if isinstance(why, OSError) else why
    print(f"standard output cannot be written to: {reason}", file=sys.stderr)
    return FAILED
