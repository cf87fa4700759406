"""Recipes expanded over a catalog made by hand: nothing here needs a network."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ablate.network.components import Networks
from ablate.network.modules import Catalog, ModuleInfo
from ablate.recipe.recipe import Recipe, RecipeError, parse_recipe
from ablate.sweep.check import check
from ablate.sweep.plan import Plan, plan_recipe

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
    return plan_recipe(Recipe.build(data), NETWORKS)


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


def drift_file(folder: Path, rows: list[str]) -> None:
    lines = ["cell,variant,prompt,seed,module,state,rmse,ssim", *rows]
    (folder / "drift.csv").write_text("\n".join(lines), encoding="utf-8")


def test_the_order_of_drift_is_read_from_an_earlier_run(tmp_path: Path) -> None:
    drifts = {
        PATHS[0]: (0.5, 0.7),
        PATHS[1]: (0.1, 0.1),
        PATHS[2]: (0.9, 0.0),
        PATHS[4]: (0.2, 0.2),
    }
    rows = [
        f"{path}.png,v,a cat,{seed},{path},ok,{value},0.5"
        for path, values in drifts.items()
        for seed, value in enumerate(values)
    ]
    rows += [f"x.png,v,a cat,0,{PATHS[3]},nan,,", f"x.png,v,a cat,0,{PATHS[5]},ok,0.3,0.5"]
    drift_file(tmp_path, [*rows, "base.png,baseline,a cat,0,,ok,0.0,1.0"])
    found = made({"a": {"cumulative": {"order": "drift", "run": str(tmp_path)}}}, ZERO_A)
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
    assert plan_recipe(found.recipe, distilled).denoiser_rows == 2 * (2 + 10) * (1 + 1)


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("axes", "top", "message"),
    [
        ({"a": {"each": "nowhere"}}, {}, "axes.a.each: `nowhere` matches no module"),
        ({"a": {"values": ["conv_in", "down"]}}, {},
         "axes.a: `down` is no module but has some; write `down.*`"),
        ({"a": {"cumulative": {"counts": [7]}}}, {},
         "axes.a.cumulative.counts: asks for 7 modules; there are 6"),
        ({"a": {"each": "conv*"}, "seed": {"values": [1, 2, 3]}}, {"zip": ["a", "seed"]},
         "zip: axes of different length cannot be paired: `a` has 2, `seed` has 3"),
        ({"a": {"cumulative": {"order": "drift", "run": "nowhere"}}}, {},
         "axes.a.cumulative.run: there is no nowhere/drift.csv"),
    ],
)  # fmt: skip
def test_what_only_the_catalog_shows(
    axes: dict[str, Any], top: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        made(axes, ZERO_A, **top)
    assert str(caught.value) == message


@pytest.mark.parametrize("rows", [[], ["x.png,v,a cat,0,conv_in,ok,0.5,0.5"]])
def test_an_earlier_run_must_have_each_module(tmp_path: Path, rows: list[str]) -> None:
    drift_file(tmp_path, rows)
    with pytest.raises(RecipeError, match="does not have every one of these modules by itself"):
        made({"a": {"cumulative": {"order": "drift", "run": str(tmp_path)}}}, ZERO_A)


def test_checking_tells_all_mistakes_with_their_lines() -> None:
    text = """\
version: 1
name: x
axes:
  a: {each: dwn.0.conv1}
  k: {cumulative: {counts: [99]}}
edits:
  - zero: {modules: $a}
  - zero: {modules: $k}
  - zero: {modules: stage=left}
"""
    assert list(map(str, check(parse_recipe(text, "r.yaml"), NETWORKS))) == [
        "r.yaml:4: axes.a.each: `dwn.0.conv1` matches no module; the nearest are down.0.conv1,"
        " up.0.conv1, down.0.norm1",
        "r.yaml:9: edits[2].zero.modules: `stage=left` matches no module; stage is one of down,"
        " in, mid, out, up",
    ]
    right = text.replace("dwn", "down").replace("left", "mid")
    assert list(map(str, check(parse_recipe(right, "r.yaml"), NETWORKS))) == [
        "r.yaml:5: axes.k.cumulative.counts: asks for 99 modules; there are 6"
    ]
    assert check(parse_recipe(right.replace("99", "6"), "r.yaml"), NETWORKS) == []
