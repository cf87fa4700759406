"""Apply variants by rows: one batch, with a different network for every cell in it.

    with by_rows(network, [variant_0, variant_1, variant_2]) as report:
        ...  # row r of whatever the network is called with belongs to cell r mod 3

A module that some variants edit computes their rows with the edited weights and the others with its
weights; a module that all of them zero is not run at all. The weights of the network never change,
so only the `forward` of its modules has to be restored.

Memory: the edited tensors of all different variants; zeroed modules cost nothing.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ablate.edits.batch import EditReport, NoRowsError, RowMap
from ablate.edits.in_place import EditedParameter, edited_parameters, edited_weights
from ablate.edits.noise import NoiseCache
from ablate.edits.outputs import edited_outputs, output_edits
from ablate.edits.variants import Reference, Variant, cells_by_variant
from ablate.network import replaced, watched

# Without weights these return zeros for every finite input, and always a new tensor. Subclasses may
# do otherwise.
LINEAR = (
    nn.Linear, nn.Bilinear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d,
    nn.ConvTranspose2d, nn.ConvTranspose3d, nn.GroupNorm, nn.LayerNorm, nn.Embedding,
)  # fmt: skip
POSITIONS = ("img_ids", "txt_ids")
# Where a smaller share of a module's cells is edited, it is run on all rows and those of the edited
# cells are overwritten: gathering the others would cost more than it saves.
FEW = 0.25


@contextmanager
def by_rows(
    network: nn.Module,
    variants: Sequence[Variant],
    noise_cache: NoiseCache | None = None,
    cells: Sequence[int] | None = None,
    references: Mapping[Reference, int] | None = None,
) -> Iterator[EditReport]:
    """Apply `variants[c]` to the rows c, c + n, c + 2n ... of each call of the network.

    For sampling, without gradients.

    Args:
        network: The network.
        variants: The n variants.
        noise_cache: Keeps noise from one batch to the next.
        cells: The number of the variant of each cell, where all cells of a variant have equal rows:
            these are computed once. None: one cell for each variant.
        references: The numbers of those variants that are the baseline at a reference of an edit.

    Yields:
        What the edits did, filled while the context is open.

    Raises:
        NoRowsError: A module shares weights, computes them anew or has another `forward` than its
            class; or, from inside the network, an input or output has no row for each row of the
            network's input.
        ValueError: An edit names a module that the network does not have.
    """
    report = EditReport()
    modules = dict(network.named_modules())
    forms = _edited_forms(modules, variants, noise_cache or NoiseCache(), report)
    outputs = output_edits(variants)
    report.edited |= forms.keys() | outputs.keys()
    # Selected, but without the parameters that the edits name.
    idle = {path for v in set(variants) for path in v.modules} - report.edited
    with ExitStack() as stack:
        stack.enter_context(watched(network, tuple(idle), report.ran))
        batch = RowMap(len(variants))
        for path, parts in forms.items():
            forward = _ModuleForward(path, modules[path], parts, batch, report)
            stack.enter_context(replaced(modules[path], "forward", forward))
        forward_all = _NetworkForward(network, batch, cells, report)
        stack.enter_context(replaced(network, "forward", forward_all))
        stack.enter_context(edited_outputs(modules, outputs, batch, report, references))
        yield report


@dataclass
class _Form:
    """A module with edited weights.

    Attributes:
        cells: The cells that use it.
        module: The module; None where it returns zeros.
    """

    cells: list[int]
    module: nn.Module | None


def _edited_forms(
    modules: dict[str, nn.Module],
    variants: Sequence[Variant],
    noise_cache: NoiseCache,
    report: EditReport,
) -> dict[str, list[_Form]]:
    """The edited forms of each module by path, one for each variant that edits it."""
    owners = Counter(id(p) for m in modules.values() for p in m.parameters(recurse=False))
    by_path: dict[str, list[_Form]] = {}
    rowless = set()
    for variant, cells in cells_by_variant(variants).items():
        by_module: dict[str, list[EditedParameter]] = {}
        for target in edited_parameters(modules, variant):
            by_module.setdefault(target.module, []).append(target)
            if owners[id(target.parameter)] > 1 or _is_unusual(modules[target.module]):
                rowless.add(target.module)
        for path, targets in by_module.items():
            if path in rowless:
                continue
            module = _edited_module(modules, path, targets, variant, noise_cache, report)
            forms = by_path.setdefault(path, [])
            zero = next((form for form in forms if form.module is None), None)
            if module is None and zero is not None:
                zero.cells += cells
            else:
                forms.append(_Form(list(cells), module))
    if rowless:
        raise NoRowsError(rowless)
    return by_path


def _is_unusual(module: nn.Module) -> bool:
    """Whether a module may compute something else than its class does with its parameters."""
    hooked = "forward" in vars(module) or bool(module._forward_pre_hooks)
    return hooked or parametrize.is_parametrized(module)


def _edited_module(
    modules: dict[str, nn.Module],
    path: str,
    targets: Sequence[EditedParameter],
    variant: Variant,
    noise_cache: NoiseCache,
    report: EditReport,
) -> nn.Module | None:
    """A copy of a module with edited weights that shares the others; None if it returns zeros."""
    module = modules[path]
    is_whole = len(targets) == sum(1 for _ in module.parameters(recurse=False))
    if (
        type(module) in LINEAR
        and is_whole
        and all(e.op == "zero" and e.unit is None for target in targets for e in target.edits)
    ):
        for target in targets:
            report.compare(path, target.parameter.data, torch.zeros_like(target.parameter))
        return None
    edited = copy.copy(module)
    edited._parameters = dict(module._parameters)
    for target in targets:
        weights = edited_weights(
            target,
            target.parameter.data,
            variant.perturbation_seed,
            noise_cache,
            lambda other, name: modules[other].get_parameter(name).data,
        )
        report.compare(path, weights, target.parameter.data)
        edited._parameters[target.name] = nn.Parameter(weights, requires_grad=False)
    return edited


class _NetworkForward:
    """Replaces the network's `forward`: counts its rows and computes equal ones once."""

    def __init__(
        self, network: nn.Module, batch: RowMap, cells: Sequence[int] | None, report: EditReport
    ) -> None:
        self.plain: Callable[..., Any] = network.forward
        self.batch = batch
        self.report = report
        self.cells = list(cells or [])
        self.all_rows = RowMap(len(self.cells))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = (*args, *kwargs.values())
        first_input = next((v for v in values if isinstance(v, Tensor) and v.dim()), None)
        if first_input is None:
            raise NoRowsError(self.report.edited)
        rows = len(first_input)
        if not self.cells:
            self.batch.set_rows(rows)
            return self.plain(*args, **kwargs)
        if rows % len(self.cells):
            raise NoRowsError(self.report.edited)
        self.all_rows.set_rows(rows)
        self.batch.set_rows(rows // len(self.cells) * self.batch.cells)
        first = [self.cells.index(variant) for variant in range(self.batch.cells)]
        distinct = [self._rows_of(v, first) for v in args]
        # Positions of patches and tokens have no row a cell; they may be as many as there are rows.
        named = {
            name: v if name in POSITIONS and v.ndim == 2 else self._rows_of(v, first)
            for name, v in kwargs.items()
        }
        return self._for_all_cells(self.plain(*distinct, **named))

    def _rows_of(self, value: Any, cells: Sequence[int]) -> Any:
        """The rows of some cells, in dictionaries too."""
        if type(value) is dict:
            return {name: self._rows_of(item, cells) for name, item in value.items()}
        return self.all_rows.take(value, cells)

    def _for_all_cells(self, out: Any) -> Any:
        """The rows of every cell, from those of its variant."""
        if isinstance(out, tuple):
            return tuple(self._for_all_cells(part) for part in out)
        if isinstance(out, list):
            return [out[int(row)] for row in self.batch.index(self.cells, torch.device("cpu"))]
        if isinstance(out, dict):  # as the output classes of diffusers are
            return type(out)(**{name: self._for_all_cells(part) for name, part in out.items()})
        return out.index_select(0, self.batch.index(self.cells, out.device))


class _ModuleForward:
    """Replaces a module's `forward`: computes the rows of every cell with its form of the module.

    Attributes:
        forms: The edited forms.
        others: The cells that do not edit the module.
        samples: Outputs for one cell, by the shape of a row of the input.
    """

    def __init__(
        self, path: str, module: nn.Module, forms: list[_Form], batch: RowMap, report: EditReport
    ) -> None:
        self.path = path
        self.plain: Callable[..., Any] = module.forward
        self.forms = forms
        self.batch = batch
        self.report = report
        edited = {cell for form in forms for cell in form.cells}
        self.others = [cell for cell in range(batch.cells) if cell not in edited]
        self.samples: dict[torch.Size, Tensor] = {}
        # Rows may be overwritten only in an output that is known to be a new tensor.
        self.overwrites = type(module) in LINEAR and len(self.others) > (1 - FEW) * batch.cells

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.report.ran.add(self.path)
        batch = self.batch
        values = (*args, *kwargs.values())
        given = next((v for v in values if isinstance(v, Tensor)), None)
        nested = any(isinstance(v, list | tuple | dict) for v in values)
        if given is None or nested or not batch.fits(given):
            raise NoRowsError({self.path})
        only = self.forms[0] if len(self.forms) == 1 and not self.others else None
        if only is not None and only.module is not None:
            return only.module.forward(*args, **kwargs)
        out: Tensor | None = None
        if self.overwrites:
            out = self.plain(*args, **kwargs)
        elif self.others:
            out = self._put(out, self._run(self.plain, self.others, args, kwargs), self.others)
        for form in self.forms:
            if form.module is not None:
                rows = self._run(form.module.forward, form.cells, args, kwargs)
                out = self._put(out, rows, form.cells)
        for form in self.forms:
            if form.module is None:
                if out is None:
                    out = self._empty_like(self._sample(given, args, kwargs))
                zeros = _zero_per_row(batch.take(given, form.cells)).to(out.dtype)
                batch.put(out, zeros.view(-1, *[1] * (out.dim() - 1)), form.cells)
        return out

    def _run(
        self,
        forward: Callable[..., Any],
        cells: Sequence[int],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Tensor:
        positional = [self.batch.take(v, cells) for v in args]
        named = {name: self.batch.take(v, cells) for name, v in kwargs.items()}
        rows = forward(*positional, **named)
        count = len(cells) * self.batch.rows // self.batch.cells
        if not isinstance(rows, Tensor) or rows.dim() == 0 or len(rows) != count:
            raise NoRowsError({self.path})
        return rows

    def _sample(self, given: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        """A cell's rows through the unedited module, for their shape; once for each input shape."""
        shape = given.shape[1:]
        if shape not in self.samples:
            self.samples[shape] = self._run(self.plain, [0], args, kwargs)
        return self.samples[shape]

    def _empty_like(self, rows: Tensor) -> Tensor:
        """An uninitialized tensor for the rows of all cells."""
        order = torch.contiguous_format
        if rows.dim() == 4 and rows.is_contiguous(memory_format=torch.channels_last):
            order = torch.channels_last
        shape = (self.batch.rows, *rows.shape[1:])
        return torch.empty(shape, dtype=rows.dtype, device=rows.device, memory_format=order)

    def _put(self, out: Tensor | None, rows: Tensor, cells: Sequence[int]) -> Tensor:
        out = self._empty_like(rows) if out is None else out
        self.batch.put(out, rows, cells)
        return out


def _zero_per_row(rows: Tensor) -> Tensor:
    """0 for each row, NaN for those with NaN or infinity, as in 0·x; or a single 0 for all rows."""
    if not rows.is_floating_point():
        return torch.zeros(1, device=rows.device)
    # A finite sum is the cheapest proof that all rows are finite; an infinite one may be overflow.
    # Not on a GPU, which would have to be waited for.
    if rows.device.type == "cpu" and math.isfinite(rows.sum(dtype=torch.float32).item()):
        return torch.zeros(1)
    return (rows * 0).sum(tuple(range(1, rows.dim())))
