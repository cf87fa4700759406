"""Objectives: what an input is optimized for, as weighted sums over units.

>>> objective = channel("vision_model.encoder.layers.2.mlp.fc1", 12) - 0.5 * deepdream("conv_in")
>>> objective.paths
('vision_model.encoder.layers.2.mlp.fc1', 'conv_in')

An objective maps the outputs of modules, by path, (rows, channels, *positions) in float32, to one
number per row. A path that ends in `@heads` means the attention heads there: the root mean square
of each head's output, as channels. Objectives as closures with arithmetic follow Lucid.
"""

from __future__ import annotations

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

from ablate.messages import RequestError, did_you_mean
from ablate.network import channel_dim, heads_of, is_out_projection, tensors
from ablate.units.record.layers import grid_of

Outputs = Mapping[str, Tensor]
HEADS = "@heads"
VISION = "visual_projection"  # the last module of a CLIP model's image encoder
SMALL = 1e-8
LARGEST = 1e18  # entry of a vector; its square is finite in float32
LEAK = 0.3  # share of a channel's gradient that remains where the channel is silent


class ObjectiveError(RequestError, ValueError):
    """An objective that is malformed or does not fit the network."""


class MissingError(ObjectiveError):
    """An objective that reads a module which the network does not have."""


@dataclass(frozen=True)
class Objective:
    """A quantity to maximize.

    Attributes:
        text: How it is written. Objectives with the same text are equal.
        paths: Modules it reads.
        evaluate: Values (rows,) from outputs and, where `rows` is set, the number of a row; None
            evaluates all rows.
        rows: Number of rows of an objective with one row per vector (`direction`), else None.
        terms: Factors of its summands, by text; None if the objective is a single term.
    """

    text: str
    paths: tuple[str, ...]
    evaluate: Callable[[Outputs, int | None], Tensor] = field(compare=False)
    rows: int | None = None
    terms: Mapping[str, float] | None = field(default=None, compare=False)

    @property
    def weights(self) -> Mapping[str, float]:
        """Nonzero factors of its terms."""
        terms = {self.text: 1.0} if self.terms is None else self.terms
        return {text: factor for text, factor in terms.items() if factor}

    @property
    def compares_rows(self) -> bool:
        """Whether rows of a batch are compared with one another (`diversity`)."""
        return any(term.startswith(f"{diversity.__name__}(") for term in self.weights)

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.evaluate(outputs, None)

    def __str__(self) -> str:
        return self.text

    def split(self) -> list[Objective]:
        """One objective per row; itself if it has no rows."""
        if self.rows is None:
            return [self]

        def single(number: int) -> Objective:
            def evaluate(outputs: Outputs, _: int | None) -> Tensor:
                return self.evaluate(outputs, number)

            return Objective(f"{self.text}[{number}]", self.paths, evaluate, None, self.weights)

        return [single(number) for number in range(self.rows)]

    def __add__(self, other: Objective | float) -> Objective:
        return _sum(self, other, "+")

    def __radd__(self, other: float) -> Objective:
        return self if other == 0 else self + other  # as in `sum`

    def __sub__(self, other: Objective | float) -> Objective:
        return _sum(self, other, "-")

    def __rsub__(self, other: float) -> Objective:
        return -self + other

    def __neg__(self) -> Objective:
        return -1 * self

    def __mul__(self, factor: float) -> Objective:
        if isinstance(factor, Objective) or not math.isfinite(factor):
            raise ObjectiveError(f"an objective is multiplied by a number, not by {factor}")
        inner = f"({self.text})" if re.search(r" [+-] ", self.text) else self.text
        return Objective(
            f"{_number(factor)} * {inner}",
            self.paths,
            lambda outputs, row: factor * self.evaluate(outputs, row),
            self.rows,
            {text: factor * weight for text, weight in self.weights.items()},
        )

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Objective:
        if isinstance(divisor, Objective) or divisor == 0:
            raise ObjectiveError(f"an objective is divided by a number other than 0, not {divisor}")
        return self * (1 / divisor)


def _sum(a: Objective, b: Objective | float, sign: str) -> Objective:
    """The sum or difference of an objective and another, or a number."""
    factor = 1 if sign == "+" else -1
    if not isinstance(b, Objective):
        text = f"{a.text} {sign} {_number(b)}"
        return Objective(
            text, a.paths, lambda out, row: a.evaluate(out, row) + factor * b, a.rows, a.weights
        )
    if a.rows and b.rows and a.rows != b.rows:
        raise ObjectiveError(
            f"`{a.text}` has {a.rows} rows and `{b.text}` {b.rows}: they cannot be added"
        )
    right = f"({b.text})" if sign == "-" and re.search(r" [+-] ", b.text) else b.text
    return Objective(
        f"{a.text} {sign} {right}",
        tuple(dict.fromkeys([*a.paths, *b.paths])),
        lambda out, row: a.evaluate(out, row) + factor * b.evaluate(out, row),
        a.rows or b.rows,
        _sum_weights(a.weights, {term: factor * weight for term, weight in b.weights.items()}),
    )


def _sum_weights(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """Add the factors of two sums; terms that cancel up to rounding get 0."""
    total = {}
    for term in {**one, **other}:
        pair = one.get(term, 0.0), other.get(term, 0.0)
        remains = abs(sum(pair)) > 1e-12 * max(map(abs, pair))
        total[term] = sum(pair) if remains else 0.0
    return total


def _number(number: float) -> str:
    """Write a number with all its digits, so that different numbers have different texts."""
    if not math.isfinite(number):
        raise ObjectiveError(f"an objective takes finite numbers, not {number}")
    return repr(float(number)).removesuffix(".0")


def channel(path: str, n: int) -> Objective:
    """The activation of a channel: the mean of max(a, 0) over all positions.

    Where the channel is silent a share of its gradient remains, so that ascent can activate it.
    """

    def evaluate(outputs: Outputs, _: int | None) -> Tensor:
        values = _unit(outputs, path, n).flatten(1)
        leaky = F.leaky_relu(values, LEAK)
        return (leaky + (values.relu() - leaky).detach()).mean(1)

    return Objective(f"{path}#{n}", (path,), evaluate)


def signed(path: str, n: int) -> Objective:
    """The mean of a channel over all positions, negative values included."""

    def evaluate(outputs: Outputs, _: int | None) -> Tensor:
        return _unit(outputs, path, n).flatten(1).mean(1)

    return Objective(f"signed('{path}', {n})", (path,), evaluate)


def neuron(path: str, n: int, y: int | None = None, x: int | None = None) -> Objective:
    """A channel at one position, by default in the middle.

    Args:
        path: Module path.
        n: Channel.
        y: Row of a map, or number of a token. Tokens that are patches of a square image, with or
            without a class token in front, have rows and columns too.
        x: Column of a map.
    """

    def evaluate(outputs: Outputs, _: int | None) -> Tensor:
        values = _unit(outputs, path, n)
        return values.flatten(1)[:, _position(path, values.shape[1:], y, x)]

    where = f", {y}" if y is not None else ""
    where += "" if x is None else f", {x}" if y is not None else f", x={x}"
    return Objective(f"neuron('{path}', {n}{where})", (path,), evaluate)


def head(path: str, n: int) -> Objective:
    """An attention head: the root mean square of its output at a position, averaged over positions.

    `path`: the attention layer's projection of queries, keys or values, or its output projection,
    whose inputs are the heads' outputs.
    """

    def evaluate(outputs: Outputs, _: int | None) -> Tensor:
        return _unit(outputs, path + HEADS, n).flatten(1).mean(1)

    return Objective(f"head('{path}', {n})", (path + HEADS,), evaluate)


def direction(path: str, vectors: Any, power: float = 2.0) -> Objective:
    """Activation along a vector: the dot product times a power of the cosine (at least 0.1), both
    of the mean over positions (Carter et al. 2019, Activation Atlas).

    `vectors`: (units,), or (rows, units) with one vector per row of the batch.
    """
    targets = _vectors("direction", path, vectors)
    if isinstance(power, bool) or not isinstance(power, int | float) or not 0 <= power < math.inf:
        raise ObjectiveError(f"the power of a direction is a number from 0 on, not {power!r}")

    def evaluate(outputs: Outputs, row: int | None) -> Tensor:
        values = _pooled(outputs, path)
        target = targets.to(values.device)
        target = target[row] if row is not None else target
        if target.shape[-1] != values.shape[1]:
            raise ObjectiveError(
                f"a direction of {target.shape[-1]} units cannot be one of `{path}`, which has"
                f" {values.shape[1]}"
            )
        dot = (values * target).sum(1)
        similarity = dot / (values.norm(dim=1) * target.norm(dim=-1) + SMALL)
        weighted: Tensor = dot * similarity.clamp_min(0.1).pow(power)
        return weighted

    rows = len(targets) if targets.dim() == 2 else None
    text = f"direction('{path}', {_digest(targets)}, {_number(power)})"
    return Objective(text, (path,), evaluate, rows)


def cosine(path: str, vectors: Any, text: str = "") -> Objective:
    """The cosine of the mean over positions with a vector, (units,) or (rows, units).

    `text`: how the objective is written; by default with a digest of the vectors.
    """
    targets = _vectors("cosine", path, vectors)

    def evaluate(outputs: Outputs, row: int | None) -> Tensor:
        values = _pooled(outputs, path)
        target = targets.to(values.device)
        return F.cosine_similarity(values, target[row] if row is not None else target, dim=-1)

    rows = len(targets) if targets.dim() == 2 else None
    return Objective(text or f"cosine('{path}', {_digest(targets)})", (path,), evaluate, rows)


def text(words: str, embed: Callable[[Sequence[str]], np.ndarray]) -> Objective:
    """The cosine between an image and words. `embed`: as `ablate.drift.Reader.texts`."""
    return cosine(VISION, embed([words])[0], f"text({words!r})")


def deepdream(path: str) -> Objective:
    """The mean square of a module's output (Mordvintsev et al. 2015)."""

    def evaluate(outputs: Outputs, _: int | None) -> Tensor:
        return _output(outputs, path).flatten(1).square().mean(1)

    return Objective(f"deepdream('{path}')", (path,), evaluate)


def diversity(path: str) -> Objective:
    """How different the rows of a batch are: minus the mean cosine of a row's Gram matrix of
    channels with those of the other rows (Olah et al. 2017); 0 for a single row."""

    def evaluate(outputs: Outputs, _: int | None) -> Tensor:
        values = _output(outputs, path)
        flat = values.flatten(2) if values.dim() > 2 else values[:, :, None]
        gram = F.normalize((flat @ flat.mT).flatten(1), dim=1)
        others = (gram @ gram.T).sum(1) - 1
        return -others / max(1, len(gram) - 1)

    return Objective(f"diversity('{path}')", (path,), evaluate)


FUNCTIONS: dict[str, Callable[..., Objective]] = {
    f.__name__: f for f in (channel, signed, neuron, head, direction, deepdream, diversity)
}


def _vectors(function: str, path: str, given: Any) -> Tensor:
    """Vectors (units,) or (rows, units) of finite numbers, none of them all zeros."""
    try:
        values = np.asarray(given)
    except ValueError:  # lists of unequal length
        values = np.asarray("")
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2) or not values.size:
        raise ObjectiveError(
            f"`{function}` of `{path}` takes a list of numbers, one per unit, as in"
            f" `{function}('{path}', [0.5, -1.0])`, or several such lists of the same length"
        )
    if not (np.abs(values) < LARGEST).all():
        raise ObjectiveError(
            f"`{function}` of `{path}` takes finite numbers, none beyond {LARGEST:g}"
        )
    vectors = torch.as_tensor(values.astype(np.float32))
    if not vectors.any(-1).all():
        raise ObjectiveError(f"`{function}` of `{path}`: a vector of zeros has no direction")
    return vectors


def _digest(values: Tensor) -> str:
    return hashlib.blake2b(values.numpy().tobytes(), digest_size=6).hexdigest()


def _output(outputs: Outputs, path: str) -> Tensor:
    if path not in outputs:
        raise ObjectiveError(f"`{path}` did not run{did_you_mean(path, outputs)}")
    return outputs[path]


def _pooled(outputs: Outputs, path: str) -> Tensor:
    """The mean of a module's output over positions, (rows, channels)."""
    values = _output(outputs, path)
    return values.flatten(2).mean(2) if values.dim() > 2 else values


def _unit(outputs: Outputs, path: str, n: int) -> Tensor:
    """One channel of a module's output, (rows, *positions), at least one position."""
    values = _output(outputs, path)
    if not 0 <= n < values.shape[1]:
        units = "heads" if path.endswith(HEADS) else "units"
        raise ObjectiveError(
            f"`{path.removesuffix(HEADS)}` has {values.shape[1]} {units}, numbered 0 to"
            f" {values.shape[1] - 1}; there is no {n}"
        )
    return values[:, n] if values.dim() > 2 else values[:, n, None]


def _position(path: str, shape: Sequence[int], y: int | None, x: int | None) -> int:
    """The index of a position, counted row by row."""
    count = math.prod(shape)
    skipped, (height, width) = 0, (1, count)
    if len(shape) == 2:
        height, width = shape
    elif len(shape) == 1 and (y is None or x is not None):
        skipped, height, width = grid_of(count, 1, 1) or (0, 1, count)
    if len(shape) == 1 and y is not None and x is None:
        height, width, y, x = 1, count, 0, y
    y, x = (height // 2 if y is None else y), (width // 2 if x is None else x)
    if not (0 <= y < height and 0 <= x < width):
        if height == 1 and y == 0:
            raise ObjectiveError(
                f"`{path}` has {width} positions, numbered 0 to {width - 1}; there is no {x}"
            )
        raise ObjectiveError(
            f"`{path}` has rows 0 to {height - 1} and columns 0 to {width - 1}; there is no"
            f" position in row {y}, column {x}"
        )
    return skipped + y * width + x


def check(objectives: Iterable[Objective], network: nn.Module, rows: int = 2) -> None:
    """Check objectives against a network.

    `rows`: inputs that are optimized together; with one, nothing can differ from other rows.
    Raises `MissingError` for a module that the network does not have, `ObjectiveError` for an
    objective that no input can change.
    """
    modules = dict(network.named_modules())
    for objective in objectives:
        if not objective.weights:
            raise ObjectiveError(
                f"`{objective.text}` does not depend on the input: its terms cancel"
            )
        if rows == 1 and objective.compares_rows:
            raise ObjectiveError(
                f"`{objective.text}` compares pictures of several seeds, and there is one at a time"
            )
        for name in objective.paths:
            path = name.removesuffix(HEADS)
            if not path or path not in modules:
                raise MissingError(
                    f"`{objective.text}`: there is no module `{path}` in the"
                    f" {type(network).__name__}{did_you_mean(path, modules)}"
                )
            if isinstance(modules[path], nn.ModuleList):
                raise ObjectiveError(
                    f"`{objective.text}`: `{path}` is a list of modules, which has no output;"
                    f" name one of them, as in `{path}.0`"
                )
            if name.endswith(HEADS) and not heads_of(modules, path):
                raise ObjectiveError(f"`{objective.text}`: `{path}` has no attention heads")


class _Complete(Exception):  # noqa: N818, it is no error
    """Ends a forward pass once all outputs are recorded."""


@contextmanager
def output_hooks(
    network: nn.Module, paths: Sequence[str], outputs: dict[str, Tensor]
) -> Iterator[None]:
    """Fill `outputs` with what modules return, (rows, channels, *positions), float32, with
    gradients.

    A forward pass ends as soon as the last path is recorded: the rest is not computed. Hooks are
    removed on exit. Raises `ObjectiveError` where a module returns no tensor.
    """
    modules = dict(network.named_modules())

    def hook(name: str) -> Callable[..., None]:
        path = name.removesuffix(HEADS)
        module = modules[path]
        reads_inputs = name.endswith(HEADS) and is_out_projection(path)

        def record(_: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            values = next(tensors((args, kwargs) if reads_inputs else output), None)
            if values is None or values.dim() == 0:
                raise ObjectiveError(f"`{path}` returns no tensor that could be optimized")
            dim = channel_dim(module, values)
            values = (values.movedim(dim, 1) if values.dim() > 1 else values[:, None]).float()
            if name.endswith(HEADS):
                count = heads_of(modules, path)
                heads = values.reshape(len(values), count, -1, *values.shape[2:])
                values = heads.square().mean(2).add(SMALL).sqrt()
            outputs[name] = values
            if len(outputs) == len(paths):
                raise _Complete

        return record

    with ExitStack() as stack:
        for name in paths:
            module = modules[name.removesuffix(HEADS)]
            handle = module.register_forward_hook(hook(name), with_kwargs=True)
            stack.callback(handle.remove)
        with suppress(_Complete):
            yield
