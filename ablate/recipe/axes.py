"""Axes: what varies, and how a recipe says so: numbers, modules, points of embedding space, and
prompts, seeds and sampling settings.

`AxisReader` reads them from a document and collects the mistakes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from ablate.edits import BY, By, When
from ablate.network import FIELDS, Selector, SelectorError, matcher
from ablate.recipe.document import KeyPath, Problem, kind_of
from ablate.recipe.spaces import NUMERIC, Ref, Space, SpaceReader
from ablate.sampling import SAMPLING, Sampling

Order = Literal["network", "reverse", "random", "drift"]
ORDERS: tuple[Order, ...] = ("network", "reverse", "random", "drift")
GROUPINGS = FIELDS[::-1]
UNIT_FORMS = {"each_channel": "channels", "each_head": "heads"}
AXIS_FORMS = (*NUMERIC, "each", *UNIT_FORMS, "group", "cumulative", "windows", "embedding")
PARTS = 100  # of the sampling, at most
CUMULATIVE = ("modules", "component", "order", "seed", "counts", "run")
CONDITION_AXES = ("prompt", "seed", "steps", *SAMPLING)


@dataclass(frozen=True)
class Axis:
    """An axis as the recipe gives it.

    `form` is `values`, with the values; `each`, `each_head`, `each_channel`, `group` or
    `cumulative`, with a selector whose modules are known only beside a network, and perhaps their
    component; `windows`, of the sampling; or `embedding`, with spaces.
    """

    name: str
    form: Literal[
        "values", "each", "each_channel", "each_head", "group", "cumulative", "windows", "embedding"
    ]
    values: tuple[Any, ...] = ()
    modules: Selector = "*"
    component: str | None = None
    by: str = "stage"
    order: Order = "network"
    seed: int | Ref = 0
    counts: tuple[int, ...] | None = None
    run: str | None = None
    spaces: tuple[Space, ...] = ()
    windows: tuple[When, ...] = ()

    @property
    def size(self) -> int | None:
        """How many values it has, None until a network is known."""
        return None if self.of_modules else len(self.values)

    @property
    def of_modules(self) -> bool:
        """Whether its values are modules of a network, or parts of them."""
        return self.form not in ("values", "windows", "embedding")


@dataclass(frozen=True)
class Selected:
    """A selector of a recipe, and what is needed to say whether it is right: the component whose
    modules it chooses among, None for the recipe's own; whether it may name blocks; the problem to
    report, but for its message."""

    selector: Selector
    component: str | None
    blocks: bool
    place: Problem


@dataclass(frozen=True)
class WhenSpec:
    """A window of the sampling as the recipe gives it: either end may refer to an axis."""

    by: By
    first: float | Ref
    last: float | Ref


class AxisReader(SpaceReader):
    """Reads axes, selectors, windows and sampling settings.

    `selectors`, `schedulers` and `checkpoints` (model, component) are those found, each with the
    problem to report when a network, diffusers or a model does not know them.
    """

    def __init__(self, file: str | None) -> None:
        super().__init__(file)
        self.selectors: list[Selected] = []
        self.schedulers: list[tuple[str, Problem]] = []
        self.checkpoints: list[tuple[str, str | None, Problem]] = []

    def selector(
        self, value: Any, path: KeyPath, component: str | None = None, *, blocks: bool = False
    ) -> Selector:
        """A selector that is well formed, whatever it matches."""
        if not self.is_selector(value, path):
            return "*"
        self.selectors.append(Selected(value, component, blocks, self.at(path)))
        chosen: Selector = value
        return chosen

    def is_selector(self, value: Any, path: KeyPath) -> bool:
        """Whether it is a selector that is well formed; notes what is wrong."""
        try:
            for text in _strings(value):
                matcher(text)
        except SelectorError as error:
            self.wrong(path, str(error))
            return False
        return True

    def when(self, value: Any, path: KeyPath) -> WhenSpec | Ref | None:
        """A window of the sampling, or an axis of them."""
        given = self.or_ref(value)
        if isinstance(given, Ref):
            return given
        body = self.mapping(value, path, BY)
        kinds = [by for by in BY if by in body]
        if len(kinds) != 1:
            if isinstance(value, dict) and set(body) <= set(BY):
                self.wrong(path, f"must have one of {', '.join(BY)}, as in `{{steps: [0, 9]}}`")
            return None
        (by,) = kinds
        path = (*path, by)
        ends = body[by]
        what = {
            "steps": "the first and the last step, counted from 0, as in [0, 9]",
            "fraction": "from where to where, as parts of the sampling, as in [0, 0.5]",
            "t": "from which noise level to which, as in [1, 0.5]; 1 is noise alone",
        }
        if not isinstance(ends, list) or len(ends) != 2:
            self.wrong(path, f"must be {what[by]}")
            return None
        before = len(self.problems)
        first, last = (self.end(by, end, (*path, i)) for i, end in enumerate(ends))
        told = len(self.problems) > before
        if not told and not isinstance(first, Ref) and not isinstance(last, Ref):
            if last < first and by != "t":
                self.wrong(path, f"ends before it begins: {last} is less than {first}")
            elif last == first and by != "steps":
                self.wrong(path, f"is empty: it begins and ends at {first}")
        return WhenSpec(by, first, last)

    def end(self, by: By, value: Any, path: KeyPath) -> float | Ref:
        """An end of a window."""
        given = self.or_ref(value)
        if isinstance(given, Ref):
            return given
        if by == "steps":
            return self.integer(value, path)
        number = self.number(value, path)
        if not 0 <= number <= 1:
            self.wrong(path, f"must lie between 0 and 1, not {number:g}")
        return number

    def _windows(self, name: str, value: Any, path: KeyPath) -> Axis:
        """An axis of windows: a list of them, or so many equal parts of the sampling."""
        if isinstance(value, list):
            given = self.items(value, path, "windows")
            found = [self.when(v, (*path, i)) for i, v in enumerate(given)]
            windows = []
            for i, window in enumerate(found):
                if not isinstance(window, WhenSpec):
                    if window is not None:
                        self.wrong((*path, i), "an axis cannot refer to another here")
                elif isinstance(window.first, Ref) or isinstance(window.last, Ref):
                    self.wrong((*path, i), "an axis cannot refer to another here")
                else:
                    windows.append(When(window.by, window.first, window.last))
        else:
            if not isinstance(value, int) or not 2 <= value <= PARTS:
                self.wrong(path, "must be a list of windows, as in [{steps: [0, 4]}], or a number"
                           f" of equal parts from 2 to {PARTS}, not {kind_of(value)}")  # fmt: skip
                value = 2
            count = int(value)
            windows = [When("fraction", i / count, (i + 1) / count) for i in range(count)]
        labels = tuple(map(str, windows))
        self.distinct(labels, path)
        return Axis(name, "windows", values=labels, windows=tuple(windows))

    # ------------------------------------------------------------ conditions

    def sampling(self, value: Any) -> Sampling:
        """Sampling settings, those not given at their defaults."""
        path: KeyPath = ("sampling",)
        given = {k: v for k, v in self.mapping(value, path, SAMPLING).items() if k in SAMPLING}
        return Sampling(**{k: self._condition(k, v, (*path, k)) for k, v in given.items()})

    def _condition(self, key: str, value: Any, path: KeyPath) -> Any:
        match key:
            case "seed" | "perturbation_seed":
                return self.integer(value, path)
            case "num_inference_steps" | "steps":
                return self.integer(value, path, least=1)
            case "guidance_scale":
                return float(self.number(value, path))
            case "width" | "height":
                size = self.integer(value, path, least=8)
                if size % 8:
                    self.wrong(path, f"must be a multiple of 8, not `{value}`")
                return size
            case "scheduler":
                name = self.text(value, path)
                self.schedulers.append((name, self.at(path)))
                return name
        return self.text(value, path)  # prompts

    # ------------------------------------------------------------ axes

    def axes(self, value: Any) -> tuple[Axis, ...]:
        """All axes, by the names that the mapping gives them."""
        if not isinstance(value, dict):
            self.wrong(("axes",), f"must be a mapping from names to axes, not {kind_of(value)}")
            return ()
        axes = []
        for name, body in value.items():
            path: KeyPath = ("axes", name)
            if not re.fullmatch(r"[A-Za-z_]\w*", name):
                self.wrong(path, "an axis is named by letters, digits and `_`")
            axes.append(self._axis(name, body, path))
        return tuple(axes)

    def _axis(self, name: str, value: Any, path: KeyPath) -> Axis:
        if isinstance(value, list):
            self.wrong(path, "must be a mapping; write `{values: [...]}`")
            return Axis(name, "values")
        body = self.mapping(value, path, (*AXIS_FORMS, "step"))
        forms = [f for f in AXIS_FORMS if f in body]
        if len(forms) != 1 or not isinstance(value, dict):
            if isinstance(value, dict) and (forms or not set(body) - {"step"}):
                has = f"has {' and '.join(forms)}" if forms else "has none"
                self.wrong(path, f"an axis has exactly one of {', '.join(AXIS_FORMS)}; this {has}")
            return Axis(name, "values")
        form = forms[0]
        if form not in NUMERIC and name in (*CONDITION_AXES, "perturbation_seed"):
            other = {"embedding": "points of embedding space", "windows": "windows"}
            what = other.get(form, "modules")
            self.wrong((*path, form), f"gives {what}; the axis `{name}` needs `values`")
            return Axis(name, "values")
        inner = (*path, form)
        if "step" in body and form != "range":
            self.wrong((*path, "step"), f"`step` goes with `range`, not with `{form}`")
        match form:
            case "each" | "each_head" | "each_channel":
                # Attention layers are blocks, and have heads.
                chosen, component = self._each(body[form], inner, blocks=form == "each_head")
                return Axis(name, form, modules=chosen, component=component)
            case "group":
                group = self.mapping(body["group"], inner, ("modules", "component", "by"))
                by = self.choice(group.get("by", "stage"), (*inner, "by"), GROUPINGS)
                component = self._component(group, inner)
                chosen = self.selector(group.get("modules", "*"), (*inner, "modules"), component)
                return Axis(name, "group", modules=chosen, component=component, by=by)
            case "cumulative":
                return self._cumulative(name, body["cumulative"], inner)
            case "windows":
                return self._windows(name, body["windows"], inner)
            case "embedding":
                return self._embedding(name, body["embedding"], inner)
        values = self._values(body, form, path)
        self.distinct(values, inner)
        if name in (*CONDITION_AXES, "perturbation_seed"):
            values = tuple(self._condition(name, v, (*inner, i)) for i, v in enumerate(values))
        return Axis(name, "values", values=values)

    def _each(self, value: Any, path: KeyPath, *, blocks: bool) -> tuple[Selector, str | None]:
        """A selector, or a mapping with one and its component."""
        if not isinstance(value, dict) or not {"modules", "component"} & set(value):
            return self.selector(value, path, blocks=blocks), None
        body = self.mapping(value, path, ("modules", "component"))
        component = self._component(body, path)
        inner = (*path, "modules")
        chosen = self.selector(body.get("modules", "*"), inner, component, blocks=blocks)
        return chosen, component

    def _component(self, body: dict[str, Any], path: KeyPath) -> str | None:
        if "component" not in body:
            return None
        return self.text(body["component"], (*path, "component"))

    def _embedding(self, name: str, value: Any, path: KeyPath) -> Axis:
        spaces = self.spaces(value, path)
        labels = tuple(label for space in spaces for label in space.labels)
        values = labels if isinstance(value, list) else spaces[0].numbers or labels
        return Axis(name, "embedding", values=values, spaces=spaces)

    def _cumulative(self, name: str, value: Any, path: KeyPath) -> Axis:
        body = self.mapping(value, path, CUMULATIVE)
        order = self.choice(body.get("order", "network"), (*path, "order"), ORDERS)
        seed = self.or_ref(body.get("seed", 0))
        if not isinstance(seed, Ref):
            seed = self.integer(seed, (*path, "seed"))
        run = self.text(body["run"], (*path, "run")) if "run" in body else None
        if order == "drift" and run is None:
            self.wrong(path, "`order: drift` needs `run:`, the folder of a run in which each"
                       " module was edited in turn")  # fmt: skip
        for key, needed in (("run", "drift"), ("seed", "random")):
            if key in body and order != needed:
                self.wrong((*path, key), f"`{key}` goes with `order: {needed}`, not `{order}`")
        component = self._component(body, path)
        return Axis(
            name,
            "cumulative",
            modules=self.selector(body.get("modules", "*"), (*path, "modules"), component),
            component=component,
            order=next(o for o in ORDERS if o == order),
            seed=seed,
            counts=self._counts(body["counts"], (*path, "counts")) if "counts" in body else None,
            run=run,
        )

    def _counts(self, value: Any, path: KeyPath) -> tuple[int, ...] | None:
        """Numbers of modules: a list, or an axis of numbers, rounded."""
        if not isinstance(value, dict):
            found = self.items(value, path, "whole numbers")
            self.distinct(found, path)
            return tuple(self.integer(c, (*path, i)) for i, c in enumerate(found))
        counts = tuple(dict.fromkeys(round(n) for n in self._numbers(value, path)))
        if counts and min(counts) < 0:
            inner = (*path, next(form for form in NUMERIC if form in value))
            self.wrong(inner, f"gives {min(counts)}; there are no fewer than 0 modules")
        return counts or None


def _strings(selector: Any) -> Iterable[str]:
    """The selector strings in a selector, however deep. Raises `SelectorError` when malformed."""
    match selector:
        case str() if selector.startswith("$") and len(selector) > 1:
            raise SelectorError(f"`{selector}`, an axis, stands alone: `modules: {selector}`")
        case str() if selector:
            yield selector
        case list() if selector:
            for item in selector:
                yield from _strings(item)
        case {"not": inner, **rest} if not rest:
            yield from _strings(inner)
        case {"sample": {"of": inner, "count": int(count), **rest}} if count > 0 and all(
            key == "seed" and type(seed) is int for key, seed in rest.items()
        ):
            yield from _strings(inner)
        case dict():
            raise SelectorError(
                "a selector that is a mapping is `{not: S}` or"
                " `{sample: {of: S, count: 3, seed: 0}}`, with a selector S"
            )
        case _:
            raise SelectorError(
                f'must be a selector, such as `"*"` or a list of them, not {kind_of(selector)}'
            )
