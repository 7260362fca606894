"""``tuncer list``: the devices of this user."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import tuncer
from supervisor import ActorError
from tuncer.client.device import known
from tuncer.protocol import paths

_COLUMNS = ("name", "pid", "flags", "read", "sent", "dropped", "restarts", "subscribers")
_PATIENCE = 2.0  # seconds that a device's worker may take to answer


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("list", help="list the devices of this user")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the devices; 1 if there is one that does not answer."""
    asked = [_Asked(path) for path in paths.control_paths()]
    deadline = time.monotonic() + _PATIENCE
    for one in asked:
        one.thread.join(max(0.0, deadline - time.monotonic()))
    rows = [row for one in asked if (row := one.row()) is not None]
    silent = [one for one in asked if one.thread.is_alive()]
    if options.json:
        print(json.dumps(rows))
    else:
        table = Table(*_COLUMNS, box=None)
        for row in rows:
            table.add_row(*(str(row[column]) for column in _COLUMNS))
        Console().print(table if rows else "no devices")
    for one in silent:
        print(f"{one.name}: its worker, process {one.pid}, does not answer", file=sys.stderr)
    return 1 if silent else 0


class _Asked:
    """A device that is asked, beside others: one that hangs holds up none of them."""

    def __init__(self, path: Path) -> None:
        self.name = paths.name_of(path)
        worker = paths.worker(path)
        self.pid = None if worker is None else worker.pid
        self._path = path
        self._row: dict[str, Any] | None = None
        self.thread = threading.Thread(target=self._ask, daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        try:
            self._row = _row(known(self._path, self.name))
        except (OSError, ActorError):  # it went between two looks
            return

    def row(self) -> dict[str, Any] | None:
        """Return what is shown of it: nothing, if it has gone meanwhile."""
        if not self.thread.is_alive():
            return self._row
        return dict.fromkeys(_COLUMNS) | {"name": self.name, "pid": self.pid}


def _row(device: tuncer.Device) -> dict[str, Any]:
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
