"""Variants by rows: each row of a batch is what it is when its cell's variant is in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import TimestepEmbedding
from swept import SWEPT, strength
from torch import Tensor, nn

from ablate import lab
from ablate.edits.batch import NoRowsError
from ablate.edits.in_place import applied
from ablate.edits.rows import by_rows
from ablate.edits.variants import Edit, Variant
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Request
from ablate.sampling.settings import Sampling
from ablate.sweep.binding import plan

pytestmark = pytest.mark.usefixtures("without_report")

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]
Call = Callable[[nn.Module, Tensor], Tensor]

BASELINE = Variant("baseline")
CELLS = 61  # variants of a batch on the bundled model: a third of its modules
CLOSE = 2 / 255


def variant(op: str, *paths: str, params: str | None = None, seed: int = 0) -> Variant:
    return Variant(f"{op} {paths} {params}", (Edit(op, paths, strength(op, 0.3), params),), seed)


@contextmanager
def as_before_afterwards(network: nn.Module) -> Iterator[None]:
    """Law 1, and nothing stays in the modules: no `forward` on the instance, no hooks."""

    def state() -> dict[str, object]:
        contents: dict[str, object] = {
            name: tensor.detach().contiguous().numpy().tobytes()
            for name, tensor in network.state_dict().items()
        }
        for path, module in network.named_modules():
            hooks = (module._forward_hooks, module._forward_pre_hooks)
            contents[f"{path}()"] = (vars(module).get("forward"), *map(len, hooks))
        return contents

    before = state()
    yield
    after = state()
    assert [name for name in before if before[name] != after[name]] == []


def plain(network: nn.Module, given: Tensor) -> Tensor:
    return network(given)  # type: ignore[no-any-return]


@torch.no_grad()
def one_by_one(
    network: nn.Module, variants: Sequence[Variant], given: Tensor, call: Call = plain
) -> Tensor:
    """The rows of each cell, computed alone with its variant in place."""
    n = len(variants)
    out: Tensor | None = None
    for cell, its in enumerate(variants):
        with applied(network, its):  # what comes out may be a view of the weights
            rows = call(network, given[cell::n].clone()).clone()
        if out is None:
            out = rows.new_empty(len(given), *rows.shape[1:])
        out[cell::n] = rows
    assert out is not None
    return out


@torch.no_grad()
def together(
    network: nn.Module, variants: Sequence[Variant], given: Tensor, call: Call = plain
) -> Tensor:
    with by_rows(network, variants):
        return call(network, given.clone()).clone()


# ------------------------------------------------------- every module of the bundled denoiser


def each_module(pipeline: Pipeline, ops: Sequence[str]) -> list[Variant]:
    """A variant a module; the ops take turns."""
    return [variant(op, m.path) for op, m in zip(cycle(ops), pipeline.catalog, strict=False)]


def in_batches(items: Sequence[Any], size: int = CELLS) -> Iterator[Sequence[Any]]:
    return (items[i : i + size] for i in range(0, len(items), size))


@pytest.mark.slow  # of predictions it is a default one
def test_every_module_gives_the_image_that_it_gives_in_place(bundled_pipeline: Pipeline) -> None:
    """Law 5, for cells of the whole network, each with another seed. Half of the modules are
    not run, half run with other weights: of all of them by both the predictions are checked."""
    pipeline = bundled_pipeline
    settings = pipeline.settings(Sampling(num_inference_steps=2, guidance_scale=5.0))
    variants = each_module(pipeline, ["zero", "mix_noise"])
    assert len(variants) == 183
    requests = [Request("a cat in a party hat", seed) for seed in range(len(variants))]
    images: list[np.ndarray] = []
    for some, asked in zip(in_batches(variants), in_batches(requests), strict=True):
        with by_rows(pipeline.network, some) as report:
            images.extend(pipeline.sample(asked, settings).images)
        assert report.ran == {path for its in some for path in its.modules}
    apart = {}
    for its, request, image in zip(variants, requests, images, strict=True):
        with applied(pipeline.network, its):
            (expected,) = pipeline.sample([request], settings).images
        difference = np.abs((image * 255).round() - (expected * 255).round()).max()
        if not difference <= 2:  # NaN is none either
            apart[its.modules[0]] = difference
    assert apart == {}


OTHERS = [op for op in SWEPT if op not in ("zero", "mix_noise")]


@pytest.mark.parametrize("ops", [["zero"], ["mix_noise"], OTHERS], ids=["zero", "mix", "others"])
def test_every_module_gives_the_prediction_that_it_gives_in_place(
    ops: list[str], bundled_pipeline: Pipeline
) -> None:
    """Silent, and with other weights; which these are makes no difference to what is done with
    them, so that the other ops take turns."""
    network = bundled_pipeline.network
    states, _ = bundled_pipeline.pipe.encode_prompt("a cat in a party hat", "cpu", 1, False)

    def predict(network: nn.Module, latents: Tensor) -> Tensor:
        text = states.expand(len(latents), -1, -1)
        return network(latents, 400, encoder_hidden_states=text, return_dict=False)[0]

    side = network.config.sample_size
    shape = (network.config.in_channels, side, side)
    apart = {}
    for some in in_batches(each_module(bundled_pipeline, ops)):
        generator = torch.Generator().manual_seed(0)
        latents = torch.randn(len(some), *shape, generator=generator)
        result = together(network, some, latents, predict)
        expected = one_by_one(network, some, latents, predict)
        for its, row, alone in zip(some, result, expected, strict=True):
            difference = (row - alone).abs().max()
            if not difference <= 1e-4 * alone.abs().max():  # NaN is none either
                apart[its.modules[0]] = float(difference)
    assert apart == {}


# ------------------------------------------------------- variants of every make, on the tiny one

MID = "mid_block.attentions.0.transformer_blocks.0"
CONV = "mid_block.resnets.0.conv1"


def several_modules(paths: Sequence[str]) -> list[Variant]:
    return [variant(op, *paths[i::9]) for i, op in enumerate(SWEPT)]


def several_edits_of_a_module(_paths: Sequence[str]) -> list[Variant]:
    first = Edit("mix_noise", (CONV, f"{MID}.attn1.to_q"), 0.3)
    second = Edit("scale", (CONV,), 0.5)
    third = Edit("shuffle", (f"{MID}.attn1.to_q", "conv_in"))
    return [
        Variant("one", (first,)),
        Variant("two", (first, second)),
        Variant("two, turned", (second, first)),
        Variant("three", (first, second, third)),
        Variant("silent in the end", (first, Edit("zero", (CONV,)))),
        Variant("silent before", (Edit("zero", (CONV,)), Edit("add_noise", (CONV,), 0.3))),
    ]


def weights_or_biases(_paths: Sequence[str]) -> list[Variant]:
    both = (Edit("zero", (CONV,), params="weight"), Edit("zero", (CONV,), params="bias"))
    mixed = (Edit("zero", (CONV,), params="weight"), Edit("shuffle", (CONV,), params="bias"))
    return [
        *(variant(op, CONV, params=p) for op in ("zero", "mix_noise") for p in ("weight", "bias")),
        Variant("both", both),
        Variant("mixed", mixed),
        variant("zero", f"{MID}.attn1.to_k", params="bias"),  # it has none
    ]


def the_first_modules_zeroed(paths: Sequence[str]) -> list[Variant]:
    return [variant("zero", *paths[:k]) for k in range(1, len(paths) + 1, 5)]


def the_last_modules_zeroed(paths: Sequence[str]) -> list[Variant]:
    return [variant("zero", *paths[-k:]) for k in range(1, len(paths), 9)]


def one_for_several_cells(_paths: Sequence[str]) -> list[Variant]:
    return [variant("mix_noise", CONV), variant("zero", CONV), variant("mix_noise", CONV)] * 2


def one_for_all_cells(_paths: Sequence[str]) -> list[Variant]:
    return [variant("randomize", CONV, f"{MID}.attn2.to_k")] * 3


def a_cell_alone(_paths: Sequence[str]) -> list[Variant]:
    return [variant("randomize", CONV)]


def perturbation_seeds(_paths: Sequence[str]) -> list[Variant]:
    return [variant("randomize", CONV, seed=seed) for seed in (0, 1, 2, 1)]


def baselines_among_others(_paths: Sequence[str]) -> list[Variant]:
    return [BASELINE, variant("zero", CONV), BASELINE, variant("shuffle", "conv_out"), BASELINE]


def baselines_only(_paths: Sequence[str]) -> list[Variant]:
    return [BASELINE] * 3


MAKES = [
    several_modules,
    several_edits_of_a_module,
    weights_or_biases,
    the_first_modules_zeroed,
    the_last_modules_zeroed,
    one_for_several_cells,
    one_for_all_cells,
    a_cell_alone,
    perturbation_seeds,
    baselines_among_others,
    baselines_only,
]


@pytest.mark.parametrize("guided", [True, False], ids=["guided", "unguided"])
@pytest.mark.parametrize("make", MAKES)
def test_predictions_are_those_of_variants_in_place(
    make: Callable[[Sequence[str]], list[Variant]], guided: bool, tiny: Pipeline
) -> None:
    """With guidance, row r belongs to cell r mod n; all rows have different latents and
    prompts."""
    variants = make([module.path for module in tiny.catalog])
    rows = len(variants) * (2 if guided else 1)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, 4, 8, 8, generator=generator)
    states = torch.randn(rows, 6, 32, generator=generator)
    given = torch.cat([latents.flatten(1), states.flatten(1)], 1)

    def predict(network: nn.Module, given: Tensor) -> Tensor:
        latents, states = given.split([4 * 8 * 8, 6 * 32], 1)
        return network(
            latents.view(-1, 4, 8, 8), 400, encoder_hidden_states=states.view(-1, 6, 32)
        ).sample

    with as_before_afterwards(tiny.network):
        result = together(tiny.network, variants, given, predict)
        expected = one_by_one(tiny.network, variants, given, predict)
    torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(("guidance", "rows_a_cell"), [(5.0, 2), (1.0, 1)])
def test_images_with_and_without_guidance(
    guidance: float, rows_a_cell: int, tiny: Pipeline
) -> None:
    settings = tiny.settings(Sampling(num_inference_steps=3, guidance_scale=guidance))
    variants = [BASELINE, variant("zero", CONV), variant("randomize", "conv_out"), BASELINE]
    requests = [Request(p, s) for p, s in (("cat", 0), ("dog", 1), ("cat", 2), ("", 3))]
    rows = []
    hook = tiny.network.register_forward_pre_hook(lambda _m, args: rows.append(len(args[0])))
    try:
        with by_rows(tiny.network, variants):
            images = tiny.sample(requests, settings).images
    finally:
        hook.remove()
    assert rows == [rows_a_cell * len(variants)] * 3
    for its, request, image in zip(variants, requests, images, strict=True):
        (untouched,) = tiny.sample([request], settings).images
        with applied(tiny.network, its):
            (expected,) = tiny.sample([request], settings).images
        assert np.abs(image - expected).max() <= CLOSE
        assert its.is_baseline or np.abs(image - untouched).max() > 2 * CLOSE


def test_what_changed_and_what_ran_is_reported(tiny: Pipeline) -> None:
    """As in place: a module whose edit changes no number is not among the changed."""
    network = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    nn.init.zeros_(network["idle"].weight)
    nn.init.zeros_(network["idle"].bias)
    network.register_module("even", nn.Linear(2, 2))
    nn.init.ones_(network["even"].weight)
    nn.init.ones_(network["even"].bias)
    variants = [variant("zero", "used", "idle"), variant("shuffle", "even")]
    with by_rows(network, variants) as report:
        assert report.changed == {"used"}
        assert report.ran == set()
    calls = Net(nn.Linear(2, 2), plain)
    with by_rows(calls, [variant("scale", "inner")] * 2) as report:
        assert report.ran == set()
        calls(torch.ones(2, 2))
        assert report.ran == {"inner"}
        assert report.changed == {"inner"}


# ------------------------------------------------------- kinds of modules


class Net(nn.Module):
    """A network with one module to edit, `inner`, and a way to call it."""

    def __init__(self, inner: nn.Module, call: Call = plain) -> None:
        super().__init__()
        self.inner = inner
        self.call = call

    def forward(self, given: Tensor) -> Tensor:
        return self.call(self.inner, given)


class Affine(nn.Module):
    """A module of nobody's library, with parameters, a buffer and a module within."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4))
        self.bias = nn.Parameter(torch.empty(4))
        self.register_buffer("offset", torch.arange(4.0))
        self.within = nn.Linear(4, 4)

    def forward(self, given: Tensor, *, factor: float = 1.0) -> Tensor:
        return factor * self.within(given) * self.weight + self.bias + self.offset


class Pair(nn.Module):
    """Takes two inputs with rows, one of them by name, and one that all rows share."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(4, 4))

    def forward(self, first: Tensor, shared: Tensor, *, second: Tensor) -> Tensor:
        return first @ self.weight + second * shared


def by_name(module: nn.Module, given: Tensor) -> Tensor:
    return module(input=given)  # type: ignore[no-any-return]


def in_pairs(module: nn.Module, given: Tensor) -> Tensor:
    return module(given, torch.arange(4.0).view(1, 4), second=given.flip(1))  # type: ignore[no-any-return]


def twice(module: nn.Module, given: Tensor) -> Tensor:
    return module(torch.sin(module(given)))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Kind:
    """A module, the shape of a row that it takes, and how it is called."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    call: Call = plain


KINDS = {
    "linear": Kind(lambda: nn.Linear(4, 6), (4,)),
    "linear on tokens": Kind(lambda: nn.Linear(4, 6), (3, 4)),
    "linear without bias": Kind(lambda: nn.Linear(4, 6, bias=False), (3, 4)),
    "linear by name": Kind(lambda: nn.Linear(4, 6), (4,), by_name),
    "linear twice": Kind(lambda: nn.Linear(4, 4), (4,), twice),
    "conv1d": Kind(lambda: nn.Conv1d(4, 6, 3, padding=1), (4, 5)),
    "conv2d": Kind(lambda: nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 5, 5)),
    "conv2d, circular": Kind(
        lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 5, 5)
    ),
    "conv2d, channels last": Kind(
        lambda: nn.Conv2d(4, 6, 3).to(memory_format=torch.channels_last), (4, 5, 5)
    ),
    "conv_transpose2d": Kind(lambda: nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5)),
    "group_norm": Kind(lambda: nn.GroupNorm(2, 4), (4, 5, 5)),
    "layer_norm": Kind(lambda: nn.LayerNorm(4), (3, 4)),
    "embedding": Kind(lambda: nn.Embedding(10, 6), (3,)),
    "custom": Kind(Affine, (3, 4)),
    "two inputs": Kind(Pair, (4,), in_pairs),
}

ZERO, SCALE = variant("zero", "inner"), variant("scale", "inner")
MIX = variant("mix_noise", "inner")
HALF_ZERO = variant("zero", "inner", params="weight")
COMPANIES = {
    "of every op": [BASELINE, *(variant(op, "inner") for op in SWEPT)],
    "weights and biases": [
        variant(op, "inner", params=p) for op in SWEPT for p in ("weight", "bias")
    ],
    "one zeroed of many": [BASELINE, ZERO, *[BASELINE] * 6],
    "one edited of many": [*[BASELINE] * 6, MIX, BASELINE],
    "one zeroed, one edited of many": [*[BASELINE] * 6, MIX, *[BASELINE] * 3, ZERO],
    "some of either": [MIX, ZERO, BASELINE, MIX, ZERO],
    "without baselines": [MIX, ZERO, variant("shuffle", "inner"), HALF_ZERO],
    "all zeroed": [ZERO] * 3,
    "all edited": [MIX] * 3,
    "one cell": [MIX],
    "one cell, zeroed": [ZERO],
}


def network_of(kind: Kind) -> Net:
    network = Net(kind.make(), kind.call).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        with torch.no_grad():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return network


def rows_for(kind: Kind, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    if kind is KINDS["embedding"]:
        return torch.randint(10, (count, *kind.shape), generator=generator)
    return torch.randn(count, *kind.shape, generator=generator)


@pytest.mark.parametrize("rows_a_cell", [1, 2])
@pytest.mark.parametrize("company", COMPANIES)
@pytest.mark.parametrize("name", KINDS)
def test_a_module_of_every_kind(name: str, company: str, rows_a_cell: int) -> None:
    kind, variants = KINDS[name], COMPANIES[company]
    network = network_of(kind)
    given = rows_for(kind, rows_a_cell * len(variants))
    with as_before_afterwards(network):
        result = together(network, variants, given)
        expected = one_by_one(network, variants, given)
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            assert not torch.allclose(expected, network(given))


@pytest.mark.parametrize("company", ["some of either", "all zeroed", "all edited"])
def test_the_network_may_itself_be_the_module(company: str) -> None:
    network = nn.Linear(4, 6)
    variants = [
        Variant(v.name, tuple(Edit(e.op, ("",), e.strength) for e in v.edits))
        for v in COMPANIES[company]
    ]
    given = torch.randn(len(variants), 4)
    with as_before_afterwards(network):
        result = together(network, variants, given)
        torch.testing.assert_close(result, one_by_one(network, variants, given))


def test_the_number_of_rows_may_change_between_calls() -> None:
    network = network_of(KINDS["linear"])
    variants = [SCALE, ZERO, BASELINE, SCALE, ZERO]
    scaled = [0.3 * parameter for parameter in network.parameters()]
    with by_rows(network, variants), torch.no_grad():
        for rows in (5, 10, 5, 20):
            given = torch.randn(rows, 4)
            result = network(given)
            one, _, three, _, five = (result[cell::5] for cell in range(5))
            torch.testing.assert_close(one, F.linear(given[::5], *scaled))
            torch.testing.assert_close(three, F.linear(given[2::5], *network.parameters()))
            assert not five.any()


@pytest.mark.parametrize("rows_a_cell", [1, 2])
def test_cells_with_equal_rows_are_computed_once(rows_a_cell: int, linear_rows: list[int]) -> None:
    network = network_of(KINDS["linear"])
    variants, cells = [ZERO, MIX, BASELINE], [2, 1, 1, 0, 2, 1]
    given = torch.randn(rows_a_cell, 3, 4)[:, cells].flatten(0, 1)
    with as_before_afterwards(network), by_rows(network, variants, cells=cells), torch.no_grad():
        result = network(given)
    assert sum(linear_rows) == 2 * rows_a_cell  # those of the zeroed cell are not run
    expected = one_by_one(network, [variants[i] for i in cells], given)
    torch.testing.assert_close(result, expected)


def test_rows_that_do_not_divide_among_cells_of_shared_variants_are_refused() -> None:
    """Also when their number happens to divide among the variants."""
    network = network_of(KINDS["linear"])
    with (
        as_before_afterwards(network),
        pytest.raises(NoRowsError, match="inner"),
        by_rows(network, [SCALE, MIX, BASELINE], cells=[0, 1, 2, 0]),
        torch.no_grad(),
    ):
        network(torch.randn(6, 4))


# ------------------------------------------------------- modules that are not run


@pytest.fixture
def linear_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """On how many rows linear modules are run, a number a call."""
    rows: list[int] = []
    real = F.linear

    def counted(given: Tensor, *weights: Tensor) -> Tensor:
        rows.append(len(given))
        return real(given, *weights)

    monkeypatch.setattr(F, "linear", counted)
    return rows


def test_a_module_zeroed_in_all_cells_runs_for_one_cell_at_most(linear_rows: list[int]) -> None:
    network = network_of(KINDS["linear"])
    with by_rows(network, [ZERO] * 8) as report, torch.no_grad():
        assert not network(torch.randn(16, 4)).any()
    assert report.ran == {"inner"}
    assert len(linear_rows) <= 1
    assert sum(linear_rows) <= 2


def test_a_module_is_not_run_on_rows_that_it_is_zeroed_in(linear_rows: list[int]) -> None:
    network = network_of(KINDS["linear"])
    with by_rows(network, [ZERO, BASELINE] * 4), torch.no_grad():
        result = network(torch.randn(16, 4))
    assert result[1::2].all()
    assert not result[::2].any()
    assert sum(linear_rows) == 8


def test_an_edited_module_runs_once_for_the_cells_of_one_variant(linear_rows: list[int]) -> None:
    network = network_of(KINDS["linear"])
    with by_rows(network, [SCALE, BASELINE, SCALE, ZERO] * 2), torch.no_grad():
        network(torch.randn(16, 4))
    assert sorted(linear_rows) == [4, 8]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("company", ["all zeroed", "some of either", "one zeroed of many"])
@pytest.mark.parametrize("name", ["linear", "conv1d", "conv2d", "group_norm", "layer_norm"])
def test_what_is_not_finite_stays_so_through_a_zeroed_module(
    name: str, company: str, value: float
) -> None:
    """0·NaN is NaN: in its row and in no other."""
    kind, variants = KINDS[name], COMPANIES[company]
    network = network_of(kind)
    given = rows_for(kind, 2 * len(variants))
    row = variants.index(ZERO) + len(variants)
    given[(row, *[0] * len(kind.shape))] = value
    result = together(network, variants, given)
    expected = one_by_one(network, variants, given)
    bad = result.isnan().flatten(1).any(1)
    assert bad.nonzero().flatten().tolist() == [row]
    assert torch.equal(bad, expected.isnan().flatten(1).any(1))
    torch.testing.assert_close(result[~bad], expected[~bad], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "conv1d", "conv2d"])
def test_what_is_large_and_finite_is_silenced_by_a_zeroed_module(name: str) -> None:
    kind = KINDS[name]
    network = network_of(kind)
    given = torch.full((2, *kind.shape), 3e38)
    assert not one_by_one(network, [ZERO, ZERO], given).any()
    assert not together(network, [ZERO, ZERO], given).any()


# ------------------------------------------------------- the network afterwards


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_network_is_as_before_after_an_error(
    error: type[BaseException], tiny: Pipeline
) -> None:
    paths = tuple(module.path for module in tiny.catalog)
    variants = [variant("zero", *paths), variant("mix_noise", *paths)]
    with (
        as_before_afterwards(tiny.network),
        pytest.raises(error),
        by_rows(tiny.network, variants),
    ):
        raise error


def test_weights_and_shapes_are_as_loaded_while_edited_by_rows() -> None:
    network = network_of(KINDS["conv2d"])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with by_rows(network, COMPANIES["of every op"]):
        assert list(network.state_dict()) == list(before)
        assert all(torch.equal(network.state_dict()[name], before[name]) for name in before)


def refused(network: nn.Module, variants: Sequence[Variant], given: Tensor) -> set[str]:
    """The modules named when rows are refused; the network is as before."""
    with (
        as_before_afterwards(network),
        pytest.raises(NoRowsError) as caught,
        by_rows(network, variants),
        torch.no_grad(),
    ):
        network(given)
    return caught.value.paths


def test_an_unknown_module_is_refused_and_nothing_stays_edited() -> None:
    network = network_of(KINDS["linear"])
    with (
        as_before_afterwards(network),
        pytest.raises(ValueError, match="no module `nowhere`"),
        by_rows(network, [SCALE, variant("scale", "inner", "nowhere")]),
    ):
        pytest.fail("must not get here")


# ------------------------------------------------------- where there is no row a cell

NO_ROWS: dict[str, Call] = {
    "tokens of all rows in one": lambda inner, given: inner(given.flatten(0, 1)).view_as(given),
    "the same for all rows": lambda inner, given: given + inner(torch.ones(1, 4)),
    "the other way round": lambda inner, given: inner(given.transpose(0, 1)).transpose(0, 1),
    "some of the rows": lambda inner, given: torch.cat([inner(given[:1]), given[1:]]),
    "rows among tokens": lambda inner, given: inner(given.repeat_interleave(2, 0))[::2],
}


@pytest.mark.parametrize("company", ["some of either", "all zeroed", "all edited"])
@pytest.mark.parametrize("way", NO_ROWS)
def test_a_module_without_a_row_a_cell_is_refused(way: str, company: str) -> None:
    network = network_of(Kind(lambda: nn.Linear(4, 4), (3, 4), NO_ROWS[way]))
    variants = COMPANIES[company]
    assert refused(network, variants, torch.randn(2 * len(variants), 3, 4)) == {"inner"}


def test_rows_that_do_not_divide_among_the_cells_are_refused() -> None:
    assert refused(network_of(KINDS["linear"]), [SCALE] * 2, torch.randn(3, 4)) == {"inner"}


def test_modules_that_share_weights_are_refused_before_anything_is_edited() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    network[2].weight = network[0].weight
    variants = [variant("scale", path) for path in ("0", "1", "2")]
    with (
        as_before_afterwards(network),
        pytest.raises(NoRowsError, match="0, 2") as caught,
        by_rows(network, variants),
    ):
        pytest.fail("must not get here")
    assert caught.value.paths == {"0", "2"}
    assert together(network, variants[1:2], torch.ones(1, 4)).shape == (1, 4)


def test_a_module_with_another_forward_is_refused_and_keeps_it() -> None:
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    forward = network[0].forward
    network[0].forward = forward
    assert refused(network, [variant("scale", "0", "1")], torch.ones(1, 4)) == {"0"}
    assert vars(network[0])["forward"] is forward


class Token(nn.Module):
    """Gives its weights to every row, as tokens that are learned do."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, 4))

    def forward(self, given: Tensor) -> Tensor:
        return self.weight.expand(len(given), -1, -1)


class Scaling(Token):
    """Writes into its input."""

    def forward(self, given: Tensor) -> Tensor:
        return given.mul_(self.weight)


class Passing(Token):
    """Gives its input itself, as long as its weights are not zero."""

    def forward(self, given: Tensor) -> Tensor:
        return given if bool(self.weight.any()) else torch.zeros_like(given)


class Routing(Token):
    """Gives a row a token, not a row a row."""

    def forward(self, given: Tensor) -> Tensor:
        return (given * self.weight).flatten(0, 1)


class Residual(nn.Linear):
    """Passes its input on beside what its weights make of it."""

    def forward(self, given: Tensor) -> Tensor:
        return given + super().forward(given)


class Listening(Token):
    """Takes further inputs in a list."""

    def forward(self, given: Tensor, others: list[Tensor]) -> Tensor:
        return given * self.weight + sum(others)


class Enclosing(Token):
    """Has a module within that is edited too."""

    def __init__(self) -> None:
        super().__init__()
        self.within = nn.Linear(4, 4)

    def forward(self, given: Tensor) -> Tensor:
        return self.within(given) * self.weight


def with_itself(module: nn.Module, given: Tensor) -> Tensor:
    return module(given) + given  # type: ignore[no-any-return]


AWKWARD = {
    "expanded weights": Kind(Token, (3, 4), with_itself),
    "expanded weights, alone": Kind(Token, (3, 4)),
    "in-place on its input": Kind(Scaling, (3, 4)),
    "its input": Kind(Passing, (3, 4), with_itself),
    "a linear that adds": Kind(lambda: Residual(4, 4), (3, 4)),
    "a row a token": Kind(Routing, (3, 4), lambda m, x: m(x).view_as(x)),
    "inputs in a list": Kind(Listening, (3, 4), lambda m, x: m(x, [x, 2 * x])),
    "gru": Kind(lambda: nn.GRU(4, 4, batch_first=True), (3, 4), lambda m, x: m(x)[0]),
    "attention": Kind(
        lambda: nn.MultiheadAttention(4, 2, batch_first=True), (3, 4), lambda m, x: m(x, x, x)[0]
    ),
    "normed by a hook": Kind(lambda: nn.utils.spectral_norm(nn.Linear(4, 4)), (3, 4)),
    "normed by a parametrization": Kind(
        lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)), (3, 4)
    ),
    "module within": Kind(Enclosing, (3, 4)),
}  # fmt: skip


def same_or_refused(network: nn.Module, variants: Sequence[Variant], given: Tensor) -> None:
    with as_before_afterwards(network):
        try:
            result = together(network, variants, given)
        except NoRowsError:
            return
    expected = one_by_one(network, variants, given)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


SOME = [
    "of every op",
    "one zeroed, one edited of many",
    "some of either",
    "all zeroed",
    "all edited",
]


@pytest.mark.parametrize("company", SOME)
@pytest.mark.parametrize("name", AWKWARD)
def test_an_awkward_module_is_right_or_refused(name: str, company: str) -> None:
    """Whatever a module does with its weights and its input, no row is silently wrong."""
    kind, variants = AWKWARD[name], COMPANIES[company]
    same_or_refused(network_of(kind), variants, rows_for(kind, 2 * len(variants)))


@pytest.mark.parametrize("rows_a_cell", [1, 2])
def test_a_module_within_an_edited_one_is_right_or_refused(rows_a_cell: int) -> None:
    kind = AWKWARD["module within"]
    variants = [MIX, variant("zero", "inner.within"), BASELINE, variant("scale", "inner.within")]
    same_or_refused(network_of(kind), variants, rows_for(kind, rows_a_cell * len(variants)))


# ------------------------------------------------------- whole runs that fall back to in place

EMBEDDING = ("time_embedding.linear_1", "time_embedding.linear_2")
TEXT = (f"{MID}.attn2.to_k", f"{MID}.attn2.to_v")


def share_weights(network: nn.Module) -> None:
    network.get_submodule(TEXT[0]).weight = network.get_submodule(TEXT[1]).weight


def give_a_forward(network: nn.Module) -> None:
    module = network.get_submodule(CONV)
    module.forward = module.forward


class Once(TimestepEmbedding):
    """Computes one row for all, for the time is the same in all."""

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        return super().forward(sample[:1], condition).expand(len(sample), -1)


class Direct(TimestepEmbedding):
    """Uses the weights of its modules and never calls them."""

    def forward(self, sample: Tensor, condition: Tensor | None = None) -> Tensor:
        first, second = self.linear_1, self.linear_2
        hidden = self.act(F.linear(sample, first.weight, first.bias))
        return F.linear(hidden, second.weight, second.bias)


def embed_once(network: nn.Module) -> None:
    network.time_embedding.__class__ = Once


def embed_directly(network: nn.Module) -> None:
    network.time_embedding.__class__ = Direct


@pytest.mark.parametrize("op", ["zero", "mix_noise"])
@pytest.mark.parametrize(
    ("spoil", "rowless"),
    [
        (share_weights, TEXT),
        (give_a_forward, (CONV,)),
        (embed_once, EMBEDDING),
        (embed_directly, EMBEDDING),
    ],
)
def test_a_run_applies_in_place_what_has_no_rows(
    spoil: Callable[[nn.Module], None],
    rowless: tuple[str, ...],
    op: str,
    build: Build,
    run: RunIt,
    tiny_folder: Path,
) -> None:
    """The other variants stay by rows; the run reports which do not, and all images are right."""
    fresh = Pipeline.load(str(tiny_folder), device="cpu", dtype="float32")
    spoil(fresh.network)
    others = ["conv_in", f"{MID}.attn2.to_q", "conv_out"]
    edit = {op: {"modules": "$module"} | ({"amount": 0.5} if op == "mix_noise" else {})}
    recipe = build(
        seeds=[0, 1], axes={"module": {"each": [*others, *rowless]}}, edits=[edit], name="fallback"
    )
    with as_before_afterwards(fresh.network):
        result = run(recipe, pipeline=fresh)
    summary = result.summary
    assert summary.rowless == set(rowless)
    assert summary.in_place == 2 * len(rowless)
    assert summary.by_rows == 2 * (len(others) + 1)
    cells = plan(recipe).cells
    assert len(result) == len(cells) == summary.computed
    settings = fresh.settings(recipe.sampling)
    seen = set()
    for computed, cell in zip(result, cells, strict=True):
        assert computed.variant == cell.variant.name
        request = Request(cell.condition.prompt, cell.condition.seed)
        with applied(fresh.network, cell.variant):
            (expected,) = fresh.sample([request], settings).images
        image = np.asarray(computed.image(), dtype=float)
        assert np.abs(image - expected * 255).max() <= 2.5
        seen.add(image.tobytes())
    assert len(seen) > len(cells) // 2  # edits do show


def test_a_run_edits_by_rows_where_it_can(build: Build, run: RunIt, tiny: Pipeline) -> None:
    recipe = build(
        axes={"module": {"each": "mid_block.*"}}, edits=[{"zero": {"modules": "$module"}}]
    )
    with as_before_afterwards(tiny.network):
        summary = run(recipe).summary
    assert summary.in_place == 0
    assert summary.rowless == set()
    assert summary.by_rows == len(plan(recipe).cells)


def test_parameters_that_a_module_does_not_have_are_no_reason_for_in_place(
    build: Build, run: RunIt
) -> None:
    """A module without a bias is reported as unchanged, not as one that has no rows."""
    edit = {"zero": {"modules": "$module", "params": "bias"}}
    recipe = build(axes={"module": {"each": f"{MID}.attn2.*"}}, edits=[edit])
    summary = run(recipe).summary
    assert summary.without_effect[f"{MID}.attn2.to_q"] == "unchanged"
    assert summary.rowless == set()
    assert summary.in_place == 0
