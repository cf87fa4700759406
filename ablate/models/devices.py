"""Devices, their memory and dtypes, and the versions of libraries."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import diffusers
import psutil
import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size

from ablate import __version__
from ablate.models.errors import ModelError


def spare_memory(device: torch.device) -> int:
    """Bytes that could still be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)


class MemoryUse:
    """What computing takes on a device, as it is measured from its making on."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._held = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            self._held = torch.cuda.memory_allocated(device)

    def fits_twice(self) -> bool:
        """Whether there is memory for as much again as was used at most.

        On a GPU that is without what it held before, such as weights; elsewhere the peak of the
        whole process stands for it, which cannot be reset.
        """
        if self.device.type == "cuda":
            used = torch.cuda.max_memory_allocated(self.device) - self._held
            return 2 * used < spare_memory(self.device)
        return _peak_of_process() < spare_memory(self.device)


def _peak_of_process() -> int:
    """The most bytes that this process has used so far."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    import resource  # which Windows does not have

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def find_device(wanted: str | None = None) -> torch.device:
    """A device by name, or the best available: `cuda`, `mps`, `cpu`. Raises `ModelError`."""
    if wanted is None or wanted == "auto":
        if torch.cuda.is_available():  # each process of a launcher has one GPU
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        first = str(error).splitlines()[0]
        raise ModelError(f"device `{wanted}` cannot be used here: {first}") from error
    return device


def find_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """A dtype by name; `auto` is 16 bit where the hardware is fast at it, else float32."""
    if wanted != "auto":
        dtype = getattr(torch, wanted, None)
        if not isinstance(dtype, torch.dtype):
            raise ModelError(f"torch has no dtype `{wanted}`; use float32, float16 or bfloat16")
        return dtype
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(False) else torch.float16
    if device.type == "mps":
        return torch.float16
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def versions() -> dict[str, str]:
    """The versions of the libraries that an image depends on."""
    return {
        "ablate": __version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory ran out, in whatever words of CUDA, its libraries, MPS or
    the CPU."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    texts = [arg for arg in error.args if isinstance(arg, str)]
    known = any(should_reduce_batch_size(RuntimeError(text)) for text in texts)
    return known or any("ALLOC_FAILED" in text for text in texts)
