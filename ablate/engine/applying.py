"""Apply the variants of a batch: around encoding and decoding, in the denoiser, to the image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
    When,
    applied,
    apply,
    by_rows,
    label,
)
from ablate.engine.batches import Batch
from ablate.network import ScopeError, watched
from ablate.sampling import Callbacks, Context, Pipeline


class PhaseEdits:
    """Makes contexts that apply edits of text encoders or of the autoencoder.

    `report` is filled with the modules that they edit, change and run.
    """

    def __init__(self, pipeline: Pipeline, noise: NoiseCache, report: EditReport) -> None:
        self.pipeline = pipeline
        self.noise = noise
        self.report = report
        self._contexts: dict[Variant, Context] = {}

    def __call__(self, variant: Variant) -> Context | None:
        """A context, the same for equal variants; None without edits."""
        if variant.is_baseline:
            return None
        return self._contexts.setdefault(variant, partial(self._apply, variant))

    @contextmanager
    def _apply(self, variant: Variant) -> Iterator[None]:
        with ExitStack() as stack:
            for component in dict.fromkeys(e.component for e in variant.edits):
                name = component or self.pipeline.component
                network = self.pipeline.networks[name]
                edits = tuple(edit for edit in variant.edits if edit.component == component)
                part = replace(variant, edits=edits)
                ran = stack.enter_context(watched(network, part.modules))
                edited = stack.enter_context(applied(network, part, self.noise))
                stack.callback(self._add, name, edited, ran)
            yield

    def _add(self, component: str, report: EditReport, ran: Iterable[str]) -> None:
        sets = (report.edited, report.changed, ran)
        self.report.add(EditReport(*(self.pipeline.qualified(component, paths) for paths in sets)))


@contextmanager
def denoiser_edits(
    batch: Batch, pipeline: Pipeline, noise: NoiseCache, report: EditReport
) -> Iterator[Callbacks]:
    """Apply the variants of a batch to the denoiser while their windows are open.

    Cells of one condition whose edits have been the same so far are computed once. `report` is
    filled with the modules that are edited, change and run.

    Yields:
        Callbacks for sampling, which open and close the windows.
    """
    network = pipeline.denoiser
    references = batch.references
    variants = [*batch.variants, *[Variant("")] * len(references)]
    # Cells with equal histories are one row; afterwards a history is the number of its row.
    histories: list[object] = [(job.condition, job.encoding) for job in batch.jobs]
    histories += [
        (replace(batch.jobs[0].condition, prompt=r.prompt, seed=r.seed, point=None), Variant(""))
        for r in references
    ]
    noise_levels: list[float] = []
    changing_steps: set[int] = set()

    with ExitStack() as stack:

        def start(levels: Sequence[float]) -> None:
            noise_levels[:] = levels
            for when in {e.when for v in set(variants) for e in v.edits if e.when is not None}:
                check_opens(when, levels)
            changing_steps.update(n for v in set(variants) for n in v.change_steps(levels))

        def begin_step(step: int) -> None:
            if step not in changing_steps:
                return
            stack.close()
            now = [variant.at(step, noise_levels) for variant in variants]
            if not batch.by_rows:
                ran = stack.enter_context(watched(network, now[0].modules))
                edited = stack.enter_context(applied(network, now[0], noise))
                stack.callback(lambda: report.add(EditReport(ran=ran)))
                stack.callback(report.add, edited)
                return
            histories[:] = [
                (history, v.edits, v.perturbation_seed if v.is_random else None)
                for history, v in zip(histories, now, strict=True)
            ]
            numbers = {history: i for i, history in enumerate(dict.fromkeys(histories))}
            rows = [numbers[history] for history in histories]
            histories[:] = rows
            distinct = [now[rows.index(i)] for i in range(len(numbers))]
            shared = rows if len(distinct) < len(rows) else None
            row_of = dict(zip(references, rows[len(batch) :], strict=True))
            edited = stack.enter_context(by_rows(network, distinct, noise, shared, row_of))
            stack.callback(report.add, edited)

        yield Callbacks(start, begin_step)


def check_opens(when: When, levels: Sequence[float]) -> None:
    """Raise `ScopeError` if a window is open at no step of a sampling with these noise levels."""
    if not when.is_ever_active(levels):
        raise ScopeError(
            f"when {when}: it never opens; this sampling has {len(levels)} steps, of noise level"
            f" {levels[0]:.3g} to {levels[-1]:.3g}"
        )


def edit_image(image: np.ndarray, variant: Variant) -> np.ndarray:
    """Apply the edits of finished images to one, floats in [0, 1], shape (height, width, 3)."""
    for edit in variant.edits:
        if edit.where == "image":
            letters = torch.tensor(label(edit.text or "", image.shape[1], image.shape[0]))
            image = apply(OPS[edit.op], torch.from_numpy(image), letters, None).numpy()
    return image
