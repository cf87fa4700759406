"""The whole way in one call: recipe, plan, cells, drift, sheet, report.

>>> result = ablate.run("recipes/quickstart.yaml")
>>> result.table().groupby("block")["rmse"].mean()
>>> with ablate.edit(pipe.unet, "up_blocks.1.*attn2*", ablate.zero()):
...     image = pipe("a cat in a party hat").images[0]
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from PIL import Image
from torch import nn
from tqdm.auto import tqdm

from ablate.drift import (
    DISTANCES,
    Extra,
    Further,
    MeasuredCell,
    Reader,
    SetMetric,
    classify,
    explained,
    extra_names,
    load_extras,
    load_readers,
    measured_with,
    read_cells,
    reader_names,
    write_drift,
)
from ablate.edits import METRICS, Metric, applied, load_metrics
from ablate.engine import OnProgress, Processes, Progress, Summary, execute
from ablate.messages import RequestError
from ablate.models import Source
from ablate.network import Networks, Selector, build_catalog
from ablate.recipe import MAX_CELLS, Recipe
from ablate.sampling import Pipeline
from ablate.store import FINDINGS, Run, StoreError, Verification, read_table, verify_run
from ablate.sweep import Plan, plan
from ablate.view import contact_sheet, present_run, save_sheet

if TYPE_CHECKING:
    import pandas


class Keys(TypedDict, total=False):
    """Keys of a recipe; see the recipe format."""

    name: str
    about: str
    component: str
    clip: str
    readers: Iterable[str]
    metrics: Iterable[str]
    vocabulary: Iterable[str]
    prompts: Iterable[str]
    seeds: Iterable[int]
    noise_floor: int
    perturbation_seed: int
    sampling: Mapping[str, Any]
    axes: Mapping[str, Any]
    zip: Sequence[Any]
    base: str
    edits: Iterable[Mapping[str, Any]]
    sheet: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    """A run and its cells; iterate over it for the finished ones. A notebook shows its sheet.

    Attributes:
        store: The run's folder.
        summary: Counts and times of this call; None for a run that was opened.
        is_main: Whether this process reports for all that `accelerate launch` started.
    """

    store: Run
    summary: Summary | None = None
    is_main: bool = True

    def __iter__(self) -> Iterator[MeasuredCell]:
        return iter(self.cells)

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, number: int) -> MeasuredCell:
        return self.cells[number]

    @cached_property
    def cells(self) -> list[MeasuredCell]:
        """The finished cells in the order of the plan, with their axes and their drift."""
        return read_cells(self.store)

    def sheet(
        self, rows: str | list[str] | None = None, columns: str | list[str] | None = None
    ) -> list[Image.Image]:
        """The pages of a contact sheet; rows and columns run over the named axes."""
        return contact_sheet(self.store, rows=rows, columns=columns)

    def table(self) -> pandas.DataFrame:
        """The rows of `drift.csv`: for each finished cell its axes, metrics, class and concepts.

        Raises:
            RequestError: pandas is not installed.
            StoreError: There is no table, or it is damaged.
        """
        try:
            import pandas  # optional, and slow to load
        except ModuleNotFoundError as error:
            message = "tables are pandas DataFrames; `pip install pandas`"
            raise RequestError(message) from error
        path = self.store.folder / "drift.csv"
        with explained(self.store, path.name):
            read_table(path)  # stricter: pandas fills rows that are too short
            # An empty prompt is missing, but a prompt such as `NA` is not.
            return pandas.read_csv(path, keep_default_na=False, na_values=[""])

    def _repr_html_(self) -> str:
        return self.store._repr_html_()


def open(folder: str | Path) -> Result:
    """Open a run that is on disk; a warning names its damaged cells, which are left out.

    Raises `StoreError` where the folder is none.
    """
    store = Run(folder)
    store.manifest()
    if note := store.damage_note():
        warnings.warn(note, stacklevel=2)
    return Result(store)


@contextmanager
def edit(
    network: nn.Module, modules: Selector, *edits: Mapping[str, Any], seed: int = 0
) -> Iterator[None]:
    """Edit modules of any network in place; every tensor is restored bit for bit on exit.

    Args:
        network: Any torch module, such as `pipe.unet`.
        modules: Which of its modules, a selector.
        edits: What is done to them, such as `ablate.zero()` or `ablate.scale(factor=0.5)`.
        seed: The perturbation seed of random edits.

    Raises:
        RecipeError: A selector that matches nothing, or a setting that does not fit.
    """
    named = [{op: {"modules": modules, **body}} for one in edits for op, body in one.items()]
    data = {"version": 1, "name": "edit", "perturbation_seed": seed, "edits": named}
    networks = Networks(build_catalog(network), type(network).__name__)
    variant = plan(Recipe.build(data), networks).cells[-1].variant
    with applied(network, variant):
        yield


def run(
    recipe: Recipe | Plan | str | Path | Pipeline | Any,
    out: str | Path | None = None,
    *,
    pipeline: Pipeline | Any | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    limit: int | None = None,
    fresh: bool = False,
    max_cells: int = MAX_CELLS,
    on_progress: OnProgress | None = None,
    **keys: Unpack[Keys],
) -> Result:
    """Run a recipe into a folder, measure its drift, and draw its sheet and its report.

    A run is resumed: finished cells are not computed again.

    Args:
        recipe: A recipe, its plan, its file, or a loaded pipeline (a `DiffusionPipeline` or a
            `Pipeline`), for which the keys are the recipe.
        out: The folder of the run. Default: `outputs/<name>`.
        pipeline: A loaded pipeline to compute with, in place of the recipe's model.
        device: `cuda`, `cuda:1`, `mps` or `cpu`. Default: the fastest one.
        batch_size: Images in a batch. Default: as many as pays.
        limit: Compute only so many cells.
        fresh: Compute finished cells again.
        max_cells: Refuse a recipe of more cells before it is expanded.
        on_progress: Called with the progress after every batch. Default: a bar, in terminals and
            notebooks.
        keys: Keys of the recipe; with a file they replace its values.

    Raises:
        RecipeError: The recipe is wrong, with all problems; nothing is written.
        ModelError: The model cannot be loaded.
        StoreError: The folder cannot be that of this run, or is at work on another recipe.
    """
    if isinstance(recipe, str | Path):
        planned = plan(recipe, overrides=keys, max_cells=max_cells)
    elif not isinstance(recipe, Recipe | Plan):
        pipeline = Pipeline.of(recipe)
        planned = _plan_on(pipeline, keys, max_cells)
    elif keys:
        raise TypeError(f"a recipe is complete; leave out {', '.join(keys)}")
    else:
        planned = recipe if isinstance(recipe, Plan) else plan(recipe, max_cells=max_cells)
    folder = out if out is not None else Path("outputs") / planned.recipe.name
    with session(
        planned.recipe, folder, pipeline=pipeline, device=device, on_progress=on_progress
    ) as at_work:
        summary = at_work.compute(planned, batch_size=batch_size, limit=limit, fresh=fresh)
        at_work.measure()
        if summary.computed or summary.reused:
            at_work.present()
    return Result(at_work.store, summary, at_work.is_main)


@dataclass(frozen=True)
class Session:
    """A loaded pipeline at work in a run's folder; of several processes the main one writes.

    Attributes:
        recipe: What the run is of.
        pipeline: What computes its cells.
        store: The run's folder.
        reader: What names concepts, if anything does.
        further: What else measures images.
        processes: All that `accelerate launch` started.
        on_progress: Called with the progress after every batch.
    """

    recipe: Recipe
    pipeline: Pipeline
    store: Run
    reader: Reader | None
    further: Further
    processes: Processes
    on_progress: OnProgress | None

    @property
    def is_main(self) -> bool:
        return self.processes.is_main

    def compute(
        self,
        planned: Plan,
        *,
        batch_size: int | None = None,
        limit: int | None = None,
        fresh: bool = False,
    ) -> Summary:
        """Compute the cells of a plan that are not in the folder; see `ablate.engine.execute`."""
        return execute(
            planned, self.pipeline, self.store, batch_size=batch_size, limit=limit, fresh=fresh,
            progress=Progress(self.on_progress),
        )  # fmt: skip

    def measure(self) -> None:
        """Write the tables of drift."""
        if self.is_main:
            write_drift(self.store, self.reader, self.recipe.vocabulary, classify, self.further)

    def present(self, *, sheet: bool = True) -> None:
        """Write the report and, unless there is another one, the contact sheet."""
        if self.is_main:
            if sheet:
                save_sheet(self.store)
            present_run(self.store)


@contextmanager
def session(
    recipe: Recipe,
    folder: str | Path,
    *,
    pipeline: Pipeline | Any | None = None,
    device: str | None = None,
    on_progress: OnProgress | None = None,
) -> Iterator[Session]:
    """Load what a recipe needs, and be at work in the folder of its run while inside.

    Arguments and errors are those of `run`.
    """
    store = Run(folder)
    store.claim(recipe.name)
    if pipeline is None:
        pipeline = Pipeline.load(
            Source.of(recipe),
            component=recipe.component,
            device=device,
            dtype=recipe.dtype,
            compile=recipe.compile,
        )
    pipeline = Pipeline.of(pipeline).editing(recipe.component)
    # Before anything is computed: what is missing or wrong is a problem of the recipe.
    reader = Reader.of(recipe.model, recipe.clip, str(pipeline.device))
    settings = pipeline.settings(recipe.sampling)
    own = _own_metrics(recipe.code_file)
    for metric in own:
        metric.check(settings.width, settings.height)
    further = _further(reader, recipe.readers, recipe.metrics, own, str(pipeline.device))
    processes = Processes(pipeline.device.type)
    with store.working() if processes.is_main else nullcontext():
        if processes.is_main:  # again: another may have begun while the model was loaded
            store.claim(recipe.name)
        with _bar() if on_progress is None else nullcontext(on_progress) as report:
            yield Session(recipe, pipeline, store, reader, further, processes, report)


def _own_metrics(file: Path | None) -> list[Metric]:
    """A user's metrics: those registered in Python, and those of a file."""
    registered = [metric for metric in METRICS.values() if metric.code is None]
    return registered + (list(load_metrics(file)) if file is not None else [])


def _further(
    reader: Reader | None,
    readers: Iterable[str],
    extras: Sequence[Extra],
    own: Sequence[Metric],
    device: str | None,
) -> Further:
    """What measures a run besides pixels, latents and the model that names, which is `reader`."""
    others = load_readers(readers, device)
    first = {} if reader is None else {"embedding": reader}
    metrics, sets = load_extras(extras, {**first, **others}, device)
    for metric in own:
        if metric.of == "images":
            metrics[metric.name] = metric.distance
        else:
            sets[metric.name] = SetMetric(metric.distance_of_sets)
    return Further(others, metrics, sets)


def _plan_on(pipeline: Pipeline, keys: Keys, max_cells: int) -> Plan:
    """The plan of a recipe that keys make, on the networks of a loaded pipeline."""
    data = {"version": 1, "name": "run", "model": pipeline.model, **keys}
    recipe = Recipe.build(data)
    pipeline = pipeline.editing(recipe.component)
    named = {edit.component for edit in recipe.edits}
    named |= {axis.chosen.component for axis in recipe.axes.values() if axis.chosen}
    others = {name: pipeline.catalog_of(name) for name in named if name in pipeline.networks}
    others.pop(pipeline.component, None)
    networks = Networks(pipeline.catalog, pipeline.component, others, pipeline.guided_rows)
    return plan(recipe, networks, max_cells=max_cells)


@contextmanager
def _bar() -> Iterator[OnProgress | None]:
    """A progress bar in a terminal or a notebook; none in a log."""
    if not ("ipykernel" in sys.modules or sys.stderr.isatty()):
        yield None
        return
    with tqdm(unit="image") as bar:

        def report(now: Progress) -> None:
            bar.total = now.total
            bar.initial = now.done - now.computed
            bar.update(now.done - bar.n)

        yield report


def measure(
    store: Run,
    clip: str | None = None,
    vocabulary: Sequence[str] | None = None,
    readers: Sequence[str] | None = None,
    device: str | None = None,
    *,
    allow_code: bool = False,
) -> list[MeasuredCell]:
    """Measure a run again and write its tables, without its network.

    Args:
        store: The run.
        clip: The model that names concepts, in place of the one that its recipe names.
        vocabulary: The concepts in place of those that its recipe names.
        readers: The further image encoders in place of those that its recipe names.
        device: Where these models run.
        allow_code: Whether to execute the file of the metrics that the run is measured by.

    Raises:
        ModelError: A model cannot be loaded.
        RequestError: The run is measured by metrics of a file, and code is not allowed.
        StoreError: The folder is no run.
    """
    manifest = store.manifest()
    code = manifest.get("code", {})
    if code and not allow_code:
        raise RequestError(
            f"{store.folder} is measured by code, {', '.join(code['metrics'])} of"
            f" `{code['file']}`; look at it, and allow it to run with `--allow-code`, or"
            " `allow_code=True` in Python"
        )
    own = _own_metrics(Path(code["file"]) if code else None)
    reader = Reader.of(manifest["model"]["id"], clip or manifest.get("clip"), device)
    others = manifest.get("readers", ()) if readers is None else readers
    further = _further(reader, others, manifest.get("metrics", ()), own, device)
    words = vocabulary or manifest.get("vocabulary")
    return write_drift(store, reader, words, classify, further)


def metric_names(store: Run, readers: Sequence[str] | None = None) -> list[str]:
    """The names of the distances by which `measure` measures a run with these readers."""
    manifest = store.manifest()
    others = reader_names(manifest.get("readers", ()) if readers is None else readers)
    extras = extra_names(manifest.get("metrics", ()), ["embedding", *others])
    return [*DISTANCES, *others, *extras, *manifest.get("code", {}).get("metrics", ())]


def repair(store: Run, device: str | None = None, *, allow_code: bool = False) -> Verification:
    """Compute the damaged cells of a run again from its recipe, and write what else is damaged.

    It is measured with the models and the vocabulary that it was last measured with.

    On the machine that computed it, and with the same libraries, each file is then byte for byte as
    it was; other hardware may round differently.

    Args:
        store: The run.
        device: Where to compute. Default: where the run was computed.
        allow_code: Whether to execute the file of ops that the recipe names.

    Returns:
        What is whole now.

    Raises:
        RecipeError: The recipe of the run is damaged.
        ModelError: Its model cannot be loaded.
        StoreError: The folder is no run or a finder's, a process is at work there, or the model has
            changed.
    """
    before = verify_run(store)
    if before.is_whole:
        return before
    if any((store.folder / name).exists() for name in FINDINGS):
        raise StoreError(
            f"{store.folder} is the run of a finder, which mends it: `ablate find` with its kind"
            " and this folder"
        )
    with store.working_alone():
        _repair(store, before, device, allow_code)
    return verify_run(store)


def _repair(store: Run, before: Verification, device: str | None, allow_code: bool) -> None:
    if before.cells or before.files.keys() & {"run.json", "recipe.yaml", "files.json"}:
        manifest = {} if "run.json" in before.files else store.manifest()
        planned = plan(store.folder / "recipe.yaml", allow_code=allow_code)
        recipe = planned.recipe
        pipeline = Pipeline.load(
            Source.of(recipe),
            component=recipe.component,
            device=device or manifest.get("device"),
            dtype=manifest.get("dtype", recipe.dtype),
            compile=recipe.compile,
        )
        known = manifest.get("model", {}).get("fingerprint", pipeline.fingerprint)
        if known != pipeline.fingerprint:
            raise StoreError(
                f"{store.folder} was computed with weights {known}, and {recipe.model} has"
                f" {pipeline.fingerprint} now; its cells cannot be computed again"
            )
        execute(planned, pipeline, store, only=before.cells)
        if "files.json" not in before.files and verify_run(store).is_whole:
            return
    measure(store, *measured_with(store), device, allow_code=allow_code)
    save_sheet(store)
    present_run(store)
