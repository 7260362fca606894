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
from collections import deque
from collections.abc import Iterable
from typing import Any

from supervisor.protocol import codec, framing

SIZE = 65536
"""Bytes of a message at most."""
_MOST_DESCRIPTORS = 16


class Channel:
    """One end of the channel."""

    def __init__(self, fd: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
        self._socket.settimeout(0)
        self.unsent: deque[tuple[tuple[Any, ...], tuple[int, ...]]] = deque()
        """Messages, with duplicates of descriptors, that wait for room: see ``queue``."""

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
            ValueError: the message is too long.
        """
        while not self._sent(message, fds):
            self._wait(select.POLLOUT)

    def offer(self, *message: Any, fds: tuple[int, ...] = ()) -> bool:
        """Send a message if the other side lives and has room for it, and tell whether it had.

        For whoever serves many: one that does not read must not hold up the others.

        Raises:
            ValueError: the message is too long.
        """
        try:
            return self._sent(message, fds)
        except BrokenPipeError:
            return False

    def queue(self, *message: Any, fds: tuple[int, ...] = ()) -> bool:
        """Send a message, or keep it for ``flush`` if there is no room; tell whether it was sent.

        For what must neither be lost nor be waited for. The messages of a queue keep their order.

        Raises:
            ValueError: the message is too long.
            OSError: a descriptor is none, or none is left for a duplicate of it.
        """
        if not self.unsent and self.offer(*message, fds=fds):
            return True
        self.unsent.append((message, tuple(map(os.dup, fds))))
        return False

    def flush(self) -> bool:
        """Send what ``queue`` has kept, as far as there is room; tell whether nothing is left."""
        while self.unsent:
            message, fds = self.unsent[0]
            if not self.offer(*message, fds=fds):
                return False
            self.unsent.popleft()
            close_all(fds)
        return True

    def _sent(self, message: tuple[Any, ...], fds: tuple[int, ...]) -> bool:
        data = codec.pack(list(message))
        if len(data) > SIZE:
            raise ValueError(f"a message of {len(data)} bytes is over the channel's {SIZE}")
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:
            self._socket.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return False
        except ConnectionError as error:
            raise BrokenPipeError(*error.args) from error
        return True

    def receive(self, *, wait: bool = False) -> tuple[list[Any], list[int]] | None:
        """Return the next message and its descriptors; None if there is none yet.

        Raises:
            EOFError: the other side has ended.
            ValueError: what came is no message; descriptors that came with it are closed.
        """
        room = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
        while True:
            try:
                data, ancillary, _, _ = self._socket.recvmsg(SIZE, room, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                if not wait:
                    return None
                self._wait(select.POLLIN)
                continue
            except ConnectionResetError:  # told once, if the other side has left something unread:
                continue  # what it had sent itself is still to come
            except ConnectionError as error:
                raise EOFError("the other side has ended") from error
            fds = framing.descriptors(ancillary)
            if not data:
                close_all(fds)
                raise EOFError("the other side has ended")
            try:
                return _message(data), fds
            except ValueError:
                close_all(fds)
                raise

    def _wait(self, events: int) -> None:
        poller = select.poll()
        poller.register(self._socket, events)
        poller.poll()  # ends by a message, by room for one, or by the other side's end

    def has_hung_up(self) -> bool:
        """Tell whether the other side has closed its end."""
        return framing.has_hung_up(self._socket)

    def wait_for_room(self) -> None:
        """Wait until the other side has read something, or has ended."""
        self._wait(select.POLLOUT)

    def wait_for_end(self, seconds: float) -> None:
        """Wait until the other side has closed its end, so many seconds at most."""
        poller = select.poll()
        poller.register(self._socket, select.POLLRDHUP)
        poller.poll(seconds * 1000)

    def close(self) -> None:
        """Close this end, and forget what was not sent."""
        self._socket.close()
        while self.unsent:
            close_all(self.unsent.popleft()[1])


def _message(data: bytes) -> list[Any]:
    message = codec.unpack(data)
    if not isinstance(message, list) or not message:
        raise ValueError("a message of a channel is a list that begins with a word")
    return message


def close_all(fds: Iterable[int]) -> None:
    """Close descriptors that nobody wants."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
