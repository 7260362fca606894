"""Devices of tests."""

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

from processes import Run, kill

import tuncer
from tuncer import Device, Flag

TUN, TAP = Flag.TUN | Flag.NO_PI, Flag.TAP | Flag.NO_PI
ADDRESS, OTHER = "10.9.0.1", "10.9.0.2"
"""A device's address, and one that is reached through it."""
LOOP = "ip6 protochain 17 or udp port 53"
"""A filter with a loop, which the kernel does not take: it runs in the worker."""


def make(name: str = "lab0", flags: int = TUN, **options: Any) -> Device:
    """Create a device with an address. The kernel sends no packets of its own to it."""
    dev = tuncer.create(name, flags, **options)
    dev.up(f"{ADDRESS}/24", link_local=False)
    return dev


def neighbour(run: Run, name: str = "lab0") -> None:
    """Let the kernel know the MAC address of ``OTHER`` on a TAP, which nobody answers for."""
    run("ip", "neigh", "add", OTHER, "lladdr", "02:00:00:00:00:02", "dev", name)


def kill_worker(dev: Device) -> None:
    """Kill the worker, and wait until it has ended."""
    kill(dev.pid)


def kill_at_once(dev: Device, queue: int = 0) -> None:
    """Kill the worker of a queue, while it serves; do not wait for its end."""
    while True:
        with contextlib.suppress(ProcessLookupError):  # it was killed before, and is just ending
            os.kill(dev.pids[queue], signal.SIGKILL)
            return


def root_of(dev: Device) -> int:
    """Return the pid of the root supervisor of a device with one queue."""
    return int(Path(f"/proc/{dev.pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def queues(run: Run, name: str = "lab0") -> tuple[int, int]:
    """Return how many queues of a device are attached, and how many detached."""
    (link,) = json.loads(run("ip", "-j", "-d", "link", "show", "dev", name))
    data = link["linkinfo"]["info_data"]
    return data["numqueues"], data["numdisabled"]
