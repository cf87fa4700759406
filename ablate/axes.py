"""Axes: what varies, and how a recipe says so; prompts, seeds and sampling settings among them.

`AxisReader` reads them from a document and collects the mistakes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from ablate.catalog import FIELDS, Selector, SelectorError, matcher
from ablate.document import Document, KeyPath, Problem, kind_of

Order = Literal["network", "reverse", "random", "drift"]
ORDERS: tuple[Order, ...] = ("network", "reverse", "random", "drift")
GROUPINGS = FIELDS[::-1]
NUMERIC = ("values", "range", "linspace", "geomspace")
AXIS_FORMS = (*NUMERIC, "each", "group", "cumulative")
CUMULATIVE = ("modules", "order", "seed", "counts", "run")
MOST = 100_000  # values of an axis; more is a slip of the pen


@dataclass(frozen=True)
class Sampling:
    """How images are sampled. `scheduler` None: the model's own. Sizes in pixels, None: its own."""

    num_inference_steps: int = 20
    guidance_scale: float = 5.0
    scheduler: str | None = None
    negative_prompt: str = ""
    width: int | None = None
    height: int | None = None


SAMPLING = tuple(f.name for f in fields(Sampling))
CONDITION_AXES = ("prompt", "seed", *SAMPLING)


@dataclass(frozen=True)
class Ref:
    """`$name` in a recipe: the value of an axis."""

    axis: str


@dataclass(frozen=True)
class Axis:
    """An axis as the recipe gives it.

    `form` is `values`, with the values; or `each`, `group` or `cumulative`, with a selector whose
    modules are known only beside a network.
    """

    name: str
    form: Literal["values", "each", "group", "cumulative"]
    values: tuple[Any, ...] = ()
    modules: Selector = "*"
    by: str = "stage"
    order: Order = "network"
    seed: int | Ref = 0
    counts: tuple[int, ...] | None = None
    run: str | None = None


class AxisReader(Document):
    """Reads axes, selectors and sampling settings.

    `selectors` and `schedulers` are those found, each with the problem to report when a network
    or diffusers does not know them.
    """

    def __init__(self, file: str | None) -> None:
        super().__init__(file)
        self.selectors: list[tuple[Selector, Problem]] = []
        self.schedulers: list[tuple[str, Problem]] = []

    def selector(self, value: Any, path: KeyPath) -> Selector:
        """A selector that is well formed, whatever it matches."""
        try:
            for text in _strings(value):
                matcher(text)
        except SelectorError as error:
            self.wrong(path, str(error))
            return "*"
        self.selectors.append((value, self.at(path)))
        chosen: Selector = value
        return chosen

    def or_ref(self, value: Any) -> Any:
        """The value, or the reference to an axis that `$name` is."""
        is_ref = isinstance(value, str) and value.startswith("$") and len(value) > 1
        return Ref(value[1:]) if is_ref else value

    def distinct(self, values: Sequence[Any], path: KeyPath) -> None:
        """Values that a list gives, each to stand in it once."""
        kinds = [(isinstance(v, bool), v) for v in values]  # `true` is not 1
        for i, value in enumerate(values):
            if kinds[i] in kinds[:i]:
                self.wrong((*path, i), f"`{value}` stands twice")

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
            case "num_inference_steps":
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
            self.wrong((*path, form), f"gives modules; the axis `{name}` needs `values`")
            return Axis(name, "values")
        inner = (*path, form)
        if "step" in body and form != "range":
            self.wrong((*path, "step"), f"`step` goes with `range`, not with `{form}`")
        match form:
            case "each":
                return Axis(name, "each", modules=self.selector(body["each"], inner))
            case "group":
                group = self.mapping(body["group"], inner, ("modules", "by"))
                by = self.choice(group.get("by", "stage"), (*inner, "by"), GROUPINGS)
                chosen = self.selector(group.get("modules", "*"), (*inner, "modules"))
                return Axis(name, "group", modules=chosen, by=by)
            case "cumulative":
                return self._cumulative(name, body["cumulative"], inner)
        values = self._values(body, form, path)
        self.distinct(values, inner)
        if name in (*CONDITION_AXES, "perturbation_seed"):
            values = tuple(self._condition(name, v, (*inner, i)) for i, v in enumerate(values))
        return Axis(name, "values", values=values)

    def _values(self, body: dict[str, Any], form: str, path: KeyPath) -> tuple[Any, ...]:
        """The values that `values`, `range`, `linspace` or `geomspace` gives."""
        inner = (*path, form)
        if form == "values":
            return tuple(self.items(body["values"], inner, "values"))
        length = 2 if form == "range" else 3
        given = self.items(body[form], inner, f"{length} numbers")
        numbers = [self.number(v, (*inner, i)) for i, v in enumerate(given)]
        if len(numbers) != length:
            shape = "[first, last]" if form == "range" else "[first, last, count]"
            if given:
                self.wrong(inner, f"must be {shape}, not {len(numbers)} numbers")
            return ()
        first, last = numbers[:2]
        if form == "range":
            if "step" not in body:
                self.wrong(path, "`range` needs a `step`")
                return ()
            step = abs(self.number(body["step"], (*path, "step")))
            if not step:
                self.wrong((*path, "step"), "must not be 0")
                return ()
            count = self._count(abs(last - first) / step + 1e-9 + 1, inner)
            step = math.copysign(step, last - first)
            values = [first + i * step for i in range(count)]
        else:
            count = self._count(self.integer(numbers[2], (*inner, 2), least=1), inner)
            shares = [i / max(count - 1, 1) for i in range(count)]
            if form == "geomspace":
                if first * last <= 0:
                    self.wrong(inner, "must be from and to numbers of one sign, neither of them 0")
                    return ()
                values = [first * (last / first) ** s for s in shares]
            else:
                values = [first + (last - first) * s for s in shares]
        # Ten digits: 0.1 + 0.2 is 0.3 to whoever wrote the recipe.
        rounded = [float(f"{v:.10g}") for v in values]
        if isinstance(first, int) and isinstance(last, int) and all(map(float.is_integer, rounded)):
            return tuple(round(v) for v in values)
        return tuple(rounded)

    def _count(self, count: float, path: KeyPath) -> int:
        if count > MOST:
            self.wrong(path, f"gives {count:.0f} values; {MOST} is the most")
            return 0
        return math.floor(count)

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
        return Axis(
            name,
            "cumulative",
            modules=self.selector(body.get("modules", "*"), (*path, "modules")),
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
        body = self.mapping(value, path, (*NUMERIC, "step"))
        forms = [form for form in NUMERIC if form in body]
        if len(forms) != 1:
            if forms or not set(body) - {"step"}:
                has = " and ".join(forms) or "none"
                self.wrong(path, f"must have exactly one of {', '.join(NUMERIC)}; this has {has}")
            return None
        inner = (*path, forms[0])
        numbers = (
            self.number(v, (*inner, i)) for i, v in enumerate(self._values(body, forms[0], path))
        )
        counts = tuple(dict.fromkeys(round(n) for n in numbers))
        if counts and min(counts) < 0:
            self.wrong(inner, f"gives {min(counts)}; there are no fewer than 0 modules")
        return counts


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
