"""Apply a variant to a network in place, with exact restore.

    with applied(network, Variant("no middle", (Edit.on(network, "zero", "mid_block.*"),))):
        ...  # the network is edited here, and afterwards bit for bit as before

Works on any `torch.nn.Module`. Memory: a copy of the edited tensors for as long as the context is
open.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablate.edits import ops
from ablate.edits.batch import EditReport, RowMap, moved
from ablate.edits.noise import NoiseCache
from ablate.edits.ops import OPS
from ablate.edits.outputs import edited_outputs, output_edits
from ablate.edits.variants import Edit, Variant
from ablate.network import ScopeError, Unit, heads_of, weight_entries

ACTIVE = "_ablate_active_edits"  # attribute of a network: how many `applied` are open on it


@dataclass(frozen=True)
class EditedParameter:
    """A parameter that a variant edits.

    Attributes:
        module: The path of the module that it belongs to.
        name: Its name in the module.
        parameter: The parameter itself.
        edits: The edits that apply to it, in order.
        owner: The module itself.
        heads: The number of heads of the attention layer that the module is a projection of, where
            an edit is of heads; else 0.
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
    """All parameters that a variant edits; a tensor that two modules share comes once.

    `modules` are those of the network by path. Raises `ValueError` if an edit, of weights or of
    outputs, names a path that is not among them.
    """
    seen: set[int] = set()
    by_module: dict[str, list[Edit]] = {}
    for edit in variant.edits:
        for path in edit.all_modules:
            if path not in modules:
                raise ValueError(f"variant `{variant.name}`: the network has no module `{path}`")
            if edit.where == "weights":
                by_module.setdefault(path, []).append(edit)
    for path, edits in by_module.items():
        owner = modules[path]
        for name, parameter in owner.named_parameters(recurse=False):
            applying = tuple(e for e in edits if e.params in (None, name))
            if applying and id(parameter) not in seen:
                seen.add(id(parameter))
                _check_plain(parameter, f"{path}.{name}")
                by_head = any(e.unit is not None and e.unit.kind == "heads" for e in applying)
                heads = heads_of(modules, path) if by_head else 0
                yield EditedParameter(path, name, parameter, applying, owner, heads)


def _check_plain(parameter: nn.Parameter, name: str) -> None:
    """Raise `ScopeError` for a parameter whose entries are not the weights themselves."""
    kind = type(parameter.data)
    if parameter.is_floating_point() and kind is Tensor and type(parameter) is nn.Parameter:
        return
    packed = parameter.dtype if kind is Tensor else kind.__name__
    raise ScopeError(
        f"`{name}` holds packed or quantized numbers ({packed}), which would be edited as if they"
        " were weights; load the network in float32, float16 or bfloat16"
    )


@torch.no_grad()
def edited_weights(
    target: EditedParameter,
    untouched: Tensor,
    perturbation_seed: int,
    noise_cache: NoiseCache,
    loaded: Callable[[str, str], Tensor],
) -> Tensor:
    """The weights of one parameter after its edits.

    Args:
        target: The parameter and its edits.
        untouched: Its weights as loaded; they are not changed.
        perturbation_seed: The seed of the variant.
        noise_cache: Draws the noise.
        loaded: Returns the weights of any parameter as loaded, by module path and name.
    """
    tensor = untouched
    for edit in target.edits:
        op = OPS[edit.op]
        if op.draws == "partner":
            partner = loaded(_partner(edit, target.module), target.name)
            noise = _matching(partner, untouched, target)
        elif op.draws == "checkpoint":
            other = noise_cache.checkpoint(
                edit.checkpoint, edit.component, target.module, target.name
            )
            noise = _matching(other, untouched, target)
        else:
            noise = noise_cache(
                op,
                untouched,
                seed=perturbation_seed,
                module=target.module,
                parameter=target.name,
                kind=edit.kind,
                owner=target.owner,
            )
        result = ops.apply(op, tensor, noise, edit.strength, edit.dose)
        tensor = result if edit.unit is None else _limited(tensor, result, target, edit.unit)
    return tensor


def _partner(edit: Edit, path: str) -> str:
    """The module that a module changes places with in a swap."""
    pairs = dict(zip(edit.modules, edit.partners, strict=True))
    return pairs[path] if path in pairs else {b: a for a, b in pairs.items()}[path]


def _matching(other: Tensor, untouched: Tensor, target: EditedParameter) -> Tensor:
    if other.shape != untouched.shape:
        raise ValueError(
            f"`{target.module}.{target.name}` has shape {tuple(untouched.shape)}; what would take"
            f" its place has {tuple(other.shape)}"
        )
    return other.to(untouched.device, torch.float32)


def _limited(before: Tensor, after: Tensor, target: EditedParameter, unit: Unit) -> Tensor:
    """The edited weights of some units among the unedited ones of the others."""
    entries = weight_entries(target.owner, target.module, before, unit, target.heads)
    if entries is None:
        return before
    dim, numbers = entries
    index = moved(torch.tensor(numbers), before.device)
    return before.index_copy(dim, index, after.index_select(dim, index))


@contextmanager
def applied(
    network: nn.Module, variant: Variant, noise_cache: NoiseCache | None = None
) -> Iterator[EditReport]:
    """Edit a network in place; afterwards every tensor is bit-identical to what it was.

    It is restored after errors and interruptions too.

    Args:
        network: Any module.
        variant: Its edits, of weights and outputs; their components are not looked at.
        noise_cache: Keeps noise from one variant to the next.

    Yields:
        What the edits did: weights that changed, and outputs, while the context is open.

    Raises:
        ValueError: An edit names a module that the network does not have.
    """
    noise_cache = noise_cache or NoiseCache()
    modules = dict(network.named_modules())
    saved: list[tuple[nn.Parameter, Tensor]] = []
    report = EditReport(variant.modules)
    swapped = {path for e in variant.edits if e.partners for path in e.all_modules}
    # Modules that change places need each other's weights as they were.
    before: dict[tuple[str, str], Tensor] = {
        (path, name): parameter.detach().clone()
        for path in swapped & modules.keys()
        for name, parameter in modules[path].named_parameters(recurse=False)
    }

    def loaded(path: str, name: str) -> Tensor:
        if (path, name) not in before:
            raise ValueError(f"`{path}` has no parameter `{name}` that could change places")
        return before[path, name]

    _count(network, 1)
    try:
        with torch.no_grad():
            for target in edited_parameters(modules, variant):
                untouched = target.parameter.detach().clone()
                saved.append((target.parameter, untouched))
                seed = variant.perturbation_seed
                weights = edited_weights(target, untouched, seed, noise_cache, loaded)
                target.parameter.data.copy_(weights)
                report.compare(target.module, target.parameter.data, untouched)
        with edited_outputs(modules, output_edits([variant]), RowMap(1), report):
            yield report
    finally:
        try:
            _restore(saved)
        finally:  # after an interruption too
            _count(network, -1)


def is_edited(network: nn.Module) -> bool:
    """Whether a network is edited by `applied`, so that earlier results are not valid for it."""
    return bool(vars(network).get(ACTIVE))


def _count(network: nn.Module, change: int) -> None:
    """Count the open contexts; on the network itself, so that `is_edited` needs no global state."""
    count = vars(network).pop(ACTIVE, 0) + change
    if count > 0:
        vars(network)[ACTIVE] = count


def _restore(saved: list[tuple[nn.Parameter, Tensor]]) -> None:
    interrupted: KeyboardInterrupt | None = None
    while True:
        try:
            while saved:
                with torch.no_grad():
                    # `.data` may be another tensor by now: offloaded networks move between devices.
                    saved[-1][0].data.copy_(saved[-1][1])
                saved.pop()
            break
        except KeyboardInterrupt as error:  # restore first, stop then
            interrupted = error
    if interrupted is not None:
        raise interrupted
