"""Records of strangers: shown without harm, computed within bounds, and nothing loaded unasked."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import damaged
import pytest
from click.testing import CliRunner, Result
from records import CHANGES, SHOWN, Change

from ablate.cli.main import main
from ablate.lab import run as run_recipe
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("without_report")


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, bundled_pipeline: Pipeline) -> Path:
    """A cell of the bundled model."""
    recipe = Recipe.build({
        "version": 1, "name": "sound", "dtype": "float32", "prompts": ["a cat"],
        "sampling": {"num_inference_steps": 1},
        "edits": [{"scale": {"modules": "conv_in", "factor": 0.5}}],
    })  # fmt: skip
    result = run_recipe(recipe, tmp_path_factory.mktemp("sound"), pipeline=bundled_pipeline)
    return next(cell.path for cell in result if not cell.is_baseline)


@pytest.fixture
def changed(sound: Path, tmp_path: Path) -> Callable[[Change], Path]:
    """A copy of the cell whose record says something else."""

    def written(change: Change) -> Path:
        copy = tmp_path / sound.name
        copy.write_bytes(sound.read_bytes())
        record = damaged.record(copy)
        change(record)
        damaged.with_record(copy, json.dumps(record))
        return copy

    return written


def ablate(*arguments: object) -> Result:
    """Run a command; errors that are no answer to the user are raised."""
    began = time.perf_counter()
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert time.perf_counter() - began < 5
    assert done.output.replace("\n", "").isprintable()
    return done


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is loaded."""

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(Pipeline, "load", refused)


@pytest.mark.usefixtures("no_model")
@pytest.mark.parametrize("name", [name for name in CHANGES if name not in SHOWN])
def test_a_record_that_describes_no_cell_is_refused(
    name: str, changed: Callable[[Change], Path]
) -> None:
    path = changed(CHANGES[name])
    for command in ("show", "replay"):
        done = ablate(command, path)
        assert done.exit_code == 2, (command, done.output)
        assert str(path) in done.output
        assert len(done.output) < 2000


@pytest.mark.parametrize("name", SHOWN)
def test_what_is_shown_is_printable_and_what_does_not_fit_ends_in_a_sentence(
    name: str, changed: Callable[[Change], Path]
) -> None:
    path = changed(SHOWN[name])
    assert ablate("show", path).exit_code == 0
    assert ablate("show", path, "--json").exit_code == 0
    done = ablate("replay", path, "--device", "cpu")
    assert len(done.output) < 2000
    computes = name == "a prompt that controls terminals"
    assert (done.exit_code == 0) == computes, done.output
