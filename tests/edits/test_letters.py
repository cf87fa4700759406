"""Words on pictures: where they are drawn, and as the edit of a recipe."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from byhand import CONV, shown
from click.testing import CliRunner

from ablate import Edit, lab
from ablate.cli.main import main
from ablate.edits.letters import label, word, wrong_length, wrong_letters
from ablate.engine.export import ExportError, export_variant
from ablate.engine.replay import replay_cell
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.recipe.schema import recipe_schema
from ablate.sampling.pipeline import Pipeline
from ablate.store.png import read_record
from ablate.sweep.binding import plan

pytestmark = pytest.mark.usefixtures("without_report")

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]
TEXTS = ["cat", "strawberry", "a cat in a party hat", "W" * 60, "щука"]


def gray(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 0.5, np.float32)


def on(picture: np.ndarray, text: str) -> np.ndarray:
    """A picture with a label on it."""
    letters = label(text, picture.shape[1], picture.shape[0])
    return np.where(np.isnan(letters), picture, letters)


def box(changed: np.ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom, right of what is true."""
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("size", [(64, 64), (300, 200), (1024, 1024)])
def test_a_label_is_in_the_lower_part_alone(text: str, size: tuple[int, int]) -> None:
    before = gray(*size)
    after = on(before, text)
    top, left, bottom, right = box((after != before).any(2))
    width, height = size
    assert 0 <= left < width / 2 < right <= width
    assert height * 0.6 < top < bottom <= height
    assert abs(left - (width - right)) <= 1  # in the middle
    inside = after[top:bottom, left:right]
    assert (inside != 0.5).all(2).mean() > 0.95  # the label covers all of its box
    assert inside.max() == 1.0
    assert inside.min() < 0.35  # dark letters
    assert np.isfinite(after).all()


def test_letters_are_as_large_as_fits() -> None:
    def dark(text: str, side: int) -> int:
        """The height of the letters, in pixels."""
        dark = on(gray(side, side), text).max(2) < 0.4
        top, _, bottom, _ = box(dark)
        return bottom - top

    assert dark("cat", 64) >= 9
    assert dark("cat", 1024) >= 12 * dark("cat", 64)
    # Of a long word the sides decide: it is nearly as wide as it may be.
    _, left, _, right = box((on(gray(256, 256), "strawberry") != 0.5).any(2))
    assert right - left >= 0.85 * 256


def test_without_a_word_there_is_no_label() -> None:
    for text in ("", "  \n"):
        assert np.isnan(label(text, 64, 64)).all()


@pytest.mark.parametrize("text", ["word " * 1000, "w" * 5000, "i li l. " * 700])
def test_long_texts_are_cut_at_once(text: str) -> None:
    began = time.monotonic()
    after = on(gray(512, 512), text)
    assert time.monotonic() - began < 1
    top, left, bottom, right = box((after != 0.5).any(2))
    assert 512 * 0.6 < top < bottom <= 512
    assert right - left > 0.85 * 512
    assert (after == on(gray(512, 512), text + " and more")).mean() > 0.9


def test_letters_that_cannot_be_drawn_are_named() -> None:
    assert wrong_letters("cafe\u0301, Ωмега – “ß”") is None  # a separate accent, too
    message = wrong_letters("日本 cat 日\u200d")
    assert message is not None
    assert message.startswith("the typeface, Inter, lacks 日, 本, U+200D, which would become boxes")


def test_what_has_no_room_is_reported() -> None:
    for text, side in (("a cat in a party hat", 64), ("word " * 30, 512), ("", 8)):
        assert wrong_length(text, side, side) is None
    message = wrong_length("w" * 100, 64, 64)
    assert message is not None
    assert message.startswith("is too long for a picture of 64 × 64 pixels: of its 100 letters ")
    # So many are drawn, and the next ones change nothing.
    fitting = int(message.split()[-7])
    assert wrong_length("w" * fitting, 64, 64) is None
    cut = on(gray(64, 64), "w" * fitting)
    assert (on(gray(64, 64), "w" * (fitting + 9)) == cut).all()
    assert (on(gray(64, 64), "w" * (fitting - 1)) != cut).any()


def test_labels_are_not_shared_by_callers() -> None:
    card = label("cat", 64, 64)
    card[:] = 0
    assert np.nanmax(label("cat", 64, 64)) == 1


@pytest.mark.parametrize("text", ["cat", "strawberry", "party hat"])
def test_a_word_alone_fills_the_width(text: str) -> None:
    for side in (64, 224):
        card = np.asarray(word(text, side))
        assert card.shape == (side, side, 3)
        assert (card[[0, -1]] == 255).all()
        _, left, _, right = box(card.max(2) < 100)
        assert right - left > 0.6 * side
    assert word("cat", 64).tobytes() != word("dog", 64).tobytes()
    assert (np.asarray(word("", 32)) == 255).all()


# ---------------------------------------------------------------- the edit


def test_only_the_label_differs_and_nothing_is_sampled_twice(
    run: RunIt, build: Build, tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    real = tiny.sample

    def sample(requests: Any, *rest: Any) -> Any:
        asked.append(len(requests))
        return real(requests, *rest)

    monkeypatch.setattr(tiny, "sample", sample)
    recipe = build(
        seeds=[0, 1],
        axes={"word": {"values": ["", "cat", "dog"]}, "factor": {"values": [1, -2]}},
        edits=[
            {"write": {"text": "$word"}},
            {"scale": {"modules": CONV, "factor": "$factor"}},
        ],
    )
    assert plan(recipe).denoiser_rows == 2 * 2 * 2 * 2  # seeds, factors, steps, guidance
    result = run(recipe)
    assert (result.summary.computed, sum(asked)) == (12, 4)
    cells = {(c.seed, c.axes["word"], c.axes["factor"]): c for c in result}
    assert {k for k, c in cells.items() if c.is_baseline} == {(0, "", 1), (1, "", 1)}
    for (seed, text, factor), cell in cells.items():
        plain = shown(cells[seed, "", factor])
        expected = on(plain, text)
        assert np.abs(shown(cell) - expected).max() <= 1 / 255
        assert (shown(cell) != plain).any() == bool(text)
        assert (cell.drift["latent"] > 0) == (factor != 1)
        assert (cell.drift["rmse"] > 0) is not cell.is_baseline


def test_a_cell_records_its_words_and_is_replayed(run: RunIt, build: Build, tiny: Pipeline) -> None:
    edits = [{"write": {"text": "cat", "where": "image"}}, {"zero": {"modules": CONV}}]
    result = run(build(edits=edits))
    (cell,) = (c for c in result if not c.is_baseline)
    edit = {"op": "write", "modules": [], "where": "image", "text": "cat"}
    assert read_record(cell.path)["edits"][0] == edit
    again = replay_cell(cell.path, tiny)
    assert (again.difference, again.same_key) == (0, True)
    output = CliRunner().invoke(main, ["show", str(cell.path)]).output
    assert "write (text cat, where image)\nzero\n" in output
    with pytest.raises(ExportError, match="`write` edits the finished picture"):
        export_variant(result.store, cell.variant, pipeline=tiny)


def test_frames_and_resumed_runs_have_their_words(run: RunIt, build: Build) -> None:
    axes = {"word": {"values": ["", "cat"]}, "steps": {"values": [1, 2]}}
    recipe = build(axes=axes, edits=[{"write": {"text": "$word"}}])
    run(recipe, limit=1)
    result = run(recipe)
    assert (result.summary.computed, result.summary.reused) == (3, 1)
    cells = {(c.axes["word"], c.axes["steps"]): shown(c) for c in result}
    for steps in (1, 2):
        expected = on(cells["", steps], "cat")
        assert np.abs(cells["cat", steps] - expected).max() <= 1 / 255
    assert (cells["", 1] != cells["", 2]).any()


@pytest.mark.parametrize(
    ("edit", "message", "static"),
    [
        ({}, "edits[0].write: `text` is missing: what is written, or an axis (`$name`)", True),
        ({"text": 3}, "edits[0].write.text: must be text, not `3`; put it in quotes", True),
        ({"text": "a", "modules": "*"}, "edits[0].write.modules: `write`, which edits the finished"
         " picture, takes no `modules`; known here: where, text", True),
        ({"text": "a", "when": {"steps": [0, 1]}}, "edits[0].write.when: `write`, which edits the"
         " finished picture, takes no `when`; known here: where, text", True),
        ({"text": "a", "wher": "image"}, "edits[0].write.wher: unknown key, did you mean `where`?",
         True),
        ({"text": "日本"}, "edits[0].write.text: the typeface, Inter, lacks 日, 本, which", False),
        ({"text": "a", "where": "output"}, "edits[0].write.where: must be `image`", True),
        ({"text": "$no"}, "edits[0].write.text: there is no axis `no`", False),
        ({"text": "$n"}, "axes.n.values[1]: must be text, not `2`", False),
    ],
)  # fmt: skip
def test_mistakes(edit: dict[str, Any], message: str, static: bool, build: Build) -> None:
    keys = {"axes": {"n": {"values": ["one", 2]}}} if edit.get("text") == "$n" else {}
    with pytest.raises(RecipeError) as error:
        plan(build(edits=[{"write": edit}], **keys))
    assert str(error.value).startswith(message)
    recipe = {"version": 1, "name": "x", "edits": [{"write": edit}], **keys}
    assert jsonschema.Draft202012Validator(recipe_schema()).is_valid(recipe) is not static


def test_words_without_room_are_refused_at_their_line(build: Build) -> None:
    for sizes, fits in (
        ({"width": {"values": [16, 256]}, "height": {"values": [16, 256]}}, False),
        ({"width": {"values": [256, 512]}, "height": {"values": [512, 256]}}, True),
    ):
        keys = {"axes": {"word": {"values": ["at", "w" * 60]}, **sizes}}
        recipe = build(edits=[{"write": {"text": "$word"}}], zip=["width", "height"], **keys)
        if fits:
            assert len(plan(recipe).cells) == 6
            continue
        with pytest.raises(RecipeError) as error:
            plan(recipe)
        (problem,) = error.value.problems
        assert problem.key == "axes.word.values[1]"
        assert "too long for a picture of 16 × 16 pixels" in problem.message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"op": "write", "where": "image"}, "`write` needs a text"),
        ({"op": "write", "where": "output", "text": "a"}, "`write` edits image, not `output`"),
        ({"op": "write", "where": "image", "text": "a", "modules": ("m",)},
         "`write` edits the finished picture, not `m`"),
        ({"op": "zero", "modules": ("m",), "text": "a"}, "`zero` takes no text"),
    ],
)  # fmt: skip
def test_edits_that_are_none(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Edit(**settings)


def test_the_typographic_recipe_is_sampled_once_a_subject_and_seed() -> None:
    file = Path(__file__).parent.parent.parent / "recipes" / "typographic.yaml"
    planned = plan(file)
    assert len({c.condition for c in planned.cells}) * 20 * 2 == planned.denoiser_rows
    assert len(planned.cells) == 6 * planned.denoiser_rows // 40
