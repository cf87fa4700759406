"""The report of a run with all pictures that it can have."""

from __future__ import annotations

from pathlib import Path

from ablate.store import Run, StoreError, regular
from ablate.view.architecture.network import draw_network
from ablate.view.curves import draw_curves
from ablate.view.maps import draw_map
from ablate.view.report.page import parse_drawing
from ablate.view.report.run import save_report


def present_run(run: Run) -> Path:
    """Write the report of a run that has been measured; return its path."""
    drawings = {
        "Finding": _finding(run),
        "Architecture": draw_network(run),
        "Map of concept space": draw_map(run),
        "Drift curves": draw_curves(run),
    }
    return save_report(run, {title: svg for title, svg in drawings.items() if svg is not None})


def _finding(run: Run) -> str | None:
    """What a finder drew, if one did."""
    path = run.folder / "find.svg"
    if not path.exists():
        return None
    try:
        svg = regular(path).read_text(encoding="utf-8")
        parse_drawing("Finding", svg)
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}; `ablate find` writes it again") from error
    return svg
