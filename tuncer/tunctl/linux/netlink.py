"""rtnetlink, in the network namespace where the device is. Source: rtnetlink(7)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from tuncer.tunctl.errors import check_name, explain
from tuncer.tunctl.linux import ioctls, netns

Target: TypeAlias = int | str
"""A device: the descriptor attached to it, or its name in the present network namespace."""


@dataclass(frozen=True)
class Session:
    """A conversation with the kernel about one device."""

    ip: Any
    """``pyroute2.IPRoute``, of the device's network namespace."""
    index: int
    name: str

    @property
    def link(self) -> Any:
        """What the kernel says of the device, asked now."""
        return self.ip.get_links(self.index)[0]


@contextlib.contextmanager
def session(target: Target, operation: str) -> Iterator[Session]:
    """Talk about a device, from within its network namespace.

    Args:
        target: the device.
        operation: what is tried, for the errors.

    Raises:
        OSError: ENODEV there is no such device, EBADFD it was deleted; whatever the kernel
            answers, with a sentence on how to mend it.
    """
    with located(target) as name, contextlib.ExitStack() as stack:
        index = index_of(name)
        stack.enter_context(_explained(operation, name))
        yield Session(stack.enter_context(IPRoute()), index, name)


@contextlib.contextmanager
def located(target: Target) -> Iterator[str]:
    """Be in the device's network namespace meanwhile; give its name there.

    Raises:
        TypeError: neither a descriptor nor a name.
        OSError: EINVAL the name is empty, EBADFD the device was deleted, EPERM it is in another
            network namespace, which may not be entered.
    """
    if isinstance(target, str):
        if not target:
            raise OSError(errno.EINVAL, "which device? the name is empty", target)
        yield check_name(target)
        return
    if isinstance(target, bool) or not isinstance(target, int):
        raise TypeError(f"a device is a descriptor or a name, not {target!r}")
    name, elsewhere = ioctls.interface(target)[0], _elsewhere(target)
    try:
        with netns.visited(elsewhere):
            yield name
    finally:
        if elsewhere is not None:
            os.close(elsewhere)


def namespace(target: int) -> int | None:
    """Return a descriptor of the network namespace where a device is; None: nobody here can tell.

    Source: TUNGETDEVNETNS, Linux 5.2, which asks for CAP_NET_ADMIN over that namespace.
    """
    try:
        return fcntl.ioctl(target, ioctls.TUNGETDEVNETNS)
    except OSError:
        return None


def _elsewhere(target: int) -> int | None:
    theirs = namespace(target)
    if theirs is not None and netns.inode(theirs) == netns.inode():
        os.close(theirs)
        return None
    return theirs


@contextlib.contextmanager
def _explained(operation: str, device: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise explain(error.code, operation, device) from error
    except struct.error as error:  # a number that the kernel's field has no room for
        raise explain(errno.EINVAL, operation, device) from error


def index_of(name: str) -> int:
    """Return the number of an interface of the present network namespace.

    Raises:
        OSError: ENODEV.
    """
    try:
        return socket.if_nametoindex(name)
    except OSError:
        raise explain(errno.ENODEV, "look up", name) from None
