"""Drift curves, read as XML: lines, bands, names, pictures."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from fabricated import SVG, Color, box, inside, make_run, marked, parsed, words

from ablate.store.run import Run
from ablate.view import chart, curves
from ablate.view.errors import PictureError

AMOUNTS = [0.0, 0.25, 0.5, 1.0]
STAGES = ["in", "down", "up"]


def painted(v: Mapping[str, Any]) -> Color:
    """Further from the baseline for larger amounts, later stages and later seeds."""
    stage = v.get("stage", "in")
    far = v["amount"] * (1 + (STAGES.index(stage) if stage in STAGES else 0) + 0.3 * v["seed"])
    return 255 - round(50 * far), 128, 128


def nothing(v: Mapping[str, Any]) -> bool:
    return bool(v["amount"] == 0)


def sweep(folder: Path, seeds: int = 1, stages: Sequence[str] = ("in",), **options: Any) -> Run:
    axes: dict[str, Sequence[Any]] = {"amount": AMOUNTS, "seed": list(range(seeds))}
    if len(stages) > 1:
        axes = {"stage": list(stages), **axes}
    return make_run(folder, axes, painted, own=nothing, **options)


def lines(root: ElementTree.Element) -> list[list[tuple[float, float]]]:
    """Points of the lines that are drawn strongest, one a value of the other axes."""
    strong = [
        e for e in root.iter(f"{SVG}path")
        if e.get("stroke-linecap") == "round" and float(e.get("stroke-width", "1")) > 2
    ]  # fmt: skip
    return [
        [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", str(e.get("d")))]
        for e in strong
    ]


def bands(root: ElementTree.Element) -> list[ElementTree.Element]:
    return [e for e in root.iter(f"{SVG}path") if str(e.get("d")).endswith("Z")]


def test_drift_rises_with_the_strength_at_its_true_places(tmp_path: Path) -> None:
    root = parsed(curves.draw_curves(sweep(tmp_path), "rmse"))
    inside(root)
    (line,) = lines(root)
    xs, ys = [x for x, _ in line], [y for _, y in line]
    share = [(x - xs[0]) / (xs[-1] - xs[0]) for x in xs]
    assert share == pytest.approx(AMOUNTS, abs=1e-3)
    height = [(ys[0] - y) / (ys[0] - ys[-1]) for y in ys]
    assert height == pytest.approx(AMOUNTS, abs=0.02)  # so is the distance of these colors
    assert {"amount", "Drift of the pixels (RMSE)"} <= set(words(root))


@pytest.mark.parametrize(("seeds", "count"), [(1, 0), (2, 0), (3, 0), (4, 1)])
def test_four_seeds_have_a_band(tmp_path: Path, seeds: int, count: int) -> None:
    run = sweep(tmp_path, seeds)
    root = parsed(curves.draw_curves(run))
    assert len(bands(root)) == count
    faint = [e for e in root.iter(f"{SVG}path") if e.get("opacity") == "0.35"]
    assert len(faint) == (seeds if seeds > 1 else 0)
    assert curves.draw_curves(run) == curves.draw_curves(run)
    if count:
        (line,) = lines(root)
        numbers = [
            float(y) for _, y in re.findall(r"([\d.]+) ([\d.]+)", str(bands(root)[0].get("d")))
        ]
        top, bottom = numbers[len(AMOUNTS) - 1], numbers[len(AMOUNTS)]
        assert top < line[-1][1] < bottom


def test_lines_are_named_at_their_ends_without_overlap(tmp_path: Path) -> None:
    root = parsed(curves.draw_curves(sweep(tmp_path, stages=STAGES), "rmse"))
    assert len(lines(root)) == len(STAGES)
    named = [e for e in root.iter(f"{SVG}text") if e.text in STAGES and e.get("font-size") == "18"]
    assert {e.text for e in named} == set(STAGES)
    places = sorted(float(e.get("y", "")) for e in named)
    assert all(b - a >= 24 for a, b in itertools.pairwise(places))
    order = [e.text for e in sorted(named, key=lambda e: -float(e.get("y", "")))]
    assert order == STAGES  # the furthest is the uppermost
    assert len({e.get("fill") for e in named}) == len(STAGES)


def test_many_lines_are_many_small_plots_of_one_scale(tmp_path: Path) -> None:
    stages = [f"stage {c}" for c in "abcdefghijk"]
    root = parsed(curves.draw_curves(sweep(tmp_path, stages=stages), "rmse"))
    inside(root)
    assert len(lines(root)) == len(stages)
    assert set(stages) <= set(words(root))
    heights = {round(line[0][1] - line[-1][1]) for line in lines(root)}
    assert len(heights) == 1


def test_orders_with_names_are_no_draws_to_be_averaged(tmp_path: Path) -> None:
    axes = {"order": ["most", "least"], "amount": AMOUNTS, "seed": [0, 1, 2, 3]}
    root = parsed(curves.draw_curves(make_run(tmp_path, axes, painted, own=nothing), "rmse"))
    assert len(lines(root)) == len(bands(root)) == 2
    assert {"most", "least"} <= set(words(root))
    assert not any("mean of 2 orders" in text for text in words(root))


def test_prompts_are_taken_together_where_there_are_many_lines(tmp_path: Path) -> None:
    prompts = ["red", "green", "blue", "gray", "white"]
    axes = {
        "prompt": prompts,
        "order": ["most", "least"],
        "amount": AMOUNTS,
        "seed": [0, 1],
    }
    root = parsed(curves.draw_curves(make_run(tmp_path, axes, painted, own=nothing), "rmse"))
    inside(root)
    assert len(lines(root)) == len(bands(root)) == 2
    assert any("Mean of 2 seeds for each of 5 prompts" in text for text in words(root))
    assert any("interval over prompts and seeds" in text for text in words(root))
    assert not [e for e in root.iter(f"{SVG}path") if e.get("opacity") == "0.35"]


def test_several_orders_have_their_mean(tmp_path: Path) -> None:
    def path(v: Mapping[str, Any]) -> Color:
        return 255 - v["zeroed"] * (10 + 5 * v["order"]), 128, 128

    for count in (3, 4):
        axes = {"order": list(range(count)), "zeroed": [0, 2, 4, 6]}
        run = make_run(tmp_path / str(count), axes, path, own=lambda v: v["zeroed"] == 0)
        root = parsed(curves.draw_curves(run, "rmse"))
        assert {"order 0", "order 2", f"mean of {count} orders"} <= set(words(root))
        ends = [line[-1][1] for line in lines(root)]
        assert ends[-1] == pytest.approx(sum(ends[:count]) / count, abs=0.1)
        assert len(bands(root)) == (count > 3)  # over orders


def test_the_noise_floor_is_a_line(tmp_path: Path) -> None:
    axes = {"amount": AMOUNTS, "seed": [0, 1, 2]}
    run = make_run(
        tmp_path, axes, lambda v: (255 - round(200 * v["amount"]), 128, 128), own=nothing
    )
    table = run.folder / "drift.csv"
    with table.open(newline="", encoding="utf-8") as file:
        heads, *rows = csv.reader(file)
    for row in rows:
        row[heads.index("rmse_floors")] = str(3 * float(row[heads.index("amount")] or 0))
    with table.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heads, *rows])
    root = parsed(curves.draw_curves(run, "rmse_floors"))
    assert "another seed" in words(root)
    (floor,) = [e for e in root.iter(f"{SVG}path") if e.get("stroke-dasharray")]
    height = float(re.findall(r"[\d.]+", str(floor.get("d")))[1])
    (line,) = lines(root)
    assert (line[0][1] - height) * 3 == pytest.approx(line[0][1] - line[-1][1], abs=0.5)
    assert "another seed" not in words(parsed(curves.draw_curves(run, "rmse")))


def test_pictures_are_below_their_strengths(tmp_path: Path) -> None:
    run = sweep(tmp_path, seeds=2)
    root = parsed(curves.draw_curves(run))
    shown = marked(root, "cell")
    (line,) = lines(root)
    keys = [next(c.key for c in run.cells() if c.axes.get("amount") == a) for a in AMOUNTS]
    assert list(shown) == keys
    for key, (x, y) in zip(keys, line, strict=True):
        left, top, right, _ = box(shown[key], "image")
        assert (left + right) / 2 == pytest.approx(x, abs=0.1)
        assert top > y


def test_nan_interrupts_nothing_and_is_shown(tmp_path: Path) -> None:
    root = parsed(curves.draw_curves(sweep(tmp_path, nan=lambda v: v.get("amount") == 0.5)))
    (line,) = lines(root)
    assert len(line) == 3
    assert "NaN" in words(root)


def test_without_a_strength_there_are_no_curves(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": ["a", "b", "c"]}, lambda v: (0, 0, 0))
    assert curves.draw_curves(run) is None
    run = make_run(tmp_path / "two", {"amount": [0, 1]}, lambda v: (0, 0, 0))
    assert curves.draw_curves(run) is None


@pytest.mark.parametrize("other", ["other", "seed"])
def test_a_strength_that_varies_with_another_axis_has_a_curve(other: str, tmp_path: Path) -> None:
    numbers = [1, 2, 3, 4]
    run = make_run(
        tmp_path,
        {"amount": AMOUNTS, other: numbers},
        painted,
        skip=lambda v: "amount" in v and AMOUNTS.index(v["amount"]) != numbers.index(v[other]),
    )
    drawing = curves.draw_curves(run, "rmse")
    if other == "seed":  # whatever differs, the seed may be why
        assert drawing is None
    else:
        (line,) = lines(parsed(drawing))
        assert len(line) == 4
        assert "amount, with other" in words(parsed(drawing))


def test_an_unknown_metric_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="`embeding`, did you mean `embedding`"):
        curves.draw_curves(sweep(tmp_path), "embeding")


@pytest.mark.parametrize(
    ("low", "high", "count", "values"),
    [
        (0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 6.3, 6, [0, 2, 4, 6]),
        (0, 0.2, 4, [0, 0.05, 0.1, 0.15, 0.2]),
        (-1, 1, 4, [-1, -0.5, 0, 0.5, 1]),
        (0, 48, 10, [0, 5, 10, 15, 20, 25, 30, 35, 40, 45]),
    ],
)
def test_ticks_are_round(low: float, high: float, count: int, values: list[float]) -> None:
    assert chart.round_values(low, high, count) == values
