"""Derivatives along edits: how fast a number changes as each of many edits sets in.

An edit takes weights, or outputs, from a to a + Δ. As it sets in, by a + αΔ, a number that depends
on them changes at first by gradient · Δ; of zeroing, which is Δ = -a, that is gradient · weight.
One backward pass gives the gradients for all edits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ablate.edits.batch import EditReport, RowMap
from ablate.edits.in_place import EditedParameter, edited_parameters, edited_weights
from ablate.edits.noise import NoiseCache
from ablate.edits.outputs import edited_outputs, output_edits
from ablate.edits.variants import Variant
from ablate.network import weight_entries


@dataclass(frozen=True)
class _Change:
    """What an edit adds to a parameter; of units to these entries alone.

    Attributes:
        parameter: The parameter.
        dim: The dimension that the entries are of.
        entries: Their numbers; None for all.
        delta: What is added, float32.
    """

    parameter: nn.Parameter
    dim: int
    entries: Tensor | None
    delta: Tensor

    def along(self, gradient: Tensor) -> Tensor:
        """The derivative along the change, by the parameter's gradient."""
        if self.entries is not None:
            gradient = gradient.index_select(self.dim, self.entries)
        derivative: Tensor = (gradient.float() * self.delta).sum()
        return derivative


class Derivatives:
    """Derivatives along the edits of variants, of weights and of outputs.

    Needs memory for a copy of all edited weights and for their gradients.
    """

    def __init__(
        self, network: nn.Module, variants: Sequence[Variant], noise_cache: NoiseCache
    ) -> None:
        self._modules = dict(network.named_modules())
        self._variants = variants
        self._changes = [list(self._changes_of(variant, noise_cache)) for variant in variants]
        every = {id(c.parameter): c.parameter for changes in self._changes for c in changes}
        self._parameters = list(every.values())
        device = next(network.parameters()).device
        self._gates = torch.zeros(len(variants), device=device, requires_grad=True)

    @torch.no_grad()
    def _changes_of(self, variant: Variant, noise_cache: NoiseCache) -> Iterator[_Change]:
        def loaded(path: str, name: str) -> Tensor:
            parameter: Tensor = self._modules[path].get_parameter(name)
            return parameter

        for target in edited_parameters(self._modules, variant):
            weights, seed = target.parameter.detach(), variant.perturbation_seed
            after = edited_weights(target, weights, seed, noise_cache, loaded)
            delta = after.float() - weights.float()
            dim, entries = _entries(target)
            if entries is not None:
                delta = delta.index_select(dim, entries)
            yield _Change(target.parameter, dim, entries, delta)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Let what the network computes meanwhile depend on the edits; it computes the same."""
        required = [parameter.requires_grad for parameter in self._parameters]
        with ExitStack() as stack, torch.enable_grad():
            for variant, gate in zip(self._variants, self._gates.unbind(), strict=True):
                outputs = output_edits([variant])
                stack.enter_context(
                    edited_outputs(self._modules, outputs, RowMap(1), EditReport(), gate=gate)
                )
            try:
                for parameter in self._parameters:
                    parameter.requires_grad_(True)
                yield
            finally:
                for parameter, before in zip(self._parameters, required, strict=True):
                    parameter.requires_grad_(before)

    def of(self, number: Tensor) -> Tensor:
        """The derivative of a number, computed while `watching`, along each variant's edits."""
        sources = [*self._parameters, self._gates]
        *by_parameter, gates = torch.autograd.grad(
            number, sources, retain_graph=True, allow_unused=True
        )
        gradients = {id(p): g for p, g in zip(self._parameters, by_parameter, strict=True)}
        total = torch.zeros_like(self._gates) if gates is None else gates.clone()
        for i, changes in enumerate(self._changes):
            for change in changes:
                gradient = gradients[id(change.parameter)]
                if gradient is not None:  # of a module that runs
                    total[i] += change.along(gradient)
        return total.detach()


def _entries(target: EditedParameter) -> tuple[int, Tensor | None]:
    """The entries of a parameter that an edit of a unit changes, if it is a single one."""
    unit = target.edits[0].unit
    if unit is None or len(target.edits) > 1:
        return 0, None
    weights = target.parameter
    chosen = weight_entries(target.owner, target.module, weights, unit, target.heads)
    if chosen is None:
        return 0, torch.empty(0, dtype=torch.long, device=weights.device)
    dim, numbers = chosen
    return dim, torch.tensor(numbers, device=weights.device)
