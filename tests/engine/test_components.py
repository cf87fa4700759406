"""Edits of several components, in windows of the sampling, and replayed from their records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from byhand import ATTENTION, BLOCK, CONV, DOG, RED, edited, hooked, image, same, shown
from diffusers import DiffusionPipeline
from families import save
from torch import Tensor, nn

from ablate import Edit, Variant, applied, lab
from ablate.edits.variants import When
from ablate.engine.replay import replay_cell
from ablate.network.slices import ScopeError
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.sweep.binding import plan

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]


# ---------------------------------------------------------------- components


def test_one_variant_edits_three_components(run: RunIt, build: Build, plain: Any) -> None:
    edits = [
        {"zero": {"modules": "conv_norm_out"}},
        {"scale": {"component": "text_encoder", "modules": "*.fc1", "factor": 3.0}},
        {"scale": {"component": "vae", "modules": "decoder.conv_norm_out", "factor": 2.0}},
        {"scale": {"component": "vae", "modules": "decoder.mid_block.resnets.0",
                   "where": "output", "factor": 0.1}},
    ]  # fmt: skip
    result = run(build(edits=edits))
    assert result.summary.by_rows == 2
    assert {"conv_norm_out", "vae:decoder.conv_norm_out"} < result.summary.changed
    (cell,) = edited(result)
    before = {n: {k: t.clone() for k, t in getattr(plain, n).state_dict().items()}
              for n in ("unet", "text_encoder", "vae")}  # fmt: skip
    with torch.no_grad():
        for parameter in plain.unet.conv_norm_out.parameters():
            parameter.zero_()
        for path, module in plain.text_encoder.named_modules():
            for parameter in module.parameters(recurse=False) if path.endswith(".fc1") else ():
                parameter.mul_(3)
        plain.vae.decoder.conv_norm_out.weight.mul_(2)
    with hooked(plain.vae, "decoder.mid_block.resnets.0", lambda _m, _g, output: 0.1 * output):
        assert same(cell, image(plain))
    for name, weights in before.items():
        getattr(plain, name).load_state_dict(weights)
    assert not same(cell, image(plain))


def test_an_edit_of_the_autoencoder_samples_only_once(run: RunIt, build: Build) -> None:
    from ablate.sampling.pipeline import Pipeline as Loaded

    recipe = build(
        axes={"f": {"linspace": [0.0, 1.0, 5]}},
        edits=[{"scale": {"component": "vae", "modules": "decoder.conv_out", "factor": "$f"}}],
    )
    pipeline = Loaded.load(recipe.model, device="cpu", dtype="float32")
    rows: list[int] = []
    first = pipeline.denoiser.get_submodule("conv_in")
    first.register_forward_pre_hook(lambda _m, given: rows.append(len(given[0])))
    result = run(recipe, pipeline=pipeline, batch_size=5)
    assert rows == [2, 2]  # two steps, without and with the prompt
    latents = {cell.path: cell.record()["condition"] for cell in result}
    assert len(latents) == 5
    assert len({np.asarray(cell.image()).tobytes() for cell in result}) == 5


def test_axes_choose_among_a_components_modules(build: Build) -> None:
    planned = plan(
        build(
            axes={"m": {"each": {"modules": "*.fc1", "component": "text_encoder"}}},
            edits=[{"zero": {"modules": "$m"}}],
        )
    )
    (edit,) = planned.variants[-1].edits
    assert edit.component == "text_encoder"
    assert edit.modules[0].endswith("mlp.fc1")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"zero": {"modules": "*", "component": "text_encoder", "when": {"steps": [0, 1]}}},
         "edits[0].zero.when.steps: text_encoder is at work once, not at every step"),
        ({"mean": {"modules": "*.fc1", "component": "text_encoder", "where": "output"}},
         "edits[0].mean: `mean` is for the denoiser; text_encoder is none"),
        ({"swap": {"modules": "conv_in", "with": "conv_out"}},
         "edits[0].swap.with: `conv_in`, Conv2d of 592 parameters, cannot change places with"
         " `conv_out`, Conv2d of 580"),
        ({"swap": {"modules": "conv_in", "with": ["conv_in", "conv_out"]}},
         "edits[0].swap.with: names 2 modules for 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_edited_so(edit: dict[str, Any], message: str, build: Build) -> None:
    with pytest.raises(RecipeError) as error:
        plan(build(edits=[edit]))
    assert message in str(error.value)


def test_modules_change_places(run: RunIt, build: Build, plain: Any) -> None:
    one, other = f"{ATTENTION}.to_q", f"{ATTENTION}.to_k"
    (cell,) = edited(run(build(edits=[{"swap": {"modules": one, "with": other}}])))
    a, b = (plain.unet.get_submodule(path) for path in (one, other))
    weights = [{k: t.clone() for k, t in m.state_dict().items()} for m in (a, b)]
    a.load_state_dict(weights[1])
    b.load_state_dict(weights[0])
    assert same(cell, image(plain))
    a.load_state_dict(weights[0])
    b.load_state_dict(weights[1])


def test_a_network_is_blended_with_another(
    run: RunIt, build: Build, plain: Any, tiny_folder: Path, tmp_path: Path
) -> None:
    other = DiffusionPipeline.from_pretrained(tiny_folder, use_safetensors=True)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in other.unet.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    other.save_pretrained(tmp_path / "other")
    edit = {"blend": {"modules": "*", "amount": 0.4, "with": str(tmp_path / "other")}}
    (cell,) = edited(run(build(edits=[edit])))
    before = {k: t.clone() for k, t in plain.unet.state_dict().items()}
    theirs = other.unet.state_dict()
    plain.unet.load_state_dict({k: torch.lerp(t, theirs[k], 0.4) for k, t in before.items()})
    assert same(cell, image(plain))
    plain.unet.load_state_dict(before)


def test_a_dose_is_the_relative_size_of_the_change(tiny: Pipeline) -> None:
    modules = ("conv_in", "time_embedding.linear_1", f"{ATTENTION}.to_q")
    weights = {p: tiny.denoiser.get_submodule(p).weight for p in modules}  # type: ignore[union-attr]
    before = {path: w.detach().clone() for path, w in weights.items()}  # type: ignore[operator]
    edit = Edit("mix_noise", modules, dose=0.125)
    with applied(tiny.denoiser, Variant("v", (edit,))):
        for path, weight in weights.items():
            change = (weight - before[path]).norm() / before[path].norm()  # type: ignore[operator]
            assert float(change) == pytest.approx(0.125, rel=1e-4)


# ---------------------------------------------------------------- moments


def test_windows_of_fractions_share_no_step_and_leave_none_out() -> None:
    levels = [0.9, 0.7, 0.5, 0.3, 0.1]
    for count in (2, 3, 4, 5):
        windows = [When("fraction", i / count, (i + 1) / count) for i in range(count)]
        active = [[w.is_active(step, levels) for w in windows].count(True) for step in range(5)]
        assert active == [1] * 5
    noisy, clean = When("t", 1, 0.5), When("t", 0.5, 0)
    assert [noisy.is_active(s, levels) for s in range(5)] == [True, True, False, False, False]
    assert [clean.is_active(s, levels) for s in range(5)] == [False, False, True, True, True]


def test_windows_by_noise_level_and_as_axes(run: RunIt, build: Build) -> None:
    edit = {"scale": {"modules": BLOCK, "where": "output", "factor": 5.0, "when": "$w"}}
    axes = {"w": {"windows": [{"t": [1, 0.5]}, {"steps": [0, 0]}, {"t": [0.5, 0]}]}}
    baseline, noisy, first, clean = run(build(axes=axes, edits=[edit]))
    assert np.array_equal(shown(noisy), shown(first))
    assert not np.array_equal(shown(clean), shown(first))
    assert not np.array_equal(shown(clean), shown(baseline))
    assert noisy.axes["w"] == "t 1–0.5"
    parts = plan(build(axes={"w": {"windows": 2}}, edits=[edit])).axes[-1]
    assert parts.values == ("0–50 %", "50–100 %")


def test_an_end_of_a_window_may_be_an_axis(build: Build) -> None:
    planned = plan(
        build(
            axes={"end": {"values": [0, 1]}},
            edits=[{"zero": {"modules": "conv_in", "when": {"steps": [0, "$end"]}}}],
        )
    )
    windows = [v.edits[0].when for v in planned.variants if v.edits]
    assert windows == [When("steps", 0, 0), When("steps", 0, 1)]


def test_a_window_that_never_opens_is_refused(tiny: Pipeline, build: Build, tmp_path: Path) -> None:
    def recipe(when: dict[str, Any]) -> Recipe:
        return build(edits=[{"zero": {"modules": "conv_in", "when": when}}])

    with pytest.raises(RecipeError, match=r"is never open: sampling has 2 steps, and none begins"
                       r" within 0.6 to 0.9 of it"):  # fmt: skip
        plan(recipe({"fraction": [0.6, 0.9]}))
    with pytest.raises(ScopeError, match=r"when t 1–0.99: it never opens; this sampling has 2"):
        lab.run(recipe({"t": [1, 0.99]}), tmp_path / "run", pipeline=tiny)
    assert not list((tmp_path / "run" / "cells").glob("*.png"))


# ---------------------------------------------------------------- out of the lab


@pytest.mark.parametrize(
    "edit",
    [
        {"zero": {"modules": CONV, "where": "output", "unit": {"channels": [3]}}},
        {"zero": {"modules": ATTENTION, "where": "output", "unit": {"heads": 1}}},
        {"mix_noise": {"modules": BLOCK, "where": "output", "amount": 0.5,
                       "when": {"t": [1, 0.5]}}},
        {"resample": {"modules": BLOCK, "where": "output",
                      "over": {"prompts": [DOG, RED], "seeds": [4]}}},
        {"mix_noise": {"modules": "*", "component": "text_encoder", "dose": 0.2}},
        {"prune": {"modules": "conv_in", "amount": 0.5, "by": "random"}},
        {"swap": {"modules": f"{ATTENTION}.to_q", "with": f"{ATTENTION}.to_k"}},
        {"quantize": {"modules": "*", "component": "vae", "bits": 3}},
    ],
)  # fmt: skip
def test_cells_are_made_again_from_their_record(
    edit: dict[str, Any], run: RunIt, build: Build, tiny: Pipeline
) -> None:
    (cell,) = edited(run(build(edits=[edit])))
    replay = replay_cell(cell.path, tiny)
    assert replay.same_key
    assert replay.is_alike
    assert cell.drift["rmse"] > 0


def test_heads_of_joint_attention_are_those_of_both_streams(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = save("flux", tmp_path_factory.mktemp("joint"))
    pipeline = Pipeline.load(str(folder), device="cpu", dtype="float32")
    pipe = pipeline.pipe
    layer = pipe.transformer.transformer_blocks[0].attn
    path = "transformer_blocks.0.attn"
    size = layer.to_out[0].in_features // layer.heads
    handles = []
    for projection in (layer.to_out[0], layer.to_add_out):

        def silence(_module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
            states = given[0].clone()
            states[..., :size] = 0
            return (states,)

        handles.append(projection.register_forward_pre_hook(silence))
    sampling = {"num_inference_steps": 2, "width": 16, "height": 16}
    base = {
        "version": 1,
        "name": "j",
        "model": str(folder),
        "dtype": "float32",
        "sampling": sampling,
    }
    settings = pipeline.settings(
        Recipe.build(base | {"edits": [{"zero": {"modules": "*"}}]}).sampling
    )
    (expected,) = pipeline.sample([Request("a cat in a party hat", 0)], settings).images
    for handle in handles:
        handle.remove()
    edit = {"zero": {"modules": path, "where": "output", "unit": {"heads": 0}}}
    recipe = Recipe.build(base | {"edits": [edit]})
    (cell,) = edited(lab.run(recipe, folder / "run", pipeline=pipeline))
    assert same(cell, expected)
    assert cell.drift["rmse"] > 0
