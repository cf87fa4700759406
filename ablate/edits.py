"""Edits and variants, and a variant applied to a network in place, with exact restore.

    with applied(network, Variant("no middle", (Edit.on(network, "zero", "mid_block.*"),))):
        ...  # the network is edited here, and bit for bit as before afterwards

Works on any `torch.nn.Module`. Memory: a copy of the touched tensors, for as long as they are
edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ablate import ops
from ablate.catalog import Selector, catalog, select

Draw = Callable[..., Tensor]  # as `ops.draw`


@dataclass(frozen=True)
class Edit:
    """One op on some modules. `params`: `weight` or `bias` narrows it; None is all parameters.

    `when`: the first and the last step of the sampling at which it holds, counted from 0; None is
    all of them.
    """

    op: str
    modules: tuple[str, ...]
    strength: float | None = None
    params: str | None = None
    distribution: str | None = None
    when: tuple[int, int] | None = None

    @classmethod
    def on(
        cls,
        network: nn.Module,
        op: str,
        selector: Selector,
        strength: float | None = None,
        *,
        params: str | None = None,
        distribution: str | None = None,
        when: tuple[int, int] | None = None,
    ) -> Edit:
        """An edit on the modules of `network` that a selector names (`ablate.catalog.select`)."""
        paths = tuple(m.path for m in select(selector, catalog(network)))
        return cls(op, paths, strength, params, distribution, when)

    def __post_init__(self) -> None:
        if self.op not in ops.OPS:
            raise ValueError(f"there is no op `{self.op}`; known: {', '.join(sorted(ops.OPS))}")
        needed = ops.OPS[self.op].strength
        if (self.strength is None) != (needed is None):
            takes = f"needs a strength, `{needed}`" if needed else "takes no strength"
            raise ValueError(f"`{self.op}` {takes}")

    @property
    def is_random(self) -> bool:
        return ops.OPS[self.op].draws is not None

    @property
    def is_neutral(self) -> bool:
        """Whether its strength is the one that leaves every bit as it is."""
        neutral = ops.OPS[self.op].neutral
        return neutral is not None and self.strength == neutral

    def holds(self, step: int) -> bool:
        """Whether it is in force at a step of the sampling."""
        return self.when is None or self.when[0] <= step <= self.when[1]

    def as_json(self) -> dict[str, Any]:
        """Plain objects for a cell's PNG; what is not set is left out."""
        given = {k: v for k, v in asdict(self).items() if v is not None}
        given["modules"] = list(self.modules)
        if self.when is not None:
            given["when"] = {"steps": list(self.when)}
        if self.strength is not None:
            given[str(ops.OPS[self.op].strength)] = given.pop("strength")
        return given

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Edit:
        """The edit that `as_json` told of. Raises `KeyError` or `ValueError` when it is none."""
        when = told.get("when")
        strength = ops.OPS[told["op"]].strength
        return cls(
            op=told["op"],
            modules=tuple(told["modules"]),
            strength=told[strength] if strength else None,
            params=told.get("params"),
            distribution=told.get("distribution"),
            when=(when["steps"][0], when["steps"][1]) if when else None,
        )


@dataclass(frozen=True)
class Variant:
    """A named set of edits, applied in order; without edits it is the baseline.

    `perturbation_seed`: what all random draws of the variant start from.
    """

    name: str
    edits: tuple[Edit, ...] = ()
    perturbation_seed: int = 0

    @property
    def is_baseline(self) -> bool:
        return not self.edits

    @property
    def modules(self) -> tuple[str, ...]:
        """Paths of all modules that are edited, each once."""
        return tuple(dict.fromkeys(path for edit in self.edits for path in edit.modules))

    @property
    def is_random(self) -> bool:
        return any(edit.is_random for edit in self.edits)

    @property
    def moments(self) -> set[int]:
        """The steps from which on other edits hold than before; 0 is among them."""
        windows = [edit.when for edit in self.edits if edit.when is not None]
        return {0} | {step for first, last in windows for step in (first, last + 1)}

    def at(self, step: int) -> Variant:
        """The variant with those of its edits that hold at a step."""
        return replace(self, edits=tuple(edit for edit in self.edits if edit.holds(step)))

    def identity(self) -> dict[str, Any]:
        """What of a variant determines an image."""
        found: dict[str, Any] = {"edits": [edit.as_json() for edit in self.edits]}
        if self.is_random:
            found["perturbation_seed"] = self.perturbation_seed
        return found


@dataclass(frozen=True)
class Touched:
    """A parameter that a variant edits, and the edits that apply to it, in order."""

    module: str
    name: str
    parameter: nn.Parameter
    edits: tuple[Edit, ...]


def touched(modules: Mapping[str, nn.Module], variant: Variant) -> Iterator[Touched]:
    """All parameters that a variant edits. A tensor that two modules share is given once.

    `modules`: those of the network by path. Raises `ValueError` for a path that is not among them.
    """
    seen: set[int] = set()
    by_module: dict[str, list[Edit]] = {}
    for edit in variant.edits:
        for path in edit.modules:
            by_module.setdefault(path, []).append(edit)
    for path, applying in by_module.items():
        if path not in modules:
            raise ValueError(f"variant `{variant.name}`: the network has no module `{path}`")
        for name, parameter in modules[path].named_parameters(recurse=False):
            chosen = tuple(e for e in applying if e.params in (None, name))
            if chosen and id(parameter) not in seen:
                seen.add(id(parameter))
                yield Touched(path, name, parameter, chosen)


@torch.no_grad()
def edited(
    item: Touched, untouched: Tensor, perturbation_seed: int, draw: Draw = ops.draw
) -> Tensor:
    """The weights of one parameter after its edits; `untouched`: as loaded, left as it is."""
    tensor = untouched
    for edit in item.edits:
        op = ops.OPS[edit.op]
        noise = draw(
            op,
            untouched,
            seed=perturbation_seed,
            module=item.module,
            parameter=item.name,
            distribution=edit.distribution,
        )
        tensor = ops.apply(op, tensor, noise, edit.strength)
    return tensor


class Draws:
    """`ops.draw`, but one draw serves all strengths: kept while the same weights are edited.

    `limit`: bytes to keep. What comes first is kept, for a sweep asks for all of it again, in the
    same order, at every strength; the draws of another perturbation seed start anew.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._kept: dict[tuple[object, ...], Tensor] = {}
        self._bytes = 0
        self._seed: int | None = None

    def __call__(self, op: ops.Op, untouched: Tensor, *, seed: int, **where: Any) -> Tensor:
        if op.draws is None:
            return ops.draw(op, untouched, seed=seed, **where)
        if seed != self._seed:
            self._kept.clear()
            self._seed, self._bytes = seed, 0
        key = (op.stream, op.draws, *where.values())
        if key not in self._kept:
            noise = ops.draw(op, untouched, seed=seed, **where)
            if self._bytes + noise.nbytes > self.limit:
                return noise
            self._kept[key] = noise
            self._bytes += noise.nbytes
        return self._kept[key]


@contextmanager
def applied(network: nn.Module, variant: Variant, draw: Draw = ops.draw) -> Iterator[set[str]]:
    """Edit a network in place; afterwards every tensor is bit-identical to what it was.

    Yields the paths of the modules in which at least one number changed. Restores after errors
    and interruptions too. `draw`: where noise comes from, `ops.draw` or a `Draws` that keeps it.
    """
    saved: list[tuple[Tensor, Tensor]] = []
    differs: list[tuple[str, Tensor | bool]] = []
    try:
        with torch.no_grad():
            for item in touched(dict(network.named_modules()), variant):
                weights = item.parameter.data
                untouched = weights.clone()
                saved.append((weights, untouched))
                weights.copy_(edited(item, untouched, variant.perturbation_seed, draw))
                differs.append((item.module, _differs(weights, untouched)))
        # Asked for when all are under way, so that a GPU is not waited for at each.
        yield {path for path, differs_here in differs if differs_here}
    finally:
        _restore(saved)


def _differs(one: Tensor, other: Tensor) -> Tensor | bool:
    """Whether two tensors differ; on a GPU as a tensor, which is there before its answer."""
    return not torch.equal(one, other) if one.device.type == "cpu" else (one != other).any()


def _restore(saved: list[tuple[Tensor, Tensor]]) -> None:
    interrupted: KeyboardInterrupt | None = None
    while saved:
        try:
            with torch.no_grad():
                saved[-1][0].copy_(saved[-1][1])
            saved.pop()
        except KeyboardInterrupt as error:  # restore first, stop then
            interrupted = error
    if interrupted is not None:
        raise interrupted


@contextmanager
def watched(
    network: nn.Module, paths: tuple[str, ...], ran: set[str] | None = None
) -> Iterator[set[str]]:
    """Yields a set, the one given or a new one, that fills with those of the paths that run."""
    ran = set() if ran is None else ran
    modules = dict(network.named_modules())
    handles = []
    try:
        for path in paths:
            handles.append(
                modules[path].register_forward_pre_hook(lambda _m, _a, path=path: ran.add(path))
            )
        yield ran
    finally:
        for handle in handles:
            handle.remove()
