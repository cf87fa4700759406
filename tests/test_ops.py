"""Ops: each one's formula, and what its random draws depend on."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ablate import ops

WEIGHTS = torch.randn(40, 30, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.7


def edited(op: str, strength: float | None = None, seed: int = 0, **options: str) -> torch.Tensor:
    place = {"module": "mid.conv", "parameter": "weight"} | {
        k: options.pop(k) for k in ("module", "parameter") if k in options
    }
    noise = ops.draw(ops.OPS[op], WEIGHTS, seed=seed, **place, **options)
    return ops.apply(ops.OPS[op], WEIGHTS, noise, strength)


def test_zero_and_scale() -> None:
    assert torch.equal(edited("zero"), torch.zeros_like(WEIGHTS))
    assert torch.equal(edited("scale", 0.25), 0.25 * WEIGHTS)


def test_randomize_keeps_mean_and_deviation() -> None:
    noise = edited("randomize")
    assert not torch.equal(noise, WEIGHTS)
    assert abs(noise.mean() - WEIGHTS.mean()) < 0.03
    assert abs(noise.std() - WEIGHTS.std()) < 0.03


def test_uniform_stays_within_the_weights() -> None:
    noise = edited("randomize", distribution="uniform")
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


@pytest.mark.parametrize("name", [n for n, op in ops.OPS.items() if op.neutral is not None])
def test_neutral_strength_leaves_every_bit(name: str) -> None:
    assert torch.equal(edited(name, ops.OPS[name].neutral), WEIGHTS)


@pytest.mark.parametrize("name", [n for n, op in ops.OPS.items() if op.draws])
@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"module": "mid.conv2"}, {"parameter": "bias"}],
    ids=lambda other: next(iter(other)),
)
def test_draws_differ_by_seed_module_and_parameter(name: str, other: dict[str, object]) -> None:
    strength = 0.5 if ops.OPS[name].strength else None
    assert not torch.equal(edited(name, strength), edited(name, strength, **other))  # type: ignore[arg-type]


def test_strengths_share_one_draw() -> None:
    """Law 2: a sweep over strength is smooth, because all of it goes in one direction."""
    first, second = (edited("add_noise", a) - WEIGHTS for a in (0.1, 0.2))
    torch.testing.assert_close(2 * first, second, atol=1e-6, rtol=1e-4)


def test_draws_are_the_same_in_another_process_whatever_came_before() -> None:
    """Law 2: neither process nor earlier draws matter."""
    program = """
import torch
from ablate import ops
torch.manual_seed(99); torch.randn(7)
weights = torch.randn(40, 30, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.7
ops.draw(ops.OPS["shuffle"], weights, seed=4, module="a", parameter="b")
made = ops.draw(ops.OPS["randomize"], weights, seed=0, module="mid.conv", parameter="weight")
print(made.double().sum().item().hex())
"""
    command = [sys.executable, "-c", program]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == edited("randomize").double().sum().item().hex()


def test_statistics_are_float32_whatever_the_dtype() -> None:
    half = WEIGHTS.bfloat16()
    noise = ops.draw(ops.OPS["randomize"], half, seed=0, module="m", parameter="weight")
    wide = ops.draw(ops.OPS["randomize"], half.float(), seed=0, module="m", parameter="weight")
    assert noise.dtype == torch.float32
    assert torch.equal(noise, wide)


def test_a_single_number_has_no_deviation() -> None:
    one = torch.tensor([3.0])
    made = ops.draw(ops.OPS["randomize"], one, seed=0, module="m", parameter="p")
    assert torch.equal(made, one)
