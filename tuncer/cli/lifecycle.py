"""``tuncer restart`` and ``tuncer wait``: a device's worker, replaced or waited for."""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from supervisor import ActorError
from tuncer.cli.finding import device_called
from tuncer.client.device import Device

_PATIENCE = 10.0  # seconds that a successor may take
_AGAIN = 0.05  # seconds between two looks


def add_command(commands: Any) -> None:
    """Add the commands to the parser."""
    restart = commands.add_parser(
        "restart", help="kill a device's worker, and wait for its successor"
    )
    restart.add_argument("device", metavar="DEV")
    restart.set_defaults(run=_restart)
    wait = commands.add_parser("wait", help="wait until a device is there, or has gone")
    wait.add_argument("device", metavar="DEV")
    wait.add_argument(
        "--for",
        dest="state",
        choices=tuple(_STATES),
        default="ready",
        help="ready: its worker answers (the default); up: and it is up; gone",
    )
    wait.add_argument("--timeout", type=float, metavar="SECONDS", help="then the exit status is 1")
    wait.set_defaults(run=_wait)


def _restart(options: argparse.Namespace) -> int:
    """Replace the workers of a device, one after the other; the interface stays as it is."""
    device = device_called(options.device)
    for number, pid in enumerate(device.pids):
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        successor = _successor(device, number, pid)
        if successor is None:
            text = f"{device.name}: worker {pid} was killed, and has no successor yet"
            print(f"tuncer: {text}: see 'tuncer tree'", file=sys.stderr)
            return 1
        taken = (time.monotonic() - began) * 1000
        print(f"{device.name}: worker {pid} was killed; {successor} serves after {taken:.0f} ms")
    return 0


def _successor(device: Device, number: int, pid: int) -> Any:
    """Wait for another worker of a queue; return its pid, or None."""

    def look() -> int | None:
        now = device.pids[number]
        return now if now != pid else None

    return _eventually(look, _PATIENCE)


def _wait(options: argparse.Namespace) -> int:
    is_so = _STATES[options.state]
    if _eventually(lambda: is_so(options.device) or None, options.timeout) is None:
        waited = f"{options.device} is not {options.state} within {options.timeout:g} s"
        print(f"tuncer: {waited}", file=sys.stderr)
        return 1
    return 0


def _eventually(look: Callable[[], Any], timeout: float | None) -> Any:
    """Look until there is something; return None when the time is over.

    It looks again and again: a name that is not there yet tells nobody of its coming.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            found = look()
        except (OSError, ActorError):  # it comes, or goes
            found = None
        if found is not None:
            return found
        if deadline is not None and time.monotonic() >= deadline:
            return None
        time.sleep(_AGAIN)


def _is_ready(name: str) -> bool:
    return bool(device_called(name).statistics())


def _is_up(name: str) -> bool:
    return device_called(name).is_up()


def _is_gone(name: str) -> bool:
    try:
        device_called(name)
    except OSError as error:
        return error.errno == errno.ENODEV
    return False


_STATES: dict[str, Callable[[str], bool]] = {"ready": _is_ready, "up": _is_up, "gone": _is_gone}
