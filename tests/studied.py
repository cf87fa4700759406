"""Studies of units made up for pictures and pages: plausible figures, small images, no network."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

CONCEPTS = (
    "cat", "dog", "car", "boat", "sunflower", "banana", "pizza", "penguin", "fox", "frog",
    "balloon", "house", "tree", "cow", "rabbit", "airplane", "bicycle", "castle", "bear", "cup",
)  # fmt: skip
NAME = "units <of> & “more”"
# Of the own concept's probability, by how many units are multiplied by what.
CHANGES = {(1, 0): -0.1, (1, 4): 0.02, (5, 0): -0.31, (5, 4): 0.03, (5, -4): -0.55}
Painter = Callable[[int], Image.Image]
Node = ElementTree.Element


def parsed(drawing: str) -> Node:
    root = ElementTree.fromstring(drawing)
    for part in root.iter():
        part.tag = part.tag.rpartition("}")[2]
    return root


def words(root: Node) -> list[str]:
    return [part.text or "" for part in root.iter("text")]


def paint(number: int) -> Image.Image:
    """A small image: a field and a dot, by its number."""
    rng = np.random.default_rng(number)
    image = Image.new("RGB", (16, 16), tuple(rng.integers(60, 255, 3).tolist()))
    x, y = rng.integers(2, 10, 2)
    image.paste(tuple(rng.integers(0, 200, 3).tolist()), (int(x), int(y), int(x) + 5, int(y) + 5))
    return image


def layers_of(count: int) -> list[tuple[str, str, str]]:
    """So many layers of a network with down, mid and up: module path, stage, role."""
    leaves = (
        ("resnets.0.conv1", "resnet"), ("resnets.0.conv2", "resnet"),
        ("attentions.0.transformer_blocks.0.attn1.to_out.0", "self_attention"),
        ("attentions.0.transformer_blocks.0.attn2.to_out.0", "cross_attention"),
        ("attentions.0.transformer_blocks.0.ff.net.0.proj", "feed_forward"),
        ("resnets.1.conv1", "resnet"), ("resnets.1.conv2", "resnet"),
    )  # fmt: skip
    down = (count - 2) // 2 if count > 2 else 1
    found = [(f"down_blocks.{i // 7}.{leaves[i % 7][0]}", "down", leaves[i % 7][1])
             for i in range(down)]  # fmt: skip
    found += [(f"mid_block.{leaf}", "mid", role) for leaf, role in leaves[: min(2, count - down)]]
    up = range(max(0, count - len(found)))
    found += [(f"up_blocks.{i // 7}.{leaves[i % 7][0]}", "up", leaves[i % 7][1]) for i in up]
    return found[:count]


def make_study(
    folder: Path,
    *,
    layers: int = 6,
    units: int = 24,
    cards: int = 3,
    atlas: int = 0,
    painter: Painter = paint,
    concepts: Sequence[str] = CONCEPTS,
    visualized: bool = True,
    name: str = NAME,
) -> Path:
    """A folder of a study. `atlas`: rows and columns of it; `painter`: the images, by number."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    known = layers_of(layers)
    told = {
        "format": 1, "kind": "selectivity", "name": name, "component": "unet",
        "about": "Which units answer to one concept alone.", "model": {"id": "bundled"},
        "setup": {"concepts": list(concepts), "templates": ["a {}"], "seeds": [0, 1, 2, 3],
                  "keys": {}, "component": None, "modules": None, "kind": "channels"},
        "clip": "bundled", "dtype": "float32", "device": "cpu",
        "samples": 4 * len(concepts), "versions": {"ablate": "0.1.0"},
    }  # fmt: skip
    (folder / "study.json").write_text(json.dumps(told), encoding="utf-8")
    rows: list[list[Any]] = []
    for i, (module, stage, role) in enumerate(known):
        depth = i / max(1, layers - 1)
        found = rng.beta(1.4 + 2.5 * depth, 6 - 2.5 * depth, units)
        chance = rng.beta(2.2, 26, units)
        for unit in range(units):
            word = concepts[int(rng.integers(len(concepts)))]
            mean = float(rng.gamma(2, 0.3))
            rest = mean * (1 - found[unit]) / (1 + found[unit])
            rows.append([module, "unet", "channels", unit, stage, role, round(found[unit], 6),
                         round(chance[unit], 6), word, round(mean, 6), round(rest, 6),
                         round(float(9 * found[unit]), 4)])  # fmt: skip
    table(folder / "units.csv", [
        ["module", "component", "kind", "unit", "stage", "role", "selectivity", "chance",
         "concept", "mean", "rest", "contrast"], *rows,
    ])  # fmt: skip
    if cards:
        _cards(folder, rows, cards, painter, list(concepts), visualized)
    if atlas:
        _atlas(folder, known[-1][0], atlas, painter, list(concepts))
    return folder


def table(path: Path, rows: Sequence[Sequence[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _cards(
    folder: Path,
    rows: Sequence[Sequence[Any]],
    count: int,
    painter: Painter,
    concepts: list[str],
    visualized: bool,
) -> None:
    rng = np.random.default_rng(11)
    images = folder / "pictures" / "cells"
    images.mkdir(parents=True, exist_ok=True)

    def image(number: int) -> str:
        path = images / f"{number:032x}.png"
        if not path.exists():
            painter(number).save(path)
        return f"pictures/cells/{path.name}"

    best = sorted(rows, key=lambda row: -row[6])[:count]
    made = []
    for i, row in enumerate(best):
        module, component, kind, unit, stage, role, selectivity, _, word = row[:9]
        others = [c for c in concepts if c != word]
        rng.shuffle(others)
        contrasts = np.sort(np.concatenate([[6.5], rng.gamma(1.5, 0.8, 7)]))[::-1]
        seen = rng.uniform(0, 0.6, (8, 2))
        effects = []
        at_first = {c: float(rng.uniform(*((0.6, 0.95) if c == word else (0.3, 0.9))))
                    for c in [word, *others[:7]]}  # fmt: skip
        for units, factor in ((1, 0), (1, 4), (5, 0), (5, 4), (5, -4)):
            for concept in [word, *others[:7]]:
                own = concept == word
                before = at_first[concept]
                change = CHANGES[units, factor] if own else float(rng.normal(0, 0.008))
                change = min(change, 1 - before)
                half = 0.04 + 0.04 * float(rng.random())
                effects.append({
                    "units": units, "factor": factor, "concept": concept, "own": own,
                    "before": before, "after": before + change, "change": change,
                    "low": change - half, "high": change + half, "drift": abs(change) / 10,
                })  # fmt: skip
        examples = [
            {"prompt": f"a {c}", "seed": 0, "baseline": image(9000 + 50 * i + 3 * (j % 3)),
             "ablated": image(9001 + 50 * i + 3 * j), "amplified": image(9002 + 50 * i + 3 * j)}
            for j, c in enumerate([word, others[0], others[1]] * 2)
        ]  # fmt: skip
        for j, example in enumerate(examples[3:]):
            example["reversed"] = image(9040 + 50 * i + j)
        made.append({
            "module": module, "component": component, "kind": kind, "unit": unit, "stage": stage,
            "role": role, "selectivity": selectivity, "concept": word,
            "concepts": [[c, float(v)] for c, v in zip([word, *others], contrasts, strict=False)],
            "against": [[c, -0.4 - 0.3 * j] for j, c in enumerate(others[-3:])],
            "top": [
                {"image": image(100 * i + j), "prompt": f"a {word} in the rain", "seed": j,
                 "value": 3.0 - 0.2 * j, "place": [y, x, y + 0.3, x + 0.3] if j else None}
                for j, (y, x) in enumerate(seen.tolist())
            ],
            "effects": [row for row in effects if row["factor"] >= 0],
            "examples": examples[:3],
            "sentence": f"Without it a {word} is read as a {word} with a probability of 52 %"
            " (83 % before); other concepts change by 1.3 points on average.",
            "together": {
                "units": [{"module": module, "unit": j, "contrast": 5.0} for j in range(5)],
                "sentences": [
                    f"{how} these 5 a {word} is read as a {word} with a probability of 27 % (83 %"
                    " before); other concepts change by 3.1 points on average. In embedding"
                    " distance its pictures move by 0.056, those of others by 0.0008."
                    for how in ("Without", "With −4 times")
                ],
                "reversed": [row for row in effects if row["factor"] < 0],
                "examples": examples[3:],
            },
            "visualization": image(50000 + i) if visualized and i % 2 == 0 else None,
        })  # fmt: skip
    search = [
        {"concept": c, "units": [
            {"module": r[0], "unit": r[3], "contrast": r[11]}
            for r in sorted((r for r in rows if r[8] == c), key=lambda r: -r[11])[:5]
        ]} for c in concepts[:-3]
    ]  # fmt: skip
    written = {
        "component": "unet", "model": "bundled", "concepts": concepts, "cards": made,
        "search": search, "none": concepts[-3:],
        "multimodal": [], "notes": ["A note <of> the cards."],
    }  # fmt: skip
    (folder / "cards.json").write_text(json.dumps(written), encoding="utf-8")
    if visualized:
        painter(77).save(folder / "neuron-1.png")
        table(folder / "visualizations.csv", [
            ["name", "objective", "start", "end", "ratio"],
            ["neuron-1", "channel(conv_in, 1)", 0.5, 4.0, 8.0],
        ])  # fmt: skip


def _atlas(folder: Path, module: str, side: int, painter: Painter, concepts: list[str]) -> None:
    rng = np.random.default_rng(3)
    for kind in ("bins", "patches"):
        (folder / kind).mkdir(exist_ok=True)
    hubs = rng.uniform(0, side, (len(concepts), 2))
    bins = []
    for row in range(side):
        for column in range(side):
            middle = side / 2
            if (row - middle) ** 2 + (column - middle) ** 2 > (0.56 * side) ** 2:
                continue
            far = np.linalg.norm(hubs - [row, column], axis=1)
            near = np.argsort(far)
            count = int(rng.gamma(1.2, 30 / (0.3 + far[near[0]])))
            if not count:
                continue
            names = [f"{kind}/{row}-{column}.png" for kind in ("bins", "patches")]
            for j, path in enumerate(names):
                painter(int(near[0]) + 1000 * j).save(folder / path)
            lost = near[0] in (0, 1)
            after = int(count * (0.1 if lost else 1.1)) + (80 if near[0] == 2 else 0)
            bins.append({
                "row": row, "column": column, "count": count,
                "concepts": [[concepts[int(n)], 6.0 / (i + 1)] for i, n in enumerate(near[:3])],
                "picture": names[0] if count > 2 else None, "patch": names[1], "variant": after,
            })  # fmt: skip
    found = {
        "module": module, "component": "unet", "model": "bundled", "method": "pca", "rows": side,
        "columns": side, "vectors": sum(b["count"] for b in bins), "when": [0.5, 0.5],
        "concepts": concepts, "bins": bins, "variant": "zero up_blocks.0",
        "dark": [{"concept": concepts[0], "before": 31, "after": 4},
                 {"concept": concepts[1], "before": 22, "after": 6}],
    }  # fmt: skip
    (folder / "atlas.json").write_text(json.dumps(found), encoding="utf-8")
