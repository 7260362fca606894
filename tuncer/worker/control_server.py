"""The worker's side of the control socket: it accepts connections, and answers their requests."""

from __future__ import annotations

import functools
import socket
from collections.abc import Callable
from typing import Any, TypeAlias

from supervisor.lowlevel import Channel, close_all
from tuncer.protocol import control_socket
from tuncer.worker.worker_interface import WorkerInterface

Serve: TypeAlias = Callable[[Channel, list[Any]], bool]
"""Answers a request; returns False if the peer has no room for the answer."""

_LATER = 1.0  # seconds until connections that could not be accepted are tried again


class ControlServer:
    """Serves the connections that are no subscriptions (yet)."""

    def __init__(self, worker: WorkerInterface, listener: socket.socket, serve: Serve) -> None:
        self._worker = worker
        self._serve = serve
        self._connections: dict[int, Channel] = {}
        self.listen_at(listener)

    def listen_at(self, listener: socket.socket) -> None:
        """Accept connections of a listening socket."""
        self._listener = listener
        self._worker.add_reader(listener.fileno(), self._accept)

    def stop_listening(self) -> None:
        """Accept the connections that wait, and then no more."""
        self._accept()
        self._worker.remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        try:
            while (peer := control_socket.accept(self._listener)) is not None:
                self._connections[peer.fileno()] = peer
                on_readable = functools.partial(self._on_readable, peer)
                self._worker.add_reader(peer.fileno(), on_readable)
        except OSError as error:
            # Most likely this process has too many descriptors. The socket stays readable, and
            # would wake the loop again at once, so it is polled again a little later.
            self._worker.log.warning(
                "%s: its control socket accepts no connection: %s", self._worker.name, error
            )
            self._worker.remove_reader(self._listener.fileno())
            again = functools.partial(
                self._worker.add_reader, self._listener.fileno(), self._accept
            )
            self._worker.call_later(_LATER, again)

    def _on_readable(self, peer: Channel) -> None:
        try:
            received = peer.receive()
            if received is None:
                return
            message, fds = received
            close_all(fds)
        except (EOFError, ValueError, OSError):  # or there are too many descriptors
            self._drop(peer)
            return
        try:
            served = self._serve(peer, message)
        except OSError as error:  # most likely there are too many descriptors
            self._worker.log.warning(
                "%s: a connection of its control socket is closed: %s", self._worker.name, error
            )
            served = False
        if not served:  # or it does not read what it is answered
            self._drop(peer)

    def release(self, peer: Channel) -> None:
        """Hand a connection over to somebody else, who reads it from now on."""
        del self._connections[peer.fileno()]
        self._worker.remove_reader(peer.fileno())

    def _drop(self, peer: Channel) -> None:
        if self._connections.pop(peer.fileno(), None) is not None:
            self._worker.remove_reader(peer.fileno())
            peer.close()
