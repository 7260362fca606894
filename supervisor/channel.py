"""The private channel between a process and the one that started it: words, terms, descriptors.

A pair of AF_UNIX sockets of type SOCK_SEQPACKET (unix(7)): a message arrives whole or not at
all, descriptors travel with it (SCM_RIGHTS), and the end of the other side reads as end of file.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
from typing import Any

from supervisor import wire

_SIZE = 65536  # bytes of a message at most
_MOST_DESCRIPTORS = 16


class Channel:
    """One end of the channel."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
        self._socket.setblocking(False)

    @staticmethod
    def pair() -> tuple[Channel, int]:
        """Return this process's end, and the descriptor of the other's."""
        ours, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC
        )
        return Channel(ours.detach()), theirs.detach()

    def fileno(self) -> int:
        """Return the descriptor to poll for messages."""
        return self._socket.fileno()

    def send(self, *message: Any, fds: tuple[int, ...] = ()) -> None:
        """Send a message; it waits only while the other side lives and has much to read.

        Raises:
            BrokenPipeError: the other side has ended.
        """
        data = wire.pack(list(message))
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while True:
            try:
                self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except ConnectionError as error:
                raise BrokenPipeError(*error.args) from error
            else:
                return

    def receive(self, wait: bool = False) -> tuple[list[Any], list[int]] | None:
        """Return the next message and its descriptors; None if there is none yet.

        Raises:
            EOFError: the other side has ended.
        """
        room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(_SIZE, room, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                if not wait:
                    return None
                self._wait(select.POLLIN)
                continue
            except ConnectionError as error:
                raise EOFError("the other side has ended") from error
            fds = array.array("i")
            for _, _, content in ancillary:
                fds.frombytes(content[: len(content) - len(content) % fds.itemsize])
            if not data:
                close_all(fds)
                raise EOFError("the other side has ended")
            return wire.unpack(data), list(fds)

    def _wait(self, events: int) -> None:
        poller = select.poll()
        poller.register(self._socket, events)
        poller.poll()  # ends by a message, by room for one, or by the other side's end

    def close(self) -> None:
        """Close this end."""
        self._socket.close()


def close_all(fds: array.array[int] | list[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
