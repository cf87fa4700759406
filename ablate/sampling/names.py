"""Names of schedulers, with options: those of diffusers, and those that image generators use.

    ddim    DPM++ 2M Karras    dpm_solver_multistep(use_karras_sigmas=true)

The last form carries options wherever a name is a text: in recipes, records and labels.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import diffusers

from ablate.messages import did_you_mean, shown
from ablate.models import ModelError, check_bounds, missing_packages

# The arguments of a scheduler's step.
STEP = ("self", "model_output", "timestep", "sample", "args", "kwargs")
# As the documentation of diffusers maps the names of AUTOMATIC1111 and ComfyUI.
USUAL: dict[str, tuple[str, dict[str, Any]]] = {
    "euler": ("EulerDiscreteScheduler", {}),
    "eulera": ("EulerAncestralDiscreteScheduler", {}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "plms": ("PNDMScheduler", {}),
    "unipc": ("UniPCMultistepScheduler", {}),
    "deis": ("DEISMultistepScheduler", {}),
    "dpm2": ("KDPM2DiscreteScheduler", {}),
    "dpm2a": ("KDPM2AncestralDiscreteScheduler", {}),
    "dpm++2m": ("DPMSolverMultistepScheduler", {}),
    "dpm++2msde": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "dpm++sde": ("DPMSolverSinglestepScheduler", {}),
}
# What may follow such a name: how the noise levels are spaced.
SPACED: dict[str, dict[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "sgmuniform": {"timestep_spacing": "trailing"},
}
USEFUL = "`ddim`, `euler`, `euler_ancestral`, `dpm_solver_multistep` or `DPM++ 2M Karras`"
WITH_OPTIONS = re.compile(r"([^(]*)\((.*)\)\s*", re.DOTALL)
OPTION = re.compile(r"\s*(\w+)\s*=\s*")


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """A name and options as one text, the same for the same options in any order."""
    given = ", ".join(f"{key}={json.dumps(options[key])}" for key in sorted(options))
    return f"{name}({given})" if given else name


def named_in_full(text: str | None) -> str | None:
    """The class that a text names, with its options, in the only form that all ways of writing it
    share. Raises `ModelError` as `chosen_scheduler` does."""
    if text is None:
        return None
    kind, options = chosen_scheduler(text)
    return with_options(kind.__name__, options)


def chosen_scheduler(text: str) -> tuple[Any, dict[str, Any]]:
    """The class of diffusers that a text names, and the options.

    Raises `ModelError` if there is none, if it lacks a package, or if it has no such options.
    """
    name, given = _parted(text)
    full_name, options = _usual(name)
    kind = scheduler_class(full_name or name)
    return kind, options | _checked(kind, given) if given else options


def scheduler_class(name: str) -> type:
    """A scheduler of diffusers by name: `DDIMScheduler`, `ddim`, `euler_ancestral`, ...

    Raises `ModelError` with the nearest name when there is none.
    """
    known = {_plain(n): n for n in dir(diffusers) if n.endswith("Scheduler") and "Flax" not in n}
    # `euler` is short for EulerDiscreteScheduler, `euler_ancestral` for its sibling.
    full_name = known.get(_plain(name)) or known.get(_plain(name) + "discrete")
    if not _plain(name) or full_name is None:
        near = did_you_mean(_plain(name), filter(None, [*known, *USUAL]))
        others = near or f"; it has, for example, {USEFUL}"
        raise ModelError(f"diffusers has no scheduler `{shown(name)}`{others}")
    scheduler: type = getattr(diffusers, full_name)
    missing = missing_packages(scheduler)
    if missing:
        raise ModelError(
            f"the scheduler `{name}` needs {' and '.join(missing)}; `pip install"
            f" {' '.join(missing)}`"
        )
    more = [
        parameter.name
        for parameter in inspect.signature(getattr(scheduler, "step", _no_step)).parameters.values()
        if parameter.default is parameter.empty and parameter.name not in STEP
    ]
    if more:
        raise ModelError(
            f"the scheduler `{name}` does not sample images from prompts: a step of it needs more"
            f" than an estimate, a timestep and latents ({', '.join(more)})"
        )
    return scheduler


def _no_step(step: Any) -> None:
    """In place of a method that some schedulers do not have."""


def _plain(name: str) -> str:
    return re.sub(r"[_\-\s]", "", name).lower().removesuffix("scheduler")


def _usual(name: str) -> tuple[str | None, dict[str, Any]]:
    """The class that image generators mean by a name, and its options; None where diffusers' own
    names are meant."""
    plain = _plain(name).replace("pp", "++").replace("ancestral", "a")
    spaced = next((end for end in SPACED if plain.endswith(end) and plain != end), "")
    full_name, options = USUAL.get(plain.removesuffix(spaced), (None, {}))
    if full_name is None and spaced:  # `DDIM sgm_uniform`
        full_name = _plain(name).removesuffix(spaced)
    return full_name, options | (SPACED[spaced] if spaced else {})


def _parted(text: str) -> tuple[str, dict[str, Any]]:
    """The name in a text and the options behind it. Raises `ModelError`."""
    match = WITH_OPTIONS.fullmatch(text)
    if match is None:
        return text, {}
    name, rest = match.groups()
    options: dict[str, Any] = {}
    try:
        while rest.strip():
            option = OPTION.match(rest)
            if option is None:
                raise ValueError
            value, end = json.JSONDecoder().raw_decode(rest, option.end())
            options[option[1]], rest = value, rest[end:].lstrip().removeprefix(",")
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"`{shown(text)}` must be a name, or a name with options such as"
            " `dpm_solver_multistep(use_karras_sigmas=true)`"
        ) from error
    return name.strip(), options


# ---------------------------------------------------------------- options


def _checked(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as a class takes them. Raises `ModelError` for those that it does not take."""
    parameters = dict(inspect.signature(kind).parameters)
    checked = {}
    for name, value in options.items():
        parameter = parameters.get(name)
        if parameter is None or parameter.kind is parameter.VAR_KEYWORD:
            near = did_you_mean(name, parameters) or f"; it has {', '.join(parameters)}"
            raise ModelError(f"{kind.__name__} has no option `{shown(name)}`{near}")
        allowed = set(_allowed(parameter.annotation, parameter.default))
        if allowed and not _is_one_of(value, allowed):
            raise ModelError(
                f"{kind.__name__}: `{name}` must be {_in_words(allowed)}, not"
                f" {shown(json.dumps(value))}"
            )
        is_number = isinstance(value, int) and not isinstance(value, bool)
        checked[name] = float(value) if is_number and float in allowed else value
    check_bounds(checked, kind.__name__)
    return checked


def _allowed(annotation: Any, default: Any) -> Iterable[Any]:
    """The types and values that a parameter takes, `list` for arrays; none where nothing says."""
    origin = typing.get_origin(annotation)
    if default is None:
        yield None
    if origin is Literal:
        yield from typing.get_args(annotation)
    elif origin in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _allowed(part, inspect.Parameter.empty)
    elif annotation is type(None):
        yield None
    elif annotation in (bool, int, float, str):
        yield annotation
    elif annotation is not inspect.Parameter.empty:
        yield list


def _is_one_of(value: Any, allowed: Iterable[Any]) -> bool:
    """Whether an option is of one of the types, or one of the values."""
    kind = type(value)
    return any(kind is one or (kind is int and one is float) for one in allowed) or any(
        value == one and kind is type(one) for one in allowed
    )


def _in_words(allowed: set[Any]) -> str:
    words: dict[Any, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
    }
    words |= {list: "a list of numbers"}
    others = sorted(words.get(one) or f"`{one}`" for one in allowed if one is not None)
    return " or ".join([*others, *(["null"] if None in allowed else [])])
