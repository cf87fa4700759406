"""Lists of numbers and sets of points of embedding space, as a recipe gives them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ablate.messages import did_you_mean
from ablate.recipe.document import Document, KeyPath, kind_of
from ablate.sampling import INTERPOLATIONS, PROMPTS, Interpolation

NUMERIC = ("values", "range", "linspace", "geomspace")
SPACES = {  # sets of points of embedding space, with their keys
    "between": ("from", "to", "t", "path"),
    "plane": ("center", "toward", "extent", "size", "zoom"),
    "random": ("count", "seed", "prompts"),
    "unconditional": (),
}
MOST = 100_000  # values of an axis; more is a slip of the pen


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
    path: Interpolation = "lerp"
    zoom: tuple[float, ...] | None = None
    seed: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """How points are told apart among those of several spaces."""
        if not self.numbers:
            return (self.form,)
        name = "t" if self.form == "between" else f"{self.form} {self.seed}"
        return tuple(f"{name} {number:.10g}" for number in self.numbers)


class SpaceReader(Document):
    """Reads numbers and spaces."""

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

    # ------------------------------------------------------------ numbers

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

    def spaces(self, value: Any, path: KeyPath) -> tuple[Space, ...]:
        """One space, or a list of those that have one dimension."""
        if not isinstance(value, list) or not value:
            return (self._space(value, path),)
        spaces = tuple(self._space(v, (*path, i)) for i, v in enumerate(value))
        for i, space in enumerate(spaces):
            if space.form == "plane":
                self.wrong((*path, i), "a plane, with its two dimensions, stands alone")
        self.distinct([label for space in spaces for label in space.labels], path)
        return spaces

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
        way = self.choice(body.get("path", "lerp"), (*path, "path"), INTERPOLATIONS)
        return Space("between", ends, ts, next(p for p in INTERPOLATIONS if p == way))

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
