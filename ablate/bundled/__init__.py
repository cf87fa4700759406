"""The bundled text-to-image model: small, trained by `ablate.training.train`."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "model"
