"""Variants that are one experiment: they zero different modules, and all that follows is equal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from ablate.edits import Variant, When
from ablate.network import Catalog, Effect, Flow, Networks
from ablate.sweep.cells import Plan

_Experiment = tuple[str | None, When | None, Effect]


def equal_variants(variants: Iterable[Variant], networks: Networks) -> dict[Variant, Variant]:
    """Those of some variants that give the images of an earlier one, with the first such.

    They zero weights of the denoiser, and nothing else (`ablate.network.Flow`).
    """
    first: dict[_Experiment, Variant] = {}
    names: dict[str | None, dict[str, list[str]]] = {}
    equal = {}
    for variant in variants:
        if not variant.edits or not all(edit.zeroes_weights for edit in variant.edits):
            continue
        components = {edit.component for edit in variant.edits}
        windows = {edit.when for edit in variant.edits}
        if len(components) > 1 or len(windows) > 1:
            continue
        (component,), (when,) = components, windows
        catalog = networks.of(component)
        if catalog.flow is None or networks.phase(component) != "denoising":
            continue
        by_module = names.setdefault(component, names.get(component) or _parameters(catalog))
        zeroed = _zeroed(variant, by_module)
        effect = catalog.flow.effect(zeroed) if zeroed else None
        if effect is not None:
            same = first.setdefault((component, when, effect), variant)
            if same is not variant:
                equal[variant] = same
    return equal


def as_loaded(plan: Plan, flow: Flow | None, denoiser: str) -> Plan:
    """The plan with those variants of one effect that are so in the network as it is loaded.

    Args:
        plan: A plan from configuration.
        flow: The data flow of the denoiser; None where it is not known.
        denoiser: The name of that component.
    """
    if not plan.same:
        return plan
    concerned = plan.same.keys() | set(plan.same.values())
    variants = [variant for variant in plan.variants if variant in concerned]
    networks = Networks(Catalog((), (), flow), denoiser)
    return replace(plan, same=equal_variants(variants, networks))


def _parameters(catalog: Catalog) -> dict[str, list[str]]:
    """The names of the parameters that are used, by module."""
    names = defaultdict(list)
    for name in catalog.flow.parameters if catalog.flow else ():
        module, _, parameter = name.rpartition(".")
        names[module].append(parameter)
    return names


def _zeroed(variant: Variant, by_module: dict[str, list[str]]) -> set[str]:
    """The parameters that a variant zeroes; none if one of its modules is not used."""
    zeroed = set()
    for edit in variant.edits:
        for path in edit.modules:
            if path not in by_module:
                return set()
            zeroed |= {
                f"{path}.{name}".removeprefix(".")
                for name in by_module[path]
                if edit.params in (None, name)
            }
    return zeroed
