"""Commands on networks: list their modules, draw their architecture."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import click

from ablate.cli.errors import Exit
from ablate.cli.output import echo
from ablate.cli.process import WRONG
from ablate.cli.tables import print_table
from ablate.models import Source, load_catalog
from ablate.network import SelectorError, select as select_modules
from ablate.store import Run
from ablate.view import draw_layout, draw_network, save_drawing


@click.command("modules")
@click.argument("model", default="bundled")
@click.option("--select", metavar="SELECTOR", help="Only these, as in --select role=resnet.")
@click.option("--component", help="Another part than the denoiser, as in `text_encoder`.")
@click.option(
    "--blocks", is_flag=True, help="List what contains modules, for `where: output` or `input`."
)
@click.option("--revision", help="Of a hub model.")
@click.option("--config", help="What describes a model that is one safetensors file.")
@click.option("--json", "as_json", is_flag=True, help="One JSON list.")
def modules_command(
    model: str,
    select: str | None,
    component: str | None,
    blocks: bool,
    revision: str | None,
    config: str | None,
    as_json: bool,
) -> None:
    """List the modules of a model's denoiser, from its configuration alone."""
    catalog = load_catalog(Source(model, revision, config=config), component)
    everything = catalog.blocks if blocks else catalog.modules
    try:
        listed = select_modules(select, everything) if select else everything
    except SelectorError as error:
        raise Exit(f"--select: {error}", WRONG) from None
    if as_json:
        echo(json.dumps([asdict(m) for m in listed], indent=1))
        return
    heads = ("#", "path", "kind", "stage", "role", "heads", "parameters")
    rows = [
        (str(m.number), m.name, m.kind, m.stage, m.role, str(m.heads or ""), f"{m.parameters:,}")
        for m in listed
    ]
    print_table(heads, rows, right=("#", "heads", "parameters"))
    for field in ("stage", "role"):
        counts = Counter(getattr(m, field) for m in listed)
        echo(f"{field:6} {', '.join(f'{name} {n}' for name, n in counts.items())}")
    if blocks:  # nested, so that their parameters do not add up
        echo(f"{len(listed)} blocks")
    else:
        echo(f"{len(listed)} modules, {sum(m.parameters for m in listed):,} parameters")


@click.command("architecture")
@click.argument("run", metavar="RUN|MODEL")
@click.option("--metric", help="`rmse`, `ssim`, `latent`, `embedding` ... Default: the last known.")
@click.option("--thumbnails", is_flag=True, help="Show each module's picture, not its color.")
@click.option("--out", type=click.Path(path_type=Path), help="Files, without their suffix.")
def architecture_command(run: str, metric: str | None, thumbnails: bool, out: Path | None) -> None:
    """Draw a network with the drift of every module in its place, as SVG and PNG.

    Of a model, such as `bundled` or a hub id, the layout alone.
    """
    folder = Path(run)
    if (folder / "run.json").exists():
        store = Run(folder)
        store.manifest()
        drawing = draw_network(store, metric, thumbnails)
        if drawing is None:
            raise Exit(f"{run}: no cell edits few enough modules to be placed", WRONG)
    else:
        title = folder.name if folder.is_dir() else run
        drawing, folder = draw_layout(load_catalog(run), title), Path()
    for path in save_drawing(drawing, out or folder / "architecture"):
        echo(str(path))
