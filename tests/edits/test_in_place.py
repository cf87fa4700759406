"""Variants applied in place: exact restore, and nothing else that an edit depends on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from swept import SWEPT, strength
from torch import nn

from ablate.edits.in_place import applied, edited_parameters
from ablate.edits.noise import NoiseCache
from ablate.edits.registry import OPS
from ablate.edits.variants import Edit, Variant
from ablate.network.catalog import build_catalog
from ablate.network.hooks import watched
from ablate.network.selectors import select
from ablate.sampling.pipeline import Pipeline

OF_WEIGHTS = [name for name, op in OPS.items() if "weights" in op.places]


def everywhere(op: str, network: nn.Module) -> Edit:
    """An edit of all that an op can edit in a network."""
    if op == "swap":
        queries, keys = (select(f"*.attn1.to_{name}", build_catalog(network)) for name in "qk")
        return Edit(op, tuple(m.path for m in queries), partners=tuple(m.path for m in keys))
    return Edit.on(
        network, op, "*", strength(op, 0.4), checkpoint="other" if op == "blend" else None
    )


def draws_for(network: nn.Module) -> NoiseCache:
    """With a checkpoint of ones everywhere."""
    weights = dict(network.named_parameters())
    return NoiseCache(
        0, lambda _model, _component, path, name: torch.ones_like(weights[f"{path}.{name}"])
    )


def bits(network: nn.Module) -> dict[str, bytes]:
    return {k: v.detach().numpy().tobytes() for k, v in network.state_dict().items()}


@contextmanager
def untouched_afterwards(network: nn.Module) -> Iterator[None]:
    """Law 1: every tensor is bit-identical to what it was."""
    before = bits(network)
    yield
    assert bits(network) == before


@pytest.mark.parametrize("op", OF_WEIGHTS)
def test_restores_every_bit(op: str, tiny: Pipeline) -> None:
    variant = Variant("v", (everywhere(op, tiny.network),))
    with untouched_afterwards(tiny.network):
        before = bits(tiny.network)
        with applied(tiny.network, variant, draws_for(tiny.network)) as report:
            assert bits(tiny.network) != before
        assert report.changed


@pytest.mark.parametrize("op", OF_WEIGHTS)
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_restores_after_an_error(op: str, error: type[BaseException], tiny: Pipeline) -> None:
    variant = Variant("v", (everywhere(op, tiny.network),))
    with (
        untouched_afterwards(tiny.network),
        pytest.raises(error),
        applied(tiny.network, variant, draws_for(tiny.network)),
    ):
        raise error


def test_restores_when_an_edit_fails_halfway(
    tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = torch.randn
    drawn = 0

    def failing(*args: object, **options: object) -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        if drawn == 20:
            raise MemoryError
        return real(*args, **options)  # type: ignore[arg-type,call-overload,no-any-return]

    monkeypatch.setattr(torch, "randn", failing)
    variant = Variant("v", (Edit.on(tiny.network, "randomize", "*"),))
    with (
        untouched_afterwards(tiny.network),
        pytest.raises(MemoryError),
        applied(tiny.network, variant),
    ):
        pytest.fail("must not get here")
    assert drawn == 20


def test_restores_everything_when_interrupted_while_restoring() -> None:
    network = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    interrupted = False

    class Interrupting(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(  # type: ignore[no-untyped-def]
            self, func, types, args=(), kwargs=None
        ):
            nonlocal interrupted
            if func is torch.ops.aten.copy_.default and not interrupted:
                interrupted = True
                raise KeyboardInterrupt
            return func(*args, **(kwargs or {}))

    variant = Variant("v", (Edit("zero", ("0", "1")),))
    with untouched_afterwards(network):
        context = applied(network, variant)
        context.__enter__()
        with Interrupting(), pytest.raises(KeyboardInterrupt):
            context.__exit__(None, None, None)
    assert interrupted


def test_restores_nan_and_negative_zero() -> None:
    network = nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([[float("nan"), -0.0], [float("inf"), 1.0]]))
    with untouched_afterwards(network), applied(network, Variant("v", (Edit("zero", ("",)),))):
        assert network.weight.abs().sum() == 0


def weights_under(network: nn.Module, *edits: Edit, path: str) -> torch.Tensor:
    with applied(network, Variant("v", edits)):
        return network.get_submodule(path).weight.detach().clone()


@pytest.mark.parametrize("op", [name for name in SWEPT if OPS[name].draws or OPS[name].whole])
def test_an_edit_depends_on_no_other(op: str, tiny: Pipeline) -> None:
    """Law 2: neither order nor company changes the weights that an edit gives."""
    path = "mid_block.resnets.0.conv1"
    alone = Edit(op, (path,), strength(op, 0.4))
    of_all = everywhere(op, tiny.network)
    reversed_order = replace(of_all, modules=of_all.modules[::-1])
    other = Edit("shuffle", ("conv_in",))
    expected = weights_under(tiny.network, alone, path=path)
    for edits in ((of_all,), (reversed_order,), (other, alone), (alone, other)):
        assert torch.equal(weights_under(tiny.network, *edits, path=path), expected)


def test_modules_that_swap_get_what_was_loaded() -> None:
    """Law 2: whatever else is done to their partners, before or after."""
    network = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    weights = [module.weight.detach().clone() for module in network]
    swap = Edit("swap", ("0",), partners=("2",))
    for edits in ((swap,), (Edit("zero", ("2",)), swap), (swap, Edit("scale", ("1",), 0.5))):
        assert torch.equal(weights_under(network, *edits, path="0"), weights[2])
        assert torch.equal(weights_under(network, *edits, path="2"), weights[0])
    assert torch.equal(weights_under(network, swap, path="1"), weights[1])


def test_edits_of_one_module_go_in_order_with_statistics_of_the_untouched() -> None:
    network = nn.Sequential(nn.Linear(50, 50))
    original = network[0].weight.detach().clone()
    halved = Edit("scale", ("0",), 0.5)
    added = Edit("add_noise", ("0",), 1.0)
    noise = weights_under(network, added, path="0") - original
    both = weights_under(network, halved, added, path="0")
    torch.testing.assert_close(both, 0.5 * original + noise)


def test_params_narrows_to_weight_or_bias() -> None:
    network = nn.Linear(3, 3)
    with applied(network, Variant("v", (Edit("zero", ("",), params="bias"),))):
        assert network.bias.abs().sum() == 0
        assert network.weight.abs().sum() > 0


def test_tied_weights_are_edited_once() -> None:
    network = nn.ModuleDict({"a": nn.Linear(4, 4, bias=False), "b": nn.Linear(4, 4, bias=False)})
    network["b"].weight = network["a"].weight
    original = network["a"].weight.detach().clone()
    variant = Variant("v", (Edit("scale", ("a", "b"), 0.5),))
    assert len(list(edited_parameters(dict(network.named_modules()), variant))) == 1
    with untouched_afterwards(network), applied(network, variant):
        assert torch.equal(network["b"].weight, 0.5 * original)


def test_what_changed_and_what_ran_is_reported() -> None:
    network = nn.ModuleDict({"used": nn.Linear(2, 2), "idle": nn.Linear(2, 2)})
    nn.init.zeros_(network["idle"].weight)
    nn.init.zeros_(network["idle"].bias)
    paths = tuple(m.path for m in build_catalog(network))
    with (
        watched(network, paths) as ran,
        applied(network, Variant("v", (Edit("zero", paths),))) as report,
    ):
        network["used"](torch.zeros(1, 2))
    assert ran == {"used"}
    assert report.changed == {"used"}
    assert not network["used"]._forward_pre_hooks


@pytest.mark.parametrize(
    ("op", "given", "message"),
    [
        ("zeros", None, "there is no op `zeros`"),
        ("scale", None, "needs a strength, `factor`"),
        ("zero", 1.0, "takes no strength"),
    ],
)
def test_wrong_edits_are_refused(op: str, given: float | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Edit(op, ("a",), given)


def test_an_unknown_module_is_refused_and_nothing_stays_edited() -> None:
    network = nn.Linear(2, 2)
    variant = Variant("v", (Edit("zero", ("", "nowhere")),))
    with (
        untouched_afterwards(network),
        pytest.raises(ValueError, match="no module `nowhere`"),
        applied(network, variant),
    ):
        pytest.fail("must not get here")
