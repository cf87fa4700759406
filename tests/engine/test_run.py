"""The engine: sizes of batches, memory that runs out, writing, and what is done only once."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0
from swept import SWEPT
from torch import Tensor, nn

from ablate import lab
from ablate.edits import noise
from ablate.edits.noise import NoiseCache
from ablate.edits.registry import OPS, Op
from ablate.engine import batches, run as engine
from ablate.engine.batches import Batch, Batcher, BatchSize, Job, KeyedCell, jobs_of
from ablate.engine.progress import Progress
from ablate.models import devices
from ablate.network.selectors import select
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.run import Run
from ablate.sweep.binding import plan

pytestmark = pytest.mark.usefixtures("without_report")

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]

EACH: dict[str, Any] = {
    "axes": {"module": {"each": "mid_block.attentions.*"}},
    "edits": [{"randomize": {"modules": "$module"}}],
}
EVERYWHERE: dict[str, Any] = {
    "axes": {"amount": {"values": [0.1, 0.2, 0.3]}},
    "edits": [{"mix_noise": {"modules": "*", "amount": "$amount"}}],
    "seeds": list(range(6)),
}


@pytest.fixture
def fresh(tiny_folder: Path) -> Pipeline:
    """A tiny pipeline for one test, which may change it."""
    return Pipeline.load(str(tiny_folder), device="cpu", dtype="float32")


def images(result: lab.Result) -> np.ndarray:
    return np.stack([np.asarray(cell.image(), dtype=int) for cell in result])


def weights(pipeline: Pipeline) -> dict[str, bytes]:
    return {k: v.numpy().tobytes() for k, v in pipeline.network.state_dict().items()}


# ------------------------------------------------------- memory that runs out


def limited(pipeline: Pipeline, rows: int, error: Callable[[str], Exception]) -> list[int]:
    """The denoiser fails with more rows than that; returns how many it was called with."""
    asked: list[int] = []

    def refuse(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        asked.append(len(given[0]))
        if len(given[0]) > rows:
            raise error("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    pipeline.network.register_forward_pre_hook(refuse)
    return asked


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError])
@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("recipe", [EACH, EVERYWHERE], ids=["by rows", "in place"])
def test_out_of_memory_halves_the_batches_and_goes_on(
    recipe: dict[str, Any],
    batch_size: int | None,
    error: Callable[[str], Exception],
    build: Build,
    run: RunIt,
    fresh: Pipeline,
) -> None:
    """Both in the words of GPUs and of CPUs; nothing is lost and nothing computed twice."""
    whole = run(build(**recipe), "whole", batch_size=batch_size)
    asked = limited(fresh, 8, error)
    before = weights(fresh)
    result = run(build(**recipe), "halved", pipeline=fresh, batch_size=batch_size)
    assert weights(fresh) == before
    assert result.summary.batch_size in (2, 3, 4)
    assert result.summary.computed == len(whole) == len(result)
    assert all(cell.done for cell in result.store.cells())
    assert [cell.key for cell in result] == [cell.key for cell in whole]
    assert np.abs(images(result) - images(whole)).max() <= 2
    fitting = sum(rows for rows in asked if rows <= 8)
    assert fitting == 2 * 2 * len(result)  # with guidance, two steps
    assert max(asked) > 8
    # What did not fit is not tried again and again.
    assert sum(rows > 8 for rows in asked) <= 5


def test_a_single_cell_that_does_not_fit_is_an_error(
    build: Build, tmp_path: Path, fresh: Pipeline
) -> None:
    limited(fresh, 1, torch.OutOfMemoryError)
    before = weights(fresh)
    with pytest.raises(torch.OutOfMemoryError):
        lab.run(build(**EACH), tmp_path / "run", pipeline=fresh)
    assert weights(fresh) == before
    assert Run(tmp_path / "run").finished() == set()


@pytest.mark.parametrize(
    ("recipe", "count"), [(EACH, 8), (EVERYWHERE, 9)], ids=["by rows", "in place"]
)
def test_another_error_is_passed_on_and_finished_cells_stay(
    recipe: dict[str, Any], count: int, build: Build, tmp_path: Path, fresh: Pipeline
) -> None:
    """What was computed before is on disk, also what was still to be written."""
    calls = 0

    def fail(_module: nn.Module, _given: tuple[Tensor, ...]) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise RuntimeError("shapes do not go together")

    handle = fresh.network.register_forward_pre_hook(fail)
    before = weights(fresh)
    with pytest.raises(RuntimeError, match="shapes do not go together"):
        lab.run(build(**recipe), tmp_path / "run", pipeline=fresh, batch_size=3)
    handle.remove()
    assert weights(fresh) == before
    finished = Run(tmp_path / "run").finished()
    assert len(finished) == count  # three batches, of two steps each
    again = lab.run(build(**recipe), tmp_path / "run", pipeline=fresh, batch_size=3)
    assert again.summary.reused == len(finished)
    assert again.summary.computed == len(again) - len(finished)


# ------------------------------------------------------- the size of batches


@pytest.fixture
def prepare(build: Build, tiny: Pipeline) -> Callable[..., tuple[list[Job], Batcher]]:
    def prepared(**keys: object) -> tuple[list[Job], Batcher]:
        planned = plan(build(**keys))
        cells = [
            KeyedCell(cell, tiny.settings(cell.condition.sampling), f"job{i}")
            for i, cell in enumerate(planned.cells)
        ]
        return jobs_of(cells, "unet"), Batcher(planned.catalog, rows=True)

    return prepared


ZEROED: dict[str, Any] = {
    "axes": {"module": {"each": "*"}},
    "edits": [{"zero": {"modules": "$module"}}],
    "seeds": list(range(12)),
}


def sizes(
    size: BatchSize, jobs: list[Job], batcher: Batcher, seconds: Callable[[Batch], float]
) -> Iterator[int]:
    """Sizes of the batches that are taken one after the other, when they take so long."""
    queue = deque(batcher.batches(jobs, size.unit))
    while queue:
        batch = size.take(queue)
        yield len(batch)
        size.record(batch, seconds(batch))


@pytest.fixture
def unlimited(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if memory were no matter."""
    monkeypatch.setattr(devices, "spare_memory", lambda _device: 2**60)


Prepare = Callable[..., tuple[list[Job], Batcher]]


@pytest.mark.usefixtures("unlimited")
def test_batches_grow_while_a_larger_one_pays(prepare: Prepare, tiny: Pipeline) -> None:
    """Up to the largest there is; all jobs are taken, each once."""
    jobs, batcher = prepare(**ZEROED)
    size = BatchSize(None, tiny, jobs)
    taken = list(sizes(size, jobs, batcher, lambda batch: 1.0))
    assert taken[0] < taken[1] < taken[2]
    assert taken[1] > 1.8 * taken[0]
    assert max(taken) <= batches.LARGEST
    assert max(taken) > batches.LARGEST / 2
    assert sum(taken) == len(jobs)


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("each", [1.0, 0.99, 1.01])
def test_batches_do_not_grow_where_it_does_not_pay(
    each: float, prepare: Prepare, tiny: Pipeline
) -> None:
    """One larger batch is tried."""
    jobs, batcher = prepare(**ZEROED)
    size = BatchSize(None, tiny, jobs)
    taken = list(
        sizes(size, jobs, batcher, lambda b: len(b) * (1.0 if len(b) <= size.unit else each))
    )
    first, tried, *rest = taken
    assert tried > first
    assert max(rest) <= size.unit
    assert sum(taken) == len(jobs)


@pytest.mark.usefixtures("unlimited")
def test_batches_stop_growing_at_the_size_that_pays_most(prepare: Prepare, tiny: Pipeline) -> None:
    jobs, batcher = prepare(**ZEROED)
    size = BatchSize(None, tiny, jobs)
    best = 2 * size.unit
    taken = list(
        sizes(size, jobs, batcher, lambda b: len(b) / min(len(b), best) + (len(b) > best) * len(b))
    )
    assert Counter(taken).most_common(1)[0][0] in range(best - 8, best + 1)
    assert sum(taken) == len(jobs)


def test_batches_do_not_grow_where_memory_is_short(
    prepare: Prepare, tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "spare_memory", lambda _device: 0)
    jobs, batcher = prepare(**ZEROED)
    size = BatchSize(None, tiny, jobs)
    assert max(sizes(size, jobs, batcher, lambda batch: 1.0)) <= size.unit


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("wanted", [1, 7, 40])
def test_a_size_that_is_asked_for_is_kept(wanted: int, prepare: Prepare, tiny: Pipeline) -> None:
    jobs, batcher = prepare(**ZEROED)
    taken = list(sizes(BatchSize(wanted, tiny, jobs), jobs, batcher, lambda batch: 1.0))
    assert 0.9 * wanted <= max(taken) <= wanted
    assert sum(taken) == len(jobs)


@pytest.mark.usefixtures("unlimited")
def test_a_size_that_was_too_large_is_halved_for_good(prepare: Prepare, tiny: Pipeline) -> None:
    jobs, batcher = prepare(**ZEROED)
    size = BatchSize(None, tiny, jobs)
    queue = deque(batcher.batches(jobs, size.unit))
    batch = size.take(queue)
    size.shrink(batch)
    queue.extendleft(reversed(batch.halves()))
    taken = []
    while queue:
        taken.append(size.take(queue))
        size.record(taken[-1], 1.0)
    assert max(map(len, taken)) <= len(batch) // 2
    assert Counter(j.cells[0].key for b in taken for j in b.jobs) == Counter(
        j.cells[0].key for j in jobs
    )


@pytest.mark.usefixtures("unlimited")
def test_batches_that_grow_are_of_one_kind(prepare: Prepare, tiny: Pipeline) -> None:
    """In place, only cells of one variant are computed together, however well a larger one pays."""
    jobs, batcher = prepare(**EVERYWHERE)
    size = BatchSize(None, tiny, jobs)
    size.unit = 2
    queue = deque(batcher.batches(jobs, 2))
    taken = []
    while queue:
        taken.append(size.take(queue))
        size.record(taken[-1], 1.0)
    assert max(map(len, taken)) > 2
    for batch in taken:
        assert batch.by_rows or len(set(batch.variants)) == 1


def test_a_run_keeps_the_batch_size_that_is_asked_for(
    build: Build, run: RunIt, fresh: Pipeline
) -> None:
    rows: list[int] = []
    fresh.network.register_forward_pre_hook(lambda _m, given: rows.append(len(given[0])))
    result = run(build(**EACH), pipeline=fresh, batch_size=3)
    assert result.summary.batch_size == 3
    assert set(rows) <= {2, 4, 6}
    assert rows.count(6) >= 2 * (len(result) // 3) - 2


# ------------------------------------------------------- a store that cannot write


def raised_by(something: Callable[[], Any], seconds: float = 60) -> BaseException | None:
    """What a call raised; it has to end in so many seconds."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            something()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it hangs"
    return raised[0] if raised else None


@pytest.mark.parametrize("fails", [1, 2, 5])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_a_store_that_cannot_write_is_an_error(
    fails: int,
    batch_size: int,
    build: Build,
    tmp_path: Path,
    tiny: Pipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the first batch, at the last, and between; the run ends soon and the weights are back."""
    real, written = Run.write_cells, 0
    recipe = build(**EACH)
    count = len(plan(recipe).cells)
    fails = min(fails, -(-count // batch_size))

    def write(store: Run, cells: Any) -> None:
        nonlocal written
        written += 1
        if written == fails:
            raise OSError(28, "No space left on device")
        real(store, cells)

    monkeypatch.setattr(Run, "write_cells", write)
    before = weights(tiny)
    error = raised_by(
        lambda: lab.run(recipe, tmp_path / "run", pipeline=tiny, batch_size=batch_size)
    )
    assert isinstance(error, OSError)
    assert "No space left" in str(error)
    assert weights(tiny) == before
    assert written <= fails + 4


# ------------------------------------------------------- what is done only once


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[Any, ...]]:
    """How often noise was drawn, by what it was drawn for."""
    counts: Counter[tuple[Any, ...]] = Counter()
    real = noise.draw

    def draw(op: Op, untouched: Tensor, **where: Any) -> Tensor:
        if op.draws is not None:
            counts[op.stream, *(value for key, value in where.items() if key != "owner")] += 1
        return real(op, untouched, **where)

    monkeypatch.setattr(noise, "draw", draw)
    return counts


@pytest.mark.parametrize("modules", ["*", "stage=out"], ids=["in place", "by rows"])
@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_a_sweep_over_strength_draws_once_for_every_tensor(
    modules: str,
    seeds: list[int],
    build: Build,
    run: RunIt,
    tiny: Pipeline,
    drawn: Counter[tuple[Any, ...]],
) -> None:
    amounts = [0.1, 0.2, 0.3, 0.4]
    recipe = build(
        seeds=seeds,
        axes={"amount": {"values": amounts}},
        edits=[{"mix_noise": {"modules": modules, "amount": "$amount"}}],
    )
    summary = run(recipe, batch_size=2).summary
    assert summary.computed == len(seeds) * 5
    assert (summary.in_place > 0) == (modules == "*")
    chosen = {m.path for m in select(modules, tiny.catalog)}
    tensors = [
        name for name, _ in tiny.network.named_parameters() if name.rpartition(".")[0] in chosen
    ]
    assert set(drawn.values()) == {1}
    assert len(drawn) == len(tensors)


def test_every_perturbation_seed_draws_once_though_the_plan_has_them_in_turn(
    build: Build, run: RunIt, drawn: Counter[tuple[Any, ...]]
) -> None:
    recipe = build(
        axes={"amount": {"values": [0.1, 0.2, 0.3]}, "perturbation_seed": {"values": [4, 2]}},
        edits=[{"mix_noise": {"modules": "*", "amount": "$amount"}}],
    )
    assert run(recipe).summary.in_place == 6
    assert set(drawn.values()) == {1}
    assert len(drawn) % 2 == 0


def test_draws_are_those_of_ops_draw() -> None:
    """Whatever was asked for before, kept or not."""
    owners = {name: nn.Linear(4, 3) for name in ("a", "b")}
    random_ops = [OPS[name] for name in SWEPT if OPS[name].draws]
    for limit in (0, 100, 2**30):
        draws = NoiseCache(limit)
        for seed in (0, 1, 0):
            for _ in range(2):
                for op in random_ops:
                    for name, owner in owners.items():
                        for kind in (None, *op.kinds):
                            where: dict[str, Any] = {
                                "seed": seed,
                                "module": name,
                                "parameter": "weight",
                                "kind": kind,
                                "owner": owner,
                            }
                            tensor = draws(op, owner.weight, **where)
                            assert torch.equal(tensor, noise.draw(op, owner.weight, **where))


OWNER = nn.Linear(10, 1, bias=False)  # 40 bytes a draw


def test_draws_of_ops_without_noise_are_empty() -> None:
    draws = NoiseCache(2**30)
    for name in ("zero", "scale", "quantize", "low_rank"):
        where: dict[str, Any] = {"module": "a", "parameter": "weight", "owner": OWNER}
        assert draws(OPS[name], OWNER.weight, seed=0, **where).numel() == 0


@pytest.mark.parametrize(
    ("limit", "kept"), [(0, 0), (39, 0), (40, 1), (119, 2), (120, 3), (10**9, 5)]
)
def test_draws_keep_no_more_than_their_limit(
    limit: int, kept: int, drawn: Counter[tuple[Any, ...]]
) -> None:
    """What comes first is kept; the rest is drawn whenever it is asked for."""
    draws, mix = NoiseCache(limit), OPS["mix_noise"]
    for _ in range(4):
        for module in "abcde":
            draws(mix, OWNER.weight, seed=0, module=module, parameter="weight", owner=OWNER)
    assert sorted(drawn.values()) == [1] * kept + [4] * (5 - kept)
    assert all(drawn["randomize", 0, module, "weight"] == 1 for module in "abcde"[:kept])


def test_draws_of_another_perturbation_seed_start_anew(drawn: Counter[tuple[Any, ...]]) -> None:
    """The room that the old ones took is free again."""
    draws, mix = NoiseCache(40), OPS["mix_noise"]
    for seed in (0, 1, 2):
        for _ in range(3):
            draws(mix, OWNER.weight, seed=seed, module="a", parameter="weight", owner=OWNER)
    assert set(drawn.values()) == {1}
    assert len(drawn) == 3


@pytest.mark.parametrize(
    ("keys", "encoded"),
    [
        ({"prompts": ["a cat", "a dog", "a boat"], "seeds": [0, 1, 2]}, 3 * 2),
        ({"prompts": ["a cat"], "seeds": [0, 1]}, 2),
        ({"prompts": ["a cat", ""]}, 2 * 2),
        (
            {
                "prompts": ["a cat", "a dog"],
                "sampling": {"num_inference_steps": 2, "guidance_scale": 1},
            },
            2,
        ),
    ],
)
@pytest.mark.parametrize("batch_size", [1, None])
def test_a_prompt_is_encoded_once(
    keys: dict[str, Any],
    encoded: int,
    batch_size: int | None,
    build: Build,
    run: RunIt,
    fresh: Pipeline,
) -> None:
    """Over a whole run of many variants, and with it the negative prompt where there is guidance:
    the code of the pipeline does both at once."""
    calls: list[int] = []
    fresh.pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    axes = {"module": {"each": {"sample": {"of": "*", "count": 5}}}}
    recipe = build(axes=axes, edits=[{"zero": {"modules": "$module"}}], **keys)
    result = run(recipe, pipeline=fresh, batch_size=batch_size)
    assert result.summary.computed == len(result) > encoded
    assert len(calls) == encoded


def test_a_text_encoder_that_is_edited_encodes_once_for_every_variant(
    build: Build, run: RunIt, tiny_folder: Path
) -> None:
    """Its variants share a batch, and none sees the embedding of another."""
    edited = Pipeline.load(
        str(tiny_folder), component="text_encoder", device="cpu", dtype="float32"
    )
    calls: list[int] = []
    edited.pipe.text_encoder.register_forward_hook(lambda *_: calls.append(1))
    recipe = build(
        component="text_encoder",
        seeds=[0, 1],
        axes={"amount": {"values": [0.3, 0.9]}},
        edits=[{"mix_noise": {"modules": "*", "amount": "$amount"}}],
    )
    before = weights(edited)
    result = run(recipe, pipeline=edited)
    assert (result.summary.by_rows, result.summary.in_place) == (6, 0)
    assert result.summary.batch_size == 6
    assert len(calls) == 3 * 2  # a prompt and a negative one
    assert weights(edited) == before
    assert len({image.tobytes() for image in images(result)}) == 6
    alone = run(recipe, "alone", pipeline=edited, batch_size=1)
    assert [cell.key for cell in alone] == [cell.key for cell in result]
    assert np.abs(images(alone) - images(result)).max() <= 2


def test_memory_stays_flat_over_two_thousand_cells(
    build: Build, tmp_path: Path, tiny: Pipeline
) -> None:
    """The last hundred cells need no more than the first hundred, but for the odd buffer."""
    recipe = build(
        seeds=list(range(25)),
        sampling={"num_inference_steps": 1},
        axes={"module": {"each": {"sample": {"of": "*", "count": 79}}}},
        edits=[{"randomize": {"modules": "$module"}}],
    )
    used: dict[int, int] = {}

    def note(now: Progress) -> None:
        used[now.done] = psutil.Process().memory_info().rss

    summary = engine.execute(
        plan(recipe), tiny, Run(tmp_path / "run"), batch_size=20, progress=Progress(note)
    )
    assert summary.total == 2000
    first = max(memory for done, memory in used.items() if done <= 100)
    last = max(memory for done, memory in used.items() if done > 1900)
    assert last - first < 32 * 2**20


def test_zeroings_of_one_effect_are_sampled_once(
    build: Build, run: RunIt, tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their cells are as if each was sampled, and say whose images they are."""
    names = ["norm1", "attn1.to_q", "attn1.to_k", "attn1.to_v"]
    paths = [f"mid_block.attentions.0.transformer_blocks.0.{name}" for name in names]
    edits = [{"zero": {"modules": "$module"}}]
    sampled: list[int] = []
    sample = tiny.sample

    def counted(requests: list[Any], *args: Any) -> Any:
        sampled.append(len(requests))
        return sample(requests, *args)

    monkeypatch.setattr(tiny, "sample", counted)
    together = run(build(axes={"module": {"values": paths}}, edits=edits), "together")
    assert sum(sampled) == 3  # the baseline, two effects
    same = {cell.axes["module"]: cell.same_as for cell in together if cell.same_as}
    assert same == {paths[2]: f"module={paths[1]}", paths[3]: f"module={paths[0]}"}
    assert dict(together.table().set_index("module")["same_as"].dropna()) == same
    for path in paths:
        alone = run(build(edits=[{"zero": {"modules": path}}]), path)
        (one,) = [cell for cell in alone if not cell.is_baseline]
        (other,) = [cell for cell in together if cell.axes.get("module") == path]
        assert one.key == other.key
        assert np.abs(np.asarray(one.image(), int) - np.asarray(other.image(), int)).max() <= 1
        assert one.record()["edits"] == other.record()["edits"]


class Unlike(AttnProcessor2_0):
    """Attention whose queries are values, too."""

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return super().__call__(attn, hidden_states, *args, **kwargs) + attn.to_q(hidden_states)


def test_what_is_one_effect_is_so_in_the_network_as_it_is_loaded(
    build: Build, run: RunIt, fresh: Pipeline
) -> None:
    """Not in that of its configuration, where a user has replaced attention."""
    paths = [f"mid_block.attentions.0.transformer_blocks.0.attn1.to_{name}" for name in "qk"]
    recipe = build(axes={"m": {"values": paths}}, edits=[{"zero": {"modules": "$m"}}])
    assert len(plan(recipe).same) == 1
    fresh.denoiser.set_attn_processor(Unlike())
    result = run(recipe, pipeline=fresh)
    assert [cell.same_as for cell in result] == ["", "", ""]
    _, queries, keys = images(result)
    assert not np.array_equal(queries, keys)
