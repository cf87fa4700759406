"""Text-to-image pipelines: how they are loaded, what they are, and how they are asked."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set as AbstractSet
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ablate.messages import articled, did_you_mean
from ablate.models import (
    Lora,
    ModelError,
    SizeError,
    Source,
    catalog_from_config,
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
from ablate.network import DENOISERS, Catalog, ScopeError
from ablate.sampling.call import (
    Callbacks,
    Request,
    Samples,
    SamplingError,
    autoencoder_of,
    inner_pipelines,
    sample,
)
from ablate.sampling.schedulers import scheduler_class
from ablate.sampling.settings import Settings

# Errors that a wrong size of the pictures may end in.
OF_SIZES = (TypeError, ValueError, RuntimeError, LookupError, ArithmeticError)


def _flows(scheduler: type) -> bool:
    """Whether a scheduler is one of flow matching alone."""
    return scheduler.__name__.startswith("FlowMatch")


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
        self._own_scheduler = pipe.scheduler
        self._encoded: dict[Any, Any] = {}
        self._catalogs: dict[str, Catalog] = {}
        for part in (pipe, *inner_pipelines(pipe)):
            part.set_progress_bar_config(disable=True)
        # Convolutions of the autoencoder are faster so everywhere, those of a denoiser on GPUs.
        decoder = autoencoder_of(pipe)
        for network in (decoder, self.denoiser if self.device.type == "cuda" else None):
            if network is not None and all(p.dim() < 5 for p in network.parameters()):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
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
        """Load a model's weights. Raises `ModelError` when it is not there or not complete.

        `model`: a name, which the arguments up to `offload` tell more of (`ablate.sources.Source`),
        or a source. `compile`: run the denoiser through torch.compile; edits stay valid, because
        weights change in place.
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
        return cls(
            pipe,
            model=source.model,
            fingerprint=fingerprint,
            component=component,
            compiled=compile,
            source=pinned,
        )

    @classmethod
    def of(cls, pipe: Any) -> Pipeline:
        """Wrap a loaded pipeline of diffusers; its fingerprint is computed from its weights.

        A `Pipeline` is returned as it is. Raises `ModelError` for anything else.
        """
        if isinstance(pipe, cls):
            return pipe
        if not isinstance(getattr(pipe, "components", None), Mapping) or not callable(pipe):
            raise ModelError(f"{articled(type(pipe).__name__)} is no pipeline of diffusers")
        model = str(pipe.config.get("_name_or_path") or type(pipe).__name__)
        return cls(pipe, model=model, fingerprint=fingerprint_of_weights(pipe))

    # ------------------------------------------------------------ what it is

    def editing(self, component: str | None) -> Pipeline:
        """The same pipeline, its edits meant for another component; None is the denoiser."""
        name = component or self.denoiser_name
        if name not in self.networks:
            raise ModelError(f"`{self.model}` has no component `{name}`")
        other = copy.copy(self)
        other.component, other.network = name, self.networks[name]
        return other

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its model, in plain objects: enough to load the same again."""
        return self.source.as_json() | {"fingerprint": self.fingerprint}

    @property
    def device(self) -> torch.device:
        """Where its networks run."""
        if self.source.offload is not None:  # where they lie is another matter
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
        """Whether modules of the denoiser may be edited for some rows of a batch and not others.

        A compiled network is valid for other weights, but not for other functions in its modules.
        The edited weights of some rows would not move with a network that is offloaded.
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
        """How modules are told to a user: those of another component than the edited one with its
        name."""
        other = component != self.component
        return {f"{component}:{path}" if other else path for path in paths}

    def settings(self, sampling: Any) -> Settings:
        """What a recipe's sampling comes to on this model."""
        scheduler = self.scheduler_of(sampling.scheduler)
        return Settings(
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=float(sampling.guidance_scale),
            scheduler=type(scheduler).__name__,
            negative_prompt=sampling.negative_prompt,
            width=sampling.width or default_side(self.pipe, "width"),
            height=sampling.height or default_side(self.pipe, "height"),
        )

    def check_size(self, settings: Settings) -> None:
        """Raises `ModelError` for pictures of a size that the pipeline is known not to make."""
        for name in ("width", "height"):
            wrong = wrong_side(self.pipe, name, getattr(settings, name))
            if wrong is not None:
                raise ModelError(f"`{self.model}`: {name} {wrong}")

    @contextmanager
    def explain_size_errors(self, settings: Settings) -> Iterator[None]:
        """Errors of sampling become a `SizeError` where the size of the pictures is sure to be the
        reason: two steps of the network as it is fail too, and do not at the model's own size."""
        try:
            yield
        except (ModelError, *OF_SIZES) as error:
            # What a named scheduler is blamed for may be the size.
            cause = error.__cause__ if isinstance(error, ModelError) else error
            if not isinstance(cause, OF_SIZES) or isinstance(cause, ScopeError):
                raise
            own = replace(
                settings,
                width=default_side(self.pipe, "width"),
                height=default_side(self.pipe, "height"),
            )
            known = is_out_of_memory(cause) or settings == own
            if known or self._makes(settings) or not self._makes(own):
                raise
            first = str(cause).strip().splitlines() or [type(cause).__name__]
            raise SizeError(
                f"`{self.model}` cannot make pictures of {settings.width} × {settings.height}"
                f" pixels, while it can of {own.width} × {own.height}, its own size: {first[0]}"
            ) from error

    def _makes(self, settings: Settings) -> bool:
        """Whether a picture can be made, tried with two steps."""
        try:
            self.sample([Request("", 0)], replace(settings, num_inference_steps=2))
        except Exception:  # whatever it is
            return False
        return True

    def scheduler_of(self, name: str | None) -> Any:
        """The scheduler of that name, set up for this model; None is its own. Raises `ModelError`
        where there is none or where it solves other equations than the model was trained for."""
        if name is None or name == type(self._own_scheduler).__name__:
            return self._own_scheduler
        found: Any = scheduler_class(name)
        own, flow = self._own_scheduler, {}
        if _flows(type(own)) or own.config.get("prediction_type") == "flow_prediction":
            if "use_flow_sigmas" in inspect.signature(found).parameters:
                flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
            elif not _flows(found):
                raise ModelError(
                    f"`{self.model}` was trained by flow matching, which {found.__name__} does not"
                    " solve; flow_match_euler_discrete, uni_p_c_multistep and"
                    " dpm_solver_multistep do"
                )
        elif _flows(found):
            raise ModelError(
                f"`{self.model}` was not trained by flow matching, which is all that"
                f" {found.__name__} solves"
            )
        return found.from_config(own.config, **flow)

    # ------------------------------------------------------------ sampling

    @torch.inference_mode()
    def sample(
        self,
        requests: Sequence[Request],
        settings: Settings,
        moments: Callbacks | None = None,
        frames: AbstractSet[int] = frozenset(),
    ) -> Samples:
        """Images for the requests, in their order; the pipeline's own code makes them.

        `moments`: what is told and asked on the way. `frames`: numbers of steps after which the
        image is wanted as it is estimated then. The initial latent of a request depends on its
        seed and shape alone: it is drawn in float32 on the CPU.
        """
        scheduler = self.scheduler_of(settings.scheduler)
        moments = moments or Callbacks()
        stop = Callbacks(
            moments.on_start, moments.on_step, lambda: self.stop() or moments.should_stop()
        )
        options: dict[str, Any] = {
            "num_inference_steps": settings.num_inference_steps,
            self.guidance: settings.guidance_scale,
            "width": settings.width,
            "height": settings.height,
            # Both would make of what is asked for something else.
            "use_resolution_binning": False,
            "clean_caption": False,
        }
        if hasattr(self.pipe, "decoder_pipe"):  # which deprecates what its whole passes on to it
            options["callback_steps"] = None
        options = {name: value for name, value in options.items() if name in self._parameters}
        parts = (self.pipe, *inner_pipelines(self.pipe)[-1:])
        try:
            for part in parts:
                part.scheduler = scheduler
            return sample(
                self.pipe,
                requests,
                options,
                self._negative(settings),
                stop,
                frames,
                self._encoded,
            )
        except SamplingError as error:
            raise ModelError(f"`{self.model}`: {error}") from error
        except ScopeError:
            raise
        except (TypeError, ValueError) as error:
            if scheduler is self._own_scheduler:
                raise
            first = str(error).splitlines()[0]
            raise ModelError(
                f"`{self.model}` cannot be sampled with {settings.scheduler} in"
                f" {settings.num_inference_steps} steps: {first}"
            ) from error
        finally:
            for part in parts:
                part.scheduler = self._own_scheduler

    @cached_property
    def _parameters(self) -> Mapping[str, Any]:
        """What the pipeline takes when it is called, with its defaults."""
        found = inspect.signature(type(self.pipe).__call__).parameters
        return {name: parameter.default for name, parameter in found.items()}

    @property
    def guidance(self) -> str:
        """The pipeline's name for the scale of classifier-free guidance; of networks that guidance
        was distilled into, for the scale that they are told."""
        config: Any = self.denoiser.config
        if "true_cfg_scale" in self._parameters and not config.get("guidance_embeds"):
            return "true_cfg_scale"
        other = "decoder_guidance_scale"
        return other if other in self._parameters else "guidance_scale"

    def _negative(self, settings: Settings) -> str | None:
        """The negative prompt, None to leave an empty one to the pipeline."""
        if "negative_prompt" not in self._parameters or not settings.guided:
            return None
        # Without one these would not be guided at all.
        needed = self.guidance == "true_cfg_scale"
        return settings.negative_prompt or ("" if needed else None)

    def checkpoint(self, model: str, component: str | None, module: str, parameter: str) -> Tensor:
        """A parameter of another model, as it lies there; of which component, module, name."""
        found = weights_of(source_like(self.source, model), component or self.component)
        return found[f"{module}.{parameter}"]

    @lru_cache(maxsize=8)  # noqa: B019, pipelines live as long as their process
    def checkpoint_fingerprint(self, model: str) -> str:
        """What tells a model that edits blend with."""
        return identify(source_like(self.source, model))[1]

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.device.type in ("cuda", "mps"):
            getattr(torch, self.device.type).synchronize()
