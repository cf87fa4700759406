"""The table and the pictures of a comparison of two runs: `compare.csv`, `compare.png`."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ablate.drift import COMPARED, Comparison, Pair, at_one_size
from ablate.store import Run, StoreError
from ablate.style import INK, MUTED, Label, clean, typeface, wrap
from ablate.view.page import BASELINE, PAPER, WIDEST, Block, Style, Tile, Words, pages, write

TABLE = "compare.csv"
SORTS = ("plan", "drift")


LONGEST = 400  # letters of a label, of which fewer fit


SEEN = 1 / 5  # brightness that the typical difference of the median pair is brought to


def save_comparison(
    comparison: Comparison, folder: Path, top: int | None = None, sort: str = "plan"
) -> list[Path]:
    """Write `compare.csv`, of all pairs, and `compare.png`, of the first `top`; remove stale pages.

    `sort`: "plan", the order of the first run, or "drift", the largest first; of both files.
    """
    if sort not in SORTS:
        raise StoreError(f"pairs cannot be sorted by `{sort}`; choose {' or '.join(SORTS)}")
    pairs = list(comparison.pairs)
    if sort == "drift":
        pairs.sort(key=lambda pair: pair.rank, reverse=True)
    shown = pairs[:top]
    paths = [Run(folder).write_text(TABLE, _table(comparison, pairs))]
    return paths + write(_pages(comparison, shown) if shown else (), folder, "compare")


def _table(comparison: Comparison, pairs: Sequence[Pair]) -> str:
    axes = [axis.name for axis in comparison.a.axes() if axis.name not in ("prompt", "seed")]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([
        "cell_a", "cell_b", "variant", "prompt", "seed", *axes,
        *COMPARED, "largest", "identical", "state_a", "state_b", "note",
    ])  # fmt: skip
    for pair in pairs:
        figures = (getattr(pair, metric) for metric in COMPARED)
        table.writerow([
            pair.a.path.name, pair.b.path.name, pair.a.variant, pair.a.prompt, pair.a.seed,
            *(pair.a.axes.get(name, "") for name in axes),
            *("" if figure is None else f"{figure:.6g}" for figure in figures),
            "" if pair.largest is None else pair.largest,
            "" if pair.broken else "yes" if pair.identical else "no", *pair.states, pair.note,
        ])  # fmt: skip
    return text.getvalue()


def _pages(comparison: Comparison, pairs: Sequence[Pair]) -> Iterator[Image.Image]:
    style = _style(pairs)
    times = _times(pairs)
    heads: list[Label] = [((clean(name), INK),) for name in comparison.names]
    heads.append((("difference", INK), (f"× {times}", MUTED)))
    count = len(pairs)
    # So many tables side by side, three tiles and a label wide, that the page is like paper.
    (width, height), gap = style.tile, style.gap
    shape = (height + gap) / (3 * (width + gap) + _room(style))
    tables = max(1, round(math.sqrt(PAPER * count * shape)), math.ceil(count / WIDEST))
    step = math.ceil(count / tables)
    blocks = [
        Block(
            "", "", "", heads,
            [_side(pair, style) for pair in pairs[i : i + step]],
            [_tiles(pair, times) for pair in pairs[i : i + step]],
            frozenset(), frozenset(),
        )
        for i in range(0, count, step)
    ]  # fmt: skip
    yield from pages(_words(comparison, pairs, times), blocks, style, flowing=False)


def _words(comparison: Comparison, pairs: Sequence[Pair], times: int) -> Words:
    a, b = map(clean, comparison.names)
    prompts = list(dict.fromkeys(clean(pair.a.prompt) for pair in pairs))
    facts = [*comparison.changes, *comparison.notes]
    facts.append(f"differences without sign, {times} times as bright" if times > 1 else
                 "differences without sign")  # fmt: skip
    if len(pairs) < len(comparison.pairs):
        facts.append(f"{len(pairs)} of {len(comparison.pairs)} pairs shown")
    prompt = f"“{prompts[0]}”" if len(prompts) == 1 else ""
    told = [clean(fact.replace("`", "").removesuffix(".")) for fact in facts]
    return Words(f"{a} against {b}", clean(comparison.summary()), prompt, told)


def _style(pairs: Sequence[Pair]) -> Style:
    longest = max(max(pair.size) for pair in pairs)
    goal = 128 if longest <= 128 else 256 if len(pairs) <= 40 else 192
    scale = goal // longest if goal >= longest else goal / longest
    width = max(round(pair.size[0] * scale) for pair in pairs)
    height = max(round(pair.size[1] * scale) for pair in pairs)
    return Style(scale, (width, height), max(14, width // 12), min(10 + width // 24, 20))


def _times(pairs: Sequence[Pair]) -> int:
    """What differences are multiplied by: a power of two, one for all pairs, so that they compare.

    The rmse of the median pair that differs becomes about a fifth of full brightness.
    """
    apart = [pair.rmse for pair in pairs if pair.rmse]
    if not apart:
        return 1
    power = round(math.log2(SEEN / statistics.median(apart)))
    return int(2 ** min(max(power, 0), 7))


def _room(style: Style) -> int:
    return max(180, round(1.5 * style.tile[0]))  # for the labels of rows, as the page has it


def _side(pair: Pair, style: Style) -> Label:
    """The label of a row: what the pair is, and how far it lies apart, no taller than its tiles."""
    figures = [pair.note] if pair.note else []
    if pair.identical:
        figures.append("identical")
    elif pair.rmse is not None:
        similar = "" if pair.ssim is None else f" · ssim {pair.ssim:.3f}"
        figures += [f"rmse {pair.rmse:.3g}{similar}", f"largest {pair.largest} of 255"]
    font, room = typeface(style.text), _room(style)
    below = [(line, MUTED) for text in figures for line in wrap(text, font, room)]
    lines = style.tile[1] // round(1.3 * style.text) - len(below) - pair.a.is_baseline
    told = [
        clean(text[:LONGEST])
        for text in pair.phrases or [pair.a.variant] * (not pair.a.is_baseline)
    ]
    if len(told) > max(lines, 1):
        told = [" · ".join(told)[:LONGEST]]
    most = max(1, lines // max(len(told), 1))
    above = [(line, INK) for text in told for line in wrap(text, font, room, most)]
    return (*BASELINE * pair.a.is_baseline, *above, *below)


def _tiles(pair: Pair, times: int) -> list[Tile | None]:
    def tile(image: Callable[[], Image.Image] | None, broken: bool, marked: bool) -> Tile:
        return Tile(image, broken, (), marked)

    measured = pair.rmse is not None
    return [
        tile(partial(_shown, pair, 0), pair.states[0] != "ok", pair.a.is_baseline),
        tile(partial(_shown, pair, 1), pair.states[1] != "ok", pair.b.is_baseline),
        tile(partial(_difference, pair, times) if measured else None, False, False),
    ]


def _shown(pair: Pair, which: int) -> Image.Image:
    images = pair.a.image(), pair.b.image()
    return (at_one_size(images) or images)[which]


def _difference(pair: Pair, times: int) -> Image.Image:
    """The absolute difference of each channel, brightened; what goes beyond 255 stays there."""
    a, b = (np.asarray(_shown(pair, which)).astype(np.int32) for which in (0, 1))
    return Image.fromarray(np.clip(np.abs(a - b) * times, 0, 255).astype(np.uint8))
