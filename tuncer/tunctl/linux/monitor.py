"""Tells when a link goes up or down: rtnetlink's notifications. Source: rtnetlink(7)."""

from __future__ import annotations

import errno
import socket
import struct

_RTMGRP_LINK = 1
_RTM_NEWLINK = 16
_IFF_UP = 1
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence number, port
_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg: family, type, index, flags, change


class LinkMonitor:
    """Listens, in the network namespace where it was made, for one interface."""

    def __init__(self, index: int) -> None:
        self._index = index
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        self._socket.bind((0, _RTMGRP_LINK))

    def fileno(self) -> int:
        """Return the descriptor to poll."""
        return self._socket.fileno()

    def states(self) -> list[bool]:
        """Return what has been told since: True for up, False for down, the latest last."""
        found: list[bool] = []
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:  # some were dropped: later ones will tell
                    raise
                continue
            found += parse(data, self._index)

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()


def parse(data: bytes, index: int) -> list[bool]:
    """Return which states of an interface these messages tell. Pure."""
    found: list[bool] = []
    offset = 0
    while offset + _HEADER.size + _LINK.size <= len(data):
        length, kind, *_ = _HEADER.unpack_from(data, offset)
        _, _, which, flags, _ = _LINK.unpack_from(data, offset + _HEADER.size)
        if kind == _RTM_NEWLINK and which == index:
            found.append(bool(flags & _IFF_UP))
        offset += max(_HEADER.size, (length + 3) & ~3)
    return found
