"""The JSON Schema beside the reader: what it accepts, what it rejects."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml
from wrong import HEAD, WRONG, ZERO, Wrong

from ablate.schema import schema

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(schema())

RIGHT = {
    "two ops and a selector of each kind": HEAD
    + """\
model: stable-diffusion-v1-5/stable-diffusion-v1-5
component: unet
dtype: float16
prompts: ["a cat in a party hat"]
seeds: [0, 1, 2]
perturbation_seed: 3
sampling: {num_inference_steps: 20, guidance_scale: 5.0, scheduler: ddim, negative_prompt: ""}
axes:
  amount: {range: [0, 0.2], step: 0.01}
  steps: {values: [1, x, [y]]}
  module: {each: [down*, {not: "re:norm"}]}
  some: {each: {sample: {of: role=norm, count: 3, seed: 0}}}
zip: [[amount, steps]]
edits:
  - mix_noise: {modules: "*", amount: $amount, distribution: uniform, params: weight}
  - zero: {modules: $module}
  - shuffle: {modules: ["#0-#4", kind=Conv2d]}
sheet: {rows: [seed], columns: amount}
""",
    "accumulated": HEAD
    + """\
axes:
  order: {values: [0, 1, 2]}
  zeroed: {cumulative: {order: random, seed: $order, counts: {range: [0, 8], step: 2}}}
  more: {cumulative: {order: drift, run: outputs/each, counts: [1, 2]}}
edits:
  - zero: {modules: $zeroed}
  - scale: {modules: $more, factor: 0.5}
""",
    "conditions alone": HEAD + "axes: {guidance_scale: {linspace: [1, 9, 5]}}\n",
}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_it_accepts_the_recipes_that_come_along(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_it_accepts_right_recipes(text: str) -> None:
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: w.what)
def test_it_rejects_what_is_wrong_by_shape_alone(wrong: Wrong) -> None:
    assert VALIDATOR.is_valid(yaml.safe_load(wrong.text)) is not wrong.static


def test_it_describes_every_op() -> None:
    (edit,) = yaml.safe_load(ZERO)["edits"]
    described = {
        next(iter(e["properties"])): e for e in schema()["properties"]["edits"]["items"]["oneOf"]
    }
    assert edit.keys() <= described.keys()
    assert all(e["properties"][name]["description"] for name, e in described.items())
