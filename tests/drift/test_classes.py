"""The rules of classes, held against labels that were given by eye."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from fabricated import DESCRIBED
from PIL import Image

from ablate.drift import measure as drift
from ablate.drift.classes import CLASSES, classify
from ablate.drift.clip import Reader
from ablate.drift.measure import MeasuredCell
from ablate.store.run import Run

DATA = Path(__file__).parent.parent / "data"
SIDE, ACROSS = 64, 20  # of the tiles in labels.webp: the cells, then their baselines


def tile(number: int) -> Image.Image:
    with Image.open(DATA / "labels.webp") as tiles:
        left, top = SIDE * (number % ACROSS), SIDE * (number // ACROSS)
        return tiles.convert("RGB").crop((left, top, left + SIDE, top + SIDE))


def labeled(folder: Path) -> tuple[Run, dict[str, str]]:
    """A run of the labeled pictures, and the labels by key."""
    run, cells, labels = Run(folder), {}, {}
    with (DATA / "labels.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        keys = {name: f"tile{row[name]}" for name in ("cell", "baseline")}
        labels[keys["cell"]] = row["class"]
        for name, key in keys.items():
            variant = row["variant"] if name == "cell" else "baseline"
            cells[key] = {"key": key, "variant": variant, "prompt": row["prompt"], "seed": 0,
                          "axes": {}, "baseline": keys["baseline"]}  # fmt: skip
    record = {"state": "ok", "variant": "", "size": [SIDE, SIDE], "model": {"id": "bundled"},
              "condition": {"prompt": "", "seed": 0, "sampling": {
                  "num_inference_steps": 20, "scheduler": "", "guidance_scale": 5}}}  # fmt: skip
    run.write_cells((key, tile(int(key[4:])), record, None) for key in cells)
    run.write_manifest({**DESCRIBED, "axes": [], "cells": list(cells.values())})
    return run, labels


def test_rules_agree_with_the_labels(tmp_path: Path) -> None:
    run, labels = labeled(tmp_path)
    measured = drift.write_drift(run, Reader.load("bundled", device="cpu"), classify=classify)
    found = {cell.key: cell.class_name for cell in measured if cell.key in labels}
    confusion = Counter((labels[key], name) for key, name in found.items())
    for label in CLASSES:  # printed with `pytest -s`; the docs show it
        print(f"{label:26}", *(f"{confusion[label, name]:4}" for name in CLASSES))
    assert len(found) == 100
    assert set(labels.values()) == set(CLASSES)
    assert sum(confusion[name, name] for name in CLASSES) >= 85


def test_noise_shows_none_and_baselines_show_something(tmp_path: Path) -> None:
    run, labels = labeled(tmp_path)
    measured = drift.write_drift(run, Reader.load("bundled", device="cpu"), classify=classify)
    noise = [cell.shows for cell in measured if labels.get(cell.key) == "noise"]
    known = [cell.shows for cell in measured if cell.is_baseline and cell.key not in labels]
    assert noise.count("none") >= 0.9 * len(noise)
    assert known.count("none") <= 0.06 * len(known)


# ------------------------------------------------------------ each rule by itself


def cell(concepts: Mapping[str, float], rmse: float = 0.2, embedding: float = 0.5,
         baseline: str = "b", point: bool = False) -> MeasuredCell:  # fmt: skip
    return MeasuredCell(
        "c", Path(), "v", "a cat", 0, {}, baseline, point=point,
        drift={"rmse": rmse, "embedding": embedding}, concepts=tuple(concepts.items()),
    )  # fmt: skip


BASELINE = cell({"cat": 0.99})
FLAT = np.zeros((64, 64, 3))
NOISE = np.random.default_rng(0).random((64, 64, 3))
OBJECT = FLAT.copy()
OBJECT[20:44, 20:44] = 1


@pytest.mark.parametrize(
    ("measured", "image", "expected"),
    [
        (cell({"cat": 0.98}, 0.03, 0.001), OBJECT, "intact"),
        (cell({"cat": 0.98}, 0.03, 0.2), OBJECT, "altered"),
        (cell({"cat": 0.98}, 0.2, 0.001), OBJECT, "altered"),
        (cell({"fox": 0.8, "cat": 0.15}), OBJECT, "altered"),
        (cell({"dog": 0.99}, embedding=1.1), OBJECT, "other concept"),
        (cell({"dog": 0.9}, embedding=1.1), OBJECT, "structure without concept"),
        (cell({"dog": 0.99}, embedding=1.1), NOISE, "noise"),
        (cell({"dog": 0.99}, embedding=0.5), NOISE, "other concept"),
        (cell({"cat": 0.5}, embedding=1.1), NOISE, "altered"),
        (cell({"cat": 0.9}, embedding=0.1), FLAT, "noise"),
        (cell({}), OBJECT, ""),
    ],
)
def test_a_rule(measured: MeasuredCell, image: np.ndarray, expected: str) -> None:
    assert classify(measured, image, BASELINE) == expected


def test_a_baseline_is_intact_and_a_random_point_is_what_it_shows() -> None:
    assert classify(cell({"cat": 0.99}), OBJECT, None) == "intact"
    random = cell({"dog": 0.99}, point=True)
    assert classify(random, OBJECT, None) == "other concept"
    assert classify(random, NOISE, None) == "noise"
    vague = cell({"dog": 0.5}, point=True)
    assert classify(vague, OBJECT, None) == "structure without concept"
