"""The table and the pictures of a comparison of two runs: `compare.csv`, `compare.png`."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ablate.drift import COMPARED, Comparison, Pair, at_one_size
from ablate.store import write_table
from ablate.style import INK, MUTED, Label, clean, typeface, wrap
from ablate.view.errors import PictureError
from ablate.view.page import (
    BASELINE,
    MOST_ROWS,
    PAPER,
    Block,
    PageText,
    Style,
    Tile,
    draw_pages,
    save_pages,
)

TABLE = "compare.csv"
SORTS = ("plan", "drift")
LONGEST = 400  # letters of a label; fewer fit
BRIGHTNESS = 1 / 5  # of the typical difference of the median pair, as it is shown


def save_comparison(
    comparison: Comparison, folder: Path, top: int | None = None, sort: str = "plan"
) -> list[Path]:
    """Write `compare.csv` and `compare.png`; return the paths of all files.

    Args:
        comparison: The pairs of two runs.
        folder: Where to write; further pages of an earlier comparison are removed.
        top: How many pairs to draw; the table has all.
        sort: The order of both: `plan`, that of the first run, or `drift`, the largest first.

    Raises:
        PictureError: There is no such order.
    """
    if sort not in SORTS:
        raise PictureError(f"pairs cannot be sorted by `{sort}`; choose {' or '.join(SORTS)}")
    pairs = list(comparison.pairs)
    if sort == "drift":
        pairs.sort(key=lambda pair: pair.rank, reverse=True)
    shown = pairs[:top]
    axes = [axis.name for axis in comparison.a.axes() if axis.name not in ("prompt", "seed")]
    header = (
        "cell_a", "cell_b", "variant", "prompt", "seed", *axes, *COMPARED,
        "largest", "identical", "state_a", "state_b", "note",
    )  # fmt: skip
    path = write_table(folder / TABLE, header, (_row(pair, axes) for pair in pairs))
    return [path, *save_pages(_pages(comparison, shown) if shown else (), folder, "compare")]


def _row(pair: Pair, axes: Sequence[str]) -> list[Any]:
    figures = (getattr(pair, metric) for metric in COMPARED)
    return [
        pair.a.path.name, pair.b.path.name, pair.a.variant, pair.a.prompt, pair.a.seed,
        *(pair.a.axes.get(name, "") for name in axes),
        *("" if figure is None else f"{figure:.6g}" for figure in figures),
        "" if pair.largest is None else pair.largest,
        "" if pair.broken else "yes" if pair.identical else "no", *pair.states, pair.note,
    ]  # fmt: skip


def _pages(comparison: Comparison, pairs: Sequence[Pair]) -> Iterator[Image.Image]:
    style = Style.fitting([pair.size for pair in pairs], len(pairs) > MOST_ROWS)
    times = _times(pairs)
    heads: list[Label] = [((clean(name), INK),) for name in comparison.names]
    heads.append((("difference", INK), (f"× {times}", MUTED)))
    count = len(pairs)
    # As many tables side by side, three tiles and a label wide, as give the page paper's shape.
    (width, height), gap = style.tile, style.gap
    shape = (height + gap) / (3 * (width + gap) + style.side_room)
    tables = max(1, round(math.sqrt(PAPER * count * shape)), math.ceil(count / MOST_ROWS))
    step = math.ceil(count / tables)
    blocks = [
        Block(
            [_tiles(pair, times) for pair in pairs[i : i + step]],
            heads=heads,
            sides=[_side(pair, style) for pair in pairs[i : i + step]],
        )
        for i in range(0, count, step)
    ]
    yield from draw_pages(_text(comparison, pairs, times), blocks, style, flowing=False)


def _text(comparison: Comparison, pairs: Sequence[Pair], times: int) -> PageText:
    a, b = map(clean, comparison.names)
    prompts = list(dict.fromkeys(clean(pair.a.prompt) for pair in pairs))
    facts = [*comparison.changes, *comparison.notes]
    brightened = f", {times} times as bright" if times > 1 else ""
    facts.append(f"differences without sign{brightened}")
    if len(pairs) < len(comparison.pairs):
        facts.append(f"{len(pairs)} of {len(comparison.pairs)} pairs shown")
    prompt = f"“{prompts[0]}”" if len(prompts) == 1 else ""
    facts = [clean(fact.replace("`", "").removesuffix(".")) for fact in facts]
    return PageText(f"{a} against {b}", clean(comparison.summary()), prompt, facts)


def _times(pairs: Sequence[Pair]) -> int:
    """The factor of all differences: a power of two, the same for all pairs.

    The rmse of the median pair that differs becomes about a fifth of full brightness.
    """
    differing = [pair.rmse for pair in pairs if pair.rmse]
    if not differing:
        return 1
    power = round(math.log2(BRIGHTNESS / statistics.median(differing)))
    return int(2 ** min(max(power, 0), 7))


def _side(pair: Pair, style: Style) -> Label:
    """The label of a row: which pair it is, and how far apart, no taller than its tiles."""
    figures = [pair.note] if pair.note else []
    if pair.identical:
        figures.append("identical")
    elif pair.rmse is not None:
        similar = "" if pair.ssim is None else f" · ssim {pair.ssim:.3f}"
        figures += [f"rmse {pair.rmse:.3g}{similar}", f"largest {pair.largest} of 255"]
    font, room = typeface(style.text), style.side_room
    below = [(line, MUTED) for text in figures for line in wrap(text, font, room)]
    lines = style.tile[1] // round(1.3 * style.text) - len(below) - pair.a.is_baseline
    words = pair.phrases or [pair.a.variant] * (not pair.a.is_baseline)
    phrases = [clean(text[:LONGEST]) for text in words]
    if len(phrases) > max(lines, 1):
        phrases = [" · ".join(phrases)[:LONGEST]]
    most = max(1, lines // max(len(phrases), 1))
    above = [(line, INK) for text in phrases for line in wrap(text, font, room, most)]
    return (*BASELINE * pair.a.is_baseline, *above, *below)


def _tiles(pair: Pair, times: int) -> list[Tile | None]:
    first, second = (
        Tile(partial(_shown, pair, i), pair.states[i] != "ok", marked=cell.is_baseline)
        for i, cell in enumerate((pair.a, pair.b))
    )
    difference = None if pair.rmse is None else partial(_difference, pair, times)
    return [first, second, Tile(difference)]


def _shown(pair: Pair, which: int) -> Image.Image:
    images = pair.a.image(), pair.b.image()
    return (at_one_size(images) or images)[which]


def _difference(pair: Pair, times: int) -> Image.Image:
    """The absolute difference of each channel, brightened and clipped at 255."""
    a, b = (np.asarray(_shown(pair, which)).astype(np.int32) for which in (0, 1))
    return Image.fromarray(np.clip(np.abs(a - b) * times, 0, 255).astype(np.uint8))
