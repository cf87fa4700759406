"""Errors of models, and the wording of what other libraries raise."""

from __future__ import annotations

from ablate.messages import RequestError, shown

LONGEST = 300  # characters of another library's message


class ModelError(RequestError):
    """A model that does not exist or cannot be read or used; the message says why."""


class SizeError(ModelError):
    """A size of pictures at which sampling a model fails."""


def cause(error: BaseException) -> str:
    """The first line of an error of another library, shortened and printable; else its class."""
    lines = (line.strip() for line in str(error).splitlines())
    return shown(next(filter(None, lines), type(error).__name__), LONGEST)
