"""Edits of the outputs and inputs of modules and blocks, by hooks on the rows of some cells.

Statistics, noise and references are per row, so that a cell does not depend on the others in its
batch. References are computed in the same batch as cells of the baseline: they replace outputs with
those that the module has for them in the same call.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ablate.edits.batch import EditReport, NoRowsError, RowMap, moved
from ablate.edits.noise import seeded_generator
from ablate.edits.ops import OPS
from ablate.edits.registry import OF_INPUT, Op
from ablate.edits.variants import Edit, Reference, Variant, cells_by_variant
from ablate.network import (
    ScopeError,
    Unit,
    channel_dim,
    heads_of,
    is_out_projection,
    rebuilt,
    tensors,
)


@dataclass(frozen=True)
class OutputEdit:
    """An edit of one module's output or input, for some cells of a batch.

    Attributes:
        edit: The edit.
        op: Its op.
        seed: The perturbation seed.
        cells: The cells of the batch that it applies to.
    """

    edit: Edit
    op: Op
    seed: int
    cells: tuple[int, ...]

    @property
    def strength(self) -> float:
        return self.edit.strength or 0.0

    @property
    def of_input(self) -> bool:
        return self.edit.where == "input"

    @property
    def by_heads(self) -> bool:
        return self.edit.unit is not None and self.edit.unit.kind == "heads"


def output_edits(variants: Sequence[Variant]) -> dict[str, list[OutputEdit]]:
    """The edits of outputs and inputs among those of variants, one variant a cell, by module
    path."""
    by_path: dict[str, list[OutputEdit]] = {}
    for variant, cells in cells_by_variant(variants).items():
        for edit in variant.edits:
            if edit.where in ("output", "input") and not edit.is_neutral:
                output = OutputEdit(edit, OPS[edit.op], variant.perturbation_seed, tuple(cells))
                for path in edit.modules:
                    by_path.setdefault(path, []).append(output)
    return by_path


@contextmanager
def edited_outputs(
    modules: Mapping[str, nn.Module],
    edits: Mapping[str, Sequence[OutputEdit]],
    rows: RowMap,
    report: EditReport,
    references: Mapping[Reference, int] | None = None,
    gate: Tensor | None = None,
) -> Iterator[None]:
    """Edit the outputs and inputs of modules for as long as the context is open.

    Args:
        modules: All modules of the network by path.
        edits: The edits by module path.
        rows: The rows of each cell; with a single cell, all rows.
        report: Filled with the paths of the modules that ran and whose outputs changed.
        references: The cells that are computed as references.
        gate: How much of each change takes place, a number to differentiate by; None is all of it.

    Raises:
        NoRowsError: From inside the network, an output has no row for each cell.
        ScopeError: From inside the network, the edit is impossible for a module.
    """
    handles = []

    def hook(path: str, place: str, applying: Sequence[OutputEdit]) -> _OutputHook:
        heads = heads_of(modules, place) if any(edit.by_heads for edit in applying) else 0
        return _OutputHook(path, place, applying, rows, references or {}, heads, report, gate)

    try:
        # In reverse, because each hook is put before those that are there.
        for path, every in reversed(list(edits.items())):
            for argument in {edit.edit.argument: None for edit in every if edit.of_input}:
                given = [e for e in every if e.of_input and e.edit.argument == argument]
                on_argument = hook(path, path, given).on_argument
                handles.append(
                    modules[path].register_forward_pre_hook(
                        on_argument, with_kwargs=True, prepend=True
                    )
                )
            applying = [edit for edit in every if not edit.of_input]
            ends = [p for p in _projections(modules, path) if is_out_projection(p)]
            before = [edit for edit in applying if ends and edit.by_heads]
            after = [edit for edit in applying if edit not in before]
            for end in reversed(ends) if before else ():
                on_input = hook(path, end, before).on_input
                handles.append(
                    modules[end].register_forward_pre_hook(on_input, with_kwargs=True, prepend=True)
                )
            if after:
                on_output = hook(path, path, after).on_output
                # Before all other hooks, so that these see the edited output, as those do by which
                # models of transformers collect their hidden states.
                handles.append(
                    modules[path].register_forward_hook(on_output, with_kwargs=True, prepend=True)
                )
        yield
    finally:
        for handle in handles:
            handle.remove()


def _projections(modules: Mapping[str, nn.Module], path: str) -> list[str]:
    """Where the heads of an attention layer are separate: its last projections, of joint attention
    one for each stream; or the module itself if it is one of its projections."""
    inside = [p for p in modules if p.startswith(f"{path}.") and is_out_projection(p)
              and any(True for _ in modules[p].parameters(recurse=False))]  # fmt: skip
    return inside or [path]


class _OutputHook:
    """Edits the rows of some cells in one module's output, or input, whenever it is called.

    Attributes:
        path: The module or attention layer that the edits name.
        place: The module that is hooked: this one or a projection inside.
        heads: The number of heads of the attention layer, where an edit needs it.
        noise: Noise by what determines it.
        entries: Entries of units by unit, size of the dimension and device.
    """

    def __init__(
        self,
        path: str,
        place: str,
        edits: Sequence[OutputEdit],
        rows: RowMap,
        references: Mapping[Reference, int],
        heads: int,
        report: EditReport,
        gate: Tensor | None,
    ) -> None:
        self.path = path
        self.place = place
        self.edits = edits
        self.rows = rows
        self.references = references
        self.heads = heads
        self.report = report
        self.gate = gate
        self.needs_input = any(target.op.draws in OF_INPUT for target in edits)
        self.noise: dict[object, Tensor] = {}
        self.entries: dict[tuple[Unit, int, torch.device], Tensor] = {}

    def on_output(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """The module's output, edited."""
        inputs = list(tensors((args, kwargs)))
        return rebuilt(output, iter(self._edited(module, list(tensors(output)), inputs)))

    def on_argument(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """What the module is given, with one argument edited."""
        call = inspect.signature(module.forward).bind(*args, **kwargs)
        name = self.edits[0].edit.argument or next(iter(call.arguments))
        given = call.arguments.get(name)
        if not isinstance(given, Tensor):
            known = ", ".join(k for k, v in call.arguments.items() if isinstance(v, Tensor))
            raise ScopeError(f"`{self.path}` is given no tensor `{name}`, but {known or 'none'}")
        call.arguments[name] = self._edited(module, [given], [])[0]
        return call.args, call.kwargs

    def on_input(self, module: nn.Module, args: Any, kwargs: Any) -> Any:
        """The outputs of the heads, edited before their projection."""
        first, *rest = args
        return (self._edited(module, [first], [])[0], *rest), kwargs

    def _edited(
        self, module: nn.Module, outputs: Sequence[Tensor], inputs: list[Tensor]
    ) -> list[Tensor]:
        self.report.ran.add(self.path)
        results = []
        for number, original in enumerate(outputs):
            if self.rows.cells > 1 and not self.rows.fits(original):
                raise NoRowsError({self.path})
            edited = original.clone()
            given = self._input(inputs, original, len(outputs)) if self.needs_input else None
            for target in self.edits:
                self._apply(target, module, number, original, edited, given)
            self.report.compare(self.path, edited, original)
            if self.gate is not None:
                edited = original + (self.gate * (edited - original).detach()).to(original.dtype)
            results.append(edited)
        return results

    def _input(self, inputs: list[Tensor], output: Tensor, outputs: int) -> Tensor:
        """The input that replaces an output: the first of its shape, which is then used up."""
        alike = [i for i in inputs if i.shape == output.shape and i.is_floating_point()]
        if not alike or (outputs > 1 and len(alike) > 1):
            what = "no input has" if not alike else "several inputs have"
            shape = tuple(output.shape)
            ops = " and ".join(sorted({e.op.name for e in self.edits if e.op.draws in OF_INPUT}))
            raise ScopeError(f"{ops}: {what} the shape {shape} of what `{self.path}` gives")
        inputs[:] = [i for i in inputs if i is not alike[0]]
        return alike[0]

    def _apply(
        self,
        target: OutputEdit,
        module: nn.Module,
        number: int,
        original: Tensor,
        edited: Tensor,
        given: Tensor | None,
    ) -> None:
        """Edit the rows of an edit's cells in `edited`, in place."""
        whole = self.rows.cells == 1
        op, cells = target.op, target.cells
        dim, index = self._entries(target.edit.unit, module, original)
        if index is not None and op.draws is None and not op.whole:
            # Only the edited entries are computed: units may be few and variants many.
            places = edited.movedim(dim, 1)
            at = slice(None) if whole else self.rows.index(cells, edited.device)[:, None]
            result = op.apply(places[at, index].float(), torch.empty(0), target.strength)
            places[at, index] = result.to(edited.dtype)
            return
        rows = (edited if whole else self.rows.take(edited, cells)).float()
        after = _per_row(
            op, rows, self._noise(target, module, number, original, rows, given), target.strength
        )
        if index is not None:
            after = rows.index_copy(dim, index, after.index_select(dim, index))
        if whole:
            edited.copy_(after)
        else:
            self.rows.put(edited, after.to(edited.dtype), cells)

    def _entries(
        self, unit: Unit | None, module: nn.Module, original: Tensor
    ) -> tuple[int, Tensor | None]:
        """A dimension and the entries along it that belong to a unit; None without a unit."""
        if unit is None:
            return -1, None
        if unit.kind == "heads" and not self.heads:
            raise ScopeError(f"`{self.path}` has no heads")
        dim = channel_dim(module, original) if unit.kind == "channels" else -1
        key = (unit, original.shape[dim], original.device)
        if key not in self.entries:
            entries = unit.entries(original.shape[dim], self.heads)
            self.entries[key] = moved(torch.tensor(entries), original.device)
        return dim, self.entries[key]

    def _noise(
        self,
        target: OutputEdit,
        module: nn.Module,
        number: int,
        original: Tensor,
        rows: Tensor,
        given: Tensor | None,
    ) -> Tensor:
        """The second tensor that the op takes, float32, matched to the rows."""
        match target.op.draws:
            case None:
                return torch.empty(0)
            case "input" | "input_mean" as draws:
                assert given is not None
                taken: Tensor = self.rows.take(given, target.cells).float()
                if draws == "input_mean":
                    taken = taken.mean(channel_dim(module, given), keepdim=True).expand_as(taken)
                return taken
            case "mean" | "resample":
                return self._reference(target, original)
            case "values":
                drawn = self._drawn(target, number, rows)
            case other:
                raise ScopeError(f"`{target.op.name}` draws {other}, which outputs do not have")
        per_row = tuple(range(1, rows.dim()))
        if target.edit.kind == "uniform":
            low, high = rows.amin(per_row, keepdim=True), rows.amax(per_row, keepdim=True)
            return low + (high - low) * drawn
        mean = rows.mean(per_row, keepdim=True)
        deviation = rows.std(per_row, correction=0, keepdim=True)
        return mean + deviation * drawn

    def _drawn(self, target: OutputEdit, number: int, rows: Tensor) -> Tensor:
        """One draw of a row's shape: the same at every step, for every cell, at every strength."""
        shape = tuple(rows.shape[1:])
        key = (target.seed, target.op.stream, target.edit.kind, number, shape)
        if key not in self.noise:
            stream = f"{target.op.stream} of outputs"
            generator = seeded_generator(target.seed, stream, self.place, number, shape)
            draw = torch.rand if target.edit.kind == "uniform" else torch.randn
            self.noise[key] = moved(draw(shape, generator=generator), rows.device)
        return self.noise[key]

    def _reference(self, target: OutputEdit, original: Tensor) -> Tensor:
        """The module's output in this call for the references: their mean, or one of them."""
        chosen: Sequence[Reference] = target.edit.over
        if target.op.draws == "resample":
            chosen = [random.Random(f"{target.seed}/{self.path}").choice(chosen)]
        if not set(chosen) <= self.references.keys():
            raise ScopeError(f"`{target.op.name}`: there are no references in this batch")
        cells = [self.references[reference] for reference in chosen]
        taken = original.index_select(0, self.rows.index(cells, original.device))
        mean = taken.view(-1, len(cells), *original.shape[1:]).float().mean(1)
        # One for each of guidance's rows, for all cells of the edit.
        return mean.repeat_interleave(len(target.cells), 0)


def _per_row(op: Op, rows: Tensor, noise: Tensor, strength: float) -> Tensor:
    """An op on rows, separately for each if it needs whole tensors."""
    if not op.whole:
        return op.apply(rows, noise, strength)
    noises = noise if len(noise) else [noise] * len(rows)
    pairs = zip(rows, noises, strict=True)
    return torch.stack([op.apply(row, its, strength) for row, its in pairs])
