"""The data flow of a network, and which sets of zeroed parameters give the same results.

In a transformer block of Stable Diffusion, zeroing `norm1` leaves attention without values, and so
does zeroing `attn1.to_v`: all that follows is equal, bit for bit. Such equalities are derived here
from the operations of one call: zeros are followed through them to where they end. They are exact
in floating point, as long as all numbers are finite: 0 · x = 0, x + 0 = x, 1 · x = x, f(0) = 0.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ablate.network.hooks import tensors

# What is known of a tensor: that all its entries are a number; that it is equal to another tensor,
# by its number; that it is a bias along all other dimensions; that it is a softmax of equal values.
Known = tuple[str, int]
Effect = frozenset[tuple[int, Known]]
ZERO, ONE, EVEN = ("number", 0), ("number", 1), ("even", 0)

ALONG = "written along"  # what tensors become when others in their memory are written

# Operations of aten by what is known of their results; all others are opaque.
# Entries of the result are those of the arguments.
ARRANGING = {
    "_to_copy", "_unsafe_view", "alias", "cat", "clone", "detach", "expand", "index_select",
    "permute", "pixel_shuffle", "pixel_unshuffle", "repeat", "reshape", "select", "slice", "split",
    "split_with_sizes", "squeeze", "stack", "t", "transpose", "unbind", "unsqueeze",
    "upsample_nearest2d", "view", ALONG,
}  # fmt: skip
# The result is 0 where the first argument is 0.
ODD = {
    "abs", "avg_pool2d", "div", "embedding", "gelu", "hardtanh", "leaky_relu", "mean", "neg",
    "relu", "silu", "sin", "sqrt", "sum", "tanh", "view_as_complex", "view_as_real",
}  # fmt: skip
PRODUCTS = {"bmm", "mm", "mul"}  # 0 where an argument is 0
SOFTMAX = {"_safe_softmax", "_softmax"}
# The bias where input or weight is 0; the places of input, weight and bias.
AFFINE = {
    "addmm": (1, 2, 0),
    "convolution": (0, 1, 2),
    "native_group_norm": (0, 1, 2),
    "native_layer_norm": (0, 2, 3),
}


@dataclass(frozen=True)
class Numbered:
    """A tensor among the arguments of an operation."""

    number: int


@dataclass(frozen=True)
class Call:
    """One operation of a network.

    Attributes:
        op: The name of the operation.
        args: Its arguments; tensors as `Numbered`.
        inputs: The numbers of all tensors among its arguments.
        outputs: The numbers of its results.
    """

    op: str
    args: tuple[Any, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass
class Flow:
    """The operations of one call of a network, in order; each tensor has a number.

    Attributes:
        calls: The operations.
        forms: Shape and type of each tensor.
        parameters: The numbers of the parameters that are used, by dotted name.
        results: The numbers of the network's results.
        origin: The operation that gives a tensor, by its number.
        users: The operations that take a tensor, by its number.
        idle: Tensors that no result depends on.
    """

    calls: list[Call] = field(default_factory=list)
    forms: list[tuple[torch.Size, torch.dtype]] = field(default_factory=list)
    parameters: dict[str, int] = field(default_factory=dict)
    results: frozenset[int] = frozenset()
    origin: dict[int, int] = field(default_factory=dict)
    users: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    idle: set[int] = field(default_factory=set)

    def effect(self, zeroed: Iterable[str]) -> Effect | None:
        """What zeroing parameters comes to: all that is then known of tensors, where what follows
        is computed from it. Sets of parameters of equal effects give equal results.

        Args:
            zeroed: Their dotted names.

        Returns:
            None where one of them is not used, or no result depends on any.
        """
        names = list(zeroed)
        if any(name not in self.parameters for name in names):
            return None
        known = self._followed({self.parameters[name] for name in names})
        # What is known needs none of what it would be computed from.
        inputs = [number for one in known for number in self._inputs(one)]
        idle = self._idle([*known, *inputs], known)
        effect = frozenset(
            (number, what)
            for number, what in known.items()
            if number in self.results or self._opaque_users(number, known, idle)
        )
        return effect or None

    def _followed(self, zeros: Iterable[int]) -> dict[int, Known]:
        """What is known of tensors if some are 0, by their numbers."""
        known = dict.fromkeys(zeros, ZERO)
        queue = sorted({call for number in known for call in self.users[number]})
        waiting = set(queue)
        while queue:  # in order, so that arguments are known before results
            call = self.calls[heapq.heappop(queue)]
            what = self._known(call, known)
            # Normalizations also give their statistics.
            for number in call.outputs if call.op in ARRANGING else call.outputs[:1]:
                if what is None or what == ("same", number):
                    continue
                known[number] = what
                for user in self.users[number]:
                    if user not in waiting:
                        waiting.add(user)
                        heapq.heappush(queue, user)
        return known

    def _known(self, call: Call, known: Mapping[int, Known]) -> Known | None:
        """What is known of the result of an operation; None where it is opaque."""

        def of(arg: Any) -> Known | None:
            if isinstance(arg, Numbered):
                return known.get(arg.number, ("same", arg.number))
            return ("number", int(arg)) if isinstance(arg, int | float) and arg in (0, 1) else None

        if call.op in ARRANGING:
            what = {known.get(number) for number in call.inputs}
            return next((one for one in (ZERO, ONE) if what == {one}), None)
        if not call.args:
            return None
        if call.op in AFFINE:
            x, weight, bias = (call.args[place] for place in AFFINE[call.op])
            if ZERO not in (of(x), of(weight)):
                return None
            return ZERO if bias is None or of(bias) == ZERO else ("bias", bias.number)
        first = of(call.args[0])
        if call.op == "copy":
            return ZERO if of(call.args[1]) == ZERO else None
        if call.op in ODD:
            return ZERO if first == ZERO else None
        if call.op in SOFTMAX:
            return EVEN if first == ZERO else None
        if len(call.args) < 2:
            return None
        second = of(call.args[1])
        if call.op in PRODUCTS and ZERO in (first, second):
            return ZERO
        if call.op == "constant_pad_nd":
            return ZERO if first == ZERO and not any(call.args[2:]) else None
        if call.op == "pow":
            power = call.args[1]
            return ZERO if first == ZERO and isinstance(power, int | float) and power > 0 else None
        neutral = {"add": ZERO, "sub": ZERO, "mul": ONE}.get(call.op)
        if neutral is not None and second == neutral:
            return self._as_result(call, call.args[0], first)
        if neutral is not None and first == neutral and call.op != "sub":
            return self._as_result(call, call.args[1], second)
        return None

    def _as_result(self, call: Call, arg: Any, what: Known | None) -> Known | None:
        """What is known of an argument that is the result, unless that is of another form."""
        if what in (None, ZERO, ONE):
            return what
        return what if self.forms[arg.number] == self.forms[call.outputs[0]] else None

    def _opaque_users(self, number: int, known: Mapping[int, Known], idle: set[int]) -> bool:
        """Whether a result that is not known, and not idle, is computed from a tensor."""
        return any(
            output not in known and output not in idle
            for call in self.users[number]
            for output in self.calls[call].outputs
        )

    def _idle(self, numbers: Iterable[int], known: Mapping[int, Known]) -> set[int]:
        """Those of some tensors, and of all that they are computed from, that no result depends on;
        and those of which this is so anyway."""
        equal = defaultdict(list)  # tensors that are known to be one of others, by its number
        for number, what in known.items():
            if what[0] in ("same", "bias"):
                equal[what[1]].append(number)
        idle = set(self.idle)
        queue = list(numbers)
        while queue:
            number = queue.pop()
            used = number in self.results or self._opaque_users(number, known, idle)
            if used or number in idle or not idle.issuperset(equal[number]):
                continue
            idle.add(number)
            if number not in known:
                queue += self._inputs(number)
            elif known[number][0] in ("same", "bias"):
                queue.append(known[number][1])
        return idle

    def _inputs(self, number: int) -> tuple[int, ...]:
        """The tensors that a tensor is computed from."""
        return self.calls[self.origin[number]].inputs if number in self.origin else ()


class FlowRecorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the data flow of a network that is called once while it is active.

    On the meta device this costs about as much as the call. `parameters`: those of the network, by
    dotted name.

    Attributes:
        flow: What is recorded; complete after `finish`.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flow = Flow()
        self._numbers: dict[int, int] = {}  # by identity of a tensor
        # By their memory; all are kept, so that identities stay unique.
        self._sharing: defaultdict[int, list[Tensor]] = defaultdict(list)
        self._names: defaultdict[int, list[str]] = defaultdict(list)  # of parameters
        for name, parameter in parameters:
            self._names[id(parameter)].append(name)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        inputs = {id(tensor): self._number(tensor) for tensor in tensors((args, kwargs))}
        plain = tuple(Numbered(inputs[id(a)]) if isinstance(a, Tensor) else a for a in args)
        written = [
            value
            for value, argument in zip(args, func._schema.arguments, strict=False)
            if isinstance(value, Tensor) and argument.alias_info and argument.alias_info.is_write
        ]
        result = func(*args, **kwargs)
        op = func.name().removeprefix("aten::").partition(".")[0]
        op = op.removesuffix("_") if written else op
        if kwargs.get("alpha", 1) != 1 or kwargs.get("beta", 1) != 1:
            op += " of multiples"
        changed = {id(tensor): tensor for tensor in (*tensors(result), *written)}
        # Other tensors in memory that is written change along.
        others = [t for one in written for t in self._sharing[_memory(one)] if id(t) not in changed]
        before = [self._number(other) for other in others]
        outputs = self._add(op, plain, inputs.values(), changed.values())
        for other, number in zip(others, before, strict=True):
            self._add(ALONG, (), [number, *outputs], [other])
        return result

    def _number(self, tensor: Tensor) -> int:
        """The number of a tensor; a new one where no operation gave it."""
        known = self._numbers.get(id(tensor))
        return self._new(tensor) if known is None else known

    def _new(self, tensor: Tensor) -> int:
        number = len(self.flow.forms)
        self.flow.forms.append((tensor.shape, tensor.dtype))
        if id(tensor) not in self._numbers:
            self._sharing[_memory(tensor)].append(tensor)
        self._numbers[id(tensor)] = number
        for name in self._names.get(id(tensor), ()):
            self.flow.parameters[name] = number
        return number

    def _add(
        self, op: str, args: tuple[Any, ...], inputs: Iterable[int], results: Iterable[Tensor]
    ) -> tuple[int, ...]:
        """Record an operation; returns the numbers of its results."""
        flow, place = self.flow, len(self.flow.calls)
        call = Call(op, args, tuple(inputs), tuple(map(self._new, results)))
        flow.calls.append(call)
        flow.origin.update(dict.fromkeys(call.outputs, place))
        for number in call.inputs:
            flow.users[number].append(place)
        return call.outputs

    def finish(self, result: object) -> Flow:
        """The flow of a call with its result."""
        flow = self.flow
        flow.results = frozenset(map(self._number, tensors(result)))
        flow.idle = flow._idle(range(len(flow.forms)), {})
        return flow


def _memory(tensor: Tensor) -> int:
    """What identifies the memory of a tensor, which views share."""
    return int(tensor.untyped_storage()._cdata)
