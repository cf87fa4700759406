"""Hooks: watching modules, and the tensors in what they take and return."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def watched(
    network: nn.Module, paths: tuple[str, ...], ran: set[str] | None = None
) -> Iterator[set[str]]:
    """Yields a set, the one given or a new one, that fills with those of the paths that run."""
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


def tensors(value: Any) -> Iterator[Tensor]:
    """All tensors in what a module takes or gives, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)


def rebuilt(value: Any, found: Iterator[Tensor]) -> Any:
    """The same structure with other tensors, in their order."""
    if isinstance(value, Tensor):
        return next(found)
    if isinstance(value, Mapping):
        made = {name: rebuilt(item, found) for name, item in value.items()}
        return made if type(value) is dict else type(value)(**made)
    if isinstance(value, tuple | list):
        return type(value)(rebuilt(item, found) for item in value)
    return value
