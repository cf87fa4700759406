"""Recipes as they are read; `tests/wrong.py` has the wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from wrong import CHOSEN, HEAD, SCALED, WRONG, ZERO, Wrong

from ablate.edits.registry import OPS
from ablate.edits.variants import When
from ablate.recipe.axes import AxisSpec
from ablate.recipe.document import RecipeError
from ablate.recipe.edits import EditSpec
from ablate.recipe.recipe import Recipe, parse_recipe, read_recipe
from ablate.recipe.references import references_in
from ablate.recipe.strict import Strict
from ablate.recipe.types import Ref
from ablate.sampling.settings import Sampling

RECIPES = sorted((Path(__file__).parent.parent.parent / "recipes").rglob("*.yaml"))

# Edits with their settings, and what they are read as. All modules unless they say otherwise.
EDITS: list[tuple[str, str, dict[str, Any]]] = [
    ("zero", "component: text_encoder", {"component": "text_encoder"}),
    ("zero", "where: weights", {"where": "weights"}),
    ("zero", "where: output", {"where": "output"}),
    ("zero", "where: input, argument: x", {"where": "input", "argument": "x"}),
    ("input_mean", "where: output", {"where": "output"}),
    ("zero", "unit: {channels: [0, 2-4]}", {"unit": {"channels": (0, 2, 3, 4)}}),
    ("zero", 'unit: {channels: "0-2"}', {"unit": {"channels": (0, 1, 2)}}),
    ("zero", "unit: {heads: 3}", {"unit": {"heads": (3,)}}),
    ("zero", "when: {steps: [0, 4]}", {"when": {"steps": (0, 4)}}),
    ("zero", "when: {steps: [3, 3]}", {"when": {"steps": (3, 3)}}),
    ("zero", "when: {fraction: [0, 0.5]}", {"when": {"fraction": (0, 0.5)}}),
    ("zero", "when: {t: [1, 0.5]}", {"when": {"t": (1, 0.5)}}),
    ("zero", "when: {t: [0.5, 1]}", {"when": {"t": (0.5, 1)}}),
    ("scale", "factor: -2, where: output", {"strength": -2.0, "where": "output"}),
    ("mix_noise", "dose: 0.1, distribution: uniform", {"dose": 0.1, "kind": "uniform"}),
    ("mix_noise", "amount: 0.5, where: output", {"strength": 0.5, "where": "output"}),
    ("mix_noise_vp", "amount: 0.2", {"strength": 0.2}),
    ("add_noise", "dose: 2, params: bias", {"dose": 2.0, "params": "bias"}),
    ("prune", "amount: 1, by: random", {"strength": 1.0, "kind": "random"}),
    ("prune", "amount: 0, by: magnitude", {"strength": 0.0, "kind": "magnitude"}),
    ("quantize", "bits: 1", {"strength": 1.0}),
    ("quantize", "bits: 16", {"strength": 16.0}),
    ("low_rank", "rank: 0.5", {"strength": 0.5}),
    ("low_rank", "rank: 8", {"strength": 8.0}),
    ("flip_sign", "amount: 0.25", {"strength": 0.25}),
    ("reinitialize", "params: weight", {"params": "weight"}),
    ("swap", "with: [conv_out, kind=Linear]", {"partner": ["conv_out", "kind=Linear"]}),
    ("blend", "amount: 1.5, with: some/model", {"strength": 1.5, "partner": "some/model"}),
    ("blend", "dose: 0.1, with: bundled", {"dose": 0.1, "partner": "bundled"}),
    ("mean", "where: output", {"where": "output"}),
    ("mean", "where: output, over: {}", {"where": "output", "over": {}}),
    ("mean", "where: output, over: {prompts: [a, b]}",
     {"where": "output", "over": {"prompts": ("a", "b")}}),
    ("resample", "where: output, over: {prompts: [a], seeds: [3, 4]}",
     {"where": "output", "over": {"prompts": ("a",), "seeds": (3, 4)}}),
    ("identity", "where: output, unit: {heads: [1]}",
     {"where": "output", "unit": {"heads": (1,)}}),
]  # fmt: skip

# Settings that refer to the axis `a`, whose values they can have.
REFERENCES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("{windows: 2}", "zero", "when: $a", {"when": Ref("a")}),
    ("{values: [0, 3]}", "zero", "when: {steps: [$a, 5]}",
     {"when": {"steps": (Ref("a"), 5)}}),
    ("{linspace: [0, 0.5, 3]}", "zero", "when: {fraction: [0, $a]}",
     {"when": {"fraction": (0, Ref("a"))}}),
    ("{values: [1, 0.5]}", "zero", "when: {t: [$a, $a]}",
     {"when": {"t": (Ref("a"), Ref("a"))}}),
    ("{range: [0, 7], step: 1}", "zero", "unit: {heads: $a}",
     {"unit": {"heads": Ref("a")}}),
    ("{values: [0, 0.1]}", "add_noise", "dose: $a", {"dose": Ref("a")}),
    ("{values: [1, 4]}", "quantize", "bits: $a", {"strength": Ref("a")}),
    ("{values: [0.5, 1, 2]}", "low_rank", "rank: $a", {"strength": Ref("a")}),
    ("{values: [magnitude, random]}", "prune", "amount: 0.5, by: $a",
     {"strength": 0.5, "kind": Ref("a")}),
]  # fmt: skip

MODULES: list[tuple[str, dict[str, Any]]] = [
    ('{each_head: "*attn1*"}', {"each_head": {"modules": "*attn1*"}}),
    ("{each_channel: [conv_in]}", {"each_channel": {"modules": ["conv_in"]}}),
    ("{each_head: {modules: up*, component: vae}}",
     {"each_head": {"modules": "up*", "component": "vae"}}),
    ("{each: {component: vae}}", {"each": {"component": "vae"}}),
    ("{each: {not: up*}}", {"each": {"modules": {"not": "up*"}}}),
    ("{group: {component: vae, by: role}}", {"group": {"component": "vae", "by": "role"}}),
    ("{cumulative: {component: vae, counts: [1]}}",
     {"cumulative": {"component": "vae", "counts": {"values": (1,)}}}),
]  # fmt: skip

WINDOWS: list[tuple[str, tuple[When, ...]]] = [
    ("{windows: 2}", (When("fraction", 0, 0.5), When("fraction", 0.5, 1))),
    ("{windows: [{steps: [0, 4]}, {fraction: [0, 0.5]}, {t: [1, 0.5]}]}",
     (When("steps", 0, 4), When("fraction", 0, 0.5), When("t", 1, 0.5))),
]  # fmt: skip


def read_text(text: str, **overrides: Any) -> Recipe:
    changes = {key.replace("__", "."): value for key, value in overrides.items()}
    recipe, problems = parse_recipe(text, "r.yaml", changes)
    assert problems == []
    assert recipe is not None
    return recipe


def messages(text: str, overrides: dict[str, Any] | None = None) -> list[str]:
    _, problems = parse_recipe(text, "r.yaml", overrides)
    return list(map(str, RecipeError(problems).problems))


def axis(body: str, edits: str = SCALED) -> AxisSpec:
    return read_text(f"{HEAD}axes: {{a: {body}}}\n{edits}").axes["a"]


def given(part: Any) -> Any:
    """What of a part of a recipe is given, by fields."""
    if isinstance(part, Strict):
        return {name: given(getattr(part, name)) for name in part.model_fields_set}
    return tuple(map(given, part)) if isinstance(part, tuple) else part


def edited(edit: EditSpec) -> tuple[str, dict[str, Any]]:
    """The op of an edit, and its settings but for the modules, which are all."""
    settings = given(edit)
    assert settings.pop("modules") == "*"
    return edit.op.name, settings


def referred(edit: EditSpec) -> set[str]:
    return {ref.axis for _, ref in references_in(edit, ())}


def edit_of(op: str, settings: str, modules: str = '"*"') -> str:
    return f"edits:\n  - {op}: {{modules: {modules}, {settings}}}\n"


# ---------------------------------------------------------------- right


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_the_recipes_that_come_along_are_right(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    assert recipe.source == path.read_text(encoding="utf-8")


def test_files_and_folders_are_saved_by_their_full_paths(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("study", "one.safetensors", "weights.safetensors", "other"):
        (tmp_path / name).touch()
    text = f"""{HEAD}lora: [one.safetensors, {{model: study, weight_name: weights.safetensors}}]
axes:
  step: {{cumulative: {{order: drift, run: study}}}}
edits:
  - zero: {{units: {{run: study, count: 3}}}}
  - blend: {{modules: $step, amount: 0.5, with: other}}
"""
    recipe = read_text(text)
    saved = yaml.safe_load(recipe.source)
    study = str(tmp_path / "study")
    assert saved["lora"] == [
        str(tmp_path / "one.safetensors"),
        {"model": study, "weight_name": "weights.safetensors"},
    ]
    assert saved["axes"]["step"]["cumulative"]["run"] == study
    assert saved["edits"][0]["zero"]["units"]["run"] == study
    assert saved["edits"][1] == yaml.safe_load(text)["edits"][1]  # it is part of cells' keys
    monkeypatch.chdir("/")
    again = read_text(recipe.source)
    assert again.source == recipe.source


def test_defaults() -> None:
    recipe = read_text(HEAD + ZERO)
    assert [edited(edit) for edit in recipe.edits] == [("zero", {})]
    assert (recipe.name, recipe.axes, recipe.zipped, recipe.sheet) == ("x", {}, (), None)
    assert recipe.sampling == Sampling(20, 5.0, None, "", None, None)
    assert (recipe.model, recipe.dtype, recipe.seeds) == ("bundled", "auto", (0,))


@pytest.mark.parametrize(
    ("body", "values"),
    [
        ("{values: [3, 0.5, 1e-3]}", (3, 0.5, 0.001)),
        ("{range: [0, 0.3], step: 0.1}", (0.0, 0.1, 0.2, 0.3)),
        ("{range: [1, 0.7], step: 0.1}", (1.0, 0.9, 0.8, 0.7)),
        ("{range: [1, 0.7], step: -0.1}", (1.0, 0.9, 0.8, 0.7)),
        ("{range: [0, 5], step: 2}", (0, 2, 4)),
        ("{range: [2, 2], step: 1}", (2,)),
        ("{range: [-1, 1], step: 1}", (-1, 0, 1)),
        ("{linspace: [0, 1, 5]}", (0.0, 0.25, 0.5, 0.75, 1.0)),
        ("{linspace: [4, 0, 3]}", (4, 2, 0)),
        ("{linspace: [3, 9, 1]}", (3,)),
        ("{geomspace: [0.001, 1, 4]}", (0.001, 0.01, 0.1, 1.0)),
        ("{geomspace: [1, 1000, 4]}", (1, 10, 100, 1000)),
        ("{geomspace: [-1, -4, 3]}", (-1, -2, -4)),
    ],
)
def test_axes_of_numbers(body: str, values: tuple[float, ...]) -> None:
    found = axis(body)
    assert (found.kind, found.numbers) == ("values", values)
    assert list(map(type, found.numbers)) == list(map(type, values))
    assert (
        axis(f"{values}".replace("(", "[").replace(",)", "]").replace(")", "]")).numbers == values
    )


def test_a_long_range_is_inclusive_and_free_of_rounding() -> None:
    found = axis("{range: [0, 0.2], step: 0.01}").numbers
    assert found == tuple(i / 100 for i in range(21))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{each: "*"}', {"each": {"modules": "*"}}),
        ("{each: [kind=Conv2d, {not: conv_in}]}",
         {"each": {"modules": ["kind=Conv2d", {"not": "conv_in"}]}}),
        ("{group: {}}", {"group": {}}),
        ('{group: {modules: "up*", by: role}}', {"group": {"modules": "up*", "by": "role"}}),
        ("{values: [conv_in, [conv_in, conv_out]]}",
         {"values": ("conv_in", ["conv_in", "conv_out"])}),
        ("{cumulative: {}}", {"cumulative": {}}),
        ("{cumulative: {order: drift, run: outputs/x}}",
         {"cumulative": {"order": "drift", "run": "outputs/x"}}),
    ],
)  # fmt: skip
def test_axes_of_modules(body: str, expected: dict[str, Any]) -> None:
    assert given(axis(body, CHOSEN)) == expected


@pytest.mark.parametrize(
    ("body", "order", "seed", "counts"),
    [
        ("{order: reverse, counts: [0, 5, 2]}", "reverse", 0, (0, 5, 2)),
        ("{order: random, seed: 7, counts: {range: [0, 6], step: 3}}", "random", 7, (0, 3, 6)),
        ("{counts: {geomspace: [1, 400, 4]}}", "network", 0, (1, 7, 54, 400)),
        ("{counts: {linspace: [0, 2, 9]}}", "network", 0, (0, 1, 2)),
    ],
)
def test_cumulative_axes(body: str, order: str, seed: int, counts: tuple[int, ...]) -> None:
    found = axis(f"{{cumulative: {body}}}", CHOSEN).cumulative
    assert found is not None
    assert found.counts is not None
    assert (found.modules, found.order, found.seed) == ("*", order, seed)
    assert found.counts.counts == counts


def test_a_cumulative_axis_takes_its_seed_from_another() -> None:
    text = HEAD + "axes:\n  s: {values: [0, 1]}\n  a: {cumulative: {order: random, seed: $s}}\n"
    cumulative = read_text(text + CHOSEN).axes["a"].cumulative
    assert cumulative is not None
    assert cumulative.seed == Ref("s")


def test_references_go_to_strength_modules_and_distribution() -> None:
    recipe = read_text(
        HEAD + "axes:\n  m: {each: up*}\n  f: {values: [1]}\n  d: {values: [normal, uniform]}\n"
        "edits:\n  - mix_noise: {modules: $m, amount: $f, distribution: $d, params: weight}\n"
    )
    (edit,) = recipe.edits
    assert given(edit) == {
        "modules": Ref("m"), "strength": Ref("f"), "params": "weight", "kind": Ref("d")
    }  # fmt: skip
    assert referred(edit) == {"m", "f", "d"}


@pytest.mark.parametrize(("op", "settings", "expected"), EDITS, ids=lambda v: str(v)[:40])
def test_edits(op: str, settings: str, expected: dict[str, Any]) -> None:
    (edit,) = read_text(HEAD + edit_of(op, settings)).edits
    assert edited(edit) == (op, expected)
    assert referred(edit) == set()


def test_every_op_has_an_edit_that_is_read() -> None:
    # What is written on pictures takes no modules, and has tests of its own.
    assert {op for op, _, _ in EDITS} | {"randomize", "shuffle", "write"} == set(OPS)


@pytest.mark.parametrize(("axis", "op", "settings", "expected"), REFERENCES)
def test_settings_that_refer_to_an_axis(
    axis: str, op: str, settings: str, expected: dict[str, Any]
) -> None:
    (edit,) = read_text(f"{HEAD}axes: {{a: {axis}}}\n{edit_of(op, settings)}").edits
    assert edited(edit) == (op, expected)
    assert referred(edit) == {"a"}


@pytest.mark.parametrize(("body", "expected"), MODULES)
def test_axes_of_units_and_of_other_components(body: str, expected: dict[str, Any]) -> None:
    assert given(axis(body, CHOSEN)) == expected


@pytest.mark.parametrize(("body", "windows"), WINDOWS)
def test_axes_of_windows(body: str, windows: tuple[When, ...]) -> None:
    found = axis(body, edit_of("zero", "when: $a"))
    assert (found.form, found.parts) == ("windows", windows)
    assert found.plain == tuple(map(str, windows))


def test_parts_of_the_sampling_leave_no_step_out_and_share_none() -> None:
    windows = axis("{windows: 10}", edit_of("zero", "when: $a")).parts
    levels = [1 - step / 20 for step in range(20)]
    for step in range(20):
        assert [window.is_active(step, levels) for window in windows].count(True) == 1


def test_conditions_are_axes_that_no_edit_needs_to_use() -> None:
    recipe = read_text(
        HEAD + "axes:\n  prompt: {values: [a cat, a dog]}\n  seed: {range: [0, 2], step: 1}\n"
        "  guidance_scale: {values: [1, 5]}\n  num_inference_steps: {linspace: [10, 30, 3]}\n"
        "  perturbation_seed: {values: [4]}\n"
    )
    assert [axis.numbers for axis in recipe.axes.values()] == [
        ("a cat", "a dog"), (0, 1, 2), (1, 5), (10, 20, 30), (4,)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "zipped"),
    [
        ("[a, b]", (("a", "b"),)),
        ("[[a, b]]", (("a", "b"),)),
        ("[[a, prompt], [b, seed]]", (("a", "prompt"), ("b", "seed"))),
        ("[]", ()),
    ],
)
def test_zip(text: str, zipped: tuple[tuple[str, ...], ...]) -> None:
    recipe = read_text(
        HEAD + "axes: {a: {values: [1, 2]}, b: {values: [3, 4]}}\nseeds: [0, 1]\n"
        f"prompts: [x, y]\nzip: {text}\n" + SCALED + '  - scale: {modules: "*", factor: $b}\n'
    )
    assert recipe.zipped == zipped


@pytest.mark.parametrize(
    ("text", "rows", "columns"),
    [
        ("{rows: seed, columns: a}", ("seed",), ("a",)),
        ("{rows: [prompt, seed]}", ("prompt", "seed"), ()),
        ("{}", (), ()),
    ],
)
def test_sheet(text: str, rows: tuple[str, ...], columns: tuple[str, ...]) -> None:
    sheet = read_text(f"{HEAD}axes: {{a: {{values: [1]}}}}\nsheet: {text}\n{SCALED}").sheet
    assert sheet is not None
    assert (sheet.rows, sheet.columns, sheet.concepts) == (rows, columns, False)


def test_sampling() -> None:
    recipe = read_text(
        HEAD + "sampling: {num_inference_steps: 3, guidance_scale: 2, scheduler: ddim,"
        " negative_prompt: blur, width: 64, height: 128}\n" + ZERO
    )
    assert recipe.sampling == Sampling(3, 2.0, "ddim", "blur", 64, 128)
    assert type(recipe.sampling.guidance_scale) is float


def test_overrides_change_what_is_read() -> None:
    recipe = read_text(
        HEAD + "prompts: [a, b]\n" + ZERO, prompts__1="c", sampling__width=64, name="y"
    )
    assert (recipe.prompts, recipe.sampling.width, recipe.name) == (("a", "c"), 64, "y")


def test_wrong_overrides_are_told_as_such() -> None:
    overrides = {"sampling.width": 3.5, "seeds.4": 1, "nmae": "y"}
    assert messages(HEAD + "seeds: [0]\n" + ZERO, overrides) == [
        "--set seeds.4: there is no such place in the recipe",
        "--set nmae: unknown key, did you mean `name`?",
        "--set sampling.width: must be a whole number, not `3.5`",
    ]


def test_building_is_as_strict_as_reading() -> None:
    data = {"version": 1, "name": "x", "edits": [{"zero": {"modules": "*"}}]}
    assert Recipe.build(data) == read_text(HEAD + ZERO)
    with pytest.raises(RecipeError, match=r"^seds: unknown key, did you mean `seeds`\?$"):
        Recipe.build({**data, "seds": [1]})
    with pytest.raises(RecipeError, match="is not text, a number, a list or a mapping"):
        Recipe.build({**data, "about": object()})


# ---------------------------------------------------------------- wrong


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: w.what)
def test_a_mistake_is_one_sentence_with_its_place(wrong: Wrong) -> None:
    assert messages(wrong.text) == [wrong.message]


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file() -> None:
    text = """\
version: 1
name: a b
seeds: [0, -1, 0]
sampling: {width: 100}
axes:
  amount: {range: [0, 1]}
  idle: {values: [1]}
  on: {values: [x]}
edits:
  - zeroo: {modules: "*"}
  - scale: {modules: "#x", factor: $amnt}
  - scale: {modules: "*", factor: $on}
sheet: {rows: idel}
palette: red
"""
    assert messages(text) == [
        "r.yaml:2: name: `a b` cannot name a folder; use letters, digits, `-`, `_` and `.`,"
        " beginning with a letter or digit",
        "r.yaml:3: seeds[1]: must be at least 0, not `-1`",
        "r.yaml:3: seeds[2]: `0` is given twice",
        "r.yaml:4: sampling.width: must be a multiple of 8, not `100`",
        "r.yaml:6: axes.amount: `range` needs a `step`",
        "r.yaml:6: axes.amount: no edit uses this axis; write `$amount` where it goes",
        "r.yaml:7: axes.idle: no edit uses this axis; write `$idle` where it goes",
        "r.yaml:8: axes.on.values[0]: must be a number, not `x`; it goes to edits[2].scale.factor",
        "r.yaml:10: edits[0].zeroo: unknown op, did you mean `zero`?",
        "r.yaml:11: edits[1].scale.modules: `#x` is no module number; write `#3` or `#0-#40`",
        "r.yaml:11: edits[1].scale.factor: there is no axis `amnt`, did you mean `amount`?",
        "r.yaml:13: sheet.rows: there is no axis `idel`, did you mean `idle`?",
        "r.yaml:14: palette: unknown key; known here: " + ", ".join(Recipe.known_keys()),
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_recipe(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: café".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.yaml: is not text in UTF-8$"):
        Recipe.load(latin)


def test_what_is_wrong_is_left_out_and_the_rest_is_read() -> None:
    text = HEAD + "seeds: [1, x]\naxes: {a: [1, 2], b: {ech: up*}}\n"
    recipe, problems = parse_recipe(text + SCALED + "  - zeroo: {modules: $b}\n", "r.yaml")
    assert recipe is not None
    assert len(problems) == 3
    assert recipe.axes["a"].numbers == (1, 2)
    assert (recipe.is_whole, recipe.axes["b"].is_whole) == (False, False)
    assert [edit.is_whole for edit in recipe.edits if edit] == [True]


def test_recipes_are_equal_wherever_they_are_written() -> None:
    one, other = read_text(HEAD + ZERO), read_text("# a comment\n" + HEAD + ZERO)
    assert one == other
    assert one.source != other.source
    assert one != read_text(HEAD + "seeds: [1]\n" + ZERO)


def test_python_objects_make_a_recipe_too() -> None:
    recipe = Recipe.build(
        {
            "version": 1,
            "name": "x",
            "seeds": range(3),
            "axes": {"f": (0, 0.5), "m": {"group": {"by": "stage"}}},
            "edits": ({"scale": {"modules": "$m", "factor": "$f"}},),
        }
    )
    assert recipe.seeds == (0, 1, 2)
    assert recipe.axes["f"].numbers == (0, 0.5)
    assert Recipe.build(yaml.safe_load(recipe.source)) == recipe
