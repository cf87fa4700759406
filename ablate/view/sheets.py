"""Contact sheets: the cells of a run as one labeled picture, drawn from its folder alone.

Rows, columns and blocks each show one or more axes. A single long axis flows over as many rows as
give a printable page. The baseline comes first, framed and named. All lengths are pixels.

    >>> save_sheet(Run("outputs/mix-noise"), rows="seed", columns="amount")
    [PosixPath('outputs/mix-noise/sheet.png')]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from typing import Any

from PIL import Image

from ablate.drift import MeasuredCell, read_cells
from ablate.messages import did_you_mean
from ablate.store import MAX_SIDE, Axis, Run, StoredCell
from ablate.style import INK, MUTED, Label, clean
from ablate.view.errors import PictureError
from ablate.view.page import (
    BASELINE,
    MOST_ROWS,
    Block,
    PageText,
    Style,
    Tile,
    draw_pages,
    save_pages,
)
from ablate.view.shown import shown_cells

SAMPLING_FACTS = {
    "num_inference_steps": "{} steps", "guidance_scale": "guidance {}", "scheduler": "{}",
}  # fmt: skip
Names = str | Sequence[str] | None  # of axes


def contact_sheet(
    run: Run,
    *,
    rows: Names = None,
    columns: Names = None,
    thumbnail: int | None = None,
    concepts: bool = False,
) -> list[Image.Image]:
    """Draw the pages of a run's contact sheet, RGB.

    Args:
        run: A run with at least one finished cell.
        rows: Axes of the rows; several nest, the first outermost. They win over the recipe's. Where
            neither rows nor columns are given, a layout is chosen.
        columns: Axes of the columns, likewise. Other axes with several values become blocks.
        thumbnail: The longer side of the pictures; smaller images grow by whole factors.
        concepts: Whether to name what each cell shows, as measured; the recipe may ask for it too.

    Raises:
        PictureError: An axis or a size is wrong, or no cell is finished.
    """
    return list(_pages(run, rows, columns, thumbnail, concepts))


def save_sheet(
    run: Run, rows: Names = None, columns: Names = None, *, concepts: bool = False
) -> list[Path]:
    """Write `sheet.png`, `sheet-2.png` ... into the run's folder and return their paths.

    Files of an earlier sheet are removed. Arguments are those of `contact_sheet`.
    """
    return save_pages(_pages(run, rows, columns, None, concepts), run.folder, "sheet")


def _pages(
    run: Run, rows: Names, columns: Names, thumbnail: int | None, concepts: bool
) -> Iterator[Image.Image]:
    sweep = _read(run)
    if concepts or (sweep.manifest.get("sheet") or {}).get("concepts"):
        shown = {cell.key: _shows(cell) for cell in read_cells(run)}
        sweep = replace(sweep, shows=shown)
    layout = _layout(sweep, _names(rows), _names(columns))
    style = _style(sweep, thumbnail)
    yield from draw_pages(_words(sweep), _blocks(sweep, layout), style, flowing=layout.flowing)


@dataclass(frozen=True)
class _Place:
    """A cell of the sweep and the index of its value on every axis."""

    cell: StoredCell
    at: Mapping[str, int]


@dataclass(frozen=True)
class _Sweep:
    """All that a sheet is drawn from.

    Attributes:
        manifest: `run.json`.
        planned: How many different cells the run has, finished and shown or not.
        axes: The axes by name.
        places: The cells shown that have a value on every axis.
        added: By key, the baselines that no values of the axes lead to.
        sizes: By key, width and height of finished cells.
        broken: Keys of the cells with NaN or infinity.
        labels: By axis, the labels of its values without `shared`.
        shared: By axis, the module path at the start of all its labels.
        plain: Whether every cell is a baseline, so that none is marked as one.
        shows: By key, the nearest concept.
    """

    manifest: Mapping[str, Any]
    planned: int
    axes: Mapping[str, Axis]
    places: list[_Place]
    added: Mapping[str, StoredCell]
    sizes: Mapping[str, tuple[int, int]]
    broken: Set[str]
    labels: Mapping[str, list[str]]
    shared: Mapping[str, str]
    plain: bool
    shows: Mapping[str, str] = field(default_factory=dict)

    def seen(self, name: str) -> int:
        """How many values of an axis have cells."""
        return len({place.at[name] for place in self.places})

    def marks(self, cell: StoredCell | None) -> bool:
        """Whether a cell is shown as the baseline."""
        return bool(cell and cell.is_baseline) and not self.plain

    def is_condition(self, name: str) -> bool:
        """Whether the baseline, too, depends on this axis."""
        return name in {"prompt", "seed", "width", "height", *self.manifest["sampling"]}


def _read(run: Run) -> _Sweep:
    axes = {axis.name: axis for axis in run.axes()}
    places: list[_Place] = []
    added: dict[str, StoredCell] = {}
    sizes: dict[str, tuple[int, int]] = {}
    broken: set[str] = set()
    shown, planned = shown_cells(run.cells())
    for cell in shown:
        values = cell.values
        if axes.keys() <= values.keys():
            places.append(_Place(cell, {n: _index(axis, values[n]) for n, axis in axes.items()}))
        elif cell.is_baseline:
            added[cell.key] = cell
        if cell.done and cell.key not in sizes:
            record = cell.record()
            sizes[cell.key] = (record["size"][0], record["size"][1])
            if record.get("state", "ok") != "ok":
                broken.add(cell.key)
    if not sizes or not places:
        raise PictureError(f"{run.folder} has no finished cells to show yet")
    for place in places:
        added.pop(place.cell.key, None)
    labels = {name: [clean(label) for label in axis.labels] for name, axis in axes.items()}
    shared = {name: _shared_path(labels[name]) for name in axes}
    short = {name: [label[len(shared[name]) :] for label in labels[name]] for name in axes}
    plain = all(place.cell.is_baseline for place in places)
    return _Sweep(run.manifest(), planned, axes, places, added, sizes, broken, short, shared, plain)


def _index(axis: Axis, value: Any) -> int:
    if value not in axis.values:
        raise PictureError(f"a cell has {value!r} on axis `{axis.name}`, which has no such value")
    return axis.values.index(value)


def _shared_path(labels: Sequence[str]) -> str:
    """The module path, with its last dot, that all labels start with; often empty."""
    if len(labels) < 2 or not all(re.fullmatch(r"[A-Za-z_][\w.]*", label) for label in labels):
        return ""
    steps = zip(*(label.split(".")[:-1] for label in labels), strict=False)
    return "".join(f"{step[0]}." for step in takewhile(lambda step: len(set(step)) == 1, steps))


@dataclass(frozen=True)
class _Layout:
    """Names of axes, outermost first; `flowing`: whether the columns flow over several rows."""

    blocks: tuple[str, ...]
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    flowing: bool


def _names(asked: Names) -> tuple[str, ...]:
    return (asked,) if isinstance(asked, str) else tuple(asked or ())


def _layout(sweep: _Sweep, rows: tuple[str, ...], columns: tuple[str, ...]) -> _Layout:
    asked = sweep.manifest.get("sheet") or {}
    used = rows + columns
    rows = rows or tuple(n for n in _names(asked.get("rows")) if n not in used)
    columns = columns or tuple(n for n in _names(asked.get("columns")) if n not in used)
    for name in rows + columns:
        if name not in sweep.axes:
            hint = did_you_mean(name, sweep.axes) or f"; it has {', '.join(sweep.axes)}"
            raise PictureError(f"the run has no axis `{name}`{hint}")
        if (rows + columns).count(name) > 1:
            raise PictureError(f"axis `{name}` is used twice")

    factors = _factors(sweep)
    for factor in factors:  # zipped axes stay together
        if set(factor) & set(rows):
            rows += tuple(n for n in factor if n not in rows + columns)
        elif set(factor) & set(columns):
            columns += tuple(n for n in factor if n not in columns)
    free = [factor for factor in factors if not set(factor) & {*rows, *columns}]
    flowing = False
    if not rows and not columns:
        rows, columns, flowing = _sensible(sweep, free)
    elif free and not columns:
        columns = _best_columns(sweep, free)
    elif free and not rows:
        rows = _best_rows(sweep, free)
    blocks = tuple(n for factor in free for n in factor if n not in rows + columns)
    return _Layout(blocks, rows, columns, flowing)


def _factors(sweep: _Sweep) -> list[tuple[str, ...]]:
    """The axes with several values, as factors of a product: zipped ones share a factor."""
    factors: list[tuple[str, ...]] = []
    for name in sweep.axes:
        count = sweep.seen(name)
        if count < 2:
            continue
        for i, factor in enumerate(factors):
            pairs = {(place.at[name], place.at[factor[0]]) for place in sweep.places}
            if len(pairs) == count == sweep.seen(factor[0]):
                factors[i] = (*factor, name)
                break
        else:
            factors.append((name,))
    return factors


def _sensible(
    sweep: _Sweep, factors: list[tuple[str, ...]]
) -> tuple[tuple[str, ...], tuple[str, ...], bool]:
    """The default layout: rows, columns, and whether these flow."""
    if not factors:
        return (), (), True
    if len(factors) == 1:
        (only,) = factors
        # Edited beside unedited for each condition: a table of two rows.
        if sweep.added and sweep.is_condition(only[0]) and sweep.seen(only[0]) <= MOST_ROWS:
            return (only, (), False) if "prompt" in only else ((), only, False)
        return (), only, True
    longest = max(factors, key=lambda f: sweep.seen(f[0]))
    if sweep.seen(longest[0]) <= MOST_ROWS:
        columns = _best_columns(sweep, factors)
        return _best_rows(sweep, [f for f in factors if f != columns]), columns, False
    # Hundreds of modules: a row each where another axis fills the row, else a grid for each value.
    wide = [f for f in factors if f != longest and 5 <= sweep.seen(f[0]) <= MOST_ROWS]
    return (longest, _best_columns(sweep, wide), False) if wide else ((), longest, True)


def _best_columns(sweep: _Sweep, factors: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Prefer a scale, which reads best from left to right; prompts are too long for heads."""

    def rank(factor: tuple[str, ...]) -> tuple[bool, bool, int, bool]:
        values = sweep.axes[factor[0]].values
        scale = factor[0] != "seed" and all(isinstance(v, int | float) for v in values)
        return scale, "prompt" not in factor, len(values), not sweep.is_condition(factor[0])

    return max(factors, key=rank)


def _best_rows(sweep: _Sweep, factors: list[tuple[str, ...]]) -> tuple[str, ...]:
    """Prefer what was edited, so that it stays on one page; then prompts."""

    def rank(factor: tuple[str, ...]) -> tuple[bool, bool, int]:
        name = factor[0]
        return not sweep.is_condition(name), "prompt" not in factor, sweep.seen(name)

    return max(factors, key=rank)


Combo = tuple[int, ...]


def _combos(places: list[_Place], names: tuple[str, ...]) -> list[Combo]:
    return sorted({tuple(place.at[n] for n in names) for place in places})


def _label(sweep: _Sweep, names: tuple[str, ...], combo: Combo, places: list[_Place]) -> Label:
    """The label of a row or column; without axes, the name of the only variant."""
    if not names:
        variants = {place.cell.variant for place in places}
        return ((clean(variants.pop()), INK),) if len(variants) == 1 else ()
    texts = [sweep.labels[name][i] for name, i in zip(names, combo, strict=True)]
    if len(names) > 1:
        texts = [_phrase(name, text) for name, text in zip(names, texts, strict=True)]
    return tuple((text, INK) for text in texts)


def _phrase(name: str, label: str) -> str:
    return f"“{label}”" if name == "prompt" else f"{name} {label}"


def _axis_note(sweep: _Sweep, names: tuple[str, ...]) -> str:
    notes = [f"{n} in {sweep.shared[n][:-1]}" if sweep.shared[n] else n for n in names]
    return " × ".join(notes) if len(names) == 1 or any(sweep.shared[n] for n in names) else ""


def _turns(combos: list[Combo]) -> set[int]:
    """The indices where the outer of several nested axes takes its next value."""
    return {i for i in range(1, len(combos)) if combos[i][:-1] != combos[i - 1][:-1]}


def _blocks(sweep: _Sweep, layout: _Layout) -> Iterator[Block]:
    shown: list[list[StoredCell | None]] = []
    for combo in _combos(sweep.places, layout.blocks):
        places = [p for p in sweep.places if _at(p, layout.blocks) == combo]
        named = {
            name: _phrase(name, sweep.shared[name] + sweep.labels[name][i])
            for name, i in zip(layout.blocks, combo, strict=True)
        }
        title = " · ".join(named.values())
        if layout.flowing:
            yield _flow(sweep, layout, places, title)
            continue
        rows, columns = _combos(places, layout.rows), _combos(places, layout.columns)
        by_combo = {(_at(p, layout.rows), _at(p, layout.columns)): p.cell for p in places}
        cells = [[by_combo.get((row, column)) for column in columns] for row in rows]
        base = [[sweep.added.get(c.baseline) if c else None for c in line] for line in cells]
        upright = [list(line) for line in zip(*base, strict=True)]
        heads = [_label(sweep, layout.columns, column, places) for column in columns]
        sides = [_label(sweep, layout.rows, row, places) for row in rows]
        wide, tall = _turns(columns), _turns(rows)
        if all(_alike(line) for line in base) and any(map(_first, base)):
            cells = [[_first(b), *line] for b, line in zip(base, cells, strict=True)]
            heads, wide = [BASELINE, *heads], {1} | {i + 1 for i in wide}
        elif all(_alike(line) for line in upright) and any(map(_first, upright)):
            cells = [[_first(line) for line in upright], *cells]
            sides, tall = [BASELINE, *sides], {1} | {i + 1 for i in tall}
        block = Block(
            (), title, _axis_note(sweep, layout.columns), _axis_note(sweep, layout.rows),
            heads, sides, frozenset(wide), frozenset(tall),
        )  # fmt: skip
        if BASELINE not in heads + sides and any(map(_first, base)) and base != shown:
            # Conditions both ways: the baselines are a separate table.
            shown = base
            condition = " · ".join(p for name, p in named.items() if sweep.is_condition(name))
            yield _mark(sweep, replace(block, title=condition), base)
        yield _mark(sweep, block, cells)


def _at(place: _Place, names: tuple[str, ...]) -> Combo:
    return tuple(place.at[name] for name in names)


def _alike(cells: Sequence[StoredCell | None]) -> bool:
    return len({cell.key for cell in cells if cell}) <= 1


def _first(cells: Sequence[StoredCell | None]) -> StoredCell | None:
    return next((cell for cell in cells if cell), None)


def _mark(sweep: _Sweep, block: Block, cells: list[list[StoredCell | None]]) -> Block:
    """The block with its tiles; "baseline" is written once, where it covers most of them."""
    marked = [[sweep.marks(cell) for cell in row] for row in cells]
    across = [all(row) for row in marked]
    down = [all(column) for column in zip(*marked, strict=True)]
    title, heads, sides = block.title, block.heads, block.sides
    if all(down):
        title = " · ".join(filter(None, (title, "baseline")))
    else:
        heads = [h if h == BASELINE else BASELINE * m + h for h, m in zip(heads, down, strict=True)]
        sides = [
            s if s == BASELINE else s + BASELINE * m for s, m in zip(sides, across, strict=True)
        ]

    def tile(cell: StoredCell, marked_already: bool) -> Tile:
        return _tile(sweep, cell, () if marked_already else _mark_of(sweep, cell))

    tiles = [
        [tile(cell, across[i] or down[j]) if cell else None for j, cell in enumerate(row)]
        for i, row in enumerate(cells)
    ]
    return replace(block, title=title, heads=heads, sides=sides, tiles=tiles)


def _mark_of(sweep: _Sweep, cell: StoredCell) -> Label:
    """Whether a cell is the baseline, or the same as one that is edited elsewhere to one effect."""
    if sweep.marks(cell):
        return BASELINE
    other = next((p for p in sweep.places if p.cell.variant == cell.same_as), None)
    if other is None:
        return ()
    labels = []
    for name, axis in sweep.axes.items():
        own, place = _index(axis, cell.values[name]), other.at[name]
        if own != place and not sweep.is_condition(name):
            labels.append(_unshared(sweep.labels[name][place], sweep.labels[name][own]))
    return ((f"same as {', '.join(labels)}", MUTED),)


def _unshared(label: str, own: str) -> str:
    """A label without the module path that another begins with too."""
    return label[len(_shared_path([label, own])) :]


def _shows(cell: MeasuredCell) -> str:
    """The concept that a cell shows with its probability, `none`, or that it is noise."""
    if cell.class_name == "noise" or not cell.concepts:
        return cell.class_name
    return f"{cell.shows} {cell.concepts[0][1]:.2f}" if cell.named else cell.shows


def _tile(sweep: _Sweep, cell: StoredCell, caption: Label) -> Tile:
    if sweep.shows.get(cell.key):
        caption += ((clean(sweep.shows[cell.key]), MUTED),)
    image = cell.image if cell.key in sweep.sizes else None
    return Tile(image, cell.key in sweep.broken, caption, sweep.marks(cell))


def _flow(sweep: _Sweep, layout: _Layout, places: list[_Place], title: str) -> Block:
    """One row of captioned tiles, each baseline before the first cell that is compared with it."""
    tiles: list[Tile | None] = []
    shown: set[str] = set()
    for place in sorted(places, key=lambda p: _at(p, layout.columns)):
        added = sweep.added.get(place.cell.baseline)
        if added and added.key not in shown:
            tiles.append(_tile(sweep, added, BASELINE))
            shown.add(added.key)
        caption = _label(sweep, layout.columns, _at(place, layout.columns), [place])
        tiles.append(_tile(sweep, place.cell, caption + _mark_of(sweep, place.cell)))
    return Block([tiles], title, _axis_note(sweep, layout.columns))


def _style(sweep: _Sweep, thumbnail: int | None) -> Style:
    if thumbnail is not None and not 16 <= thumbnail <= MAX_SIDE // 4:
        raise PictureError(f"thumbnails of {thumbnail} px: choose between 16 and {MAX_SIDE // 4}")
    return Style.fitting(sweep.sizes.values(), len(sweep.places) > 100, thumbnail)


def _words(sweep: _Sweep) -> PageText:
    name, about = sweep.manifest["name"], sweep.manifest.get("about") or ""
    prompts = {clean(place.cell.prompt) for place in sweep.places}
    asked = [f"“{prompts.pop()}”"] if len(prompts) == 1 else []
    asked += [clean(f"{a.name}: {a.note}") for a in sweep.axes.values() if a.note]
    return PageText(clean(name), clean(about), "  ·  ".join(asked), _facts(sweep))


def _facts(sweep: _Sweep) -> list[str]:
    """How these images were generated, a few words each."""
    manifest, first = sweep.manifest, sweep.places[0]
    only = {n: sweep.labels[n][first.at[n]] for n in sweep.axes if sweep.seen(n) == 1}
    varying = sweep.axes.keys() - only.keys()
    sampling = {k: v for k, v in {**manifest["sampling"], **only}.items() if k not in varying}
    seeds = sweep.labels.get("seed") or sorted({str(p.cell.seed) for p in sweep.places})
    facts = [f"seed{'s' * (len(seeds) > 1)} {', '.join(seeds)}"]
    if len(seeds) > 12:
        facts = [f"{len(seeds)} seeds"]
    facts.append(f"{manifest['model']['id']} ({_short(manifest['model']['fingerprint'])})")
    facts += sampling_facts(sampling)
    if sampling.get("negative_prompt"):
        facts.append(f"negative prompt “{sampling['negative_prompt']}”")
    shown = {"prompt", "seed", "negative_prompt", "width", "height", *SAMPLING_FACTS}
    facts += [_phrase(name, label) for name, label in only.items() if name not in shown]
    sizes = sorted(set(sweep.sizes.values()))
    facts += [f"{w} × {h} px" for w, h in sizes] if len(sizes) < 4 else [f"{len(sizes)} sizes"]
    done, planned = len(sweep.sizes), sweep.planned
    finished = f"{done} of {planned} cells finished" if done < planned else f"{done} cells"
    facts += [str(manifest["dtype"]), str(manifest["device"]), finished]
    if sweep.broken:
        facts.append(f"{len(sweep.broken)} with NaN")
    return [clean(fact) for fact in facts]


def sampling_facts(sampling: Mapping[str, Any]) -> list[str]:
    """The most important settings of the sampling, a few words each."""
    return [form.format(sampling[k]) for k, form in SAMPLING_FACTS.items() if k in sampling]


def _short(fingerprint: str) -> str:
    """The first digits of a fingerprint, without its kind."""
    return fingerprint.rpartition(":")[2][:8]
