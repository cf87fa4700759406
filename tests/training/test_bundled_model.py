"""The bundled model: its training data, its pictures, and that it behaves like large models."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ablate import bundled
from ablate.drift.metrics import rmse
from ablate.edits.in_place import applied
from ablate.edits.variants import Edit, Variant
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.sampling.settings import Sampling
from ablate.training import data

BUNDLED = Path(bundled.__file__).parent
FLAGSHIP = "a cat in a party hat"


# ---------------------------------------------------------------- data


def test_configuration_and_vocabulary_of_the_encoder_are_those_shipped(tmp_path: Path) -> None:
    data.describe(tmp_path)
    written = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    shipped = bundled.FOLDER / "clip"
    assert written == {name: (shipped / name).read_text(encoding="utf-8") for name in written}
    assert set(written) == {"preprocessor_config.json", "vocabulary.txt"}


def test_scope_and_licenses_of_the_artwork() -> None:
    assert len(data.SUBJECTS) >= 30
    assert "party hat" in data.HATS
    assert set(data.SUBJECTS) <= set(data.artwork())
    assert {icon["source"] for icon in data.artwork().values()} == {"noto", "fluent"}
    licenses = {p.name for p in (BUNDLED / "licenses").iterdir()}
    assert licenses == {"noto-emoji-Apache-2.0.txt", "fluent-emoji-MIT.txt"}


@pytest.mark.parametrize(
    ("picture", "full", "without_place", "subject"),
    [
        (
            data.Picture("cat", "party hat", background="blue"),
            "a cat in a party hat on a blue background",
            FLAGSHIP,
            "a cat",
        ),
        (
            data.Picture("car", paint="red", background="beach"),
            "a red car on a beach",
            "a red car",
            "a car",
        ),
        (
            data.Picture("owl", background="orange"),
            "an owl on an orange background",
            "an owl",
            "an owl",
        ),
    ],
)
def test_captions(picture: data.Picture, full: str, without_place: str, subject: str) -> None:
    from ablate.training.quality import Plain

    assert list(data.captions(picture, Plain())) == [full, without_place, subject]


def test_pictures_show_their_background_and_differ_by_what_they_show() -> None:
    cat = data.render(data.Picture("cat", background="blue"))
    assert cat.shape == (64, 64, 3)
    assert tuple(cat[1, 1]) == tuple(bytes.fromhex(data.BACKGROUNDS["blue"][1:]))
    with_hat = data.render(data.Picture("cat", "party hat", background="blue"))
    assert np.abs(cat.astype(int) - with_hat).mean() > 2
    red, green = (data.render(data.Picture("car", paint=p)) for p in ("red", "green"))
    assert red[..., 0].mean() > green[..., 0].mean()
    assert green[..., 1].mean() > red[..., 1].mean()


def test_training_never_sees_the_held_out_pairs() -> None:
    rng = random.Random(0)
    seen = {(p.subject, p.hat) for p in (data.sample(rng) for _ in range(5000))}
    assert not seen & data.HELD_OUT
    held_out = [data.sample(rng, held_out=True) for _ in range(50)]
    assert {(p.subject, p.hat) for p in held_out} <= data.HELD_OUT


# ---------------------------------------------------------------- weights


def test_weights_are_small_half_precision_and_safetensors_only() -> None:
    from safetensors import safe_open

    files = [p for p in bundled.FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) <= 60e6
    assert {p.suffix for p in files} <= {".safetensors", ".json", ".txt", ".csv"}
    for file in bundled.FOLDER.rglob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(k).get_dtype() for k in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, file


def test_stable_diffusion_pipeline_loads_the_folder() -> None:
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(bundled.FOLDER, dtype=torch.float32)
    paths = dict(pipe.unet.named_modules())
    assert "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q" in paths


# ---------------------------------------------------------------- quality


def images(pipeline: Pipeline, prompt: str, seeds: Sequence[int] | range) -> np.ndarray:
    settings = pipeline.settings(Sampling())
    return pipeline.sample([Request(prompt, seed) for seed in seeds], settings).images


def test_the_readout_names_subjects_of_drawn_pictures_never_trained_on() -> None:
    from ablate.training.quality import Readout

    rng = random.Random(77)
    shown = [data.sample(rng) for _ in range(150)] + [data.sample(rng, True) for _ in range(50)]
    drawn = np.stack([data.render(p) for p in shown]) / 255
    named = Readout().subjects(drawn)
    assert np.mean([n == p.subject for n, p in zip(named, shown, strict=True)]) >= 0.97


def test_a_cat_in_a_party_hat_is_one(bundled_pipeline: Pipeline) -> None:
    from ablate.training.quality import FLAGSHIP as CAT, Readout

    readout = Readout()
    drawn = images(bundled_pipeline, FLAGSHIP, range(16))
    named = readout.subjects(drawn)
    hats = [readout.hat(image, CAT) for image in drawn]
    both = [(n, h) == ("cat", "party hat") for n, h in zip(named, hats, strict=True)]
    assert sum(both) >= 14


def test_backgrounds_follow_the_caption(bundled_pipeline: Pipeline) -> None:
    """By pixels, without the readout: the corner is nearest the color asked for."""
    colors = {k: np.array(list(bytes.fromhex(v[1:]))) / 255 for k, v in data.BACKGROUNDS.items()}
    right = []
    for name in colors:
        for image in images(bundled_pipeline, f"a dog on a {name} background", range(2)):
            corner = image[2:10, 2:10].mean((0, 1))
            right.append(min(colors, key=lambda k: float(np.abs(colors[k] - corner).sum())) == name)
    assert np.mean(right) >= 0.9


def test_some_modules_matter_and_some_hardly_do(bundled_pipeline: Pipeline) -> None:
    network = bundled_pipeline.network
    seeds = range(3)
    baseline = images(bundled_pipeline, FLAGSHIP, seeds)

    def drift(selector: str) -> float:
        with applied(network, Variant("v", (Edit.on(network, "zero", selector),))):
            return rmse(images(bundled_pipeline, FLAGSHIP, seeds), baseline)

    slight = drift("mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0")
    assert slight < 0.05
    assert drift("conv_in") > 4 * slight
    assert drift("conv_out") > 8 * slight
