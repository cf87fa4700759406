"""How large images may be, and how image files from anywhere are opened."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from ablate.store.files import StoreError

MAX_SIDE = 16_000  # pixels; many viewers and printers fail beyond this
MAX_PIXELS = 89_000_000  # Pillow warns of a decompression bomb above 89.5 million
TOO_LARGE = (Image.DecompressionBombError, Image.DecompressionBombWarning)
# What Pillow and others raise about files that are broken or no images.
BROKEN = (
    OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, AttributeError,
    struct.error, zlib.error,
)  # fmt: skip


@contextmanager
def open_image(path: Path, data: io.BytesIO | None = None) -> Iterator[Image.Image]:
    """Open an image file that may come from anywhere; decode it within the context.

    Args:
        path: The file.
        data: Its content, where it has been read.

    Raises:
        StoreError: The file is no image or a broken one, which may only show when it is decoded,
            or it has more pixels than Pillow reads without a warning.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if data is None and path.exists() and not path.is_file():
                raise StoreError(f"{path} cannot be read as a picture: it is no regular file")
            with Image.open(data or path) as image:
                yield image
    except TOO_LARGE as error:
        raise StoreError(
            f"{path} has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, which is more than is"
            " read; make it smaller first"
        ) from error
    except BROKEN as error:
        raise StoreError(f"{path} cannot be read as a picture: {error}") from error
