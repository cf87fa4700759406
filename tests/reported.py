"""Runs made up for reports, and what a report's file says."""

from __future__ import annotations

import base64
import csv
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ablate.store.png import key_of
from ablate.store.run import Run

NASTY = '</script><img src=x onerror=alert(1)><script>alert(2)</script> & \u2028 "quoted"'
SAMPLING = {
    "num_inference_steps": 20, "guidance_scale": 5.0, "scheduler": "DDIMScheduler",
    "negative_prompt": "", "width": 16, "height": 16,
}  # fmt: skip
MODULES = [  # path, kind, stage, block, role, parameters
    ["conv_in", "Conv2d", "in", "conv_in", "input", 100],
    ["down_blocks.0.resnets.0.conv1", "Conv2d", "down", "down_blocks.0", "resnet", 200],
    ["down_blocks.0.attentions.0.attn2.to_q", "Linear", "down", "down_blocks.0",
     "cross_attention", 300],
    ["mid_block.attentions.0.norm", "GroupNorm", "mid", "mid_block", "norm", 400],
    ["up_blocks.0.resnets.0.conv1", "Conv2d", "up", "up_blocks.0", "resnet", 500],
]  # fmt: skip
PATHS = [module[0] for module in MODULES]
METRICS = ["rmse", "ssim", "latent", "embedding", "score"]
FLOORS = ["rmse_floors", "ssim_floors", "latent_floors", "embedding_floors"]
CONCEPTS = [
    "shows",
    "margin",
    "concept",
    "probability",
    "concept_2",
    "probability_2",
    "concept_3",
    "probability_3",
]

Choice = Callable[[Mapping[str, Any]], bool]


def never(values: Mapping[str, Any]) -> bool:
    return False


def drift_of(values: Mapping[str, Any]) -> float:
    """A made-up distance: the later the module and the larger the amount, the farther."""
    module = PATHS.index(values["module"]) + 1 if values.get("module") in PATHS else 1
    return round(0.02 * module * (1 + 3 * values.get("amount", 0)) + 0.001 * values["seed"], 6)


def color_of(values: Mapping[str, Any]) -> tuple[int, int, int]:
    return round(600 * drift_of(values)) % 256, 40 * values["seed"] % 256, 128


def make_run(
    folder: Path,
    axes: Mapping[str, Sequence[Any]],
    *,
    nan: Choice = never,
    skip: Choice = never,
    new: bool = True,
    size: tuple[int, int] = (16, 16),
    recipe: str = "version: 1\n",
    **manifest: Any,
) -> Run:
    """A run with a cell for each combination of the axes and added baselines.

    `nan`, `skip`: cells that met NaN, or that are not finished. Not `new`: as older versions left
    it, without catalog, floors, classes, concepts and effects.
    """
    run = Run(folder)
    axes = {"prompt": ["a cat"], "seed": [0], **axes}
    edited = [name for name in axes if name not in ("prompt", "seed")]
    cells, rows, images, effects = [], [], [], {}
    touched: dict[str, str] = {}
    same = manifest.get("same", {})

    def add(values: Mapping[str, Any], baseline: str, own: bool) -> None:
        key = baseline if own else key_of(values)
        variant = "baseline" if own else ", ".join(f"{n}={values[n]}" for n in edited)
        paths = [values["module"]] if "module" in values else PATHS
        cell = {"key": key, "variant": variant, "prompt": values["prompt"], "seed": values["seed"],
                "axes": dict(values), "baseline": baseline}  # fmt: skip
        cells.append(cell)
        if not own:
            touched[variant] = ",".join(str(PATHS.index(path)) for path in paths if path in PATHS)
        if skip(values):
            return
        state = "nan" if nan(values) and not own else "ok"
        edits = [] if own else [{"op": "zero", "modules": paths, "amount": values.get("amount", 1)}]
        condition = {"prompt": values["prompt"], "seed": values["seed"], "sampling": SAMPLING}
        record = {"condition": condition, "size": list(size), "model": {"id": "bundled"},
                  "variant": variant, "state": state, "edits": edits}  # fmt: skip
        images.append((key, Image.new("RGB", size, color_of(values)), record, None))
        drift = 0.0 if own else drift_of(values)
        known = state == "ok"
        row = [f"{key}.png", variant, values["prompt"], values["seed"]]
        row += [values.get(name, "") for name in edited] + [state]
        row += [drift, 1 - drift, 3 * drift, 2 * drift, 0.3 - drift] if known else [""] * 5
        row += [drift / 0.1, drift / 0.2, drift / 0.3, drift / 0.2] if known else [""] * 4
        name = "intact" if drift < 0.03 else "altered" if drift < 0.1 else "noise"
        word = "cat" if drift < 0.1 else "dog"
        shows = "none" if name == "noise" else word
        row += [name, shows, 0.2, word, 0.8, "hat", 0.15, "fur", 0.05] if known else [""] * 9
        rows.append([*row, same.get(variant, "")])
        if not own:
            place = json.dumps([variant, values["prompt"], [values[n] for n in edited]])
            effects.setdefault(place, []).append(drift)

    for prompt, seed in itertools.product(axes["prompt"], axes["seed"]):
        values = {"prompt": prompt, "seed": seed}
        add(values, key_of(values), True)
    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        add(values, key_of({n: values[n] for n in ("prompt", "seed")}), False)
    run.write_cells(images)
    known = {"catalog": MODULES, "touched": touched, "clip": "a-clip", "vocabulary": None}
    described = [
        {"name": name, "values": list(values), "labels": [str(value) for value in values]}
        for name, values in axes.items()
    ]
    run.write_manifest({
        "name": "a-run", "about": "What it shows.",
        "model": {"id": "bundled", "fingerprint": "sha256:0123456789abcdef"},
        "device": "cpu", "dtype": "float32", "sampling": SAMPLING, "versions": {"ablate": "0.1.0"},
        "axes": described, "sheet": None, "cells": cells, **(known if new else {}), **manifest,
    })  # fmt: skip
    run.write_text("recipe.yaml", recipe)
    if not new:
        return run
    heads = ["cell", "variant", "prompt", "seed", *edited, "state", *METRICS, *FLOORS, "class"]
    write_table(run, "drift.csv", [[*heads, *CONCEPTS, "same_as"], *rows])
    table = []
    for place, found in effects.items():
        variant, prompt, at = json.loads(place)
        mean = sum(found) / len(found)
        for metric, floor in (("rmse", 0.1), ("embedding", 0.2)):
            drift = mean / floor
            verdict = (
                "matters" if 0.8 * drift > 1 else "nothing" if 1.3 * drift < 0.1 else "changes"
            )
            interval = [0.8 * drift, 1.3 * drift]
            figures = [len(found), mean, floor, drift, *interval, 0.02, 0.03, verdict]
            figures.append(same.get(variant, ""))
            table.append([variant, prompt, *at, metric, *figures])
    tail = ["metric", "seeds", "mean", "floor", "drift", "low", "high", "p", "q", "verdict"]
    tail.append("same_as")
    write_table(run, "effects.csv", [["variant", "prompt", *edited, *tail], *table])
    notes = ["Four seeds give narrow intervals."]
    run.write_text("drift.json", json.dumps({"notes": notes, "floors": []}))
    return run


def write_table(run: Run, name: str, rows: list[list[Any]]) -> None:
    with (run.folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def data_of(path: Path) -> dict[str, Any]:
    """What the page knows."""
    found = re.findall(
        r'<script type="application/json" id="data">(.*?)</script>', path.read_text("utf-8"), re.S
    )
    assert len(found) == 1
    data: dict[str, Any] = json.loads(found[0])
    return data


def policy_of(text: str) -> dict[str, str]:
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', text)
    return {rule.partition(" ")[0]: rule.partition(" ")[2] for rule in policy.split("; ")}


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


DRAWING = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    ' width="90" height="20" viewBox="0 0 90 20">{}</svg>'
)
