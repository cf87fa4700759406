"""Which cells of a run a sheet or page has places for: it costs what there is, not what was
planned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ablate.store import StoredCell


def shown_cells(cells: Iterable[StoredCell]) -> tuple[list[StoredCell], int]:
    """The cells that are shown, finished or not, and how many different ones there are in all.

    All have a place, unless fewer than half are finished: then only those whose value on every
    axis some finished cell has; of an axis on which none has a value, the first one.
    """
    planned = list(cells)
    everything = {cell.key for cell in planned}
    done = {cell.key: cell.done for cell in planned}
    count = sum(done.values())
    if not 0 < 2 * count < len(everything):
        return planned, len(everything)
    seen = {_place(place) for cell in planned if done[cell.key] for place in cell.values.items()}
    missing = {name for cell in planned for name in cell.values} - {name for name, _ in seen}
    for cell in planned:
        for name in missing.intersection(cell.values):
            seen.add(_place((name, cell.values[name])))
        missing -= cell.values.keys()
    shown = [cell for cell in planned if all(_place(at) in seen for at in cell.values.items())]
    return shown, len(everything)


def _place(at: tuple[str, Any]) -> tuple[str, str]:
    """A value of an axis, which may be a list, so that it can be counted."""
    name, value = at
    return name, repr(value)
