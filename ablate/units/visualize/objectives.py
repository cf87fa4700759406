"""Objectives: what an input is optimized for, as sums of what units give.

>>> objective = channel("vision_model.encoder.layers.2.mlp.fc1", 12) - 0.5 * deepdream("conv_in")
>>> objective.paths
('vision_model.encoder.layers.2.mlp.fc1', 'conv_in')

An objective reads what modules gave, by path, as (rows, channels, *positions) in float32, and says
one number a row. A path that ends in `@heads` stands for the attention heads there: the root mean
square of what each gives, as channels. Objectives as closures with arithmetic are Lucid's.
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
LARGEST = 1e18  # number of a vector: its square is one of float32
PULL = 0.3  # of the gradient of a channel remains where it is silent


class ObjectiveError(RequestError, ValueError):
    """An objective that is not well formed or that a network cannot have; the message says why."""


class MissingError(ObjectiveError):
    """An objective that reads a module which a network does not have."""


@dataclass(frozen=True)
class Objective:
    """What is to become large.

    `paths`: the modules it reads. `of(outputs, row)`: its values, shape (rows,); of an objective
    that has rows of its own, as `direction` of many vectors, `row` takes one of these. `text`: how
    it is written; two objectives with one text are the same. `terms`: the factors of what it is a
    sum of, by text; of itself alone unless told.
    """

    text: str
    paths: tuple[str, ...]
    of: Callable[[Outputs, int | None], Tensor] = field(compare=False)
    rows: int | None = None
    terms: Mapping[str, float] | None = field(default=None, compare=False)

    @property
    def weights(self) -> Mapping[str, float]:
        """The factors of its terms; those that cancel are gone."""
        terms = {self.text: 1.0} if self.terms is None else self.terms
        return {text: factor for text, factor in terms.items() if factor}

    @property
    def compares(self) -> bool:
        """Whether its rows are compared with one another (`diversity`)."""
        return any(term.startswith(f"{diversity.__name__}(") for term in self.weights)

    def __call__(self, outputs: Outputs) -> Tensor:
        return self.of(outputs, None)

    def __str__(self) -> str:
        return self.text

    def apart(self) -> list[Objective]:
        """The objectives of its own rows, itself where it has none."""
        if self.rows is None:
            return [self]

        def single(number: int) -> Objective:
            def of(outputs: Outputs, _: int | None) -> Tensor:
                return self.of(outputs, number)

            return Objective(f"{self.text}[{number}]", self.paths, of, None, self.weights)

        return [single(number) for number in range(self.rows)]

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
            f"{_written(factor)} * {inner}",
            self.paths,
            lambda outputs, row: factor * self.of(outputs, row),
            self.rows,
            {text: factor * own for text, own in self.weights.items()},
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
        text = f"{a.text} {sign} {_written(b)}"
        return Objective(
            text, a.paths, lambda out, row: a.of(out, row) + factor * b, a.rows, a.weights
        )
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
        _summed(a.weights, {term: factor * own for term, own in b.weights.items()}),
    )


def _summed(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The factors of two sums together; what is left of a term by rounding alone is nothing."""
    found = {}
    for term in {**one, **other}:
        pair = one.get(term, 0.0), other.get(term, 0.0)
        left = abs(sum(pair)) > 1e-12 * max(map(abs, pair))
        found[term] = sum(pair) if left else 0.0
    return found


def _written(number: float) -> str:
    """A number with all its digits, so that two that differ are written differently."""
    if not math.isfinite(number):
        raise ObjectiveError(f"an objective is made with finite numbers, which {number} is not")
    return repr(float(number)).removesuffix(".0")


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

    where = f", {y}" if y is not None else ""
    where += "" if x is None else f", {x}" if y is not None else f", x={x}"
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
    wanted = _vectors("direction", path, vectors)
    if isinstance(power, bool) or not isinstance(power, int | float) or not 0 <= power < math.inf:
        raise ObjectiveError(f"the power of a direction is a number from 0 on, not {power!r}")
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
    return Objective(f"direction('{path}', {digest}, {_written(power)})", (path,), of, rows)


def cosine(path: str, vectors: Any, said: str = "") -> Objective:
    """The cosine of the mean over positions with a vector, (units,) or (rows, units). `said`: how
    the vector is called."""
    wanted = _vectors("cosine", path, vectors)

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


def _vectors(word: str, path: str, given: Any) -> Tensor:
    """Vectors (units,) or (rows, units) of finite numbers, none of them of zeros alone."""
    try:
        values = np.asarray(given)
    except ValueError:  # lists of unequal length
        values = np.asarray("")
    if values.dtype.kind not in "fiu" or values.ndim not in (1, 2) or not values.size:
        raise ObjectiveError(
            f"`{word}` of `{path}` takes a list of numbers, one a unit, as in"
            f" `{word}('{path}', [0.5, -1.0])`, or several such lists of one length"
        )
    if not (np.abs(values) < LARGEST).all():
        raise ObjectiveError(f"`{word}` of `{path}` takes finite numbers, none beyond {LARGEST:g}")
    wanted = torch.as_tensor(values.astype(np.float32))
    if not wanted.any(-1).all():
        raise ObjectiveError(f"`{word}` of `{path}`: a vector of zeros points nowhere")
    return wanted


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
    """Raise `ObjectiveError` where an objective reads a module that a network does not have, or
    cannot change whatever the input: alone where there are no other `rows` to differ from, say."""
    modules = dict(network.named_modules())
    for objective in objectives:
        if not objective.weights:
            raise ObjectiveError(
                f"`{objective.text}` does not depend on the input: its terms cancel"
            )
        if rows == 1 and objective.compares:
            raise ObjectiveError(
                f"`{objective.text}` tells pictures of several seeds apart, and there is one at a"
                " time"
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
                    f"`{objective.text}`: `{path}` is a list of modules, which gives nothing by"
                    f" itself; name one of them, as in `{path}.0`"
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
            if found is None or found.dim() == 0:
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
