"""The article that a word or name takes: an orange, an IFPipeline, a UNet2DConditionModel."""

from __future__ import annotations

import re

# Capitals before a capitalized word, a digit or no letter are spelled out: IF|Pipeline, SD|3.
SPELLED = re.compile(r"[A-Z]+(?=[A-Z][a-z]|\d|\b)")
VOWELS = "AEFHILMNORSX"  # letters whose names begin with one
# Vowels that are spoken as consonants, and the other way round.
SPOKEN = re.compile(
    r"(?!uni|unet|use|usu|eu|ewe|once|one(?![ir]))[aeiou]|hour|honest|honou?r|heir", re.IGNORECASE
)


def takes_an(name: str) -> bool:
    """Whether the article of a word, or of a name such as that of a class, is `an`."""
    return name[0] in VOWELS if SPELLED.match(name) else SPOKEN.match(name) is not None


def articled(name: str) -> str:
    """A word or name with `a` or `an` before it."""
    return f"an {name}" if takes_an(name) else f"a {name}"
