"""A user's metrics: of images and of sets, in tables and pages, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from reported import make_run

import ablate
from ablate.cli.main import main
from ablate.drift.effects import read_effects
from ablate.drift.images import Further
from ablate.drift.measure import read_cells, write_drift
from ablate.edits.code import CodeError, load_code, load_metrics
from ablate.edits.metrics import METRICS, MetricError
from ablate.edits.registry import OPS
from ablate.store.run import Run

HEAD = "import ablate\n"
RED = """
@ablate.metric
def redness(image, baseline):
    image -= baseline
    return abs(image[..., 0].mean())
"""
SPREAD = """
@ablate.metric(of="sets")
def spread(images, baselines):
    return images.std() - baselines.std()
"""
OP = "\n@ablate.op()\ndef halve(tensor, noise, strength): return tensor / 2\n"
Ablate = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Empty of what a test registers."""
    before = dict(OPS)
    yield
    METRICS.clear()
    OPS.clear()
    OPS.update(before)


def command(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def write(folder: Path, text: str) -> Path:
    (folder / "mine.py").write_text(HEAD + text, encoding="utf-8")
    recipe = folder / "r.yaml"
    recipe.write_text(
        """\
version: 1
name: mine
ops: mine.py
prompts: [a cat, a dog]
seeds: [0, 1]
sampling: {num_inference_steps: 2}
axes: {amount: [0.3, 1]}
edits: [mix_noise: {modules: conv_in, amount: $amount}]
""",
        encoding="utf-8",
    )
    return recipe


def rows(run: Path, name: str) -> list[dict[str, str]]:
    with (run / name).open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def test_metrics_of_a_file_measure_a_run(tmp_path: Path) -> None:
    recipe, run = write(tmp_path, RED + SPREAD + OP), tmp_path / "run"
    status, output = command("run", recipe, "--allow-code", "--out", run, "--device", "cpu")
    assert status == 0, output
    images = {cell.key: np.asarray(cell.image(), np.float32) / 255 for cell in Run(run).cells()}
    cells = list(Run(run).cells())
    for cell, row in zip(cells, rows(run, "drift.csv"), strict=True):
        image, baseline = images[cell.key], images[cell.baseline]
        expected = abs((image - baseline)[..., 0].mean())
        assert float(row["redness"]) == pytest.approx(expected, abs=1e-6)
        one, two = (images[c.key] for c in cells if c.is_baseline and c.prompt == cell.prompt)
        floor = abs((one - two)[..., 0].mean())
        assert float(row["redness_floors"]) == pytest.approx(expected / floor, rel=1e-3, abs=1e-5)
    assert {row["metric"] for row in rows(run, "effects.csv")} == {
        "rmse", "ssim", "latent", "embedding", "redness"
    }  # fmt: skip
    sets = rows(run, "sets.csv")
    assert [(row["variant"], row["amount"], row["metric"]) for row in sets] == [
        ("amount=0.3", "0.3", "spread"), ("amount=1", "1", "spread"),
    ]  # fmt: skip
    for row in sets:
        own = [c for c in cells if c.variant == row["variant"]]
        assert (row["images"], row["baselines"]) == ("4", "4") == 2 * (str(len(own)),)
        both = (
            np.stack([images[key] for key in keys]).std()
            for keys in ([c.key for c in own], [c.baseline for c in own])
        )
        assert float(row["value"]) == pytest.approx(np.subtract(*both), abs=1e-5)
    page = (run / "report.html").read_text(encoding="utf-8")
    assert '"sets":{"metrics":["spread"]' in page
    keys = {cell.key for cell in cells}

    before = {name: (run / name).read_bytes() for name in ("drift.csv", "sets.csv")}
    status, output = command("drift", run)
    assert status == 2
    assert output == (
        f"{run} is measured by code, redness, spread of `{tmp_path / 'mine.py'}`; look at it, and"
        " allow it to run with `--allow-code`, or `allow_code=True` in Python\n"
    )
    status, output = command("drift", run, "--allow-code", "--metric", "spread")
    assert status == 0, output
    assert output.splitlines()[0].split() == ["spread", "images", "baselines", "variant"]
    assert {name: (run / name).read_bytes() for name in before} == before
    # Neither the metrics nor their change make other cells.
    write(tmp_path, RED)
    METRICS.clear()
    OPS.pop("halve")
    assert command("run", recipe, "--allow-code", "--out", run, "--device", "cpu")[0] == 0
    assert {cell.key for cell in Run(run).cells()} == keys
    assert not (run / "sets.csv").exists()
    assert command("verify", run)[0] == 0


def test_a_metric_that_fails_is_found_before_anything_is_computed(tmp_path: Path) -> None:
    recipe, run = write(tmp_path, RED.replace("..., 0]", "..., 7]")), tmp_path / "run"
    status, output = command("run", recipe, "--allow-code", "--out", run, "--device", "cpu")
    assert status == 2
    assert output.startswith(
        f"{tmp_path / 'mine.py'}:6: the metric `redness` raised IndexError: index 7 is out of"
    )
    assert not (run / "cells").exists()


def test_a_metric_registered_in_python_measures_there(tmp_path: Path, without_report: None) -> None:
    @ablate.metric
    def brightness(image: np.ndarray, baseline: np.ndarray) -> float:
        return float(abs(image.mean() - baseline.mean()))

    recipe = write(tmp_path, "")
    recipe.write_text(recipe.read_text().replace("ops: mine.py\n", ""), encoding="utf-8")
    result = ablate.run(recipe, tmp_path / "run", device="cpu")
    assert all("brightness" in cell.drift for cell in result)


def test_small_numbers_keep_their_digits(tmp_path: Path) -> None:
    @ablate.metric
    def tiny(image: np.ndarray, baseline: np.ndarray) -> float:
        return float(1e-9 * abs(image - baseline).mean())

    run = make_run(tmp_path / "run", {"amount": [0.3], "seed": [0, 1]})
    written = write_drift(run, further=Further(metrics={"tiny": METRICS["tiny"].distance}))
    for cell, again in zip(written, read_cells(run), strict=True):
        assert again.drift["tiny"] == pytest.approx(cell.drift["tiny"], rel=1e-5, abs=0)
    (effect,) = (e for e in read_effects(run) if e.metric == "tiny")
    assert 0 < effect.mean < 1e-9  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("@ablate.metric\ndef m(image): ...\n", r"mine.py:2: the metric `m` must take \(image, "),
        ("@ablate.metric(of='sets')\ndef m(): ...\n", r"must take \(images, baselines\)"),
        ("@ablate.metric(of='pairs')\ndef m(a, b): ...\n", r"not of `pairs`"),
        ("@ablate.metric\ndef rmse(a, b): ...\n", r"the name `rmse` of a metric is taken"),
        ("@ablate.metric\ndef fid_mine(a, b): ...\n", r"name `fid_mine` of a metric is taken"),
        (RED + RED, r"the name `redness` of a metric is taken"),
        ("from math import dist\nablate.metric(dist)\n", r"the metric `dist` is defined elsewhere"),
        (f"{RED}\n1 / 0\n", "ZeroDivisionError"),
    ],
)
def test_a_file_that_is_wrong_registers_nothing(tmp_path: Path, text: str, sentence: str) -> None:
    write(tmp_path, text)
    with pytest.raises(CodeError, match=sentence):
        load_code(tmp_path / "mine.py")
    assert METRICS == {}


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("return float('nan')", r"mine.py:2: the metric `m` returned nan, which is no finite"),
        (
            "return -1",
            r"mine.py:\d: the metric `m` returned -1; a distance of images is 0 or above",
        ),
        ("return 'far'", "raised ValueError: could not convert"),
        ("return image[1000000]", r"mine.py:4: the metric `m` raised IndexError"),
    ],
)
def test_what_a_metric_returns_is_a_distance(tmp_path: Path, body: str, sentence: str) -> None:
    write(tmp_path, f"@ablate.metric\ndef m(image, baseline):\n    {body}\n")
    (metric,) = load_metrics(tmp_path / "mine.py")
    image = np.zeros((4, 4, 3), np.float32)
    with pytest.raises(MetricError, match=sentence):
        metric.distance(image, image)
