"""Visualizations on disk: a PNG each that tells how it was made, a table, and a sheet.

    <name>.png            with a text chunk `ablate`: everything that determines it, and figures
    <name>-finished.png   of latents: what the rest of the sampling comes to
    visualizations.csv    a row a picture; `ratio`, end over start, is empty where the start is 0 or
                          below
    sheet.png             all of them, labeled; sheet-2.png ... where there are many

The table and the sheet are made from the pictures alone. What lies in the folder, whole and with
the same settings, need not be made again (`waiting`).
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin

from ablate.engine import Progress
from ablate.store import Run, StoreError, atomic_write, key_of
from ablate.style import INK, MUTED, PAGE, Label, clean, typeface, wrap
from ablate.units.visualize.ascent import Told, Visualized
from ablate.units.visualize.objectives import Objective
from ablate.view import Block, Style, Tile, Words, pages, write

TABLE = "visualizations.csv"
KIND = "visualization"
COLUMNS = (
    "name", "kind", "objective", "start", "end", "ratio", "typical", "steps", "seed", "file",
    "finished",
)  # fmt: skip
TOLD = frozenset({"name", "key", "record", "start", "end", "typical"})
# What Pillow and others raise about files that are broken or something else.
BROKEN = (
    OSError, EOFError, SyntaxError, ValueError, LookupError, TypeError, AttributeError,
    struct.error, zlib.error, Image.DecompressionBombError, Image.DecompressionBombWarning,
)  # fmt: skip
SHOWN = {"image": 192, "dream": 384, "latent": 128, "prompt": 192}  # pixels on the sheet
MOST = 2048 * 2048  # pixels that are dreamed on; more would take minutes, and show no more
LONG = 50  # times as long as it is wide a picture to dream on may be
GAP, TEXT = 14, 12  # pixels between pictures, and of type
PLAIN = re.compile(r"[\w.]+#\d+( \w+)*", re.ASCII)  # names of single units, with kind and seed
LONGEST, SHORT = 120, 60  # letters of a name in that of a file, and of one that is cut
INPUTS = {
    "image": "Optimized images",
    "dream": "Pictures that were dreamed on",
    "latent": "Optimized latents, on the left what sampling makes of them, on the right what the"
    " denoiser takes them for at once",
    "prompt": "Images of optimized embeddings of prompts",
}
TITLES = {"image": "images", "dream": "dreams", "latent": "latents", "prompt": "prompts"}


def file_of(name: str) -> str:
    """The file of a picture of some name: `PATH#3` is `PATH-3.png`. A name that is longer, or that
    has other letters than files should have, ends in its digest, so that no two have one file."""
    stem = re.sub(r"[^\w.=-]+", "-", name, flags=re.ASCII).strip("-.")
    plain = PLAIN.fullmatch(name) is not None or stem == name
    if plain and len(stem) <= LONGEST:
        return f"{stem}.png"
    return f"{stem[:SHORT]}-{key_of({'name': name})[:12]}.png".lstrip("-")


def short(name: str) -> str:
    """A name as a line has it: one that is long lacks its middle."""
    return name if len(name) <= LONGEST else f"{name[:SHORT]} … {name[3 + SHORT - LONGEST :]}"


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
            "model": found.model,
            "start": float(found.start[i]), "end": float(found.end[i]),
            "typical": float(found.typical[i]), "curve": [float(v) for v in found.curve[:, i]],
        }  # fmt: skip
        if found.finished is not None:
            _write(found.finished[i], finished_of(path), {"made": "finished"})
        _write(found.images[i], path, told)  # last: it says that all is there
    return paths


def fill(
    folder: Path,
    kind: str,
    objectives: Sequence[Objective],
    seeds: Sequence[int],
    tell: Callable[[Sequence[Objective]], Sequence[Mapping[str, Any]]],
    make: Callable[[Sequence[Objective], Told], Visualized],
    progress: Progress | None = None,
    at_once: int = 32,
    work: int = 1,
) -> list[Path]:
    """Have the pictures of objectives and seeds made that a folder lacks, and give the files of
    all. `tell` gives their records, `make` the pictures, of so many objectives at once; they are
    on disk before the next are begun. `work`: what `progress` counts, so much an objective,
    whatever parts `make` tells of its own. An objective that is given twice has one picture, and
    its file is given twice. `kind`: of input; all but images are named by it. Raises `StoreError`,
    with nothing made, where two would have one file.
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
    progress, noun = progress or Progress(), "tiles" if kind == "dream" else "steps"
    progress.start(noun, len(lacking) * work, preparing="steps, looking for a start")
    for first in range(0, len(lacking), count):
        some = lacking[first : first + count]

        def step(done: int, total: int, first: int = first, some: int = len(some)) -> None:
            progress.update(first * work + some * work * done // total)

        save(make(some, step), [name for o in some for name in names[o]], folder)
    return [folder / file_of(name) for objective in single for name in names[objective]]


def picture_in(path: Path) -> tuple[Image.Image, tuple[int, int]]:
    """A picture to dream on, RGB, made smaller where it has more than 2048 × 2048 pixels; and how
    wide and high it was. Raises `StoreError` for what is none, or none that can be dreamed on."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                width, height = opened.size
                if max(width, height) > LONG * min(width, height):
                    raise StoreError(
                        f"{path} has {width:,} × {height:,} pixels: a picture that is dreamed on is"
                        f" at most {LONG} times as long as it is wide"
                    )
                picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise StoreError(
            f"{path} has more than {Image.MAX_IMAGE_PIXELS or 0:,} pixels, which is more than is"
            " read; make it smaller first"
        ) from error
    except BROKEN as error:
        raise StoreError(f"{path} cannot be read as a picture: {error}") from error
    size, factor = picture.size, math.sqrt(MOST / math.prod(picture.size))
    if factor < 1:
        width, height = (max(1, int(length * factor)) for length in size)
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return picture, size


def _write(pixels: np.ndarray, path: Path, told: Mapping[str, Any]) -> None:
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("ablate", json.dumps(told, sort_keys=True))
    values = np.nan_to_num(np.clip(pixels, 0, 1) * 255).round().astype(np.uint8)
    with atomic_write(path) as temporary:
        Image.fromarray(values).save(temporary, format="PNG", pnginfo=chunks)


def _told(path: Path) -> dict[str, Any]:
    """What a picture says of itself; nothing where it is not there whole or is none of these."""
    try:
        with Image.open(path) as image:
            told: dict[str, Any] = json.loads(image.info["ablate"])
            if told["made"] != KIND or not told.keys() >= TOLD:
                return {}
            if told["record"]["kind"] not in INPUTS:
                return {}
            image.load()  # which fails where a part is missing
        if told["record"]["kind"] == "latent":
            with Image.open(finished_of(path)) as image:
                image.load()
    except BROKEN:
        return {}
    return told


def finished_of(path: Path) -> Path:
    """The file of what the rest of the sampling makes of a latent, by that of its estimate."""
    return path.with_name(f"{path.stem}-finished.png")


def ratio_of(told: Mapping[str, Any]) -> float | None:
    """How many times the start the end is; None where the start is 0 or below.

    Starts are chosen to be quiet (`ablate.units.ascent.started`), so that `end / typical` is the
    stricter figure: how many times what inputs that nobody chose give.
    """
    return told["end"] / told["start"] if told["start"] > 0 else None


def outcome(told: Mapping[str, Any]) -> str:
    """How an objective went, from its start to its end, in a few words."""
    start, end, ratio = told["start"], told["end"], ratio_of(told)
    if not (math.isfinite(start) and math.isfinite(end)):
        return "not a number"
    if end <= start:
        return "fell" if end < start else f"stayed at {end:.3g}"
    if ratio is None:
        return "from 0" if start == 0 else "from below 0" if end > 0 else "rose"
    return f"{ratio:,.0f} times" if ratio >= 100 else f"{ratio:.3g} times"


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
            "ratio": "" if (ratio := ratio_of(told)) is None else f"{ratio:.6g}",
            "typical": f"{told['typical']:.6g}",
            "steps": record["steps"], "seed": record["seed"], "file": path.name,
            "finished": finished_of(path).name if record["kind"] == "latent" else "",
        })  # fmt: skip
    file = Run(folder).write_text(TABLE, text.getvalue())
    return [file, *write(pages(*_page(found), flowing=True), folder, "sheet")]


def _page(found: Sequence[tuple[Path, Mapping[str, Any]]]) -> tuple[Words, list[Block], Style]:
    """What `ablate.page.pages` takes: a flowing line for each kind of input."""
    found = sorted(found, key=lambda one: list(INPUTS).index(one[1]["record"]["kind"]))
    records = [told["record"] for _, told in found]
    kinds = dict.fromkeys(record["kind"] for record in records)
    side = None if len(kinds) == 1 else min(SHOWN.values())  # of one height beside each other
    pictures = [_shown(path, told["record"]["kind"], side) for path, told in found]
    width, height = (max(sizes) for sizes in zip(*(p.size for p in pictures), strict=True))
    lines: dict[str, list[Tile | None]] = {kind: [] for kind in kinds}
    for (_, told), picture in zip(found, pictures, strict=True):
        caption = _caption(told, width + GAP - 8)
        lines[told["record"]["kind"]].append(Tile(picture.copy, False, caption, False))
    about = ". ".join(INPUTS[kind] for kind in kinds)
    about += ". Below each its objective at the start and at the end"
    plain = ", and what it typically is for plain inputs" if kinds.keys() - {"dream"} else ""
    models = dict.fromkeys(clean(_model(told)) for _, told in found)
    levels = dict.fromkeys(f"noise level {r['t']:g}" for r in records if "t" in r)
    steps = dict.fromkeys(f"{record['steps']} steps" for record in records)
    count = f"{len(found)} picture{'s' * (len(found) > 1)}"
    words = Words("Visualized units", f"{about}{plain}.", "", [*models, *levels, *steps, count])
    blocks = [
        Block(TITLES[kind] * (len(kinds) > 1), "", "", [], [], [tiles], frozenset(), frozenset())
        for kind, tiles in lines.items()
    ]
    return words, blocks, Style(1, (width, height), GAP, TEXT)


def _model(told: Mapping[str, Any]) -> str:
    """What the model is called; of pictures of older versions, its fingerprint in short."""
    return told.get("model") or str(told["record"]["model"])[:19]


def _caption(told: Mapping[str, Any], width: int) -> Label:
    """Two lines of a name, without the kind of input, and the figures."""
    name, kind = clean(told["name"]), told["record"]["kind"]
    if kind != "image":
        name = re.sub(rf" {kind}( seed \d+)?$", r"\1", name)
    lines = wrap(name, typeface(TEXT), width, 2)
    how, figures = outcome(told), f"{told['start']:.3g} → {told['end']:.3g}"
    if not how.startswith(("from", "stayed")):
        figures = f"{figures} ({how})"
    facts = [how if how.startswith("stayed") else figures]
    if kind != "dream":  # which starts at the picture alone
        facts.append(f"typically {told['typical']:.3g}")
    return (*((line, INK) for line in lines), *((fact, MUTED) for fact in facts))


def _shown(path: Path, kind: str, side: int | None) -> Image.Image:
    """A picture as the sheet has it; the finished one of latents with their estimate beside it."""
    right = _sized(path, side or SHOWN[kind])
    if kind != "latent":
        return right
    left = _sized(finished_of(path), side or SHOWN[kind])
    both = Image.new("RGB", (left.width + 2 + right.width, left.height), PAGE)
    both.paste(left, (0, 0))
    both.paste(right, (left.width + 2, 0))
    return both


def _sized(path: Path, side: int) -> Image.Image:
    """An image as large as fits into a square; small ones keep their pixels."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    times = side // max(image.size)
    if times:
        size = image.width * times, image.height * times
        return image.resize(size, Image.Resampling.NEAREST)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image
