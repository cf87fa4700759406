"""Text-to-image pipelines: load, encode, sample, decode. The only file that imports diffusers and
transformers.

Models are `bundled`, a hub id, or a local folder in diffusers' format. Catalogs need configuration
files only; no weights are read and no remote code is run.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, cast

# Before transformers is imported: its advice on missing optional packages is for its own users.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import diffusers
import numpy as np
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
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ablate import bundled
from ablate.catalog import ModuleInfo, catalog, did_you_mean

DENOISERS = ("unet", "transformer")

# The lab shows progress of its own.
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.disable_progress_bar()


class ModelError(Exception):
    """A model that cannot be found, read or used; the message says why and what would do."""


class Stopped(Exception):  # noqa: N818, it is no error
    """Raised out of sampling when `Pipeline.stop` asked for it."""


def folder_of(model: str) -> Path | None:
    """The local folder of a model, None for a hub id."""
    if model == "bundled":
        return bundled.FOLDER
    if Path(model).is_dir():
        return Path(model)
    if model.startswith((".", "/", "~")) or model.count("/") != 1 or Path(model).exists():
        raise ModelError(
            f"there is no model `{model}`: it is neither `bundled`, nor a folder in diffusers'"
            f" format, nor a hub id such as `stable-diffusion-v1-5/stable-diffusion-v1-5`"
            f"{did_you_mean(model, ['bundled'])}"
        )
    return None


# ---------------------------------------------------------------- configuration and catalog


def _read_config(model: str, name: str, revision: str | None) -> dict[str, Any] | None:
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
    config = _component_config(model, component, revision)
    network = _skeleton(config, model)
    return catalog(network, _forward(network))


def _component_config(model: str, component: str | None, revision: str | None) -> dict[str, Any]:
    index = _read_config(model, "model_index.json", revision)
    present = [k for k, v in (index or {}).items() if isinstance(v, list) and v[0]]
    for name in (component,) if component else DENOISERS:
        # A hub model's index is asked first: of what it does not name nothing may be cached.
        config = (
            _read_config(model, f"{name}/config.json", revision)
            if index is None or name in present
            else None
        )
        if config is not None:
            return config
    if component is None and index is None:  # a folder that is itself a component
        config = _read_config(model, "config.json", revision)
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
        if torch.cuda.is_available():
            return torch.device("cuda")
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


# ---------------------------------------------------------------- the pipeline


@dataclass(frozen=True)
class Request:
    """One image: a prompt, a seed, and settings; all requests of a batch share the settings."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Settings:
    """Sampling as it is carried out: nothing left open. Sizes in pixels."""

    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    negative_prompt: str
    width: int
    height: int


class Pipeline:
    """A loaded text-to-image pipeline.

    `network` is the component that is edited, `stop` a function asked before every step: when it
    returns True, `Stopped` is raised.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        model: str,
        fingerprint: str,
        component: str | None = None,
    ) -> None:
        self.pipe = pipe
        self.model = model
        self.fingerprint = fingerprint
        present = [n for n in DENOISERS if getattr(pipe, n, None) is not None]
        self.denoiser_name = present[0]
        self.component = component or self.denoiser_name
        self.network: nn.Module = getattr(pipe, self.component)
        self.stop: Callable[[], bool] = lambda: False
        self._own_scheduler = pipe.scheduler
        self._encoded: dict[str, Tensor] = {}
        pipe.set_progress_bar_config(disable=True)

    @classmethod
    def load(
        cls,
        model: str = "bundled",
        *,
        revision: str | None = None,
        component: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
    ) -> Pipeline:
        """Load a model's weights. Raises `ModelError` when it is not there or not complete."""
        folder = folder_of(model)
        where = find_device(device)
        options: dict[str, Any] = {"dtype": find_dtype(dtype, where)}
        index = _read_config(model, "model_index.json", revision)
        if index is None:
            raise ModelError(f"`{model}` has no model_index.json; it is no diffusers pipeline")
        if "safety_checker" in index:  # it would black out what drifts
            options |= {"safety_checker": None, "requires_safety_checker": False}
        try:
            pipe = diffusers.DiffusionPipeline.from_pretrained(
                str(folder) if folder else model,
                revision=revision,
                use_safetensors=True,
                **options,
            )
        except (OSError, ValueError) as error:
            raise ModelError(f"`{model}` cannot be loaded: {error}") from error
        if component is not None and not isinstance(getattr(pipe, component, None), nn.Module):
            raise ModelError(
                f"`{model}` has no component `{component}`"
                f"{did_you_mean(component, pipe.components)}; it has"
                f" {', '.join(k for k, v in pipe.components.items() if isinstance(v, nn.Module))}"
            )
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.eval().requires_grad_(False)
        fingerprint = _fingerprint(folder) if folder else _revision_of(model, revision)
        return cls(pipe.to(where), model=model, fingerprint=fingerprint, component=component)

    # ------------------------------------------------------------ what it is

    @property
    def device(self) -> torch.device:
        return next(iter(self.network.parameters())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.network.parameters())).dtype

    @cached_property
    def catalog(self) -> tuple[ModuleInfo, ...]:
        """The modules of the edited component, in forward order."""
        skeleton = _skeleton(_config_of(self.network), self.model)
        return catalog(skeleton, _forward(skeleton))

    def settings(self, sampling: Any) -> Settings:
        """What a recipe's sampling comes to on this model."""
        scheduler = self._scheduler(sampling.scheduler)
        config = getattr(self.pipe, self.denoiser_name).config
        side = (config.sample_size or 64) * self.pipe.vae_scale_factor
        return Settings(
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=float(sampling.guidance_scale),
            scheduler=type(scheduler).__name__,
            negative_prompt=sampling.negative_prompt,
            width=sampling.width or side,
            height=sampling.height or side,
        )

    def _scheduler(self, name: str | None) -> Any:
        if name is None or name == type(self._own_scheduler).__name__:
            return self._own_scheduler
        found: Any = scheduler_class(name)
        return found.from_config(self._own_scheduler.config)

    # ------------------------------------------------------------ sampling

    @torch.inference_mode()
    def sample(
        self,
        requests: Sequence[Request],
        settings: Settings,
        on_step: Callable[[int], None] | None = None,
    ) -> np.ndarray:
        """Images for the requests, float32 in [0, 1], shape (n, height, width, 3).

        Where a network gave NaN or infinity, the image has NaN. The initial latent of a request
        depends on its seed and shape alone: it is drawn in float32 on the CPU.
        """
        pipe = self.pipe
        pipe.scheduler = self._scheduler(settings.scheduler)
        # The same generator goes on to schedulers that draw noise of their own at every step.
        generators = [torch.Generator().manual_seed(r.seed) for r in requests]
        channels = getattr(pipe, self.denoiser_name).config.in_channels
        scale = pipe.vae_scale_factor
        shape = (1, channels, settings.height // scale, settings.width // scale)
        latents = torch.cat([torch.randn(shape, generator=g) for g in generators])
        guided = settings.guidance_scale > 1
        prompts = [self.encode(r.prompt) for r in requests]
        negative = self.encode(settings.negative_prompt)
        finite = torch.ones(len(requests), dtype=torch.bool, device=self.device)

        def after_step(_pipe: Any, step: int, _t: Any, state: dict[str, Any]) -> dict[str, Any]:
            finite.logical_and_(torch.isfinite(state["latents"]).flatten(1).all(1))
            if self.stop():
                raise Stopped
            if on_step is not None:
                on_step(step)
            return state

        result = pipe(
            prompt_embeds=torch.cat(prompts),
            negative_prompt_embeds=negative.expand(len(requests), -1, -1) if guided else None,
            latents=latents.to(self.device, self.dtype),
            generator=generators,
            num_inference_steps=settings.num_inference_steps,
            guidance_scale=settings.guidance_scale,
            width=settings.width,
            height=settings.height,
            output_type="np",
            callback_on_step_end=after_step,
        )
        images: np.ndarray = result.images.astype(np.float32)
        images[~finite.cpu().numpy()] = np.nan
        return images

    def encode(self, prompt: str) -> Tensor:
        """Token states of one prompt, shape (1, tokens, width)."""
        if self.component.startswith("text_encoder"):
            return self._encode(prompt)  # it changes with every variant
        if prompt not in self._encoded:
            self._encoded[prompt] = self._encode(prompt)
        return self._encoded[prompt]

    @torch.inference_mode()
    def _encode(self, prompt: str) -> Tensor:
        states: Tensor = self.pipe.encode_prompt(prompt, self.device, 1, False)[0]
        return states


def _config_of(network: nn.Module) -> dict[str, Any]:
    config: Any = network.config
    if hasattr(config, "to_dict"):
        found: dict[str, Any] = config.to_dict()
        return found
    return {**config, "_class_name": type(network).__name__}


def _fingerprint(folder: Path) -> str:
    """Digest of all configuration and weight files of a local pipeline."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        if file.suffix in (".json", ".safetensors", ".txt", ".model") and file.is_file():
            digest.update(file.relative_to(folder).as_posix().encode())
            with file.open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return f"sha256:{digest.hexdigest()[:32]}"


def _revision_of(model: str, revision: str | None) -> str:
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
