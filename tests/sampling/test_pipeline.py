"""Models: bundled, local folders, hub ids in the cache; schedulers, devices and dtypes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from byhand import hooked
from torch import Tensor, nn

from ablate import lab
from ablate.models.catalogs import load_catalog
from ablate.models.devices import find_device, find_dtype
from ablate.models.errors import ModelError, SizeError
from ablate.recipe.recipe import Recipe
from ablate.sampling.names import scheduler_class
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.sampling.settings import Sampling

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_catalog_from_configuration_is_that_of_the_loaded_network(
    tiny: Pipeline, tiny_folder: Path
) -> None:
    catalog = load_catalog(str(tiny_folder))
    assert catalog == tiny.catalog
    assert sum(m.parameters for m in catalog) == sum(p.numel() for p in tiny.network.parameters())


@pytest.mark.parametrize("component", ["text_encoder", "vae"])
def test_other_components_have_catalogs(component: str, tiny_folder: Path, tiny: Pipeline) -> None:
    catalog = load_catalog(str(tiny_folder), component)
    network = getattr(tiny.pipe, component)
    assert sum(m.parameters for m in catalog) == sum(p.numel() for p in network.parameters())
    assert {m.path for m in catalog} <= {path for path, _ in network.named_modules()}


def test_editing_the_text_encoder_changes_images(
    build: Build, run: RunIt, tiny_folder: Path
) -> None:
    recipe = build(component="text_encoder", edits=[{"randomize": {"modules": "*"}}])
    pipeline = Pipeline.load(
        str(tiny_folder), component="text_encoder", device="cpu", dtype="float32"
    )
    baseline, edited = run(recipe, pipeline=pipeline)
    assert edited.drift["rmse"] > 0
    assert baseline.drift["rmse"] == 0


def cache_of(folder: Path, cache: Path, suffixes: tuple[str, ...]) -> None:
    """A hub cache with the files of a folder as `some/tiny`."""
    snapshot = cache / "models--some--tiny" / "snapshots" / COMMIT
    for file in folder.rglob("*"):
        if file.suffix in suffixes:
            target = snapshot / file.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    refs = cache / "models--some--tiny" / "refs"
    refs.mkdir(parents=True)
    (refs / "main").write_text(COMMIT)


def ablate(*arguments: object, cache: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ablate", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)},
        check=False,
    )


def test_hub_id_lists_modules_from_cached_configuration(tiny_folder: Path, tmp_path: Path) -> None:
    cache_of(tiny_folder, tmp_path, (".json",))
    done = ablate("modules", "some/tiny", cache=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{len(load_catalog(str(tiny_folder)))} modules")


def test_hub_id_runs_from_the_cache_and_is_known_by_its_commit(
    tiny_folder: Path, tmp_path: Path
) -> None:
    cache_of(tiny_folder, tmp_path / "cache", (".json", ".safetensors"))
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "version: 1\nname: r\nsampling: {num_inference_steps: 1}\n"
        "edits: [{zero: {modules: conv_in}}]\n"
    )
    out = tmp_path / "out"
    done = ablate("run", recipe, "--model", "some/tiny", "--out", out, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert f"commit:{COMMIT}" in (out / "run.json").read_text()


def test_a_folder_with_one_component(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder / "unet", tmp_path / "alone")
    assert load_catalog(str(tmp_path / "alone")) == load_catalog(str(tiny_folder))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("bundeld", "did you mean `bundled`"),
        ("/no/such/folder", "there is no folder"),
        (str(Path(__file__).parent.parent), "has no denoiser"),
    ],
)
def test_unknown_models_are_reported(model: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_catalog(model)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ddim", "DDIMScheduler"),
        ("DDIMScheduler", "DDIMScheduler"),
        ("euler", "EulerDiscreteScheduler"),
        ("euler_ancestral", "EulerAncestralDiscreteScheduler"),
        ("dpmsolver_multistep", "DPMSolverMultistepScheduler"),
        ("lms", "LMSDiscreteScheduler"),
        ("pndm", "PNDMScheduler"),
    ],
)
def test_schedulers_by_name(name: str, expected: str) -> None:
    assert scheduler_class(name).__name__ == expected


@pytest.mark.parametrize("scheduler", ["euler_ancestral", "dpmsolver_multistep", "ddpm"])
def test_other_schedulers_sample_alike_alone_and_in_a_batch(scheduler: str, tiny: Pipeline) -> None:
    settings = tiny.settings(Sampling(num_inference_steps=3, scheduler=scheduler))
    alone = tiny.sample([Request("a cat", 1)], settings).images
    among = tiny.sample([Request("a dog", 0), Request("a cat", 1)], settings).images
    np.testing.assert_allclose(alone[0], among[1], atol=2 / 255)
    assert np.isfinite(alone).all()


def test_guidance_negative_prompt_steps_and_size_matter(tiny: Pipeline) -> None:
    requests = [Request("a cat", 0)]

    def images(**sampling: object) -> np.ndarray:
        options = {"num_inference_steps": 3} | sampling
        return tiny.sample(requests, tiny.settings(Sampling(**options))).images  # type: ignore[arg-type]

    plain = images()
    assert plain.shape == (1, 16, 16, 3)
    assert images(width=32, height=24).shape == (1, 24, 32, 3)
    for other in (
        {"guidance_scale": 1.0},
        {"guidance_scale": 9.0},
        {"negative_prompt": "a dog"},
        {"num_inference_steps": 5},
    ):
        assert np.abs(images(**other) - plain).max() > 1e-4, other


@pytest.mark.parametrize("scheduler", [None, "euler"])
def test_a_wrong_size_is_reported_whatever_the_scheduler(
    scheduler: str | None, tiny: Pipeline
) -> None:
    def refuse(_module: nn.Module, _given: object, output: Tensor) -> None:
        if output.shape[-1] != tiny.denoiser.config.sample_size:
            raise ValueError("size mismatch")

    settings = tiny.settings(Sampling(2, width=32, height=32, scheduler=scheduler))
    message = "cannot make pictures of 32 × 32 pixels, while it can of 16 × 16, its default size: s"
    refused = pytest.raises(SizeError, match=message)
    with hooked(tiny.network, "conv_in", refuse), refused, tiny.explain_size_errors(settings):
        tiny.sample([Request("a cat", 0)], settings)


def test_devices_and_dtypes() -> None:
    cpu = torch.device("cpu")
    assert find_device("cpu") == cpu
    assert find_dtype("float32", cpu) == torch.float32
    assert find_dtype("auto", cpu) in (torch.float32, torch.bfloat16)
    with pytest.raises(ModelError, match="device `warp` cannot be used here"):
        find_device("warp")
