"""This process's connections to mailboxes: one to each actor, and as many as descriptors allow."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import resource
import threading

from supervisor.client.caller_socket import CallerSocket
from supervisor.client.connection import Connection
from supervisor.client.lock import RLock
from supervisor.linux import Process
from supervisor.protocol import framing

_SHARE = 4  # of the descriptors that this process may have: one part is for connections
_FEW = 16  # connections that are not worth looking whether their processes have ended


class _Table:
    """This process's connections. A forked child starts with none."""

    def __init__(self) -> None:
        self.lock = RLock()  # as a connection's: for handlers of signals
        self.connections: dict[Process, Connection] = {}
        self._opened: dict[Connection, None] = {}
        """Those that have a socket, in the order in which they were opened."""
        self._limit = _FEW
        self.main_thread = threading.main_thread().ident
        self.wakeup = -1

    def connected(self, connection: Connection) -> CallerSocket:
        """Connect a socket; idle connections are closed if this process has too many.

        Raises:
            NoProcess, MailboxFull, OSError: as ``CallerSocket``.
        """
        most = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _SHARE)
        if len(self._opened) >= most:
            self._close_idle(len(self._opened) - most + 1)
        try:
            made = CallerSocket(connection.process, framing.new_socket)
        except OSError as error:
            if error.errno != errno.EMFILE or not self._close_idle(len(self._opened)):
                raise
            made = CallerSocket(connection.process, framing.new_socket)
        self._opened[connection] = None
        return made

    def closed(self, connection: Connection) -> None:
        """Take note that a connection's socket is closed."""
        self._opened.pop(connection, None)

    def forget_ended(self) -> None:
        """Forget the connections of processes that have ended, when there may be many of them."""
        if len(self.connections) < self._limit:
            return
        for connection in list(self.connections.values()):
            if not connection.alive():
                connection.serve()  # to its end
            if connection.is_over():
                self.connections.pop(connection.process).close()
        self._limit = max(_FEW, 2 * len(self.connections))

    def _close_idle(self, number: int) -> int:
        """Close so many idle connections, and return how many there were."""
        closed = 0
        for unread in (False, True):
            for connection in list(self._opened):
                if closed < number:
                    closed += connection.close_if_idle(unread=unread)
        return closed

    def open_wakeup(self) -> int:
        """Return the descriptor by which a signal's handler wakes the main thread's poll."""
        if self.wakeup < 0:
            self.wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        return self.wakeup

    def wake(self) -> None:
        """Let the poll that a handler has interrupted look again."""
        os.eventfd_write(self.open_wakeup(), 1)

    def woken(self) -> None:
        """Take note that the main thread's poll looks again."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.wakeup)

    def close(self) -> None:
        """Close what there is besides connections."""
        if self.wakeup >= 0:
            os.close(self.wakeup)
            self.wakeup = -1


_table = _Table()


def _after_fork() -> None:
    global _table
    inherited, _table = _table, _Table()
    for connection in inherited.connections.values():
        connection.leave()
    inherited.close()


os.register_at_fork(after_in_child=_after_fork)


def connect(process: Process) -> Connection:
    """Return this process's connection to another.

    Raises:
        NoProcess: it has ended.
        MailboxFull: it has not accepted a connection in time.
        OSError: its mailbox cannot be reached, or there is no descriptor.
    """
    table = _table
    connection = table.connections.get(process)
    if connection is not None and not connection.dead:
        return connection
    with table.lock:
        table.forget_ended()
        connection = table.connections.get(process)
        if connection is None or connection.dead:
            connection = table.connections[process] = Connection(process, table)
    connection.open()  # not under the table's lock: it may have to wait
    return connection


def close_all() -> None:
    """Close every connection. What was sent arrives."""
    with _table.lock:
        for connection in list(_table.connections.values()):
            connection.close()
        _table.connections.clear()
        _table.close()


atexit.register(close_all)
