"""The ops that a test can sweep over, and a strength that suits each."""

from __future__ import annotations

from ablate.edits.registry import GIVEN, OPS

# Those that need nothing but the weights.
SWEPT = tuple(name for name, op in OPS.items() if op.draws not in GIVEN)
STRENGTHS = {"prune": 0.3, "quantize": 4.0, "low_rank": 0.5, "flip_sign": 0.3}


def strength(op: str, usual: float) -> float | None:
    """The usual one, where it suits the op's measure; None of an op that takes none."""
    return STRENGTHS.get(op, usual) if OPS[op].strength else None
