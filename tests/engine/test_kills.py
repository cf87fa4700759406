"""Real processes that end at random moments of a run: nothing is lost, nothing is half written.

`ABLATE_KILLS` is how many, `ABLATE_SEED` chooses the moments; with `-n0 -s` a table is printed.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from ablate import lab
from ablate.sampling.pipeline import Pipeline
from ablate.store import Run, verify_run

KILLS = int(os.environ.get("ABLATE_KILLS", "4"))
SEED = int(os.environ.get("ABLATE_SEED", "0"))
RECIPE = """version: 1
name: killed
model: bundled
dtype: float32
prompts: ["a cat", "a red car"]
seeds: [0, 1]
vocabulary: [cat, car, tree]
sampling: {num_inference_steps: 4}
axes: {amount: [0.2, 0.4, 0.6, 0.8]}
edits: [{mix_noise: {modules: "mid_block.*", amount: $amount}}]
"""
CELLS = 20
FAULTS = {
    "SIGKILL": (signal.SIGKILL,),
    "SIGTERM": (signal.SIGTERM,),
    "SIGINT": (signal.SIGINT,),
    "SIGINT twice": (signal.SIGINT, signal.SIGINT),
}
PHASES = ("starting", "sampling", "measuring", "drawing", "ending")


def phase_of(out: Path) -> str:
    """What a run does next, by its files."""
    if (out / "report.html").exists():
        return "ending"
    if (out / "effects.csv").exists():
        return "drawing"
    if not (out / "recipe.yaml").exists():
        return "starting"
    return "measuring" if len(list(out.glob("cells/*.png"))) == CELLS else "sampling"


def start(recipe: Path, out: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "ablate", "run", str(recipe), "--out", str(out)]
    command += ["--batch-size", "2", "--device", "cpu"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def durations(recipe: Path, out: Path) -> dict[str, float]:
    """The seconds that a process is in each phase."""
    began = dict.fromkeys(PHASES, 0.0)
    process, last = start(recipe, out), ""
    began["starting"] = time.monotonic()
    while process.poll() is None:
        if (phase := phase_of(out)) != last:
            began[phase], last = time.monotonic(), phase
        time.sleep(0.002)
    process.communicate()
    assert process.returncode == 0
    ends = [*list(began.values())[1:], time.monotonic()]
    return {name: end - began[name] for name, end in zip(PHASES, ends, strict=True)}


def contents(out: Path) -> dict[str, bytes]:
    files = [p for p in out.rglob("*") if p.is_file()]
    return {str(p.relative_to(out)): p.read_bytes() for p in files}


def ended(process: subprocess.Popen[str], fault: str) -> str | None:
    """What is wrong with how a process ended."""
    out, err = process.communicate(timeout=120)
    if process.returncode == 0:  # its work was done before
        return None
    if fault == "SIGKILL":
        return None if process.returncode == -signal.SIGKILL else f"code {process.returncode}"
    if process.returncode != 130:
        return f"code {process.returncode}: {err}"
    if "Traceback" in out + err or err.count("run the same command again to go on") != 1:
        return f"other words: {err}"
    return None


@pytest.mark.slow
def test_killed_at_random_moments_and_resumed_once_it_is_as_if_never_killed(
    tmp_path: Path, bundled_pipeline: Pipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, whole = tmp_path / "killed.yaml", tmp_path / "whole"
    recipe.write_text(RECIPE)
    seconds = durations(recipe, whole)
    expected = contents(whole)
    moments, outcomes = random.Random(SEED), Counter[tuple[str, str, str]]()
    for i in range(KILLS):
        fault, phase = [*FAULTS][i % 4], PHASES[(i + i // 4) % 4]
        out = tmp_path / f"{i}"
        process = start(recipe, out)
        while process.poll() is None and phase_of(out) != phase:
            time.sleep(0.001)
        time.sleep(moments.uniform(0, seconds[phase]))
        for number in FAULTS[fault]:
            process.send_signal(number)
            time.sleep(moments.uniform(0, 0.1))
        phase = phase_of(out) if process.poll() != 0 else "ending"
        problems = [ended(process, fault)]
        if out.exists() and any(out.iterdir()):
            checked = verify_run(Run(out))
            files = {name: p for name, p in checked.files.items() if p != "missing"}
            problems.append(f"not whole: {checked.cells} {files}" if files or checked.cells else "")
        lab.run(recipe, out, pipeline=bundled_pipeline, batch_size=2)
        again = contents(out)
        names = sorted(n for n in {*again, *expected} if again.get(n) != expected.get(n))
        problems.append(f"other files after resuming: {names}" if names else "")
        outcome = "; ".join(filter(None, problems))
        outcomes[fault, phase, outcome or "whole, and resumed byte for byte"] += 1
    with capsys.disabled():
        print(f"\n{'fault':14}{'phase':12}{'tried':>5}  outcome")
        for (fault, phase, outcome), count in sorted(outcomes.items()):
            print(f"{fault:14}{phase:12}{count:5}  {outcome}")
    assert {outcome for _, _, outcome in outcomes} == {"whole, and resumed byte for byte"}
