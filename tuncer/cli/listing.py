"""``tuncer list``: the devices of this user."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from supervisor.tree import exit_text
from tuncer.cli.output import print_json, print_table, rate
from tuncer.node.device_rows import SILENT, DeviceRow, device_rows

_COLUMNS = (
    *("NAME", "KIND", "STATE", "ADDRESSES", "MTU", "OWNER", "WORKER", "RESTARTS", "TX/s", "RX/s"),
    *("LOST", "SUBS", "LAST EXIT"),
)
_FIRST_TO_GO = (
    "OWNER",
    "MTU",
    "KIND",
    "LAST EXIT",
    "SUBS",
    "RX/s",
    "ADDRESSES",
    "TX/s",
    "RESTARTS",
    "LOST",
)
"""The columns that a narrow terminal does without."""


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("list", help="list the devices of this user")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the devices; 1 if there is one that does not answer."""
    rows = device_rows()
    if options.json:
        print_json({"devices": [row.as_json() for row in rows]})
    elif rows:
        print_table(_COLUMNS, [_cells(row) for row in rows], _FIRST_TO_GO)
    else:
        print("no devices")
    silent = [row for row in rows if row.state == SILENT]
    for row in silent:
        pids = " and ".join(map(str, row.workers)) or "unknown"
        print(f"{row.name}: its worker, process {pids}, does not answer", file=sys.stderr)
    return 1 if silent else 0


def _cells(row: DeviceRow) -> tuple[str, ...]:
    return (
        row.name,
        row.kind or "",
        row.state,
        "\n".join(row.addresses),
        _number(row.mtu),
        row.owner or "",
        " ".join(map(str, row.workers)),
        _number(row.restarts),
        rate(None if row.rates is None else row.rates.tx),
        rate(None if row.rates is None else row.rates.rx),
        "" if row.lost is None else str(sum(row.lost.values())),
        _number(row.subscribers),
        "" if row.last_exit is None else exit_text(row.last_exit),
    )


def _number(number: int | None) -> str:
    return "" if number is None else str(number)
