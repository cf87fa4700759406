"""Edits and variants, and a variant's weights applied to a network in place, with exact restore.

    with applied(network, Variant("no middle", (Edit.on(network, "zero", "mid_block.*"),))):
        ...  # the network is edited here, and bit for bit as before afterwards

Works on any `torch.nn.Module`. Memory: a copy of the touched tensors, for as long as they are
edited.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ablate import ops
from ablate.catalog import Selector, catalog, heads_of, select
from ablate.outputs import Alteration, altered
from ablate.rowmap import RowMap
from ablate.scope import EDITED, Reference, Unit, When, weight_entries


class UnknownOpError(ValueError):
    """An op of a user's own that is not loaded, or is not what it was."""

    def __init__(self, name: str, code: str, known: bool) -> None:
        what = "the file of ops that is loaded is not the one" if known else "no file is loaded"
        super().__init__(
            f"`{name}` is no op of the lab's own: {what} that it comes from; the digest of that"
            f" file is {code}, and `--code FILE` loads it"
        )


@dataclass(frozen=True)
class Edit:
    """One op on some modules.

    `component`: which network they belong to, None for the one that is edited unless told
    otherwise. `where`: `weights`, `output` to edit what the modules give, or `image`, the finished
    picture, which takes no modules. `strength`: in the op's own measure; or `dose`: as the
    Frobenius norm of the change over that of the weights.
    `params`: `weight` or `bias` narrows it; None is all parameters. `kind`: of noise or of choice,
    among those that the op has. `unit`: only these channels or heads. `when`: a window of the
    sampling; None is all of it. `partners`: for `swap`, a module for each of `modules`.
    `checkpoint`: for `blend`, the model that it blends with. `over`: for `mean` and `resample`, the
    references. `text`: for `write`, the words.
    """

    op: str
    modules: tuple[str, ...] = ()
    strength: float | None = None
    params: str | None = None
    kind: str | None = None
    when: When | None = None
    component: str | None = None
    where: str = "weights"
    unit: Unit | None = None
    dose: float | None = None
    partners: tuple[str, ...] = ()
    checkpoint: str | None = None
    over: tuple[Reference, ...] = ()
    text: str | None = None

    @classmethod
    def on(
        cls,
        network: nn.Module,
        op: str,
        selector: Selector,
        strength: float | None = None,
        **settings: Any,
    ) -> Edit:
        """An edit on the modules of `network` that a selector names (`ablate.catalog.select`);
        `settings` are further fields. Of outputs, blocks can be selected as well."""
        blocks = settings.get("where") == "output"
        found = select(selector, catalog(network), blocks=blocks)
        return cls(op, tuple(m.path for m in found), strength, **settings)

    def __post_init__(self) -> None:
        if self.op not in ops.OPS:
            raise ValueError(f"there is no op `{self.op}`; known: {', '.join(sorted(ops.OPS))}")
        op = ops.OPS[self.op]
        if self.where not in op.places:
            raise ValueError(f"`{self.op}` edits {' or '.join(op.places)}, not `{self.where}`")
        if self.dose is not None and (self.strength is not None or not op.linear):
            instead = "its strength" if op.strength else "it as it is"
            raise ValueError(f"`{self.op}` takes no dose here; give {instead}")
        if self.dose is None and (self.strength is None) != (op.strength is None):
            takes = f"needs a strength, `{op.strength}`" if op.strength else "takes no strength"
            raise ValueError(f"`{self.op}` {takes}")
        wrong = None if self.strength is None else ops.wrong_strength(op, self.strength)
        if wrong:
            raise ValueError(f"`{self.op}`: {wrong}")
        if (self.text is None) == (op.draws == "letters"):
            takes = "needs a text" if self.text is None else "takes no text"
            raise ValueError(f"`{self.op}` {takes}")
        if self.where == "image" and self.modules:
            raise ValueError(f"`{self.op}` edits the finished picture, not `{self.modules[0]}`")

    @property
    def is_random(self) -> bool:
        return ops.OPS[self.op].is_random_by(self.kind)

    @property
    def is_neutral(self) -> bool:
        """Whether its strength is the one that leaves every bit as it is, or no word is written."""
        neutral = ops.OPS[self.op].neutral
        wordless = self.text is not None and not self.text.split()
        return wordless or self.dose == 0 or (neutral is not None and self.strength == neutral)

    @property
    def touches(self) -> tuple[str, ...]:
        """Paths of all modules that it edits."""
        return self.modules + self.partners

    def holds(self, step: int, levels: Sequence[float]) -> bool:
        """Whether it is in force at a step of a sampling with these noise levels."""
        return self.when is None or self.when.holds(step, levels)

    def as_json(self) -> dict[str, Any]:
        """Plain objects for a cell's PNG; what is not set is left out."""
        op = ops.OPS[self.op]
        given: dict[str, Any] = {
            "op": self.op,
            "code": op.code,
            "component": self.component,
            "modules": list(self.modules),
            "where": self.where if self.where != "weights" else None,
            "params": self.params,
            op.kind_key: self.kind,
            "when": self.when.as_json() if self.when else None,
            "unit": self.unit.as_json() if self.unit else None,
            "dose": self.dose,
            "partners": list(self.partners) or None,
            "checkpoint": self.checkpoint,
            "over": [[r.prompt, r.seed] for r in self.over] or None,
            "text": self.text,
        }
        if op.strength:
            given[op.strength] = self.strength
        return {k: v for k, v in given.items() if k and v is not None}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Edit:
        """The edit that `as_json` told of. Raises `KeyError` or `ValueError` when it is none."""
        code = told.get("code")
        op = ops.OPS.get(told["op"])
        if code is not None and (op is None or code != op.code):
            raise UnknownOpError(told["op"], code, op is not None)
        if op is None or code != op.code:
            raise ValueError(f"there is no op `{told['op']}`")
        when, unit = told.get("when"), told.get("unit")
        return cls(
            op=op.name,
            modules=tuple(told["modules"]),
            strength=told.get(op.strength) if op.strength else None,
            params=told.get("params"),
            kind=told.get(op.kind_key),
            when=When.from_json(when) if when else None,
            component=told.get("component"),
            where=told.get("where", "weights"),
            unit=Unit.from_json(unit) if unit else None,
            dose=told.get("dose"),
            partners=tuple(told.get("partners", ())),
            checkpoint=told.get("checkpoint"),
            over=tuple(Reference(prompt, seed) for prompt, seed in told.get("over", ())),
            text=told.get("text"),
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
        return tuple(dict.fromkeys(path for edit in self.edits for path in edit.touches))

    @property
    def is_random(self) -> bool:
        return any(edit.is_random for edit in self.edits)

    @property
    def references(self) -> tuple[Reference, ...]:
        """The conditions whose outputs its edits take, each once."""
        return tuple(dict.fromkeys(r for edit in self.edits for r in edit.over))

    @property
    def sampled(self) -> Variant:
        """What of it sampling depends on, without a name: equal where pictures are, but for edits
        of the finished ones."""
        part = self.only(lambda edit: edit.where != "image")
        return Variant("", part.edits, part.perturbation_seed if part.is_random else 0)

    def moments(self, levels: Sequence[float]) -> set[int]:
        """The steps from which on other edits hold than before; 0 is among them."""
        held = [tuple(e.holds(step, levels) for e in self.edits) for step in range(len(levels))]
        return {step for step in range(len(levels)) if not step or held[step] != held[step - 1]}

    def at(self, step: int, levels: Sequence[float]) -> Variant:
        """The variant with those of its edits that hold at a step."""
        return self.only(lambda edit: edit.holds(step, levels))

    def only(self, keep: Callable[[Edit], bool]) -> Variant:
        """The variant with some of its edits."""
        return replace(self, edits=tuple(filter(keep, self.edits)))

    def identity(self) -> dict[str, Any]:
        """What of a variant determines an image."""
        found: dict[str, Any] = {"edits": [edit.as_json() for edit in self.edits]}
        if self.is_random:
            found["perturbation_seed"] = self.perturbation_seed
        return found


@dataclass(frozen=True)
class Touched:
    """A parameter that a variant edits, the module that owns it, and the edits that apply to it, in
    order. `heads`: of the attention layer that it is a projection of, where an edit asks.
    """

    module: str
    name: str
    parameter: nn.Parameter
    edits: tuple[Edit, ...]
    owner: nn.Module
    heads: int


def touched(modules: Mapping[str, nn.Module], variant: Variant) -> Iterator[Touched]:
    """All parameters that a variant edits. A tensor that two modules share is given once.

    `modules`: those of the network by path. Raises `ValueError` for a path that is not among them.
    """
    seen: set[int] = set()
    by_module: dict[str, list[Edit]] = {}
    for edit in variant.edits:
        for path in edit.touches:
            if path not in modules:
                raise ValueError(f"variant `{variant.name}`: the network has no module `{path}`")
            if edit.where == "weights":
                by_module.setdefault(path, []).append(edit)
    for path, applying in by_module.items():
        owner = modules[path]
        for name, parameter in owner.named_parameters(recurse=False):
            chosen = tuple(e for e in applying if e.params in (None, name))
            if chosen and id(parameter) not in seen:
                seen.add(id(parameter))
                by_head = any(e.unit is not None and e.unit.kind == "heads" for e in chosen)
                heads = heads_of(modules, path) if by_head else 0
                yield Touched(path, name, parameter, chosen, owner, heads)


@torch.no_grad()
def edited(
    item: Touched,
    untouched: Tensor,
    perturbation_seed: int,
    draws: Draws,
    weights: Callable[[str, str], Tensor],
) -> Tensor:
    """The weights of one parameter after its edits; `untouched`: as loaded, left as it is.

    `weights`: those of any module, by path and name of the parameter, as loaded.
    """
    tensor = untouched
    for edit in item.edits:
        op = ops.OPS[edit.op]
        if op.draws == "partner":
            noise = _fitting(weights(_partner(edit, item.module), item.name), untouched, item)
        elif op.draws == "checkpoint":
            noise = draws.checkpoint(edit.checkpoint, edit.component, item.module, item.name)
            noise = _fitting(noise, untouched, item)
        else:
            noise = draws(
                op,
                untouched,
                seed=perturbation_seed,
                module=item.module,
                parameter=item.name,
                kind=edit.kind,
                owner=item.owner,
            )
        made = ops.apply(op, tensor, noise, edit.strength, edit.dose)
        tensor = made if edit.unit is None else _narrowed(tensor, made, item, edit.unit)
    return tensor


def _partner(edit: Edit, path: str) -> str:
    """The module that one of a swap's modules changes places with."""
    pairs = dict(zip(edit.modules, edit.partners, strict=True))
    return pairs[path] if path in pairs else {b: a for a, b in pairs.items()}[path]


def _fitting(found: Tensor, untouched: Tensor, item: Touched) -> Tensor:
    if found.shape != untouched.shape:
        raise ValueError(
            f"`{item.module}.{item.name}` has shape {tuple(untouched.shape)}; what would take its"
            f" place has {tuple(found.shape)}"
        )
    return found.to(untouched.device, torch.float32)


def _narrowed(before: Tensor, after: Tensor, item: Touched, unit: Unit) -> Tensor:
    """The edit where some units have their weights, and nowhere else."""
    found = weight_entries(item.owner, item.module, before, unit, item.heads)
    if found is None:
        return before
    dim, entries = found
    index = torch.tensor(entries, device=before.device)
    return before.index_copy(dim, index, after.index_select(dim, index))


class Draws:
    """`ops.draw`, but one draw serves all strengths: kept while the same weights are edited.

    `limit`: bytes to keep. What comes first is kept, for a sweep asks for all of it again, in the
    same order, at every strength; the draws of another perturbation seed start anew. `checkpoint`:
    gives a parameter of the model that an edit blends with: of which model, component, module.
    """

    def __init__(
        self,
        limit: int = 0,
        checkpoint: Callable[[str, str | None, str, str], Tensor] | None = None,
    ) -> None:
        self.limit = limit
        self._checkpoint = checkpoint
        self._kept: dict[tuple[object, ...], Tensor] = {}
        self._bytes = 0
        self._seed: int | None = None

    def checkpoint(
        self, model: str | None, component: str | None, module: str, parameter: str
    ) -> Tensor:
        """A parameter of another model."""
        if self._checkpoint is None or model is None:
            raise ValueError(f"where the weights of `{model}` lie is not known here")
        return self._checkpoint(model, component, module, parameter)

    def __call__(
        self, op: ops.Op, untouched: Tensor, *, seed: int, owner: nn.Module, **where: Any
    ) -> Tensor:
        if op.draws is None or not self.limit:
            return ops.draw(op, untouched, seed=seed, owner=owner, **where)
        if seed != self._seed:
            self._kept.clear()
            self._seed, self._bytes = seed, 0
        # Modules of one path in two components differ as objects; what is offloaded moves.
        key = (op.stream, op.draws, id(owner), untouched.device, *where.values())
        if key not in self._kept:
            noise = ops.draw(op, untouched, seed=seed, owner=owner, **where)
            if self._bytes + noise.nbytes > self.limit:
                return noise
            self._kept[key] = noise
            self._bytes += noise.nbytes
        return self._kept[key]


def alterations(
    modules: Mapping[str, nn.Module], variants: Sequence[Variant]
) -> dict[str, list[Alteration]]:
    """The edits of outputs among those of variants, a variant a cell, by module path."""
    cells: dict[Variant, list[int]] = {}
    for cell, variant in enumerate(variants):
        cells.setdefault(variant, []).append(cell)
    found: dict[str, list[Alteration]] = {}
    for variant, its in cells.items():
        for edit in variant.edits:
            if edit.where != "output" or edit.is_neutral:
                continue
            for path in edit.modules:
                if path not in modules:
                    raise ValueError(f"variant `{variant.name}`: the network has no `{path}`")
                alteration = Alteration(
                    ops.OPS[edit.op],
                    edit.strength or 0.0,
                    edit.kind,
                    edit.unit,
                    edit.over,
                    variant.perturbation_seed,
                    tuple(its),
                )
                found.setdefault(path, []).append(alteration)
    return found


def heads_in(
    modules: Mapping[str, nn.Module], edited: Mapping[str, Sequence[Alteration]]
) -> dict[str, int]:
    """How many heads there are where edits ask for them, at their paths and at what these hold."""
    paths = {path for path, its in edited.items() for a in its if a.unit and a.unit.kind == "heads"}
    inside = [p for p in modules if any(p == path or p.startswith(f"{path}.") for path in paths)]
    return {path: heads for path in inside if (heads := heads_of(modules, path))}


@contextmanager
def applied(network: nn.Module, variant: Variant, draws: Draws | None = None) -> Iterator[set[str]]:
    """Edit a network in place; afterwards every tensor is bit-identical to what it was.

    Yields the paths of the modules in which at least one number changed, or, of edited outputs,
    will have. Restores after errors and interruptions too. `draws`: where noise comes from, and is
    kept.
    """
    draws = draws or Draws()
    modules = dict(network.named_modules())
    saved: list[tuple[nn.Parameter, Tensor]] = []
    differs: list[tuple[str, Tensor | bool]] = []
    swapped = {path for e in variant.edits if e.partners for path in e.touches}
    # Modules that change places need each other's weights as they were.
    before = {(path, name): parameter.detach().clone() for path in swapped & modules.keys()
              for name, parameter in modules[path].named_parameters(recurse=False)}  # fmt: skip

    def as_loaded(path: str, name: str) -> Tensor:
        if (path, name) not in before:
            raise ValueError(f"`{path}` has no parameter `{name}` that could change places")
        weights: Tensor = before[path, name]
        return weights

    EDITED[id(network)] += 1
    try:
        with torch.no_grad():
            for item in touched(modules, variant):
                untouched = item.parameter.detach().clone()
                saved.append((item.parameter, untouched))
                made = edited(item, untouched, variant.perturbation_seed, draws, as_loaded)
                item.parameter.data.copy_(made)
                differs.append((item.module, _differs(item.parameter.data, untouched)))
        # Asked for when all are under way, so that a GPU is not waited for at each.
        changed = {path for path, differs_here in differs if differs_here}
        outputs = alterations(modules, [variant])
        heads = heads_in(modules, outputs)
        with altered(modules, outputs, RowMap(1), {}, heads, set(), changed):
            yield changed
    finally:
        try:
            _restore(saved)
        finally:  # after an interruption too
            EDITED[id(network)] -= 1


def _differs(one: Tensor, other: Tensor) -> Tensor | bool:
    """Whether two tensors differ; on a GPU as a tensor, which is there before its answer."""
    return not torch.equal(one, other) if one.device.type == "cpu" else (one != other).any()


def _restore(saved: list[tuple[nn.Parameter, Tensor]]) -> None:
    interrupted: KeyboardInterrupt | None = None
    while True:
        try:
            while saved:
                with torch.no_grad():
                    # Its tensor may be another by now: offloaded networks move between devices.
                    saved[-1][0].data.copy_(saved[-1][1])
                saved.pop()
            break
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
