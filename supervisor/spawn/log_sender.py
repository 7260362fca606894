"""An actor's log records on their way to the program, which collects them (``collect_logs``)."""

from __future__ import annotations

import errno
import logging
import socket

from supervisor.errors import RAISED
from supervisor.protocol import log_records

_FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)


class LogSender(logging.Handler):
    """Sends a record if there is room; otherwise it is dropped, and counted.

    When the program has ended, records go to another handler.
    """

    def __init__(self, fd: int, otherwise: logging.Handler) -> None:
        super().__init__()
        self._sock = socket.socket(fileno=fd)  # a fork keeps this descriptor, see ``inherited``
        self._otherwise = otherwise
        self._lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        try:
            data = log_records.packed(record, self._lost)
        except RAISED:  # of a value's own __repr__, say: the other handler knows what to do
            self._otherwise.handle(record)
            return
        try:
            self._sock.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            self._lost = 0
        except OSError as error:
            if error.errno in _FULL:
                self._lost += 1
            else:
                self._otherwise.handle(record)
