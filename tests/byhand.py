"""What edits are held to: hooks and scripts written by hand, on the small pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from ablate import lab
from ablate.drift.measure import MeasuredCell

ATTENTION = "mid_block.attentions.0.transformer_blocks.0.attn1"
CONV = "up_blocks.1.resnets.0.conv1"
BLOCK = "mid_block.resnets.0"
CAT, DOG, RED = "a cat in a party hat", "a dog", "something red"
ALIKE = 2 / 255 + 1e-6


def image(pipe: Any, prompt: str = CAT, seed: int = 0) -> np.ndarray:
    found: np.ndarray = pipe(
        prompt=prompt,
        num_inference_steps=2,
        guidance_scale=5.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images[0]
    return found


Hook = Callable[[nn.Module, Any, Any], Any]


@contextmanager
def hooked(network: nn.Module, path: str, hook: Hook) -> Iterator[None]:
    handle = network.get_submodule(path).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def shown(cell: MeasuredCell) -> np.ndarray:
    return np.asarray(cell.image(), dtype=float) / 255


def same(cell: MeasuredCell, expected: np.ndarray) -> bool:
    return float(np.abs(shown(cell) - expected).max()) <= ALIKE


def edited(result: lab.Result) -> list[MeasuredCell]:
    return [cell for cell in result if not cell.is_baseline]
