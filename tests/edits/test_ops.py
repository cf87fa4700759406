"""Ops: each one's formula, and what its random draws depend on."""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from ablate.edits import ops
from ablate.edits.noise import draw
from ablate.edits.registry import GIVEN, OPS, op

WEIGHTS = torch.randn(40, 30, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.7


# A module with parameters of that shape, for the op that asks it how it was initialized.
OWNER = nn.ParameterDict({"weight": WEIGHTS, "other": WEIGHTS})
DRAWN = [name for name, op in OPS.items() if op.draws and op.draws not in GIVEN]


def noise_of(op: str, **place: Any) -> torch.Tensor:
    usual: dict[str, Any] = {"seed": 0, "module": "mid.conv", "parameter": "weight"}
    return draw(OPS[op], WEIGHTS, **(usual | {"owner": OWNER} | place))


def edited(op: str, strength: float | None = None, **place: Any) -> torch.Tensor:
    return ops.apply(OPS[op], WEIGHTS, noise_of(op, **place), strength)


def test_zero_and_scale() -> None:
    assert torch.equal(edited("zero"), torch.zeros_like(WEIGHTS))
    assert torch.equal(edited("scale", 0.25), 0.25 * WEIGHTS)


def test_randomize_keeps_mean_and_deviation() -> None:
    noise = edited("randomize")
    assert not torch.equal(noise, WEIGHTS)
    assert abs(noise.mean() - WEIGHTS.mean()) < 0.03
    assert abs(noise.std() - WEIGHTS.std()) < 0.03


def test_uniform_stays_within_the_weights() -> None:
    noise = edited("randomize", kind="uniform")
    assert noise.min() >= WEIGHTS.min()
    assert noise.max() <= WEIGHTS.max()
    assert noise.std() > WEIGHTS.std()


def test_mix_noise_goes_from_the_weights_to_randomize() -> None:
    noise = edited("randomize")
    assert torch.equal(edited("mix_noise", 1.0), noise)
    torch.testing.assert_close(edited("mix_noise", 0.3), 0.7 * WEIGHTS + 0.3 * noise)


def test_add_noise_is_measured_in_deviations() -> None:
    added = edited("add_noise", 0.5) - WEIGHTS
    assert abs(added.std() / WEIGHTS.std() - 0.5) < 0.03
    assert abs(added.mean()) < 0.02


def test_shuffle_keeps_the_entries() -> None:
    shuffled = edited("shuffle")
    assert not torch.equal(shuffled, WEIGHTS)
    assert torch.equal(shuffled.flatten().sort().values, WEIGHTS.flatten().sort().values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.neutral is not None])
def test_neutral_strength_leaves_every_bit(name: str, dtype: torch.dtype) -> None:
    tensor = torch.tensor([-0.0, 0.0, 1.5, -2.25, float("inf")], dtype=dtype)
    op, noise = OPS[name], torch.full((5,), float("inf"))
    result = ops.apply(op, tensor, noise, op.neutral)
    bits = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(result.view(bits), tensor.view(bits))
    assert result.data_ptr() != tensor.data_ptr()
    finite = op.apply(WEIGHTS, torch.ones_like(WEIGHTS), op.neutral or 0.0)  # by its formula too
    assert torch.equal(finite, WEIGHTS)


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"module": "mid.conv2"}, {"parameter": "other"}],
    ids=lambda other: next(iter(other)),
)
def test_draws_differ_by_seed_module_and_parameter(name: str, other: dict[str, Any]) -> None:
    kind = "random" if name == "prune" else None
    strength = 0.5 if OPS[name].strength else None
    first, second = (edited(name, strength, kind=kind, **place) for place in ({}, other))
    assert not torch.equal(first, second)


def test_strengths_share_one_draw() -> None:
    """Law 2: a sweep over strength is smooth, because all of it goes in one direction."""
    for name in ("add_noise", "mix_noise"):
        first, second = (edited(name, a) - WEIGHTS for a in (0.1, 0.2))
        torch.testing.assert_close(2 * first, second, atol=1e-6, rtol=1e-4)
    some, more = (edited("prune", a, kind="random") == 0 for a in (0.3, 0.4))
    assert not (some & ~more).any()


def test_draws_are_the_same_in_another_process_whatever_came_before() -> None:
    """Law 2: neither process nor earlier draws matter."""
    program = """
import torch
from ablate.edits import OPS, draw
torch.manual_seed(99); torch.randn(7)
weights = torch.randn(40, 30, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.7
draw(OPS["shuffle"], weights, seed=4, module="a", parameter="b")
noise = draw(OPS["randomize"], weights, seed=0, module="mid.conv", parameter="weight")
print(noise.double().sum().item().hex())
"""
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == float(edited("randomize").double().sum()).hex()


def test_statistics_are_float32_whatever_the_dtype() -> None:
    half = WEIGHTS.bfloat16()
    noise = draw(OPS["randomize"], half, seed=0, module="m", parameter="weight")
    wide = draw(OPS["randomize"], half.float(), seed=0, module="m", parameter="weight")
    assert noise.dtype == torch.float32
    assert torch.equal(noise, wide)


def test_a_single_number_has_no_deviation() -> None:
    one = torch.tensor([3.0])
    result = draw(OPS["randomize"], one, seed=0, module="m", parameter="p")
    assert torch.equal(result, one)


# ------------------------------------------------------------ compression


@pytest.mark.parametrize("by", ["magnitude", "random"])
@pytest.mark.parametrize("amount", [0.001, 0.25, 0.5, 1.0])
def test_prune_takes_the_exact_share_with_the_lowest_scores(by: str, amount: float) -> None:
    scores = noise_of("prune", kind=by).flatten()
    result, count = edited("prune", amount, kind=by), round(amount * WEIGHTS.numel())
    lowest = torch.sort(scores, stable=True).indices[:count]
    assert torch.equal(result, WEIGHTS.flatten().index_fill(0, lowest, 0.0).view_as(WEIGHTS))
    assert int((result == 0).sum()) == count
    assert torch.equal(noise_of("prune", kind="magnitude"), WEIGHTS.abs())


def test_prune_takes_the_first_of_equal_entries() -> None:
    equal = torch.tensor([[2.0, -1.0, 1.0], [1.0, 1.0, 3.0]])
    result = ops.apply(OPS["prune"], equal, equal.abs(), 0.5)
    assert result.tolist() == [[2.0, 0.0, 0.0], [0.0, 1.0, 3.0]]


@pytest.mark.parametrize("bits", [1, 2, 3, 8, 16])
def test_quantize_rounds_to_the_steps_of_its_bits(bits: int) -> None:
    result = edited("quantize", bits)
    if bits == 1:
        torch.testing.assert_close(result, WEIGHTS.sign() * WEIGHTS.abs().mean())
    else:
        step = WEIGHTS.abs().max() / (2 ** (bits - 1) - 1)
        assert (result - WEIGHTS).abs().max() <= 0.501 * step
        torch.testing.assert_close(result / step, (result / step).round(), atol=0.01, rtol=0)
    assert result.abs().max() <= WEIGHTS.abs().max() * 1.0001
    ramp = torch.linspace(-1, 1, 2**12)
    values = ops.apply(OPS["quantize"], ramp, torch.empty(0), bits).tolist()
    assert len(set(values)) == (2 if bits == 1 else min(2**bits - 1, len(ramp)))
    zeros = torch.zeros(3)
    assert torch.equal(ops.apply(OPS["quantize"], zeros, torch.empty(0), bits), zeros)


@pytest.mark.parametrize(("rank", "kept"), [(0.001, 1), (0.5, 9), (1, 1), (7, 7)])
def test_low_rank_is_the_nearest_matrix_of_that_rank(rank: float, kept: int) -> None:
    kernel = torch.randn(18, 5, 2, 3, generator=torch.Generator().manual_seed(2))
    result = ops.apply(OPS["low_rank"], kernel, torch.empty(0), rank)
    assert result.shape == kernel.shape
    assert torch.linalg.matrix_rank(result.flatten(1), rtol=1e-4) == kept
    missed = torch.linalg.svdvals(kernel.flatten(1))[kept:].norm()  # Eckart & Young
    torch.testing.assert_close((result - kernel).norm(), missed, rtol=1e-4, atol=0)


@pytest.mark.parametrize("amount", [0.1, 0.2, 0.5, 0.9, 1.0])
def test_mixing_noise_in_shrinks_weights_unless_it_preserves_their_variance(amount: float) -> None:
    weights = torch.randn(400, 300, generator=torch.Generator().manual_seed(4)) * 3 + 0.5
    noise = draw(OPS["mix_noise"], weights, seed=0, module="m", parameter="weight")
    mixed, kept = (
        ops.apply(OPS[name], weights, noise, amount) for name in ("mix_noise", "mix_noise_vp")
    )
    shrunk = 3 * math.sqrt((1 - amount) ** 2 + amount**2)
    assert float(mixed.std()) == pytest.approx(shrunk, rel=0.01)
    assert (float(kept.mean()), float(kept.std())) == pytest.approx((0.5, 3.0), rel=0.02)
    like = torch.corrcoef(torch.stack([weights.flatten(), kept.flatten()]))[0, 1]
    assert float(like) == pytest.approx(math.sqrt(1 - amount**2), abs=0.01)


@pytest.mark.parametrize(
    ("tensor", "rank"), [(WEIGHTS, 30), (WEIGHTS, 99), (WEIGHTS[0], 1), (WEIGHTS / 0, 2)]
)
def test_low_rank_leaves_what_has_no_lower_rank(tensor: torch.Tensor, rank: float) -> None:
    assert torch.equal(ops.apply(OPS["low_rank"], tensor, torch.empty(0), rank), tensor)


def test_flip_sign_flips_a_share_that_grows() -> None:
    some, more = (edited("flip_sign", a) != WEIGHTS for a in (0.2, 0.6))
    assert abs(some.float().mean() - 0.2) < 0.04
    assert abs(more.float().mean() - 0.6) < 0.04
    assert not (some & ~more).any()
    assert torch.equal(edited("flip_sign", 1.0), -WEIGHTS)


# ------------------------------------------------------------ other weights, outputs


@pytest.mark.parametrize(
    ("make", "parameter"),
    [
        (lambda bias: nn.Linear(6, 4, bias=bias), "weight"),
        (lambda bias: nn.Linear(6, 4), "bias"),
        (lambda bias: nn.Conv2d(4, 6, 3, groups=2, bias=bias), "weight"),
        (lambda bias: nn.Conv2d(4, 6, 3), "bias"),
        (lambda bias: nn.GroupNorm(2, 8), "weight"),
        (lambda bias: nn.GroupNorm(2, 8), "bias"),
        (lambda bias: nn.Embedding(7, 5, padding_idx=2), "weight"),
    ],
)
def test_reinitialize_is_what_torch_gives_under_that_seed(
    make: Callable[[bool], nn.Module], parameter: str
) -> None:
    owners = [make(bias).to(torch.bfloat16) for bias in (True, False)]
    before = torch.get_rng_state(), owners[0].state_dict()[parameter].clone()
    one, other = (reinitialized(owner, parameter) for owner in owners)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert torch.equal(owners[0].state_dict()[parameter], before[1])
    shape = list(one.shape)
    text = json.dumps([5, "reinitialize", "a.b", parameter, shape])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    fresh = make(True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)
        fresh.reset_parameters()  # type: ignore[operator]
    assert torch.equal(one, fresh.state_dict()[parameter])
    assert torch.equal(one, other)
    assert one.dtype == torch.float32


def reinitialized(owner: nn.Module, parameter: str) -> torch.Tensor:
    op, weights = OPS["reinitialize"], owner.get_parameter(parameter)
    where = {"seed": 5, "module": "a.b", "parameter": parameter}
    noise = draw(op, weights, owner=owner, **where)  # type: ignore[arg-type]
    assert torch.equal(ops.apply(op, weights, noise, None), noise.to(weights.dtype))
    return noise


class Odd(nn.Module):
    """Without a way to reset itself, as many modules of diffusers."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((8,), 7.0))
        self.bias = nn.Parameter(torch.full((8,), 7.0))
        self.table = nn.Parameter(torch.full((200, 25), 7.0))


def test_reinitialize_of_modules_that_cannot_reset_themselves() -> None:
    odd = Odd()
    assert torch.equal(reinitialized(odd, "weight"), torch.ones(8))
    assert torch.equal(reinitialized(odd, "bias"), torch.zeros(8))
    table = reinitialized(odd, "table")
    assert 0.19 < table.abs().max() <= 0.2  # 25 entries to one
    assert abs(table.mean()) < 0.01


def test_reinitialize_writes_into_a_copy_alone() -> None:
    norm = nn.BatchNorm1d(3)
    norm.running_mean.fill_(4.0)  # type: ignore[union-attr]
    reinitialized(norm, "weight")
    assert norm.running_mean.tolist() == [4.0] * 3  # type: ignore[union-attr]


def test_what_is_given_takes_the_place_of_the_tensor() -> None:
    other = torch.flip(WEIGHTS, [0])
    for name in ("swap", "mean", "resample", "identity"):
        assert torch.equal(ops.apply(OPS[name], WEIGHTS, other, None), other)
        with pytest.raises(ValueError, match=f"`{name}` takes a tensor .* given, not drawn"):
            noise_of(name)
    torch.testing.assert_close(
        ops.apply(OPS["blend"], WEIGHTS, other, 0.3), torch.lerp(WEIGHTS, other, 0.3)
    )
    with pytest.raises(ValueError, match=r"`blend` needs .* of the shape \(40, 30\), not \(30,\)"):
        ops.apply(OPS["blend"], WEIGHTS, other[0], 0.3)


# ------------------------------------------------------------ doses


@pytest.mark.parametrize("name", [n for n, op in OPS.items() if op.linear])
@pytest.mark.parametrize("shape", [(3,), (40, 30), (600, 700)])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_a_dose_is_the_relative_size_of_the_change(
    name: str, shape: tuple[int, ...], dtype: torch.dtype, rtol: float
) -> None:
    generator = torch.Generator().manual_seed(3)
    tensor = (torch.randn(shape, generator=generator) * 5 + 1).to(dtype)
    op, noise = OPS[name], torch.randn(shape, generator=generator)
    result = ops.apply(op, tensor, noise, None, dose=0.2)
    assert result.dtype == dtype
    change = (result.double() - tensor.double()).norm() / tensor.double().norm()
    assert float(change) == pytest.approx(0.2, rel=rtol)
    assert torch.equal(result, ops.dosed(op, tensor, noise, 0.2))
    assert torch.equal(ops.dosed(op, tensor, noise, 0.0), tensor)


def test_a_dose_of_nothing_changes_nothing() -> None:
    op, zeros = OPS["add_noise"], torch.zeros(5)
    assert torch.equal(ops.dosed(op, zeros, torch.ones(5), 0.3), zeros)
    assert torch.equal(ops.dosed(op, torch.ones(5), zeros, 0.3), torch.ones(5))


def test_a_dose_is_refused_where_it_means_nothing() -> None:
    with pytest.raises(ValueError, match=r"`scale` is not linear.*mix_noise, add_noise, blend"):
        ops.apply(OPS["scale"], WEIGHTS, torch.empty(0), None, dose=0.1)
    for strength, dose in ((0.1, 0.1), (None, None)):
        with pytest.raises(ValueError, match="`add_noise` needs either a strength, `amount`, or"):
            ops.apply(OPS["add_noise"], WEIGHTS, WEIGHTS, strength, dose)


# ------------------------------------------------------------ the registry


@pytest.mark.parametrize("shape", [(600, 700), ()])
@pytest.mark.parametrize("name", [n for n, op in OPS.items() if not op.whole])
def test_parts_give_what_the_whole_gives(name: str, shape: tuple[int, ...]) -> None:
    op, generator = OPS[name], torch.Generator().manual_seed(4)
    tensor = torch.randn(shape, generator=generator)
    noise = torch.rand(shape, generator=generator) if op.draws else torch.empty(0)
    assert torch.equal(ops.apply(op, tensor, noise, 0.3), op.apply(tensor, noise, 0.3))


def test_ops_say_where_they_apply_and_what_they_hang_on() -> None:
    table = {name: op for name, op in OPS.items() if op.code is None}
    placed: dict[str, tuple[str, ...]] = dict.fromkeys(
        ("zero", "scale", "mix_noise"), ("weights", "output", "input")
    )
    of_outputs = ("mean", "resample", "identity", "input_mean")
    placed |= dict.fromkeys(of_outputs, ("output",)) | {"write": ("image",)}
    assert {n: o.places for n, o in table.items() if o.places != ("weights",)} == placed
    assert {n for n, o in table.items() if o.whole} == {
        "shuffle", "prune", "quantize", "low_rank", "mix_noise_vp",
    }  # fmt: skip
    sure = {"zero", "scale", "quantize", "low_rank", "blend", "swap", "mean", "identity"}
    sure |= {"input_mean", "write"}
    assert {n for n, o in table.items() if not o.is_random} == sure
    assert [table["prune"].is_random_by(k) for k in (None, "magnitude", "random")] == [0, 0, 1]
    keys = {n: (o.kind_key, o.kinds) for n, o in table.items() if o.kinds}
    distribution = ("distribution", ("normal", "uniform"))
    assert keys == {
        "randomize": distribution,
        "mix_noise": distribution,
        "prune": ("by", ("magnitude", "random")),
    }
    assert all(op.about.endswith(".") for op in table.values())


def test_an_unknown_kind_of_noise_is_refused() -> None:
    with pytest.raises(ValueError, match="`prune` has no noise of kind `size`; there are magnitud"):
        noise_of("prune", kind="size")
    with pytest.raises(ValueError, match="`add_noise` has no noise of kind `uniform`; it has none"):
        noise_of("add_noise", kind="uniform")


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("prune", 0, None),
        ("prune", 1, None),
        ("flip_sign", -0.1, "`amount` of `flip_sign` must be at least 0, not -0.1"),
        ("prune", 1.5, "`amount` of `prune` must be at most 1, not 1.5"),
        ("quantize", 16, None),
        ("quantize", 0, "`bits` of `quantize` must be at least 1, not 0"),
        ("quantize", 17, "`bits` of `quantize` must be at most 16, not 17"),
        ("quantize", 2.5, "`bits` of `quantize` must be a whole number, not 2.5"),
        ("low_rank", 0.25, None),
        ("low_rank", 12, None),
        ("low_rank", 0, "`rank` of `low_rank` must be above 0, not 0"),
        ("low_rank", 1.5, "`rank` of `low_rank` must be a whole number, not 1.5"),
        ("scale", -3, None),
        ("scale", float("nan"), "`factor` of `scale` must be a finite number, not nan"),
        ("zero", 1, "`zero` takes no strength"),
    ],
)
def test_strengths_have_bounds(name: str, value: float, wrong: str | None) -> None:
    assert ops.wrong_strength(OPS[name], value) == wrong


def test_a_taken_name_is_refused() -> None:
    def zero(tensor: torch.Tensor, noise: torch.Tensor, strength: float) -> torch.Tensor:
        return tensor

    with pytest.raises(ValueError, match="there is an op `zero` already"):
        op()(zero)
    assert OPS["zero"].apply is ops.zero
