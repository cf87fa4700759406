"""The benchmark: every module zeroed in turn, compared with a script without the lab.

All contestants render the same cells, in turn within each round, so that changes of the machine's
speed affect all of them:

    (a) the script that a user of diffusers would write, in float32 and in the lab's dtype
    (b) the lab, one variant at a time
    (c) the lab with its default batches
    (d) the limit: as many rows through the denoiser, at the best batch size, and nothing else
"""

from __future__ import annotations

import gc
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import cycle, islice
from math import ceil
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import psutil
import torch

from ablate.edits import Edit, NoiseCache, Variant, applied
from ablate.engine import execute
from ablate.models import RANDOM, folder_of, random_pipeline, versions
from ablate.network import Networks
from ablate.recipe import Recipe
from ablate.sampling import Pipeline, Request, Settings
from ablate.store import Run
from ablate.sweep import plan

PROMPT = "a cat in a party hat"
GUIDANCE = 5.0
SLOW = 16  # most cells per round of contestants that render one at a time


@dataclass
class Contestant:
    """One way of rendering the cells.

    Attributes:
        name: As printed; begins with its letter.
        render: Renders the cells of modules; returns the number of images.
        seconds: Of each round.
        images: Of each round.
        peak: The most bytes on top of the loaded models.
    """

    name: str
    render: Callable[[Sequence[str]], int] = field(repr=False)
    seconds: list[float] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    peak: int = 0

    @property
    def rates(self) -> list[float]:
        """Images per second, by round."""
        return [n / s for n, s in zip(self.images, self.seconds, strict=True)]

    def ratios(self, other: Contestant) -> list[float]:
        """How many times as fast as another, by round."""
        return [a / b for a, b in zip(self.rates, other.rates, strict=True)]


@dataclass(frozen=True)
class Report:
    """Results of a benchmark.

    Attributes:
        modules: Number of modules zeroed.
        batch: Rows of a batch of the limit.
        contestants: In order; the first is the script, the last the limit.
        edit: Seconds to edit all weights in place and restore them.
        image: Seconds to render an image with all weights edited.
    """

    model: str
    machine: str
    versions: dict[str, str]
    modules: int
    settings: Settings
    dtype: str
    rounds: int
    batch: int
    contestants: tuple[Contestant, ...]
    edit: float
    image: float

    def as_json(self) -> dict[str, Any]:
        """The results as plain objects, with ratios."""
        base, limit = self.contestants[0], self.contestants[-1]
        keys = ("model", "machine", "versions", "modules", "dtype", "rounds", "edit", "image")
        figures: dict[str, Any] = {key: getattr(self, key) for key in keys}
        figures["settings"] = vars(self.settings)
        figures["limit_rows"] = self.batch
        figures["contestants"] = [
            {
                "name": c.name,
                "images_a_second": median(c.rates),
                "to_script": c.ratios(base),
                "to_limit": c.ratios(limit),
                "seconds": c.seconds,
                "images": c.images,
                "peak_bytes": c.peak,
            }
            for c in self.contestants
        ]
        return figures

    def __str__(self) -> str:
        base, limit = self.contestants[0], self.contestants[-1]
        s = self.settings
        guidance = f"guidance {s.guidance_scale:g}" if s.guided else "no guidance"
        lines = [
            f"{self.model}, {s.width}x{s.height}, {self.modules} modules zeroed in turn,"
            f" {s.num_inference_steps} steps, {guidance}, {s.scheduler}",
            f"{self.machine}; torch {self.versions['torch']},"
            f" diffusers {self.versions['diffusers']}; medians of {self.rounds} rounds",
            "",
            f"{'':40}{'images/s':>10}{'to (a)':>18}{'to (d)':>18}{'memory':>10}",
        ]
        for c in self.contestants:
            lines.append(
                f"{c.name:40}{median(c.rates):10.3g}{_spread(c.ratios(base)):>18}"
                f"{_spread(c.ratios(limit)):>18}{c.peak / 2**20:>6,.0f} MB"
            )
        share = self.edit / self.image
        lines += [
            "",
            f"(d) at {self.batch} rows; memory is what comes on top of the loaded models",
            f"all weights edited in place (mix_noise, its noise drawn already): {self.edit:.3g} s,"
            f" {share:.1%} of an image's {self.image:.3g} s",
        ]
        return "\n".join(lines)


def _spread(ratios: Sequence[float]) -> str:
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def bench(
    model: str = "bundled",
    *,
    steps: int = 20,
    size: int | None = None,
    modules: int | None = None,
    rounds: int = 3,
    device: str | None = None,
    dtype: str = "auto",
    peers: bool = False,
    log: Callable[[str], None] = lambda _: None,
) -> Report:
    """Run the benchmark.

    Args:
        size: Height and width in pixels; the model's by default.
        modules: Zero so many, evenly spread, instead of all.
        peers: Whether to measure nnsight.
        log: Called with each stage.

    Raises:
        ModuleNotFoundError: `peers` is set and nnsight is not installed.
    """
    log("loading")
    pipeline = Pipeline.load(model, device=device, dtype=dtype)
    recipe = {
        "version": 1,
        "name": "bench",
        "model": model,
        "prompts": [PROMPT],
        "sampling": {"num_inference_steps": steps, "guidance_scale": GUIDANCE},
    }
    if size is not None:
        recipe["sampling"] |= {"width": size, "height": size}  # type: ignore[operator]
    paths = [m.path for m in pipeline.catalog]
    count = min(modules or len(paths), len(paths))
    paths = [paths[i * len(paths) // count] for i in range(count)]
    rounds = min(rounds, count)
    settings = pipeline.settings(Recipe.build(recipe | {"edits": [_zero("*")]}).sampling)

    with tempfile.TemporaryDirectory(prefix="ablate-bench-") as temporary:
        folder = Path(temporary)

        def scripted(dtype: torch.dtype) -> Contestant:
            return Contestant(
                f"(a) diffusers script, {_plain_name(dtype)}",
                lambda p: script(plain(model, dtype, pipeline.device), settings, p, folder),
            )

        contestants = [
            *map(scripted, dict.fromkeys((torch.float32, pipeline.dtype))),
            Contestant(
                "(b) ablate, one variant at a time", lambda p: lab(p, recipe, pipeline, folder, 1)
            ),
            Contestant("(c) ablate", lambda p: lab(p, recipe, pipeline, folder, None)),
        ]
        if peers:
            contestants[-1:-1] = _peers(model, pipeline, settings)
        log("finding the limit's batch size")
        limit = _Limit(pipeline, settings, ceil(count / rounds) + 1)
        contestants.append(Contestant("(d) limit: denoiser rows alone", limit.render))
        for contestant in contestants:  # the first call loads and is slow
            log(f"warming up: {contestant.name}")
            contestant.render(paths[:1])
        for turn in range(rounds):
            share = paths[turn::rounds]
            # The order differs between rounds, so that no contestant always follows (d).
            for contestant in islice(cycle(contestants), turn, turn + len(contestants)):
                log(f"round {turn + 1} of {rounds}: {contestant.name}")
                few = contestant.name[:3] in ("(a)", "(b)", "(p)")
                chosen = share[:: ceil(len(share) / SLOW)] if few else share
                _measure(contestant, chosen, pipeline)
    log("editing all weights in place")
    edit, image = _dense(pipeline, settings)
    return Report(
        model, _machine(pipeline.device), versions(), count, settings,
        _plain_name(pipeline.dtype), rounds, limit.rows, tuple(contestants),
        edit, image,
    )  # fmt: skip


def _plain_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _zero(modules: str) -> dict[str, Any]:
    return {"zero": {"modules": modules}}


@cache
def plain(model: str, dtype: torch.dtype, device: torch.device) -> Any:
    """A pipeline as diffusers loads it."""
    if model == RANDOM:
        pipe = random_pipeline().to(dtype=dtype)
    else:
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder_of(model) or model, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(device)


def _options(settings: Settings) -> dict[str, Any]:
    """The arguments of a call of a diffusers pipeline."""
    names = ("num_inference_steps", "guidance_scale", "width", "height")
    return {name: getattr(settings, name) for name in names}


def script(pipe: Any, settings: Settings, paths: Sequence[str], folder: Path) -> int:
    """Zero modules in turn as a user would: save, zero, call, save the picture, restore."""
    network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    for path in paths:
        module = network.get_submodule(path)
        with torch.no_grad():
            saved = [p.detach().clone() for p in module.parameters()]
            for parameter in module.parameters():
                parameter.zero_()
        image = pipe(
            PROMPT, generator=torch.Generator("cpu").manual_seed(0), **_options(settings)
        ).images[0]
        image.save(folder / f"{path}.png")
        with torch.no_grad():
            for parameter, original in zip(module.parameters(), saved, strict=True):
                parameter.copy_(original)
    return len(paths)


def lab(
    paths: Sequence[str],
    recipe: dict[str, Any],
    pipeline: Pipeline,
    folder: Path,
    batch_size: int | None,
) -> int:
    """Run the lab as usual, without drift and sheet."""
    axes = {"module": {"values": list(paths)}}
    sweep = Recipe.build(recipe | {"axes": axes, "edits": [_zero("$module")]})
    summary = execute(
        plan(sweep, Networks(pipeline.catalog, pipeline.component)),
        pipeline,
        Run(folder / "run"),
        batch_size=batch_size,
        fresh=True,
    )
    return summary.computed


def _peers(model: str, pipeline: Pipeline, settings: Settings) -> list[Contestant]:
    """Contestants by nnsight: outputs are zeroed in a trace of the pipeline, one module at a time
    or all of a round in one batch."""
    from nnsight.modeling.diffusion import DiffusionModel  # optional

    peer = DiffusionModel(str(folder_of(model) or model), dispatch=True, dtype=pipeline.dtype)
    peer.pipeline.to(pipeline.device).set_progress_bar_config(disable=True)

    def batch(paths: Sequence[str]) -> int:
        with peer.generate(**_options(settings), seed=0) as tracer:
            for path in paths:
                with tracer.invoke(PROMPT):
                    for _ in tracer.iter[:]:
                        getattr(peer, pipeline.denoiser_name).get(path).output[:] = 0
            with tracer.invoke():
                out = peer.output.save()
        return len(out.images)

    def one(paths: Sequence[str]) -> int:
        return sum(batch([path]) for path in paths)

    return [
        Contestant("(p) nnsight, one module at a time", one),
        Contestant("(P) nnsight, a batch of invokes", batch),
    ]


class _Limit:
    """The denoiser called with recorded inputs and nothing else, at the fastest batch size."""

    def __init__(self, pipeline: Pipeline, settings: Settings, cells: int) -> None:
        self.pipeline = pipeline
        self.settings = settings
        self.inputs: dict[int, Any] = {}
        sizes = sorted({min(2**i, cells) for i in range(cells.bit_length() + 1)})
        each = dict.fromkeys(sizes, float("inf"))  # seconds per cell
        began = time.perf_counter()
        # All sizes in turn, so that one slow moment does not rule out a size; where passes are
        # long, one is measure enough.
        for turn in range(3):
            for size in each if not turn or time.perf_counter() - began < 10 else ():
                try:
                    self._call(size)
                    each[size] = min(each[size], self._timed(size) / size)
                except torch.OutOfMemoryError:
                    break
        # The largest of those about as fast as the fastest: their order is chance.
        self.cells = max(size for size in each if each[size] <= 1.05 * min(each.values()))
        # Some schedulers call the denoiser more often than there are steps.
        scheduler = pipeline.scheduler_of(settings.scheduler)
        scheduler.set_timesteps(settings.num_inference_steps)
        self.calls = len(scheduler.timesteps)
        self.rows = self.cells * (2 if settings.guided else 1)

    def _call(self, cells: int) -> None:
        network = self.pipeline.denoiser
        if cells not in self.inputs:

            def record(_module: object, args: Any, kwargs: Any) -> None:
                self.inputs[cells] = (args, kwargs)

            handle = network.register_forward_pre_hook(record, with_kwargs=True)
            try:
                requests = [Request(PROMPT, seed) for seed in range(cells)]
                self.pipeline.sample(requests, replace(self.settings, num_inference_steps=1))
            finally:
                handle.remove()
        args, kwargs = self.inputs[cells]
        with torch.inference_mode():
            network(*args, **kwargs)

    def _timed(self, cells: int) -> float:
        began = time.perf_counter()
        self._call(cells)
        self.pipeline.synchronize()
        return time.perf_counter() - began

    def render(self, paths: Sequence[str]) -> int:
        """Compute as many rows as a run over these modules and its baseline, in equal batches."""
        cells = len(paths) + 1
        even = ceil(cells / ceil(cells / self.cells))
        for start in range(0, cells, even):
            for _ in range(self.calls):
                self._call(min(even, cells - start))
        self.pipeline.synchronize()
        return cells


def _dense(pipeline: Pipeline, settings: Settings) -> tuple[float, float]:
    """Seconds to edit all weights in place and restore them, and to render an image between."""
    draws = NoiseCache(2**62)
    request = [Request(PROMPT, 0)]
    edits, images = [], []
    paths = tuple(m.path for m in pipeline.catalog)
    for amount in (0.1, 0.2, 0.3, 0.4):
        edit = Edit("mix_noise", paths, amount)
        began = time.perf_counter()
        with applied(pipeline.network, Variant("dense", (edit,)), draws):
            pipeline.synchronize()
            middle = time.perf_counter()
            pipeline.sample(request, settings)
            end = time.perf_counter()
        pipeline.synchronize()
        images.append(end - middle)
        edits.append(time.perf_counter() - began - images[-1])
    return median(edits[1:]), median(images[1:])  # the first drew the noise


def _measure(contestant: Contestant, paths: Sequence[str], pipeline: Pipeline) -> None:
    gc.collect()
    with _peak(pipeline.device) as peak:
        pipeline.synchronize()
        began = time.perf_counter()
        contestant.images.append(contestant.render(paths))
        pipeline.synchronize()
        contestant.seconds.append(time.perf_counter() - began)
    contestant.peak = max(contestant.peak, peak[0])


@contextmanager
def _peak(device: torch.device) -> Iterator[list[int]]:
    """Yield a list whose one number is, afterwards, the most bytes allocated on top."""
    peak = [0]
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak[0] = torch.cuda.max_memory_allocated(device) - before
        return
    process = psutil.Process()
    before = process.memory_info().rss
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            peak[0] = max(peak[0], process.memory_info().rss - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{name}, {torch.get_num_threads()} threads"
