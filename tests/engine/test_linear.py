"""First-order effects on every family, against predictions with a little of each edit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import save

from ablate.edits.in_place import applied
from ablate.edits.variants import Edit, Variant
from ablate.engine import linear
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.settings import Sampling
from ablate.sweep.cells import Condition

LITTLE = 1e-2
STEPS = 2
# Of different guidance and attention; pixels of a side where the default is not small.
SIDES = {"sd1": None, "sdxl": None, "sd3": None, "pixart": None, "flux": 16, "qwen": 32,
         "kandinsky22": 16}  # fmt: skip


def predictions(pipeline: Pipeline, sampling: Sampling, inputs: list[Any]) -> list[np.ndarray]:
    """The guided predictions for recorded inputs, which are recorded if there are none."""
    settings = pipeline.settings(sampling)
    if not inputs:
        inputs += linear._recorded(pipeline, Condition("a cat", 0, sampling), settings)
    results = []
    for call in inputs:
        with torch.no_grad():
            rows = call(pipeline.denoiser)
        if settings.guided and len(rows) == 2:
            rows = rows[:1] + settings.guidance_scale * (rows[1:] - rows[:1])
        results.append(rows.numpy())
    return results


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")
@pytest.mark.parametrize("family", SIDES)
def test_they_are_those_of_a_little_of_the_edit(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "DRAWS", 100)
    pipeline = Pipeline.load(str(save(family, tmp_path / family)), device="cpu", dtype="float32")
    sampling = Sampling(STEPS, 5.0, width=SIDES.get(family), height=SIDES.get(family))
    modules = [m.path for m in pipeline.catalog if m.kind == "Linear"]
    chosen = [modules[i * len(modules) // 3] for i in range(3)]
    variants = [Variant("", (Edit("zero", (path,)),)) for path in chosen]
    scores = linear.first_order(variants, [Condition("a cat", 0, sampling)], pipeline)
    inputs: list[Any] = []
    before = predictions(pipeline, sampling, inputs)
    for path, score in zip(chosen, scores, strict=True):
        with applied(pipeline.denoiser, Variant("", (Edit("scale", (path,), 1 - LITTLE),))):
            after = predictions(pipeline, sampling, inputs)
        squares = [((a - b) / LITTLE) ** 2 for a, b in zip(after, before, strict=True)]
        moved = float(np.mean([square.mean() for square in squares])) ** 0.5
        assert score == pytest.approx(moved, rel=0.3, abs=1e-4), path
