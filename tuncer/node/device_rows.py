"""What commands tell of the devices of this user, as they are now."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

from supervisor import ActorError
from supervisor.tree import Exited, Node, snapshot
from tuncer.client.device import Device, known
from tuncer.protocol import paths
from tuncer.tunctl import Flag

_PATIENCE = 2.0  # seconds that a device's worker may take to answer
_BETWEEN = 0.2  # seconds between the two looks that make a rate

SILENT = "silent"
"""The state of a device whose worker does not answer."""


class Rates(NamedTuple):
    """Packets a second; the directions are the kernel's."""

    tx: float
    """The kernel sends them: they come to whoever reads the device."""
    rx: float
    """The kernel receives them: somebody writes them to the device."""


class DeviceRow(NamedTuple):
    """A device. Of one whose worker does not answer most is None."""

    name: str
    state: str
    """"up", "down", "no carrier", or "silent"."""
    kind: str | None = None
    """"tun" or "tap"."""
    flags: str | None = None
    addresses: tuple[str, ...] = ()
    mtu: int | None = None
    owner: str | None = None
    """The program that it belongs to, and its pid."""
    workers: tuple[int, ...] = ()
    """Pids, a queue each."""
    restarts: int | None = None
    rates: Rates | None = None
    read: int | None = None
    """Packets that the workers have read."""
    read_bytes: int | None = None
    sent: int | None = None
    """Packets that were written to the device, by whomever."""
    sent_bytes: int | None = None
    lost: dict[str, int] | None = None
    """Packets that did not get through, by place: see ``Device.statistics``."""
    subscribers: int | None = None
    behind: int | None = None
    """Packets that the slowest lossless subscriber is behind."""
    last_exit: Exited | None = None
    """Of the last worker that has ended."""

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON knows it."""
        rates = None if self.rates is None else self.rates._asdict()
        last = None if self.last_exit is None else vars(self.last_exit)
        return {**self._asdict(), "rates": rates, "last_exit": last}


def device_rows(roots: list[Node] | None = None, *, seconds: float = _BETWEEN) -> list[DeviceRow]:
    """Return this user's devices, in any network namespace, by name.

    One whose worker hangs holds up none of the others.

    Args:
        roots: the trees of this user's actors; by default they are looked at.
        seconds: between the two looks that make a rate; 0: there are no rates.
    """
    asked = [_Asked(path, seconds) for path in paths.control_paths()]
    roots = snapshot() if roots is None else roots
    deadline = time.monotonic() + _PATIENCE
    for one in asked:
        one.thread.join(max(0.0, deadline - time.monotonic()))
    rows = [row for one in asked if (row := one.row()) is not None]
    return sorted((_with_supervision(row, roots) for row in rows), key=lambda row: row.name)


def device_row(device: Device) -> DeviceRow:
    """Return one device, which alone is asked.

    Raises:
        OSError, ActorError: it has gone, or its worker does not answer.
    """
    return _with_supervision(_row(device, _BETWEEN), snapshot())


class _Asked:
    """A device that is asked, beside others."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._seconds = seconds
        self._name = paths.name_of(path)
        worker = paths.worker(path)
        self._pids = () if worker is None else (worker.pid,)
        self._path = path
        self._row: DeviceRow | None = None
        self.thread = threading.Thread(target=self._ask, daemon=True)
        self.thread.start()

    def _ask(self) -> None:
        with contextlib.suppress(OSError, ActorError):  # it went between two looks
            self._row = _row(known(self._path, self._name), self._seconds)

    def row(self) -> DeviceRow | None:
        """Return what is shown of it: nothing, if it has gone meanwhile."""
        if not self.thread.is_alive():
            return self._row
        return DeviceRow(self._name, SILENT, workers=self._pids)


def _row(device: Device, seconds: float) -> DeviceRow:
    before, began = device.statistics(), time.monotonic()
    flags = device.flags() & ~Flag.PERSIST
    is_up = device.is_up()
    state = "down" if not is_up else "up" if device.carrier() else "no carrier"
    time.sleep(max(0.0, began + seconds - time.monotonic()))
    counts, rates = before, None
    if seconds:
        counts, passed = device.statistics(), time.monotonic() - began
        tx, rx = (
            (counts["kernel"][f"{way}_packets"] - before["kernel"][f"{way}_packets"]) / passed
            for way in ("tx", "rx")
        )
        rates = Rates(tx, rx)
    behind = [one.behind for one in device.list_subscribers() if one.behind is not None]
    return DeviceRow(
        device.devname(),
        state,
        kind="tap" if Flag.TAP in flags else "tun",
        flags=flags.name,
        addresses=tuple(str(address.interface) for address in device.list_addresses()),
        mtu=device.mtu(),
        workers=tuple(device.pids),
        restarts=counts["restarts"],
        rates=rates,
        read=counts["packets_read"],
        read_bytes=counts["bytes_read"],
        sent=counts["packets_sent"],
        sent_bytes=counts["bytes_sent"],
        lost=counts["lost"],
        subscribers=counts["subscribers"],
        behind=max(behind, default=0),
    )


def _with_supervision(row: DeviceRow, roots: list[Node]) -> DeviceRow:
    """Add what supervisors know: whom it belongs to, and why its last worker has ended."""
    for root in roots:
        workers = [node for node in root.all() if node.pid in row.workers]
        if workers:
            ended = [node.last_exit for node in workers if node.last_exit is not None]
            last = min(ended, key=lambda one: one.ago, default=None)
            owner = ", ".join(map(program, root.owners)) or None
            return row._replace(owner=owner, last_exit=last)
    return row


def program(pid: int) -> str:
    """Return the name of a program, and its pid."""
    try:
        return f"{Path(f'/proc/{pid}/comm').read_text().strip()} {pid}"
    except OSError:
        return str(pid)
