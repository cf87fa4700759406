"""The run folder: complete files only, and clear words about what is no run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ablate.store.files import StoreError
from ablate.store.png import key_of, read_latents, read_record
from ablate.store.run import Run

RECORD = {
    "variant": "baseline",
    "condition": {
        "prompt": "a cat",
        "seed": 1,
        "sampling": {
            "num_inference_steps": 2,
            "scheduler": "DDIMScheduler",
            "guidance_scale": 5.0,
            "negative_prompt": "blur, noise",
        },
    },
    "size": [4, 4],
    "model": {"id": "bundled"},
}


def test_key_depends_on_content_not_on_order() -> None:
    assert key_of({"a": 1, "b": [2]}) == key_of({"b": [2], "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 2})


def test_where_one_cell_cannot_be_written_none_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are encoded at once, and the error names the one."""
    run = Run(tmp_path / "run")
    keys = [f"{number}abc" * 8 for number in range(6)]
    images = [Image.new("RGB", (64, 64), (40 * number, 0, 0)) for number in range(6)]
    save = Image.Image.save

    def failing(image: Image.Image, *args: Any, **options: Any) -> None:
        if image.getpixel((0, 0)) == (80, 0, 0):
            raise OSError(28, "No space left on device")
        save(image, *args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", failing)
        with pytest.raises(OSError, match="No space left") as error:
            run.write_cells((k, i, RECORD, None) for k, i in zip(keys, images, strict=True))
    assert error.value.filename == str(run.path(keys[2]))
    assert list((tmp_path / "run" / "cells").iterdir()) == []
    run.write_cells((k, i, RECORD, None) for k, i in zip(keys, images, strict=True))
    assert run.finished() == set(keys)


def test_a_cell_is_written_atomically(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path / "run")
    image = Image.new("RGB", (4, 4), "red")

    def failing(_self: Path, _target: Path) -> Path:
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", failing)
        with pytest.raises(OSError, match="the disk is full"):
            run.write_cells([("abc0" * 8, image, RECORD, None)])
    assert "abc0" * 8 not in run.finished()
    assert list((tmp_path / "run" / "cells").glob("*.png")) == []
    run.sweep_temporaries()
    assert list((tmp_path / "run" / "cells").iterdir()) == []
    run.write_cells([("abc0" * 8, image, RECORD, None)])
    path = run.path("abc0" * 8)
    assert run.finished() == {"abc0" * 8}
    with Image.open(path) as stored:
        assert stored.text["parameters"].splitlines() == [  # type: ignore[attr-defined]
            "a cat",
            "Negative prompt: blur, noise",
            "Steps: 2, Sampler: DDIMScheduler, CFG scale: 5.0, Seed: 1, Size: 4x4,"
            " Model: bundled, Variant: baseline",
        ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a run: it has no run.json"),
        ("{", "cannot be read"),
        ('{"format": 99}', "has format 99; this version reads 1"),
    ],
)
def test_what_is_no_run(content: str | None, message: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(StoreError, match=message):
        Run(tmp_path).manifest()


def test_latents_lie_in_the_png(tmp_path: Path) -> None:
    run = Run(tmp_path)
    latents = np.array([[[0.25, -3.0], [1e9, -1e9]]], dtype=np.float32)
    image = Image.new("RGB", (8, 8))
    run.write_cells([("with", image, RECORD, latents), ("without", image, RECORD, None)])
    stored = read_latents(run.path("with"))
    assert stored is not None
    assert stored.tolist() == [[[0.25, -3.0], [65504.0, -65504.0]]]
    assert read_latents(run.path("without")) is None
    for key in ("with", "without"):
        record = read_record(run.path(key))
        assert (record.pop("key"), record.pop("digest").keys()) == (key, {"pixels", "latents"})
        assert record == RECORD
