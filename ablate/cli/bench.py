"""The command that measures the speed of the lab."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import click

from ablate.bench import bench
from ablate.cli.errors import Exit
from ablate.cli.options import DEVICE, quiet_libraries
from ablate.cli.output import echo
from ablate.cli.process import WRONG


@click.command("bench")
@click.option("--model", default="bundled", help="Also `sd15-random`: real size, random weights.")
@click.option("--steps", type=click.IntRange(min=2), default=20, show_default=True)
@click.option("--size", type=click.IntRange(min=8), help="Pixels of a side. Default: the model's.")
@click.option("--modules", type=click.IntRange(min=1), help="So many, evenly spread. Default: all.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True)
@DEVICE
@click.option("--dtype", default="auto", help="`float32`, `float16`, `bfloat16`. Default: `auto`.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures here too.")
@click.option("--peers", is_flag=True, help="Measure nnsight as well, where it is installed.")
def bench_command(file: Path | None, **options: Any) -> None:
    """Measure the lab against a diffusers script and against the limit of this machine."""
    quiet_libraries()
    try:
        report = bench(**options, log=partial(echo, err=True))
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("nnsight"):
            raise
        message = "--peers: nnsight is not installed; `pip install nnsight`"
        raise Exit(message, WRONG) from None
    if file is not None:
        file.write_text(json.dumps(report.as_json(), indent=1) + "\n", encoding="utf-8")
    echo(str(report))
