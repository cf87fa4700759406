"""Commands of `ablate units`: studies of channels, neurons and heads.

Packages are imported as such: what they offer is loaded when a command runs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from click.core import ParameterSource

from ablate import drift, engine, network, sampling, store, units, view
from ablate.cli.errors import Exit
from ablate.cli.lazy import LazyGroup
from ablate.cli.options import CLIP, DEVICE, DTYPE, key_values, quiet_libraries
from ablate.cli.output import echo
from ablate.cli.process import GO_ON, INTERRUPTED, WRONG
from ablate.cli.progress import ProgressPrinter
from ablate.cli.tables import print_table
from ablate.messages import counted, shown
from ablate.recipe import RecipeError, parse_value

if TYPE_CHECKING:
    from ablate.engine import Progress
    from ablate.store import Statistics
    from ablate.units import Setup

HERE = "ablate.cli.units"
COMMANDS = {
    "selectivity": (HERE, "Record which units respond to which concepts."),
    "search": (HERE, "List the units of a concept, or the concepts of a unit."),
    "cards": (HERE, "Describe units: what drives them, what changes without them."),
    "visualize": (HERE, "Optimize inputs that drive units."),
    "atlas": (HERE, "Draw everything that a module outputs on one map."),
}


@click.group("units", cls=LazyGroup, table=COMMANDS)
def units_command() -> None:
    """Study single units: channels, neurons and attention heads."""


class StudyCommand(click.Command):
    """A command whose selectors may be wrong, and which Ctrl-C stops after a step."""

    def invoke(self, ctx: click.Context) -> Any:
        quiet_libraries()
        try:
            return super().invoke(ctx)
        except network.SelectorError as error:
            raise Exit(f"--select: {error}", WRONG) from None
        except sampling.Stopped:
            raise Exit(GO_ON, INTERRUPTED) from None


@contextmanager
def _progress() -> Iterator[Progress]:
    """Print progress while inside."""
    with closing(ProgressPrinter()) as printer:
        yield engine.Progress(printer)


def _study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of stimuli and networks."""
    for option in reversed((
        click.option("--model", default="bundled", help="`bundled`, a hub id or a folder."),
        click.option("--component", help="`clip` (what reads images), `text_encoder` ...;"
                     " default: the denoiser."),
        click.option("--concepts", metavar="A,B,...|FILE", help="Default: the CLIP model's words."),
        click.option("--template", "templates", multiple=True, metavar="TEXT",
                     help="A prompt with `{}` in the place of the concept; several are allowed."),
        click.option("--seeds", default="0-7", show_default=True, metavar="A-B,C"),
        click.option("--when", metavar="WINDOW", help="A window of the sampling, as in"
                     " --when '{t: [1, 0.5]}'. Default: all of it."),
        CLIP,
        click.option("--set", "keys", multiple=True, metavar="KEY=VALUE", callback=key_values,
                     help="A key of recipes, as in --set sampling.num_inference_steps=10."),
        DTYPE,
        DEVICE,
        click.option("--fresh", is_flag=True, help="Remove what a study left in the folder."),
    )):  # fmt: skip
        command = option(command)
    return command


def _setup(
    *,
    model: str,
    component: str | None,
    concepts: str | None,
    templates: Sequence[str],
    seeds: str,
    when: str | None,
    clip: str | None,
    keys: dict[str, Any],
    dtype: str | None,
    modules: Any,
    heads: bool = False,
) -> Setup:
    """Return the setup of a study from options."""
    options = {"model": model, "dtype": dtype, "clip": clip}
    for name, value in (*options.items(), ("component", component), ("concepts", concepts),
                        ("when", when)):  # fmt: skip
        _check_filled(name, value)
    keys |= {key: value for key, value in options.items() if value is not None}
    if concepts is None:
        words = units.default_concepts(model, clip)
    else:
        words = units.parse_concepts(concepts)
    numbers = units.parse_seeds(seeds)
    stimuli = units.Stimuli(words, tuple(templates) or units.TEMPLATES, numbers)
    window = None if when is None else units.parse_window(when)
    return units.Setup(stimuli, keys, component, modules, "heads" if heads else "channels", window)


def _check_filled(name: str, given: str | None) -> None:
    """Refuse an empty option: it does not mean the default."""
    if given is not None and not given.strip():
        raise Exit(f"--{name}: there is nothing in it; leave it out for the default", WRONG)


def _selector(given: str | None) -> Any:
    """Parse a selector; one that begins like a list or mapping is YAML."""
    _check_filled("select", given)
    if given is None or not given.startswith(("[", "{")):
        return given
    try:
        return parse_value(given)
    except RecipeError as error:
        raise Exit(f"--select: `{shown(given)}`: {error}", WRONG) from None


def _present(folder: Path) -> None:
    """Write the pictures and the page of a study, and print their paths."""
    for path in view.present_study(folder, lambda words: echo(words, err=True)):
        if path.parent == folder and path.suffix != ".svg":
            echo(str(path))


@click.command("selectivity", cls=StudyCommand)
@_study_options
@click.option("--select", "modules", metavar="SELECTOR",
              help="Layers. Default: the hidden units of ResNets and MLPs.")  # fmt: skip
@click.option("--heads", is_flag=True, help="Attention heads in the place of channels.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("outputs/units-selectivity"),
              show_default=True)  # fmt: skip
def selectivity_command(
    out: Path, fresh: bool, device: str | None, modules: str | None, heads: bool, **options: Any
) -> None:
    """Record which units respond to which concepts, and to how few.

    Shows concepts × templates × seeds to a network, and computes each unit's class selectivity
    index. Run it again to go on where it stopped.
    """
    setup = _setup(**options, modules=_selector(modules), heads=heads)
    study = units.Study.load(setup, out, device=device)
    units.check_window(study)
    study.begin("selectivity", fresh)
    for note in filter(None, (study.layers_note, study.letters_note)):
        echo(note, err=True)
    with _progress() as study.progress:
        statistics = units.record_selectivity(study)
    _print_layers(statistics)
    _present(out)


def _print_layers(statistics: Statistics) -> None:
    """Print median and largest index of every layer, beside that by chance."""
    index, chance = statistics.selectivity(), statistics.by_chance()
    heads = ("layer", "units", "median", "largest", "by chance")
    rows: list[tuple[str, ...]] = []
    for layer in statistics.layers:
        part = statistics.slice_of(layer)
        figures = (np.median(index[part]), index[part].max(), np.median(chance[part]))
        printed = (f"{figure:.3f}" if np.isfinite(figure) else "–" for figure in figures)
        rows.append((layer.path, str(layer.units), *printed))
    print_table(heads, rows, right=heads[1:])
    echo(
        f"{counted(statistics.units, 'unit')} of {counted(len(statistics.layers), 'layer')},"
        f" {statistics.done:,} samples of {len(statistics.concepts)} concepts"
    )
    if not statistics.spreads:
        echo(
            "one sample a concept: neither chance nor contrast can be measured; more `--seeds` or"
            " `--template` give them"
        )
    if statistics.skipped:
        echo(f"{statistics.skipped:,} samples have NaN or infinity, and do not count")


@click.command("search", cls=StudyCommand)
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("what", metavar="CONCEPT|PATH#UNIT", required=False)
def search_command(study: Path, what: str | None) -> None:
    """Search a study: the units of a concept, or of all; or the concepts of a unit."""
    statistics = store.read_statistics(study)
    if what is not None and "#" in what:
        unit = units.describe_unit(statistics, *_unit(what))
        active = "never active" if unit["silent"] else f"selectivity {unit['selectivity']:.3f}"
        echo(f"{what}: {active}")
        print_table(
            ("contrast", "concept"),
            [(f"{figure:.2f}", name) for name, figure in (*unit["concepts"], *unit["against"])],
            right=("contrast",),
        )
        return
    contrasts = units.Contrasts.of(statistics)
    found = units.search_units(statistics, what, contrasts)
    rows = [
        (row["concept"], f"{unit['contrast']:.2f}", f"{unit['module']}#{unit['unit']}")
        for row in found
        for unit in row["units"]
    ]
    if rows:
        print_table(("concept", "contrast", "unit"), rows, right=("contrast",))
    for row in found:
        if not row["units"]:
            least = f"none above {contrasts.least:.2f}"
            echo(f"{row['concept']}: no unit is selective for it ({least})")
    if note := units.few_samples_note(statistics):
        echo(note)


def _unit(given: str) -> tuple[str, int]:
    """Parse a unit, as in `conv_in#3`."""
    path, _, number = given.rpartition("#")
    if not path or not number.isdecimal():
        raise Exit(f"`{given}` is no unit; write a module's path and a number, `conv_in#3`", WRONG)
    return path, int(number)


@click.command("cards", cls=StudyCommand)
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("named", nargs=-1, metavar="[PATH#UNIT]...")
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True,
              help="The number of cards, where no units are named.")  # fmt: skip
@click.option("--seeds", default="0-7", show_default=True, metavar="A-B,C",
              help="Of the pictures that effects are measured on.")  # fmt: skip
@click.option("--no-visualization", "plain", is_flag=True,
              help="Optimize no inputs that drive the units.")  # fmt: skip
@DEVICE
def cards_command(
    study: Path, named: tuple[str, ...], count: int, seeds: str, plain: bool, device: str | None
) -> None:
    """Write unit cards: what drives a unit, its concepts, what it is needed for.

    STUDY is the folder that `ablate units selectivity` wrote.
    """
    chosen, numbers = [_unit(name) for name in named], units.parse_seeds(seeds)
    opened = units.Study.open(study, device=device)
    with _progress() as opened.progress:
        path = units.write_cards(opened, chosen or None, count, numbers, visualized=not plain)
    _present(study)
    content = json.loads(path.read_text(encoding="utf-8"))
    for card in content["cards"]:
        echo(f"{card['module']}#{card['unit']}: {card['sentence'] or card['concept']}")
    for note in content["notes"]:
        echo(note)


# An objective may begin with -.
@click.command("visualize", cls=StudyCommand, context_settings={"ignore_unknown_options": True})
@click.argument("objectives", nargs=-1, required=True, metavar="OBJECTIVE...")
@click.option("--model", default="bundled", help="`bundled`, a hub id or a folder.")
@click.option("--input", "kind", type=click.Choice(["image", "latent", "prompt"]),
              default="image", show_default=True,
              help="What is optimized: an image that the CLIP model reads, or the denoiser's latent"
              " or prompt embedding.")  # fmt: skip
@click.option("--start", type=click.Path(path_type=Path, exists=True, dir_okay=False),
              help="Dream on this picture (DeepDream).")  # fmt: skip
@click.option("--t", type=click.FloatRange(0, 1, min_open=True), default=0.9, show_default=True,
              help="Noise level of latents, 1 is noise alone.")  # fmt: skip
@click.option("--prompt", default="", help="Of the denoiser; where an embedding starts from.")
@click.option("--seeds", default="0", show_default=True, metavar="A-B,C",
              help="One picture each; of embeddings, the latents of all.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Of the optimization.")
@CLIP
@DTYPE
@DEVICE
@click.option("--out", type=click.Path(path_type=Path), default=Path("outputs/units-visualize"),
              show_default=True)  # fmt: skip
def visualize_command(
    objectives: tuple[str, ...], kind: str, seeds: str, out: Path, **options: Any
) -> None:
    """Optimize an input to drive a unit, a channel, a direction.

    OBJECTIVE is PATH#12 for a channel, or a sum of such, as in "visual_projection#3 - 0.5 *
    visual_projection#7" (with --input latent "conv_in#3"); also neuron, head, direction, deepdream,
    text and more, called with a module path. A picture that is in the folder with the same settings
    is not rendered again.
    """
    context = click.get_current_context()
    for word in objectives:
        if re.fullmatch(r"--?[A-Za-z][\w-]*(=.*)?", word):  # which is no objective
            names = [name for option in context.command.params for name in option.opts]
            option, _, _ = word.partition("=")
            raise click.NoSuchOption(option, None, get_close_matches(option, names), context)
    numbers = tuple(dict.fromkeys(units.parse_seeds(seeds)))
    if kind == "image":
        others = {"t": "have a noise level", "prompt": "are rendered with a prompt",
                  "dtype": "are optimized in another precision than float32"}  # fmt: skip
        for name, what in others.items():
            if context.get_parameter_source(name) != ParameterSource.DEFAULT:
                raise Exit(f"--{name}: only latents and prompt embeddings {what}", WRONG)
    elif options["start"] is not None:
        raise Exit("--start: only images are dreamed on", WRONG)
    store.check_folder(out)
    studied = (out / "study.json").exists() and bool(units.read_manifest(out))
    with _progress() as progress:
        paths = _visualize(objectives, kind, out, numbers, progress, **options)
    visualizations = store.read_visualizations(out)
    of_dreams = () if options["start"] else ("typically",)
    heads = ("start", "end", "outcome", *of_dreams, "objective")
    rows = []
    for one in (visualizations[path] for path in dict.fromkeys(paths)):
        typical = () if options["start"] else (f"{one.typical:.4g}",)
        rows.append((f"{one.start:.4g}", f"{one.end:.4g}", one.outcome, *typical, one.short_name))
    print_table(heads, rows, right=("start", "end", "typically"))
    for path in view.save_visualizations(out):
        echo(str(path))
    if studied:
        _present(out)


def _visualize(
    objectives: Sequence[str],
    kind: str,
    out: Path,
    seeds: tuple[int, ...],
    progress: Progress,
    *,
    model: str,
    start: Path | None,
    t: float,
    prompt: str,
    steps: int | None,
    clip: str | None,
    dtype: str | None,
    device: str | None,
) -> list[Path]:
    """Load a model and render the pictures that are missing; return the paths of all."""
    reader = drift.Reader.of(model, clip, device)
    embed = reader.texts if reader is not None else None
    parsed = [units.parse_objective(text, embed) for text in objectives]
    inputs: units.Images | units.Dreams | units.Latents | units.Prompts
    if kind != "image":
        pipeline = sampling.Pipeline.load(model, device=device, dtype=dtype or "auto")
        family = units.Latents if kind == "latent" else units.Prompts
        inputs = family(pipeline, t=t, prompt=prompt, seeds=seeds)
    elif reader is None:
        raise Exit(f"`{model}` has no CLIP model beside it; `--clip` names one", WRONG)
    elif start is None:
        inputs = units.Images(reader, seeds=seeds)
    else:
        picture, (width, height) = units.read_picture(start)
        if picture.size != (width, height):
            less = f"{picture.width:,} × {picture.height:,}"
            echo(f"{start}: of {width:,} × {height:,} pixels {less} are dreamed on", err=True)
        inputs = units.Dreams(reader, picture, seeds=seeds)
    return units.render(inputs.with_steps(steps), parsed, out, progress)


@click.command("atlas", cls=StudyCommand)
@click.argument("module")
@_study_options
@click.option("--rows", type=click.IntRange(2, 40), default=20, show_default=True)
@click.option("--columns", type=click.IntRange(2, 40), default=20, show_default=True)
@click.option("--method", type=click.Choice(["som", "pca", "umap"]), default="som",
              show_default=True, help="How vectors are laid out: a self-organizing map, principal"
              " components, or UMAP (pip install 'ablate[umap]').")  # fmt: skip
@click.option("--edit", "edits", multiple=True, metavar="EDIT",
              help="Compare with a variant, as in '{zero: {modules: conv_in}}'.")  # fmt: skip
@click.option("--no-visualization", "plain", is_flag=True,
              help="Draw bins by image patches alone.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), default=Path("outputs/units-atlas"),
              show_default=True)  # fmt: skip
def atlas_command(
    module: str,
    out: Path,
    fresh: bool,
    device: str | None,
    rows: int,
    columns: int,
    method: str,
    edits: tuple[str, ...],
    plain: bool,
    **options: Any,
) -> None:
    """Draw an activation atlas: all outputs of a module on one map.

    MODULE is a path of a module or block. Vectors of many samples, positions and steps are laid out
    in two dimensions; each bin of the map is drawn and named. Run it again to go on, or with --edit
    to see what goes dark.
    """
    parsed = [_edit(edit) for edit in edits]
    units.check_method(method)
    study = units.Study.load(_setup(**options, modules=module), out, device=device)
    path = units.only_layer(study)
    if parsed:  # which may be wrong, and nothing is written then
        units.plan_edits(study, parsed)
    units.check_window(study)
    study.begin("atlas", fresh)
    with _progress() as study.progress:
        atlas = units.make_atlas(
            study, path, rows=rows, columns=columns, method=method, visualized=not plain,
            edits=parsed,
        )  # fmt: skip
    _present(out)
    echo(f"{atlas['vectors']:,} vectors in {len(atlas['bins'])} of {rows * columns} bins")
    if dark := atlas.get("dark"):
        print_table(
            ("concept", "in its bins", "with the edit"),
            [(row["concept"], str(row["before"]), str(row["after"])) for row in dark],
            right=("in its bins", "with the edit"),
        )
    for note in atlas["notes"]:
        echo(note)


def _edit(given: str) -> Any:
    """Parse an edit, as recipes write it."""
    try:
        edit = parse_value(given)
    except RecipeError:
        edit = None
    if not isinstance(edit, dict) or not all(isinstance(v, dict) for v in edit.values()):
        example = "{zero: {modules: conv_in}}"
        raise Exit(
            f"--edit: `{shown(given)}` is no edit; write it as in a recipe, `{example}`", WRONG
        )
    return edit
