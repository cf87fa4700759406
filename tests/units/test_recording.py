"""What is recorded of layers is what hooks written by hand see in plain diffusers."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from byhand import hooked, image
from torch import nn

from ablate import lab
from ablate.edits.variants import When
from ablate.engine.progress import Progress
from ablate.network.selectors import SelectorError
from ablate.network.slices import ScopeError
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Stopped
from ablate.store.activations import Statistics
from ablate.units.concepts.selectivity import ByConcept, record_selectivity
from ablate.units.record import recording
from ablate.units.record.calls import Calls
from ablate.units.record.layers import capturing, grid_of, maps_of, middle_of
from ablate.units.record.setup import Setup, StudyError
from ablate.units.record.stimuli import Stimuli
from ablate.units.record.study import Study

NORM = "down_blocks.0.resnets.0.norm2"
GATE = "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0"
OUT = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0"
TWO = Stimuli(("cat", "dog"), ("a {}",), (0,))

Begin = Callable[..., Study]


@pytest.fixture
def begin(tiny: Pipeline, tiny_folder: Path, tmp_path: Path) -> Begin:
    """A study of the small pipeline, begun."""

    def begun(stimuli: Stimuli = TWO, folder: str = "study", **asked: Any) -> Study:
        keys = {"model": str(tiny_folder), "dtype": "float32",
                "sampling.num_inference_steps": 2} | asked.pop("keys", {})  # fmt: skip
        study = Study.load(Setup(stimuli, keys, **asked), tmp_path / folder, pipeline=tiny)
        study.begin("selectivity")
        return study

    return begun


def layer(found: Statistics, path: str) -> np.ndarray:
    """Means by concept of one layer's units."""
    (one,) = (layer for layer in found.layers if layer.path == path)
    return found.mean[:, found.slice_of(one)]


# ---------------------------------------------------------------- what is recorded


def test_channels_of_all_kinds_of_output() -> None:
    torch.manual_seed(0)
    network = nn.ModuleDict(
        {"conv": nn.Conv2d(3, 4, 1), "linear": nn.Linear(3, 5), "norm": nn.GroupNorm(1, 3)}
    )
    recorded: dict[str, torch.Tensor] = {}
    with capturing(network, list(network), "channels", recorded.__setitem__):
        conv = network["conv"](torch.randn(2, 3, 4, 4))
        tokens = network["linear"](torch.randn(2, 7, 3))
        network["norm"](torch.randn(2, 3, 2, 2))
    assert torch.equal(recorded["conv"], conv.flatten(2))
    assert torch.equal(recorded["linear"], tokens.transpose(1, 2))
    assert recorded["norm"].shape == (2, 3, 4)
    with capturing(network, ["linear"], "channels", recorded.__setitem__):
        pooled = network["linear"](torch.randn(2, 3))
    assert torch.equal(recorded["linear"], pooled[..., None])


def test_hooks_are_gone_whatever_happened() -> None:
    network = nn.ModuleDict({"a": nn.Linear(2, 2)})
    recorded: list[str] = []

    def refuse(path: str, _values: torch.Tensor) -> None:
        recorded.append(path)
        raise RuntimeError("enough")

    with (
        pytest.raises(RuntimeError, match="enough"),
        capturing(network, ["a"], "channels", refuse),
    ):
        network["a"](torch.ones(1, 2))
    network["a"](torch.ones(1, 2))
    assert recorded == ["a"]
    with (
        pytest.raises(ScopeError, match="no module `b`"),
        capturing(network, ["a", "b"], "channels", refuse),
    ):
        pass
    network["a"](torch.ones(1, 2))
    assert recorded == ["a"]


@pytest.mark.parametrize(
    ("positions", "size", "grid"),
    [
        (64, (64, 64), (0, 8, 8)),
        (65, (1, 1), (1, 8, 8)),
        (32, (32, 64), (0, 4, 8)),
        (33, (32, 64), (1, 4, 8)),
        (24, (64, 64), None),
        (1, (64, 64), None),
        (28, (64, 128), None),
    ],
)
def test_positions_are_a_map_of_the_image(
    positions: int, size: tuple[int, int], grid: tuple[int, int, int] | None
) -> None:
    assert grid_of(positions, *size) == grid


def test_maps_that_are_known_are_the_only_ones() -> None:
    """Halved level by level in a U-Net; of a transformer that of its patches."""

    def network(**config: Any) -> Any:
        made = nn.Identity()
        made.config = config
        return made

    latents = torch.zeros(2, 4, 9, 16)
    unet = maps_of(network(block_out_channels=(8, 16, 16)), (latents, 3), 72, 128)
    assert unet == {(9, 16), (5, 8), (3, 4)}
    assert grid_of(40, 72, 128, unet) == (0, 5, 8)  # though no proportion is kept
    assert grid_of(36, 72, 128, unet) is None
    assert maps_of(network(patch_size=2), (latents[..., :8, :],), 64, 128) == {(4, 8)}
    listed = [torch.zeros(4, 1, 8, 16)] * 2
    assert maps_of(network(all_patch_size=(2,)), (listed,), 64, 128) == {(4, 8)}
    packed = torch.zeros(1, 6 * 8, 16)  # tokens already
    assert maps_of(network(patch_size=2), (packed,), 96, 128) == {(6, 8)}


def test_places_are_middles() -> None:
    found = middle_of(torch.tensor([0, 1, 8]), (1, 2, 4))
    assert found[1:].tolist() == [[0.25, 0.125], [0.75, 0.875]]
    assert found[0].isnan().all()
    assert middle_of(torch.tensor([3]), None).isnan().all()


# ---------------------------------------------------------------- the denoiser


def test_it_records_what_plain_hooks_see(begin: Begin, plain: Any) -> None:
    found = record_selectivity(begin())
    assert [layer.path for layer in found.layers][:2] == [NORM, GATE]
    for path, channels in ((NORM, 1), (GATE, 2)):
        recorded: list[np.ndarray] = []

        def keep(_module: nn.Module, _given: Any, output: Any) -> None:
            last = output[-1:].movedim(channels, 1).flatten(2)  # noqa: B023
            recorded.append(last.clamp(min=0).mean(-1)[0].numpy())  # noqa: B023

        for concept, prompt in enumerate(("a cat", "a dog")):
            recorded.clear()
            with hooked(plain.unet, path, keep):
                image(plain, prompt)
            assert len(recorded) == 2
            np.testing.assert_allclose(layer(found, path)[concept], np.mean(recorded, 0), atol=1e-5)


def test_heads_are_what_the_projection_reads(begin: Begin, plain: Any) -> None:
    found = record_selectivity(begin(kind="heads", modules="*attn2.to_out.0"))
    recorded: list[np.ndarray] = []

    def keep(_module: nn.Module, given: Any, _output: Any) -> None:
        last = given[0][-1]  # tokens of the rows with the prompt
        parts = last.reshape(len(last), 2, -1)
        recorded.append(parts.square().mean(-1).sqrt().mean(0).numpy())

    with hooked(plain.unet, OUT, keep):
        image(plain, "a cat")
    assert layer(found, OUT).shape == (2, 2)
    np.testing.assert_allclose(layer(found, OUT)[0], np.mean(recorded, 0), atol=1e-5)


def test_only_moments_within_the_window_count(begin: Begin, plain: Any) -> None:
    found = record_selectivity(begin(when=When("steps", 1, 1)))
    recorded: list[np.ndarray] = []

    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        recorded.append(output[-1].clamp(min=0).flatten(1).mean(-1).numpy())

    with hooked(plain.unet, NORM, keep):
        image(plain, "a cat")
    np.testing.assert_allclose(layer(found, NORM)[0], recorded[1], atol=1e-5)
    with pytest.raises(ScopeError, match=r"steps 7–9: it never opens; this sampling has 2 steps"):
        record_selectivity(begin(folder="never", when=When("steps", 7, 9)))


def test_edits_are_active_while_it_records(begin: Begin, tiny: Pipeline) -> None:
    study = begin()
    record_selectivity(study)
    before = [p.clone() for p in tiny.denoiser.parameters()]
    sink = ByConcept.of(study)
    edits = [{"zero": {"modules": NORM}}]
    assert list(recording.stream(study, sink, plan=study.planned(edits))) == [2]
    assert sink.statistics is not None
    assert not layer(sink.statistics, NORM).any()
    assert layer(sink.statistics, GATE).any()
    assert all(torch.equal(a, b) for a, b in zip(before, tiny.denoiser.parameters(), strict=True))
    assert sum(cell.done for cell in study.pictures.cells()) == 4  # both are there
    with pytest.raises(StudyError, match="leave the network as it is"):
        study.planned([{"scale": {"modules": NORM, "factor": 1}}])


def test_its_pictures_are_a_run_like_any_other(
    begin: Begin, run: Callable[..., lab.Result], build: Callable[..., Any]
) -> None:
    study = begin()
    record_selectivity(study)
    one, other = (cell.path for cell in study.pictures.cells())
    one.write_bytes(one.read_bytes()[:200])  # they are made again
    other.write_bytes(b"nothing")
    record_selectivity(study)
    alone = run(build(axes={"prompt": {"values": ["a cat", "a dog"]}}))
    for cell, other in zip(study.pictures.cells(), alone, strict=True):
        assert cell.key == other.key
        assert cell.image().tobytes() == other.image().tobytes()


def test_the_strongest_samples_and_their_places(begin: Begin, plain: Any) -> None:
    stimuli = Stimuli(("cat", "dog"), ("a {}",), (0, 1))
    study = begin(stimuli, modules=NORM)
    found = record_selectivity(study)
    means, peaks = [], []
    for prompt, seed in (("a cat", 0), ("a cat", 1), ("a dog", 0), ("a dog", 1)):
        maps: list[np.ndarray] = []

        def keep(_module: nn.Module, _given: Any, output: Any) -> None:
            maps.append(output[-1].clamp(min=0).numpy())  # noqa: B023

        with hooked(plain.unet, NORM, keep):
            image(plain, prompt, seed)
        means.append(np.mean(maps, (0, 2, 3)))
        peaks.append(maps)
    for unit in range(4):
        own = np.array([mean[unit] for mean in means])
        assert found.top_values[:4, unit] == pytest.approx(np.sort(own)[::-1], abs=1e-5)
        first = found.top_samples[0, unit]
        assert own[first] == pytest.approx(own.max(), abs=1e-5)
        _, y, x = np.unravel_index(np.argmax([m[unit] for m in peaks[first]]), (2, 8, 8))
        assert found.top_places[0, unit] == pytest.approx([(y + 0.5) / 8, (x + 0.5) / 8])


# ---------------------------------------------------------------- other networks


def test_text_encoders_read_each_prompt_once(begin: Begin, plain: Any) -> None:
    stimuli = Stimuli(("cat", "dog"), ("a {}", "a {} at night"), (0, 1, 2))
    study = begin(stimuli, component="text_encoder")
    found = record_selectivity(study)
    (only,) = found.layers
    assert (only.path, found.done) == ("encoder.layers.0.mlp.fc1", 4)
    tokens = plain.tokenizer(
        ["a cat", "a cat at night"], padding="max_length", max_length=24, return_tensors="pt"
    )
    recorded: list[np.ndarray] = []

    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        recorded.append(output.clamp(min=0).mean((0, 1)).numpy())

    with hooked(plain.text_encoder, only.path, keep), torch.no_grad():
        plain.text_encoder(tokens["input_ids"])
    np.testing.assert_allclose(found.mean[0], recorded[0], atol=1e-5)


def test_the_clip_model_reads_the_images(begin: Begin) -> None:
    study = begin(component="clip", keys={"clip": "bundled"})
    parts: list[Any] = []
    study.progress = Progress(parts.append)
    found = record_selectivity(study)
    assert [(p.noun, p.done, p.total) for p in parts] == [
        ("images", 0, 2), ("images", 2, 2), ("samples", 0, 2), ("samples", 2, 2),
    ]  # fmt: skip
    assert parts[2].seconds < parts[1].seconds  # what they took to be made does not count
    assert [x.path for x in found.layers] == [
        f"vision_model.encoder.layers.{i}.mlp.fc1" for i in range(4)
    ]
    assert study.reader is not None
    network = study.reader.network
    recorded: list[np.ndarray] = []

    def keep(_module: nn.Module, _given: Any, output: Any) -> None:
        recorded.append(output.clamp(min=0).mean((0, 1)).numpy())

    with hooked(network, found.layers[0].path, keep):
        study.reader.images([next(iter(study.pictures.cells())).image()])
    np.testing.assert_allclose(layer(found, found.layers[0].path)[0], recorded[0], atol=1e-5)
    texts = record_selectivity(begin(folder="texts", component="clip", modules="text_projection",
                         keys={"clip": "bundled"}))  # fmt: skip
    assert (texts.done, texts.units) == (2, 128)


# ---------------------------------------------------------------- going on


class Enough(Exception):  # noqa: N818
    pass


def test_it_goes_on_where_it_stopped(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    stimuli = Stimuli(("cat", "dog"), ("a {}",), (0, 1, 2))
    monkeypatch.setattr("ablate.engine.batches.LATENT_PIXELS", {"cpu": 4 * 64})  # four at once
    whole = record_selectivity(begin(stimuli, "whole"))
    study = begin(stimuli)

    def stop(progress: Any) -> None:
        if progress.computed:
            raise Enough

    study.progress = Progress(stop)
    with pytest.raises(Enough):
        record_selectivity(study)
    assert Statistics.load(study.folder / "activations.npz").done == 4
    assert not (study.folder / "units.csv").exists()
    first = min(path.stat().st_mtime_ns for path in (study.folder / "pictures/cells").iterdir())
    reported: list[int] = []
    study = begin(stimuli)
    study.progress = Progress(lambda now: reported.append(now.done))
    again = record_selectivity(study)
    assert reported == [4, 6]
    for name in Statistics.ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert (study.folder / "units.csv").read_bytes() == (
        study.folder.parent / "whole/units.csv"
    ).read_bytes()
    written = sorted(
        path.stat().st_mtime_ns for path in (study.folder / "pictures/cells").iterdir()
    )
    assert (len(written), written[0]) == (6, first)


def test_ctrl_c_leaves_whole_batches(
    begin: Begin, tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    stimuli = Stimuli(("cat", "dog"), ("a {}",), (0, 1, 2))
    monkeypatch.setattr("ablate.engine.batches.LATENT_PIXELS", {"cpu": 4 * 64})
    study = begin(stimuli)

    def stop(progress: Any) -> None:
        tiny.stop = lambda: bool(progress.computed)

    study.progress = Progress(stop)
    with pytest.raises(Stopped):
        record_selectivity(study)
    assert Statistics.load(study.folder / "activations.npz").done == 4
    assert not tiny.stop()


def test_a_folder_of_another_study_is_left_alone(begin: Begin) -> None:
    record_selectivity(begin())
    with pytest.raises(StudyError, match=r"has another study in it \(of other seeds\); `--out`"):
        begin(Stimuli(("cat", "dog"), ("a {}",), (1,)))
    with pytest.raises(StudyError, match=r"of other concepts"):
        begin(Stimuli(("cat", "fox"), ("a {}",), (0,)))
    study = begin()
    statistics = Statistics.load(study.folder / "activations.npz")
    statistics.concepts = ("cat", "fox")
    statistics.save(study.folder / "activations.npz")
    with pytest.raises(StudyError, match=r"activations\.npz is of another study; without it"):
        record_selectivity(study)
    manifest = study.folder / "study.json"
    manifest.write_text(manifest.read_text(encoding="utf-8")[:99], encoding="utf-8")
    with pytest.raises(StudyError, match=r"study.json cannot be read: .* anew with `--fresh`"):
        begin()
    manifest.write_text('{"title": "mine"}', encoding="utf-8")
    with pytest.raises(StudyError, match="is of no study of units"):
        study.begin("selectivity", fresh=True)
    manifest.unlink()
    with pytest.raises(StudyError, match="that says what they are of"):
        study.begin("selectivity", fresh=True)
    assert (study.folder / "pictures/run.json").exists()


def test_a_refused_study_stands_in_the_way_of_no_other(begin: Begin) -> None:
    refused = begin(when=When("t", 1e-5, 0))
    with pytest.raises(ScopeError, match="it never opens"):
        recording.check_window(refused)
    with pytest.raises(ScopeError, match="it never opens"):
        record_selectivity(refused)
    assert record_selectivity(begin(when=When("t", 1, 0.5))).done == 2


def test_all_keys_that_are_wrong_are_told_at_once() -> None:
    keys = {"seeds": 3, "sampling.width": 50, "foo": 1}
    with pytest.raises(StudyError, match=r"(?s)`seeds`, `foo` cannot.*width: must be a multiple"):
        Setup(TWO, keys)


def test_a_study_is_opened_from_its_folder(begin: Begin) -> None:
    study = begin(when=When("steps", 0, 0), modules=NORM)
    again = Study.open(study.folder)
    assert again.setup == study.setup
    assert again.samples == study.samples
    with pytest.raises(StudyError, match=r"is no study of units: it has no study.json"):
        Study.open(study.folder / "pictures")


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"component": "unot"}, StudyError, "no component `unot`, did you mean `unet`"),
        ({"component": "denoiser"}, StudyError, "no component `denoiser`, did you mean `unet`"),
        (
            {"component": "vae"},
            StudyError,
            "`vae` cannot be recorded; those of .*unet.* and clip can",
        ),
        ({"component": "text_encoder", "when": When("t", 1, 0.5)}, StudyError, "runs once"),
        (
            {"stimuli": Stimuli(("a", "b"), ("{}",), tuple(range(99_999))), "modules": "nothing"},
            SelectorError,
            "matches no module",
        ),
        (
            {"stimuli": Stimuli(("a", "b"), ("{}",), tuple(range(100_001)))},
            StudyError,
            r"2 concepts × 1 template × 100,001 seeds are 200,002 images",
        ),
        ({"component": "clip"}, StudyError, "has no CLIP model beside it; `--clip` names one"),
        ({"modules": "nothing"}, SelectorError, "`nothing` matches no module"),
        ({"modules": "conv_in", "kind": "heads"}, ScopeError, "names no projection"),
    ],
)
def test_what_cannot_be_recorded_is_an_error(
    begin: Begin, asked: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        record_selectivity(begin(**asked))


def test_the_table_has_a_row_a_unit(begin: Begin) -> None:
    study = begin()
    found = record_selectivity(study)
    text = (study.folder / "units.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == found.units
    index, preferred = found.selectivity(), found.preferred()
    for unit in (0, 17, found.units - 1):
        row, (own, number) = rows[unit], found.place_of(unit)
        assert (row["module"], int(row["unit"])) == (own.path, number)
        assert float(row["selectivity"]) == pytest.approx(index[unit], rel=1e-5)
        assert row["concept"] == ("cat", "dog")[preferred[unit]]
        most = float(found.mean[preferred[unit], unit])
        rest = float(found.mean[1 - preferred[unit], unit])
        assert float(row["mean"]) == pytest.approx(most, rel=1e-5, abs=1e-6)
        assert float(row["rest"]) == pytest.approx(rest, rel=1e-5, abs=1e-6)


def test_memory_stays_flat_while_samples_stream_by(
    begin: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gc

    def held() -> int:
        """Numbers in all tensors and in the statistics."""
        gc.collect()
        tensors = (o for o in gc.get_objects() if issubclass(type(o), torch.Tensor))
        arrays = (a for a in vars(sink.statistics).values() if isinstance(a, np.ndarray))
        return sum(t.numel() for t in tensors) + sum(a.size for a in arrays)

    monkeypatch.setattr("ablate.engine.batches.LATENT_PIXELS", {"cpu": 4 * 64})  # four at once
    study = begin(Stimuli(("cat", "dog"), ("a {}",), tuple(range(16))), modules=NORM)
    sink = ByConcept.of(study)
    after = {done: held() for done in recording.stream(study, sink) if done in (16, 32)}
    assert sink.statistics is not None
    assert sink.statistics.done == 32
    # All that a layer gives for a sample are 2 x 16 x 64 numbers.
    assert after[32] < after[16] + 16 * 100


def test_its_consumer_is_left_alone(begin: Begin) -> None:
    """What it needs for itself, such as that no gradients are kept, does not hold between batches;
    other calls of the denoiser are told, and no hook stays."""
    study = begin()
    batches = recording.stream(study, ByConcept.of(study))
    assert next(batches) == 2
    assert not torch.is_inference_mode_enabled()
    assert torch.is_grad_enabled()
    batches.close()
    network = study.network
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_calls_unlike_those_of_the_first_step() -> None:
    calls = Calls(((True,), (False,)), frozenset())
    assert calls.rows(0, 3, 3) == [slice(0, 3)]
    assert calls.rows(1, 3, 3) == []
    assert Calls(((False, True),), frozenset()).rows(0, 6, 3) == [slice(3, 6)]
    for call, rows in ((2, 3), (0, 6)):
        with pytest.raises(ScopeError, match=r"unlike in the first \(3 and 3\)"):
            calls.rows(call, rows, 3)
