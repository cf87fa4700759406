"""Commands of `ablate find`: experiments that choose their next cells by what the last showed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import wraps
from pathlib import Path
from shlex import quote
from typing import Any

import click

from ablate import finders
from ablate.cli.errors import Exit
from ablate.cli.lazy import LazyGroup
from ablate.cli.options import DEVICE, DTYPE, quiet_libraries, recipe_options
from ablate.cli.output import echo
from ablate.cli.process import DONE, GO_ON, INTERRUPTED
from ablate.cli.progress import ProgressPrinter
from ablate.cli.recipes import changed, file_of, is_run, print_notes, print_outcome
from ablate.sweep import plan

HERE = "ablate.cli.find"
COMMANDS = {
    "breaking-point": (HERE, "Bisect where images stop being their concept."),
    "dose": (HERE, "Bisect the dose that each part of a network bears."),
    "interactions": (HERE, "Compare edits of two parts at once with both alone."),
    "order": (HERE, "Compare orders of editing ever more modules."),
    "screen": (HERE, "Rank parts by a first-order score, and measure a few."),
    "search": (HERE, "Search the variant that comes nearest to a goal."),
}


@click.group("find", cls=LazyGroup, table=COMMANDS)
def find_command() -> None:
    """Answer a question by a part of a recipe's cells, each round chosen by what the last showed.

    Run it again to resume: it asks for the same cells, and finished ones are never computed twice.
    RECIPE may also be the folder of a finder's run, which goes on there.
    """


def finder(kind: str) -> Callable[[Callable[..., dict[str, Any]]], click.Command]:
    """Register the command of a kind: its function returns the options of the finder."""

    def register(options_of: Callable[..., dict[str, Any]]) -> click.Command:
        @wraps(options_of)
        def command(
            recipe: Path,
            overrides: dict[str, Any],
            model: str | None,
            allow_code: bool,
            max_cells: int,
            device: str | None,
            dtype: str | None,
            batch_size: int | None,
            out: Path | None,
            **given: Any,
        ) -> None:
            quiet_libraries()
            if out is None and is_run(recipe):
                out = recipe
            planned = plan(
                file_of(recipe),
                overrides=changed(overrides, model=model, dtype=dtype),
                allow_code=allow_code,
                max_cells=max_cells,
            )
            print_notes(planned)
            with closing(ProgressPrinter()) as printer:
                answer = finders.find(
                    kind, planned, out, device=device, batch_size=batch_size,
                    max_cells=max_cells, on_progress=printer, **options_of(**given),
                )  # fmt: skip
            _print(kind, answer)

        decorated: Any = command
        for option in (
            click.option(
                "--out",
                type=click.Path(path_type=Path),
                help="Default: outputs/<recipe name>-<kind>.",
            ),
            click.option("--batch-size", type=click.IntRange(min=1), help="Images in a batch."),
            DTYPE,
            DEVICE,
            recipe_options,
            click.command(kind),
        ):
            decorated = option(decorated)
        assert isinstance(decorated, click.Command)
        return decorated

    return register


def _print(kind: str, answer: finders.Answer) -> None:
    if not answer.is_main:
        raise Exit("", DONE if answer.finding else INTERRUPTED)
    store, summary = answer.store, answer.summary
    assert summary is not None  # a finder measures something
    try:
        print_outcome(store, summary)
        if answer.finding is not None:
            echo(f"{summary.total} of the {answer.planned} images of the plain sweep were needed")
            echo(answer.finding.sentence)
    finally:  # also where nobody reads it any more
        if answer.finding is None:
            again = f"ablate find {kind} {quote(str(store.folder))}"
            raise Exit(f"{GO_ON}, or: {again}", INTERRUPTED)


AXIS = click.option("--axis", help="Along which edits grow. Default: the only one.")

METRIC = click.option(
    "--metric", help="What drift is measured by. Default: `embedding`, else `rmse`."
)


@finder("breaking-point")
@AXIS
def breaking_point_command(**options: Any) -> dict[str, Any]:
    """Bisect where images stop being their concept, for each combination of the other axes.

    An image is its concept where the CLIP model names what it names in the baseline. RECIPE has an
    axis of strengths or of counts, and seeds for the interval.
    """
    return options


@finder("dose")
@AXIS
@METRIC
def dose_command(**options: Any) -> dict[str, Any]:
    """Bisect the dose at which drift passes the noise floor, for each combination of other axes.

    RECIPE has an axis of doses (`dose: $dose` in an edit), one of what they are given to, and seeds
    for the interval.
    """
    return options


@finder("interactions")
@METRIC
@click.option(
    "--null",
    default="sum",
    show_default=True,
    metavar="MODEL",
    help="What two at once are compared with: `sum`, `independent`, or `max` of both alone.",
)
def interactions_command(**options: Any) -> dict[str, Any]:
    """Edit all pairs of parts at once, and compare their drift with that of each part alone.

    RECIPE has an axis of parts (`group`, `each` ...) and no other axis of edits, and four seeds or
    more for a verdict.
    """
    return options


@finder("order")
@METRIC
@click.option(
    "--beam",
    type=click.IntRange(min=2),
    default=16,
    show_default=True,
    help="Groups of modules that the greedy order tries in a step.",
)
def order_command(**options: Any) -> dict[str, Any]:
    """Edit ever more modules by several orders, and compare the areas below their drift.

    RECIPE has a `cumulative` axis, and seeds for bands. Orders: random, of the network, reverse, by
    first-order score, by the drift of each module alone, and greedy. Counts double.
    """
    return options


@finder("screen")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many with the highest scores to measure.",
)
@click.option(
    "--sample",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="How many of all to measure, drawn by chance.",
)
@METRIC
def screen_command(**options: Any) -> dict[str, Any]:
    """Rank modules, heads, channels or groups by a first-order score, and measure a few.

    RECIPE has an axis of them (`each`, `each_head`, `each_channel`, `group`, `window`) and no other
    axis of edits. All scores together take about as long as a few images; how well they rank is
    part of the finding.
    """
    return options


@finder("search")
@click.option(
    "--goal",
    default=finders.STRUCTURED,
    show_default=True,
    metavar="GOAL",
    help="Or `nearest to CONCEPT`, or a distance that is to be large, as `rmse`.",
)
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Images at most, with baselines.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of all draws."
)
@click.option("--method", default="evolution", show_default=True, help="Or `random`.")  # fmt: skip
def search_command(**options: Any) -> dict[str, Any]:
    """Search the variant of a recipe that comes nearest to a goal, within a budget of images.

    RECIPE has the axes that variants differ in; each is judged by all prompts and seeds. Each
    generation descends from the best so far: axes of two parents, and one value moved by one step.
    """
    return options
