"""How a run shows itself in a notebook."""

from __future__ import annotations

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

from ablate.messages import printable

if TYPE_CHECKING:
    from ablate.store.run import Run

FEW = 8  # images that stand for a run without a sheet


def run_html(run: Run) -> str:
    """The name of a run, how far it is, and its contact sheet or else its first images."""
    manifest = run.manifest()
    cells = {cell.key: cell for cell in run.cells()}.values()  # one may be in several places
    finished = [cell for cell in cells if cell.done]
    counts = f"{len(finished)} of {len(cells)} cells finished"
    words = [manifest["name"], str(manifest["model"]["id"]), counts, str(run.folder)]
    words += filter(None, [run.damage_note()])
    line = " · ".join(html.escape(printable(word)) for word in words)
    sheet = run.folder / "sheet.png"
    pictures = [sheet] if sheet.exists() else [cell.path for cell in finished[:FEW]]
    shown = "".join(f'<img style="max-width:100%" src="{_data(path)}">' for path in pictures)
    return f'<div><div style="font-family:sans-serif;margin:0 0 .5em">{line}</div>{shown}</div>'


def _data(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
