"""A user's ops and metrics, from a Python file whose functions are decorated with
`@ablate.op(...)` and `@ablate.metric`.

    # my_ops.py
    import ablate

    @ablate.op(strength="amount", neutral=0.0)
    def shrink(tensor, noise, strength):
        \"\"\"(1−a)·W.\"\"\"
        return (1 - strength) * tensor

    @ablate.metric
    def redness(image, baseline):
        return abs(image[..., 0].mean() - baseline[..., 0].mean())

`load_code` executes the file, with all rights of the user; nothing else here executes any code.
Each op keeps a digest of its file, so that the record of an image identifies its formula, and each
metric, so that those of a file are known. What the file imports is not part of the digest.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeGuard, get_args

import torch
from torch import Tensor

from ablate.edits.metrics import METRICS, Measure, Metric
from ablate.edits.ops import OPS
from ablate.edits.registry import GIVEN, KINDS, Apply, NoiseSource, Op
from ablate.messages import RequestError
from ablate.store import StoreError, read_bytes

PLACES = ("weights", "output", "input")
# Noise that exists in one place only.
ONLY = {"init": "weights", "partner": "weights", "checkpoint": "weights"}
ONLY |= {kind: "output" for kind in GIVEN if kind not in ONLY}


class CodeError(RequestError, ValueError):
    """A user's file that cannot be used; says which file, where the line is known, and why."""

    def __init__(self, file: Path, message: str, line: int | None = None) -> None:
        super().__init__(f"{file}:{line}: {message}" if line else f"{file}: {message}")


def load_code(file: Path) -> tuple[str, ...]:
    """Execute a Python file, register the ops and metrics that it defines, and return their names.

    A file with the content of one that was loaded before is not executed again.

    Raises:
        CodeError: The file does not exist, is not Python, raises, defines neither op nor metric, or
            one of them is invalid. The registries are then as they were.
    """
    source = _read(file)
    digest = _digest(source)
    loaded = _defined_by(digest)
    if loaded:
        return loaded
    ops, metrics = dict(OPS), dict(METRICS)
    module = ModuleType(f"ablate_code_{digest}")
    module.__file__ = str(file)
    # Dataclasses and the like look up the names of their file here.
    sys.modules[module.__name__] = module
    try:
        _execute(file, source, module)
        for name, op in [item for item in OPS.items() if item[0] not in ops]:
            _check(file, f"op `{name}`", op.apply, _problem(op, module), module)
            OPS[name] = replace(op, apply=_checked(op), code=digest)
        for name, metric in [item for item in METRICS.items() if item[0] not in metrics]:
            _check(file, f"metric `{name}`", metric.measure, _wrong(metric, module), module)
            METRICS[name] = replace(metric, code=digest)
        defined = _defined_by(digest)
        if not defined:
            raise CodeError(
                file,
                "defines no op; decorate a function with `@ablate.op(...)`, or a metric's with"
                " `@ablate.metric`",
            )
    except BaseException:
        del sys.modules[module.__name__]
        OPS.clear()
        OPS.update(ops)
        METRICS.clear()
        METRICS.update(metrics)
        raise
    return defined


def load_metrics(file: Path) -> tuple[Metric, ...]:
    """Load a file as `load_code` does, and return the metrics that it defines."""
    load_code(file)
    digest = _digest(_read(file))
    return tuple(metric for metric in METRICS.values() if metric.code == digest)


def _read(file: Path) -> bytes:
    try:
        return read_bytes(file)
    except StoreError as error:
        raise CodeError(file, str(error).removeprefix(f"{file} ")) from error


def _digest(source: bytes) -> str:
    return hashlib.blake2b(source, digest_size=16).hexdigest()


def _defined_by(digest: str) -> tuple[str, ...]:
    registered: list[Op | Metric] = [*OPS.values(), *METRICS.values()]
    return tuple(one.name for one in registered if one.code == digest)


def _check(
    file: Path, what: str, function: Apply | Measure, problem: str | None, module: ModuleType
) -> None:
    if problem:
        line = function.__code__.co_firstlineno if _is_of(function, module) else None
        raise CodeError(file, f"the {what} {problem}", line)


def _execute(file: Path, source: bytes, module: ModuleType) -> None:
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        if error.filename != str(file):  # of a file that it imports
            raise CodeError(file, f"raised {error!r}", _last_line(error, file)) from error
        raise CodeError(file, f"is not valid Python: {error.msg}", error.lineno) from error
    except (Exception, SystemExit) as error:
        message = f"raised {type(error).__name__}: {error}"
        raise CodeError(file, message, _last_line(error, file)) from error


def _last_line(error: BaseException, file: Path) -> int | None:
    """The line of the file from which an error was raised, directly or further down."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return lines[-1] if lines else None


def _is_of(function: Apply | Measure, module: ModuleType) -> TypeGuard[FunctionType]:
    """Whether a function is defined in a module, so that the digest of the file covers it."""
    return isinstance(function, FunctionType) and function.__module__ == module.__name__


def _wrong(metric: Metric, module: ModuleType) -> str | None:
    """As `_problem`, of a metric."""
    taken = ("image", "baseline") if metric.of == "images" else ("images", "baselines")
    return _wrong_function(metric.name, metric.measure, taken, module)


def _wrong_function(
    name: str, function: Apply | Measure, takes: Sequence[str], module: ModuleType
) -> str | None:
    if not _is_of(function, module):
        return f"is defined elsewhere, in `{function.__module__}`; load the file that defines it"
    if not name.isidentifier():
        return "must be a function with a name"
    try:
        inspect.signature(function).bind(*takes)
    except TypeError:
        return f"must take ({', '.join(takes)})"
    return None


def _problem(op: Op, module: ModuleType) -> str | None:
    """The rest of a sentence, after its name, on what is wrong with an op; None if it is valid."""
    wrong = _wrong_function(op.name, op.apply, ("tensor", "noise", "strength"), module)
    if wrong:
        return wrong
    if op.draws is not None and op.draws not in get_args(NoiseSource):
        return f"draws no `{op.draws}`; there are {', '.join(get_args(NoiseSource))}"
    if not op.places or not set(op.places) <= set(PLACES):
        return f"must have its places among {', '.join(PLACES)}"
    if op.draws in ONLY and op.places != (ONLY[op.draws],):
        return f'draws `{op.draws}`, which needs `places=("{ONLY[op.draws]}",)`'
    _, kinds = KINDS.get(op.draws or "", ("", ()))
    if not set(op.kinds) <= set(kinds):
        return f"has kinds of noise that there are not; known: {', '.join(kinds) or 'none'}"
    if op.strength is None and (op.neutral is not None or op.linear):
        return "has no strength, and so it can be neither neutral at one nor linear in it"
    if op.linear and op.neutral != 0:
        return "is linear: its neutral strength must be 0"
    return None


def _checked(op: Op) -> Apply:
    """The op's function on copies, which it may write into, with checks of its result.

    Type and shape are checked always. The first results are also checked to be finite and, if the
    op is not `whole`, to be the same for parts, until the entries of one tensor differ: for equal
    entries the second check shows nothing.
    """
    function, unsure = op.apply, True

    @functools.wraps(function)
    def checked(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
        nonlocal unsure
        result: Any = function(tensor.clone(), noise.clone(), strength)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            kind = result.dtype if isinstance(result, Tensor) else type(result).__name__
            raise ValueError(f"the op `{op.name}` must return a tensor of floats, not {kind}")
        if result.shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(result.shape)}"
            raise ValueError(f"the op `{op.name}` must keep the shape: {shapes}")
        if unsure and bool(tensor.isfinite().all()) and bool(noise.isfinite().all()):
            if not bool(result.isfinite().all()):
                raise ValueError(
                    f"the op `{op.name}` returned numbers that are not finite, for finite weights"
                )
            if not op.whole:
                _compare_parts(op, tensor, noise, strength, result)
            unsure = not (tensor.numel() > 1 and bool(tensor.min() < tensor.max()))
        return result

    return checked


def _compare_parts(op: Op, tensor: Tensor, noise: Tensor, strength: float, result: Tensor) -> None:
    flat, drawn = tensor.flatten(), noise.flatten() if op.draws else noise
    half = flat.numel() // 2
    parts = [
        op.apply(flat[span].clone(), (drawn[span] if op.draws else drawn).clone(), strength)
        for span in (slice(None, half), slice(half, None))
        if flat[span].numel()
    ]
    if parts and not torch.allclose(torch.cat(parts), result.flatten(), rtol=1e-4, atol=1e-6):
        raise ValueError(
            f"the op `{op.name}` gives another result for parts of a tensor than for the whole;"
            " declare it with `whole=True`"
        )
