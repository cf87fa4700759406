"""One call of a text-to-image pipeline of diffusers, by its code, for many requests at once.

Families differ in how they encode, guide, step and decode, and none of that is written again here.
For the duration of a call a few methods, the same in every family, are replaced:

    encode_prompt      encodes each request's prompt by itself, whatever its batch, and caches it
    prepare_latents    draws noise in float32, from each request's seed
    set_timesteps      reports the noise level of every step before the first one
    step               reports the end of each step, and keeps an estimate of the finished latents
    decode             also gets the latents of the frames, in parts of the fastest size
"""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence, Set as AbstractSet
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.messages import articled
from ablate.network import AUTOENCODERS, rebuilt, replaced, tensors
from ablate.sampling.prompts import PromptEncoder, RequestedPrompt, joined
from ablate.sampling.request import (
    Callbacks,
    Context,
    Request,
    Samples,
    SamplingError,
    Stopped,
)
from ablate.sampling.schedulers import estimated_latents, steps_of_calls

# Pixels decoded at once: more is no faster, and the autoencoder's memory grows with them.
DECODED = {"cuda": 8 * 512 * 512, "mps": 2 * 512 * 512, "cpu": 16 * 64 * 64}


def sample(
    pipe: Any,
    requests: Sequence[Request],
    options: Mapping[str, Any],
    negative_prompt: str | None,
    callbacks: Callbacks,
    frames: AbstractSet[int],
    cache: dict[Any, Any],
) -> Samples:
    """Call a pipeline once.

    The initial latent of a request depends on its seed and shape alone: it is drawn in float32 on
    the CPU.

    Args:
        pipe: A pipeline of diffusers.
        requests: One for each image.
        options: Arguments of the pipeline, among them `width` and `height`.
        negative_prompt: For all images; None to pass none.
        callbacks: Functions to be called on the way.
        frames: The numbers of steps after which the estimated image is wanted too.
        cache: Encoded prompts, for the next call.

    Raises:
        SamplingError: The pipeline samples in a way that cannot be followed.
        Stopped: The callback asked for it.
        UnevenError: The prompts cannot share a batch.
    """
    call = _Call(pipe, requests, options["width"] * options["height"], callbacks, frames)
    encoder = PromptEncoder(pipe, requests, call.generators, cache)
    arguments = dict(options)
    if negative_prompt is not None:
        arguments["negative_prompt"] = [negative_prompt] * len(requests)
    with ExitStack() as stack:
        for owner, name, method in call.replacements(encoder):
            stack.enter_context(replaced(owner, name, method))
        result = pipe(
            prompt=[RequestedPrompt(request) for request in requests],
            generator=call.generators,
            output_type="np",
            **arguments,
        )
    return call.samples(np.asarray(result.images, dtype=np.float32))


class _Call:
    """The replacements of a pipeline's methods during one call, and what they recorded.

    Attributes:
        generators: One for each request; schedulers that add noise at every step go on with it.
        calls: The number of calls of the scheduler; some take several a step.
        steps: The step that each of them belongs to.
        timesteps: The timestep of each, on the CPU.
        estimates: Estimated finished latents, by number of steps.
        finite: Whether the latents of each request were finite after all steps.
        finite_images: Whether each decoded image is finite.
        latents: What was decoded.
    """

    def __init__(
        self,
        pipe: Any,
        requests: Sequence[Request],
        pixels: int,
        callbacks: Callbacks,
        frames: AbstractSet[int],
    ) -> None:
        self.pipe = pipe
        self.requests = requests
        self.pixels = pixels
        self.callbacks = callbacks
        self.frames = frames
        self.generators = [torch.Generator().manual_seed(r.seed) for r in requests]
        self.calls = 0
        self.steps: list[int] = []
        self.timesteps = torch.empty(0)
        self.estimates: dict[int, Tensor] = {}
        self.finite: Tensor | None = None
        self.finite_images: Tensor | None = None
        self.latents: Tensor | None = None

    def replacements(self, encoder: PromptEncoder) -> Iterator[tuple[Any, str, Any]]:
        """Objects, the names of their methods, and what replaces these during the call."""
        parts = inner_pipelines(self.pipe)
        for part in parts:
            for name, replacement in (
                ("encode_prompt", encoder.replacement),
                ("prepare_latents", _in_float32),
            ):
                method = getattr(part, name, None)
                if method is not None:
                    yield part, name, replacement(method)
        prior = getattr(self.pipe, "prior_pipe", None)
        if prior is not None:
            yield self.pipe, "prior_pipe", encoder.replacement(prior)
        unpack = getattr(self.pipe, "_unpack_latents_with_ids", None)
        if unpack is not None:
            yield self.pipe, "_unpack_latents_with_ids", _with_frames(unpack)
        scheduler = parts[-1].scheduler
        if hasattr(scheduler, "noise_sampler_seed"):  # of Brownian trees, which take no generator
            yield scheduler, "noise_sampler_seed", [request.seed for request in self.requests]
        yield scheduler, "set_timesteps", self._set_timesteps(scheduler)
        yield scheduler, "step", self._step(scheduler)
        decoder = autoencoder_of(self.pipe)
        if decoder is not None:
            yield decoder, "decode", self._decode(decoder.decode)

    def _set_timesteps(self, scheduler: Any) -> Callable[..., Any]:
        method = scheduler.set_timesteps

        @functools.wraps(method)
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            highest = scheduler.config.get("num_train_timesteps", 1000)
            self.steps = steps_of_calls(scheduler)
            # Schedulers look values up by them, which would wait for a GPU at every step.
            self.timesteps = scheduler.timesteps.cpu()
            firsts = (self.steps.index(step) for step in range(self.steps[-1] + 1))
            self.callbacks.on_start([float(self.timesteps[i]) / highest for i in firsts])
            self.callbacks.on_step(0)
            return result

        return set_timesteps

    def _step(self, scheduler: Any) -> Callable[..., Any]:
        method = scheduler.step
        # Not all pipelines pass generators on, and without them noise is the global generator's.
        generators = (
            {"generator": self.generators}
            if "generator" in inspect.signature(method).parameters
            else {}
        )

        @functools.wraps(method)
        def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kw: Any) -> Any:
            kw = generators | kw
            done = self._steps_done()
            is_frame = done in self.frames
            keywords = kw | {"return_dict": True} if is_frame else kw
            if isinstance(timestep, Tensor) and timestep.dim() == 0:
                timestep = self.timesteps[self.calls]
            with warnings.catch_warnings():
                # Ends of the Brownian motion that differ by rounding alone.
                warnings.filterwarnings("ignore", "Should have t[ab]", UserWarning)
                result = method(model_output, timestep, sample, *args, **keywords)
            latents: Tensor = result[0]
            finite = torch.isfinite(latents).flatten(1).all(1)
            self.finite = finite if self.finite is None else self.finite & finite
            if self.callbacks.should_stop():
                raise Stopped
            if is_frame and done is not None:
                estimate = estimated_latents(
                    scheduler, self.calls, model_output, timestep, sample, result
                )
                self.estimates[done] = estimate.to(latents.dtype)
            self.calls += 1
            if done is not None:
                self.callbacks.on_step(done)
            if self.calls == len(self.steps) and self.estimates:
                # For the rest of the pipeline, which only decodes, the batch is larger.
                latents = torch.cat([latents, *self.estimates.values()])
            if kw.get("return_dict", True):
                return type(result)(**{**result, "prev_sample": latents})
            rest = result if isinstance(result, tuple) else result.to_tuple()
            return (latents, *rest[1:])

        return step

    def _steps_done(self) -> int | None:
        """The number of steps that the current call of the scheduler completes; None within one."""
        step, following = self.steps[self.calls], self.steps[self.calls + 1 :]
        return None if step in following[:1] else step + 1

    def _decode(self, method: Any) -> Callable[..., Any]:
        @functools.wraps(method)
        def decode(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.latents = latents
            parts, decoded = [], []
            for context, rows in self._decoded_together(latents):
                with (context or nullcontext)():
                    parts.append(method(latents[_selection(rows)], *args, **kwargs))
                decoded += rows
            result = joined(parts, batched=True)
            images = [_at_rows(image, decoded, len(latents)) for image in tensors(result)]
            self.finite_images = torch.isfinite(images[0]).flatten(1).all(1)
            return rebuilt(result, iter(images))

        return decode

    def _decoded_together(self, latents: Tensor) -> Iterator[tuple[Context | None, list[int]]]:
        """Shown rows to decode within one context, limited in number."""
        most = max(1, DECODED.get(latents.device.type, self.pixels) // self.pixels)
        rows: list[int] = []
        before: Context | None = None
        for row in range(len(latents)):
            request = self.requests[row % len(self.requests)]
            if not request.shown:
                continue
            if rows and (len(rows) == most or request.decoding is not before):
                yield before, rows
                rows = []
            rows.append(row)
            before = request.decoding
        yield before, rows

    def samples(self, images: np.ndarray) -> Samples:
        """The result of the call: finished images, and those of frames."""
        count = len(self.requests)
        kind = articled(type(self.pipe).__name__)
        if not self.calls or self.calls != len(self.steps):
            raise SamplingError(
                f"how {kind} samples cannot be followed: it called its scheduler {self.calls} times"
                f" of {len(self.steps)}"
            )
        if self.frames - self.estimates.keys() or len(images) != count * (1 + len(self.estimates)):
            raise SamplingError(f"the image of {kind} cannot be shown step by step")
        if self.latents is not None:
            latents = self.latents.float().cpu().numpy()
            latents = latents.squeeze(2) if latents.ndim == 5 else latents  # a film of one frame
            images[~np.isfinite(latents).reshape(len(latents), -1).all(1)] = np.nan
        else:
            latents = images.transpose(0, 3, 1, 2)
        if self.finite_images is not None:
            images[~self.finite_images.cpu().numpy()] = np.nan
        if self.finite is not None:
            images[:count][~self.finite.cpu().numpy()] = np.nan
        ends = [slice(count * i, count * (i + 1)) for i in range(1 + len(self.estimates))]
        finished, *frames = [Samples(images[part], latents[part]) for part in ends]
        return Samples(
            finished.images, finished.latents, dict(zip(self.estimates, frames, strict=True))
        )


def inner_pipelines(pipe: Any) -> list[Any]:
    """The pipelines that a pipeline consists of; the one with the denoiser is the last."""
    inner = [getattr(pipe, name, None) for name in ("prior_pipe", "decoder_pipe")]
    return [part for part in inner if part is not None] or [pipe]


def autoencoder_of(pipe: Any) -> Any:
    """The autoencoder of a pipeline, None where it samples pixels."""
    parts = (getattr(pipe, name, None) for name in AUTOENCODERS)
    return next((part for part in parts if part is not None), None)


def _with_frames(unpack: Any) -> Callable[..., Tensor]:
    """The replacement of a method that orders patches by their ids: frames have the same ids."""

    @functools.wraps(unpack)
    def unpacked(latents: Tensor, ids: Tensor, *args: Any) -> Tensor:
        result: Tensor = unpack(latents, ids.repeat(len(latents) // len(ids), 1, 1), *args)
        return result

    return unpacked


def _in_float32(method: Any) -> Callable[..., Any]:
    """The replacement of `prepare_latents`: noise is drawn in float32, then cast."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        dtype = bound.arguments.get("dtype")
        if dtype is None:
            return method(*args, **kwargs)
        bound.arguments["dtype"] = torch.float32
        result = method(*bound.args, **bound.kwargs)

        def cast(value: Any) -> Any:
            is_float = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if is_float else value

        return tuple(map(cast, result)) if isinstance(result, tuple) else cast(result)

    return prepare


def _at_rows(rows: Tensor, numbers: Sequence[int], count: int) -> Tensor:
    """A batch of `count` rows with some at the given numbers; the others are 0."""
    if len(numbers) == count:
        return rows
    whole = rows.new_zeros(count, *rows.shape[1:])
    whole[_selection(numbers)] = rows
    return whole


def _selection(rows: Sequence[int]) -> slice | list[int]:
    """Rows as an index; neighbors as a slice, which no GPU has to be given."""
    first, end = rows[0], rows[-1] + 1
    return slice(first, end) if len(rows) == end - first else list(rows)
