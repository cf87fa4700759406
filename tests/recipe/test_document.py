"""YAML with its lines: what it becomes, what is no YAML, and overrides."""

from __future__ import annotations

import time
from typing import Any

import pytest

from ablate.recipe.document import (
    DEPTH,
    NODES,
    TEXT,
    Document,
    Problem,
    RecipeError,
    kind_of,
    written,
)


def load(text: str) -> tuple[Any, list[str]]:
    document = Document.parse(text, "r.yaml")
    return document.data, list(map(str, document.problems))


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
def test_an_empty_file_is_an_empty_mapping(text: str) -> None:
    assert load(text) == ({}, [])


def test_duplicate_keys_name_both_lines_and_the_first_one_counts() -> None:
    data, problems = load("a: 1\nb:\n  - c: 2\n    c: 3\na: 4\n")
    assert data == {"a": 1, "b": [{"c": 2}]}
    assert problems == [
        "r.yaml:4: b[0].c: is given twice; it is on line 3 already",
        "r.yaml:5: a: is given twice; it is on line 1 already",
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
        ("a: 1\nb: \x07", "r.yaml:2: not valid YAML: the character #x0007 is not allowed"),
        ("a: 1\n---\nb: 2", "r.yaml:2: not valid YAML: but found another document"),
        ("a: &a [*a]", "r.yaml:1: not valid YAML: an alias is inside the value that it repeats"),
        (
            "a: !!python/name:os.system",
            "r.yaml:1: not valid YAML: could not determine a constructor for the tag"
            " 'tag:yaml.org,2002:python/name:os.system'",
        ),
    ],
)
def test_what_is_no_yaml_is_a_problem_with_its_line(text: str, problem: str) -> None:
    assert load(text) == (None, [problem])


def test_an_alias_repeats_a_value_that_is_read_once() -> None:
    document = Document.parse("x: &x {b: 1}\ny: *x\nz: [*x, *x]", "r.yaml")
    data = document.data
    assert data == {"x": {"b": 1}, "y": {"b": 1}, "z": [{"b": 1}, {"b": 1}]}
    assert data["x"] is data["y"] is data["z"][1]
    assert str(document.problem(("z", 1, "b"), "is bad")) == "r.yaml:1: z[1].b: is bad"
    document.override("y.b", 2)
    assert document.data == data | {"y": {"b": 2}}


NINE_LEVELS = "a0: &a0 [" + "1," * 10 + "]\n"
NINE_LEVELS += "".join(f"a{i}: &a{i} [{f'*a{i - 1},' * 10}]\n" for i in range(1, 10))
CHAIN = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, 300))
MANY = f"r.yaml:5: contains more than {NODES:,} values, counting those that aliases repeat"
DEEP = f"contains lists and mappings more than {DEPTH} deep inside each other"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (NINE_LEVELS, MANY),
        ("a: " + "[" * 100_000, f"r.yaml:1: {DEEP}"),
        ("a: " + "{b: " * 100_000, f"r.yaml:1: {DEEP}"),
        (CHAIN, f"r.yaml:{DEPTH - 1}: {DEEP}"),
        ("a: " + "x" * 10_000_000,
         f"r.yaml: has 10,000,003 characters; a recipe has at most {TEXT:,}"),
        ("a: 2024-13-45", "r.yaml:1: not valid YAML: month must be in 1..12"),
    ],
    ids=["aliases", "lists", "mappings", "aliases inside each other", "text", "date"],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_at_once(text: str, problem: str) -> None:
    began = time.perf_counter()
    assert load(text) == (None, [problem])
    assert time.perf_counter() - began < 5  # seconds on a busy machine; without bounds, hours


def test_a_number_of_endless_digits_is_a_problem() -> None:
    _, (problem,) = load("a: " + "1" * 5000)
    assert problem == "r.yaml:1: contains a number of 5,000 characters; 40 is the most"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("!!int abc", "not valid YAML: invalid literal for int() with base 10: 'abc'"),
        ('!!bool ""', "not valid YAML: '' is no bool"),
        ("!!timestamp x", "not valid YAML: 'x' is no timestamp"),
        ("!!set {a}", "not valid YAML: the tag 'tag:yaml.org,2002:set' is not part of a recipe"),
        ('"\\ud800"', "not valid YAML: a text contains half of a surrogate pair"),
        ("x" * 20_000, "contains a text of 20,000 characters; 10,000 is the most"),
        ("{%s: 1}" % ("k" * 300), "contains a key of 300 characters; 200 is the most"),
    ],
)
def test_hostile_values_are_refused(text: str, problem: str) -> None:
    assert load(f"a: {text}") == (None, [f"r.yaml:1: {problem}"])


def test_surrogates_in_pairs_are_one_character() -> None:
    assert load('a: "\\ud83d\\ude00"') == ({"a": "\U0001f600"}, [])


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
    document = Document.parse(text, "r.yaml")
    expected = document.data | changed
    document.override(key, "new")
    assert document.data == expected
    assert document.problems == []
    path = tuple(int(part) if part.isdigit() else part for part in key.split("."))
    assert str(document.problem(path, "is bad")) == f"--set {written(path)}: is bad"


@pytest.mark.parametrize("key", ["prompts.2", "prompts.x", "prompts.-1", "name.x", "prompts.0.x.y"])
def test_an_override_of_no_place_is_a_problem(key: str) -> None:
    document = Document.parse("name: x\nprompts: [a, b]", "r.yaml")
    document.override(key, 1)
    assert document.data == {"name": "x", "prompts": ["a", "b"]}
    assert [str(p) for p in document.problems] == [
        f"--set {key}: there is no such place in the recipe"
    ]


def test_a_problem_stands_at_the_nearest_key_that_has_a_line() -> None:
    document = Document.parse("a:\n  b:\n    - 1\n    - 2\n", "r.yaml")
    assert document.problem(("a", "b", 1), "").line == 4
    assert document.problem(("a", "b", 7, "c"), "").line == 2
    assert document.problem(("z",), "").line == 1


def test_an_error_tells_each_problem_once_in_the_order_of_the_file() -> None:
    late, early = Problem("late", "b", "r.yaml", 9), Problem("early", "a", "r.yaml", 2)
    error = RecipeError([late, early, late])
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
