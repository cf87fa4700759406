"""What is shown to a network: concepts, each told by several templates, with several seeds."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

# Ordinary wordings, so that a unit that answers to a concept and not to its setting stands out.
TEMPLATES = ("a {}", "a picture of a {}", "a {} on a white background", "a {} at night")


# Vowels that are spoken as consonants, and the other way round.
SPOKEN = re.compile(r"(?!uni|use|usu|euro|ewe|one\b|once)[aeiou]|hour|honest|heir", re.IGNORECASE)


def told(template: str, concept: str) -> str:
    """A template with a concept in the place of `{}`; `a` before a vowel becomes `an`."""
    if SPOKEN.match(concept):
        template = re.sub(r"\b([Aa]) (?=\{\})", r"\1n ", template)
    return template.replace("{}", concept)


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
            if not values:
                raise ValueError(f"there are no {name}")
            for value, count in Counter(values).items():
                if count > 1:
                    raise ValueError(f"`{value}` stands twice among the {name}")
        lacking = next((t for t in self.templates if "{}" not in t), None)
        if lacking is not None:
            raise ValueError(f"the template `{lacking}` has no `{{}}` where the concept goes")
        for prompt, count in Counter(self.prompts).items():
            if count > 1:
                raise ValueError(f"two concepts are both told as “{prompt}”")

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
