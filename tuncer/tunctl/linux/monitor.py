"""Tells what changes of a link and its addresses. Source: rtnetlink(7), its notifications."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from tuncer.tunctl.linux import addresses, netlink, netns, rtnetlink
from tuncer.tunctl.linux.ioctls import printable
from tuncer.tunctl.linux.link import IFLA_CARRIER, IFLA_IFNAME, IFLA_MTU
from tuncer.tunctl.linux.netlink import IFF_UP
from tuncer.tunctl.linux.rtnetlink import DELADDR, DELLINK, NEWADDR, NEWLINK, Attributes

# RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR, and the group RTNLGRP_NSID.
_GROUPS = 0x1 | 0x10 | 0x100 | 1 << 27
_INT = struct.Struct("=i")
_PEER, _LOCAL = 1, 2  # IFA_ADDRESS, IFA_LOCAL
_BUFFER = 1 << 16


class LinkState(NamedTuple):
    """What is told of a link."""

    name: str
    up: bool
    carrier: bool
    mtu: int
    addresses: frozenset[str]
    """Each with its prefix, such as "10.0.0.1/24"."""


ChangedValue = bool | int | str | None


class Change(NamedTuple):
    """One thing that has changed."""

    kind: str
    """"up", "down", "carrier", "mtu", "name", "address_added" or "address_removed"."""
    value: ChangedValue = None
    """The carrier, the MTU, the name or the address, as it is now; None for up and down."""


class Monitor:
    """Listens for one interface, in the network namespace where it is now."""

    def __init__(self, target: int) -> None:
        self._target = target
        while True:
            place = netlink.place(target)
            self._socket, self._namespace = _listen(target)
            try:
                self._socket.bind((0, _GROUPS))
                # What is told from here on is followed, though the look may have seen some of it.
                self.state = look(target)
                if netlink.place(target) == place:
                    break
            except BaseException:
                self._socket.close()
                raise
            self._socket.close()  # it was moved meanwhile
        self._index = place[1]

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def changes(self) -> Iterator[Change]:
        """Yield what has changed since, in its order, and keep ``state`` up with it.

        Raises:
            OSError: ENODEV the interface has gone from this namespace: it was deleted or moved;
                ENONET the namespace itself has, and all in it is about to.
        """
        while True:
            try:
                data, ancillary, *_ = self._socket.recvmsg(_BUFFER, socket.CMSG_SPACE(_INT.size))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # Some were dropped: what they told is seen by looking.
                self._discard()
                before, self.state = self.state, look(self._target)
                yield from difference(before, self.state)
                continue
            if self._namespace is not None and _namespace_of(ancillary) != self._namespace:
                if _ends(data, self._namespace):
                    raise OSError(errno.ENONET, "the network namespace has gone", self.state.name)
                continue
            for message in messages(data, self._index):
                if message[0] == DELLINK:
                    raise OSError(errno.ENODEV, "the interface has gone", self.state.name)
                before, self.state = self.state, follow(self.state, message)
                yield from difference(before, self.state)

    def _discard(self) -> None:
        while True:
            try:
                self._socket.recv(_BUFFER)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def _listen(target: int) -> tuple[socket.socket, int | None]:
    """Return a socket that receives the notifications of a device's network namespace.

    A socket that is opened in another namespace would keep that namespace alive. So the socket is
    opened in the present one, if permitted, and receives the notifications of all namespaces that
    have a number here. The second result is the number of the device's namespace; None: the socket
    is in that namespace itself.
    """
    here = netns.inode()
    with netlink.located(target):
        there = netns.present() if netns.inode() != here else None
    if there is None:
        return _new_socket(), None
    try:
        made = _new_socket()
        try:
            made.setsockopt(rtnetlink.SOL_NETLINK, rtnetlink.LISTEN_ALL_NSID, 1)
            return made, rtnetlink.namespace_number(there)
        except (OSError, rtnetlink.NetlinkError):
            made.close()
    finally:
        os.close(there)
    with netlink.located(target):
        return _new_socket(), None


def _new_socket() -> socket.socket:
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    return socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)


def look(target: int) -> LinkState:
    """Return the state of a device's link, now.

    Raises:
        OSError: EBADFD it was deleted, ENODEV.
    """
    with netlink.session(target, "look at the link") as kernel:
        link = kernel.link
        present = frozenset(str(found.interface) for found in addresses.present(kernel))
    return LinkState(
        printable(kernel.name),
        bool(link.flags & IFF_UP),
        bool(link.attributes.number(IFLA_CARRIER)),
        link.attributes.number(IFLA_MTU) or 0,
        present,
    )


# -- pure ------------------------------------------------------------------------------------------


def _namespace_of(ancillary: list[tuple[int, int, bytes]]) -> int | None:
    """Return the number of the namespace that a datagram is of; None: the socket's own."""
    kind = (rtnetlink.SOL_NETLINK, rtnetlink.LISTEN_ALL_NSID)
    found = [content for *told, content in ancillary if tuple(told) == kind]
    return None if not found else int(_INT.unpack(found[0])[0])


def _ends(data: bytes, namespace: int) -> bool:
    """Tell whether a datagram of the socket's own namespace says that another one has gone."""
    for kind, _, _, content in rtnetlink.split(data):
        if kind == rtnetlink.DELNSID:
            told = rtnetlink.parsed(kind, content).attributes.get(rtnetlink.NETNSA_NSID)
            if told == _INT.pack(namespace):
                return True
    return False


Message = tuple[int, dict[str, Any]]
"""A type, RTM_*, and the fields of a ``LinkState`` that it tells, or an ``address``."""


def messages(data: bytes, index: int) -> list[Message]:
    """Return what the messages in a datagram tell of an interface."""
    found: list[Message] = []
    for kind, _, _, content in rtnetlink.split(data):
        if kind in {NEWLINK, DELLINK} and len(content) >= rtnetlink.LINK.size:
            (family, _, which, flags, _), attributes = rtnetlink.parsed(kind, content)[1:]
            # A bridge tells of its ports by the same messages, of its own family.
            if which == index and family == socket.AF_UNSPEC:
                found.append((kind, _link(flags, attributes)))
        elif kind in {NEWADDR, DELADDR} and len(content) >= rtnetlink.ADDRESS.size:
            (_, prefix, _, _, which), attributes = rtnetlink.parsed(kind, content)[1:]
            if which == index:
                packed = attributes.get(_LOCAL) or attributes.get(_PEER, b"")
                found.append((kind, {"address": f"{ipaddress.ip_address(packed)}/{prefix}"}))
    return found


def _link(flags: int, attributes: Attributes) -> dict[str, Any]:
    told: dict[str, Any] = {"up": bool(flags & IFF_UP)}
    if IFLA_IFNAME in attributes:
        told["name"] = attributes.text(IFLA_IFNAME)
    if IFLA_MTU in attributes:
        told["mtu"] = attributes.number(IFLA_MTU)
    if IFLA_CARRIER in attributes:
        told["carrier"] = bool(attributes.number(IFLA_CARRIER))
    return told


def follow(state: LinkState, message: Message) -> LinkState:
    """Return the state after a message."""
    kind, told = message
    if kind == NEWADDR:
        return state._replace(addresses=state.addresses | {told["address"]})
    if kind == DELADDR:
        return state._replace(addresses=state.addresses - {told["address"]})
    return state._replace(**told)


def difference(before: LinkState, after: LinkState) -> list[Change]:
    """Return the changes that lead from one state to another."""
    found = []
    if after.name != before.name:
        found.append(Change("name", after.name))
    if after.mtu != before.mtu:
        found.append(Change("mtu", after.mtu))
    found += [Change("address_removed", a) for a in sorted(before.addresses - after.addresses)]
    if after.up != before.up:
        found.append(Change("up" if after.up else "down"))
    if after.carrier != before.carrier:
        found.append(Change("carrier", after.carrier))
    found += [Change("address_added", a) for a in sorted(after.addresses - before.addresses)]
    return found
