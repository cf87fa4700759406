"""A YAML document as plain data, with the line of every key."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from ablate.messages import LONGEST, RequestError, counted, shown
from ablate.recipe.effective import dump, rewrite

KeyPath = tuple[str | int, ...]

# Far above any recipe; what exceeds them is a mistake, or meant to exhaust memory.
TEXT = 500_000  # characters
NODES = 50_000  # values, those that an alias repeats counted every time
DEPTH = 50  # lists and mappings inside each other
SCALAR = 10_000  # characters of one text
KEY = 200  # characters of a key
DIGITS = 40  # characters of a number
MAX_CELLS = 50_000  # cells of a plan, some seconds of planning, unless the user allows more
TAGS = {f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "timestamp")}
TEXTS = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "merge", "value")}
COLLECTIONS = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq")}


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Attributes:
        message: What is wrong, and what would be right.
        key: The key that is wrong, as `edits[0].scale.factor`; empty for the document.
        file: The file that contains it; None where the data come from Python or `--set`.
        line: The line in this file, from 1.
    """

    message: str
    key: str = ""
    file: str | None = None
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(p for p in (place, self.key, self.message) if p)


class RecipeError(RequestError, ValueError):
    """A recipe that is wrong. `problems`: all mistakes in the order of the file, each once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(dict.fromkeys(sorted(problems, key=lambda p: p.line or 0)))
        super().__init__("\n".join(map(str, self.problems)))

    def report(self) -> str:
        lines, room = [], LONGEST - 100
        for problem in map(str, self.problems):
            line = shown(problem, LONGEST // 2)
            room -= len(line) + 1
            if room < 0:
                break
            lines.append(line)
        left = len(self.problems) - len(lines)
        lines += [f"and {counted(left, 'more problem')}"] if left else []
        return "\n".join([*lines, counted(len(self.problems), "problem")])


class Document:
    """Plain data and where each part of them is written.

    Attributes:
        data: Mappings with text keys, lists and scalars; None where the text is not valid YAML.
        text: The text that they are read from.
        file: The name of the file; None for data from Python.
        problems: What is wrong with the text as YAML.
        value: The same data; None where the text is empty.
    """

    def __init__(self, data: Any, text: str = "", file: str | None = None) -> None:
        self.data = data
        self.text = text
        self.file = file
        self.problems: list[Problem] = []
        self.value = data
        self._root: yaml.Node | None = None
        self._overridden: list[KeyPath] = []

    @classmethod
    def parse(cls, text: str, file: str | None = None) -> Document:
        """Read YAML. An empty text is an empty mapping; `problems` has what is wrong."""
        document = cls(None, text, file)
        try:
            document._read()
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            message = f"not valid YAML: the character #x{error.character:04x} is not allowed"
            document.problems.append(Problem(message, "", file, line))
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            what = error.problem or str(error)
            valid = isinstance(error, _TooLargeError)
            message = f"contains {what}" if valid else f"not valid YAML: {what}"
            document.problems.append(Problem(message, "", file, line))
        return document

    def override(self, key: str, value: Any) -> None:
        """Replace the value at a dotted key, such as `sampling.width` or `prompts.1`."""
        if self.data is None:
            return
        path = _steps(self.data, re.sub(r"\[(\d+)\]", r".\1", key).split("."))
        if path is None:
            where = f"--set {shown(key)}"
            self.problems.append(Problem("there is no such place in the recipe", where))
            return
        self._overridden.append(_new_part(self.data, path))
        self.data = replaced(self.data, path, value)

    def written(self, changes: Mapping[str, Any]) -> str:
        """The text that says what the data are, with other values of some top-level keys."""
        data = self.data | changes
        keys = {str(path[0]) for path in self._overridden} | set(changes)
        if not keys:
            return self.text
        starts = {}
        if isinstance(self._root, yaml.MappingNode) and not self._root.flow_style:
            starts = {_key(key): key.start_mark.line for key, _ in self._root.value}
        text = rewrite(self.text, data, starts, keys) if starts else ""
        # An anchor may have been among what is replaced, or a comment inside of a text.
        return text if Document.parse(text).data == data else dump(data)

    def problem(self, path: KeyPath, message: str) -> Problem:
        """A problem at a key, with the line of it or of the nearest key above it."""
        if any(path[: len(o)] == o for o in self._overridden):
            return Problem(message, f"--set {written(path)}")
        return Problem(message, written(path), self.file, self._line(path))

    # ------------------------------------------------------------ reading

    def _read(self) -> None:
        if len(self.text) > TEXT:
            message = f"has {len(self.text):,} characters; a recipe has at most {TEXT:,}"
            self.problems.append(Problem(message, "", self.file))
            return
        loader = _Loader(self.text)
        try:
            self._root = _composed(loader)
            known: dict[int, Any] = {}
            data = None if self._root is None else self._plain(loader, self._root, (), known)
        finally:
            loader.dispose()
        self.value = data
        self.data = {} if data is None else data

    def _plain(self, loader: _Loader, node: yaml.Node, path: KeyPath, known: dict[int, Any]) -> Any:
        """The data of a node. `known`: those of nodes that are read already, for aliases."""
        if id(node) in known:
            return known[id(node)]
        data: Any
        if not isinstance(node, yaml.ScalarNode) and node.tag not in COLLECTIONS:
            raise _wrong(node, f"the tag {shown(node.tag)!r} is not part of a recipe")
        if isinstance(node, yaml.MappingNode):
            data = {}
            for key_node, value_node in node.value:
                key = _key(key_node)
                line = key_node.start_mark.line + 1
                if len(key) > KEY:
                    raise _large(key_node, f"a key of {len(key):,} characters; {KEY} is the most")
                if key in data:
                    first = _entry(node, key)[0].start_mark.line + 1
                    message = f"is given twice; it is on line {first} already"
                    place = written((*path, key))
                    self.problems.append(Problem(message, place, self.file, line))
                else:
                    data[key] = self._plain(loader, value_node, (*path, key), known)
        elif isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            data = [self._plain(loader, item, (*path, i), known) for i, item in items]
        else:
            data = _scalar(loader, node)
        known[id(node)] = data
        return data

    def _line(self, path: KeyPath) -> int | None:
        node = self._root
        line = node.start_mark.line + 1 if node else None
        for part in path:
            if isinstance(node, yaml.MappingNode):
                key_node, node = _entry(node, part)
                if key_node is None:
                    break
                line = key_node.start_mark.line + 1
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    break
                node = node.value[part]
                line = node.start_mark.line + 1
        return line


def parse_value(text: str) -> Any:
    """A value that is written as YAML, within the bounds of recipes. Raises `RecipeError`."""
    document = Document.parse(text)
    if document.problems:
        raise RecipeError(document.problems)
    return document.value


class _TooLargeError(yaml.MarkedYAMLError):
    """A document that exceeds a bound."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which `1e-3` is a number, and whose size is bounded as it is read."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._deepest = self._count = 0
        # Of every node: how many values it has, and how deep they are inside each other.
        self._sizes: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        count, deepest = self._count, self._deepest
        self._depth += 1
        self._deepest = self._depth
        self._count += 1
        self._check(event)
        node = super().compose_node(parent, index)
        if isinstance(event, yaml.AliasEvent):
            # Counted as often as it is repeated, without being repeated.
            if id(node) not in self._sizes:
                problem = "an alias is inside the value that it repeats"
                raise yaml.MarkedYAMLError(None, None, problem, event.start_mark)  # type: ignore[arg-type]
            values, depth = self._sizes[id(node)]
            self._count += values - 1
            self._deepest += depth - 1
            self._check(event)
        else:
            self._sizes[id(node)] = self._count - count, self._deepest - self._depth + 1
        self._depth -= 1
        self._deepest = max(deepest, self._deepest)
        return node

    def _check(self, event: yaml.Event) -> None:
        problem = None
        if self._deepest > DEPTH:
            problem = f"lists and mappings more than {DEPTH} deep inside each other"
        elif self._count > NODES:
            problem = f"more than {NODES:,} values, counting those that aliases repeat"
        if problem is not None:
            raise _TooLargeError(None, None, problem, event.start_mark)  # type: ignore[arg-type]


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _composed(loader: _Loader) -> yaml.Node | None:
    """The document as nodes."""
    try:
        return loader.get_single_node()
    except (ValueError, OverflowError) as error:  # of an escape such as "\\U00110000"
        problem = "an escape names no character"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=loader.get_mark()) from error


def _key(node: yaml.Node) -> str:
    """A key as it is written: `on` is not a truth value, and `1` not a number."""
    return _text(node) if isinstance(node, yaml.ScalarNode) else "[...]"


def _entry(node: yaml.MappingNode, key: object) -> tuple[Any, Any]:
    """The nodes of the first such key of a mapping and of its value; (None, None) without."""
    return next((pair for pair in node.value if _key(pair[0]) == key), (None, None))


def _scalar(loader: _Loader, node: yaml.Node) -> Any:
    size = len(node.value)
    if size > SCALAR:
        raise _large(node, f"a text of {size:,} characters; {SCALAR:,} is the most")
    if node.tag in TEXTS:
        return _text(node)
    if node.tag in TAGS and size > DIGITS:
        raise _large(node, f"a number of {size:,} characters; {DIGITS} is the most")
    try:
        return loader.construct_object(node, deep=True)
    except yaml.MarkedYAMLError:
        raise
    except ValueError as error:  # a date that no calendar has
        raise _wrong(node, shown(str(error).partition(";")[0])) from error
    except Exception as error:  # constructors of yaml raise anything for a wrong explicit tag
        kind = node.tag.rpartition(":")[2]
        raise _wrong(node, f"{shown(node.value)!r} is no {kind}") from error


def _text(node: yaml.Node) -> str:
    """The text of a node; surrogates that JSON writes in pairs become one character."""
    text = str(node.value)
    if text.isascii():
        return text
    try:
        return text.encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise _wrong(node, "a text contains half of a surrogate pair") from None


def _wrong(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


def _large(node: yaml.Node, problem: str) -> yaml.MarkedYAMLError:
    return _TooLargeError(problem=problem, problem_mark=node.start_mark)


# ---------------------------------------------------------------- places in plain data


def _steps(data: Any, parts: Sequence[str]) -> KeyPath | None:
    """The path that the parts of a dotted key name; None where there is no such place."""
    if len(parts) > DEPTH or not all(0 < len(part) <= KEY for part in parts):
        return None
    path: KeyPath = ()
    for part in parts:
        if isinstance(data, list) and part.isdecimal() and int(part) < len(data):
            path, data = (*path, int(part)), data[int(part)]
        elif isinstance(data, dict):
            path, data = (*path, part), data.get(part, {})
        else:
            return None
    return path


def _new_part(data: Any, path: KeyPath) -> KeyPath:
    """A path, up to the first part that the data lack."""
    for i, part in enumerate(path):
        if isinstance(data, dict) and part not in data:
            return path[: i + 1]
        data = data[part]
    return path


def replaced(data: Any, path: KeyPath, value: Any) -> Any:
    """The data with another value at a path; the data given are left as they are."""
    if not path:
        return value
    part, *rest = path
    if isinstance(data, list) and isinstance(part, int):
        return [*data[:part], replaced(data[part], tuple(rest), value), *data[part + 1 :]]
    if isinstance(data, dict):
        return {**data, part: replaced(data.get(part, {}), tuple(rest), value)}
    return data


def without(data: Any, path: KeyPath) -> Any:
    """The data without the key of a mapping at a path."""
    *above, last = path
    if not above:
        return {k: v for k, v in data.items() if k != last} if isinstance(data, dict) else data
    inner = data
    for part in above:
        inner = inner[part] if isinstance(inner, Mapping | list) else {}  # type: ignore[index]
    return replaced(data, tuple(above), without(inner, (last,)))


def written(path: KeyPath) -> str:
    """A path as a key: `edits[0].scale.factor`."""
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
        case list():
            return "a list"
        case dict():
            return "a mapping"
    return f"`{shown(value)}`"
