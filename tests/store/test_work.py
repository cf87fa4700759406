"""Folders that are no run's, that hold other files, or in which another process is at work."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fabricated import DESCRIBED, NAME

from ablate.cli.main import main
from ablate.sampling import Pipeline
from ablate.store.files import HOST, StoreError
from ablate.store.run import Run

ROOT = Path(__file__).parent.parent.parent
RECIPE = """
version: 1
name: {name}
model: {model}
dtype: float32
sampling: {{num_inference_steps: 2}}
axes: {{factor: [0.5, 0.9]}}
edits: [{{scale: {{modules: "mid_block.*", factor: $factor}}}}]
"""


@pytest.fixture
def recipe(tmp_path: Path, tiny_folder: Path) -> Path:
    file = tmp_path / "shared.yaml"
    file.write_text(RECIPE.format(name="shared", model=tiny_folder))
    return file


def ablate(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def refused(done: Result) -> str:
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    return done.stderr


def file(path: Path) -> None:
    path.write_text("mine")


def long(path: Path) -> Path:
    return path.with_name("x" * 300)


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (file, "is a file; `--out` names a folder"),
        (lambda out: out.symlink_to("nowhere"), "is a link to what does not exist"),
        (lambda out: (out.mkdir(), file(out / "holiday.jpg")), "has files that no run wrote"),
        (lambda out: (out.mkdir(), (out / "cells").symlink_to("/")), "cells is a link"),
    ],
)
def test_an_output_that_is_no_folder_of_a_run_is_refused(
    prepare: Callable[[Path], object], message: str, recipe: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("ablate.sampling.Pipeline.load", None)  # nothing is loaded before
    out = tmp_path / "out"
    prepare(out)
    assert message in refused(ablate("run", recipe, "--out", out))
    if out.is_file():
        assert "is a file" in refused(ablate("run", recipe, "--out", out / "below"))


def test_a_name_that_is_too_long_is_refused(recipe: Path, tmp_path: Path) -> None:
    assert "File name too long" in refused(ablate("run", recipe, "--out", tmp_path / ("x" * 300)))


def test_outputs_of_other_commands_are_refused_before_anything_is_computed(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, link, mine = tmp_path / "run", tmp_path / "link", tmp_path / "mine"
    assert ablate("run", recipe, "--out", run).exit_code == 0
    cell = next(run.glob("cells/*.png"))
    link.symlink_to(link)
    file(mine)
    monkeypatch.setattr("ablate.sampling.Pipeline.load", None)
    monkeypatch.setattr("ablate.drift.Reader.of", None)
    for command in (
        ("compare", run, run),
        ("export", run, "factor=0.5", "--yes"),
        ("units", "visualize", "visual_projection#3"),
    ):
        assert "is a file; `--out`" in refused(ablate(*command, "--out", mine / "below"))
        assert "levels of symbolic links" in refused(ablate(*command, "--out", link))
    assert "no image; it ends in .png" in refused(ablate("replay", cell, "--yes", "--out", mine))
    assert "is a file; `--out`" in refused(
        ablate("replay", cell, "--yes", "--out", mine / "below.png")
    )
    assert mine.read_text() == "mine"


def test_another_recipe_is_refused_and_other_files_survive_fresh(
    recipe: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    target, out = tmp_path / "target", tmp_path / "out"
    target.mkdir()
    out.symlink_to(target)  # a link to a folder is a folder
    assert ablate("run", recipe, "--out", out).exit_code == 0
    cells = Run(out).finished()
    for name in ("notes.txt", "cells/cat.png", f"cells/{'0' * 32}.png"):
        file(out / name)
    assert ablate("run", recipe, "--out", out, "--fresh").exit_code == 0
    assert Run(out).finished() == cells
    for name in ("notes.txt", "cells/cat.png", f"cells/{'0' * 32}.png"):
        assert (out / name).read_text() == "mine"
    assert ablate("verify", out).exit_code == 0
    other = tmp_path / "other.yaml"
    other.write_text(RECIPE.format(name="other", model=tiny_folder))
    message = refused(ablate("run", other, "--out", out))
    assert "has the run of `shared`, and this recipe is `other`" in message


def test_temporaries_of_processes_that_are_gone_are_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    cells = tmp_path / "cells"
    cells.mkdir()
    kept = [f".a.png.{HOST}-{os.getpid()}.tmp", f".b.png.elsewhere-{gone.pid}.tmp", "mine.tmp"]
    removed = [f".a.png.{HOST}-{gone.pid}.tmp", f".a.png.{gone.pid}.tmp", ".c.elsewhere-1.tmp"]
    for name in (*kept, *removed):
        file(cells / name)
    os.utime(cells / ".c.elsewhere-1.tmp", (0, time.time() - 90_000))
    Run(tmp_path).sweep_temporaries()
    assert {path.name for path in cells.iterdir()} == set(kept)


def test_processes_share_a_folder_for_the_same_cells_alone(tmp_path: Path) -> None:
    first, second, third = (Run(tmp_path) for _ in range(3))
    planned = {"key": "a", "baseline": "a", "variant": "baseline"}
    planned |= {"prompt": "", "seed": 0, "axes": {}}
    with first.working():
        assert first.alone
        first.write_manifest({**DESCRIBED, "axes": [], "cells": [planned]})
        first.share(NAME, {"a"})
        with second.working(), third.working():
            assert not second.alone
            second.share(NAME, {"a"})
            with pytest.raises(StoreError, match="another process is at work there"):
                third.share(NAME, {"b"})
            with pytest.raises(StoreError, match="and this recipe is `other`"):
                third.share("other", {"a"})
    with third.working():
        assert third.alone


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As on a disk that is full: Python ignores SIGXFSZ, so that writing fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_ends_in_a_sentence_and_the_run_goes_on_later(
    recipe: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert ablate("run", recipe, "--out", out, "--limit", 1).exit_code == 0
    before = {path: path.read_bytes() for path in out.glob("cells/*")}
    size = len((out / "run.json").read_bytes())
    with files_of_at_most(min(size + 10, min(map(len, before.values())) - 1)):
        done = ablate("run", recipe, "--out", out)
    assert done.exit_code == 1
    assert str(out) in done.stderr
    assert "File too large" in done.stderr
    assert {path: path.read_bytes() for path in out.glob("cells/*")} == before
    assert list(out.rglob("*.tmp")) == []
    assert ablate("run", recipe, "--out", out).exit_code == 0
    assert len(Run(out).finished()) == 3


def test_a_recipe_that_another_preceded_while_its_model_was_loaded_is_refused(
    recipe: Path, tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, other, load = tmp_path / "out", tmp_path / "other.yaml", Pipeline.load
    other.write_text(RECIPE.format(name="other", model=tiny_folder))

    def slow(*arguments: Any, **options: Any) -> Pipeline:
        monkeypatch.undo()
        assert ablate("run", other, "--out", out).exit_code == 0
        return load(*arguments, **options)

    monkeypatch.setattr(Pipeline, "load", slow)
    assert "has the run of `other`" in refused(ablate("run", recipe, "--out", out))
    assert ablate("verify", out).exit_code == 0


@pytest.mark.slow
def test_two_processes_run_the_same_recipe_in_one_folder(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ablate", "run", str(recipe), "--out", str(out)]
    both = [
        subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    ]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert len(Run(out).finished()) == 3
    assert list(out.rglob("*.tmp")) == []


@pytest.mark.slow
def test_of_two_recipes_that_start_at_once_in_one_folder_one_is_refused(
    recipe: Path, tmp_path: Path
) -> None:
    out, command = tmp_path / "out", [sys.executable, "-m", "ablate", "run", str(recipe)]
    both = [
        subprocess.Popen(
            [*command, "--out", str(out), "--set", f"seeds=[{seed}]"],
            stderr=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for seed in (0, 1)
    ]  # fmt: skip
    errors = [process.communicate(timeout=120)[1] for process in both]
    codes = [process.returncode for process in both]
    assert ablate("verify", out).exit_code == 0
    # Where the first ended before the second began, the second goes on with its own cells.
    assert sorted(codes) == [0, 2] or (codes == [0, 0] and len(Run(out).finished()) == 6), errors
    if 2 in codes:
        assert "at work there on another recipe" in errors[codes.index(2)]
        assert len(Run(out).finished()) == 3


@pytest.mark.slow
def test_views_while_a_run_is_at_work_leave_its_files_as_without(
    recipe: Path, tmp_path: Path
) -> None:
    out, steps = tmp_path / "out", ("--set", "sampling.num_inference_steps=400")
    command = [sys.executable, "-m", "ablate", "run", str(recipe), "--out", str(out), *steps]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        while process.poll() is None and not (out / "run.json").exists():
            time.sleep(0.01)
        for view in ("drift", "sheet", "report", "verify"):
            done = ablate(view, out)
            assert done.exit_code in (0, 1, 2), done.output
            assert isinstance(done.exception, SystemExit | None), view
        assert process.wait(timeout=120) == 0
    assert ablate("run", recipe, "--out", tmp_path / "alone", *steps).exit_code == 0
    files = [
        {path.relative_to(run): path.read_bytes() for path in run.rglob("*") if path.is_file()}
        for run in (out, tmp_path / "alone")
    ]
    assert files[0] == files[1]
