"""What one process has to do with another's mailbox: calls in flight, and a watch on its life.

A connection belongs to one incarnation. ZeroMQ tells nothing of who is there (a connect and a
send to a dead path succeed), so that is asked of the pidfd. Callers do their own input and
output: the thread that waits leads, polls for all and reads for all; the others wait for it.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any

import zmq

from supervisor import linux, runtime, wire
from supervisor.errors import (
    KILLED,
    CallTimeout,
    MailboxFull,
    NoProcess,
    Reason,
    reason_of,
)
from supervisor.linux import Process
from supervisor.pending import Pending, Stream
from supervisor.protocol import (
    CALL,
    CAST,
    DOWN,
    EVENT,
    EVENTS,
    FORGET,
    IN_FLIGHT,
    INFO,
    MAILBOX,
    MARK,
    SEEN,
)
from supervisor.room import Room

_NEVER = 2**31 - 1  # ms. RECONNECT_IVL=-1 would drop what was received and not yet read.
_FAREWELL = 2000  # ms that what was sent may take to leave when this process ends
_COUNTED = (CALL, CAST, INFO)  # the messages that a mailbox's bound is about
_DISCONNECT = 1000  # ms at most from a process's end to its socket's


class Connection:
    """The way from this process to one other."""

    def __init__(self, process: Process) -> None:
        try:
            self.pidfd = linux.open_process(process)
        except ProcessLookupError as error:
            raise NoProcess(str(error)) from None
        self.process = process
        self.dead = False
        self._pending: dict[int, Pending] = {}
        self._calls = 0
        self._numbers = itertools.count(1)
        # A signal's handler may ask something while its own thread is in the middle of this.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._made_by = os.getpid()
        self._closed = False
        self._last_words: Reason | None = None
        self._leader = 0  # the thread that polls for all
        self._drained = True
        self._room = Room()
        self._watchers = 0
        self._waiters: list[Callable[[], None]] = []
        self._poke = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._socket = _context().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.RECONNECT_IVL, _NEVER)
        self._socket.setsockopt(zmq.LINGER, _FAREWELL)
        self._socket.setsockopt(zmq.SNDHWM, 2 * MAILBOX)  # the bound is kept by Room
        # Only the end of the connection says that nothing more will come: see _bury.
        self._ending = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED)
        self._socket.connect(f"ipc://{runtime.mailbox(process)}")
        self._poller = self._new_poller()
        self._life = select.poll()
        self._life.register(self.pidfd, select.POLLIN)

    def _new_poller(self) -> select.poll:
        poller = select.poll()
        for fd in (self.fileno(), self.pidfd, self._poke):
            poller.register(fd, select.POLLIN)
        return poller

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there may be something to read."""
        return int(self._socket.getsockopt(zmq.FD))

    def send(self, kind: int, term: Any, deadline: float) -> None:
        """Send a message that needs no answer.

        Raises:
            NoProcess: the actor has ended.
            MailboxFull: there was no room until the deadline, of ``time.monotonic``.
            TypeError, ValueError: the term cannot travel.
        """
        data = wire.pack_message(kind, 0, term)
        with self._lock:
            self._send(data, deadline, counted=kind in _COUNTED)

    def ask(
        self, kind: int, term: Any, deadline: float, pending: Pending | None = None, chain: Any = ()
    ) -> Pending:
        """Send a request.

        Args:
            kind: of ``protocol``.
            term: what is asked.
            deadline: until when it may wait for room.
            pending: what takes the answer.
            chain: who waits for it, as of ``waiting.encode``.

        Raises:
            NoProcess, MailboxFull, TypeError, ValueError: as ``send``.
        """
        number = next(self._numbers)
        data = wire.pack_message(kind, number, term, chain)
        pending = pending or Pending(kind == CALL)
        with self._lock:
            while kind == CALL and self._calls >= IN_FLIGHT and not self.dead:
                self._step(deadline, MailboxFull(f"{IN_FLIGHT} calls are under way already"))
            pending.number = number
            self._pending[number] = pending
            self._calls += pending.is_call
            try:
                self._send(data, deadline, counted=kind in _COUNTED)
            except BaseException:
                self._give_up(number)
                pending.number = 0
                raise
        return pending

    def forget(self, pending: Pending) -> None:
        """Wait no longer for an answer: if it comes, it is dropped."""
        with self._lock:
            self._give_up(pending.number)

    def withdraw(self, pending: Pending, deadline: float) -> None:
        """Wait no longer for an end or for events, and tell the actor so. Raises as ``send``."""
        with self._lock:
            self._give_up(pending.number)
            self._send(wire.pack([FORGET, pending.number, None]), deadline, counted=False)

    def _give_up(self, number: int) -> None:
        pending = self._pending.pop(number, None)
        if pending is not None:
            self._calls -= pending.is_call

    def wait(self, pending: Pending, deadline: float) -> None:
        """Wait until a request is answered; the actor's end is an answer.

        Raises:
            CallTimeout: it was not until the deadline. It may still be.
        """
        self._not_in_a_fork()
        with self._lock:
            while pending.answer is None:
                self._step(deadline, CallTimeout("no reply in time"), pending)

    def wait_for_event(self, stream: Stream, deadline: float) -> None:
        """Wait until a stream has an event or is at its end.

        Raises:
            CallTimeout: neither until the deadline.
        """
        self._not_in_a_fork()
        with self._lock:
            while not stream.events and stream.answer is None:
                self._step(deadline, CallTimeout("no event in time"))

    def watch(self, by: int) -> None:
        """Have a loop, by 1, read what comes, by ``serve`` whenever a descriptor is readable.

        By -1: no longer.
        """
        with self._lock:
            self._watchers += by
            self._drain()

    def when_changed(self, callback: Callable[[], None]) -> None:
        """Call back, once, from any thread, when an answer has come: there may be room again."""
        with self._lock:
            self._waiters.append(callback)

    def wait_for_end(self, deadline: float) -> None:
        """Wait until the process has ended.

        Raises:
            CallTimeout: it has not until the deadline.
        """
        with self._lock:
            while not self.dead:
                self._step(
                    deadline, CallTimeout(f"process {self.process.pid} has not ended in time")
                )

    def serve(self) -> None:
        """Read what has come, without waiting."""
        self._not_in_a_fork()
        with self._lock:
            if self._closed:
                return
            self._drain()
            if not self.dead and self._life.poll(0):
                self._bury()
            self._changed.notify_all()

    def _not_in_a_fork(self) -> None:
        if os.getpid() != self._made_by:
            raise RuntimeError(
                f"process {self._made_by} has asked this: its fork cannot wait for the answer"
            )

    def _send(self, data: bytes, deadline: float, counted: bool) -> None:
        room, size = self._room, len(data)
        while True:
            if self._ended():
                raise NoProcess(f"process {self.process.pid} has ended")
            if not counted or room.has(size):
                try:
                    self._socket.send(data, zmq.NOBLOCK)
                    break
                except zmq.Again:
                    pass
            who = f"process {self.process.pid}"
            self._step(deadline, MailboxFull(f"{who} does not serve its mailbox, which is full"))
        if counted and room.take(size):
            self._mark()
        # A send may take the edge of the socket's descriptor that a poll would wait for.
        self._drained = False
        if self._leader or self._watchers:
            self._drain()
        if self._leader:
            os.eventfd_write(self._poke, 1)
            self._changed.notify_all()

    def _mark(self) -> None:
        """Ask to be told when everything up to here has been served."""
        number = next(self._numbers)
        try:
            self._socket.send(wire.pack([MARK, number, None]), zmq.NOBLOCK)
        except zmq.Again:
            return  # with the next message
        marked = self._room.mark()
        self._pending[number] = Pending(False, lambda _: self._room.give(*marked))

    def _step(self, deadline: float, late: Exception, wanted: Pending | None = None) -> None:
        """Wait for one event, as the leader or for it. The lock is held, but not meanwhile."""
        if not self._drained:
            self._drain(wanted)
            return  # that may have been what is waited for
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise late
        me = threading.get_ident()
        if self._leader not in {0, me}:
            self._changed.wait(min(remaining, threading.TIMEOUT_MAX))
            return
        before, self._leader = self._leader, me
        self._changed.release()
        try:
            # A signal's handler runs within the poll of its thread, and needs one of its own.
            poller = self._new_poller() if before else self._poller
            events = poller.poll(min(remaining * 1000 + 1, linux.LONGEST_POLL))
        finally:
            self._changed.acquire()
            self._leader = before
            self._changed.notify_all()
        self._drain(wanted)
        for fd, _ in events:
            if fd == self._poke:
                os.eventfd_read(self._poke)
            elif fd == self.pidfd and not self.dead:
                self._bury()

    def _drain(self, wanted: Pending | None = None) -> None:
        """Read until there is nothing, or the wanted answer is there."""
        self._drained = False
        while True:
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                self._drained = True
                return
            kind, number, term = wire.unpack(data)
            if kind == DOWN:  # the reason of an end that is still to come
                self._last_words = term
                continue
            if kind == EVENT:
                stream = self._pending.get(number)
                if isinstance(stream, Stream):
                    stream.feed(*term)
                    self._acknowledge(stream)
                continue
            pending = self._pending.pop(number, None)
            if pending is not None:
                self._calls -= pending.is_call
                pending.settle(kind, term)
                self._tell_waiters()
                if self._leader not in {0, threading.get_ident()}:
                    # It may be about to poll for what has just been read here.
                    os.eventfd_write(self._poke, 1)
                if pending is wanted:
                    return

    def _acknowledge(self, stream: Stream) -> None:
        """Say how much of a stream has been received: there may be more of it."""
        if stream.received % (EVENTS // 4) == 0:
            with contextlib.suppress(zmq.Again):  # then the next time
                self._socket.send(wire.pack([SEEN, stream.number, stream.received]), zmq.NOBLOCK)

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for callback in waiters:
            callback()

    def _bury(self) -> None:
        """The process has ended: take what it had sent, then answer what is open.

        Its last replies may be in the kernel or in libzmq's thread when the pidfd fires. When
        the connection's end has been reported, they have all been read.
        """
        self._ending.poll(_DISCONNECT)
        self._drain()
        self.dead = True
        reason = self._status() if self._last_words is None else self._last_words
        open_requests, self._pending = self._pending, {}
        for pending in open_requests.values():
            pending.settle(DOWN, reason)
        self._tell_waiters()
        self._poller.unregister(self.pidfd)
        # If it was killed, nobody else may be there to do it; no other process has this path.
        runtime.mailbox(self.process).unlink(missing_ok=True)

    def _status(self) -> Reason:
        """Return why the process ended, as far as its status tells."""
        status = linux.exit_status(self.pidfd, self.process.pid)
        return KILLED if status is None else reason_of(os.waitstatus_to_exitcode(status))

    def alive(self) -> bool:
        """Tell whether the process still runs."""
        with self._lock:
            return not self._ended()

    def idle(self) -> bool:
        """Tell whether the process has ended, and nobody waits for anything of it."""
        with self._lock:
            return self._ended() and not (self._pending or self._leader or self._watchers)

    def _ended(self) -> bool:
        return self.dead or bool(self._life.poll(0))

    def close(self, linger: int) -> None:
        """Give the connection up; what was sent has so many milliseconds to leave."""
        with self._lock:
            linger = 0 if self._ended() else linger
            self.dead = self._closed = True
        self._socket.disable_monitor()
        self._ending.close(0)
        self._socket.close(linger)
        for fd in (self.pidfd, self._poke):
            with contextlib.suppress(OSError):
                os.close(fd)


class _Table:
    """This process's connections. A forked child starts with none."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # as a connection's: for handlers of signals
        self.connections: dict[Process, Connection] = {}
        self.context: zmq.Context[zmq.Socket[bytes]] | None = None


_table = _Table()


def _after_fork() -> None:
    global _table  # noqa: PLW0603
    # What the parent's threads hold must neither be used nor finalised here, not even when the
    # interpreter ends: one reference more than there are keeps it for ever.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_table))
    _table = _Table()


os.register_at_fork(after_in_child=_after_fork)


def _context() -> zmq.Context[zmq.Socket[bytes]]:
    if _table.context is None:
        _table.context = zmq.Context(1)
        _table.context.set(zmq.MAX_SOCKETS, 65535)
    return _table.context


def connect(process: Process) -> Connection:
    """Return this process's connection to another.

    Raises:
        NoProcess: it has ended.
    """
    table = _table
    connection = table.connections.get(process)
    if connection is not None:
        return connection
    with table.lock:
        if process not in table.connections:
            for ended in [c for c in table.connections.values() if c.idle()]:
                table.connections.pop(ended.process).close(0)
            made = Connection(process)
            if table.connections.setdefault(process, made) is not made:
                made.close(0)  # a signal's handler has made one meanwhile
        return table.connections[process]


def close_all() -> None:
    """Close every connection; what was sent to the living leaves first, within a bound."""
    with _table.lock:
        for connection in _table.connections.values():
            connection.close(_FAREWELL)
        _table.connections.clear()
        if _table.context is not None:
            _table.context.term()  # ends: every socket of it has a bounded LINGER
            _table.context = None


atexit.register(close_all)
