"""The report of a run with all pictures that it can have."""

from __future__ import annotations

from pathlib import Path

from ablate.store import Run
from ablate.view.architecture.network import draw_network
from ablate.view.curves import draw_curves
from ablate.view.maps import draw_map
from ablate.view.report.run import save_report


def present_run(run: Run) -> Path:
    """Write the report of a run that has been measured; return its path."""
    drawings = {
        "Architecture": draw_network(run),
        "Map of concept space": draw_map(run),
        "Drift curves": draw_curves(run),
    }
    return save_report(run, {title: svg for title, svg in drawings.items() if svg is not None})
