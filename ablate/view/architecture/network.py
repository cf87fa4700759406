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
from ablate.view import scales as measuring, svg as drawing
from ablate.view.architecture import stacks, u_net as shapes
from ablate.view.architecture.blueprint import blueprint
from ablate.view.architecture.tiles import Tiles
from ablate.view.architecture.u_net import MARGIN
from ablate.view.errors import PictureError
from ablate.view.scales import Measure, Scale

DONE_BY = {"zero": "zeroed", "randomize": "randomized", "shuffle": "shuffled", "scale": "scaled"}


def draw_layout(catalog: Sequence[ModuleInfo], title: str) -> str:
    """The drawing of a network alone, its modules colored by size."""
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
    """The drawing of a network, as SVG.

    `values`, `thumbnails` and `keys` (of cells) go by module number; without `values` colors tell
    sizes. `unit` says what a value is, `about` stands below the title, `aid` says how to read the
    colors, `baseline` is the image of the untouched network. Raises `PictureError` for a catalog
    without modules.
    """
    if not catalog:
        raise PictureError("there are no modules to draw: the catalog is empty")
    sizes = {module.number: float(module.parameters) for module in catalog}
    if values is None:
        scale = Scale(max(sizes.values()), max(1.0, min(sizes.values())), logarithmic=True)
        unit, aid = "parameters", aid or "The darker, the more parameters a module has."
    else:
        scale = Scale(max((v for v in values.values() if math.isfinite(v)), default=1.0) or 1.0)
    plan = blueprint(catalog)
    known = sizes if values is None else values
    tiles = Tiles(scale, known, thumbnails or {}, keys or {}, unit)
    key = shapes.Key(catalog, tiles, aid, by_size=values is None)
    top = MARGIN + (156 if baseline else 104)
    drawn, width, height = (shapes.u if plan.is_u else stacks.column)(plan, tiles, key, top)
    header = drawing.header(title, about, MARGIN, width - 2 * MARGIN - (150 if baseline else 0))
    if baseline:
        header += drawing.marked(baseline, width - MARGIN - 117, MARGIN - 20, 112, 112)
    return drawing.document(width, height + MARGIN, header, drawn, label=f"{title}: {about or aid}")


def draw_network(run: Run, metric: str | None = None, thumbnails: bool = False) -> str | None:
    """The architecture sheet of a run; None when no cell edits few enough modules to be placed.

    A module has the mean drift of the cells that edit it alone, over seeds, prompts and strengths;
    where there are none, that of its group, if the run edits groups that do not overlap. `metric`:
    see `measures.choose`. `thumbnails`: each module shows its picture of the first seed.
    """
    catalog, cells = run.catalog(), read_cells(run)
    edited = [cell for cell in cells if not cell.is_baseline]
    placed, by_group = _placed(edited, run.touched(), len(catalog))
    measure = measuring.choose(cells, metric)
    if not placed or measure is None:
        return None
    values, shown = {}, {}
    for number, own in placed.items():
        known = [value for cell in own if (value := measure.of(cell)) is not None]
        values[number] = sum(known) / len(known) if known else math.nan
        first = [cell for cell in own if (cell.seed, cell.prompt) == (own[0].seed, own[0].prompt)]
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
    """By module number, the cells that speak for it; and whether some speak for whole groups."""
    sets: dict[tuple[int, ...], list[MeasuredCell]] = {}
    for cell in edited:
        numbers = touched.get(cell.variant, ())
        if 0 < len(numbers) < max(count, 2):
            sets.setdefault(numbers, []).append(cell)
    alone = {numbers[0]: cells for numbers, cells in sets.items() if len(numbers) == 1}
    groups = [numbers for numbers in sets if len(numbers) > 1]
    if sum(map(len, groups)) > len({n for numbers in groups for n in numbers}):
        # Groups that overlap tell nothing of their members; sweeps of ever more modules start
        # with one alone by chance.
        return (alone if len(alone) > len(groups) else {}), False
    shared = {n: sets[numbers] for numbers in groups for n in numbers if n not in alone}
    return dict(sorted((shared | alone).items())), bool(shared)


def _op(edited: Sequence[MeasuredCell]) -> str:
    """The one operation of a run's cells, as the first of them tells it; empty when several."""
    ops = {str(edit.get("op")) for edit in edited[0].record().get("edits", [])}
    return ops.pop() if len(ops) == 1 else ""


def _about(model: str, placed: Sequence[Sequence[MeasuredCell]], measure: Measure) -> str:
    prompts = {cell.prompt for own in placed for cell in own}
    over = []
    for name in placed[0][0].axes:
        count = max(len({repr(cell.axes[name]) for cell in own}) for own in placed)
        if count > 1:
            plural = f"{name}s" if name in ("seed", "prompt") else f"values of {name}"
            over.append(f"{count} {plural}")
    facts = [model, measure.words]
    facts += [f"mean of {' × '.join(over)}"] if over else []
    facts += [f"“{prompts.pop()}”"] if len(prompts) == 1 else []
    return "  ·  ".join(facts)
