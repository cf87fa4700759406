"""The sizes of pictures that a pipeline of diffusers can sample.

They depend on its code, not on its configuration alone: sides are multiples of some number, and
some networks have a fixed number of positions. Other sizes end in an error somewhere inside, or in
a picture of another size.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import diffusers
from diffusers.configuration_utils import FrozenDict

from ablate.messages import articled
from ablate.models.errors import ModelError
from ablate.models.files import configuration
from ablate.models.source import Source
from ablate.network import AUTOENCODERS, DENOISERS

LEAST = 8  # of which every side in a recipe is a multiple
# Pipelines with numbers in their code, whatever their autoencoder is.
FIXED = {"HunyuanDiTPipeline": 16, "Kandinsky3Pipeline": 64}
DEFAULTS = {"ZImagePipeline": 1024, "ZImageOmniPipeline": 1024}
# Positions along width and height that a denoiser has, by its class and configuration.
POSITIONS: dict[str, Callable[[Mapping[str, Any]], Sequence[int]]] = {
    "AuraFlowTransformer2DModel": lambda config: [math.isqrt(config["pos_embed_max_size"])] * 2,
    "SD3Transformer2DModel": lambda config: [config["pos_embed_max_size"]] * 2,
    "Lumina2Transformer2DModel": lambda config: config["axes_lens"][:0:-1],
    "ZImageTransformer2DModel": lambda config: config["axes_lens"][:0:-1],
}


class _Configured:
    """Replaces a component in an outline: its configuration, as attributes too."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = FrozenDict(config)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["config"][name]
        except KeyError as error:
            raise AttributeError(name) from error


@lru_cache(maxsize=16)
def outline_of(source: Source) -> Any | None:
    """A model's pipeline without its networks (`outline`); None where it is impossible."""
    try:
        index = configuration(source, "model_index.json") or {}
        configs = {
            name: configuration(source, f"{name}/config.json")
            for name in (*DENOISERS, *AUTOENCODERS)
            if index.get(name, [None])[0]
        }
    except ModelError:  # reported where it matters
        return None
    return outline(index, {name: config for name, config in configs.items() if config})


def outline(
    index: Mapping[str, Any], configs: Mapping[str, Mapping[str, Any]], scheduler: Any = None
) -> Any | None:
    """The pipeline that a model_index.json names, to ask it for sizes.

    Its components are their configurations (`configs`), the scheduler or None; it is None itself
    where its class cannot be created so.
    """
    kind = getattr(diffusers, str(index.get("_class_name")), None)
    if not isinstance(kind, type) or not issubclass(kind, diffusers.DiffusionPipeline):
        return None
    arguments: dict[str, Any] = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        if name in configs:
            arguments[name] = _Configured(configs[name])
        elif name == "scheduler" and scheduler is not None:
            arguments[name] = scheduler
        elif name == "requires_safety_checker":  # without a checker, True is warned about
            arguments[name] = False
        elif name in index and not isinstance(index[name], list):
            arguments[name] = index[name]
        elif parameter.default is parameter.empty:
            arguments[name] = None
    try:
        return kind(**arguments)
    except Exception:  # a class that asks more of its components raises anything
        return None


def default_side(pipe: Any, name: str) -> int:
    """The default `width` or `height`, in pixels, of a pipeline of diffusers or its outline."""
    default = inspect.signature(type(pipe).__call__).parameters.get(name)
    if default is not None and isinstance(default.default, int):
        return default.default
    config = getattr(pipe, "config", {})
    pixels = DEFAULTS.get(type(pipe).__name__) or config.get("default_sample_size")
    if pixels is not None:  # while attributes of that name count latents
        return int(pixels)
    size = getattr(pipe, "default_sample_size", None) or _config(pipe).get("sample_size") or 64
    side = size if isinstance(size, int) else size[name == "width"]
    return int(side) * getattr(pipe, "vae_scale_factor", 1)


def wrong_side(pipe: Any, name: str, pixels: int) -> str | None:
    """What is wrong with a width or height for a pipeline; None where nothing is known."""
    multiple, most = _multiple(pipe), _most(pipe, name)
    which = f"for {articled(type(pipe).__name__)}"
    if most is not None and pixels > most:
        return f"must be at most {most} {which}, whose network has no more positions; not {pixels}"
    if pixels % multiple:
        near = max(multiple, round(pixels / multiple) * multiple)
        near = near if most is None else min(near, most // multiple * multiple)
        return f"must be a multiple of {multiple} {which}, not {pixels}; {near} is the nearest"
    return None


def _config(pipe: Any) -> Mapping[str, Any]:
    """The configuration of the denoiser."""
    parts = (getattr(pipe, name, None) for name in DENOISERS)
    denoiser = next((part for part in parts if part is not None), None)
    config: Mapping[str, Any] = getattr(denoiser, "config", {})
    return config


def _patch(pipe: Any) -> int:
    """Pixels along a side that the network sees as one position."""
    config = _config(pipe)
    patch = config.get("patch_size") or max(config.get("all_patch_size") or (1,))
    return int(getattr(pipe, "vae_scale_factor", 1)) * (patch if isinstance(patch, int) else 1)


def _multiple(pipe: Any) -> int:
    """The number that every side must be a multiple of."""
    part = getattr(pipe, "decoder_pipe", None) or pipe
    processor = getattr(getattr(part, "image_processor", None), "config", {})
    factors = (
        LEAST,
        _patch(part),
        processor.get("vae_scale_factor"),
        FIXED.get(type(part).__name__),
        getattr(part, "movq_scale_factor", 1) ** 2,
    )
    known = math.lcm(*(int(factor) for factor in factors if factor))
    # Its checks may ask for a larger multiple.
    larger = (known * 2**i for i in range(4))
    return next((n for n in larger if _accepts(part, n) and _accepts(part, 3 * n)), known)


def _accepts(pipe: Any, side: int) -> bool:
    """Whether a pipeline's `check_inputs` accepts a size without an error or warning about it."""
    check = getattr(pipe, "check_inputs", None)
    if check is None:
        return True
    parameters = inspect.signature(check).parameters.values()
    arguments: dict[str, Any] = {p.name: None for p in parameters if p.default is p.empty}
    if "height" not in arguments:
        return True
    with _logged(check.__module__) as messages:
        try:
            check(**arguments | {"prompt": "", "width": side, "height": side})
        except ValueError as error:
            messages.append(str(error))
        except TypeError:  # because of another argument, which is None here
            pass
    return not any(word in text.lower() for text in messages for word in ("height", "width"))


@contextmanager
def _logged(name: str) -> Iterator[list[str]]:
    """Collect the warnings to a logger instead of writing them, whatever its level is."""
    logger, messages = logging.getLogger(name), list[str]()
    level = logger.level

    def collect(record: logging.LogRecord) -> bool:
        messages.append(record.getMessage())
        return False

    logger.setLevel(logging.WARNING)
    logger.addFilter(collect)
    try:
        yield messages
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)


def _most(pipe: Any, name: str) -> int | None:
    """The largest side; None where there is none."""
    config = _config(pipe)
    positions = POSITIONS.get(config.get("_class_name", ""))
    try:
        sides = positions(config) if positions else None
    except (KeyError, TypeError):  # of a release with other keys
        return None
    return int(sides[name == "height"]) * _patch(pipe) if sides else None
