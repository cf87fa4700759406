"""Small pipelines with random weights, built once per session of tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may reach for a hub
if "PYTEST_XDIST_WORKER" in os.environ:  # workers that take each other's threads are slow
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from ablate import bundled, lab
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline

STEPS = 2


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What is true of which family of pipelines, and how near recipes are to their papers."""
    _families(terminalreporter)
    reports = [
        r for outcome in ("passed", "failed") for r in terminalreporter.stats.get(outcome, [])
    ]
    papers = [row for r in reports for name, row in r.user_properties if name == "paper"]
    if papers:
        terminalreporter.section("papers: the farthest pixel from hooks written by hand, of 255")
    for row in papers:
        terminalreporter.line(" ".join(str(word).ljust(26) for word in row).rstrip())


def _families(terminalreporter: pytest.TerminalReporter) -> None:
    table: dict[str, dict[str, str]] = {}
    for outcome, word in (("passed", "yes"), ("failed", "NO"), ("error", "NO")):
        for report in terminalreporter.stats.get(outcome, []):
            _, of_families, case = report.nodeid.partition("test_it_is_true_of_every_family[")
            if of_families and report.when == "call":
                name, _, feature = case.removesuffix("]").rpartition("-")
                table.setdefault(name, {})[feature] = word
    features = list(dict.fromkeys(feature for row in table.values() for feature in row))
    if not features:
        return
    terminalreporter.section("families")
    rows = [["family", *features], *([n, *map(row.get, features)] for n, row in table.items())]
    for row in rows:
        terminalreporter.line(" ".join(str(word).ljust(18) for word in row).rstrip())


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of Stable Diffusion's classes, a few hundred thousand random weights in all."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel as UNet,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(bundled.FOLDER / "tokenizer")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    folder = tmp_path_factory.mktemp("models") / "tiny"
    StableDiffusionPipeline(
        vae=AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=16,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=UNet(
            sample_size=8,
            block_out_channels=(16, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=32,
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        scheduler=DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> Pipeline:
    return Pipeline.load(str(tiny_folder), device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def plain(tiny_folder: Path) -> Any:
    """The same pipeline as a script of diffusers loads it."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(tiny_folder, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def bundled_pipeline() -> Pipeline:
    return Pipeline.load("bundled", device="cpu", dtype="float32")


@pytest.fixture
def build(tiny_folder: Path) -> Callable[..., Recipe]:
    """A recipe for the tiny pipeline: its keys, with short sampling unless told otherwise."""

    def made(**keys: object) -> Recipe:
        base = {
            "version": 1,
            "name": "test",
            "model": str(tiny_folder),
            "dtype": "float32",
            "sampling": {"num_inference_steps": STEPS},
        }
        return Recipe.build(base | keys)

    return made


@pytest.fixture
def run(tiny: Pipeline, tmp_path: Path) -> Callable[..., lab.Result]:
    """Run a recipe on the tiny pipeline into a folder of the test's own."""

    def ran(recipe: Recipe, folder: str = "run", **options: object) -> lab.Result:
        return lab.run(recipe, tmp_path / folder, **({"pipeline": tiny} | options))  # type: ignore[arg-type]

    return ran


@pytest.fixture
def without_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs draw no report, which takes longer than their cells: for files that look at these."""
    monkeypatch.setattr(lab, "present_run", lambda store: store.folder / "report.html")
