"""A conversation about one device, in the network namespace where that is. Source: rtnetlink(7)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

from tuncer.tunctl.errors import check_name, explain
from tuncer.tunctl.linux import ioctls, netns, rtnetlink
from tuncer.tunctl.linux.rtnetlink import Attributes, Message, NetlinkError

_SIOCGSKNS = 0x894C
_ATTEMPTS = 100

IFF_UP = 0x1
RTA_OIF = 4
"""The attribute of a route that says through which interface it is."""
FAMILY = {4: 2, 6: 10}
"""AF_INET and AF_INET6, by IP version."""

Target: TypeAlias = int | str
"""A device: the descriptor attached to it, or its name in the present network namespace."""


class Link(NamedTuple):
    """What the kernel says of a device."""

    type: int
    """ARPHRD_*."""
    flags: int
    """IFF_*."""
    attributes: Attributes
    """IFLA_*."""

    def told(self, attribute: int) -> bytes:
        """Return an attribute that Linux always tells.

        Raises:
            NetlinkError: EOPNOTSUPP, this kernel does not (gVisor's).
        """
        try:
            return self.attributes[attribute]
        except KeyError:
            raise NetlinkError(errno.EOPNOTSUPP) from None


@dataclass(frozen=True)
class Session:
    """A conversation with the kernel about one device."""

    socket: rtnetlink.Socket
    """Of the device's network namespace."""
    index: int
    name: str

    @property
    def link(self) -> Link:
        """What the kernel says of the device, asked now."""
        return self.link_of(self.index)

    def link_of(self, index: int) -> Link:
        """What the kernel says of an interface of the same network namespace."""
        asked = rtnetlink.LINK.pack(0, 0, index, 0, 0)
        found = self.socket.get(rtnetlink.GETLINK, asked)
        _, kind, _, flags, _ = found.head
        return Link(kind, flags, found.attributes)

    def set_link(self, wanted: bytes) -> None:
        """Change attributes of the device."""
        self._set_link(0, 0, wanted)

    def set_up(self, up: bool) -> None:
        """Bring the device up, or take it down."""
        self._set_link(IFF_UP if up else 0, IFF_UP, b"")

    def _set_link(self, flags: int, mask: int, wanted: bytes) -> None:
        head = rtnetlink.LINK.pack(0, 0, self.index, flags, mask)
        self.socket.change(rtnetlink.NEWLINK, head, wanted)

    def delete(self) -> None:
        """Delete the device."""
        self.socket.change(rtnetlink.DELLINK, rtnetlink.LINK.pack(0, 0, self.index, 0, 0), b"")

    def addresses(self, version: int) -> list[Message]:
        """Return the device's addresses of an IP version, in the kernel's order."""
        family = FAMILY[version]
        asked = rtnetlink.ADDRESS.pack(family, 0, 0, 0, self.index)
        return [
            found
            for found in self.socket.dump(rtnetlink.GETADDR, asked)
            if (found.head[0], found.head[4]) == (family, self.index)
        ]

    def routes(self, version: int) -> list[Message]:
        """Return the routes of an IP version through the device, in the kernel's order."""
        family = FAMILY[version]
        asked = rtnetlink.ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
        through = rtnetlink.u32(RTA_OIF, self.index)
        return [
            found
            for found in self.socket.dump(rtnetlink.GETROUTE, asked, through)
            if (found.head[0], found.attributes.number(RTA_OIF)) == (family, self.index)
        ]


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
    with located(target) as found, contextlib.ExitStack() as stack:
        name, index = _index(target, found)
        stack.enter_context(_explained(operation, name))
        yield Session(stack.enter_context(rtnetlink.Socket()), index, name)


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
    name = ioctls.interface(target)[0]
    elsewhere = _elsewhere(target, name)
    try:
        with netns.visited(elsewhere):
            yield name
    finally:
        if elsewhere is not None:
            os.close(elsewhere)


def place(target: Target) -> tuple[int, int]:
    """Return where a device is: the inode of its network namespace, and its number there.

    Raises:
        OSError: EBADFD it was deleted, ENODEV, EPERM.
    """
    with located(target) as name:
        return netns.inode(), _index(target, name)[1]


def _index(target: Target, name: str) -> tuple[str, int]:
    """Return a device's name and number; ask anew if it is renamed between the two questions."""
    for _ in range(_ATTEMPTS):
        try:
            index = index_of(name)
        except OSError as error:
            if isinstance(target, str) or error.errno != errno.ENODEV:
                raise
            index = 0
        present = name if isinstance(target, str) else ioctls.interface(target)[0]
        if index and present == name:
            return name, index
        name = present
    raise explain(errno.ENODEV, "look up", name)


def _elsewhere(target: int, name: str) -> int | None:
    """Return a descriptor of the network namespace where a device is, unless it is this one.

    Source: TUNGETDEVNETNS, Linux 5.2, which asks for CAP_NET_ADMIN over that namespace.

    Raises:
        PermissionError: it is in another one, and nothing else of its name here is to be touched.
    """
    try:
        theirs = fcntl.ioctl(target, ioctls.TUNGETDEVNETNS)
    except OSError as error:
        # EPERM, though this process has CAP_NET_ADMIN here: so the device is in another namespace.
        if error.errno == errno.EPERM and administers():
            problem = "the device is in another network namespace, which this user does not own"
            raise PermissionError(errno.EPERM, problem, name) from None
        # An older kernel; or a user without privileges, who may look, and can change nothing.
        if error.errno in {errno.EPERM, errno.EINVAL, errno.ENOTTY}:
            return None
        raise explain(error.errno or 0, "ask for the network namespace", name) from error
    if netns.inode(theirs) == netns.inode():
        os.close(theirs)
        return None
    return theirs


def administers() -> bool:
    """Tell whether this process has CAP_NET_ADMIN over the present network namespace.

    Source: SIOCGSKNS of ``linux/sockios.h``, which asks for it.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            os.close(fcntl.ioctl(any_socket, _SIOCGSKNS))
        except OSError:
            return False
    return True


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
    except OSError as error:
        code = error.errno or errno.ENODEV  # of an unknown name it says nothing
        raise explain(errno.ENODEV if code == errno.ENXIO else code, "look up", name) from None
