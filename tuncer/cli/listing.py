"""``tuncer list``: the devices of this user."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rich.console import Console
from rich.table import Table

import tuncer

_COLUMNS = ("name", "pid", "flags", "read", "sent", "dropped", "restarts", "subscribers")


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("list", help="list the devices of this user")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the devices."""
    rows = [row for device in tuncer.devices() if (row := _row(device))]
    if options.json:
        print(json.dumps(rows))
        return 0
    table = Table(*_COLUMNS, box=None)
    for row in rows:
        table.add_row(*(str(row[column]) for column in _COLUMNS))
    Console().print(table if rows else "no devices")
    return 0


def _row(device: tuncer.Device) -> dict[str, Any] | None:
    try:
        counts = device.statistics()
        return {
            "name": device.devname(),
            "pid": device.pid,
            "flags": (device.flags() & ~tuncer.Flag.PERSIST).name,
            "read": counts["packets_read"],
            "sent": counts["packets_sent"],
            "dropped": counts["dropped"],
            "restarts": counts["restarts"],
            "subscribers": counts["subscribers"],
        }
    except tuncer.DeviceError:
        return None  # it went between two looks
