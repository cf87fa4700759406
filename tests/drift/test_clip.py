"""The CLIP reader: what it names, what it makes of images, and what it says when it cannot."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ablate import bundled
from ablate.drift.clip import MEAN, STD, Preparation, Reader
from ablate.messages import phrase
from ablate.models.files import ModelError
from ablate.training import data

CLIP = bundled.FOLDER / "clip"


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.load("bundled", device="cpu")


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_drawn_things_are_named_as_what_they_are(reader: Reader) -> None:
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
    found = reader.scale * reader.images(images) @ reader.texts(texts).T
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-3)


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


@pytest.mark.parametrize("size", [(100, 80), (80, 100), (512, 300), (31, 47), (64, 64)])
def test_images_are_prepared_as_clip_does(size: tuple[int, int]) -> None:
    processor = pytest.importorskip("transformers.models.clip.image_processing_pil_clip")
    config = json.loads((CLIP / "preprocessor_config.json").read_text(encoding="utf-8"))
    for settings in ({}, config):
        reference = processor.CLIPImageProcessorPil(**settings)
        image = noise(*size)
        expected = np.asarray(reference(image, return_tensors="np")["pixel_values"][0])
        found = Preparation.of(settings, 224)(image)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_middle_is_what_is_seen() -> None:
    image = Image.new("RGB", (100, 80), "white")
    image.paste("black", (30, 20, 70, 60))
    found = Preparation(resize=40, side=20, mean=(0.5,) * 3, std=(0.5,) * 3)(image)
    assert found.shape == (3, 20, 20)
    np.testing.assert_allclose(found[:, 3:-3, 3:-3], -1)


def test_preparation_is_read_from_any_version_of_its_file() -> None:
    plain = Preparation.of({}, 336)
    assert (plain.resize, plain.side, plain.mean, plain.std) == (336, 336, MEAN, STD)
    old = {"size": 224, "crop_size": 224, "resample": 3, "image_mean": [0.5, 0.4, 0.3]}
    new = {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224},
           "image_mean": [0.5, 0.4, 0.3]}  # fmt: skip
    assert Preparation.of(old, 336) == Preparation.of(new, 336)
    assert Preparation.of(old, 336).mean == (0.5, 0.4, 0.3)


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
    own = Reader.of("bundled", device="cpu")
    assert own is not None
    assert own.id == "bundled"
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
def test_what_is_no_clip_model_is_said_to_be_none(clip: str, sentence: str) -> None:
    with pytest.raises(ModelError) as error:
        Reader.load(clip)
    assert sentence in str(error.value)


def test_weights_come_from_safetensors_alone(tmp_path: Path) -> None:
    for name in ("config.json", "preprocessor_config.json"):
        shutil.copy(CLIP / name, tmp_path / name)
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ModelError) as error:
        Reader.load(str(tmp_path))
    assert str(error.value).startswith(f"`{tmp_path}` cannot be read:")
    assert "safetensors" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_model_without_tokenizer_cannot_be_read(tmp_path: Path) -> None:
    shutil.copytree(CLIP, tmp_path / "clip")
    with pytest.raises(ModelError, match=r"clip` has no tokenizer: there is none in it, nor "):
        Reader.load(str(tmp_path), device="cpu")
