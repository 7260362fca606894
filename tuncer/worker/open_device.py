"""How a worker comes by the descriptor of its device, or of a queue of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tuncer import tunctl
from tuncer.protocol import adoption
from tuncer.tunctl import Flag, Namespace, Offload

TXQUEUELEN = 10_000
"""Packets that the kernel queues by default while a worker restarts."""
SHORT = 1000
"""The same while offload is on, when each may have 64 KiB."""

_TCP = Offload.CSUM | Offload.TSO4 | Offload.TSO6
_OFFLOADS = (
    _TCP | Offload.TSO_ECN | Offload.USO4 | Offload.USO6,  # Linux 6.2
    _TCP | Offload.TSO_ECN,
    _TCP,
    Offload.CSUM,
)
"""What is asked for, one after the other, until the kernel takes it."""


def opened(name: str, flags: int, queue: int, adopt: str | None, settings: dict[str, Any]) -> int:
    """Return a descriptor: one that is offered, of a further queue, or of the device itself.

    Args:
        name: the device's.
        flags: of ``Flag``.
        queue: 0 for the device.
        adopt: the path where one is offered.
        settings: of ``created`` or ``joined``.
    """
    if adopt is not None:
        fd = adoption.taken(Path(adopt))
        os.set_blocking(fd, False)  # whoever opened it may have read it otherwise
        if Flag.MULTI_QUEUE in tunctl.flags(fd) and not tunctl.is_attached(fd):
            tunctl.attach_queue(fd)
        return fd
    return joined(name, flags, **settings) if queue else created(name, flags, **settings)


def created(
    name: str,
    flags: int,
    *,
    persist: bool = False,
    namespace: Namespace | None = None,
    owner: int | str | None = None,
    group: int | str | None = None,
    txqueuelen: int | None = TXQUEUELEN,
    beside: int = 0,
) -> int:
    """Return the descriptor of a device; of one that existed only what differs is changed.

    Raises:
        OSError: EBUSY, more queues are attached already than ``beside``.
    """
    wanted = (tunctl.user_id(owner), tunctl.group_id(group))  # before anything is changed
    fd = tunctl.create(name, flags, namespace)
    existed = True
    try:
        if Flag.MULTI_QUEUE in Flag(flags):
            _check_alone(fd, name, 1 + beside)
        existed = Flag.PERSIST in tunctl.flags(fd)
        for number, setting in zip(wanted, (tunctl.owner, tunctl.group), strict=True):
            if number is not None and number != setting(fd):
                setting(fd, number)
        if txqueuelen is not None and not existed:
            tunctl.txqueuelen(fd, txqueuelen)
        # Last: by this a worker that is started again, after a kill, tells a device that existed.
        if persist is not False and not existed:
            tunctl.persist(fd, persist)
    except BaseException:
        if not existed:
            tunctl.persist(fd, False)
        os.close(fd)
        raise
    return fd


def granted_offload(fd: int) -> Offload:
    """Turn on as much offload as the kernel has, and return what that is."""
    for wanted in _OFFLOADS:
        try:
            tunctl.offload(fd, wanted)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return wanted
    return Offload(0)


def describe(
    fd: int,
    mtu: int | None = None,
    addresses: Iterable[str] = (),
    routes: Iterable[str] = (),
) -> None:
    """Give a new device what its specification says.

    Raises:
        OSError: the kernel refuses something of it.
    """
    if mtu is not None:
        tunctl.mtu(fd, mtu)
    for address in addresses:
        tunctl.up(fd, address)
    for network in routes:
        tunctl.add_route(fd, network)


def joined(name: str, flags: int, *, namespace: Namespace | None = None) -> int:
    """Return the descriptor of a further queue of a device that exists.

    Raises:
        OSError: ENODEV, there is no such device any more.
    """
    fd = tunctl.create(name, flags, namespace)
    if sum(tunctl.queues(fd)) == 1:
        os.close(fd)
        raise OSError(errno.ENODEV, "the device has gone before all its queues were there", name)
    return fd


def _check_alone(fd: int, name: str, queues: int) -> None:
    if sum(tunctl.queues(fd)) > queues:
        problem = "another process is attached to the device, and would get a part of its packets"
        raise OSError(errno.EBUSY, problem, name)
