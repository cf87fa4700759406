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
from typing import Any

import numpy as np

from ablate.catalog import did_you_mean
from ablate.units.objectives import WORDS, Objective, ObjectiveError, text

LONGEST = 200  # letters of an expression in a message
SHORTHAND = re.compile(r"""('[^']*'|"[^"]*")|([A-Za-z_]\w*(?:\.\w+)*)#(\d+)""")


def parse(expression: str, read: Callable[[Sequence[str]], np.ndarray] | None = None) -> Objective:
    """An objective from text: sums, differences and products with numbers of the words of this
    vocabulary, called with paths and numbers; `PATH#12` is `channel('PATH', 12)`.

    `read`: what `text('a cat')` reads words with. Raises `ObjectiveError`; nothing is executed.
    """
    if not expression.strip():
        raise ObjectiveError(
            "an objective is needed, such as `visual_projection#3`; this one is empty"
        )
    plain = SHORTHAND.sub(
        lambda m: m[1] if m[1] else f"channel({m[2]!r}, {m[3].lstrip('0') or 0})",
        expression.strip(),
    )
    try:
        found = _Parser(expression[:LONGEST], read).value(ast.parse(plain, mode="eval").body)
    except ObjectiveError:
        raise
    except (SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise ObjectiveError(
            f"`{expression[:LONGEST]}` is no objective; write `PATH#3 - 0.5 * PATH#7`, or calls"
            " such as `neuron('PATH', 3)`"
        ) from error
    if not isinstance(found, Objective):
        raise ObjectiveError(f"`{expression[:LONGEST]}` is a number, where an objective is needed")
    return found


@dataclass(frozen=True)
class _Parser:
    """What the parts of one expression stand for."""

    whole: str
    read: Callable[[Sequence[str]], np.ndarray] | None

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
                told = ast.unparse(node)
                raise ObjectiveError(f"`{told}` alone is no objective; write `{told}#3` for unit 3")
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
        raise self.refused(node)

    def called(self, word: str, node: ast.Call) -> Objective:
        if word == "text":
            return self.texts(node)
        if word not in WORDS:
            raise ObjectiveError(
                f"`{self.whole}`: there is no `{word}`{did_you_mean(word, [*WORDS, 'text'])};"
                f" there are {', '.join([*WORDS, 'text'])}"
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
            example = {"deepdream": "", "diversity": "", "direction": ", [0.5, -1.0]"}
            raise ObjectiveError(
                f"`{ast.unparse(node)[:LONGEST]}` is not how `{word}` is called; write"
                f" `{word}('PATH'{example.get(word, ', 3')})`"
            ) from error

    def texts(self, node: ast.Call) -> Objective:
        if self.read is None:
            raise ObjectiveError(f"`{self.whole}`: `text` needs a CLIP model that reads images")
        match node.args:
            case [ast.Constant(value=str(words))] if not node.keywords:
                return text(words, self.read)
        raise ObjectiveError(f"`{ast.unparse(node)}`: write `text('a cat')`")

    def refused(self, node: ast.AST) -> ObjectiveError:
        return ObjectiveError(
            f"`{self.whole}`: `{ast.unparse(node)}` cannot stand in an objective: it is made of"
            f" `PATH#3`, numbers, + - * /, and {', '.join([*WORDS, 'text'])}"
        )


def _fitting(given: Mapping[str, Any]) -> None:
    """Raise `ValueError` where a word is called with a path, number or place that is none."""
    if not isinstance(given["path"], str) or type(given.get("n", 0)) is not int:
        raise ValueError
    if not all(given.get(name) is None or type(given[name]) is int for name in "yx"):
        raise ValueError
