"""The classes that a model names: whether they can be used here, and its scheduler."""

from __future__ import annotations

import inspect
import re
import warnings
from typing import Any

from ablate.models.catalogs import class_of, is_listed
from ablate.models.errors import ModelError, cause
from ablate.models.files import configuration, described_by
from ablate.models.formats import check_bounds
from ablate.models.sizes import outline
from ablate.models.source import Source

# Pipelines that take pictures beside prompts, by their names and arguments. Others, such as Flux
# Kontext, take them where there are any.
PICTURED = re.compile(
    r"inpaint|img2img|image2image|variation|control|pix2pix(?!zero)|upscale|depth2img|adapter|fill"
    r"|edit(?!ing)|cycle|imageto|videoto",
    re.IGNORECASE,
)
PICTURES = re.compile(
    r"(?<!ip_adapter_)(?<!num_)(image|image_embed\w*|video|hint|controls|frames)$"
)


def missing_packages(kind: type) -> list[str]:
    """The packages that a class of diffusers needs and that are not installed."""
    # What diffusers offers in place of such a class names all that it needs.
    return [name for name in vars(kind).get("_backends", ()) if name != "torch"]


def check_pipeline(kind: type, what: str) -> None:
    """Raise `ModelError` for a pipeline that does not draw from prompts alone."""
    missing = missing_packages(kind)
    if missing:
        raise ModelError(
            f"{what}: {kind.__name__} needs {' and '.join(missing)}; `pip install"
            f" {' '.join(missing)}`"
        )
    parameters = inspect.signature(kind.__call__).parameters.values()
    pictures = [parameter for parameter in parameters if PICTURES.search(parameter.name)]
    needed = [p.name for p in pictures if p.default is p.empty]
    if PICTURED.search(kind.__name__):
        needed += [p.name for p in pictures]
    if needed:
        raise ModelError(
            f"{what}: {kind.__name__} needs a picture (`{needed[0]}`); only pipelines are"
            " sampled that draw from prompts alone, such as StableDiffusionPipeline"
        )
    if not any(parameter.name == "prompt" for parameter in parameters):
        raise ModelError(f"{what}: {kind.__name__} takes no prompt, so that nothing can be asked")


def default_scheduler(source: Source) -> Any | None:
    """The scheduler of a model, from configuration alone; None where its files are not known.

    Raises `ModelError` if it cannot be created.
    """
    try:
        index = configuration(source, "model_index.json") or {}
        config = configuration(source, "scheduler/scheduler_config.json")
        where = f"{described_by(source)[0]}/scheduler/scheduler_config.json"
    except ModelError:  # reported where it matters
        return None
    kind = class_of(*index["scheduler"]) if is_listed(index, "scheduler") else None
    if kind is None or config is None:
        return None
    if missing := missing_packages(kind):
        raise ModelError(
            f"{where}: {kind.__name__} needs {' and '.join(missing)}; `pip install"
            f" {' '.join(missing)}`"
        )
    check_bounds(config, where)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about older configurations
            scheduler = kind.from_config(config)
            outline(index, {}, scheduler)  # some pipelines change the configuration
    except Exception as error:  # schedulers check their configurations in many ways
        raise ModelError(
            f"{where}: no {kind.__name__} can be created from it: {cause(error)}"
        ) from error
    return scheduler
