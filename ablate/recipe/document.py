"""A YAML document with its lines, and checks that collect mistakes instead of stopping at one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ablate.messages import RequestError, did_you_mean

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One mistake: what is wrong and what would be right, and where."""

    message: str
    key: str = ""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(p for p in (place, self.key, self.message) if p)


def in_order(problems: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems in the order of the file, each once."""
    return tuple(dict.fromkeys(sorted(problems, key=lambda p: p.line or 0)))


class DocumentError(RequestError, ValueError):
    """A document that is wrong; `problems` are all of its mistakes, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = in_order(problems)
        super().__init__("\n".join(map(str, self.problems)))


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number, as people mean it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class Document:
    """Reads a document; `problems` fills with mistakes, `lines` tells where each key stands."""

    def __init__(self, file: str | None) -> None:
        self.file = file
        self.problems: list[Problem] = []
        self.lines: dict[KeyPath, int] = {}
        self.overridden: list[KeyPath] = []

    # ------------------------------------------------------------ text to plain objects

    def load(self, text: str) -> Any:
        """Plain objects; None, and a problem, when the text is not YAML."""
        try:
            loader = _Loader(text)
            node = loader.get_single_node()
            return {} if node is None else self._plain(loader, node, ())
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            what = f"the character #x{error.character:04x} may not stand in it"
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            what = error.problem or str(error)
        except RecursionError:
            line, what = 1, "an alias stands within what it stands for"
        self.problems.append(Problem(f"not valid YAML: {what}", "", self.file, line))
        return None

    def _plain(self, loader: _Loader, node: yaml.Node, path: KeyPath) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            found: dict[str, Any] = {}
            for key_node, value_node in node.value:
                # As written: `on` is no truth value and 1 no number when they name something.
                key = str(key_node.value if isinstance(key_node, yaml.ScalarNode) else "[...]")
                line = key_node.start_mark.line + 1
                if key in found:
                    first = self.lines[(*path, key)]
                    problem = Problem(
                        f"stands twice; it is on line {first} already",
                        written((*path, key)), self.file, line,
                    )  # fmt: skip
                    self.problems.append(problem)
                    continue
                self.lines[(*path, key)] = line
                found[key] = self._plain(loader, value_node, (*path, key))
            return found
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(loader, n, (*path, i)) for i, n in enumerate(node.value)]
        return loader.construct_object(node, deep=True)

    def override(self, data: Any, key: str, value: Any) -> None:
        """Put a value in the place that a dotted key names; numbers count from 0 in lists."""
        if data is None:
            return
        *parents, last = re.sub(r"\[(\d+)\]", r".\1", key).split(".")
        path: KeyPath = ()
        place = data
        for part in parents:
            step: str | int = int(part) if isinstance(place, list) and part.isdigit() else part
            path = (*path, step)
            if isinstance(place, dict):
                place = place.setdefault(part, {})
            elif isinstance(place, list) and isinstance(step, int) and step < len(place):
                place = place[step]
            else:
                place = None
        if isinstance(place, list) and last.isdigit() and int(last) < len(place):
            path, place[int(last)] = (*path, int(last)), value
        elif isinstance(place, dict):
            path, place[last] = (*path, last), value
        else:
            self.problems.append(Problem("there is no such place in the recipe", f"--set {key}"))
            return
        self.overridden.append(path)

    # ------------------------------------------------------------ reporting

    def at(self, path: KeyPath, message: str = "") -> Problem:
        """A problem with the place where a key, or the nearest above it, stands."""
        if any(path[: len(o)] == o for o in self.overridden):
            return Problem(message, f"--set {written(path)}")
        line = next((self.lines[path[:n]] for n in range(len(path), -1, -1)
                     if path[:n] in self.lines), None)  # fmt: skip
        return Problem(message, written(path), self.file, line)

    def wrong(self, path: KeyPath, message: str) -> None:
        """Note a mistake."""
        self.problems.append(self.at(path, message))

    # ------------------------------------------------------------ types

    def mapping(self, value: Any, path: KeyPath, known: Sequence[str]) -> dict[str, Any]:
        """A mapping of none but known keys; an empty one, and a problem, when it is none."""
        if not isinstance(value, dict):
            self.wrong(path, f"must be a mapping with {', '.join(known)}, not {kind_of(value)}")
            return {}
        for key in value:
            if key not in known:
                hint = did_you_mean(key, known) or f"; known here: {', '.join(known)}"
                self.wrong((*path, key), f"unknown key{hint}")
        return value

    def text(self, value: Any, path: KeyPath) -> str:
        if isinstance(value, str):
            return value
        self.wrong(path, f"must be text, not {kind_of(value)}" + _quote_hint(value))
        return ""

    def integer(self, value: Any, path: KeyPath, least: int = 0) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return value
        self.wrong(path, f"must be a whole number of at least {least}, not {kind_of(value)}")
        return least

    def truth(self, value: Any, path: KeyPath) -> bool:
        if not isinstance(value, bool):
            self.wrong(path, f"must be true or false, not {kind_of(value)}")
        return value is True

    def number(self, value: Any, path: KeyPath) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                return value
            self.wrong(path, f"must be a finite number, not {kind_of(value)}")
        else:
            self.wrong(path, f"must be a number, not {kind_of(value)}")
        return 0.0

    def choice(self, value: Any, path: KeyPath, known: Sequence[str]) -> str:
        if value in known:
            return str(value)
        hint = did_you_mean(value, known) if isinstance(value, str) else ""
        which = f"one of {', '.join(known)}" if len(known) > 1 else f"`{known[0]}`"
        self.wrong(path, f"must be {which}, not {kind_of(value)}{hint}")
        return known[0]

    def items(self, value: Any, path: KeyPath, what: str) -> list[Any]:
        if isinstance(value, list) and value:
            return value
        self.wrong(path, f"must be a list of {what}, not {kind_of(value)}")
        return []


def written(path: KeyPath) -> str:
    """`edits[0].scale.factor`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def kind_of(value: Any) -> str:
    """What a value is, for the end of "must be ..., not"."""
    match value:
        case None:
            return "nothing"
        case "":
            return "empty text"
        case []:
            return "an empty list"
        case bool():
            return f"`{str(value).lower()}`"
        case str() | int() | float():
            return f"`{value}`"
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return f"`{value}`"


def _quote_hint(value: Any) -> str:
    return "" if isinstance(value, list | dict) else "; put it in quotes to make it text"
