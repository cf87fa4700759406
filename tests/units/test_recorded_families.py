"""In every family what is recorded belongs to the prompts, whatever the pipeline's way to guide."""

from __future__ import annotations

import inspect
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, save
from test_families import SIDES
from torch import Tensor

from ablate.edits.variants import When
from ablate.network.slices import ScopeError
from ablate.sampling.pipeline import Pipeline
from ablate.units.concepts.selectivity import record_selectivity
from ablate.units.record import layers
from ablate.units.record.layers import capturing
from ablate.units.record.recording import grids_of, stream
from ablate.units.record.setup import Setup
from ablate.units.record.stimuli import Stimuli
from ablate.units.record.study import Study

NEGATIVE = "ugly"
# What hidden units are called, behind the number of their block.
UNET = {"norm2", "ff.net.0"}
HIDDEN = {
    "sd1": UNET, "sd2": UNET, "sdxl": UNET, "kandinsky22": {"norm2"}, "if": {"norm2"},
    "kandinsky3": {"group_norm", "feed_forward.0"},
    "sd3": {"ff.net.0", "ff_context.net.0"}, "pixart": {"ff.net.0"}, "hunyuan": {"ff.net.0"},
    "cogview4": {"ff.net.0"}, "qwen": {"img_mlp.net.0", "txt_mlp.net.0"},
    "flux": {"ff.net.0", "ff_context.net.0", "proj_mlp"},
    "chroma": {"ff.net.0", "ff_context.net.0", "proj_mlp"},
    "flux2-klein": {"ff.linear_in", "ff_context.linear_in", "attn.to_qkv_mlp_proj"},
    "auraflow": {"ff.linear_1", "ff_context.linear_1"}, "sana": {"ff.conv_inverted"},
    "lumina2": {"feed_forward.linear_1"}, "z-image": {"feed_forward.w1"},
}  # fmt: skip
READERS = {
    "CLIP": "fc1", "T5": "wi_0", "Bert": "dense", "Gemma": "gate_proj", "Qwen": "gate_proj",
    "Glm": "gate_up_proj",
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pipeline]:
    """Pipelines by family, each built once."""
    root = tmp_path_factory.mktemp("families")

    @cache
    def get(name: str) -> Pipeline:
        return Pipeline.load(str(save(name, root)), device="cpu", dtype="float32")

    return get


def family_of(pipeline: Pipeline) -> str:
    return Path(pipeline.model).name


def begun(pipeline: Pipeline, folder: Path, **asked: Any) -> Study:
    side = SIDES.get(family_of(pipeline), 0)
    keys = {"model": pipeline.model, "dtype": "float32", "sampling.num_inference_steps": 2,
            "sampling.negative_prompt": NEGATIVE}  # fmt: skip
    keys |= {"sampling.width": side, "sampling.height": side} if side else {}
    stimuli = Stimuli(("a", "b"), ("{}",), (0,))  # as many words in all families
    study = Study.load(Setup(stimuli, keys, **asked), folder, pipeline=pipeline)
    study.begin("selectivity")
    return study


class Enough(Exception):  # noqa: N818
    pass


def unguided(pipeline: Pipeline, prompt: str, paths: list[str]) -> dict[str, np.ndarray]:
    """What the layers' units give, on average, at the first step of a script that does not guide:
    nothing but the prompt's, and what it is with guidance, which is felt from the second step on.
    """
    family, takes = family_of(pipeline), inspect.signature(type(pipeline.pipe).__call__).parameters
    side, recorded = SIDES.get(family), defaultdict[str, list[np.ndarray]](list)
    options: dict[str, Any] = {"width": side, "height": side} if side else {}
    options |= {"use_resolution_binning": False, "clean_caption": False}
    if family == "kandinsky22":  # whose prior is guided by itself
        options |= {"callback_steps": None, "negative_prompt": NEGATIVE}
    # Flux is told how much guidance was distilled into it; Z-Image guides from nought on.
    options[pipeline.guidance] = {"flux": 5.0, "z-image": 0.0}.get(family, 1.0)

    def keep(path: str, values: Tensor) -> None:
        assert len(values) == 1
        recorded[path].append(values[0].clamp(min=0).mean(-1).numpy())

    def stop(*_: object) -> None:
        raise Enough

    handle = pipeline.denoiser.register_forward_hook(stop)
    try:
        with capturing(pipeline.denoiser, paths, "channels", keep), pytest.raises(Enough):
            pipeline.pipe(
                prompt=prompt,
                num_inference_steps=2,
                generator=torch.Generator().manual_seed(0),
                **{name: value for name, value in options.items() if name in takes},
            )
    finally:
        handle.remove()
    return {path: np.mean(calls, 0) for path, calls in recorded.items()}


@pytest.mark.parametrize("name", FAMILIES)
def test_text_encoders_have_hidden_units(name: str, pipelines: Callable[[str], Pipeline]) -> None:
    pipeline = pipelines(name)
    for part in pipeline.networks:
        if "text_encoder" in part:
            found = layers.choose_layers(pipeline.catalog_of(part), None, "channels")
            leaves = {layer.path.rpartition(".")[2] for layer in found}
            kind = type(pipeline.networks[part]).__name__
            assert leaves == {next(leaf for key, leaf in READERS.items() if key in kind)}


@pytest.mark.parametrize("name", FAMILIES)
def test_only_what_follows_the_prompts_counts(
    name: str, pipelines: Callable[[str], Pipeline], tmp_path: Path
) -> None:
    pipeline = pipelines(name)
    study = begun(pipeline, tmp_path, when=When("steps", 0, 0))
    assert not study.layers_note
    found = record_selectivity(study)
    assert {re.sub(r".*\d\.(?=\D)", "", layer.path) for layer in found.layers} == HIDDEN[name]
    for concept, prompt in enumerate(("a", "b")):
        by_hand = unguided(pipeline, prompt, [layer.path for layer in found.layers])
        for layer in found.layers:
            mean = found.mean[concept, found.slice_of(layer)]
            np.testing.assert_allclose(mean, by_hand[layer.path], atol=1e-4, err_msg=layer.path)


@pytest.mark.parametrize(
    ("name", "path"), [("hunyuan", "text_embedder.linear_1"), ("z-image", "cap_embedder.1")]
)
def test_layers_without_a_row_a_sample(
    name: str,
    path: str,
    pipelines: Callable[[str], Pipeline],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Some embed all words of all prompts one after the other."""
    pipeline = pipelines(name)
    assert path in {module.path for module in pipeline.catalog}
    with pytest.raises(ScopeError, match=rf"`{path}` has \d+ rows where .* called with 4"):
        record_selectivity(begun(pipeline, tmp_path / "named", modules=path))
    if name == "z-image":  # as a network would be whose hidden units have other names
        monkeypatch.setattr(layers, "HIDDEN", re.compile("(?!)"))
        study = begun(pipeline, tmp_path / "all")
        first = f"all {len(study.layers)} are recorded, such as `{study.layers[0].path}`"
        assert first in study.layers_note
        paths = {layer.path for layer in record_selectivity(study).layers}
        assert path not in paths
        assert "layers.0.attention.to_q" in paths


@pytest.mark.parametrize(
    ("name", "layer", "words"),
    [
        ("lumina2", "noise_refiner.0.attn.to_q", "context_refiner.0.attn.to_q"),
        ("qwen", "img_in", "txt_norm"),
        ("sd3", "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.add_q_proj"),
        ("sd1", "down_blocks.0.resnets.0.norm2", "down_blocks.0.attentions.0"
                ".transformer_blocks.0.attn2.to_k"),
    ],
)  # fmt: skip
def test_words_are_no_map(
    name: str, layer: str, words: str, pipelines: Callable[[str], Pipeline], tmp_path: Path
) -> None:
    study = begun(pipelines(name), tmp_path, modules=[layer, words])
    positions: dict[str, int] = {}

    class Sink:
        def begin(self, samples: int) -> None:
            pass

        def record(self, path: str, values: Tensor) -> None:
            positions[path] = values.shape[2]

        def end(self, numbers: Sequence[int]) -> None:
            pass

    assert list(stream(study, Sink())) == [2]
    grid = grids_of(study)
    found = {path: grid(n) for path, n in positions.items()}
    side = round(positions[layer] ** 0.5)
    assert found == {layer: (0, side, side), words: None}
