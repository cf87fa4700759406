"""What is shown to a network: concepts, each told by several templates, with several seeds."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

# Ordinary wordings, so that a unit that answers to a concept and not to its setting stands out.
TEMPLATES = ("a {}", "a picture of a {}", "a {} on a white background", "a {} at night")


def told(template: str, concept: str) -> str:
    """A template with a concept in the place of `{}`; `a` before a vowel becomes `an`."""
    return re.sub(r"\b([Aa]) (?=[aeiouAEIOU])", r"\1n ", template.replace("{}", concept))


@dataclass(frozen=True)
class Stimuli:
    """Concepts × templates × seeds. Raises `ValueError` where a concept or template is missing,
    stands twice, or where a template has no `{}`."""

    concepts: tuple[str, ...]
    templates: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("concepts", "templates", "seeds"):
            values: Sequence[object] = getattr(self, name)
            twice = next((v for i, v in enumerate(values) if v in values[:i]), None)
            if not values:
                raise ValueError(f"there are no {name}")
            if twice is not None:
                raise ValueError(f"`{twice}` stands twice among the {name}")
        lacking = next((t for t in self.templates if "{}" not in t), None)
        if lacking is not None:
            raise ValueError(f"the template `{lacking}` has no `{{}}` where the concept goes")
        alike = [p for i, p in enumerate(self.prompts) if p in self.prompts[:i]]
        if alike:
            raise ValueError(f"two concepts are both told as “{alike[0]}”")

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, those of one concept one after the other."""
        return tuple(told(t, c) for c in self.concepts for t in self.templates)

    def concept_of(self, prompt: str) -> int:
        """The number of a prompt's concept."""
        return self.prompts.index(prompt) // len(self.templates)

    def __len__(self) -> int:
        return len(self.prompts) * len(self.seeds)


def shuffled(labels: Sequence[int]) -> list[int]:
    """The labels, dealt anew to the samples: always in the same way."""
    found = list(labels)
    random.Random("labels").shuffle(found)
    return found
