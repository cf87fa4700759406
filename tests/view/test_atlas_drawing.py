"""Activation atlases, read as XML: where bins are, how large, what is written over them."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from studied import Node, make_study, parsed, words

from ablate.store.files import StoreError
from ablate.style import text_width
from ablate.view.errors import PictureError
from ablate.view.studies import atlas as atlases


def study_of(folder: Path, bins: list[dict[str, Any]], side: int = 20, **facts: Any) -> Path:
    """A study with an atlas of these bins, all of one picture."""
    make_study(folder, layers=1, units=1, cards=0)
    (folder / "bins").mkdir()
    Image.new("RGB", (8, 8), (200, 30, 30)).save(folder / "bins" / "a.png")
    usual = {"concepts": [], "picture": "bins/a.png", "patch": None, "variant": None}
    atlas = {
        "module": "mid.conv", "component": "unet", "model": "bundled", "method": "pca",
        "rows": side, "columns": side, "vectors": sum(b["count"] for b in bins), "when": None,
        "concepts": ["cat", "dog"], "bins": [usual | b for b in bins], "variant": None, "dark": [],
    }  # fmt: skip
    (folder / "atlas.json").write_text(json.dumps(atlas | facts), encoding="utf-8")
    return folder


def tiles(root: Node) -> list[tuple[float, float, float, str]]:
    """Left, top, side, and tooltip of every picture."""
    shown = []
    for group in root.iter("g"):
        for use in group.findall("use"):
            numbers = re.findall(r"[\d.]+", use.attrib["transform"])
            x, y, side = map(float, numbers)
            shown.append((x, y, side, group.findtext("title") or ""))
    return shown


def row(count: int, at: int, column: int, *concepts: str, **more: Any) -> dict[str, Any]:
    lifts = [[concept, 3.0] for concept in concepts]
    return {"row": at, "column": column, "count": count, "concepts": lifts, **more}


def names(root: Node) -> dict[str, tuple[float, float, float]]:
    """Names on areas: middle and size of the type."""
    return {
        part.text or "": (float(part.attrib["x"]), float(part.attrib["y"]),
                          float(part.attrib["font-size"]))
        for part in root.iter("text") if part.attrib.get("paint-order") == "stroke"
    }  # fmt: skip


def test_bins_are_in_their_rows_and_grow_with_their_count(tmp_path: Path) -> None:
    bins = [row(100, 0, 0), row(25, 0, 19), row(1, 19, 0), row(100, 19, 19), row(100, 5, 5)]
    root = parsed(atlases.svg(study_of(tmp_path, bins)))
    shown = tiles(root)
    middles = [(x + side / 2, y + side / 2) for x, y, side, _ in shown]
    assert middles[1][0] - middles[0][0] == pytest.approx(19 * 75, abs=0.2)
    assert middles[2][1] - middles[0][1] == pytest.approx(19 * 75, abs=0.2)
    assert middles[0] < middles[3]
    sides = [side for _, _, side, _ in shown]
    assert sides[1] / sides[0] == pytest.approx(0.5, abs=0.01)  # a quarter of the area
    assert sides[2] / sides[0] == pytest.approx(atlases.SMALLEST, abs=0.01)
    assert max(sides) < 75  # none touches another


def test_a_picture_is_embedded_once_and_described_everywhere(tmp_path: Path) -> None:
    bins = [row(9, 0, i, "cat", "dog") for i in range(20)]
    root = parsed(atlases.svg(study_of(tmp_path, bins)))
    assert len(list(root.iter("image"))) == 1
    assert [tip for _, _, _, tip in tiles(root)] == ["9 vectors\ncat × 3.0\ndog × 3.0"] * 20


def test_bins_without_a_picture_are_there_all_the_same(tmp_path: Path) -> None:
    bins = [row(9, 0, 0), row(9, 0, 1, picture=None), row(0, 0, 2), row(9, 0, 3, picture="b.png")]
    root = parsed(atlases.svg(study_of(tmp_path, bins)))
    tips = [g.findtext("title") for g in root.iter("g") if g.find("title") is not None]
    assert tips == ["9 vectors"] * 3
    assert len(tiles(root)) == 1
    assert any("3 of them filled" in line for line in words(root))


def test_names_are_on_areas_that_share_a_concept(tmp_path: Path) -> None:
    cat = [row(9, r, c, "cat", "dog") for r in range(2, 8) for c in range(2, 8)]
    dog = [row(9, r, c, "dog") for r in range(12, 15) for c in range(12, 15)]
    alone = [row(9, 19, 0, "fish")]
    root = parsed(atlases.svg(study_of(tmp_path, cat + dog + alone)))
    placed = names(root)
    assert list(placed) == ["cat", "dog"]  # the largest first; a single bin is no area
    for word, bins in (("cat", cat), ("dog", dog)):
        rows = [b["row"] for b in bins]
        place = (min(rows) + max(rows) + 1) / 2 * 75
        x, y, size = placed[word]
        assert abs(x - 80 - place) <= 38
        assert abs(y - 0.36 * size - (80 + atlases.HEAD) - place) <= 38
    assert placed["cat"][2] > placed["dog"][2]


@pytest.mark.parametrize("grid", [(2, 2), (2, 40), (40, 2), (3, 3), (4, 4), (5, 8)])
def test_all_that_is_written_is_on_the_page(tmp_path: Path, grid: tuple[int, int]) -> None:
    """Whatever the grid: within the margins, below the atlas or beside it, no line over another."""
    rows, columns = grid
    long = ["a concept of so many words that no bin has room for it", "кошка", "猫", "🦊"]
    bins = [
        row(3 + 5 * r + c, r, c, long[r // 2 % 4], variant=9) for r in range(rows)
        for c in range(columns)
    ]  # fmt: skip
    folder = study_of(tmp_path, bins, rows=rows, columns=columns, method="som", variant="v" * 90)
    for drawn in (atlases.svg(folder), atlases.compared(folder)):
        root = parsed(drawn)
        wide, tall = (float(root.attrib[n]) for n in ("width", "height"))
        assert tall < 45 * 80 + 600
        assert wide < 45 * 80
        boxes = [(x, y, x + side, y + side) for x, y, side, _ in tiles(root)]
        for part in root.iter("text"):
            x, y, size = (float(part.attrib[n]) for n in ("x", "y", "font-size"))
            half = text_width(part.text or "", size, "font-weight" in part.attrib) / 2
            anchor = part.attrib.get("text-anchor", "start")
            x -= {"start": 0, "middle": half, "end": 2 * half}[anchor]
            assert x >= 79
            assert x + 2 * half <= wide - 78
            assert y <= tall - 30
            if part.attrib.get("paint-order") != "stroke":  # no name on an area
                box = x, y - 0.7 * size, x + 2 * half, y
                assert not any(over(box, other) for other in boxes)
                boxes.append(box)


def over(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether two boxes (left, top, right, bottom) share an area."""
    (a, b, c, d), (e, f, g, h) = one, other
    return e < c and a < g and f < d and b < h


def test_only_what_is_drawn_is_explained(tmp_path: Path) -> None:
    lines = words(parsed(atlases.svg(study_of(tmp_path, [row(9, 0, 0, "cat"), row(9, 0, 2)]))))
    assert not any("Names:" in line for line in lines)  # one bin of twenty by twenty has no name
    assert {line for line in lines if re.fullmatch(r"[≤≥]? ?\d+", line)} == {"9"}
    bins = [row(9, 0, 0, "cat", variant=9), row(9, 0, 1, "cat", variant=9)]
    lines = words(parsed(atlases.compared(study_of(tmp_path / "b", bins, variant="zero mid"))))
    assert any("Names:" in line for line in lines)
    assert any("No bin went dark" in line for line in lines)
    assert not any("struck" in line or "Framed" in line for line in lines)


def test_without_visualizations_patches_are_compared(tmp_path: Path) -> None:
    kinds = {"picture": None, "patch": "bins/a.png", "variant": 9}
    bins = [row(9, 0, 0, **kinds), row(9, 0, 1, **kinds)]
    root = parsed(atlases.compared(study_of(tmp_path, bins, variant="zero mid")))
    assert len(tiles(root)) == 4
    assert any("the patch of an image" in line for line in words(root))
    bins = [row(40, 0, 0, picture=None, variant=0), row(40, 0, 1, picture=None, variant=80)]
    root = parsed(atlases.compared(study_of(tmp_path / "none", bins, variant="zero mid")))
    faded = [r for r in root.iter("rect") if r.attrib.get("opacity") == str(atlases.FADED)]
    (strike,) = [p for p in root.iter("path") if p.attrib.get("stroke-width") == "1.4"]
    x, side = (float(faded[0].attrib[n]) for n in ("x", "width"))
    ends = [float(end) for end in re.findall(r"(?<=[ML])[\d.]+", strike.attrib["d"])]
    assert x <= ends[0] < ends[1] <= x + side


def test_names_never_cover_one_another(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    known = ["sunflower", "airplane", "a very long concept", "cat", "dog", "penguin"]
    bins = [
        row(9, r, c, known[int(rng.integers(len(known)))]) for r in range(20) for c in range(20)
    ]
    root = parsed(atlases.svg(study_of(tmp_path, bins)))
    boxes = []
    for part in root.iter("text"):
        if part.attrib.get("paint-order") == "stroke":
            x, y, size = (float(part.attrib[n]) for n in ("x", "y", "font-size"))
            half = text_width(part.text or "", size, True) / 2
            boxes.append((x - half, y - 0.8 * size, x + half, y + 0.2 * size))
    assert len(boxes) > 10
    for i, (a, b, c, d) in enumerate(boxes):
        assert a >= 80 - 1
        assert c <= 80 + 1500 + 1
        assert all(e >= c or a >= g or f >= d or b >= h for e, f, g, h in boxes[:i])


def test_pictures_shrink_until_all_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = study_of(tmp_path, [])
    bins = []
    rng = np.random.default_rng(0)
    for i in range(40):
        noise = rng.integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / "bins" / f"{i}.png")
        bins.append(row(9, i // 20, i % 20, picture=f"bins/{i}.png"))
    atlas = json.loads((folder / "atlas.json").read_text(encoding="utf-8")) | {"bins": bins}
    (folder / "atlas.json").write_text(json.dumps(atlas), encoding="utf-8")
    large = len(atlases.svg(folder))
    monkeypatch.setattr(atlases, "BUDGET", 60_000)
    small = len(atlases.svg(folder))
    assert small < 60_000 * 4 / 3 + 20_000 < large


def test_patches_are_another_picture(tmp_path: Path) -> None:
    folder = make_study(tmp_path, layers=1, units=1, cards=0, atlas=20)
    picture, patch = parsed(atlases.svg(folder)), parsed(atlases.svg(folder, "patch"))
    atlas = json.loads((folder / "atlas.json").read_text(encoding="utf-8"))
    assert len(tiles(patch)) == len(atlas["bins"]) > len(tiles(picture))
    with pytest.raises(PictureError, match="choose one of picture and patch"):
        atlases.svg(folder, "map")


def test_a_study_without_an_atlas(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match=r"has no atlas\.json"):
        atlases.svg(make_study(tmp_path, layers=1, units=1, cards=0))


# ------------------------------------------------------------ beside a variant


def compared(folder: Path) -> Node:
    bins = [
        row(40, 0, 0, variant=8),  # a tenth of the share: dark
        row(40, 0, 1, variant=80),  # the same share
        row(40, 0, 2, variant=400),  # five times
        row(3, 0, 3, variant=1),  # less than half of what was expected, as chance has it
        row(377, 0, 4, variant=511),
    ]
    dark = [{"concept": "cat", "before": 31, "after": 4}]
    return parsed(atlases.compared(study_of(folder, bins, variant="zero mid", dark=dark)))


def test_bins_that_went_dark_and_that_grew_are_marked(tmp_path: Path) -> None:
    root = compared(tmp_path)
    shown = tiles(root)
    assert len(shown) == 10  # five of the baseline, five of the variant
    half = float(root.attrib["width"]) / 2
    assert [x < half for x, *_ in shown] == [True] * 5 + [False] * 5
    faded = [use.attrib.get("opacity") for use in root.iter("use")]
    assert faded == [None] * 5 + [str(atlases.FADED)] + [None] * 4
    x, _, side, _ = shown[5]
    strikes = [p for p in root.iter("path") if p.attrib.get("stroke-width") == "1.4"]
    (strike,) = strikes
    ends = [float(end) for end in re.findall(r"(?<=[ML])[\d.]+", strike.attrib["d"])]
    assert ends == pytest.approx([x + 0.7, x + side - 0.7], abs=0.2)  # within its tile
    (grown,) = [r for r in root.iter("rect") if r.attrib.get("stroke-width") == "3"]
    assert float(grown.attrib["x"]) == pytest.approx(shown[7][0], abs=0.2)
    assert shown[7][2] >= shown[2][2]
    assert shown[5][2] == shown[0][2]  # as large as it was, or nothing would be seen
    assert shown[0][3] == "40 vectors, 8 with zero mid"
    assert side == shown[0][2]


def test_what_the_marks_mean_is_written(tmp_path: Path) -> None:
    lines = words(compared(tmp_path))
    assert {
        "baseline",
        "zero mid",
        "Concepts that lost most of the vectors in their own bins",
        "cat",
        "31 → 4",
    } <= set(lines)
    assert any("Faded and struck: 1 bin" in line for line in lines)
    assert any("Framed: 1 bin" in line for line in lines)
    assert any("500 of the baseline, 1,000 of the variant" in line for line in lines)


def test_vectors_outside_of_the_grid_are_counted_too(tmp_path: Path) -> None:
    bins = [row(50, 0, 0, variant=50), row(50, 0, 1, variant=0)]
    folder = study_of(tmp_path, bins, variant="a", vectors=200, variant_vectors=200, spread="even")
    root = parsed(atlases.compared(folder))
    shown = tiles(root)
    assert shown[2][2] == shown[0][2]  # as many of as many
    assert any("200 of the baseline, 200 of the variant" in line for line in words(root))
    assert any("bins are as wide as to hold about as many" in line for line in words(root))


def test_no_variant_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="is of no variant beside the baseline"):
        atlases.compared(study_of(tmp_path, [row(9, 0, 0)]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": 0}, "`columns` must be between 1 and 200"),
        ({"rows": 10**9, "columns": 10**9}, "`rows` must be between 1 and 200"),
        ({"bins": None}, "`bins` is missing"),
        ({"bins": [{"row": 0, "column": 20, "count": 1}]}, r"`bins\[0\]`, row 0, column 20, is"),
        ({"bins": [{"row": 0, "column": 0, "count": 1}] * 2}, r"`bins\[1\]`.* is given twice"),
        ({"bins": [{"row": "x", "column": 0, "count": 1}]},
         r"`bins\[0\].row` must be a whole number from 0 on, not \"x\""),
        ({"bins": [{"row": 0, "column": 0, "count": -4}]}, r"`bins\[0\].count` must be a whole"),
        ({"bins": [{"row": 0, "column": 0, "count": 1, "concepts": [["cat", float("nan")]]}]},
         r"`bins\[0\].concepts\[0\]\[1\]` must be a finite number, not NaN"),
        ({"vectors": None}, "`vectors` is missing"),
        ({"dark": [{"concept": "cat"}]}, r"`dark\[0\].before` is missing"),
    ],
)  # fmt: skip
def test_an_atlas_that_is_none_says_why(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = study_of(tmp_path, [row(10, 0, 0)])
    path = folder / "atlas.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")
    for draw in (atlases.svg, atlases.compared):
        with pytest.raises(StoreError, match=f"atlas.json: {message}"):
            draw(folder)
