"""The article that a name takes: an IFPipeline, a UNet2DConditionModel."""

from __future__ import annotations

import re

# Capitals before a capitalized word, a digit or the end are spelled out: IF|Pipeline, SD|3.
SPELLED = re.compile(r"[A-Z]+(?=[A-Z][a-z]|\d|$)")
VOWELS = "AEFHILMNORSX"  # letters whose names begin with one
SPOKEN = re.compile(r"(?!uni|une|use|usu|eu|one)[aeiou]", re.IGNORECASE)


def articled(name: str) -> str:
    """A name, such as that of a class, with `a` or `an` before it."""
    spelled = SPELLED.match(name)
    takes_an = name[0] in VOWELS if spelled else SPOKEN.match(name)
    return f"an {name}" if takes_an else f"a {name}"
