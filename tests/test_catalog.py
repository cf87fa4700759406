"""Catalogs of Stable Diffusion 1.x and of plain networks; selectors over them."""

from __future__ import annotations

import re
from collections import Counter

import pytest
import torch
from torch import nn

from ablate.catalog import ModuleInfo, SelectorError, catalog, groups, role_of, select, stage_of
from ablate.models import load_catalog


@pytest.fixture(scope="module")
def sd15() -> tuple[ModuleInfo, ...]:
    return load_catalog("sd15-random")


def paths(found: tuple[ModuleInfo, ...]) -> list[str]:
    return [module.path for module in found]


# ---------------------------------------------------------------- Stable Diffusion 1.x


def test_stable_diffusion_has_391_modules(sd15: tuple[ModuleInfo, ...]) -> None:
    assert len(sd15) == 391
    assert sum(module.parameters for module in sd15) == 859_520_964
    assert [module.number for module in sd15] == list(range(391))
    assert len({module.path for module in sd15}) == 391
    assert Counter(module.kind for module in sd15) == {
        "Linear": 184, "Conv2d": 98, "GroupNorm": 61, "LayerNorm": 48
    }  # fmt: skip


def test_modules_are_numbered_in_forward_order(sd15: tuple[ModuleInfo, ...]) -> None:
    found = paths(sd15)
    assert found[:3] == ["time_embedding.linear_1", "time_embedding.linear_2", "conv_in"]
    assert found[-2:] == ["conv_norm_out", "conv_out"]
    first = "down_blocks.0.resnets.0."
    assert found[3:8] == [first + n for n in ("norm1", "conv1", "time_emb_proj", "norm2", "conv2")]
    assert list(dict.fromkeys(m.stage for m in sd15)) == ["in", "down", "mid", "up", "out"]
    assert [m.stage for m in sd15] == sorted(
        (m.stage for m in sd15), key=["in", "down", "mid", "up", "out"].index
    )
    blocks = [*(f"down_blocks.{i}" for i in range(4)), "mid_block"]
    blocks += [f"up_blocks.{i}" for i in range(4)]
    assert list(dict.fromkeys(m.block for m in sd15)) == [
        "time_embedding", "conv_in", *blocks, "conv_norm_out", "conv_out"
    ]  # fmt: skip


def test_every_module_has_its_role(sd15: tuple[ModuleInfo, ...]) -> None:
    assert Counter(module.role for module in sd15) == {
        "norm": 109, "self_attention": 64, "cross_attention": 64, "resnet": 44, "projection": 32,
        "feed_forward": 32, "time": 24, "skip": 14, "downsample": 3, "upsample": 3, "input": 1,
        "output": 1,
    }  # fmt: skip
    for module in sd15:
        assert (module.role == "norm") == (module.kind in ("GroupNorm", "LayerNorm")), module.path
        assert (module.role == "self_attention") == (".attn1." in module.path), module.path
        assert (module.role == "cross_attention") == (".attn2." in module.path), module.path


def test_stages_and_their_sizes(sd15: tuple[ModuleInfo, ...]) -> None:
    assert Counter(module.stage for module in sd15) == {
        "in": 3, "down": 141, "mid": 26, "up": 219, "out": 2
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "role", "stage"),
    [
        ("conv_in", "input", "in"),
        ("mid_block.attentions.0.transformer_blocks.0.norm2", "norm", "mid"),
        ("transformer_blocks.3.attn.to_q", "self_attention", "blocks"),
        ("transformer_blocks.3.ff_context.net.2", "feed_forward", "blocks"),
        ("single_transformer_blocks.3.proj_mlp", "feed_forward", "blocks"),
        ("single_transformer_blocks.3.proj_out", "projection", "blocks"),
        ("x_embedder", "input", "in"),
        ("proj_out", "output", "out"),
        ("text_model.encoder.layers.0.self_attn.q_proj", "self_attention", "blocks"),
        ("text_model.encoder.layers.0.mlp.fc1", "feed_forward", "blocks"),
        ("text_model.embeddings.token_embedding", "embedding", "in"),
        ("text_model.final_layer_norm", "norm", "out"),
        ("decoder.up_blocks.0.resnets.0.conv1", "resnet", "up"),
        ("encoder.mid_block.attentions.0.to_q", "self_attention", "mid"),
        ("post_quant_conv", "projection", "in"),
        ("nothing.known", "other", "in"),
    ],
)
def test_roles_and_stages_of_other_networks(path: str, role: str, stage: str) -> None:
    assert (role_of(path), stage_of(path)) == (role, stage)


# ---------------------------------------------------------------- plain networks


def test_any_network_has_a_catalog() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 1, bias=False)))
    found = catalog(network)
    assert [(m.number, m.path, m.kind, m.parameters) for m in found] == [
        (0, "0", "Linear", 9), (1, "2.0", "Linear", 3)
    ]  # fmt: skip
    assert catalog(nn.ReLU()) == ()


def test_a_module_that_stands_twice_is_one() -> None:
    shared = nn.Linear(2, 2)
    assert paths(catalog(nn.Sequential(shared, nn.ReLU(), shared))) == ["0"]


def test_tied_weights_leave_both_modules() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    assert [(m.path, m.parameters) for m in catalog(network)] == [("0", 4), ("1", 4)]


class Backwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last, self.idle, self.first = (nn.Linear(2, 2) for _ in range(3))
        self.own = nn.Parameter(torch.zeros(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(self.first(x)))


def test_the_order_is_that_of_running_and_modules_that_never_run_come_last() -> None:
    network = Backwards()
    found = catalog(network, lambda: network(torch.zeros(1, 2)))
    assert [(m.path, m.parameters) for m in found] == [
        ("", 5),
        ("first", 6),
        ("last", 6),
        ("idle", 6),
    ]
    assert paths(catalog(network)) == ["", "last", "idle", "first"]


def test_a_failing_run_leaves_no_hooks() -> None:
    network = Backwards()
    with pytest.raises(RuntimeError):
        catalog(network, lambda: network(torch.zeros(1, 99)))
    assert not any(module._forward_pre_hooks for module in network.modules())


# ---------------------------------------------------------------- selectors


@pytest.mark.parametrize(
    ("selector", "count", "some"),
    [
        ("*", 391, "conv_in"),
        ("conv_in", 1, "conv_in"),
        ("down_blocks.*.attentions.*", 96, "down_blocks.2.attentions.1.proj_out"),
        ("*.to_out.0", 32, "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"),
        ("re:attn[12].to_[qk]$", 64, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"),
        ("#2", 1, "conv_in"),
        ("#0-#2", 3, "time_embedding.linear_2"),
        ("#389-390", 2, "conv_out"),
        ("kind=GroupNorm", 61, "conv_norm_out"),
        ("kind=*Norm", 109, "conv_norm_out"),
        ("role=cross_attention", 64, "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"),
        ("stage=mid", 26, "mid_block.resnets.1.conv2"),
        ("block=up_blocks.0", 19, "up_blocks.0.upsamplers.0.conv"),
        (["conv_in", "conv_out", "conv_*"], 3, "conv_norm_out"),
        ({"not": "kind=Conv2d"}, 293, "conv_norm_out"),
        ([{"not": "stage=up"}], 172, "conv_in"),
        (["stage=mid", {"not": "role=norm"}], 18, "mid_block.resnets.0.conv1"),
        (["stage=mid", {"not": "role=norm"}, "conv_norm_out"], 19, "conv_norm_out"),
        ({"sample": {"of": "kind=Conv2d", "count": 98}}, 98, "conv_in"),
    ],
)
def test_selectors(sd15: tuple[ModuleInfo, ...], selector: object, count: int, some: str) -> None:
    found = select(selector, sd15)  # type: ignore[arg-type]
    assert len(found) == count
    assert some in paths(found)
    assert [m.number for m in found] == sorted(m.number for m in found)


def test_the_order_of_a_list_matters_to_not(sd15: tuple[ModuleInfo, ...]) -> None:
    without = select(["conv_*", {"not": "conv_in"}], sd15)
    again = select(["conv_*", {"not": "conv_in"}, "conv_in"], sd15)
    assert paths(without) == ["conv_norm_out", "conv_out"]
    assert paths(again) == ["conv_in", "conv_norm_out", "conv_out"]


def test_samples_depend_on_their_seed_alone(sd15: tuple[ModuleInfo, ...]) -> None:
    def drawn(**settings: int) -> list[str]:
        return paths(select({"sample": {"of": "kind=Conv2d", "count": 9, **settings}}, sd15))

    assert drawn() == drawn(seed=0) != drawn(seed=1)
    assert len(set(drawn())) == 9
    reordered = tuple(reversed(sd15))
    assert set(paths(select({"sample": {"of": "kind=Conv2d", "count": 9}}, reordered))) == set(
        drawn()
    )


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("conv_inn", "`conv_inn` matches no module; the nearest are conv_in"),
        ("down_blocks.0", "`down_blocks.0` is no module but holds some; write `down_blocks.0.*`"),
        ("mid_block.", "`mid_block.` is no module but holds some; write `mid_block.*`"),
        ("zzzzzz", "`zzzzzz` matches no module"),
        ("#391", "`#391` matches no module; they are numbered #0 to #390"),
        ("#3-#1", "`#3-#1` matches no module; they are numbered #0 to #390"),
        ("stage=x", "`stage=x` matches no module; stage is one of down, in, mid, out, up"),
        ("#x", "`#x` is no module number; write `#3` or `#0-#40`"),
        ("rol=norm", "`rol=norm`: modules have no `rol`, did you mean `role`?; use kind=, role=,"
         " stage=, block="),
        ("re:(", "`re:(` is no regular expression: missing ), unterminated subpattern"),
        (["conv_in", "nowhere_at_all"], "`nowhere_at_all` matches no module"),
        ({"not": "nowhere_at_all"}, "`nowhere_at_all` matches no module"),
        ({"not": "*"}, "`{'not': '*'}` matches no module"),
        ({"sample": {"of": "conv_*", "count": 4}},
         "sample asks for 4 modules of 3 that `conv_*` matches"),
        ({"sample": {"of": "conv_*", "count": 0}},
         "sample asks for 0 modules of 3 that `conv_*` matches"),
        ({"sample": {"of": "conv_*"}}, "a selector mapping is {not: S} or {sample: "),
        ({"nott": "*"}, "a selector mapping is {not: S} or {sample: "),
        (3, "a selector is a string, a list or a mapping, not 3"),
    ],
)  # fmt: skip
def test_wrong_selectors(sd15: tuple[ModuleInfo, ...], selector: object, message: str) -> None:
    with pytest.raises(SelectorError, match="^" + re.escape(message)):
        select(selector, sd15)  # type: ignore[arg-type]


def test_groups_come_in_network_order(sd15: tuple[ModuleInfo, ...]) -> None:
    found = dict(groups(sd15, "stage"))
    assert list(found) == ["in", "down", "mid", "up", "out"]
    assert found["out"] == ("conv_norm_out", "conv_out")
    assert sum(map(len, found.values())) == 391
