"""A batch's variants, applied: around encoding, while the denoiser runs, around decoding, and to
the finished picture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ablate.edits import (
    OPS,
    EditReport,
    NoiseCache,
    Variant,
    applied,
    apply,
    by_rows,
    label,
)
from ablate.engine.batches import Batch
from ablate.network import ScopeError, watched
from ablate.sampling import Callbacks, Context, Pipeline


class PhaseEdits:
    """Contexts in which variants of what is at work before or after sampling hold.

    `found` is filled with what became of their edits.
    """

    def __init__(self, pipeline: Pipeline, draws: NoiseCache, found: EditReport) -> None:
        self.pipeline = pipeline
        self.draws = draws
        self.found = found
        self.made: dict[Variant, Context] = {}

    def __call__(self, variant: Variant) -> Context | None:
        """What to enter, one for equal variants; None where nothing is edited."""
        if variant.is_baseline:
            return None
        return self.made.setdefault(variant, partial(self._entered, variant))

    @contextmanager
    def _entered(self, variant: Variant) -> Iterator[None]:
        told = self.pipeline.qualified
        with ExitStack() as stack:
            for component in dict.fromkeys(e.component for e in variant.edits):
                name = component or self.pipeline.component
                network = self.pipeline.networks[name]
                own = tuple(edit for edit in variant.edits if edit.component == component)
                its = replace(variant, edits=own)
                ran = stack.enter_context(watched(network, its.modules))
                changed = stack.enter_context(applied(network, its, self.draws))

                def hear(
                    name: str = name,
                    its: Variant = its,
                    changed: set[str] = changed,
                    ran: set[str] = ran,
                ) -> None:
                    its_own = [told(name, paths) for paths in (its.modules, changed, ran)]
                    self.found.add(EditReport(*its_own))

                stack.callback(hear)
            yield


@contextmanager
def denoiser_edits(
    batch: Batch, pipeline: Pipeline, draws: NoiseCache, found: EditReport
) -> Iterator[Callbacks]:
    """The variants of a batch, applied to the denoiser; `found` is filled with what became of them.
    Yields what sampling has to tell, so that edits come and go with their windows.

    Cells of one condition whose edits have been the same so far are computed once.
    """
    network = pipeline.denoiser
    references = batch.references
    variants = [*batch.variants, *[Variant("")] * len(references)]
    past: list[object] = [(job.condition, job.encoding) for job in batch.jobs]
    past += [
        (replace(batch.jobs[0].condition, prompt=r.prompt, seed=r.seed, point=None), Variant(""))
        for r in references
    ]
    noise_levels: list[float] = []
    moments: set[int] = set()  # from which on edits differ

    with ExitStack() as stack:

        def begin(levels: Sequence[float]) -> None:
            noise_levels[:] = levels
            windows = {e.when for v in set(variants) for e in v.edits if e.when is not None}
            for when in windows:
                if not when.is_ever_active(levels):
                    told = f"{levels[0]:.3g} to {levels[-1]:.3g}"
                    raise ScopeError(f"when {when}: it never opens; this sampling has"
                                     f" {len(levels)} steps, of noise level {told}")  # fmt: skip
            moments.update(m for v in set(variants) for m in v.change_steps(levels))

        def reach(step: int) -> None:
            if step not in moments:
                return
            stack.close()
            now = [variant.at(step, noise_levels) for variant in variants]
            if not batch.by_rows:
                ran = stack.enter_context(watched(network, now[0].modules))
                changed = stack.enter_context(applied(network, now[0], draws))
                stack.callback(found.add, EditReport(set(now[0].modules), changed, ran))
                return
            past[:] = [
                (before, v.edits, v.perturbation_seed if v.is_random else None)
                for before, v in zip(past, now, strict=True)
            ]
            numbers = {history: i for i, history in enumerate(dict.fromkeys(past))}
            cells = [numbers[history] for history in past]
            past[:] = cells
            distinct = [now[cells.index(i)] for i in range(len(numbers))]
            shared = cells if len(distinct) < len(cells) else None
            at = dict(zip(references, cells[len(batch) :], strict=True))
            rows = by_rows(network, distinct, draws, shared, at)
            stack.callback(found.add, stack.enter_context(rows))

        yield Callbacks(begin, reach)


def finished(image: np.ndarray, variant: Variant) -> np.ndarray:
    """A picture, floats in [0, 1] of shape (height, width, 3), after the variant's edits of it."""
    for edit in variant.edits:
        if edit.where == "image":
            letters = torch.tensor(label(edit.text or "", image.shape[1], image.shape[0]))
            image = apply(OPS[edit.op], torch.from_numpy(image), letters, None).numpy()
    return image
