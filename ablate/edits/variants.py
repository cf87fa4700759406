"""Edits and variants: what is to be done to a network, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from ablate.edits import ops
from ablate.edits.ops import OPS
from ablate.messages import RequestError
from ablate.network import Selector, Unit, build_catalog, select


class UnknownOpError(RequestError, ValueError):
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
        found = select(selector, build_catalog(network), blocks=blocks)
        return cls(op, tuple(m.path for m in found), strength, **settings)

    def __post_init__(self) -> None:
        if self.op not in OPS:
            raise ValueError(f"there is no op `{self.op}`; known: {', '.join(sorted(OPS))}")
        op = OPS[self.op]
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
        return OPS[self.op].is_random_by(self.kind)

    @property
    def is_neutral(self) -> bool:
        """Whether its strength is the one that leaves every bit as it is, or no word is written."""
        neutral = OPS[self.op].neutral
        wordless = self.text is not None and not self.text.split()
        return wordless or self.dose == 0 or (neutral is not None and self.strength == neutral)

    @property
    def all_modules(self) -> tuple[str, ...]:
        """Paths of all modules that it edits."""
        return self.modules + self.partners

    def is_active(self, step: int, levels: Sequence[float]) -> bool:
        """Whether it is in force at a step of a sampling with these noise levels."""
        return self.when is None or self.when.is_active(step, levels)

    def as_json(self) -> dict[str, Any]:
        """Plain objects for a cell's PNG; what is not set is left out."""
        op = OPS[self.op]
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
        op = OPS.get(told["op"])
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
        return tuple(dict.fromkeys(path for edit in self.edits for path in edit.all_modules))

    @property
    def is_random(self) -> bool:
        return any(edit.is_random for edit in self.edits)

    @property
    def references(self) -> tuple[Reference, ...]:
        """The conditions whose outputs its edits take, each once."""
        return tuple(dict.fromkeys(r for edit in self.edits for r in edit.over))

    @property
    def for_sampling(self) -> Variant:
        """What of it sampling depends on, without a name: equal where pictures are, but for edits
        of the finished ones."""
        part = self.only(lambda edit: edit.where != "image")
        return Variant("", part.edits, part.perturbation_seed if part.is_random else 0)

    def change_steps(self, levels: Sequence[float]) -> set[int]:
        """The steps from which on other edits hold than before; 0 is among them."""
        held = [tuple(e.is_active(step, levels) for e in self.edits) for step in range(len(levels))]
        return {step for step in range(len(levels)) if not step or held[step] != held[step - 1]}

    def at(self, step: int, levels: Sequence[float]) -> Variant:
        """The variant with those of its edits that hold at a step."""
        return self.only(lambda edit: edit.is_active(step, levels))

    def only(self, keep: Callable[[Edit], bool]) -> Variant:
        """The variant with some of its edits."""
        return replace(self, edits=tuple(filter(keep, self.edits)))

    def identity(self) -> dict[str, Any]:
        """What of a variant determines an image."""
        found: dict[str, Any] = {"edits": [edit.as_json() for edit in self.edits]}
        if self.is_random:
            found["perturbation_seed"] = self.perturbation_seed
        return found


By = Literal["steps", "fraction", "t"]
BY: tuple[By, ...] = ("steps", "fraction", "t")


def step_number(call: int, levels: Sequence[float]) -> int:
    """The number of the step that a call of the scheduler belongs to: some schedulers take several
    at one noise level."""
    return sum(levels[i] != levels[i - 1] for i in range(1, call + 1))


@dataclass(frozen=True)
class When:
    """A window of the sampling, from `first` to `last`.

    `by`: `steps`, by number, counted from 0, both ends in it (calls of the network at one noise
    level are one step); `fraction`, by the part of the sampling that is done before a step, 0 to 1;
    `t`, by noise level, the timestep over the number of timesteps in training: 1 is noise alone, 0
    none. Windows of the last two that meet share no step.
    """

    by: By
    first: float
    last: float

    def is_active(self, step: int, levels: Sequence[float]) -> bool:
        """Whether it is open at a step of a sampling with these noise levels."""
        if self.by == "steps":
            return self.first <= step_number(step, levels) <= self.last
        if self.by == "fraction":
            done = step / len(levels)
            return self.first <= done < self.last or (self.last >= 1 and done >= self.first)
        low, high = sorted((self.first, self.last))
        return low < levels[step] <= high or levels[step] == low == 0

    def is_ever_active(self, levels: Sequence[float]) -> bool:
        """Whether it is open at any step."""
        return any(self.is_active(step, levels) for step in range(len(levels)))

    def as_json(self) -> dict[str, list[float]]:
        ends = [self.first, self.last]
        return {self.by: [int(e) for e in ends] if self.by == "steps" else ends}

    @classmethod
    def from_json(cls, told: Mapping[str, Sequence[float]]) -> When:
        ((by, (first, last)),) = told.items()
        if by not in BY or not all(type(end) in (int, float) for end in (first, last)):
            raise ValueError(f"there are no windows by `{by}` from {first!r} to {last!r}")
        return cls(next(b for b in BY if b == by), first, last)

    def __str__(self) -> str:
        if self.by == "fraction":
            return f"{100 * self.first:.3g}–{100 * self.last:.3g} %"
        return f"{self.by} {self.first:g}–{self.last:g}"


@dataclass(frozen=True)
class Reference:
    """A condition of the baseline whose outputs stand for a module's own, in `mean`, `resample`."""

    prompt: str
    seed: int
