"""Axes: what varies, as numbers, modules, windows of the sampling, or points of embedding space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidatorFunctionWrapHandler, WrapValidator

from ablate.edits import When
from ablate.recipe.document import KeyPath
from ablate.recipe.numbers import NUMERIC, Counts, Series
from ablate.recipe.spaces import Points, Space
from ablate.recipe.strict import INVALID, Mistake, Strict, fail, given, optional
from ablate.recipe.types import (
    Count,
    Either,
    Exactly,
    ListOf,
    OrRef,
    Ref,
    Selector,
    Share,
    Short,
    Text,
    Whole,
    is_list,
    repeated,
)

Order = Literal["network", "reverse", "random", "drift"]
UNIT_FORMS = {"each_channel": "channels", "each_head": "heads"}
PARTS = 100  # equal parts of the sampling, at most
MODULES = "Which modules, as a selector. Default: all."
COMPONENT = "Which part of the pipeline they belong to. Default: the one that is edited."


# ---------------------------------------------------------------- windows of the sampling


_STEPS = Exactly(2, "the first and the last step, counted from 0, as in [0, 9]")
_FRACTION = Exactly(2, "from where to where, as parts of the sampling, as in [0, 0.5]")
_T = Exactly(2, "from which noise level, 1 for noise alone, to which, as in [1, 0.5]")


class Window(Strict):
    """A part of the sampling."""

    one_of: ClassVar[tuple[str, ...]] = ("steps", "fraction", "t")
    example: ClassVar[str] = "`{steps: [0, 9]}`"

    steps: Annotated[tuple[OrRef[Whole], OrRef[Whole]], _STEPS] | None = optional(
        "The first and the last step, counted from 0."
    )
    fraction: Annotated[tuple[OrRef[Share], OrRef[Share]], _FRACTION] | None = optional(
        "From where to where, as parts of the sampling, 0 to 1."
    )
    t: Annotated[tuple[OrRef[Share], OrRef[Share]], _T] | None = optional(
        "From which noise level to which; 1 is noise alone, 0 is none."
    )

    @property
    def ends(self) -> tuple[float | Ref, float | Ref]:
        return self.steps or self.fraction or self.t or (INVALID, INVALID)

    def mistakes(self) -> Iterator[Mistake]:
        first, last = self.ends
        if isinstance(first, int | float) and isinstance(last, int | float):
            if last < first and self.form != "t":
                message = f"ends before it begins: {last:g} is less than {first:g}"
                yield Mistake(message, (self.form,))
            elif last == first and self.form != "steps":
                yield Mistake(f"is empty: it begins and ends at {first:g}", (self.form,))


def _like(key: str) -> Any:
    """The default and the description of a key of windows."""
    return Window.model_fields[key]


class FixedWindow(Window):
    """A part of the sampling, without references to axes."""

    steps: Annotated[tuple[Whole, Whole], _STEPS] | None = _like("steps")
    fraction: Annotated[tuple[Share, Share], _FRACTION] | None = _like("fraction")
    t: Annotated[tuple[Share, Share], _T] | None = _like("t")


def _parts(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    if not (type(value) is int and 2 <= value <= PARTS):
        fail(
            Mistake(
                "must be a list of windows, as in [{steps: [0, 4]}], or a number of equal parts"
                f" from 2 to {PARTS}, not {given(value)}"
            )
        )
    return value


Parts = Annotated[int, Field(ge=2, le=PARTS), WrapValidator(_parts)]


# ---------------------------------------------------------------- modules


class Chosen(Strict):
    """Modules of a component."""

    modules: Selector = Field("*", description=MODULES)
    component: Text | None = Field(None, description=COMPONENT)


def _is_selector(value: Any) -> bool:
    return value is not INVALID and not (
        isinstance(value, dict) and {"modules", "component"} & set(value)
    )


Each = Annotated[Chosen, Short("modules", _is_selector, Selector)]


By = Literal["block", "stage", "role", "kind"]
WITHIN = "Blocks, as a selector: a group is the modules inside one of them, in place of `by`."


class Group(Chosen):
    """Modules that are edited together."""

    by: By | None = optional("What the modules of a group have in common. Default: `stage`.")
    within: Selector | None = optional(WITHIN)

    def mistakes(self) -> Iterator[Mistake]:
        if self.by and self.within:
            yield Mistake("is given beside `by`; keep one of the two", ("within",), "key")


class Sliding(Group):
    """Some neighboring modules at each value, or groups of modules, in forward order."""

    by: By | None = optional("What groups have in common. Default: each module is one.")
    width: Count = Field(description="How many neighbors there are at each value.")
    stride: Count = optional("How many further on the next value begins.", 1)


class Cumulative(Chosen):
    """The first modules of an order, and more of them at every value."""

    order: Order = optional(
        "The order of the modules: forward, backward, drawn, or from the least to the"
        " most drift in an earlier run.",
        "network",
    )
    seed: OrRef[Whole] = optional("Other seeds draw other orders; an axis, or a number.", 0)
    counts: Counts | None = optional(
        "How many modules there are at each value. Default: 1, 2, ... all."
    )
    run: Text | None = optional("The folder of a run in which each module was edited in turn.")

    def mistakes(self) -> Iterator[Mistake]:
        if self.order == "drift" and self.run is None:
            message = (
                "`order: drift` needs `run:`, the folder of a run in which each module was edited"
                " in turn"
            )
            yield Mistake(message, hole="run")
        for key, needed in (("run", "drift"), ("seed", "random")):
            if key in self.model_fields_set and self.order and self.order != needed:
                message = f"`{key}` goes with `order: {needed}`, not `{self.order}`"
                yield Mistake(message, (key,), "key")


# ---------------------------------------------------------------- axes


class AxisSpec(Series):
    """What varies. A list alone is its values."""

    one_of: ClassVar[tuple[str, ...]] = (
        *NUMERIC, "each", *UNIT_FORMS, "group", "cumulative", "window", "windows", "embedding"
    )  # fmt: skip

    values: Annotated[tuple[Any, ...], ListOf("values")] | None = optional(
        "The values themselves: numbers, texts, or selectors."
    )
    each: Each | None = optional("One module at each value.")
    each_channel: Each | None = optional("One output channel at each value.")
    each_head: Each | None = optional("One attention head at each value.")
    group: Group | None = optional("One group of modules at each value.")
    cumulative: Cumulative | None = optional("More and more modules, the first of some order.")
    window: Sliding | None = optional("A window that slides over modules or groups of them.")
    windows: (
        Annotated[
            Parts | Annotated[tuple[FixedWindow, ...], ListOf("windows")],
            Either(is_list),
        ]
        | None
    ) = optional("Windows of the sampling, or into how many equal ones it is cut.")
    embedding: (
        Annotated[
            Space | Annotated[tuple[Space, ...], ListOf("points")],
            Either(is_list),
        ]
        | None
    ) = optional("Points of embedding space, of one set or of several.")

    @property
    def kind(self) -> str:
        """What its values are: `values`, `modules`, `windows` or `embedding`."""
        if self.form in NUMERIC:
            return "values"
        return self.form if self.form in ("windows", "embedding") else "modules"

    @property
    def chosen(self) -> Chosen | None:
        """The modules that it is about."""
        parts = (self.each, self.each_channel, self.each_head, self.group, self.cumulative)
        return next((part for part in (*parts, self.window) if part), None)

    @property
    def grouped(self) -> Group | None:
        """How its modules are grouped, if they are."""
        return self.group or self.window or None

    @property
    def parts(self) -> tuple[When, ...]:
        """Its windows."""
        if isinstance(self.windows, int):
            count = self.windows
            return tuple(When("fraction", i / count, (i + 1) / count) for i in range(count))
        return tuple(
            When(window.form, *window.ends)  # type: ignore[arg-type]
            for window in self.windows or ()
            if window and all(isinstance(end, int | float) for end in window.ends)
        )

    @property
    def spaces(self) -> tuple[Points, ...]:
        """Its sets of points."""
        if isinstance(self.embedding, Points):
            return (self.embedding,)
        return tuple(self.embedding or ())

    @property
    def series(self) -> Iterator[tuple[Series, KeyPath]]:
        """The numbers that follow each other in it, with their keys."""
        yield self, ()
        if self.cumulative and self.cumulative.counts:
            yield self.cumulative.counts, ("cumulative", "counts")
        several = isinstance(self.embedding, tuple)
        for i, space in enumerate(self.spaces):
            place: KeyPath = ("embedding", i) if several else ("embedding",)
            if space and space.between and space.between.t:
                yield space.between.t, (*place, "between", "t")
            if space and space.plane and space.plane.zoom:
                yield space.plane.zoom, (*place, "plane", "zoom")

    @property
    def plain(self) -> tuple[Any, ...] | None:
        """Its values as the run records them; None of modules, which only a network has."""
        if self.kind == "windows":
            return tuple(map(str, self.parts))
        if self.kind == "embedding":
            labels = tuple(label for space in self.spaces for label in space.labels)
            single = isinstance(self.embedding, Points)
            return (self.spaces[0].numbers if single and self.spaces else ()) or labels
        return self.numbers if self.kind == "values" else None

    def mistakes(self) -> Iterator[Mistake]:
        yield from super().mistakes()
        for mistake in repeated(list(map(str, self.parts))):
            yield Mistake(mistake.message, ("windows", *mistake.place))
        for i, space in enumerate(self.embedding if isinstance(self.embedding, tuple) else ()):
            if space.plane:
                message = "a plane, with its two dimensions, cannot be one of several"
                yield Mistake(message, ("embedding", i))
        labels = [label for space in self.spaces if not space.plane for label in space.labels]
        for mistake in repeated(labels):
            yield Mistake(mistake.message, ("embedding",))


AxisOrList = Annotated[AxisSpec, Short("values", is_list, Annotated[set[Any], Field(min_length=1)])]
