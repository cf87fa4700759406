"""The command `ablate`, also as `python -m ablate`."""

from __future__ import annotations

from ablate.cli.process import run_command


def main() -> None:
    """Run the command, with signals and streams in hand before anything is imported."""
    run_command(_command)


def _command() -> None:
    from ablate.cli.main import main as command  # loads libraries, which takes a while

    command(prog_name="ablate")


if __name__ == "__main__":
    main()
