"""Signals and standard streams of the command, by real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ABLATE = [sys.executable, "-m", "ablate"]
SENTENCE = "interrupted; run the same command again to go on\n"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
# Stops in the midst of the imports of a command until a signal comes.
SLOW_IMPORT = """
import sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            print("importing", flush=True)
            try:
                time.sleep(60)
            except BaseException:  # as libraries do
                print("swallowed", flush=True)

sys.meta_path.insert(0, Slow())
sys.argv = ["ablate", "run", "quickstart"]
from ablate.__main__ import main
main()
"""


def shell(command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which `ablate` is the command."""
    line = f"set -o pipefail; ablate() {{ '{sys.executable}' -m ablate \"$@\"; }}; {command}"
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, cwd=cwd, env=ENVIRONMENT, check=False
    )


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("ablate --version > /dev/full", 1, "No space left on device"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("ablate schema | head -1", 141, ""),
                ("ablate schema --docs > /dev/full", 1, "No space left on device"),
                ("ablate recipes >&-", 1, "Bad file descriptor"),
                ("ablate run nothing.yaml 2> /dev/full", 2, ""),
                ("ablate run nothing.yaml 2>&-", 2, ""),
            )
        ),
    ],
)
def test_output_that_cannot_be_written_ends_with_a_code_and_no_traceback(
    command: str, code: int, message: str
) -> None:
    done = shell(command)
    assert done.returncode == code
    wanted = f"standard output cannot be written to: {message}\n" if message else ""
    assert done.stderr == wanted


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("click", signal.SIGINT),
        ("torch", signal.SIGTERM),
        *(
            pytest.param(module, number, marks=pytest.mark.slow)
            for module, number in (
                ("click", signal.SIGTERM),
                ("torch", signal.SIGINT),
                ("diffusers", signal.SIGINT),
                ("diffusers", signal.SIGTERM),
            )
        ),
    ],
)
def test_a_signal_while_libraries_are_imported_ends_with_the_sentence(
    module: str, number: signal.Signals
) -> None:
    code = SLOW_IMPORT.format(module=module)
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "importing\n"
        time.sleep(0.05)
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", SENTENCE)
