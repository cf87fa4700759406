"""One call of a text-to-image pipeline of diffusers, by its own code, for many requests at once.

Families differ in how they encode, guide, step and decode, and none of that is done anew here. For
the time of a call a few methods are stood in for, the same in every family:

    encode_prompt      encodes each request's prompt by itself, whatever its batch, and keeps it
    prepare_latents    draws noise in float32, from each request's own seed
    set_timesteps      tells the noise level of every step before the first is taken
    step               tells when one is over, and leaves an estimate of the finished latents
    decode             gets the latents of the frames as well, in parts that stay fast
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence, Set as AbstractSet
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.edits import is_edited, step_number
from ablate.messages import articled
from ablate.network import AUTOENCODERS, rebuilt, tensors
from ablate.sampling.embeddings import Point, embed
from ablate.sampling.schedulers import estimate

# Pixels decoded at once: more is no faster, and the autoencoder's memory grows with them.
DECODED = {"cuda": 8 * 512 * 512, "mps": 2 * 512 * 512, "cpu": 16 * 64 * 64}
KEPT = 256  # encoded prompts
Context = Callable[[], AbstractContextManager[object]]


class SamplingError(Exception):
    """A pipeline that cannot be sampled as it was asked to; the message says why."""


class UnevenError(Exception):
    """Prompts whose embeddings differ in length, and that cannot share a batch: what fills the
    shorter ones up would count in some families."""


class Stopped(Exception):  # noqa: N818, it is no error
    """Raised out of sampling when it was asked to stop."""


@dataclass(frozen=True)
class Request:
    """One image: a prompt, or a point of embedding space in its stead, and a seed; all requests of
    a batch share the settings.

    `encoding`, `decoding`: within what the prompt is encoded and the image decoded: the edits of
    text encoders and of the autoencoder. Requests that share theirs give the same object. `shown`:
    whether its image is wanted; it is black otherwise.
    """

    prompt: str
    seed: int
    point: Point | None = None
    encoding: Context | None = None
    decoding: Context | None = None
    shown: bool = True


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
class Callbacks:
    """What may be asked of a call while it runs.

    `begin` is told the noise level of every step, from 1, noise alone, to 0; `reach` the number of
    the step that comes next, and at last how many there were; `stop` is asked after every step.
    """

    on_start: Callable[[Sequence[float]], None] = lambda _: None
    on_step: Callable[[int], None] = lambda _: None
    should_stop: Callable[[], bool] = lambda: False


class _Asked(str):
    """A prompt that knows its request, through whatever a pipeline does before it encodes."""

    request: Request

    def __new__(cls, request: Request) -> _Asked:
        self = super().__new__(cls, request.prompt)
        self.request = request
        return self


def sample(
    pipe: Any,
    requests: Sequence[Request],
    options: Mapping[str, Any],
    negative_prompt: str | None,
    moments: Callbacks,
    frames: AbstractSet[int],
    kept: dict[Any, Any],
) -> Samples:
    """Call a pipeline once. `options`: what is passed on to it, `width` and `height` among them;
    `kept`: encoded prompts by what determines them, for the next call.

    The initial latent of a request depends on its seed and shape alone: it is drawn in float32 on
    the CPU.
    """
    pixels = options["width"] * options["height"]
    call = _Call(pipe, requests, pixels, moments, frames, kept)
    given = dict(options)
    if negative_prompt is not None:
        given["negative_prompt"] = [negative_prompt] * len(requests)
    with ExitStack() as stack:
        call.stand_in(stack)
        result = pipe(
            prompt=[_Asked(request) for request in requests],
            generator=call.generators,
            output_type="np",
            **given,
        )
    return call.samples(np.asarray(result.images, dtype=np.float32))


class _Call:
    """What stands in for a pipeline's methods during one call, and what was heard of it."""

    def __init__(
        self,
        pipe: Any,
        requests: Sequence[Request],
        pixels: int,
        moments: Callbacks,
        frames: AbstractSet[int],
        kept: dict[Any, Any],
    ) -> None:
        self.pipe = pipe
        self.requests = requests
        self.pixels = pixels
        self.moments = moments
        self.frames = frames
        self.kept = kept
        self.here: dict[Any, Any] = {}  # encoded under edits: of use in this call only
        # The same generator goes on to schedulers that draw noise of their own at every step.
        self.generators = [torch.Generator().manual_seed(r.seed) for r in requests]
        self.calls = 0  # of the scheduler; some take several a step
        self.levels: list[float] = []
        self.estimates: dict[int, Tensor] = {}
        self.finite: Tensor | None = None
        self.finite_images: Tensor | None = None
        self.latents: Tensor | None = None

    def stand_in(self, stack: ExitStack) -> None:
        """Put everything in the place of the pipeline's own, until the stack is closed."""
        parts = inner_pipelines(self.pipe)
        for part in parts:
            for name in ("encode_prompt", "prepare_latents"):
                method = getattr(part, name, None)
                if method is not None:
                    made = self._encoding if name == "encode_prompt" else _in_float32
                    stack.enter_context(_instead(part, name, made(method)))
        prior = getattr(self.pipe, "prior_pipe", None)
        if prior is not None:
            stack.enter_context(_instead(self.pipe, "prior_pipe", self._encoding(prior)))
        unpack = getattr(self.pipe, "_unpack_latents_with_ids", None)
        if unpack is not None:
            replacement = _with_frames(unpack)
            stack.enter_context(_instead(self.pipe, "_unpack_latents_with_ids", replacement))
        scheduler = parts[-1].scheduler
        begun = self._begun(scheduler, scheduler.set_timesteps)
        stack.enter_context(_instead(scheduler, "set_timesteps", begun))
        stack.enter_context(_instead(scheduler, "step", self._stepped(scheduler, scheduler.step)))
        decoder = autoencoder_of(self.pipe)
        if decoder is not None:
            stack.enter_context(_instead(decoder, "decode", self._decoding(decoder.decode)))

    # ------------------------------------------------------------ prompts

    def _encoding(self, method: Any) -> Callable[..., Any]:
        """In the place of a method that encodes a list of prompts, or of a pipeline that does."""
        signature = inspect.signature(method)

        @functools.wraps(method)
        def encode(*args: Any, **kwargs: Any) -> Any:
            given = signature.bind(*args, **kwargs).arguments
            prompts = given["prompt"]
            if isinstance(prompts, str):
                prompts = [prompts] * len(self.requests)
            rows = [self._encoded(method, given, i, prompt) for i, prompt in enumerate(prompts)]
            return joined(rows)

        return encode

    def _encoded(self, method: Any, given: Mapping[str, Any], number: int, prompt: str) -> Any:
        """What a method gives for one prompt of a list."""
        request = self.requests[number]
        parts = self.pipe.components.values()
        by_hand = any(isinstance(part, nn.Module) and is_edited(part) for part in parts)
        kept = self.here if request.encoding is not None or by_hand else self.kept
        # A prior draws noise before the denoiser does, from the same generator.
        generator = self.generators[number] if "generator" in given else None
        start = generator.get_state() if generator is not None else None

        def one(text: str) -> Any:
            single = {k: v for k, v in given.items() if k != "generator"} | {"prompt": text}
            if isinstance(given.get("negative_prompt"), list):
                single["negative_prompt"] = given["negative_prompt"][number]
            kind = method.__qualname__ if generator is None else (type(method), request.seed)
            key = (id(request.encoding), kind, repr(sorted(single.items())))
            if key not in kept:
                if generator is not None and start is not None:
                    generator.set_state(start)
                    single["generator"] = generator
                with (request.encoding or nullcontext)():
                    found = method(**single)
                kept[key] = found, generator.get_state() if generator is not None else None
                if len(kept) > KEPT and kept is self.kept:
                    del kept[next(iter(kept))]
            found, end = kept[key]
            if generator is not None:
                generator.set_state(end)
            return found

        if request.point is None or not isinstance(prompt, _Asked):
            return one(str(prompt))
        return _pointed(request.point, one)

    # ------------------------------------------------------------ steps

    def _begun(self, scheduler: Any, method: Any) -> Callable[..., Any]:
        """In the place of `set_timesteps`."""

        @functools.wraps(method)
        def set_timesteps(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            highest = scheduler.config.get("num_train_timesteps", 1000)
            self.levels = [float(t) / highest for t in scheduler.timesteps]
            self.moments.on_start(self.levels)
            self.moments.on_step(0)
            return result

        return set_timesteps

    def _stepped(self, scheduler: Any, method: Any) -> Callable[..., Any]:
        """In the place of `step`."""

        @functools.wraps(method)
        def step(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kw: Any) -> Any:
            ends = self._ended()
            wanted = ends in self.frames
            asked = kw | {"return_dict": True} if wanted else kw
            result = method(model_output, timestep, sample, *args, **asked)
            latents: Tensor = result[0]
            finite = torch.isfinite(latents).flatten(1).all(1)
            self.finite = finite if self.finite is None else self.finite & finite
            if self.moments.should_stop():
                raise Stopped
            if wanted and ends is not None:
                found = estimate(scheduler, self.calls, model_output, timestep, sample, result)
                self.estimates[ends] = found.to(latents.dtype)
            self.calls += 1
            self.moments.on_step(self.calls)
            if self.calls == len(self.levels) and self.estimates:
                # The rest of the pipeline, which only decodes, takes them for a larger batch.
                latents = torch.cat([latents, *self.estimates.values()])
            if kw.get("return_dict", True):
                return type(result)(**{**result, "prev_sample": latents})
            rest = result if isinstance(result, tuple) else result.to_tuple()
            return (latents, *rest[1:])

        return step

    def _ended(self) -> int | None:
        """How many steps are done with the call that is under way; None within one."""
        here, levels = self.calls, self.levels
        if here + 1 < len(levels) and levels[here + 1] == levels[here]:
            return None
        return step_number(here, levels) + 1 if here < len(levels) else None

    # ------------------------------------------------------------ decoding

    def _decoding(self, method: Any) -> Callable[..., Any]:
        """In the place of an autoencoder's `decode`."""

        @functools.wraps(method)
        def decode(latents: Tensor, *args: Any, **kwargs: Any) -> Any:
            self.latents = latents
            out, shown = [], []
            for context, rows in self._decoded_together(latents):
                with (context or nullcontext)():
                    out.append(method(latents[rows], *args, **kwargs))
                shown += rows
            found = joined(out, batched=True)
            images = [_placed(image, shown, len(latents)) for image in tensors(found)]
            self.finite_images = torch.isfinite(images[0]).flatten(1).all(1)
            return rebuilt(found, iter(images))

        return decode

    def _decoded_together(self, latents: Tensor) -> Iterator[tuple[Context | None, list[int]]]:
        """Rows that are decoded within one context, and not too many of them; those of requests
        that are not shown are left out."""
        most = max(1, DECODED.get(latents.device.type, self.pixels) // self.pixels)
        rows: list[int] = []
        for row in range(len(latents)):
            if not self.requests[row % len(self.requests)].shown:
                continue
            context = self.requests[row % len(self.requests)].decoding
            before = self.requests[rows[-1] % len(self.requests)].decoding if rows else None
            if rows and (len(rows) == most or context is not before):
                yield before, rows
                rows = []
            rows.append(row)
        yield self.requests[rows[-1] % len(self.requests)].decoding, rows

    def samples(self, images: np.ndarray) -> Samples:
        """All images, those of frames taken apart from the finished ones."""
        count = len(self.requests)
        if not self.calls or self.calls != len(self.levels):
            kind = articled(type(self.pipe).__name__)
            raise SamplingError(
                f"how {kind} samples cannot be followed: it took {self.calls} steps of"
                f" {len(self.levels)}"
            )
        if self.frames - self.estimates.keys() or len(images) != count * (1 + len(self.estimates)):
            kind = articled(type(self.pipe).__name__)
            raise SamplingError(f"how {kind} comes to its image cannot be shown step by step")
        latents = self.latents
        if latents is not None:
            numbers = latents.float().cpu().numpy()
            numbers = numbers.squeeze(2) if numbers.ndim == 5 else numbers  # a film of one frame
            images[~np.isfinite(numbers).reshape(len(numbers), -1).all(1)] = np.nan
        else:
            numbers = images.transpose(0, 3, 1, 2)
        if self.finite_images is not None:
            images[~self.finite_images.cpu().numpy()] = np.nan
        if self.finite is not None:
            images[:count][~self.finite.cpu().numpy()] = np.nan
        parts = [slice(count * i, count * (i + 1)) for i in range(1 + len(self.estimates))]
        found = [Samples(images[part], numbers[part]) for part in parts]
        return Samples(
            found[0].images, found[0].latents, dict(zip(self.estimates, found[1:], strict=True))
        )


def inner_pipelines(pipe: Any) -> list[Any]:
    """The pipelines that a pipeline is made of, the one that holds the denoiser last."""
    inner = [getattr(pipe, name, None) for name in ("prior_pipe", "decoder_pipe")]
    return [part for part in inner if part is not None] or [pipe]


def autoencoder_of(pipe: Any) -> Any:
    """The autoencoder of a pipeline, None where it samples pixels."""
    found = (getattr(pipe, name, None) for name in AUTOENCODERS)
    return next((part for part in found if part is not None), None)


@contextmanager
def _instead(owner: Any, name: str, replacement: Any) -> Iterator[None]:
    """Have an object's method, or what it holds, replaced for a while."""
    held = vars(owner).get(name)
    try:
        object.__setattr__(owner, name, replacement)
        yield
    finally:
        if held is None:
            vars(owner).pop(name, None)
        else:
            object.__setattr__(owner, name, held)


def _with_frames(unpack: Any) -> Callable[..., Tensor]:
    """In the place of a method that puts patches where their ids say: those of frames lie as those
    of the finished latents do."""

    @functools.wraps(unpack)
    def unpacked(latents: Tensor, ids: Tensor, *args: Any) -> Tensor:
        placed: Tensor = unpack(latents, ids.repeat(len(latents) // len(ids), 1, 1), *args)
        return placed

    return unpacked


def _in_float32(method: Any) -> Callable[..., Any]:
    """In the place of `prepare_latents`: noise is drawn in float32, whatever dtype is wanted."""
    signature = inspect.signature(method)

    @functools.wraps(method)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        dtype = bound.arguments.get("dtype")
        if dtype is None:
            return method(*args, **kwargs)
        bound.arguments["dtype"] = torch.float32
        made = method(*bound.args, **bound.kwargs)

        def cast(value: Any) -> Any:
            is_float = isinstance(value, Tensor) and value.is_floating_point()
            return value.to(dtype) if is_float else value

        return tuple(map(cast, made)) if isinstance(made, tuple) else cast(made)

    return prepare


def joined(rows: Sequence[Any], batched: bool = False) -> Any:
    """One batch of what a method gave for each of its rows, or for some rows each (`batched`).

    Raises `UnevenError` for sequences of tokens of unequal length.
    """
    first = rows[0]
    if isinstance(first, Tensor):
        if not batched and any(len(row) != 1 for row in rows):  # the same for every row
            return first
        if any(row.shape[1:] != first.shape[1:] for row in rows):
            raise UnevenError
        return torch.cat(list(rows)) if len(rows) > 1 else first
    if any(type(row) is not type(first) for row in rows):  # a mask, and none where none is needed
        raise UnevenError
    if isinstance(first, Mapping):  # as the output classes of diffusers are
        return type(first)(**{name: joined([r[name] for r in rows], batched) for name in first})
    if isinstance(first, tuple):
        return tuple(joined(parts, batched) for parts in zip(*rows, strict=True))
    if isinstance(first, list):
        return [item for row in rows for item in row]
    return first


def _placed(rows: Tensor, numbers: Sequence[int], count: int) -> Tensor:
    """Some rows of a batch of so many; the others are 0."""
    if len(numbers) == count:
        return rows
    whole = rows.new_zeros(count, *rows.shape[1:])
    whole[list(numbers)] = rows
    return whole


def _filled(row: Tensor, length: int) -> Tensor:
    missing = row.new_zeros(row.shape[0], length - row.shape[1], *row.shape[2:])
    return torch.cat([row, missing], dim=1)


def _pointed(point: Point, encode: Callable[[str], Any]) -> Any:
    """What an encoder would give at a point between prompts: what depends on the prompt is mixed,
    what does not stays as it is, and a mask covers all of their tokens."""
    found = {text: encode(text) for text, _ in point.weights}

    def mixed(values: Sequence[Any]) -> Any:
        first = values[0]
        if isinstance(first, tuple):
            return tuple(mixed(parts) for parts in zip(*values, strict=True))
        if isinstance(first, list):
            return [mixed(parts) for parts in zip(*values, strict=True)]
        if not isinstance(first, Tensor):
            return first
        if any(value.shape != first.shape for value in values):
            if first.dim() != 2 + first.is_floating_point():  # no (1, tokens, width), (1, tokens)
                raise SamplingError("its prompts have embeddings of unequal length")
            longest = max(value.shape[1] for value in values)
            values = [_filled(value, longest) for value in values]
        if all(torch.equal(value, values[0]) for value in values):
            return first
        if not first.is_floating_point():
            return torch.stack(list(values)).amax(0)
        by_text = dict(zip(found, values, strict=True))
        return embed(point, lambda text: {"": by_text[text]})[""]

    return mixed(list(found.values()))
