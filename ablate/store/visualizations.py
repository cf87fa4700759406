"""Visualizations on disk: self-describing PNGs, and a table.

    <name>.png            with a text chunk `ablate`: what determines it, and its objective
    <name>-finished.png   of latents: the image at the end of the sampling
    visualizations.csv    a row per picture; `ratio`, end over start, is empty for a start of 0 or
                          below

The table is written from the pictures alone.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ablate.store.files import StoreError, atomic_write, write_table
from ablate.store.images import open_image
from ablate.store.png import key_of

TABLE = "visualizations.csv"
KIND = "visualization"
KINDS = ("image", "dream", "latent", "prompt")  # of inputs
COLUMNS = (
    "name", "kind", "objective", "start", "end", "ratio", "typical", "steps", "seed", "file",
    "finished",
)  # fmt: skip
UNIT_NAME = re.compile(r"[\w.]+#\d+( \w+)*", re.ASCII)  # of a single unit, with kind and seed
LONGEST, SHORT = 120, 60  # letters of a name, and of the start of one that is cut


@dataclass(frozen=True)
class Visualization:
    """What a picture's `ablate` chunk records.

    Attributes:
        name: Name of the picture.
        record: Everything that determines it.
        start: Objective before the first step.
        end: Objective after the last step.
        typical: Mean objective of plain inputs. A start is chosen to be low, so that end over
            typical is the stricter ratio.
        curve: Objective at every step.
        model: The model's name; its fingerprint in short for pictures of older versions.
    """

    name: str
    record: Mapping[str, Any]
    start: float
    end: float
    typical: float
    curve: tuple[float, ...] = ()
    model: str = ""

    @property
    def kind(self) -> str:
        """Kind of input, one of `KINDS`."""
        return str(self.record["kind"])

    @property
    def ratio(self) -> float | None:
        """End over start; None for a start of 0 or below."""
        return self.end / self.start if self.start > 0 else None

    @property
    def outcome(self) -> str:
        """How the objective changed, in a few words."""
        start, end, ratio = self.start, self.end, self.ratio
        if not (math.isfinite(start) and math.isfinite(end)):
            return "not a number"
        if end <= start:
            return "fell" if end < start else f"stayed at {end:.3g}"
        if ratio is None:
            return "from 0" if start == 0 else "from below 0" if end > 0 else "rose"
        return f"{ratio:,.0f} times" if ratio >= 100 else f"{ratio:.3g} times"

    @property
    def short_name(self) -> str:
        """The name, without its middle if it is long."""
        if len(self.name) <= LONGEST:
            return self.name
        return f"{self.name[:SHORT]} … {self.name[3 + SHORT - LONGEST :]}"


def visualization_file(name: str) -> str:
    """The file of a picture: `PATH#3` is `PATH-3.png`.

    Long names, and names with letters that files should not have, end in a digest, so that
    different names have different files.
    """
    stem = re.sub(r"[^\w.=-]+", "-", name, flags=re.ASCII).strip("-.")
    plain = UNIT_NAME.fullmatch(name) is not None or stem == name
    if plain and len(stem) <= LONGEST:
        return f"{stem}.png"
    return f"{stem[:SHORT]}-{key_of({'name': name})[:12]}.png".lstrip("-")


def finished_file(path: Path) -> Path:
    """The image at the end of the sampling, beside a latent's picture."""
    return path.with_name(f"{path.stem}-finished.png")


def visualization_paths(folder: Path, names: Sequence[str]) -> list[Path]:
    """The paths of pictures in a folder. Raises `StoreError` where two names have the same file."""
    files: dict[str, str] = {}
    for name in names:
        file = visualization_file(name)
        if file.lower() in files:  # some disks ignore case
            raise StoreError(
                f"pictures need names that are all different; `{files[file.lower()]}` and `{name}`"
                f" are both `{file}`"
            )
        files[file.lower()] = name
    return [folder / visualization_file(name) for name in names]


def write_visualization(
    path: Path,
    image: np.ndarray,
    visualization: Visualization,
    finished: np.ndarray | None = None,
) -> None:
    """Write a picture, float in [0, 1], (height, width, 3), whole or not at all.

    `finished`: of latents, the image at the end of the sampling.
    """
    if finished is not None:
        _write_png(finished_file(path), finished, {"made": "finished"})
    chunk = {"made": KIND, "key": key_of(visualization.record), **asdict(visualization)}
    _write_png(path, image, chunk)  # last: it says that everything is there


def _write_png(path: Path, pixels: np.ndarray, chunk: Mapping[str, Any]) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("ablate", json.dumps(chunk, sort_keys=True))
    with atomic_write(path) as temporary:
        as_image(pixels).save(temporary, format="PNG", pnginfo=chunks)


def as_image(pixels: np.ndarray) -> Image.Image:
    """An image from floats in [0, 1], (height, width, 3); NaN becomes black."""
    return Image.fromarray(np.nan_to_num(pixels.clip(0, 1) * 255).round().astype(np.uint8))


def read_visualization(path: Path) -> Visualization | None:
    """What a picture records; None for a file that is missing, broken or something else."""
    try:
        with open_image(path) as image:
            chunk: dict[str, Any] = json.loads(image.info["ablate"])
            name, record = str(chunk["name"]), chunk["record"]
            if chunk["made"] != KIND or record["kind"] not in KINDS:
                return None
            start, end, typical = (float(chunk[name]) for name in ("start", "end", "typical"))
            model, curve = chunk.get("model") or str(record["model"])[:19], chunk.get("curve", ())
            image.load()  # fails for a truncated file
        if record["kind"] == "latent":
            with open_image(finished_file(path)) as image:
                image.load()
    except StoreError:
        return None
    return Visualization(name, record, start, end, typical, tuple(curve), model)


def has_visualization(path: Path, record: Mapping[str, Any]) -> bool:
    """Whether a picture is there, whole, and determined by a record."""
    visualization = read_visualization(path)
    return visualization is not None and key_of(visualization.record) == key_of(record)


def read_visualizations(folder: Path) -> dict[Path, Visualization]:
    """All visualizations in a folder, by path."""
    paths = sorted(folder.glob("*.png"))
    return {path: one for path in paths if (one := read_visualization(path)) is not None}


def write_visualization_table(folder: Path) -> Path:
    """Write `visualizations.csv` of all pictures in a folder. Raises `StoreError` without any."""
    visualizations = read_visualizations(folder)
    if not visualizations:
        raise StoreError(f"{folder} has no visualizations: no picture in it is one")
    rows = [
        (one.name, one.kind, one.record["objective"], f"{one.start:.6g}", f"{one.end:.6g}",
         "" if one.ratio is None else f"{one.ratio:.6g}", f"{one.typical:.6g}",
         one.record["steps"], one.record["seed"], path.name,
         finished_file(path).name if one.kind == "latent" else "")
        for path, one in visualizations.items()
    ]  # fmt: skip
    return write_table(folder / TABLE, COLUMNS, rows)
