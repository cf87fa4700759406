"""Recipes as they are read; `tests/wrong.py` has the wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wrong import CHOSEN, HEAD, SCALED, WRONG, ZERO, Wrong

from ablate.edits.registry import OPS
from ablate.edits.variants import When
from ablate.recipe.axes import Axis, WhenSpec
from ablate.recipe.edits import EditSpec, UnitSpec
from ablate.recipe.recipe import (
    TOP_LEVEL,
    Recipe,
    RecipeError,
    SheetSpec,
    parse_recipe,
    read_recipe,
)
from ablate.recipe.spaces import Ref
from ablate.sampling.settings import Sampling

RECIPES = sorted((Path(__file__).parent.parent.parent / "recipes").glob("*.yaml"))

# Edits with their settings, and what they are read as. All modules unless they say otherwise.
EDITS: list[tuple[str, str, dict[str, Any]]] = [
    ("zero", "component: text_encoder", {"component": "text_encoder"}),
    ("zero", "where: weights", {}),
    ("zero", "where: output", {"where": "output"}),
    ("zero", "unit: {channels: [0, 2-4]}", {"unit": UnitSpec("channels", (0, 2, 3, 4))}),
    ("zero", 'unit: {channels: "0-2"}', {"unit": UnitSpec("channels", (0, 1, 2))}),
    ("zero", "unit: {heads: 3}", {"unit": UnitSpec("heads", (3,))}),
    ("zero", "when: {steps: [0, 4]}", {"when": WhenSpec("steps", 0, 4)}),
    ("zero", "when: {steps: [3, 3]}", {"when": WhenSpec("steps", 3, 3)}),
    ("zero", "when: {fraction: [0, 0.5]}", {"when": WhenSpec("fraction", 0, 0.5)}),
    ("zero", "when: {t: [1, 0.5]}", {"when": WhenSpec("t", 1, 0.5)}),
    ("zero", "when: {t: [0.5, 1]}", {"when": WhenSpec("t", 0.5, 1)}),
    ("scale", "factor: -2, where: output", {"strength": -2.0, "where": "output"}),
    ("mix_noise", "dose: 0.1, distribution: uniform", {"dose": 0.1, "kind": "uniform"}),
    ("mix_noise", "amount: 0.5, where: output", {"strength": 0.5, "where": "output"}),
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
    ("mean", "where: output, over: {}", {"where": "output"}),
    ("mean", "where: output, over: {prompts: [a, b]}",
     {"where": "output", "over": (("a", "b"), None)}),
    ("resample", "where: output, over: {prompts: [a], seeds: [3, 4]}",
     {"where": "output", "over": (("a",), (3, 4))}),
    ("identity", "where: output, unit: {heads: [1]}",
     {"where": "output", "unit": UnitSpec("heads", (1,))}),
]  # fmt: skip

# Settings that refer to the axis `a`, whose values they can have.
REFERENCES: list[tuple[str, str, str, dict[str, Any]]] = [
    ("{windows: 2}", "zero", "when: $a", {"when": Ref("a")}),
    ("{values: [0, 3]}", "zero", "when: {steps: [$a, 5]}",
     {"when": WhenSpec("steps", Ref("a"), 5)}),
    ("{linspace: [0, 0.5, 3]}", "zero", "when: {fraction: [0, $a]}",
     {"when": WhenSpec("fraction", 0, Ref("a"))}),
    ("{values: [1, 0.5]}", "zero", "when: {t: [$a, $a]}",
     {"when": WhenSpec("t", Ref("a"), Ref("a"))}),
    ("{range: [0, 7], step: 1}", "zero", "unit: {heads: $a}",
     {"unit": UnitSpec("heads", Ref("a"))}),
    ("{values: [0, 0.1]}", "add_noise", "dose: $a", {"dose": Ref("a")}),
    ("{values: [1, 4]}", "quantize", "bits: $a", {"strength": Ref("a")}),
    ("{values: [0.5, 1, 2]}", "low_rank", "rank: $a", {"strength": Ref("a")}),
    ("{values: [magnitude, random]}", "prune", "amount: 0.5, by: $a",
     {"strength": 0.5, "kind": Ref("a")}),
]  # fmt: skip

MODULES: list[tuple[str, Axis]] = [
    ('{each_head: "*attn1*"}', Axis("a", "each_head", modules="*attn1*")),
    ("{each_channel: [conv_in]}", Axis("a", "each_channel", modules=["conv_in"])),
    ("{each_head: {modules: up*, component: vae}}",
     Axis("a", "each_head", modules="up*", component="vae")),
    ("{each: {component: vae}}", Axis("a", "each", component="vae")),
    ("{each: {not: up*}}", Axis("a", "each", modules={"not": "up*"})),
    ("{group: {component: vae, by: role}}", Axis("a", "group", component="vae", by="role")),
    ("{cumulative: {component: vae, counts: [1]}}",
     Axis("a", "cumulative", component="vae", counts=(1,))),
]  # fmt: skip

WINDOWS: list[tuple[str, tuple[When, ...]]] = [
    ("{windows: 2}", (When("fraction", 0, 0.5), When("fraction", 0.5, 1))),
    ("{windows: [{steps: [0, 4]}, {fraction: [0, 0.5]}, {t: [1, 0.5]}]}",
     (When("steps", 0, 4), When("fraction", 0, 0.5), When("t", 1, 0.5))),
]  # fmt: skip


def read_text(text: str, **overrides: Any) -> Recipe:
    return parse_recipe(
        text, "r.yaml", {k.replace("__", "."): v for k, v in overrides.items()}
    ).get()


def messages(text: str, overrides: dict[str, Any] | None = None) -> list[str]:
    return list(map(str, parse_recipe(text, "r.yaml", overrides).problems))


def axis(body: str, edits: str = SCALED) -> Axis:
    (found,) = read_text(f"{HEAD}axes: {{a: {body}}}\n{edits}").axes
    return found


def edit_of(op: str, settings: str, modules: str = '"*"') -> str:
    return f"edits:\n  - {op}: {{modules: {modules}, {settings}}}\n"


# ---------------------------------------------------------------- right


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_the_recipes_that_come_along_are_right(path: Path) -> None:
    recipe = Recipe.load(path)
    assert recipe.name == path.stem
    assert recipe.source == path.read_text(encoding="utf-8")


def test_defaults() -> None:
    recipe = read_text(HEAD + ZERO)
    assert recipe == Recipe("x", (EditSpec("zero", "*"),))
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
    assert (found.form, found.values) == ("values", values)
    assert list(map(type, found.values)) == list(map(type, values))


def test_a_long_range_is_inclusive_and_free_of_rounding() -> None:
    found = axis("{range: [0, 0.2], step: 0.01}").values
    assert found == tuple(i / 100 for i in range(21))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{each: "*"}', Axis("a", "each", modules="*")),
        ("{each: [kind=Conv2d, {not: conv_in}]}",
         Axis("a", "each", modules=["kind=Conv2d", {"not": "conv_in"}])),
        ("{group: {}}", Axis("a", "group", by="stage")),
        ('{group: {modules: "up*", by: role}}', Axis("a", "group", modules="up*", by="role")),
        ("{values: [conv_in, [conv_in, conv_out]]}",
         Axis("a", "values", ("conv_in", ["conv_in", "conv_out"]))),
        ("{cumulative: {}}", Axis("a", "cumulative")),
        ("{cumulative: {order: reverse, counts: [0, 5, 2]}}",
         Axis("a", "cumulative", order="reverse", counts=(0, 5, 2))),
        ("{cumulative: {order: random, seed: 7, counts: {range: [0, 6], step: 3}}}",
         Axis("a", "cumulative", order="random", seed=7, counts=(0, 3, 6))),
        ("{cumulative: {counts: {geomspace: [1, 400, 4]}}}",
         Axis("a", "cumulative", counts=(1, 7, 54, 400))),
        ("{cumulative: {counts: {linspace: [0, 2, 9]}}}",
         Axis("a", "cumulative", counts=(0, 1, 2))),
        ("{cumulative: {order: drift, run: outputs/x}}",
         Axis("a", "cumulative", order="drift", run="outputs/x")),
    ],
)  # fmt: skip
def test_axes_of_modules(body: str, expected: Axis) -> None:
    assert axis(body, CHOSEN) == expected


def test_a_cumulative_axis_takes_its_seed_from_another() -> None:
    text = HEAD + "axes:\n  s: {values: [0, 1]}\n  a: {cumulative: {order: random, seed: $s}}\n"
    _, cumulative = read_text(text + CHOSEN).axes
    assert cumulative.seed == Ref("s")


def test_references_go_to_strength_modules_and_distribution() -> None:
    recipe = read_text(
        HEAD + "axes:\n  m: {each: up*}\n  f: {values: [1]}\n  d: {values: [normal, uniform]}\n"
        "edits:\n  - mix_noise: {modules: $m, amount: $f, distribution: $d, params: weight}\n"
    )
    assert recipe.edits == (EditSpec("mix_noise", Ref("m"), Ref("f"), "weight", Ref("d")),)
    assert recipe.edits[0].references() == {"m", "f", "d"}


@pytest.mark.parametrize(("op", "settings", "expected"), EDITS, ids=lambda v: str(v)[:40])
def test_edits(op: str, settings: str, expected: dict[str, Any]) -> None:
    recipe = read_text(HEAD + edit_of(op, settings))
    assert recipe.edits == (EditSpec(op, "*", **expected),)
    assert recipe.edits[0].references() == set()


def test_every_op_has_an_edit_that_is_read() -> None:
    # What is written on pictures takes no modules, and has tests of its own.
    assert {op for op, _, _ in EDITS} | {"randomize", "shuffle", "write"} == set(OPS)


@pytest.mark.parametrize(("axis", "op", "settings", "expected"), REFERENCES)
def test_settings_that_refer_to_an_axis(
    axis: str, op: str, settings: str, expected: dict[str, Any]
) -> None:
    (edit,) = read_text(f"{HEAD}axes: {{a: {axis}}}\n{edit_of(op, settings)}").edits
    assert edit == EditSpec(op, "*", **expected)
    assert edit.references() == {"a"}


@pytest.mark.parametrize(("body", "expected"), MODULES)
def test_axes_of_units_and_of_other_components(body: str, expected: Axis) -> None:
    assert axis(body, CHOSEN) == expected


@pytest.mark.parametrize(("body", "windows"), WINDOWS)
def test_axes_of_windows(body: str, windows: tuple[When, ...]) -> None:
    found = axis(body, edit_of("zero", "when: $a"))
    assert (found.form, found.windows, found.size) == ("windows", windows, len(windows))
    assert found.values == tuple(map(str, windows))


def test_parts_of_the_sampling_leave_no_step_out_and_share_none() -> None:
    windows = axis("{windows: 10}", edit_of("zero", "when: $a")).windows
    levels = [1 - step / 20 for step in range(20)]
    for step in range(20):
        assert [window.is_active(step, levels) for window in windows].count(True) == 1


@pytest.mark.parametrize(
    ("settings", "component", "blocks"),
    [
        ("where: weights", None, False),
        ("where: output", None, True),
        ("component: vae", "vae", False),
    ],
)
@pytest.mark.parametrize("chosen", ["by the edit", "by an axis"])
def test_selectors_tell_what_they_choose_among(
    chosen: str, settings: str, component: str | None, blocks: bool
) -> None:
    if chosen == "by the edit":
        text = HEAD + edit_of("zero", settings)
    else:
        of_axis = '{modules: "*", component: vae}' if component else '"*"'
        text = f"{HEAD}axes: {{a: {{each: {of_axis}}}}}\n{edit_of('zero', settings, '$a')}"
    (selected,) = parse_recipe(text, "r.yaml").selectors
    assert (selected.selector, selected.component, selected.blocks) == ("*", component, blocks)


def test_partners_are_selectors_and_checkpoints_are_models() -> None:
    swapped = parse_recipe(HEAD + edit_of("swap", "with: conv_out, component: vae"), "r.yaml")
    assert [(s.selector, s.component) for s in swapped.selectors] == [
        ("*", "vae"), ("conv_out", "vae")
    ]  # fmt: skip
    assert swapped.checkpoints == ()
    blended = parse_recipe(HEAD + edit_of("blend", "amount: 1, with: some/model"), "r.yaml")
    ((model, component, place),) = blended.checkpoints
    assert (model, component, place.key, place.line) == (
        "some/model", None, "edits[0].blend.with", 4
    )  # fmt: skip


def test_conditions_are_axes_that_no_edit_needs_to_use() -> None:
    recipe = read_text(
        HEAD + "axes:\n  prompt: {values: [a cat, a dog]}\n  seed: {range: [0, 2], step: 1}\n"
        "  guidance_scale: {values: [1, 5]}\n  num_inference_steps: {linspace: [10, 30, 3]}\n"
        "  perturbation_seed: {values: [4]}\n"
    )
    assert [a.values for a in recipe.axes] == [
        ("a cat", "a dog"), (0, 1, 2), (1.0, 5.0), (10, 20, 30), (4,)
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
    ("text", "sheet"),
    [
        ("{rows: seed, columns: a}", SheetSpec(("seed",), ("a",))),
        ("{rows: [prompt, seed]}", SheetSpec(("prompt", "seed"), ())),
        ("{}", SheetSpec()),
    ],
)
def test_sheet(text: str, sheet: SheetSpec) -> None:
    assert read_text(f"{HEAD}axes: {{a: {{values: [1]}}}}\nsheet: {text}\n{SCALED}").sheet == sheet


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
        "--set sampling.width: must be a whole number of at least 8, not `3.5`",
    ]


def test_building_is_as_strict_as_reading() -> None:
    data = {"version": 1, "name": "x", "edits": [{"zero": {"modules": "*"}}]}
    assert Recipe.build(data) == read_text(HEAD + ZERO)
    with pytest.raises(RecipeError, match=r"^seds: unknown key, did you mean `seeds`\?$"):
        Recipe.build({**data, "seds": [1]})
    with pytest.raises(RecipeError, match="is no text, number, list or mapping"):
        Recipe.build({**data, "about": object()})


# ---------------------------------------------------------------- wrong


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: w.what)
def test_a_mistake_is_one_sentence_with_its_place(wrong: Wrong) -> None:
    assert messages(wrong.text) == [wrong.message]
    with pytest.raises(RecipeError) as caught:
        read_text(wrong.text)
    assert str(caught.value) == wrong.message


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
        "r.yaml:3: seeds[1]: must be a whole number of at least 0, not `-1`",
        "r.yaml:3: seeds[2]: `0` stands twice",
        "r.yaml:4: sampling.width: must be a multiple of 8, not `100`",
        "r.yaml:6: axes.amount: `range` needs a `step`",
        "r.yaml:6: axes.amount: no edit uses this axis; write `$amount` where it goes",
        "r.yaml:7: axes.idle: no edit uses this axis; write `$idle` where it goes",
        "r.yaml:8: axes.on.values[0]: must be a number, not `x`",
        "r.yaml:10: edits[0].zeroo: unknown op, did you mean `zero`?",
        "r.yaml:11: edits[1].scale.modules: `#x` is no module number; write `#3` or `#0-#40`",
        "r.yaml:11: edits[1].scale.factor: there is no axis `amnt`, did you mean `amount`?",
        "r.yaml:13: sheet.rows: there is no axis `idel`, did you mean `idle`?",
        "r.yaml:14: palette: unknown key; known here: " + ", ".join(TOP_LEVEL),
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_recipe(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: café".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.yaml: is no text in UTF-8$"):
        read_recipe(latin)
