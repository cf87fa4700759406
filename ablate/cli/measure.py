"""The command that measures drift, and the lines that summarize it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from ablate import lab
from ablate.cli.errors import Exit
from ablate.cli.options import CLIP, DEVICE, stored_run
from ablate.cli.output import echo
from ablate.cli.process import WRONG
from ablate.cli.tables import print_table
from ablate.drift import Effect, SetDistance, read_cells, read_effects, read_notes, read_sets
from ablate.messages import counted, did_you_mean
from ablate.store import Run, read_words
from ablate.view import present_run


@click.command("drift")
@click.argument("run", type=click.Path(path_type=Path))
@CLIP
@click.option(
    "--reader",
    "readers",
    multiple=True,
    help="A further image encoder, such as facebook/dinov2-base; may be given several times.",
)
@click.option(
    "--vocabulary",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A file of concepts, one a line.",
)
@click.option("--allow-code", is_flag=True, help="Execute the file of metrics of the run.")
@DEVICE
@click.option("--top", type=click.IntRange(min=0), default=20, show_default=True,
              help="So many of the strongest effects are printed.")  # fmt: skip
@click.option("--metric", default="rmse", show_default=True, help="Which effects are printed.")
def drift_command(
    run: Path,
    clip: str | None,
    readers: tuple[str, ...],
    vocabulary: Path | None,
    allow_code: bool,
    device: str | None,
    top: int,
    metric: str,
) -> None:
    """Measure the drift of a run again, without its network, and write its report again."""
    words = read_words(vocabulary) if vocabulary else None
    store = stored_run(run)
    known = lab.metric_names(store, readers or None)
    if metric not in known:
        hint = did_you_mean(metric, known) or f"; there are {', '.join(known)}"
        raise Exit(f"--metric: there is no metric `{metric}`{hint}", WRONG)
    lab.measure(store, clip, words, readers or None, device, allow_code=allow_code)
    page = present_run(store)
    of_sets = [distance for distance in read_sets(store) if distance.metric == metric]
    if of_sets:
        _print_sets(of_sets, top)
    else:
        _print_effects([e for e in read_effects(store) if e.metric == metric], metric, top)
    print_drift(store)
    echo(str(page))


def _print_effects(effects: Sequence[Effect], metric: str, top: int) -> None:
    """Print the strongest effects: in noise floors or, where there are none, as measured."""
    measured = [e for e in effects if e.mean is not None and not e.same_as]
    others = Counter((e.same_as, e.prompt) for e in effects if e.same_as)
    floored = [effect for effect in measured if effect.drift is not None]
    strongest = sorted(floored or measured, key=lambda e: -(e.drift or e.mean or 0))[:top]
    if not strongest:
        if top:
            echo(f"no edited cell has a drift by `{metric}`")
        return
    unit = "1 − ssim" if metric == "ssim" else metric
    if not floored:
        echo("there is no noise floor: drift is as measured, from each cell's baseline")
    several = len({effect.prompt for effect in measured}) > 1
    heads = [
        f"{unit} / floor" if floored else unit,
        "95 % interval",
        "q",
        "verdict",
        "variant",
        "prompt",
    ]
    rows = [
        [
            f"{e.drift:.2f}" if e.drift is not None else f"{e.mean:.4f}",
            "" if e.low is None else f"{e.low:.2f} to {e.high:.2f}",
            "" if e.q is None else f"{e.q:.2g}" if e.q >= 0.001 else "< 0.001",
            e.verdict,
            e.variant + _and_others(others[e.variant, e.prompt]),
            e.prompt if several else "",
        ]
        for e in strongest
    ]
    shown = [i for i, head in enumerate(heads) if any(row[i] for row in rows)]
    print_table(
        [heads[i] for i in shown], [[row[i] for i in shown] for row in rows], right=heads[:3]
    )


def _print_sets(distances: Sequence[SetDistance], top: int) -> None:
    """Print the variants whose images, as a set, are farthest from their baselines."""
    farthest = sorted(distances, key=lambda d: -d.value)[:top]
    rows = [[f"{d.value:.4g}", str(d.images), str(d.baselines), d.variant] for d in farthest]
    heads = [distances[0].metric, "images", "baselines"]
    print_table([*heads, "variant"], rows, right=heads)


def _and_others(count: int) -> str:
    return f" (and {counted(count, 'other')} to the same effect)" if count else ""


def print_drift(store: Run) -> None:
    """Print the measurements of a run in a few lines: classes, verdicts, notes."""
    classes = Counter(cell.class_name for cell in read_cells(store) if not cell.is_baseline)
    counts = ", ".join(f"{n} {name}" for name, n in classes.most_common() if name)
    if counts:
        echo(f"classes   {counts}")
    effects = read_effects(store)
    for metric in ("rmse", "embedding"):
        verdicts = Counter(
            e.verdict for e in effects if e.metric == metric and e.verdict and not e.same_as
        )
        if verdicts:
            echo(
                f"{metric:9} {verdicts['matters']} of {verdicts.total()} edits are above the noise"
                f" floor, {verdicts['nothing']} do nothing"
            )
    for note in read_notes(store):
        echo(note)
