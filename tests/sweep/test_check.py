"""What `check` accepts, `run` can do: schedulers, steps, options, pipelines that need a picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
from click.testing import CliRunner
from diffusers.schedulers import scheduling_euler_discrete
from diffusers.utils import dummy_torch_and_scipy_objects, dummy_torch_and_torchsde_objects

from ablate.cli.main import main
from ablate.engine.records import with_keys
from ablate.engine.replay import replay_cell
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.png import parameters_text, read_record
from ablate.sweep.binding import plan

Build = Callable[..., Recipe]
KARRAS = {"name": "dpm_solver_multistep", "use_karras_sigmas": True}
EDITS = [{"zero": {"modules": "stage=mid"}}]


def problems(build: Build, **keys: Any) -> list[str]:
    try:
        plan(build(**({"edits": EDITS} | keys)))
    except RecipeError as error:
        return [f"{problem.key}: {problem.message}" for problem in error.problems]
    return []


def test_steps_that_a_scheduler_cannot_take_are_a_mistake_of_the_recipe(build: Build) -> None:
    def wrong(scheduler: str | None, steps: int) -> list[str]:
        sampling = {"num_inference_steps": steps} | ({"scheduler": scheduler} if scheduler else {})
        return problems(build, sampling=sampling)

    for scheduler, steps in (("ddim", 1000), (None, 1000), ("ddim", 1001), ("lcm", 51)):
        (only,) = wrong(scheduler, steps)
        assert only.startswith("sampling.num_inference_steps: `")
        assert f" in {steps:,} steps: " in only
    assert wrong("ddim", 999) == wrong("euler", 1000) == wrong("lcm", 50) == []
    axes = {"scheduler": ["ddim", "euler"], "num_inference_steps": [2, 1000]}
    (only,) = problems(build, axes=axes, sampling={})
    assert only.startswith("axes.num_inference_steps[1]: `")
    assert problems(build, axes=axes, zip=["scheduler", "num_inference_steps"], sampling={}) == []


def test_a_scheduler_whose_package_is_missing_is_named_with_the_command_that_installs_it(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in (
        (dummy_torch_and_scipy_objects, "LMSDiscreteScheduler"),
        (dummy_torch_and_torchsde_objects, "DPMSolverSDEScheduler"),
    ):
        monkeypatch.setattr(diffusers, name, getattr(module, name))
    monkeypatch.setattr(scheduling_euler_discrete, "is_scipy_available", lambda: False)
    for scheduler, package in (
        ("lms", "scipy"),
        ("LMS Karras", "scipy"),
        ("dpm_solver_sde", "torchsde"),
        ("Euler beta", "scipy"),
    ):
        (only,) = problems(build, sampling={"scheduler": scheduler})
        assert only.startswith("sampling.scheduler: ")
        assert f"`pip install {package}`" in only


@pytest.mark.parametrize(
    "keys",
    [
        {"seeds": [2**64]},
        {"axes": {"seed": [2**64]}},
        {"edits": [{"mean": {"modules": "stage=mid", "where": "output",
                             "over": {"seeds": [2**64]}}}]},
    ],
)  # fmt: skip
def test_seeds_have_64_bits(build: Build, keys: dict[str, Any]) -> None:
    (only,) = problems(build, **keys)
    assert "must be at most 2^64 - 1" in only
    assert problems(build, seeds=[2**64 - 1]) == []


@pytest.mark.parametrize(
    ("scheduler", "sentence"),
    [
        ({"name": "dimm", "eta": 1}, "diffusers has no scheduler `dimm`, did you mean `ddim`?"),
        ({**KARRAS, "use_karras_sigma": True}, "did you mean `use_karras_sigmas`?"),
        ({"name": "euler", "use_karras_sigmas": "yes"}, "must be true or false"),
        ({"use_karras_sigmas": True}, "must have the `name` of a scheduler, beside its options"),
        ({"name": ["ddim"]}, "must have the `name` of a scheduler"),
        ({"name": "ddim", "beta_schedule": "steep"}, "cannot be configured for"),
        ({"name": "ddim", "timestep_spacing": "wide"}, "must be `leading` or `linspace` or"),
        ("scm", "cannot be configured for"),
    ],
)
def test_a_wrong_scheduler_is_one_mistake(build: Build, scheduler: Any, sentence: str) -> None:
    (alone,) = problems(build, sampling={"scheduler": scheduler})
    (first,) = problems(build, axes={"scheduler": [scheduler, "euler"]})
    assert sentence in alone
    assert sentence in first


def test_ways_of_writing_a_scheduler_give_one_key_and_records_that_are_replayed(
    build: Build, tiny: Pipeline, run: Callable[..., Any]
) -> None:
    def key(scheduler: Any) -> str:
        recipe = build(edits=EDITS, sampling={"num_inference_steps": 2, "scheduler": scheduler})
        return with_keys(plan(recipe).cells, tiny)[-1].key

    assert key("DPM++ 2M Karras") == key(KARRAS) != key("DPM++ 2M")
    assert key("DPM++ 2M") == key("dpm_solver_multistep")
    assert key("Euler a") == key("euler_ancestral") == key({"name": "euler_ancestral"})
    axes = {"scheduler": ["DPM++ 2M", "DPM++ 2M Karras", KARRAS]}
    result = run(build(axes=axes, edits=EDITS, sampling={"num_inference_steps": 4}))
    labels = ["DPM++ 2M", "DPM++ 2M Karras", "dpm_solver_multistep(use_karras_sigmas=true)"]
    assert list(plan(build(axes=axes, edits=EDITS)).axes[-1].labels) == labels
    full = "DPMSolverMultistepScheduler(use_karras_sigmas=true)"
    files = sorted(result.store.folder.glob("cells/*.png"))
    records = {file: read_record(file) for file in files}
    karras = [f for f, r in records.items() if r["condition"]["sampling"]["scheduler"] == full]
    assert len(files) == 4
    assert len(karras) == 2
    assert f"Sampler: {full}, " in parameters_text(records[karras[0]])
    replayed = replay_cell(karras[0], tiny)
    assert replayed.same_key
    assert replayed.difference == 0


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("StableDiffusionInpaintPipeline", "needs a picture (`image`)"),
        ("StableDiffusionImg2ImgPipeline", "needs a picture (`image`)"),
        ("StableDiffusionControlNetPipeline", "needs a picture (`image`)"),
        ("StableDiffusionInstructPix2PixPipeline", "needs a picture (`image`)"),
        ("StableDiffusionUpscalePipeline", "needs a picture (`image`)"),
        ("StableDiffusionDepth2ImgPipeline", "needs a picture (`image`)"),
        ("StableDiffusionImageVariationPipeline", "needs a picture (`image`)"),
        ("StableDiffusionXLAdapterPipeline", "needs a picture (`image`)"),
        ("FluxFillPipeline", "needs a picture (`image`)"),
        ("FluxControlPipeline", "needs a picture (`control_image`)"),
        ("KandinskyV22ControlnetPipeline", "needs a picture (`image_embeds`)"),
        ("DDPMPipeline", "takes no prompt"),
        ("FluxKontextPipeline", None),
        ("Flux2Pipeline", None),
        ("StableDiffusionAttendAndExcitePipeline", None),
        ("StableDiffusionPAGPipeline", None),
    ],
)
def test_a_pipeline_that_needs_a_picture_is_a_mistake_of_the_recipe(
    name: str, sentence: str | None, build: Build, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_folder, folder)
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": name}))
    found = problems(build, model=str(folder))
    if sentence is None:
        assert not any("picture" in problem or "prompt" in problem for problem in found)
    else:
        (only,) = found
        assert only.startswith("model: ")
        assert sentence in only


def test_words_that_a_tokenizer_does_not_read_are_notes_of_the_plan(build: Build) -> None:
    sampling = {"num_inference_steps": 2, "negative_prompt": "blurry " * 30}
    long = "a cat in a party hat " * 4 + "beside an owl"
    notes = plan(build(edits=EDITS, prompts=["a cat", long], sampling=sampling)).notes
    assert len(notes) == 2
    assert all("`tokenizer` reads 24 tokens, without “" in note for note in notes)
    assert any("beside an owl”" in note for note in notes)
    assert any("the prompt “blurry" in note for note in notes)
    assert plan(build(edits=EDITS, prompts=["a cat"])).notes == ()


def test_notes_of_a_plan_are_printed_and_in_the_report(build: Build, tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text(
        "version: 1\nname: long\nprompts: [" + "a cat in a party hat " * 4 + "beside an owl]\n"
        "sampling: {num_inference_steps: 1}\nedits: [{zero: {modules: stage=mid}}]\n"
    )
    out = tmp_path / "out"
    for command in (["check", file], ["plan", file], ["run", file, "--out", out]):
        done = CliRunner().invoke(main, [*map(str, command)])
        assert done.exit_code == 0, done.output
        assert "note: prompts: of the prompt “a cat in a party hat" in done.output
        assert "beside an owl”" in done.output
    assert "beside an owl”" in (out / "report.html").read_text()
