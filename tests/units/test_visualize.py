"""Feature visualization: what rises, what is left as it was, and what lies on disk."""

from __future__ import annotations

import csv
import math
import re
import signal
from dataclasses import replace
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ablate.drift.clip import Preparation, Reader
from ablate.engine.progress import Progress
from ablate.models.files import ModelError
from ablate.sampling.call import Stopped
from ablate.sampling.pipeline import Pipeline
from ablate.store.files import StoreError
from ablate.store.png import read_record
from ablate.units.visualize import fourier as canvas, make as wanted, visualize
from ablate.units.visualize.ascent import Ascent, records, started
from ablate.units.visualize.capture import capture
from ablate.units.visualize.expressions import parse
from ablate.units.visualize.files import (
    file_of,
    fill,
    outcome,
    picture_in,
    present,
    ratio_of,
    save,
    short,
    waiting,
)
from ablate.units.visualize.objectives import (
    ObjectiveError,
    channel,
    direction,
    diversity,
    hearing,
    signed,
)
from ablate.units.visualize.visualize import of_image, of_latent, of_prompt

FC = "vision_model.encoder.layers.1.mlp.fc1"
SHORT = Ascent(steps=12, rate=0.2)
SIZE = (32, 32)
LATENT = replace(visualize.DENOISER, steps=8)
WORDS = replace(visualize.PROMPT, steps=4)


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
    return Reader("small", CLIPModel(config), None, Preparation(32, 32), ["cat"])


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
def test_the_basis_goes_there_and_back(size: tuple[int, int], colors: bool) -> None:
    basis = canvas.Fourier(*size, decay=1.25, colors=colors)
    maps = torch.randn(2, 3, *size)
    found = basis.coefficients(maps)
    assert found.shape == basis.shape(2, 3)
    torch.testing.assert_close(basis.map(found), maps, atol=1e-4, rtol=1e-4)


def test_independent_coefficients_make_forms_and_colors_of_nature() -> None:
    basis = canvas.Fourier(32, 32, decay=1.0, colors=True)
    maps = basis.map(canvas.drawn(basis.shape(400, 3), range(400)))
    colors = torch.cov(maps.permute(1, 0, 2, 3).flatten(1))
    expected = basis.mixing @ basis.mixing.T  # type: ignore[union-attr]
    torch.testing.assert_close(colors, expected, atol=0.08, rtol=0.08)
    plain = canvas.Fourier(32, 32, decay=1.0)
    power = torch.fft.fft2(plain.map(canvas.drawn(plain.shape(400, 1), range(400)))).abs() ** 2
    falls = power.mean((0, 1))
    assert math.isclose(falls[2, 0] / falls[8, 0], 16, rel_tol=0.2)  # amplitude 1 / f
    white = plain.coefficients(torch.randn(400, 1, 32, 32))
    assert white[:, :, 8, 3].std() > 3 * white[:, :, 2, 1].std()


def test_motions_are_each_rows_own_and_fade() -> None:
    both, one = canvas.motions(5, [1, 2]), canvas.motions(5, [2])
    torch.testing.assert_close(both[:, 1:], one)
    assert (both[:, 0] != both[:, 1]).any()
    still = torch.eye(2, 3).expand(5, 2, 2, 3)
    torch.testing.assert_close(canvas.motions(5, [1, 2], 0.0), still)
    maps = torch.rand(2, 3, 8, 8)
    torch.testing.assert_close(canvas.moved(maps, still[0]), maps)


# ---------------------------------------------------------------- images


def test_objectives_rise_and_the_network_is_as_it_was(reader: Reader) -> None:
    reader.network.text_model.requires_grad_(False)
    before = state(reader.network)
    steps: list[tuple[int, int]] = []
    objectives = [channel(FC, 3), signed(FC, 5) - signed(FC, 6), parse("visual_projection#2")]
    with torch.inference_mode():  # as callers may be
        found = of_image(reader, objectives, (0, 1), replace(SHORT, batch=4),
                         on_step=lambda *done: steps.append(done))  # fmt: skip
    assert found.objectives[2:4] == (f"signed('{FC}', 5) - signed('{FC}', 6)",) * 2
    assert found.seeds == (0, 1) * 3
    assert found.images.shape == (6, 32, 32, 3)
    assert found.images.dtype == np.float32
    assert ((found.images >= 0) & (found.images <= 1)).all()
    assert (found.end > found.start).all()
    assert np.median(found.end - found.start) > 0.2
    assert (found.start <= found.typical).all()
    assert found.curve.shape == (12, 6)
    # Nothing is done while plain inputs are looked at.
    assert [*dict.fromkeys(steps)] == [
        (0, 72),
        *((4 * i + 4, 72) for i in range(12)),
        *((2 * i + 50, 72) for i in range(12)),
    ]
    assert unchanged(reader.network, before)


def test_start_and_end_are_those_of_the_pictures(reader: Reader) -> None:
    found = of_image(reader, [signed("visual_projection", 4)], ascent=SHORT)
    seen = reader.network.get_image_features(pixel_values=_pixels(reader, found.images))
    values = getattr(seen, "pooler_output", seen)
    assert values[0, 4].item() == pytest.approx(found.end[0], abs=1e-4)


def _pixels(reader: Reader, images: np.ndarray) -> Tensor:
    mean, deviation = reader.preparation.mean, reader.preparation.std
    prepared = (images - np.float32(mean)) / np.float32(deviation)
    return torch.from_numpy(prepared).permute(0, 3, 1, 2)


def test_what_is_silent_nowhere_is_made_so_first() -> None:
    def value(inputs: torch.Tensor, _step: int | None) -> torch.Tensor:
        return inputs.square().sum(1)  # of the first row silent in the second input, else nowhere

    plain = torch.tensor([[[2.0, 2.0], [3.0, 1.0]], [[0.1, 0.1], [2.0, 2.0]]])
    with torch.enable_grad():
        left, typical = started(plain, value, Ascent(rate=0.1), id)
        quieted, same = started(plain, value, Ascent(rate=0.1, quieting=48), id)
    assert torch.equal(left, torch.tensor([[0.1, 0.1], [2.0, 2.0]]))  # the lowest, as it is
    assert torch.equal(quieted[0], left[0])
    assert 0 < value(quieted, None)[1] <= 0.1 * typical[1]
    assert torch.equal(typical, same)
    assert typical.tolist() == pytest.approx([4.01, 9.0])


def test_a_row_does_not_depend_on_its_batch(reader: Reader) -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 32))
    together = of_image(reader, [direction(FC, vectors), channel(FC, 1)], ascent=SHORT)
    alone = of_image(reader, [channel(FC, 1)], ascent=SHORT)
    assert len(together.images) == 4
    assert len(set(together.objectives)) == 4
    assert together.end[3] == pytest.approx(alone.end[0], rel=1e-2)
    np.testing.assert_allclose(together.images[3], alone.images[0], atol=0.05)
    single = of_image(reader, [direction(FC, vectors[1])], ascent=SHORT)
    assert together.end[1] == pytest.approx(single.end[0], rel=1e-2)


def test_rows_that_are_compared_are_made_at_once(reader: Reader) -> None:
    objectives = [channel(FC, 3) + diversity(FC), channel(FC, 3)]
    seeds, short = (0, 1, 2), replace(SHORT, steps=2)
    wide, narrow = (of_image(reader, objectives, seeds, replace(short, batch=n)) for n in (32, 2))
    np.testing.assert_allclose(narrow.end, wide.end, atol=1e-3)


def test_diverse_rows_differ_more(reader: Reader) -> None:
    apart = diversity(FC)
    found = []
    for objective in (channel(FC, 3), channel(FC, 3) + 3 * apart):
        images = of_image(reader, [objective], (0, 1), SHORT).images
        outputs: dict[str, Tensor] = {}
        with torch.no_grad(), hearing(reader.network, [FC], outputs):
            reader.network.get_image_features(pixel_values=_pixels(reader, images))
        found.append(apart(outputs)[0].item())
    assert found[1] > found[0] + 0.01


def test_what_cannot_be_visualized_is_said(reader: Reader) -> None:
    before = state(reader.network)
    with pytest.raises(ObjectiveError, match=r"no module `vision_model.*fc3` in the CLIPModel"):
        of_image(reader, [channel(FC.replace("fc1", "fc3"), 0)])
    with pytest.raises(ObjectiveError, match="latents and prompts the denoiser"):
        of_image(reader, [channel("conv_in", 0)])
    with pytest.raises(ObjectiveError, match="has 32 units, numbered 0 to 31; there is no 32"):
        of_image(reader, [channel(FC, 32)])
    with pytest.raises(ObjectiveError, match="`text_projection` reads texts, and no image can"):
        of_image(reader, [channel("text_projection", 0)])
    position = "vision_model.embeddings.position_embedding"
    with pytest.raises(ObjectiveError, match=rf"`{position}#0` does not depend on the input"):
        of_image(reader, [channel(position, 0)])
    with pytest.raises(ObjectiveError, match="no objective was given"):
        of_image(reader, [])
    assert unchanged(reader.network, before)


def test_a_dream_keeps_its_size_and_changes_the_picture(
    reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((70, 50))
    before = state(reader.network)
    found = visualize.dream(reader, [parse(f"deepdream('{FC}')")], picture)
    assert found.images.shape == (1, 50, 70, 3)
    change = np.abs(found.images[0] - pixels / 255)
    assert 0.02 < change.mean() < 0.4
    tints = (found.images[0] - pixels / 255).mean((0, 1))
    assert np.abs(tints).max() < 0.03  # forms arise; the picture keeps its colors
    assert found.end[0] > found.start[0]
    assert unchanged(reader.network, before)
    # However many tiles are computed at once.
    monkeypatch.setattr(visualize, "TILES", 2)
    told: list[tuple[int, int]] = []
    again = visualize.dream(reader, [parse(f"deepdream('{FC}')")], picture,
                            on_step=lambda *done: told.append(done))  # fmt: skip
    np.testing.assert_allclose(again.images, found.images, atol=1e-3)
    total = visualize.work_of((70, 50), 32, 12)
    assert told[-1] == (total, total)
    assert told[1][0] - told[0][0] < told[-2][0] - told[-3][0]  # the last steps are more work


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
    objective = parse(written)
    before, scheduler = state(pipeline.denoiser), pipeline.pipe.scheduler
    latent = of_latent(pipeline, [objective], 0.8, "a cat", (0, 1), LATENT, SIZE)
    assert len(latent.images) == 2
    assert (latent.end > latent.start).all()
    assert latent.finished is not None
    assert latent.finished.shape == latent.images.shape
    assert latent.inputs is not None
    given = capture(pipeline, "a cat", (0, 1), 0.8, SIZE)
    spread = given.map.flatten(1).std(1).numpy()
    np.testing.assert_allclose(latent.inputs.reshape(2, -1).std(1), spread, rtol=0.05)
    prompt = of_prompt(pipeline, [objective], 0.8, "a cat", (0, 1), WORDS, size=SIZE)
    assert (prompt.end > prompt.start).all()
    assert prompt.inputs is not None
    start = given.words.numpy()[0]
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
    from ablate.sampling.call import Request
    from ablate.units.visualize.capture import sampled_with, settings_of

    call, settings = capture(tiny, "a cat", [0], 0.8), settings_of(tiny, 5.0)
    (plain,) = tiny.sample([Request("a cat", 3)], settings).images
    (found,) = sampled_with(tiny, call, call.words, [3], settings).images
    np.testing.assert_allclose(found, plain, atol=1e-5)
    other = sampled_with(tiny, call, call.words.flip(2), [3], settings).images[0]
    assert np.abs(other - plain).max() > 1e-4
    again = tiny.sample([Request("a cat", 3)], settings).images[0]
    np.testing.assert_allclose(again, plain, atol=1e-6)


def test_latents_that_are_put_back_come_to_the_same_image(tiny: Pipeline) -> None:
    from ablate.sampling.call import Request
    from ablate.units.visualize.capture import drawn_from, settings_of

    for level in (1.0, 0.5):
        call = capture(tiny, "a cat", [4], level)
        assert call.level == pytest.approx(level, abs=0.06)
        _, finished = drawn_from(tiny, call, call.map)
        plain = tiny.sample([Request("a cat", 4)], settings_of(tiny)).images
        np.testing.assert_allclose(finished, plain, atol=1e-3)


def test_half_precision_is_optimized_in_float32(tiny_folder: Path) -> None:
    pipeline = Pipeline.load(str(tiny_folder), device="cpu", dtype="bfloat16")
    found = of_latent(pipeline, [parse(CHOSEN["tiny"])], ascent=LATENT)
    assert found.end[0] > found.start[0]
    assert pipeline.dtype == torch.bfloat16


def test_what_is_asked_to_stop_stops(tiny: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiny, "stop", lambda: True)
    with pytest.raises(Stopped):
        capture(tiny, "a cat", [0], 0.5)
    call: list[int] = []
    before = state(tiny.denoiser)
    for last, told in ((0, [0]), (3, [0, 1, 2, 3])):  # also while a start is looked for
        call.clear()
        monkeypatch.setattr(tiny, "stop", lambda last=last: call[-1:] == [last])
        with pytest.raises(Stopped):
            of_latent(tiny, [parse(CHOSEN["tiny"])], ascent=LATENT,
                      on_step=lambda n, _: call.append(n))  # fmt: skip
        assert [*dict.fromkeys(call)] == told
    assert unchanged(tiny.denoiser, before)


def test_ctrl_c_keeps_finished_pictures(
    tiny: Pipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two batches the second is stopped, and made the next time."""
    monkeypatch.setattr(wanted, "DENOISER", replace(LATENT, batch=2))
    objectives = [parse(f"mid_block.resnets.0.norm2#{n}") for n in range(3)]
    signaled = []

    def watch(progress: Progress) -> None:
        if progress.done == 3 and not signaled:
            signaled.append(signal.raise_signal(signal.SIGINT))

    with pytest.raises(Stopped):
        wanted.render_latents(tiny, objectives, tmp_path, steps=1, progress=Progress(watch))
    assert len(list(tmp_path.glob("*latent.png"))) == 2
    files = wanted.render_latents(tiny, objectives, tmp_path, steps=1)
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


def test_levels_and_embeddings_that_are_not_there(tiny: Pipeline) -> None:
    with pytest.raises(ModelError, match=r"lies above 0 and is at most 1; 1.5 does not"):
        of_latent(tiny, [parse(CHOSEN["tiny"])], 1.5)
    with pytest.raises(ObjectiveError, match=r"there is no module `nowhere` in the [^(]*$"):
        of_prompt(tiny, [channel("nowhere", 1)])
    with pytest.raises(ObjectiveError, match="`text` and units of the CLIP model are for `--inpu"):
        of_prompt(tiny, [parse("text('a cat')", lambda _: np.ones((1, 5), np.float32))])
    both = [parse(CHOSEN["tiny"]), channel("conv_in", 1)]
    with pytest.raises(ObjectiveError, match="`conv_in#1` does not depend on the input"):
        of_prompt(tiny, both, ascent=WORDS)
    with pytest.raises(ModelError, match=r"width must be a multiple of 8 .*, not 36; 32 is"):
        of_latent(tiny, both, size=(36, 20))


# ---------------------------------------------------------------- on disk


def test_what_is_on_disk_is_not_made_again(reader: Reader, tmp_path: Path) -> None:
    objectives, names = [channel(FC, 3), channel(FC, 4)], ["fc1#3", "fc1/4"]
    told = records("image", reader.id, objectives, (0,), SHORT)
    assert waiting(tmp_path, names, told) == [0, 1]
    found = of_image(reader, objectives, ascent=SHORT)
    assert list(found.records) == told
    paths = save(found, names, tmp_path)
    assert [path.name[:6] for path in paths] == ["fc1-3.", "fc1-4-"]
    assert waiting(tmp_path, names, told) == []
    longer = records("image", reader.id, objectives, (0,), replace(SHORT, steps=13))
    assert waiting(tmp_path, names, longer) == [0, 1]
    assert waiting(tmp_path, names, told[::-1]) == [0, 1]
    batched = records("image", reader.id, objectives, (0,), replace(SHORT, batch=1))
    assert waiting(tmp_path, names, batched) == []
    whole = paths[1].read_bytes()
    for broken in (b"half a picture", whole[: len(whole) - 400], whole[:700] + bytes(400)):
        paths[1].write_bytes(broken)
        assert waiting(tmp_path, names, told) == [1]
    assert len(present(tmp_path)) == 2  # of the one that is whole
    record = read_record(paths[0])
    assert record["end"] == pytest.approx(float(found.end[0]))
    with Image.open(paths[0]) as image:
        shown = np.asarray(image) / 255
    np.testing.assert_allclose(shown, found.images[0], atol=0.003)


def test_the_table_and_the_sheet_are_made_of_the_pictures(reader: Reader, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no visualizations"):
        present(tmp_path)
    found = of_image(reader, [channel(FC, 3), channel(FC, 4)], ascent=SHORT)
    with pytest.raises(StoreError, match=r"different; `a#1` and `a-1` are both `a-1\.png`"):
        save(found, ["a#1", "a-1"], tmp_path)
    with pytest.raises(StoreError, match="2 pictures need as many names, not 1"):
        save(found, ["a#1"], tmp_path)
    save(found, ["three", "four"], tmp_path)
    table, sheet = present(tmp_path)
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [row["name"] for row in rows] == ["four", "three"]
    assert rows[1]["objective"] == f"{FC}#3"
    assert float(rows[1]["end"]) == pytest.approx(float(found.end[0]), rel=1e-4)
    ratio = f"{found.end[0] / found.start[0]:.6g}" if found.start[0] > 0 else ""
    assert rows[1]["ratio"] == ratio
    with Image.open(sheet) as page:
        assert page.width > 300
    assert [path.name for path in present(tmp_path)] == ["visualizations.csv", "sheet.png"]


@pytest.mark.parametrize(
    ("start", "end", "told", "ratio"),
    [
        (0.5, 6.2, "12.4 times", 12.4),
        (1e-6, 3.0, "3,000,000 times", 3e6),
        (0.0, 2.0, "from 0", None),
        (-1.0, 2.0, "from below 0", None),
        (2.0, 0.5, "fell", 0.25),
        (-1.0, -2.0, "fell", None),
        (-2.0, -1.0, "rose", None),
        (0.0, 0.0, "stayed at 0", None),
        (0.0, math.nan, "not a number", None),
    ],
)
def test_how_an_objective_went_is_said_in_words(
    start: float, end: float, told: str, ratio: float | None
) -> None:
    assert outcome({"start": start, "end": end}) == told
    found = ratio_of({"start": start, "end": end})
    assert found == (None if ratio is None else pytest.approx(ratio))


def test_pictures_to_dream_on_are_read_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    noise = np.random.default_rng(0).integers(0, 256, (300, 200, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    assert [one.size if hasattr(one, "size") else one for one in picture_in(path)] == [
        (200, 300), (200, 300),
    ]  # fmt: skip
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StoreError, match=r"picture\.png cannot be read as a picture: .*truncated"):
        picture_in(path)
    Image.new("L", (3000, 1)).save(path)
    with pytest.raises(StoreError, match=r"3,000 × 1 pixels: .* at most 50 times as long as it is"):
        picture_in(path)
    Image.new("1", (10_000, 10_000)).save(path)
    with pytest.raises(StoreError, match="has more than 89,478,485 pixels"):
        picture_in(path)
    Image.new("L", (4000, 2000)).save(path)
    picture, size = picture_in(path)
    assert (picture.size, size) == ((2896, 1448), (4000, 2000))
    path.write_text("no picture")
    with pytest.raises(StoreError, match="cannot be read as a picture: cannot identify image file"):
        picture_in(path)


def test_no_two_names_have_one_file() -> None:
    names = ["text('a cat')", "text('a, cat')", "a.b#1", "a.b#1 latent seed 2", "a.b#1 - 1",
             "日本", "中国", "a.b#1 + " * 60 + "a.b#2", "a.b#1 + " * 60 + "a.b#3",
             "x" * 300]  # fmt: skip
    files = [file_of(name) for name in names]
    assert len(set(files)) == len(names)
    assert max(map(len, files)) < 130
    assert all(re.fullmatch(r"\w[\w.=-]*\.png", file, re.ASCII) for file in files)
    assert files[2:4] == ["a.b-1.png", "a.b-1-latent-seed-2.png"]
    assert re.fullmatch(r"a{60} … [a ]+ seed 2", short("a" * 2000 + " seed 2"))


def test_one_unit_named_twice_is_one_picture(reader: Reader, tmp_path: Path) -> None:
    vectors = [[1.0] * 32, [-1.0] * 32]
    objectives = [parse(f"{FC}#3"), channel(FC, 3), parse(f"direction('{FC}', {vectors})")]
    files = wanted.render_images(reader, objectives, tmp_path, steps=1)
    assert files[0].name == files[1].name == f"{FC}-3.png"
    assert len(set(files)) == len(list(tmp_path.iterdir())) == 3  # each vector has its own
    assert len(files) == 4


def test_names_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    def never(*_: object) -> list[dict[str, object]]:
        raise AssertionError

    with pytest.raises(StoreError, match="`a#1 seed 0` and `A#1 seed 0` are both"):
        fill(tmp_path, "image", [channel("a", 1), channel("A", 1)], (0, 1), never, never)  # type: ignore[arg-type]
