"""Breaking points: the same as in the whole sweep, for less; resumed; and wrong requests."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image
from reported import data_of

import ablate
from ablate import lab
from ablate.cli.main import main
from ablate.drift import MeasuredCell, read_cells
from ablate.engine import Progress
from ablate.finders import Answer
from ablate.messages import RequestError
from ablate.recipe.recipe import Recipe
from ablate.sampling.pipeline import Pipeline
from ablate.store.run import Run

AMOUNTS = [0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]


class ByContrast:
    """Reads a picture by its contrast beside that of the untouched networks' pictures."""

    id = "by contrast"
    scale = 50.0
    margin = None
    vocabulary = ("sharp", "flat")
    least = 0.05

    def images(self, images: Sequence[Image.Image]) -> np.ndarray:
        contrasts = [np.asarray(image).std() / 255 for image in images]
        return np.array([[1.0, 0.0] if c > self.least else [0.0, 1.0] for c in contrasts])

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        return np.array([[1.0, 0.0] if "sharp" in text else [0.0, 1.0] for text in texts])


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ever paler pictures lose what this reader names, at a contrast that each reaches once."""
    monkeypatch.setattr(lab.Reader, "of", lambda *_: ByContrast())


@pytest.fixture
def paling(build: Callable[..., Recipe]) -> Recipe:
    """The last layer of the decoder fades, whose outputs are the picture; two parts fade alike."""
    return build(
        seeds=[0, 1, 2],
        axes={
            "part": {"values": ["decoder.conv_out", "decoder.conv_norm_out"]},
            "factor": {"values": [1 - amount for amount in AMOUNTS]},
        },
        edits=[{"scale": {"modules": "$part", "component": "vae", "factor": "$factor"}}],
    )


Find = Callable[..., Answer]


@pytest.fixture
def find(tiny: Pipeline, tmp_path: Path) -> Find:
    def finds(recipe: Recipe, folder: str = "find", **options: Any) -> Answer:
        return ablate.find(
            "breaking-point", recipe, tmp_path / folder, pipeline=tiny, batch_size=4, **options
        )

    return finds


def table(run: Run) -> list[dict[str, str]]:
    with (run.folder / "find.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def first_lost(cells: Sequence[MeasuredCell], part: str, seed: int) -> float:
    """The largest factor of a sweep at which the concept is lost."""
    lost = [c.axes["factor"] for c in cells
            if (c.axes.get("part"), c.seed) == (part, seed) and c.shows == "flat"]  # fmt: skip
    return float(max(lost))


@pytest.mark.usefixtures("without_report")
def test_it_is_that_of_the_whole_sweep_for_a_part_of_its_cells(
    reads: None, paling: Recipe, run: Callable[..., lab.Result], find: Find
) -> None:
    sweep = run(paling)
    answer = find(paling)
    keys = {path.name for path in (answer.store.folder / "cells").iterdir()}
    assert keys < {path.name for path in (sweep.store.folder / "cells").iterdir()}
    assert answer.summary is not None
    assert answer.summary.total == len(keys) < 0.6 * answer.planned
    assert answer.planned == len({cell.key for cell in sweep})
    rows = table(answer.store)
    assert {row["part"] for row in rows} == {"decoder.conv_out", "decoder.conv_norm_out"}
    factors = [1 - amount for amount in AMOUNTS]
    for row in rows:
        points = [float(point) for point in row["each"].split()]
        lost = [first_lost(sweep.cells, row["part"], seed) for seed in (0, 1, 2)]
        between = [(factors[factors.index(f) - 1] + f) / 2 for f in lost]
        assert points == pytest.approx(between, rel=1e-3)
        assert float(row["mean"]) == pytest.approx(np.mean(between), rel=1e-3)
        assert float(row["low"]) <= min(lost)
        assert float(row["high"]) >= max(lost)


def test_its_page_shows_the_finding_first(reads: None, paling: Recipe, find: Find) -> None:
    answer = find(paling)
    folder = answer.store.folder
    page = (folder / "report.html").read_text()
    assert re.findall(r'data-title="([^"]+)"', page)[0] == "Finding"
    assert answer.finding is not None
    summary = json.loads((folder / "find.json").read_text())
    assert summary["sentence"] == answer.finding.sentence
    assert summary["kind"] == "breaking-point"
    assert summary["cells"] == {"used": len(answer.store.keys()), "sweep": answer.planned}
    assert "decoder.conv_out" in (folder / "find.svg").read_text()
    assert {c["key"] for c in data_of(folder / "report.html")["cells"]} == answer.store.keys()
    (folder / "find.svg").write_text("<svg onload='x()'/>")
    shown = CliRunner().invoke(main, ["report", str(folder)])
    assert (shown.exit_code, "find.svg is damaged" in shown.stderr) == (2, True)


def test_interrupted_and_called_again_it_is_as_never_interrupted(
    reads: None, paling: Recipe, find: Find
) -> None:
    whole = find(paling)
    rounds: list[int] = []

    def interrupt(now: Progress) -> None:
        rounds.append(now.total)
        if len(set(rounds)) == 3 and now.computed and now.done < now.total:
            os.kill(os.getpid(), signal.SIGINT)

    stopped = find(paling, "again", on_progress=interrupt)
    assert stopped.finding is None
    assert stopped.summary is not None
    assert stopped.summary.interrupted
    assert not (stopped.store.folder / "find.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in stopped.store.folder.glob("cells/*.png")}
    assert 0 < len(finished) < len(whole.store.keys())
    again = find(paling, "again")
    assert again.summary is not None
    assert again.summary.reused == len(finished)
    assert all(path.stat().st_mtime_ns == time for path, time in finished.items())
    files = [path for path in whole.store.folder.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"find.json", "find.csv", "find.svg", "sheet.png"}
    for path in files:
        other = again.store.folder / path.relative_to(whole.store.folder)
        assert other.read_bytes() == path.read_bytes(), path


@pytest.mark.usefixtures("without_report")
def test_what_is_never_lost_is_a_bound(
    reads: None, build: Callable[..., Recipe], find: Find
) -> None:
    recipe = build(
        seeds=[0, 1, 2],
        axes={"count": {"cumulative": {"modules": "mid_block*", "counts": [0, 1, 2, 3]}}},
        edits=[{"scale": {"modules": "$count", "factor": 0.999}}],
    )
    answer = find(recipe)
    assert answer.finding is not None
    assert "stay the sharp up to the strongest edit, count = 3" in answer.finding.sentence
    (row,) = table(answer.store)
    assert (row["unchanged"], row["mean"], row["each"]) == ("3", "", "> 3 > 3 > 3")


@pytest.mark.slow
def test_it_is_mended_by_the_finder(reads: None, paling: Recipe, find: Find) -> None:
    folder = find(paling).store.folder
    whole = {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    cell = next(folder.glob("cells/*.png"))
    cell.write_bytes(cell.read_bytes()[:100])
    (folder / "find.csv").write_text("")
    repaired = CliRunner().invoke(main, ["verify", str(folder), "--repair"])
    assert repaired.exit_code == 2
    assert "which mends it: `ablate find`" in repaired.stderr
    find(paling)
    assert {p.name: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == whole


def test_without_a_reader_nothing_is_lost(
    build: Callable[..., Recipe], paling: Recipe, find: Find
) -> None:
    with pytest.raises(RequestError, match=r"no CLIP model names .* `clip:`"):
        find(paling)


def test_ctrl_c_ends_the_command_with_130_and_what_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "ablate.cli.find.ProgressPrinter.__call__",
        lambda _, now: os.kill(os.getpid(), signal.SIGINT) if now.computed else None,
    )
    out = tmp_path / "out"
    arguments = ["amount-by-stage", "--set", "sampling.num_inference_steps=2", "--out", str(out)]
    done = CliRunner().invoke(main, ["find", "breaking-point", *arguments])
    assert done.exit_code == 130
    assert f"or: ablate find breaking-point {out}" in done.stderr
    assert not (out / "find.json").exists()
    assert (out / "report.html").exists()


BLOCKS = "axes: {block: {group: {by: block}}}\nedits: [{zero: {modules: $block}}]\n"
TWO = (
    "axes: {a: [0, 0.1, 0.2], b: [0, 0.1, 0.2]}\n"
    "edits: [{mix_noise: {modules: '*', amount: $a}}, {add_noise: {modules: '*', amount: $b}}]\n"
)
BOTH_WAYS = "axes: {f: [0.5, 1, 1.5]}\nedits: [{scale: {modules: '*', factor: $f}}]\n"


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        (BLOCKS, [], "wrong has no axis of strengths or counts with 3 values or more"),
        (TWO, [], "several axes along which its edits grow: a, b; name one by `--axis`"),
        (TWO, ["--axis", "seed"], "`seed` is no axis of strengths or counts .*: a, b"),
        (BOTH_WAYS, [], "axes.f: goes both ways from 1"),
    ],
)
def test_a_wrong_request_ends_in_a_sentence_and_writes_nothing(
    recipe: str, options: list[str], message: str, tmp_path: Path
) -> None:
    file, out = tmp_path / "wrong.yaml", tmp_path / "out"
    file.write_text(f"version: 1\nname: wrong\nseeds: [0, 1]\n{recipe}")
    arguments = ["find", "breaking-point", str(file), "--out", str(out), *options]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 2
    assert re.search(message, done.stderr)
    assert not out.exists()


def test_an_unknown_kind_names_the_nearest(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["find", "braking-point", "quickstart"])
    assert (done.exit_code, "did you mean `breaking-point`" in done.stderr) == (2, True)
    with pytest.raises(RequestError, match="did you mean `breaking-point`"):
        ablate.find("braking-point", "quickstart")


def test_the_command_prints_the_finding_and_goes_on_from_its_folder(tmp_path: Path) -> None:
    file, out = tmp_path / "recipe.yaml", tmp_path / "out"
    file.write_text(
        "version: 1\nname: shrinks\nmodel: bundled\nsampling: {num_inference_steps: 4}\n"
        "axes: {factor: {range: [1, 0], step: 0.1}}\n"
        "edits: [{scale: {modules: '*', factor: $factor}}]\n"
    )
    done = CliRunner().invoke(main, ["find", "breaking-point", str(file), "--out", str(out)])
    assert done.exit_code == 0, done.stderr
    assert re.search(r"\d of the 11 images of the plain sweep were needed", done.stdout)
    assert re.search(r"Images stop being the cat at factor = 0\.\d", done.stdout)
    again = CliRunner().invoke(main, ["find", "breaking-point", str(out)])
    assert (again.exit_code, "0 images computed" in again.stdout) == (0, True)
    verified = CliRunner().invoke(main, ["verify", str(out)])
    assert verified.exit_code == 0, verified.stdout
    assert read_cells(Run(out))
