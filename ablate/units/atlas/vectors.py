"""Activation vectors of one module, collected on disk.

    vectors/<name>/
      values.f16     a row a vector, float16
      places.bin     for each of them its sample, its moment, and where it lies (`PLACE`)
      vectors.json   what was collected, and how much of the two files counts

A killed collection goes on after its last whole batch. In memory is one batch, however many vectors
there are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ablate.messages import did_you_mean
from ablate.network import SelectorError
from ablate.store import Run, key_of
from ablate.sweep import Plan
from ablate.units.record.layers import grid_of, middle_of
from ablate.units.record.recording import maps_of_study, render_missing, stream
from ablate.units.record.study import CLIP, Study, StudyError

FORMAT = 1
FOLDER = "vectors"
SEED = 0  # of positions
CHUNK = 4096  # vectors read at once
LARGEST = float(np.finfo(np.float16).max)
# `sample`: its number among the study's samples; `moment`: the number of the call, of those that
# were recorded; `y`, `x`: the middle of the position in the picture, 0 to 1, NaN where a layer is
# no map of it.
PLACE = np.dtype([("sample", "<i4"), ("moment", "<i4"), ("y", "<f4"), ("x", "<f4")])


class Vectors:
    """The vectors in a folder, of a collection that is over or goes on.

    `about`: what determines them. `done`: samples collected. `units`: width of a vector, 0 before
    the first. `rows`: rows of positions that a picture has in this layer, 0 where it is no map.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        self.folder = folder
        self.about = json.loads(json.dumps(about))
        self.done = self.count = self.units = self.rows = 0
        self._continue()

    def __len__(self) -> int:
        return self.count

    @property
    def values_path(self) -> Path:
        return self.folder / "values.f16"

    @property
    def places_path(self) -> Path:
        return self.folder / "places.bin"

    def _continue(self) -> None:
        """Take up what lies there. What was begun otherwise, or is cut short, is removed."""
        try:
            told = json.loads((self.folder / "vectors.json").read_text(encoding="utf-8"))
            if told["format"] != FORMAT or told["about"] != self.about:
                raise ValueError
            self.done, self.count, self.units, self.rows = (
                int(told[name]) for name in ("done", "count", "units", "rows")
            )
            for path, size in self._sizes():
                if path.stat().st_size < size:
                    raise ValueError
                with path.open("r+b") as file:
                    file.truncate(size)  # what a killed process wrote of its last batch
            if min(self.done, self.count, self.units, self.rows) < 0:
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.done = self.count = self.units = self.rows = 0

    def _sizes(self) -> Iterator[tuple[Path, int]]:
        yield self.values_path, 2 * self.count * self.units
        yield self.places_path, PLACE.itemsize * self.count

    def append(self, values: np.ndarray, places: np.ndarray, done: int) -> None:
        """Add vectors (n, units) and their places (n,), `PLACE`; `done` samples are over then."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.units not in (0, values.shape[1]):
            raise StudyError(f"vectors of {self.units} units are followed by {values.shape[1]}")
        for path, part in (
            (self.values_path, np.ascontiguousarray(values, "<f2")),
            (self.places_path, np.ascontiguousarray(places, PLACE)),
        ):
            with path.open("ab") as file:
                part.tofile(file)
        # Nothing counts before this file says so.
        self.done, self.units, self.count = done, values.shape[1], self.count + len(values)
        told = {
            "format": FORMAT,
            "about": self.about,
            "done": self.done,
            "count": self.count,
            "units": self.units,
            "rows": self.rows,
        }
        Run(self.folder).write_text("vectors.json", json.dumps(told, indent=1) + "\n")

    def places(self) -> np.ndarray:
        """The places of all vectors, `PLACE`, 16 bytes each."""
        return np.fromfile(self.places_path, PLACE, self.count)

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """All vectors in order, so many at once, float32 (n, units)."""
        for start in range(0, self.count, size):
            yield self.some(start, min(start + size, self.count))

    def some(self, start: int, stop: int) -> np.ndarray:
        """Vectors from a number to before another, float32."""
        read = np.fromfile(
            self.values_path,
            "<f2",
            (stop - start) * self.units,
            offset=2 * start * self.units,
        )
        return read.reshape(-1, self.units).astype(np.float32)


class Collector:
    """A sink that keeps the vectors at a few positions of each sample and moment.

    `each`: how many. Which ones depends on the numbers of sample and moment alone, so that another
    collection, also one under edits, looks at the same. `size`: height and width of the images,
    None for what reads texts. `maps`: rows and columns that maps of them can have, None: any.
    """

    def __init__(
        self,
        vectors: Vectors,
        each: int,
        size: tuple[int, int] | None,
        maps: frozenset[tuple[int, int]] | None = None,
    ) -> None:
        self.vectors = vectors
        self.each = each
        self.size = size
        self.maps = maps
        self.begin(0)

    def begin(self, samples: int) -> None:
        self.values: list[Tensor] = []  # a moment each: (samples, positions kept, units)
        self.at: list[Tensor] = []  # (samples, positions kept, 2)

    def record(self, _path: str, values: Tensor) -> None:
        samples, _, positions = values.shape
        grid = grid_of(positions, *self.size, self.maps) if self.size else None
        first, moment = self.vectors.done, len(self.values)
        skipped = grid[0] if grid else 0
        picked = torch.from_numpy(
            np.stack(
                [
                    skipped + drawn(sample, moment, positions - skipped, self.each)
                    for sample in range(first, first + samples)
                ]
            )
        ).to(values.device)
        kept = values.mT.gather(1, picked[..., None].expand(-1, -1, values.shape[1]))
        self.values.append(kept.clamp(-LARGEST, LARGEST).half().cpu())
        self.at.append(middle_of(picked, grid).cpu())
        self.vectors.rows = grid[1] if grid else 0

    def end(self, numbers: Sequence[int]) -> None:
        if not self.values:
            raise StudyError(f"`{self.vectors.about.get('path')}` did not run; it has no vectors")
        moments, kept = len(self.values), self.values[0].shape[1]
        places = np.empty((len(numbers), moments, kept), PLACE)
        places["sample"] = np.array(numbers)[:, None, None]
        places["moment"] = np.arange(moments)[:, None]
        at = torch.stack(self.at, 1).numpy()
        places["y"], places["x"] = at[..., 0], at[..., 1]
        values = torch.stack(self.values, 1).flatten(0, 2).numpy()
        self.vectors.append(values, places.reshape(-1), numbers[-1] + 1)
        self.begin(0)


def drawn(sample: int, moment: int, positions: int, each: int) -> np.ndarray:
    """The numbers of a few positions, rising; all where there are no more."""
    rng = np.random.default_rng((SEED, sample, moment))
    return np.sort(rng.choice(positions, min(each, positions), replace=False))


def collect(study: Study, path: str, each: int, *, edits: Sequence[Any] = ()) -> Vectors:
    """The vectors of a module for all samples of a study, `each` positions of every moment.

    `edits`: as recipes write them; they hold meanwhile. Goes on where an earlier time stopped, if
    the edits still come to the same. Raises `StudyError` where there is no such module or for edits
    that cannot be recorded (`planned`), `Stopped` after Ctrl-C.
    """
    modules = dict(study.network.named_modules())
    if path not in modules:
        raise StudyError(
            f"`{study.component}` has no module `{path}`{did_you_mean(path, [*modules])}"
        )
    plan = planned(study, edits) if edits else None
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
        if study.component == CLIP and not study.texts:  # they take the most time
            render_missing(study, plan or study.plan)
        noun = "samples of the variant" if edits else "samples"
        study.progress.start(noun, total, vectors.done)
        sink = Collector(vectors, each, size_of(study), maps_of_study(study))
        for done in stream(study, sink, vectors.done, paths=[path], plan=plan):
            study.progress.update(done)
    return vectors


def planned(study: Study, edits: Sequence[Any]) -> Plan:
    """The plan of a study's samples with edits.

    Raises `RecipeError`, and `StudyError` where nothing is edited, or by what other samples give.
    """
    plan = study.planned(edits)
    (variant,) = (v for v in plan.variants if not v.is_baseline)
    if variant.references and (study.texts or study.component != CLIP):
        ops = dict.fromkeys(f"`{edit.op}`" for edit in variant.edits if edit.over)
        raise StudyError(
            f"{' and '.join(ops)} takes what a module gives other samples, which do not run along"
            " while units are recorded; `zero` or `scale` can be recorded"
        )
    return plan


def _identity(study: Study, plan: Plan) -> dict[str, Any]:
    """What determines a variant: the edits as they were resolved, not as they were written, for the
    study or the model that they name may have changed since."""
    (variant,) = (v for v in plan.variants if not v.is_baseline)
    models = dict.fromkeys(e.checkpoint for e in variant.edits if e.checkpoint is not None)
    prints = {model: study.pipeline.checkpoint_fingerprint(model) for model in models}
    return {**variant.identity(), "checkpoints": prints}


def alike(one: Vectors, other: Vectors, relative: float, absolute: float) -> bool:
    """Whether two collections hold the same vectors, up to a share of each value and an amount."""
    return len(one) == len(other) and all(
        np.allclose(a, b, rtol=relative, atol=absolute * relative)
        for a, b in zip(one.chunks(), other.chunks(), strict=True)
    )


def module_of(study: Study) -> str:
    """The path of the one module or block that a study is about. Raises `StudyError` where its
    selector names none, or several."""
    try:
        found = [module.path for module in study.layers]
    except SelectorError as error:
        raise StudyError(f"MODULE: {error}") from None
    if len(found) > 1:
        raise StudyError(
            f"MODULE: `{study.setup.modules}` names {len(found)} modules, such as `{found[0]}` and"
            f" `{found[-1]}`; an atlas is of one"
        )
    return found[0]


def size_of(study: Study) -> tuple[int, int] | None:
    """Height and width of the images that a study's network sees; None where it reads texts. A CLIP
    model sees a square, whatever the image."""
    if study.texts:
        return None
    if study.component == CLIP:
        return 1, 1
    settings = study.pipeline.settings(study.plan.recipe.sampling)
    return settings.height, settings.width
