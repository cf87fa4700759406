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

from ablate import __version__
from ablate.models.errors import ModelError


def spare_memory(device: torch.device) -> int:
    """Bytes that could still be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(psutil.virtual_memory().available)


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has used on a device so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
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
    """Whether an error says that memory ran out."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
