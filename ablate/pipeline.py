"""Text-to-image pipelines: load, encode, sample, decode."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from torch import Tensor, nn

from ablate import bundled
from ablate.catalog import ModuleInfo, did_you_mean
from ablate.embeddings import Embedding, Point, embed
from ablate.models import (
    DENOISERS,
    RANDOM,
    ModelError,
    catalog_of,
    config_of,
    find_device,
    find_dtype,
    fingerprint_of,
    folder_of,
    read_config,
    revision_of,
    scheduler_class,
)

# Pixels decoded at once: more is no faster, and the autoencoder's memory grows with them.
DECODED = {"cuda": 8 * 512 * 512, "mps": 2 * 512 * 512, "cpu": 16 * 64 * 64}


class Stopped(Exception):  # noqa: N818, it is no error
    """Raised out of sampling when `Pipeline.stop` asked for it."""


@dataclass(frozen=True)
class Request:
    """One image: a prompt, or a point of embedding space in its stead, and a seed; all requests of
    a batch share the settings."""

    prompt: str
    seed: int
    point: Point | None = None


@dataclass(frozen=True)
class Samples:
    """What sampling gives. `images`: float32 in [0, 1], shape (n, height, width, 3), NaN where a
    network gave NaN or infinity. `latents`: those that were decoded, float32, shape (n, channels,
    height, width). `frames`: by number of steps, the finished images as they were estimated then.
    """

    images: np.ndarray
    latents: np.ndarray
    frames: Mapping[int, Samples] = field(default_factory=dict)


@dataclass(frozen=True)
class Settings:
    """Sampling as it is carried out: nothing left open. Sizes in pixels."""

    num_inference_steps: int
    guidance_scale: float
    scheduler: str
    negative_prompt: str
    width: int
    height: int

    @property
    def guided(self) -> bool:
        """Whether a cell takes two denoiser rows a step: without and with its prompt."""
        return self.guidance_scale > 1


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
        compiled: bool = False,
    ) -> None:
        self.pipe = pipe
        self.model = model
        self.fingerprint = fingerprint
        present = [n for n in DENOISERS if getattr(pipe, n, None) is not None]
        self.denoiser_name = present[0]
        self.component = component or self.denoiser_name
        self.network: nn.Module = getattr(pipe, self.component)
        self.compiled = compiled
        self.stop: Callable[[], bool] = lambda: False
        self._own_scheduler = pipe.scheduler
        self._encoded: dict[str, dict[str, Tensor]] = {}
        pipe.set_progress_bar_config(disable=True)
        # Convolutions of the autoencoder are faster so everywhere, those of a denoiser on GPUs.
        pipe.vae.to(memory_format=torch.channels_last)
        if self.device.type == "cuda":
            getattr(pipe, self.denoiser_name).to(memory_format=torch.channels_last)
        if compiled:
            self.denoiser.compile()

    @classmethod
    def load(
        cls,
        model: str = "bundled",
        *,
        revision: str | None = None,
        component: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        compile: bool = False,
    ) -> Pipeline:
        """Load a model's weights. Raises `ModelError` when it is not there or not complete.

        `compile`: run the denoiser through torch.compile; edits stay valid, because weights
        change in place.
        """
        folder = folder_of(model)
        where = find_device(device)
        dtype_found = find_dtype(dtype, where)
        options: dict[str, Any] = {}
        index = read_config(model, "model_index.json", revision)
        if index is None:
            raise ModelError(f"`{model}` has no model_index.json; it is no diffusers pipeline")
        if "safety_checker" in index:  # it would black out what drifts
            options |= {"safety_checker": None, "requires_safety_checker": False}
        try:
            if model == RANDOM:
                pipe = random_pipeline().to(dtype=dtype_found)
            else:
                pipe = diffusers.DiffusionPipeline.from_pretrained(
                    str(folder) if folder else model,
                    revision=revision,
                    use_safetensors=True,
                    dtype=dtype_found,
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
        fingerprint = fingerprint_of(folder) if folder else revision_of(model, revision)
        return cls(
            pipe.to(where),
            model=model,
            fingerprint=fingerprint,
            component=component,
            compiled=compile,
        )

    # ------------------------------------------------------------ what it is

    @property
    def device(self) -> torch.device:
        return next(iter(self.network.parameters())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.network.parameters())).dtype

    @property
    def denoiser(self) -> nn.Module:
        network: nn.Module = getattr(self.pipe, self.denoiser_name)
        return network

    @property
    def rows(self) -> bool:
        """Whether modules of the edited component see a row a cell, and may be edited so.

        A compiled network is valid for other weights, but not for other functions in its modules.
        """
        return self.network is self.denoiser and not self.compiled

    @cached_property
    def catalog(self) -> tuple[ModuleInfo, ...]:
        """The modules of the edited component, in forward order."""
        return catalog_of(config_of(self.network), self.model)

    def settings(self, sampling: Any) -> Settings:
        """What a recipe's sampling comes to on this model."""
        scheduler = self._scheduler(sampling.scheduler)
        config: Any = self.denoiser.config
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
        before_step: Callable[[int], None] = lambda _: None,
        frames: AbstractSet[int] = frozenset(),
    ) -> Samples:
        """Images for the requests, in their order.

        `before_step` is told the number of every step, and at last how many there were. `frames`:
        numbers of steps after which the image is wanted as it is estimated then. The initial
        latent of a request depends on its seed and shape alone: it is drawn in float32 on the CPU.
        """
        pipe = self.pipe
        before_step(0)
        pipe.scheduler = self._scheduler(settings.scheduler)
        # The same generator goes on to schedulers that draw noise of their own at every step.
        generators = [torch.Generator().manual_seed(r.seed) for r in requests]
        channels = pipe.vae.config.latent_channels
        scale = pipe.vae_scale_factor
        shape = (1, channels, settings.height // scale, settings.width // scale)
        latents = torch.cat([torch.randn(shape, generator=g) for g in generators])
        given = [self.embed(r) for r in requests]
        states = {name: torch.cat([g[name] for g in given]) for name in given[0]}
        if settings.guided:
            negative = self.encode(settings.negative_prompt)
            states |= {
                f"negative_{name}": state.expand(len(requests), *state.shape[1:])
                for name, state in negative.items()
            }
        kept: dict[int, Tensor] = {}
        finite = torch.ones(len(requests), dtype=torch.bool, device=self.device)

        def after_step(_pipe: Any, step: int, _t: Any, state: dict[str, Any]) -> dict[str, Any]:
            finite.logical_and_(torch.isfinite(state["latents"]).flatten(1).all(1))
            if self.stop():
                raise Stopped
            if step + 1 in frames:
                kept[step + 1] = estimates[-1].to(self.dtype)
            before_step(step + 1)
            return state

        with estimated(pipe.scheduler, bool(frames)) as estimates:
            result = pipe(
                **states,
                latents=latents.to(self.device, self.dtype),
                generator=generators,
                num_inference_steps=settings.num_inference_steps,
                guidance_scale=settings.guidance_scale,
                width=settings.width,
                height=settings.height,
                output_type="latent",
                callback_on_step_end=after_step,
            )
        broken = ~finite.cpu().numpy()
        found = {number: self._decoded(frame, settings) for number, frame in kept.items()}
        final = self._decoded(result.images, settings)
        final.images[broken] = np.nan
        return Samples(final.images, final.latents, found)

    def _decoded(self, latents: Tensor, settings: Settings) -> Samples:
        """Images of latents as the denoiser gives them, decoded in parts that stay fast."""
        pipe = self.pipe
        pixels = settings.width * settings.height
        size = max(1, DECODED.get(self.device.type, pixels) // pixels)
        latents = latents / pipe.vae.config.scaling_factor
        parts = []
        for part in torch.split(latents, size):
            image = pipe.vae.decode(part, return_dict=False)[0]
            parts.append(pipe.image_processor.postprocess(image, output_type="np"))
        images = np.concatenate(parts).astype(np.float32)
        images[~torch.isfinite(latents).flatten(1).all(1).cpu().numpy()] = np.nan
        return Samples(images, latents.float().cpu().numpy())

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).synchronize()

    def embed(self, request: Request) -> Embedding:
        """What a request asks of the network: the embedding of its prompt or of its point."""
        if request.point is None:
            return self.encode(request.prompt)
        return embed(request.point, self.encode)

    def encode(self, prompt: str) -> Embedding:
        """All tensors that one prompt gives, by the pipeline's names: `prompt_embeds`, shape (1,
        tokens, width), and, where it has them, `pooled_prompt_embeds`, shape (1, width)."""
        if self.component.startswith("text_encoder"):
            return self._encode(prompt)  # it changes with every variant
        if prompt not in self._encoded:
            self._encoded[prompt] = self._encode(prompt)
        return self._encoded[prompt]

    @torch.inference_mode()
    def _encode(self, prompt: str) -> dict[str, Tensor]:
        found = self.pipe.encode_prompt(
            prompt=prompt,
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        # In between lie those of a negative prompt, which is encoded as any other.
        names = ["prompt_embeds", ""]
        if "pooled_prompt_embeds" in inspect.signature(type(self.pipe).__call__).parameters:
            names += ["pooled_prompt_embeds", ""]
        if len(names) != len(found):
            kind = type(self.pipe).__name__
            raise ModelError(f"`{self.model}`: how a {kind} takes prompts is not known")
        return {n: t for n, t in zip(names, found, strict=True) if n}


@contextmanager
def estimated(scheduler: Any, wanted: bool) -> Iterator[list[Tensor]]:
    """Within it every step of a scheduler leaves its estimate of the finished latents as the last
    item of the list; of a scheduler that tells none, the latents as they are."""
    estimates: list[Tensor] = []
    if not wanted:
        yield estimates
        return
    step = scheduler.step

    def watched(model_output: Tensor, timestep: Any, sample: Tensor, **options: Any) -> Any:
        result = step(model_output, timestep, sample, **(options | {"return_dict": True}))
        estimate = getattr(result, "pred_original_sample", None)
        config, cumulative = scheduler.config, getattr(scheduler, "alphas_cumprod", None)
        # Of those that tell no estimate and work on latents of unit variance: eq. 9 of Song et al.
        # 2021 (Denoising diffusion implicit models), and its form for v-prediction.
        kind = config.get("prediction_type") if float(scheduler.init_noise_sigma) == 1 else None
        if estimate is None and cumulative is not None and kind in ("epsilon", "v_prediction"):
            alpha = cumulative.to(sample.device)[int(timestep)]
            signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
            if kind == "v_prediction":
                estimate = signal * sample - noise * model_output
            else:
                estimate = (sample - noise * model_output) / signal
        estimates[:] = [result.prev_sample if estimate is None else estimate]
        return result if options.get("return_dict", True) else (result.prev_sample,)

    scheduler.step = watched
    try:
        yield estimates
    finally:
        del scheduler.step


def random_pipeline() -> Any:
    """Stable Diffusion 1.x of its real size; the weights are torch's default initialization."""
    configs = {
        part: read_config(RANDOM, f"{part}/config.json", None) or {}
        for part in ("unet", "vae", "text_encoder")
    }
    schedule = read_config(RANDOM, "scheduler/scheduler_config.json", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return diffusers.StableDiffusionPipeline(
            vae=diffusers.AutoencoderKL.from_config(configs["vae"]),
            text_encoder=transformers.CLIPTextModel(
                transformers.CLIPTextConfig(**configs["text_encoder"])
            ),
            # Any tokenizer serves: what its tokens mean is random too.
            tokenizer=transformers.CLIPTokenizer.from_pretrained(
                bundled.FOLDER / "tokenizer", model_max_length=77
            ),
            unet=diffusers.UNet2DConditionModel.from_config(configs["unet"]),
            scheduler=diffusers.PNDMScheduler.from_config(schedule),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
