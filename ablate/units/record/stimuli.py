"""What is shown to a network: concepts, each told by several templates, with several seeds."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ablate.messages import takes_an

# Ordinary wordings, so that a unit that answers to a concept and not to its setting stands out.
TEMPLATES = ("a {}", "a picture of a {}", "a {} on a white background", "a {} at night")
SEEDS = 100_000  # at most


def told(template: str, concept: str) -> str:
    """A template with a concept in the place of `{}`; `a` before a vowel becomes `an`."""
    if takes_an(concept):
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

    @cached_property
    def _concepts_of(self) -> dict[str, int]:
        return {prompt: i // len(self.templates) for i, prompt in enumerate(self.prompts)}

    def concept_of(self, prompt: str) -> int:
        """The number of a prompt's concept."""
        return self._concepts_of[prompt]

    def __len__(self) -> int:
        return len(self.prompts) * len(self.seeds)


def parse_concepts(given: str) -> tuple[str, ...]:
    """Concepts: a list with commas, or the lines of a file. Raises `ValueError` where there are
    none, where a file is not there or is no text."""
    words = given.split(",")
    if _is(given, Path.is_file):
        try:
            words = Path(given).read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError:
            raise ValueError(f"--concepts: {given} is no text in UTF-8") from None
    elif len(words) == 1 and (_is(given, Path.is_dir) or re.search(r"/|\\|\w\.\w+$", given)):
        what = f"{given} is a folder" if _is(given, Path.is_dir) else f"there is no file {given}"
        raise ValueError(f"--concepts: {what}; a concept of this name needs a comma behind it")
    found = tuple(word.strip() for word in words if word.strip())
    if not found:
        raise ValueError(f"--concepts: there are none in `{given}`")
    return found


def _is(given: str, what: Callable[[Path], bool]) -> bool:
    try:
        return what(Path(given))
    except OSError:  # too long for a path, as a list may be
        return False


def parse_seeds(given: str) -> tuple[int, ...]:
    """Seeds, as in `0-7,11`. Raises `ValueError`."""
    found: list[int] = []
    for part in given.split(","):
        low, dash, high = part.strip().partition("-")
        ends = (low, high) if dash else (low, low)
        if not all(end.isdecimal() and len(end) < 20 for end in ends):
            raise ValueError(f"`{part.strip()}` is no number nor a range such as `0-7`")
        first, last = map(int, ends)
        if last < first:
            raise ValueError(f"`{part.strip()}` ends before it begins")
        if len(found) + last - first >= SEEDS:
            raise ValueError(f"`{given[:40]}` are more seeds than the {SEEDS:,} there may be")
        found += range(first, last + 1)
    return tuple(found)


def shuffled(labels: Sequence[int]) -> list[int]:
    """The labels, dealt anew to the samples: always in the same way."""
    found = list(labels)
    random.Random("labels").shuffle(found)
    return found
