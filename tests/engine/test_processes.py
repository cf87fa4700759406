"""Runs that `accelerate launch` splits over processes: the same files as of one process."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

RECIPE = """
version: 1
name: split
model: {model}
dtype: float32
seeds: [0, 1]
sampling: {{num_inference_steps: 12}}
axes:
  module: {{each: {{sample: {{of: "*", count: 9}}}}}}
  amount: {{values: [0.2, 0.6]}}
edits:
  - mix_noise: {{modules: $module, amount: $amount}}
  - scale: {{modules: "*.norm*", factor: 0.5}}
"""
CELLS = 38  # 9 modules at two amounts and the baseline, for two seeds


def kill(process: subprocess.Popen[str]) -> None:
    """A process and all that it started: launched processes are in groups of their own."""
    for member in (*psutil.Process(process.pid).children(recursive=True), process):
        with suppress(psutil.NoSuchProcess):
            member.kill()
    process.communicate()


@contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that does not outlive the test."""
    # One thread each: how many there are can show in the last bits.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(
        [sys.executable, "-m", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                kill(process)


def ablate_run(recipe: Path, out: Path, *options: str) -> list[str]:
    sized = ["--device", "cpu", "--batch-size", "4", *options]
    return ["ablate", "run", str(recipe), "--out", str(out), *sized]


def launch(recipe: Path, out: Path, *options: str) -> list[str]:
    """The same, by two processes."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    command = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--main_process_port", str(port), "-m"]
    return [*command, *ablate_run(recipe, out, *options)]


def finished(command: list[str]) -> str:
    """What a command printed, once it has ended well."""
    with started(command) as process:
        printed, logged = process.communicate(timeout=120)
    assert process.returncode == 0, logged
    assert "Traceback" not in logged
    return printed


def counts(printed: str) -> list[list[int]]:
    """Images computed, reused and of how many, for each summary that was printed."""
    counts = re.findall(r"(\d+) images computed, (\d+) reused, of (\d+)", printed)
    return [[int(number) for number in numbers] for numbers in counts]


def contents(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def differing(one: Path, other: Path) -> list[str]:
    first, second = contents(one), contents(other)
    return sorted(
        name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
    )


def cells(out: Path) -> set[Path]:
    return set((out / "cells").glob("*.png"))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    file = tmp_path_factory.mktemp("recipes") / "split.yaml"
    file.write_text(RECIPE.format(model=tiny_folder))
    return file


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> tuple[Path, str]:
    """The run of one process, and what it printed."""
    out = tmp_path_factory.mktemp("runs") / "alone"
    return out, finished(ablate_run(recipe, out))


def test_two_processes_make_the_files_that_one_makes(
    recipe: Path, alone: tuple[Path, str], tmp_path: Path
) -> None:
    """Byte for byte: cells, manifest, table and sheet; and one of them speaks for both."""
    folder, said_alone = alone
    out = tmp_path / "two"
    said = finished(launch(recipe, out))
    assert counts(said) == counts(said_alone) == [[CELLS, 0, CELLS]]
    assert len(cells(out)) == CELLS
    assert {"run.json", "recipe.yaml", "drift.csv", "sheet.png"} <= contents(out).keys()
    assert differing(out, folder) == []
    assert said.count("sheet.png") == 1
    applied = [line for line in said.splitlines() if line.startswith("edits applied")]
    assert applied == [line for line in said_alone.splitlines() if line.startswith("edits applied")]
    assert len(applied) == 1


def test_killed_processes_leave_what_one_process_finishes(
    recipe: Path, alone: tuple[Path, str], tmp_path: Path
) -> None:
    """Nothing that is on disk is computed again, and the files are those of a run never killed."""
    folder, _ = alone
    out = tmp_path / "killed"
    with started(launch(recipe, out)) as process:
        deadline = time.monotonic() + 120
        while len(cells(out)) < 8:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        kill(process)
    survived = cells(out)
    assert 8 <= len(survived) < CELLS
    assert not (out / "sheet.png").exists()
    written = {path: path.stat().st_mtime_ns for path in survived}
    said = finished(ablate_run(recipe, out))
    assert counts(said) == [[CELLS - len(survived), len(survived), CELLS]]
    assert {path: path.stat().st_mtime_ns for path in survived} == written
    assert differing(out, folder) == []


def test_a_process_without_a_batch_waits_for_the_others(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "short"
    said = finished(launch(recipe, out, "--limit", "3"))
    assert counts(said) == [[3, 0, 3]]
    assert len(cells(out)) == 3
    assert (out / "sheet.png").exists()
