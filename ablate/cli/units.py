"""Commands of `ablate units`: studies of channels, neurons and heads."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ablate.cli.errors import GO_ON, INTERRUPTED, WRONG, Exit
from ablate.cli.lazy import LazyGroup
from ablate.cli.options import key_values
from ablate.cli.progress import ProgressPrinter

if TYPE_CHECKING:
    from ablate.engine import Progress
    from ablate.store import Statistics
    from ablate.units import Setup


HERE = "ablate.cli.units"
COMMANDS = {
    "selectivity": (HERE, "Record which units answer to which concepts."),
    "search": (HERE, "List the units of a concept, or the concepts of a unit."),
    "cards": (HERE, "Describe units: what drives them, what changes without them."),
    "visualize": (HERE, "Optimize inputs that drive units."),
    "atlas": (HERE, "Draw everything that a module outputs on one map."),
}


@click.group("units", cls=LazyGroup, table=COMMANDS)
def units_command() -> None:
    """Study single units: channels, neurons and attention heads."""


@contextmanager
def _told() -> Iterator[None]:
    """What may be wrong with a study becomes a message and an exit code."""
    import logging

    from ablate.network import SelectorError
    from ablate.sampling import Stopped

    logging.getLogger("diffusers").setLevel(logging.ERROR)
    try:
        yield
    except SelectorError as error:
        raise Exit(f"--select: {error}", WRONG) from None
    except Stopped:
        raise Exit(GO_ON, INTERRUPTED) from None


def _study_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What is shown to which network."""
    for option in reversed((
        click.option("--model", default="bundled", help="`bundled`, a hub id or a folder."),
        click.option("--component", help="`clip` (what reads images), `text_encoder` ...;"
                     " default: the denoiser."),
        click.option("--concepts", metavar="A,B,...|FILE", help="Default: the CLIP model's words."),
        click.option("--template", "templates", multiple=True, metavar="TEXT",
                     help="A prompt with `{}` in the place of the concept; several are allowed."),
        click.option("--seeds", default="0-7", show_default=True, metavar="A-B,C"),
        click.option("--when", metavar="WINDOW", help="Moments of the sampling, as in"
                     " --when '{t: [1, 0.5]}'. Default: all."),
        click.option("--clip", help="What reads the images: a CLIP model's hub id or folder."),
        click.option("--set", "keys", multiple=True, metavar="KEY=VALUE", callback=key_values,
                     help="A key of recipes, as in --set sampling.num_inference_steps=10."),
        click.option("--dtype", help="`float32`, `float16`, `bfloat16`. Default: `auto`."),
        click.option("--device", help="`cuda`, `cuda:1`, `mps`, `cpu`. Default: the best there"
                     " is."),
        click.option("--fresh", is_flag=True, help="Forget what lies in the folder."),
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
    """A setup from what options say."""
    from ablate.units import (
        TEMPLATES,
        Setup,
        Stimuli,
        default_concepts,
        parse_concepts,
        parse_window,
    )

    given = {"model": model, "dtype": dtype, "clip": clip}
    told = keys | {key: value for key, value in given.items() if value is not None}
    options = given | {"component": component, "concepts": concepts, "when": when}
    for name, value in options.items():
        _filled(name, value)
    try:
        words = default_concepts(model, clip) if concepts is None else parse_concepts(concepts)
        stimuli = Stimuli(tuple(words), tuple(templates) or TEMPLATES, _numbers(seeds))
    except ValueError as error:
        raise Exit(str(error), WRONG) from None
    kind, window = "heads" if heads else "channels", None if when is None else parse_window(when)
    return Setup(stimuli, told, component, modules, kind, window)


def _numbers(given: str) -> tuple[int, ...]:
    """Seeds, as in `0-7,11`."""
    from ablate.units import parse_seeds

    try:
        return parse_seeds(given)
    except ValueError as error:
        raise Exit(f"--seeds: {error}", WRONG) from None


def _filled(name: str, given: str | None) -> None:
    """Refuse an option that was given nothing: it does not mean its default."""
    if given is not None and not given.strip():
        raise Exit(f"--{name}: there is nothing in it; leave it out for the default", WRONG)


def _selector(given: str | None) -> Any:
    """A selector; what begins like a list or mapping is YAML."""
    import yaml

    _filled("select", given)
    if given is None or not given.startswith(("[", "{")):
        return given
    try:
        return yaml.safe_load(given)
    except yaml.YAMLError:
        raise Exit(f"--select: `{given}` is not valid YAML", WRONG) from None


def _present(folder: Path) -> None:
    """Write the pictures and the page of a study, and name them."""
    from ablate.view import present_study

    for path in present_study(folder, lambda words: click.echo(words, err=True)):
        if path.parent == folder and path.suffix != ".svg":
            click.echo(str(path))


@click.command("selectivity")
@_study_options
@click.option("--select", "modules", metavar="SELECTOR",
              help="Layers. Default: the hidden units of ResNets and MLPs.")  # fmt: skip
@click.option("--heads", is_flag=True, help="Attention heads in the place of channels.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("outputs/units-selectivity"),
              show_default=True)  # fmt: skip
def selectivity_command(
    out: Path, fresh: bool, device: str | None, modules: str | None, heads: bool, **asked: Any
) -> None:
    """Record which units answer to which concepts, and to how few.

    Shows concepts × templates × seeds to a network, and computes each unit's class selectivity
    index. Run it again to go on where it stopped.
    """
    from ablate.engine import Progress
    from ablate.units import Study, check_window, record_selectivity

    with _told():
        setup = _setup(**asked, modules=_selector(modules), heads=heads)
        study = Study.load(setup, out, device=device)
        check_window(study)
        study.begin("selectivity", fresh)
        for note in filter(None, (study.note, study.letters)):
            click.echo(note, err=True)
        with closing(ProgressPrinter()) as printer:
            study.progress = Progress(printer)
            found = record_selectivity(study)
        _tell_layers(found)
        _present(out)


def _tell_layers(found: Statistics) -> None:
    """Median and largest index of every layer, beside what it is by chance."""
    import numpy as np

    index, chance = found.selectivity(), found.by_chance()
    rows: list[tuple[str, ...]] = [("layer", "units", "median", "largest", "by chance")]
    for layer in found.layers:
        own = found.slice_of(layer)
        figures = (np.median(index[own]), index[own].max(), np.median(chance[own]))
        told = (f"{figure:.3f}" if np.isfinite(figure) else "–" for figure in figures)
        rows.append((layer.path, str(layer.units), *told))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [c.rjust(w) if i else c.ljust(w) for i, (c, w) in enumerate(zip(row, widths,
                 strict=True))]  # fmt: skip
        click.echo("  ".join(cells))
    layers = f"{len(found.layers)} layer{'s' * (len(found.layers) != 1)}"
    click.echo(
        f"{found.units:,} unit{'s' * (found.units != 1)} of {layers}, {found.done:,} samples of"
        f" {len(found.concepts)} concepts"
    )
    if not found.spreads:
        click.echo(
            "one sample a concept: neither what is by chance nor contrast can be told; more"
            " `--seeds` or `--template` give them"
        )
    if found.skipped:
        click.echo(f"{found.skipped:,} samples hold NaN or infinity, and do not count")


@click.command("search")
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("what", metavar="CONCEPT|PATH#UNIT", required=False)
def search_command(study: Path, what: str | None) -> None:
    """Search a study: the units of a concept, or of all; or the concepts of a unit."""
    from ablate.units.concepts import search as searching

    with _told():
        statistics = searching.load(study)
        if what is not None and "#" in what:
            unit = _unit(what)
            found = searching.find(statistics, *unit)
            never = searching.silent(statistics, searching.number_of(statistics, *unit))
            active = "never active" if never else f"selectivity {found['selectivity']:.3f}"
            click.echo(f"{what}: {active}")
            for concept, contrast in (*found["concepts"], *found["against"]):
                click.echo(f"{contrast:9.2f}  {concept}")
            return
        known = searching.Contrasts.of(statistics)
        for row in searching.search(statistics, what, known):
            if not row["units"]:
                least = f"none above {known.least:.2f}"
                click.echo(f"{row['concept']}: no unit stands for it ({least})")
            for unit in row["units"]:
                click.echo(
                    f"{row['concept']:16} {unit['contrast']:9.2f}  {unit['module']}#{unit['unit']}"
                )
        if searching.rough(statistics):
            click.echo(searching.rough(statistics))


def _unit(given: str) -> tuple[str, int]:
    """A unit, as in `conv_in#3`."""
    path, _, number = given.rpartition("#")
    if not path or not number.isdecimal():
        raise Exit(f"`{given}` is no unit; write a module's path and a number, `conv_in#3`", WRONG)
    return path, int(number)


@click.command("cards")
@click.argument("study", type=click.Path(path_type=Path))
@click.argument("units", nargs=-1, metavar="[PATH#UNIT]...")
@click.option("--count", type=click.IntRange(min=1), default=10, show_default=True,
              help="Without units named, so many that stand out.")  # fmt: skip
@click.option("--seeds", default="0-7", show_default=True, metavar="A-B,C",
              help="Of the pictures that effects are measured on.")  # fmt: skip
@click.option("--no-visualization", "plain", is_flag=True,
              help="Make no inputs that drive the units most.")  # fmt: skip
@click.option("--device", help="`cuda`, `cuda:1`, `mps`, `cpu`. Default: the best there is.")
def cards_command(
    study: Path,
    units: tuple[str, ...],
    count: int,
    seeds: str,
    plain: bool,
    device: str | None,
) -> None:
    """Make unit cards: what drives a unit, what it stands for, what it is needed for.

    STUDY is the folder that `ablate units selectivity` wrote.
    """
    from ablate.engine import Progress
    from ablate.units import Study
    from ablate.units.concepts import cards as making

    named, numbers = [_unit(unit) for unit in units], _numbers(seeds)
    with _told():
        opened = Study.open(study, device=device)
        with closing(ProgressPrinter()) as printer:
            opened.progress = Progress(printer)
            making.make(opened, named or None, count, numbers, visualized=not plain)
        _present(study)
    from json import loads

    told = loads((study / making.FILE).read_text(encoding="utf-8"))
    for card in told["cards"]:
        click.echo(f"{card['module']}#{card['unit']}: {card['sentence'] or card['concept']}")
    for note in told["notes"]:
        click.echo(note)


# An objective may begin with -.
@click.command("visualize", context_settings={"ignore_unknown_options": True})
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
              help="A picture for each; of embeddings, the latents they must do for.")  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Of the optimization.")
@click.option("--clip", help="What reads the images: a CLIP model's hub id or folder.")
@click.option("--dtype", help="`float32`, `float16`, `bfloat16`. Default: `auto`.")
@click.option("--device", help="`cuda`, `cuda:1`, `mps`, `cpu`. Default: the best there is.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("outputs/units-visualize"),
              show_default=True)  # fmt: skip
def visualize_command(objectives: tuple[str, ...], kind: str, out: Path, **asked: Any) -> None:
    """Optimize an input to drive a unit, a channel, a direction.

    OBJECTIVE is PATH#12 for a channel, or a sum of such, as in "visual_projection#3 - 0.5 *
    visual_projection#7" (with --input latent "conv_in#3"); also neuron, head, direction, deepdream,
    text and more, called with a module path. A picture that lies in the folder with the same
    settings is not made again.
    """
    from ablate.engine import Progress
    from ablate.store import read_visualizations
    from ablate.units import read_manifest
    from ablate.view import save_visualizations

    context = click.get_current_context()
    for word in objectives:
        if re.fullmatch(r"--?[A-Za-z][\w-]*(=.*)?", word):  # which is no objective
            names = [name for option in context.command.params for name in option.opts]
            option, _, _ = word.partition("=")
            raise click.NoSuchOption(option, None, get_close_matches(option, names), context)
    seeds = tuple(dict.fromkeys(_numbers(asked.pop("seeds"))))
    with _told():
        others = {"t": "have a noise level", "prompt": "are made with a prompt",
                  "dtype": "are made in another precision than float32"}  # fmt: skip
        for name, have in others.items():
            if kind == "image" and context.get_parameter_source(name) != ParameterSource.DEFAULT:
                raise Exit(f"--{name}: only latents and prompt embeddings {have}", WRONG)
        if asked["start"] is not None and kind != "image":
            raise Exit("--start: only images are dreamed on", WRONG)
        studied = (out / "study.json").exists() and bool(read_manifest(out))
        with closing(ProgressPrinter()) as printer:
            paths = _visualize(objectives, kind, out, seeds, Progress(printer), **asked)
        visualizations = read_visualizations(out)
        for one in (visualizations[path] for path in dict.fromkeys(paths)):
            plain = "" if asked["start"] else f", typically {one.typical:<9.4g}"
            click.echo(
                f"{one.start:9.4g} → {one.end:<9.4g} {one.outcome:>12}{plain} {one.short_name}"
            )
        for path in save_visualizations(out):
            click.echo(str(path))
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
    """Load a model and render the pictures that are missing."""
    from ablate.drift import Reader
    from ablate.sampling import Pipeline
    from ablate.units import (
        Dreams,
        Images,
        Latents,
        Prompts,
        parse_objective,
        read_picture,
        render,
    )

    reader = Reader.of(model, clip, device)
    embed = reader.texts if reader is not None else None
    parsed = [parse_objective(text, embed) for text in objectives]
    inputs: Images | Dreams | Latents | Prompts
    if kind != "image":
        pipeline = Pipeline.load(model, device=device, dtype=dtype or "auto")
        family = Latents if kind == "latent" else Prompts
        inputs = family(pipeline, t=t, prompt=prompt, seeds=seeds)
    elif reader is None:
        raise Exit(f"`{model}` has no CLIP model beside it; `--clip` names one", WRONG)
    elif start is None:
        inputs = Images(reader, seeds=seeds)
    else:
        picture, (width, height) = read_picture(start)
        if picture.size != (width, height):
            less = f"{picture.width:,} × {picture.height:,}"
            click.echo(f"{start}: of {width:,} × {height:,} pixels {less} are dreamed on", err=True)
        inputs = Dreams(reader, picture, seeds=seeds)
    return render(inputs.with_steps(steps), parsed, out, progress)


@click.command("atlas")
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
    **asked: Any,
) -> None:
    """Make an activation atlas: all that a module gives, on one map.

    MODULE is a path of a module or block. Vectors of many samples, positions and steps are laid out
    in two dimensions; each bin of the map is drawn and named. Run it again to go on, or with --edit
    to see what goes dark.
    """
    from ablate.engine import Progress
    from ablate.units import (
        Study,
        check_method,
        check_window,
        make_atlas,
        only_layer,
        plan_edits,
    )

    given = [_edit(edit) for edit in edits]
    with _told():
        check_method(method)
        study = Study.load(_setup(**asked, modules=module), out, device=device)
        path = only_layer(study)
        if given:  # which may be wrong, and nothing is made then
            plan_edits(study, given)
        check_window(study)
        study.begin("atlas", fresh)
        with closing(ProgressPrinter()) as printer:
            study.progress = Progress(printer)
            made = make_atlas(
                study, path, rows=rows, columns=columns, method=method,
                visualized=not plain, edits=given,
            )  # fmt: skip
        _present(out)
    click.echo(f"{made['vectors']:,} vectors in {len(made['bins'])} of {rows * columns} bins")
    for dark in made.get("dark", []):
        click.echo(f"{dark['concept']:16} {dark['before']:6} → {dark['after']:<6} in its own bins")
    for note in made["notes"]:
        click.echo(note)


def _edit(given: str) -> Any:
    """An edit, as recipes write it."""
    import yaml

    try:
        found = yaml.safe_load(given)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(v, dict) for v in found.values()):
        example = "{zero: {modules: conv_in}}"
        raise Exit(f"--edit: `{given}` is no edit; write it as in a recipe, `{example}`", WRONG)
    return found
