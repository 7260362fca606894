"""Requests to the kernel about links, addresses and routes, and its answers, byte by byte.

Only what a TUN/TAP device needs. Sources: netlink(7), rtnetlink(7), and the kernel's
``linux/netlink.h``, ``rtnetlink.h``, ``if_link.h``, ``if_addr.h``.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import sys
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple, Self

NEWLINK, DELLINK, GETLINK = 16, 17, 18  # RTM_*
NEWADDR, DELADDR, GETADDR = 20, 21, 22
NEWROUTE, DELROUTE, GETROUTE = 24, 25, 26
NEWNSID, DELNSID, GETNSID = 88, 89, 90

LINK = struct.Struct("=BxHiII")
"""struct ifinfomsg: family, type, index, flags, which of them are meant."""
ADDRESS = struct.Struct("=BBBBi")
"""struct ifaddrmsg: family, prefix length, flags, scope, index."""
ROUTE = struct.Struct("=BBBBBBBBI")
"""struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type,
flags."""

NAMESPACE = struct.Struct("=Bxxx")
"""struct rtgenmsg: family."""
NETNSA_NSID, NETNSA_FD = 1, 3
SOL_NETLINK, LISTEN_ALL_NSID = 270, 8
"""Of setsockopt(2): hear of all network namespaces that have a number here (CAP_NET_BROADCAST)."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, number, port
_ATTRIBUTE = struct.Struct("=HH")  # struct rtattr: length, type
_CODE = struct.Struct("=i")
_KIND = 0x3FFF  # of an attribute, less NLA_F_NESTED and NLA_F_NET_BYTEORDER
_NESTED = 0x8000
_REQUEST, _ACK, _DUMP, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x300, 0x200, 0x400  # NLM_F_*
_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: something has changed within the list
_ERROR, _DONE = 2, 3  # NLMSG_*
_GET_STRICT_CHK = 12  # lists hold only what was asked for, since Linux 4.20
_PATIENCE = 10.0  # seconds; the kernel answers within the system call that asks
_ATTEMPTS = 20


class NetlinkError(Exception):
    """The kernel refuses a request."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code
        """An errno."""


class Attributes(dict[int, bytes]):
    """The attributes of a message, or those within one of its attributes."""

    def number(self, kind: int) -> int | None:
        """Return an unsigned integer of the host's order, if it is there."""
        value = self.get(kind)
        return None if value is None else int.from_bytes(value, sys.byteorder)

    def text(self, kind: int) -> str | None:
        """Return text, if it is there."""
        value = self.get(kind)
        return None if value is None else value.rstrip(b"\0").decode("utf-8", "backslashreplace")

    def nested(self, *kinds: int) -> Attributes:
        """Return the attributes within one, within another, ...; none if it is not there."""
        found = self
        for kind in kinds:
            found = attributes(found.get(kind, b""))
        return found


class Message(NamedTuple):
    """A message of the kernel's."""

    kind: int
    """RTM_*."""
    head: tuple[int, ...]
    """The fields of its structure, of this module."""
    attributes: Attributes


_HEADS = {NEWLINK: LINK, DELLINK: LINK, NEWADDR: ADDRESS, DELADDR: ADDRESS}
_HEADS |= {NEWROUTE: ROUTE, DELROUTE: ROUTE, NEWNSID: NAMESPACE, DELNSID: NAMESPACE}


class Socket:
    """A conversation with the kernel, in the network namespace in which this was made."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.settimeout(_PATIENCE)
        self._numbers = itertools.count(1)
        try:
            self._socket.setsockopt(SOL_NETLINK, _GET_STRICT_CHK, 1)
        except OSError:  # an older kernel: lists hold more, and are filtered here in any case
            return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def change(self, kind: int, head: bytes, wanted: bytes, *, new: bool = False) -> None:
        """Have something changed, deleted, or made.

        Args:
            kind: RTM_*.
            head: the packed structure of that kind.
            wanted: packed attributes.
            new: make what is not there, and refuse if it is.

        Raises:
            NetlinkError: the kernel refuses.
        """
        flags = _REQUEST | _ACK | (_CREATE | _EXCLUSIVE if new else 0)
        self._exchange(kind, flags, head + wanted)

    def get(self, kind: int, head: bytes) -> Message:
        """Return the one that is meant. Raises as ``change``."""
        found, _ = self._exchange(kind, _REQUEST | _ACK, head)
        return found[0]

    def dump(self, kind: int, head: bytes, wanted: bytes = b"") -> list[Message]:
        """Return all that are meant (NLM_F_DUMP). Raises as ``change``."""
        for _ in range(_ATTEMPTS):
            found, interrupted = self._exchange(kind, _REQUEST | _DUMP, head + wanted)
            if not interrupted:
                break
        return found

    def _exchange(self, kind: int, flags: int, body: bytes) -> tuple[list[Message], bool]:
        """Return the answers to a request, and whether the list has changed meanwhile."""
        number = next(self._numbers)
        size = _HEADER.size + len(body)
        self._socket.sendto(_HEADER.pack(size, kind, flags, number, 0) + body, (0, 0))
        found: list[Message] = []
        interrupted = False
        while True:
            for told, marks, answered, content in split(self._received()):
                if answered != number:
                    continue
                interrupted = interrupted or bool(marks & _INTERRUPTED)
                if told in {_ERROR, _DONE}:
                    if code := _CODE.unpack_from(content)[0]:
                        raise NetlinkError(-code)
                    return found, interrupted
                if told in _HEADS:
                    found.append(parsed(told, content))

    def _received(self) -> bytes:
        """Return the next datagram, whatever its size."""
        size = self._socket.recv_into(bytearray(1), 1, socket.MSG_PEEK | socket.MSG_TRUNC)
        return self._socket.recv(size)


def namespace_number(where: int) -> int:
    """Return the number that a network namespace has in the present one, given if need be.

    It does not keep that namespace alive.

    Raises:
        NetlinkError: the kernel refuses (CAP_NET_ADMIN).
    """
    head, asked = NAMESPACE.pack(0), u32(NETNSA_FD, where)
    with Socket() as kernel:
        try:
            kernel.change(NEWNSID, head, asked + attribute(NETNSA_NSID, _CODE.pack(-1)))
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
        found = kernel.get(GETNSID, head + asked).attributes[NETNSA_NSID]
    number: int = _CODE.unpack(found)[0]
    return number


# -- pure ------------------------------------------------------------------------------------------


def split(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield type, flags, number and content of each message in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, number, _ = _HEADER.unpack_from(data, offset)
        yield kind, flags, number, data[offset + _HEADER.size : offset + length]
        offset += max(_HEADER.size, _aligned(length))


def parsed(kind: int, content: bytes) -> Message:
    """Return a message of a kind of this module's.

    Raises:
        struct.error: it is too short.
    """
    head = _HEADS[kind]
    return Message(kind, head.unpack_from(content), attributes(content[head.size :]))


def attributes(data: bytes) -> Attributes:
    """Return what stands behind a message's structure, or in a nested attribute."""
    found = Attributes()
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _KIND] = data[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found


def attribute(kind: int, value: bytes) -> bytes:
    """Return an attribute as it travels."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(_aligned(length) - length)


def nested(kind: int, inner: bytes) -> bytes:
    """Return an attribute that holds others."""
    return attribute(kind | _NESTED, inner)


def u32(kind: int, value: int) -> bytes:
    """Return an attribute that is a number of 32 bits.

    Raises:
        struct.error: it has more.
    """
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """Return an attribute that is text."""
    return attribute(kind, os.fsencode(value))


def _aligned(length: int) -> int:
    return (length + 3) & ~3
