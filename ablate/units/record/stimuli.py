"""Stimuli of a study: concepts, each in several templates of prompts, with several seeds."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ablate.messages import RequestError, shown, takes_an
from ablate.store import StoreError, read_words

# Ordinary wordings, so that units which respond to a setting are not taken for units of a concept.
TEMPLATES = ("a {}", "a picture of a {}", "a {} on a white background", "a {} at night")
MAX_SEEDS = 100_000


class StimuliError(RequestError, ValueError):
    """Stimuli that are wrong; the message says why."""


def fill_template(template: str, concept: str) -> str:
    """Replace `{}` in a template by a concept; `a` before a vowel becomes `an`."""
    if takes_an(concept):
        template = re.sub(r"\b([Aa]) (?=\{\})", r"\1n ", template)
    return template.replace("{}", concept)


@dataclass(frozen=True)
class Stimuli:
    """Concepts × templates × seeds.

    Attributes:
        concepts: Words or phrases, such as `cat`.
        templates: Prompts with `{}` in the place of the concept.
        seeds: Of the initial latents.

    Raises:
        StimuliError: One of the three is empty or has an item twice, a template has no `{}`, or two
            concepts give the same prompt.
    """

    concepts: tuple[str, ...]
    templates: tuple[str, ...]
    seeds: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("concepts", "templates", "seeds"):
            values: Sequence[object] = getattr(self, name)
            if not values:
                raise StimuliError(f"there are no {name}")
            if "" in [str(value).strip() for value in values]:
                raise StimuliError(f"one of the {name} is blank")
            for value, count in Counter(values).items():
                if count > 1:
                    raise StimuliError(f"`{value}` is twice among the {name}")
        for template in self.templates:
            if "{}" not in template:
                raise StimuliError(
                    f"the template `{template}` has no `{{}}` where the concept goes"
                )
        for prompt, count in Counter(self.prompts).items():
            if count > 1:
                raise StimuliError(f"two concepts give the same prompt, “{prompt}”")

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """All prompts, grouped by concept."""
        return tuple(fill_template(t, c) for c in self.concepts for t in self.templates)

    @cached_property
    def _concepts_of(self) -> dict[str, int]:
        return {prompt: i // len(self.templates) for i, prompt in enumerate(self.prompts)}

    def concept_of(self, prompt: str) -> int:
        """Return the index of a prompt's concept."""
        return self._concepts_of[prompt]

    def __len__(self) -> int:
        return len(self.prompts) * len(self.seeds)


def parse_concepts(given: str) -> tuple[str, ...]:
    """Parse concepts: a list with commas, or the path of a file with one a line.

    Raises:
        StimuliError: There are no concepts, one is blank, or the file is missing or no text.
    """
    words = given.split(",")
    is_named = _is(given, Path.exists) or re.search(r"/|\\|\w\.\w+$", given)
    if _is(given, Path.is_file) or (len(words) == 1 and is_named):
        try:
            return tuple(read_words(Path(given)))
        except StoreError as error:
            hint = "a concept of this name needs a comma behind it"
            raise StimuliError(f"--concepts: {error}; {hint}") from error
    concepts = tuple(word.strip() for word in words)
    if len(concepts) > 1 and not concepts[-1]:
        concepts = concepts[:-1]  # behind the last comma
    if not all(concepts):
        raise StimuliError(f"--concepts: a concept is blank in `{shown(given)}`")
    return concepts


def _is(given: str, what: Callable[[Path], bool]) -> bool:
    try:
        return what(Path(given))
    except OSError:  # too long for a path, as a list may be
        return False


def parse_seeds(given: str) -> tuple[int, ...]:
    """Parse seeds, as in `0-7,11`. Raises `StimuliError`."""
    seeds: list[int] = []
    for part in given.split(","):
        low, dash, high = part.strip().partition("-")
        ends = (low, high) if dash else (low, low)
        if not all(end.isdecimal() and len(end) < 20 for end in ends):
            raise StimuliError(f"--seeds: `{part.strip()}` is no number nor a range such as `0-7`")
        first, last = map(int, ends)
        if last < first:
            raise StimuliError(f"--seeds: `{part.strip()}` ends before it begins")
        if len(seeds) + last - first >= MAX_SEEDS:
            raise StimuliError(
                f"--seeds: `{given[:40]}` are more seeds than the {MAX_SEEDS:,} there may be"
            )
        seeds += range(first, last + 1)
    return tuple(seeds)


def shuffled(labels: Sequence[int]) -> list[int]:
    """Return the labels in a random order, which is the same at every call."""
    labels = list(labels)
    random.Random("labels").shuffle(labels)
    return labels
