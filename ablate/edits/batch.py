"""The rows of a batch: which of them belong to which cell, and what edits of them did."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class NoRowsError(Exception):
    """Modules without a row for each cell; their variants have to be applied in place."""

    def __init__(self, paths: set[str]) -> None:
        super().__init__(f"no row a cell: {', '.join(sorted(paths))}")
        self.paths = paths


class EditReport:
    """What edits did so far.

    Attributes:
        edited: Paths of the modules that are edited.
        ran: Paths of those that ran.
    """

    def __init__(
        self, edited: Iterable[str] = (), changed: Iterable[str] = (), ran: Iterable[str] = ()
    ) -> None:
        self.edited = set(edited)
        self.ran = set(ran)
        self._changed = set(changed)
        self._differ: list[tuple[str, Tensor]] = []  # on their device

    @property
    def changed(self) -> set[str]:
        """Paths of the modules whose weights or outputs differ from the unedited ones.

        Of what was compared on a GPU since it was asked for last, all is read back at once.
        """
        if self._differ:
            paths, differ = zip(*self._differ, strict=True)
            self._differ = []
            together = torch.stack([one.to(differ[0].device) for one in differ]).tolist()
            self._changed.update(path for path, is_other in zip(paths, together, strict=True)
                                 if is_other)  # fmt: skip
        return self._changed

    def compare(self, path: str, edited: Tensor, original: Tensor) -> None:
        """Record whether a tensor of a module differs; a GPU is not waited for."""
        if path in self._changed:
            return
        if edited.device.type != "cpu":
            self._differ.append((path, (edited != original).any()))
        elif not torch.equal(edited, original):
            self._changed.add(path)

    def add(self, other: EditReport) -> None:
        self.edited |= other.edited
        self.ran |= other.ran
        self._changed |= other._changed
        self._differ += other._differ


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device; a GPU copies it when it comes to it."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class RowMap:
    """The rows of the current call of a network, by cell.

    Row r belongs to cell r mod n, however often each cell is in the batch (twice with guidance).

    Attributes:
        cells: The number of cells, n.
        rows: The number of rows.
    """

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.rows = 0
        self._indices: dict[tuple[tuple[int, ...], torch.device], Tensor] = {}

    def set_rows(self, rows: int) -> None:
        """Set the number of rows of this call."""
        if rows != self.rows:
            self.rows = rows
            self._indices.clear()

    def fits(self, value: Any) -> bool:
        """Whether a value is a tensor with as many rows as the network's input."""
        return (
            isinstance(value, Tensor)
            and value.dim() > 0
            and value.shape[0] == self.rows
            and self.rows % self.cells == 0
        )

    def index(self, cells: Sequence[int], device: torch.device) -> Tensor:
        """Row numbers of some cells, in the order of rows."""
        key = (tuple(cells), device)
        if key not in self._indices:
            rows = torch.arange(self.rows).view(-1, self.cells)[:, list(cells)]
            self._indices[key] = moved(rows.flatten(), device)
        return self._indices[key]

    def take(self, value: Any, cells: Sequence[int]) -> Any:
        """The rows of some cells in a tensor or list; a value without rows is returned as it is."""
        if isinstance(value, list) and len(value) == self.rows and self.rows % self.cells == 0:
            return [value[int(row)] for row in self.index(cells, torch.device("cpu"))]
        if not self.fits(value) or len(cells) == self.cells:
            return value
        if len(cells) == 1:
            # In one piece: of strided rows, linear layers round their bias separately.
            return value[cells[0] :: self.cells].contiguous()
        return value.index_select(0, self.index(cells, value.device))

    def put(self, whole: Tensor, rows: Tensor, cells: Sequence[int]) -> None:
        """Write the rows of some cells; `rows` may be a single row for all of them."""
        if len(cells) == 1:
            whole[cells[0] :: self.cells] = rows
        else:
            index = self.index(cells, whole.device)
            whole.index_copy_(0, index, rows.expand(len(index), *whole.shape[1:]))
