"""Activation vectors of one module, collected on disk.

    vectors/<name>/
      values.f16     a row per vector, float16
      places.bin     the sample, moment and place of each (`PLACE`)
      vectors.json   what was collected, and how much of the two files is valid

A collection that was killed continues after its last whole batch. Memory use is one batch, however
many vectors there are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.edits import Variant
from ablate.messages import did_you_mean
from ablate.network import SelectorError
from ablate.store import Run, key_of, regular, remove
from ablate.sweep import Plan
from ablate.units.record.layers import Grid, middle_of
from ablate.units.record.recording import grids_of, render_missing, stream
from ablate.units.record.setup import CLIP, StudyError
from ablate.units.record.study import Study

FORMAT = 1
FOLDER = "vectors"
SEED = 0  # of positions
CHUNK = 4096  # vectors read at once
LARGEST = float(np.finfo(np.float16).max)
# `sample`: its number in the study; `moment`: number of the recorded call; `y`, `x`: center of the
# position in the picture, 0 to 1, NaN where a layer is no map of it.
PLACE = np.dtype([("sample", "<i4"), ("moment", "<i4"), ("y", "<f4"), ("x", "<f4")])
COUNTS = ("done", "count", "units", "rows")


class Vectors:
    """The vectors in a folder, complete or still being collected.

    Attributes:
        folder: The folder. What is in it and belongs to another collection is removed.
        about: What determines the vectors.
        done: Samples collected.
        count: Vectors collected.
        units: Width of a vector, 0 before the first.
        rows: Rows of positions in a picture, 0 for a layer that is no map.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.about = json.loads(json.dumps(about))
        self._forget()
        try:
            self._load()
        except (FileNotFoundError, ValueError, LookupError, TypeError, AttributeError,
                OverflowError, RecursionError):  # fmt: skip
            remove(self.folder)
            self._forget()

    def _forget(self) -> None:
        self.done = self.count = self.units = self.rows = 0
        paths = (self.values_path, self.places_path)
        self._digests = {path: hashlib.blake2b(digest_size=16) for path in paths}

    def __len__(self) -> int:
        return self.count

    @property
    def values_path(self) -> Path:
        """The file of values."""
        return self.folder / "values.f16"

    @property
    def places_path(self) -> Path:
        """The file of places."""
        return self.folder / "places.bin"

    def _load(self) -> None:
        """Read `vectors.json`, and cut off what a killed process wrote of its last batch."""
        known = json.loads(regular(self.folder / "vectors.json").read_text("utf-8"))
        if known["format"] != FORMAT or known["about"] != self.about:
            raise ValueError
        self.done, self.count, self.units, self.rows = (int(known[name]) for name in COUNTS)
        if min(self.done, self.count, self.units, self.rows) < 0:
            raise ValueError
        sizes = {
            self.values_path: 2 * self.count * self.units,
            self.places_path: PLACE.itemsize * self.count,
        }
        for path, size in sizes.items():
            if path.stat().st_size < size:
                raise ValueError
            with path.open("r+b") as file:
                file.truncate(size)
                while part := file.read(2**20):
                    self._digests[path].update(part)
        samples = self.places()["sample"]
        if samples.min(initial=0) < 0 or samples.max(initial=-1) >= self.done:
            raise ValueError
        digests = self._all_digests()
        if {**digests, **known.get("digests", {})} != digests:  # older versions wrote fewer or none
            raise ValueError

    def _all_digests(self) -> dict[str, str]:
        """Digests of the two files and of the counts."""
        files = {path.name: digest.hexdigest() for path, digest in self._digests.items()}
        return {**files, "counts": key_of({name: getattr(self, name) for name in COUNTS})}

    def append(self, values: np.ndarray, places: np.ndarray, done: int) -> None:
        """Add vectors.

        Args:
            values: The vectors, (n, units).
            places: Their places, `PLACE`, (n,).
            done: Samples that are finished with these.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.units not in (0, values.shape[1]):
            raise StudyError(f"vectors of {self.units} units are followed by {values.shape[1]}")
        for path, part in (
            (self.values_path, np.ascontiguousarray(values, "<f2")),
            (self.places_path, np.ascontiguousarray(places, PLACE)),
        ):
            try:
                with path.open("ab") as file:
                    file.write(part.data)
            except OSError as error:  # as of a disk that is full, which names no file
                error.filename = str(path)
                raise
            self._digests[path].update(part.data)
        # Vectors are valid only once this file counts them.
        self.done, self.units, self.count = done, values.shape[1], self.count + len(values)
        counts = {name: getattr(self, name) for name in COUNTS}
        about = {"format": FORMAT, "about": self.about}
        manifest = {**about, **counts, "digests": self._all_digests()}
        Run(self.folder).write_text("vectors.json", json.dumps(manifest, indent=1) + "\n")

    def places(self) -> np.ndarray:
        """The places of all vectors, `PLACE`, 16 bytes each."""
        return np.fromfile(self.places_path, PLACE, self.count)

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """All vectors in order, in chunks of a size, float32 (n, units)."""
        for start in range(0, self.count, size):
            yield self.read(start, min(start + size, self.count))

    def read(self, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Vectors from one number to before another, float32; by default all."""
        count = (self.count if stop is None else stop) - start
        offset = 2 * start * self.units
        values = np.fromfile(self.values_path, "<f2", count * self.units, offset=offset)
        return values.reshape(-1, self.units).astype(np.float32)

    def equals(self, other: Vectors, relative: float, absolute: float) -> bool:
        """Whether both contain the same vectors, up to a relative and an absolute error."""
        return len(self) == len(other) and all(
            np.allclose(a, b, rtol=relative, atol=absolute)
            for a, b in zip(self.chunks(), other.chunks(), strict=True)
        )


class Collector:
    """Records the vectors at a few positions of each sample and moment.

    Attributes:
        vectors: Where they are written.
        each: Positions per sample and moment. Which ones depends on the numbers of sample and
            moment alone, so that a collection under edits takes the same.
        grid: Gives the grid of a layer with so many positions; None where they are no map.
    """

    def __init__(self, vectors: Vectors, each: int, grid: Callable[[int], Grid | None]) -> None:
        self.vectors = vectors
        self.each = each
        self.grid = grid
        self.begin(0)

    def begin(self, samples: int) -> None:
        self._values: list[Tensor] = []  # per moment (samples, positions, units)
        self._places: list[Tensor] = []  # per moment (samples, positions, 2)

    def record(self, _path: str, values: Tensor) -> None:
        samples, units, positions = values.shape
        grid = self.grid(positions)
        first, moment = self.vectors.done, len(self._values)
        skipped = grid[0] if grid else 0
        chosen = [
            skipped + sample_positions(sample, moment, positions - skipped, self.each)
            for sample in range(first, first + samples)
        ]
        indices = torch.from_numpy(np.stack(chosen)).to(values.device)
        vectors = values.mT.gather(1, indices[..., None].expand(-1, -1, units))
        self._values.append(vectors.clamp(-LARGEST, LARGEST).half().cpu())
        self._places.append(middle_of(indices, grid).cpu())
        self.vectors.rows = grid[1] if grid else 0

    def end(self, numbers: Sequence[int]) -> None:
        if not self._values:
            raise StudyError(f"`{self.vectors.about.get('path')}` did not run; it has no vectors")
        moments, positions = len(self._values), self._values[0].shape[1]
        places = np.empty((len(numbers), moments, positions), PLACE)
        places["sample"] = np.array(numbers)[:, None, None]
        places["moment"] = np.arange(moments)[:, None]
        centers = torch.stack(self._places, 1).numpy()
        places["y"], places["x"] = centers[..., 0], centers[..., 1]
        values = torch.stack(self._values, 1).flatten(0, 2).numpy()
        self.vectors.append(values, places.reshape(-1), numbers[-1] + 1)
        self.begin(0)


def sample_positions(sample: int, moment: int, positions: int, each: int) -> np.ndarray:
    """Choose a few positions, in rising order; all if there are no more."""
    rng = np.random.default_rng((SEED, sample, moment))
    return np.sort(rng.choice(positions, min(each, positions), replace=False))


def collect(study: Study, path: str, each: int, *, edits: Sequence[Any] = ()) -> Vectors:
    """Collect the vectors of a module for all samples of a study.

    Continues an earlier collection if the edits still resolve to the same.

    Args:
        study: The study.
        path: Module path.
        each: Positions per sample and moment.
        edits: Edits that are active meanwhile, as recipes write them.

    Raises:
        StudyError: No such module, or edits that cannot be recorded (`plan_edits`).
        Stopped: After Ctrl-C.
    """
    modules = dict(study.network.named_modules())
    if path not in modules:
        raise StudyError(
            f"`{study.component}` has no module `{path}`{did_you_mean(path, [*modules])}"
        )
    plan = plan_edits(study, edits) if edits else None
    about = {
        "path": path,
        "kind": study.setup.kind,
        "each": each,
        "variant": _identity(study, plan) if plan else None,
    }
    name = f"{'variant' if edits else 'baseline'}-{key_of(about)[:12]}"
    vectors = Vectors(study.folder / FOLDER / name, about)
    total = len(study.samples)
    if vectors.done < total:
        if study.component == CLIP and not study.texts:  # rendering takes the most time
            render_missing(study, plan or study.plan)
        noun = "samples of the variant" if edits else "samples"
        study.progress.start(noun, total, vectors.done)
        collector = Collector(vectors, each, grids_of(study))
        for done in stream(study, collector, vectors.done, paths=[path], plan=plan):
            study.progress.update(done)
    return vectors


def plan_edits(study: Study, edits: Sequence[Any]) -> Plan:
    """Plan a study's samples with edits.

    Raises:
        RecipeError: The edits are wrong.
        StudyError: They change nothing, or use what other samples give.
    """
    plan = study.planned(edits)
    variant = _variant(plan)
    if variant.references and (study.texts or study.component != CLIP):
        ops = dict.fromkeys(f"`{edit.op}`" for edit in variant.edits if edit.over)
        raise StudyError(
            f"{' and '.join(ops)} takes what a module gives other samples, which do not run along"
            " while units are recorded; `zero` or `scale` can be recorded"
        )
    return plan


def _variant(plan: Plan) -> Variant:
    (variant,) = (v for v in plan.variants if not v.is_baseline)
    return variant


def _identity(study: Study, plan: Plan) -> dict[str, Any]:
    """What determines a variant: the resolved edits, for a study or model that the written ones
    name may have changed since."""
    variant = _variant(plan)
    models = dict.fromkeys(e.checkpoint for e in variant.edits if e.checkpoint is not None)
    fingerprints = {model: study.pipeline.checkpoint_fingerprint(model) for model in models}
    return {**variant.identity(), "checkpoints": fingerprints}


def only_layer(study: Study) -> str:
    """The path of the one layer that a study names.

    Raises `StudyError` where its selector names none, or several.
    """
    try:
        paths = [module.path for module in study.layers]
    except SelectorError as error:
        raise StudyError(f"MODULE: {error}") from None
    if len(paths) > 1:
        raise StudyError(
            f"MODULE: `{study.setup.modules}` names {len(paths)} modules, such as `{paths[0]}` and"
            f" `{paths[-1]}`; an atlas is of one"
        )
    return paths[0]
