"""What a study shows: concepts, templates, seeds and windows, as they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablate.edits.variants import When
from ablate.units.record.setup import StudyError, parse_window
from ablate.units.record.stimuli import Stimuli, fill_template, parse_concepts, parse_seeds


@pytest.mark.parametrize(
    ("given", "words"),
    [("cat, dog,", ("cat", "dog")), ("cat", ("cat",)), ("a.txt,", ("a.txt",)),
     (",".join(map(str, range(999))), tuple(map(str, range(999))))],
)  # fmt: skip
def test_concepts_are_a_list(given: str, words: tuple[str, ...]) -> None:
    assert parse_concepts(given) == words


def test_concepts_are_the_lines_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a,b.txt").write_text("cat\n\ntoy, red\n", encoding="utf-8")
    assert parse_concepts(str(tmp_path / "a,b.txt")) == ("cat", "toy, red")
    for given, message in (
        (tmp_path, "cannot be read: Is a directory; a concept of this name needs"),
        (tmp_path / "missing", "cannot be read: No such file"),
        ("missing.txt", "missing.txt cannot be read: No such file"),
        (" ,", "a concept is blank"),
        ("cat,,dog", "a concept is blank in `cat,,dog`"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_concepts(str(given))


def test_seeds_are_ranges() -> None:
    assert parse_seeds("0-2, 7") == (0, 1, 2, 7)
    for given, message in (
        ("3-1", "`3-1` ends before it begins"),
        ("0-1000000", "more seeds than the 100,000 there may be"),
        ("0-59999,60000-119999", "more seeds than the 100,000 there may be"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_seeds(given)


def test_windows_are_those_of_recipes() -> None:
    assert parse_window("{steps: [0, 3]}") == When("steps", 0, 3)
    assert parse_window("{t: [0.5, 1]}") == When("t", 0.5, 1)  # either end may come first
    for given, message in (
        ("later", "is no window; write one of steps, fraction, t"),
        ("{steps: [3, 1]}", "ends before it begins"),
        ("{steps: [0.5, 1]}", "whole numbers"),
        ("{fraction: [0, 1.5]}", "between 0 and 1"),
        ("{t: [1, 1]}", "it is empty"),
    ):
        with pytest.raises(StudyError, match=message):
            parse_window(given)


def test_articles_fit_the_concept() -> None:
    assert fill_template("a picture of a {}", "owl") == "a picture of an owl"
    assert fill_template("A {} at night", "cat") == "A cat at night"
    stimuli = Stimuli(("cat", "owl"), ("a {}", "a {} at night"), (0, 3))
    assert stimuli.prompts == ("a cat", "a cat at night", "an owl", "an owl at night")
    assert [stimuli.concept_of(prompt) for prompt in stimuli.prompts] == [0, 0, 1, 1]
    assert len(stimuli) == 8


@pytest.mark.parametrize(
    ("concepts", "templates", "seeds", "message"),
    [
        ((), ("a {}",), (0,), "there are no concepts"),
        (("cat", "cat"), ("a {}",), (0,), "`cat` is twice among the concepts"),
        (("cat",), ("a cat",), (0,), "the template `a cat` has no `{}`"),
        (("cat",), ("a {}",), (), "there are no seeds"),
    ],
)
def test_stimuli_that_cannot_be(
    concepts: tuple[str, ...], templates: tuple[str, ...], seeds: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Stimuli(concepts, templates, seeds)
