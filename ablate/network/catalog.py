"""The catalog: all modules of a component, numbered in forward order; and selectors over it.

A module is a `torch.nn.Module` that owns parameters itself. Building a catalog reads shapes only,
so that a network on the meta device, without weights, is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from ablate.network.hooks import tensors
from ablate.network.modules import Catalog, ModuleInfo
from ablate.network.roles import (
    attention_of,
    block_of,
    channels_of,
    heads_along,
    role_of,
    role_of_block,
    stage_of,
)

CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)  # mostly not called themselves


def build_catalog(network: nn.Module, run: Callable[[], object] | None = None) -> Catalog:
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
