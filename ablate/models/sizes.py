"""Which sizes of pictures a pipeline of diffusers can make.

What a pipeline asks of sizes stands in its code, not in its configuration: sides are multiples of
something, and some networks have a fixed number of positions. Others than these sizes end in an
error somewhere inside, or in a picture of another size than was asked for.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ablate.messages import articled
from ablate.network import DENOISERS

LEAST = 8  # of which every side in a recipe is a multiple
# Pipelines whose code has numbers of its own, whatever their autoencoder is.
FIXED = {"HunyuanDiTPipeline": 16, "Kandinsky3Pipeline": 64}
OWN = {"ZImagePipeline": 1024, "ZImageOmniPipeline": 1024}
# Positions along width and height that a denoiser has, by its class and configuration.
POSITIONS: dict[str, Callable[[Mapping[str, Any]], Sequence[int]]] = {
    "AuraFlowTransformer2DModel": lambda config: [math.isqrt(config["pos_embed_max_size"])] * 2,
    "SD3Transformer2DModel": lambda config: [config["pos_embed_max_size"]] * 2,
    "Lumina2Transformer2DModel": lambda config: config["axes_lens"][:0:-1],
    "ZImageTransformer2DModel": lambda config: config["axes_lens"][:0:-1],
}


def default_side(pipe: Any, name: str) -> int:
    """The width or height, in pixels, that a pipeline gives by itself."""
    default = inspect.signature(type(pipe).__call__).parameters.get(name)
    if default is not None and isinstance(default.default, int):
        return default.default
    config = getattr(pipe, "config", {})
    pixels = OWN.get(type(pipe).__name__) or config.get("default_sample_size")
    if pixels is not None:  # while attributes of that name count latents
        return int(pixels)
    size = getattr(pipe, "default_sample_size", None) or _config(pipe).get("sample_size") or 64
    side = size if isinstance(size, int) else size[name == "width"]
    return int(side) * getattr(pipe, "vae_scale_factor", 1)


def wrong_side(pipe: Any, name: str, pixels: int) -> str | None:
    """What is wrong with a width or height for a pipeline; None where nothing is known to be."""
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
    found = (getattr(pipe, name, None) for name in DENOISERS)
    denoiser = next((part for part in found if part is not None), None)
    config: Mapping[str, Any] = getattr(denoiser, "config", {})
    return config


def _patch(pipe: Any) -> int:
    """Pixels along a side that the network sees as one position."""
    config = _config(pipe)
    patch = config.get("patch_size") or max(config.get("all_patch_size") or (1,))
    return int(getattr(pipe, "vae_scale_factor", 1)) * (patch if isinstance(patch, int) else 1)


def _multiple(pipe: Any) -> int:
    """What every side is a multiple of."""
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
    # Of what it refuses by itself nothing is told but the refusal.
    larger = (known * 2**i for i in range(4))
    return next((side for side in larger if _takes(part, side) and _takes(part, 3 * side)), known)


def _takes(pipe: Any, side: int) -> bool:
    """Whether a pipeline's own check lets a size pass, without a warning that it makes another."""
    check = getattr(pipe, "check_inputs", None)
    if check is None:
        return True
    parameters = inspect.signature(check).parameters.values()
    given: dict[str, Any] = {p.name: None for p in parameters if p.default is p.empty}
    if "height" not in given:
        return True
    with _heard(check.__module__) as said:
        try:
            check(**given | {"prompt": "", "width": side, "height": side})
        except ValueError as error:
            said.append(str(error))
        except TypeError:  # of what else it was not given
            pass
    return not any(word in text.lower() for text in said for word in ("height", "width"))


@contextmanager
def _heard(name: str) -> Iterator[list[str]]:
    """What a logger is told meanwhile, none of which is written, however quiet it is set."""
    logger, said = logging.getLogger(name), list[str]()
    level = logger.level

    def hear(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    logger.setLevel(logging.WARNING)
    logger.addFilter(hear)
    try:
        yield said
    finally:
        logger.removeFilter(hear)
        logger.setLevel(level)


def _most(pipe: Any, name: str) -> int | None:
    """The largest side; None where there is none."""
    config = _config(pipe)
    positions = POSITIONS.get(config.get("_class_name", ""))
    try:
        found = positions(config) if positions else None
    except (KeyError, TypeError):  # of a release that has other keys
        return None
    return int(found[name == "height"]) * _patch(pipe) if found else None
