"""Variants applied by rows: one batch, and in it a different network for every cell.

    with by_rows(network, [variant_0, variant_1, variant_2]) as applied:
        ...  # row r of whatever the network is called with belongs to cell r mod 3

A module that some variants edit computes their rows with the edited weights and the others as they
are; a module that all of them zero is not run at all. The network's own weights are never touched,
so that there is nothing to restore but the modules' `forward`.

Memory: the edited tensors of all different variants; zeroed modules cost nothing.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ablate.edits.in_place import EditedParameter, edited_parameters, edited_weights
from ablate.edits.noise import NoiseCache
from ablate.edits.outputs import NoRowsError, RowMap, alterations, altered, heads_in
from ablate.edits.variants import Reference, Variant
from ablate.network import watched

# Without weights these give zeros, whatever finite input they have, and always a tensor of their
# own. Subclasses may do otherwise.
LINEAR = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d,
    nn.ConvTranspose2d, nn.ConvTranspose3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding,
)  # fmt: skip
POSITIONS = ("img_ids", "txt_ids")
# Where fewer of a module's cells are edited than this, it is run on all rows at once and those of
# the edited cells are overwritten: gathering the others would cost more than it saves.
FEW = 0.25


@dataclass
class EditReport:
    """What became of the edits so far: paths of the modules that are edited, and of those that were
    changed by it and that ran.
    """

    edited: set[str] = field(default_factory=set)
    changed: set[str] = field(default_factory=set)
    ran: set[str] = field(default_factory=set)

    def add(self, other: EditReport) -> None:
        """Count what became of others."""
        self.edited |= other.edited
        self.changed |= other.changed
        self.ran |= other.ran


@contextmanager
def by_rows(
    network: nn.Module,
    variants: Sequence[Variant],
    draws: NoiseCache | None = None,
    cells: Sequence[int] | None = None,
    references: Mapping[Reference, int] | None = None,
) -> Iterator[EditReport]:
    """Apply `variants[c]` to the rows c, c + n, c + 2n ... of each call of the network.

    `cells`: which variant each cell takes, where cells of one variant have equal rows: these are
    computed once. Without it there is a cell a variant. `references`: which of the variants are the
    baseline at a condition that edits of outputs refer to.

    For sampling, without gradients. Raises `NoRowsError` where a module shares weights, computes
    them anew, has another `forward` than its class, or is called with an input that has no row for
    every row of the network's own input.
    """
    applied = EditReport()
    modules = dict(network.named_modules())
    edits = _edits(modules, variants, draws or NoiseCache(), applied)
    outputs = alterations(modules, variants)
    applied.edited |= edits.keys() | outputs.keys()
    # Selected, but without the parameters that the edits name.
    idle = {path for v in set(variants) for path in v.modules} - applied.edited
    with ExitStack() as stack:
        stack.enter_context(watched(network, tuple(idle), applied.ran))
        batch = RowMap(len(variants))
        for path, parts in edits.items():
            module = modules[path]
            _put_in(stack, module, _Split(path, module, parts, batch, applied))
        _put_in(stack, network, _Entry(network, batch, cells, applied))
        stack.enter_context(
            altered(
                modules,
                outputs,
                batch,
                references or {},
                heads_in(modules, outputs),
                applied.ran,
                applied.changed,
            )
        )
        yield applied


def _put_in(stack: ExitStack, module: nn.Module, forward: Callable[..., Any]) -> None:
    """Have a module run something else than its `forward` until the stack is closed."""
    before = vars(module).get("forward")

    def put_back() -> None:
        if before is None:
            vars(module).pop("forward", None)
        else:
            module.forward = before

    stack.callback(put_back)
    module.forward = forward


@dataclass
class _Part:
    """The cells that share one edited form of a module; no `module` where it gives zeros."""

    cells: list[int]
    module: nn.Module | None


def _edits(
    modules: dict[str, nn.Module],
    variants: Sequence[Variant],
    draws: NoiseCache,
    applied: EditReport,
) -> dict[str, list[_Part]]:
    """By module path, the forms that its cells see. A form is made once for each variant."""
    owners = Counter(id(p) for m in modules.values() for p in m.parameters(recurse=False))
    by_variant: dict[Variant, list[int]] = {}
    for cell, variant in enumerate(variants):
        by_variant.setdefault(variant, []).append(cell)
    found: dict[str, list[_Part]] = {}
    rowless = set()
    for variant, cells in by_variant.items():
        by_module: dict[str, list[EditedParameter]] = {}
        for item in edited_parameters(modules, variant):
            by_module.setdefault(item.module, []).append(item)
            if owners[id(item.parameter)] > 1 or _is_odd(modules[item.module]):
                rowless.add(item.module)
        for path, items in by_module.items():
            if path in rowless:
                continue
            form = _form(modules, path, items, variant, draws, applied)
            parts = found.setdefault(path, [])
            silent = next((p for p in parts if p.module is None), None)
            if form is None and silent is not None:
                silent.cells += cells
            else:
                parts.append(_Part(list(cells), form))
    if rowless:
        raise NoRowsError(rowless)
    return found


def _is_odd(module: nn.Module) -> bool:
    """Whether a module may compute with something else than its class and parameters tell."""
    hooked = "forward" in vars(module) or bool(module._forward_pre_hooks)
    return hooked or parametrize.is_parametrized(module)


def _form(
    modules: dict[str, nn.Module],
    path: str,
    items: Sequence[EditedParameter],
    variant: Variant,
    draws: NoiseCache,
    applied: EditReport,
) -> nn.Module | None:
    """A module that computes with edited weights and shares the rest; None when it gives zeros."""
    module = modules[path]
    all_of_it = len(items) == sum(1 for _ in module.parameters(recurse=False))
    if (
        type(module) in LINEAR
        and all_of_it
        and all(e.op == "zero" and e.unit is None for item in items for e in item.edits)
    ):
        if any(bool(item.parameter.any()) for item in items):
            applied.changed.add(items[0].module)
        return None
    form = copy.copy(module)
    form._parameters = dict(module._parameters)
    for item in items:
        weights = edited_weights(
            item,
            item.parameter.data,
            variant.perturbation_seed,
            draws,
            lambda other, name: modules[other].get_parameter(name).data,
        )
        if not torch.equal(weights, item.parameter.data):
            applied.changed.add(item.module)
        form._parameters[item.name] = nn.Parameter(weights, requires_grad=False)
    return form


class _Entry:
    """Stands in for the network's `forward`: counts its rows, and runs equal ones once."""

    def __init__(
        self, network: nn.Module, batch: RowMap, cells: Sequence[int] | None, applied: EditReport
    ) -> None:
        self.plain: Callable[..., Any] = network.forward
        self.batch = batch
        self.applied = applied
        self.cells = list(cells or [])
        self.whole = RowMap(len(self.cells))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = (v for v in (*args, *kwargs.values()) if isinstance(v, Tensor) and v.dim())
        first_of_all = next(given, None)
        if first_of_all is None:
            raise NoRowsError(self.applied.edited)
        rows = len(first_of_all)
        if not self.cells:
            self.batch.has(rows)
            return self.plain(*args, **kwargs)
        if rows % len(self.cells):
            raise NoRowsError(self.applied.edited)
        self.whole.has(rows)
        self.batch.has(rows // len(self.cells) * self.batch.cells)
        first = [self.cells.index(variant) for variant in range(self.batch.cells)]
        taken = [self._taken(v, first) for v in args]
        # Positions of patches and tokens have no row a cell; they may be as many as there are rows.
        named = {
            name: v if name in POSITIONS and v.ndim == 2 else self._taken(v, first)
            for name, v in kwargs.items()
        }
        out = self.plain(*taken, **named)
        return self._spread(out)

    def _taken(self, value: Any, cells: Sequence[int]) -> Any:
        """The rows of some cells, in what holds tensors as well."""
        if type(value) is dict:
            return {name: self._taken(item, cells) for name, item in value.items()}
        return self.whole.take(value, cells)

    def _spread(self, out: Any) -> Any:
        """Every cell's rows, from those of its variant."""
        if isinstance(out, tuple):
            return tuple(self._spread(part) for part in out)
        if isinstance(out, list):
            return [out[int(row)] for row in self.batch.index(self.cells, torch.device("cpu"))]
        if isinstance(out, dict):  # as the output classes of diffusers are
            return type(out)(**{name: self._spread(part) for name, part in out.items()})
        return out.index_select(0, self.batch.index(self.cells, out.device))


class _Split:
    """Stands in for a module's `forward`: every cell's rows through the form that it sees."""

    def __init__(
        self, path: str, module: nn.Module, parts: list[_Part], batch: RowMap, applied: EditReport
    ) -> None:
        self.path = path
        self.plain: Callable[..., Any] = module.forward
        self.parts = parts
        self.batch = batch
        self.applied = applied
        touched_cells = {cell for part in parts for cell in part.cells}
        self.others = [cell for cell in range(batch.cells) if cell not in touched_cells]
        self.samples: dict[torch.Size, Tensor] = {}
        # Only of an output that is known to be a tensor of its own may rows be overwritten.
        self.overwrites = type(module) in LINEAR and len(self.others) > (1 - FEW) * batch.cells

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.applied.ran.add(self.path)
        batch = self.batch
        values = (*args, *kwargs.values())
        given = next((v for v in values if isinstance(v, Tensor)), None)
        nested = any(isinstance(v, list | tuple | dict) for v in values)
        if given is None or nested or not batch.fits(given):
            raise NoRowsError({self.path})
        only = self.parts[0] if len(self.parts) == 1 and not self.others else None
        if only is not None and only.module is not None:
            return only.module.forward(*args, **kwargs)
        out: Tensor | None = None
        if self.overwrites:
            out = self.plain(*args, **kwargs)
        elif self.others:
            out = self._put(out, self._run(self.plain, self.others, args, kwargs), self.others)
        for part in self.parts:
            if part.module is not None:
                rows = self._run(part.module.forward, part.cells, args, kwargs)
                out = self._put(out, rows, part.cells)
        for part in self.parts:
            if part.module is None:
                if out is None:
                    out = self._like(self._sample(given, args, kwargs))
                nought = _nought(batch.take(given, part.cells)).to(out.dtype)
                batch.put(out, nought.view(-1, *[1] * (out.dim() - 1)), part.cells)
        return out

    def _run(
        self,
        forward: Callable[..., Any],
        cells: Sequence[int],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        taken = [self.batch.take(v, cells) for v in args]
        named = {name: self.batch.take(v, cells) for name, v in kwargs.items()}
        rows = forward(*taken, **named)
        count = len(cells) * self.batch.rows // self.batch.cells
        if not isinstance(rows, Tensor) or rows.dim() == 0 or len(rows) != count:
            raise NoRowsError({self.path})
        return rows

    def _sample(self, given: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """A cell's rows through the untouched module, for their shape; once a shape given."""
        shape = given.shape[1:]
        if shape not in self.samples:
            self.samples[shape] = self._run(self.plain, [0], args, kwargs)
        return self.samples[shape]

    def _like(self, rows: Tensor) -> Tensor:
        """Room for the rows of all cells."""
        order = torch.contiguous_format
        if rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last):
            order = torch.channels_last
        shape = (self.batch.rows, *rows.shape[1:])
        return torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=order)

    def _put(self, out: Tensor | None, rows: Tensor, cells: Sequence[int]) -> Tensor:
        out = self._like(rows) if out is None else out
        self.batch.put(out, rows, cells)
        return out


def _nought(rows: Tensor) -> Tensor:
    """0 for each row, NaN where it holds NaN or infinity: as 0·x does. A single 0 is for all."""
    if not rows.is_floating_point():
        return torch.zeros(1, device=rows.device)
    # A sum is the cheapest way to see that all is finite; where it overflows it settles nothing. A
    # GPU would have to be waited for.
    if rows.device.type == "cpu" and math.isfinite(rows.sum(dtype=torch.float32).item()):
        return torch.zeros(1)
    return (rows * 0).sum(tuple(range(1, rows.dim())))
