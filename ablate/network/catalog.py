"""The catalog of a network: its modules with parameters, in forward order, and its blocks.

Only names, classes and shapes are read: a network on the meta device, without weights, is enough.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ablate.network.dataflow import Flow, FlowRecorder
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
    """The catalog of a network.

    Args:
        network: Any module; its submodules that have parameters themselves become the rows.
        run: Calls the network once; on the meta device this costs nothing. Rows are then in the
            order of their first call, and blocks are the submodules around others that were called.
            Without it, and for modules that are never called, the order is that of registration,
            and every submodule around others that is no mere container is a block.
    """
    modules = dict(network.named_modules())
    rows = {p: m for p, m in modules.items() if any(True for _ in m.parameters(recurse=False))}
    outer = {around for path in rows for around in _prefixes(path)[:-1]}
    blocks = {path: module for path, module in modules.items() if path in outer}
    first: dict[str, int] = {}
    keeps_shape: dict[str, bool] = {}
    flow: Flow | None = None
    if run is not None:
        with FlowRecorder(network.named_parameters(remove_duplicate=False)) as recorder:
            first, keeps_shape, result = _run_once({**rows, **blocks}, run)
        flow = recorder.finish(result)
        blocks = {path: module for path, module in blocks.items() if path in first}
    else:
        blocks = {p: m for p, m in blocks.items() if not isinstance(m, CONTAINERS)}
    infos = [_info(i, path, modules) for i, path in enumerate(_in_order(rows, first))]
    inside: dict[str, list[ModuleInfo]] = {path: [] for path in blocks}
    for info in infos:
        for path in _prefixes(info.path):
            if path in inside:
                inside[path].append(info)
    block_infos = [
        _info(i, path, modules, inside[path]) for i, path in enumerate(_in_order(blocks, first))
    ]

    def complete(infos: Sequence[ModuleInfo]) -> tuple[ModuleInfo, ...]:
        return tuple(replace(info, passes=keeps_shape.get(info.path)) for info in infos)

    return Catalog(complete(infos), complete(block_infos), flow)


def _prefixes(path: str) -> list[str]:
    """The paths of the modules around a module, outermost first, and its path."""
    parts = path.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _in_order(chosen: Mapping[str, nn.Module], first: Mapping[str, int]) -> list[str]:
    """Paths by their first call.

    A module that is never called follows the nearest module around it that has parameters, which
    may use it without a call, as attention pooling layers do. All others come last.
    """

    def position(path: str) -> tuple[int, int]:
        around = (p for p in reversed(_prefixes(path)) if p in chosen and p in first)
        nearest = next(around, None)
        return (len(first), 0) if nearest is None else (first[nearest], int(nearest != path))

    return sorted(chosen, key=position)


def _ancestry(path: str, modules: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The modules from the network down to a path."""
    return [modules[""], *(modules[outer] for outer in _prefixes(path) if path)]


def heads_of(modules: Mapping[str, nn.Module], path: str) -> int:
    """The number of heads of the attention layer at a path, or around the projection there.

    For projections of keys and values it is the number of their heads, where these are fewer; 0 for
    all other modules. `modules`: all of the network by path, the network itself (`""`) included.
    """
    return heads_along(path, _ancestry(path, modules))


def _info(
    number: int, path: str, modules: Mapping[str, nn.Module], inside: Sequence[ModuleInfo] = ()
) -> ModuleInfo:
    """The row of a module, or of a block with the rows of the modules inside."""
    module, ancestry = modules[path], _ancestry(path, modules)
    stages = {info.stage for info in inside} or {stage_of(path, modules[""])}
    stage = stages.pop() if len(stages) == 1 else "several"
    has_heads = not inside or attention_of(ancestry) == len(ancestry) - 1
    return ModuleInfo(
        number=number,
        path=path,
        kind=type(module).__name__,
        stage=stage,
        block=block_of(path),
        role=role_of_block(path, inside) if inside else role_of(path, ancestry, stage),
        parameters=sum(p.numel() for p in module.parameters(recurse=bool(inside))),
        channels=0 if inside else channels_of(module),
        heads=heads_along(path, ancestry) if has_heads else 0,
        takes=_arguments_of(module),
    )


def _arguments_of(module: nn.Module) -> tuple[str, ...]:
    parameters = inspect.signature(module.forward).parameters.values()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return tuple(p.name for p in parameters if p.kind not in several)


def _run_once(
    watched: Mapping[str, nn.Module], run: Callable[[], object]
) -> tuple[dict[str, int], dict[str, bool], object]:
    """The place of each module that runs in the order of first calls, and whether it keeps the
    shape of its input; both by path."""
    first: dict[str, int] = {}
    keeps_shape: dict[str, bool] = {}
    handles: list[RemovableHandle] = []

    def watch(path: str, module: nn.Module) -> None:
        def before(_module: nn.Module, _args: object) -> None:
            first.setdefault(path, len(first))

        def after(_module: nn.Module, args: object, kwargs: object, output: object) -> None:
            shapes = [tensor.shape for tensor in tensors((args, kwargs))]
            keeps_shape[path] = all(tensor.shape in shapes for tensor in tensors(output))

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after, with_kwargs=True))

    try:
        for path, module in watched.items():
            watch(path, module)
        with torch.no_grad():
            result = run()
    finally:
        for handle in handles:
            handle.remove()
    return first, keeps_shape, result
