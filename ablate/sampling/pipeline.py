"""Text-to-image pipelines: loading, their networks and settings, and sampling."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ablate.messages import articled, did_you_mean, first_line
from ablate.models import (
    Lora,
    ModelError,
    SizeError,
    Source,
    catalog_from_config,
    check_pipeline,
    config_of,
    default_side,
    find_device,
    find_dtype,
    fingerprint_of_weights,
    guided_rows_of,
    identify,
    is_out_of_memory,
    load_pipeline,
    source_like,
    weights_of,
    wrong_side,
)
from ablate.network import DENOISERS, Catalog, ScopeError, replaced
from ablate.sampling.call import autoencoder_of, inner_pipelines, sample
from ablate.sampling.names import named_in_full
from ablate.sampling.request import Callbacks, Request, Samples, SamplingError
from ablate.sampling.schedulers import matched_scheduler
from ablate.sampling.settings import Settings

# Errors that a wrong size of the pictures may cause.
SIZE_ERRORS = (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError)


class Pipeline:
    """A loaded text-to-image pipeline.

    Attributes:
        pipe: The pipeline of diffusers.
        model: The name of its model.
        fingerprint: Identifies the model's files or weights.
        source: Where the model comes from, with commits as revisions.
        denoiser_name: The name of its denoiser among its components.
        component: The name of the edited component.
        network: The edited component.
        compiled: Whether the denoiser is compiled.
        stop: Called after every step; if it returns True, `Stopped` is raised.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        model: str,
        fingerprint: str,
        component: str | None = None,
        compiled: bool = False,
        source: Source | None = None,
    ) -> None:
        self.pipe = pipe
        self.model = model
        self.fingerprint = fingerprint
        self.source = source or Source(model)
        present = [n for n in DENOISERS if getattr(pipe, n, None) is not None]
        if not present:
            raise ModelError(
                f"`{model}`: {articled(type(pipe).__name__)} has no denoiser that is known here"
                f" ({', '.join(DENOISERS)}); it has {', '.join(pipe.components)}"
            )
        self.denoiser_name = present[0]
        self.component = component or self.denoiser_name
        self.network: nn.Module = getattr(pipe, self.component)
        self.compiled = compiled
        self.stop: Callable[[], bool] = lambda: False
        self._default_scheduler = pipe.scheduler
        self._encoded: dict[Any, Any] = {}
        self._catalogs: dict[str, Catalog] = {}
        if compiled:
            self.denoiser.compile()

    @classmethod
    def load(
        cls,
        model: str | Source = "bundled",
        *,
        revision: str | None = None,
        variant: str | None = None,
        config: str | None = None,
        lora: Iterable[Lora] = (),
        offload: str | None = None,
        component: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        compile: bool = False,
    ) -> Pipeline:
        """Load a model's weights.

        Args:
            model: Its name or its source.
            revision, variant, config, lora, offload: With a name, the other attributes of `Source`.
            component: The component to edit; None is the denoiser.
            device: `cuda`, `mps` or `cpu`; None is the best available.
            dtype: A dtype of torch, or `auto`: 16 bit where the hardware is fast at it.
            compile: Run the denoiser through torch.compile; edits still take effect, because
                weights change in place.

        Raises:
            ModelError: The model does not exist or is incomplete.
        """
        source = (
            model
            if isinstance(model, Source)
            else Source(model, revision, variant, config, tuple(lora), offload)
        )
        where = find_device(device)
        pipe = load_pipeline(source, where, find_dtype(dtype, where))
        if component is not None and not isinstance(getattr(pipe, component, None), nn.Module):
            raise ModelError(
                f"`{source.model}` has no component `{component}`"
                f"{did_you_mean(component, pipe.components)}; it has"
                f" {', '.join(k for k, v in pipe.components.items() if isinstance(v, nn.Module))}"
            )
        pinned, fingerprint = identify(source)
        pipeline = cls(
            pipe,
            model=source.model,
            fingerprint=fingerprint,
            component=component,
            compiled=compile,
            source=pinned,
        )
        # Faster for convolutions of autoencoders everywhere, for those of denoisers on GPUs.
        denoiser = pipeline.denoiser if pipeline.device.type == "cuda" else None
        for network in (autoencoder_of(pipe), denoiser):
            if network is not None and all(p.dim() < 5 for p in network.parameters()):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return pipeline

    @classmethod
    def of(cls, pipe: Any) -> Pipeline:
        """Wrap a loaded pipeline of diffusers; its fingerprint is computed from its weights.

        It stays as it is. A `Pipeline` is returned. Raises `ModelError` for anything else.
        """
        if isinstance(pipe, cls):
            return pipe
        if not isinstance(getattr(pipe, "components", None), Mapping) or not callable(pipe):
            raise ModelError(f"{articled(type(pipe).__name__)} is no pipeline of diffusers")
        check_pipeline(type(pipe), "this pipeline")
        model = str(pipe.config.get("_name_or_path") or type(pipe).__name__)
        return cls(pipe, model=model, fingerprint=fingerprint_of_weights(pipe))

    def editing(self, component: str | None) -> Pipeline:
        """The same pipeline with another component to edit; None is the denoiser."""
        name = component or self.denoiser_name
        if name not in self.networks:
            raise ModelError(f"`{self.model}` has no component `{name}`")
        other = copy.copy(self)
        other.component, other.network = name, self.networks[name]
        return other

    @property
    def identity(self) -> dict[str, Any]:
        """Its model in plain objects, which are enough to load the same again."""
        return self.source.located().as_json() | {"fingerprint": self.fingerprint}

    @property
    def device(self) -> torch.device:
        """Where its networks run."""
        if self.source.offload is not None:  # which is not where they are kept
            return torch.device(self.pipe._execution_device)
        return next(iter(self.network.parameters())).device

    @property
    def dtype(self) -> torch.dtype:
        return next(iter(self.network.parameters())).dtype

    @property
    def denoiser(self) -> nn.Module:
        network: nn.Module = getattr(self.pipe, self.denoiser_name)
        return network

    @property
    def edits_by_rows(self) -> bool:
        """Whether modules of the denoiser can be edited for some rows of a batch and not others.

        A compiled network allows other weights, but no other functions in its modules; and edited
        weights of some rows would not move between devices with an offloaded network.
        """
        return not self.compiled and self.source.offload is None

    @cached_property
    def networks(self) -> dict[str, nn.Module]:
        """All networks of the pipeline, by the names of their components."""
        parts: dict[str, Any] = self.pipe.components
        return {name: part for name, part in parts.items() if isinstance(part, nn.Module)}

    @property
    def catalog(self) -> Catalog:
        """The modules of the edited component, in forward order."""
        return self.catalog_of(self.component)

    def catalog_of(self, component: str) -> Catalog:
        """The modules of one of its networks, in forward order."""
        if component not in self._catalogs:
            network = self.networks[component]
            self._catalogs[component] = catalog_from_config(config_of(network), self.model)
        return self._catalogs[component]

    @property
    def guided_rows(self) -> int:
        """Denoiser rows of a step of a guided cell: one where guidance is distilled into the
        network, else two."""
        config: Any = self.denoiser.config
        return guided_rows_of(config, self.pipe.config)

    def qualified(self, component: str, paths: Iterable[str]) -> set[str]:
        """Module paths as shown to users: with the component's name if it is not the edited one."""
        other = component != self.component
        return {f"{component}:{path}" if other else path for path in paths}

    def settings(self, sampling: Any) -> Settings:
        """A recipe's sampling settings with this model's defaults filled in."""
        scheduler = self.scheduler_of(sampling.scheduler)
        return Settings(
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=float(sampling.guidance_scale),
            scheduler=named_in_full(sampling.scheduler) or type(scheduler).__name__,
            negative_prompt=sampling.negative_prompt,
            width=sampling.width or default_side(self.pipe, "width"),
            height=sampling.height or default_side(self.pipe, "height"),
        )

    def check_size(self, settings: Settings) -> None:
        """Raise `ModelError` for pictures of a size that the pipeline is known not to support."""
        for name in ("width", "height"):
            wrong = wrong_side(self.pipe, name, getattr(settings, name))
            if wrong is not None:
                raise ModelError(f"`{self.model}`: {name} {wrong}")

    @contextmanager
    def explain_size_errors(self, settings: Settings) -> Iterator[None]:
        """Turn errors of sampling into a `SizeError` if the size of the pictures causes them.

        Neither the type nor the text of an error shows its cause: it may as well be an edit, a
        hook or the model. So two steps are sampled again without edits: if they fail at this size
        and not at the model's default size, the size is the cause. This costs time only after an
        error.
        """
        try:
            yield
        except (ModelError, *SIZE_ERRORS) as error:
            # An error that is reported for a scheduler may be due to the size.
            cause = error.__cause__ if isinstance(error, ModelError) else error
            if not isinstance(cause, SIZE_ERRORS) or isinstance(cause, ScopeError):
                raise
            width, height = (default_side(self.pipe, name) for name in ("width", "height"))
            default = replace(settings, width=width, height=height)
            is_other = is_out_of_memory(cause) or settings == default
            if is_other or self._can_sample(settings) or not self._can_sample(default):
                raise
            raise SizeError(
                f"`{self.model}` cannot make pictures of {settings.width} × {settings.height}"
                f" pixels, while it can of {default.width} × {default.height}, its default size:"
                f" {first_line(cause)}"
            ) from error

    def _can_sample(self, settings: Settings) -> bool:
        """Whether two steps can be sampled."""
        try:
            self.sample([Request("", 0)], replace(settings, num_inference_steps=2))
        except Exception:
            return False
        return True

    def scheduler_of(self, name: str | None) -> Any:
        """A scheduler by name, configured for this model; None is the model's default.

        Raises `ModelError` if there is none, or if it does not fit the model's training.
        """
        if name is None or name == type(self._default_scheduler).__name__:
            return self._default_scheduler
        return matched_scheduler(name, self._default_scheduler, self.model)

    @torch.inference_mode()
    def sample(
        self,
        requests: Sequence[Request],
        settings: Settings,
        callbacks: Callbacks | None = None,
        frames: AbstractSet[int] = frozenset(),
    ) -> Samples:
        """Sample images with the code of the pipeline.

        Args:
            requests: One for each image.
            settings: Settings for all of them.
            callbacks: Functions to be called on the way.
            frames: The numbers of steps after which the estimated image is wanted too.

        Returns:
            The images in the order of the requests. The initial latent of each depends on its seed
            and shape alone: it is drawn in float32 on the CPU.

        Raises:
            ModelError: The pipeline cannot be sampled with these settings.
            Stopped, UnevenError: As in `ablate.sampling.request`.
        """
        scheduler = self.scheduler_of(settings.scheduler)
        given = callbacks or Callbacks()
        callbacks = replace(given, should_stop=lambda: self.stop() or given.should_stop())
        options: dict[str, Any] = {
            "num_inference_steps": settings.num_inference_steps,
            self.guidance: settings.guidance_scale,
            "width": settings.width,
            "height": settings.height,
            # Both would change what is asked for.
            "use_resolution_binning": False,
            "clean_caption": False,
        }
        if hasattr(self.pipe, "decoder_pipe"):  # which deprecates what the whole passes on to it
            options["callback_steps"] = None
        options = {name: value for name, value in options.items() if name in self._parameters}
        inner = inner_pipelines(self.pipe)
        parts = (self.pipe, *inner[-1:])
        try:
            for part in parts:
                part.scheduler = scheduler
            with ExitStack() as stack:
                for part in (self.pipe, *inner):
                    quiet = replaced(part, "_progress_bar_config", {"disable": True})
                    stack.enter_context(quiet)
                return sample(
                    self.pipe,
                    requests,
                    options,
                    self._negative(settings),
                    callbacks,
                    frames,
                    self._encoded,
                )
        except SamplingError as error:
            raise ModelError(f"`{self.model}`: {error}") from error
        except ScopeError:
            raise
        except (TypeError, ValueError) as error:
            if scheduler is self._default_scheduler:
                raise
            raise ModelError(
                f"`{self.model}` cannot be sampled with {settings.scheduler} in"
                f" {settings.num_inference_steps} steps: {first_line(error)}"
            ) from error
        finally:
            for part in parts:
                part.scheduler = self._default_scheduler

    @cached_property
    def _parameters(self) -> Mapping[str, Any]:
        """The arguments of the pipeline, with their defaults."""
        parameters = inspect.signature(type(self.pipe).__call__).parameters
        return {name: parameter.default for name, parameter in parameters.items()}

    @property
    def guidance(self) -> str:
        """The pipeline's argument for the scale of guidance, classifier-free or distilled
        into the network."""
        config: Any = self.denoiser.config
        if "true_cfg_scale" in self._parameters and not config.get("guidance_embeds"):
            return "true_cfg_scale"
        other = "decoder_guidance_scale"
        return other if other in self._parameters else "guidance_scale"

    def _negative(self, settings: Settings) -> str | None:
        """The negative prompt; None to leave an empty one to the pipeline."""
        if "negative_prompt" not in self._parameters or not settings.guided:
            return None
        # Without one these pipelines would not guide at all.
        is_needed = self.guidance == "true_cfg_scale"
        return settings.negative_prompt or ("" if is_needed else None)

    def checkpoint(self, model: str, component: str | None, module: str, parameter: str) -> Tensor:
        """A parameter of another model, in the dtype of its file; for `NoiseCache`."""
        weights = weights_of(source_like(self.source, model), component or self.component)
        return weights[f"{module}.{parameter}"]

    @lru_cache(maxsize=8)  # noqa: B019, pipelines live as long as their process
    def checkpoint_fingerprint(self, model: str) -> str:
        """The fingerprint of a model that edits blend with."""
        return identify(source_like(self.source, model))[1]

    def synchronize(self) -> None:
        """Wait until the device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()
