"""Recording: stimuli go through a network batch by batch, and what its layers give is handed on.

Nothing is kept here: a sink takes what is heard and reduces it, so that memory does not grow with
the number of samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from PIL import Image
from torch import Tensor, nn

from ablate.edits import EditReport, NoiseCache, When, step_number
from ablate.engine import (
    Batch,
    BatchSize,
    FinishedCell,
    KeyedCell,
    PhaseEdits,
    denoiser_edits,
    describe_run,
    execute,
    finished_cells,
    jobs_of,
    stoppable,
    with_keys,
    write_cells,
)
from ablate.models import is_out_of_memory, spare_memory
from ablate.network import ScopeError, rebuilt, tensors
from ablate.sampling import Callbacks, Context, Pipeline, Request, Settings, Stopped, UnevenError
from ablate.store import Run
from ablate.sweep import Cell, Plan
from ablate.units.record.layers import capturing, maps_of
from ablate.units.record.study import CLIP, Study

READ = 32  # images that the CLIP model reads at once


class Sink(Protocol):
    """What takes activations. For each batch: `begin`, `hear` for every layer and moment, `close`.

    A batch that failed is begun again; nothing of it counts before `close`.
    """

    def begin(self, samples: int) -> None:
        """A batch of so many samples comes."""

    def record(self, path: str, values: Tensor) -> None:
        """What a layer gives at a moment: (samples, units, positions), float32."""

    def end(self, numbers: Sequence[int]) -> None:
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
    holds meanwhile. Images are written into the study's pictures; those that a CLIP model reads are
    there before (`render_missing`). Stopped by Ctrl-C it raises `Stopped` after the current step.

    Of a denoiser only rows that follow the prompts are heard (`Calls`). Layers without a row a
    sample, such as those that take all words of all prompts one after the other, are left out;
    where layers were named, by `paths` or in the study's setup, they raise `ScopeError`.
    """
    plan = plan or study.plan
    cells = study.samples_of(plan)
    named = paths is not None or study.setup.modules is not None
    heard = _Heard(study, sink, [m.path for m in study.layers] if paths is None else paths, named)
    if study.component == CLIP:
        batches = _read(heard, cells, start)
    elif study.texts:
        batches = _encoded(heard, cells, start)
    else:
        batches = _sampled(heard, plan, cells, start)
    with stoppable(study.pipeline) as check_stop:
        for done in batches:
            yield done
            check_stop()


@dataclass(frozen=True)
class _Heard:
    """What is heard, and by whom. `named`: whether someone asked for just these layers."""

    study: Study
    sink: Sink
    paths: Sequence[str]
    named: bool

    @property
    def pipeline(self) -> Pipeline:
        return self.study.pipeline

    @contextmanager
    def capturing(self, hear: Callable[[str, Tensor, _Count], None]) -> Iterator[_Count]:
        """While inside, `hear` is told what the layers give that have a row for each of the
        network's own, and which of its calls that was. Of those that were not named others are left
        out; of those that were it raises `ScopeError`."""
        count = _Count()

        def fitting(path: str, values: Tensor) -> None:
            if count.rows in (0, len(values)):  # 0: not the network was called, but a part of it
                hear(path, values, count)
            elif self.named:
                raise ScopeError(
                    f"`{path}` gives {len(values)} rows where its network is called with"
                    f" {count.rows}: it has no row a sample, and its units cannot be recorded;"
                    " leave it out"
                )

        handle = self.study.network.register_forward_pre_hook(count, with_kwargs=True)
        try:
            with capturing(self.study.network, self.paths, self.study.setup.kind, fitting):
                yield count
        finally:
            handle.remove()


class _Count:
    """Counts the calls of a network, from 0, and the rows of the last one."""

    def __init__(self) -> None:
        self.rows = 0
        self.begin()

    def begin(self) -> None:
        """A step begins."""
        self.call = -1

    def __call__(self, _module: nn.Module, args: Any, kwargs: Any) -> None:
        self.call += 1
        self.rows = _rows((*args, *kwargs.values()))


def _rows(given: Sequence[Any]) -> int:
    """How many rows a network is called with: those of the first tensor, or list of tensors."""
    return next((len(value) for value in given if _has_rows(value)), 0)


def _has_rows(value: Any) -> bool:
    return isinstance(value, list) or (isinstance(value, Tensor) and value.dim() > 0)


@dataclass(frozen=True)
class Calls:
    """The calls of a denoiser in one step of the sampling.

    `prompted`: of each call, for all the rows that it has a sample, whether they follow the prompt;
    others are the unconditional ones of guidance. `maps`: `ablate.units.layers.maps_of`.
    """

    prompted: tuple[tuple[bool, ...], ...]
    maps: frozenset[tuple[int, int]]

    def rows(self, call: int, rows: int, samples: int) -> list[slice]:
        """The rows of the prompts in a call with so many, a row a sample in each slice: row r
        belongs to sample r mod `samples`. Raises `ScopeError` for calls unlike those of the first
        step."""
        parts = self.prompted[call] if call < len(self.prompted) else ()
        if rows != len(parts) * samples:
            told = " and ".join(str(len(parts) * samples) for parts in self.prompted)
            raise ScopeError(
                f"the denoiser was called with {rows} rows in call {call + 1} of a step, unlike in"
                f" the first ({told}): which of them follow the prompts is not known"
            )
        return [slice(i * samples, (i + 1) * samples) for i, own in enumerate(parts) if own]


_CALLS: WeakKeyDictionary[Pipeline, dict[Settings, Calls]] = WeakKeyDictionary()


def calls_of(pipeline: Pipeline, settings: Settings) -> Calls:
    """How a pipeline calls its denoiser, found by trial.

    Families guide in one call or in two, the prompt first or last. The first step of one sample is
    taken twice, with two prompts: what differs then in what the denoiser is given is the prompt's.
    """
    known = _CALLS.setdefault(pipeline, {})
    if settings not in known:
        # Of a word each: in some families a longer prompt has the negative one filled up.
        one, other = (_first_step(pipeline, settings, prompt) for prompt in "ab")
        prompted = [tuple(_differing(*pair)) for pair in zip(one, other, strict=True)]
        if not any(map(any, prompted)):  # nothing in it depends on the prompt
            prompted = [(True,) * len(parts) for parts in prompted]
        size = settings.height, settings.width
        known[settings] = Calls(tuple(prompted), maps_of(pipeline.denoiser, one[0], *size))
    return known[settings]


def maps_of_study(study: Study) -> frozenset[tuple[int, int]] | None:
    """Rows and columns of the maps that a study's layers can give; None of other networks than the
    denoiser. A step is sampled where none was before."""
    if study.component != study.pipeline.denoiser_name:
        return None
    return calls_of(study.pipeline, study.pipeline.settings(study.plan.recipe.sampling)).maps


def check_window(study: Study) -> None:
    """Raises `ScopeError` where a study's window holds at no step of its sampling, which is begun
    and left. To be asked before anything is written."""
    when, pipeline = study.setup.when, study.pipeline
    if when is None:
        return

    def begin(levels: Sequence[float]) -> None:
        _open(when, levels)
        raise _Enough

    settings = pipeline.settings(study.setup.brief().sampling)
    try:
        with pipeline.explain_size_errors(settings):
            pipeline.sample([Request("", 0)], settings, Callbacks(begin))
    except _Enough:
        pass


def _open(when: When, levels: Sequence[float]) -> None:
    if not when.is_ever_active(levels):
        steps = step_number(len(levels) - 1, levels) + 1
        raise ScopeError(
            f"when {when}: it never opens; this sampling has {steps} steps, of noise level"
            f" {levels[0]:.3g} to {levels[-1]:.3g}"
        )


class _Enough(Exception):  # noqa: N818, it is no error
    """Raised out of sampling once the first step is over."""


def _first_step(pipeline: Pipeline, settings: Settings, prompt: str) -> list[tuple[Any, ...]]:
    """What the denoiser is given in each call of the first step, for one sample."""
    found: list[tuple[Any, ...]] = []

    def keep(_module: nn.Module, args: Any, kwargs: Any) -> None:
        given = (*args, *kwargs.values())
        found.append(rebuilt(given, (tensor.clone() for tensor in tensors(given))))

    def reach(step: int) -> None:
        if step == 0:
            found.clear()
        else:
            raise _Enough

    handle = pipeline.denoiser.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        pipeline.sample([Request(prompt, 0)], settings, Callbacks(on_step=reach))
    except _Enough:
        pass
    finally:
        handle.remove()
    return found


def _differing(one: Sequence[Any], other: Sequence[Any]) -> list[bool]:
    """In which rows two calls differ."""
    count = _rows(one)
    found = [False] * count
    for pair in zip(one, other, strict=True):
        for first, second in _in_rows(*pair, count):
            for row in range(count):
                found[row] |= _unlike(first[row], second[row])
    return found


def _in_rows(one: Any, other: Any, count: int) -> Iterator[tuple[Any, Any]]:
    """The pairs of what has a row each, or an item each, in two things of one structure. Where
    there is one row everything belongs to it."""
    if isinstance(one, Mapping):
        for name in one:
            yield from _in_rows(one[name], other[name], count)
    elif count == 1:
        yield [one], [other]
    elif _has_rows(one) and len(one) == count:
        yield one, other


def _unlike(one: Any, other: Any) -> bool:
    """Whether two things differ, as far as the shorter one goes where their lengths do: the
    positions of words are equal then."""
    pairs = zip(tensors(one), tensors(other), strict=False)
    return any(not torch.equal(*_shortened(a, b)) for a, b in pairs)


def _shortened(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    both = tuple(slice(min(sizes)) for sizes in zip(one.shape, other.shape, strict=True))
    return one[both], other[both]


def _sampled(heard: _Heard, plan: Plan, cells: Sequence[Cell], start: int) -> Iterator[int]:
    pipeline, pictures = heard.pipeline, heard.study.pictures
    shots = with_keys(cells, pipeline)
    describe_run(plan, pipeline, pictures, with_keys(plan.cells, pipeline))
    most = BatchSize(None, pipeline, jobs_of(shots[:1], pipeline.component)).unit
    draws = NoiseCache(spare_memory(pipeline.device) // 4, pipeline.checkpoint)
    while start < len(shots):
        some = shots[start : start + most]
        try:
            made = _together(heard, some, draws)
        except UnevenError:  # prompts of one length at a time, then
            first = some[0].cell.condition.prompt
            most = next(i for i, s in enumerate(some) if s.cell.condition.prompt != first)
            continue
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(some) == 1:
                raise
            most = len(some) // 2
            continue
        write_cells(made, pictures, pipeline)
        start += len(some)
        heard.sink.end(range(start - len(some), start))
        yield start


def _together(heard: _Heard, shots: Sequence[KeyedCell], draws: NoiseCache) -> list[FinishedCell]:
    """The images of some samples of one variant, sampled at once while the denoiser's layers are
    heard."""
    pipeline, when = heard.pipeline, heard.study.setup.when
    calls = calls_of(pipeline, shots[0].settings)
    batch = Batch(tuple(jobs_of(shots, pipeline.component)), by_rows=False)
    count = len(batch)
    within = PhaseEdits(pipeline, draws, EditReport())
    requests = [
        Request(c.prompt, c.seed, c.point, within(job.encoding), within(job.decoding))
        for job, c in ((job, job.condition) for job in batch.jobs)
    ]
    noise_levels: list[float] = []
    step = 0

    def hear(path: str, values: Tensor, counted: _Count) -> None:
        if when is not None and not when.is_active(step, noise_levels):
            return
        for rows in calls.rows(counted.call, len(values), count):
            heard.sink.record(path, values[rows])

    heard.sink.begin(count)
    with (
        pipeline.explain_size_errors(shots[0].settings),
        denoiser_edits(batch, pipeline, draws, EditReport()) as moments,
        heard.capturing(hear) as counted,
    ):

        def begin(levels: Sequence[float]) -> None:
            noise_levels[:] = levels
            if when is not None:
                _open(when, levels)
            moments.on_start(levels)

        def reach(number: int) -> None:
            nonlocal step
            step = number
            counted.begin()
            moments.on_step(number)

        samples = pipeline.sample(requests, shots[0].settings, Callbacks(begin, reach))
    return finished_cells(batch, samples)


def _encoded(heard: _Heard, cells: Sequence[Cell], start: int) -> Iterator[int]:
    """Prompts through a text encoder of the pipeline, one by one, by the pipeline's own code."""
    pipeline = heard.pipeline
    draws = NoiseCache(spare_memory(pipeline.device) // 4, pipeline.checkpoint)

    def enough(_levels: Sequence[float]) -> None:
        raise Stopped  # the prompt is encoded by now

    for number in range(start, len(cells)):
        (shot,) = with_keys([cells[number]], pipeline)
        (job,) = jobs_of([shot], pipeline.component)
        edits = PhaseEdits(pipeline, draws, EditReport())(job.encoding)
        condition = job.condition
        request = Request(condition.prompt, condition.seed, encoding=_once(heard, edits))
        heard.sink.begin(1)
        try:
            pipeline.sample([request], shot.settings, Callbacks(on_start=enough))
        except Stopped:
            if pipeline.stop():
                raise
        heard.sink.end([number])
        yield number + 1


def _once(heard: _Heard, edits: Context | None) -> Context:
    """A context in which the first call of each layer is heard: a negative prompt comes later."""
    told: set[str] = set()

    def hear(path: str, values: Tensor, _counted: _Count) -> None:
        if path not in told:
            told.add(path)
            heard.sink.record(path, values[:1])

    @contextmanager
    def entered() -> Iterator[None]:
        with (edits or nullcontext)(), heard.capturing(hear):
            yield

    return entered


def _read(heard: _Heard, cells: Sequence[Cell], start: int) -> Iterator[int]:
    """Images, which are there (`render_missing`), or prompts, through the CLIP model."""
    study, reader = heard.study, heard.study.reader
    assert reader is not None
    shots: list[KeyedCell] = []
    if not study.texts:
        shots = with_keys(cells, study.pipeline)
    most = 1 if study.texts else READ  # texts of one batch would be filled up to one length
    for first in range(start, len(cells), most):
        some = range(first, min(first + most, len(cells)))
        heard.sink.begin(len(some))
        with heard.capturing(lambda path, values, _: heard.sink.record(path, values)) as counted:
            counted.rows = len(some)  # its parts are called, and not the network itself
            if study.texts:
                reader.texts([cells[i].condition.prompt for i in some])
            else:
                reader.images([open_picture(study.pictures.path(shots[i].key)) for i in some])
        heard.sink.end(some)
        yield some[-1] + 1


def render_missing(study: Study, plan: Plan, run: Run | None = None) -> None:
    """Have the pictures of a plan made that a run lacks, or that cannot be read any more. `run`:
    the study's own pictures unless another is given. Raises `Stopped` after Ctrl-C."""
    run = study.pictures if run is None else run
    missing_pictures(study, plan.cells, run)
    if execute(plan, study.pipeline, run, progress=study.progress).interrupted:
        raise Stopped


def missing_pictures(study: Study, cells: Sequence[Cell], run: Run) -> list[int]:
    """The numbers of the cells without a picture in a run. Files that are no pictures, or whose
    ends are missing, are removed."""
    found = []
    for number, shot in enumerate(with_keys(cells, study.pipeline)):
        path = run.path(shot.key)
        if path.exists() and not is_picture(path):
            path.unlink()
        if not path.exists():
            found.append(number)
    return found


def is_picture(path: Path) -> bool:
    """Whether a file is a picture, and whole."""
    try:
        with Image.open(path) as image:
            image.verify()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def open_picture(path: Path) -> Image.Image:
    """A picture, RGB."""
    with Image.open(path) as image:
        return image.convert("RGB")
