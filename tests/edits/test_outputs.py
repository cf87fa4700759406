"""Edits of what modules give: each equals its definition, written out by hand as a hook."""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from byhand import ATTENTION, BLOCK, CAT, CONV, DOG, RED, edited, hooked, image, same, shown
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from ablate import Edit, Variant, applied, lab
from ablate.network.slices import ScopeError, Unit
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.sampling.settings import Sampling
from ablate.sweep.binding import plan
from ablate.units.record.layers import capturing

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]


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
    channels = plan(
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
    planned = plan(
        build(
            axes={"n": {"values": [0, 7]}},
            edits=[{"zero": {"modules": "conv_in", "unit": {"channels": "$n"}}}],
        )
    )
    units = [v.edits[0].unit for v in planned.variants if v.edits]
    assert units == [Unit("channels", (0,)), Unit("channels", (7,))]


def test_drawn_channels_are_those_of_their_numbers(run: RunIt, build: Build) -> None:
    """Larger shares contain smaller ones, other modules play no part; the record has numbers."""
    drawn = {"channels": {"share": "$share", "seed": 3}}
    shares = [0, 0.25, 0.5, 1]
    zeros = [{"zero": {"modules": ["conv_in", "*mid_block*conv1"], "unit": drawn}}]
    result = run(build(axes={"share": shares}, edits=zeros))
    units = [
        {e["modules"][0]: e["unit"] for e in cell.record()["edits"]} for cell in edited(result)
    ]
    assert [len(unit["conv_in"]["channels"]) for unit in units] == [4, 8, 16]
    for smaller, larger in itertools.pairwise(units):
        assert all(set(of["channels"]) <= set(larger[path]["channels"])
                   for path, of in smaller.items())  # fmt: skip
    assert len({str(unit) for unit in units[0].values()}) > 1
    alone = plan(
        build(
            edits=[{"zero": {"modules": "conv_in", "unit": {"channels": {"count": 4, "seed": 3}}}}]
        )
    )
    (edit,) = alone.variants[-1].edits
    assert edit.unit == Unit("channels", tuple(units[0]["conv_in"]["channels"]))
    written = [{"zero": {"modules": path, "unit": unit}} for path, unit in units[0].items()]
    (cell,) = edited(run(build(edits=written), "written"))
    assert cell.path.name == edited(result)[0].path.name
    assert len({cell.image().tobytes() for cell in result}) == 4


def test_drawn_heads_are_the_same_for_all_projections_of_a_layer(build: Build) -> None:
    heads = {"heads": {"count": 1, "seed": 0}}
    planned = plan(build(edits=[{"zero": {"modules": "*attn1.to_*", "unit": heads}}]))
    by_layer: dict[str, set[Unit | None]] = {}
    for edit in planned.variants[-1].edits:
        by_layer.setdefault(edit.modules[0].partition(".to_")[0], set()).add(edit.unit)
    assert len(by_layer) > 1
    assert all(len(units) == 1 for units in by_layer.values())
    assert len(set.union(*by_layer.values())) == 2


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"modules": "conv_in", "unit": {"channels": [16]}},
         "edits[0].zero.unit.channels: `conv_in` has 16 channels; there is none of number 16"),
        ({"modules": "conv_in", "unit": {"heads": [0]}},
         "edits[0].zero.unit.heads: `conv_in` has no heads; there is none of number 0"),
        ({"modules": f"{ATTENTION}.to_q", "unit": {"heads": "0-2"}},
         f"edits[0].zero.unit.heads: `{ATTENTION}.to_q` has 2 heads; there is none of number 2"),
        ({"modules": "conv_in", "unit": {"channels": {"count": 17}}},
         "edits[0].zero.unit.channels.count: `conv_in` has 16 channels; there are no 17"),
        ({"modules": "conv_in", "unit": {"heads": {"share": 0.5}}},
         "edits[0].zero.unit.heads: `conv_in` has no heads to draw from"),
        ({"modules": "mid_block", "where": "output", "unit": {"channels": {"share": 0.5}}},
         "edits[0].zero.unit.channels: `mid_block` is not known to have channels to draw from"),
        ({"modules": "conv_in", "unit": {"channels": {"share": 0.5, "count": 2}}},
         "must have exactly one of share, count; this has share and count"),
        ({"modules": "mid_block"},
         "edits[0].zero.modules: `mid_block` is no module but has some; write `mid_block.*`"),
    ],
)  # fmt: skip
def test_units_that_are_not_there(edit: dict[str, Any], message: str, build: Build) -> None:
    with pytest.raises(RecipeError) as error:
        plan(build(edits=[{"zero": edit}]))
    assert message in str(error.value)


# ---------------------------------------------------------------- mean and resample


def recorded(pipe: Any, path: str, prompt: str, seed: int) -> list[Tensor]:
    """What a module gives at each of its calls."""
    outputs: list[Tensor] = []
    with hooked(pipe.unet, path, lambda _m, _g, output: outputs.append(output.clone())):
        image(pipe, prompt, seed)
    return outputs


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
    assert plan(recipe).denoiser_rows == (2 + 1) * 2 * 2  # cells and reference, guided
    (cell,) = edited(run(recipe))
    assert same(cell, with_outputs(plain, BLOCK, recorded(plain, BLOCK, DOG, 7)))
    assert not same(cell, image(plain))


def test_references_may_be_cells_and_are_those_of_the_recipe_by_default(
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
        "edits[0].identity.modules: `conv_in` returns another shape than it is given, and cannot"
    )
    with pytest.raises(RecipeError, match=re.escape(message)):
        plan(recipe)
    edit = Edit("identity", ("conv_in",), where="output")
    with (
        applied(tiny.denoiser, Variant("v", (edit,))),
        pytest.raises(ScopeError, match=r"identity: no input has the shape .* `conv_in` gives"),
    ):
        tiny.denoiser.get_submodule("conv_in")(torch.zeros(1, 4, 8, 8))


@pytest.mark.parametrize(("path", "dim"), [(ATTENTION, -1), (BLOCK, 1)])
def test_the_mean_of_the_input_is_over_channels(
    path: str, dim: int, run: RunIt, build: Build, plain: Any
) -> None:
    (cell,) = edited(run(build(edits=[{"input_mean": {"modules": path, "where": "output"}}])))

    def mean(_module: nn.Module, given: tuple[Tensor, ...], _output: Tensor) -> Tensor:
        return given[0].mean(dim, keepdim=True).expand_as(given[0])

    with hooked(plain.unet, path, mean):
        assert same(cell, image(plain))
    assert not same(cell, image(plain))


TEXT = "encoder_hidden_states"


@pytest.mark.parametrize(
    ("path", "argument"), [(CONV, None), (ATTENTION.replace("attn1", "attn2"), TEXT)]
)
def test_inputs_are_edited_by_the_names_of_arguments(
    path: str, argument: str | None, run: RunIt, build: Build, plain: Any
) -> None:
    named = {"argument": argument} if argument else {}
    edit = {"modules": path, "where": "input", "factor": -9, **named}
    (cell,) = edited(run(build(edits=[{"scale": edit}])))

    def scale(_module: nn.Module, args: tuple[Tensor, ...], given: dict[str, Any]) -> Any:
        if argument:
            return args, given | {argument: -9 * given[argument]}
        return (-9 * args[0], *args[1:]), given

    handle = plain.unet.get_submodule(path).register_forward_pre_hook(scale, with_kwargs=True)
    expected = image(plain)
    handle.remove()
    assert same(cell, expected)
    assert not same(cell, image(plain))


def test_arguments_that_are_not_there(tiny: Pipeline, build: Build) -> None:
    edit = {"modules": "*.attn2", "where": "input", "argument": "encoder_hidden_state"}
    with pytest.raises(RecipeError, match=f"argument: .* takes no .*, did you mean `{TEXT}`"):
        plan(build(edits=[{"zero": edit}]))
    one = Edit("zero", (ATTENTION,), where="input", argument=TEXT)
    assert Edit.from_json(one.as_json()) == one
    layer = tiny.denoiser.get_submodule(ATTENTION)
    message = f"`{ATTENTION}` is given no tensor `{TEXT}`, but hidden_states"
    with (
        applied(tiny.denoiser, Variant("v", (one,))),
        pytest.raises(ScopeError, match=re.escape(message)),
    ):
        layer(torch.zeros(1, 4, 32))


@pytest.mark.parametrize("path", [BLOCK, CONV])
def test_zero_and_scale_of_outputs(path: str, run: RunIt, build: Build, plain: Any) -> None:
    for name, factor in (("zero", 0.0), ("scale", 1.7)):
        settings = {"factor": factor} if name == "scale" else {}
        edit = {name: {"modules": path, "where": "output", **settings}}
        (cell,) = edited(run(build(edits=[edit]), name))
        with hooked(plain.unet, path, lambda _m, _g, output, f=factor: f * output):
            assert same(cell, image(plain))


def test_noise_of_outputs_has_the_statistics_of_each_row(tiny: Pipeline) -> None:
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


def test_what_never_ran_and_what_changed_nothing_is_reported(run: RunIt, build: Build) -> None:
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
    assert result.summary.without_effect == {
        "encoder.conv_in": "never ran",
        "decoder.conv_norm_out": "unchanged",
    }


# ---------------------------------------------------------------- where edits could be missed


def test_hidden_states_are_taken_after_edits(tiny: Pipeline) -> None:
    """Pipelines read a text encoder's hidden states, which it collects by its hooks."""
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
    request = [Request("a new prompt", 0)]
    (before,) = tiny.sample(request, settings).images
    encoder = tiny.networks["text_encoder"]
    with applied(encoder, Variant("v", (Edit.on(encoder, "randomize", "*"),))):
        (during,) = tiny.sample(request, settings).images
        tiny.sample([Request("another new prompt", 0)], settings)
    (after,) = tiny.sample(request, settings).images
    assert not np.array_equal(during, before)
    assert np.array_equal(after, before)
    edit = Edit.on(encoder, "randomize", "*")
    (other,) = tiny.sample([Request("another new prompt", 0)], settings).images
    with applied(encoder, Variant("v", (edit,))):
        (changed,) = tiny.sample([Request("another new prompt", 0)], settings).images
    assert not np.array_equal(other, changed)


def test_an_image_that_is_not_finite_is_reported_as_such(run: RunIt, build: Build) -> None:
    edit = {"scale": {"component": "vae", "modules": "decoder.conv_out", "factor": 3.0e38}}
    (cell,) = edited(run(build(edits=[edit])))
    assert cell.record()["state"] == "nan"


def test_a_module_that_never_runs_is_reported_and_not_refused(run: RunIt, build: Build) -> None:
    result = run(
        build(
            component="vae",
            edits=[{"zero": {"modules": "encoder.mid_block", "where": "output"}}],
        )
    )
    assert result.summary.without_effect == {"encoder.mid_block": "never ran"}


def test_steps_are_those_of_the_sampling_where_a_scheduler_takes_two_calls(
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


def test_captured_heads_are_those_after_edits(tiny: Pipeline) -> None:
    network, end = tiny.denoiser, f"{ATTENTION}.to_out.0"
    layer = network.get_submodule(ATTENTION)
    size = layer.to_out[0].in_features
    states = torch.randn(2, 5, size, generator=torch.Generator().manual_seed(0))
    captured: list[Tensor] = []

    def heads(*edits: Edit) -> Tensor:
        with (
            capturing(network, [end], "heads", lambda _, values: captured.append(values)),
            applied(network, Variant("v", edits)),
        ):
            layer.to_out[0](states)
        return captured.pop()

    unit = Unit("heads", (1,))
    zero = Edit("zero", (ATTENTION,), where="output", unit=unit)
    plain, silent = heads(), heads(zero)
    assert (plain > 0).all()
    assert (silent[:, 1] == 0).all()
    assert torch.equal(silent[:, 0], plain[:, 0])
    # Edits of one place apply in their order, by whatever path they name it.
    noise = Edit("mix_noise", (end,), 1.0, where="output", unit=unit)
    assert (heads(noise, zero)[:, 1] == 0).all()
