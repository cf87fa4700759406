"""Selectors: how recipes and calls name modules of a catalog."""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import regex

from ablate.messages import RequestError, did_you_mean, shown
from ablate.network.modules import Catalog, ModuleInfo

Selector = str | Mapping[str, Any] | Sequence[Any]
FIELDS = ("kind", "role", "stage", "block")
LONGEST = 1000  # characters of one string of a selector
PATIENCE = 1.0  # seconds that a regular expression may search one path


class SelectorError(RequestError, ValueError):
    """A selector that is malformed or matches nothing; the message says which and why."""


def select(
    selector: Selector, modules: Sequence[ModuleInfo], *, blocks: bool = False
) -> tuple[ModuleInfo, ...]:
    """The modules that a selector matches, in catalog order.

    Args:
        selector: A string is a glob over module paths (`*` crosses dots), a pattern after `re:`, a
            number or range (`#3`, `#0-#40`), or `kind=`, `role=`, `stage=`, `block=` with a glob. A
            list is the union of its items; an item `{not: S}` removes S from the items before it,
            or from all modules if it is the first. `{sample: {of: S, count: n, seed: s}}` draws n
            of S.
        modules: A catalog or some of its rows.
        blocks: Let a string that matches no module select among the blocks of a `Catalog`
            (`mid_block`, `*.attn1`, `kind=BasicTransformerBlock`); they come after the modules. A
            removed block goes with all modules inside.

    Raises:
        SelectorError: The selector is malformed or matches nothing.
    """
    extra = modules.blocks if blocks and isinstance(modules, Catalog) else ()
    chosen = _Selection(modules, extra).nonempty(selector)
    return tuple(m for m in (*modules, *extra) if m in chosen)


class _Selection:
    """Selects among `modules`, and among `blocks` where a string matches no module."""

    def __init__(self, modules: Sequence[ModuleInfo], blocks: Sequence[ModuleInfo]) -> None:
        self.modules, self.blocks = modules, blocks

    def nonempty(self, selector: Selector, *, out: bool = False) -> set[ModuleInfo]:
        """The rows that a selector matches; `out`: they are to be removed from others."""
        chosen = self.rows(selector, out)
        if not chosen:
            raise SelectorError(_nothing(selector, self.modules))
        return chosen

    def rows(self, selector: Selector, out: bool) -> set[ModuleInfo]:
        match selector:
            case str():
                return self.named(selector, out)
            case {"not": inner, **rest} if not rest:
                return set(self.modules) - self.nonempty(inner, out=True)
            case {"sample": {"of": inner, "count": int(count), **rest}} if not set(rest) - {"seed"}:
                matches = sorted(self.nonempty(inner), key=lambda m: (m.path, m.parameters))
                if not 1 <= count <= len(matches):
                    raise SelectorError(
                        f"sample asks for {count} modules of {len(matches)} that `{inner}` matches"
                    )
                return set(random.Random(str(rest.get("seed", 0))).sample(matches, count))
            case Mapping():
                raise SelectorError(
                    f"a selector mapping is {{not: S}} or {{sample: {{of: S, count: n, seed: s}}}},"
                    f" not {shown(selector)}"
                )
            case Sequence():
                chosen: set[ModuleInfo] = set()
                for i, item in enumerate(selector):
                    if isinstance(item, Mapping) and set(item) == {"not"}:
                        start = set(self.modules) if i == 0 else chosen
                        chosen = start - self.nonempty(item["not"], out=True)
                    else:
                        chosen |= self.nonempty(item, out=out)
                return chosen
        raise SelectorError(f"a selector is a string, a list or a mapping, not {shown(selector)}")

    def named(self, text: str, out: bool) -> set[ModuleInfo]:
        matches = matcher(text)
        modules = {m for m in self.modules if matches(m)}
        if text.startswith("#") or (modules and not out):
            return modules
        blocks = {m for m in self.blocks if matches(m)}
        if not out or modules:
            return modules | blocks
        within = tuple(f"{m.path}." for m in blocks)
        inside = {m for m in (*self.modules, *self.blocks) if m.path.startswith(within)}
        return inside | blocks | {m for m in self.modules if f"{m.path}." in within}


def matcher(text: str) -> Callable[[ModuleInfo], bool]:
    """The test of a row for one selector string. Raises `SelectorError` for a malformed string."""
    if len(text) > LONGEST:
        raise SelectorError(f"a selector of {len(text):,} characters; {LONGEST:,} is the most")
    if text.startswith("re:"):
        return _searcher(text)
    if text.startswith("#"):
        span = re.fullmatch(r"#(\d+)(?:-#?(\d+))?", text)
        if span is None:
            raise SelectorError(f"`{text}` is no module number; write `#3` or `#0-#40`")
        low, high = int(span[1]), int(span[2] or span[1])
        return lambda m: low <= m.number <= high
    field, equals, value = text.partition("=")
    if equals:
        if field not in FIELDS:
            raise SelectorError(
                f"`{text}`: modules have no `{field}`{did_you_mean(field, FIELDS)};"
                f" use {', '.join(f'{f}=' for f in FIELDS)}"
            )
        return lambda m: fnmatchcase(getattr(m, field), value)
    return lambda m: text == m.name or fnmatchcase(m.path, text)


def _searcher(text: str) -> Callable[[ModuleInfo], bool]:
    """The test of a row for a regular expression, which ends where it backtracks for ever."""
    try:
        re.compile(text[3:])  # the syntax is Python's
        pattern = regex.compile(text[3:])
    except (re.error, regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise SelectorError(f"`{shown(text)}` is no regular expression: {error}") from error

    def matches(m: ModuleInfo) -> bool:
        try:
            return pattern.search(m.path, timeout=PATIENCE) is not None
        except TimeoutError:
            message = f"`{shown(text)}` does not end on `{m.path}`: it repeats what repeats"
            raise SelectorError(message) from None

    return matches


def _nothing(selector: Selector, modules: Sequence[ModuleInfo]) -> str:
    if not isinstance(selector, str):
        return f"`{shown(selector)}` matches no module"
    text = selector
    if text.startswith("#"):
        return f"`{text}` matches no module; they are numbered #0 to #{len(modules) - 1}"
    field, equals, _ = text.partition("=")
    if equals:
        present = sorted({getattr(m, field) for m in modules})
        return f"`{text}` matches no module; {field} is one of {', '.join(present)}"
    if any(m.path.startswith(text.rstrip(".") + ".") for m in modules):
        return f"`{text}` is no module but has some; write `{text.rstrip('.')}.*`"
    plain = text.removeprefix("re:").strip("*.")
    paths = {m.path for m in modules}
    near = difflib.get_close_matches(plain, paths | {m.block for m in modules}, n=3, cutoff=0.6)
    names = ", ".join(name if name in paths else f"{name}.*" for name in near)
    nearest = f"; the nearest {'is' if len(near) == 1 else 'are'} {names}" if near else ""
    return f"`{text}` matches no module{nearest}"


def groups(
    modules: Sequence[ModuleInfo], by: str | Sequence[ModuleInfo]
) -> dict[str, tuple[str, ...]]:
    """Module paths by the value of a field, in the order in which the values first appear.

    Args:
        modules: The modules.
        by: The field, or blocks: then modules are in one group that are inside the same of these,
            the innermost one.

    Raises:
        SelectorError: A module is inside none of the blocks.
    """
    paths: dict[str, list[str]] = {}
    for module in modules:
        value = getattr(module, by) if isinstance(by, str) else _innermost(module, by)
        paths.setdefault(str(value), []).append(module.path)
    return {value: tuple(group) for value, group in paths.items()}


def _innermost(module: ModuleInfo, blocks: Sequence[ModuleInfo]) -> str:
    around = [b.path for b in blocks if f"{module.path}.".startswith(f"{b.path}.")]
    if not around:
        raise SelectorError(f"`{module.name}` is inside none of them")
    return max(around, key=len)
