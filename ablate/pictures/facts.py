"""What pictures of a study say of it: its name, what it is about, how it came about, its files.

Everything is read from the study's folder: `study.json` and what lies beside it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ablate.pictures.svg import PictureError

Item = TypeVar("Item")


@dataclass(frozen=True)
class Study:
    """A study of units. `facts`: how it came about, a few words each."""

    name: str
    about: str
    facts: tuple[str, ...]
    manifest: Mapping[str, Any]


def study(folder: Path) -> Study:
    """The study of a folder, from its `study.json`.

    Raises `PictureError` where there is none, or it cannot be read.
    """
    told = read(folder / "study.json")
    if told is None:
        raise PictureError(f"{folder} is not a study: it has no study.json")
    setup = _mapping(told.get("setup"))
    facts = [model(told.get("model")), str(told.get("component") or setup.get("component") or "")]
    for key in ("concepts", "templates", "seeds"):
        if isinstance(setup.get(key), Sequence):
            facts.append(_counted(len(setup[key]), key))
    if isinstance(told.get("samples"), int):
        facts.append(_counted(told["samples"], "samples"))
    facts += [str(told[key]) for key in ("dtype", "device") if told.get(key)]
    name, about = str(told.get("name") or folder.resolve().name), str(told.get("about") or "")
    return Study(name, about, tuple(fact for fact in facts if fact), told)


def model(told: Any) -> str:
    """The name of a model, given as a name or as what was noted of it."""
    return str(told.get("id") or "") if isinstance(told, Mapping) else str(told or "")


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _counted(count: int, things: str) -> str:
    return f"{count:,} {things if count != 1 else things[:-1]}"


def read(path: Path) -> dict[str, Any] | None:
    """A file of JSON, an object; None where there is none. Raises `PictureError` for another."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise PictureError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise PictureError(f"{path} should hold an object, not {type(found).__name__}")
    return found


def image(folder: Path, name: str | None) -> Path | None:
    """A picture of the study; None where it has none or it is not there any more.

    Raises `PictureError` for one outside of the folder.
    """
    if not name:
        return None
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
        raise PictureError(f"the picture `{name}` lies outside of its study {folder}")
    found = folder / path
    return found if found.is_file() else None


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
