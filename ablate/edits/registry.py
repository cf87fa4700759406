"""The registry of ops: what an op is, and the decorator that adds one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

# What the second tensor of an op, its noise, is: drawn, computed or given.
NoiseSource = Literal[
    "values",  # numbers distributed like W itself
    "spread",  # σ(W)·Normal(0, 1)
    "order",  # a permutation of the entries' numbers
    "uniform",  # numbers in [0, 1)
    "scores",  # how much each entry counts: |W|, or drawn from [0, 1)
    "init",  # the initialization before training (`initialized`)
    "partner",  # the same parameter of another module
    "checkpoint",  # the same parameter in another checkpoint
    "input",  # the module's input
    "input_mean",  # the mean of the module's input over its channels, at each position
    "mean",  # the mean of the module's outputs over references
    "resample",  # the module's output for another reference
    "letters",  # a label with a text, at its place on the picture; NaN beside it
]
# Kinds of noise to choose among, and the recipe's key for the choice.
KINDS = {
    "values": ("distribution", ("normal", "uniform")),
    "scores": ("by", ("magnitude", "random")),
}
# The other keys of an edit in recipes and images, which no strength can be named after.
RESERVED = ("op", "code", "modules", "component", "where", "params", "when", "unit", "units",
            "argument", "dose", "with", "partners", "checkpoint", "over", "text",
            "distribution", "by")  # fmt: skip
# Noise that is given, not drawn.
OF_INPUT = ("input", "input_mean")
GIVEN = ("partner", "checkpoint", *OF_INPUT, "mean", "resample", "letters")
WEIGHTS = ("weights",)
ANYWHERE = ("weights", "output", "input")
Apply = Callable[[Tensor, Tensor, float], Tensor]


@dataclass(frozen=True)
class Op:
    """A registered op.

    Attributes:
        name: Its name in recipes.
        apply: The function `(tensor, noise, strength) -> tensor`.
        strength: The name of its strength in recipes; None without one.
        neutral: The strength at which nothing changes.
        draws: The noise that it takes; None for none.
        stream: Ops of one stream share their draws.
        whole: Whether it needs whole tensors, in their shape; else it may get parts, flattened.
        linear: Whether its change is the strength times its change at strength 1.
        kinds: The kinds of noise to choose among, the first by default.
        kind_key: The recipe's key for the choice.
        places: What it can edit: `weights`, `output`, `input`, `image`.
        code: The digest of the file that a user's op comes from; None for built-in ops.
        least, most: Bounds of the strength.
        above: A lower bound that is excluded.
        counts_from: From here on the strength is a whole number.
    """

    name: str
    apply: Apply
    strength: str | None = None
    neutral: float | None = None
    draws: NoiseSource | None = None
    stream: str = ""
    whole: bool = False
    linear: bool = False
    kinds: tuple[str, ...] = ()
    kind_key: str = ""
    places: tuple[str, ...] = WEIGHTS
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
        """Whether noise of a kind, None for the default, depends on a seed."""
        if self.draws == "scores":
            return (kind or next(iter(self.kinds), "")) == "random"
        return self.draws == "resample" or self.draws not in (
            None,
            *GIVEN,
        )  # which reference is random

    @property
    def about(self) -> str:
        """The first line of its docstring: its formula."""
        return next(iter((self.apply.__doc__ or "").strip().splitlines()), "")


OPS: dict[str, Op] = {}


def op(
    *, strength: str | None = None, neutral: float | None = None, draws: NoiseSource | None = None,
    stream: str | None = None, whole: bool = False, linear: bool = False,
    kinds: tuple[str, ...] | None = None, places: tuple[str, ...] | None = None,
    least: float | None = None, most: float | None = None, above: float | None = None,
    counts_from: float | None = None,
) -> Callable[[Apply], Apply]:  # fmt: skip
    """Register a function `(tensor, noise, strength) -> tensor` as an op under its name.

    All three tensors have one shape and are float32; without noise, `noise` is empty. The arguments
    are the attributes of `Op`; `kinds` are by default all that it can draw, and `places` are
    weights and, for an op without noise, outputs and inputs. Raises `ValueError` for a name that is
    taken and for arguments that contradict each other.
    """
    if places is None:
        places = ANYWHERE if draws is None else WEIGHTS
    kind_key, all_kinds = KINDS.get(draws or "", ("", ()))
    known = all_kinds if kinds is None else kinds
    if "output" in places and draws not in (None, "values", *OF_INPUT, "mean", "resample"):
        raise ValueError(f"an op of outputs cannot draw `{draws}`")
    if "input" in places and draws not in (None, "values"):
        raise ValueError(f"an op of inputs cannot draw `{draws}`")
    if (draws == "letters" or "image" in places) and (draws, places) != ("letters", ("image",)):
        raise ValueError("an op of images draws `letters`, and no other op does")
    if strength in RESERVED:
        raise ValueError(f"a strength cannot be named `{strength}`, which is taken")

    def register(function: Apply) -> Apply:
        name = function.__name__
        if name in OPS:
            raise ValueError(f"there is an op `{name}` already; give this one another name")
        OPS[name] = Op(
            name, function, strength=strength, neutral=neutral, draws=draws, stream=stream or name,
            whole=whole or draws == "order", linear=linear, kinds=known, kind_key=kind_key,
            places=places, least=least, most=most, above=above, counts_from=counts_from,
        )  # fmt: skip
        return function

    return register
