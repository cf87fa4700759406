"""Recipes changed at random: each is planned or refused, with a sentence for every mistake."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from wrong import WRONG

from ablate.recipe.document import RecipeError
from ablate.sweep.binding import plan

FILES = sorted((Path(__file__).parent.parent.parent / "recipes").glob("*.yaml"))
RIGHT = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in FILES]
READ = [data for wrong in WRONG if isinstance(data := yaml.safe_load(wrong.text), dict)]
VALUES = [
    None, True, 0, -1, 3, 2.5, 1e400, 10**30, "", "x", "$a", "$", "*", "stage=up", "no*", "日本",
    [], {}, [1, 2], ["a", "b"], [[1]], [None], {"values": [1]}, {"range": [0, 1], "step": 0.5},
    {"each": "*"}, {"steps": [0, 3]}, {"heads": 0}, "unconditional", {"x": 1},
]  # fmt: skip
KEYS = [
    "modules", "values", "seed", "component", "when", "unit", "units", "factor", "dose", "with",
    "over", "text", "range", "windows", "embedding", "zip", "sheet", "axes", "edits", "modles",
]  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, Any]]:
    """Every container and key of the data."""
    for key in list(data) if isinstance(data, dict) else range(len(data)):
        yield data, key
        if isinstance(data[key], dict | list):
            yield from places(data[key])


def changed(data: Any, source: random.Random) -> Any:
    data = copy.deepcopy(data)
    for _ in range(source.choice([1, 1, 2, 3])):
        container, key = source.choice([*places(data), (data, "name")])
        way = source.random()
        if way < 0.2 and key in container:
            del container[key]
        elif way < 0.4 and isinstance(container, dict):
            container[source.choice(KEYS)] = copy.deepcopy(source.choice(VALUES))
        else:
            container[key] = copy.deepcopy(source.choice(VALUES))
    return data


@pytest.mark.parametrize("seed", range(4))
def test_a_recipe_is_planned_or_refused(seed: int, tmp_path: Path) -> None:
    source, file = random.Random(seed), tmp_path / "r.yaml"
    for _ in range(150):
        file.write_text(yaml.safe_dump(changed(source.choice([*RIGHT, *READ]), source)))
        try:
            plan(file)
        except RecipeError as error:
            sentences = list(map(str, error.problems))
            assert len(set(sentences)) == len(sentences) > 0
            assert not [s for s in sentences if "INVALID" in s or "object at" in s]
