"""Edits of what modules give: each equals its definition, written out by hand as a hook."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from families import save
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ablate import Edit, Variant, applied, lab
from ablate.drift import MeasuredCell
from ablate.pipeline import Pipeline
from ablate.recipe import Recipe, RecipeError, Sampling
from ablate.replay import replay
from ablate.sampling import Request
from ablate.scope import ScopeError, Unit, When

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
CONV = "up_blocks.1.resnets.0.conv1"
BLOCK = "mid_block.resnets.0"
CAT, DOG, RED = "a cat in a party hat", "a dog", "something red"
ALIKE = 2 / 255 + 1e-6


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Any:
    """The same pipeline as a script of diffusers loads it."""
    pipe = DiffusionPipeline.from_pretrained(tiny_folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def image(pipe: Any, prompt: str = CAT, seed: int = 0) -> np.ndarray:
    found: np.ndarray = pipe(
        prompt=prompt,
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images[0]
    return found


Hook = Callable[[nn.Module, Any, Any], Any]


@contextmanager
def hooked(network: nn.Module, path: str, hook: Hook) -> Iterator[None]:
    handle = network.get_submodule(path).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def shown(cell: MeasuredCell) -> np.ndarray:
    return np.asarray(cell.image(), dtype=float) / 255


def same(cell: MeasuredCell, expected: np.ndarray) -> bool:
    return float(np.abs(shown(cell) - expected).max()) <= ALIKE


def edited(result: lab.Result) -> list[MeasuredCell]:
    return [cell for cell in result if not cell.is_baseline]


# ---------------------------------------------------------------- units


def test_a_channel_is_ablated_as_a_hook_would(run: RunIt, build: Build, plain: Any) -> None:
    for where in ("output", "weights"):
        edit = {"zero": {"modules": CONV, "unit": {"channels": [3, 5]}, "where": where}}
        (cell,) = edited(run(build(edits=[edit]), where))

        def silence(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
            output[:, [3, 5]] = 0
            return output

        with hooked(plain.unet, CONV, silence):
            assert same(cell, image(plain))
        assert not same(cell, image(plain))


@pytest.mark.parametrize("modules", [f"{ATTENTION}.to_out.0", ATTENTION])
def test_a_head_is_ablated_as_a_hook_would(
    modules: str, run: RunIt, build: Build, plain: Any
) -> None:
    layer = plain.unet.get_submodule(ATTENTION)
    size = layer.to_out[0].in_features // layer.heads

    def silence(_module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        states = given[0].clone()
        states[..., size : 2 * size] = 0
        return (states,)

    handle = layer.to_out[0].register_forward_pre_hook(silence)
    expected = image(plain)
    handle.remove()
    places = ["output"] + ["weights"] * modules.endswith("to_out.0")
    for where in places:
        edit = {"zero": {"modules": modules, "unit": {"heads": 1}, "where": where}}
        (cell,) = edited(run(build(edits=[edit]), where))
        assert same(cell, expected)
    assert not same(cell, image(plain))


def test_heads_of_queries_are_rows_of_their_weights(tiny: Pipeline) -> None:
    path = f"{ATTENTION}.to_q"
    before = tiny.denoiser.get_submodule(path).weight.detach().clone()  # type: ignore[union-attr,operator]
    edit = Edit("scale", (path,), 3.0, unit=Unit("heads", (0,)))
    with applied(tiny.denoiser, Variant("v", (edit,))):
        after = tiny.denoiser.get_submodule(path).weight.detach().clone()  # type: ignore[union-attr,operator]
    size = len(before) // 2
    assert torch.equal(after[:size], 3 * before[:size])
    assert torch.equal(after[size:], before[size:])


def test_each_head_and_each_channel_are_axes(run: RunIt, build: Build) -> None:
    result = run(
        build(
            axes={"head": {"each_head": "*mid_block*.attn2"}},
            edits=[{"zero": {"modules": "$head", "where": "output"}}],
        )
    )
    path = ATTENTION.replace("attn1", "attn2")
    assert [cell.axes["head"] for cell in edited(result)] == [f"{path} head {i}" for i in range(2)]
    one, other = edited(result)
    assert one.drift["rmse"] > 0 < other.drift["rmse"]
    assert one.drift["rmse"] != other.drift["rmse"]
    channels = lab.resolve(
        build(
            axes={"channel": {"each_channel": ["conv_in", "conv_out"]}},
            edits=[{"zero": {"modules": "$channel"}}],
        )
    )
    values = channels.axes[-1].values
    assert len(values) == 16 + 4
    assert values[0] == "conv_in channel 0"
    assert channels.variants[-1].edits[0].unit == Unit("channels", (3,))


def test_a_unit_may_be_an_axis_of_numbers(build: Build) -> None:
    planned = lab.resolve(
        build(
            axes={"n": {"values": [0, 7]}},
            edits=[{"zero": {"modules": "conv_in", "unit": {"channels": "$n"}}}],
        )
    )
    units = [v.edits[0].unit for v in planned.variants if v.edits]
    assert units == [Unit("channels", (0,)), Unit("channels", (7,))]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"modules": "conv_in", "unit": {"channels": [16]}},
         "edits[0].zero.unit.channels: `conv_in` has 16 channels; there is none of number 16"),
        ({"modules": "conv_in", "unit": {"heads": [0]}},
         "edits[0].zero.unit.heads: `conv_in` has no heads; there is none of number 0"),
        ({"modules": f"{ATTENTION}.to_q", "unit": {"heads": "0-2"}},
         f"edits[0].zero.unit.heads: `{ATTENTION}.to_q` has 2 heads; there is none of number 2"),
        ({"modules": "mid_block"},
         "edits[0].zero.modules: `mid_block` is no module but holds some; write `mid_block.*`"),
    ],
)  # fmt: skip
def test_units_that_are_not_there(edit: dict[str, Any], message: str, build: Build) -> None:
    with pytest.raises(RecipeError) as error:
        lab.resolve(build(edits=[{"zero": edit}]))
    assert message in str(error.value)


# ---------------------------------------------------------------- mean and resample


def recorded(pipe: Any, path: str, prompt: str, seed: int) -> list[Tensor]:
    """What a module gives at each of its calls."""
    found: list[Tensor] = []
    with hooked(pipe.unet, path, lambda _m, _g, output: found.append(output.clone())):
        image(pipe, prompt, seed)
    return found


def with_outputs(pipe: Any, path: str, outputs: list[Tensor]) -> np.ndarray:
    """The image when a module gives these at its calls, whatever it is given."""
    left = iter(outputs)
    with hooked(pipe.unet, path, lambda *_: next(left)):
        return image(pipe)


@pytest.mark.parametrize("path", [CONV, BLOCK, ATTENTION])
def test_mean_is_that_over_prompts_and_seeds_at_each_step(
    path: str, run: RunIt, build: Build, plain: Any
) -> None:
    over = {"prompts": [DOG, RED], "seeds": [4, 5]}
    recipe = build(edits=[{"mean": {"modules": path, "where": "output", "over": over}}])
    (cell,) = edited(run(recipe))
    runs = [recorded(plain, path, p, s) for p in over["prompts"] for s in over["seeds"]]  # type: ignore[attr-defined]
    means = [torch.stack(calls).mean(0) for calls in zip(*runs, strict=True)]
    assert same(cell, with_outputs(plain, path, means))
    assert not same(cell, image(plain))


def test_resample_takes_the_outputs_of_another_condition(
    run: RunIt, build: Build, plain: Any
) -> None:
    edit = {"modules": BLOCK, "where": "output", "over": {"prompts": [DOG], "seeds": [7]}}
    recipe = build(edits=[{"resample": edit}])
    assert lab.resolve(recipe).denoiser_rows == (2 + 1) * 2 * 2  # cells and reference, guided
    (cell,) = edited(run(recipe))
    assert same(cell, with_outputs(plain, BLOCK, recorded(plain, BLOCK, DOG, 7)))
    assert not same(cell, image(plain))


def test_references_may_be_cells_and_are_the_recipes_own_by_default(
    run: RunIt, build: Build, plain: Any
) -> None:
    recipe = build(
        prompts=[CAT, DOG], seeds=[0, 1], edits=[{"mean": {"modules": CONV, "where": "output"}}]
    )
    result = run(recipe)
    runs = [recorded(plain, CONV, p, s) for p in (CAT, DOG) for s in (0, 1)]
    means = [torch.stack(calls).mean(0) for calls in zip(*runs, strict=True)]
    cell = next(c for c in edited(result) if c.prompt == CAT and c.seed == 0)
    assert same(cell, with_outputs(plain, CONV, means))


def test_a_reference_does_not_depend_on_the_batch(run: RunIt, build: Build) -> None:
    over = {"prompts": [DOG], "seeds": [4, 5, 6]}
    recipe = build(
        seeds=[0, 1, 2],
        axes={"m": {"each": [CONV, "conv_in"]}},
        edits=[{"resample": {"modules": "$m", "where": "output", "over": over}}],
    )
    together, alone = run(recipe, "a", batch_size=6), run(recipe, "b", batch_size=1)
    assert together.summary.batch_size > 1
    for one, other in zip(together, alone, strict=True):
        assert same(one, shown(other))


# ---------------------------------------------------------------- the other ops


def test_identity_passes_the_input_on(run: RunIt, build: Build, plain: Any) -> None:
    (cell,) = edited(run(build(edits=[{"identity": {"modules": BLOCK, "where": "output"}}])))
    with hooked(plain.unet, BLOCK, lambda _m, given, _o: given[0]):
        assert same(cell, image(plain))
    assert not same(cell, image(plain))


def test_identity_needs_an_input_of_the_outputs_shape(tiny: Pipeline, build: Build) -> None:
    recipe = build(edits=[{"identity": {"modules": "conv_in", "where": "output"}}])
    message = (
        "edits[0].identity.modules: `conv_in` gives another shape than it is given, and cannot"
    )
    with pytest.raises(RecipeError, match=re.escape(message)):
        lab.resolve(recipe)
    edit = Edit("identity", ("conv_in",), where="output")
    with (
        applied(tiny.denoiser, Variant("v", (edit,))),
        pytest.raises(ScopeError, match=r"identity: no input has the shape .* `conv_in` gives"),
    ):
        tiny.denoiser.get_submodule("conv_in")(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize("path", [BLOCK, CONV])
def test_zero_and_scale_of_outputs(path: str, run: RunIt, build: Build, plain: Any) -> None:
    for name, factor in (("zero", 0.0), ("scale", 1.7)):
        settings = {"factor": factor} if name == "scale" else {}
        edit = {name: {"modules": path, "where": "output", **settings}}
        (cell,) = edited(run(build(edits=[edit]), name))
        with hooked(plain.unet, path, lambda _m, _g, output, f=factor: f * output):
            assert same(cell, image(plain))


def test_noise_of_outputs_has_each_rows_own_statistics(tiny: Pipeline) -> None:
    module = tiny.denoiser.get_submodule("conv_in")
    given = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 5.0, 0.1]
    ).view(3, 1, 1, 1)
    plain = module(given)

    def under(amount: float, kind: str | None = None, seed: int = 0) -> Tensor:
        edit = Edit("mix_noise", ("conv_in",), amount, kind=kind, where="output")
        with applied(tiny.denoiser, Variant("v", (edit,), seed)):
            output: Tensor = module(given)
            assert torch.equal(module(given), output), "the same draw at every call"
            assert torch.allclose(module(given[1:2]), output[1:2], atol=1e-5), "and in every batch"
        return output

    noise = under(1.0)
    assert torch.allclose(noise.mean((1, 2, 3)), plain.mean((1, 2, 3)), atol=0.25)
    deviations = noise.std((1, 2, 3)) / plain.std((1, 2, 3))
    assert torch.allclose(deviations, torch.ones(3), atol=0.1)
    assert torch.allclose(under(0.25), 0.75 * plain + 0.25 * noise, atol=1e-4)
    assert torch.equal(under(0.0), plain)
    assert not torch.allclose(under(1.0, seed=1), noise, atol=0.1)
    uniform = under(1.0, "uniform")
    assert torch.all(uniform.amax((1, 2, 3)) <= plain.amax((1, 2, 3)) + 1e-5)


def test_edits_of_outputs_and_weights_go_together_and_leave_no_trace(
    tiny: Pipeline, run: RunIt, build: Build, plain: Any
) -> None:
    edits = [
        {"zero": {"modules": "conv_norm_out"}},
        {"scale": {"modules": BLOCK, "where": "output", "factor": 0.5}},
    ]
    before = image(tiny.pipe)
    (cell,) = edited(run(build(edits=edits)))
    weights = {n: p.detach().clone() for n, p in plain.unet.conv_norm_out.named_parameters()}
    with torch.no_grad():
        for parameter in plain.unet.conv_norm_out.parameters():
            parameter.zero_()
    with hooked(plain.unet, BLOCK, lambda _m, _g, output: 0.5 * output):
        assert same(cell, image(plain))
    plain.unet.conv_norm_out.load_state_dict(weights)
    assert np.array_equal(image(tiny.pipe), before)
    assert not any(m._forward_hooks for m in tiny.denoiser.modules())


def test_what_never_ran_and_what_changed_nothing_is_told(run: RunIt, build: Build) -> None:
    result = run(
        build(
            component="vae",
            edits=[
                {"zero": {"modules": "encoder.conv_in", "where": "output"}},
                {"zero": {"modules": "decoder.conv_norm_out", "params": "bias"}},  # it is 0
                {"zero": {"modules": "decoder.conv_out", "where": "output"}},
            ],
        )
    )
    assert result.summary.quiet == {
        "encoder.conv_in": "never ran",
        "decoder.conv_norm_out": "unchanged",
    }


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
    from ablate.pipeline import Pipeline as Loaded

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
    planned = lab.resolve(
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
        lab.resolve(build(edits=[edit]))
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
        held = [[w.holds(step, levels) for w in windows].count(True) for step in range(5)]
        assert held == [1] * 5
    noisy, clean = When("t", 1, 0.5), When("t", 0.5, 0)
    assert [noisy.holds(s, levels) for s in range(5)] == [True, True, False, False, False]
    assert [clean.holds(s, levels) for s in range(5)] == [False, False, True, True, True]


def test_windows_by_noise_level_and_as_axes(run: RunIt, build: Build) -> None:
    edit = {"scale": {"modules": BLOCK, "where": "output", "factor": 5.0, "when": "$w"}}
    axes = {"w": {"windows": [{"t": [1, 0.5]}, {"steps": [0, 0]}, {"t": [0.5, 0]}]}}
    baseline, noisy, first, clean = run(build(axes=axes, edits=[edit]))
    assert np.array_equal(shown(noisy), shown(first))
    assert not np.array_equal(shown(clean), shown(first))
    assert not np.array_equal(shown(clean), shown(baseline))
    assert noisy.axes["w"] == "t 1–0.5"
    parts = lab.resolve(build(axes={"w": {"windows": 2}}, edits=[edit])).axes[-1]
    assert parts.values == ("0–50 %", "50–100 %")


def test_an_end_of_a_window_may_be_an_axis(build: Build) -> None:
    planned = lab.resolve(
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

    with pytest.raises(RecipeError, match=r"never holds: sampling has 2 steps, and none begins"
                       r" within 0.6 to 0.9 of it"):  # fmt: skip
        lab.resolve(recipe({"fraction": [0.6, 0.9]}))
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
    made = replay(cell.path, tiny)
    assert made.same_key
    assert made.is_alike
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


# ---------------------------------------------------------------- where edits could be missed


def test_hidden_states_are_taken_after_edits(tiny: Pipeline) -> None:
    """Pipelines read a text encoder's hidden states, which it takes by hooks of its own."""
    config = CLIPTextConfig(vocab_size=50, hidden_size=32, intermediate_size=64,
                            num_hidden_layers=3, num_attention_heads=2)  # fmt: skip
    encoder = CLIPTextModel(config).eval()
    tokens = torch.arange(8).view(1, 8)
    encoder(tokens, output_hidden_states=True)  # its hooks are there from now on
    path = next(n for n, _ in encoder.named_modules() if n.endswith("layers.1"))
    edit = Edit("zero", (path,), where="output")
    with applied(encoder, Variant("v", (edit,))):
        states = encoder(tokens, output_hidden_states=True).hidden_states
    assert states[1].any()
    assert not states[2].any()


def test_channels_of_what_normalizes_heads_are_no_tokens() -> None:
    class Norm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(6))

        def forward(self, states: Tensor) -> Tensor:
            return states * self.weight

    network = nn.Sequential(Norm())
    edit = Edit("zero", ("0",), where="output", unit=Unit("channels", (4,)))
    with applied(network, Variant("v", (edit,))):
        output = network(torch.ones(2, 5, 3, 6))  # batch, tokens, heads, width
    assert not output[..., 4].any()
    assert output.sum() == 2 * 5 * 3 * 5


def test_prompts_are_encoded_anew_while_their_encoder_is_edited(tiny: Pipeline) -> None:
    settings = tiny.settings(Sampling(num_inference_steps=2))
    request = [Request("a prompt of its own", 0)]
    (before,) = tiny.sample(request, settings).images
    encoder = tiny.networks["text_encoder"]
    with applied(encoder, Variant("v", (Edit.on(encoder, "randomize", "*"),))):
        (during,) = tiny.sample(request, settings).images
        tiny.sample([Request("another of its own", 0)], settings)
    (after,) = tiny.sample(request, settings).images
    assert not np.array_equal(during, before)
    assert np.array_equal(after, before)
    edit = Edit.on(encoder, "randomize", "*")
    (other,) = tiny.sample([Request("another of its own", 0)], settings).images
    with applied(encoder, Variant("v", (edit,))):
        (changed,) = tiny.sample([Request("another of its own", 0)], settings).images
    assert not np.array_equal(other, changed)


def test_an_image_that_is_not_finite_is_told_as_such(run: RunIt, build: Build) -> None:
    edit = {"scale": {"component": "vae", "modules": "decoder.conv_out", "factor": 3.0e38}}
    (cell,) = edited(run(build(edits=[edit])))
    assert cell.record()["state"] == "nan"


def test_a_module_that_never_runs_is_told_and_not_refused(run: RunIt, build: Build) -> None:
    result = run(
        build(
            component="vae",
            edits=[{"zero": {"modules": "encoder.mid_block", "where": "output"}}],
        )
    )
    assert result.summary.quiet == {"encoder.mid_block": "never ran"}


def test_steps_are_the_samplings_own_where_a_scheduler_takes_two_calls(
    run: RunIt, build: Build
) -> None:
    windows = [{"steps": [0, 1]}, {"fraction": [0, 1]}, {"steps": [0, 0]}, {"steps": [1, 1]}]
    recipe = build(
        sampling={"num_inference_steps": 2, "scheduler": "heun"},
        axes={"w": {"windows": windows}},
        edits=[{"zero": {"modules": BLOCK, "where": "output", "when": "$w"}}],
    )
    _, both, all_of_it, first, second = map(shown, run(recipe))
    assert np.array_equal(both, all_of_it)
    assert not np.array_equal(first, both)
    assert not np.array_equal(second, both)
    strip = build(
        sampling={"num_inference_steps": 2, "scheduler": "heun"}, axes={"steps": {"values": [1, 2]}}
    )
    early, late = map(shown, run(strip, "strip"))
    assert not np.array_equal(early, late)


def test_a_neutral_edit_of_outputs_leaves_what_is_not_finite(tiny: Pipeline) -> None:
    network = nn.Sequential(nn.Identity())
    edit = Edit("mix_noise", ("0",), 0.0, where="output")
    given = torch.tensor([[1.0, float("inf")]])
    with applied(network, Variant("v", (edit,))):
        assert torch.equal(network(given), given)


def test_a_blend_is_known_by_the_weights_that_it_blends_with(
    run: RunIt, build: Build, tiny_folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(tiny_folder, other)
    recipe = build(edits=[{"blend": {"modules": "*", "amount": 0.5, "with": str(other)}}])
    (cell,) = edited(run(recipe))
    file = other / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    save_file({name: 2 * tensor for name, tensor in weights.items()}, file)
    fresh = Pipeline.load(str(tiny_folder), device="cpu", dtype="float32")
    result = run(recipe, pipeline=fresh)
    assert {c.path.stem for c in edited(result)}.isdisjoint({cell.path.stem})
    assert result.summary.computed == 1
