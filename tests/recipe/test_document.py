"""YAML with its lines: what it becomes, what is no YAML, and overrides."""

from __future__ import annotations

from typing import Any

import pytest

from ablate.recipe.document import Document, DocumentError, Problem, kind_of, written


def load(text: str) -> tuple[Any, list[str]]:
    document = Document("r.yaml")
    data = document.load(text)
    return data, list(map(str, document.problems))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("-2E+4", -20000.0),
        (".5e1", 5.0),
        ("1e3", 1000.0),
        ("1.5", 1.5),
        ("7", 7),
        ('"1e-3"', "1e-3"),
        ("e-3", "e-3"),
        ("1e", "1e"),
        ("", None),
    ],
)
def test_scalars(text: str, value: object) -> None:
    data, problems = load(f"a: {text}")
    assert (data, problems) == ({"a": value}, [])
    assert type(data["a"]) is type(value)


def test_keys_are_what_is_written() -> None:
    assert load("on: 1\n1: 2\nno: 3") == ({"on": 1, "1": 2, "no": 3}, [])


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment\n", "---\n"])
def test_an_empty_file_is_an_empty_mapping_or_null(text: str) -> None:
    data, problems = load(text)
    assert not data
    assert problems == []


def test_duplicate_keys_name_both_lines_and_the_first_one_counts() -> None:
    data, problems = load("a: 1\nb:\n  - c: 2\n    c: 3\na: 4\n")
    assert data == {"a": 1, "b": [{"c": 2}]}
    assert problems == [
        "r.yaml:4: b[0].c: stands twice; it is on line 3 already",
        "r.yaml:5: a: stands twice; it is on line 1 already",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a: [1\nb: 2", "r.yaml:2: not valid YAML: expected ',' or ']', but got ':'"),
        (
            "a:\n\t- b",
            "r.yaml:2: not valid YAML: found character '\\t' that cannot start any token",
        ),
        ("a: *x", "r.yaml:1: not valid YAML: found undefined alias 'x'"),
        ("a: 1\nb: \x07", "r.yaml:2: not valid YAML: the character #x0007 may not stand in it"),
        ("a: 1\n---\nb: 2", "r.yaml:2: not valid YAML: but found another document"),
        ("a: &a [*a]", "r.yaml:1: not valid YAML: an alias stands within what it stands for"),
        (
            "a: !!python/name:os.system",
            "r.yaml:1: not valid YAML: could not determine a constructor for the tag"
            " 'tag:yaml.org,2002:python/name:os.system'",
        ),
    ],
)
def test_what_is_no_yaml_is_a_problem_with_its_line(text: str, problem: str) -> None:
    assert load(text) == (None, [problem])


@pytest.mark.parametrize(
    ("key", "changed"),
    [
        ("name", {"name": "new"}),
        ("about", {"about": "new"}),
        ("sampling.width", {"sampling": {"height": 8, "width": "new"}}),
        ("made.up.place", {"made": {"up": {"place": "new"}}}),
        ("prompts.1", {"prompts": ["a", "new"]}),
        ("edits.0.scale.factor", {"edits": [{"scale": {"factor": "new"}}]}),
    ],
)
def test_overrides_reach_into_mappings_and_lists(key: str, changed: dict[str, Any]) -> None:
    text = "name: x\nsampling: {height: 8}\nprompts: [a, b]\nedits: [{scale: {factor: 1}}]"
    document = Document("r.yaml")
    data = document.load(text)
    expected = data | changed
    document.override(data, key, "new")
    assert data == expected
    assert document.problems == []
    path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    assert str(document.at(path, "is bad")) == f"--set {written(path)}: is bad"


@pytest.mark.parametrize("key", ["prompts.2", "prompts.x", "prompts.-1", "name.x", "prompts.0.x.y"])
def test_an_override_of_no_place_is_a_problem(key: str) -> None:
    document = Document("r.yaml")
    data = document.load("name: x\nprompts: [a, b]")
    document.override(data, key, 1)
    assert data == {"name": "x", "prompts": ["a", "b"]}
    assert [str(p) for p in document.problems] == [
        f"--set {key}: there is no such place in the recipe"
    ]


def test_a_problem_stands_at_the_nearest_key_that_has_a_line() -> None:
    document = Document("r.yaml")
    document.load("a:\n  b:\n    - 1\n    - 2\n")
    assert document.at(("a", "b", 1)).line == 4
    assert document.at(("a", "b", 7, "c")).line == 2
    assert document.at(("z",)).line == 1


def test_an_error_tells_each_problem_once_in_the_order_of_the_file() -> None:
    late, early = Problem("late", "b", "r.yaml", 9), Problem("early", "a", "r.yaml", 2)
    error = DocumentError([late, early, late])
    assert str(error) == "r.yaml:2: a: early\nr.yaml:9: b: late"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "nothing"),
        (True, "`true`"),
        ("x", "`x`"),
        ("", "empty text"),
        (0.5, "`0.5`"),
        ([], "an empty list"),
        ([1], "a list"),
        ({}, "a mapping"),
    ],
)
def test_what_a_value_is_called(value: object, words: str) -> None:
    assert kind_of(value) == words
