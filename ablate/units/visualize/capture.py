"""One call of a pipeline's denoiser at a noise level, whatever arguments its family has.

The pipeline's code samples until that level, and the arguments that it then passes to the denoiser
are recorded: timestep, embeddings, masks, sizes. The call can be repeated with other latents or
embeddings, with gradients, and the sampling can be continued from them.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.messages import articled
from ablate.models import ModelError
from ablate.network import rebuilt, tensors
from ablate.sampling import (
    Callbacks,
    Pipeline,
    Request,
    Samples,
    Settings,
    Stopped,
    inner_pipelines,
)

STEPS = 20  # of the sampling that passes the level
# What denoisers call the states of the prompt's tokens.
EMBEDDINGS = ("encoder_hidden_states", "cap_feats")


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a denoiser, and the sampling that it is part of.

    Attributes:
        network: The denoiser.
        arguments: Its arguments, by name.
        latents: Name of the argument for latents.
        step: Number of the step.
        level: Noise level of the step, from 1, noise alone, to 0.
        shape: Rows and columns of the latents as a map, where they are tokens.
        prompt: The prompt.
        seeds: Seeds, one per row.
        settings: Settings of the sampling.
    """

    network: nn.Module
    arguments: Mapping[str, Any]
    latents: str
    step: int
    level: float
    shape: tuple[int, int]
    prompt: str
    seeds: tuple[int, ...]
    settings: Settings

    @property
    def maps(self) -> Tensor:
        """The latents as maps, float32, (rows, channels, height, width)."""
        latents = _stacked(self.arguments[self.latents])
        if latents.dim() == 3:  # tokens, row by row
            latents = latents.mT.reshape(len(latents), -1, *self.shape)
        return latents.reshape(len(latents), -1, *latents.shape[-2:]).float()

    def as_latents(self, maps: Tensor, like: Tensor) -> Tensor:
        """Maps in the shape and dtype of latents."""
        flat = maps.flatten(2).mT if like.dim() == 3 else maps
        return flat.reshape(len(maps), *like.shape[1:]).to(like)

    @property
    def embeddings(self) -> Tensor:
        """States of the prompt's tokens, float32, (rows, tokens, width).

        Raises `ModelError` where the denoiser takes none, or states that are no sequence of tokens.
        """
        name, value = self._embeddings()
        states = _stacked(value)
        if states.dim() != 3:
            raise ModelError(f"`{name}` of this denoiser is no sequence of tokens")
        return states.float()

    def _embeddings(self) -> tuple[str, Any]:
        for name in EMBEDDINGS:
            if next(tensors(self.arguments.get(name)), None) is not None:
                return name, self.arguments[name]
        raise ModelError(
            f"{articled(type(self.network).__name__)} takes no states of a prompt's tokens"
            f" ({', '.join(EMBEDDINGS)}), so that no prompt can be optimized for it"
        )

    def __call__(self, latents: Tensor | None = None, embeddings: Tensor | None = None) -> Any:
        """Repeat the call with other latents, as maps, or other states of the prompt's tokens."""
        arguments = dict(self.arguments)
        if latents is not None:
            before = arguments[self.latents]
            values = self.as_latents(latents, _stacked(before))
            arguments[self.latents] = _unstacked(values, before)
        if embeddings is not None:
            name, before = self._embeddings()
            arguments[name] = _unstacked(embeddings.to(_stacked(before)), before)
        return self.network(**arguments)


def _stacked(value: Tensor | list[Tensor]) -> Tensor:
    """A tensor, also of an argument that is a list with an item per row."""
    return torch.stack(value) if isinstance(value, list) else value


def _unstacked(value: Tensor, like: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    return list(value.unbind()) if isinstance(like, list) else value


def plain_settings(
    pipeline: Pipeline, guidance: float = 1.0, size: tuple[int, int] | None = None
) -> Settings:
    """Settings with the simplest scheduler that fits the model: without memory of earlier steps,
    and with latents as they are.

    `size`: width and height; None is the model's default size.
    """
    try:
        pipeline.scheduler_of("flow_match_euler_discrete")
        scheduler = "flow_match_euler_discrete"
    except ModelError:
        # Of the others only one supports a learned variance.
        learned = str(pipeline.scheduler_of(None).config.get("variance_type")).startswith("learned")
        scheduler = "ddpm" if learned else "ddim"
    return pipeline.settings(SimpleNamespace(
        num_inference_steps=STEPS, guidance_scale=guidance, scheduler=scheduler,
        negative_prompt="",
        width=size and size[0], height=size and size[1],
    ))  # fmt: skip


def capture(
    pipeline: Pipeline,
    prompt: str,
    seeds: Sequence[int],
    level: float,
    size: tuple[int, int] | None = None,
) -> Call:
    """Capture the denoiser's call, without guidance, at the step nearest to a noise level.

    Args:
        pipeline: The pipeline.
        prompt: The prompt.
        seeds: Seeds, one per row of the call.
        level: Noise level, from 1, noise alone, to 0.
        size: Width and height; None is the model's default size.

    Raises:
        ModelError: No such level, or a pipeline that has no such call.
        Stopped: The pipeline was asked to stop on the way.
    """
    if not 0 < level <= 1:
        raise ModelError(f"a noise level is above 0 and at most 1; {level:g} is not")
    if not hasattr(inner_pipelines(pipeline.pipe)[-1], "prepare_latents"):
        kind = articled(type(pipeline.pipe).__name__)
        raise ModelError(f"{kind} has no latents to be visualized")
    if pipeline.compiled:
        raise ModelError("a compiled network cannot be visualized: load it without `compile`")
    requests = [Request(prompt, seed) for seed in seeds]
    for off in (1.0, 0.0):  # some families guide at 1
        call = _capture(pipeline, requests, level, plain_settings(pipeline, off, size))
        if len(call.maps) == len(requests):
            return call
    raise ModelError(
        f"`{pipeline.model}`: its denoiser takes {len(call.maps)} rows for {len(requests)} images"
        " without guidance, so that they cannot be matched"
    )


def _capture(
    pipeline: Pipeline, requests: Sequence[Request], level: float, settings: Settings
) -> Call:
    pipeline.check_size(settings)
    network = pipeline.denoiser
    levels: list[float] = []
    nearest, current = 0, -1
    arguments: dict[str, Any] = {}

    def on_start(all_levels: Sequence[float]) -> None:
        nonlocal nearest
        levels[:] = all_levels
        nearest = min(range(len(levels)), key=lambda i: abs(levels[i] - level))

    def on_step(step: int) -> None:
        nonlocal current
        current = step

    def record(_: nn.Module, args: Any, kwargs: Any) -> None:
        if current == nearest:
            arguments.update(inspect.signature(network.forward).bind(*args, **kwargs).arguments)
            raise Stopped

    handle = network.register_forward_pre_hook(record, with_kwargs=True)
    try:
        with pipeline.explain_size_errors(settings):
            pipeline.sample(requests, settings, Callbacks(on_start=on_start, on_step=on_step))
    except Stopped:
        if pipeline.stop():  # and not because the call was recorded
            raise
    finally:
        handle.remove()
    if not arguments:
        raise ModelError(f"`{pipeline.model}` never called its denoiser at level {level:g}")
    arguments = arguments.pop("kwargs", {}) | arguments
    with torch.inference_mode(mode=False), torch.no_grad():
        arguments = rebuilt(arguments, (t.detach().clone() for t in tensors(arguments)))
    name = next(n for n in inspect.signature(network.forward).parameters if n in arguments)
    first = next(tensors(arguments[name]))
    tokens = first.shape[1] if first.dim() == 3 else 0
    rows = max(1, round(math.sqrt(tokens * settings.height / settings.width)))
    return Call(
        network, arguments, name, nearest, levels[nearest], (rows, tokens // rows),
        requests[0].prompt, tuple(request.seed for request in requests), settings,
    )  # fmt: skip


def sample_with_latents(
    pipeline: Pipeline, call: Call, maps: Tensor
) -> tuple[np.ndarray, np.ndarray]:
    """Continue the sampling of a call with other latents.

    Returns:
        The images as the denoiser estimates them in one step, and those at the end of the
        sampling, both (rows, height, width, 3).
    """
    scheduler = copy.deepcopy(pipeline.scheduler_of(call.settings.scheduler))
    inner, advance = inner_pipelines(pipeline.pipe)[-1], scheduler.step
    prepare = inner.prepare_latents
    steps = 0

    def exchanged(value: Any) -> Any:
        first, *rest = tensors(value)
        return rebuilt(value, iter([call.as_latents(maps.to(first.device), first), *rest]))

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal steps
        result, steps = advance(*args, **kwargs), steps + 1
        return exchanged(result) if steps == call.step else result

    def prepare_latents(*args: Any, **kwargs: Any) -> Any:
        return exchanged(prepare(*args, **kwargs))

    scheduler.step = functools.wraps(advance)(step)
    patched = copy.copy(pipeline)
    vars(patched)["scheduler_of"] = lambda name: scheduler
    requests = [Request(call.prompt, seed) for seed in call.seeds]
    number = call.step + 1
    with ExitStack() as stack:
        stack.enter_context(pipeline.explain_size_errors(call.settings))
        if call.step == 0:
            stack.enter_context(_replaced(inner, "prepare_latents", prepare_latents))
        samples = patched.sample(requests, call.settings, frames=frozenset({number}))
    return samples.frames[number].images, samples.images


@contextmanager
def _replaced(owner: Any, name: str, function: Callable[..., Any]) -> Iterator[None]:
    """Replace a method of one object."""
    setattr(owner, name, functools.wraps(getattr(owner, name))(function))
    try:
        yield
    finally:
        delattr(owner, name)


def sample_with_embeddings(
    pipeline: Pipeline, call: Call, embeddings: Tensor, seeds: Sequence[int], settings: Settings
) -> Samples:
    """Sample images with embeddings (rows, tokens, width) in place of a call's prompt, a seed each.

    Raises `ModelError` where the pipeline does not encode prompts to what the denoiser takes.
    """
    start, current = call.embeddings[:1], list[Tensor]()

    @contextmanager
    def encoding(row: Tensor) -> Iterator[None]:
        current.append(row[None])
        try:
            yield
        finally:
            current.clear()

    inner = inner_pipelines(pipeline.pipe)[-1]
    method = getattr(inner, "encode_prompt", None)
    if method is None:
        raise ModelError(
            f"`{pipeline.model}`: {articled(type(inner).__name__)} cannot be sampled with an"
            " embedding"
        )

    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        encoded = method(*args, **kwargs)
        if not current:
            return encoded
        parts = list(tensors(encoded))
        for i, part in enumerate(parts):
            if part.shape in (start.shape, start.shape[1:]) and torch.equal(
                part.float().reshape(start.shape), start.to(part.device)
            ):
                parts[i] = current[0].to(part).reshape(part.shape)
                return rebuilt(encoded, iter(parts))
        raise ModelError(
            f"`{pipeline.model}`: what encodes prompts does not give what the denoiser is given"
        )

    requests = [
        Request(call.prompt, seed, encoding=functools.partial(encoding, row))
        for row, seed in zip(embeddings, seeds, strict=True)
    ]
    with (
        _replaced(inner, "encode_prompt", encode_prompt),
        pipeline.explain_size_errors(settings),
    ):
        return pipeline.sample(requests, settings)
