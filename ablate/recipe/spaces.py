"""Sets of points of embedding space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ablate.recipe.numbers import MOST, Numbers
from ablate.recipe.strict import Mistake, Strict, optional
from ablate.recipe.types import (
    AsWritten,
    Either,
    Exactly,
    Json,
    ListOf,
    OrRef,
    Ref,
    Short,
    Text,
    Whole,
)
from ablate.sampling import PROMPTS

Prompt = str | int | Ref  # a number is the seed of a random direction


def _is_seed(value: object) -> bool:
    return isinstance(value, int)


class Between(Strict):
    """Points between two prompts."""

    start: OrRef[Text] = Field(alias="from", description="The prompt at 0, or an axis of prompts.")
    end: OrRef[Text] = Field(alias="to", description="The prompt at 1, or an axis of prompts.")
    t: Numbers = Field(description="How far from the first to the second the points are.")
    path: Literal["lerp", "slerp"] = optional(
        "Along the straight line (`lerp`), or along the arc (`slerp`).", "lerp"
    )

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self.start, self.end

    @property
    def numbers(self) -> tuple[float, ...]:
        return self.t.numbers

    def label(self, number: float) -> str:
        return f"t {number:.10g}"


Direction = Annotated[OrRef[Text] | Whole, Either(_is_seed)]


class Plane(Strict):
    """A square of points around a prompt, in two directions."""

    center: OrRef[Text] = Field(description="The prompt in the middle, or an axis of prompts.")
    toward: Annotated[
        tuple[Direction, Direction],
        Exactly(2, "two directions, each a prompt or the seed of a random one"),
    ] = Field(description="Two directions: each a prompt, or the seed of a random direction.")
    extent: Annotated[float, Field(strict=True, allow_inf_nan=False, gt=0), AsWritten()] = optional(
        "How far the square reaches; the prompts of `toward` are at 1.", 1
    )
    size: Annotated[int, Field(strict=True, ge=3, le=999)] = Field(
        description="How many points a side has, an odd number."
    )
    zoom: Numbers | None = optional("Factors by which the square shrinks; an axis of the plan.")

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        return self.center, *self.toward

    @property
    def numbers(self) -> tuple[float, ...]:
        """The coordinates along either direction."""
        half = self.size // 2
        return tuple(float(f"{self.extent * (i - half) / half:.10g}") for i in range(self.size))

    def mistakes(self) -> Iterator[Mistake]:
        if self.size and self.size % 2 == 0:
            message = f"must be odd, so that the center is in it, not {self.size}"
            yield Mistake(message, ("size",))
        if self.zoom and self.zoom.is_whole and min(self.zoom.numbers, default=1) <= 0:
            message = f"must be above 0, not {min(self.zoom.numbers):.10g}"
            yield Mistake(message, ("zoom",))


class Random(Strict):
    """Random points with the mean and spread of some prompts."""

    count: Annotated[int, Field(strict=True, ge=1, le=MOST)] = Field(
        description="How many points there are."
    )
    seed: Whole = optional("Other seeds give other points.", 0)
    prompts: Annotated[tuple[Text, ...], ListOf("prompts"), Json({"minItems": 2})] = optional(
        "Prompts whose spread the points have. By default ordinary ones.", PROMPTS
    )

    @property
    def numbers(self) -> tuple[float, ...]:
        return tuple(range(self.count))

    def mistakes(self) -> Iterator[Mistake]:
        if len(self.prompts) == 1:
            yield Mistake("a single prompt has no spread; name several", ("prompts",))

    def label(self, number: float) -> str:
        return f"random {self.seed} {number:.10g}"


class Points(Strict):
    """A set of points of embedding space."""

    one_of: ClassVar[tuple[str, ...]] = ("between", "plane", "random", "unconditional")
    example: ClassVar[str] = "`between: {from: a cat, to: a dog, t: [0, 0.5, 1]}`"

    between: Between | None = optional("Points on the way between prompts.")
    plane: Plane | None = optional("A square of points around a prompt.")
    random: Random | None = optional("Random points.")
    unconditional: Literal["unconditional"] | None = optional(
        "The embedding of the empty prompt; written as the word alone."
    )

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The prompts that it refers to: both ends; the center and its directions; those whose
        spread random points have."""
        part = self.between or self.plane or self.random
        return part.prompts if part else ()

    @property
    def numbers(self) -> tuple[float, ...]:
        """Every t, every coordinate along a direction, or the number of every random point."""
        part = self.between or self.plane or self.random
        return part.numbers if part and part.is_whole else ()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the points that differ among those of several sets."""
        part = self.between or self.random
        return tuple(map(part.label, self.numbers)) if part else (self.form,)


Space = Annotated[
    Points,
    Short("unconditional", lambda given: given in ("unconditional",), Literal["unconditional"]),
]
