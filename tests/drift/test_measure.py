"""A run measured: its tables against plain reference implementations, on small planted runs."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import DESCRIBED, SAMPLING
from PIL import Image

from ablate.drift import effects, measure as drift
from ablate.drift.embeddings import read_embeddings
from ablate.drift.measure import MeasuredCell
from ablate.drift.metrics import rmse, ssim
from ablate.store.run import Run, StoredCell

# ---------------------------------------------------------------- runs with planted images


COLORS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}


class ByColor:
    """A reader to whom a picture is its mean color, and a text the colors that it names."""

    id = "by-color"
    scale = 10.0
    margin: float | None = None
    vocabulary = ("red", "green", "blue")

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.seen = 0

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        self.seen += len(images)
        means = np.array([np.asarray(i).mean((0, 1)) + 1e-3 for i in images], np.float32)
        unit: np.ndarray = means / np.linalg.norm(means, axis=1, keepdims=True)
        return unit

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        sums = [sum((np.array(c) for w, c in COLORS.items() if w in text), np.full(3, 1e-3))
                for text in texts]  # fmt: skip
        unit: np.ndarray = np.array([v / np.linalg.norm(v) for v in sums], np.float32)
        return unit


def picture(seed: int, amount: float, size: int = 16) -> np.ndarray:
    """uint8 (size, size, 3): soft shapes of the seed, with noise of its own by an amount."""
    rng = np.random.default_rng(seed)
    shapes = Image.fromarray((rng.random((4, 4, 3)) * 255).astype(np.uint8))
    soft = np.asarray(shapes.resize((size, size), Image.Resampling.BICUBIC), np.float64)
    noisy = soft + 255 * amount * rng.standard_normal(soft.shape)
    return noisy.clip(0, 255).astype(np.uint8)


def latents(seed: int, amount: float) -> np.ndarray:
    """Such as half precision holds exactly."""
    rng = np.random.default_rng(seed)
    values: np.ndarray = np.round(rng.standard_normal((4, 2, 2)) * 8) / 8 + np.round(amount * 8) / 8
    return values


class Planted:
    """Writes a run: images are added one by one, then its manifest."""

    def __init__(self, folder: Path, axes: Sequence[str] = ("amount",)) -> None:
        self.run = Run(folder)
        self.axes = axes
        self.cells: list[dict[str, Any]] = []
        self.spare: list[dict[str, Any]] = []

    def image(
        self, key: str, pixels: np.ndarray, latents: np.ndarray | None = None, state: str = "ok"
    ) -> str:
        sampling = {"num_inference_steps": 2, "scheduler": "ddim", "guidance_scale": 5.0}
        record = {
            "variant": "", "model": {"id": "bundled"}, "size": pixels.shape[1::-1], "state": state,
            "condition": {"prompt": "", "seed": 0, "sampling": sampling},
        }  # fmt: skip
        self.run.write_cells([(key, Image.fromarray(pixels), record, latents)])
        return key

    def cell(
        self,
        key: str,
        baseline: str,
        seed: int,
        axes: dict[str, Any],
        prompt: str = "red",
        **more: Any,
    ) -> None:
        variant = "baseline" if key == baseline else ", ".join(f"{k}={v}" for k, v in axes.items())
        axes = {"prompt": prompt, "seed": seed, **axes}
        self.cells.append({"key": key, "variant": variant, "prompt": prompt, "seed": seed,
                           "axes": axes, "baseline": baseline, **more})  # fmt: skip

    def done(self, **more: Any) -> Run:
        described = []
        for name in ("prompt", "seed", *self.axes):
            found = [c["axes"][name] for c in self.cells if name in c["axes"]]
            values = list(dict.fromkeys(found))
            described.append({"name": name, "values": values, "labels": [str(v) for v in values]})
        self.run.write_manifest({**DESCRIBED, "axes": described, "cells": self.cells, **more})
        return self.run


AMOUNTS = (0.05, 0.4)


def swept(folder: Path, seeds: Sequence[int] = (0, 1, 2), *, with_latents: bool = True) -> Run:
    """Seeds × amounts of one prompt; keys tell what is planted."""
    planted = Planted(folder)
    for amount in (0.0, *AMOUNTS):
        for seed in seeds:
            key = f"s{seed}a{round(amount * 100)}"
            planted.image(
                key, picture(seed, amount), latents(seed, amount) if with_latents else None
            )
            planted.cell(key, f"s{seed}a0", seed, {"amount": amount} if amount else {})
    return planted.done()


def rows(run: Run, name: str = "drift.csv") -> list[dict[str, str]]:
    with (run.folder / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def described(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "drift.json").read_text())
    return found


def apart(metric: Callable[[int, int], float], seeds: Sequence[int]) -> float:
    """Mean over all pairs of different seeds."""
    return float(np.mean([metric(a, b) for a, b in itertools.combinations(seeds, 2)]))


def test_the_table_has_each_distance_and_the_same_in_noise_floors(tmp_path: Path) -> None:
    run = swept(tmp_path)
    reader = ByColor()
    drift.write_drift(run, reader)

    def color(seed: int, amount: float) -> np.ndarray:
        return reader.images([Image.fromarray(picture(seed, amount))])[0]

    floors = {
        "rmse": apart(lambda a, b: rmse(picture(a, 0) / 255, picture(b, 0) / 255), (0, 1, 2)),
        "ssim": apart(
            lambda a, b: (1 - ssim(picture(a, 0) / 255, picture(b, 0) / 255)) ** 0.5, (0, 1, 2)
        ),
        "latent": apart(lambda a, b: rmse(latents(a, 0), latents(b, 0)), (0, 1, 2)),
        "embedding": apart(
            lambda a, b: float(np.linalg.norm(color(a, 0) - color(b, 0))), (0, 1, 2)
        ),
    }
    (floor,) = described(run)["floors"]
    assert floor == {"group": 0, "prompt": "red", "seeds": 3, **{
        metric: pytest.approx(mean, rel=1e-4) for metric, mean in floors.items()}}  # fmt: skip
    table = rows(run)
    assert [row["cell"] for row in table] == [
        f"s{s}a{a}.png" for a in (0, 5, 40) for s in (0, 1, 2)
    ]
    for row in table:
        seed, amount = int(row["seed"]), float(row["amount"] or 0)
        image, baseline = picture(seed, amount) / 255, picture(seed, 0) / 255
        assert float(row["rmse"]) == pytest.approx(rmse(image, baseline), abs=1e-6)
        assert float(row["ssim"]) == pytest.approx(ssim(image, baseline), abs=1e-5)
        assert float(row["latent"]) == pytest.approx(np.round(amount * 8) / 8)
        cosine = color(seed, amount) @ color(seed, 0)
        assert float(row["embedding"]) == pytest.approx(1 - cosine, abs=2e-6)
        assert float(row["score"]) == pytest.approx(color(seed, amount)[0], abs=2e-3)
        for metric, mean in floors.items():
            distance = float(row[metric])
            if metric in ("ssim", "embedding"):  # that grow with the square of a distance
                distance = (1 - distance if metric == "ssim" else 2 * distance) ** 0.5
            assert float(row[f"{metric}_floors"]) == pytest.approx(distance / mean, abs=2e-3)
    assert float(table[0]["rmse"]) == float(table[0]["embedding"]) == 0


def test_effects_are_the_means_over_seeds(tmp_path: Path) -> None:
    run = swept(tmp_path)
    drift.write_drift(run)
    found = effects.read_effects(run)
    assert [(e.axes, e.metric) for e in found] == [
        ({"amount": amount}, metric) for amount in AMOUNTS for metric in ("rmse", "ssim", "latent")
    ]
    table = rows(run)
    for effect in found:
        own = [row for row in table if row["variant"] == effect.variant]
        assert effect.seeds == len(own) == 3
        in_floors = np.mean([float(row[f"{effect.metric}_floors"]) for row in own])
        assert effect.drift == pytest.approx(in_floors, abs=1e-5)
        assert effect.low is not None
        assert effect.high is not None
        assert effect.low <= effect.drift + 1e-6
        assert effect.drift <= effect.high + 1e-6
    assert found[0].drift < found[3].drift  # type: ignore[operator]


def test_each_group_has_its_own_floor_with_the_images_made_for_it(tmp_path: Path) -> None:
    planted = Planted(tmp_path)
    for group, (prompt, spread) in enumerate((("red", 0.1), ("green", 0.5))):
        for seed in range(5):
            flat = np.full((16, 16, 3), round(255 * spread * (seed % 2)), np.uint8)
            key = planted.image(f"g{group}s{seed}", flat)
            if seed < 1:
                planted.cell(key, key, seed, {}, prompt, group=group)
                moved = planted.image(f"g{group}moved", flat + 51)
                planted.cell(moved, key, seed, {"amount": 1}, prompt, group=group)
            else:
                planted.spare.append({"key": key, "seed": seed, "prompt": prompt, "group": group})
    run = planted.done(floor=planted.spare)
    drift.write_drift(run, ByColor())
    found = {floor["prompt"]: floor for floor in described(run)["floors"]}
    # Of ten pairs of seeds, six are of a dark and a light image.
    assert found["red"]["rmse"] == pytest.approx(0.6 * 26 / 255)
    assert found["green"]["rmse"] == pytest.approx(0.6 * 128 / 255)
    assert [floor["seeds"] for floor in found.values()] == [5, 5]
    moved = [row for row in rows(run) if row["amount"]]
    assert [float(row["rmse"]) for row in moved] == [0.2, 0.2]
    expected = [0.2 * 255 / 0.6 / 26, 0.2 * 255 / 0.6 / 128]
    assert [float(row["rmse_floors"]) for row in moved] == pytest.approx(expected, abs=1e-5)
    kept = read_embeddings(run)
    assert kept is not None
    assert {"g0s4", "g1s4"} < set(kept.keys)
    assert not any("noise floor" in note for note in drift.read_notes(run))


def test_a_cell_that_met_nan_counts_nowhere(tmp_path: Path) -> None:
    planted = Planted(tmp_path)
    for seed in range(4):
        broken_baseline = "nan" if seed == 3 else "ok"
        base = planted.image(f"s{seed}", picture(seed, 0), state=broken_baseline)
        planted.cell(base, base, seed, {})
        edited = planted.image(f"s{seed}e", picture(seed, 0.1), state="nan" if seed == 0 else "ok")
        planted.cell(edited, base, seed, {"amount": 1})
        lost = planted.image(f"s{seed}l", picture(seed, 0.1), state="nan")
        planted.cell(lost, base, seed, {"amount": 2})
    run = planted.done()
    cells = drift.write_drift(run, ByColor(), classify=lambda *_: "any")
    by_key = {cell.key: cell for cell in cells}
    for key in ("s0e", "s3", "s0l"):
        assert by_key[key].state == "nan"
        assert by_key[key].drift == by_key[key].floors == {}
        assert by_key[key].concepts == ()
        assert by_key[key].class_name == ""
    assert by_key["s3e"].drift.keys() == {"score"}  # nothing to compare it with
    assert described(run)["floors"][0]["seeds"] == 3
    edited, lost = (e for e in effects.read_effects(run) if e.metric == "rmse")
    assert edited.seeds == 2
    assert (lost.seeds, lost.mean, lost.drift, lost.verdict) == (0, None, None, "")
    kept = read_embeddings(run)
    assert kept is not None
    assert set(kept.keys) == {"s0", "s1", "s2", "s1e", "s2e", "s3e"}


def colored(folder: Path, colors: Mapping[str, tuple[int, int, int]]) -> Run:
    """A run of baselines, each of one color, a prompt for each."""
    run, cells = Run(folder), []
    for prompt, color in colors.items():
        key = prompt.replace(" ", "")
        record = {
            "state": "ok", "variant": "baseline", "size": [16, 16], "model": {"id": "x"},
            "condition": {"prompt": prompt, "seed": 0, "sampling": SAMPLING},
        }  # fmt: skip
        run.write_cells([(key, Image.new("RGB", (16, 16), color), record, None)])
        cells.append({"key": key, "variant": "baseline", "prompt": prompt, "seed": 0,
                      "axes": {}, "baseline": key})  # fmt: skip
    run.write_manifest({**DESCRIBED, "axes": [], "cells": cells})
    return run


def test_what_no_word_names_shows_none(tmp_path: Path) -> None:
    run = colored(tmp_path, {"red": (200, 0, 0), "brown": (200, 150, 0), "gray": (90, 90, 90)})
    reader = ByColor()
    drift.write_drift(run, reader)
    assert [row["shows"] for row in rows(run)] == ["red", "red", "red"]
    reader.margin = 0.3
    measured = drift.write_drift(run, reader)
    assert [row["shows"] for row in rows(run)] == ["red", "none", "none"]
    assert [cell.shows for cell in measured] == [cell.shows for cell in drift.read_cells(run)]
    assert float(rows(run)[1]["margin"]) == pytest.approx(50 / 250, abs=1e-3)
    assert rows(run)[1]["concept"] == "red"


def test_baselines_of_several_prompts_say_what_a_reader_knows(tmp_path: Path) -> None:
    known = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200), "pink": (200, 60, 60)}
    few = colored(tmp_path / "few", {"gray": (90, 90, 91), **known})
    drift.write_drift(few, ByColor())
    assert [row["shows"] for row in rows(few)] == ["blue", "red", "green", "blue", "red"]
    many = {f"green {i}": (0, 200, 10 + i) for i in range(20)}
    run = colored(tmp_path / "many", {"gray": (90, 90, 91), **known, **many})
    drift.write_drift(run, ByColor())
    assert [row["shows"] for row in rows(run)[:4]] == ["none", "red", "green", "blue"]


def test_concepts_are_the_likeliest_words(tmp_path: Path) -> None:
    planted = Planted(tmp_path)
    color = np.zeros((16, 16, 3), np.uint8) + np.array([200, 100, 20], np.uint8)
    key = planted.image("one", color)
    planted.cell(key, key, 0, {}, "a green thing")
    run = planted.done()
    reader = ByColor()
    (cell,) = drift.write_drift(run, reader, ["red", "an orange red, <b>", "green", "blue"])
    assert reader.asked == ["a red", "an orange red, <b>", "a green", "a blue", "a green thing"]
    image, texts = reader.images([Image.fromarray(color)]), reader.texts(reader.asked[:4])
    odds = np.exp(10 * (image @ texts.T)[0])
    odds /= odds.sum()
    assert [word for word, _ in cell.concepts] == ["red", "an orange red, <b>", "green"]
    assert [p for _, p in cell.concepts] == pytest.approx(odds[[0, 1, 2]].tolist(), rel=1e-4)
    assert cell.drift["score"] == pytest.approx(image[0, 1], abs=2e-3)
    assert described(run)["clip"] == "by-color"
    assert described(run)["vocabulary"] == ["red", "an orange red, <b>", "green", "blue"]
    kept = read_embeddings(run)
    assert kept is not None
    assert kept.keys == ("one",)
    assert kept.words == ("red", "an orange red, <b>", "green", "blue")
    np.testing.assert_array_equal(kept.images, image)
    np.testing.assert_array_equal(kept.texts, texts)


@pytest.mark.parametrize(("word", "asked"), [("cat", "a cat"), ("owl", "an owl"),
                                             ("party hat", "party hat"), ("", "")])  # fmt: skip
def test_a_single_word_gets_its_article(word: str, asked: str) -> None:
    from ablate.messages import phrase

    assert phrase(word) == asked


def test_a_point_has_no_score_and_each_image_is_read_once(tmp_path: Path) -> None:
    planted = Planted(tmp_path, axes=("place.u",))
    for seed in range(2):
        base = planted.image(f"s{seed}", picture(seed, 0))
        planted.cell(base, base, seed, {}, "between", point=True)
        # Twice in the plan, as an axis without effect would have it.
        for u in (0.0, 0.5):
            planted.cell(base, base, seed, {"place.u": u}, "between", point=True)
    run = planted.done()
    reader = ByColor()
    cells = drift.write_drift(run, reader)
    assert reader.seen == 2
    assert "between" not in reader.asked
    assert len(cells) == 6
    assert all("score" not in cell.drift and "rmse" in cell.drift for cell in cells)
    assert effects.read_effects(run) == []
    assert not any("one seed" in note for note in drift.read_notes(run))


def test_the_class_is_named_from_cell_image_and_baseline(tmp_path: Path) -> None:
    run = swept(tmp_path)
    asked: list[tuple[str, str | None, float]] = []

    def classify(cell: MeasuredCell, image: np.ndarray, baseline: MeasuredCell | None) -> str:
        asked.append((cell.key, baseline and baseline.key, float(image.max())))
        return "noise, <much>" if cell.floors["rmse"] > 0.5 else "intact"

    drift.write_drift(run, classify=classify)
    assert sorted(asked) == [
        (f"s{s}a{a}", f"s{s}a0" if a else None, pytest.approx(picture(s, a / 100).max() / 255))
        for s in (0, 1, 2) for a in (0, 40, 5)
    ]  # fmt: skip
    for cell in drift.read_cells(run):
        assert cell.class_name == ("noise, <much>" if cell.floors["rmse"] > 0.5 else "intact")
    assert len({cell.class_name for cell in drift.read_cells(run)}) == 2


# ---------------------------------------------------------------- reading what was written


def test_what_is_read_is_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = swept(tmp_path)
    words = ['re"d, <i>', "x\ny", "ü; 猫"]
    written = drift.write_drift(run, ByColor(), words, lambda *_: "intact")
    monkeypatch.setattr(StoredCell, "image", None)  # they are not measured again
    found = drift.read_cells(run)
    assert len(found) == len(written) == 9
    for cell, was in zip(found, written, strict=True):
        assert {
            k: v for k, v in vars(cell).items() if k not in ("drift", "floors", "concepts")
        } == {k: v for k, v in vars(was).items() if k not in ("drift", "floors", "concepts")}
        assert cell.drift == pytest.approx(was.drift, abs=1e-6)
        assert cell.floors == pytest.approx(was.floors, abs=1e-6)
        assert [word for word, _ in cell.concepts] == [word for word, _ in was.concepts]
    assert {word for word, _ in found[0].concepts} == set(words)


def test_axes_may_bear_the_names_of_columns(tmp_path: Path) -> None:
    planted = Planted(tmp_path, axes=("rmse", "class", "metric"))
    base = planted.image("base", picture(0, 0))
    planted.cell(base, base, 0, {})
    planted.image("moved", picture(0, 0.2))
    planted.cell("moved", base, 0, {"rmse": 7, "class": "a,b", "metric": "seeds"})
    run = planted.done()
    written = drift.write_drift(run)
    (moved,) = (cell for cell in drift.read_cells(run) if not cell.is_baseline)
    assert moved.drift["rmse"] == pytest.approx(written[1].drift["rmse"], abs=1e-6)
    found = effects.read_effects(run)
    assert [effect.metric for effect in found] == ["rmse", "ssim"]
    assert found[0].axes == {"rmse": 7, "class": "a,b", "metric": "seeds"}


@pytest.mark.parametrize("damage", ["none", "older", "fewer"])
def test_without_a_table_of_these_cells_they_are_measured(tmp_path: Path, damage: str) -> None:
    run = swept(tmp_path)
    drift.write_drift(run, ByColor())
    table = run.folder / "drift.csv"
    if damage == "none":
        table.unlink()
    elif damage == "older":
        table.write_text("cell,variant,prompt,seed,amount,state,rmse,ssim\n")
    else:
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    found = drift.read_cells(run)
    assert len(found) == 9
    assert all(cell.drift.keys() == {"rmse", "ssim", "latent"} for cell in found)
    assert all(not cell.concepts for cell in found)


def test_without_a_reader_what_another_read_is_gone(tmp_path: Path) -> None:
    run = swept(tmp_path)
    drift.write_drift(run, ByColor())
    assert read_embeddings(run) is not None
    drift.write_drift(run)
    assert read_embeddings(run) is None
    assert {row["concept"] for row in rows(run)} == {""}
    assert drift.read_notes(run)[0] == (
        "No CLIP model has read these images, so that `embedding`, `score` and the concepts are"
        " empty: name one by `clip:` in the recipe, or by `ablate drift RUN --clip ID`."
    )


def test_a_reader_that_fails_leaves_the_run_as_it_was(tmp_path: Path) -> None:
    class Failing(ByColor):
        def images(self, images: Sequence[Image.Image]) -> np.ndarray:
            raise MemoryError

    run = swept(tmp_path)
    drift.write_drift(run, ByColor())
    before = {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    with pytest.raises(MemoryError):
        drift.write_drift(run, Failing())
    assert {p: p.read_bytes() for p in run.folder.iterdir() if p.is_file()} == before


def test_nothing_is_known_of_a_run_that_was_never_measured(tmp_path: Path) -> None:
    run = swept(tmp_path)
    assert effects.read_effects(run) == []
    assert drift.read_notes(run) == []
    assert read_embeddings(run) is None


# ---------------------------------------------------------------- few seeds, older runs


def test_one_seed_has_neither_floor_nor_interval(tmp_path: Path) -> None:
    run = swept(tmp_path, [5])
    drift.write_drift(run, ByColor())
    (effect, *_) = effects.read_effects(run)
    assert effect.seeds == 1
    assert effect.mean is not None
    assert (effect.floor, effect.drift, effect.low, effect.high) == (None,) * 4
    assert effect.verdict == ""
    assert drift.read_notes(run) == [
        "The only condition has fewer than two baselines of different seeds, and so no noise floor"
        ": write `noise_floor: 8` into the recipe, or more `seeds`.",
        "Each variant has one seed, too few to say whether it matters: write 4 `seeds` or"
        " more into the recipe.",
    ]


def test_what_is_not_finished_yet_is_not_lacking_in_the_recipe(tmp_path: Path) -> None:
    run = swept(tmp_path, [1, 2, 3, 4])
    for cell in run.cells():
        if cell.seed > 1:
            cell.path.unlink()
    drift.write_drift(run, ByColor())
    assert drift.read_notes(run) == []


def test_two_seeds_have_no_interval(tmp_path: Path) -> None:
    run = swept(tmp_path, [3, 8])
    drift.write_drift(run)
    (effect, *_) = effects.read_effects(run)
    each = [float(r["rmse_floors"]) for r in rows(run) if r["variant"] == "amount=0.05"]
    assert effect.drift == pytest.approx(np.mean(each), abs=2e-6)
    assert (effect.low, effect.high, effect.q, effect.verdict) == (None, None, None, "")


def test_a_run_of_an_older_version(tmp_path: Path) -> None:
    """No latents, no groups; two prompts and two sizes, each of which has a floor of its own."""
    planted = Planted(tmp_path, axes=("width",))
    for (prompt, light), size in itertools.product((("red", 0), ("green", 200)), (16, 24)):
        for seed in range(2):
            pixels = np.full((16, size, 3), light + 10 * seed * size // 16, np.uint8)
            key = planted.image(f"{prompt}{size}s{seed}", pixels)
            planted.cell(key, key, seed, {"width": size}, prompt)
    run = planted.done()
    drift.write_drift(run, ByColor())
    found = [(floor["prompt"], floor["rmse"]) for floor in described(run)["floors"]]
    near, far = pytest.approx(10 / 255), pytest.approx(15 / 255)
    assert found == [("red", near), ("red", far), ("green", near), ("green", far)]
    assert {row["latent"] for row in rows(run)} == {""}
    (note,) = (note for note in drift.read_notes(run) if "latents" in note)
    assert note.startswith("All 8 images have no final latents stored")


def test_images_smaller_than_a_window_have_no_ssim(tmp_path: Path) -> None:
    planted = Planted(tmp_path)
    planted.image("a", picture(0, 0, size=8))
    planted.image("b", picture(0, 0.1, size=8))
    planted.cell("a", "a", 0, {})
    planted.cell("b", "a", 0, {"amount": 1})
    (_, moved) = drift.write_drift(planted.done())
    assert moved.drift.keys() == {"rmse"}


def test_a_cell_whose_baseline_is_not_finished_has_no_drift(tmp_path: Path) -> None:
    run = swept(tmp_path)
    run.path("s1a0").unlink()
    found = {cell.key: cell for cell in drift.write_drift(run)}
    assert len(found) == 8
    assert found["s1a5"].drift == {}
    assert found["s2a5"].drift["rmse"] > 0
    assert described(run)["floors"][0]["seeds"] == 2
