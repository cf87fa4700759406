"""Recipes from strangers: whatever is in them, `check` and `plan` end with a sentence.

`python tests/recipe/test_hostile.py SECONDS` tries random ones for so long and prints figures.
"""

from __future__ import annotations

import sys
import tempfile
import time
import traceback
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, Phase, given, seed, settings

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))

from grammar import KINDS

from ablate.cli.main import main
from ablate.messages import LONGEST

SECONDS = 5.0  # longer is a hang
FAST = settings(
    max_examples=40, derandomize=True, deadline=None, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
LONG = settings(FAST, max_examples=100, derandomize=False, phases=[Phase.generate])


def wrong_end(file: Path, command: str) -> str | None:
    """What is wrong with how a command on a recipe ends; None where all is right."""
    began = time.perf_counter()
    done = CliRunner().invoke(main, [command, str(file)])
    took = time.perf_counter() - began
    if not isinstance(done.exception, SystemExit | None):
        return "".join(traceback.format_exception(done.exception))
    if done.exit_code not in (0, 2):
        return f"exit code {done.exit_code}"
    if took > SECONDS:
        return f"{took:.1f} seconds"
    raw = {c for c in done.output if unicodedata.category(c) in ("Cc", "Cf", "Cs")} - {"\n"}
    if raw:
        return f"raw {raw!r} in the output"
    if done.exit_code and len(done.output) > LONGEST + 1:
        return f"a message of {len(done.output)} characters"
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_any_recipe_ends_with_a_sentence(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"

    @FAST
    @given(KINDS[kind])
    def ends(data: bytes) -> None:
        file.write_bytes(data)
        assert wrong_end(file, "check") is None

    ends()


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ("seeds: {size}", "the plan has 1,000,000 cells (prompt 1 × seed 1,000 × a 1,000)"),
        ("noise_floor: 1000000000", "the plan has 1,000,000,000 cells"),
    ],
)
def test_a_plan_says_its_size_before_it_is_expanded(axes: str, told: str, tmp_path: Path) -> None:
    file, numbers = tmp_path / "r.yaml", list(range(1000))
    file.write_text(
        f"version: 1\nname: x\n{axes.format(size=numbers)}\naxes: {{a: {numbers}}}\n"
        'edits: [{scale: {modules: "*", factor: $a}}]\n'
    )
    done = CliRunner().invoke(main, ["check", str(file)])
    assert (done.exit_code, told in done.output) == (2, True), done.output
    assert "`--max-cells`" in done.output


def test_a_pattern_that_backtracks_for_ever_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text('version: 1\nname: x\nedits: [{zero: {modules: "re:^(([a-z_0-9.])+)+!$"}}]\n')
    done = CliRunner().invoke(main, ["check", str(file)])
    assert done.exit_code == 2
    assert "does not end on" in done.output or "matches no module" in done.output


def try_for(seconds: float) -> None:
    """Try recipes of all kinds; print what fails as it fails, and figures at the end."""
    tried, failed, slowest = Counter[str](), Counter[str](), 0.0
    file = Path(tempfile.mkdtemp()) / "r.yaml"
    end, number = time.monotonic() + seconds, time.time_ns() % 1_000_000

    def tries(kind: str, data: bytes) -> None:
        nonlocal slowest
        file.write_bytes(data)
        began = time.monotonic()
        wrong = wrong_end(file, "plan" if tried[kind] % 4 == 0 else "check")
        slowest = max(slowest, time.monotonic() - began)
        tried[kind] += 1
        if wrong is not None:
            failed[f"{kind}: {wrong.strip().splitlines()[-1][:100]}"] += 1
            print(f"--- {kind}\n{data[:600]!r}\n{wrong[-1500:]}", flush=True)

    while time.monotonic() < end:
        for kind, strategy in KINDS.items():
            number += 1

            def ends(data: bytes) -> None:
                tries(kind, data)  # noqa: B023 - called before the kind changes

            seed(number)(LONG(given(data=strategy)(ends)))()
    print(f"{tried.total()} recipes: {dict(tried)}; slowest {slowest:.2f} s")
    print(f"{failed.total()} failures: {dict(failed)}")


if __name__ == "__main__":
    try_for(float(sys.argv[1]))
