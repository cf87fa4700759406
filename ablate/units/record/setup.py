"""The setup of a study: which stimuli are shown to which layers of which network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ablate.drift import vocabulary_of
from ablate.edits import BY, When
from ablate.messages import RequestError, counted, did_you_mean, shown
from ablate.network import Selector
from ablate.recipe import Recipe, RecipeError, parse_value
from ablate.units.record.stimuli import Stimuli

CLIP = "clip"  # the component that reads images
# Keys of recipes that a study may set: which model, and how it is sampled.
KEYS = ("model", "revision", "variant", "config", "lora", "offload", "dtype", "clip", "sampling")
MAX_IMAGES = 200_000  # planning more takes minutes


class StudyError(RequestError):
    """A study that cannot be recorded or read; the message says why."""


@dataclass(frozen=True)
class Setup:
    """What determines a study.

    Attributes:
        stimuli: What is shown.
        keys: Keys of a recipe for model and sampling, dotted ones too, with their values.
        component: A network of the pipeline, None for its denoiser, `clip` for the CLIP model that
            reads images.
        modules: Selects the layers; None for hidden units (`ablate.units.record.layers`).
        kind: `channels` or `heads`.
        when: The window of the sampling that is recorded, None for all of it.

    Raises:
        StudyError: There are too many images, or keys that cannot be set.
    """

    stimuli: Stimuli
    keys: Mapping[str, Any] = field(default_factory=dict)
    component: str | None = None
    modules: Selector | None = None
    kind: str = "channels"
    when: When | None = None

    def __post_init__(self) -> None:
        if len(self.stimuli) > MAX_IMAGES:
            counts = " × ".join(
                counted(len(values), name[:-1]) for name, values in asdict(self.stimuli).items()
            )
            raise StudyError(
                f"{counts} are {len(self.stimuli):,} images, and a study has {MAX_IMAGES:,} at most"
            )
        wrong = [key for key in self.keys if key.partition(".")[0] not in KEYS]
        if wrong:
            named = ", ".join(f"`{key}`{did_you_mean(key, KEYS)}" for key in wrong)
            message = f"{named} cannot be set of a study; there are {', '.join(KEYS)}"
            try:  # so that all mistakes are reported at once
                replace(self, keys={k: v for k, v in self.keys.items() if k not in wrong}).brief()
            except RecipeError as error:
                message += f"\n{error}"
            raise StudyError(message)

    def recipe(self, edits: Sequence[Any] = (), name: str = "stimuli") -> Recipe:
        """Return the recipe of the stimuli's images, with these edits beside the baseline."""
        content = {
            "version": 1,
            "name": name,
            "about": "What the units of a network were shown.",
            "axes": {"prompt": {"values": list(self.stimuli.prompts)}},
            "seeds": list(self.stimuli.seeds),
            **({"edits": list(edits)} if edits else {}),
        }
        return Recipe.build(content, self.keys)

    def brief(self) -> Recipe:
        """Return the recipe of one of the images, for what all share: model and sampling."""
        first = Stimuli(*(values[:1] for values in asdict(self.stimuli).values()))
        return replace(self, stimuli=first).recipe()

    def as_json(self) -> dict[str, Any]:
        """Return plain objects, for `study.json`."""
        return {
            **{name: list(values) for name, values in asdict(self.stimuli).items()},
            "keys": dict(self.keys),
            "component": self.component,
            "modules": self.modules,
            "kind": self.kind,
            "when": self.when.as_json() if self.when else None,
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Setup:
        """Read what `as_json` returned. Raises `KeyError`, `TypeError` or `ValueError`."""
        return cls(
            Stimuli(*(tuple(content[name]) for name in ("concepts", "templates", "seeds"))),
            dict(content["keys"]),
            content["component"],
            content["modules"],
            content["kind"],
            When.from_json(content["when"]) if content["when"] else None,
        )


def parse_window(given: str) -> When:
    """Parse a window of the sampling, as recipes write it. Raises `StudyError`."""
    try:
        when = When.from_json(parse_value(given))
    except (ValueError, TypeError, AttributeError):  # a `RecipeError`, too
        raise StudyError(
            f"--when: `{shown(given)}` is no window; write one of {', '.join(BY)}, as in"
            " `{t: [1, 0.5]}`"
        ) from None
    ends, wrong = (when.first, when.last), None
    if when.by == "steps" and any(type(end) is not int for end in ends):
        wrong = "steps are whole numbers, counted from 0"
    elif when.by != "steps" and not all(0 <= end <= 1 for end in ends):
        wrong = "both ends must be between 0 and 1"
    elif when.by != "t" and when.last < when.first:  # of noise levels either may come first
        wrong = "it ends before it begins"
    elif when.by != "steps" and when.last == when.first:
        wrong = "it is empty: it begins where it ends"
    if wrong:
        raise StudyError(f"--when: `{given}`: {wrong}")
    return when


def default_concepts(model: str, clip: str | None) -> tuple[str, ...]:
    """Return the vocabulary of the CLIP model that reads a model's images.

    Raises:
        StudyError: There is none.
        ModelError: There is no such model.
    """
    words = vocabulary_of(model, clip)
    if words is None:
        raise StudyError(f"`{model}` has no concepts by default; `--concepts` names them")
    return words
