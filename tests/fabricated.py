"""Runs made up for the drawn pictures: flat colors for images, read by their color alone."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from ablate.drift import measure as drift
from ablate.store.png import key_of
from ablate.store.run import Run

NAME = "a <run> & “more”"
SAMPLING = {
    "num_inference_steps": 20,
    "guidance_scale": 5.0,
    "scheduler": "ddim",
    "negative_prompt": "",
}
# What each `run.json` says of its run.
DESCRIBED: dict[str, Any] = {
    "name": NAME,
    "model": {"id": "bundled", "fingerprint": "0123456789abcdef"},
    "device": "cpu",
    "dtype": "float32",
    "sampling": SAMPLING,
}
Values = Mapping[str, Any]
Color = tuple[int, int, int]


class Eye:
    """Reads an image by its mean color: a unit vector; words are red, green and blue."""

    id = "by color"
    scale = 20.0
    margin = None
    vocabulary = ("red", "green", "blue")

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        colors = np.array([np.asarray(image).mean(axis=(0, 1)) + 1 for image in images])
        unit: np.ndarray = colors / np.linalg.norm(colors, axis=1, keepdims=True)
        return unit

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        found = [[word in text for word in self.vocabulary] for text in texts]
        rows = np.array(found, float) + 1e-3
        unit: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def make_run(
    folder: Path,
    axes: Mapping[str, Sequence[Any]],
    color: Callable[[Values], Color],
    *,
    own: Callable[[Values], bool] = lambda values: False,  # cells that are baselines
    skip: Callable[[Values], bool] = lambda values: False,
    nan: Callable[[Values], bool] = lambda values: False,
    touched: Callable[[Values], str] = lambda values: "",
    catalog: Sequence[Sequence[Any]] = (),
    size: tuple[int, int] = (16, 16),
    read: bool = True,
) -> Run:
    """A run with a cell for each combination of axes, measured; `read`: with embeddings."""
    run = Run(folder)
    axes = {**axes, "prompt": axes.get("prompt", ["a cat"]), "seed": axes.get("seed", [0])}
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    spans: dict[str, str] = {}

    def add(values: Values, base: Values, painted: Color) -> None:
        key, variant = key_of(values), ",".join(f"{k}={v}" for k, v in values.items())
        if values == base:
            variant = "baseline"
        else:
            spans[variant] = touched(values)
        cells[key, repr(values)] = {
            "key": key, "variant": variant, "prompt": values["prompt"], "seed": values["seed"],
            "axes": dict(values), "baseline": key_of(base),
        }  # fmt: skip
        record = {
            "condition": {"prompt": "", "seed": 0, "sampling": SAMPLING},
            "edits": [{"op": "zero"}], "size": list(size), "model": {"id": "bundled"},
            "variant": variant, "state": "nan" if nan(values) else "ok",
        }  # fmt: skip
        if not skip(values):
            run.write_cells([(key, Image.new("RGB", size, painted), record, None)])

    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        base = {"prompt": values["prompt"], "seed": values["seed"]}
        add(base, base, (255, 128, 128))
        if own(values):
            key = (key_of(base), repr(values))
            cells[key] = {**cells[key[0], repr(base)], "axes": values}
        else:
            add(values, base, color(values))
    run.write_manifest({
        **DESCRIBED, "about": "What it shows.", "sheet": None,
        "axes": [{"name": n, "values": v, "labels": list(map(str, v))} for n, v in axes.items()],
        "cells": list(cells.values()), "catalog": catalog, "touched": spans,
    })  # fmt: skip
    drift.write_drift(run, Eye() if read else None)
    return run


SVG = "{http://www.w3.org/2000/svg}"


def parsed(svg: str | None) -> ElementTree.Element:
    """The drawing as a tree; it may ask nothing of the outside."""
    assert svg is not None
    root = ElementTree.fromstring(svg)
    links = re.findall(r"""(?:href|src)=["']([^"']*)""", svg)
    assert all(link.startswith("data:image/") for link in links)
    assert not re.search(r"<script|<style|<foreignObject|url\(|@import", svg)
    return root


def marked(root: ElementTree.Element, name: str) -> dict[str, ElementTree.Element]:
    """Elements by the value of a data attribute that they have."""
    found = [e for e in root.iter() if e.get(f"data-{name}") is not None]
    by_value = {str(e.get(f"data-{name}")): e for e in found}
    assert len(by_value) == len(found)
    return by_value


def box(element: ElementTree.Element, tag: str = "rect") -> tuple[float, float, float, float]:
    """Left, top, right, bottom of the first rectangle or image within an element."""
    found = element.find(f".//{SVG}{tag}")
    assert found is not None
    x, y, wide, high = (float(found.get(n, "")) for n in ("x", "y", "width", "height"))
    return x, y, x + wide, y + high


def words(root: ElementTree.Element) -> list[str]:
    """All that is written."""
    return ["".join(e.itertext()) for e in root.iter(f"{SVG}text")]


def inside(root: ElementTree.Element) -> None:
    """Nothing written or drawn in rectangles reaches beyond the page."""
    width, height = float(root.get("width", "")), float(root.get("height", ""))
    for e in root.iter():
        if e.tag in (f"{SVG}text", f"{SVG}rect", f"{SVG}image") and e.get("x"):
            assert -1 <= float(e.get("x", "")) <= width
            assert -1 <= float(e.get("y", "")) <= height
