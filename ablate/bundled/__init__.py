"""The text-to-image model that comes with the package: small, trained by `ablate.bundled.train`."""

from pathlib import Path

FOLDER = Path(__file__).parent / "model"
