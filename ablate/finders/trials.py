"""Cells that a finder asks for, round by round, in the folder of one run."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ablate.drift import MeasuredCell, read_cells
from ablate.engine import Summary
from ablate.lab import Session
from ablate.messages import RequestError
from ablate.recipe import MAX_CELLS
from ablate.sampling import Stopped
from ablate.sweep import Cell, Plan, PlanAxis


class Trials:
    """What a finder measures with. Nothing is loaded before the first cells are asked for.

    Attributes:
        plan: The plain sweep of the recipe.
        asked: The cells measured so far, in the order in which they were asked for.
        summary: Counts and times of all rounds; None before the first.
    """

    def __init__(
        self,
        planned: Plan,
        begin: Callable[[], Session],
        batch_size: int | None = None,
        max_cells: int = MAX_CELLS,
    ) -> None:
        """`begin` is called once, for the session in which cells are computed."""
        self.plan = planned
        self.asked: tuple[Cell, ...] = ()
        self.summary: Summary | None = None
        self._begin = begin
        self._session: Session | None = None
        self._batch_size = batch_size
        self._max_cells = max_cells
        self._measured: dict[str, MeasuredCell] = {}  # by place
        self._by_key: dict[str, MeasuredCell] = {}

    @property
    def session(self) -> Session:
        """The session, which begins here."""
        if self._session is None:
            self._session = self._begin()
        return self._session

    def vary(self, axes: Iterable[PlanAxis]) -> None:
        """Let cells vary along these axes in place of the plan's, of which baselines are left."""
        axes = tuple(axes)
        shared = [axis.name for axis in axes if axis.of_condition]
        baselines = (
            replace(cell, axes={name: cell.axes[name] for name in shared if name in cell.axes})
            for cell in self.plan.cells
            if cell.variant.is_baseline
        )
        self.plan = replace(self.plan, axes=axes, cells=tuple(baselines))

    def measure(self, cells: Iterable[Cell]) -> list[MeasuredCell]:
        """Compute cells with their baselines and noise floors, and return them measured, in order.

        Those that are in the folder, from this run or an earlier one, are not computed again.

        Raises:
            RequestError: There would be more cells than allowed.
            Stopped: Ctrl-C was pressed; finished cells are in the folder.
        """
        cells = list(cells)
        places = {_place(cell): cell for cell in (*self.asked, *cells)}
        if len(places) > self._max_cells:
            raise RequestError(
                f"{self.plan.recipe.name}: the finder asks for {len(places):,} cells, more than"
                f" {self._max_cells:,}; `--max-cells`, or `max_cells=` in Python, allows more"
            )
        if places.keys() - self._measured.keys():
            self.asked = tuple(places.values())
            self._compute(self.plan.part(self.asked))
        return [self._measured[_place(cell)] for cell in cells]

    def baseline(self, cell: MeasuredCell) -> MeasuredCell:
        """The baseline that a cell was compared with."""
        return self._by_key[cell.baseline]

    @property
    def cells(self) -> Sequence[MeasuredCell]:
        """All cells measured so far, with their baselines."""
        return list(self._measured.values())

    def cost(self, cells: Iterable[Cell] = ()) -> int:
        """How many different images there are when further cells are measured, with baselines and
        noise floors."""
        return len(self.plan.part((*self.asked, *cells)).distinct())

    def _compute(self, planned: Plan) -> None:
        session = self.session
        summary = session.compute(planned, batch_size=self._batch_size)
        self.summary = _added(self.summary, summary)
        session.measure()
        if summary.interrupted:
            raise Stopped
        session.processes.wait()  # until the tables are written
        measured = read_cells(session.store)
        self._measured = dict(zip(map(_place, planned.cells), measured, strict=True))
        self._by_key = {cell.key: cell for cell in measured}


def _place(cell: Cell) -> str:
    """What tells cells of one run apart, also those that have equal images."""
    return json.dumps([cell.variant.name, dict(cell.axes)], sort_keys=True, default=repr)


def _added(before: Summary | None, now: Summary) -> Summary:
    """The counts of all rounds: the last one has the cells of those before it."""
    if before is None:
        return now
    total = replace(now, reused=now.reused - before.computed, seconds=before.seconds + now.seconds)
    total.damaged |= before.damaged
    total.merge(before)
    return total
