"""A cell is shown, and computed again, from its PNG alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ablate import lab
from ablate.cli.main import main
from ablate.engine.replay import replay_cell
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.png import read_record
from ablate.store.run import Run

pytestmark = pytest.mark.usefixtures("without_report")

Build = Callable[..., Recipe]
Ran = Callable[..., lab.Result]

KINDS: dict[str, dict[str, Any]] = {
    "by rows": {"axes": {"m": {"each": "conv_*"}}, "edits": [{"zero": {"modules": "$m"}}]},
    "in place": {
        "axes": {"a": {"values": [0.1, 0.4]}, "perturbation_seed": {"values": [0, 3]}},
        "edits": [{"mix_noise": {"modules": "*", "amount": "$a", "distribution": "uniform"}}],
    },
    "in a window": {
        "edits": [
            {"scale": {"modules": "stage=up", "factor": 0.5, "when": {"steps": [1, 1]}}},
            {"randomize": {"modules": "stage=mid", "params": "bias"}},
        ],
    },
    "before and after": {
        "edits": [
            {"randomize": {"component": "text_encoder", "modules": "*"}},
            {"flip_sign": {"component": "vae", "modules": "decoder.*", "amount": 0.2}},
        ]
    },
    "of outputs": {
        "axes": {"head": {"each_head": "mid_block.*.attn1"}},
        "edits": [
            {"zero": {"where": "output", "modules": "$head"}},
            {"resample": {"where": "output", "modules": "mid_block.resnets.0",
                          "over": {"prompts": ["a dog", "a boat"]}}},
        ],
    },
    "points": {
        "axes": {"p": {"embedding": {"between": {
            "from": "a cat", "to": "a dog", "t": [-0.5, 0.5], "path": "slerp"}}}}
    },
    "steps": {"axes": {"steps": {"values": [1, 2]}, "guidance_scale": {"values": [1, 7.5]}}},
    "settings": {"axes": {"scheduler": {"values": ["euler", "ddpm"]}, "width": {"values": [24]}}},
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_made_again_bit_for_bit(
    run: Ran, build: Build, tiny: Pipeline, kind: str
) -> None:
    result = run(build(seeds=[0, 1], **KINDS[kind]), batch_size=1)
    assert len(result) >= 4
    for cell in result:
        again = replay_cell(cell.path, tiny)
        assert (again.same_key, again.difference) == (True, 0), cell.variant
        assert again.image.tobytes() == cell.image().tobytes()


@pytest.fixture
def cell(run: Ran, build: Build) -> Path:
    result = run(build(**KINDS["in place"]), batch_size=1)
    return next(c.path for c in result if not c.is_baseline)


def rewritten(path: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a cell whose record says something else."""
    record = read_record(path)
    change(record)
    copy = Run(folder)
    copy.write_cells([(path.stem, Image.open(path).convert("RGB"), record, None)])
    return copy.path(path.stem)


def ablate(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    return done.exit_code, done.output


def test_from_the_command_line(cell: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    code, said = ablate("replay", cell, "--verify", "--device", "cpu", "--out", out, "--yes")
    model = read_record(cell)["model"]["id"]
    assert code == 0
    assert said == (
        f"model  {model}, float32\ncell   16 × 16 pixels, 2 steps, 1 edit of 116 modules\n"
        f"{cell}: the same, bit for bit\n"
    )
    images = [np.asarray(Image.open(path).convert("RGB")) for path in (cell, tmp_path / "a.png")]
    assert np.array_equal(*images)


def test_another_image_is_found_out(cell: Path, tmp_path: Path) -> None:
    def other_seed(record: dict[str, Any]) -> None:
        record["condition"]["seed"] = 5

    forged = rewritten(cell, tmp_path / "forged", other_seed)
    code, said = ablate("replay", forged, "--verify", "--device", "cpu", "--yes")
    assert code == 1
    assert "its name is not the key of its record" in said
    assert "different by" in said
    assert ablate("replay", forged, "--device", "cpu", "--yes")[0] == 0


def test_a_model_that_changed_is_told(cell: Path, tmp_path: Path) -> None:
    def other_model(record: dict[str, Any]) -> None:
        record["model"]["fingerprint"] = "sha256:0"

    old = rewritten(cell, tmp_path / "old", other_model)
    code, said = ablate("replay", old, "--verify", "--device", "cpu", "--yes")
    assert (code, said.splitlines()[2]) == (0, "its model has changed since this cell was computed")


@pytest.mark.parametrize("command", ["replay", "export"])
def test_a_model_that_the_user_did_not_name_is_not_loaded(
    command: str, cell: Path, tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(source: Any, **_: Any) -> Pipeline:
        loaded.append(source.model)
        return tiny

    monkeypatch.setattr(Pipeline, "load", load)
    arguments = (cell,) if command == "replay" else (cell.parent.parent, cell.stem)
    code, said = ablate(command, *arguments)
    assert (code, loaded) == (2, [])
    assert f"names what is loaded: `{tiny.model}`; `--yes` loads it" in said
    assert ablate(command, *arguments, "--model", tiny.model)[0] == 0
    assert ablate(command, *arguments, "--yes")[0] == 0
    assert loaded == [tiny.model] * 2


@pytest.mark.parametrize(("answer", "code"), [("n", 2), ("", 2), ("y", 0)])
def test_in_a_terminal_the_user_is_asked(
    answer: str, code: int, cell: Path, tiny: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def load(source: Any, **_: Any) -> Pipeline:
        loaded.append(source.model)
        return tiny

    monkeypatch.setattr(Pipeline, "load", load)
    terminal = SimpleNamespace(isatty=lambda: True)
    monkeypatch.setattr("ablate.cli.cells.sys", SimpleNamespace(stdin=terminal))
    done = CliRunner().invoke(main, ["replay", str(cell)], input=f"{answer}\n")
    assert f"names what is loaded: `{tiny.model}`; load it? [y/N]" in done.output
    assert (done.exit_code, loaded) == (code, [tiny.model] if code == 0 else [])
    assert code == 0 or "nothing was loaded" in done.output


@pytest.mark.parametrize(
    "change",
    [
        {"lora": [{"model": "/a/stranger.safetensors"}]},
        {"id": "another/model", "fingerprint": "commit:abc"},
        {"config": "another/model"},
    ],
)
def test_nothing_else_of_a_record_is_loaded_unasked(
    cell: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    def bundled(record: dict[str, Any]) -> None:
        record["model"] = {"id": "bundled", "fingerprint": "sha256:0"} | change

    code, said = ablate("replay", rewritten(cell, tmp_path / "other", bundled))
    assert code == 2
    assert "names what is loaded: `" in said


def test_show_tells_what_a_cell_is(cell: Path) -> None:
    code, said = ablate("show", cell)
    assert code == 0
    assert said.startswith("a cat in a party hat\n")
    assert "Steps: 2, Sampler: DDIMScheduler, CFG scale: 5.0, Seed: 0" in said
    assert "\nmix_noise (amount 0.1, distribution uniform)\n    time_embedding.linear_1\n" in said
    code, said = ablate("show", cell, "--json")
    assert json.loads(said) == read_record(cell)


def test_show_tells_a_point(run: Ran, build: Build) -> None:
    result = run(build(**KINDS["points"]))
    point = next(c.path for c in result if c.axes.get("p") == -0.5)
    said = ablate("show", point)[1]
    assert "+1.5000 “a cat”\n-0.5000 “a dog”\n" in said


@pytest.mark.parametrize("command", ["show", "replay"])
def test_what_is_no_cell_is_refused(command: str, cell: Path, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, message in (("plain.png", "not written by ablate"),
                          ("text.png", "cannot be read as a picture"),
                          ("none.png", "none.png")):  # fmt: skip
        code, said = ablate(command, tmp_path / name)
        assert code == 2
        assert message in said
        assert "Traceback" not in said


def test_a_record_that_makes_no_sense_is_refused(cell: Path, tmp_path: Path) -> None:
    def unknown(record: dict[str, Any]) -> None:
        record["edits"][0]["op"] = "explode"

    code, said = ablate("replay", rewritten(cell, tmp_path / "odd", unknown), "--device", "cpu")
    assert code == 2
    assert "its record describes no cell" in said


@pytest.mark.parametrize(("key", "most"), [("num_inference_steps", 10_000), ("width", 2**14)])
def test_a_record_that_asks_for_too_much_is_refused(
    cell: Path, tmp_path: Path, key: str, most: int
) -> None:
    def more(record: dict[str, Any]) -> None:
        record["condition"]["sampling"][key] = 10**9

    code, said = ablate("replay", rewritten(cell, tmp_path / "more", more), "--device", "cpu")
    assert code == 2
    assert f"`condition.sampling.{key}`: input should be less than or equal to {most}" in said
    assert "not 1,000,000,000" in said


@pytest.mark.parametrize("command", ["show", "replay"])
def test_a_pipe_is_refused(command: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    code, said = ablate(command, tmp_path / "a.png")
    assert code == 2
    assert "no regular file" in said
