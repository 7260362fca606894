"""``tuncer up``, ``down``, ``set``, ``route`` and ``destroy``: what ip(8) does, through the worker.

Unlike ip(8) they reach a device in any network namespace, and the worker knows of the change.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tuncer.cli.finding import device_called
from tuncer.cli.output import print_json, print_table
from tuncer.client.device import Device


def add_command(commands: Any) -> None:
    """Add the commands to the parser."""
    up = commands.add_parser("up", help="bring a device up, with addresses")
    up.add_argument("device", metavar="DEV")
    up.add_argument("addresses", metavar="ADDRESS", nargs="*", help="10.9.0.1/24, fd00::1/64, ...")
    up.set_defaults(run=_up)
    down = commands.add_parser("down", help="take a device down")
    down.add_argument("device", metavar="DEV")
    down.set_defaults(run=_down)
    _add_set(commands)
    _add_route(commands)
    destroy = commands.add_parser("destroy", help="remove a device, and end its worker")
    destroy.add_argument("device", metavar="DEV")
    destroy.set_defaults(run=_destroy)


def _add_set(commands: Any) -> None:
    parser = commands.add_parser("set", help="change what a device has")
    add = parser.add_argument
    add("device", metavar="DEV")
    add("--mtu", type=int, metavar="BYTES")
    add("--mac", metavar="MAC", help="of a TAP")
    add("--txqueuelen", type=int, metavar="N", help="packets that the kernel queues")
    add("--alias", metavar="TEXT", help="a note that ip(8) shows")
    add("--carrier", choices=("on", "off"))
    add("--add-address", action="append", default=[], metavar="ADDRESS")
    add("--remove-address", action="append", default=[], metavar="ADDRESS")
    add("--filter", metavar="EXPRESSION", help="see pcap-filter(7); '' lets everything through")
    add("--name", help="another name")
    parser.set_defaults(run=_set)


def _add_route(commands: Any) -> None:
    parser = commands.add_parser("route", help="show and change the routes through a device")
    add = parser.add_argument
    add("device", metavar="DEV")
    add("action", metavar="ACTION", choices=("list", "add", "remove"), nargs="?", default="list")
    add("destination", metavar="NETWORK", nargs="?", help="10.20.0.0/16, default, ...")
    add("--via", metavar="ADDRESS", help="of the gateway")
    add("--metric", type=int, metavar="N")
    add("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_route)


def _up(options: argparse.Namespace) -> int:
    device = device_called(options.device)
    for address in options.addresses or [None]:
        device.up(address)
    return 0


def _down(options: argparse.Namespace) -> int:
    device_called(options.device).down()
    return 0


def _destroy(options: argparse.Namespace) -> int:
    device_called(options.device).destroy()
    return 0


def _set(options: argparse.Namespace) -> int:
    given = [name for name in _SETTINGS if getattr(options, name) not in (None, [])]
    if not given:
        print("tuncer: set what? see 'tuncer set --help'", file=sys.stderr)
        return 2
    device = device_called(options.device)
    for name in given:  # in the order of the table: the name is the last
        _SETTINGS[name](device, getattr(options, name))
    return 0


def _each(method: str) -> Any:
    def change(device: Device, addresses: list[str]) -> None:
        for address in addresses:
            getattr(device, method)(address)

    return change


_SETTINGS: dict[str, Any] = {
    "mtu": Device.mtu,
    "mac": Device.mac,
    "txqueuelen": Device.txqueuelen,
    "alias": Device.alias,
    "carrier": lambda device, text: device.carrier(text == "on"),
    "remove_address": _each("remove_address"),
    "add_address": _each("add_address"),
    "filter": lambda device, text: device.filter(text or None),
    "name": Device.rename,
}


def _route(options: argparse.Namespace) -> int:
    if options.action != "list" and options.destination is None:
        print(f"tuncer: {options.action} which route? 10.20.0.0/16, say", file=sys.stderr)
        return 2
    device = device_called(options.device)
    if options.action == "add":
        device.add_route(options.destination, options.via, metric=options.metric)
    elif options.action == "remove":
        device.remove_route(options.destination, options.via, metric=options.metric)
    else:
        _list_routes(device, as_json=options.json)
    return 0


def _list_routes(device: Device, *, as_json: bool) -> None:
    rows = [
        {
            "destination": str(route.destination),
            "via": None if route.gateway is None else str(route.gateway),
            "metric": route.metric,
            "table": route.table,
        }
        for route in device.list_routes()
    ]
    if as_json:
        print_json({"device": device.name, "routes": rows})
    elif rows:
        columns = ("DESTINATION", "VIA", "METRIC", "TABLE")
        print_table(columns, [["" if v is None else str(v) for v in row.values()] for row in rows])
    else:
        print("no routes")
