"""One call of a pipeline's denoiser at a noise level, by whatever arguments its family has.

The pipeline samples by its own code until that level and what it then gives the denoiser is kept:
timestep, embeddings, masks, sizes. The same call can be made again with other latents or another
embedding, and gradients.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
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

STEPS = 20  # of the sampling that comes by the level
# What denoisers call the states of the prompt's tokens.
WORDS = ("encoder_hidden_states", "cap_feats")


@dataclass(frozen=True)
class Call:
    """What a denoiser was given at step `number`, at noise level `level`, for `rows` requests."""

    network: nn.Module
    given: Mapping[str, Any]
    latents: str  # the parameter that takes them
    number: int
    level: float
    shape: tuple[int, int]  # rows and columns of the latents as a map
    prompt: str
    seeds: tuple[int, ...]
    settings: Settings

    @property
    def map(self) -> Tensor:
        """The latents that it was given, float32, (rows, channels, height, width)."""
        value = self.given[self.latents]
        found = torch.stack(list(value)) if isinstance(value, list) else value
        return self.as_map(found).float()

    def as_map(self, found: Tensor) -> Tensor:
        """Latents of whatever shape as maps; those that are tokens lie row by row."""
        if found.dim() == 3:
            return found.mT.reshape(len(found), -1, *self.shape)
        return found.reshape(len(found), -1, *found.shape[-2:])

    def as_given(self, maps: Tensor, like: Tensor) -> Tensor:
        """Maps in the shape and dtype of latents."""
        flat = maps.flatten(2).mT if like.dim() == 3 else maps
        return flat.reshape(len(maps), *like.shape[1:]).to(like)

    @property
    def words(self) -> Tensor:
        """The states of the prompt's tokens, float32, (rows, tokens, width). Raises `ModelError`
        where the denoiser is not given any, or not of one length."""
        name, value = self._words()
        found = list(value) if isinstance(value, list) else value
        if isinstance(found, list):
            found = torch.stack(found)
        if found.dim() != 3:
            raise ModelError(f"`{name}` of this denoiser is no sequence of tokens")
        return found.float()

    def _words(self) -> tuple[str, Any]:
        for name in WORDS:
            if next(tensors(self.given.get(name)), None) is not None:
                return name, self.given[name]
        raise ModelError(
            f"{articled(type(self.network).__name__)} takes no states of a prompt's tokens"
            f" ({', '.join(WORDS)}), so that no prompt can be optimized for it"
        )

    def __call__(self, maps: Tensor | None = None, words: Tensor | None = None) -> Any:
        """The call again, with other latents (maps) or other states of the prompt's tokens."""
        given = dict(self.given)
        if maps is not None:
            given[self.latents] = self._put(given[self.latents], self.as_given, maps)
        if words is not None:
            name, old = self._words()
            given[name] = self._put(old, lambda new, like: new.to(like), words)
        return self.network(**given)

    @staticmethod
    def _put(old: Any, shaped: Callable[[Tensor, Tensor], Tensor], new: Tensor) -> Any:
        """New values in the place of old ones, a tensor or a list of one for each row."""
        if not isinstance(old, list):
            return shaped(new, old)
        return list(shaped(new, torch.stack(old)).unbind())


@dataclass
class _Watched:
    """What is heard of a sampling on the way to a level, and what is put into it there."""

    level: float
    number: int = 0
    levels: Sequence[float] = ()
    here: int = -1
    given: dict[str, Any] = field(default_factory=dict)

    def begin(self, levels: Sequence[float]) -> None:
        self.levels = levels
        self.number = min(range(len(levels)), key=lambda i: abs(levels[i] - self.level))

    def reach(self, number: int) -> None:
        self.here = number

    @property
    def moments(self) -> Callbacks:
        return Callbacks(on_start=self.begin, on_step=self.reach)


def settings_of(
    pipeline: Pipeline, guidance: float = 1.0, size: tuple[int, int] | None = None
) -> Settings:
    """Sampling by the plainest scheduler that fits the model: one without memory of earlier steps,
    which takes latents as they are. `size`: width and height, the model's own unless told."""
    try:
        pipeline.scheduler_of("flow_match_euler_discrete")
        scheduler = "flow_match_euler_discrete"
    except ModelError:
        # Of those that fit others, one alone takes what a network says of its variance.
        learned = str(pipeline.scheduler_of(None).config.get("variance_type")).startswith("learned")
        scheduler = "ddpm" if learned else "ddim"
    asked = SimpleNamespace(
        num_inference_steps=STEPS, guidance_scale=guidance, scheduler=scheduler,
        negative_prompt="",
        width=size and size[0], height=size and size[1],
    )  # fmt: skip
    return pipeline.settings(asked)


def capture(
    pipeline: Pipeline,
    prompt: str,
    seeds: Sequence[int],
    level: float,
    size: tuple[int, int] | None = None,
) -> Call:
    """What the denoiser is given at the step nearest to a noise level, from 1, noise alone, to 0,
    for requests that differ in their seed. Without guidance. Raises `Stopped` where the pipeline
    was asked to stop on the way."""
    if not 0 < level <= 1:
        raise ModelError(f"a noise level lies above 0 and is at most 1; {level:g} does not")
    if not hasattr(inner_pipelines(pipeline.pipe)[-1], "prepare_latents"):
        kind = articled(type(pipeline.pipe).__name__)
        raise ModelError(f"{kind} has no latents to be visualized")
    requests = [Request(prompt, seed) for seed in seeds]
    return _unguided(pipeline, requests, level, size)


def _unguided(
    pipeline: Pipeline, requests: Sequence[Request], level: float, size: tuple[int, int] | None
) -> Call:
    """The call without guidance, so that each request has one row."""
    for off in (1.0, 0.0):  # some families guide at 1
        call = _captured(pipeline, requests, level, settings_of(pipeline, off, size))
        if len(call.map) == len(requests):
            return call
    raise ModelError(
        f"`{pipeline.model}`: its denoiser takes {len(call.map)} rows for {len(requests)} images"
        " without guidance, so that none can be told apart"
    )


def _captured(
    pipeline: Pipeline, requests: Sequence[Request], level: float, settings: Settings
) -> Call:
    if pipeline.compiled:
        raise ModelError("a compiled network cannot be visualized: load it without `compile`")
    pipeline.check_size(settings)
    network, watched = pipeline.denoiser, _Watched(level)

    def listen(_: nn.Module, args: Any, kwargs: Any) -> None:
        if watched.here == watched.number:
            bound = inspect.signature(network.forward).bind(*args, **kwargs)
            watched.given = dict(bound.arguments)
            raise Stopped

    handle = network.register_forward_pre_hook(listen, with_kwargs=True)
    try:
        with pipeline.explain_size_errors(settings):
            pipeline.sample(requests, settings, watched.moments)
    except Stopped:
        if pipeline.stop():  # and not because all was heard
            raise
    finally:
        handle.remove()
    if not watched.given:
        raise ModelError(f"`{pipeline.model}` never called its denoiser at level {level:g}")
    given = watched.given.pop("kwargs", {}) | watched.given
    with torch.inference_mode(mode=False), torch.no_grad():
        found = (t.detach().clone() for t in tensors(given))
        given = rebuilt(given, found)
    name = next(n for n in inspect.signature(network.forward).parameters if n in given)
    first = next(tensors(given[name]))
    tokens = first.shape[1] if first.dim() == 3 else 0
    down = max(1, round(math.sqrt(tokens * settings.height / settings.width)))
    return Call(
        network,
        given,
        name,
        watched.number,
        watched.levels[watched.number],
        (down, tokens // down),
        requests[0].prompt,
        tuple(request.seed for request in requests),
        settings,
    )


def drawn_from(pipeline: Pipeline, call: Call, maps: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What the denoiser makes of latents at the level of a call: the image as it is estimated in
    one step, and the one that the rest of the sampling comes to; both (rows, height, width, 3)."""
    with _continued(pipeline, call, maps) as (mine, moments):
        requests = [Request(call.prompt, seed) for seed in call.seeds]
        with pipeline.explain_size_errors(call.settings):
            found = mine.sample(requests, call.settings, moments, frozenset({call.number + 1}))
    return found.frames[call.number + 1].images, found.images


@contextmanager
def _continued(
    pipeline: Pipeline, call: Call, maps: Tensor
) -> Iterator[tuple[Pipeline, Callbacks]]:
    """A pipeline whose latents, at the step of a call, are others."""
    scheduler = copy.deepcopy(pipeline.scheduler_of(call.settings.scheduler))
    part, method = inner_pipelines(pipeline.pipe)[-1], scheduler.step
    prepare = part.prepare_latents
    done = 0

    def put(value: Any) -> Any:
        first, *rest = tensors(value)
        new = call.as_given(maps.to(first.device), first)
        return rebuilt(value, iter([new, *rest]))

    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        result, done = method(*args, **kwargs), done + 1
        return put(result) if done == call.number else result

    def prepared(*args: Any, **kwargs: Any) -> Any:
        return put(prepare(*args, **kwargs))

    scheduler.step = functools.wraps(method)(step)
    mine = copy.copy(pipeline)
    vars(mine)["scheduler_of"] = lambda name: scheduler
    if call.number == 0:
        part.prepare_latents = functools.wraps(prepare)(prepared)
    try:
        yield mine, Callbacks()
    finally:
        vars(part).pop("prepare_latents", None)


def sampled_with(
    pipeline: Pipeline, call: Call, words: Tensor, seeds: Sequence[int], settings: Settings
) -> Samples:
    """Images of embeddings (rows, tokens, width) in the stead of the prompt of a call, with the
    pipeline's own guidance; a seed each."""
    start, current = call.words[:1], list[Tensor]()

    @contextmanager
    def encoding(row: Tensor) -> Iterator[None]:
        current.append(row[None])
        try:
            yield
        finally:
            current.clear()

    part = inner_pipelines(pipeline.pipe)[-1]
    method = getattr(part, "encode_prompt", None)
    if method is None:
        raise ModelError(
            f"`{pipeline.model}`: {articled(type(part).__name__)} cannot be sampled with an"
            " embedding"
        )

    def encode(*args: Any, **kwargs: Any) -> Any:
        found = method(*args, **kwargs)
        parts = list(tensors(found))
        same = [
            i for i, t in enumerate(parts)
            if t.shape in (start.shape, start.shape[1:])
            and torch.equal(t.float().reshape(start.shape), start.to(t.device))
        ]  # fmt: skip
        if not current:
            return found
        if not same:
            raise ModelError(
                f"`{pipeline.model}`: what encodes prompts does not give what the denoiser is given"
            )
        like = parts[same[0]]
        parts[same[0]] = current[0].to(like).reshape(like.shape)
        return rebuilt(found, iter(parts))

    part.encode_prompt = functools.wraps(method)(encode)
    try:
        requests = [
            Request(call.prompt, seed, encoding=functools.partial(encoding, row))
            for row, seed in zip(words, seeds, strict=True)
        ]
        with pipeline.explain_size_errors(settings):
            return pipeline.sample(requests, settings)
    finally:
        vars(part).pop("encode_prompt", None)
