"""The catalog: all modules of a component, numbered in forward order; and selectors over it.

A module is a `torch.nn.Module` that owns parameters itself. Building a catalog reads shapes only,
so that a network on the meta device, without weights, is enough.
"""

from __future__ import annotations

import difflib
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn

from ablate.modules import Catalog as Catalog
from ablate.modules import ModuleInfo as ModuleInfo
from ablate.modules import (
    attention_of,
    block_of,
    channels_of,
    heads_along,
    role_of,
    role_of_block,
    stage_of,
)
from ablate.scope import tensors

Selector = str | Mapping[str, Any] | Sequence[Any]
FIELDS = ("kind", "role", "stage", "block")
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)  # mostly not called themselves


class SelectorError(ValueError):
    """A selector that is not well formed or matches nothing; the message says which and why."""


def catalog(network: nn.Module, run: Callable[[], object] | None = None) -> Catalog:
    """All modules of a network that own parameters, in forward order; and its blocks.

    `run` calls the network once (on the meta device this costs nothing); modules are numbered in
    the order in which they first ran. Without it, or for modules that it never reaches, the order
    is that of registration. Blocks are the modules that hold others and were called, but for the
    network itself; without `run` all that are no mere containers.
    """
    modules = dict(network.named_modules())
    owners = {p: m for p, m in modules.items() if any(True for _ in m.parameters(recurse=False))}
    held = {outer for path in owners for outer in _outer(path) if outer != path and outer}
    holders = {path: module for path, module in modules.items() if path in held}
    first: dict[str, int] = {}
    passes: dict[str, bool] = {}
    if run is not None:
        for path in _calls({**owners, **holders}, run, passes):
            first.setdefault(path, len(first))
        holders = {path: module for path, module in holders.items() if path in first}
    else:
        holders = {p: m for p, m in holders.items() if not isinstance(m, CONTAINERS)}
    leaves = tuple(
        _row(number, path, network, modules) for number, path in enumerate(_ordered(owners, first))
    )
    inside: dict[str, list[ModuleInfo]] = {path: [] for path in holders}
    for leaf in leaves:
        for path in _outer(leaf.path):
            if path in inside:
                inside[path].append(leaf)
    blocks = (
        _block(number, path, modules, inside[path])
        for number, path in enumerate(_ordered(holders, first))
    )
    found = ((replace(m, passes=passes.get(m.path)) for m in some) for some in (leaves, blocks))
    return Catalog(*map(tuple, found))


def _outer(path: str) -> Iterator[str]:
    """A path and those of all modules that it lies in, without the network itself."""
    parts = path.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _ordered(found: Mapping[str, nn.Module], first: Mapping[str, int]) -> list[str]:
    """Paths by their first call. One that is never called follows what owns parameters around it,
    which may use its own without a call, as attention poolings do; any other comes last."""

    def place(path: str) -> tuple[int, int]:
        around = (outer for outer in reversed([*_outer(path)]) if outer in found)
        nearest = next((outer for outer in around if outer in first), None)
        return (len(first), 0) if nearest is None else (first[nearest], int(nearest != path))

    return sorted(found, key=place)


def _line(path: str, modules: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The modules from the network down to a path."""
    return [modules[""], *(modules[outer] for outer in _outer(path) if path)]


def heads_of(modules: Mapping[str, nn.Module], path: str) -> int:
    """Heads of the attention layer at a path, or that the projection there belongs to (those of
    keys and values where it makes them and they are fewer); else 0. `modules`: all of the network
    by path, the network itself too."""
    return heads_along(path, _line(path, modules))


def _row(
    number: int, path: str, network: nn.Module, modules: Mapping[str, nn.Module]
) -> ModuleInfo:
    module, line, stage = modules[path], _line(path, modules), stage_of(path, network)
    return ModuleInfo(
        number=number,
        path=path,
        kind=type(module).__name__,
        stage=stage,
        block=block_of(path),
        role=role_of(path, line, stage),
        parameters=sum(p.numel() for p in module.parameters(recurse=False)),
        channels=channels_of(module),
        heads=heads_along(path, line),
    )


def _block(
    number: int, path: str, modules: Mapping[str, nn.Module], inside: Sequence[ModuleInfo]
) -> ModuleInfo:
    module, line = modules[path], _line(path, modules)
    stages = {leaf.stage for leaf in inside}
    is_attention = attention_of(line) == len(line) - 1
    return ModuleInfo(
        number=number,
        path=path,
        kind=type(module).__name__,
        stage=stages.pop() if len(stages) == 1 else "several",
        block=block_of(path),
        role=role_of_block(path, inside),
        parameters=sum(p.numel() for p in module.parameters()),
        heads=heads_along(path, line) if is_attention else 0,
    )


def _calls(
    found: Mapping[str, nn.Module], run: Callable[[], object], passes: dict[str, bool]
) -> Iterable[str]:
    """Paths in the order of calls. `passes`: filled with which could pass their input on."""
    calls: list[str] = []
    handles = []

    def compare(path: str, given: object, output: object) -> None:
        shapes = [tensor.shape for tensor in tensors(given)]
        passes[path] = all(tensor.shape in shapes for tensor in tensors(output))

    try:
        for path, module in found.items():
            handles.append(
                module.register_forward_pre_hook(lambda _m, _args, path=path: calls.append(path))
            )
            handles.append(
                module.register_forward_hook(
                    lambda _m, args, kwargs, output, path=path: compare(
                        path, (args, kwargs), output
                    ),
                    with_kwargs=True,
                )
            )
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return calls


# ---------------------------------------------------------------- selectors


def select(
    selector: Selector, modules: Sequence[ModuleInfo], *, blocks: bool = False
) -> tuple[ModuleInfo, ...]:
    """The modules that a selector names, in catalog order.

    A string is a glob over module paths (`*` crosses dots), `re:` and a pattern, a number or range
    (`#3`, `#0-#40`), or `kind=`, `role=`, `stage=`, `block=` with a glob. A list is all of its
    items together; an item `{not: S}` takes S out of what stands before it (or of everything when
    it stands first). `{sample: {of: S, count: n, seed: s}}` draws n of S.

    With `blocks`, a string that names no module chooses among the blocks of a `Catalog`
    (`mid_block`, `*.attn1`, `kind=BasicTransformerBlock`); they come after the modules. A block
    that is taken out goes with all that it holds.

    Raises `SelectorError` when the selector is not well formed or matches nothing.
    """
    held = modules.blocks if blocks and isinstance(modules, Catalog) else ()
    chosen = _Selection(modules, held).nonempty(selector)
    return tuple(m for m in (*modules, *held) if m in chosen)


class _Selection:
    """Rows chosen among `modules`, and among `blocks` where a string matches no module."""

    def __init__(self, modules: Sequence[ModuleInfo], blocks: Sequence[ModuleInfo]) -> None:
        self.modules, self.blocks = modules, blocks

    def nonempty(self, selector: Selector, *, out: bool = False) -> set[ModuleInfo]:
        """What a selector matches; `out`: to be taken out of something."""
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
                found = sorted(self.nonempty(inner), key=lambda m: (m.path, m.parameters))
                if not 1 <= count <= len(found):
                    raise SelectorError(
                        f"sample asks for {count} modules of {len(found)} that `{inner}` matches"
                    )
                return set(random.Random(str(rest.get("seed", 0))).sample(found, count))
            case Mapping():
                raise SelectorError(
                    f"a selector mapping is {{not: S}} or {{sample: {{of: S, count: n, seed: s}}}},"
                    f" not {_brief(selector)}"
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
        raise SelectorError(f"a selector is a string, a list or a mapping, not {selector!r}")

    def named(self, text: str, out: bool) -> set[ModuleInfo]:
        fits = matcher(text)
        found = {m for m in self.modules if fits(m)}
        if text.startswith("#") or (found and not out):
            return found
        blocks = {m for m in self.blocks if fits(m)}
        if not out or found:
            return found | blocks
        within = tuple(f"{m.path}." for m in blocks)
        inside = {m for m in (*self.modules, *self.blocks) if m.path.startswith(within)}
        return inside | blocks | {m for m in self.modules if f"{m.path}." in within}


def matcher(text: str) -> Callable[[ModuleInfo], bool]:
    """The test that one selector string stands for. Raises `SelectorError` when malformed."""
    if text.startswith("re:"):
        try:
            pattern = re.compile(text[3:])
        except re.error as error:
            raise SelectorError(f"`{text}` is no regular expression: {error}") from error
        return lambda m: pattern.search(m.path) is not None
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
    return lambda m: fnmatchcase(m.path, text)


def _nothing(selector: Selector, modules: Sequence[ModuleInfo]) -> str:
    if not isinstance(selector, str):
        return f"`{_brief(selector)}` matches no module"
    text = selector
    if text.startswith("#"):
        return f"`{text}` matches no module; they are numbered #0 to #{len(modules) - 1}"
    field, equals, _ = text.partition("=")
    if equals:
        present = sorted({getattr(m, field) for m in modules})
        return f"`{text}` matches no module; {field} is one of {', '.join(present)}"
    if any(m.path.startswith(text.rstrip(".") + ".") for m in modules):
        return f"`{text}` is no module but holds some; write `{text.rstrip('.')}.*`"
    plain = text.removeprefix("re:").strip("*.")
    paths = {m.path for m in modules}
    near = difflib.get_close_matches(plain, paths | {m.block for m in modules}, n=3, cutoff=0.6)
    shown = ", ".join(name if name in paths else f"{name}.*" for name in near)
    nearest = f"; the nearest {'is' if len(near) == 1 else 'are'} {shown}" if near else ""
    return f"`{text}` matches no module{nearest}"


def _brief(selector: object) -> str:
    text = str(selector)
    return text if len(text) <= 80 else text[:77] + "..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`, did you mean ...?` for a near miss, else nothing."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f", did you mean `{near[0]}`?" if near else ""


def groups(modules: Sequence[ModuleInfo], by: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Module paths by the value of a field, in the order in which the values first appear."""
    found: dict[str, list[str]] = {}
    for module in modules:
        found.setdefault(str(getattr(module, by)), []).append(module.path)
    yield from ((name, tuple(paths)) for name, paths in found.items())
