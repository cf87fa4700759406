"""Visualizations on disk: names of files, chunks, the table, and the sheet."""

from __future__ import annotations

import csv
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ablate.store.files import StoreError
from ablate.store.visualizations import (
    Visualization,
    has_visualization,
    read_visualizations,
    visualization_file,
    visualization_paths,
    write_visualization,
)
from ablate.view.studies.visualizations import save_visualizations


def visualization(start: float = 0.5, end: float = 1.5, **more: Any) -> Visualization:
    record = {"kind": "image", "model": "digest", "objective": "a#1", "seed": 0, "steps": 2}
    given = {"name": "a#1", "record": record, "typical": 0.4, "curve": (1.0,), "model": "m", **more}
    return Visualization(start=start, end=end, **given)


def write(folder: Path, name: str, **more: Any) -> Path:
    (path,) = visualization_paths(folder, [name])
    pixels = np.full((8, 8, 3), 0.5, np.float32)
    one = visualization(name=name, **more)
    write_visualization(path, pixels, one, pixels if one.kind == "latent" else None)
    return path


def test_a_picture_says_what_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "a#1")
    assert read_visualizations(tmp_path) == {path: visualization()}
    assert has_visualization(path, visualization().record)
    assert not has_visualization(path, {**visualization().record, "seed": 1})
    assert not has_visualization(tmp_path / "b.png", visualization().record)
    latent = {**visualization().record, "kind": "latent", "t": 0.9}
    path = write(tmp_path, "a#1 latent", record=latent)
    assert has_visualization(path, latent)
    path.with_name("a-1-latent-finished.png").unlink()
    assert not has_visualization(path, latent)


def test_the_table_and_the_sheet_are_written_from_the_pictures(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="has no visualizations"):
        save_visualizations(tmp_path)
    with pytest.raises(StoreError, match=r"different; `a#1` and `a-1` are both `a-1\.png`"):
        visualization_paths(tmp_path, ["a#1", "a-1"])
    write(tmp_path, "three", start=0.25)
    write(tmp_path, "four", start=-1.0)
    (tmp_path / "broken.png").write_bytes(b"half a picture")
    table, sheet = save_visualizations(tmp_path)
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    assert [(row["name"], row["ratio"], row["end"]) for row in rows] == [
        ("four", "", "1.5"), ("three", "6", "1.5"),
    ]  # fmt: skip
    assert rows[1]["objective"] == "a#1"
    with Image.open(sheet) as page:
        assert page.width > 300
    assert [path.name for path in save_visualizations(tmp_path)] == [
        "visualizations.csv", "sheet.png",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("start", "end", "outcome", "ratio"),
    [
        (0.5, 6.2, "12.4 times", 12.4),
        (1e-6, 3.0, "3,000,000 times", 3e6),
        (0.0, 2.0, "from 0", None),
        (-1.0, 2.0, "from below 0", None),
        (2.0, 0.5, "fell", 0.25),
        (-1.0, -2.0, "fell", None),
        (-2.0, -1.0, "rose", None),
        (0.0, 0.0, "stayed at 0", None),
        (0.0, math.nan, "not a number", None),
    ],
)
def test_how_an_objective_changed_in_words(
    start: float, end: float, outcome: str, ratio: float | None
) -> None:
    one = visualization(start, end)
    assert one.outcome == outcome
    assert one.ratio == (None if ratio is None else pytest.approx(ratio))


def test_no_two_names_have_one_file() -> None:
    names = ["text('a cat')", "text('a, cat')", "a.b#1", "a.b#1 latent seed 2", "a.b#1 - 1",
             "日本", "中国", "a.b#1 + " * 60 + "a.b#2", "a.b#1 + " * 60 + "a.b#3",
             "x" * 300]  # fmt: skip
    files = [visualization_file(name) for name in names]
    assert len(set(files)) == len(names)
    assert max(map(len, files)) < 130
    assert all(re.fullmatch(r"\w[\w.=-]*\.png", file, re.ASCII) for file in files)
    assert files[2:4] == ["a.b-1.png", "a.b-1-latent-seed-2.png"]
    assert re.fullmatch(
        r"a{60} … [a ]+ seed 2", visualization(name="a" * 2000 + " seed 2").short_name
    )
