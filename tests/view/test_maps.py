"""The map of concept space, read as XML: what is where, what is written, what is missing."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricated import SVG, Color, box, inside, make_run, marked, parsed, words

from ablate.store.run import Run
from ablate.style import ACCENT
from ablate.view import maps
from ablate.view.errors import PictureError

AMOUNTS = [0.0, 0.25, 0.5, 0.75, 1.0]


def fading(v: Mapping[str, Any]) -> Color:
    """From the baseline's pink to green, by the amount; further for each seed."""
    return 255 - round(240 * v["amount"]), 128 + 20 * v["seed"], 128


def sweep(folder: Path, **options: Any) -> Run:
    axes = {"amount": AMOUNTS, "seed": [0, 1]}
    return make_run(folder, axes, fading, own=lambda v: v["amount"] == 0, **options)


def middle(element: ElementTree.Element) -> tuple[float, float]:
    left, top, right, bottom = box(element, "image")
    return (left + right) / 2, (top + bottom) / 2


def key_of(run: Run, amount: float, seed: int = 0) -> str:
    return next(
        c.key for c in run.cells() if c.axes.get("amount") == amount and c.axes.get("seed") == seed
    )


def test_every_image_is_on_the_map_once(tmp_path: Path) -> None:
    run = sweep(tmp_path)
    root = parsed(maps.draw_map(run))
    inside(root)
    assert marked(root, "cell").keys() == {cell.key for cell in run.cells()}


def test_alike_is_near_and_the_sweep_leads_away(tmp_path: Path) -> None:
    run = sweep(tmp_path)
    at = {key: middle(e) for key, e in marked(parsed(maps.draw_map(run)), "cell").items()}
    base = at[key_of(run, 0.0)]
    away = [math.dist(base, at[key_of(run, a)]) for a in AMOUNTS]
    assert away == sorted(away)
    assert away[-1] > 4 * away[1]


def test_only_baselines_are_framed_in_their_color(tmp_path: Path) -> None:
    run = sweep(tmp_path)
    accent = "#{:02x}{:02x}{:02x}".format(*ACCENT)
    framed = {
        key for key, e in marked(parsed(maps.draw_map(run)), "cell").items()
        if any(rect.get("stroke") == accent for rect in e.iter(f"{SVG}rect"))
    }  # fmt: skip
    assert framed == {cell.key for cell in run.cells() if cell.is_baseline}


def test_sweeps_are_joined_from_the_baseline_outward(tmp_path: Path) -> None:
    run = sweep(tmp_path)
    root = parsed(maps.draw_map(run))
    at = {key: middle(e) for key, e in marked(root, "cell").items()}
    drawn = [re.findall(r"[\d.]+", str(e.get("d"))) for e in root.iter(f"{SVG}path")]
    for seed in (0, 1):
        points = [x for amount in AMOUNTS for x in at[key_of(run, amount, seed)]]
        assert any(pytest.approx(points, abs=0.2) == list(map(float, line)) for line in drawn)
    assert {"seed 0 · amount 1.0", "seed 1 · amount 1.0"} <= set(words(root))


def test_concepts_are_written_beside_their_pictures(tmp_path: Path) -> None:
    run = sweep(tmp_path)
    root = parsed(maps.draw_map(run))
    at = {key: middle(e) for key, e in marked(root, "cell").items()}
    placed = {"".join(e.itertext()): e for e in root.iter(f"{SVG}text")}
    assert {"red", "green"} <= placed.keys()
    x = {word: float(placed[word].get("x", "")) for word in ("red", "green")}
    ends = [at[key_of(run, amount)][0] for amount in (0.0, 1.0)]
    assert (x["red"] < x["green"]) == (ends[0] < ends[1])


def test_a_single_baseline_has_rings_and_the_variance_is_written(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"amount": AMOUNTS}, fading, own=lambda v: v["amount"] == 0)
    root = parsed(maps.draw_map(run))
    assert list(root.iter(f"{SVG}ellipse"))
    text = " ".join(words(root))
    assert "of the variance" in text
    assert "square root" in text
    assert list(parsed(maps.draw_map(sweep(tmp_path / "two"))).iter(f"{SVG}ellipse")) == []


def test_a_crowd_is_drawn_small_and_apart(tmp_path: Path) -> None:
    near = [(i, j) for i in range(12) for j in range(12)]

    def painted(v: Mapping[str, Any]) -> Color:
        i, j = near[v["module"]]
        return 250 - i, 128 + j, 128

    modules = list(range(len(near)))
    axes: dict[str, list[Any]] = {"module": modules, "kind": ["zero"]}
    drawing = maps.draw_map(make_run(tmp_path / "crowd", axes, painted, size=(4, 4)))
    places = [box(e, "image") for e in marked(parsed(drawing), "cell").values()]
    assert len(places) == len(near) + 1
    side = places[0][2] - places[0][0]
    few = parsed(maps.draw_map(sweep(tmp_path / "few")))
    assert side < box(next(iter(marked(few, "cell").values())), "image")[2]
    corners = np.array([(x, y) for x, y, *_ in places])
    apart = np.linalg.norm(corners[:, None] - corners[None], axis=-1) + 1e9 * np.eye(len(places))
    assert apart.min() > 0.3 * side  # none is hidden wholly
    assert drawing == maps.draw_map(Run(tmp_path / "crowd"))  # the same every time


def test_without_embeddings_there_is_no_map(tmp_path: Path) -> None:
    assert maps.draw_map(sweep(tmp_path, read=False)) is None


def test_what_is_not_finished_or_broken_is_left_out(tmp_path: Path) -> None:
    run = sweep(
        tmp_path, skip=lambda v: v.get("amount") == 0.5, nan=lambda v: v.get("amount") == 0.75
    )
    shown = marked(parsed(maps.draw_map(run)), "cell").keys()
    assert key_of(run, 0.25) in shown
    assert not {key_of(run, a) for a in (0.5, 0.75)} & shown


def test_another_method_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no map by `tsne`; choose one of pca and umap"):
        maps.draw_map(sweep(tmp_path), "tsne")


def test_umap_missing_says_what_would_bring_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(PictureError, match="umap-learn"):
        maps.draw_map(sweep(tmp_path), "umap")


def test_umap_places_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Umap:
        def __init__(self, **options: Any) -> None:
            asked.update(options)

        fit_transform: Callable[[Any, np.ndarray], np.ndarray] = staticmethod(  # type: ignore[assignment]
            lambda images: np.stack([np.arange(len(images)), np.zeros(len(images))], axis=1)
        )

    fake = ModuleType("umap")
    fake.UMAP = Umap  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", fake)
    run = sweep(tmp_path)
    root = parsed(maps.draw_map(run, "umap"))
    order = [middle(e)[0] for e in (marked(root, "cell")[k] for k in dict.fromkeys(
        cell.key for cell in run.cells()))]  # fmt: skip
    assert order == sorted(order)
    assert asked["random_state"] is not None
    assert "UMAP" in " ".join(words(root))


def test_where_all_are_baselines_none_is_framed(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, {"prompt": ["a", "b"], "seed": [0, 1]}, lambda v: (99 * v["seed"],) * 3
    )
    drawn = maps.draw_map(run)
    assert len(marked(parsed(drawn), "cell")) == 4
    assert "#{:02x}{:02x}{:02x}".format(*ACCENT) not in str(drawn)
