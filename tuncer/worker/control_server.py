"""The worker's side of the control socket: it listens, accepts connections, and reads requests.

The listening descriptor outlives the worker in the fd store. Its path may be removed by others with
the whole runtime directory, and is bound again then.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from supervisor import GenServer
from supervisor.linux import process
from supervisor.lowlevel import Channel, close_all
from tuncer.protocol import control_socket, paths
from tuncer.protocol.fd_store_keys import CONTROL
from tuncer.worker.fd_store import FdStore

Answer: TypeAlias = Callable[[Channel, list[Any]], bool]
"""Answers a request; returns False if the peer has no room for the answer."""

_LATER = 1.0  # seconds until connections that could not be accepted are tried again


class ControlServer:
    """Serves the connections that are no subscriptions (yet)."""

    def __init__(
        self, worker: GenServer, name: str, store: FdStore, first_path: Callable[[], Path]
    ) -> None:
        """Listen, where the worker before this one did, if there was any. Accept nothing yet.

        Args:
            worker: has the loop.
            name: the device's.
            store: keeps the listening descriptor.
            first_path: returns where to listen otherwise.

        Raises:
            OSError: EBUSY, a living worker has this device already.
        """
        self._worker = worker
        self._name = name
        self._store = store
        self._connections: dict[int, Channel] = {}
        fd = store.get_or_make(CONTROL, lambda: control_socket.listen(first_path(), name))
        self._listener = socket.socket(fileno=fd)
        self.path = Path(self._listener.getsockname())
        """The path of the socket. It stays, though the device may be moved or renamed."""
        if not paths.is_open(self.path):  # it was removed while no worker ran
            self._listen_again()
        paths.link_worker(self.path, process(os.getpid()))

    def begin(self, answer: Answer) -> None:
        """Accept connections, and have their requests answered."""
        self._answer = answer
        self._worker.add_reader(self._listener.fileno(), self._accept)

    def _listen_again(self) -> None:
        paths.directory()
        fd = control_socket.listen(self.path, self._name)
        self._listener.close()
        self._listener = socket.socket(fileno=fd)
        self._store.put(CONTROL, fd)

    def restore(self) -> None:
        """Listen again, if the path was removed. Connections that wait are accepted first.

        Raises:
            OSError: the path cannot be bound.
        """
        if paths.is_open(self.path):
            return
        self._accept()
        self._worker.remove_reader(self._listener.fileno())
        try:
            self._listen_again()
        finally:  # also when it listens at the path, and could not store the descriptor
            self._worker.add_reader(self._listener.fileno(), self._accept)
        paths.link_worker(self.path, process(os.getpid()))

    def _accept(self) -> None:
        try:
            while (peer := control_socket.accept(self._listener)) is not None:
                self._serve(peer)
        except OSError as error:
            # Most likely this process has too many descriptors. The socket stays readable, and
            # would wake the loop again at once, so it is polled again a little later.
            self._worker.log.warning(
                "%s: its control socket accepts no connection: %s", self._name, error
            )
            self._worker.remove_reader(self._listener.fileno())
            self._worker.call_later(_LATER, self._accept_again)

    def _serve(self, peer: Channel) -> None:
        try:
            self._worker.add_reader(peer.fileno(), functools.partial(self._on_readable, peer))
        except OSError:
            peer.close()
            raise
        self._connections[peer.fileno()] = peer

    def _accept_again(self) -> None:
        self._worker.add_reader(self._listener.fileno(), self._accept)

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
            answered = self._answer(peer, message)
        except OSError as error:  # most likely there are too many descriptors
            problem = f"the device's worker could not do it: {error.strerror or error}"
            self._worker.log.warning("%s: %s", self._name, problem)
            answered = peer.offer(OSError(error.errno, problem, self._name))
        if not answered:  # it does not read what it is answered
            self._drop(peer)

    def release(self, peer: Channel) -> None:
        """Hand a connection over to somebody else, who reads it from now on."""
        del self._connections[peer.fileno()]
        self._worker.remove_reader(peer.fileno())

    def _drop(self, peer: Channel) -> None:
        if self._connections.pop(peer.fileno(), None) is not None:
            self._worker.remove_reader(peer.fileno())
            peer.close()
