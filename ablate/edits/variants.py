"""Edits and variants: what is to be done to a network, as data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from ablate.edits import ops
from ablate.edits.ops import OPS
from ablate.messages import RequestError
from ablate.network import Selector, Unit, build_catalog, select

By = Literal["steps", "fraction", "t"]
BY: tuple[By, ...] = ("steps", "fraction", "t")
PLAIN = ("params", "component", "argument", "dose", "checkpoint", "text")  # of edits, in records


class UnknownOpError(RequestError, ValueError):
    """A user's op whose file is not loaded, or has changed."""

    def __init__(self, name: str, code: str, known: bool) -> None:
        what = "the file of ops that is loaded is not the one" if known else "no file is loaded"
        super().__init__(
            f"`{name}` is not a built-in op: {what} that it comes from; the digest of that file is"
            f" {code}; `--code FILE`, or `ops:` of a recipe, loads it"
        )


@dataclass(frozen=True)
class When:
    """A window of the sampling.

    Attributes:
        by: What its ends count: `steps`, by number from 0, both ends included (some schedulers call
            the network several times a step); `fraction`, the part of the sampling done before a
            step, from 0 to 1; `t`, the noise level before a step, the timestep over the number of
            timesteps in training: 1 is noise alone, 0 none. Adjacent windows of the last two share
            no step.
        first: Where it begins.
        last: Where it ends.
    """

    by: By
    first: float
    last: float

    def is_active(self, step: int, levels: Sequence[float]) -> bool:
        """Whether it contains a step of a sampling with these noise levels."""
        if self.by == "steps":
            return self.first <= step <= self.last
        if self.by == "fraction":
            done = step / len(levels)
            return self.first <= done < self.last or (self.last >= 1 and done >= self.first)
        low, high = sorted((self.first, self.last))
        return low < levels[step] <= high or levels[step] == low == 0

    def is_ever_active(self, levels: Sequence[float]) -> bool:
        """Whether it contains any step."""
        return any(self.is_active(step, levels) for step in range(len(levels)))

    def as_json(self) -> dict[str, list[float]]:
        ends = [self.first, self.last]
        return {self.by: [int(e) for e in ends] if self.by == "steps" else ends}

    @classmethod
    def from_json(cls, data: Mapping[str, Sequence[float]]) -> When:
        ((by, (first, last)),) = data.items()
        if by not in BY or not all(type(end) in (int, float) for end in (first, last)):
            raise ValueError(f"there are no windows by `{by}` from {first!r} to {last!r}")
        return cls(next(b for b in BY if b == by), first, last)

    def __str__(self) -> str:
        if self.by == "fraction":
            return f"{100 * self.first:.3g}–{100 * self.last:.3g} %"
        return f"{self.by} {self.first:g}–{self.last:g}"


@dataclass(frozen=True)
class Reference:
    """A condition of the baseline whose outputs replace a module's, in `mean` and `resample`."""

    prompt: str
    seed: int


@dataclass(frozen=True)
class Edit:
    """One op on some modules.

    Attributes:
        op: The name of the op.
        modules: The paths of the modules.
        strength: In the op's measure; None for an op without, or with a dose.
        params: `weight` or `bias` to edit only these; None is all parameters.
        kind: The kind of noise or choice, among those that the op has; None is the first.
        when: A window of the sampling; None is all of it.
        component: The network that the modules belong to; None is the one edited by default.
        where: `weights`, `output` for the outputs of the modules, `input` for what they are given,
            or `image` for the finished picture, which takes no modules.
        argument: Which argument of the modules is edited at their input; None is the first.
        unit: Only these channels or heads.
        dose: Instead of a strength, the Frobenius norm of the change over that of the weights.
        partners: For `swap`, one module for each of `modules`.
        checkpoint: For `blend`, the model to blend with.
        over: For `mean` and `resample`, the references.
        text: For `write`, the words.

    Raises:
        ValueError: There is no such op, or the attributes do not fit it.
    """

    op: str
    modules: tuple[str, ...] = ()
    strength: float | None = None
    params: str | None = None
    kind: str | None = None
    when: When | None = None
    component: str | None = None
    where: str = "weights"
    argument: str | None = None
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
        **attributes: Any,
    ) -> Edit:
        """An edit of the modules of `network` that a selector matches (`ablate.network.select`).

        `attributes` are further ones of the edit. Edits of inputs and outputs can select blocks as
        well.
        """
        blocks = attributes.get("where", "weights") != "weights"
        selected = select(selector, build_catalog(network), blocks=blocks)
        return cls(op, tuple(m.path for m in selected), strength, **attributes)

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
        """Whether it changes no bit: its strength is the neutral one, or it writes no word."""
        neutral = OPS[self.op].neutral
        wordless = self.text is not None and not self.text.split()
        return wordless or self.dose == 0 or (neutral is not None and self.strength == neutral)

    @property
    def zeroes_weights(self) -> bool:
        """Whether it sets whole parameters to zero."""
        return self.op == "zero" and self.where == "weights" and self.unit is None

    @property
    def all_modules(self) -> tuple[str, ...]:
        """The paths of all modules that it edits, partners included."""
        return self.modules + self.partners

    def is_active(self, step: int, levels: Sequence[float]) -> bool:
        """Whether it applies at a step of a sampling with these noise levels."""
        return self.when is None or self.when.is_active(step, levels)

    def as_json(self) -> dict[str, Any]:
        """Plain objects for the record of a cell; what is not set is left out."""
        op = OPS[self.op]
        data: dict[str, Any] = {
            "op": self.op,
            "code": op.code,
            "component": self.component,
            "modules": list(self.modules),
            "where": self.where if self.where != "weights" else None,
            "argument": self.argument,
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
            data[op.strength] = self.strength
        return {k: v for k, v in data.items() if k and v is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Edit:
        """The edit of `as_json`.

        Raises:
            UnknownOpError: Its op comes from a file that is not loaded.
            KeyError, ValueError: The data is not an edit.
        """
        code = data.get("code")
        op = OPS.get(data["op"])
        if code is not None and (op is None or code != op.code):
            raise UnknownOpError(data["op"], code, op is not None)
        if op is None or code != op.code:
            raise ValueError(f"there is no op `{data['op']}`")
        when, unit = data.get("when"), data.get("unit")
        return cls(
            op=op.name,
            modules=tuple(data["modules"]),
            strength=data.get(op.strength) if op.strength else None,
            kind=data.get(op.kind_key),
            when=When.from_json(when) if when else None,
            where=data.get("where", "weights"),
            unit=Unit.from_json(unit) if unit else None,
            partners=tuple(data.get("partners", ())),
            over=tuple(Reference(prompt, seed) for prompt, seed in data.get("over", ())),
            **{key: data.get(key) for key in PLAIN},
        )


@dataclass(frozen=True)
class Variant:
    """A named set of edits, applied in order; without edits it is the baseline.

    Attributes:
        name: Its name in the run.
        edits: Its edits.
        perturbation_seed: The seed of all its random draws.
    """

    name: str
    edits: tuple[Edit, ...] = ()
    perturbation_seed: int = 0

    @property
    def is_baseline(self) -> bool:
        return not self.edits

    @property
    def modules(self) -> tuple[str, ...]:
        """The paths of all modules that it edits, each once."""
        return tuple(dict.fromkeys(path for edit in self.edits for path in edit.all_modules))

    @property
    def is_random(self) -> bool:
        return any(edit.is_random for edit in self.edits)

    @property
    def references(self) -> tuple[Reference, ...]:
        """The references of its edits, each once."""
        return tuple(dict.fromkeys(r for edit in self.edits for r in edit.over))

    @property
    def for_sampling(self) -> Variant:
        """The variant without its name and its image edits: equal where sampling is equal."""
        part = self.only(lambda edit: edit.where != "image")
        return Variant("", part.edits, part.perturbation_seed if part.is_random else 0)

    def change_steps(self, levels: Sequence[float]) -> set[int]:
        """The steps at which its active edits change, and 0."""
        active = [tuple(e.is_active(i, levels) for e in self.edits) for i in range(len(levels))]
        return {i for i in range(len(levels)) if not i or active[i] != active[i - 1]}

    def at(self, step: int, levels: Sequence[float]) -> Variant:
        """The variant with the edits that are active at a step."""
        return self.only(lambda edit: edit.is_active(step, levels))

    def only(self, keep: Callable[[Edit], bool]) -> Variant:
        """The variant with some of its edits."""
        return replace(self, edits=tuple(filter(keep, self.edits)))

    def identity(self) -> dict[str, Any]:
        """The part of a variant that determines images, as plain objects."""
        data: dict[str, Any] = {"edits": [edit.as_json() for edit in self.edits]}
        if self.is_random:
            data["perturbation_seed"] = self.perturbation_seed
        return data


def cells_by_variant(variants: Iterable[Variant]) -> dict[Variant, list[int]]:
    """The cells of each variant, where `variants` are those of the cells of a batch, in order."""
    cells: dict[Variant, list[int]] = {}
    for cell, variant in enumerate(variants):
        cells.setdefault(variant, []).append(cell)
    return cells
