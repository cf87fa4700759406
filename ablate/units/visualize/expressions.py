"""Objectives from text, as commands are given them.

>>> parse("conv_in#12 - 0.5 * neuron('conv_in', 3)").paths
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
from ablate.units.visualize.objectives import WORDS, Objective, ObjectiveError, channel, text

LONGEST = 200  # letters of an expression in a message
MOST = 200  # operations in an expression; many more could not be computed, one inside another
PATH = r"(?<![\w.])[^\W\d]\w*(?:\.\w+)*"
SHORTHAND = re.compile(rf"({PATH})#(\d+)")
HASH = re.compile(
    rf"""(?P<quote>\'{{3}}|"{{3}}|['"])(?:\\.|(?!(?P=quote)).)*(?P=quote)"""  # words as typed
    rf"|(?P<unit>{SHORTHAND.pattern})|(?P<path>{PATH})?(?P<blank>(?<!\s)\s+)?\#(?P<rest>-?\w*)",
    re.DOTALL,
)
ARGUMENTS = {"deepdream": "", "diversity": "", "direction": ", [0.5, -1.0]"}
WRITTEN = {word: f"`{word}('PATH'{ARGUMENTS.get(word, ', 3')})`" for word in WORDS}
WRITTEN["text"] = "`text('a cat')`"


def parse(expression: str, read: Callable[[Sequence[str]], np.ndarray] | None = None) -> Objective:
    """An objective from text: sums, differences and products with numbers of the words of this
    vocabulary, called with paths and numbers; `PATH#12` is `channel('PATH', 12)`.

    `read`: what `text('a cat')` reads words with. Raises `ObjectiveError`; nothing is executed.
    """
    if not expression.strip():
        raise ObjectiveError(
            "an objective is needed, such as `visual_projection#3`; this one is empty"
        )
    typed = expression.strip()
    plain = HASH.sub(partial(_unmarked, _short(typed)), typed)
    try:
        tree = ast.parse(plain, mode="eval").body
        if sum(map(_operates, ast.walk(tree))) > MOST:
            raise RecursionError
        found = _Parser(typed, read).value(tree)
    except ObjectiveError:
        raise
    except (RecursionError, MemoryError) as error:
        raise ObjectiveError(
            f"`{_short(typed)}` is too long: an objective has at most {MOST} of + - * /"
        ) from error
    except (SyntaxError, ValueError, OverflowError) as error:
        raise ObjectiveError(
            f"`{_short(typed)}` is no objective; write `PATH#3 - 0.5 * PATH#7`, or calls"
            " such as `neuron('PATH', 3)`"
        ) from error
    if not isinstance(found, Objective):
        raise ObjectiveError(f"`{_short(typed)}` is a number, where an objective is needed")
    return found


def _short(typed: str) -> str:
    return typed if len(typed) <= LONGEST else f"{typed[:LONGEST]}…"


def _unmarked(whole: str, found: re.Match[str]) -> str:
    """What a part of an expression is for Python, as many bytes long, so that places in both are
    the same: a unit is a name. Raises `ObjectiveError` for a # that is no unit's, after which
    Python would read a comment."""
    if found["quote"]:
        return found[0]
    if found["unit"]:
        return "_" * len(found[0].encode())
    path, rest = found["path"], found["rest"]
    if path is None:
        said = f"what stands before `#{rest}` is no module path; write `PATH#3`"
    elif rest.startswith("-"):
        said = f"units are numbered from 0, and `{path}` has none numbered {rest}"
    elif rest.isdecimal():
        said = f"write `{path}#{rest}`, without the blank"
    else:
        said = f"`{path}#` is to be followed by a unit's number, as in `{path}#3`"
    raise ObjectiveError(f"`{whole}`: {said}")


def _operates(node: ast.AST) -> bool:
    """Whether it is an operation, and no number that is below 0."""
    sign = isinstance(node, ast.UnaryOp) and not isinstance(node.operand, ast.Constant)
    return sign or isinstance(node, ast.BinOp)


@dataclass(frozen=True)
class _Parser:
    """What the parts of one expression stand for. `typed`: all of it, as it was."""

    typed: str
    read: Callable[[Sequence[str]], np.ndarray] | None

    def part(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.typed, node) or ""

    def value(self, node: ast.AST) -> Objective | float:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return float(number)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=inner):
                found = self.value(inner)
                return -found if isinstance(sign, ast.USub) else found
            case ast.BinOp(left=left, op=op, right=right):
                return self.combined(self.value(left), op, self.value(right), node)
            case ast.Call(func=ast.Name(id=word)):
                return self.called(word, node)
            case ast.Name() | ast.Attribute():
                told = self.part(node)
                if unit := SHORTHAND.fullmatch(told):
                    return channel(unit[1], int(unit[2]))
                if told in WRITTEN:
                    raise ObjectiveError(f"`{told}` alone is no objective; write {WRITTEN[told]}")
                if re.fullmatch(PATH, told):
                    raise ObjectiveError(
                        f"`{told}` alone is no objective; write `{told}#3` for unit 3"
                    )
        raise self.refused(node)

    def combined(
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
                said = "two objectives cannot be multiplied with each other"
            case ast.Div():
                by = "an objective" if isinstance(right, Objective) else "0"
                said = f"nothing can be divided by {by}"
            case _:
                raise self.refused(node)
        raise ObjectiveError(f"`{_short(self.part(node))}`: {said}")

    def called(self, word: str, node: ast.Call) -> Objective:
        if word == "text":
            return self.texts(node)
        if word not in WORDS:
            raise ObjectiveError(
                f"`{_short(self.typed)}`: there is no `{word}`{did_you_mean(word, WRITTEN)};"
                f" there are {', '.join(WRITTEN)}"
            )
        try:
            given = [ast.literal_eval(argument) for argument in node.args]
            named = {k.arg: ast.literal_eval(k.value) for k in node.keywords if k.arg}
            if len(named) < len(node.keywords):  # `**`, or one of them twice
                raise ValueError
            _fitting(inspect.signature(WORDS[word]).bind(*given, **named).arguments)
            return WORDS[word](*given, **named)
        except ObjectiveError:
            raise
        except (TypeError, ValueError) as error:
            raise ObjectiveError(
                f"`{_short(self.part(node))}` is not how `{word}` is called; write {WRITTEN[word]}"
            ) from error

    def texts(self, node: ast.Call) -> Objective:
        if self.read is None:
            raise ObjectiveError(
                f"`{_short(self.typed)}`: `text` needs a CLIP model that reads images"
            )
        match node.args:
            case [ast.Constant(value=str(words))] if not node.keywords:
                return text(words, self.read)
        raise ObjectiveError(f"`{_short(self.part(node))}`: write {WRITTEN['text']}")

    def refused(self, node: ast.AST) -> ObjectiveError:
        return ObjectiveError(
            f"`{_short(self.part(node))}` cannot stand in an objective: it is made of"
            f" `PATH#3`, numbers, + - * /, and {', '.join(WRITTEN)}"
        )


def _fitting(given: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a word is called with a path, number or place that is none."""
    if not isinstance(given["path"], str) or type(given.get("n", 0)) is not int:
        raise ValueError
    if not all(given.get(name) is None or type(given[name]) is int for name in "yx"):
        raise ValueError
