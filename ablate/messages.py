"""Wording of messages: what is printable, articles, counts, nearest names; the base of errors."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable
from typing import Any

LONGEST = 2000  # characters of a message
# Joiners within scripts that need them, such as Persian, and within emoji: they hide nothing.
JOINED = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d](?=[^\x00-\x7f])")


class RequestError(Exception):
    """A wrong request; the message says what is wrong and what would be right.

    The base of all errors that a user can correct. Commands print the message and exit with 2.
    """

    def report(self) -> str:
        """The text that a command prints."""
        return str(self)


def printable(text: str, keep: str = "") -> str:
    """Text from outside as it can be shown: what controls a terminal or hides is escaped.

    Args:
        keep: Control characters that are left as they are, such as a line feed.
    """
    if text.isprintable():
        return text
    joined = {match.start() for match in JOINED.finditer(text)}
    return "".join(
        c if _is_shown(c) or c in keep or i in joined else _escaped(c) for i, c in enumerate(text)
    )


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def shown(value: Any, most: int = 80) -> str:
    """A value in a message: printable, and shortened in its middle."""
    return _shortened(printable(str(value)), most)


def message_of(text: str) -> str:
    """A message as a command prints it: printable, and of at most `LONGEST` characters."""
    return _shortened(printable(text[: 4 * LONGEST], keep="\n"), LONGEST)


def _shortened(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    half = (most - 3) // 2
    return f"{text[: most - 3 - half]}...{text[-half:]}"


# Capitals before a capitalized word, a digit or no letter are spelled out: IF|Pipeline, SD|3.
SPELLED = re.compile(r"[A-Z]+(?=[A-Z][a-z]|\d|\b)")
VOWELS = "AEFHILMNORSX"  # letters whose names begin with a vowel
# Words that begin with the sound of a vowel: not `unicorn`, but `hour`.
SPOKEN = re.compile(
    r"(?!uni|unet|use|usu|eu|ewe|once|one(?![ir]))[aeiou]|hour|honest|honou?r|heir", re.IGNORECASE
)


def takes_an(name: str) -> bool:
    """Whether a word, or a name such as that of a class, takes the article `an`."""
    return name[0] in VOWELS if SPELLED.match(name) else SPOKEN.match(name) is not None


def articled(name: str) -> str:
    """Prefix a word or name with `a` or `an`."""
    return f"an {name}" if takes_an(name) else f"a {name}"


def counted(count: int, noun: str) -> str:
    """Format a count of things, `1 unit` or `1,200 units`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def first_line(error: BaseException) -> str:
    """The first line of an error of another library, or the name of its kind."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `, did you mean ...?` with the nearest known word, or an empty string."""
    near = difflib.get_close_matches(str(word), list(known), n=1, cutoff=0.6)
    return f", did you mean `{near[0]}`?" if near else ""


def phrase(word: str) -> str:
    """The text that CLIP reads for a word of a vocabulary: single words get an article."""
    return articled(word) if len(word.split()) == 1 else word
