"""What pictures of a study say of it: its name, what it is about, how it came about, its files.

Everything is read from the study's folder: `study.json` and what lies beside it. A folder may come
from anywhere, so that all that is drawn is checked first: what a file lacks, or has of another
kind, is a `StoreError` that names the file and the place in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ablate.store.files import StoreError
from ablate.store.images import open_image

Item = TypeVar("Item")
HUGE = 1e100  # beyond it no figure is one
WIDEST = 200  # rows and columns of an atlas
SHORT = 80  # letters of a name that is cut
REPORT = "report.html"
CARDS = "cards"  # the folder of the drawings of cards, and the name of their sheets
ATLASES = {
    "atlas": "Atlas",
    "atlas-patches": "Atlas of patches",
    "atlas-compared": "Atlas compared",
}
# Names of drawings, of which a study has one each, by the file that they are drawn from.
DRAWINGS = {
    "units.csv": ("selectivity",), "cards.json": ("concepts",), "atlas.json": tuple(ATLASES),
}  # fmt: skip


@dataclass(frozen=True)
class Study:
    """A study of units. `facts`: how it came about, a few words each."""

    name: str
    about: str
    facts: tuple[str, ...]
    manifest: Mapping[str, Any]


def read_study(folder: Path) -> Study:
    """The study of a folder, from its `study.json`.

    Raises `StoreError` where there is none, or it cannot be read.
    """
    told = read(folder / "study.json")
    if told is None:
        raise StoreError(f"{folder} is not a study: it has no study.json")
    setup = _mapping(told.get("setup"))
    facts = [
        model_name(told.get("model")),
        str(told.get("component") or setup.get("component") or ""),
    ]
    for key in ("concepts", "templates", "seeds"):
        if isinstance(setup.get(key), Sequence):
            facts.append(_counted(len(setup[key]), key))
    if isinstance(told.get("samples"), int):
        facts.append(_counted(told["samples"], "samples"))
    facts += [str(told[key]) for key in ("dtype", "device") if told.get(key)]
    name, about = str(told.get("name") or folder.resolve().name), str(told.get("about") or "")
    return Study(name, about, tuple(fact for fact in facts if fact), told)


def model_name(told: Any) -> str:
    """The name of a model, given as a name or as what was noted of it."""
    return str(told.get("id") or "") if isinstance(told, Mapping) else str(told or "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _counted(count: int, things: str) -> str:
    return f"{count:,} {things if count != 1 else things[:-1]}"


def read(path: Path) -> dict[str, Any] | None:
    """A file of JSON, an object; None where there is none. Raises `StoreError` for another."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise StoreError(f"{path} should hold an object, not {type(found).__name__}")
    return found


TEXT, FIGURE, COUNT, FLAG = "text", "a finite number", "a whole number from 0 on", "true or false"
UNIT = {"module": TEXT, "unit": COUNT}
EFFECT = {
    "factor": FIGURE, "concept": TEXT, "own": FLAG, "before": FIGURE, "after": FIGURE,
    "low": FIGURE, "high": FIGURE, "drift?": FIGURE, "units?": COUNT,
}  # fmt: skip
EXAMPLE = {
    "prompt": TEXT, "seed": TEXT, "baseline?": TEXT, "ablated?": TEXT, "amplified?": TEXT,
    "reversed?": TEXT,
}  # fmt: skip
TOP = {
    "image?": TEXT, "prompt": TEXT, "seed": TEXT, "value": FIGURE,
    "place?": (FIGURE, FIGURE, FIGURE, FIGURE),
}  # fmt: skip
CARD = {
    **UNIT, "component?": TEXT, "kind?": TEXT, "stage?": TEXT, "role?": TEXT, "concept": TEXT,
    "selectivity?": FIGURE, "concepts?": [(TEXT, FIGURE)], "against?": [(TEXT, FIGURE)],
    "top?": [TOP], "effects?": [EFFECT], "examples?": [EXAMPLE], "sentence?": TEXT,
    "visualization?": TEXT,
    "together?": {
        "units?": [UNIT], "sentences?": [TEXT], "reversed?": [EFFECT], "examples?": [EXAMPLE],
    },
}  # fmt: skip
CARDS_FILE = {
    "component?": TEXT, "cards?": [CARD], "none?": [TEXT], "notes?": [TEXT],
    "search?": [{"concept": TEXT, "units?": [{**UNIT, "contrast": FIGURE}]}],
    "multimodal?": [
        {**UNIT, "concept": TEXT, "picture": FIGURE, "word": FIGURE, "by?": TEXT}
    ],
}  # fmt: skip
ATLAS_FILE = {
    "module?": TEXT, "component?": TEXT, "method?": TEXT, "spread?": TEXT, "rows": COUNT,
    "columns": COUNT, "vectors": COUNT, "variant?": TEXT, "variant_vectors?": COUNT,
    "notes?": [TEXT],
    "bins": [{
        "row": COUNT, "column": COUNT, "count": COUNT, "concepts?": [(TEXT, FIGURE)],
        "picture?": TEXT, "patch?": TEXT, "variant?": COUNT,
    }],
    "dark?": [{"concept": TEXT, "before": FIGURE, "after": FIGURE}],
}  # fmt: skip


def read_cards(folder: Path) -> dict[str, Any]:
    """`cards.json` of a study, checked; empty where there is no such file. A unit that has several
    cards keeps the first. Raises `StoreError`."""
    found = read(folder / "cards.json")
    if found is None:
        return {}
    told: dict[str, Any] = _checked(found, CARDS_FILE, f"{folder / 'cards.json'}")
    once: dict[object, Any] = {}
    for card in told.get("cards", []):
        once.setdefault((card["module"], card["unit"]), card)
    return {**told, "cards": list(once.values())}


def read_atlas(folder: Path) -> dict[str, Any] | None:
    """`atlas.json` of a study, checked; None where there is no such file. Raises `StoreError`."""
    path = folder / "atlas.json"
    found = read(path)
    if found is None:
        return None
    told: dict[str, Any] = _checked(found, ATLAS_FILE, f"{path}")
    for key in ("rows", "columns"):
        if not 1 <= told[key] <= WIDEST:
            raise StoreError(f"{path}: `{key}` must lie between 1 and {WIDEST}")
    seen = set()
    for i, one in enumerate(told["bins"]):
        place = one["row"], one["column"]
        if place[0] >= told["rows"] or place[1] >= told["columns"] or place in seen:
            what = "is told of twice" if place in seen else "lies outside of the atlas"
            raise StoreError(f"{path}: `bins[{i}]`, row {place[0]}, column {place[1]}, {what}")
        seen.add(place)
    return told


def _checked(value: Any, kind: Any, file: str, at: str = "") -> Any:
    """A value of JSON, of the kind that is drawn: a word, keys (`?`: it may be missing), a list of
    one kind, or a tuple of several."""
    match kind:
        case dict() if isinstance(value, dict):
            found = {key: part for key, part in value.items() if part is not None}
            for key, part in kind.items():
                name, place = key.rstrip("?"), f"{at}.{key.rstrip('?')}".lstrip(".")
                if name in found:
                    found[name] = _checked(found[name], part, file, place)
                elif not key.endswith("?"):
                    raise StoreError(f"{file}: `{place}` is missing")
            return found
        case list() if isinstance(value, list):
            return [_checked(v, kind[0], file, f"{at}[{i}]") for i, v in enumerate(value)]
        case tuple() if isinstance(value, list) and len(value) == len(kind):
            parts = zip(value, kind, strict=True)
            return [_checked(v, k, file, f"{at}[{i}]") for i, (v, k) in enumerate(parts)]
        case "text" if isinstance(value, str | int | float) and not isinstance(value, bool):
            # Half a letter alone, as JSON may have it, cannot be written.
            return str(value).encode(errors="replace").decode()
        case "a finite number" if _number(value) and abs(value) < HUGE:
            return value
        case "a whole number from 0 on" if type(value) is int and 0 <= value < HUGE:
            return value
        case "true or false" if isinstance(value, bool):
            return value
    wanted = kind
    if not isinstance(kind, str):
        wanted = "an object" if isinstance(kind, dict) else "a list"
    if isinstance(kind, tuple):
        wanted = f"a list of {len(kind)} values"
    raise StoreError(f"{file}: `{at}` must be {wanted}, not {json.dumps(value)[:60]}")


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def drawing_files(folder: Path, name: str) -> tuple[Path, Path]:
    """The files of a drawing: SVG and PNG."""
    return folder / f"{name}.svg", folder / f"{name}.png"


def study_pictures(folder: Path) -> Iterator[Path]:
    """All files and folders that drawing a study may have written into its folder."""
    for name in (name for names in DRAWINGS.values() for name in names):
        yield from drawing_files(folder, name)
    yield from (folder / name for name in (CARDS, f"{CARDS}.png", REPORT))
    for path in folder.glob(f"{CARDS}-*.png"):
        if re.fullmatch(rf"{CARDS}-\d+", path.stem):
            yield path


def slug_of(name: str) -> str:
    """A name for files and anchors; where that is not the name itself, with its digest, so that no
    two names have one."""
    found = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)
    if found == name and len(name) <= SHORT:
        return name
    digest = hashlib.blake2b(name.encode(errors="replace"), digest_size=6).hexdigest()
    return f"{found[:SHORT]}-{digest}"


def read_image(folder: Path, name: str | None) -> Path | None:
    """A picture of the study; None where it has none or it is not there any more.

    Raises `StoreError` for one outside of the folder, and for what is no picture.
    """
    if not name:
        return None
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise StoreError(f"the picture `{name}` lies outside of its study {folder}")
    image_path = folder / path
    try:
        if not image_path.is_file():
            return None
    except OSError as error:  # such as a name that is too long
        raise StoreError(f"{image_path} cannot be read as a picture: {error}") from error
    with open_image(image_path) as image:
        image.verify()
    return image_path


def shortened(paths: Sequence[str]) -> tuple[str, list[str]]:
    """What module paths have in common at their start, whole names of it, and the rest of each.

    The last name, with the number that may follow it, always stays.
    """
    parts = [path.split(".") for path in paths]
    leaf = min((len(re.findall(r"[^.]*[^.\d][^.]*(?:\.\d+)*$", path)[0].split("."))
                if re.search(r"[^.\d]", path) else 1 for path in paths), default=1)  # fmt: skip
    shortest = min((len(names) - leaf for names in parts), default=0)
    same = 0
    while same < shortest and len({names[same] for names in parts}) == 1:
        same += 1
    return ".".join(parts[0][:same]) if parts else "", [".".join(names[same:]) for names in parts]


def batched(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Items in batches of a size, the last perhaps smaller."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def footer(facts: Sequence[str], notes: Sequence[str]) -> list[str]:
    """Lines below a drawing: what its marks mean, and how it came about."""
    return [*notes, "  ·  ".join(facts)] if facts else [*notes]
