"""Animations of fabricated runs, read frame by frame, cells found by their color."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fabricated import Color, make_run
from PIL import Image, ImageSequence

from ablate.store.run import Run
from ablate.style import ACCENT, PAGE, VACANT
from ablate.view import animations
from ablate.view.errors import PictureError

AMOUNTS = [0.0, 0.1, 0.2, 0.3]


def painted(v: Mapping[str, Any]) -> Color:
    return 30 + round(400 * v["amount"]), 40 + 60 * v["seed"], 200


def sweep(folder: Path, seeds: int = 1, **options: Any) -> Run:
    axes = {"amount": AMOUNTS, "seed": list(range(seeds))}
    return make_run(folder, axes, painted, own=lambda v: v["amount"] == 0, read=False, **options)


def frames(path: Path) -> tuple[list[np.ndarray], list[float]]:
    """The frames as RGB arrays and how long each is shown, in milliseconds."""
    shown, times = [], []
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            shown.append(np.asarray(frame.convert("RGB")).astype(int))
            times.append(frame.info["duration"])
    return shown, times


def area(frame: np.ndarray, color: Color, within: int = 6) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what has a color, give or take a lossy format's error."""
    found = np.argwhere((abs(frame - color) <= within).all(axis=-1))
    if len(found) < 100:
        return None
    (top, left), (bottom, right) = found.min(axis=0), found.max(axis=0) + 1
    return int(left), int(top), int(right), int(bottom)


@pytest.mark.parametrize("suffix", ["webp", "gif"])
def test_each_value_is_a_frame_in_order(tmp_path: Path, suffix: str) -> None:
    run = sweep(tmp_path)
    path = animations.save_animation(run, "amount", tmp_path / "out" / f"x.{suffix}", fps=10)
    shown, times = frames(path)
    assert len(shown) == len(AMOUNTS)
    blur = 0 if suffix == "gif" else 2  # of a lossy format
    places = []
    for amount, frame in zip(AMOUNTS, shown, strict=True):
        color = (255, 128, 128) if amount == 0 else painted({"amount": amount, "seed": 0})
        place = area(frame, color)
        assert place is not None
        places.append(place)
        assert abs(frame[2, 2] - PAGE).max() <= blur
    assert np.ptp(places, axis=0).max() <= blur  # nothing jumps
    assert times[0] == times[-1] > 3 * times[1]
    assert times[1] == times[2] == 100
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_axis_names_the_file(tmp_path: Path) -> None:
    assert animations.save_animation(sweep(tmp_path), "amount") == tmp_path / "amount.webp"


@pytest.mark.parametrize(
    ("size", "shown"),
    [((24, 16), (192, 128)), ((300, 200), (600, 400)), ((2000, 1000), (1600, 800))],
)
def test_small_pictures_grow_by_whole_factors_and_large_ones_shrink(
    tmp_path: Path, size: tuple[int, int], shown: tuple[int, int]
) -> None:
    path = animations.save_animation(sweep(tmp_path, size=size), "amount", tmp_path / "x.gif")
    found = area(frames(path)[0][1], painted({"amount": 0.1, "seed": 0}))
    assert found is not None
    left, top, right, bottom = found
    assert (right - left, bottom - top) == shown


def test_other_axes_make_a_grid(tmp_path: Path) -> None:
    run = sweep(tmp_path, seeds=3)
    shown, _ = frames(animations.save_animation(run, "amount"))
    found = [area(shown[2], painted({"amount": 0.2, "seed": seed})) for seed in range(3)]
    lefts = [place[0] for place in found if place]
    assert len(lefts) == 3
    assert lefts == sorted(lefts)
    assert len({place[1] for place in found if place}) == 1
    # Heads above the pictures: there is ink.
    head = shown[2][: found[0][1] - 4, lefts[0] : lefts[0] + 60] if found[0] else np.zeros(0)
    assert head.min() < 150


def test_baselines_are_framed_and_what_is_missing_is_vacant(tmp_path: Path) -> None:
    run = sweep(
        tmp_path, seeds=2,
        skip=lambda v: v.get("amount") == 0.1 and v["seed"] == 1,
        nan=lambda v: v.get("amount") == 0.3,
    )  # fmt: skip
    shown, _ = frames(animations.save_animation(run, "amount", tmp_path / "x.gif"))
    accented = [bool((frame == ACCENT).all(axis=-1).any()) for frame in shown]
    assert accented == [True, False, False, False]
    vacant = [area(frame, VACANT, 0) is not None for frame in shown]
    assert vacant == [False, True, False, False]
    assert area(shown[3], painted({"amount": 0.3, "seed": 0})) is None
    assert area(shown[3], (40, 40, 46)) is not None  # NaN


def test_axes_can_be_fixed_by_value_or_by_label(tmp_path: Path) -> None:
    run = sweep(tmp_path, seeds=2)
    for where in ({"amount": 0.2}, {"amount": "0.2"}):
        shown, _ = frames(animations.save_animation(run, "seed", tmp_path / "x.gif", where=where))
        assert len(shown) == 2
        for seed, frame in enumerate(shown):
            assert area(frame, painted({"amount": 0.2, "seed": seed})) is not None


@pytest.mark.parametrize(
    ("over", "options", "message"),
    [
        ("amout", {}, "no axis `amout`, did you mean `amount`"),
        ("amount", {"where": {"sed": 1}}, "no axis `sed`, did you mean `seed`"),
        ("amount", {"where": {"seed": 7}}, "axis `seed` has no value `7`; it has 0, 1"),
        ("amount", {"where": {"amount": 0.1}}, "cannot be fixed"),
        ("amount", {"path": Path("x.avi")}, r"ends in \.webp, \.gif, \.mp4"),
        ("amount", {"fps": 0}, "frames a second"),
    ],
)
def test_mistakes_are_sentences(
    tmp_path: Path, over: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(PictureError, match=message):
        animations.save_animation(sweep(tmp_path, seeds=2), over, **options)


def test_too_many_pictures_in_a_frame_name_what_to_fix(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, {"amount": AMOUNTS, "module": list(range(70))}, lambda v: (0, 0, 0),
        read=False, size=(2, 2), skip=lambda v: "module" in v and v["module"] > 0,
    )  # fmt: skip
    with pytest.raises(PictureError, match=r"70 pictures.*`where`: `module` \(70 values\)"):
        animations.save_animation(run, "amount")
    assert animations.save_animation(run, "amount", where={"module": 0}).exists()


def test_a_run_without_cells_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PictureError, match="no finished cells"):
        animations.save_animation(sweep(tmp_path, skip=lambda v: True), "amount")


def test_video_needs_a_package_and_says_which(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = sweep(tmp_path)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(PictureError, match="imageio-ffmpeg"):
        animations.save_animation(run, "amount", tmp_path / "x.mp4")
    assert not list(tmp_path.glob("*.mp4"))


def test_video_gets_every_frame_of_even_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    got: list[bytes] = []
    sizes: list[tuple[int, int]] = []

    def write_frames(path: str, size: tuple[int, int], **options: Any) -> Any:
        sizes.append(size)
        Path(path).write_bytes(b"video")
        while True:
            got.append((yield))

    fake = ModuleType("imageio_ffmpeg")
    fake.write_frames = write_frames  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", fake)
    path = animations.save_animation(sweep(tmp_path, size=(21, 13)), "amount", tmp_path / "x.mp4")
    assert path.read_bytes() == b"video"
    ((width, height),) = sizes
    assert width % 2 == height % 2 == 0
    assert {len(frame) for frame in got} == {3 * width * height}
    assert len(set(got)) == len(AMOUNTS)
    assert len(got) > 2 * len(AMOUNTS)  # the first and the last last longer


def test_where_all_are_baselines_none_is_framed(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, {"prompt": ["a", "b"], "seed": [0, 1]}, lambda v: (99 * v["seed"],) * 3
    )
    shown, _ = frames(animations.save_animation(run, "seed", tmp_path / "x.gif"))
    assert not any((frame == ACCENT).all(axis=-1).any() for frame in shown)
