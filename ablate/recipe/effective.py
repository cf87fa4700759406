"""The text of a recipe whose values were replaced: as it was written, but for these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml


def rewrite(text: str, data: Mapping[str, Any], starts: Mapping[str, int], keys: set[str]) -> str:
    """Replace top-level keys in a text, with the lines of their values; add those that are new.

    Comments stay, except on the lines that are replaced.

    Args:
        data: What the text is to say.
        starts: The line, from 0, on which each key of the text begins.
        keys: The keys whose values differ.
    """
    lines = text.splitlines(keepends=True)
    ends = dict(zip(starts, [*list(starts.values())[1:], len(lines)], strict=True))
    for key in reversed(list(starts)):
        if key in keys:
            first, end = starts[key], ends[key]
            while end > first + 1 and _is_apart(lines[end - 1]):
                end -= 1
            lines[first:end] = [dump({key: data[key]})] if key in data else []
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    return "".join(lines) + dump({k: v for k, v in data.items() if k in keys - starts.keys()})


def _is_apart(line: str) -> bool:
    """Whether a line belongs to what follows: it is blank or a comment."""
    return line.lstrip()[:1] in ("", "#")


def dump(data: Mapping[str, Any]) -> str:
    """A mapping as YAML: a key a line, inner lists of scalars on one line."""
    return "".join(_dumped({key: value}) for key, value in data.items())


def _dumped(entry: Mapping[str, Any]) -> str:
    (value,) = entry.values()
    flow = None if isinstance(value, dict | list) else False  # else the entry itself is in braces
    text = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, default_flow_style=flow)
    return str(text)
