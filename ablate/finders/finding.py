"""What a finder returns, and its files beside the cells.

    find.json            the kind, its options, the sentence, and how many cells it took
    find.csv             the table of the finding
    find.svg, find.png   its picture, which the report shows first
    sheet.png            the images that it rests on

The first four are only there when the finder is done.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablate.store import FINDINGS, Run, write_table
from ablate.view import Strip, save_drawing, save_strips


@dataclass(frozen=True)
class Finding:
    """The answer of a finder.

    Attributes:
        sentence: The answer in a sentence or two.
        columns: Names of the columns of its table.
        rows: The table.
        picture: An SVG document.
        facts: Further figures, as JSON.
        heads: The columns of its sheet.
        strips: The rows of its sheet; without any it is that of the cells.
        sweep: How many different images the plain sweep has; None where it is that of the recipe.
    """

    sentence: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    picture: str
    facts: Mapping[str, Any]
    heads: Sequence[str] = ()
    strips: Sequence[Strip] = ()
    sweep: int | None = None


def forget_finding(run: Run) -> None:
    """Remove the finding of an earlier call, which may have had other options."""
    for name in FINDINGS:
        (run.folder / name).unlink(missing_ok=True)


def write_finding(
    run: Run, finding: Finding, kind: str, options: Mapping[str, Any], cells: Mapping[str, int]
) -> None:
    """Write a finding. `cells`: how many different images it took, and the plain sweep has."""
    if finding.strips:
        save_strips(run, finding.heads, finding.strips, about=finding.sentence)
    save_drawing(finding.picture, run.folder / "find")
    write_table(
        run.folder / "find.csv", finding.columns, [list(map(_figure, r)) for r in finding.rows]
    )
    summary = {
        "kind": kind,
        "options": dict(options),
        "sentence": finding.sentence,
        "cells": dict(cells),
        **finding.facts,
    }
    run.write_text("find.json", json.dumps(summary, indent=1) + "\n")


def _figure(value: Any) -> Any:
    """A value as tables have it: six digits, and nothing for what is not known."""
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else value
