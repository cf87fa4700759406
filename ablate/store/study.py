"""A study of units on disk: what its pictures are drawn from, and the files of the pictures.

A folder may come from anywhere, so everything is checked before it is drawn: a missing key or a
value of another kind is a `StoreError` that names the file and the place in it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ablate.messages import counted
from ablate.store.files import StoreError, regular
from ablate.store.images import open_image

Item = TypeVar("Item")
LARGEST = 1e100  # number that is drawn
MOST_ROWS = 200  # and columns of an atlas
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
    """A study of units.

    Attributes:
        name: What the study is called.
        about: A sentence on it, if there is one.
        facts: How it was recorded, a few words each.
        manifest: `study.json`.
    """

    name: str
    about: str
    facts: tuple[str, ...]
    manifest: Mapping[str, Any]


def read_study(folder: Path) -> Study:
    """Read `study.json` of a folder.

    Raises:
        StoreError: There is none, or it cannot be read.
    """
    manifest = read_json(folder / "study.json")
    if manifest is None:
        raise StoreError(f"{folder} is not a study: it has no study.json")
    setup = _mapping(manifest.get("setup"))
    facts = [
        model_name(manifest.get("model")),
        str(manifest.get("component") or setup.get("component") or ""),
    ]
    for key in ("concepts", "templates", "seeds"):
        if isinstance(setup.get(key), Sequence):
            facts.append(counted(len(setup[key]), key[:-1]))
    if isinstance(manifest.get("samples"), int):
        facts.append(counted(manifest["samples"], "sample"))
    facts += [str(manifest[key]) for key in ("dtype", "device") if manifest.get(key)]
    name = str(manifest.get("name") or folder.resolve().name)
    about = str(manifest.get("about") or "")
    return Study(name, about, tuple(fact for fact in facts if fact), manifest)


def model_name(model: Any) -> str:
    """The name of a model from a name or a mapping with its `id`."""
    return str(model.get("id") or "") if isinstance(model, Mapping) else str(model or "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def read_json(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is no file. Raises `StoreError` for anything else."""
    try:
        content = json.loads(regular(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} should contain an object, not {type(content).__name__}")
    return content


# Formats of files: a kind of value, a mapping of keys (`?`: it may be missing), a list of one
# format, or a tuple of several.
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
    """Read and check `cards.json` of a study; empty where there is no such file.

    Of a unit with several cards only the first is kept. Raises `StoreError`.
    """
    path = folder / "cards.json"
    content = read_json(path)
    if content is None:
        return {}
    checked: dict[str, Any] = _checked(content, CARDS_FILE, f"{path}")
    cards: dict[object, Any] = {}
    for card in checked.get("cards", []):
        cards.setdefault((card["module"], card["unit"]), card)
    return {**checked, "cards": list(cards.values())}


def read_atlas(folder: Path) -> dict[str, Any] | None:
    """Read and check `atlas.json` of a study; None where there is no such file.

    Raises `StoreError`.
    """
    path = folder / "atlas.json"
    content = read_json(path)
    if content is None:
        return None
    atlas: dict[str, Any] = _checked(content, ATLAS_FILE, f"{path}")
    for key in ("rows", "columns"):
        if not 1 <= atlas[key] <= MOST_ROWS:
            raise StoreError(f"{path}: `{key}` must be between 1 and {MOST_ROWS}")
    seen = set()
    for i, one in enumerate(atlas["bins"]):
        place = one["row"], one["column"]
        if place[0] >= atlas["rows"] or place[1] >= atlas["columns"] or place in seen:
            what = "is given twice" if place in seen else "is outside of the atlas"
            raise StoreError(f"{path}: `bins[{i}]`, row {place[0]}, column {place[1]}, {what}")
        seen.add(place)
    return atlas


def _checked(value: Any, kind: Any, file: str, at: str = "") -> Any:
    """Return a value of JSON without nulls if it has a format; `at`: its place in the file."""
    match kind:
        case dict() if isinstance(value, dict):
            content = {key: part for key, part in value.items() if part is not None}
            for key, part in kind.items():
                name, place = key.rstrip("?"), f"{at}.{key.rstrip('?')}".lstrip(".")
                if name in content:
                    content[name] = _checked(content[name], part, file, place)
                elif not key.endswith("?"):
                    raise StoreError(f"{file}: `{place}` is missing")
            return content
        case list() if isinstance(value, list):
            return [_checked(v, kind[0], file, f"{at}[{i}]") for i, v in enumerate(value)]
        case tuple() if isinstance(value, list) and len(value) == len(kind):
            parts = zip(value, kind, strict=True)
            return [_checked(v, k, file, f"{at}[{i}]") for i, (v, k) in enumerate(parts)]
        case "text" if isinstance(value, str | int | float) and not isinstance(value, bool):
            # A lone surrogate, which JSON may contain, cannot be encoded.
            return str(value).encode(errors="replace").decode()
        case "a finite number" if _number(value) and abs(value) < LARGEST:
            return value
        case "a whole number from 0 on" if type(value) is int and 0 <= value < LARGEST:
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
    """A name for files and anchors, different for different names.

    Where it is not the name itself, it ends in the name's digest.
    """
    slug = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII)
    if slug == name and len(name) <= SHORT:
        return name
    digest = hashlib.blake2b(name.encode(errors="replace"), digest_size=6).hexdigest()
    return f"{slug[:SHORT]}-{digest}"


def read_image(folder: Path, name: str | None) -> Path | None:
    """The path of a picture of a study; None where there is none or it does not exist any more.

    Raises:
        StoreError: It is outside of the folder, or it is no picture.
    """
    if not name:
        return None
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise StoreError(f"the picture `{name}` is outside of its study {folder}")
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
    """Split module paths into the names that all start with, and the rest of each.

    The rest always has the last name, with the number that may follow it.
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
    """Split items into batches of a size; the last may be smaller."""
    return [items[i : i + size] for i in range(0, len(items), size)]


def footer(facts: Sequence[str], notes: Sequence[str]) -> list[str]:
    """The lines below a drawing: notes on its marks, and the facts in one line."""
    return [*notes, "  ·  ".join(facts)] if facts else [*notes]
