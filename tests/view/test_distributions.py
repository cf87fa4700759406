"""Distributions of class selectivity, read as XML: what is where, and what is written."""

from __future__ import annotations

import csv
import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studied import NAME, Node, make_study, parsed, table, words

from ablate.store.files import StoreError
from ablate.view.errors import PictureError
from ablate.view.studies import distributions

HEADS = ["module", "component", "kind", "unit", "stage", "role", "selectivity", "chance",
         "concept", "mean", "rest", "contrast"]  # fmt: skip


def layers(root: Node) -> list[Node]:
    """The groups of layers, in order."""
    return [g for g in root.iter("g") if g.find("title") is not None]


def written(root: Node, what: str) -> Node:
    return next(part for part in root.iter("text") if part.text == what)


def axis(root: Node) -> tuple[float, float]:
    """The places of 0 and 1 across."""
    low, high = (float(written(root, value).attrib["x"]) for value in ("0", "1"))
    return low, high


def dots(layer: Node) -> list[list[float]]:
    """Places across, of each path of dots."""
    return [
        [float(x) for x in re.findall(r"M([\d.]+) [\d.]+h0", part.attrib["d"])]
        for part in layer.iter("path") if part.attrib.get("stroke-linecap") == "round"
    ]  # fmt: skip


def study_of(folder: Path, rows: list[list[Any]]) -> Path:
    make_study(folder, layers=1, units=1, cards=0)
    table(folder / "units.csv", [HEADS, *rows])
    return folder


def units(path: str, values: list[Any], stage: str = "", chance: float = 0.05) -> list[list[Any]]:
    return [
        [path, "unet", "channels", i, stage, "resnet", value, chance, f"c{i}", 1, 0, 1]
        for i, value in enumerate(values)
    ]


def test_layers_are_in_network_order_below_their_stages(tmp_path: Path) -> None:
    root = parsed(distributions.svg(make_study(tmp_path, layers=9, units=30, cards=0)))
    with (tmp_path / "units.csv").open(encoding="utf-8") as file:
        paths = list(dict.fromkeys(row["module"] for row in csv.DictReader(file)))
    tips = [(layer.findtext("title") or "").splitlines()[0] for layer in layers(root)]
    assert tips == paths
    heads = [w for w in words(root) if w.partition(" · ")[0] in ("down", "mid", "up")]
    assert [head.partition(" ")[0] for head in heads] == ["down", "mid", "up"]
    labels = [next(layer.iter("text")).text for layer in layers(root)]
    assert labels[0] == "0.resnets.0.conv1" or labels[0] == "resnets.0.conv1"
    ups = [label for label, path in zip(labels, paths, strict=True) if path.startswith("up")]
    assert len(set(ups)) == len(ups) == 4
    assert NAME in words(root)


def test_the_median_is_at_its_place_and_figures_are_right(tmp_path: Path) -> None:
    values = [0.1] * 10 + [0.5] * 5 + [0.8] * 14
    root = parsed(distributions.svg(study_of(tmp_path, units("a.b", values))))
    low, high = axis(root)
    (layer,) = layers(root)
    bar = [p for p in layer.iter("path") if p.attrib.get("stroke-width") == "2.2"]
    (x,) = {float(x) for x in re.findall(r"[ML]([\d.]+)", bar[0].attrib["d"])}
    assert x == pytest.approx(low + 0.5 * (high - low), abs=0.1)
    assert {"29", "0.50", "100 %"} <= set(words(root))
    (places,) = dots(layer)
    assert sorted(places) == pytest.approx(
        [low + v * (high - low) for v in sorted(values)], abs=0.1
    )


def test_the_density_peaks_where_units_are(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(0.7, 0.03, 500).clip(0, 1).tolist()
    root = parsed(distributions.svg(study_of(tmp_path, units("a.b", values, chance=0.1))))
    low, high = axis(root)
    (layer,) = layers(root)
    ridges = [p.attrib["d"] for p in layer.iter("path") if p.attrib["d"].endswith("Z")]
    peaks = []
    for ridge in ridges:  # by chance, then of the units
        points = [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", ridge)]
        peaks.append((min(points, key=lambda point: point[1])[0] - low) / (high - low))
    assert peaks == pytest.approx([0.1, 0.7], abs=0.03)
    assert dots(layer) == []  # too many to be seen one by one


def test_few_units_have_no_density_but_dots(tmp_path: Path) -> None:
    root = parsed(distributions.svg(study_of(tmp_path, units("a.b", [0.2, 0.4, 0.9]))))
    (layer,) = layers(root)
    assert [len(places) for places in dots(layer)] == [3, 3]  # by chance, and of the units
    assert [p for p in layer.iter("path") if p.attrib["d"].endswith("Z")] == []
    assert {"c2", "0.90", "c1", "0.40"} <= set(words(layer))


def test_what_chance_gives_is_left_out_where_it_is_not_known(tmp_path: Path) -> None:
    many, few = ([i / 40 for i in range(n)] for n in (40, 9))
    nan = float("nan")
    rows = units("a", many, chance=nan) + units("b", few, chance=nan)
    root = parsed(distributions.svg(study_of(tmp_path, rows)))
    assert words(root).count("–") == 2
    assert len(dots(layers(root)[1])) == 1
    assert [w for w in words(root) if w.startswith("By chance cannot be told with one sample")]


def test_where_all_units_are_alike_is_a_peak_and_no_density(tmp_path: Path) -> None:
    rows = units("a.b", [0.0] * 30, chance=0.0) + units("a.c", [0.5] * 30)
    root = parsed(distributions.svg(study_of(tmp_path, rows)))
    low, high = axis(root)
    for layer, value in zip(layers(root), (0, 0.5), strict=True):
        ridge = [p.attrib["d"] for p in layer.iter("path") if p.attrib["d"].endswith("Z")][1]
        places = [(float(x) - low) / (high - low) for x in re.findall(r"([\d.]+) [\d.]+", ridge)]
        assert max(abs(place - value) for place in places) < 0.011
    assert distributions.NONE in words(layers(root)[0])
    assert distributions.NONE not in words(layers(root)[1])


def test_long_concepts_keep_their_beginning(tmp_path: Path) -> None:
    rows = units("a.b", [0.2, 0.9])
    rows[1][8] = "hippopotamus" * 20
    (layer,) = layers(parsed(distributions.svg(study_of(tmp_path, rows))))
    assert [w for w in words(layer) if re.fullmatch(r"hippopotamus\w*…", w)]


def test_what_was_never_active_is_left_out(tmp_path: Path) -> None:
    rows = units("a.b", [0.2, "", 0.4]) + units("a.c", ["nan"])
    root = parsed(distributions.svg(study_of(tmp_path, rows)))
    (layer,) = layers(root)
    assert "2 units" in (layer.findtext("title") or "")


def test_many_layers_of_many_units_stay_small_and_on_the_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows: list[list[Any]] = []
    for i in range(60):
        rows += units(f"blocks.{i}.ff", rng.random(400).round(4).tolist())
    drawing = distributions.svg(study_of(tmp_path, rows))
    assert len(drawing) < 500_000
    root = parsed(drawing)
    ys = [float(next(layer.iter("text")).attrib["y"]) for layer in layers(root)]
    assert len(ys) == 60
    assert min(b - a for a, b in itertools.pairwise(ys)) > 16  # lines do not touch
    assert ys[-1] < float(root.attrib["height"])
    labels = [next(layer.iter("text")).text for layer in layers(root)]
    assert labels[:2] == ["0.ff", "1.ff"]


def test_networks_are_named_where_there_are_several(tmp_path: Path) -> None:
    rows = units("a.b", [0.2, 0.3])
    for row in units("a.b", [0.4, 0.5]):
        rows.append([row[0], "text_encoder", *row[2:]])
    root = parsed(distributions.svg(study_of(tmp_path, rows)))
    tips = [(layer.findtext("title") or "").splitlines()[0] for layer in layers(root)]
    assert tips == ["unet.a.b", "text_encoder.a.b"]


def test_nothing_to_draw_is_an_error_that_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"is not a study: it has no study\.json"):
        distributions.svg(tmp_path)
    study_of(tmp_path, [])
    with pytest.raises(PictureError, match="lists no units"):
        distributions.svg(tmp_path)
    table(tmp_path / "units.csv", [["module"]])
    with pytest.raises(PictureError, match="has no column `component`"):
        distributions.svg(tmp_path)
    (tmp_path / "units.csv").unlink()
    with pytest.raises(PictureError, match=r"has no units\.csv"):
        distributions.svg(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mid.conv,unet", r"units\.csv: line 3 has 2 values for the \d+ columns"),
        ("mid.conv,unet,channels,0,mid,,zero,0.1,cat,0,0,0", "line 3: `zero` is no number"),
        ("\x00", r"units\.csv"),
    ],
)
def test_a_table_that_is_broken_says_where(tmp_path: Path, line: str, message: str) -> None:
    folder = study_of(tmp_path, units("mid.conv", [0.5]))
    path = folder / "units.csv"
    path.write_text(path.read_text("utf-8") + line + "\n", "utf-8")
    with pytest.raises((PictureError, StoreError), match=message):
        distributions.svg(folder)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(StoreError, match="cannot be read as a table"):
        distributions.svg(folder)
