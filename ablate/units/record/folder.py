"""The folder of a study.

outputs/units-selectivity/
  study.json        setup, model, versions
  pictures/         a run: the images of all stimuli, by the network without edits
  activations.npz   running statistics (`ablate.store.Statistics`)
  units.csv, cards.json, atlas.json, and what is drawn from them (`ablate.store.study_pictures`)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ablate.store import Run, check_folder, regular, remove, study_pictures
from ablate.units.record.setup import StudyError

FORMAT = 1
MANIFEST = "study.json"
# What studies write, beside the pictures that are drawn from it; `prepare_folder` may remove them.
FOLDERS = ("pictures", "effects", "visualizations", "multimodal", "vectors", "bins", "patches")
FILES = ("activations.npz", "units.csv", "cards.json", "atlas.json", "layout.npz", "multimodal.csv")
# Of a run, written before its first picture.
DESCRIPTIONS = ("run.json", "recipe.yaml", "files.json")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read `study.json` of a folder. Raises `StudyError` where there is none or it is broken."""
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(regular(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StudyError(f"{folder} is no study of units: it has no {MANIFEST}") from None
    except (ValueError, RecursionError) as error:
        raise unreadable(folder, error) from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise StudyError(f"{path} is of a format that this version does not read")
    return manifest


def unreadable(folder: Path, error: Exception) -> StudyError:
    """Return the error of a folder whose `study.json` cannot be read."""
    return StudyError(
        f"{folder / MANIFEST} cannot be read: {error}; the command that wrote the study begins it"
        " anew with `--fresh`"
    )


def prepare_folder(folder: Path, manifest: Mapping[str, Any], fresh: bool) -> None:
    """Create the folder of a study, or continue the study in it.

    Args:
        manifest: The content of `study.json`, but for its format.
        fresh: Whether to remove what an earlier study wrote.

    Raises:
        StudyError: The folder has another study or something else in it.
        StoreError: It cannot be written to.
    """
    manifest = json.loads(json.dumps({"format": FORMAT, **manifest}, default=str))
    check_folder(folder)
    if (folder / "run.json").exists():
        raise StudyError(f"{folder} is the run of a recipe; `--out` names another folder")
    if (folder / MANIFEST).exists():
        if fresh or _is_empty(folder):
            _forget(folder)
        else:
            _check_same(folder, manifest)
    elif (folder / "activations.npz").exists():
        raise StudyError(
            f"{folder} has activations.npz and no {MANIFEST} that says what they are of;"
            " `--out` names another folder"
        )
    run = Run(folder)
    run.write_text(MANIFEST, json.dumps(manifest, indent=1) + "\n")
    run.sweep_temporaries()


def _is_empty(folder: Path) -> bool:
    """Whether nothing was recorded beside a `study.json` that can be read, as of a refused study:
    another may begin there."""
    read_manifest(folder)
    if any((folder / name).is_file() for name in FILES):
        return False
    written = (path for name in FOLDERS for path in (folder / name).rglob("*"))
    return not any(path.is_file() and path.name not in DESCRIPTIONS for path in written)


def _forget(folder: Path) -> None:
    """Remove what studies write, and nothing else.

    Raises `StudyError` where `study.json` is none of theirs; a broken one may be.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(regular(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        manifest = {"format": FORMAT}
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise StudyError(f"{path} is of no study of units; `--out` names another folder")
    for path in (*(folder / name for name in (*FILES, *FOLDERS)), *study_pictures(folder)):
        remove(path)


def _check_same(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raise `StudyError` where the study in the folder is another."""
    before = read_manifest(folder)
    setup = before.get("setup", {})
    differing = [key for key, value in manifest["setup"].items() if setup.get(key) != value]
    names = {"kind": "kind of study", "clip_fingerprint": "CLIP model"}
    for key in ("kind", "model", "clip_fingerprint", "dtype", "layers"):
        same = before.get(key, manifest[key]) == manifest[key]
        if not same and not (key == "layers" and "modules" in differing):
            differing.append(names.get(key, key))
    if differing:
        raise StudyError(
            f"{folder} has another study in it (of other {', '.join(differing)});"
            " `--out` names another folder, `--fresh` begins anew"
        )
