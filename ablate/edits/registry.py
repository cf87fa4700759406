"""The registry of ops: what an op is, and the decorator that adds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Draws = Literal[
    "values",  # numbers distributed like W itself
    "spread",  # σ(W)·Normal(0, 1)
    "order",  # a permutation of the entries' numbers
    "uniform",  # numbers in [0, 1)
    "scores",  # how much each entry counts: |W|, or drawn from [0, 1)
    "init",  # what a network's training starts from (`initialized`)
    "partner",  # that parameter of another module
    "checkpoint",  # that parameter in another checkpoint
    "input",  # what the module was given
    "mean",  # the mean of the module's outputs over references
    "resample",  # the module's output for another reference
    "letters",  # a label with a text on it, as it lies on the picture; NaN beside it
]
# Kinds of noise to choose among, and what the choice is called in recipes.
KINDS = {
    "values": ("distribution", ("normal", "uniform")),
    "scores": ("by", ("magnitude", "random")),
}
# What else an edit says, in recipes and in images.
RESERVED = ("op", "code", "modules", "component", "where", "params", "when", "unit", "units",
            "dose", "with", "partners", "checkpoint", "over", "text",
            "distribution", "by")  # fmt: skip
# Noise that is given: another module's, checkpoint's or reference's, what the module ran on, words.
GIVEN = ("partner", "checkpoint", "input", "mean", "resample", "letters")
BOTH = ("weights", "output")
Apply = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Op:
    """An op as the registry knows it.

    `strength`: name of its strength in recipes, None when it has none. `neutral`: the strength at
    which nothing changes. `draws`: the kind of noise it takes, None for none. `stream`: ops of one
    stream share their draws. `whole`: whether it needs whole tensors, in their shape. `linear`:
    whether its change is the strength times its change at strength 1. `kinds`: the noise to choose
    among, the first by default; `kind_key`: what the choice is called in recipes. `places`: what it
    may be applied to. `code`: digest of the file that a user's op comes from, None for the lab's
    own. `least`, `most` and `above` (which is not reached) bound the strength; from `counts_from`
    on it is a whole number.
    """

    name: str
    apply: Apply
    strength: str | None = None
    neutral: float | None = None
    draws: Draws | None = None
    stream: str = ""
    whole: bool = False
    linear: bool = False
    kinds: tuple[str, ...] = ()
    kind_key: str = ""
    places: tuple[str, ...] = ("weights",)
    code: str | None = None
    least: float | None = None
    most: float | None = None
    above: float | None = None
    counts_from: float | None = None

    @property
    def is_random(self) -> bool:
        """Whether its noise depends on a seed, with at least one of its kinds."""
        return any(self.is_random_by(kind) for kind in self.kinds or (None,))

    def is_random_by(self, kind: str | None) -> bool:
        """Whether noise of that kind, None for the default, depends on a seed."""
        if self.draws == "scores":
            return (kind or next(iter(self.kinds), "")) == "random"
        return self.draws == "resample" or self.draws not in (None, *GIVEN)  # which one is drawn

    @property
    def about(self) -> str:
        """The first line of its docstring: its formula."""
        return next(iter((self.apply.__doc__ or "").strip().splitlines()), "")


OPS: dict[str, Op] = {}


def op(
    *, strength: str | None = None, neutral: float | None = None, draws: Draws | None = None,
    stream: str | None = None, whole: bool = False, linear: bool = False,
    kinds: tuple[str, ...] | None = None, places: tuple[str, ...] = ("weights",),
    least: float | None = None, most: float | None = None, above: float | None = None,
    counts_from: float | None = None,
) -> Callable[[Apply], Apply]:  # fmt: skip
    """Register a function `(tensor, noise, strength) -> tensor` as an op under its own name.

    All three tensors have one shape, and are float32; without noise, `noise` is empty. What is not
    `whole` may get parts of them, flattened. The arguments are the fields of `Op`; kinds of noise
    are by default all that it can draw. Raises `ValueError` for a name that is taken.
    """
    kind_key, all_kinds = KINDS.get(draws or "", ("", ()))
    known = all_kinds if kinds is None else kinds
    if "output" in places and draws not in (None, "values", "input", "mean", "resample"):
        raise ValueError(f"an op of outputs cannot draw `{draws}`")
    if (draws == "letters" or "image" in places) and (draws, places) != ("letters", ("image",)):
        raise ValueError("an op of images draws `letters`, and no other op does")
    if strength in RESERVED:
        raise ValueError(f"a strength cannot be named `{strength}`, which is taken")

    def register(function: Apply) -> Apply:
        name = function.__name__
        if name in OPS:
            raise ValueError(f"there is an op `{name}` already; give this one another name")
        OPS[name] = Op(
            name, function, strength, neutral, draws, stream or name,
            whole or draws == "order", linear, known, kind_key, places, None,
            least, most, above, counts_from,
        )  # fmt: skip
        return function

    return register
