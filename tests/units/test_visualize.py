"""Feature visualization: what rises, and what stays as it was."""

from __future__ import annotations

import json
import math
import signal
from dataclasses import replace
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ablate.drift.clip import Reader
from ablate.drift.encoders import image_processor
from ablate.engine.progress import Progress
from ablate.models.errors import ModelError
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request, Stopped
from ablate.store.files import StoreError
from ablate.store.visualizations import has_visualization
from ablate.units.visualize import dreams, fourier
from ablate.units.visualize.ascent import Ascent, quiet_start
from ablate.units.visualize.capture import (
    capture,
    plain_settings,
    sample_with_embeddings,
    sample_with_latents,
)
from ablate.units.visualize.denoiser import Latents, Prompts
from ablate.units.visualize.dreams import Dreams, read_picture
from ablate.units.visualize.expressions import parse_objective
from ablate.units.visualize.images import Images
from ablate.units.visualize.objectives import (
    ObjectiveError,
    channel,
    direction,
    diversity,
    output_hooks,
    signed,
)
from ablate.units.visualize.render import render

FC = "vision_model.encoder.layers.1.mlp.fc1"
SHORT = Ascent(steps=12, rate=0.2)
SIZE = (32, 32)
LATENT = replace(Latents.ascent, steps=8)
PROMPT = replace(Prompts.ascent, steps=4)


@pytest.fixture(scope="module")
def reader() -> Reader:
    """A CLIP model of random weights that reads images of 32 × 32 pixels."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2}  # fmt: skip
    text = sizes | {"vocab_size": 20, "max_position_embeddings": 8}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)
    return Reader("small", CLIPModel(config), None, image_processor({}, 32), ["cat"])


def state(network: nn.Module) -> list[object]:
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in network.modules()]
    wanted = [p.requires_grad for p in network.parameters()]
    weights = [p.detach().clone() for p in network.parameters()]
    assert all(p.grad is None for p in network.parameters())
    return [hooks, wanted, weights, network.training]


def unchanged(network: nn.Module, before: list[object]) -> bool:
    hooks, wanted, weights, training = state(network)
    same = all(map(torch.equal, weights, before[2]))  # type: ignore[call-overload]
    return same and [hooks, wanted, training] == [before[0], before[1], before[3]]


# ---------------------------------------------------------------- the basis


@pytest.mark.parametrize(("size", "colors"), [((16, 16), True), ((9, 14), False)])
def test_coefficients_and_maps_are_inverse(size: tuple[int, int], colors: bool) -> None:
    basis = fourier.Fourier(*size, decay=1.25, colors=colors)
    maps = torch.randn(2, 3, *size)
    coefficients = basis.coefficients(maps)
    assert coefficients.shape == basis.shape(2, 3)
    torch.testing.assert_close(basis.map(coefficients), maps, atol=1e-4, rtol=1e-4)


def test_independent_coefficients_make_forms_and_colors_of_nature() -> None:
    basis = fourier.Fourier(32, 32, decay=1.0, colors=True)
    maps = basis.map(fourier.noise(basis.shape(400, 3), range(400)))
    colors = torch.cov(maps.permute(1, 0, 2, 3).flatten(1))
    expected = basis.mixing @ basis.mixing.T  # type: ignore[union-attr]
    torch.testing.assert_close(colors, expected, atol=0.08, rtol=0.08)
    plain = fourier.Fourier(32, 32, decay=1.0)
    power = torch.fft.fft2(plain.map(fourier.noise(plain.shape(400, 1), range(400)))).abs() ** 2
    falls = power.mean((0, 1))
    assert math.isclose(falls[2, 0] / falls[8, 0], 16, rel_tol=0.2)  # amplitude 1 / f
    white = plain.coefficients(torch.randn(400, 1, 32, 32))
    assert white[:, :, 8, 3].std() > 3 * white[:, :, 2, 1].std()


def test_motions_differ_by_row_and_fade() -> None:
    both, one = fourier.random_motions(5, [1, 2]), fourier.random_motions(5, [2])
    torch.testing.assert_close(both[:, 1:], one)
    assert (both[:, 0] != both[:, 1]).any()
    still = torch.eye(2, 3).expand(5, 2, 2, 3)
    torch.testing.assert_close(fourier.random_motions(5, [1, 2], 0.0), still)
    maps = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(fourier.moved(maps, still, 0), maps)


# ---------------------------------------------------------------- images


def test_objectives_rise_and_the_network_is_unchanged(reader: Reader) -> None:
    reader.network.text_model.requires_grad_(False)
    before = state(reader.network)
    steps: list[tuple[int, int]] = []
    objectives = [
        channel(FC, 3),
        signed(FC, 5) - signed(FC, 6),
        parse_objective("visual_projection#2"),
    ]
    with torch.inference_mode():  # as callers may be
        images = Images(reader, seeds=(0, 1), ascent=replace(SHORT, batch=4))
        result = images.optimize(objectives, lambda *done: steps.append(done))
    records = images.records(objectives)
    assert [one["objective"] for one in records[2:4]] == [
        f"signed('{FC}', 5) - signed('{FC}', 6)"
    ] * 2
    assert [one["seed"] for one in records] == [0, 1] * 3
    assert result.images.shape == (6, 32, 32, 3)
    assert result.images.dtype == np.float32
    assert ((result.images >= 0) & (result.images <= 1)).all()
    assert (result.end > result.start).all()
    assert np.median(result.end - result.start) > 0.2
    assert (result.start <= result.typical).all()
    assert result.curve.shape == (6, 12)
    # Nothing is done while plain inputs are looked at.
    assert [*dict.fromkeys(steps)] == [
        (0, 72),
        *((4 * i + 4, 72) for i in range(12)),
        *((2 * i + 50, 72) for i in range(12)),
    ]
    assert unchanged(reader.network, before)


def test_start_and_end_are_those_of_the_pictures(reader: Reader) -> None:
    result = Images(reader, ascent=SHORT).optimize([signed("visual_projection", 4)])
    seen = reader.network.get_image_features(pixel_values=_pixels(reader, result.images))
    values = getattr(seen, "pooler_output", seen)
    assert values[0, 4].item() == pytest.approx(result.end[0], abs=1e-4)


def _pixels(reader: Reader, images: np.ndarray) -> Tensor:
    mean, deviation = reader.processor.image_mean, reader.processor.image_std
    prepared = (images - np.float32(mean)) / np.float32(deviation)
    return torch.from_numpy(prepared).permute(0, 3, 1, 2)


def test_objectives_that_are_silent_nowhere_are_lowered_first() -> None:
    def value(inputs: torch.Tensor, _step: int | None) -> torch.Tensor:
        return inputs.square().sum(1)  # of the first row silent in the second input, else nowhere

    plain = torch.tensor([[[2.0, 2.0], [3.0, 1.0]], [[0.1, 0.1], [2.0, 2.0]]])
    with torch.enable_grad():
        left, typical = quiet_start(plain, value, Ascent(rate=0.1), id)
        quieted, same = quiet_start(plain, value, Ascent(rate=0.1, quieting=48), id)
    assert torch.equal(left, torch.tensor([[0.1, 0.1], [2.0, 2.0]]))  # the lowest, as it is
    assert torch.equal(quieted[0], left[0])
    assert 0 < value(quieted, None)[1] <= 0.1 * typical[1]
    assert torch.equal(typical, same)
    assert typical.tolist() == pytest.approx([4.01, 9.0])


def test_a_row_does_not_depend_on_its_batch(reader: Reader) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 32))
    images, objectives = Images(reader, ascent=SHORT), [direction(FC, vectors), channel(FC, 1)]
    together = images.optimize(objectives)
    alone = images.optimize([channel(FC, 1)])
    assert len(together.images) == 4
    assert len({one["objective"] for one in images.records(objectives)}) == 4
    assert together.end[3] == pytest.approx(alone.end[0], rel=1e-2)
    np.testing.assert_allclose(together.images[3], alone.images[0], atol=0.05)
    single = images.optimize([direction(FC, vectors[1])])
    assert together.end[1] == pytest.approx(single.end[0], rel=1e-2)


def test_rows_that_are_compared_are_optimized_together(reader: Reader) -> None:
    objectives = [channel(FC, 3) + diversity(FC), channel(FC, 3)]
    wide, narrow = (
        Images(reader, seeds=(0, 1, 2), ascent=replace(SHORT, steps=2, batch=n)).optimize(
            objectives
        )
        for n in (32, 2)
    )
    np.testing.assert_allclose(narrow.end, wide.end, atol=1e-3)


def test_diverse_rows_differ_more(reader: Reader) -> None:
    apart = diversity(FC)
    values = []
    for objective in (channel(FC, 3), channel(FC, 3) + 3 * apart):
        images = Images(reader, seeds=(0, 1), ascent=SHORT).optimize([objective]).images
        outputs: dict[str, Tensor] = {}
        with torch.no_grad(), output_hooks(reader.network, [FC], outputs):
            reader.network.get_image_features(pixel_values=_pixels(reader, images))
        values.append(apart(outputs)[0].item())
    assert values[1] > values[0] + 0.01


def test_objectives_that_images_cannot_drive_are_refused(reader: Reader) -> None:
    before, images = state(reader.network), Images(reader)
    with pytest.raises(ObjectiveError, match=r"no module `vision_model.*fc3` in the CLIPModel"):
        images.optimize([channel(FC.replace("fc1", "fc3"), 0)])
    with pytest.raises(ObjectiveError, match="latents and prompts the denoiser"):
        images.optimize([channel("conv_in", 0)])
    with pytest.raises(ObjectiveError, match="has 32 units, numbered 0 to 31; there is no 32"):
        images.optimize([channel(FC, 32)])
    with pytest.raises(ObjectiveError, match="`text_projection` reads texts, and no image can"):
        images.optimize([channel("text_projection", 0)])
    position = "vision_model.embeddings.position_embedding"
    with pytest.raises(ObjectiveError, match=rf"`{position}#0` does not depend on the input"):
        images.optimize([channel(position, 0)])
    with pytest.raises(ObjectiveError, match="no objective was given"):
        images.optimize([])
    assert unchanged(reader.network, before)


def test_a_dream_keeps_its_size_and_changes_the_picture(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((70, 50))
    before = state(reader.network)
    objectives = [parse_objective(f"deepdream('{FC}')")]
    result = Dreams(reader, picture).optimize(objectives)
    assert result.images.shape == (1, 50, 70, 3)
    change = np.abs(result.images[0] - pixels / 255)
    assert 0.02 < change.mean() < 0.4
    tints = (result.images[0] - pixels / 255).mean((0, 1))
    assert np.abs(tints).max() < 0.03  # forms arise; the picture keeps its colors
    assert result.end[0] > result.start[0]
    assert unchanged(reader.network, before)
    # However many tiles are computed at once.
    monkeypatch.setattr(dreams, "TILES", 2)
    steps: list[tuple[int, int]] = []
    again = Dreams(reader, picture).optimize(objectives, lambda *done: steps.append(done))
    np.testing.assert_allclose(again.images, result.images, atol=1e-3)
    total = Dreams(reader, picture).work
    assert steps[-1] == (total, total)
    assert steps[1][0] - steps[0][0] < steps[-2][0] - steps[-3][0]  # the last steps are more work


# ---------------------------------------------------------------- latents and prompts

CHOSEN = {
    "tiny": "mid_block.resnets.0.norm2#3",
    "flux": "single_transformer_blocks.0.proj_mlp#3",
    "z-image": "layers.0.feed_forward.w1#3",
}


@pytest.fixture(scope="module", params=CHOSEN)
def family(
    request: pytest.FixtureRequest, tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Pipeline, str]:
    name = request.param
    if name == "tiny":
        return tiny, CHOSEN[name]
    folder = families.save(name, tmp_path_factory.mktemp("families"))
    return Pipeline.load(str(folder), device="cpu", dtype="float32"), CHOSEN[name]


def test_latents_and_prompts_of_every_family(family: tuple[Pipeline, str]) -> None:
    pipeline, written = family
    objective = parse_objective(written)
    before, scheduler = state(pipeline.denoiser), pipeline.pipe.scheduler
    given = {"t": 0.8, "prompt": "a cat", "seeds": (0, 1), "size": SIZE}
    latent = Latents(pipeline, **given, ascent=LATENT).optimize([objective])  # type: ignore[arg-type]
    assert len(latent.images) == 2
    assert (latent.end > latent.start).all()
    assert latent.finished is not None
    assert latent.finished.shape == latent.images.shape
    assert latent.inputs is not None
    call = capture(pipeline, "a cat", (0, 1), 0.8, SIZE)
    spread = call.maps.flatten(1).std(1).numpy()
    np.testing.assert_allclose(latent.inputs.reshape(2, -1).std(1), spread, rtol=0.05)
    prompt = Prompts(pipeline, **given, ascent=PROMPT).optimize([objective])  # type: ignore[arg-type]
    assert (prompt.end > prompt.start).all()
    assert prompt.inputs is not None
    start = call.embeddings.numpy()[0]
    lengths = [
        np.linalg.norm(v - v.mean(-1, keepdims=True), axis=-1) for v in (start, prompt.inputs[0])
    ]
    np.testing.assert_allclose(*lengths, rtol=1e-2, atol=1e-3)
    assert np.isfinite(prompt.images).all()
    assert unchanged(pipeline.denoiser, before)
    assert pipeline.pipe.scheduler is scheduler
    assert not {"step", "set_timesteps"} & vars(scheduler).keys()
    assert not {"prepare_latents", "encode_prompt"} & vars(pipeline.pipe).keys()


def test_pictures_of_an_unchanged_embedding_are_those_of_its_prompt(tiny: Pipeline) -> None:
    call, settings = capture(tiny, "a cat", [0], 0.8), plain_settings(tiny, 5.0)
    (plain,) = tiny.sample([Request("a cat", 3)], settings).images
    (same,) = sample_with_embeddings(tiny, call, call.embeddings, [3], settings).images
    np.testing.assert_allclose(same, plain, atol=1e-5)
    other = sample_with_embeddings(tiny, call, call.embeddings.flip(2), [3], settings).images[0]
    assert np.abs(other - plain).max() > 1e-4
    again = tiny.sample([Request("a cat", 3)], settings).images[0]
    np.testing.assert_allclose(again, plain, atol=1e-6)


def test_unchanged_latents_continue_to_the_same_image(tiny: Pipeline) -> None:
    for level in (1.0, 0.5):
        call = capture(tiny, "a cat", [4], level)
        assert call.level == pytest.approx(level, abs=0.06)
        _, finished = sample_with_latents(tiny, call, call.maps)
        plain = tiny.sample([Request("a cat", 4)], plain_settings(tiny)).images
        np.testing.assert_allclose(finished, plain, atol=1e-3)


def test_half_precision_is_optimized_in_float32(tiny_folder: Path) -> None:
    pipeline = Pipeline.load(str(tiny_folder), device="cpu", dtype="bfloat16")
    result = Latents(pipeline, ascent=LATENT).optimize([parse_objective(CHOSEN["tiny"])])
    assert result.end[0] > result.start[0]
    assert pipeline.dtype == torch.bfloat16


def test_optimizing_stops_when_asked(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "stop", lambda: True)
    with pytest.raises(Stopped):
        capture(tiny, "a cat", [0], 0.5)
    call: list[int] = []
    before = state(tiny.denoiser)
    for last, expected in ((0, [0]), (3, [0, 1, 2, 3])):  # also while a start is looked for
        call.clear()
        monkeypatch.setattr(tiny, "stop", lambda last=last: call[-1:] == [last])
        with pytest.raises(Stopped):
            Latents(tiny, ascent=LATENT).optimize(
                [parse_objective(CHOSEN["tiny"])], lambda n, _: call.append(n)
            )
        assert [*dict.fromkeys(call)] == expected
    assert unchanged(tiny.denoiser, before)


def test_ctrl_c_keeps_finished_pictures(tiny: Pipeline, tmp_path: Path) -> None:
    """Of two batches the second is stopped, and rendered the next time."""
    objectives = [parse_objective(f"mid_block.resnets.0.norm2#{n}") for n in range(3)]
    latents = Latents(tiny, ascent=replace(LATENT, steps=1, batch=2))
    signaled = []

    def watch(progress: Progress) -> None:
        if progress.done == 3 and not signaled:
            signaled.append(signal.raise_signal(signal.SIGINT))

    with pytest.raises(Stopped):
        render(latents, objectives, tmp_path, Progress(watch))
    assert len(list(tmp_path.glob("*latent.png"))) == 2
    files = render(latents, objectives, tmp_path)
    assert all(path.is_file() for path in files)
    assert not tiny.stop()


def test_the_pace_is_that_of_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[Progress] = []
    progress = Progress(reported.append)
    for now, done in (100.0, None), (130.0, 0), (132.0, 2):
        monkeypatch.setattr("ablate.engine.progress.time.monotonic", lambda now=now: now)
        if done is None:
            progress.start("steps", 10, preparing="preparations")
        else:
            progress.update(done)
    assert [(p.left, p.seconds, p.noun) for p in reported] == [
        (0, 30, "preparations"), (8, 32, "steps")
    ]  # fmt: skip


def test_wrong_levels_modules_and_sizes_are_refused(tiny: Pipeline) -> None:
    with pytest.raises(ModelError, match=r"is above 0 and at most 1; 1.5 is not"):
        Latents(tiny, t=1.5).optimize([parse_objective(CHOSEN["tiny"])])
    with pytest.raises(ObjectiveError, match=r"there is no module `nowhere` in the [^(]*$"):
        Prompts(tiny).optimize([channel("nowhere", 1)])
    with pytest.raises(ObjectiveError, match="`text` and units of the CLIP model are for `--inpu"):
        Prompts(tiny).optimize(
            [parse_objective("text('a cat')", lambda _: np.ones((1, 5), np.float32))]
        )
    both = [parse_objective(CHOSEN["tiny"]), channel("conv_in", 1)]
    with pytest.raises(ObjectiveError, match="`conv_in#1` does not depend on the input"):
        Prompts(tiny, ascent=PROMPT).optimize(both)
    with pytest.raises(ModelError, match=r"width must be a multiple of 8 .*, not 36; 32 is"):
        Latents(tiny, size=(36, 20)).optimize(both)


# ---------------------------------------------------------------- on disk


def test_what_is_on_disk_is_not_rendered_again(reader: Reader, tmp_path: Path) -> None:
    objectives = [channel(FC, 3), parse_objective(f"{FC}#4 - {FC}#5")]
    images = Images(reader, ascent=SHORT)
    result = images.optimize(objectives)
    paths = render(images, objectives, tmp_path)

    def there(inputs: Images) -> list[bool]:
        return list(map(has_visualization, paths, inputs.records(objectives)))

    assert there(images) == [True, True]
    assert there(Images(reader, ascent=replace(SHORT, steps=13))) == [False, False]
    assert there(Images(reader, ascent=replace(SHORT, batch=1))) == [True, True]
    assert not any(map(has_visualization, paths, images.records(objectives[::-1])))
    times = [path.stat().st_mtime_ns for path in paths]
    whole = paths[1].read_bytes()
    for broken in (b"half a picture", whole[: len(whole) - 400], whole[:700] + bytes(400)):
        paths[1].write_bytes(broken)
        assert there(images) == [True, False]
    assert render(images, objectives, tmp_path) == paths
    assert there(images) == [True, True]
    assert paths[0].stat().st_mtime_ns == times[0]
    with Image.open(paths[0]) as image:
        end = json.loads(image.info["ablate"])["end"]
        shown = np.asarray(image) / 255
    assert end == pytest.approx(float(result.end[0]))
    np.testing.assert_allclose(shown, result.images[0], atol=0.003)


def test_pictures_to_dream_on_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert [one.size if hasattr(one, "size") else one for one in read_picture(path)] == [
        (200, 300), (200, 300),
    ]  # fmt: skip
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StoreError, match=r"picture\.png cannot be read as a picture: .*truncated"):
        read_picture(path)
    Image.new("L", (3000, 1)).save(path)
    with pytest.raises(StoreError, match=r"3,000 × 1 pixels: .* at most 50 times as long as it is"):
        read_picture(path)
    Image.new("1", (10_000, 10_000)).save(path)
    with pytest.raises(StoreError, match="has more than 89,478,485 pixels"):
        read_picture(path)
    Image.new("L", (4000, 2000)).save(path)
    picture, size = read_picture(path)
    assert (picture.size, size) == ((2896, 1448), (4000, 2000))
    path.write_text("no picture")
    with pytest.raises(StoreError, match="cannot be read as a picture: cannot identify image file"):
        read_picture(path)


def test_one_unit_named_twice_is_one_picture(reader: Reader, tmp_path: Path) -> None:
    vectors = [[1.0] * 32, [-1.0] * 32]
    objectives = [
        parse_objective(f"{FC}#3"),
        channel(FC, 3),
        parse_objective(f"direction('{FC}', {vectors})"),
    ]
    files = render(Images(reader).with_steps(1), objectives, tmp_path)
    assert files[0].name == files[1].name == f"{FC}-3.png"
    assert len(set(files)) == len(list(tmp_path.iterdir())) == 3  # one per vector
    assert len(files) == 4


def test_names_are_checked_before_anything_is_rendered(reader: Reader, tmp_path: Path) -> None:
    objectives = [channel(FC, 1) + 0.5 * channel(FC, 2)] * 2
    assert len(set(render(Images(reader).with_steps(1), objectives, tmp_path / "twice"))) == 1
    reader.network.add_module("A", nn.Identity())
    reader.network.add_module("a", nn.Identity())
    try:
        with pytest.raises(StoreError, match="`A#1 seed 0` and `a#1 seed 0` are both"):
            render(Images(reader, seeds=(0, 1)), [channel("A", 1), channel("a", 1)], tmp_path / "x")
    finally:
        del reader.network.A, reader.network.a
    assert not (tmp_path / "x").exists()
