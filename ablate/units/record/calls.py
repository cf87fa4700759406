"""Calls of a denoiser: which of their rows follow the prompt, determined by a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ablate.network import ScopeError, rebuilt, tensors
from ablate.sampling import Callbacks, Pipeline, Request, Settings
from ablate.units.record.layers import maps_of


class Enough(Exception):  # noqa: N818, it is no error
    """Raised out of sampling once what was asked for is known."""


@dataclass(frozen=True)
class Calls:
    """The calls of a denoiser in one step of the sampling.

    Attributes:
        prompted: Of each call, for each row that it has a sample, whether the row follows the
            prompt; others are the unconditional ones of guidance.
        maps: Rows and columns of the feature maps that its layers can have.
    """

    prompted: tuple[tuple[bool, ...], ...]
    maps: frozenset[tuple[int, int]]

    def rows(self, call: int, rows: int, samples: int) -> list[slice]:
        """Return the rows of a call that follow the prompts, in slices of one row a sample.

        Row r belongs to sample r mod `samples`. Raises `ScopeError` for calls unlike those of the
        first step.
        """
        parts = self.prompted[call] if call < len(self.prompted) else ()
        if rows != len(parts) * samples:
            expected = " and ".join(str(len(parts) * samples) for parts in self.prompted)
            raise ScopeError(
                f"the denoiser was called with {rows} rows in call {call + 1} of a step, unlike in"
                f" the first ({expected}): which of them follow the prompts is not known"
            )
        return [slice(i * samples, (i + 1) * samples) for i, follows in enumerate(parts) if follows]


_CALLS: WeakKeyDictionary[Pipeline, dict[Settings, Calls]] = WeakKeyDictionary()


def calls_of(pipeline: Pipeline, settings: Settings) -> Calls:
    """Return how a pipeline calls its denoiser.

    Families guide in one call or in two, the prompt first or last. The first step of one sample is
    computed twice, with two prompts: inputs of the denoiser that differ then are the prompt's.
    """
    known = _CALLS.setdefault(pipeline, {})
    if settings not in known:
        # Of a word each: in some families a longer prompt has the negative one filled up.
        one, other = (_first_step(pipeline, settings, prompt) for prompt in "ab")
        prompted = [tuple(_differing(*pair)) for pair in zip(one, other, strict=True)]
        if not any(map(any, prompted)):  # nothing in it depends on the prompt
            prompted = [(True,) * len(parts) for parts in prompted]
        size = settings.height, settings.width
        known[settings] = Calls(tuple(prompted), maps_of(pipeline.denoiser, one[0], *size))
    return known[settings]


def _first_step(pipeline: Pipeline, settings: Settings, prompt: str) -> list[tuple[Any, ...]]:
    """Return the inputs of the denoiser in each call of the first step, for one sample."""
    calls: list[tuple[Any, ...]] = []

    def keep(_module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = (*args, *kwargs.values())
        calls.append(rebuilt(inputs, (tensor.clone() for tensor in tensors(inputs))))

    def reach(step: int) -> None:
        if step:
            raise Enough
        calls.clear()

    handle = pipeline.denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        pipeline.sample([Request(prompt, 0)], settings, Callbacks(on_step=reach))
    except Enough:
        pass
    finally:
        handle.remove()
    return calls


def rows_of(inputs: Sequence[Any]) -> int:
    """Return how many rows a network is called with: of the first tensor, or list of tensors."""
    return next((len(value) for value in inputs if _has_rows(value)), 0)


def _has_rows(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Tensor) and value.dim() > 0)


def _differing(one: Sequence[Any], other: Sequence[Any]) -> list[bool]:
    """Return in which rows two calls differ."""
    count = rows_of(one)
    differ = [False] * count
    for pair in zip(one, other, strict=True):
        for first, second in _by_row(*pair, count):
            for row in range(count):
                differ[row] |= _differ(first[row], second[row])
    return differ


def _by_row(one: Any, other: Any, count: int) -> Iterator[tuple[Any, Any]]:
    """Yield the pairs of parts with a row or an item for each row, of two inputs of one structure.

    Where there is one row everything belongs to it.
    """
    if isinstance(one, Mapping):
        for name in one:
            yield from _by_row(one[name], other[name], count)
    elif count == 1:
        yield [one], [other]
    elif _has_rows(one) and len(one) == count:
        yield one, other


def _differ(one: Any, other: Any) -> bool:
    """Whether two inputs differ within the size of the smaller one: prompts differ in length, and
    have equal position numbers."""
    pairs = zip(tensors(one), tensors(other), strict=False)
    return any(not torch.equal(*_to_one_size(a, b)) for a, b in pairs)


def _to_one_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    both = tuple(slice(min(sizes)) for sizes in zip(one.shape, other.shape, strict=True))
    return one[both], other[both]
