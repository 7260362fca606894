"""Links: made by system calls alone, and shown by ip(8)."""

import contextlib
import json
import os
import select
from collections.abc import Callable, Iterator
from typing import Any

from processes import PATIENCE, Run

from tuncer import tunctl


@contextlib.contextmanager
def device(name: str, flags: int) -> Iterator[int]:
    """Make a device, which goes with its descriptor."""
    fd = tunctl.create(name, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def read(fd: int, wanted: Callable[[bytes], bool]) -> bytes:
    """Return the next packet that is wanted."""
    while True:
        assert select.select([fd], [], [], PATIENCE)[0]
        packet = os.read(fd, 65535)
        if wanted(packet):
            return packet


def shown(run: Run, name: str = "t0", *where: str) -> Any:
    """Return what ip(8) shows of a link and its addresses; ``where`` are options of ip(8)."""
    return json.loads(run("ip", *where, "-s", "-j", "-d", "addr", "show", "dev", name))[0]


def routes_shown(run: Run, family: str = "-4", name: str = "t0") -> list[Any]:
    """Return what ip(8) shows of the routes through a link, but those that the kernel makes."""
    found = json.loads(run("ip", family, "-j", "route", "show", "dev", name, "table", "all"))
    return [r for r in found if r.get("table") != "local" and r["dst"] != "fe80::/64"]
