"""Adoption of a descriptor: a client hands it to the worker that is about to start, by a socket."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from tuncer.protocol import control_socket, paths

_WHAT = "a descriptor that is offered"
_PATIENCE = 10.0  # seconds in which the descriptor must arrive


@contextlib.contextmanager
def offered(fd: int) -> Iterator[Path]:
    """Offer a descriptor at a path, by a thread, within a ``with`` block.

    More than one worker may take it: the first may be killed at once, and followed by another.
    """
    path = paths.offer()
    listener = socket.socket(fileno=control_socket.listen(path, _WHAT))
    stop = os.eventfd(0, os.EFD_CLOEXEC)
    thread = threading.Thread(target=_give, args=(listener, stop, fd), daemon=True)
    thread.start()
    try:
        yield path
    finally:
        os.eventfd_write(stop, 1)
        thread.join()
        listener.close()
        os.close(stop)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _give(listener: socket.socket, stop: int, fd: int) -> None:
    poller = select.poll()
    for waiting in (listener.fileno(), stop):
        poller.register(waiting, select.POLLIN)
    while True:
        ready = {number for number, _ in poller.poll()}
        if stop in ready:
            return
        connection = control_socket.accept(listener)
        if connection is not None:
            connection.offer("fd", fds=(fd,))
            connection.close()


def taken(path: Path) -> int:
    """Return the descriptor that is offered at a path.

    Raises:
        OSError: nobody offers it any more.
    """
    _, fds, channel = control_socket.request(path, _WHAT, "fd", timeout=_PATIENCE, descriptors=1)
    channel.close()
    return fds[0]
