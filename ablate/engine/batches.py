"""Which cells are computed together.

Batches are laid out from the complete plan, so that a run that is resumed, or divided over
processes, computes the same batches as one that computes everything at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil
from types import MappingProxyType

from ablate.edits import Reference, Variant
from ablate.models import MemoryUse
from ablate.network import ModuleInfo, Phase, phase_of
from ablate.sampling import Pipeline, Settings
from ablate.sweep import Cell, Condition

# Latent pixels of the first batch, by device; `BatchSize` adapts it.
LATENT_PIXELS = {"cuda": 16 * 64 * 64, "mps": 4 * 64 * 64, "cpu": 64 * 8 * 8}
LARGEST = 256  # samplings of a batch
NONE_SAME: Mapping[Variant, Variant] = MappingProxyType({})
PAYS = 0.95  # a larger batch pays if an image takes at most this share of the time
# Variants that change more of the network's parameters than this share are applied in place: by
# rows every edited module runs once for each variant, and the edited tensors are in memory besides.
# Randomized modules of the bundled model, one cell a variant, two cores: by rows 2.4 times as fast
# at a share of 0.02, 1.9 at 0.15, 1.5 at 0.25, 1.1 at 0.4 and 0.5, 0.9 at 0.7.
SHARE = 0.4


@dataclass(frozen=True)
class KeyedCell:
    """A cell with what identifies its image.

    Attributes:
        settings: Settings of its sampling, with all defaults resolved.
        key: Digest of everything that determines the image.
    """

    cell: Cell
    settings: Settings
    key: str


@dataclass(frozen=True)
class Job:
    """One sampling and the cells it gives: of its end, of steps on the way, with texts on them.

    Attributes:
        cells: The cells, at least one.
        variant: Their edits of the denoiser.
        encoding: Their edits of text encoders, which do not affect batching.
        decoding: Their edits of the autoencoder, which do not either.
    """

    cells: tuple[KeyedCell, ...]
    variant: Variant
    encoding: Variant
    decoding: Variant

    @property
    def condition(self) -> Condition:
        """The condition, sampled to its end."""
        return replace(self.cells[0].cell.condition, steps=None)

    @property
    def settings(self) -> Settings:
        return self.cells[0].settings


@dataclass(frozen=True)
class Batch:
    """Jobs of equal settings that are computed together.

    Attributes:
        jobs: The jobs; of one variant if it is applied in place.
        by_rows: Whether variants are applied by rows.
        share: Edited values in memory at once, as a share of the network's parameters.
    """

    jobs: tuple[Job, ...]
    by_rows: bool
    share: float = 0.0

    def __len__(self) -> int:
        return len(self.jobs)

    @property
    def images(self) -> int:
        """Number of images of all jobs."""
        return sum(len(job.cells) for job in self.jobs)

    @property
    def frames(self) -> set[int]:
        """Numbers of steps after which an image is taken on the way."""
        cells = (cell for job in self.jobs for cell in job.cells)
        return {s for cell in cells if (s := cell.cell.condition.steps) is not None}

    @property
    def variants(self) -> tuple[Variant, ...]:
        return tuple(job.variant for job in self.jobs)

    @property
    def modules(self) -> set[str]:
        """Paths of all modules of the denoiser that one of the variants edits."""
        return {path for variant in set(self.variants) for path in variant.modules}

    @property
    def references(self) -> tuple[Reference, ...]:
        """Conditions that are computed along because an edit takes their outputs, each once."""
        variants = dict.fromkeys(self.variants)
        return tuple(dict.fromkeys(r for variant in variants for r in variant.references))

    def halves(self) -> tuple[Batch, Batch]:
        """Two batches with the same jobs."""
        middle = len(self.jobs) // 2
        return replace(self, jobs=self.jobs[:middle]), replace(self, jobs=self.jobs[middle:])

    def by_prompt(self) -> list[Batch]:
        """One batch per prompt."""
        groups: dict[object, list[Job]] = {}
        for job in self.jobs:
            groups.setdefault((job.condition.prompt, job.condition.point), []).append(job)
        return [replace(self, jobs=tuple(jobs)) for jobs in groups.values()]

    def fits(self, other: Batch) -> bool:
        """Whether the two can be computed as one."""
        if self.by_rows != other.by_rows or self.jobs[0].settings != other.jobs[0].settings:
            return False
        if self.by_rows:
            return self.share + other.share <= 1
        return self.variants[0] == other.variants[0]


def jobs_of(
    cells: Iterable[KeyedCell], component: str, same: Mapping[Variant, Variant] = NONE_SAME
) -> list[Job]:
    """One job for all cells of one sampling, in order of appearance.

    Args:
        cells: The cells.
        component: The one that edits without a component are of.
        same: Variants that are sampled as another one, with that one.
    """
    groups: dict[tuple[Variant, Condition, Settings], list[KeyedCell]] = {}
    sampled: dict[Variant, Variant] = {}
    for cell in cells:
        condition = replace(cell.cell.condition, steps=None)
        variant = cell.cell.variant
        if variant not in sampled:
            sampled[variant] = same.get(variant, variant).for_sampling
        variant = sampled[variant]
        groups.setdefault((variant, condition, cell.settings), []).append(cell)
    parts: dict[Variant, tuple[Variant, Variant, Variant]] = {}
    for variant in dict.fromkeys(variant for variant, _, _ in groups):
        parts[variant] = (
            edits_in_phase(variant, component, "denoising"),
            edits_in_phase(variant, component, "encoding"),
            edits_in_phase(variant, component, "decoding"),
        )
    return [Job(tuple(group), *parts[variant]) for (variant, _, _), group in groups.items()]


def edits_in_phase(variant: Variant, component: str, phase: Phase) -> Variant:
    """The variant with its edits of one phase only; equal for variants where those are equal."""
    return variant.for_sampling.only(
        lambda e: phase_of(e.component or component) == phase
    ).for_sampling


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """Sort jobs by variant, so that a run cut short has complete variants.

    Variants are in order of appearance; those of one perturbation seed are neighbors, so that they
    share its noise.
    """
    seeds: dict[int | None, int] = {}
    order: dict[Variant, tuple[int, int]] = {}
    for job in jobs:
        variant = job.variant
        if variant not in order:
            seed = variant.perturbation_seed if variant.is_random else None
            order[variant] = (seeds.setdefault(seed, len(seeds)), len(order))
    return sorted(jobs, key=lambda job: order[job.variant])


class Batcher:
    """Divides jobs into batches for one network.

    Attributes:
        rows: Whether the network's modules have a row per cell at all.
        rowless: Modules that turned out to have none.
    """

    def __init__(self, catalog: Sequence[ModuleInfo], *, rows: bool) -> None:
        self.rows = rows
        self.rowless: set[str] = set()
        self._parameters = {m.path: m.parameters for m in catalog}
        self._total = sum(self._parameters.values())
        self._shares: dict[Variant, float] = {}

    def share(self, variant: Variant) -> float:
        """The share of the network's parameters with edited values; zeroed modules need none."""
        if variant not in self._shares:
            zeroed = [e for e in variant.edits if e.op == "zero" and not e.params and not e.unit]
            valued = [e for e in variant.edits if e.where == "weights" and e not in zeroed]
            paths = {path for edit in valued for path in edit.all_modules}
            self._shares[variant] = sum(self._parameters[p] for p in paths) / self._total
        return self._shares[variant]

    def by_rows(self, variant: Variant) -> bool:
        """Whether a variant is applied by rows."""
        if variant.references:  # which are further rows
            return True
        if not self.rows or self.share(variant) > SHARE:
            return False
        return self.rowless.isdisjoint(variant.modules)

    def batches(self, jobs: Sequence[Job], size: int) -> list[Batch]:
        """All jobs in batches of about equal size, at most `size`, in the order of variants.

        A batch by rows has as many variants as fit into the memory of one more network.
        """
        groups: dict[tuple[bool, Settings, Variant | None], list[Job]] = {}
        for job in in_order(jobs):
            rows = self.by_rows(job.variant)
            key = (rows, job.settings, None if rows else job.variant)
            groups.setdefault(key, []).append(job)
        batches = []
        for (rows, _, _), members in groups.items():
            for part in self._by_memory(members) if rows else [members]:
                batches += [self._batch(some, rows) for some in even(part, ceil(len(part) / size))]
        return batches

    def again(self, batch: Batch, size: int) -> list[Batch]:
        """Divide a batch again if some of its modules are now known to be rowless."""
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
    """Batches without finished cells; what remains of the others is divided `again`, together."""
    complete, rest = [], []
    for batch in batches:
        left = [[cell for cell in job.cells if not done(cell)] for job in batch.jobs]
        if sum(map(len, left)) == batch.images:
            complete.append(batch)
        else:
            rest += [
                replace(job, cells=tuple(cells))
                for job, cells in zip(batch.jobs, left, strict=True)
                if cells
            ]
    return complete + again(rest)


def joined(batches: Sequence[Batch]) -> Batch:
    """One batch with the jobs of all."""
    jobs = tuple(job for batch in batches for job in batch.jobs)
    return replace(batches[0], jobs=jobs, share=sum(batch.share for batch in batches))


def even(jobs: Sequence[Job], parts: int) -> Iterator[Sequence[Job]]:
    """Divide jobs into parts whose sizes differ by at most one."""
    bounds = [len(jobs) * i // parts for i in range(parts + 1)]
    return (jobs[start:end] for start, end in pairwise(bounds))


class BatchSize:
    """How many jobs are computed at once.

    Batches of the plan are joined, twice as many each time, while there are that many, memory
    suffices, and an image takes less time. Running out of memory halves the size for good.

    Attributes:
        unit: Jobs of a batch of the plan.
        most: Jobs that are computed at once at most.
        units: How many batches of the plan are joined, by whether they are by rows.
        growing: Whether more are tried, by whether they are by rows.
        one_prompt: Whether batches are of one prompt each.
        memory: What the last batch took.
    """

    def __init__(self, wanted: int | None, pipeline: Pipeline, jobs: Sequence[Job]) -> None:
        """`wanted`: a fixed size; `jobs`: all that come, for the size of their images."""
        self.device = pipeline.device
        scale = getattr(pipeline.pipe, "vae_scale_factor", 1) ** 2
        pixels = max((j.settings.width * j.settings.height // scale for j in jobs), default=1)
        start = LATENT_PIXELS.get(self.device.type, pixels) // pixels
        self.unit = wanted or min(max(start, 1), LARGEST)
        self.most = self.unit if wanted else LARGEST
        self.one_prompt = False
        self.memory = MemoryUse(self.device)
        self.best: dict[bool, float] = {}
        self.units = {True: 1, False: 1}
        self.growing = {True: wanted is None, False: wanted is None}

    def take(self, queue: deque[Batch]) -> Batch:
        """Remove the next batches from the queue and return them joined, to be computed now."""
        self.memory = MemoryUse(self.device)
        first = queue.popleft()
        while len(first) > self.most:
            first, second = first.halves()
            queue.appendleft(second)
        batch = first
        for _ in range(self.units[first.by_rows] - 1):
            room = self.most - len(batch)
            if not queue or not batch.fits(queue[0]) or len(queue[0]) > room:
                break
            if self.one_prompt and len(joined([batch, queue[0]]).by_prompt()) > 1:
                break
            batch = joined([batch, queue.popleft()])
        return batch

    def record(self, batch: Batch, seconds: float) -> None:
        """Adapt the size to the time that a batch took."""
        kind = batch.by_rows
        if not self.growing[kind] or len(batch) < self.units[kind] * self.unit * PAYS:
            return
        each = seconds / len(batch) / batch.jobs[0].settings.num_inference_steps
        if each > PAYS * self.best.get(kind, float("inf")):
            self.units[kind] = max(1, self.units[kind] // 2)
            self.growing[kind] = False
            return
        self.best[kind] = each
        if self.memory.fits_twice():
            self.units[kind] *= 2
        else:
            self.growing[kind] = False

    def shrink(self, batch: Batch) -> None:
        """Halve the size after a batch ran out of memory."""
        self.most = max(1, len(batch) // 2)
        self.growing = {True: False, False: False}
