"""Edits and variants, and a variant's weights applied to a network in place, with exact restore.

    with applied(network, Variant("no middle", (Edit.on(network, "zero", "mid_block.*"),))):
        ...  # the network is edited here, and bit for bit as before afterwards

Works on any `torch.nn.Module`. Memory: a copy of the touched tensors, for as long as they are
edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablate.edits import ops
from ablate.edits.noise import NoiseCache
from ablate.edits.ops import OPS
from ablate.edits.outputs import RowMap, alterations, altered, heads_in
from ablate.edits.variants import Edit, Variant
from ablate.network import Unit, heads_of, weight_entries

ACTIVE = "_ablate_active_edits"  # attribute of an edited network: how many `applied` are open on it


@dataclass(frozen=True)
class EditedParameter:
    """A parameter that a variant edits, the module that owns it, and the edits that apply to it, in
    order. `heads`: of the attention layer that it is a projection of, where an edit asks.
    """

    module: str
    name: str
    parameter: nn.Parameter
    edits: tuple[Edit, ...]
    owner: nn.Module
    heads: int


def edited_parameters(
    modules: Mapping[str, nn.Module], variant: Variant
) -> Iterator[EditedParameter]:
    """All parameters that a variant edits. A tensor that two modules share is given once.

    `modules`: those of the network by path. Raises `ValueError` for a path that is not among them.
    """
    seen: set[int] = set()
    by_module: dict[str, list[Edit]] = {}
    for edit in variant.edits:
        for path in edit.all_modules:
            if path not in modules:
                raise ValueError(f"variant `{variant.name}`: the network has no module `{path}`")
            if edit.where == "weights":
                by_module.setdefault(path, []).append(edit)
    for path, applying in by_module.items():
        owner = modules[path]
        for name, parameter in owner.named_parameters(recurse=False):
            chosen = tuple(e for e in applying if e.params in (None, name))
            if chosen and id(parameter) not in seen:
                seen.add(id(parameter))
                by_head = any(e.unit is not None and e.unit.kind == "heads" for e in chosen)
                heads = heads_of(modules, path) if by_head else 0
                yield EditedParameter(path, name, parameter, chosen, owner, heads)


@torch.no_grad()
def edited_weights(
    item: EditedParameter,
    untouched: Tensor,
    perturbation_seed: int,
    draws: NoiseCache,
    weights: Callable[[str, str], Tensor],
) -> Tensor:
    """The weights of one parameter after its edits; `untouched`: as loaded, left as it is.

    `weights`: those of any module, by path and name of the parameter, as loaded.
    """
    tensor = untouched
    for edit in item.edits:
        op = OPS[edit.op]
        if op.draws == "partner":
            noise = _fitting(weights(_partner(edit, item.module), item.name), untouched, item)
        elif op.draws == "checkpoint":
            noise = draws.checkpoint(edit.checkpoint, edit.component, item.module, item.name)
            noise = _fitting(noise, untouched, item)
        else:
            noise = draws(
                op,
                untouched,
                seed=perturbation_seed,
                module=item.module,
                parameter=item.name,
                kind=edit.kind,
                owner=item.owner,
            )
        made = ops.apply(op, tensor, noise, edit.strength, edit.dose)
        tensor = made if edit.unit is None else _narrowed(tensor, made, item, edit.unit)
    return tensor


def _partner(edit: Edit, path: str) -> str:
    """The module that one of a swap's modules changes places with."""
    pairs = dict(zip(edit.modules, edit.partners, strict=True))
    return pairs[path] if path in pairs else {b: a for a, b in pairs.items()}[path]


def _fitting(found: Tensor, untouched: Tensor, item: EditedParameter) -> Tensor:
    if found.shape != untouched.shape:
        raise ValueError(
            f"`{item.module}.{item.name}` has shape {tuple(untouched.shape)}; what would take its"
            f" place has {tuple(found.shape)}"
        )
    return found.to(untouched.device, torch.float32)


def _narrowed(before: Tensor, after: Tensor, item: EditedParameter, unit: Unit) -> Tensor:
    """The edit where some units have their weights, and nowhere else."""
    found = weight_entries(item.owner, item.module, before, unit, item.heads)
    if found is None:
        return before
    dim, entries = found
    index = torch.tensor(entries, device=before.device)
    return before.index_copy(dim, index, after.index_select(dim, index))


@contextmanager
def applied(
    network: nn.Module, variant: Variant, draws: NoiseCache | None = None
) -> Iterator[set[str]]:
    """Edit a network in place; afterwards every tensor is bit-identical to what it was.

    Yields the paths of the modules in which at least one number changed, or, of edited outputs,
    will have. Restores after errors and interruptions too. `draws`: where noise comes from, and is
    kept.
    """
    draws = draws or NoiseCache()
    modules = dict(network.named_modules())
    saved: list[tuple[nn.Parameter, Tensor]] = []
    differs: list[tuple[str, Tensor | bool]] = []
    swapped = {path for e in variant.edits if e.partners for path in e.all_modules}
    # Modules that change places need each other's weights as they were.
    before = {(path, name): parameter.detach().clone() for path in swapped & modules.keys()
              for name, parameter in modules[path].named_parameters(recurse=False)}  # fmt: skip

    def as_loaded(path: str, name: str) -> Tensor:
        if (path, name) not in before:
            raise ValueError(f"`{path}` has no parameter `{name}` that could change places")
        weights: Tensor = before[path, name]
        return weights

    _count(network, 1)
    try:
        with torch.no_grad():
            for item in edited_parameters(modules, variant):
                untouched = item.parameter.detach().clone()
                saved.append((item.parameter, untouched))
                made = edited_weights(item, untouched, variant.perturbation_seed, draws, as_loaded)
                item.parameter.data.copy_(made)
                differs.append((item.module, _differs(item.parameter.data, untouched)))
        # Asked for when all are under way, so that a GPU is not waited for at each.
        changed = {path for path, differs_here in differs if differs_here}
        outputs = alterations(modules, [variant])
        heads = heads_in(modules, outputs)
        with altered(modules, outputs, RowMap(1), {}, heads, set(), changed):
            yield changed
    finally:
        try:
            _restore(saved)
        finally:  # after an interruption too
            _count(network, -1)


def is_edited(network: nn.Module) -> bool:
    """Whether a network is inside `applied`, so that results computed before do not hold for it."""
    return bool(vars(network).get(ACTIVE))


def _count(network: nn.Module, change: int) -> None:
    vars(network)[ACTIVE] = vars(network).get(ACTIVE, 0) + change


def _differs(one: Tensor, other: Tensor) -> Tensor | bool:
    """Whether two tensors differ; on a GPU as a tensor, which is there before its answer."""
    return not torch.equal(one, other) if one.device.type == "cpu" else (one != other).any()


def _restore(saved: list[tuple[nn.Parameter, Tensor]]) -> None:
    interrupted: KeyboardInterrupt | None = None
    while True:
        try:
            while saved:
                with torch.no_grad():
                    # Its tensor may be another by now: offloaded networks move between devices.
                    saved[-1][0].data.copy_(saved[-1][1])
                saved.pop()
            break
        except KeyboardInterrupt as error:  # restore first, stop then
            interrupted = error
    if interrupted is not None:
        raise interrupted
