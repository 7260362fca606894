"""``tuncer show``: all of one device, and who has subscribed to it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from supervisor.tree import exit_text
from tuncer.cli.finding import device_called
from tuncer.cli.output import print_json, print_table
from tuncer.client.device import Device
from tuncer.node.device_rows import DeviceRow, device_row, program
from tuncer.protocol.operations import SubscriberRow

_COLUMNS = ("SUBSCRIBER", "QUEUE", "TRANSPORT", "POLICY", "EVENTS", "BEHIND", "HOLDS BACK")
_WIDTH = 12  # characters of the names of what is told


def add_command(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("show", help="show all of a device, and who has subscribed")
    parser.add_argument("device", metavar="DEV", nargs="?", help="not needed if there is only one")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print what there is."""
    device = device_called(options.device)
    counts, routes = device.statistics(), [str(route.destination) for route in device.list_routes()]
    subscribers = device.list_subscribers()
    row = device_row(device)
    if options.json:
        rows = [{**one._asdict(), "program": program(one.pid)} for one in subscribers]
        told = {**row.as_json(), "routes": routes, "counters": counts, "list_subscribers": rows}
        print_json({"device": told})
        return 0
    for name, texts in _told(device, row, routes, counts):
        for number, text in enumerate(texts):
            print(f"{'' if number else name:{_WIDTH}}{text}")
    if subscribers:
        print()
        print_table(_COLUMNS, [_cells(one) for one in subscribers], ("TRANSPORT", "EVENTS"))
    return 0


def _told(
    device: Device, row: DeviceRow, routes: list[str], counts: dict[str, Any]
) -> Iterator[tuple[str, list[str]]]:
    """Yield the names of what is told, and the lines of each."""
    yield "device", [f"{row.name}: {row.kind}, {row.state}, mtu {row.mtu}"]
    yield "flags", [row.flags or ""]
    mac = device.mac()
    if mac:
        yield "mac", [mac]
    yield "addresses", list(row.addresses) or ["none"]
    yield "routes", routes or ["none"]
    yield "owner", [row.owner or "unknown"]
    yield "workers", [f"{pid}, queue {number}" for number, pid in enumerate(row.workers)]
    ended = "" if row.last_exit is None else f"; the last exit: {exit_text(row.last_exit)}"
    yield "restarts", [f"{row.restarts}{ended}"]
    yield "filter", [str(counts["filter"] or "none")]
    yield "packets", [f"{row.read} read by the worker, {row.sent} written to the device"]
    lost = counts["lost"]
    yield "lost", [", ".join(f"{place} {number}" for place, number in lost.items())]


def _cells(one: SubscriberRow) -> tuple[str, ...]:
    return (
        program(one.pid),
        str(one.queue),
        one.transport,
        one.policy,
        "yes" if one.events else "no",
        "" if one.behind is None else str(one.behind),
        "yes" if one.holds_back else "",
    )
