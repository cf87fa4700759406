"""Recipes expanded over a catalog made by hand: nothing here needs a network."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fabricated import make_run

from ablate.network.components import Networks
from ablate.network.modules import Catalog, ModuleInfo
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.sweep.binding import plan
from ablate.sweep.cells import Plan

PATHS = ["conv_in", "down.0.norm1", "down.0.conv1", "mid.attn1", "up.0.conv1", "conv_out"]
STAGES = ["in", "down", "down", "mid", "up", "out"]
MODULES = tuple(
    ModuleInfo(i, path, "Linear" if "attn" in path else "Conv2d", stage, stage, "resnet", 10)
    for i, (path, stage) in enumerate(zip(PATHS, STAGES, strict=True))
)
NETWORKS = Networks(Catalog(MODULES), "unet")
ZERO_A = [{"zero": {"modules": "$a"}}]


def made(axes: dict[str, Any] | None = None, edits: list[Any] | None = None, **top: Any) -> Plan:
    edits = [{"zero": {"modules": "conv_in"}}] if edits is None else edits
    data = {"version": 1, "name": "x", "axes": axes or {}, "edits": edits, **top}
    return plan(Recipe.build(data), NETWORKS)


def edited(found: Plan) -> list[tuple[str, ...]]:
    """Module paths of each cell of the sweep, the added baselines left out."""
    return [cell.variant.modules for cell in found.cells if "a" in cell.axes]


def test_axes_multiply_and_the_last_varies_fastest() -> None:
    found = made(
        {"a": {"values": ["conv_in", "mid.*"]}, "f": {"values": [0.5, 2]}},
        [{"scale": {"modules": "$a", "factor": "$f"}}],
        seeds=[7, 8],
    )
    assert [a.name for a in found.axes] == ["prompt", "seed", "a", "f"]
    sweep = [c for c in found.cells if "a" in c.axes]
    assert [(c.condition.seed, c.axes["a"], c.axes["f"]) for c in sweep] == [
        (seed, a, f) for seed in (7, 8) for a in ("conv_in", "mid.*") for f in (0.5, 2)
    ]
    assert [c.variant.edits[0].strength for c in sweep] == [0.5, 2.0] * 4
    assert sweep[2].variant.name == "a=mid.*, f=0.5"
    assert sweep[2].variant.modules == ("mid.attn1",)
    assert len(found.variants) == 5
    assert [c.seed for c in found.conditions] == [7, 8]


def test_zipped_axes_count_as_one() -> None:
    found = made(
        {"a": {"values": ["conv_in", "conv_out"]}, "f": {"values": [1.5, 2]}},
        [{"scale": {"modules": "$a", "factor": "$f"}}],
        zip=["a", "f"],
        seeds=[0, 1],
    )
    sweep = [(c.axes["seed"], c.axes["a"], c.axes["f"]) for c in found.cells if "a" in c.axes]
    assert sweep == [(s, a, f) for s in (0, 1) for a, f in (("conv_in", 1.5), ("conv_out", 2))]


def test_prompts_and_seeds_can_be_zipped_with_each_other() -> None:
    found = made({}, prompts=["a cat", "a dog"], seeds=[0, 1], zip=["prompt", "seed"])
    assert [(c.prompt, c.seed) for c in found.conditions] == [("a cat", 0), ("a dog", 1)]


def test_a_window_slides_over_modules_and_groups() -> None:
    found = made(
        {"a": {"window": {"modules": {"not": "conv_in"}, "width": 2, "stride": 3}}}, ZERO_A
    )
    assert found.axes[-1].values == ("down.0.norm1 to down.0.conv1", "up.0.conv1 to conv_out")
    assert edited(found) == [("down.0.norm1", "down.0.conv1"), ("up.0.conv1", "conv_out")]
    by_stage = made({"a": {"window": {"width": 3, "by": "stage"}}}, ZERO_A)
    assert by_stage.axes[-1].values == ("in to mid", "down to up", "mid to out")
    assert edited(by_stage)[1] == ("down.0.norm1", "down.0.conv1", "mid.attn1", "up.0.conv1")
    alone = made({"a": {"window": {"width": 1}}}, ZERO_A)
    assert alone.axes[-1].values == tuple(PATHS)
    with pytest.raises(RecipeError, match=r"a\.window\.width: is 6, more than there is .*: 5$"):
        made({"a": {"window": {"width": 6, "by": "stage"}}}, ZERO_A)


def test_groups_are_the_modules_inside_blocks() -> None:
    blocks = tuple(replace(MODULES[i], path=p) for i, p in enumerate(("down", "down.0", "up")))
    networks = Networks(Catalog(MODULES, blocks), "unet")

    def groups(modules: str, within: Any) -> Any:
        axes = {"a": {"group": {"modules": modules, "within": within}}}
        data = {"version": 1, "name": "x", "axes": axes, "edits": ZERO_A}
        return plan(Recipe.build(data), networks).axes[-1].members  # type: ignore[attr-defined]

    inner = ("down.0.norm1", "down.0.conv1")
    assert groups("re:down|up", ["down", "down.0", "up"]) == {
        "down.0": inner,
        "up": ("up.0.conv1",),
    }
    assert groups("down*", "down") == {"down": inner}
    with pytest.raises(RecipeError, match=r"a\.group\.within: `conv_in` is inside none of them"):
        groups("*", "down")


def test_each_and_group() -> None:
    assert edited(made({"a": {"each": "stage=down"}}, ZERO_A)) == [(PATHS[1],), (PATHS[2],)]
    found = made({"a": {"group": {"modules": {"not": "conv_in"}, "by": "stage"}}}, ZERO_A)
    assert edited(found) == [(PATHS[1], PATHS[2]), (PATHS[3],), (PATHS[4],), (PATHS[5],)]
    assert found.axes[-1].values == ("down", "mid", "up", "out")


def shuffled(seed: int) -> list[str]:
    order = list(PATHS)
    random.Random(seed).shuffle(order)
    return order


@pytest.mark.parametrize(
    ("settings", "order"),
    [
        ({"order": "network"}, PATHS),
        ({"order": "reverse"}, PATHS[::-1]),
        ({"order": "random"}, shuffled(0)),
        ({"order": "random", "seed": 5}, shuffled(5)),
    ],
)
def test_cumulative_axes_take_the_first_of_an_order(
    settings: dict[str, Any], order: list[str]
) -> None:
    found = made({"a": {"cumulative": settings}}, ZERO_A)
    assert found.axes[-1].values == (1, 2, 3, 4, 5, 6)
    assert list(map(set, edited(found))) == [set(order[:k]) for k in range(1, 7)]
    assert all(list(m) == [p for p in PATHS if p in m] for m in edited(found))
    some = made({"a": {"cumulative": {**settings, "counts": [0, 4]}}}, ZERO_A)
    assert list(map(set, edited(some))) == [set(), set(order[:4])]


def test_a_cumulative_axis_is_drawn_anew_for_each_value_of_its_seed() -> None:
    cumulative = {"order": "random", "seed": "$s", "counts": [3]}
    found = made({"s": {"values": [0, 1]}, "a": {"cumulative": cumulative}}, ZERO_A)
    assert list(map(set, edited(found))) == [set(shuffled(s)[:3]) for s in (0, 1)]


def earlier_run(folder: Path, drift: Mapping[str, int]) -> str:
    """A run in which each module was edited in turn, with images so far from the baseline's."""
    make_run(
        folder,
        {"module": list(drift), "seed": [0, 1]},
        lambda values: (255, 128 - drift[values["module"]], 128),
        nan=lambda values: values.get("module") == PATHS[3],
        read=False,
    )
    return str(folder)


def test_the_order_of_drift_is_read_from_an_earlier_run(tmp_path: Path) -> None:
    run = earlier_run(tmp_path, dict(zip(PATHS, (110, 20, 100, 70, 40, 80), strict=True)))
    found = made({"a": {"cumulative": {"order": "drift", "run": run}}}, ZERO_A)
    order = [PATHS[1], PATHS[4], PATHS[5], PATHS[2], PATHS[0], PATHS[3]]  # NaN drifts most
    assert list(map(set, edited(found))) == [set(order[:k]) for k in range(1, 7)]


# ---------------------------------------------------------------- baselines and conditions


def test_baselines_are_added_once_for_each_condition_before_the_sweep() -> None:
    found = made({"a": {"each": "conv*"}}, ZERO_A, prompts=["a cat", "a dog"], seeds=[0, 1])
    added = found.cells[:4]
    assert all(cell.variant.is_baseline for cell in added)
    assert [dict(cell.axes) for cell in added] == [
        {"prompt": p, "seed": s} for p in ("a cat", "a dog") for s in (0, 1)
    ]
    assert not any(cell.variant.is_baseline for cell in found.cells[4:])
    assert len(found.cells) == 4 + 4 * 2


def test_a_sweep_with_an_edit_free_cell_brings_its_own_baseline() -> None:
    found = made({"a": {"cumulative": {"counts": [0, 1]}}}, ZERO_A, seeds=[0, 1])
    assert [c.variant.is_baseline for c in found.cells] == [True, False, True, False]
    assert all("a" in cell.axes for cell in found.cells)


def test_sampling_axes_make_conditions() -> None:
    found = made({"guidance_scale": {"values": [1, 5]}, "width": {"values": [64]}})
    assert [c.sampling.guidance_scale for c in found.conditions] == [1.0, 5.0]
    assert {c.sampling.width for c in found.conditions} == {64}
    baseline, *_ = found.cells
    assert dict(baseline.axes) == {
        "prompt": "a cat in a party hat", "seed": 0, "guidance_scale": 1.0, "width": 64
    }  # fmt: skip


def test_prompt_and_seed_as_axes_replace_the_lists() -> None:
    found = made({"seed": {"values": [4, 5]}, "prompt": {"values": ["a dog"]}})
    assert [a.name for a in found.axes] == ["seed", "prompt"]
    assert [(c.prompt, c.seed) for c in found.conditions] == [("a dog", 4), ("a dog", 5)]


def test_distinct_leaves_out_what_an_earlier_cell_computes() -> None:
    found = made({"s": {"values": [1, 2]}, "a": {"cumulative": {"order": "random", "seed": "$s"}}},
                 ZERO_A)  # fmt: skip
    everything = [c for c in found.cells if len(c.variant.modules) == len(PATHS)]
    assert len(everything) == 2
    kept = found.distinct()
    assert [c for c in kept if len(c.variant.modules) == len(PATHS)] == everything[:1]
    noise = made({"perturbation_seed": {"values": [1, 2]}}, [{"shuffle": {"modules": "*"}}])
    assert len(noise.distinct()) == 3  # the baseline, and one for each draw
    zeros = made({"perturbation_seed": {"values": [1, 2]}}, [{"zero": {"modules": "*"}}])
    assert len(zeros.distinct()) == 2  # zeroing draws nothing


def test_rows_count_steps_and_guidance() -> None:
    found = made({"guidance_scale": {"values": [1, 5]}, "num_inference_steps": {"values": [2, 10]}})
    assert found.denoiser_rows == 2 * (2 + 10) * (1 + 2)  # baseline and edit; guidance doubles
    distilled = replace(NETWORKS, guided=1)
    assert plan(found.recipe, distilled).denoiser_rows == 2 * (2 + 10) * (1 + 1)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("axes", "top", "message"),
    [
        ({"a": {"each": "nowhere"}}, {}, "axes.a.each: `nowhere` matches no module"),
        ({"a": {"values": ["conv_in", "down"]}}, {},
         "axes.a.values[1]: `down` is no module but has some; write `down.*`"),
        ({"a": {"cumulative": {"counts": [7]}}}, {},
         "axes.a.cumulative.counts: asks for 7 modules; there are 6"),
        ({"a": {"each": "conv*"}, "seed": {"values": [1, 2, 3]}}, {"zip": ["a", "seed"]},
         "zip: axes of different length cannot be paired: `a` has 2, `seed` has 3"),
        ({"a": {"cumulative": {"order": "drift", "run": "nowhere"}}}, {},
         "axes.a.cumulative.run: nowhere is not a run: it has no run.json"),
    ],
)  # fmt: skip
def test_what_only_the_catalog_shows(
    axes: dict[str, Any], top: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        made(axes, ZERO_A, **top)
    assert str(caught.value) == message


@pytest.mark.parametrize("paths", [PATHS[:1], PATHS[1:]])
def test_an_earlier_run_must_have_each_module(tmp_path: Path, paths: list[str]) -> None:
    run = earlier_run(tmp_path, dict.fromkeys(paths, 50))
    with pytest.raises(RecipeError, match="does not have every one of these modules by itself"):
        made({"a": {"cumulative": {"order": "drift", "run": run}}}, ZERO_A)


def problems(text: str, folder: Path) -> list[str]:
    """The problems of a recipe on the networks of these tests, without their file."""
    file = folder / "r.yaml"
    file.write_text(text, encoding="utf-8")
    try:
        plan(file, NETWORKS)
    except RecipeError as error:
        return [str(problem).removeprefix(str(folder / "")) for problem in error.problems]
    return []


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = """\
version: 1
name: x
sampling: {scheduler: dimm}
seeds: [0, x]
axes:
  a: {each: dwn.0.conv1}
  k: {cumulative: {counts: [99]}}
  p: {values: [conv_in, nowhere]}
  w: {windws: 3}
edits:
  - zero: {modules: $a}
  - zero: {modules: $k}
  - scale: {modules: stage=left, factor: big}
  - zero: {modules: $p, when: $w, component: vae}
  - write: {text: 日本}
  - swap: {modules: conv_in, with: [conv_out, up]}
"""
    assert problems(text, tmp_path) == [
        "/r.yaml:3: sampling.scheduler: diffusers has no scheduler `dimm`, did you mean `ddim`?",
        "/r.yaml:4: seeds[1]: must be a whole number, not `x`",
        "/r.yaml:6: axes.a.each: `dwn.0.conv1` matches no module; the nearest are down.0.conv1,"
        " up.0.conv1, down.0.norm1",
        "/r.yaml:7: axes.k.cumulative.counts: asks for 99 modules; there are 6",
        "/r.yaml:9: axes.w.windws: unknown key, did you mean `windows`?",
        "/r.yaml:13: edits[2].scale.factor: must be a number, not `big`",
        "/r.yaml:13: edits[2].scale.modules: `stage=left` matches no module; stage is one of down,"
        " in, mid, out, up",
        "/r.yaml:14: edits[3].zero.component: there is no component `vae` here",
        "/r.yaml:15: edits[4].write.text: the typeface, Inter, lacks 日, 本, which would become"
        " boxes; it has letters of Latin, Greek and Cyrillic scripts, digits and common signs",
        "/r.yaml:16: edits[5].swap.with: `up` is no module but has some; write `up.*`",
    ]


def test_a_recipe_without_mistakes_is_planned(tmp_path: Path) -> None:
    text = "version: 1\nname: x\naxes: {a: [conv_in, mid.*]}\nedits: [{zero: {modules: $a}}]\n"
    assert problems(text, tmp_path) == []
    assert problems(text.replace("mid", "mad"), tmp_path) == [
        "/r.yaml:3: axes.a[1]: `mad.*` matches no module; the nearest is mid.*"
    ]


def test_a_window_ends_by_the_last_step(tmp_path: Path) -> None:
    text = "version: 1\nname: x\nedits:\n  - zero: {modules: conv_in, when: {steps: [5, 19]}}\n"
    assert problems(text, tmp_path) == []
    assert problems(text.replace("19", "90"), tmp_path) == [
        "/r.yaml:4: edits[0].zero.when.steps: ends beyond the last step: sampling has 20 steps,"
        " the last one is 19, counted from 0, not 90"
    ]


def test_what_cannot_be_made_at_some_values_is_told_once_a_place() -> None:
    axes = {"w": {"values": [1, 30, 40]}, "n": {"range": [0, 9], "step": 1}}
    edits = [
        {"zero": {"modules": "*", "when": {"steps": ["$w", "$w"]}}},
        {"zero": {"modules": "mid.*", "unit": {"heads": "$n"}}},
    ]
    with pytest.raises(RecipeError) as error:
        made(axes, edits)
    assert list(map(str, error.value.problems)) == [
        "edits[1].zero.unit.heads: `mid.attn1` has no heads; there is none of number 0",
        "edits[0].zero.when.steps: is never open: sampling has 20 steps, and the first one named is"
        " 30, counted from 0",
    ]


@pytest.mark.parametrize(
    ("axis", "note"),
    [
        (
            {"range": [0, 1], "step": 0.3},
            "axes.a: steps of 0.3 from 0 do not reach 1, the last value is 0.9;"
            " `linspace: [0, 1, 5]` does",
        ),
        (
            {"range": [5, 0], "step": 2},
            "axes.a: steps of 2 from 5 do not reach 0, the last value is 1;"
            " `linspace: [5, 0, 4]` does",
        ),
        ({"range": [0, 1], "step": 0.1}, None),
        ({"range": [1, 0], "step": 0.25}, None),
        ({"linspace": [0, 1, 3]}, None),
    ],
)
def test_a_range_that_does_not_reach_its_end_is_noted(
    axis: dict[str, Any], note: str | None
) -> None:
    planned = made({"a": axis}, [{"scale": {"modules": "*", "factor": "$a"}}])
    assert planned.notes == ((note,) if note else ())
