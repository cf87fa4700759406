"""Visualizations on disk: a PNG each that tells how it was made, a table, and a sheet.

    <name>.png            with a text chunk `ablate`: everything that determines it, and figures
    visualizations.csv    a row a picture
    sheet.png             all of them, labeled; sheet-2.png ... where there are many

The table and the sheet are made from the pictures alone. What lies in the folder with the same
settings need not be made again (`waiting`).
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from ablate.page import INK, MUTED, Block, Style, Tile, Words, clean, pages, write
from ablate.store import Run, StoreError, key_of, read_record, whole
from ablate.units.ascent import Told, Visualized
from ablate.units.clock import Clock, Watch
from ablate.units.objectives import Objective

TABLE = "visualizations.csv"
KIND = "visualization"
COLUMNS = (
    "name", "kind", "objective", "start", "end", "ratio", "typical", "steps", "seed", "file",
)  # fmt: skip
SHOWN = 128  # pixels of a picture on the sheet
PLAIN = re.compile(r"[\w.]+#\d+( \w+)*", re.ASCII)  # names of single units, with kind and seed
LONGEST, SHORT = 120, 60  # letters of a name in that of a file, and of one that is cut
INPUTS = {"image": "images", "dream": "dreamed pictures", "latent": "latents",
          "prompt": "embeddings of prompts"}  # fmt: skip


def file_of(name: str) -> str:
    """The file of a picture of some name: `PATH#3` is `PATH-3.png`. A name that is longer, or that
    has other letters than files should have, ends in its digest, so that no two have one file."""
    stem = re.sub(r"[^\w.=-]+", "-", name, flags=re.ASCII).strip("-.")
    plain = PLAIN.fullmatch(name) is not None or stem == name
    if plain and len(stem) <= LONGEST:
        return f"{stem}.png"
    return f"{stem[:SHORT]}-{key_of({'name': name})[:12]}.png".lstrip("-")


def files_of(names: Sequence[str], folder: Path) -> list[Path]:
    """Their files in a folder. Raises `StoreError` where two are one."""
    files: dict[str, str] = {}
    for name in names:
        file = file_of(name)
        if file.lower() in files:  # some disks do not tell large letters from small ones
            raise StoreError(
                f"pictures need names that are all different; `{files[file.lower()]}` and `{name}`"
                f" are both `{file}`"
            )
        files[file.lower()] = name
    return [folder / file_of(name) for name in names]


def waiting(folder: Path, names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> list[int]:
    """The numbers of the rows whose pictures are not in a folder as these records have them
    (`ablate.units.ascent.records`)."""
    return [
        i
        for i, (name, record) in enumerate(zip(names, records, strict=True))
        if _told(folder / file_of(name)).get("key") != key_of(record)
    ]


def save(found: Visualized, names: Sequence[str], folder: Path) -> list[Path]:
    """Write the pictures, each whole or not at all; of latents, what the rest of the sampling made
    of them as `<name>-finished.png` too."""
    if len(names) != len(found.images):
        raise StoreError(f"{len(found.images)} pictures need as many names, not {len(names)}")
    paths = files_of(names, folder)
    for i, (name, path) in enumerate(zip(names, paths, strict=True)):
        record = dict(found.records[i])
        told = {
            "made": KIND, "name": name, "key": key_of(record), "record": record,
            "start": float(found.start[i]), "end": float(found.end[i]),
            "typical": float(found.typical[i]), "curve": [float(v) for v in found.curve[:, i]],
        }  # fmt: skip
        if found.finished is not None:
            beside = path.with_name(f"{path.stem}-finished.png")
            _write(found.finished[i], beside, {"made": "finished"})
        _write(found.images[i], path, told)  # last: it says that all is there
    return paths


def fill(
    folder: Path,
    kind: str,
    objectives: Sequence[Objective],
    seeds: Sequence[int],
    tell: Callable[[Sequence[Objective]], Sequence[Mapping[str, Any]]],
    make: Callable[[Sequence[Objective], Told], Visualized],
    watch: Watch | None = None,
    at_once: int = 32,
) -> list[Path]:
    """Have the pictures of objectives and seeds made that a folder lacks, and give the files of
    all. `tell` gives their records, `make` the pictures, of so many objectives at once; they are
    on disk before the next are begun. An objective that is given twice has one picture, and its
    file is given twice. `kind`: of input; all but images are named by it. Raises `StoreError`, with
    nothing made, where two would have one file.
    """
    single = [one for objective in objectives for one in objective.apart()]
    names = {objective: [objective.text for _ in seeds] for objective in single}
    for own in names.values():
        for i, seed in enumerate(seeds):
            own[i] += f" {kind}" if kind != "image" else ""
            own[i] += f" seed {seed}" if len(seeds) > 1 else ""
    files_of([name for own in names.values() for name in own], folder)
    lacking = [o for o in names if waiting(folder, names[o], tell([o]))]
    count = max(1, at_once // len(seeds))
    clock = Clock(len(lacking), 0, watch)
    for first in range(0, len(lacking), count):
        some = lacking[first : first + count]

        def step(done: int, total: int, first: int = first, some: int = len(some)) -> None:
            clock(first + some * done // total)

        save(make(some, step), [name for o in some for name in names[o]], folder)
    return [folder / file_of(name) for objective in single for name in names[objective]]


def _write(pixels: np.ndarray, path: Path, told: Mapping[str, Any]) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("ablate", json.dumps(told, sort_keys=True))
    values = np.nan_to_num(np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    with whole(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=chunks)


def _told(path: Path) -> dict[str, Any]:
    """What a picture says of itself; nothing where it is not there or is none of these."""
    try:
        told = read_record(path)
    except (StoreError, ValueError):
        return {}
    return told if told.get("made") == KIND else {}


def ratio_of(told: Mapping[str, Any]) -> float:
    """How many times the start's size the end is: end / |start|, infinite where a unit was silent.

    Starts are chosen to be quiet (`ablate.units.ascent.started`), so that `end / typical` is the
    stricter figure: how many times what inputs that nobody chose give.
    """
    start, end = abs(told["start"]), told["end"]
    return end / start if start else math.copysign(math.inf, end) if end else math.nan


def written(folder: Path) -> dict[Path, dict[str, Any]]:
    """What all visualizations in a folder say of themselves, by file."""
    return {path: told for path in sorted(folder.glob("*.png")) if (told := _told(path))}


def present(folder: Path) -> list[Path]:
    """Write `visualizations.csv` and `sheet.png` of all pictures in a folder."""
    found = list(written(folder).items())
    if not found:
        raise StoreError(f"{folder} has no visualizations: there is no picture that tells of one")
    text = io.StringIO()
    table = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    table.writeheader()
    for path, told in found:
        record = told["record"]
        table.writerow({
            "name": told["name"], "kind": record["kind"], "objective": record["objective"],
            "start": f"{told['start']:.6g}", "end": f"{told['end']:.6g}",
            "ratio": f"{ratio_of(told):.6g}", "typical": f"{told['typical']:.6g}",
            "steps": record["steps"], "seed": record["seed"], "file": path.name,
        })  # fmt: skip
    file = Run(folder).write_text(TABLE, text.getvalue())
    return [file, *write(pages(*_page(found), flowing=True), folder, "sheet")]


def _page(found: Sequence[tuple[Path, Mapping[str, Any]]]) -> tuple[Words, list[Block], Style]:
    """What `ablate.page.pages` takes: one flowing line of tiles."""
    tiles: list[Tile | None] = []
    largest = 1
    for path, told in found:
        with Image.open(path) as image:
            largest = max(largest, *image.size)
        figures = f"{told['start']:.3g} → {told['end']:.3g}, typically {told['typical']:.3g}"
        caption = ((clean(told["name"]), INK), (figures, MUTED))
        tiles.append(Tile(partial(_image, path), False, caption, False))
    scale = max(1, SHOWN // largest) if largest <= SHOWN else SHOWN / largest
    side = round(largest * scale)
    kinds = dict.fromkeys(told["record"]["kind"] for _, told in found)
    about = (
        f"Optimized {', '.join(INPUTS.get(kind, kind) for kind in kinds)}; below each its"
        " objective at the start, at the end, and what plain inputs typically give."
    )
    models = dict.fromkeys(str(told["record"]["model"]) for _, told in found)
    steps = dict.fromkeys(f"{told['record']['steps']} steps" for _, told in found)
    words = Words("Visualized units", about, "", [*models, *steps, f"{len(found)} pictures"])
    block = Block("", "", "", [], [], [tiles], frozenset(), frozenset())
    return words, [block], Style(scale, (side, side), 14, 12)


def _image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
