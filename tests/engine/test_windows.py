"""Edits in a window of the sampling: what they do, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import pytest

from ablate import lab
from ablate.drift.measure import MeasuredCell
from ablate.edits.in_place import applied
from ablate.edits.variants import Edit, Variant
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.sampling.request import Callbacks, Request
from ablate.sweep.binding import plan

pytestmark = pytest.mark.usefixtures("without_report")

Build = Callable[..., Recipe]
RunIt = Callable[..., lab.Result]
STEPS = 4
SAMPLING = {"num_inference_steps": STEPS}


def pixels(cell: MeasuredCell) -> np.ndarray:
    return np.asarray(cell.image(), dtype=int)


def by_hand(pipeline: Pipeline, recipe: Recipe, edit: Edit, window: tuple[int, int]) -> np.ndarray:
    """The image of a network that is edited before the first step of a window, and no longer."""
    with ExitStack() as stack:

        def reach(step: int) -> None:
            if step == window[0]:
                stack.enter_context(applied(pipeline.network, Variant("edited", (edit,))))
            elif step == window[1] + 1:
                stack.close()

        settings = pipeline.settings(recipe.sampling)
        requests = [Request(recipe.prompts[0], 0)]
        (image,) = pipeline.sample(requests, settings, Callbacks(on_step=reach)).images
    return (image * 255).round().astype(int)


@pytest.mark.parametrize("window", [(0, 0), (1, 2), (3, 3), (2, 3)])
@pytest.mark.parametrize("modules", ["stage=out", "*"], ids=["by rows", "in place"])
def test_an_edit_holds_in_its_window_and_nowhere_else(
    modules: str, window: tuple[int, int], build: Build, run: RunIt, tiny: Pipeline
) -> None:
    edit = {"scale": {"modules": modules, "factor": 40, "when": {"steps": list(window)}}}
    recipe = build(sampling=SAMPLING, edits=[edit])
    result = run(recipe)
    baseline, cell = result
    assert result.summary.by_rows == (2 if modules == "stage=out" else 1)
    expected = by_hand(tiny, recipe, Edit.on(tiny.network, "scale", modules, 40.0), window)
    assert np.abs(pixels(cell) - expected).max() <= 2
    assert np.abs(pixels(cell) - pixels(baseline)).max() > 2
    assert cell.record()["edits"][0]["when"] == {"steps": list(window)}


def test_a_window_over_all_steps_is_no_window(build: Build, run: RunIt) -> None:
    plain, windowed = (
        run(build(sampling=SAMPLING, edits=[{"shuffle": {"modules": "stage=up"} | when}]), name)
        for name, when in (("plain", {}), ("windowed", {"when": {"steps": [0, STEPS - 1]}}))
    )
    assert np.array_equal(pixels(plain.cells[1]), pixels(windowed.cells[1]))
    assert plain.cells[1].key != windowed.cells[1].key


@pytest.mark.parametrize("first", [1, 2])
def test_variants_share_the_steps_before_their_windows(
    first: int, build: Build, run: RunIt, tiny: Pipeline
) -> None:
    """Six variants and the baseline: one cell until the window opens, seven from then on."""
    rows = []
    handle = tiny.network.conv_in.register_forward_pre_hook(  # type: ignore[union-attr]
        lambda _module, inputs: rows.append(len(inputs[0]))
    )
    recipe = build(
        sampling=SAMPLING,
        seeds=[5],
        axes={"module": {"each": {"sample": {"of": "stage=up", "count": 6}}}},
        edits=[{"zero": {"modules": "$module", "when": {"steps": [first, STEPS - 1]}}}],
    )
    try:
        result = run(recipe)
    finally:
        handle.remove()
    assert rows == [2] * first + [2 * 7] * (STEPS - first)
    for cell in result.cells[1:]:
        edit = Edit("zero", (str(cell.axes["module"]),))
        settings = tiny.settings(recipe.sampling)
        with ExitStack() as stack:

            def reach(step: int, edit: Edit = edit, stack: ExitStack = stack) -> None:
                if step == first:
                    stack.enter_context(applied(tiny.network, Variant("edited", (edit,))))

            requests = [Request(recipe.prompts[0], 5)]
            (alone,) = tiny.sample(requests, settings, Callbacks(on_step=reach)).images
        assert np.abs(pixels(cell) - (alone * 255).round()).max() <= 2


def test_a_window_that_never_opens_is_refused(build: Build) -> None:
    edit = {"zero": {"modules": "*", "when": {"steps": [STEPS, 9]}}}
    with pytest.raises(RecipeError, match="is never open: sampling has 4 steps, and the first one"):
        plan(build(sampling=SAMPLING, edits=[edit]))
