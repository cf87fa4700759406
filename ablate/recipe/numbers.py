"""Numbers that follow each other, as a recipe gives them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cached_property
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from ablate.recipe.strict import INVALID, Mistake, Strict, optional
from ablate.recipe.types import Count, Exactly, ListOf, Number, Short, Whole, is_list, repeated

MOST = 100_000  # values of an axis; more is a slip of the pen
NUMERIC = ("values", "range", "linspace", "geomspace")
Spaced = Annotated[tuple[Number, Number, Count], Exactly(3, "[first, last, count]")]


class Series(Strict):
    """Numbers, listed or at equal distances or ratios."""

    model_config = ConfigDict(
        json_schema_extra={"dependentRequired": {"range": ["step"], "step": ["range"]}}
    )
    one_of: ClassVar[tuple[str, ...]] = NUMERIC

    values: Annotated[tuple[Number, ...], ListOf("numbers")] | None = optional(
        "The values themselves."
    )
    range: Annotated[tuple[Number, Number], Exactly(2, "[first, last]")] | None = optional(
        "The first and the last number, every `step` apart."
    )
    step: Number | None = Field(
        None,
        description="The distance between the numbers of a `range`.",
        json_schema_extra={"not": {"const": 0}},
    )
    linspace: Spaced | None = optional("First, last, and how many numbers at equal distances.")
    geomspace: Spaced | None = optional("First, last, and how many numbers at equal ratios.")

    @cached_property
    def numbers(self) -> tuple[Any, ...]:
        """All of its values; none where it is of another form, or invalid."""
        if self.values is not None:
            return tuple(self.values)
        ends = self._ends
        count = self._count
        if ends is None or not 1 <= count < MOST + 1:
            return ()
        first, last = ends
        if self.step:
            step = math.copysign(self.step, last - first)
            numbers = [first + i * step for i in range(int(count))]
        else:
            shares = [i / max(count - 1, 1) for i in range(int(count))]
            if self.geomspace:
                numbers = [first * (last / first) ** share for share in shares]
            else:
                numbers = [first + (last - first) * share for share in shares]
        # Ten digits: 0.1 + 0.2 is 0.3 to whoever wrote the recipe.
        rounded = [float(f"{number:.10g}") for number in numbers]
        if isinstance(first, int) and isinstance(last, int) and all(map(float.is_integer, rounded)):
            return tuple(round(number) for number in numbers)
        return tuple(rounded)

    @property
    def note(self) -> str | None:
        """What of it may be a surprise: a last number that is not reached."""
        if not self.range or not self.step or not self.numbers or not self._ends:
            return None
        (first, last), end = self._ends, self.numbers[-1]
        if math.isclose(end, last, rel_tol=1e-9, abs_tol=1e-9):
            return None
        count = len(self.numbers) + 1
        return (
            f"steps of {abs(self.step):.10g} from {first:.10g} do not reach {last:.10g}, the last"
            f" value is {end:.10g}; `linspace: [{first:.10g}, {last:.10g}, {count}]` does"
        )

    @property
    def _ends(self) -> tuple[float, float] | None:
        """The first and the last number; None where they are invalid, or listed."""
        given = self.range or self.linspace or self.geomspace
        if not given or INVALID in given or (self.range and not self.step):
            return None
        first, last = given[:2]
        return None if self.geomspace and first * last <= 0 else (first, last)

    @property
    def _count(self) -> float:
        """How many numbers it asks for."""
        if self._ends is None:
            return 0
        first, last = self._ends
        if self.range and self.step:
            return (
                math.inf
                if math.isinf(last - first)
                else abs(last - first) / abs(self.step) + 1e-9 + 1
            )
        return (self.linspace or self.geomspace or (0, 0, 0))[2]

    def mistakes(self) -> Iterator[Mistake]:
        if self.range is not None and self.step is None:
            yield Mistake("`range` needs a `step`", hole="step")
        if self.range is None and self.step is not None:
            message = f"`step` goes with `range`, not with `{self.form}`"
            yield Mistake(message, ("step",), "key")
        if self.step == 0:
            yield Mistake("must not be 0", ("step",))
        if self.geomspace and INVALID not in self.geomspace and self._ends is None:
            message = "must be from and to numbers of one sign, neither of them 0"
            yield Mistake(message, ("geomspace",))
        if self._count >= MOST + 1:
            count = (
                "endless" if math.isinf(self._count) else f"{math.floor(round(self._count, 6)):,}"
            )
            yield Mistake(f"gives {count} values; {MOST:,} is the most", (self.form,))
        elif not all(map(math.isfinite, self.numbers if self._ends else ())):
            yield Mistake("goes beyond the largest number", (self.form,))
        elif self._ends is not None:
            for mistake in repeated(self.numbers):
                yield Mistake(mistake.message, (self.form,))


class CountSeries(Series):
    """Whole numbers; those that are not are rounded."""

    values: Annotated[tuple[Whole, ...], ListOf("whole numbers")] | None = optional(
        "The numbers themselves."
    )

    @property
    def counts(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(map(round, self.numbers))) if self.is_whole else ()

    def mistakes(self) -> Iterator[Mistake]:
        yield from super().mistakes()
        if self.counts and min(self.counts) < 0:
            message = f"gives {min(self.counts)}; there are no fewer than 0 modules"
            yield Mistake(message, (self.form,))


Numbers = Annotated[Series, Short("values", is_list, Annotated[set[Number], Field(min_length=1)])]
Counts = Annotated[
    CountSeries, Short("values", is_list, Annotated[set[Whole], Field(min_length=1)])
]
