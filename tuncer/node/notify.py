"""Telling a service manager how it goes, as sd_notify(3) does: a datagram of lines."""

from __future__ import annotations

import logging
import os
import socket
import time

log = logging.getLogger("tuncer")


def notify(**told: str | int) -> bool:
    """Tell systemd something, if it listens; return whether it does.

    Args:
        **told: as of sd_notify(3): READY=1, STATUS="...", STOPPING=1, RELOADING=1, WATCHDOG=1.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    lines = "\n".join(f"{key}={value}" for key, value in told.items())
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(1.0)
            sender.sendto(lines.encode(), f"\0{address[1:]}" if address[0] == "@" else address)
    except OSError as error:
        log.warning("the service manager at %s is not told of %s: %s", address, list(told), error)
        return False
    return True


def reloading() -> bool:
    """Tell systemd that a reload begins: READY=1 ends it."""
    return notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)


def watchdog_period() -> float | None:
    """Return within how many seconds systemd wants to hear WATCHDOG=1; None: it does not."""
    told = os.environ.get("WATCHDOG_USEC", "")
    return int(told) / 1e6 if told.isdecimal() and int(told) else None
