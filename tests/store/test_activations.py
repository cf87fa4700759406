"""Statistics of streamed activations are those of all samples at once, and stay as small."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ablate.store.activations import TOP, Layer, Statistics, StatisticsError
from ablate.store.arrays import read_arrays

LAYERS = (Layer("unet", "a.conv", "channels", 3, "down", "resnet"), Layer("unet", "b", "heads", 2))
CONCEPTS = ("cat", "dog", "fox")


def samples(count: int = 50, units: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Concepts, values, places of samples, the same each time."""
    rng = np.random.default_rng(0)
    values = rng.random((count, units)).round(1)  # so that some are equal
    return rng.integers(0, 3, count), values, rng.random((count, units, 2))


def streamed(sizes: list[int]) -> Statistics:
    found = Statistics(LAYERS, CONCEPTS)
    concepts, values, places = samples()
    start = 0
    for size in sizes:
        part = slice(start, start + size)
        found.add(concepts[part], values[part], places[part], concepts[::-1][part])
        start += size
    assert found.done == start == 50
    return found


@pytest.mark.parametrize("sizes", [[50], [1] * 50, [7, 20, 1, 22]])
def test_they_are_those_of_all_samples_at_once(sizes: list[int]) -> None:
    concepts, values, places = samples()
    found = streamed(sizes)
    for c in range(3):
        own = values[concepts == c]
        assert found.count[c] == len(own)
        assert found.mean[c] == pytest.approx(own.mean(0))
        assert found.m2[c] == pytest.approx(((own - own.mean(0)) ** 2).sum(0))
        assert found.chance[c] == pytest.approx(values[concepts[::-1] == c].mean(0))
    for unit in range(5):
        order = sorted(range(50), key=lambda i: (-values[i, unit], i))[:TOP]
        assert found.top_samples[:, unit].tolist() == order
        assert found.top_values[:, unit] == pytest.approx(values[order, unit])
        assert found.top_places[:, unit] == pytest.approx(places[order, unit])


def test_fewer_samples_than_are_ranked() -> None:
    found = Statistics(LAYERS, CONCEPTS)
    found.add(np.array([0, 1]), np.arange(10.0).reshape(2, 5))
    assert found.top_samples[:3, 0].tolist() == [1, 0, -1]
    assert np.isnan(found.top_places).all()


def given(means: list[list[float]], spread: float = 0.5) -> Statistics:
    """Statistics of one layer: means by concept, two samples each, so far to either side."""
    units = len(means[0])
    found = Statistics([Layer("unet", "a", "channels", units)], CONCEPTS[: len(means)])
    for concept, row in enumerate(means):
        values = np.array([row, row]) + spread * np.array([[1.0], [-1.0]])
        found.add(np.full(2, concept), values, None, np.array([concept, concept]))
    return found


def test_the_index_is_that_of_leavitt_and_morcos() -> None:
    found = given([[1, 2, 5, 0], [0, 2, 1, 0], [0, 2, 2, 0]])
    # One concept alone; all alike; (5 − 1.5) / (5 + 1.5); a dead unit.
    assert found.selectivity() == pytest.approx([1, 0, 3.5 / 6.5, 0], abs=1e-6)
    assert found.by_chance() == pytest.approx(found.selectivity())
    assert found.preferred()[[0, 2]].tolist() == [0, 0]


def test_contrast_is_in_pooled_deviations() -> None:
    found = given([[1, 2, 5], [0, 2, 1], [0, 2, 2]])
    deviation = np.sqrt(6 * 0.5**2 / 3)
    assert found.deviation() == pytest.approx([deviation] * 3)
    assert found.contrast()[:, 2] == pytest.approx(
        [3.5 / deviation, -2.5 / deviation, -1 / deviation]
    )
    assert found.contrast()[:, 1] == pytest.approx([0, 0, 0])


def test_a_unit_that_gives_a_concept_always_the_same_value_stands_out() -> None:
    found = given([[1.0, 2, 0], [0.0, 2, 0], [0.0, 2, 0]], spread=0)
    assert found.contrast() == pytest.approx(
        np.array([[1000, 0, 0], [-500, 0, 0], [-500, 0, 0]]), rel=1e-3, abs=1e-6
    )


def test_a_concept_without_samples_does_not_count() -> None:
    found = Statistics([Layer("unet", "a", "channels", 1)], CONCEPTS)
    found.add(np.array([0, 0, 1, 1]), np.array([[2.0], [4.0], [0.0], [2.0]]))
    assert found.selectivity() == pytest.approx([(3 - 1) / (3 + 1)])
    assert found.rest()[:2, 0] == pytest.approx([1, 3])
    assert found.contrast()[2, 0] == 0


def test_a_file_contains_all_of_it(tmp_path: Path) -> None:
    found = streamed([50])
    found.save(tmp_path / "activations.npz")
    again = Statistics.load(tmp_path / "activations.npz")
    assert (again.layers, again.concepts, again.done) == (LAYERS, CONCEPTS, 50)
    for name in Statistics.ARRAYS:
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert [path.name for path in tmp_path.iterdir()] == ["activations.npz"]


def test_units_have_their_places() -> None:
    found = streamed([50])
    assert found.slice_of(LAYERS[1]) == slice(3, 5)
    assert found.place_of(3) == (LAYERS[1], 0)
    assert found.place_of(2) == (LAYERS[0], 2)


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04 broken"])
def test_a_file_of_something_else_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "activations.npz"
    with pytest.raises(StatisticsError, match=r"there is no .*activations.npz.*selectivity"):
        Statistics.load(path)
    path.write_bytes(content)
    with pytest.raises(
        StatisticsError, match=r"cannot be read as arrays: .*selectivity` records them anew"
    ):
        Statistics.load(path)


def test_an_inconsistent_file_is_an_error(tmp_path: Path) -> None:
    found = streamed([50])
    found.mean = found.mean[:, :4]
    found.save(tmp_path / "a.npz")
    with pytest.raises(StatisticsError, match="`mean` has not the shape"):
        Statistics.load(tmp_path / "a.npz")


def rewritten(path: Path, **arrays: Any) -> None:
    """A file of statistics with some of its arrays replaced, as of an older version: without a
    digest."""
    np.savez(path, **{**read_arrays(path), **arrays})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"units": np.array([10**12, 2])}, "`mean` has not the shape"),
        ({"units": np.array([3.5, 1.5])}, "`units` is no list of whole numbers"),
        ({"units": np.array([-3, 8])}, "no units of a kind that is known"),
        ({"units": np.array([5])}, "its layers lack some of the values of a layer"),
        ({"layer_kind": np.array(["channels", "mro"])}, "no units of a kind that is known"),
        ({"format": np.array([1, 2])}, "`format` is no whole number"),
        ({"format": np.array(2)}, "has format 2; this version reads 1"),
        ({"done": np.array("x")}, "`done` is no whole number"),
        ({"total": np.array(-1)}, "`total` is no whole number"),
        ({"done": np.array(40)}, "its concepts have 50 samples, and it was shown 40"),
        ({"concepts": np.array([["a", "b", "c"]])}, "`concepts` is no list of texts"),
        ({"mean": np.full((3, 5), "a")}, "`mean` has not the shape"),
        ({"mean": np.full((3, 5), np.nan)}, "are not finite"),
        ({"top_samples": np.full((TOP, 5), 50, np.int32)}, "strongest samples are not among"),
    ],
)
def test_wrong_arrays_in_a_file_are_an_error(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    path = tmp_path / "a.npz"
    streamed([50]).save(path)
    rewritten(path, **arrays)
    with pytest.raises(StatisticsError, match=message) as error:
        Statistics.load(path)
    assert str(error.value).startswith(str(path))


def test_other_arrays_than_were_written_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    streamed([50]).save(path)
    with np.load(path) as arrays:
        np.savez(path, **{**arrays, "mean": arrays["mean"] + 1})
    with pytest.raises(StatisticsError, match=r"has other arrays than were written; without it"):
        Statistics.load(path)


def test_an_array_is_no_file_of_statistics(tmp_path: Path) -> None:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, np.ones(3))
    with pytest.raises(
        StatisticsError, match=r"cannot be read as arrays: .*selectivity` records them anew"
    ):
        Statistics.load(tmp_path / "a.npz")


def test_a_part_of_a_study_is_an_error_where_all_of_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    found = streamed([50])
    for total, whole in ((None, True), (50, True), (60, False)):
        found.total = total
        found.save(path)
        assert Statistics.load(path).total == total
        if whole:
            assert Statistics.load(path, whole=True).done == 50
    with pytest.raises(StatisticsError, match="has 50 of 60 samples; run `ablate units sel"):
        Statistics.load(path, whole=True)


def test_a_batch_that_was_cut_short_is_not_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = streamed([50])
    found.save(tmp_path / "a.npz")

    def fail(*_given: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(found, "_rank", fail)
    with pytest.raises(MemoryError):
        found.add(np.array([0, 1]), np.ones((2, 5)))
    assert not found.settled
    with pytest.raises(StatisticsError, match="a batch was cut short"):
        found.save(tmp_path / "a.npz")
    again = Statistics.load(tmp_path / "a.npz")
    assert (again.done, again.count.sum()) == (50, 50)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite_are_left_out(tmp_path: Path, bad: float) -> None:
    concepts, values, places = samples()
    broken = values.copy()
    broken[7, 2] = broken[30, 0] = bad
    found = Statistics(LAYERS, CONCEPTS)
    for part in (slice(0, 8), slice(8, 50)):
        found.add(concepts[part], broken[part], places[part], concepts[::-1][part])
    assert (found.done, found.skipped, found.count.sum()) == (50, 2, 48)
    kept = np.delete(np.arange(50), [7, 30])
    plain = Statistics(LAYERS, CONCEPTS)
    plain.add(concepts[kept], values[kept], places[kept], concepts[::-1][kept])
    for name in ("count", "mean", "m2", "chance", "chance_count", "top_values", "top_places"):
        np.testing.assert_allclose(getattr(found, name), getattr(plain, name))
    # Samples keep their numbers.
    np.testing.assert_array_equal(found.top_samples, kept[plain.top_samples])
    found.save(tmp_path / "a.npz")
    assert Statistics.load(tmp_path / "a.npz").skipped == 2


def test_memory_stays_flat() -> None:
    rng = np.random.default_rng(0)
    found = Statistics([Layer("unet", "a", "channels", 500)], CONCEPTS)
    tracemalloc.start()
    after: dict[int, int] = {}
    for _ in range(200):
        values = rng.random((50, 500), np.float32)
        found.add(rng.integers(0, 3, 50), values, values[..., None].repeat(2, 2))
        if found.done in (1_000, 10_000):
            after[found.done] = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert found.done == 10_000
    assert after[10_000] < after[1_000] + 50_000  # of some 20 MB that all values would take
