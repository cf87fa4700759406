"""Prompts from a file: the column of a CSV file, or the lines of a text."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from ablate.messages import counted, did_you_mean
from ablate.recipe.document import SCALAR, TEXT, KeyPath, replaced
from ablate.recipe.edits import Prompts
from ablate.recipe.strict import INVALID, Strict, optional, validated
from ablate.recipe.types import Count, Either, Rule, Text, Whole, Word
from ablate.store import StoreError, read_bytes

MOST = 200_000_000  # bytes of a file of prompts


class PromptFile(Strict):
    """Prompts from a file beside the recipe; one that is in it twice counts once."""

    file: Word = Field(description="A CSV file, or a text with a prompt a line.")
    column: Text | None = optional("The column of the CSV file; without one the file is a text.")
    count: Count | None = optional("How many prompts are drawn. Default: all, in their order.")
    seed: Whole = optional("Of the draw; of a larger count the first are those of a smaller.", 0)


def _is_file(value: Any) -> bool:
    """Whether prompts are given as a file, with all keys or some."""
    return isinstance(value, dict) and bool(PromptFile.known_keys().keys() & value.keys())


class _OrFile(Rule):
    """Prompts, which may be given as a `PromptFile`; `with_prompts` reads it."""

    def inside(self, source: Any) -> Any:
        return Annotated[Prompts | PromptFile, Either(_is_file)]


PromptsOrFile = Annotated[tuple[str, ...], _OrFile()]


def with_prompts(
    data: dict[str, Any], recipe: str | None
) -> tuple[dict[str, Any], list[tuple[KeyPath, str]]]:
    """The data of a recipe with the prompts of the file that they name, if they do.

    Args:
        data: The data.
        recipe: The file of the recipe; None for data from Python.

    Returns:
        The data, whose prompts are `INVALID` where they cannot be read, and what is wrong.
    """
    if not _is_file(data.get("prompts")):
        return data, []
    asked, _, mistakes = validated(PromptFile, data["prompts"])
    if asked is not None and not mistakes:
        try:
            prompts = _read(Path(recipe or "").parent / asked.file, asked)
            return replaced(data, ("prompts",), prompts), []
        except _WrongError as error:
            mistakes = [((error.key,), str(error))]
    wrong = [(("prompts", *path), message) for path, message in mistakes]
    return replaced(data, ("prompts",), INVALID), wrong


class _WrongError(Exception):
    """What is wrong with a file of prompts, and the key that says so."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(message)
        self.key = key


def _read(file: Path, asked: PromptFile) -> list[str]:
    try:
        text = read_bytes(file, MOST).decode("utf-8-sig")
    except StoreError as error:
        raise _WrongError("file", str(error)) from error
    except UnicodeDecodeError as error:
        raise _WrongError("file", f"{file} is no text in UTF-8") from error
    found: dict[str, None] = {}
    for line, prompt in _lines(text) if asked.column is None else _cells(text, file, asked.column):
        if not prompt.strip():
            raise _WrongError("file", f"{file}:{line}: there is no prompt; it is blank")
        if len(prompt) > SCALAR:
            raise _WrongError(
                "file",
                f"{file}:{line}: a prompt of {len(prompt):,} characters; {SCALAR:,} is the most",
            )
        found[prompt.strip()] = None
    prompts = list(found)
    if not prompts:
        raise _WrongError("file", f"{file} has no prompts")
    if asked.count is not None:
        if asked.count > len(prompts):
            raise _WrongError(
                "count", f"is {asked.count:,}, and {file} has {counted(len(prompts), 'prompt')}"
            )
        order = np.random.default_rng(asked.seed).permutation(len(prompts))
        prompts = [prompts[i] for i in order[: asked.count]]
    size = sum(map(len, prompts))
    if 2 * size > TEXT:  # they are written into the recipe of the run
        raise _WrongError(
            "count",
            f"gives prompts of {size:,} characters together; {TEXT // 2:,} are the most",
        )
    return prompts


def _lines(text: str) -> Iterator[tuple[int, str]]:
    yield from enumerate(text.removesuffix("\n").split("\n") if text else (), 1)


def _cells(text: str, file: Path, column: str) -> Iterator[tuple[int, str]]:
    """The values of a column, each with the number of its line."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(rows, [])
        if column not in header:
            hint = did_you_mean(column, header) or f"; it has {', '.join(header) or 'none'}"
            raise _WrongError("column", f"{file} has no column `{column}`{hint}")
        at = header.index(column)
        for row in filter(None, rows):
            yield rows.line_num, row[at] if at < len(row) else ""
    except csv.Error as error:
        raise _WrongError("file", f"{file}:{rows.line_num}: is no CSV: {error}") from error
