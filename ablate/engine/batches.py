"""Which cells are computed together, and how their variants are applied.

Batches are laid out from the whole plan, so that a run resumed, or split over processes, computes
the same batches as one that does all of it at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil

from ablate.edits import NoRowsError, Reference, Variant
from ablate.models import peak_memory, spare_memory
from ablate.network import ModuleInfo, Phase, ScopeError, phase_of
from ablate.sampling import Pipeline, Settings
from ablate.sweep import Cell, Condition

# Latent pixels computed at once to begin with; `BatchSize` goes on from there.
LATENT_PIXELS = {"cuda": 16 * 64 * 64, "mps": 4 * 64 * 64, "cpu": 64 * 8 * 8}
LARGEST = 256  # cells of a batch
PAYS = 0.95  # a larger batch is kept where it takes at most so much of the time of an image
# Variants that give new values to more of the network's parameters than this are applied in place:
# by rows every edited module runs once for each variant, and so many tensors more are in memory.
# Randomized modules of the bundled model, one cell a variant, two cores: by rows 2.4 times as fast
# at a share of 0.02, 1.9 at 0.15, 1.5 at 0.25, 1.1 at 0.4 and 0.5, 0.9 at 0.7.
SHARE = 0.4


@dataclass(frozen=True)
class KeyedCell:
    """An image to make: a cell, its settings with nothing left open, its key."""

    cell: Cell
    settings: Settings
    key: str


@dataclass(frozen=True)
class Job:
    """One sampling and the images that it gives: that of its end, of steps on the way, and with
    each of the texts that are written on it.

    `variant`: its cells' edits of the denoiser. `encoding`, `decoding`: those of what is at work
    before the first step and after the last, which change nothing about how it is batched.
    """

    shots: tuple[KeyedCell, ...]
    variant: Variant
    encoding: Variant
    decoding: Variant

    @property
    def condition(self) -> Condition:
        """As sampled to its end."""
        return replace(self.shots[0].cell.condition, steps=None)

    @property
    def settings(self) -> Settings:
        return self.shots[0].settings


@dataclass(frozen=True)
class Batch:
    """Jobs of equal settings that are computed together; in place they are of one variant.

    `share`: edited values that its variants have in memory at once, as a part of the network's
    parameters.
    """

    jobs: tuple[Job, ...]
    by_rows: bool
    share: float = 0.0

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def images(self) -> int:
        """How many images its samplings give."""
        return sum(len(job.shots) for job in self.jobs)

    @property
    def frames(self) -> set[int]:
        """The numbers of steps after which an image is taken on the way."""
        shots = (shot for job in self.jobs for shot in job.shots)
        return {s for shot in shots if (s := shot.cell.condition.steps) is not None}

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(job.variant for job in self.jobs)

    @property
    def modules(self) -> set[str]:
        """Paths of all modules of the denoiser that one of its variants edits."""
        return {path for variant in set(self.variants) for path in variant.modules}

    @property
    def references(self) -> tuple[Reference, ...]:
        """The conditions that run along because an edit takes their outputs, each once."""
        variants = dict.fromkeys(self.variants)
        return tuple(dict.fromkeys(r for variant in variants for r in variant.references))

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches with the same jobs."""
        middle = len(self.jobs) // 2
        return replace(self, jobs=self.jobs[:middle]), replace(self, jobs=self.jobs[middle:])

    def by_prompt(self) -> list[Batch]:
        """A batch for each of its prompts."""
        found: dict[object, list[Job]] = {}
        for job in self.jobs:
            found.setdefault((job.condition.prompt, job.condition.point), []).append(job)
        return [replace(self, jobs=tuple(jobs)) for jobs in found.values()]

    def fits(self, other: Batch) -> bool:
        """Whether the two can be computed as one."""
        if self.by_rows != other.by_rows or self.jobs[0].settings != other.jobs[0].settings:
            return False
        if self.by_rows:
            return self.share + other.share <= 1
        return self.variants[0] == other.variants[0]


def jobs_of(shots: Iterable[KeyedCell], component: str) -> list[Job]:
    """One job for all shots of one sampling, in their order. `component`: that of edits which name
    none."""
    found: dict[tuple[Variant, Condition, Settings], list[KeyedCell]] = {}
    whole: dict[Variant, Variant] = {}
    for shot in shots:
        condition = replace(shot.cell.condition, steps=None)
        sampled = whole.setdefault(shot.cell.variant, shot.cell.variant.for_sampling)
        found.setdefault((sampled, condition, shot.settings), []).append(shot)
    parts: dict[Variant, tuple[Variant, Variant, Variant]] = {}
    for variant in dict.fromkeys(variant for variant, _, _ in found):
        parts[variant] = (
            edits_in_phase(variant, component, "denoising"),
            edits_in_phase(variant, component, "encoding"),
            edits_in_phase(variant, component, "decoding"),
        )
    return [Job(tuple(shots), *parts[variant]) for (variant, _, _), shots in found.items()]


def edits_in_phase(variant: Variant, component: str, phase: Phase) -> Variant:
    """The edits of a variant that are made in one phase; equal where these are.

    `component`: that of edits which name none.
    """
    return variant.for_sampling.only(
        lambda e: phase_of(e.component or component) == phase
    ).for_sampling


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Variants in order of appearance, so that a run cut short has whole variants; those of one
    perturbation seed follow one another, so that they share their noise."""
    seeds: dict[int | None, int] = {}
    order: dict[Variant, tuple[int, int]] = {}
    for job in jobs:
        variant = job.variant
        if variant not in order:
            seed = variant.perturbation_seed if variant.is_random else None
            order[variant] = (seeds.setdefault(seed, len(seeds)), len(order))
    return sorted(jobs, key=lambda job: order[job.variant])


class Batcher:
    """How jobs become batches on one network.

    `catalog`: of the denoiser. `rows`: whether its modules see a row a cell at all. `rowless`:
    modules found not to.
    """

    def __init__(self, catalog: Sequence[ModuleInfo], *, rows: bool) -> None:
        self.rows = rows
        self.rowless: set[str] = set()
        self._parameters = {m.path: m.parameters for m in catalog}
        self._total = sum(self._parameters.values())
        self._shares: dict[Variant, float] = {}

    def share(self, variant: Variant) -> float:
        """The part of the network's parameters that has edited values; zeroed ones need none."""
        if variant not in self._shares:
            whole = [e for e in variant.edits if e.op == "zero" and not e.params and not e.unit]
            valued = [e for e in variant.edits if e.where == "weights" and e not in whole]
            paths = {path for edit in valued for path in edit.all_modules}
            self._shares[variant] = sum(self._parameters[p] for p in paths) / self._total
        return self._shares[variant]

    def by_rows(self, variant: Variant) -> bool:
        if variant.references:  # which run along as rows
            return True
        if not self.rows or self.share(variant) > SHARE:
            return False
        return self.rowless.isdisjoint(variant.modules)

    def batches(self, jobs: Sequence[Job], size: int) -> list[Batch]:
        """All jobs in batches of about equal size, `size` at most, in the order of variants.

        Those by rows hold as many variants as have room in the memory of one more network.
        """
        groups: dict[object, list[Job]] = {}
        for job in in_order(jobs):
            rows = self.by_rows(job.variant)
            key = (rows, job.settings, None if rows else job.variant)
            groups.setdefault(key, []).append(job)
        found = []
        for (rows, *_), members in groups.items():  # type: ignore[misc]
            for part in self._by_memory(members) if rows else [members]:
                found += [self._batch(some, rows) for some in even(part, ceil(len(part) / size))]
        return found

    def again(self, batch: Batch, size: int) -> list[Batch]:
        """The same jobs, where modules have been found rowless since the batch was laid out."""
        if not batch.by_rows or self.rowless.isdisjoint(batch.modules):
            return [batch]
        return self.batches(batch.jobs, size)

    def _batch(self, jobs: Sequence[Job], rows: bool) -> Batch:
        variants = {job.variant for job in jobs} if rows else ()
        return Batch(tuple(jobs), rows, sum(map(self.share, variants)))

    def _by_memory(self, jobs: Sequence[Job]) -> Iterator[list[Job]]:
        part: list[Job] = []
        seen: set[Variant] = set()
        used = 0.0
        for job in jobs:
            variant = job.variant
            if variant not in seen and used + self.share(variant) > 1:
                yield part
                part, seen, used = [], set(), 0.0
            if variant not in seen:
                seen.add(variant)
                used += self.share(variant)
            part.append(job)
        yield part


def unfinished(
    batches: Sequence[Batch],
    done: Callable[[KeyedCell], bool],
    again: Callable[[Sequence[Job]], list[Batch]],
) -> list[Batch]:
    """The batches without finished shots; what is left of others is batched `again`, together."""
    whole, rest = [], []
    for batch in batches:
        left = [[shot for shot in job.shots if not done(shot)] for job in batch.jobs]
        if sum(map(len, left)) == batch.images:
            whole.append(batch)
        else:
            rest += [
                replace(job, shots=tuple(shots))
                for job, shots in zip(batch.jobs, left, strict=True)
                if shots
            ]
    return whole + again(rest)


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch with the jobs of all."""
    jobs = tuple(job for batch in batches for job in batch.jobs)
    return replace(batches[0], jobs=jobs, share=sum(batch.share for batch in batches))


def even(jobs: Sequence[Job], parts: int) -> Iterator[Sequence[Job]]:
    """So many parts, of which none has two jobs more than another."""
    bounds = [len(jobs) * i // parts for i in range(parts + 1)]
    return (jobs[start:end] for start, end in pairwise(bounds))


class BatchSize:
    """How many cells are computed at once: units of the plan, joined while that pays.

    After each batch twice as many units are tried, as long as there are that many, memory for them,
    and an image takes less time for it. Out of memory halves the size for good.
    """

    def __init__(self, wanted: int | None, pipeline: Pipeline, jobs: Sequence[Job]) -> None:
        self.device = pipeline.device
        scale = getattr(pipeline.pipe, "vae_scale_factor", 1) ** 2
        pixels = max((j.settings.width * j.settings.height // scale for j in jobs), default=1)
        start = LATENT_PIXELS.get(self.device.type, pixels) // pixels
        self.unit = wanted or min(max(start, 1), LARGEST)
        self.most = self.unit if wanted else LARGEST
        self.apart = False  # batches of one prompt each
        self.best: dict[bool, float] = {}
        self.units = {True: 1, False: 1}
        self.growing = {True: wanted is None, False: wanted is None}

    def take(self, queue: deque[Batch]) -> Batch:
        """The next batch, taken out of the queue; as many as are computed at once."""
        first = queue.popleft()
        while len(first) > self.most:
            first, second = first.halves()
            queue.appendleft(second)
        batch = first
        for _ in range(self.units[first.by_rows] - 1):
            room = self.most - len(batch)
            if not queue or not batch.fits(queue[0]) or len(queue[0]) > room:
                break
            if self.apart and len(joined([batch, queue[0]]).by_prompt()) > 1:
                break
            batch = joined([batch, queue.popleft()])
        return batch

    def measured(self, batch: Batch, seconds: float) -> None:
        """Told how long a batch took; may change what is taken next."""
        kind = batch.by_rows
        if not self.growing[kind] or len(batch) < self.units[kind] * self.unit * PAYS:
            return
        each = seconds / len(batch) / batch.jobs[0].settings.num_inference_steps
        if each > PAYS * self.best.get(kind, float("inf")):
            self.units[kind] = max(1, self.units[kind] // 2)
            self.growing[kind] = False
            return
        self.best[kind] = each
        # A process twice as large would still fit.
        if peak_memory(self.device) < spare_memory(self.device):
            self.units[kind] *= 2
        else:
            self.growing[kind] = False

    def shrink(self, batch: Batch) -> None:
        """Told that a batch was too large."""
        self.most = max(1, len(batch) // 2)
        self.growing = {True: False, False: False}


def refuse(batch: Batch, error: NoRowsError) -> None:
    """Raises `ScopeError` where a variant that has to be applied by rows cannot be."""
    for variant in set(batch.variants):
        paths = sorted((error.paths or batch.modules).intersection(variant.modules))
        if variant.references and paths:
            raise ScopeError(
                f"`{paths[0]}` does not have a row a cell in this network, so that no references"
                " can run along: neither `mean` nor `resample` can be had there"
            ) from error
