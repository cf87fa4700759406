"""Watch which modules run, and reach the tensors in their inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def watched(
    network: nn.Module, paths: tuple[str, ...], ran: set[str] | None = None
) -> Iterator[set[str]]:
    """Record which of some modules run.

    Yields:
        The set of their paths, filled while the context is open: `ran` if given, else a new one.
    """
    ran = set() if ran is None else ran
    modules = dict(network.named_modules())
    handles = []
    try:
        for path in paths:
            handles.append(
                modules[path].register_forward_pre_hook(lambda _m, _a, path=path: ran.add(path))
            )
        yield ran
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Replace an object's method or attribute for as long as the context is open."""
    before = vars(owner).get(name)
    try:
        object.__setattr__(owner, name, value)
        yield
    finally:
        if before is None:
            vars(owner).pop(name, None)
        else:
            object.__setattr__(owner, name, before)


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in a module's input or output, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def rebuilt(value: Any, replacements: Iterator[Tensor]) -> Any:
    """The same structure with other tensors in the order of `tensors`."""
    if isinstance(value, Tensor):
        return next(replacements)
    if isinstance(value, Mapping):
        items = {name: rebuilt(item, replacements) for name, item in value.items()}
        return items if type(value) is dict else type(value)(**items)
    if isinstance(value, tuple | list):
        return type(value)(rebuilt(item, replacements) for item in value)
    return value
