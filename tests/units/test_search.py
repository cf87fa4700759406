"""Search names no more than chance allows; intervals cover means; recording writes now and then."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ablate.drift.intervals import student_quantile, t_interval
from ablate.engine.progress import Progress
from ablate.store.activations import Layer, Statistics, StatisticsError, read_statistics
from ablate.units.concepts import multimodal, search, selectivity
from ablate.units.record.setup import StudyError


def noise(seed: int, concepts: int, each: int, units: int, rank: int = 0) -> Statistics:
    """A study whose units answer to nothing; `rank`: to how many things they answer together."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(concepts), each)
    values = rng.exponential(size=(len(labels), units))
    if rank:
        values = 10 + 0.1 * values
        values += rng.normal(size=(len(labels), rank)) @ rng.normal(size=(rank, units))
    names = [str(n) for n in range(concepts)]
    found = Statistics([Layer("unet", "a", "channels", units)], names)
    found.add(labels, values, None, rng.permutation(labels))
    return found


def test_one_sample_a_concept_has_no_contrast_and_no_chance() -> None:
    found = Statistics([Layer("unet", "a", "channels", 1)], ("cat", "dog"))
    found.add(np.array([0, 1]), np.array([[2.0], [1.0]]), None, np.array([1, 0]))
    assert np.isnan([*found.contrast().flat, *found.by_chance()]).all()
    with pytest.raises(StudyError, match="one sample a concept: no spread"):
        search.describe_unit(found, "a", 0)


def test_few_samples_a_concept_are_noted() -> None:
    note = search.few_samples_note(noise(0, 2, 2, 1))
    assert note.startswith("Contrasts are of 2 samples a concept, so")
    assert search.few_samples_note(noise(0, 3, 10, 5)) == ""


def test_student_is_that_of_the_tables() -> None:
    for freedom, value in ((1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (15, 2.131)):
        assert student_quantile(0.025, freedom) == pytest.approx(value, abs=5e-4)
    assert student_quantile(0.0005, 4) == pytest.approx(8.610, abs=5e-4)
    assert student_quantile(2.8665e-7, 200_000) == pytest.approx(5, abs=1e-3)  # as of the normal


def test_what_chance_gives_is_that_of_shuffled_labels() -> None:
    rng = np.random.default_rng(0)
    values, labels = rng.normal(size=(40, 6)), np.repeat(np.arange(4), 10)
    dealt = rng.permutation(labels)
    found, shuffled = (Statistics([Layer("unet", "a", "channels", 6)], "abcd") for _ in range(2))
    found.add(labels, values, None, dealt)
    shuffled.add(dealt, values)
    assert np.allclose(found.contrast_by_chance(), shuffled.contrast())
    assert search.threshold(found) >= shuffled.contrast().max()


@pytest.mark.parametrize("size", [(20, 4, 400), (5, 4, 16), (20, 4, 400, 2)])
def test_of_studies_of_nothing_few_name_a_unit(size: tuple[int, ...]) -> None:
    studies = [noise(seed, *size) for seed in range(40)]
    named = sum(any(row["units"] for row in search.search_units(study)) for study in studies)
    assert named <= 5  # 2 of 40 are expected, more than 5 in one of a hundred times


def test_a_unit_that_is_planted_in_noise_is_named() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(20), 8)
    values = rng.exponential(size=(160, 400))
    values[labels == 3, 17] += 8
    found = Statistics([Layer("unet", "a", "channels", 400)], [str(n) for n in range(20)])
    found.add(labels, values, None, rng.permutation(labels))
    rows = {row["concept"]: [u["unit"] for u in row["units"]] for row in search.search_units(found)}
    assert {concept: units for concept, units in rows.items() if units} == {"3": [17]}


def test_a_study_that_stopped_halfway_is_not_searched(tmp_path: Path) -> None:
    found = noise(0, 3, 2, 4)
    found.total = 12
    found.save(tmp_path / "activations.npz")
    with pytest.raises(StatisticsError, match="has 6 of 12 samples"):
        read_statistics(tmp_path)
    found.total = 6
    found.save(tmp_path / "activations.npz")
    assert read_statistics(tmp_path).done == 6


def test_intervals_cover_the_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    drawn = [t_interval(changes) for changes in rng.normal(size=(1000, 4))]
    assert 930 <= sum(low <= 0 <= high for low, high in drawn) <= 970
    assert t_interval(np.array([1.0, 2.0, 3.0])) == pytest.approx((-0.484, 4.484), abs=1e-3)
    assert t_interval(np.array([0.3])) == (-np.inf, np.inf)


def test_coincidence_names_no_unit() -> None:
    """Every unit answers to one concept in pictures and to one in letters: by chance, and then some
    of them to one and the same."""
    rng = np.random.default_rng(1)
    labels = np.repeat(np.arange(32), 6)
    layer = [Layer("clip", "a", "channels", 600)]

    def answering_to(concepts: np.ndarray, seed: int) -> Statistics:
        noise = np.random.default_rng(seed).normal(size=(len(labels), 600))
        found = Statistics(layer, [str(n) for n in range(32)])
        values = 10 + noise + rng.uniform(10, 30, 600) * (labels[:, None] == concepts)
        found.add(labels, values, None, np.random.default_rng(seed).permutation(labels))
        return found

    pictures, words = rng.integers(0, 32, (2, 600))
    seen = search.Contrasts.of(answering_to(pictures, 1))
    read = search.Contrasts.of(answering_to(words, 2))
    found = multimodal.pair_units(seen, read)
    assert found.alike == (pictures == words).sum() > 10
    assert found.expected == pytest.approx(found.alike, rel=0.5)
    assert not found.units
    # As by hand: the words dealt to the next concept, to the one after it, and so on.
    first = seen.values.argmax(0)
    meet = [(np.roll(read.values, n, 0).argmax(0) == first).sum() for n in range(1, 32)]
    assert found.expected == pytest.approx(np.mean(meet))
    words[:300] = pictures[:300]
    found = multimodal.pair_units(seen, search.Contrasts.of(answering_to(words, 2)))
    assert set(range(300)) <= set(found.units)
    assert len(found.units) < 320


def test_writing_takes_a_small_part_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(selectivity.time, "monotonic", lambda: now)
    found, written = noise(0, 3, 2, 4), 0.0

    def save(_path: Path) -> None:
        nonlocal now, written
        now, written = now + 20, written + 20

    monkeypatch.setattr(found, "save", save)
    pace = selectivity._Pace()
    while now < 10_000:
        now += 1
        if pace.due():
            pace.write(found, tmp_path)
    assert 0.03 < written / now < 0.055


def test_what_a_failed_batch_left_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = noise(0, 3, 2, 4)
    found.save(tmp_path / "activations.npz")

    def stream(_study: Any, sink: Any, done: int) -> Iterator[int]:
        assert done == 6
        monkeypatch.setattr(sink.statistics, "_rank", lambda *_: 1 / 0)
        sink.statistics.add(np.array([0]), np.ones((1, 4)))
        yield 7

    class Sink:
        def __init__(self, statistics: Statistics) -> None:
            self.statistics = statistics

        @classmethod
        def of(cls, _study: Any, statistics: Statistics) -> Sink:
            return cls(statistics)

    monkeypatch.setattr(selectivity, "stream", stream)
    monkeypatch.setattr(selectivity, "ByConcept", Sink)
    study: Any = SimpleNamespace(
        folder=tmp_path, samples=range(9), component="text_encoder", texts=True,
        progress=Progress(), layers=found.layers,
        setup=SimpleNamespace(stimuli=SimpleNamespace(concepts=found.concepts)),
    )  # fmt: skip
    with pytest.raises(ZeroDivisionError):
        selectivity.record_selectivity(study)
    assert Statistics.load(tmp_path / "activations.npz").done == 6
