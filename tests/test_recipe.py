"""Recipes as they are read; `tests/wrong.py` has the wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wrong import CHOSEN, HEAD, SCALED, WRONG, ZERO, Wrong

from ablate.axes import Axis, Ref, Sampling
from ablate.recipe import EditSpec, Recipe, RecipeError, SheetSpec, parse, read

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def read_text(text: str, **overrides: Any) -> Recipe:
    return parse(text, "r.yaml", {k.replace("__", "."): v for k, v in overrides.items()}).get()


def messages(text: str, overrides: dict[str, Any] | None = None) -> list[str]:
    return list(map(str, parse(text, "r.yaml", overrides).problems))


def axis(body: str, edits: str = SCALED) -> Axis:
    (found,) = read_text(f"{HEAD}axes: {{a: {body}}}\n{edits}").axes
    return found


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
colour: red
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
        "r.yaml:14: colour: unknown key; known here: version, name, about, model, revision, dtype,"
        " compile, component, clip, vocabulary, prompts, seeds, noise_floor, perturbation_seed,"
        " sampling, axes, zip, edits, sheet",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "none.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("name: café".encode("latin-1"))
    with pytest.raises(RecipeError, match=r"latin\.yaml: is no text in UTF-8$"):
        read(latin)
