"""The CLIP reader: concepts it names, pixels that it feeds its network, and its errors."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ablate import bundled
from ablate.drift.clip import Reader
from ablate.drift.encoders import image_processor
from ablate.messages import phrase
from ablate.models.errors import ModelError
from ablate.training import data

CLIP = bundled.FOLDER / "clip"


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.load("bundled", device="cpu")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_drawn_things_are_named(reader: Reader) -> None:
    pytest.importorskip("resvg_py")
    drawn = [
        Image.fromarray(data.render(data.Picture(subject, background=background), size))
        for subject in data.SUBJECTS
        for background, size in (("white", 64), ("blue", 160))  # read at any size
    ]
    words = reader.texts([phrase(word) for word in reader.vocabulary])
    named = [reader.vocabulary[i] for i in (reader.images(drawn) @ words.T).argmax(1)]
    asked = [subject for subject in data.SUBJECTS for _ in range(2)]
    assert named[:2] == ["cat", "cat"]
    assert np.mean([a == b for a, b in zip(named, asked, strict=True)]) > 0.9


def test_cosines_are_those_of_the_model_itself(reader: Reader) -> None:
    from transformers import CLIPModel, CLIPTokenizer

    images, texts = [noise(64, 64, seed) for seed in range(3)], ["a cat", "a dog in a top hat"]
    network = CLIPModel.from_pretrained(CLIP, dtype=torch.float32).eval()
    tokens = CLIPTokenizer.from_pretrained(bundled.FOLDER / "tokenizer")(
        texts, padding=True, return_tensors="pt"
    )
    pixels = torch.stack([torch.from_numpy(np.array(i)) for i in images]).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network(pixel_values=pixels / 127.5 - 1, **tokens).logits_per_image
    logits = reader.scale * reader.images(images) @ reader.texts(texts).T
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3)


def test_vectors_have_length_one_and_do_not_depend_on_the_batch(reader: Reader) -> None:
    images = [noise(64 + seed, 64, seed) for seed in range(33)]
    vectors = reader.images(images)
    assert vectors.shape == (33, 128)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors[32:], reader.images(images[32:]), atol=1e-4)
    assert reader.images([]).shape == reader.texts([]).shape == (0, 128)


def test_a_text_that_is_too_long_is_cut(reader: Reader) -> None:
    long = " ".join(random.Random(0).choices(data.SUBJECTS, k=200))
    assert reader.texts([long]).shape == (1, 128)


# ---------------------------------------------------------------- preparation


PUBLISHED = json.loads((CLIP / "preprocessor_config.json").read_text(encoding="utf-8"))
CONFIGS = [
    ({}, 224),
    ({}, 336),
    (PUBLISHED, 64),
    ({"size": 72, "crop_size": 65, "resample": 2, "image_mean": [0.5, 0.4, 0.3]}, 65),
]


def prepared(image: Image.Image, config: dict[str, Any], side: int) -> np.ndarray:
    """The image by the formula: shorter edge resized, center cropped, scaled and normalized."""
    mean = config.get("image_mean", [0.48145466, 0.4578275, 0.40821073])
    std = config.get("image_std", [0.26862954, 0.26130258, 0.27577711])
    shorter = config["size"] if isinstance(config.get("size"), int) else side
    image = image.convert("RGB")
    width, height = (int(shorter * length / min(image.size)) for length in image.size)
    image = image.resize((width, height), config.get("resample", Image.Resampling.BICUBIC))
    left, top = (width - side) // 2, (height - side) // 2
    image = image.crop((left, top, left + side, top + side))
    values = np.asarray(image, np.float32) / 255
    values = (values - np.array(mean, np.float32)) / np.array(std, np.float32)
    return values.transpose(2, 0, 1)


@pytest.mark.parametrize("size", [(100, 80), (80, 100), (512, 300), (31, 47), (64, 64)])
@pytest.mark.parametrize(("config", "side"), CONFIGS)
def test_pixels_are_those_of_the_formula(
    config: dict[str, Any], side: int, size: tuple[int, int]
) -> None:
    image = noise(*size)
    pixels = image_processor(config, side)([image], return_tensors="pt")["pixel_values"]
    assert pixels.dtype == torch.float32
    np.testing.assert_array_equal(pixels[0].numpy(), prepared(image, config, side))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_images_of_any_mode_are_embedded_by_their_colors(reader: Reader, mode: str) -> None:
    image = noise(64, 64).convert(mode)
    if mode == "RGBA":
        image.putalpha(noise(64, 64, 1).convert("L"))  # which does not count
    np.testing.assert_array_equal(reader.images([image]), reader.images([image.convert("RGB")]))


def test_the_center_is_what_is_read() -> None:
    image = Image.new("RGB", (100, 80), "white")
    image.paste("black", (30, 20, 70, 60))
    config = {"size": 40, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    pixels = image_processor(config, 20)([image], return_tensors="np")["pixel_values"][0]
    assert pixels.shape == (3, 20, 20)
    np.testing.assert_allclose(pixels[:, 3:-3, 3:-3], -1)


def test_the_processor_is_built_from_any_version_of_its_file() -> None:
    plain = image_processor({}, 336)
    assert (plain.size["shortest_edge"], plain.crop_size["height"]) == (336, 336)
    old = {"size": 224, "crop_size": 224, "resample": 3, "image_mean": [0.5, 0.4, 0.3]}
    new = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224},
           "image_mean": [0.5, 0.4, 0.3]}  # fmt: skip
    assert image_processor(old, 336).to_dict() == image_processor(new, 336).to_dict()
    assert list(image_processor(old, 336).image_mean) == [0.5, 0.4, 0.3]


# ---------------------------------------------------------------- which model


def test_vocabularies(reader: Reader, tmp_path: Path) -> None:
    assert reader.vocabulary == data.SUBJECTS
    shutil.copytree(CLIP, tmp_path / "clip")
    shutil.copytree(bundled.FOLDER / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "clip" / "vocabulary.txt").unlink()
    other = Reader.of(str(tmp_path), device="cpu")
    assert other is not None
    assert other.id == str(tmp_path)
    assert {"cat", "car", "house", "palm tree"} < set(other.vocabulary)
    assert 250 < len(set(other.vocabulary)) == len(other.vocabulary)
    assert all(word == word.strip() != "" for word in other.vocabulary)
    np.testing.assert_array_equal(other.texts(["a cat"]), reader.texts(["a cat"]))


def test_the_model_beside_the_pipeline_is_taken_or_the_one_asked_for(tiny_folder: Path) -> None:
    beside = Reader.of("bundled", device="cpu")
    assert beside is not None
    assert beside.id == "bundled"
    assert Reader.of(str(tiny_folder), device="cpu") is None
    assert Reader.of("sd15-random", device="cpu") is None
    asked = Reader.of(str(tiny_folder), str(CLIP), device="cpu")
    assert asked is not None
    assert asked.id == str(CLIP)


@pytest.mark.parametrize(
    ("clip", "sentence"),
    [
        ("openai/clip-vit-large-patch99",
         "`openai/clip-vit-large-patch99` is not in the hub cache and the hub cannot be reached:"),
        ("nowhere/at/all", "there is no CLIP model `nowhere/at/all`: it is neither `bundled`, nor"
         " a folder, nor a hub id such as `openai/clip-vit-large-patch14`"),
        (str(bundled.FOLDER / "text_encoder"), "` is no CLIP model: the `model_type` of its"
         " config.json is `clip_text_model`; images are read by one such as"),
        (str(bundled.FOLDER / "unet"), "the `model_type` of its config.json is `none`"),
    ],
)  # fmt: skip
def test_what_is_no_clip_model_is_refused(clip: str, sentence: str) -> None:
    with pytest.raises(ModelError) as error:
        Reader.load(clip)
    assert sentence in str(error.value)


def test_weights_come_from_safetensors_alone(tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(CLIP / name, tmp_path / name)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError) as error:
        Reader.load(str(tmp_path))
    assert "run code when they are read; give them as .safetensors" in str(error.value)
    assert "safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_tokenizer_cannot_be_read(tmp_path: Path) -> None:
    shutil.copytree(CLIP, tmp_path / "clip")
    with pytest.raises(ModelError, match=r"clip` has no tokenizer: there is none in it, nor "):
        Reader.load(str(tmp_path), device="cpu")
