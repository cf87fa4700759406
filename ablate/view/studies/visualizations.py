"""The sheet of visualizations: optimized inputs, labeled, a flowing line per kind of input."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ablate.messages import counted
from ablate.store import (
    Visualization,
    finished_file,
    open_image,
    read_visualizations,
    write_visualization_table,
)
from ablate.style import INK, MUTED, PAGE, Label, clean, typeface, wrap
from ablate.view.page import Block, PageText, Style, Tile, draw_pages, save_pages

SIDES = {"image": 192, "dream": 384, "latent": 128, "prompt": 192}  # pixels on the sheet
GAP, TEXT = 14, 12  # pixels between pictures, and of type
ABOUT = {
    "image": "Optimized images",
    "dream": "Pictures that were dreamed on",
    "latent": "Optimized latents, on the left what sampling makes of them, on the right what the"
    " denoiser takes them for at once",
    "prompt": "Images of optimized embeddings of prompts",
}
TITLES = {"image": "images", "dream": "dreams", "latent": "latents", "prompt": "prompts"}


def save_visualizations(folder: Path) -> list[Path]:
    """Write `visualizations.csv` and `sheet.png` of the visualizations in a folder.

    A sheet of many pictures continues in `sheet-2.png`. Raises `StoreError` where there are none.
    """
    table = write_visualization_table(folder)
    shown = sorted(read_visualizations(folder).items(), key=lambda one: [*ABOUT].index(one[1].kind))
    return [table, *save_pages(draw_pages(*_page(shown), flowing=True), folder, "sheet")]


def _page(shown: Sequence[tuple[Path, Visualization]]) -> tuple[PageText, list[Block], Style]:
    """The words, blocks and style of the sheet."""
    kinds = dict.fromkeys(one.kind for _, one in shown)
    side = None if len(kinds) == 1 else min(SIDES.values())  # the same height for all kinds
    pictures = [_picture(path, one.kind, side) for path, one in shown]
    width, height = (max(sizes) for sizes in zip(*(p.size for p in pictures), strict=True))
    lines: dict[str, list[Tile | None]] = {kind: [] for kind in kinds}
    for (_, one), picture in zip(shown, pictures, strict=True):
        caption = _caption(one, width + GAP - 8)
        lines[one.kind].append(Tile(picture.copy, caption=caption))
    about = ". ".join(ABOUT[kind] for kind in kinds)
    about += ". Below each its objective at the start and at the end"
    plain = ", and what it typically is for plain inputs" if kinds.keys() - {"dream"} else ""
    records = [one.record for _, one in shown]
    models = dict.fromkeys(clean(one.model) for _, one in shown)
    levels = dict.fromkeys(f"noise level {record['t']:g}" for record in records if "t" in record)
    steps = dict.fromkeys(f"{record['steps']} steps" for record in records)
    count = counted(len(shown), "picture")
    words = PageText("Visualized units", f"{about}{plain}.", "", [*models, *levels, *steps, count])
    blocks = [Block([tiles], TITLES[kind] * (len(kinds) > 1)) for kind, tiles in lines.items()]
    return words, blocks, Style(1, (width, height), GAP, TEXT)


def _caption(one: Visualization, width: int) -> Label:
    """Two lines of the name, without the kind of input, and the objective's values."""
    name = clean(one.name)
    if one.kind != "image":
        name = re.sub(rf" {one.kind}( seed \d+)?$", r"\1", name)
    outcome = one.outcome
    values = outcome
    if not outcome.startswith("stayed"):
        values = f"{one.start:.3g} → {one.end:.3g}"
        values += "" if outcome.startswith("from") else f" ({outcome})"
    facts = [values]
    if one.kind != "dream":  # a dream has no start but the picture
        facts.append(f"typically {one.typical:.3g}")
    lines = wrap(name, typeface(TEXT), width, 2)
    return (*((line, INK) for line in lines), *((fact, MUTED) for fact in facts))


def _picture(path: Path, kind: str, side: int | None) -> Image.Image:
    """A picture as the sheet shows it; of latents the finished image and the estimate."""
    right = _sized(path, side or SIDES[kind])
    if kind != "latent":
        return right
    left = _sized(finished_file(path), side or SIDES[kind])
    both = Image.new("RGB", (left.width + 2 + right.width, left.height), PAGE)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 2, 0))
    return both


def _sized(path: Path, side: int) -> Image.Image:
    """An image as large as fits into a square; small ones are enlarged by whole pixels."""
    with open_image(path) as opened:
        image = opened.convert("RGB")
    times = side // max(image.size)
    if times:
        size = image.width * times, image.height * times
        return image.resize(size, Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image
