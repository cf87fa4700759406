"""Variants that are one experiment: how many single zeroings of real networks are distinct."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from ablate.models.catalogs import catalog_from_config, load_catalog
from ablate.network.components import Networks
from ablate.network.modules import Catalog
from ablate.recipe.recipe import Recipe
from ablate.sweep.binding import plan
from ablate.sweep.cells import Plan

CONFIGS = Path(__file__).parent.parent / "data" / "configs"
EACH = {"module": {"each": "*"}}
BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0"


@lru_cache
def catalog(name: str) -> Catalog:
    if name in ("bundled", "sd15-random"):
        return load_catalog(name)
    config = json.loads((CONFIGS / name / "config.json").read_text(encoding="utf-8"))
    return catalog_from_config(config, name)


def planned(name: str, axes: dict[str, Any], *edits: dict[str, Any], **top: Any) -> Plan:
    data = {"version": 1, "name": "x", "axes": axes, "edits": edits, **top}
    component = top.get("component", "unet")
    return plan(Recipe.build(data), Networks(catalog(name), component))


def zeroed(name: str, *modules: Any, **body: Any) -> list[list[str]]:
    """The modules that are zeroed, in groups of one effect."""
    found = planned(name, {"m": {"values": list(modules)}}, {"zero": {"modules": "$m", **body}})
    groups: dict[Any, list[str]] = {}
    for cell in found.cells[1:]:
        variant = found.same.get(cell.variant, cell.variant)
        groups.setdefault(variant, []).append(str(cell.axes["m"]).removeprefix(f"{BLOCK}."))
    return list(groups.values())


@pytest.mark.parametrize(
    ("name", "modules", "distinct"),
    [
        ("bundled", 183, 155),
        ("sd15-random", 391, 327),
        ("sdxl", 1050, 770),
        pytest.param("sd35-medium", 515, 380, marks=pytest.mark.slow),
        ("flux1-dev", 656, 428),
        ("pixart-sigma", 316, 260),
        pytest.param("sana", 249, 188, marks=pytest.mark.slow),
        pytest.param("qwen-image", 1087, 847, marks=pytest.mark.slow),
        pytest.param("z-image", 482, 142, marks=pytest.mark.slow),
        pytest.param("lumina2", 425, 125, marks=pytest.mark.slow),
    ],
)
def test_distinct_zeroings(name: str, modules: int, distinct: int) -> None:
    result = planned(name, EACH, {"zero": {"modules": "$module"}})
    assert len(result.variants) - 1 == modules
    assert len(result.variants) - 1 - len(result.same) == distinct
    assert all(result.variants.index(one) > result.variants.index(first)
               for one, first in result.same.items())  # fmt: skip


def test_which_zeroings_of_a_transformer_block_are_the_same() -> None:
    inside = [m.path for m in catalog("sd15-random") if m.path.startswith(BLOCK)]
    assert [group for group in zeroed("sd15-random", *inside) if len(group) > 1] == [
        ["norm1", "attn1.to_v"],
        ["attn1.to_q", "attn1.to_k"],
        ["norm2", "attn2.to_q", "attn2.to_k"],
    ]


def test_sets_of_modules_are_the_same_where_one_contains_what_the_other_comes_to() -> None:
    sets = [f"{BLOCK}.{name}" for name in ("norm1", "attn1.*", "attn1.to_out.0")]
    both = [[sets[0], sets[2]], [sets[1], sets[0]]]
    groups = zeroed("sd15-random", *sets, *both)
    assert [len(group) for group in groups] == [1, 4]


def test_what_is_narrowed_to_a_kind_of_parameter() -> None:
    """A convolution of zeros is its bias, and so is one without weights."""
    paths = ["down_blocks.0.resnets.0.norm1", "down_blocks.0.resnets.0.conv1"]
    assert len(zeroed("sd15-random", *paths)) == 2
    assert len(zeroed("sd15-random", *paths, params="weight")) == 2
    paths = [f"{BLOCK}.ff.net.2", f"{BLOCK}.ff.net.0.proj"]
    assert len(zeroed("sd15-random", *paths)) == 2


Q, K = f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn1.to_k"


@pytest.mark.parametrize(
    "edits",
    [
        [{"randomize": {"modules": "$m"}}],
        [{"scale": {"modules": "$m", "factor": 0.5}}],
        [{"zero": {"modules": "$m", "unit": {"heads": 1}}}],
        [{"zero": {"modules": "$m", "where": "output"}}],
        [{"zero": {"modules": "$m"}}, {"scale": {"modules": "conv_in", "factor": 2}}],
        [{"zero": {"modules": "$m", "when": {"steps": [0, 1]}}}, {"zero": {"modules": "conv_in"}}],
    ],
)
def test_other_edits_are_distinct(edits: list[dict[str, Any]]) -> None:
    result = planned("sd15-random", {"m": {"values": [Q, K]}}, *edits)
    assert result.same == {}


def test_windows_are_distinct_and_seeds_of_no_draw_are_not() -> None:
    axes = {"m": {"values": [Q, K]}, "w": {"windows": 2}, "perturbation_seed": {"values": [1, 2]}}
    result = planned("sd15-random", axes, {"zero": {"modules": "$m", "when": "$w"}})
    assert len(result.variants) - 1 == 8
    assert len(set(result.same.values())) == 2
    assert len(result.same) == 6


def test_samplings_are_counted_once() -> None:
    axes = {"m": {"values": [Q, K, "conv_in"]}}
    result = planned("sd15-random", axes, {"zero": {"modules": "$m"}}, seeds=[0, 1])
    steps = result.recipe.sampling.num_inference_steps
    assert result.denoiser_rows == 2 * 3 * steps * 2  # two seeds; baseline, queries, input; guided


def test_a_part_of_a_plan_names_variants_that_it_has() -> None:
    axes = {"m": {"values": [Q, K, f"{BLOCK}.norm1", f"{BLOCK}.attn1.to_v"]}}
    whole = planned("sd15-random", axes, {"zero": {"modules": "$m"}})
    _, _, keys, norm, values = whole.cells
    part = whole.part([keys, values, norm])
    assert part.same == {norm.variant: values.variant}
