"""Objectives from text, as commands take them.

>>> parse_objective("conv_in#12 - 0.5 * neuron('conv_in', 3)").paths
('conv_in',)
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ablate.messages import did_you_mean
from ablate.units.visualize.objectives import (
    FUNCTIONS,
    Objective,
    ObjectiveError,
    channel,
    text,
)

MAX_QUOTED = 200  # letters of an expression in a message
MAX_OPERATIONS = 200  # in an expression; many more would nest too deeply to evaluate
PATH = r"(?<![\w.])[^\W\d]\w*(?:\.\w+)*"
SHORTHAND = re.compile(rf"({PATH})#(\d+)")
HASH = re.compile(
    rf"""(?P<quote>\'{{3}}|"{{3}}|['"])(?:\\.|(?!(?P=quote)).)*(?P=quote)"""  # quoted text
    rf"|(?P<unit>{SHORTHAND.pattern})|(?P<path>{PATH})?(?P<blank>(?<!\s)\s+)?\#(?P<rest>-?\w*)",
    re.DOTALL,
)
ARGUMENTS = {"deepdream": "", "diversity": "", "direction": ", [0.5, -1.0]"}
EXAMPLES = {name: f"`{name}('PATH'{ARGUMENTS.get(name, ', 3')})`" for name in FUNCTIONS}
EXAMPLES["text"] = "`text('a cat')`"


def parse_objective(
    expression: str, embed: Callable[[Sequence[str]], np.ndarray] | None = None
) -> Objective:
    """Parse an objective: sums, differences and multiples of `FUNCTIONS`, called with module paths.

    `PATH#12` is `channel('PATH', 12)`. Nothing is executed.

    Args:
        expression: The text.
        embed: Embeds the words of `text('a cat')`; without it `text` is refused.

    Raises:
        ObjectiveError: The text is not an objective.
    """
    if not expression.strip():
        raise ObjectiveError(
            "an objective is needed, such as `visual_projection#3`; this one is empty"
        )
    typed = expression.strip()
    plain = HASH.sub(partial(_as_python, _quoted(typed)), typed)
    try:
        tree = ast.parse(plain, mode="eval").body
        if sum(map(_is_operation, ast.walk(tree))) > MAX_OPERATIONS:
            raise RecursionError
        parsed = _Parser(typed, embed).value(tree)
    except ObjectiveError:
        raise
    except (RecursionError, MemoryError) as error:
        raise ObjectiveError(
            f"`{_quoted(typed)}` is too long: an objective has at most {MAX_OPERATIONS} of + - * /"
        ) from error
    except (SyntaxError, ValueError, OverflowError) as error:
        raise ObjectiveError(
            f"`{_quoted(typed)}` is no objective; write `PATH#3 - 0.5 * PATH#7`, or calls"
            " such as `neuron('PATH', 3)`"
        ) from error
    if not isinstance(parsed, Objective):
        raise ObjectiveError(f"`{_quoted(typed)}` is a number, where an objective is needed")
    return parsed


def _quoted(typed: str) -> str:
    return typed if len(typed) <= MAX_QUOTED else f"{typed[:MAX_QUOTED]}…"


def _as_python(expression: str, match: re.Match[str]) -> str:
    """Replace a unit by a Python name of as many bytes, so that places in the text stay the same.

    Raises `ObjectiveError` for a # that belongs to no unit: Python would read a comment.
    """
    if match["quote"]:
        return match[0]
    if match["unit"]:
        return "_" * len(match[0].encode())
    path, rest = match["path"], match["rest"]
    if path is None:
        problem = f"there is no module path before `#{rest}`; write `PATH#3`"
    elif rest.startswith("-"):
        problem = f"units are numbered from 0, and `{path}` has none numbered {rest}"
    elif rest.isdecimal():
        problem = f"write `{path}#{rest}`, without the blank"
    else:
        problem = f"`{path}#` is to be followed by a unit's number, as in `{path}#3`"
    raise ObjectiveError(f"`{expression}`: {problem}")


def _is_operation(node: ast.AST) -> bool:
    """Whether a node is an operation; a negative number is none."""
    sign = isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant)
    return sign or isinstance(node, ast.BinOp)


@dataclass(frozen=True)
class _Parser:
    """Evaluates the syntax tree of one expression.

    Attributes:
        typed: The expression as typed, for messages.
        embed: Embeds words.
    """

    typed: str
    embed: Callable[[Sequence[str]], np.ndarray] | None

    def source(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.typed, node) or ""

    def value(self, node: ast.AST) -> Objective | float:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return float(number)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
                value = self.value(inner)
                return -value if isinstance(sign, ast.USub) else value
            case ast.BinOp(left=left, op=op, right=right):
                return self.combine(self.value(left), op, self.value(right), node)
            case ast.Call(func=ast.Name(id=name)):
                return self.call(name, node)
            case ast.Name() | ast.Attribute():
                name = self.source(node)
                if unit := SHORTHAND.fullmatch(name):
                    return channel(unit[1], int(unit[2]))
                if name in EXAMPLES:
                    raise ObjectiveError(f"`{name}` alone is no objective; write {EXAMPLES[name]}")
                if re.fullmatch(PATH, name):
                    raise ObjectiveError(
                        f"`{name}` alone is no objective; write `{name}#3` for unit 3"
                    )
        raise self.refused(node)

    def combine(
        self, left: Objective | float, op: ast.operator, right: Objective | float, node: ast.AST
    ) -> Objective | float:
        match op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult() if not isinstance(left, Objective):
                return left * right
            case ast.Mult() if not isinstance(right, Objective):
                return left * right
            case ast.Div() if not isinstance(right, Objective) and right != 0:
                return left / right
            case ast.Mult():
                problem = "two objectives cannot be multiplied with each other"
            case ast.Div():
                by = "an objective" if isinstance(right, Objective) else "0"
                problem = f"nothing can be divided by {by}"
            case _:
                raise self.refused(node)
        raise ObjectiveError(f"`{_quoted(self.source(node))}`: {problem}")

    def call(self, name: str, node: ast.Call) -> Objective:
        if name == "text":
            return self.text(node)
        if name not in FUNCTIONS:
            raise ObjectiveError(
                f"`{_quoted(self.typed)}`: there is no `{name}`{did_you_mean(name, EXAMPLES)};"
                f" there are {', '.join(EXAMPLES)}"
            )
        function = FUNCTIONS[name]
        try:
            args = [ast.literal_eval(argument) for argument in node.args]
            kwargs = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
            if len(kwargs) < len(node.keywords):  # `**`, or one of them twice
                raise ValueError
            _check_types(inspect.signature(function).bind(*args, **kwargs).arguments)
            return function(*args, **kwargs)
        except ObjectiveError:
            raise
        except (TypeError, ValueError) as error:
            raise ObjectiveError(
                f"`{_quoted(self.source(node))}` is not how `{name}` is called; write"
                f" {EXAMPLES[name]}"
            ) from error

    def text(self, node: ast.Call) -> Objective:
        if self.embed is None:
            raise ObjectiveError(
                f"`{_quoted(self.typed)}`: `text` needs a CLIP model that reads images"
            )
        match node.args:
            case [ast.Constant(value=str(words))] if not node.keywords:
                return text(words, self.embed)
        raise ObjectiveError(f"`{_quoted(self.source(node))}`: write {EXAMPLES['text']}")

    def refused(self, node: ast.AST) -> ObjectiveError:
        return ObjectiveError(
            f"`{_quoted(self.source(node))}` cannot be part of an objective, which has"
            f" `PATH#3`, numbers, + - * /, and {', '.join(EXAMPLES)}"
        )


def _check_types(arguments: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a path, number or position of the wrong type."""
    if not isinstance(arguments["path"], str) or type(arguments.get("n", 0)) is not int:
        raise ValueError
    if not all(arguments.get(name) is None or type(arguments[name]) is int for name in "yx"):
        raise ValueError
