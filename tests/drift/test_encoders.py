"""Image encoders: the vectors of each kind of model, and those that give none."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import readers
import torch
import transformers
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from ablate import bundled, lab
from ablate.cli.main import main
from ablate.drift.clip import Reader
from ablate.drift.encoders import ImageReader
from ablate.drift.images import Further
from ablate.drift.measure import read_cells, write_drift
from ablate.drift.readers import reader_names
from ablate.models.errors import ModelError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.run import Run
from ablate.view.maps import draw_map
from ablate.view.measures import choose_measure


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A folder of each kind of model."""
    root = tmp_path_factory.mktemp("readers")
    kinds = {
        "dinov2": readers.save_dinov2, "vit": readers.save_vit, "siglip": readers.save_siglip,
        "masked": readers.save_masked, "patches": readers.save_patches,
    }  # fmt: skip
    return {name: save(root / f"tiny-{name}") for name, save in kinds.items()}


def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (size, 40, 3), dtype=np.uint8))
        for size in (40, 64, 31)
    ]


def as_read(image: Image.Image, name: str) -> Tensor:
    """An image as the processor of a kind of model prepares it."""
    how = Image.Resampling.BILINEAR if name == "vit" else Image.Resampling.BICUBIC
    resized = image.convert("RGB").resize((readers.SIDE, readers.SIDE), how)
    values = torch.from_numpy(np.asarray(resized, np.float32)) / 127.5 - 1
    return values.permute(2, 0, 1)[None]


@pytest.mark.parametrize(
    ("name", "kind", "vector"),
    [
        ("dinov2", "Dinov2Model", lambda network, pixels: network(pixels).pooler_output),
        ("vit", "ViTForImageClassification",
         lambda network, pixels: network.vit(pixels).last_hidden_state[:, 0]),
        ("siglip", "SiglipModel",
         lambda network, pixels: network.vision_model(pixel_values=pixels).pooler_output),
    ],
)  # fmt: skip
def test_the_vector_is_that_of_the_model_itself(
    folders: Mapping[str, Path], name: str, kind: str, vector: Callable[[Any, Tensor], Tensor]
) -> None:
    reader = ImageReader.load(str(folders[name]), "cpu")
    network = getattr(transformers, kind).from_pretrained(folders[name]).eval()
    images = pictures()
    with torch.no_grad():
        expected = torch.cat([vector(network, as_read(i, name)) for i in images])
    np.testing.assert_allclose(reader.features(images), expected.numpy(), rtol=1e-3, atol=1e-3)
    unit = torch.nn.functional.normalize(expected, dim=-1)
    np.testing.assert_allclose(reader.images(images), unit.numpy(), atol=1e-3)
    assert np.ptp(reader.images(images), axis=0).max() > 0.05
    assert reader.images([]).shape == (0, reader.width) == (0, expected.shape[1])


def test_clip_is_read_bit_for_bit_as_by_its_own_class() -> None:
    network = transformers.CLIPModel.from_pretrained(bundled.FOLDER / "clip", dtype=torch.float32)
    images = [image.resize((64, 64)) for image in pictures()]
    pixels = torch.cat([torch.from_numpy(np.array(i))[None] for i in images]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        vectors = network.eval().get_image_features((pixels.float() / 255 - 0.5) / 0.5)
        expected = torch.nn.functional.normalize(vectors.pooler_output, dim=-1)
    for kind in (Reader, ImageReader):
        np.testing.assert_array_equal(kind.load("bundled", "cpu").images(images), expected.numpy())


def test_siglip_names_what_images_show(folders: Mapping[str, Path]) -> None:
    reader = Reader.load(str(folders["siglip"]), "cpu")
    network = transformers.SiglipModel.from_pretrained(folders["siglip"]).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(folders["siglip"])(
        ["a cat", "a dog in a hat"], padding="max_length", max_length=24, return_tensors="pt"
    )
    pixels = torch.cat([as_read(image, "siglip") for image in pictures()])
    with torch.no_grad():
        logits = network(pixel_values=pixels, **tokens).logits_per_image - network.logit_bias
    cosines = reader.images(pictures()) @ reader.texts(["a cat", "a dog in a hat"]).T
    np.testing.assert_allclose(reader.scale * cosines, logits.numpy(), rtol=1e-3, atol=1e-2)
    assert reader.margin is None
    assert "cat" in reader.vocabulary


def test_distances_are_named_by_models() -> None:
    models = [
        "facebook/dinov2-base",
        "google/siglip2-so400m-patch14-384",
        "/a/My Model/",
        "b/my-model",
    ]
    assert reader_names(models) == [
        "embedding_dinov2_base", "embedding_siglip2_so400m_patch14_384", "embedding_my_model",
        "embedding_my_model_2",
    ]  # fmt: skip


# ---------------------------------------------------------------- models that give no vector


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("patches", "` does not give one vector an image: it has neither image features, nor a"
         " pooled output, nor a class token"),
        ("masked", "` gives another vector each time that it reads an image"),
        ("text_encoder", "`, a `clip_text_model`, has no preprocessor_config.json and so reads no"),
        ("unet", "` is no image encoder of transformers: the `model_type` of its config.json is"
         " `none`"),
    ],
)  # fmt: skip
def test_a_model_without_a_vector_is_refused(
    folders: Mapping[str, Path], name: str, sentence: str
) -> None:
    folder = folders.get(name, bundled.FOLDER / name)
    with pytest.raises(ModelError) as error:
        ImageReader.load(str(folder), "cpu")
    assert sentence in str(error.value)


def test_weights_that_are_not_there_are_named(folders: Mapping[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["dinov2"], tmp_path / "copy"))
    tensors = load_file(folder / "model.safetensors")
    del tensors["layernorm.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="lacks"):
        ImageReader.load(str(folder), "cpu")


def test_a_model_that_reads_no_words_cannot_name(folders: Mapping[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"is no CLIP model: .* go into `readers`"):
        Reader.load(str(folders["dinov2"]), "cpu")


# ---------------------------------------------------------------- several readers of one run


@pytest.fixture(scope="module")
def made(
    folders: Mapping[str, Path],
    bundled_pipeline: Pipeline,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    recipe = Recipe.build(
        {
            "version": 1, "name": "read", "dtype": "float32", "seeds": [0, 1],
            "readers": [str(folders["dinov2"])], "sampling": {"num_inference_steps": 2},
            "axes": {"amount": [0.3, 1]},
            "edits": [{"mix_noise": {"modules": "conv_in", "amount": "$amount"}}],
        }
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "read"
    lab.run(recipe, folder, pipeline=bundled_pipeline)
    return folder


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_each_reader_has_its_own_columns(made: Path, folders: Mapping[str, Path]) -> None:
    reader = ImageReader.load(str(folders["dinov2"]), "cpu")
    run = Run(made)
    images = {cell.key: cell.image() for cell in run.cells()}
    vectors = dict(zip(images, reader.images(list(images.values())), strict=True))
    chord = float(
        np.linalg.norm(np.subtract(*(vectors[c.key] for c in run.cells() if c.is_baseline)))
    )
    for cell, row in zip(run.cells(), rows(made, "drift.csv"), strict=True):
        distance = ((vectors[cell.key] - vectors[cell.baseline]) ** 2).sum() / 2
        assert float(row["embedding_tiny_dinov2"]) == pytest.approx(distance, abs=2e-6)
        floors = (2 * distance) ** 0.5 / chord
        assert float(row["embedding_tiny_dinov2_floors"]) == pytest.approx(floors, abs=1e-4)
        assert row["concept"]
        assert row["embedding"] != row["embedding_tiny_dinov2"] or cell.is_baseline
    metrics = [row["metric"] for row in rows(made, "effects.csv")]
    assert metrics == 2 * ["rmse", "ssim", "latent", "embedding", "embedding_tiny_dinov2"]
    summary = json.loads((made / "drift.json").read_text(encoding="utf-8"))
    assert summary["readers"] == [str(folders["dinov2"])]
    assert summary["floors"][0]["embedding_tiny_dinov2"] == pytest.approx(chord, rel=1e-4)
    assert "embedding_tiny_dinov2" in (made / "report.html").read_text(encoding="utf-8")


def test_a_run_is_read_again_by_others(
    made: Path, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    before = (run / "drift.csv").read_bytes()

    def ablate(*arguments: str | Path) -> str:
        done = CliRunner().invoke(main, [str(a) for a in arguments])
        assert done.exit_code == 0, done.output
        return done.output

    metric = "embedding_tiny_siglip"
    output = ablate("drift", run, "--reader", folders["siglip"], "--reader", folders["vit"],
                    "--metric", metric)  # fmt: skip
    assert f"{metric} / floor" in output
    header = list(rows(run, "drift.csv")[0])
    assert header[6:13] == ["rmse", "ssim", "latent", "embedding", metric, "embedding_tiny_vit",
                            "score"]  # fmt: skip
    ablate("drift", run)
    assert (run / "drift.csv").read_bytes() == before


def test_without_a_model_that_names_the_map_is_by_the_first_reader(
    made: Path, folders: Mapping[str, Path], tmp_path: Path
) -> None:
    run = Run(shutil.copytree(made, tmp_path / "run"))
    reader = ImageReader.load(str(folders["dinov2"]), "cpu")
    write_drift(run, further=Further({"embedding_eye": reader}))
    assert {row["embedding"] for row in rows(run.folder, "drift.csv")} == {""}
    assert "images by what they show to the first of `readers`" in str(draw_map(run))
    measure = choose_measure(read_cells(run), "embedding_eye_floors")
    assert measure is not None
    assert measure.words == "drift of the embedding by eye, in noise floors"


def test_a_reader_that_is_wrong_is_a_problem_of_the_recipe(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        "version: 1\nname: read\nreaders: [nowhere]\nedits: [zero: {modules: conv_in}]\n",
        encoding="utf-8",
    )
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.exit_code == 2
    assert (
        f"{file}:3: readers[0]: there is no image encoder `nowhere`: it is neither" in done.output
    )
