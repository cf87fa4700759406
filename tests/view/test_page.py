"""Type on a page: where lines break and what is left out; and blocks that no run made."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ablate.style import ACCENT, clean, typeface, wrap
from ablate.view.page import Block, PageText, Style, Tile, draw_pages

PATH = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def test_module_paths_break_between_names() -> None:
    font = typeface(12)
    lines = wrap(PATH, font, 136)
    assert "".join(lines) == PATH
    assert lines[-1] == "attn1.to_q"
    assert all(font.getlength(line) <= 136 for line in lines)


def test_what_does_not_fit_is_elided() -> None:
    font = typeface(12)
    (path,) = wrap(PATH, font, 200, 1)
    assert path.startswith("down_blocks")
    assert path.endswith(("…attn1.to_q", "…to_q"))
    (prose,) = wrap("a very long prompt that goes on and on", font, 100, 1)
    assert prose.startswith("a very")
    assert prose.endswith("…")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n cat\t", "a cat"),
        ("東京", "□□"),
        ("a\x1b\u202e", r"a\x1b\u202e"),
        ("50 % → “½”", "50 % → “½”"),
        ("", ""),
    ],
)
def test_only_what_the_font_can_draw_is_written(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_a_tile_shows_every_pixel_and_its_frame() -> None:
    red = Image.new("RGB", (8, 8), (255, 0, 0))
    tiles: list[list[Tile | None]] = [[Tile(lambda: red, marked=True), None]]
    style = Style(2, (16, 16), 14, 10)
    (page,) = draw_pages(PageText("name"), [Block(tiles)], style, flowing=False)
    pixels = np.asarray(page)
    top, left = np.argwhere(np.all(pixels == (255, 0, 0), axis=-1)).min(axis=0)
    assert np.all(pixels[top : top + 16, left : left + 16] == (255, 0, 0))
    assert np.all(pixels[top - 4 : top - 1, left : left + 16] == ACCENT)
    assert np.all(pixels == (255, 0, 0), axis=-1).sum() == 256
