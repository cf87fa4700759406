"""The encoding of prompts: each by itself, within its edits, and kept for the next call.

An embedding must not depend on the other prompts of a batch, so the pipeline's method is called for
one prompt at a time and the results are joined.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ablate.edits import is_edited
from ablate.sampling.embeddings import Point, embed
from ablate.sampling.request import Request, SamplingError, UnevenError

CACHED = 256  # encoded prompts


class RequestedPrompt(str):
    """A prompt with its request, which stays with it until the pipeline encodes it."""

    request: Request

    def __new__(cls, request: Request) -> RequestedPrompt:
        self = super().__new__(cls, request.prompt)
        self.request = request
        return self


class PromptEncoder:
    """Encodes the prompts of one call.

    Args:
        pipe: The pipeline.
        requests: One for each prompt.
        generators: One for each request.
        cache: Encoded prompts of earlier calls, by everything that determines them.
    """

    def __init__(
        self,
        pipe: Any,
        requests: Sequence[Request],
        generators: Sequence[torch.Generator],
        cache: dict[Any, Any],
    ) -> None:
        self.pipe = pipe
        self.requests = requests
        self.generators = generators
        self.cache = cache
        self.edited_cache: dict[Any, Any] = {}  # encoded under edits: valid in this call alone

    def replacement(self, method: Any) -> Callable[..., Any]:
        """The replacement of a method that encodes a list of prompts, or of a prior pipeline."""
        signature = inspect.signature(method)

        @functools.wraps(method)
        def encode(*args: Any, **kwargs: Any) -> Any:
            arguments = signature.bind(*args, **kwargs).arguments
            prompts = arguments["prompt"]
            if isinstance(prompts, str):
                prompts = [prompts] * len(self.requests)
            rows = [self._encoded(method, arguments, i, text) for i, text in enumerate(prompts)]
            return joined(rows)

        return encode

    def _encoded(self, method: Any, arguments: Mapping[str, Any], i: int, prompt: str) -> Any:
        """The method's result for one prompt of a list."""
        request = self.requests[i]
        parts = self.pipe.components.values()
        is_pipe_edited = any(isinstance(part, nn.Module) and is_edited(part) for part in parts)
        edited = request.encoding is not None or is_pipe_edited
        cache = self.edited_cache if edited else self.cache
        # A prior draws noise before the denoiser does, from the same generator.
        generator = self.generators[i] if "generator" in arguments else None
        start = generator.get_state() if generator is not None else None

        def encode(text: str) -> Any:
            single = {k: v for k, v in arguments.items() if k != "generator"} | {"prompt": text}
            if isinstance(arguments.get("negative_prompt"), list):
                single["negative_prompt"] = arguments["negative_prompt"][i]
            kind = method.__qualname__ if generator is None else (type(method), request.seed)
            key = (id(request.encoding), kind, repr(sorted(single.items())))
            if key not in cache:
                if generator is not None and start is not None:
                    generator.set_state(start)
                    single["generator"] = generator
                with (request.encoding or nullcontext)():
                    result = method(**single)
                cache[key] = result, generator.get_state() if generator is not None else None
                if len(cache) > CACHED and cache is self.cache:
                    del cache[next(iter(cache))]
            result, end = cache[key]
            if generator is not None:
                generator.set_state(end)
            return result

        if request.point is None or not isinstance(prompt, RequestedPrompt):
            return encode(str(prompt))
        return _at_point(request.point, encode)


def joined(rows: Sequence[Any], batched: bool = False) -> Any:
    """One batch of the results of a method for single rows, or for several rows each (`batched`).

    Raises `UnevenError` for token sequences of unequal length.
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


def _at_point(point: Point, encode: Callable[[str], Any]) -> Any:
    """The result of an encoder at a point between prompts.

    What depends on the prompt is mixed, what does not stays, and a mask covers the tokens of all.
    """
    results = {text: encode(text) for text, _ in point.weights}

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
            values = [_padded(value, longest) for value in values]
        if all(torch.equal(value, values[0]) for value in values):
            return first
        if not first.is_floating_point():
            return torch.stack(list(values)).amax(0)
        by_text = dict(zip(results, values, strict=True))
        return embed(point, lambda text: {"": by_text[text]})[""]

    return mixed(list(results.values()))


def _padded(row: Tensor, length: int) -> Tensor:
    missing = row.new_zeros(row.shape[0], length - row.shape[1], *row.shape[2:])
    return torch.cat([row, missing], dim=1)
