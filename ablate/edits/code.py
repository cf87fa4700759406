"""A user's own ops, from a Python file whose functions are decorated with `@ablate.op(...)`.

    # my_ops.py
    import ablate

    @ablate.op(strength="amount", neutral=0.0)
    def shrink(tensor, noise, strength):
        \"\"\"(1−a)·W.\"\"\"
        return (1 - strength) * tensor

`load` executes the file, with all that the user may do; nothing else here executes any code. Each
op keeps a digest of its file, so that an image tells which formula made it. What the file imports
is not part of the digest.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
import traceback
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, TypeGuard, get_args

import torch
from torch import Tensor

from ablate.edits.ops import OPS, zero
from ablate.edits.registry import GIVEN, KINDS, Apply, Draws, Op
from ablate.messages import RequestError

PLACES = ("weights", "output")
# What exists in one place only.
ONLY = {"init": "weights", "partner": "weights", "checkpoint": "weights"}
ONLY |= {kind: "output" for kind in GIVEN if kind not in ONLY}


class CodeError(RequestError, ValueError):
    """A file of ops that cannot be used; says which file, where the line is known, and why."""

    def __init__(self, file: Path, message: str, line: int | None = None) -> None:
        super().__init__(f"{file}:{line}: {message}" if line else f"{file}: {message}")


def load_code(file: Path) -> tuple[str, ...]:
    """Execute a Python file and register the ops that it defines; their names, in its order.

    Does nothing for a file that was loaded before, by its content. Raises `CodeError` for a file
    that is not there, is not Python, raises, defines no op, or whose ops do not fit; the registry
    is then as it was.
    """
    try:
        source = file.read_bytes()
    except OSError as error:
        raise CodeError(file, f"cannot be read: {error.strerror}") from error
    digest = hashlib.blake2b(source, digest_size=16).hexdigest()
    loaded = tuple(name for name, op in OPS.items() if op.code == digest)
    if loaded:
        return loaded
    before = dict(OPS)
    module = ModuleType(f"ablate_code_{digest}")
    module.__file__ = str(file)
    # Where dataclasses and the like look for the names of their file.
    sys.modules[module.__name__] = module
    try:
        _execute(file, source, module)
        made = {name: op for name, op in OPS.items() if name not in before}
        if not made:
            raise CodeError(file, "defines no op; decorate a function with `@ablate.op(...)`")
        for name, op in made.items():
            message = _wrong(op, module)
            if message:
                line = op.apply.__code__.co_firstlineno if _is_of(op.apply, module) else None
                raise CodeError(file, f"the op `{name}` {message}", line)
            OPS[name] = replace(op, apply=_checked(op), code=digest)
    except BaseException:
        del sys.modules[module.__name__]
        OPS.clear()
        OPS.update(before)
        raise
    return tuple(made)


def forget_ops(names: Iterable[str]) -> None:
    """Take a user's ops off the registry. Raises `ValueError` for one of the lab's own."""
    names = tuple(names)
    for name in names:
        if name in OPS and OPS[name].apply.__module__ == zero.__module__:
            raise ValueError(f"`{name}` is one of the lab's own ops")
    for name in names:
        OPS.pop(name, None)


def _execute(file: Path, source: bytes, module: ModuleType) -> None:
    try:
        exec(compile(source, str(file), "exec", dont_inherit=True), vars(module))
    except SyntaxError as error:
        if error.filename != str(file):  # of a file that it imports
            raise CodeError(file, f"raised {error!r}", _last_line(error, file)) from error
        raise CodeError(file, f"is not valid Python: {error.msg}", error.lineno) from error
    except (Exception, SystemExit) as error:
        told = f"{type(error).__name__}: {error}"
        raise CodeError(file, f"raised {told}", _last_line(error, file)) from error


def _last_line(error: BaseException, file: Path) -> int | None:
    """The line of the file at which an error left it."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename == str(file)]
    return lines[-1] if lines else None


def _is_of(function: Apply, module: ModuleType) -> TypeGuard[FunctionType]:
    """Whether a function is defined in a module, and so is part of the digest of its file."""
    return isinstance(function, FunctionType) and function.__module__ == module.__name__


def _wrong(op: Op, module: ModuleType) -> str | None:
    """What about an op does not fit together; the rest of a sentence that begins with its name."""
    if not _is_of(op.apply, module):
        return f"is defined elsewhere, in `{op.apply.__module__}`; load the file that defines it"
    if not op.name.isidentifier():
        return "must be a function with a name"
    try:
        inspect.signature(op.apply).bind(None, None, None)
    except TypeError:
        return "must take (tensor, noise, strength)"
    if op.draws is not None and op.draws not in get_args(Draws):
        return f"draws no `{op.draws}`; there are {', '.join(get_args(Draws))}"
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
    """The op's function, on copies, which it may write into; what it returns is checked.

    Type and shape always; at first also that it is finite, and that an op which is not `whole`
    gives for parts what it gives for the whole: until it was given something that can tell.
    """
    function, unsure = op.apply, True

    @functools.wraps(function)
    def checked(tensor: Tensor, noise: Tensor, strength: float) -> Tensor:
        nonlocal unsure
        made: Any = function(tensor.clone(), noise.clone(), strength)
        if not isinstance(made, Tensor) or not made.is_floating_point():
            kind = made.dtype if isinstance(made, Tensor) else type(made).__name__
            raise ValueError(f"the op `{op.name}` must return a tensor of floats, not {kind}")
        if made.shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, not {tuple(made.shape)}"
            raise ValueError(f"the op `{op.name}` must keep the shape: {shapes}")
        if unsure and bool(tensor.isfinite().all()) and bool(noise.isfinite().all()):
            if not bool(made.isfinite().all()):
                raise ValueError(
                    f"the op `{op.name}` returned numbers that are not finite, for finite weights"
                )
            if not op.whole:
                _compare_parts(op, tensor, noise, strength, made)
            unsure = not (tensor.numel() > 1 and bool(tensor.min() < tensor.max()))
        return made

    return checked


def _compare_parts(op: Op, tensor: Tensor, noise: Tensor, strength: float, made: Tensor) -> None:
    flat, drawn = tensor.flatten(), noise.flatten() if op.draws else noise
    half = flat.numel() // 2
    parts = [
        op.apply(flat[span].clone(), (drawn[span] if op.draws else drawn).clone(), strength)
        for span in (slice(None, half), slice(half, None))
        if flat[span].numel()
    ]
    if parts and not torch.allclose(torch.cat(parts), made.flatten(), rtol=1e-4, atol=1e-6):
        raise ValueError(
            f"the op `{op.name}` gives another result for parts of a tensor than for the whole;"
            " declare it with `whole=True`"
        )
