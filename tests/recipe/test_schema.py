"""The JSON Schema beside the reader: what it accepts, what it rejects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import yaml
from recipe.test_recipe import EDITS, MODULES, REFERENCES, WINDOWS, edit_of
from wrong import CHOSEN, HEAD, WRONG, ZERO, Wrong

from ablate.edits.ops import wrong_strength
from ablate.edits.registry import OPS, Op
from ablate.recipe.recipe import Recipe, parse_recipe
from ablate.recipe.schema import recipe_docs, recipe_schema

RECIPES = sorted((Path(__file__).parent.parent.parent / "recipes").rglob("*.yaml"))
VALIDATOR = jsonschema.Draft202012Validator(recipe_schema())

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
  amount: {range: [0, 0.2], step: 0.1}
  steps: {values: [1, 5, 20]}
  place: {values: [conv_in, [conv_in, conv_out]]}
  module: {each: [down*, {not: "re:norm"}]}
  some: {each: {sample: {of: role=norm, count: 3, seed: 0}}}
zip: [[amount, steps]]
edits:
  - mix_noise: {modules: "*", amount: $amount, distribution: uniform, params: weight}
  - zero: {modules: $module}
  - reinitialize: {modules: $some}
  - randomize: {modules: $place}
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
    "points by numbers in every form": HEAD
    + """\
axes:
  t: {embedding: {between: {from: a cat, to: a dog, t: {values: [0, 0.5]}, path: slerp}}}
""",
    "LoRAs": HEAD
    + """\
lora: [some/lora, {model: other/lora, weight_name: x.safetensors, scale: 0.5, revision: main}]
offload: model
"""
    + ZERO,
}
RIGHT |= {f"{op}: {settings}": HEAD + edit_of(op, settings) for op, settings, _ in EDITS}
RIGHT |= {
    f"{op}: {settings} of {axis}": f"{HEAD}axes: {{a: {axis}}}\n{edit_of(op, settings)}"
    for axis, op, settings, _ in REFERENCES
}
RIGHT |= {body: f"{HEAD}axes: {{a: {body}}}\n{CHOSEN}" for body, _ in MODULES}
RIGHT |= {body: f"{HEAD}axes: {{a: {body}}}\n{edit_of('zero', 'when: $a')}" for body, _ in WINDOWS}


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(recipe_schema())


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_it_accepts_the_recipes_that_come_along(path: Path) -> None:
    VALIDATOR.validate(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("text", RIGHT.values(), ids=RIGHT)
def test_it_accepts_right_recipes(text: str) -> None:
    assert parse_recipe(text)[1] == []
    VALIDATOR.validate(yaml.safe_load(text))


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: w.what)
def test_it_rejects_what_is_wrong_by_shape_alone(wrong: Wrong) -> None:
    assert VALIDATOR.is_valid(yaml.safe_load(wrong.text)) is not wrong.static


def test_it_describes_every_op_and_every_key() -> None:
    schema = recipe_schema()
    described = schema["properties"]["edits"]["items"]["properties"]
    assert described.keys() == OPS.keys()
    edits = [schema["$defs"][edit["$ref"].rpartition("/")[2]] for edit in described.values()]
    assert all(edit["description"] for edit in edits)
    assert list(schema["properties"]) == list(Recipe.known_keys())
    assert all("description" in shape for shape in schema["properties"].values())


def test_the_reference_has_every_key_with_its_meaning() -> None:
    rows = [line.split(" | ") for line in recipe_docs().splitlines() if line.startswith("| `")]
    keys = {row[0].removeprefix("| ").strip("`") for row in rows}
    assert {*Recipe.known_keys(), *OPS, "guidance_scale", "cumulative", "zoom", "dose"} <= keys
    assert [row for row in rows if not row[-1].removesuffix(" |").strip()] == []


def test_it_describes_an_op_that_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OPS, "dim", replace(OPS["scale"], name="dim", most=1.0))
    validator = jsonschema.Draft202012Validator(recipe_schema())
    assert validator.is_valid(yaml.safe_load(HEAD + edit_of("dim", "factor: 1")))
    assert not validator.is_valid(yaml.safe_load(HEAD + edit_of("dim", "factor: 1.5")))


def test_it_leaves_the_ops_of_a_file_to_reading() -> None:
    text = HEAD + edit_of("dim", "much: 1")
    assert not VALIDATOR.is_valid(yaml.safe_load(text))
    assert VALIDATOR.is_valid(yaml.safe_load("ops: mine.py\n" + text))
    known = HEAD + "ops: mine.py\n" + edit_of("scale", "factr: 1")
    assert not VALIDATOR.is_valid(yaml.safe_load(known))


STRONG = [op for op in OPS.values() if op.strength]


@pytest.mark.parametrize("op", STRONG, ids=lambda op: op.name)
def test_it_bounds_strengths_as_reading_does(op: Op) -> None:
    more = ", with: bundled" if op.draws == "checkpoint" else ""
    for value in (-1, 0, 0.5, 1, 1.5, 2, 4.0, 16, 17):
        text = HEAD + edit_of(op.name, f"{op.strength}: {value}{more}")
        assert VALIDATOR.is_valid(yaml.safe_load(text)) is (wrong_strength(op, value) is None)
