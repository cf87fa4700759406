"""Metrics of papers: as torchmetrics computes them, and what is said where they are not there."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import readers
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

from ablate import lab
from ablate.cli.main import main
from ablate.drift.encoders import ImageReader
from ablate.drift.extras import extra_names, load_extras
from ablate.drift.readers import check_further, load_readers
from ablate.messages import RequestError
from ablate.models.errors import ModelError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.run import Run, StoredCell

torchmetrics = pytest.importorskip("torchmetrics")


@pytest.fixture(scope="module")
def dinov2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return readers.save_dinov2(tmp_path_factory.mktemp("models") / "tiny-dinov2")


@pytest.fixture(scope="module")
def run(dinov2: Path, bundled_pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two prompts × three seeds × two amounts, read by the bundled model and by DINOv2."""
    recipe = Recipe.build(
        {
            "version": 1, "name": "sets", "prompts": ["a cat", "a rocket"], "seeds": [0, 1, 2],
            "readers": [str(dinov2)], "metrics": ["fid", "kid"],
            "sampling": {"num_inference_steps": 2}, "axes": {"amount": [0.5, 1]},
            "edits": [{"mix_noise": {"modules": "conv_in", "amount": "$amount"}}],
        }
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("runs") / "sets"
    lab.run(recipe, folder, pipeline=bundled_pipeline)
    return Run(folder)


def rows(run: Run) -> list[dict[str, str]]:
    with (run.folder / "sets.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


class Network(nn.Module):
    """A reader as torchmetrics takes one: uint8 images (n, 3, height, width) to vectors."""

    def __init__(self, reader: ImageReader) -> None:
        super().__init__()
        self.reader = reader
        self.num_features = reader.width

    def forward(self, images: Tensor) -> Tensor:
        pictures = [Image.fromarray(i.permute(1, 2, 0).numpy()) for i in images]
        return torch.from_numpy(self.reader.features(pictures))


def as_tensor(cells: Sequence[StoredCell]) -> Tensor:
    return torch.stack(
        [torch.from_numpy(np.array(cell.image())).permute(2, 0, 1) for cell in cells]
    )


@pytest.mark.parametrize("reader", ["", "_tiny_dinov2"])
@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save all:UserWarning")
def test_sets_are_as_far_apart_as_torchmetrics_says(run: Run, dinov2: Path, reader: str) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.kid import KernelInceptionDistance

    network = Network(ImageReader.load(str(dinov2) if reader else "bundled", "cpu"))
    cells = list(run.cells())
    real = as_tensor([cell for cell in cells if cell.is_baseline])
    for amount in ("0.5", "1"):
        fake = as_tensor([c for c in cells if str(c.axes.get("amount")) == amount])
        kinds = {
            "fid": FrechetInceptionDistance(feature=network),
            "kid": KernelInceptionDistance(feature=network, subsets=1, subset_size=6),
        }
        for name, metric in kinds.items():
            metric.update(real, real=True)
            metric.update(fake, real=False)
            expected = metric.compute()[0] if name == "kid" else metric.compute()
            (row,) = (
                r for r in rows(run) if r["amount"] == amount and r["metric"] == f"{name}{reader}"
            )
            assert (row["images"], row["baselines"]) == ("6", "6")
            assert float(row["value"]) == pytest.approx(float(expected), rel=1e-3, abs=1e-4)


def test_sets_that_are_too_small_are_noted(run: Run) -> None:
    done = CliRunner().invoke(main, ["drift", str(run.folder), "--metric", "fid_tiny_dinov2"])
    assert done.exit_code == 0, done.output
    assert done.output.splitlines()[0].split()[:3] == ["fid_tiny_dinov2", "images", "baselines"]
    assert (
        "`fid_tiny_dinov2` is of sets of 6 images, by vectors of 24 numbers: of fewer images than"
        " numbers it is biased; prefer `kid`."
    ) in done.output
    assert "`kid` is below 0 where images are nearer to their baselines than" in done.output
    wrong = CliRunner().invoke(main, ["drift", str(run.folder), "--metric", "fid_dinov2"])
    assert wrong.exit_code == 2
    assert "there is no metric `fid_dinov2`, did you mean `fid_tiny_dinov2`?" in wrong.output


def test_sets_of_unequal_size_are_compared_by_the_same_subsets_each_time(dinov2: Path) -> None:
    reader = ImageReader.load(str(dinov2), "cpu")
    _, sets = load_extras(["kid"], {"embedding_eye": reader}, "cpu")
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(9)]
    few, many = Pictures(images[:4]), Pictures(images[4:])
    state = torch.random.get_rng_state()
    first = sets["kid_eye"].distance(few, many)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(1)
    assert sets["kid_eye"].distance(few, many) == first


class Pictures(tuple[Image.Image, ...]):
    """Known by itself, not by what it contains."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


# ---------------------------------------------------------------- LPIPS


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """In place of torchvision the features of its AlexNet, with random weights."""
    torch.manual_seed(0)
    widths = [(3, 64, 11, 4, 2), (64, 192, 5, 1, 2), (192, 384, 3, 1, 1), (384, 256, 3, 1, 1),
              (256, 256, 3, 1, 1)]  # fmt: skip
    layers: list[nn.Module] = []
    for i, (wide, out, kernel, stride, padding) in enumerate(widths):
        layers += [nn.Conv2d(wide, out, kernel, stride, padding), nn.ReLU()]
        layers += [nn.MaxPool2d(3, 2)] if i in (0, 1, 4) else []
    network = nn.Module()
    network.features = nn.Sequential(*layers)
    asked: dict[str, Any] = {"network": network}

    def alexnet(weights: object) -> nn.Module:
        asked["weights"] = weights
        if asked.get("offline"):
            raise OSError("the hub cannot be reached")
        return network

    package, models = ModuleType("torchvision"), ModuleType("torchvision.models")
    package.__spec__ = ModuleSpec("torchvision", None)
    models.alexnet, models.AlexNet_Weights = alexnet, Mock(DEFAULT="published")  # type: ignore[attr-defined]
    package.models = models  # type: ignore[attr-defined]
    for name in ("torchmetrics.image.lpip", "torchmetrics.functional.image.lpips"):
        monkeypatch.setattr(f"{name}._TORCHVISION_AVAILABLE", True)
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return asked


class Mock:
    def __init__(self, **values: object) -> None:
        vars(self).update(values)


def test_lpips_is_that_of_torchmetrics(torchvision: Mapping[str, Any]) -> None:
    from torchmetrics.functional.image.lpips import _LPIPS

    metrics, _ = load_extras(["lpips"], {}, "cpu")
    assert torchvision["weights"] == "published"
    reference = _LPIPS(pretrained=True, net="alex").eval()
    rng = np.random.default_rng(0)
    image, baseline = (rng.random((64, 48, 3), np.float32) for _ in range(2))
    planes = (torch.from_numpy(i).permute(2, 0, 1)[None] * 2 - 1 for i in (image, baseline))
    with torch.no_grad():
        expected = float(reference(*planes))
    assert metrics["lpips"](image, baseline) == pytest.approx(expected, rel=1e-5)
    assert metrics["lpips"](image, baseline) == metrics["lpips"](image, baseline)
    assert metrics["lpips"](image, image) == 0
    with pytest.raises(RequestError, match="needs images of 32 pixels or more a side"):
        metrics["lpips"](image[:16], baseline[:16])


def test_weights_that_are_not_there_are_named(torchvision: dict[str, Any]) -> None:
    torchvision["offline"] = True
    with pytest.raises(RequestError) as error:
        load_extras(["lpips"], {}, "cpu")
    assert str(error.value) == (
        "`lpips` cannot be measured: the hub cannot be reached; the weights of its network are read"
        f" from {torch.hub.get_dir()}/checkpoints, or fetched by torchvision"
    )


def test_inception_reads_as_torchmetrics_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Inception(nn.Module):
        """Of bytes, each size by itself."""

        def __init__(self, name: str, features: list[str]) -> None:
            super().__init__()
            assert (name, features) == ("inception-v3-compat", ["2048"])
            self.last = nn.Linear(3, 8)

        def forward(self, images: Tensor) -> Tensor:
            assert images.dtype == torch.uint8
            vectors: Tensor = self.last(images.float().mean((2, 3)))
            return vectors

    def offline(*_: object) -> nn.Module:
        raise OSError("the hub cannot be reached")

    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ModelError, match="`inception` needs torch-fidelity: pip install 'ablate"):
        check_further("inception")
    package = ModuleType("torch_fidelity")
    package.__spec__ = ModuleSpec("torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", offline)
    with pytest.raises(ModelError, match="loaded: the hub cannot be reached; its weights are read"):
        load_readers(["inception"], "cpu")
    monkeypatch.setattr("torchmetrics.image.fid.NoTrainInceptionV3", Inception)
    (name, reader), *_ = load_readers(["inception"], "cpu").items()
    assert (name, reader.id, reader.width) == ("embedding_inception", "inception", 8)
    images = [Image.new("RGB", (size, 40), (size, 99, 7)) for size in (32, 32, 50, 32)]
    means = torch.tensor([[size, 99.0, 7.0] for size in (32, 32, 50, 32)])
    with torch.no_grad():
        expected = reader.network.last(means)
    np.testing.assert_allclose(reader.features(images), expected.numpy(), rtol=1e-5)


def test_what_metrics_need_is_a_problem_of_the_recipe(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    file = tmp_path / "r.yaml"
    file.write_text(
        f"version: 1\nname: r\nmodel: {tiny_folder}\nmetrics: [lpips, fid, kidd]\n"
        "edits: [zero: {modules: conv_in}]\n",
        encoding="utf-8",
    )
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.exit_code == 2
    assert (
        f"{file}:4: metrics[2]: must be one of lpips, lpips_vgg, lpips_squeeze, fid, kid, not"
        in (done.output)
    )
    assert "metrics[0]: `lpips` needs torchvision: pip install 'ablate[metrics]'" in done.output
    assert (
        "metrics[1]: `fid` is measured on the vectors of an image encoder, and there is none"
        in (done.output)
    )
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    done = CliRunner().invoke(main, ["check", str(file)])
    assert "`lpips` needs torchmetrics and torchvision: pip" in done.output
    assert "`fid` needs torchmetrics: pip install" in done.output


def test_sets_have_a_column_for_each_reader() -> None:
    assert extra_names(["lpips", "fid"], ["embedding", "embedding_dinov2_base"]) == [
        "lpips", "fid", "fid_dinov2_base",
    ]  # fmt: skip
