"""Axes: what varies, and how a recipe says so: numbers, modules, points of embedding space, and
prompts, seeds and sampling settings.

`AxisReader` reads them from a document and collects the mistakes.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

from ablate.catalog import FIELDS, Selector, SelectorError, did_you_mean, matcher
from ablate.document import Document, KeyPath, Problem, kind_of
from ablate.embeddings import PATHS, PROMPTS, Path

Order = Literal["network", "reverse", "random", "drift"]
ORDERS: tuple[Order, ...] = ("network", "reverse", "random", "drift")
GROUPINGS = FIELDS[::-1]
NUMERIC = ("values", "range", "linspace", "geomspace")
AXIS_FORMS = (*NUMERIC, "each", "group", "cumulative", "embedding")
CUMULATIVE = ("modules", "order", "seed", "counts", "run")
SPACES = {  # sets of points of embedding space, with their keys
    "between": ("from", "to", "t", "path"),
    "plane": ("center", "toward", "extent", "size", "zoom"),
    "random": ("count", "seed", "prompts"),
    "unconditional": (),
}
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
CONDITION_AXES = ("prompt", "seed", "steps", *SAMPLING)


@dataclass(frozen=True)
class Ref:
    """`$name` in a recipe: the value of an axis."""

    axis: str


@dataclass(frozen=True)
class Space:
    """A set of points of embedding space as the recipe gives it.

    `prompts`: from and to; the center and its two directions (a number is the seed of a random
    one); or those whose spread random points have. `numbers`: every t; the coordinates along each
    direction; or the number of every random point.
    """

    form: str
    prompts: tuple[str | int | Ref, ...] = ()
    numbers: tuple[float, ...] = ()
    path: Path = "lerp"
    zoom: tuple[float, ...] | None = None
    seed: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """How points are told apart among those of several spaces."""
        if not self.numbers:
            return (self.form,)
        name = "t" if self.form == "between" else f"{self.form} {self.seed}"
        return tuple(f"{name} {number:.10g}" for number in self.numbers)


@dataclass(frozen=True)
class Axis:
    """An axis as the recipe gives it.

    `form` is `values`, with the values; `each`, `group` or `cumulative`, with a selector whose
    modules are known only beside a network; or `embedding`, with spaces.
    """

    name: str
    form: Literal["values", "each", "group", "cumulative", "embedding"]
    values: tuple[Any, ...] = ()
    modules: Selector = "*"
    by: str = "stage"
    order: Order = "network"
    seed: int | Ref = 0
    counts: tuple[int, ...] | None = None
    run: str | None = None
    spaces: tuple[Space, ...] = ()

    @property
    def size(self) -> int | None:
        """How many values it has, None until a network is known."""
        return len(self.values) if self.form in ("values", "embedding") else None


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
            what = "points of embedding space" if form == "embedding" else "modules"
            self.wrong((*path, form), f"gives {what}; the axis `{name}` needs `values`")
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
            case "embedding":
                return self._embedding(name, body["embedding"], inner)
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
        counts = tuple(dict.fromkeys(round(n) for n in self._numbers(value, path)))
        if counts and min(counts) < 0:
            inner = (*path, next(form for form in NUMERIC if form in value))
            self.wrong(inner, f"gives {min(counts)}; there are no fewer than 0 modules")
        return counts or None

    def _numbers(self, value: Any, path: KeyPath) -> tuple[float, ...]:
        """A list of numbers, or what gives one: `range`, `linspace`, `geomspace`."""
        if not isinstance(value, dict):
            found = self.items(value, path, "numbers")
            self.distinct(found, path)
            return tuple(self.number(v, (*path, i)) for i, v in enumerate(found))
        body = self.mapping(value, path, (*NUMERIC, "step"))
        forms = [form for form in NUMERIC if form in body]
        if len(forms) != 1:
            if forms or not set(body) - {"step"}:
                has = " and ".join(forms) or "none"
                self.wrong(path, f"must have exactly one of {', '.join(NUMERIC)}; this has {has}")
            return ()
        values = self._values(body, forms[0], path)
        return tuple(self.number(v, (*path, forms[0], i)) for i, v in enumerate(values))

    # ------------------------------------------------------------ points of embedding space

    def _embedding(self, name: str, value: Any, path: KeyPath) -> Axis:
        """One space, or a list of those that have one dimension."""
        if isinstance(value, list) and value:
            spaces = tuple(self._space(v, (*path, i)) for i, v in enumerate(value))
            for i, space in enumerate(spaces):
                if space.form == "plane":
                    self.wrong((*path, i), "a plane, with its two dimensions, stands alone")
            labels = [label for space in spaces for label in space.labels]
            self.distinct(labels, path)
            return Axis(name, "embedding", values=tuple(labels), spaces=spaces)
        space = self._space(value, path)
        values = space.numbers or space.labels
        return Axis(name, "embedding", values=values, spaces=(space,))

    def _space(self, value: Any, path: KeyPath) -> Space:
        if value == "unconditional":
            return Space("unconditional")
        if not isinstance(value, dict) or len(value) != 1:
            what = kind_of(value) if not isinstance(value, dict) else "a mapping with several keys"
            self.wrong(path, f"must be one of {', '.join(SPACES)}, as in"
                       " `between: {from: a cat, to: a dog, t: [0, 0.5, 1]}`, not"
                       f" {what}")  # fmt: skip
            return Space("unconditional")
        form, body = next(iter(value.items()))
        if form not in SPACES or form == "unconditional":
            hint = did_you_mean(form, SPACES) or f"; there are {', '.join(SPACES)}"
            self.wrong((*path, form), f"embedding space has no `{form}`{hint}")
            return Space("unconditional")
        path = (*path, form)
        body = self.mapping(body, path, SPACES[form])
        match form:
            case "between":
                return self._between(body, path)
            case "plane":
                return self._plane(body, path)
        count = self.integer(self._needed(body, "count", path, 1), (*path, "count"), least=1)
        seed = self.integer(body.get("seed", 0), (*path, "seed"))
        prompts = self.items(body.get("prompts", list(PROMPTS)), (*path, "prompts"), "prompts")
        texts = tuple(self.text(p, (*path, "prompts", i)) for i, p in enumerate(prompts))
        self.distinct(prompts, (*path, "prompts"))
        if len(texts) == 1:
            self.wrong((*path, "prompts"), "a single prompt has no spread; name several")
        return Space("random", texts, tuple(range(min(count, MOST))), seed=seed)

    def _between(self, body: dict[str, Any], path: KeyPath) -> Space:
        ends = tuple(self._prompt(body, key, path) for key in ("from", "to"))
        ts = self._numbers(self._needed(body, "t", path, [0]), (*path, "t"))
        way = self.choice(body.get("path", "lerp"), (*path, "path"), PATHS)
        return Space("between", ends, ts, next(p for p in PATHS if p == way))

    def _plane(self, body: dict[str, Any], path: KeyPath) -> Space:
        center = self._prompt(body, "center", path)
        toward = self._needed(body, "toward", path, ["", 0])
        inner = (*path, "toward")
        if not isinstance(toward, list) or len(toward) != 2:
            self.wrong(inner, "must be two directions, each a prompt or the seed of a random one,"
                       f" not {kind_of(toward)}")  # fmt: skip
            toward = []
        directions = tuple(
            self.integer(t, (*inner, i)) if isinstance(t, int) else self._text((*inner, i), t)
            for i, t in enumerate(toward)
        )
        extent = self.number(body.get("extent", 1), (*path, "extent"))
        size = self.integer(self._needed(body, "size", path, 3), (*path, "size"), least=3)
        if extent <= 0:
            self.wrong((*path, "extent"), f"must be above 0, not {kind_of(extent)}")
        if size % 2 == 0:
            self.wrong((*path, "size"), f"must be odd, so that the center is in it, not {size}")
        half = size // 2
        numbers = tuple(float(f"{extent * (i - half) / half:.10g}") for i in range(min(size, 999)))
        zoom = self._numbers(body["zoom"], (*path, "zoom")) if "zoom" in body else None
        if zoom and min(zoom) <= 0:
            self.wrong((*path, "zoom"), f"must be above 0, not {min(zoom):.10g}")
        return Space("plane", (center, *directions), numbers, zoom=zoom)

    def _needed(self, body: dict[str, Any], key: str, path: KeyPath, otherwise: Any) -> Any:
        if key not in body:
            self.wrong(path, f"`{key}` is missing")
        return body.get(key, otherwise)

    def _prompt(self, body: dict[str, Any], key: str, path: KeyPath) -> str | Ref:
        return self._text((*path, key), self._needed(body, key, path, ""))

    def _text(self, path: KeyPath, value: Any) -> str | Ref:
        """A prompt, or the reference to an axis of prompts."""
        found = self.or_ref(value)
        return found if isinstance(found, Ref) else self.text(value, path)


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
