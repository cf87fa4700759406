"""Tables as commands print them: a line of heads, and a line for each row."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ablate.cli.output import echo
from ablate.messages import printable


def print_table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], right: Collection[str] = ()
) -> None:
    """Print rows below their heads, in columns two spaces apart.

    Args:
        heads: The names of the columns.
        rows: As many texts each.
        right: Heads of the columns that are aligned at the right, as figures are.
    """
    heads, *rows = ([*map(printable, row)] for row in (heads, *rows))
    widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
    for row in (heads, *rows):
        cells = [
            text.rjust(width) if head in right else text.ljust(width)
            for head, text, width in zip(heads, row, widths, strict=True)
        ]
        echo("  ".join(cells).rstrip())
