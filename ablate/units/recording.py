"""Recording: stimuli go through a network batch by batch, and what its layers give is handed on.

Nothing is kept here: a sink takes what is heard and reduces it, so that memory does not grow with
the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor

from ablate import engine
from ablate.batches import Batch, Shot, Size, jobs_of, spare_memory
from ablate.edits import Draws
from ablate.phases import Within, denoised
from ablate.pipeline import Pipeline
from ablate.plan import Cell, Plan
from ablate.rows import Applied
from ablate.sampling import Context, Moments, Request, Stopped, UnevenError
from ablate.scope import ScopeError
from ablate.units.layers import listening
from ablate.units.study import CLIP, Study

READ = 32  # images that the CLIP model reads at once


class Sink(Protocol):
    """What takes activations. For each batch: `begin`, `hear` for every layer and moment, `close`.

    A batch that failed is begun again; nothing of it counts before `close`.
    """

    def begin(self, samples: int) -> None:
        """A batch of so many samples comes."""

    def hear(self, path: str, values: Tensor) -> None:
        """What a layer gives at a moment: (samples, units, positions), float32."""

    def close(self, numbers: Sequence[int]) -> None:
        """The batch is over; the numbers of its samples, in order."""


def stream(
    study: Study,
    sink: Sink,
    start: int = 0,
    *,
    paths: Sequence[str] | None = None,
    plan: Plan | None = None,
) -> Iterator[int]:
    """Show the samples from `start` on, and yield how many are done after every batch.

    `paths`: other layers than the study's own. `plan`: with edits (`Study.planned`), whose variant
    holds meanwhile. Images are written into the study's pictures. Stopped by Ctrl-C it raises
    `Stopped` after the step that it is in.
    """
    plan = plan or study.plan
    cells = study.samples_of(plan)
    heard = _Heard(study, sink, [m.path for m in study.layers] if paths is None else list(paths))
    if study.component == CLIP:
        batches = _read(heard, plan, cells, start)
    elif study.texts:
        batches = _encoded(heard, cells, start)
    else:
        batches = _sampled(heard, plan, cells, start)
    with engine.stoppable(study.pipeline), torch.inference_mode():
        for done in batches:
            yield done
            if study.pipeline.stop():
                raise Stopped


@dataclass(frozen=True)
class _Heard:
    """What is heard, and by whom."""

    study: Study
    sink: Sink
    paths: Sequence[str]

    @property
    def pipeline(self) -> Pipeline:
        return self.study.pipeline

    def listening(self, hear: Callable[[str, Tensor], None]) -> AbstractContextManager[None]:
        return listening(self.study.network, self.paths, self.study.setup.kind, hear)


# ---------------------------------------------------------------- the denoiser


def _sampled(heard: _Heard, plan: Plan, cells: Sequence[Cell], start: int) -> Iterator[int]:
    pipeline, pictures = heard.pipeline, heard.study.pictures
    shots = engine.shots_of(cells, pipeline)
    engine.describe(plan, pipeline, pictures, engine.shots_of(plan.cells, pipeline))
    most = Size(None, pipeline, jobs_of(shots[:1], pipeline.component)).unit
    draws = Draws(spare_memory(pipeline.device) // 4, pipeline.checkpoint)
    while start < len(shots):
        some = shots[start : start + most]
        try:
            made = _together(heard, some, draws)
        except UnevenError:  # prompts of one length at a time, then
            first = some[0].cell.condition.prompt
            most = next(i for i, s in enumerate(some) if s.cell.condition.prompt != first)
            continue
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not engine.is_out_of_memory(error) or len(some) == 1:
                raise
            most = len(some) // 2
            continue
        engine.write(made, pictures, pipeline)
        start += len(some)
        heard.sink.close(range(start - len(some), start))
        yield start


def _together(heard: _Heard, shots: Sequence[Shot], draws: Draws) -> list[engine.Made]:
    """The images of some samples of one variant, sampled at once while the denoiser's layers are
    heard."""
    pipeline, when = heard.pipeline, heard.study.setup.when
    batch = Batch(tuple(jobs_of(shots, pipeline.component)), by_rows=False)
    count = len(batch)
    within = Within(pipeline, draws, Applied())
    requests = [
        Request(c.prompt, c.seed, c.point, within(job.encoding), within(job.decoding))
        for job, c in ((job, job.condition) for job in batch.jobs)
    ]
    noise_levels: list[float] = []
    step = 0

    def hear(path: str, values: Tensor) -> None:
        if when is not None and not when.holds(step, noise_levels):
            return
        if len(values) % count:
            raise ScopeError(f"`{path}` does not have a row a sample; its units are not recorded")
        heard.sink.hear(path, values[-count:])  # with guidance, the rows with the prompt come last

    heard.sink.begin(count)
    with denoised(batch, pipeline, draws, Applied()) as moments:

        def begin(levels: Sequence[float]) -> None:
            noise_levels[:] = levels
            if when is not None and not when.opens(levels):
                raise ScopeError(f"when {when}: it never opens in {len(levels)} steps")
            moments.begin(levels)

        def reach(number: int) -> None:
            nonlocal step
            step = number
            moments.reach(number)

        with heard.listening(hear):
            samples = pipeline.sample(requests, shots[0].settings, Moments(begin, reach))
    return engine.images_of(batch, samples)


# ---------------------------------------------------------------- text encoders


def _encoded(heard: _Heard, cells: Sequence[Cell], start: int) -> Iterator[int]:
    """Prompts through a text encoder of the pipeline, one by one, by the pipeline's own code."""
    pipeline = heard.pipeline
    draws = Draws(spare_memory(pipeline.device) // 4, pipeline.checkpoint)

    def enough(_levels: Sequence[float]) -> None:
        raise Stopped  # the prompt is encoded by now

    for number in range(start, len(cells)):
        (shot,) = engine.shots_of([cells[number]], pipeline)
        (job,) = jobs_of([shot], pipeline.component)
        edits = Within(pipeline, draws, Applied())(job.encoding)
        condition = job.condition
        request = Request(condition.prompt, condition.seed, encoding=_once(heard, edits))
        heard.sink.begin(1)
        try:
            pipeline.sample([request], shot.settings, Moments(begin=enough))
        except Stopped:
            if pipeline.stop():
                raise
        heard.sink.close([number])
        yield number + 1


def _once(heard: _Heard, edits: Context | None) -> Context:
    """A context in which the first call of each layer is heard: a negative prompt comes later."""
    told: set[str] = set()

    def hear(path: str, values: Tensor) -> None:
        if path not in told:
            told.add(path)
            heard.sink.hear(path, values[:1])

    @contextmanager
    def entered() -> Iterator[None]:
        with (edits or nullcontext)(), heard.listening(hear):
            yield

    return entered


# ---------------------------------------------------------------- the CLIP model


def _read(heard: _Heard, plan: Plan, cells: Sequence[Cell], start: int) -> Iterator[int]:
    """Images, or prompts, through the CLIP model; images that are not there are made first."""
    study, reader = heard.study, heard.study.reader
    assert reader is not None
    shots: list[Shot] = []
    if not study.texts:
        if engine.run(plan, study.pipeline, study.pictures).interrupted:
            raise Stopped
        shots = engine.shots_of(cells, study.pipeline)
    most = 1 if study.texts else READ  # texts of one batch would be filled up to one length
    for first in range(start, len(cells), most):
        some = range(first, min(first + most, len(cells)))
        heard.sink.begin(len(some))
        with heard.listening(heard.sink.hear):
            if study.texts:
                reader.texts([cells[i].condition.prompt for i in some])
            else:
                reader.images([_opened(study.pictures.path(shots[i].key)) for i in some])
        heard.sink.close(some)
        yield some[-1] + 1


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")
