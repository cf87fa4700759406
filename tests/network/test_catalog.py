"""Catalogs of Stable Diffusion 1.x, of all families of networks, and of plain networks; selectors
over them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from families import save
from torch import nn

from ablate import lab
from ablate.cli.main import main
from ablate.models.catalogs import estimate_cost, flops_of, load_catalog, skeleton
from ablate.models.errors import ModelError
from ablate.models.inputs import inputs_of
from ablate.network.catalog import build_catalog, heads_of
from ablate.network.modules import Catalog, ModuleInfo
from ablate.network.roles import role_of, stage_of
from ablate.network.selectors import SelectorError, groups, select
from ablate.recipe import Recipe
from ablate.store import Run

CONFIGS = Path(__file__).parent.parent / "data" / "configs"


@pytest.fixture(scope="module")
def sd15() -> Catalog:
    return load_catalog("sd15-random")


def paths(modules: Sequence[ModuleInfo]) -> list[str]:
    return [module.path for module in modules]


# ---------------------------------------------------------------- Stable Diffusion 1.x


def test_stable_diffusion_has_391_modules(sd15: Catalog) -> None:
    assert len(sd15) == 391
    assert sum(module.parameters for module in sd15) == 859_520_964
    assert [module.number for module in sd15] == list(range(391))
    assert len({module.path for module in sd15}) == 391
    assert Counter(module.kind for module in sd15) == {
        "Linear": 184, "Conv2d": 98, "GroupNorm": 61, "LayerNorm": 48
    }  # fmt: skip


def test_modules_are_numbered_in_forward_order(sd15: Catalog) -> None:
    path_list = paths(sd15)
    assert path_list[:3] == ["time_embedding.linear_1", "time_embedding.linear_2", "conv_in"]
    assert path_list[-2:] == ["conv_norm_out", "conv_out"]
    first = "down_blocks.0.resnets.0."
    assert path_list[3:8] == [
        first + n for n in ("norm1", "conv1", "time_emb_proj", "norm2", "conv2")
    ]
    assert list(dict.fromkeys(m.stage for m in sd15)) == ["in", "down", "mid", "up", "out"]
    assert [m.stage for m in sd15] == sorted(
        (m.stage for m in sd15), key=["in", "down", "mid", "up", "out"].index
    )
    blocks = [*(f"down_blocks.{i}" for i in range(4)), "mid_block"]
    blocks += [f"up_blocks.{i}" for i in range(4)]
    assert list(dict.fromkeys(m.block for m in sd15)) == [
        "time_embedding", "conv_in", *blocks, "conv_norm_out", "conv_out"
    ]  # fmt: skip


def test_every_module_has_its_role(sd15: Catalog) -> None:
    assert Counter(module.role for module in sd15) == {
        "norm": 109, "self_attention": 64, "cross_attention": 64, "resnet": 44, "projection": 32,
        "feed_forward": 32, "time": 24, "skip": 14, "downsample": 3, "upsample": 3, "input": 1,
        "output": 1,
    }  # fmt: skip
    for module in sd15:
        assert (module.role == "norm") == (module.kind in ("GroupNorm", "LayerNorm")), module.path
        assert (module.role == "self_attention") == (".attn1." in module.path), module.path
        assert (module.role == "cross_attention") == (".attn2." in module.path), module.path


def test_stages_and_their_sizes(sd15: Catalog) -> None:
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
        ("single_transformer_blocks.3.proj_mlp", "feed_forward", "single"),
        ("single_transformer_blocks.3.proj_out", "projection", "single"),
        ("x_embedder", "patch_embedding", "in"),
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


def test_channels_heads_and_blocks(sd15: Catalog) -> None:
    assert all(module.channels for module in sd15)
    assert {m.channels for m in sd15 if m.role == "norm"} == {320, 640, 960, 1280, 1920, 2560}
    assert {m.heads for m in sd15 if m.role in ("self_attention", "cross_attention")} == {8}
    assert not any(m.heads for m in sd15 if "attn" not in m.path)
    by_path = {m.path: m for m in sd15}
    assert by_path["conv_in"].channels == by_path["down_blocks.0.resnets.0.norm1"].channels == 320
    assert Counter(b.kind for b in sd15.blocks) == {
        "Attention": 32, "ResnetBlock2D": 22, "BasicTransformerBlock": 16, "FeedForward": 16,
        "GEGLU": 16, "Transformer2DModel": 16, "CrossAttnDownBlock2D": 3, "CrossAttnUpBlock2D": 3,
        "Downsample2D": 3, "Upsample2D": 3, "DownBlock2D": 1, "UpBlock2D": 1,
        "UNetMidBlock2DCrossAttn": 1, "TimestepEmbedding": 1,
    }  # fmt: skip
    assert [block.number for block in sd15.blocks] == list(range(len(sd15.blocks)))
    assert paths(sd15.blocks)[:3] == ["time_embedding", "down_blocks.0", "down_blocks.0.resnets.0"]
    mid = next(block for block in sd15.blocks if block.path == "mid_block")
    assert (mid.stage, mid.role, mid.parameters) == (
        "mid", "block", sum(m.parameters for m in sd15 if m.stage == "mid")
    )  # fmt: skip


def test_a_catalog_is_the_sequence_of_its_modules(sd15: Catalog) -> None:
    assert sd15[2].path == "conv_in"
    assert sd15[-1] == list(sd15)[-1]
    assert sd15[:2] == tuple(sd15)[:2]
    assert sd15 == tuple(sd15) == sd15.modules
    assert sd15 == load_catalog("sd15-random")
    assert sd15 != Catalog(sd15.modules, sd15.blocks[1:])
    assert sd15 != tuple(sd15)[1:]
    assert sd15[5] in sd15
    assert hash(sd15) == hash(Catalog(sd15.modules))


# ---------------------------------------------------------------- families


@dataclass(frozen=True)
class Family:
    """What is known of a network: `parameters` as its makers publish them, `attention` layers by
    path with their role and heads, `last`: what runs last."""

    modules: int
    parameters: int
    stages: str
    attention: dict[str, tuple[str, int]]
    last: str = "proj_out"


JOINT = "joint_attention"
SELF, CROSS = "self_attention", "cross_attention"
FAMILIES = {
    "sd21": Family(
        391, 865_910_724, "in down mid up out",
        {"mid_block.attentions.0.transformer_blocks.0.attn1": (SELF, 20),
         "up_blocks.3.attentions.0.transformer_blocks.0.attn2": (CROSS, 5)}, "conv_out",
    ),
    "sdxl": Family(
        1050, 2_567_463_684, "in down mid up out",
        {"mid_block.attentions.0.transformer_blocks.9.attn1": (SELF, 20),
         "down_blocks.1.attentions.0.transformer_blocks.1.attn2": (CROSS, 10)}, "conv_out",
    ),
    "kandinsky3": Family(
        610, 3_055_348_228, "in down up out",
        {"down_blocks.1.attentions.0.attention": (SELF, 6),
         "down_blocks.1.attentions.1.attention": (CROSS, 12)}, "conv_out",
    ),
    "pixart-sigma": Family(
        316, 610_856_096, "in blocks out",
        {"transformer_blocks.0.attn1": (SELF, 16), "transformer_blocks.0.attn2": (CROSS, 16)},
    ),
    "sana": Family(
        249, 1_604_462_752, "in blocks out",
        {"transformer_blocks.0.attn1": (SELF, 70), "transformer_blocks.0.attn2": (CROSS, 20)},
    ),
    "hunyuan-dit": Family(
        773, 1_499_952_032, "in blocks out",
        {"blocks.39.attn1": (SELF, 16), "blocks.39.attn2": (CROSS, 16)},
    ),
    "sd35-medium": Family(
        515, 2_243_171_520, "in double out",
        {"transformer_blocks.0.attn": (JOINT, 24), "transformer_blocks.0.attn2": (SELF, 24),
         "transformer_blocks.23.attn": (JOINT, 24)},
    ),
    "flux1-dev": Family(
        656, 11_901_408_320, "in double single out",
        {"transformer_blocks.18.attn": (JOINT, 24),
         "single_transformer_blocks.37.attn": (JOINT, 24)},
    ),
    "flux2-dev": Family(
        331, 32_223_281_152, "in double single out",
        {"transformer_blocks.7.attn": (JOINT, 48),
         "single_transformer_blocks.47.attn": (JOINT, 48)},
    ),
    "auraflow": Family(
        328, 6_858_605_568, "in double single out",
        {"joint_transformer_blocks.3.attn": (JOINT, 12),
         "single_transformer_blocks.0.attn": (JOINT, 12)},
    ),
    "cogview4": Family(
        204, 6_369_118_272, "in double out", {"transformer_blocks.0.attn1": (JOINT, 32)}
    ),
    "qwen-image": Family(
        1087, 20_430_401_088, "in double out", {"transformer_blocks.59.attn": (JOINT, 24)}
    ),
    "z-image": Family(
        482, 6_154_908_736, "in refiner blocks out",
        {"context_refiner.0.attention": (SELF, 30), "layers.0.attention": (JOINT, 30)},
        "all_final_layer.2-1.linear",
    ),
    "lumina2": Family(
        425, 2_609_769_152, "in refiner blocks out",
        {"noise_refiner.1.attn": (SELF, 24), "layers.0.attn": (JOINT, 24)}, "norm_out.linear_2",
    ),
}  # fmt: skip


def config_of(name: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((CONFIGS / name / "config.json").read_text())
    return config


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    family, catalog = FAMILIES[name], load_catalog(str(CONFIGS / name))
    network = skeleton(config_of(name), name)
    parameters = sum(p.numel() for p in network.parameters())
    owners = {path for path, m in network.named_modules() if list(m.parameters(recurse=False))}
    assert set(paths(catalog)) == owners
    assert len(catalog) == len(owners) == family.modules
    assert sum(m.parameters for m in catalog) == parameters == family.parameters
    assert " ".join(dict.fromkeys(m.stage for m in catalog)) == family.stages
    assert catalog[-1].path == family.last  # in forward order, which registration does not keep
    assert catalog[-1].role == "output"
    roles = Counter(m.role for m in catalog)
    print(f"\n{name:13}", *(f"{role} {count}" for role, count in sorted(roles.items())), sep="  ")
    assert "other" not in roles
    assert all(m.channels for m in catalog if not list(network.get_submodule(m.path).children()))
    by_path = {m.path: m for m in (*catalog, *catalog.blocks)}
    for path, (role, heads) in family.attention.items():
        layer = by_path[path]
        assert (layer.role, layer.heads) == (role, heads)
        inside = [m for m in catalog if m.path.startswith(f"{path}.") and m.role != "norm"]
        shapes = {(m.role, m.heads) for m in inside if not re.search(r"\.to_[kv]", m.path)}
        fused = any("qkv" in m.path for m in inside)  # and no head has a separate part
        assert shapes == {(role, 0 if fused else heads)}
        assert by_path[layer.block].role == "block"
    for block in catalog.blocks:
        assert block.parameters == sum(
            m.parameters for m in catalog if f"{m.path}.".startswith(f"{block.path}.")
        )


@pytest.mark.parametrize(
    ("name", "path", "role"),
    [
        ("sdxl", "add_embedding.linear_1", "time"),
        ("pixart-sigma", "", "modulation"),  # owns scale and shift of the last norm
        ("pixart-sigma", "transformer_blocks.0", "modulation"),
        ("pixart-sigma", "adaln_single.linear", "modulation"),
        ("pixart-sigma", "pos_embed.proj", "patch_embedding"),
        ("pixart-sigma", "caption_projection.linear_1", "context_embedding"),
        ("sana", "transformer_blocks.0.ff.conv_depth", "feed_forward"),
        ("hunyuan-dit", "blocks.39.skip_linear", "skip"),
        ("hunyuan-dit", "blocks.39.skip_norm", "norm"),
        ("sd35-medium", "transformer_blocks.0.norm1_context.linear", "modulation"),
        ("sd35-medium", "norm_out.linear", "modulation"),
        ("flux1-dev", "x_embedder", "patch_embedding"),
        ("flux1-dev", "context_embedder", "context_embedding"),
        ("flux1-dev", "single_transformer_blocks.0.norm.linear", "modulation"),
        ("flux1-dev", "transformer_blocks.0.attn.norm_added_q", "norm"),
        ("flux2-dev", "single_stream_modulation.linear", "modulation"),
        ("qwen-image", "txt_in", "context_embedding"),
        ("qwen-image", "transformer_blocks.0.txt_mod.1", "modulation"),
        ("z-image", "cap_embedder.0", "norm"),
        ("z-image", "cap_embedder.1", "context_embedding"),
        ("kandinsky3", "down_blocks.1.attentions.1.in_norm.context_mlp.1", "modulation"),
        ("kandinsky3", "down_blocks.1.resnets_in.0.shortcut_projection", "skip"),
    ],
)
def test_roles_of_families(name: str, path: str, role: str) -> None:
    catalog = load_catalog(str(CONFIGS / name))
    assert next(m.role for m in catalog if m.path == path) == role


@pytest.mark.parametrize("name", ["sdxl", "sd35-medium", "flux1-dev", "pixart-sigma"])
def test_families_are_listed(name: str) -> None:
    done = CliRunner().invoke(main, ["modules", str(CONFIGS / name)])
    assert done.exit_code == 0, done.output
    family, lines = FAMILIES[name], done.output.splitlines()
    assert lines[-1] == f"{family.modules} modules, {family.parameters:,} parameters"
    assert len(lines) == family.modules + 4
    roles = dict(item.rsplit(" ", 1) for item in lines[-2].removeprefix("role   ").split(", "))
    build_catalog = load_catalog(str(CONFIGS / name))
    assert {role: int(count) for role, count in roles.items()} == Counter(
        m.role for m in build_catalog
    )


def test_keys_and_values_may_have_fewer_heads() -> None:
    heads = {m.path: m.heads for m in load_catalog(str(CONFIGS / "lumina2"))}
    assert [heads[f"layers.0.attn.to_{n}"] for n in "qkv"] == [24, 8, 8]
    assert heads["layers.0.attn.to_out.0"] == 24
    assert heads["layers.0.attn.norm_q"] == heads["x_embedder"] == 0
    modules = dict(skeleton(config_of("lumina2"), "lumina2").named_modules())
    assert heads_of(modules, "layers.0.attn.to_k") == 8
    assert heads_of(modules, "layers.0.attn") == 24


# Small, but with all that these classes have.
TEXT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4,
        "intermediate_size": 64}  # fmt: skip
GROUPED = TEXT | {"num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
                  "pad_token_id": 0}  # fmt: skip
ENCODERS = {
    "CLIPTextModel": ({"model_type": "clip_text_model"} | TEXT, "q_proj out_proj", 4),
    "CLIPTextModelWithProjection": ({"model_type": "clip_text_model"} | TEXT, "v_proj", 4),
    "CLIPVisionModelWithProjection": (
        {"model_type": "clip_vision_model", "image_size": 64} | TEXT, "k_proj", 4
    ),
    "T5EncoderModel": (
        {"model_type": "t5", "d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 1,
         "vocab_size": 50}, "q k v o", 4,
    ),
    "Gemma2Model": ({"model_type": "gemma2"} | GROUPED, "k_proj v_proj", 2),
    "Qwen3Model": ({"model_type": "qwen3"} | GROUPED, "q_proj o_proj", 4),
    "BertModel": ({"model_type": "bert"} | TEXT, "query key value attention.output.dense", 4),
    "Qwen2_5_VLForConditionalGeneration": (
        {"model_type": "qwen2_5_vl", "vision_config": {"depth": 1},
         "text_config": GROUPED | {"rope_parameters": {
             "rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}}},
        "language_model.layers.0.self_attn.k_proj", 2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ENCODERS)
def test_text_and_image_encoders(name: str) -> None:
    config, projections, heads = ENCODERS[name]
    network = skeleton(config | {"architectures": [name]}, name)
    catalog = build_catalog(network, lambda: network(**(inputs_of(network) or {})))
    assert list(dict.fromkeys(m.stage for m in catalog))[:3] == ["in", "blocks", "out"]
    assert {m.stage for m in catalog} == {"in", "blocks", "out"}
    assert "other" not in {m.role for m in catalog}
    for projection in projections.split():
        shown = {(m.role, m.heads) for m in catalog if m.path.endswith(f".{projection}")}
        assert shown == {(SELF, heads)}
    assert {"blocks"} == {b.stage for b in catalog.blocks if b.role == SELF}


# Each needs inputs that no other needs.
RUNNING: dict[str, dict[str, Any]] = {
    "AutoencoderKL": {},
    "AutoencoderDC": {
        "encoder_block_types": ["ResBlock", "EfficientViTBlock"],
        "decoder_block_types": ["ResBlock", "EfficientViTBlock"],
        **{f"{part}_block_out_channels": [32, 64] for part in ("encoder", "decoder")},
        **{f"{part}_layers_per_block": [1, 1] for part in ("encoder", "decoder")},
        **{f"{part}_qkv_multiscales": [[], [5]] for part in ("encoder", "decoder")},
    },
    "AutoencoderKLQwenImage": {"base_dim": 16},
    "VQModel": {"norm_type": "spatial", "vq_embed_dim": 3, "block_out_channels": [32]},
    "PriorTransformer": {"num_layers": 1},
    "StableCascadeUNet": {
        "block_out_channels": [64, 64], "num_attention_heads": [2, 2], "conditioning_dim": 64,
        "down_num_layers_per_block": [1, 1], "up_num_layers_per_block": [1, 1],
        "clip_image_in_channels": 32, "clip_text_in_channels": 32, "switch_level": [False],
    },
    "UNet2DConditionModel": {  # Kandinsky 2.2
        "addition_embed_type": "image", "encoder_hid_dim": 32, "encoder_hid_dim_type": "image_proj",
        "block_out_channels": [32, 64], "cross_attention_dim": 32, "layers_per_block": 1,
        "down_block_types": ["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "resnet_time_scale_shift": "scale_shift",
        "up_block_types": ["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", RUNNING)
def test_other_networks_run_with_their_inputs(kind: str) -> None:
    network = skeleton({"_class_name": kind, **RUNNING[kind]}, kind)
    given = inputs_of(network, rows=2)
    assert given is not None
    with torch.no_grad():
        inputs = network(**given)
    first = next(iter(inputs.values()))
    assert first.shape[0] == 2
    catalog = build_catalog(network, lambda: network(**given))
    print(f"\n{kind:22}", *sorted(Counter(m.role for m in catalog).items()))
    assert "other" not in {m.role for m in catalog}


def test_a_network_that_takes_unknown_inputs_has_a_catalog_and_no_estimate(tmp_path: Path) -> None:
    config = {"_class_name": "UNet1DModel", "block_out_channels": [32, 32, 64]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    network = skeleton(config, "m")
    catalog = load_catalog(str(tmp_path))
    assert sum(m.parameters for m in catalog) == sum(p.numel() for p in network.parameters())
    assert catalog.blocks
    with pytest.raises(ModelError, match="no estimate is known for a UNet1DModel"):
        estimate_cost(str(tmp_path))
    with pytest.raises(ModelError, match="class `NoSuchNet`, which neither diffusers nor"):
        skeleton({"_class_name": "NoSuchNet"}, "m")


def test_operations_are_those_of_the_models_default_size() -> None:
    # Published as 2.98 T multiplications with additions, each of them two operations.
    assert flops_of(config_of("sdxl"), "sdxl") / 1e12 == pytest.approx(2 * 2.98, rel=0.15)


# ---------------------------------------------------------------- plain networks


def test_any_network_has_a_catalog() -> None:
    network = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 1, bias=False)))
    catalog = build_catalog(network)
    assert [(m.number, m.path, m.kind, m.parameters) for m in catalog] == [
        (0, "0", "Linear", 9), (1, "2.0", "Linear", 3)
    ]  # fmt: skip
    assert build_catalog(nn.ReLU()) == ()


def test_a_module_that_is_registered_twice_is_one() -> None:
    shared = nn.Linear(2, 2)
    assert paths(build_catalog(nn.Sequential(shared, nn.ReLU(), shared))) == ["0"]


def test_tied_weights_leave_both_modules() -> None:
    network = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    network[1].weight = network[0].weight
    assert [(m.path, m.parameters) for m in build_catalog(network)] == [("0", 4), ("1", 4)]


class Backwards(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last, self.idle, self.first = (nn.Linear(2, 2) for _ in range(3))
        self.own = nn.Parameter(torch.zeros(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(self.first(x)))


def test_the_order_is_that_of_running_and_modules_that_never_run_come_last() -> None:
    network = Backwards()
    catalog = build_catalog(network, lambda: network(torch.zeros(1, 2)))
    assert [(m.path, m.parameters) for m in catalog] == [
        ("", 5),
        ("first", 6),
        ("last", 6),
        ("idle", 6),
    ]
    assert paths(build_catalog(network)) == ["", "last", "idle", "first"]


def test_a_failing_run_leaves_no_hooks() -> None:
    network = Backwards()
    with pytest.raises(RuntimeError):
        build_catalog(network, lambda: network(torch.zeros(1, 99)))
    assert not any(module._forward_pre_hooks for module in network.modules())


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.zeros(5))
        self.halves = nn.ModuleDict({"late": Backwards(), "early": Backwards()})
        self.tail = nn.Sequential(nn.Linear(2, 2))
        self.idle = Backwards()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.tail(self.halves["late"](self.halves["early"](x)))
        return output


def test_blocks_contain_modules_and_are_called() -> None:
    network = Halves()
    catalog = build_catalog(network, lambda: network(torch.zeros(1, 2)))
    assert [(b.number, b.path, b.kind, b.parameters) for b in catalog.blocks] == [
        (0, "halves.early", "Backwards", 23),  # its parameters and those inside
        (1, "halves.late", "Backwards", 23),
        (2, "tail", "Sequential", 6),
    ]
    assert paths(build_catalog(network).blocks) == ["halves.late", "halves.early", "idle"]


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
def test_selectors(sd15: Catalog, selector: object, count: int, some: str) -> None:
    selected = select(selector, sd15)  # type: ignore[arg-type]
    assert len(selected) == count
    assert some in paths(selected)
    assert [m.number for m in selected] == sorted(m.number for m in selected)


@pytest.mark.parametrize(
    ("selector", "modules", "blocks", "some"),
    [
        ("mid_block", 0, 1, "mid_block"),
        ("*.attn1", 0, 16, "mid_block.attentions.0.transformer_blocks.0.attn1"),
        ("kind=BasicTransformerBlock", 0, 16, "mid_block.attentions.0.transformer_blocks.0"),
        ("role=block", 0, 41, "mid_block"),
        ("re:resnets.0$", 0, 9, "mid_block.resnets.0"),
        # What names modules names no blocks.
        ("mid_block*", 26, 0, "mid_block.resnets.1.conv2"),
        ("block=mid_block", 26, 0, "mid_block.resnets.1.conv2"),
        ("role=self_attention", 64, 0, "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"),
        (["mid_block", "conv_in", "down_blocks.0"], 1, 2, "conv_in"),
        (["*.attn1", {"not": "mid_block.*"}], 0, 15,
         "up_blocks.1.attentions.0.transformer_blocks.0.attn1"),
        (["*.attn1", {"not": "mid_block"}], 0, 15,
         "up_blocks.1.attentions.0.transformer_blocks.0.attn1"),
        (["*.attn1", "*.attn2", {"not": "re:attn1$"}], 0, 16,
         "mid_block.attentions.0.transformer_blocks.0.attn2"),
        (["mid_block", {"not": "*.attn1"}], 0, 1, "mid_block"),
        ({"not": "mid_block"}, 365, 0, "conv_in"),
        ({"sample": {"of": "kind=ResnetBlock2D", "count": 22}}, 0, 22, "mid_block.resnets.0"),
    ],
)  # fmt: skip
def test_blocks_are_selected_where_they_are_asked_for(
    sd15: Catalog, selector: Any, modules: int, blocks: int, some: str
) -> None:
    selected = select(selector, sd15, blocks=True)
    assert selected[:modules] == tuple(m for m in sd15 if m in selected)
    assert selected[modules:] == tuple(b for b in sd15.blocks if b in selected)
    assert (modules, blocks) == (len(set(selected) & {*sd15}), len(set(selected) & {*sd15.blocks}))
    assert some in paths(selected)


def test_blocks_have_no_numbers_and_plain_sequences_no_blocks(sd15: Catalog) -> None:
    with pytest.raises(SelectorError, match="`#391` matches no module"):
        select("#391", sd15, blocks=True)
    with pytest.raises(SelectorError, match="is no module but has some"):
        select("mid_block", tuple(sd15), blocks=True)
    with pytest.raises(SelectorError, match="`mid_blok` matches no module"):
        select("mid_blok", sd15, blocks=True)


def test_the_order_of_a_list_matters_to_not(sd15: Catalog) -> None:
    without = select(["conv_*", {"not": "conv_in"}], sd15)
    again = select(["conv_*", {"not": "conv_in"}, "conv_in"], sd15)
    assert paths(without) == ["conv_norm_out", "conv_out"]
    assert paths(again) == ["conv_in", "conv_norm_out", "conv_out"]


def test_samples_depend_on_their_seed_alone(sd15: Catalog) -> None:
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
        ("down_blocks.0", "`down_blocks.0` is no module but has some; write `down_blocks.0.*`"),
        ("mid_block.", "`mid_block.` is no module but has some; write `mid_block.*`"),
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
def test_wrong_selectors(sd15: Catalog, selector: object, message: str) -> None:
    with pytest.raises(SelectorError, match="^" + re.escape(message)):
        select(selector, sd15)  # type: ignore[arg-type]


def test_groups_come_in_network_order(sd15: Catalog) -> None:
    by_stage = dict(groups(sd15, "stage"))
    assert list(by_stage) == ["in", "down", "mid", "up", "out"]
    assert by_stage["out"] == ("conv_norm_out", "conv_out")
    assert sum(map(len, by_stage.values())) == 391


def test_the_network_itself_has_a_name(tmp_path: Path) -> None:
    """In listings, axes, columns of tables, drawings and pages; its path in records stays empty."""
    folder = str(save("pixart", tmp_path))
    catalog = load_catalog(folder)
    (root,) = (m for m in catalog if not m.path)
    assert (root.name, root.block, root.kind) == ("(root)", "(root)", "PixArtTransformer2DModel")
    assert select("(root)", catalog) == select("block=(root)", catalog) == (root,)
    listed = CliRunner().invoke(main, ["modules", folder, "--select", "(root)"])
    assert listed.exit_code == 0
    assert re.search(r"^ *\d+ +\(root\) +PixArtTransformer2DModel", listed.output, re.MULTILINE)
    recipe = {
        "version": 1,
        "name": "root",
        "model": folder,
        "sampling": {"num_inference_steps": 1, "guidance_scale": 1.0},
        "axes": {"module": {"each": ["(root)", "pos_embed.proj"]}},
        "edits": [{"zero": {"modules": "$module"}}],
    }
    lab.run(Recipe.build(recipe), tmp_path / "run")
    run = Run(tmp_path / "run")
    by_module = {cell.axes.get("module"): cell for cell in run.cells()}
    assert by_module["(root)"].record()["edits"][0]["modules"] == [""]
    drawn = CliRunner().invoke(main, ["architecture", str(run.folder)])
    assert drawn.exit_code == 0, drawn.output
    assert 'data-module="(root)"' in (run.folder / "architecture.svg").read_text("utf-8")
    assert '["(root)","PixArtTransformer2DModel"' in (run.folder / "report.html").read_text("utf-8")
