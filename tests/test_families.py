"""One lab for every family: what is true of one network is true of all, whatever its pipeline.

The table of families and features is printed after the tests (`conftest.py`).
"""

from __future__ import annotations

import inspect
import logging
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from families import FAMILIES, save
from torch import nn

from ablate import lab
from ablate.drift.measure import MeasuredCell
from ablate.engine.export import export_variant
from ablate.models.catalogs import flow_of
from ablate.models.errors import ModelError, SizeError
from ablate.models.sizes import default_side, outline as outline_with, outline_of, wrong_side
from ablate.models.source import Source
from ablate.network.components import phase_of
from ablate.network.hooks import tensors
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.sampling.settings import Sampling

PROMPT, SEED, STEPS, GUIDANCE = "a cat in a party hat", 3, 2, 5.0
ALIKE = 2 / 255 + 1e-6
# Pixels of a side, where the family's default size is not small.
SIDES = {"flux": 16, "sana": 32, "qwen": 32, "z-image": 16, "kandinsky3": 64, "kandinsky22": 16,
         "auraflow": 16, "chroma": 16, "flux2-klein": 16}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning")


@dataclass
class Family:
    """A small pipeline of one family, as the lab loads it and as a script of diffusers does."""

    name: str
    folder: Path

    @cached_property
    def pipeline(self) -> Pipeline:
        return Pipeline.load(str(self.folder), device="cpu", dtype="float32")

    @cached_property
    def plain(self) -> Any:
        pipe = DiffusionPipeline.from_pretrained(self.folder, use_safetensors=True)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    @property
    def network(self) -> nn.Module:
        """The plain pipeline's denoiser."""
        network: nn.Module = getattr(self.plain, self.pipeline.denoiser_name)
        return network

    @property
    def text_encoder(self) -> str:
        return next(n for n in self.pipeline.networks if "text_encoder" in n)

    @cached_property
    def modules(self) -> list[str]:
        """Some modules all over the denoiser, whose weights matter to the image."""
        rows = [m.path for m in self.pipeline.catalog if m.kind in ("Linear", "Conv2d")]
        # The last block's text stream is dropped with its outputs.
        rows = [path for path in rows if not re.search(r"txt_mlp|context|add_", path)]
        return rows[:: max(1, len(rows) // 5)][:6]

    def run(self, folder: Path, **keys: Any) -> lab.Result:
        """Run a recipe on it, as the lab does by itself by default."""
        side = SIDES.get(self.name)
        size = {"width": side, "height": side} if side else {}
        batch_size = keys.pop("batch_size", None)
        recipe = Recipe.build(
            {
                "version": 1,
                "name": "families",
                "model": str(self.folder),
                "dtype": "float32",
                "prompts": [PROMPT],
                "seeds": [SEED],
                "sampling": {"num_inference_steps": STEPS, **size},
            }
            | keys
        )
        return lab.run(recipe, folder, pipeline=self.pipeline, batch_size=batch_size)

    def image(self, pipe: Any = None) -> np.ndarray:
        """What a script of diffusers gets: float, shape (height, width, 3)."""
        pipe = pipe or self.plain
        takes = inspect.signature(type(pipe).__call__).parameters
        side = SIDES.get(self.name)
        options: dict[str, Any] = {"width": side, "height": side} if side else {}
        options |= {"use_resolution_binning": False, "clean_caption": False}
        if self.name == "qwen":
            options |= {"true_cfg_scale": GUIDANCE, "negative_prompt": ""}
        else:
            options["guidance_scale"] = GUIDANCE
        if self.name == "kandinsky22":
            options["callback_steps"] = None
        images = pipe(
            prompt=PROMPT,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(SEED),
            output_type="np",
            **{name: value for name, value in options.items() if name in takes},
        ).images
        image: np.ndarray = np.asarray(images)[0]
        return image


def shown(cell: MeasuredCell) -> np.ndarray:
    return np.asarray(cell.image(), dtype=float) / 255


@contextmanager
def zeroed(network: nn.Module, *paths: str) -> Iterator[None]:
    """Weights set to zero by hand, and put back."""
    modules = dict(network.named_modules())
    parameters = [p for path in paths for p in modules[path].parameters(recurse=False)]
    before = [p.detach().clone() for p in parameters]
    with torch.no_grad():
        for parameter in parameters:
            parameter.zero_()
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, weights in zip(parameters, before, strict=True):
                parameter.copy_(weights)


def bits(network: nn.Module) -> dict[str, bytes]:
    return {n: t.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
            for n, t in network.state_dict().items() if t.numel()}  # fmt: skip


def differ(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max())


# ---------------------------------------------------------------- features


def catalog(family: Family, _folder: Path) -> None:
    """Every module that owns parameters is there once, with a stage and a role."""
    modules = family.pipeline.catalog
    owners = {n: m for n, m in family.network.named_modules() if list(m.parameters(recurse=False))}
    assert {m.path for m in modules} == set(owners)
    assert sum(m.parameters for m in modules) == sum(p.numel() for p in family.network.parameters())
    assert [m.path for m in modules if m.role == "other"] == []
    assert {"in", "out"} <= {m.stage for m in modules}
    assert any(m.heads for m in modules)


def zero_a_module(family: Family, folder: Path) -> None:
    """The images, the baseline's too, are those of a script that zeroes the weights by hand."""
    for path in (family.modules[0], family.modules[-1]):
        result = family.run(folder / path, edits=[{"zero": {"modules": path}}])
        baseline, edited = map(shown, result)
        assert differ(baseline, family.image()) <= ALIKE
        with zeroed(family.network, path):
            assert differ(edited, family.image()) <= ALIKE
        assert differ(edited, baseline) > ALIKE


def mix_noise_into_all(family: Family, folder: Path) -> None:
    """Nought is the baseline, more is further, and afterwards all is as it was."""
    before = bits(family.pipeline.denoiser)
    result = family.run(
        folder,
        axes={"a": {"values": [0.0, 0.1, 0.5]}},
        edits=[{"mix_noise": {"modules": "*", "amount": "$a"}}],
    )
    nought, some, much = (cell.drift["rmse"] for cell in result)
    assert nought == 0
    assert 0 < some < much
    assert bits(family.pipeline.denoiser) == before


def by_rows(family: Family, folder: Path) -> None:
    """Different variants in one batch give what each gives alone."""
    keys: dict[str, Any] = {
        "axes": {"module": {"values": family.modules}},
        "edits": [{"randomize": {"modules": "$module"}}],
        "seeds": [SEED, 4],
    }
    together = family.run(folder / "together", **keys, batch_size=7)
    alone = family.run(folder / "alone", **keys, batch_size=1)
    assert together.summary.batch_size > 1
    assert together.summary.by_rows > together.summary.in_place
    for one, other in zip(together, alone, strict=True):
        assert differ(shown(one), shown(other)) <= ALIKE


def text_encoder_edit(family: Family, folder: Path) -> None:
    """Beside an edit of the denoiser, as a script would make both."""
    component, path_in_denoiser = family.text_encoder, family.modules[-1]
    roles = ("feed_forward", "self_attention")
    rows = family.pipeline.catalog_of(component)
    path = next(m.path for m in rows if m.kind == "Linear" and m.role in roles)
    edit = {"zero": {"modules": path, "component": component}}
    result = family.run(folder, edits=[edit, {"zero": {"modules": path_in_denoiser}}])
    _, edited = map(shown, result)
    with zeroed(getattr(family.plain, component), path), zeroed(family.network, path_in_denoiser):
        assert differ(edited, family.image()) <= ALIKE
    with zeroed(family.network, path_in_denoiser):
        assert differ(edited, family.image()) > 0
    assert phase_of(component) == "encoding"


def when(family: Family, folder: Path) -> None:
    """At the second of two steps, as by hand; so is a window of the second half."""
    path = family.modules[-1]
    windows = [{"steps": [1, 1]}, {"fraction": [0.5, 1]}]
    result = family.run(
        folder,
        axes={"window": {"windows": windows}},
        edits=[{"zero": {"modules": path, "when": "$window"}}],
    )
    baseline, second, half = map(shown, result)
    by_hand = _in_second_half(family, path)
    assert differ(second, by_hand) <= ALIKE
    assert differ(half, second) == 0
    assert differ(second, baseline) > 0


def _in_second_half(family: Family, path: str) -> np.ndarray:
    """Zeroed once half of the denoiser's calls are over."""
    calls: list[int] = []
    handle = family.network.register_forward_pre_hook(lambda *_: calls.append(1))
    family.image()
    handle.remove()
    half, calls_made = len(calls) // 2, []

    def count(*_: object) -> None:
        if len(calls_made) == half:
            during.__enter__()
        calls_made.append(1)

    during = zeroed(family.network, path)
    handle = family.network.register_forward_pre_hook(count)
    try:
        return family.image()
    finally:
        handle.remove()
        during.__exit__(None, None, None)


def export_and_reload(family: Family, folder: Path) -> None:
    """What is exported is a pipeline of diffusers that gives the cell's image."""
    edits = [
        {"scale": {"modules": family.modules[0], "factor": 0.3}},
        {"randomize": {"modules": family.modules[-1]}},
    ]
    result = family.run(folder / "run", edits=edits)
    (edited,) = [cell for cell in result if not cell.is_baseline]
    written = export_variant(result.store, edited.variant, folder / "out", pipeline=family.pipeline)
    pipe = DiffusionPipeline.from_pretrained(written.path, use_safetensors=True)
    pipe.set_progress_bar_config(disable=True)
    assert differ(shown(edited), family.image(pipe)) <= ALIKE


def sizes(family: Family, folder: Path) -> None:
    """A picture is of the size asked for, or a sentence says why it cannot be."""
    pipeline = family.pipeline
    outline = outline_of(Source(str(family.folder)))
    for width, height in ((24, 40), (64, 96), (272, 16)):
        settings = pipeline.settings(Sampling(2, GUIDANCE, width=width, height=height))
        sides = {"width": width, "height": height}
        # Without weights as with them.
        wrongs = {name: wrong_side(outline, name, side) for name, side in sides.items()}
        known = [f"{name} {wrong}" for name, wrong in wrongs.items() if wrong is not None]
        if known:
            with pytest.raises(ModelError, match=re.escape(known[0])):
                pipeline.check_size(settings)
            continue
        pipeline.check_size(settings)
        # Whose small autoencoder is not the one that its code is written for.
        refused = pytest.raises(SizeError, match=f"cannot make pictures of {width} × {height} pix")
        with (
            refused if family.name == "hunyuan" else nullcontext(),
            pipeline.explain_size_errors(settings),
        ):
            samples = pipeline.sample([Request(PROMPT, SEED)], settings)
            assert samples.images.shape == (1, height, width, 3)


def same_experiments(family: Family, _folder: Path) -> None:
    """Modules whose zeroing comes to the same, by the data flow, give the same bits."""
    outputs = Outputs(family)
    groups = outputs.groups()
    kinds = {tuple(re.sub(r"\d+", "*", path) for path in group): group for group in groups}
    for group in kinds.values():
        if len(group) > 1:
            assert len({outputs(path) for path in group}) == 1, group
    assert any(len(group) > 1 for group in groups) == (family.name != "kandinsky22")
    outputs.flow = flow_of(family.pipeline.denoiser)  # as it is loaded
    assert outputs.groups() == groups


class Outputs:
    """What a family's denoiser gives in its first call of a sampling, with modules zeroed."""

    def __init__(self, family: Family) -> None:
        self.network = family.network
        self.flow: Any = family.pipeline.catalog.flow
        self.modules = dict(self.network.named_modules())
        self.paths = [module.path for module in family.pipeline.catalog]
        calls: list[Any] = []
        handle = self.network.register_forward_pre_hook(
            lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
        )
        family.image()
        handle.remove()
        self.args, self.kwargs = calls[0]

    def __call__(self, *paths: str) -> bytes:
        with zeroed(self.network, *paths), torch.no_grad():
            result = self.network(*self.args, **self.kwargs)
        return b"".join(tensor.numpy().tobytes() for tensor in tensors(result))

    def effect(self, *paths: str) -> Any:
        return self.flow.effect(
            f"{path}.{name}".removeprefix(".")
            for path in paths
            for name, _ in self.modules[path].named_parameters(recurse=False)
        )

    def groups(self) -> list[list[str]]:
        """Modules of equal effects; each that has none is alone."""
        groups: dict[Any, list[str]] = {}
        for path in self.paths:
            groups.setdefault(self.effect(path) or path, []).append(path)
        return list(groups.values())


# Equal for reasons beyond zeros: keys that are a bias, values beside a one, an attention over a
# single place, text whose result is dropped.
MORE_ARE_EQUAL = {"sana": 2, "hunyuan": 9, "kandinsky3": 1, "qwen": 3}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_distinct_zeroings_are_distinct_in_bits(
    name: str, families: Callable[[str], Family]
) -> None:
    """All modules one at a time, and random sets with one module more."""
    outputs = Outputs(families(name))
    groups = outputs.groups()
    in_bits = {path: hash(outputs(path)) for path in outputs.paths}
    assert all(len({in_bits[path] for path in group}) == 1 for group in groups)
    assert len(groups) - len(set(in_bits.values())) == MORE_ARE_EQUAL.get(name, 0)
    rng, equal = random.Random(0), 0
    for _ in range(15 if len(outputs.paths) < 300 else 0):
        order = rng.sample(outputs.paths, len(outputs.paths))
        count = rng.randrange(1, len(order))
        sets = order[:count], order[: count + 1]
        if (effect := outputs.effect(*sets[0])) and effect == outputs.effect(*sets[1]):
            equal += 1
            assert outputs(*sets[0]) == outputs(*sets[1]), sets
    assert equal or name == "kandinsky3"


FEATURES: dict[str, Callable[[Family, Path], None]] = {
    feature.__name__: feature
    for feature in (
        catalog,
        zero_a_module,
        mix_noise_into_all,
        by_rows,
        text_encoder_edit,
        when,
        export_and_reload,
        sizes,
        same_experiments,
    )
}


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Family]:
    """Families by name, each built once."""
    root = tmp_path_factory.mktemp("families")
    families: dict[str, Family] = {}

    def get(name: str) -> Family:
        if name not in families:
            families[name] = Family(name, save(name, root))
        return families[name]

    return get


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("name", FAMILIES)
def test_it_is_true_of_every_family(
    name: str, feature: str, families: Callable[[str], Family], tmp_path: Path
) -> None:
    FEATURES[feature](families(name), tmp_path)


def outline(kind: str, denoiser: str = "", **index: Any) -> Any:
    """A pipeline of that class, with nothing but configurations for its networks."""
    config = {"_class_name": denoiser, "sample_size": 64, "patch_size": 1, "pos_embed_max_size": 16}
    vae = {"block_out_channels": [8] * 4, "spatial_compression_ratio": 16, "shift_factor": 0}
    pipe = outline_with({"_class_name": kind, **index}, {"transformer": config, "vae": vae})
    assert pipe is not None
    return pipe


@pytest.mark.filterwarnings("ignore:.*LoraLoaderMixin:FutureWarning")
@pytest.mark.parametrize("kind", ["ZImagePipeline", "PRXPipeline", "PRXPixelPipeline"])
def test_default_sizes_in_code_or_in_pixels(kind: str) -> None:
    pipe = outline(kind, default_sample_size=1024)
    assert (default_side(pipe, "width"), default_side(pipe, "height")) == (1024, 1024)


@pytest.mark.parametrize("kind", ["StableDiffusion3Pipeline", "StableDiffusion3PAGPipeline"])
def test_positions_are_those_of_the_denoiser(kind: str) -> None:
    pipe = outline(kind, "SD3Transformer2DModel")
    assert wrong_side(pipe, "width", 128) is None
    assert "must be at most 128 for a" in str(wrong_side(pipe, "width", 136))


@pytest.mark.parametrize("level", [logging.WARNING, logging.ERROR])
@pytest.mark.parametrize("kind", ["HunyuanImagePipeline", "BriaPipeline", "Kandinsky5T2IPipeline"])
def test_sizes_that_nobody_asked_for_are_not_warned_of(
    kind: str, level: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = outline(kind)
    logger = logging.getLogger(type(pipe).__module__)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    logger.setLevel(level)
    wrong = wrong_side(pipe, "width", 1040)
    assert kind == "Kandinsky5T2IPipeline" or "must be a multiple of" in str(wrong)
    assert (caplog.messages, logger.level) == ([], level)
    logger.setLevel(logging.NOTSET)
