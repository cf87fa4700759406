"""Points of embedding space and film strips, from the recipe to the pixels."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from ablate import bundled, lab
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.sampling.embeddings import PROMPTS, between, embed, on_plane, random_point, slerp
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.sampling.settings import Sampling
from ablate.store.png import read_latents
from ablate.sweep.binding import plan

pytestmark = pytest.mark.usefixtures("without_report")

CAT, DOG = "a cat in a party hat", "a dog"
Build = Callable[..., Recipe]
Ran = Callable[..., lab.Result]
FileOf = Callable[[str], Path]


def space(**form: Any) -> dict[str, Any]:
    return {"axes": {"p": {"embedding": form}}}


def files(result: lab.Result, *axes: str) -> dict[Any, Path]:
    """The file of each cell by its values on some axes."""
    paths = {tuple(c.axes.get(a) for a in axes): c.path for c in result.cells}
    return {v if len(v) > 1 else v[0]: path for v, path in paths.items()}


def same(one: Path, other: Path) -> bool:
    """Whether two images are equal bit for bit: pixels, latents, and all that determined them."""
    pixels = [Image.open(path).tobytes() for path in (one, other)]
    latents = [read_latents(path) for path in (one, other)]
    return (
        one.name == other.name and pixels[0] == pixels[1] and np.array_equal(latents[0], latents[1])  # type: ignore[arg-type]
    )


@pytest.fixture
def file_of(run: Ran, build: Build) -> FileOf:
    """The file of a prompt's image, from a run without points; one at a time, as
    all that is compared with it bit for bit."""
    paths = {cell.prompt: cell.path for cell in run(build(prompts=[CAT, DOG, "", "an owl"],
             axes={"num_inference_steps": {"values": [2]}}), "own", batch_size=1)}  # fmt: skip
    return paths.__getitem__


# ------------------------------------------------------------ ends, centers, origins


@pytest.mark.parametrize("path", ["lerp", "slerp"])
def test_the_ends_are_the_prompts_images(
    run: Ran, build: Build, file_of: FileOf, path: str
) -> None:
    form = {"from": CAT, "to": DOG, "t": [-1, 0, 0.5, 1, 2], "path": path}
    result = run(build(**space(between=form)), batch_size=1)
    paths = files(result, "p")
    assert same(paths[0], file_of(CAT))
    assert same(paths[1], file_of(DOG))
    assert len({Image.open(path).tobytes() for path in paths.values()}) == 5
    assert {cell.axes["p"] for cell in result if cell.is_baseline} == {0}


def test_the_center_of_a_plane_is_the_prompts_image(
    run: Ran, build: Build, file_of: FileOf
) -> None:
    form = {"center": CAT, "toward": [DOG, 7], "size": 3, "zoom": [1, 4]}
    paths = files(run(build(**space(plane=form)), batch_size=1), "p.zoom", "p.u", "p.v")
    assert len(paths) == 18
    assert same(paths[1, 0, 0], file_of(CAT))
    assert paths[4, 0, 0] == paths[1, 0, 0]
    assert same(paths[1, 1, 0], file_of(DOG))
    near, far = (pixels(paths[z, 1, 0]) - pixels(paths[1, 0, 0]) for z in (4, 1))
    assert 0 < np.abs(near).mean() < np.abs(far).mean()


def test_a_sweep_without_edits_starts_at_its_origin(run: Ran, build: Build) -> None:
    form = {"from": CAT, "to": DOG, "t": [0.5, 1]}
    result = run(build(seeds=[0, 1], **space(between=form)))
    added = [cell for cell in result if "p" not in cell.axes]
    assert [(cell.prompt, cell.seed) for cell in added] == [(CAT, 0), (CAT, 1)]
    for cell in result:
        assert cell.baseline == added[cell.seed].key
        assert (cell.drift["rmse"] > 0) == (cell not in added)


def test_edits_apply_at_every_point(run: Ran, build: Build) -> None:
    axes = {**space(between={"from": CAT, "to": DOG, "t": [0, 0.5, 1]})["axes"],
            "amount": {"values": [0, 0.5]}}  # fmt: skip
    result = run(build(axes=axes, edits=[{"mix_noise": {"modules": "*", "amount": "$amount"}}]))
    paths = files(result, "p", "amount")
    assert len({path.name for path in paths.values()}) == 6
    for cell in result:
        assert cell.baseline == paths[cell.axes["p"], 0].stem


def test_unconditional_is_the_empty_prompt(run: Ran, build: Build, file_of: FileOf) -> None:
    forms = ["unconditional", {"between": {"from": CAT, "to": "an owl", "t": [1]}},
             {"random": {"count": 2, "seed": 3}}]  # fmt: skip
    paths = files(run(build(axes={"p": {"embedding": forms}}), batch_size=1), "p")
    assert list(paths)[-4:] == ["unconditional", "t 1", "random 3 0", "random 3 1"]
    assert same(paths["unconditional"], file_of(""))
    assert same(paths["t 1"], file_of("an owl"))


def test_a_prompt_axis_may_give_the_center(run: Ran, build: Build, file_of: FileOf) -> None:
    form = {"from": "$prompt", "to": "an owl", "t": [0, 0.5]}
    result = run(build(prompts=[CAT, DOG], **space(between=form)), batch_size=1)
    paths = files(result, "prompt", "p")
    assert same(paths[DOG, 0], file_of(DOG))
    assert same(paths[CAT, 0], file_of(CAT))
    assert {cell.axes["p"]: cell.point for cell in result} == {0: False, 0.5: True}


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), dtype=float)


# ------------------------------------------------------------ the points themselves


def test_points_equal_a_script_of_diffusers(run: Ran, build: Build, tiny_folder: Path) -> None:
    pipe = DiffusionPipeline.from_pretrained(tiny_folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    states = {p: pipe.encode_prompt(p, "cpu", 1, False)[0] for p in (CAT, DOG)}
    paths = files(run(build(**space(between={"from": CAT, "to": DOG, "t": [0.3, 1.5]}))), "p")
    assert set(paths) == {None, 0.3, 1.5}
    for t, path in paths.items():
        image = pipe(
            prompt_embeds=torch.lerp(states[CAT], states[DOG], t or 0),
            negative_prompt_embeds=pipe.encode_prompt("", "cpu", 1, False)[0],
            num_inference_steps=2,
            guidance_scale=5.0,
            generator=torch.Generator().manual_seed(0),
        ).images[0]
        assert np.abs(np.asarray(image, dtype=float) - pixels(path)).max() <= 2


def encode(prompt: str) -> dict[str, torch.Tensor]:
    """Embeddings that depend on the prompt alone: token states and a pooled one."""
    generator = torch.Generator().manual_seed(sum(map(ord, prompt)) * 31 + len(prompt))
    return {
        "prompt_embeds": torch.randn(1, 4, 3, generator=generator),
        "pooled_prompt_embeds": torch.randn(1, 5, generator=generator),
    }


def test_slerp_keeps_the_length_that_lerp_loses() -> None:
    start, end = torch.tensor([[1.0, 0, 0], [2.0, 0, 0]]), torch.tensor([[0.0, 1, 0], [2.0, 0, 0]])
    half = slerp(start, end, 0.5)
    assert torch.allclose(half, torch.tensor([[0.5**0.5, 0.5**0.5, 0], [2.0, 0, 0]]))
    quarter = slerp(start, end, 1 / 3)[0]
    assert torch.allclose(quarter, torch.tensor([0.75**0.5, 0.5, 0]))


def test_a_plane_is_its_center_and_so_much_of_each_direction() -> None:
    point = on_plane(CAT, [DOG, 7], (0.5, -2))
    other = on_plane(CAT, [DOG, 7], (0, 1))
    embedding, direction = embed(point, encode), embed(other, encode)
    for name, center in encode(CAT).items():
        toward = encode(DOG)[name] - center
        random = direction[name] - center
        assert torch.allclose(embedding[name], center + 0.5 * toward - 2 * random, atol=1e-5)


def test_random_points_have_the_statistics_of_prompts() -> None:
    def flat(embedding: dict[str, torch.Tensor]) -> torch.Tensor:
        return torch.cat([tensor.flatten() for tensor in embedding.values()])

    prompts = torch.stack([flat(encode(p)) for p in PROMPTS])
    encoded = cache(encode)
    points = torch.stack([flat(embed(random_point(0, i), encoded)) for i in range(4000)])
    assert torch.allclose(points.mean(0), prompts.mean(0), atol=0.08)
    assert torch.allclose(points.T.cov(), prompts.T.cov(), atol=0.12)
    assert random_point(0, 1) == random_point(0, 1) != random_point(1, 1)


def test_pooled_embeddings_move_too(tmp_path: Path) -> None:
    pipeline = Pipeline.load(str(xl_folder(tmp_path)), device="cpu", dtype="float32")
    captured: list[dict[str, Any]] = []
    pipeline.denoiser.register_forward_pre_hook(
        lambda _module, _args, given: captured.append(given), with_kwargs=True
    )
    embeddings = {}
    for prompt in (CAT, DOG):
        states, _, pooled, _ = pipeline.pipe.encode_prompt(
            prompt, do_classifier_free_guidance=False
        )
        assert (tuple(states.shape), tuple(pooled.shape)) == ((1, 24, 48), (1, 16))
        embeddings[prompt] = (states, pooled)
    settings = pipeline.settings(Sampling(num_inference_steps=2))
    requests = [Request("", 0, between(CAT, DOG, t)) for t in (0, 0.5)] + [Request(CAT, 0)]
    start, middle, cat = pipeline.sample(requests, settings).images
    # With guidance, three rows of the negative prompt go before.
    states, pooled = (
        captured[0]["encoder_hidden_states"],
        captured[0]["added_cond_kwargs"]["text_embeds"],
    )
    for states_of_six, cat_own, dog_own in zip(
        (states, pooled), embeddings[CAT], embeddings[DOG], strict=True
    ):
        assert len(states_of_six) == 6
        assert torch.allclose(states_of_six[4:5], (cat_own + dog_own) / 2, atol=1e-6)
        assert torch.allclose(states_of_six[3:4], cat_own, atol=1e-6)
    assert np.abs(start - cat).max() < 1e-4
    assert np.abs(middle - cat).max() > 1e-2


def xl_folder(folder: Path) -> Path:
    """A pipeline with two text encoders, in the shape of Stable Diffusion XL."""
    torch.manual_seed(0)
    text: dict[str, Any] = {
        "vocab_size": 1000,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "max_position_embeddings": 24,
        "intermediate_size": 32,
        "eos_token_id": 2,
        "bos_token_id": 0,
    }
    tokenizer = CLIPTokenizer.from_pretrained(bundled.FOLDER / "tokenizer")
    StableDiffusionXLPipeline(
        vae=AutoencoderKL(block_out_channels=(8, 16), norm_num_groups=4, sample_size=16,
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4),
        text_encoder=CLIPTextModel(CLIPTextConfig(hidden_size=32, **text)),
        text_encoder_2=CLIPTextModelWithProjection(
            CLIPTextConfig(hidden_size=16, projection_dim=16, **text)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=UNet2DConditionModel(sample_size=8, block_out_channels=(16, 32), layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4,
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=48,
            attention_head_dim=2, addition_embed_type="text_time", addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=16 + 6 * 8),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
    ).save_pretrained(folder)  # fmt: skip
    return folder


# ------------------------------------------------------------ film strips


@pytest.mark.parametrize("scheduler", ["ddim", "pndm", "euler", "dpm_solver_multistep"])
def test_a_film_strip_ends_in_the_image(run: Ran, build: Build, scheduler: str) -> None:
    sampling = {"num_inference_steps": 6, "scheduler": scheduler}
    axes = {"steps": {"range": [1, 6], "step": 1}}
    strip = run(build(sampling=sampling, axes=axes, seeds=[0, 1]))
    plain = run(build(sampling=sampling, axes={"guidance_scale": {"values": [5.0]}}, seeds=[0, 1]),
                "plain")  # fmt: skip
    assert strip.summary.computed == 12
    for cell in plain:
        frames = {c.axes["steps"]: c.path for c in strip if c.seed == cell.seed}
        assert same(frames[6], cell.path)
        assert len({Image.open(path).tobytes() for path in frames.values()}) >= 5
        final = read_latents(cell.path)
        gaps = [np.abs(read_latents(frames[n]) - final).mean() for n in range(1, 7)]  # type: ignore[operator]
        assert gaps[5] == 0
        assert gaps[4] < gaps[0]
    assert {cell.axes["steps"] for cell in strip if cell.is_baseline} == {6}


def test_frames_are_the_estimates_of_the_scheduler(
    run: Ran, build: Build, tiny_folder: Path
) -> None:
    paths = files(run(build(sampling={"num_inference_steps": 4, "scheduler": "ddim"},
                            axes={"steps": {"values": [1, 3]}})), "steps")  # fmt: skip
    pipe = DiffusionPipeline.from_pretrained(tiny_folder, use_safetensors=True)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    step, kept = pipe.scheduler.step, []

    def watched(*args: Any, **options: Any) -> Any:
        kept.append(step(*args, **(options | {"return_dict": True})).pred_original_sample)
        return step(*args, **options)

    pipe.scheduler.step = watched
    pipe(CAT, num_inference_steps=4, guidance_scale=5.0, negative_prompt="",
         generator=torch.Generator().manual_seed(0))  # fmt: skip
    for number in (1, 3):
        latents = kept[number - 1] / pipe.vae.config.scaling_factor
        with torch.no_grad():
            image = pipe.image_processor.postprocess(pipe.vae.decode(latents).sample)[0]
        assert np.abs(np.asarray(image, dtype=float) - pixels(paths[number])).max() <= 2


def test_a_strip_is_sampled_once_and_resumed(run: Ran, build: Build) -> None:
    recipe = build(axes={"steps": {"values": [1, 2]}, "factor": {"values": [1, 0.9, 0.8]}},
                   edits=[{"scale": {"modules": "*", "factor": "$factor"}}])  # fmt: skip
    assert plan(recipe).denoiser_rows == 3 * 2 * 2
    first = run(recipe)
    lost = next(c for c in first if c.axes["steps"] == 1 and c.axes["factor"] == 0.9)
    before = lost.path.read_bytes()
    times = {c.key: c.path.stat().st_mtime_ns for c in first if c.key != lost.key}
    lost.path.unlink()
    again = run(recipe)
    assert (again.summary.computed, again.summary.reused) == (1, 5)
    assert lost.path.read_bytes() == before
    assert times == {c.key: c.path.stat().st_mtime_ns for c in again if c.key != lost.key}


def test_steps_beyond_the_last_are_refused(build: Build) -> None:
    with pytest.raises(RecipeError, match="asks for the image after 3 steps; sampling has 2"):
        plan(build(axes={"steps": {"values": [1, 3]}}))


# ------------------------------------------------------------ the noise floor's baselines


def test_a_noise_floor_has_separate_baselines(run: Ran, build: Build) -> None:
    recipe = build(noise_floor=4, seeds=[1], axes={"module": {"each": "conv_*"}},
                   edits=[{"zero": {"modules": "$module"}}])  # fmt: skip
    result = run(recipe)
    floor = result.store.floor()
    assert [cell.seed for cell in floor] == [0, 2, 3]
    assert all(cell.done and cell.group == 0 for cell in floor)
    assert {cell.key for cell in floor}.isdisjoint(cell.key for cell in result)
    assert all(cell.floors["rmse"] > 0 for cell in result if not cell.is_baseline)


def test_the_record_contains_the_point(run: Ran, build: Build) -> None:
    result = run(build(**space(between={"from": CAT, "to": DOG, "t": [0.25]})))
    (cell,) = (cell for cell in result if cell.point)
    assert cell.prompt == f"“{CAT}” → “{DOG}”, 0.25 of the way"
    point = cell.record()["condition"]["point"]
    assert point == {"weights": [[CAT, 0.75], [DOG, 0.25]], "path": "lerp"}
