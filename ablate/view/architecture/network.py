"""The architecture sheet: a network drawn as it is, every module in its place.

A U has its descent on the left, its middle at the bottom, its ascent on the right, and its skip
connections between; any other network is a column of blocks from input to output. Modules are
colored by drift, or by size where there is none, so that one sees at a glance whether place and
effect have to do with each other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ablate.drift import MeasuredCell, read_cells
from ablate.network import ModuleInfo
from ablate.store import Run
from ablate.style import ACCENT
from ablate.view.architecture.blueprint import blueprint
from ablate.view.architecture.key import Key
from ablate.view.architecture.stacks import draw_column
from ablate.view.architecture.tiles import Tiles
from ablate.view.architecture.u_net import draw_u
from ablate.view.chart import Scale
from ablate.view.errors import PictureError
from ablate.view.measures import Measure, choose_measure
from ablate.view.svg import MARGIN, Canvas

DONE_BY = {"zero": "zeroed", "randomize": "randomized", "shuffle": "shuffled", "scale": "scaled"}


def draw_layout(catalog: Sequence[ModuleInfo], title: str) -> str:
    """Draw a network alone, its modules colored by size."""
    return draw_drift(catalog, title=title)


def draw_drift(
    catalog: Sequence[ModuleInfo],
    *,
    title: str,
    about: str = "",
    aid: str = "",
    unit: str = "",
    values: Mapping[int, float] | None = None,
    thumbnails: Mapping[int, Path] | None = None,
    keys: Mapping[int, str] | None = None,
    baseline: Path | None = None,
) -> str:
    """Draw a network, as SVG. Mappings are by module number.

    Args:
        catalog: The modules of the network.
        title: Of the drawing.
        about: The line below the title.
        aid: How to read the colors.
        unit: What a value is.
        values: Of modules, that colors show; without them colors show sizes.
        thumbnails: Pictures of modules.
        keys: Of the cells that are shown.
        baseline: The image of the network without edits.

    Raises:
        PictureError: The catalog has no modules.
    """
    if not catalog:
        raise PictureError("there are no modules to draw: the catalog is empty")
    sizes = {module.number: float(module.parameters) for module in catalog}
    if values is None:
        scale = Scale(max(sizes.values()), max(1.0, min(sizes.values())), "log")
        unit, aid = "parameters", aid or "The darker, the more parameters a module has."
    else:
        scale = Scale(max((v for v in values.values() if math.isfinite(v)), default=1.0) or 1.0)
    plan = blueprint(catalog)
    known = sizes if values is None else values
    tiles = Tiles(scale, known, thumbnails or {}, keys or {}, unit)
    key = Key(catalog, tiles, aid, by_size=values is None)
    drawn, canvas, room = Canvas(), Canvas(), 150 if baseline else 0
    draw = draw_u if plan.is_u else draw_column
    width, height = draw(drawn, plan, tiles, key, MARGIN + (156 if baseline else 104))
    if baseline:
        x, y, side = width - MARGIN - 117, MARGIN - 20, 112
        canvas.picture(baseline, x, y, side, side)
        canvas.frame(x - 2, y - 2, side + 4, side + 4, ACCENT, 3)
        canvas.text(x - 5, y + side + 22, "baseline", 15, ACCENT, bold=True)
    canvas.add(drawn)
    return canvas.document(
        width, height + MARGIN, name=title, about=about, room=width - 2 * MARGIN - room,
        label=f"{title}: {about or aid}",
    )  # fmt: skip


def draw_network(run: Run, metric: str | None = None, thumbnails: bool = False) -> str | None:
    """Draw the architecture sheet of a run.

    A module has the mean drift of the cells that edit it alone, over seeds, prompts and strengths;
    where there are none, that of its group, if the run edits groups that do not overlap.

    Args:
        run: The run.
        metric: See `choose_measure`.
        thumbnails: Whether each module shows its picture of the first seed.

    Returns:
        The drawing; None when no cell edits few enough modules to be placed.
    """
    catalog, cells = run.catalog(), read_cells(run)
    edited = [cell for cell in cells if not cell.is_baseline]
    placed, by_group = _placed(edited, run.edited_modules(), len(catalog))
    measure = choose_measure(cells, metric)
    if not placed or measure is None:
        return None
    values, shown = {}, {}
    for number, group in placed.items():
        known = [value for cell in group if (value := measure.of(cell)) is not None]
        values[number] = sum(known) / len(known) if known else math.nan
        first = [
            cell for cell in group if (cell.seed, cell.prompt) == (group[0].seed, group[0].prompt)
        ]
        shown[number] = max(first, key=lambda cell: measure.of(cell) or 0.0)
    manifest = run.manifest()
    base = run.path(next(iter(placed.values()))[0].baseline)
    done = DONE_BY.get(_op(edited), "edited")
    what = f"the modules of a group are {done} together" if by_group else f"a module is {done}"
    return draw_drift(
        catalog,
        title=str(manifest["name"]),
        about=_about(str(manifest["model"]["id"]), list(placed.values()), measure),
        aid=f"The darker, the further the image moves when {what}.",
        unit=measure.words,
        values=values,
        thumbnails={n: cell.path for n, cell in shown.items()} if thumbnails else None,
        keys={n: cell.key for n, cell in shown.items()},
        baseline=base if base.exists() else None,
    )


def _placed(
    edited: Sequence[MeasuredCell], touched: Mapping[str, tuple[int, ...]], count: int
) -> tuple[dict[int, list[MeasuredCell]], bool]:
    """By module number, the cells that show its effect; and whether some show that of a group."""
    sets: dict[tuple[int, ...], list[MeasuredCell]] = {}
    for cell in edited:
        numbers = touched.get(cell.variant, ())
        if 0 < len(numbers) < max(count, 2):
            sets.setdefault(numbers, []).append(cell)
    alone = {numbers[0]: cells for numbers, cells in sets.items() if len(numbers) == 1}
    groups = [numbers for numbers in sets if len(numbers) > 1]
    if sum(map(len, groups)) > len({n for numbers in groups for n in numbers}):
        # Groups that overlap say nothing about their members; sweeps of ever more modules start
        # with one alone by chance.
        return (alone if len(alone) > len(groups) else {}), False
    shared = {n: sets[numbers] for numbers in groups for n in numbers if n not in alone}
    return dict(sorted((shared | alone).items())), bool(shared)


def _op(edited: Sequence[MeasuredCell]) -> str:
    """The one operation of the first of a run's cells; empty when there are several."""
    ops = {str(edit.get("op")) for edit in edited[0].record().get("edits", [])}
    return ops.pop() if len(ops) == 1 else ""


def _about(model: str, placed: Sequence[Sequence[MeasuredCell]], measure: Measure) -> str:
    prompts = {cell.prompt for group in placed for cell in group}
    over = []
    for name in placed[0][0].axes:
        count = max(len({repr(cell.axes[name]) for cell in group}) for group in placed)
        if count > 1:
            plural = f"{name}s" if name in ("seed", "prompt") else f"values of {name}"
            over.append(f"{count} {plural}")
    facts = [model, measure.words]
    facts += [f"mean of {' × '.join(over)}"] if over else []
    facts += [f"“{prompts.pop()}”"] if len(prompts) == 1 else []
    return "  ·  ".join(facts)
