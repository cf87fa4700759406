"""`python -m ablate` is the command `ablate`."""

from __future__ import annotations

from ablate.cli.main import main

main(prog_name="ablate")
