"""Activation atlases, on a tiny pipeline with random weights."""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ablate.engine import run as engine
from ablate.engine.batches import BatchSize
from ablate.engine.progress import Progress
from ablate.engine.records import with_keys
from ablate.sampling.pipeline import Pipeline
from ablate.units.atlas import pictures
from ablate.units.atlas.atlas import compare_atlas, edit_name, make_atlas, read_atlas
from ablate.units.atlas.bins import (
    LEAST,
    Bins,
    bin_vectors,
    central_vectors,
    darkened_concepts,
    label_bins,
    lifts,
    mean_places,
)
from ablate.units.atlas.layout import LayoutError, fit
from ablate.units.atlas.vectors import (
    PLACE,
    Collector,
    Vectors,
    collect,
    only_layer,
    sample_positions,
)
from ablate.units.record import recording
from ablate.units.record.layers import grid_of
from ablate.units.record.setup import Setup, StudyError
from ablate.units.record.stimuli import Stimuli
from ablate.units.record.study import Study
from ablate.units.visualize.ascent import Ascent
from ablate.units.visualize.denoiser import Latents

PATH = "mid_block.resnets.1"  # 32 units on a map of 4 × 4
CONCEPTS = ("cat", "dog", "owl")
ZERO = [{"zero": {"modules": f"{PATH}.*"}}]
Begin = Callable[..., Study]


@pytest.fixture
def begin(tiny: Pipeline, tiny_folder: Path, tmp_path: Path) -> Begin:
    """A study of the tiny pipeline, two steps a sample."""

    def begun(folder: str = "study", **setup: Any) -> Study:
        keys = {"model": str(tiny_folder), "dtype": "float32", "sampling.num_inference_steps": 2}
        stimuli = Stimuli(CONCEPTS, ("a {}",), (0, 1))
        study = Study.load(Setup(stimuli, keys, **setup), tmp_path / folder, pipeline=tiny)
        study.begin("atlas")
        return study

    return begun


@pytest.fixture
def study(begin: Begin) -> Study:
    return begin()


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pictures of bins are plain, and how many were asked for at a time is noted."""
    asked: list[int] = []

    def paint(latents: Latents, objectives: Any, on_step: Any) -> SimpleNamespace:
        assert not latents.ascent.quieting
        asked.append(objectives[0].rows)
        for step in range(1, 5):
            on_step(step, 4)
        return SimpleNamespace(images=np.full((asked[-1], 4, 4, 3), 0.5, np.float32))

    monkeypatch.setattr(Latents, "optimize", paint)
    return asked


def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "BatchSize", lambda _, *rest: BatchSize(1, *rest))


def by_hand(study: Study, each: int) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Vectors from hooks on runs of single cells, and their samples and moments."""
    values, where = [], []
    for number, cell in enumerate(study.samples):
        outputs: list[torch.Tensor] = []
        module = study.network.get_submodule(PATH)
        handle = module.register_forward_hook(
            lambda _m, _i, out, outputs=outputs: outputs.append(out)
        )
        engine.compute_cell(cell, study.pipeline)
        handle.remove()
        assert len(outputs) == 2
        for moment, out in enumerate(outputs):
            flat = out[-1].flatten(1).T.numpy()
            values.append(flat[sample_positions(number, moment, 16, each)])
            where += [(number, moment)] * each
    return np.concatenate(values), where


# ---------------------------------------------------------------- vectors


def test_vectors_are_the_outputs_of_the_module(study: Study) -> None:
    vectors = collect(study, PATH, 3)
    values, where = by_hand(study, 3)
    assert (len(vectors), vectors.units, vectors.rows, vectors.done) == (36, 32, 4, 6)
    np.testing.assert_allclose(vectors.read(), values, rtol=2e-3, atol=2e-3)
    places = vectors.places()
    assert list(zip(places["sample"].tolist(), places["moment"].tolist(), strict=True)) == where
    spot = sample_positions(0, 0, 16, 3)
    assert places["y"][:3].tolist() == ((spot // 4 + 0.5) / 4).tolist()
    assert places["x"][:3].tolist() == ((spot % 4 + 0.5) / 4).tolist()


def test_a_killed_collection_continues(begin: Begin, monkeypatch: pytest.MonkeyPatch) -> None:
    one_by_one(monkeypatch)
    whole = collect(begin("whole"), PATH, 2)
    study = begin("killed")

    def killed(progress: Progress) -> None:
        if progress.done == 3:
            raise KeyboardInterrupt

    study.progress = Progress(killed)
    with pytest.raises(KeyboardInterrupt):
        collect(study, PATH, 2)
    (path,) = study.folder.glob("vectors/*/values.f16")
    with path.open("ab") as file:
        file.write(b"half of a batch")
    seen: list[int] = []
    study.progress = Progress(lambda progress: seen.append(progress.done))
    vectors = collect(study, PATH, 2)
    assert seen == [4, 5, 6]
    for name in ("values.f16", "places.bin", "vectors.json"):
        assert (vectors.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    vectors.values_path.write_bytes(b"too short")
    assert Vectors(vectors.folder, vectors.about).done == 0  # it would be collected anew


def test_damaged_vectors_are_collected_anew(study: Study, tmp_path: Path) -> None:
    vectors = collect(study, PATH, 2)
    manifest = json.loads((vectors.folder / "vectors.json").read_text())
    older = json.dumps({key: value for key, value in manifest.items() if key != "digests"})
    garbage = b"\x5b" * vectors.places_path.stat().st_size
    for number, damage in enumerate((
        {"values.f16": b"\x5b" * vectors.values_path.stat().st_size},
        {"places.bin": garbage},
        {"places.bin": garbage, "vectors.json": older.encode()},
        {"vectors.json": b"[]"},
        {"vectors.json": json.dumps(manifest | {"digests": []}).encode()},
        {"vectors.json": older.encode()},
        {"vectors.json": json.dumps(manifest | {"rows": 1 << 70}).encode()},
    )):  # fmt: skip
        folder = tmp_path / str(number)
        shutil.copytree(vectors.folder, folder)
        for name, content in damage.items():
            (folder / name).write_bytes(content)
        wanted = vectors.done if number == 5 else 0  # one of an older version is whole
        assert Vectors(folder, vectors.about).done == wanted, damage.keys()


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    vectors, before = Vectors(tmp_path, {}), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
    try:
        with pytest.raises(OSError, match="File too large") as error:
            vectors.append(np.ones((4, 8)), np.zeros(4, PLACE), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert error.value.filename == str(vectors.values_path)


def test_a_wrong_path_is_refused(study: Study) -> None:
    with pytest.raises(StudyError, match=r"no module `mid_block.resnet.1`.*mid_block.resnets.1"):
        collect(study, "mid_block.resnet.1", 2)


def test_memory_does_not_grow_with_samples(tmp_path: Path) -> None:
    """10,000 samples stream through, memory has one batch."""
    sink = Collector(
        Vectors(tmp_path / "vectors", {"path": "x"}), 2, partial(grid_of, height=64, width=64)
    )
    batch = torch.randn(250, 64, 64)

    def show(samples: int) -> None:
        for start in range(sink.vectors.done, sink.vectors.done + samples, 250):
            sink.begin(250)
            sink.record("x", batch)
            sink.end(range(start, start + 250))

    show(500)
    tracemalloc.start()
    show(500)
    before, least = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    show(9000)
    after, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sink.vectors) == 20_000
    assert after - before < 200_000  # bytes; all vectors would be 2.6 MB
    assert most - least < 1_000_000  # a batch
    assert [len(chunk) for chunk in sink.vectors.chunks(16_384)] == [16_384, 3616]


# ---------------------------------------------------------------- bins


def test_bins_have_counts_means_and_lifts(study: Study) -> None:
    result = make_atlas(study, PATH, rows=3, columns=2, method="pca", each=8, visualized=False)
    vectors = collect(study, PATH, 8)
    values, samples = vectors.read(), vectors.places()["sample"]
    layout = fit(vectors.chunks, "pca", rows=3, columns=2)
    of = layout.bins(values, 3, 2)
    bins = bin_vectors(layout, vectors, 3, 2)
    assert (result["vectors"], result["outside"], result["method"]) == (96, 0, "pca")
    assert sum(one["count"] for one in result["bins"]) == 96
    for one in result["bins"]:
        number = one["row"] * 2 + one["column"]
        inside = of == number
        assert one["count"] == inside.sum() >= LEAST
        np.testing.assert_allclose(bins.mean[number], values[inside].mean(0), rtol=1e-5, atol=1e-6)
        for concept, lift in one["concepts"]:
            share = np.mean(samples[inside] % 3 == CONCEPTS.index(concept))
            assert lift == pytest.approx(share * 3, abs=1e-3)
        nearest = np.flatnonzero(inside)[
            ((values[inside] - bins.mean[number]) ** 2).sum(1).argmin()
        ]
        assert central_vectors(vectors, bins)[number] == nearest
    assert json.loads((study.folder / "atlas.json").read_text()) == json.loads(json.dumps(result))


def test_labels_are_no_chance() -> None:
    """Samples 0 and 3 are cats, 1 and 4 dogs, 2 and 5 owls."""
    samples = np.array([0, 3] * 10 + [1] * 20 + [0, 1, 2, 3, 4, 5] * 5)
    of = np.array([0] * 20 + [1] * 20 + [2] * 30)
    bins = Bins(1, 3, of, np.bincount(of), np.zeros((3, 1)))
    cats, dogs, mixed = label_bins(bins, samples, [0, 1, 2] * 2, CONCEPTS)
    assert cats == [("cat", pytest.approx(70 / 30, abs=1e-3))]
    assert dogs == []  # twenty vectors, but all of one sample
    assert mixed == []  # owls are commoner there than elsewhere, but not surely


def test_patches_are_cut_at_the_places_of_vectors(study: Study) -> None:
    result = make_atlas(study, PATH, rows=2, columns=2, method="pca", each=8, visualized=False)
    vectors = collect(study, PATH, 8)
    bins = bin_vectors(fit(vectors.chunks, "pca", rows=2, columns=2), vectors, 2, 2)
    shots = with_keys(study.samples, study.pipeline)
    one = result["bins"][0]
    place = vectors.places()[central_vectors(vectors, bins)[one["row"] * 2 + one["column"]]]
    with Image.open(study.pictures.path(shots[place["sample"]].key)) as image:
        whole = np.asarray(image.convert("RGB"))
    left, top, right, bottom = pictures.patch_box(float(place["y"]), float(place["x"]), 4, 16, 16)
    with Image.open(study.folder / one["patch"]) as patch:
        assert (np.asarray(patch) == whole[top:bottom, left:right]).all()


@pytest.mark.parametrize(
    ("place", "rows", "size", "expected"),
    [
        ((0.5, 0.5), 10, (100, 100), (38, 38, 63, 63)),
        ((0.05, 0.95), 10, (100, 100), (75, 0, 100, 25)),
        ((0.5, 0.25), 4, (200, 100), (19, 19, 81, 81)),
        ((0.25, 0.25), 2, (64, 64), (0, 0, 48, 48)),
    ],
)
def test_boxes(
    place: tuple[float, float],
    rows: int,
    size: tuple[int, int],
    expected: tuple[int, int, int, int],
) -> None:
    assert pictures.patch_box(*place, rows, *size) == expected


def test_where_there_is_no_map_the_whole_image_is_shown(study: Study) -> None:
    make_atlas(study, "time_embedding", rows=2, columns=2, method="som", visualized=False)
    patches = sorted((study.folder / "patches").glob("*/*.png"))
    assert patches
    for path in patches:
        with Image.open(path) as patch:
            assert patch.size == (16, 16)


# ---------------------------------------------------------------- pictures


def test_pictures_are_rendered_once(study: Study, painted: list[int]) -> None:
    """Each grid has its pictures: returning to one reuses them."""
    result = make_atlas(study, PATH, rows=2, columns=2, each=8)
    count = len(result["bins"])
    assert painted == [count]
    for one in result["bins"]:
        assert one["picture"] == f"bins/{result['grid']}/{one['row']}-{one['column']}.png"
    (study.folder / result["bins"][0]["picture"]).unlink()
    assert make_atlas(study, PATH, rows=2, columns=2, each=8) == result
    assert painted == [count, 1]
    other = make_atlas(study, PATH, rows=2, columns=3, each=8)
    assert painted == [count, 1, len(other["bins"])]
    assert make_atlas(study, PATH, rows=2, columns=2, each=8) == result
    assert len(painted) == 3


def test_broken_files_are_written_again(study: Study, painted: list[int]) -> None:
    result = make_atlas(study, PATH, rows=2, columns=2, each=8)
    one, other = result["bins"][:2]
    patch = study.folder / one["patch"]
    before = patch.read_bytes()
    patch.write_bytes(before[:60])
    files = sorted(study.pictures.folder.glob("cells/*.png"))  # patches are cut from them
    whole = [picture.read_bytes() for picture in files]
    for picture in files:
        picture.write_bytes(b"no picture")
    (study.folder / other["picture"]).write_bytes(b"no picture")
    (study.folder / "atlas.json").write_text("{")
    assert make_atlas(study, PATH, rows=2, columns=2, each=8) == result
    assert painted == [len(result["bins"]), 1]
    assert patch.read_bytes() == before
    for picture, content in zip(files, whole[1:] + whole[:1], strict=True):
        picture.write_bytes(content)  # of another cell
    patch.unlink()
    assert make_atlas(study, PATH, rows=2, columns=2, each=8) == result
    assert patch.read_bytes() == before
    (layout,) = study.folder.glob("bins/*/layout.npz")
    layout.write_bytes(layout.read_bytes()[:300])
    (vectors,) = study.folder.glob("vectors/*/vectors.json")
    vectors.write_text('{"format": 1')
    assert make_atlas(study, PATH, rows=2, columns=2, each=8) == result
    (study.folder / "atlas.json").write_text("[]")
    with pytest.raises(StudyError, match=r"atlas\.json is not of this version"):
        read_atlas(study.folder)
    (study.folder / "atlas.json").write_text(json.dumps(result | {"spread": "range"}))
    with pytest.raises(StudyError, match="has axes by `range`, which this version does not place"):
        compare_atlas(study, PATH, ZERO)


def test_each_part_is_counted_for_itself(study: Study, painted: list[int]) -> None:
    seen: dict[str, list[Progress]] = {}
    edits = [{"zero": {"modules": "conv_in"}}]

    def watch(now: Progress) -> None:
        seen.setdefault(now.noun, []).append(now)

    study.progress = Progress(watch)
    result = make_atlas(study, PATH, rows=2, columns=2, each=8, edits=edits)
    assert list(seen) == ["samples", "layouts", "bins", "samples of the variant"]
    assert [now.total for (*_, now) in seen.values()] == [6, 1, len(result["bins"]), 6]
    for part in seen.values():
        done = [now.done for now in part]
        assert done == sorted(done)
        assert done[-1] == part[-1].total
    assert len(seen["bins"]) == 5  # also while they are rendered


def test_inputs_go_toward_bins(study: Study) -> None:
    """The optimized inputs are farther toward their bins than inputs that nobody chose."""
    path = "mid_block"
    vectors = collect(study, path, 4)
    layout = fit(vectors.chunks, "pca")
    bins = bin_vectors(layout, vectors, 2, 2)
    some = bins.shown[:2]
    away = bins.mean[some] - layout.mean
    middles = mean_places(vectors, bins)[some]
    goal = pictures.Goal(path, away, layout.whitened(away), layout.mean, middles, (16, 16))
    objective = goal.objective()
    ascent = Ascent(steps=24, rate=0.2, batch=2)
    optimized = Latents(study.pipeline, t=0.5, ascent=ascent).optimize([objective])
    assert optimized.images.shape == (2, 16, 16, 3)
    assert (optimized.end > optimized.typical).all()


def test_rows_take_the_places_of_their_bins() -> None:
    places = np.array([[0.9, 0.1], [0.2, 0.6]])
    nothing = np.zeros((2, 1))
    goal = pictures.Goal("x", nothing, nothing, np.zeros(1), places, (32, 32))
    given = torch.arange(4.0).reshape(1, 1, 2, 2).expand(2, 1, 2, 2)
    assert goal.at_places(given, slice(None)).flatten().tolist() == [2, 1]
    tokens = torch.arange(5.0).expand(2, 1, 5)  # a class token in front
    assert goal.at_places(tokens, slice(None)).flatten().tolist() == [3, 2]
    assert goal.at_places(tokens[1:], slice(1, 2)).flatten().tolist() == [2]
    assert goal.at_places(torch.ones(2, 1), slice(None)).tolist() == [[1], [1]]
    assert goal.at_places(given[..., :1], slice(None)).flatten().tolist() == [1, 1]  # no map


# ---------------------------------------------------------------- variants


def test_a_variant_like_the_baseline_leaves_nothing_dark(study: Study) -> None:
    make_atlas(study, PATH, rows=3, columns=3, each=8, visualized=False)
    same = [{"scale": {"modules": PATH + ".conv1", "factor": 1.0 + 1e-7}}]
    result = compare_atlas(study, PATH, same)
    assert [one["variant"] for one in result["bins"]] == [one["count"] for one in result["bins"]]
    assert (result["dark"], result["dark_bins"], result["variant_outside"]) == ([], [], 0)
    assert result["variant"]
    assert result["notes"] == [
        f"The edits change nothing that reaches `{PATH}`: its vectors are the baseline's."
    ]
    assert read_atlas(study.folder) == json.loads(json.dumps(result))


def test_a_layer_that_is_zeroed_is_one_vector(begin: Begin) -> None:
    study = begin()
    path = f"{PATH}.conv2"
    make_atlas(study, path, rows=3, columns=3, each=16, visualized=False)
    result = make_atlas(
        study, path, rows=3, columns=3, each=16, visualized=False,
        edits=[{"zero": {"modules": path}}],
    )  # fmt: skip
    counts = [one["variant"] for one in result["bins"]]
    assert sorted(counts)[-2:] in ([0, 192], [0, 0])
    assert max(counts) + result["variant_outside"] == result["variant_vectors"] == 192
    assert result["notes"] == []
    lost = {(one["row"], one["column"]) for one in result["dark_bins"]}
    assert lost == {(b["row"], b["column"]) for b in result["bins"] if not b["variant"]}
    with pytest.raises(StudyError, match=r"the atlas in .* is of"):
        compare_atlas(study, PATH, ZERO)


def test_concepts_that_left_their_bins_are_dark() -> None:
    before = np.array([[40, 2, 2], [2, 40, 2], [0, 0, 38]])
    after = np.array([[10, 2, 2], [32, 40, 2], [0, 0, 38]])
    assert darkened_concepts(before, after, CONCEPTS) == [
        {"concept": "cat", "before": 40, "after": 10, "gone": 0.75}
    ]
    assert darkened_concepts(before // 4, after // 4, CONCEPTS) == []  # too few vectors
    assert lifts(before, before.sum(0))[0, 0] == pytest.approx(40 / 44 / (42 / 126))


def test_without_an_atlas_there_is_nothing_to_compare(study: Study) -> None:
    with pytest.raises(StudyError, match="no atlas in"):
        compare_atlas(study, PATH, ZERO)
    with pytest.raises(StudyError, match="1 × 5 bins is none"):
        make_atlas(study, PATH, rows=1, columns=5)


def test_impossible_atlases_are_refused(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(LayoutError, match="umap-learn"):
        make_atlas(study, PATH, method="umap")
    assert not (study.folder / "vectors").exists()  # before anything is recorded
    few = r"none of 20 × 20 bins has the 5 vectors that one needs, of 24 in all; fewer"
    with pytest.raises(StudyError, match=f"{few} `--rows` and `--columns`, such as 2 × 2, or"):
        make_atlas(study, PATH, each=2, method="pca")
    assert not (study.folder / "atlas.json").exists()


def test_an_atlas_is_of_one_module(begin: Begin) -> None:
    assert only_layer(begin("one", modules="mid_block.resnets.1.conv*2")) == f"{PATH}.conv2"
    with pytest.raises(StudyError, match=r"MODULE: `.*` names 2 modules, such as `.*conv1` and"):
        only_layer(begin("two", modules=f"{PATH}.conv*"))


def test_places_have_the_size_that_files_say() -> None:
    assert PLACE.itemsize == 16


def test_a_variant_is_identified_by_its_resolved_edits(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What edits name may change: a study that is recorded anew chooses other units."""
    units = {"run": "runs/my-study", "order": "most", "concept": "cat", "fraction": 0.1}
    written = [{"zero": {"units": units, "where": "output"}}]
    chosen = [0]

    def planned(_edits: Any) -> Any:
        edit = {"modules": PATH, "where": "output", "unit": {"channels": chosen}}
        return real([{"zero": edit}])

    real = study.planned
    monkeypatch.setattr(study, "planned", planned)
    make_atlas(study, PATH, rows=2, columns=2, method="pca", visualized=False)
    result = compare_atlas(study, PATH, written)
    assert result["variant"] == "zero 10 % of units (most for cat; my-study)"
    first = collect(study, PATH, 4, edits=written)
    assert (first.read()[:, 0] == 0).all()
    assert collect(study, PATH, 4, edits=written).folder == first.folder
    chosen[:] = [1]
    other = collect(study, PATH, 4, edits=written)
    assert other.folder != first.folder
    assert (other.read()[:, 1] == 0).all()


@pytest.mark.parametrize(
    ("units", "named"),
    [
        ({"run": "a/b", "count": 3}, "zero 3 units (most selective; b)"),
        ({"run": "b", "count": 3, "order": "random", "modules": "up*"},
         "zero 3 units (random; b; up*)"),
        ({"run": "b", "fraction": 0.25, "order": "least"},
         "zero 25 % of units (least selective; b)"),
    ],
)  # fmt: skip
def test_names_of_edits_of_units(units: dict[str, Any], named: str) -> None:
    assert edit_name("zero", {"units": units}) == named


@pytest.mark.parametrize("op", ["mean", "resample"])
def test_edits_from_other_samples_are_refused_at_once(study: Study, op: str) -> None:
    edits = [{op: {"modules": PATH, "where": "output"}}]
    with pytest.raises(StudyError, match=f"`{op}` takes what a module gives other samples"):
        make_atlas(study, PATH, visualized=False, edits=edits)
    assert not (study.folder / "vectors").exists()
    make_atlas(study, PATH, rows=2, columns=2, visualized=False)
    with pytest.raises(StudyError, match="do not run along while units are recorded"):
        compare_atlas(study, PATH, edits)
