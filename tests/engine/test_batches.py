"""How a plan's jobs become batches, by properties of every plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import pairwise

import pytest

from ablate.edits.variants import Edit, Variant
from ablate.engine.batches import (
    SHARE,
    Batch,
    Batcher,
    Job,
    KeyedCell,
    in_order,
    jobs_of,
    joined,
    unfinished,
)
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sweep.binding import plan

Build = Callable[..., Recipe]
Prepare = Callable[..., tuple[Batcher, list[Job]]]

MID = "mid_block.resnets.0"
ZERO_EACH = {
    "axes": {"module": {"each": "mid_block.*"}},
    "edits": [{"zero": {"modules": "$module"}}],
}
SOME = ["conv_in", f"{MID}.*", "up_blocks.0.*", "*"]


def mixed(**keys: object) -> dict[str, object]:
    """Variants that touch from little to all of the network, at two seeds and two step counts."""
    return {
        "seeds": [0, 1],
        "axes": {
            "part": {"values": SOME},
            "amount": {"values": [0.1, 0.2, 0.3]},
            "num_inference_steps": {"values": [2, 3]},
        },
        "edits": [{"mix_noise": {"modules": "$part", "amount": "$amount"}}],
        **keys,
    }


@pytest.fixture
def prepare(build: Build, tiny: Pipeline) -> Prepare:
    """The batcher and the jobs of a recipe on the tiny pipeline."""

    def batched(rows: bool = True, **keys: object) -> tuple[Batcher, list[Job]]:
        planned = plan(build(**keys))
        cells = [
            KeyedCell(cell, tiny.settings(cell.condition.sampling), f"job{i}")
            for i, cell in enumerate(planned.cells)
        ]
        return Batcher(planned.catalog, rows=rows), jobs_of(cells, "unet")

    return batched


def variant_of(jobs: list[Job], path: str) -> Variant:
    return next(j.variant for j in jobs if path in j.variant.modules)


def keys(batches: list[Batch]) -> list[str]:
    return [job.cells[0].key for batch in batches for job in batch.jobs]


RECIPES = {
    "each module zeroed": ZERO_EACH,
    "each module zeroed, seeds": ZERO_EACH | {"seeds": [0, 1, 2]},
    "mixed": mixed(),
    "one variant": {"edits": [{"scale": {"modules": "*", "factor": 2}}], "seeds": list(range(9))},
    "everything shuffled in parts": {
        "axes": {"part": {"group": {"modules": "*", "by": "block"}}},
        "edits": [{"shuffle": {"modules": "$part"}}],
        "seeds": [0, 1, 2],
    },
}


@pytest.mark.parametrize("size", [1, 2, 5, 7, 1000])
@pytest.mark.parametrize("name", RECIPES)
def test_all_jobs_are_in_batches_that_can_be_computed(
    name: str, size: int, prepare: Prepare
) -> None:
    batcher, jobs = prepare(**RECIPES[name])
    batches = batcher.batches(jobs, size)
    assert sorted(keys(batches)) == sorted(job.cells[0].key for job in jobs)
    for batch in batches:
        assert 1 <= len(batch) <= size
        assert len({job.settings for job in batch.jobs}) == 1
        if batch.by_rows:
            # In their order: in another one the last bits of the sum are others.
            assert sum(batcher.share(v) for v in dict.fromkeys(batch.variants)) <= 1
            assert all(batcher.by_rows(v) for v in batch.variants)
        else:
            assert len(set(batch.variants)) == 1
            assert not batcher.by_rows(batch.variants[0])


@pytest.mark.parametrize("size", [1, 2, 5, 7, 1000])
@pytest.mark.parametrize("name", RECIPES)
def test_jobs_of_one_way_are_in_the_order_of_variants(
    name: str, size: int, prepare: Prepare
) -> None:
    batcher, jobs = prepare(**RECIPES[name])
    batches = batcher.batches(jobs, size)
    place = {job.cells[0].key: i for i, job in enumerate(in_order(jobs))}
    kinds: dict[object, list[int]] = {}
    for batch in batches:
        first = batch.jobs[0]
        kind = (batch.by_rows, first.settings, None if batch.by_rows else batch.variants[0])
        kinds.setdefault(kind, []).extend(place[job.cells[0].key] for job in batch.jobs)
    assert all(places == sorted(places) for places in kinds.values())


def zeroed(count: int) -> dict[str, object]:
    """A recipe of so many cells: the baseline, and single modules zeroed."""
    each = {"each": {"sample": {"of": "*", "count": count - 1}}}
    return {"axes": {"module": each}, "edits": [{"zero": {"modules": "$module"}}]}


@pytest.mark.parametrize(
    ("count", "size", "sizes"),
    [
        (12, 5, [4, 4, 4]),
        (9, 8, [5, 4]),
        (65, 64, [33, 32]),
        (7, 7, [7]),
        (3, 1, [1, 1, 1]),
        (5, 100, [5]),
        (10, 4, [4, 3, 3]),
        (17, 4, [4, 4, 3, 3, 3]),
    ],
)
def test_batches_are_of_about_equal_size(
    count: int, size: int, sizes: list[int], prepare: Prepare
) -> None:
    """As few as there can be, and none with much less to do than the others."""
    batcher, jobs = prepare(**zeroed(count))
    batches = batcher.batches(jobs, size)
    assert all(batch.by_rows for batch in batches)
    assert sorted(map(len, batches), reverse=True) == sizes


def test_variants_come_in_order_of_appearance_with_all_their_cells(prepare: Prepare) -> None:
    _, jobs = prepare(**ZERO_EACH, seeds=[0, 1, 2])
    ordered = in_order(jobs)
    variants = [job.variant for job in ordered]
    assert list(dict.fromkeys(variants)) == list(dict.fromkeys(j.variant for j in jobs))
    changes = sum(one != other for one, other in pairwise(variants))
    assert changes == len(set(variants)) - 1
    for variant in set(variants):
        seeds = [j.condition.seed for j in ordered if j.variant == variant]
        assert seeds == [0, 1, 2]


def test_variants_of_one_perturbation_seed_are_neighbors(prepare: Prepare) -> None:
    """Though the plan has the seeds in turn."""
    _, jobs = prepare(
        axes={"amount": {"values": [0.1, 0.2, 0.3]}, "perturbation_seed": {"values": [5, 3, 4]}},
        edits=[{"mix_noise": {"modules": MID + ".conv1", "amount": "$amount"}}],
    )
    seeds = [j.variant.perturbation_seed for j in in_order(jobs) if j.variant.edits]
    assert seeds == [5, 5, 5, 3, 3, 3, 4, 4, 4]
    planned = [j.variant.perturbation_seed for j in jobs if j.variant.edits]
    assert planned != seeds


def test_variants_that_draw_nothing_have_no_perturbation_seed_to_be_sorted_by(
    prepare: Prepare,
) -> None:
    _, jobs = prepare(**ZERO_EACH, perturbation_seed=9)
    assert in_order(jobs) == jobs


# ------------------------------------------------------- by rows or in place


@pytest.mark.parametrize("op", ["mix_noise", "scale", "randomize", "shuffle", "add_noise"])
def test_what_touches_much_of_the_network_goes_in_place(op: str, prepare: Prepare) -> None:
    strength = {"mix_noise": {"amount": 0.3}, "add_noise": {"amount": 0.3}, "scale": {"factor": 2}}
    edit = {op: {"modules": "$part", **strength.get(op, {})}}
    batcher, jobs = prepare(axes={"part": {"values": SOME}}, edits=[edit], seeds=[0, 1])
    shares = {v: batcher.share(v) for v in {job.variant for job in jobs}}
    assert min(shares.values()) == 0  # the baseline
    assert max(shares.values()) == 1
    batches = batcher.batches(jobs, 100)
    for batch in batches:
        assert {shares[v] <= SHARE for v in batch.variants} == {batch.by_rows}
    in_place = [batch for batch in batches if not batch.by_rows]
    assert len(in_place) == sum(share > SHARE for share in shares.values()) >= 1
    assert all(len(batch) == 2 for batch in in_place)


def test_a_share_is_the_part_of_the_parameters_that_gets_new_values(
    prepare: Prepare, tiny: Pipeline
) -> None:
    batcher, _ = prepare(**ZERO_EACH)
    sizes = {m.path: m.parameters for m in tiny.catalog}
    one, other = f"{MID}.conv1", "up_blocks.0.resnets.0.conv1"
    total = sum(sizes.values())

    def share(*edits: Edit) -> float:
        return batcher.share(Variant("v", edits))

    assert share(Edit("shuffle", (one,))) == pytest.approx(sizes[one] / total)
    both = pytest.approx((sizes[one] + sizes[other]) / total)
    assert share(Edit("shuffle", (one, other))) == both
    assert share(Edit("shuffle", (one,)), Edit("randomize", (other,))) == both
    assert share(Edit("shuffle", (one, other)), Edit("randomize", (other,))) == both
    assert share(Edit("shuffle", (one,)), Edit("zero", (other,))) == share(Edit("shuffle", (one,)))
    assert share(Edit("shuffle", tuple(sizes))) == pytest.approx(1)


@pytest.mark.parametrize("count", [1, 20, 116])
def test_zeroed_modules_count_nothing(count: int, prepare: Prepare) -> None:
    """However many: they are not run, so that nothing of theirs is computed or kept."""
    batcher, jobs = prepare(
        axes={"first": {"cumulative": {"modules": "*", "counts": [count]}}},
        edits=[{"zero": {"modules": "$first"}}],
    )
    assert batcher.share(jobs[-1].variant) == 0
    assert [batch.by_rows for batch in batcher.batches(jobs, 100)] == [True]


def test_zeroing_weights_or_biases_alone_counts(prepare: Prepare) -> None:
    """The module has to run then."""
    batcher, jobs = prepare(edits=[{"zero": {"modules": "*", "params": "bias"}}])
    assert batcher.share(jobs[-1].variant) > SHARE
    assert [batch.by_rows for batch in batcher.batches(jobs, 100)] == [True, False]


def test_modules_without_rows_go_in_place(prepare: Prepare) -> None:
    batcher, jobs = prepare(**ZERO_EACH, seeds=[0, 1])
    paths = [f"{MID}.conv1", f"{MID}.conv2"]
    batcher.rowless |= set(paths)
    batches = batcher.batches(jobs, 100)
    in_place = [batch.variants for batch in batches if not batch.by_rows]
    assert in_place == [(variant_of(jobs, path),) * 2 for path in paths]
    assert len(keys(batches)) == len(jobs)
    assert sum(batch.by_rows for batch in batches) == 1


def test_where_modules_see_no_row_a_cell_all_goes_in_place(prepare: Prepare) -> None:
    batcher, jobs = prepare(rows=False, **ZERO_EACH, seeds=[0, 1])
    batches = batcher.batches(jobs, 100)
    assert {(batch.by_rows, len(set(batch.variants)), len(batch)) for batch in batches} == {
        (False, 1, 2)
    }


def test_variants_by_rows_fit_into_the_memory_of_one_more_network(prepare: Prepare) -> None:
    """Variants of much less than the remaining share a batch; cells of one variant count once."""
    part = {"each": ["up_blocks.0.resnets.*.conv*"]}
    amount = {"values": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]}
    batcher, jobs = prepare(
        seeds=[0, 1, 2],
        axes={"module": part, "amount": amount},
        edits=[{"mix_noise": {"modules": "$module", "amount": "$amount"}}],
    )
    batches = batcher.batches(jobs, 1000)
    used = [sum(batcher.share(v) for v in dict.fromkeys(batch.variants)) for batch in batches]
    assert all(batch.by_rows for batch in batches)
    assert len(batches) > 1
    assert max(used) <= 1
    # Not emptier than has to be: the next variant would not have had room.
    for batch, following, share in zip(batches, batches[1:], used, strict=False):
        assert share + batcher.share(following.variants[0]) > 1
        assert batch.variants[-1] != following.variants[0]


def test_edits_of_what_is_at_work_before_or_after_change_nothing_about_batches(
    prepare: Prepare,
) -> None:
    """However much of a text encoder or of the autoencoder they touch; equal ones are one variant
    whatever is done to the denoiser beside."""
    edits = [
        {"randomize": {"component": "text_encoder", "modules": "*"}},
        {"scale": {"component": "vae", "modules": "*", "factor": "$factor"}},
        {"zero": {"modules": "$module"}},
    ]
    axes = {"factor": {"values": [1, 2, 3]}, "module": {"each": "conv_*"}}
    batcher, jobs = prepare(axes=axes, edits=edits)
    (batch,) = batcher.batches(jobs, 100)
    assert batch.by_rows
    assert len(batch) == 1 + 3 * 3
    assert len({job.variant for job in jobs}) == 1 + 3
    assert len({job.encoding for job in jobs}) == 1 + 1
    assert len({job.decoding for job in jobs}) == 1 + 2
    baseline, *others = jobs
    assert [baseline.variant.edits, baseline.encoding.edits, baseline.decoding.edits] == [()] * 3
    for job in others:
        assert [e.op for e in job.variant.edits] == ["zero"]
        assert [e.op for e in job.encoding.edits] == ["randomize"]
        assert {e.op for e in job.decoding.edits} <= {"scale"}


# ------------------------------------------------------- batches of a run begun before


@pytest.fixture
def batched(prepare: Prepare) -> tuple[Batcher, list[Batch]]:
    batcher, jobs = prepare(**zeroed(20))
    batches = batcher.batches(jobs, 5)
    assert [len(batch) for batch in batches] == [5, 5, 5, 5]
    return batcher, batches


def left(batcher: Batcher, batches: list[Batch], done: set[str]) -> list[Batch]:
    return unfinished(batches, lambda cell: cell.key in done, lambda rest: batcher.batches(rest, 5))


def test_nothing_finished_leaves_all_batches_as_they_are(
    batched: tuple[Batcher, list[Batch]],
) -> None:
    batcher, batches = batched
    assert left(batcher, batches, set()) == batches


def test_all_finished_leaves_nothing(batched: tuple[Batcher, list[Batch]]) -> None:
    batcher, batches = batched
    assert left(batcher, batches, set(keys(batches))) == []


def test_finished_batches_go_and_others_stay(batched: tuple[Batcher, list[Batch]]) -> None:
    batcher, batches = batched
    assert left(batcher, batches, set(keys(batches[:1]))) == batches[1:]


def test_the_rest_of_begun_batches_is_pooled(batched: tuple[Batcher, list[Batch]]) -> None:
    """Two cells of one and three of another are one batch, after complete ones."""
    batcher, batches = batched
    first, second, third, fourth = batches
    done = {job.cells[0].key for job in (*second.jobs[:3], *fourth.jobs[1:3])}
    remaining = left(batcher, batches, done)
    assert remaining[:2] == [first, third]
    assert keys(remaining[2:]) == [
        j.cells[0].key for j in (*second.jobs[3:], fourth.jobs[0], *fourth.jobs[3:])
    ]
    assert [len(batch) for batch in remaining] == [5, 5, 5]
    assert Counter(keys(remaining)).keys() | done == set(keys(batches))


def test_halves_and_joined_lose_nothing(batched: tuple[Batcher, list[Batch]]) -> None:
    _, batches = batched
    first, second = batches[0].halves()
    assert abs(len(first) - len(second)) == 1
    assert joined([first, second]) == batches[0]
    assert first.fits(second)


def test_only_batches_of_one_kind_are_computed_as_one(prepare: Prepare) -> None:
    """In place one variant, by rows any; settings are always the same."""
    batcher, jobs = prepare(**mixed())
    batches = batcher.batches(jobs, 2)
    for one in batches:
        for other in batches:
            together = one.fits(other)
            assert together == other.fits(one)
            alike = one.jobs[0].settings == other.jobs[0].settings and one.by_rows == other.by_rows
            expected = alike and (one.by_rows or set(one.variants) == set(other.variants))
            assert together == expected
