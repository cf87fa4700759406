"""A simulated accelerator: tensors on the CPU that say they are on `cuda:0`.

As on a GPU, mixing them with others raises, and arrays are made of them by a copy alone.
Whatever a GPU would have to be waited for is counted, by what it is and the line that asks for it.

    with accelerator() as waits:
        ...
    assert sum(waits.values()) < 10
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import ablate

HERE = torch.device("cuda", 0)
CPU = torch.device("cpu")
LAB = Path(ablate.__file__).parent
PASSED = (__file__, str(Path(torch.__file__).parent))  # files that ask for others
MIXED = "Expected all tensors to be on the same device, but found at least two devices, {} and cpu"
GENERATOR = "Expected a 'cuda' device type for generator but found 'cpu'"
# What looks at a tensor without reading its numbers.
FREE = {
    "size", "dim", "stride", "numel", "nelement", "is_contiguous", "element_size", "data_ptr",
    "storage_offset", "is_floating_point", "is_complex", "__len__", "ndimension", "__hash__",
    "type", "untyped_storage", "register_hook", "__repr__", "__format__", "is_inference",
    "_is_view", "is_same_size", "set_", "as_subclass", "_make_subclass",
}  # fmt: skip
READS = {"item", "__bool__", "__int__", "__float__", "__index__", "tolist", "equal", "allclose",
         "nonzero", "masked_select", "unique", "bincount"}  # fmt: skip
DRAWS = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_"}
MOVES = {"to", "cuda", "cpu"}
Waits = Counter[tuple[str, str]]


class Simulated(Tensor):
    """A tensor of the simulated device."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return HERE

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        return False

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Tensor.__reduce_ex__(plain(self), protocol)

    def __deepcopy__(self, memo: Any) -> Tensor:
        return on_device(plain(self).detach().clone()).requires_grad_(self.requires_grad)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _Device.current.call(func, args, kwargs or {})


def plain(tensor: Any) -> Any:
    """The same memory as a tensor of the CPU; other values as they are."""
    if not isinstance(tensor, Simulated):
        return tensor
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(Tensor)


def on_device(value: Any) -> Any:
    """The same memory as a tensor of the simulated device; in tuples and lists too."""
    if isinstance(value, Tensor) and not isinstance(value, Simulated):
        with torch._C.DisableTorchFunctionSubclass():
            return value.as_subclass(Simulated)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(on_device, value))
    return type(value)(map(on_device, value)) if type(value) in (tuple, list) else value


def tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(item)


def type_of(device: Any) -> str | None:
    """The type of a device in whatever form; None of what is none."""
    if isinstance(device, torch.device | str):
        return torch.device(device).type
    return "cuda" if type(device) is int else None


class _Device(TorchFunctionMode):
    """Decides on which device the results of functions of torch are."""

    current: _Device

    def __init__(self) -> None:
        super().__init__()
        self.waits: Waits = Counter()
        self.counts = True

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        asked = type_of(kwargs.get("device")) == "cuda" or name in MOVES
        if asked or any(isinstance(t, Simulated) for t in tensors_in((args, kwargs))):
            return self.call(func, args, kwargs)
        return func(*args, **kwargs)

    def wait(self, what: str) -> None:
        """Count a wait, by the line that it happens in, of the lab or of a library."""
        frame = sys._getframe(2)
        while frame.f_back is not None and frame.f_code.co_filename.startswith(PASSED):
            frame = frame.f_back
        if self.counts:
            path = Path(frame.f_code.co_filename)
            is_ours = path.is_relative_to(LAB)
            place = path.relative_to(LAB) if is_ours else Path("library", *path.parts[-2:])
            self.waits[what, f"{place}:{frame.f_lineno}"] += 1

    def call(self, func: Any, args: Any, kwargs: Any) -> Any:
        name = getattr(func, "__name__", str(func))
        with torch._C.DisableTorchFunctionSubclass():
            if name in ("__get__", "__set__"):
                result = func(*args, **kwargs)
                return on_device(result) if isinstance(args[0], Simulated) else result
            if name in FREE:
                return func(*args, **kwargs)
            if name == "requires_grad_":
                func(*args, **kwargs)
                return args[0]
            if name in MOVES:
                return self._moved(func, name, args, kwargs)
            if name in ("__getitem__", "__setitem__"):
                return self._indexed(func, name, args)
            if name == "copy_":
                if isinstance(args[0], Simulated) != isinstance(args[1], Simulated):
                    self.wait("copy")
                func(*map(plain, args), **kwargs)
                return args[0]
            return self._computed(func, name, args, kwargs)

    def _computed(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        given = list(tensors_in((args, kwargs)))
        there = [tensor for tensor in given if isinstance(tensor, Simulated)]
        if there and name in ("numpy", "__array__"):
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        if there and name in READS:
            self.wait(name)
        device = type_of(kwargs.get("device"))
        generator = kwargs.get("generator")
        if (device == "cuda" or (there and name in DRAWS)) and generator is not None:
            raise RuntimeError(GENERATOR)
        if device == "cuda":
            kwargs = {**kwargs, "device": CPU}
            if name in ("tensor", "as_tensor"):
                self.wait(name)
        others = [t for t in given if not isinstance(t, Simulated) and t.dim() and t.numel()]
        if there and others:
            raise RuntimeError(f"{MIXED.format(HERE)} ({name})")
        result = func(*args, **kwargs)
        in_place = name.endswith("_") and not name.startswith("__") and there
        if in_place and isinstance(result, Tensor) and result.data_ptr() == args[0].data_ptr():
            return args[0]
        return on_device(result) if device == "cuda" or (there and device is None) else result

    def _indexed(self, func: Any, name: str, args: Any) -> Any:
        base, index, *value = args
        parts = index if isinstance(index, tuple) else (index,)
        for part in parts:
            is_there = isinstance(part, Simulated)
            if isinstance(base, Simulated):
                if is_there and part.dtype == torch.bool:
                    self.wait("mask")
                elif isinstance(part, list) or (
                    isinstance(part, Tensor) and part.dim() and not is_there
                ):
                    self.wait("index")
            elif is_there:
                if part.dim():
                    raise RuntimeError("indices should be on the same device as the tensor (cpu)")
                self.wait("index of the CPU")
        if any(isinstance(base, Simulated) != isinstance(v, Simulated)
               for v in value if isinstance(v, Tensor) and v.dim()):  # fmt: skip
            self.wait(name)
        bare = tuple(map(plain, parts)) if isinstance(index, tuple) else plain(index)
        result = func(plain(base), bare, *map(plain, value))
        return on_device(result) if isinstance(base, Simulated) else result

    def _moved(self, func: Any, name: str, args: Any, kwargs: Any) -> Any:
        tensor, *rest = args
        was, asked = isinstance(tensor, Simulated), None
        given = {**kwargs, **dict(enumerate(rest))}
        for key, value in given.items():
            if isinstance(value, Tensor):
                asked, given[key] = value.device.type, plain(value)
            elif type_of(value):
                asked, given[key] = type_of(value), CPU
        there = {"cuda": True, "cpu": False}.get(name, was if asked is None else asked == "cuda")
        if was != there and not kwargs.get("non_blocking"):
            self.wait("copy")
        bare = plain(tensor)
        if name == "to":
            rest = [given.pop(i) for i in range(len(rest))]
            result = func(bare, *rest, **given)
        else:
            result = bare
        if was == there and result is bare:
            return tensor
        if was != there and result.data_ptr() == bare.data_ptr():
            result = result.clone()
        return on_device(result) if there else result


def _module_to(device: _Device, method: Callable[..., Any]) -> Callable[..., nn.Module]:
    """`nn.Module.to`, to which the simulated device is one like others."""

    def to(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        asked = [type_of(v) for v in (*args, *kwargs.values()) if isinstance(v, torch.device | str)]
        rest = [value for value in args if not isinstance(value, torch.device | str)]
        options = {key: value for key, value in kwargs.items() if key != "device"}
        device.counts = False
        if rest or options:
            method(module, *rest, **options)
        for part in module.modules() if asked else ():
            change = on_device if asked[0] == "cuda" else plain
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    moved = change(parameter.detach().clone())
                    part._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
            for name, buffer in part._buffers.items():
                part._buffers[name] = None if buffer is None else change(buffer)
        device.counts = True
        return module

    return to


@contextmanager
def accelerator() -> Iterator[Waits]:
    """Simulate a GPU of 139 GiB while inside; counts what it would be waited for."""
    free = 100 << 30
    cuda = {
        "is_available": True, "mem_get_info": (free, 139 << 30), "memory_reserved": 3 << 30,
        "memory_allocated": 2 << 30, "max_memory_allocated": 3 << 30, "is_bf16_supported": True,
        "current_device": 0, "empty_cache": None, "reset_peak_memory_stats": None,
        "get_device_name": "Simulated",
    }  # fmt: skip
    device = _Device.current = _Device()
    with ExitStack() as stack:
        for name, value in cuda.items():
            stack.enter_context(mock.patch.object(torch.cuda, name, lambda *_, v=value, **__: v))
        synchronize = lambda *_: device.wait("synchronize")  # noqa: E731
        stack.enter_context(mock.patch.object(torch.cuda, "synchronize", synchronize))
        stack.enter_context(mock.patch.object(Tensor, "pin_memory", lambda tensor: tensor))
        to = _module_to(device, nn.Module.to)
        stack.enter_context(mock.patch.object(nn.Module, "to", to))
        # Its tensors are of a class of their own, as packed ones are.
        stack.enter_context(mock.patch("ablate.edits.in_place._check_plain"))
        stack.enter_context(device)
        yield device.waits
