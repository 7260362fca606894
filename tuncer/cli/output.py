"""What commands print: tables for people, tab-separated lines in pipes, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

SCHEMA = 1
"""The number of the JSON's form. Keys may be added to it; if one changes or goes, it is raised."""

_COLOURS = {"up": "green", "down": "red", "no carrier": "yellow", "silent": "bold red"}


def print_json(told: dict[str, Any]) -> None:
    """Print an object, with the schema's number, as one line."""
    print(json.dumps({"schema": SCHEMA, **told}), flush=True)


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], first_to_go: Sequence[str] = ()
) -> None:
    """Print rows under their columns' names.

    On a terminal they are aligned, with colours unless NO_COLOR is set; elsewhere tabs separate
    them, and all columns are there.

    Args:
        columns: their names.
        rows: cells, which may have several lines.
        first_to_go: the columns that a narrow terminal does without, in this order.
    """
    if not sys.stdout.isatty():
        for row in (columns, *rows):
            print("\t".join(cell.replace("\n", " ") for cell in row))
        return
    console = Console(highlight=False)
    kept = fitting(columns, rows, first_to_go, console.width)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for number in kept:
        table.add_column(columns[number], no_wrap=True)
    for row in rows:
        cells = [row[number] for number in kept]
        table.add_row(*(Text(cell, style=_COLOURS.get(cell, "")) for cell in cells))
    console.print(table)


def fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], first_to_go: Sequence[str], width: int
) -> list[int]:
    """Return the numbers of the columns that fit into a width. Pure."""
    widths = [
        2
        + max(len(line) for row in (columns, *rows) for line in (row[number].splitlines() or [""]))
        for number in range(len(columns))
    ]
    kept = list(range(len(columns)))
    for name in first_to_go:
        if sum(widths[number] for number in kept) <= width:
            break
        kept.remove(columns.index(name))
    return kept


def rate(number: float | None) -> str:
    """Return a rate in few characters: "0", "12", "3.4k", "1.2M"."""
    if number is None:
        return ""
    for unit, size in (("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return f"{number:.0f}"
