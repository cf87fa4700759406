"""Edits of what modules and blocks give, by forward hooks on some cells' rows.

Statistics, noise and references are those of each row by itself, so that a cell does not depend on
the others in its batch. References run along in the batch as cells of the baseline: what takes
their place is what the module gives them in the same call.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ablate.edits.ops import OPS
from ablate.edits.registry import Op
from ablate.edits.variants import Reference, Variant
from ablate.network import (
    ScopeError,
    Unit,
    channel_dim,
    heads_of,
    is_out_projection,
    rebuilt,
    tensors,
)


def alterations(
    modules: Mapping[str, nn.Module], variants: Sequence[Variant]
) -> dict[str, list[Alteration]]:
    """The edits of outputs among those of variants, a variant a cell, by module path."""
    cells: dict[Variant, list[int]] = {}
    for cell, variant in enumerate(variants):
        cells.setdefault(variant, []).append(cell)
    found: dict[str, list[Alteration]] = {}
    for variant, its in cells.items():
        for edit in variant.edits:
            if edit.where != "output" or edit.is_neutral:
                continue
            for path in edit.modules:
                if path not in modules:
                    raise ValueError(f"variant `{variant.name}`: the network has no `{path}`")
                alteration = Alteration(
                    OPS[edit.op],
                    edit.strength or 0.0,
                    edit.kind,
                    edit.unit,
                    edit.over,
                    variant.perturbation_seed,
                    tuple(its),
                )
                found.setdefault(path, []).append(alteration)
    return found


def heads_in(
    modules: Mapping[str, nn.Module], edited: Mapping[str, Sequence[Alteration]]
) -> dict[str, int]:
    """How many heads there are where edits ask for them, at their paths and at what these hold."""
    paths = {path for path, its in edited.items() for a in its if a.unit and a.unit.kind == "heads"}
    inside = [p for p in modules if any(p == path or p.startswith(f"{path}.") for path in paths)]
    return {path: heads for path in inside if (heads := heads_of(modules, path))}


@dataclass(frozen=True)
class Alteration:
    """An edit of one module's output, for some cells of a batch. `over`: its references."""

    op: Op
    strength: float
    kind: str | None
    unit: Unit | None
    over: tuple[Reference, ...]
    seed: int
    cells: tuple[int, ...]


@contextmanager
def altered(
    modules: Mapping[str, nn.Module],
    alterations: Mapping[str, Sequence[Alteration]],
    rows: RowMap,
    references: Mapping[Reference, int],
    heads: Mapping[str, int],
    ran: set[str],
    changed: set[str],
) -> Iterator[None]:
    """Have modules give something else, by path, for as long as the context lasts.

    `rows`: which rows belong to which cells; of a single cell, all. `references`: the cells that
    run along as such. `heads`: how many each attention layer has. `ran`, `changed`: filled with the
    paths of modules that ran, and that gave something else than they would have.

    Raises `NoRowsError` out of the network where an output has no row a cell, `ScopeError` where a
    module cannot be edited so.
    """
    handles = []
    try:
        # From the last on, for each takes its place before those that are there.
        for path, applying in reversed(list(alterations.items())):
            by_heads = [a for a in applying if a.unit is not None and a.unit.kind == "heads"]
            ends = [p for p in _projections(modules, path) if is_out_projection(p)]
            before = by_heads if ends else []
            after = [a for a in applying if a not in before]
            for end in reversed(ends) if before else ():
                hook = _Hook(path, end, before, rows, references, heads.get(end, 0), ran, changed)
                handles.append(
                    modules[end].register_forward_pre_hook(
                        hook.on_input, with_kwargs=True, prepend=True
                    )
                )
            if after:
                hook = _Hook(path, path, after, rows, references, heads.get(path, 0), ran, changed)
                # First of all: whoever listens, as transformers' models do for their hidden states,
                # hears what is edited.
                handles.append(
                    modules[path].register_forward_hook(
                        hook.on_output, with_kwargs=True, prepend=True
                    )
                )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _projections(modules: Mapping[str, nn.Module], path: str) -> list[str]:
    """Where the heads of an attention layer are told apart: its last projection, of joint attention
    one for each stream; or the module itself where it is one of its projections."""
    inside = [p for p in modules if p.startswith(f"{path}.") and is_out_projection(p)
              and any(True for _ in modules[p].parameters(recurse=False))]  # fmt: skip
    return inside or [path]


class _Hook:
    """What a module's hook does to the rows of its cells.

    `place`: the module; `path`: what the edit names, which may be the attention layer around it.
    """

    def __init__(
        self,
        path: str,
        place: str,
        alterations: Sequence[Alteration],
        rows: RowMap,
        references: Mapping[Reference, int],
        heads: int,
        ran: set[str],
        changed: set[str],
    ) -> None:
        self.path = path
        self.place = place
        self.alterations = alterations
        self.rows = rows
        self.references = references
        self.heads = heads
        self.ran = ran
        self.changed = changed
        self.noise: dict[object, Tensor] = {}
        self.entries: dict[tuple[Unit, int, torch.device], Tensor] = {}

    def on_output(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """The module's output, edited."""
        given = list(tensors((args, kwargs)))
        found = list(tensors(output))
        return rebuilt(output, iter(self._edited(module, found, given)))

    def on_input(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What the heads give, edited before their projection."""
        first, *rest = args
        return (self._edited(module, [first], [])[0], *rest), kwargs

    def _edited(
        self, module: nn.Module, found: Sequence[Tensor], given: Sequence[Tensor]
    ) -> list[Tensor]:
        self.ran.add(self.path)
        made = []
        inputs = list(given)
        for number, tensor in enumerate(found):
            if self.rows.cells > 1 and not self.rows.fits(tensor):
                raise NoRowsError({self.path})
            edited = tensor.clone()
            own = None
            if any(a.op.draws == "input" for a in self.alterations):
                own = self._input(inputs, tensor, len(found))
            for alteration in self.alterations:
                self._apply(alteration, module, number, tensor, edited, own)
            if self.path not in self.changed and not torch.equal(edited, tensor):
                self.changed.add(self.path)
            made.append(edited)
        return made

    def _input(self, inputs: list[Tensor], tensor: Tensor, outputs: int) -> Tensor:
        """The input that a tensor of the output stands for: the first of its shape, each once."""
        alike = [i for i in inputs if i.shape == tensor.shape and i.is_floating_point()]
        if not alike or (outputs > 1 and len(alike) > 1):
            what = "no input has" if not alike else "several inputs have"
            shape = tuple(tensor.shape)
            raise ScopeError(f"identity: {what} the shape {shape} of what `{self.path}` gives")
        inputs[:] = [i for i in inputs if i is not alike[0]]
        return alike[0]

    def _apply(
        self,
        alteration: Alteration,
        module: nn.Module,
        number: int,
        original: Tensor,
        edited: Tensor,
        own: Tensor | None,
    ) -> None:
        """Edit the rows of an alteration's cells, in place."""
        whole = self.rows.cells == 1
        op, cells = alteration.op, alteration.cells
        dim, index = self._entries(alteration.unit, module, original)
        if index is not None and op.draws is None and not op.whole:
            # Of all that the module gives only what is edited is touched: units may be few, and
            # the variants of a batch many.
            places = edited.movedim(dim, 1)
            at = slice(None) if whole else self.rows.index(cells, edited.device)[:, None]
            made = op.apply(places[at, index].float(), torch.empty(0), alteration.strength)
            places[at, index] = made.to(edited.dtype)
            return
        before = edited if whole else self.rows.take(edited, cells)
        rows = before.float()
        noise = self._noise(alteration, number, original, rows, own)
        after = _applied(op, rows, noise, alteration.strength)
        if index is not None:
            after = rows.index_copy(dim, index, after.index_select(dim, index))
        if whole:
            edited.copy_(after)
        else:
            self.rows.put(edited, after.to(edited.dtype), cells)

    def _entries(
        self, unit: Unit | None, module: nn.Module, original: Tensor
    ) -> tuple[int, Tensor | None]:
        """A dimension, and which of its entries belong to a unit; None without one."""
        if unit is None:
            return -1, None
        if unit.kind == "heads" and not self.heads:
            raise ScopeError(f"`{self.path}` has no heads")
        dim = channel_dim(module, original) if unit.kind == "channels" else -1
        key = (unit, original.shape[dim], original.device)
        if key not in self.entries:
            entries = unit.entries(original.shape[dim], self.heads)
            self.entries[key] = torch.tensor(entries, device=original.device)
        return dim, self.entries[key]

    def _noise(
        self,
        alteration: Alteration,
        number: int,
        original: Tensor,
        rows: Tensor,
        own: Tensor | None,
    ) -> Tensor:
        """Noise of the kind that the op takes, in float32, that matches the rows."""
        cells = alteration.cells
        match alteration.op.draws:
            case None:
                return torch.empty(0)
            case "input":
                assert own is not None
                return (own if self.rows.cells == 1 else self.rows.take(own, cells)).float()
            case "mean" | "resample":
                return self._referred(alteration, original)
            case "values":
                pass
            case other:
                raise ScopeError(f"`{alteration.op.name}` draws {other}, which outputs have not")
        per_row = tuple(range(1, rows.dim()))
        normal = self._drawn(alteration, number, rows)
        if alteration.kind == "uniform":
            low, high = rows.amin(per_row, keepdim=True), rows.amax(per_row, keepdim=True)
            return low + (high - low) * normal
        mean = rows.mean(per_row, keepdim=True)
        deviation = rows.std(per_row, correction=0, keepdim=True)
        return mean + deviation * normal

    def _drawn(self, alteration: Alteration, number: int, rows: Tensor) -> Tensor:
        """One draw of a row's shape: the same at every step, for every cell, at every strength."""
        shape = tuple(rows.shape[1:])
        key = (alteration.seed, alteration.op.stream, alteration.kind, number, shape)
        if key not in self.noise:
            told = json.dumps([alteration.seed, f"{alteration.op.stream} of outputs", self.place,
                               number, list(shape)])  # fmt: skip
            digest = hashlib.blake2b(told.encode(), digest_size=8).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)
            draw = torch.rand if alteration.kind == "uniform" else torch.randn
            self.noise[key] = draw(shape, generator=generator).to(rows.device)
        return self.noise[key]

    def _referred(self, alteration: Alteration, original: Tensor) -> Tensor:
        """What the module gives the references in this call: their mean, or that of one of them."""
        chosen: Sequence[Reference] = alteration.over
        if alteration.op.draws == "resample":
            chosen = [random.Random(f"{alteration.seed}/{self.path}").choice(chosen)]
        if not set(chosen) <= self.references.keys():
            raise ScopeError(f"`{alteration.op.name}`: no references run along here")
        cells = [self.references[reference] for reference in chosen]
        found = original.view(-1, self.rows.cells, *original.shape[1:])[:, cells].float().mean(1)
        # One for each of guidance's rows, for all cells of the edit.
        return found.repeat_interleave(len(alteration.cells), 0)


def _applied(op: Op, rows: Tensor, noise: Tensor, strength: float) -> Tensor:
    """An op on rows, each by itself where it asks for whole tensors."""
    if not op.whole:
        return op.apply(rows, noise, strength)
    noises = noise if len(noise) else [noise] * len(rows)
    pairs = zip(rows, noises, strict=True)
    return torch.stack([op.apply(row, its, strength) for row, its in pairs])


class NoRowsError(Exception):
    """Modules that have no row a cell; their variants have to be applied in place."""

    def __init__(self, paths: set[str]) -> None:
        super().__init__(f"no row a cell: {', '.join(sorted(paths))}")
        self.paths = paths


class RowMap:
    """How many rows a network was called with, and which of them belong to which of its cells: row
    r to cell r mod n, however often each cell is in the batch (guidance takes it twice).
    """

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.rows = 0
        self._indices: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def has(self, rows: int) -> None:
        """Told how many rows the network is called with."""
        if rows != self.rows:
            self.rows = rows
            self._indices.clear()

    def fits(self, tensor: Any) -> bool:
        """Whether a tensor has a row for each of the network's own."""
        return (
            isinstance(tensor, Tensor)
            and tensor.dim() > 0
            and tensor.shape[0] == self.rows
            and self.rows % self.cells == 0
        )

    def index(self, cells: Sequence[int], device: torch.device) -> Tensor:
        """Row numbers of some cells, in the order of rows."""
        key = (tuple(cells), device)
        if key not in self._indices:
            rows = torch.arange(self.rows).view(-1, self.cells)[:, list(cells)]
            self._indices[key] = rows.flatten().to(device)
        return self._indices[key]

    def take(self, value: Any, cells: Sequence[int]) -> Any:
        """The rows of some cells; what has no rows is passed on as it is."""
        if isinstance(value, list) and len(value) == self.rows and self.rows % self.cells == 0:
            order = torch.arange(self.rows).view(-1, self.cells)[:, list(cells)]
            return [value[int(row)] for row in order.flatten()]
        if not self.fits(value) or len(cells) == self.cells:
            return value
        if len(cells) == 1:
            # In one piece: of rows that are not, linear layers round their bias by itself.
            return value[cells[0] :: self.cells].contiguous()
        return value.index_select(0, self.index(cells, value.device))

    def put(self, whole: Tensor, rows: Tensor, cells: Sequence[int]) -> None:
        """Write the rows of some cells; `rows` may be one for all of them."""
        if len(cells) == 1:
            whole[cells[0] :: self.cells] = rows
        else:
            index = self.index(cells, whole.device)
            whole.index_copy_(0, index, rows.expand(len(index), *whole.shape[1:]))
