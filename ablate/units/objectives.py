"""Objectives: what an input is optimized for, as sums of what units give.

>>> objective = channel("vision_model.encoder.layers.2.mlp.fc1", 12) - 0.5 * deepdream("conv_in")
>>> parse("conv_in#12 - 0.5 * conv_in#3").paths
('conv_in',)

An objective reads what modules gave, by path, as (rows, channels, *positions) in float32, and says
one number a row. A path that ends in `@heads` stands for the attention heads there: the root mean
square of what each gives, as channels. Objectives as closures with arithmetic are Lucid's.
"""

from __future__ import annotations

import ast
import hashlib
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.catalog import did_you_mean, heads_of
from ablate.scope import channel_dim, is_out_projection, tensors
from ablate.units.layers import grid_of

Outputs = Mapping[str, Tensor]
HEADS = "@heads"
VISION = "visual_projection"  # the last module of a CLIP model's image encoder
SMALL = 1e-8
LONGEST = 200  # letters of an expression in a message
PULL = 0.3  # of the gradient of a channel remains where it is silent


class ObjectiveError(ValueError):
    """An objective that is not well formed or that a network cannot have; the message says why."""


@dataclass(frozen=True)
class Objective:
    """What is to become large.

    `paths`: the modules it reads. `of(outputs, row)`: its values, shape (rows,); of an objective
    that has rows of its own, as `direction` of many vectors, `row` takes one of these. `text`: how
    it is written; two objectives with one text are the same.
    """

    text: str
    paths: tuple[str, ...]
    of: Callable[[Outputs, int | None], Tensor] = field(compare=False)
    rows: int | None = None

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.of(outputs, None)

    def __str__(self) -> str:
        return self.text

    def apart(self) -> list[Objective]:
        """The objectives of its own rows, itself where it has none."""
        if self.rows is None:
            return [self]
        return [
            Objective(f"{self.text}[{i}]", self.paths, lambda outputs, _, i=i: self.of(outputs, i))  # type: ignore[misc]
            for i in range(self.rows)
        ]

    def __add__(self, other: Objective | float) -> Objective:
        return _joined(self, other, "+")

    def __radd__(self, other: float) -> Objective:
        return self if other == 0 else self + other  # as in `sum`

    def __sub__(self, other: Objective | float) -> Objective:
        return _joined(self, other, "-")

    def __rsub__(self, other: float) -> Objective:
        return -self + other

    def __neg__(self) -> Objective:
        return -1 * self

    def __mul__(self, factor: float) -> Objective:
        if isinstance(factor, Objective) or not math.isfinite(factor):
            raise ObjectiveError(f"an objective is multiplied by a number, not by {factor}")
        inner = f"({self.text})" if re.search(r" [+-] ", self.text) else self.text
        return Objective(
            f"{factor:g} * {inner}",
            self.paths,
            lambda outputs, row: factor * self.of(outputs, row),
            self.rows,
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Objective:
        if isinstance(divisor, Objective) or divisor == 0:
            raise ObjectiveError(f"an objective is divided by a number other than 0, not {divisor}")
        return self * (1 / divisor)


def _joined(a: Objective, b: Objective | float, sign: str) -> Objective:
    """The sum or difference of an objective and another, or a number."""
    factor = 1 if sign == "+" else -1
    if not isinstance(b, Objective):
        text = f"{a.text} {sign} {b:g}"
        return Objective(text, a.paths, lambda out, row: a.of(out, row) + factor * b, a.rows)
    if a.rows and b.rows and a.rows != b.rows:
        raise ObjectiveError(
            f"`{a.text}` has {a.rows} rows and `{b.text}` {b.rows}: they cannot be added"
        )
    right = f"({b.text})" if sign == "-" and re.search(r" [+-] ", b.text) else b.text
    return Objective(
        f"{a.text} {sign} {right}",
        tuple(dict.fromkeys([*a.paths, *b.paths])),
        lambda out, row: a.of(out, row) + factor * b.of(out, row),
        a.rows or b.rows,
    )


# ---------------------------------------------------------------- the vocabulary


def channel(path: str, n: int) -> Objective:
    """How active a channel is: the mean of max(a, 0) over all positions, as activations are
    everywhere in `units`.

    Where it is silent its gradient is not nought but a share of what it would be: it can be woken.
    """

    def of(outputs: Outputs, _: int | None) -> Tensor:
        values = _unit(outputs, path, n)
        values = values.reshape(len(values), -1)
        pulled = F.leaky_relu(values, PULL)
        return (pulled + (values.relu() - pulled).detach()).mean(1)

    return Objective(f"{path}#{n}", (path,), of)


def signed(path: str, n: int) -> Objective:
    """A channel's mean over all positions, what is below 0 too."""

    def of(outputs: Outputs, _: int | None) -> Tensor:
        values = _unit(outputs, path, n)
        return values.reshape(len(values), -1).mean(1)

    return Objective(f"signed('{path}', {n})", (path,), of)


def neuron(path: str, n: int, y: int | None = None, x: int | None = None) -> Objective:
    """A channel at one position, the middle unless told: row `y` and column `x` of a map, or token
    number `y`. Tokens that are patches of a square image, a class token before them or not, have
    rows and columns too."""

    def of(outputs: Outputs, _: int | None) -> Tensor:
        values = _unit(outputs, path, n)
        return values.reshape(len(values), -1)[:, _place(path, values.shape[1:], y, x)]

    where = "".join(f", {v}" for v in (y, x) if v is not None)
    return Objective(f"neuron('{path}', {n}{where})", (path,), of)


def head(path: str, n: int) -> Objective:
    """An attention head: the root mean square of what it gives at a position, in the mean over
    positions. `path`: the attention layer's projection of queries, keys or values, or its last,
    whose inputs are what the heads give."""

    def of(outputs: Outputs, _: int | None) -> Tensor:
        values = _unit(outputs, path + HEADS, n)
        return values.reshape(len(values), -1).mean(1)

    return Objective(f"head('{path}', {n})", (path + HEADS,), of)


def direction(path: str, vectors: Any, power: float = 2.0) -> Objective:
    """Along a vector of activations: the dot product, times the cosine to a power (below 0.1 it
    counts as 0.1), both of the mean over positions (Carter et al. 2019, Activation Atlas).

    `vectors`: (units,), or (rows, units): a row of the batch each.
    """
    wanted = torch.as_tensor(np.asarray(vectors, np.float32))
    digest = _digest(wanted)

    def of(outputs: Outputs, row: int | None) -> Tensor:
        found = _pooled(outputs, path)
        along = wanted.to(found.device)
        along = along[row] if row is not None else along
        if along.shape[-1] != found.shape[1]:
            raise ObjectiveError(
                f"a direction of {along.shape[-1]} units cannot be one of `{path}`, which has"
                f" {found.shape[1]}"
            )
        dot = (found * along).sum(1)
        cosine = dot / (found.norm(dim=1) * along.norm(dim=-1) + SMALL)
        weighed: Tensor = dot * cosine.clamp_min(0.1).pow(power)
        return weighed

    rows = len(wanted) if wanted.dim() == 2 else None
    return Objective(f"direction('{path}', {digest}, {power:g})", (path,), of, rows)


def cosine(path: str, vectors: Any, said: str = "") -> Objective:
    """The cosine of the mean over positions with a vector, (units,) or (rows, units). `said`: how
    the vector is called."""
    wanted = torch.as_tensor(np.asarray(vectors, np.float32))

    def of(outputs: Outputs, row: int | None) -> Tensor:
        found = _pooled(outputs, path)
        along = wanted.to(found.device)
        return F.cosine_similarity(found, along[row] if row is not None else along, dim=-1)

    rows = len(wanted) if wanted.dim() == 2 else None
    return Objective(said or f"cosine('{path}', {_digest(wanted)})", (path,), of, rows)


def text(words: str, read: Callable[[Sequence[str]], np.ndarray]) -> Objective:
    """How near an image is to words, as a cosine. `read`: `ablate.concepts.Reader.texts`."""
    return cosine(VISION, read([words])[0], f"text({words!r})")


def deepdream(path: str) -> Objective:
    """Everything a module gives: its mean square (Mordvintsev et al. 2015)."""

    def of(outputs: Outputs, _: int | None) -> Tensor:
        return _output(outputs, path).flatten(1).square().mean(1)

    return Objective(f"deepdream('{path}')", (path,), of)


def diversity(path: str) -> Objective:
    """How unlike the rows of a batch are: minus the mean cosine of a row's Gram matrix of channels
    with those of the others (Olah et al. 2017); 0 of a row that is alone."""

    def of(outputs: Outputs, _: int | None) -> Tensor:
        found = _output(outputs, path)
        flat = found.flatten(2) if found.dim() > 2 else found[:, :, None]
        gram = F.normalize((flat @ flat.mT).flatten(1), dim=1)
        others = (gram @ gram.T).sum(1) - 1
        return -others / max(1, len(gram) - 1)

    return Objective(f"diversity('{path}')", (path,), of)


WORDS: dict[str, Callable[..., Objective]] = {
    f.__name__: f for f in (channel, signed, neuron, head, direction, deepdream, diversity)
}


def _digest(values: Tensor) -> str:
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=6).hexdigest()


def _output(outputs: Outputs, path: str) -> Tensor:
    if path not in outputs:
        raise ObjectiveError(f"`{path}` did not run{did_you_mean(path, outputs)}")
    return outputs[path]


def _pooled(outputs: Outputs, path: str) -> Tensor:
    """The mean over positions of what a module gave, (rows, channels)."""
    found = _output(outputs, path)
    return found.flatten(2).mean(2) if found.dim() > 2 else found


def _unit(outputs: Outputs, path: str, n: int) -> Tensor:
    """What one channel of a module gave, (rows, *positions)."""
    found = _output(outputs, path)
    if not 0 <= n < found.shape[1]:
        units = "heads" if path.endswith(HEADS) else "units"
        raise ObjectiveError(
            f"`{path.removesuffix(HEADS)}` has {found.shape[1]} {units}, numbered 0 to"
            f" {found.shape[1] - 1}; there is no {n}"
        )
    return found[:, n]


def _place(path: str, positions: Sequence[int], y: int | None, x: int | None) -> int:
    """The number of a position, rows by rows."""
    count = math.prod(positions)
    skipped, (height, width) = 0, (1, count)
    if len(positions) == 2:
        height, width = positions
    elif len(positions) == 1 and (y is None or x is not None):
        skipped, height, width = grid_of(count, 1, 1) or (0, 1, count)
    if len(positions) == 1 and y is not None and x is None:
        height, width, y, x = 1, count, 0, y
    y, x = (height // 2 if y is None else y), (width // 2 if x is None else x)
    if not (0 <= y < height and 0 <= x < width):
        raise ObjectiveError(
            f"`{path}` has {height} × {width} positions; there is none in row {y}, column {x}"
        )
    return skipped + y * width + x


# ---------------------------------------------------------------- as text

SHORTHAND = re.compile(r"""('[^']*'|"[^"]*")|([A-Za-z_]\w*(?:\.\w+)*)#(\d+)""")


def parse(expression: str, read: Callable[[Sequence[str]], np.ndarray] | None = None) -> Objective:
    """An objective from text: sums, differences and products with numbers of the words of this
    vocabulary, called with paths and numbers; `PATH#12` is `channel('PATH', 12)`.

    `read`: what `text('a cat')` reads words with. Raises `ObjectiveError`; nothing is executed.
    """
    if not expression.strip():
        raise ObjectiveError("an objective is needed, such as `conv_in#3`; this one is empty")
    plain = SHORTHAND.sub(
        lambda m: m[1] if m[1] else f"channel({m[2]!r}, {int(m[3])})", expression.strip()
    )
    try:
        found = _Parser(expression, read).value(ast.parse(plain, mode="eval").body)
    except ObjectiveError:
        raise
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ObjectiveError(
            f"`{expression[:LONGEST]}` is no objective; write `PATH#3 - 0.5 * PATH#7`, or calls"
            " such as `neuron('PATH', 3)`"
        ) from error
    if not isinstance(found, Objective):
        raise ObjectiveError(f"`{expression}` is a number, where an objective is needed")
    return found


@dataclass(frozen=True)
class _Parser:
    """What the parts of one expression stand for."""

    whole: str
    read: Callable[[Sequence[str]], np.ndarray] | None

    def value(self, node: ast.AST) -> Objective | float:
        match node:
            case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
                return number
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
            if len(named) < len(node.keywords) or not given or not isinstance(given[0], str):
                raise ValueError
            if word != "direction" and not all(
                type(v) is int or v is None for v in (*given[1:], *named.values())
            ):
                raise ValueError
            return WORDS[word](*given, **named)
        except (TypeError, ValueError) as error:
            example = {"deepdream": "", "diversity": "", "direction": ", [0.5, -1.0]"}
            raise ObjectiveError(
                f"`{ast.unparse(node)}` is not how `{word}` is called; write"
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


# ---------------------------------------------------------------- networks


def check(objectives: Iterable[Objective], network: nn.Module) -> None:
    """Raise `ObjectiveError` where an objective reads a module that a network does not have."""
    modules = dict(network.named_modules())
    for objective in objectives:
        for name in objective.paths:
            path = name.removesuffix(HEADS)
            if not path or path not in modules:
                raise ObjectiveError(
                    f"`{objective.text}`: there is no module `{path}`{did_you_mean(path, modules)}"
                )
            if name.endswith(HEADS) and not heads_of(modules, path):
                raise ObjectiveError(
                    f"`{objective.text}`: there are no attention heads to tell apart in `{path}`"
                )


class Heard(Exception):  # noqa: N818, it is no error
    """Raised out of a network when all that an objective reads was heard."""


@contextmanager
def hearing(network: nn.Module, paths: Sequence[str], outputs: dict[str, Tensor]) -> Iterator[None]:
    """Fill `outputs` with what modules give, with gradients: (rows, channels, *positions), float32.

    When the last path of a forward pass was heard, the rest is not computed: `Heard` is raised,
    and ends with this context. Hooks are gone after it.
    """
    modules = dict(network.named_modules())

    def keep(name: str, value: Tensor) -> None:
        outputs[name] = value
        if len(outputs) == len(paths):
            raise Heard

    def hook(name: str) -> Callable[..., None]:
        path = name.removesuffix(HEADS)
        module = modules[path]
        inputs = name.endswith(HEADS) and is_out_projection(path)

        def hear(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            found = next(tensors((args, kwargs) if inputs else output), None)
            if found is None:
                raise ObjectiveError(f"`{path}` gives no tensor that could be optimized")
            dim = channel_dim(module, found)
            moved = found.movedim(dim, 1).float() if found.dim() > 1 else found[:, None].float()
            if name.endswith(HEADS):
                count = heads_of(modules, path)
                each = moved.reshape(len(moved), count, -1, *moved.shape[2:])
                moved = each.square().mean(2).add(SMALL).sqrt()
            keep(name, moved)

        return hear

    with ExitStack() as stack:
        for name in paths:
            module = modules[name.removesuffix(HEADS)]
            handle = module.register_forward_hook(hook(name), with_kwargs=True)
            stack.callback(handle.remove)
        with suppress(Heard):
            yield
