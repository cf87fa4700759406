"""Derivatives along edits, against differences of a network with a little of each edit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ablate.edits.first_order import Derivatives
from ablate.edits.in_place import applied
from ablate.edits.noise import NoiseCache
from ablate.edits.variants import Edit, Variant
from ablate.network.slices import Unit

LITTLE = 1e-3


class Net(nn.Module):
    """A few layers whose output is no linear function of their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(5, 8)
        self.norm = nn.LayerNorm(8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(torch.tanh(self.first(x))))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().double()


@pytest.mark.parametrize("where", ["weights", "output"])
@pytest.mark.parametrize(
    ("path", "unit"),
    [("first", None), ("norm", None), ("last", None), ("first", Unit("channels", (1, 4)))],
)
def test_they_are_those_of_a_little_of_the_edit(
    net: Net, where: str, path: str, unit: Unit | None
) -> None:
    x = torch.randn(4, 5, dtype=torch.float64)
    signs = torch.randn(4, 3, dtype=torch.float64)

    def number() -> Tensor:
        return (net(x) * signs).sum()

    def variant(factor: float) -> Variant:
        return Variant("", (Edit("scale", (path,), factor, where=where, unit=unit),))

    before = number().item()
    with applied(net, variant(1 - LITTLE)):
        difference = (number().item() - before) / LITTLE
    both = Derivatives(net, [variant(0.0), variant(0.5)], NoiseCache())
    with both.watching():
        now = number()
        assert now.item() == before
        whole, half = both.of(now).tolist()
    assert whole == pytest.approx(difference, rel=0.02)
    assert half == pytest.approx(whole / 2, rel=1e-5)
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert number().item() == before


def test_that_of_several_edits_is_their_sum(net: Net) -> None:
    edits = [Edit("zero", ("first",)), Edit("zero", ("last",)), Edit("zero", ("norm",))]
    variants = [*(Variant("", (edit,)) for edit in edits), Variant("", tuple(edits))]
    derivatives = Derivatives(net, variants, NoiseCache())
    with derivatives.watching():
        *each, together = derivatives.of(net(torch.ones(1, 5).double()).sum()).tolist()
    assert together == pytest.approx(sum(each), rel=1e-5)
