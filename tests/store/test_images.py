"""Image files from anywhere: broken ones and too large ones are errors that name the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from ablate.store import StoreError, open_image


def test_an_image_is_opened(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    with open_image(tmp_path / "a.png") as image:
        assert image.size == (3, 2)


def test_what_cannot_be_decoded_is_named(tmp_path: Path) -> None:
    Image.effect_noise((64, 64), 90).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    for broken in (b"", b"text", data[: len(data) // 2]):
        (tmp_path / "a.png").write_bytes(broken)
        with (
            pytest.raises(StoreError, match=r"a\.png cannot be read as a picture"),
            open_image(tmp_path / "a.png") as image,
        ):
            image.load()


@pytest.mark.parametrize("times", [1.5, 4])  # Pillow warns of the first, refuses the second
def test_more_pixels_than_pillow_reads_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float
) -> None:
    Image.new("RGB", (60, 10)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", round(600 / times))
    with pytest.raises(StoreError, match="more than is read"), open_image(tmp_path / "a.png"):
        pass
