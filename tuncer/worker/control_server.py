"""Those who stand at a device's door: each says what it wants, and is answered or sent away."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

from supervisor import GenServer
from supervisor.protocol.channel import Channel, close_all
from tuncer.protocol import control_socket

Serve: TypeAlias = Callable[[Channel, list[Any]], bool]
"""Answers a request; returns False if the visitor has no room for the answer."""

_LATER = 1.0  # seconds until those who could not be let in are looked after again


class Visitors:
    """The connections that a door has accepted, and that are nobody's subscription yet."""

    def __init__(self, worker: GenServer, listener: socket.socket, serve: Serve) -> None:
        self._worker = worker
        self._serve = serve
        self._inside: dict[int, Channel] = {}
        self.open_door(listener)

    def open_door(self, listener: socket.socket) -> None:
        """Let in those who come by a listening socket."""
        self._listener = listener
        self._worker.add_reader(listener.fileno(), self._open)

    def close_door(self) -> None:
        """Let in those who have come, and then nobody any more."""
        self._open()
        self._worker.remove_reader(self._listener.fileno())

    def _open(self) -> None:
        try:
            while (visitor := control_socket.accept(self._listener)) is not None:
                self._inside[visitor.fileno()] = visitor
                attend = functools.partial(self._attend, visitor)
                self._worker.add_reader(visitor.fileno(), attend)
        except OSError as error:
            # Most likely there are too many descriptors: those who wait would wake the loop
            # again at once, so look after them a little later.
            actor = self._worker._actor
            actor.log.warning("nobody can be let in by the door: %s", error)
            self._worker.remove_reader(self._listener.fileno())
            again = functools.partial(self._worker.add_reader, self._listener.fileno(), self._open)
            actor.call_later(_LATER, again)

    def _attend(self, visitor: Channel) -> None:
        try:
            received = visitor.receive()
            if received is None:
                return
            message, fds = received
            close_all(fds)
        except (EOFError, ValueError, OSError):  # or there are too many descriptors
            self._dismiss(visitor)
            return
        try:
            served = self._serve(visitor, message)
        except OSError as error:  # most likely there are too many descriptors
            self._worker._actor.log.warning("somebody at the door is sent away: %s", error)
            served = False
        if not served:  # or it does not read what it is answered
            self._dismiss(visitor)

    def let_go(self, visitor: Channel) -> None:
        """Give a connection away: somebody else listens to it from now on."""
        del self._inside[visitor.fileno()]
        self._worker.remove_reader(visitor.fileno())

    def _dismiss(self, visitor: Channel) -> None:
        if self._inside.pop(visitor.fileno(), None) is not None:
            self._worker.remove_reader(visitor.fileno())
            visitor.close()
