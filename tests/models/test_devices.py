"""Memory of devices: whether a batch of twice the size fits, and errors that say it does not."""

from __future__ import annotations

import pytest
import torch

from ablate.models.devices import MemoryUse, is_out_of_memory

GIB = 1 << 30


@pytest.mark.parametrize(
    ("held", "peak", "free", "fits"),
    [
        (70, 72, 69, True),  # weights fill half of the card, and are there already
        (70, 110, 69, False),  # a batch of 40 fits, one of 80 does not
        (2, 30, 137, True),
        (2, 72, 137, False),
    ],
)
def test_growth_asks_for_what_a_batch_took_itself(
    held: int, peak: int, free: int, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {"reset_peak_memory_stats": 0, "memory_allocated": held, "memory_reserved": held,
              "max_memory_allocated": peak, "mem_get_info": (free * GIB, 139 * GIB)}  # fmt: skip
    for name, value in values.items():
        given = value if isinstance(value, tuple) else value * GIB
        monkeypatch.setattr(torch.cuda, name, lambda _device, given=given: given)
    assert MemoryUse(torch.device("cuda", 1)).fits_twice() is fits


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.87 GB)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ],
)
def test_errors_of_memory(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), RuntimeError(), ValueError(3)])
def test_other_errors(error: Exception) -> None:
    assert not is_out_of_memory(error)
