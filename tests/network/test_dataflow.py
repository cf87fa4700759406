"""Which zeroings are one experiment, in networks of plain modules and of written operations."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ablate.network.catalog import build_catalog
from ablate.network.dataflow import Effect, Flow


class Plain(nn.Module):
    """A network of modules that a function combines."""

    def __init__(self, function: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def linear(bias: bool = False) -> nn.Module:
    return nn.Linear(4, 4, bias=bias)


def flow_of(network: nn.Module) -> Flow:
    without_weights = copy.deepcopy(network).to("meta")
    x = torch.zeros(2, 4, device="meta")
    flow = build_catalog(without_weights, lambda: without_weights(x)).flow
    assert flow is not None
    return flow


def effect(network: nn.Module, *paths: str) -> Effect | None:
    modules = dict(network.named_modules())
    names = [f"{path}.{name}" for path in paths for name, _ in modules[path].named_parameters()]
    return flow_of(network).effect(names)


def result(network: nn.Module, *paths: str) -> Tensor:
    """What the network gives with modules zeroed."""
    modules = dict(network.named_modules())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with torch.no_grad():
        for path in paths:
            for parameter in modules[path].parameters():
                parameter.zero_()
        output = network(torch.linspace(-1, 1, 8).view(2, 4))
    network.load_state_dict(before)
    return torch.as_tensor(output)


def in_place(n: Plain, x: Tensor) -> Tensor:
    y = n.a(x)
    y[:, 2:] = n.b(x)[:, 2:]
    return torch.as_tensor(n.c(y))


def written_view(n: Plain, x: Tensor) -> Tensor:
    y = n.a(x)
    view = y[:, :2]
    y.add_(1.0)
    return view * n.b(x)[:, :2]


SAME: list[tuple[Callable[[Plain, Tensor], Tensor], str, str]] = [
    (lambda n, x: n.b(n.a(x)), "a", "b"),
    (lambda n, x: n.a(x) * n.b(x) + x, "a", "b"),
    (lambda n, x: x + n.b(F.silu(n.a(x))), "a", "b"),
    (lambda n, x: torch.softmax(n.a(x) @ n.b(x).T, -1) @ n.c(x), "a", "b"),
    (lambda n, x: n.c(n.a(x).chunk(2, -1)[0].repeat(1, 2)), "a", "c"),
    (lambda n, x: (1 + n.a(x)) * x * n.b(x) + x, "b", "a b"),
    (in_place, "a b", "c"),
]
DIFFERENT: list[tuple[Callable[[Plain, Tensor], Tensor], str, str]] = [
    (lambda n, x: n.b(n.a(x) + x), "a", "b"),
    (lambda n, x: n.b(torch.cos(n.a(x))), "a", "b"),
    (lambda n, x: n.b(torch.cat([n.a(x), x], 0)), "a", "b"),
    (lambda n, x: torch.softmax(n.a(x) @ n.b(x).T, -1) @ n.c(x), "a", "c"),
    (lambda n, x: n.b(F.pad(n.a(x), (0, 0, 0, 1), value=1.0)), "a", "b"),
    (lambda n, x: x / (1 + n.a(x).exp() * n.b(x)), "a", "b"),
    (lambda n, x: (1 + n.a(x)) * x + n.b(x), "a", "a b"),
    (in_place, "a", "c"),
    (written_view, "a", "b"),
]


@pytest.mark.parametrize(("function", "one", "other"), SAME)
def test_zeroings_of_equal_effect(
    function: Callable[[Plain, Tensor], Tensor], one: str, other: str
) -> None:
    network = Plain(function, a=linear(), b=linear(), c=linear())
    assert effect(network, *one.split()) == effect(network, *other.split()) is not None
    assert torch.equal(result(network, *one.split()), result(network, *other.split()))


@pytest.mark.parametrize(("function", "one", "other"), DIFFERENT)
def test_zeroings_of_different_effects(
    function: Callable[[Plain, Tensor], Tensor], one: str, other: str
) -> None:
    network = Plain(function, a=linear(), b=linear(), c=linear())
    assert effect(network, *one.split()) != effect(network, *other.split())
    assert not torch.equal(result(network, *one.split()), result(network, *other.split()))


def test_a_bias_is_what_is_left() -> None:
    network = Plain(lambda n, x: n.c(n.b(n.a(x))), a=linear(), b=linear(bias=True), c=linear())
    flow = flow_of(network)
    assert flow.effect(["a.weight"]) == flow.effect(["b.weight"]) is not None
    assert flow.effect(["b.weight", "b.bias"]) == flow.effect(["c.weight"])
    assert flow.effect(["a.weight"]) != flow.effect(["b.weight", "b.bias"])
    assert torch.equal(result(network, "a"), network.c(network.b.bias.expand(2, 4)))


@pytest.mark.parametrize("normalize", [nn.LayerNorm(4), nn.GroupNorm(2, 4)])
def test_a_norm_without_weights_is_its_bias(normalize: nn.Module) -> None:
    network = Plain(lambda n, x: n.b(n.norm(n.a(x))), a=linear(), b=linear(), norm=normalize)
    flow = flow_of(network)
    assert flow.effect(["a.weight"]) == flow.effect(["norm.weight"]) is not None
    assert effect(network, "norm") == effect(network, "b")


@pytest.mark.parametrize("names", [["unused.weight"], ["a.weight", "unused.weight"], []])
def test_what_is_not_used_or_changes_nothing_has_no_effect(names: Sequence[str]) -> None:
    network = Plain(lambda n, x: n.a(x), a=linear(), unused=linear())
    assert flow_of(network).effect(names) is None


def test_what_no_result_depends_on_has_no_effect() -> None:
    network = Plain(lambda n, x: (n.b(x), n.a(x))[1], a=linear(), b=linear())
    assert effect(network, "b") is None
    assert effect(network, "a", "b") == effect(network, "a") is not None


def test_a_tensor_that_two_modules_share_is_one() -> None:
    with torch.device("meta"):  # moved there, they would be two
        network = Plain(lambda n, x: n.a(x) + n.b(x), a=linear(), b=linear())
    network.b.weight = network.a.weight
    assert effect(network, "a") == effect(network, "b") == effect(network, "a", "b") is not None
