"""Models by name: where they lie, what their configuration says, and where they can run.

A model is `bundled`, a hub id, a local folder in diffusers' format, or `sd15-random`: Stable
Diffusion 1.x at its real size with random weights, for trying what it costs. Catalogs need
configuration files only; no weights are read and no remote code is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ablate import bundled
from ablate.catalog import ModuleInfo, catalog, did_you_mean

DENOISERS = ("unet", "transformer")
RANDOM = "sd15-random"

# The lab shows progress of its own.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


class ModelError(Exception):
    """A model that cannot be found, read or used; the message says why and what would do."""


def folder_of(model: str) -> Path | None:
    """The local folder of a model, None for a hub id."""
    if model == "bundled":
        return bundled.FOLDER
    if model == RANDOM:
        return Path(__file__).parent / "sd15"
    if Path(model).is_dir():
        return Path(model)
    if model.startswith((".", "/", "~")) or model.count("/") != 1 or Path(model).exists():
        raise ModelError(
            f"there is no model `{model}`: it is neither `bundled`, nor a folder in diffusers'"
            f" format, nor a hub id such as `stable-diffusion-v1-5/stable-diffusion-v1-5`"
            f"{did_you_mean(model, ['bundled', RANDOM])}"
        )
    return None


# ---------------------------------------------------------------- configuration and catalog


def read_config(model: str, name: str, revision: str | None) -> dict[str, Any] | None:
    """A JSON file of a model's repository or folder; None when it has no such file."""
    folder = folder_of(model)
    if folder is not None:
        file = folder / name
        if not file.exists():
            return None
    else:
        try:
            file = Path(hf_hub_download(model, name, revision=revision))
        except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
            raise ModelError(
                f"`{model}` is not in the hub cache and the hub cannot be reached: {error}"
            ) from error
        except EntryNotFoundError:
            return None
        except (HfHubHTTPError, HFValidationError) as error:
            raise ModelError(f"the hub does not give `{model}`: {error}") from error
    try:
        config: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{file} is not JSON: {error}") from error
    return config


@lru_cache(maxsize=16)
def load_catalog(
    model: str, component: str | None = None, revision: str | None = None
) -> tuple[ModuleInfo, ...]:
    """The modules of a model's denoiser, or of another component, from configuration alone.

    Raises `ModelError` when the model or component is not there or of no known class.
    """
    return catalog_of(_component_config(model, component, revision), model)


def catalog_of(config: Mapping[str, Any], model: str) -> tuple[ModuleInfo, ...]:
    """The modules of the network that a configuration describes, in forward order."""
    network = _skeleton(config, model)
    return catalog(network, _forward(network))


def _component_config(model: str, component: str | None, revision: str | None) -> dict[str, Any]:
    index = read_config(model, "model_index.json", revision)
    present = [k for k, v in (index or {}).items() if isinstance(v, list) and v[0]]
    for name in (component,) if component else DENOISERS:
        # A hub model's index is asked first: of what it does not name nothing may be cached.
        config = (
            read_config(model, f"{name}/config.json", revision)
            if index is None or name in present
            else None
        )
        if config is not None:
            return config
    if component is None and index is None:  # a folder that is itself a component
        config = read_config(model, "config.json", revision)
        if config is not None:
            return config
    what = f"no component `{component}`" if component else "no denoiser (`unet`, `transformer`)"
    there = f"{did_you_mean(component or '', present)}; it has {', '.join(present)}"
    raise ModelError(f"`{model}` has {what}{there if present else ''}")


def _skeleton(config: Mapping[str, Any], model: str) -> nn.Module:
    """A network on the meta device: all shapes, no weights."""
    name = config.get("_class_name") or next(iter(config.get("architectures") or []), None)
    with torch.device("meta"):
        found: Any = getattr(diffusers, str(name), None)
        if isinstance(found, type):
            return cast(nn.Module, found.from_config(dict(config)))  # type: ignore[attr-defined]
        found = getattr(transformers, str(name), None)
        if isinstance(found, type):
            plain = {k: v for k, v in config.items() if k not in ("model_type", "architectures")}
            made = transformers.AutoConfig.for_model(config["model_type"], **plain)
            return cast(nn.Module, found(made))
    raise ModelError(f"`{model}`: its configuration names the class `{name}`, which neither"
                     " diffusers nor transformers has")  # fmt: skip


def _forward(network: nn.Module) -> Callable[[], object] | None:
    """A call of a skeleton with inputs that fit its configuration; None where none is known."""
    config: Any = network.config
    if isinstance(network, diffusers.UNet2DConditionModel):
        if config.addition_embed_type or config.class_embed_type or config.encoder_hid_dim_type:
            return None
        size = config.sample_size or 64
        height, width = (size, size) if isinstance(size, int) else size
        sample = torch.zeros(1, config.in_channels, height, width, device="meta")
        context = config.cross_attention_dim
        width = context if isinstance(context, int) else context[0]
        states = torch.zeros(1, 8, width, device="meta")
        time = torch.zeros(1, device="meta")
        return lambda: network(sample, time, states)
    if isinstance(network, diffusers.AutoencoderKL):
        image = torch.zeros(1, config.in_channels, 64, 64, device="meta")
        return lambda: network(image)
    return None


@dataclass(frozen=True)
class Effort:
    """What sampling costs: operations of one denoiser row, operations a second, and where."""

    flops: float
    rate: float
    device: str


def estimate(model: str, revision: str | None = None) -> Effort:
    """The cost of one denoiser row at the model's own size, and a rough speed of this machine.

    Operations are counted on the meta device; the speed is that of a matrix product here, of
    which sampling typically reaches a fifth.
    """
    network = _skeleton(_component_config(model, None, revision), model)
    forward = _forward(network)
    if forward is None:
        raise ModelError(f"`{model}`: no estimate is known for a {type(network).__name__}")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    device = find_device()
    dtype = find_dtype("auto", device)
    side = 1024 if device.type == "cpu" else 8192
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    matrix @ matrix
    began = time.perf_counter()
    for _ in range(3):
        result = matrix @ matrix
    float(result[0, 0])  # waits for the device
    rate = 3 * 2 * side**3 / (time.perf_counter() - began) / 5
    return Effort(counter.get_total_flops(), rate, device.type)


# ---------------------------------------------------------------- device, dtype, schedulers


def find_device(wanted: str | None = None) -> torch.device:
    """The device asked for, or the best there is: `cuda`, `mps`, `cpu`."""
    if wanted is None or wanted == "auto":
        if torch.cuda.is_available():  # each process of a launcher has a GPU of its own
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
    """The dtype asked for; `auto` is 16 bit where the hardware is fast at it, else float32."""
    if wanted != "auto":
        dtype: torch.dtype = getattr(torch, wanted)
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


def scheduler_class(name: str) -> type:
    """A diffusers scheduler by name: `DDIMScheduler`, `ddim`, `euler_ancestral`, ...

    Raises `ModelError` with the nearest names when there is none.
    """
    known = {_plain(n): n for n in dir(diffusers) if n.endswith("Scheduler") and "Flax" not in n}
    # `euler` is short for EulerDiscreteScheduler, `euler_ancestral` for its sibling.
    found = known.get(_plain(name)) or known.get(_plain(name) + "discrete")
    if not _plain(name) or found is None:
        near = did_you_mean(_plain(name), known)
        listed = ", ".join(sorted(k for k in known if k))
        raise ModelError(f"diffusers has no scheduler `{name}`{near or f'; it has {listed}'}")
    scheduler: type = getattr(diffusers, found)
    return scheduler


def _plain(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower().removesuffix("scheduler")


def config_of(network: nn.Module) -> dict[str, Any]:
    """The configuration that a loaded network was built from, its class included."""
    config: Any = network.config
    if hasattr(config, "to_dict"):
        found: dict[str, Any] = config.to_dict()
        return found
    return {**config, "_class_name": type(network).__name__}


def fingerprint_of(folder: Path) -> str:
    """Digest of all configuration and weight files of a local pipeline."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".json", ".safetensors", ".txt", ".model") and file.is_file():
            digest.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:32]}"


def revision_of(model: str, revision: str | None) -> str:
    """The commit of a hub model: cached snapshots lie in a folder named by it."""
    file = Path(hf_hub_download(model, "model_index.json", revision=revision))
    return f"commit:{file.parent.name}"


def versions() -> dict[str, str]:
    """Versions of what an image depends on."""
    import ablate

    return {
        "ablate": ablate.__version__,
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
