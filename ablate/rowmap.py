"""Which rows of a batch belong to which cells."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


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
