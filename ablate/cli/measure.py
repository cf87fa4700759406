"""The command that measures drift, and the lines that summarize it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import click

from ablate import lab
from ablate.cli.options import CLIP, DEVICE
from ablate.drift import Effect, read_cells, read_effects, read_notes
from ablate.store import Run
from ablate.view import present_run


@click.command("drift")
@click.argument("run", type=click.Path(path_type=Path))
@CLIP
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file of concepts, one a line.",
)
@DEVICE
@click.option("--top", type=click.IntRange(min=0), default=20, show_default=True,
              help="So many of the strongest effects are printed.")  # fmt: skip
@click.option("--metric", default="rmse", show_default=True, help="Which effects are printed.")
def drift_command(
    run: Path, clip: str | None, vocabulary: Path | None, device: str | None, top: int, metric: str
) -> None:
    """Measure the drift of a run again, without its network, and write its report again."""
    words = vocabulary.read_text(encoding="utf-8").split("\n") if vocabulary else []
    store = Run(run)
    lab.measure(store, clip, [w.strip() for w in words if w.strip()] or None, device)
    page = present_run(store)
    effects = [effect for effect in read_effects(store) if effect.metric == metric]
    effects.sort(key=lambda effect: -(effect.drift or 0))
    for effect in effects[:top]:
        if effect.drift is not None:
            click.echo(_line(effect))
    print_drift(store)
    click.echo(str(page))


def _line(effect: Effect) -> str:
    interval = "" if effect.low is None else f"  {effect.low:5.2f} to {effect.high:5.2f}"
    return f"{effect.drift:6.2f}{interval}  {effect.verdict:8}  {effect.variant}"


def print_drift(store: Run) -> None:
    """Print the measurements of a run in a few lines: classes, verdicts, notes."""
    classes = Counter(cell.class_name for cell in read_cells(store) if not cell.is_baseline)
    counts = ", ".join(f"{n} {name}" for name, n in classes.most_common() if name)
    if counts:
        click.echo(f"classes   {counts}")
    effects = read_effects(store)
    for metric in ("rmse", "embedding"):
        verdicts = Counter(e.verdict for e in effects if e.metric == metric and e.verdict)
        if verdicts:
            click.echo(
                f"{metric:9} {verdicts['matters']} of {verdicts.total()} edits are above the noise"
                f" floor, {verdicts['nothing']} do nothing"
            )
    for note in read_notes(store):
        click.echo(note)
