"""Damaged runs: what is damaged is never taken for finished, is named, and is computed again."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from damaged import DAMAGES

from ablate import lab
from ablate.cli.main import main
from ablate.store.run import Run

RECIPE = """version: 1
name: small
prompts: ["a cat"]
seeds: [0, 1]
sampling: {num_inference_steps: 1}
axes: {amount: {values: [0.1, 0.2, 0.3, 0.4, 0.5]}}
edits: [{mix_noise: {modules: "mid_block.*", amount: $amount}}]
"""


KINDS = (
    "truncated", "empty", "a JPEG", "flipped pixels", "no record", "a nested record",
    "another cell", "other pixels", "latents of objects", "a fifo",
)  # fmt: skip


def ablate(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of twelve cells."""
    folder = tmp_path_factory.mktemp("damage")
    (folder / "small.yaml").write_text(RECIPE)
    done = ablate("run", folder / "small.yaml", "--device", "cpu", "--out", folder / "run")
    assert done.exit_code == 0, done.output
    return folder / "run"


@pytest.fixture
def damaged(whole: Path, tmp_path: Path) -> Path:
    """A copy of the run, to be damaged."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# Kinds of the default suite.
OFTEN = ("truncated", "another cell", "other pixels", "latents of objects", "a folder")


@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind in OFTEN else pytest.mark.slow) for kind in DAMAGES],
)
def test_a_damaged_cell_is_left_out_and_named(kind: str, damaged: Path) -> None:
    first, second, *_ = sorted((damaged / "cells").iterdir())
    DAMAGES[kind](first, second)
    assert list(Run(damaged).damaged()) == [first.stem]
    done = ablate("sheet", damaged)
    assert done.exit_code == 0, done.output
    assert f"{first.stem} (" in done.stderr
    assert "--repair` computes them again" in done.stderr
    with pytest.warns(UserWarning, match=first.stem):
        assert first.stem not in {cell.key for cell in lab.open(damaged)}


def test_every_view_leaves_damaged_cells_out(damaged: Path) -> None:
    cells = sorted((damaged / "cells").iterdir())
    for kind, cell in zip(KINDS, cells, strict=False):
        DAMAGES[kind](cell, cells[-1])
    for command in (
        ("drift", damaged, "--device", "cpu"),
        ("report", damaged),
        ("curves", damaged),
        ("animate", damaged, "--over", "amount"),
        ("compare", damaged, damaged),
    ):
        done = ablate(*command)
        assert done.exit_code in (0, 2), done.output
        assert done.exit_code == 0 or "share" in done.stderr or "no drift" in done.stderr
        assert f"{cells[0].stem} (" in done.stderr
    assert len((damaged / "drift.csv").read_text().splitlines()) == 1 + 12 - len(KINDS)
    assert f"{cells[0].stem} (" in (damaged / "report.html").read_text()
    for cell in cells[: len(KINDS)]:
        assert ablate("show", cell).exit_code in (0, 2)


def test_run_again_computes_damaged_cells_and_names_them(whole: Path, damaged: Path) -> None:
    cells = sorted((damaged / "cells").iterdir())
    for kind, cell in zip(KINDS, cells, strict=False):
        DAMAGES[kind](cell, cells[-1])
    done = ablate("run", whole.parent / "small.yaml", "--device", "cpu", "--out", damaged)
    assert done.exit_code == 0, done.output
    assert "10 cells were damaged and are computed again: " in done.stdout
    assert all(f"{cell.stem} (" in done.stdout for cell in cells[:10])
    assert "10 images computed, 2 reused, of 12" in done.stdout
    assert contents(damaged) == contents(whole)


def test_verify_says_what_is_whole_and_repairs_it(whole: Path, damaged: Path) -> None:
    done = ablate("verify", damaged)
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout.splitlines()[:2] == [
        "what            how many   whole",
        "cells                 12      12",
    ]
    cells = sorted((damaged / "cells").iterdir())
    for kind, cell in zip(KINDS, cells, strict=False):
        DAMAGES[kind](cell, cells[-1])
    done = ablate("verify", damaged)
    assert done.exit_code == 1
    assert "cells                 12       2\n" in done.stdout
    assert all(f"cells/{cell.name}  " in done.stdout for cell in cells[:10])
    assert "10 files of" in done.stderr
    with Run(damaged).working():
        assert "a process is at work there: wait for it" in ablate("verify", damaged).stderr
        assert ablate("verify", damaged, "--repair").exit_code == 2
    done = ablate("verify", damaged, "--repair", "--device", "cpu")
    assert (done.exit_code, done.stderr) == (0, "")
    assert "is whole" in done.stdout
    assert contents(damaged) == contents(whole)


FILES = ("drift.csv", "effects.csv", "drift.json", "sheet.png", "report.html", "run.json")
CONTENTS = (b"", b'{"format": 99}', None)
LEDGERS = (b"", b"[]", b"\xff")
OFTEN_DAMAGED = (
    ("files.json", b""),
    ("run.json", b""),
    ("effects.csv", b'{"format": 99}'),
    ("report.html", None),
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(*case, marks=() if case in OFTEN_DAMAGED else pytest.mark.slow)
        for case in (*itertools.product(FILES, CONTENTS), *(("files.json", c) for c in LEDGERS))
    ],
)
def test_verify_repairs_files_beside_the_cells(
    name: str, content: bytes | None, whole: Path, damaged: Path
) -> None:
    path = damaged / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    done = ablate("verify", damaged)
    assert done.exit_code == 1
    assert f"\n{name}  " in done.stdout
    done = ablate("verify", damaged, "--repair", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert contents(damaged) == contents(whole)


def test_cells_that_were_never_computed_are_not_damaged(whole: Path, damaged: Path) -> None:
    recipe = whole.parent / "small.yaml"
    out = damaged.parent / "part"
    assert ablate("run", recipe, "--device", "cpu", "--out", out, "--limit", 3).exit_code == 0
    done = ablate("verify", out)
    assert done.exit_code == 0
    assert "9 planned cells not computed yet" in done.stdout
    sorted((out / "cells").iterdir())[0].unlink()
    assert "no file" in ablate("verify", out).stdout
    assert ablate("verify", out, "--repair", "--device", "cpu").exit_code == 0
    assert len(list((out / "cells").iterdir())) == 3
