"""The connection of this process to another's mailbox: requests under way, and a watch on its life.

A connection belongs to one incarnation. The socket's end of file says that this has ended, after
all that it had sent. Threads share a connection as leader and followers: of those that wait, one,
the leader, polls the socket, reads, and hands each answer to the request that it belongs to. The
others wait on a condition until theirs has come, or until the leader leaves and one of them takes
its place. Two things could break in between, and the rules that follow from them are these:

- A signal's handler runs in the middle of what its own thread does here, may raise, and may call
  the same actor. So the lock is one that its thread can take again; a frame is sent by one system
  call; what is read reaches the buffer of frames within one call of C, during which no handler
  runs; and a request is known before it is sent. A handler that finds its own thread polling leads
  in its place. It may read what that thread polls for, and so it writes to a descriptor that the
  main thread, the only one in which handlers run, polls as well.
- A loop of asyncio, or of an actor, watches the socket too. It reads only when no thread leads:
  otherwise that thread would go on polling for an answer that the loop has taken.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from supervisor import linux, wire
from supervisor.caller_socket import CallerSocket
from supervisor.errors import CallTimeout, MailboxFull, NoProcess, Reason
from supervisor.linux import Process
from supervisor.pending import Pending, Stream
from supervisor.protocol import (
    CALL,
    CAST,
    CREDIT,
    DOWN,
    EVENT,
    EVENTS,
    FORGET,
    IN_FLIGHT,
    INFO,
    RAISE,
    REPLY,
    SEEN,
)

FOREVER = float("inf")
_COUNTED = (CALL, CAST, INFO)  # the messages that a mailbox's bound is about
_AGAIN = 0.01  # seconds between two tries where the kernel has no event to wait for
_GONE = (BrokenPipeError, ConnectionResetError)


class Table(Protocol):
    """What a connection needs to know of this process's others."""

    main_thread: int | None
    wakeup: int

    def connected(self, connection: Connection) -> CallerSocket:
        """Connect a socket for a connection."""

    def closed(self, connection: Connection) -> None:
        """Take note that a connection's socket is closed."""

    def open_wakeup(self) -> int:
        """Return the descriptor by which a signal's handler wakes the main thread's poll."""

    def wake(self) -> None:
        """Write to it."""

    def woken(self) -> None:
        """Read from it."""


def deadline_of(timeout: float | None) -> float:
    """Return when a timeout is over, by ``time.monotonic``."""
    return FOREVER if timeout is None else time.monotonic() + timeout


class Connection:
    """The way from this process to one other."""

    def __init__(self, process: Process, table: Table) -> None:
        """Connect.

        Raises:
            NoProcess, MailboxFull, OSError: as ``CallerSocket``.
        """
        self.process = process
        self.dead = False
        self.stalled = False
        """Whether it was the kernel that had no room for the last message."""
        self._table = table
        self._calls: dict[int, Pending] = {}
        self._others: dict[int, Pending] = {}
        """Requests that are no calls: they do not count for IN_FLIGHT."""
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._forked = False
        self._last_words: Reason | None = None
        self._leader = 0  # the thread that polls for all
        self._followers = 0
        self._watchers = 0
        self._waiters: list[Callable[[], None]] = []
        self._pollers: dict[int, select.poll] = {}
        self._socket: CallerSocket | None = None
        self._open()

    # -- the socket --------------------------------------------------------------------------------

    def _open(self) -> CallerSocket:
        """Return the socket; one that was idle, and so was closed, is connected again."""
        if self._socket is None:
            if self.dead:
                raise NoProcess(f"process {self.process.pid} has ended")
            self._pollers = {}
            self._socket = self._table.connected(self)
        return self._socket

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something to read."""
        return self._open().fileno()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._table.closed(self)

    def close_if_idle(self, unread: bool) -> bool:
        """Close the socket if nothing is waited for; tell whether it is closed.

        Args:
            unread: also if the actor has not read yet all that was sent. It will do so.
        """
        if not self._lock.acquire(blocking=False):
            return False
        try:
            idle = not (self._calls or self._others or self._leader or self._watchers)
            if idle and self._socket is not None and (unread or not self._socket.unread()):
                self._close()
            return self._socket is None
        finally:
            self._lock.release()

    # -- requests ----------------------------------------------------------------------------------

    def send(self, kind: int, term: Any, timeout: float | None) -> None:
        """Send a message that needs no answer.

        Raises:
            NoProcess: the actor has ended.
            MailboxFull: there was no room for so many seconds.
            TypeError, ValueError: the term cannot travel.
            OSError: the mailbox cannot be reached, or there is no descriptor.
        """
        data = wire.pack_message(kind, 0, term)
        if not self._sent(kind, data):
            deadline = deadline_of(timeout)
            while not self._sent(kind, data):
                self._wait_for_room(kind, data, deadline)

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
            NoProcess, MailboxFull, TypeError, ValueError, OSError: as ``send``.
        """
        number = next(self._numbers)
        data = wire.pack_message(kind, number, term, chain)
        pending = pending or Pending(kind == CALL)
        while not self._asked(kind, number, data, pending):
            self._wait_for_room(kind, data, deadline)
        return pending

    def _asked(self, kind: int, number: int, data: bytes, pending: Pending) -> bool:
        with self._lock:
            if kind == CALL and len(self._calls) >= IN_FLIGHT:
                return False
            sent = False
            try:
                pending.number = number
                (self._calls if pending.is_call else self._others)[number] = pending
                sent = self._sent(kind, data)
            finally:
                if not sent:
                    self._give_up(number)
                    pending.number = 0
            return sent

    def _sent(self, kind: int, data: bytes) -> bool:
        """Send a message if there is room for it, and tell whether there was."""
        with self._lock:
            there = self._socket or self._open()
            credit, sent = there.credit, there.sent
            self.stalled = False
            if kind in _COUNTED and (
                sent.messages >= credit.messages or sent.bytes + len(data) > credit.bytes
            ):
                return False
            try:
                there.send(data)
            except BlockingIOError as error:
                self.stalled = error.errno != errno.ETOOMANYREFS
                return False
            except _GONE:
                self._read_to_the_end()
                raise NoProcess(f"process {self.process.pid} has ended") from None
            return True

    def _wait_for_room(self, kind: int, data: bytes, deadline: float) -> None:
        """Wait until it is worth trying again.

        Raises:
            MailboxFull: it is not until the deadline.
        """
        if kind == CALL and len(self._calls) >= IN_FLIGHT:
            if not self._until(lambda: self.dead or len(self._calls) < IN_FLIGHT, deadline):
                raise MailboxFull(f"{IN_FLIGHT} calls are under way already")
            return
        if kind in _COUNTED and not self._has_credit(len(data)):
            room = self._until(lambda: self._has_credit(len(data)), deadline)
        elif self.stalled:
            room = self._step(lambda: self.dead, deadline, select.POLLIN | select.POLLOUT)
        else:  # nobody tells when descriptors under way have arrived
            again = time.monotonic() + _AGAIN
            room = self._step(lambda: self.dead, min(again, deadline)) or again < deadline
        if not room:
            text = f"process {self.process.pid} does not serve its mailbox, which is full"
            raise MailboxFull(text)

    def _has_credit(self, size: int) -> bool:
        there = self._socket  # of a new one, nothing is used up
        return there is None or self.dead or there.credit.covers(there.sent, size)

    def forget(self, pending: Pending) -> None:
        """Wait no longer for an answer: if it comes, it is dropped."""
        with self._lock:
            self._give_up(pending.number)

    def withdraw(self, pending: Pending, timeout: float) -> None:
        """Wait no longer for an end or for events, and tell the actor so. Raises as ``send``."""
        self.forget(pending)
        self.send(FORGET, pending.number, timeout)

    def _give_up(self, number: int) -> None:
        self._calls.pop(number, None)
        self._others.pop(number, None)

    # -- waiting -----------------------------------------------------------------------------------

    def wait(self, pending: Pending, deadline: float) -> None:
        """Wait until a request is answered; the actor's end is an answer.

        Raises:
            CallTimeout: it was not until the deadline. It may still be.
        """
        if not self._until(lambda: pending.answer is not None, deadline):
            raise CallTimeout("no reply in time")

    def wait_for_event(self, stream: Stream, deadline: float) -> None:
        """Wait until a stream has an event or is at its end.

        Raises:
            CallTimeout: neither until the deadline.
        """
        if not self._until(lambda: bool(stream.events or stream.answer), deadline):
            raise CallTimeout("no event in time")

    def wait_for_end(self, deadline: float) -> None:
        """Wait until the process has ended.

        Raises:
            CallTimeout: it has not until the deadline.
        """
        with contextlib.suppress(ProcessLookupError):
            pidfd = linux.open_process(self.process)
            try:
                while not linux.ended(pidfd, min(max(0.0, deadline - time.monotonic()), 1e6)):
                    if time.monotonic() >= deadline:
                        text = f"process {self.process.pid} has not ended in time"
                        raise CallTimeout(text)
            finally:
                os.close(pidfd)

    def watch(self, by: int) -> None:
        """Have a loop, by 1, call ``serve`` whenever the descriptor is readable.

        By -1: no longer. The descriptor stays open as long as a loop has it.
        """
        with self._lock:
            if by > 0:
                self._open()
            self._watchers += by
            if self.dead and not self._watchers:
                self._close()

    def when_changed(self, callback: Callable[[], None]) -> None:
        """Call back, once, from any thread, when an answer has come: there may be room again."""
        with self._lock:
            self._waiters.append(callback)

    def changed(self) -> None:
        """Call back those who wait for a change."""
        with self._lock:
            self._tell_waiters()

    def serve(self) -> None:
        """Read what has come, without waiting."""
        self._not_in_a_fork()
        with contextlib.suppress(BlockingIOError):
            while self._read():
                pass

    def _not_in_a_fork(self) -> None:
        if self._forked:
            raise RuntimeError("the parent of this process has asked this: a fork cannot wait")

    def _until(self, ready: Callable[[], bool], deadline: float) -> bool:
        """Wait until something is so; return False if it is not until the deadline."""
        self._not_in_a_fork()
        while not ready():
            if not self._step(ready, deadline):
                return False
        return True

    def _step(
        self, ready: Callable[[], bool], deadline: float, events: int = select.POLLIN
    ) -> bool:
        """Wait for one event, as the leader or for it, unless something is so already.

        Returns:
            False if the deadline is over, and nothing has come.
        """
        me, seconds = threading.get_ident(), deadline - time.monotonic()
        before = None
        try:
            with self._lock:
                leads = self._leader in (0, me)
                if ready() or self._socket is None:
                    return True
                # What a thread has read that was interrupted before it came to this.
                self._settle(self._socket)
                if ready():
                    return True
                if seconds <= 0:
                    return self._read_now()
                if leads:
                    before, self._leader = self._leader, me
                elif not events & select.POLLOUT:
                    self._follow(seconds)
                    return True
                poller = self._poller(me, events if leads else select.POLLOUT, before)
            found = poller.poll(min(seconds * 1000 + 1, linux.LONGEST_POLL))
        except BaseException:
            self._lead_no_longer(before)  # or all others would wait for a leader
            raise
        with self._lock:
            self._lead_no_longer(before)
            self._read_now()
        if before:
            self._table.wake()
        elif found and found[-1][0] == self._table.wakeup:
            self._table.woken()
        return True

    def _follow(self, seconds: float) -> None:
        """Wait until the leader has read something, or leaves."""
        self._followers += 1
        try:
            self._changed.wait(min(seconds, threading.TIMEOUT_MAX))
        finally:
            self._followers -= 1

    def _lead_no_longer(self, before: int | None) -> None:
        """Let another thread lead, or the same one as before a signal's handler ran in it."""
        if before is not None:
            self._leader = before
            self._tell_followers()

    def _tell_followers(self) -> None:
        if self._followers:
            with self._lock:
                self._changed.notify_all()

    def _poller(self, me: int, events: int, before: int | None) -> select.poll:
        """Return what polls the socket; in the main thread, what polls for a handler's word too.

        One object cannot poll twice at a time, as a handler within a poll of its thread would.
        """
        usual = events == select.POLLIN and before == 0
        if usual and me in self._pollers:
            return self._pollers[me]
        poller = select.poll()
        poller.register(self.fileno(), events)
        if me == self._table.main_thread:
            poller.register(self._table.open_wakeup(), select.POLLIN)
        if usual:
            self._pollers = {me: poller}
        return poller

    def _read_now(self) -> bool:
        """Read what has come, if anything; tell whether it has."""
        try:
            self._read()
        except BlockingIOError:
            return False
        return True

    # -- answers -----------------------------------------------------------------------------------

    def _read(self) -> bool:
        """Read a chunk of answers, and tell whether there may be more.

        Raises:
            BlockingIOError: there is nothing.
        """
        with self._lock:
            if self._leader not in (0, threading.get_ident()) or self._socket is None:
                return False
            try:
                end = self._socket.read()
                self._settle(self._socket)
            except BlockingIOError:
                raise
            except BaseException:  # a signal's handler has raised: others wait for what was read
                self._settle(self._socket)
                raise
            if end:
                self._bury()
            self._tell_followers()
            return not end

    def _read_to_the_end(self) -> None:
        """The actor has gone: what it had sent has all arrived, and counts before its end does."""
        while self._leader in (0, threading.get_ident()) and not self.dead:
            self._read()

    def _settle(self, there: CallerSocket) -> None:
        """Hand what has been read to the requests that it belongs to.

        An answer that is interrupted by a signal's handler is taken again, to no other effect.
        """
        there.collect()
        arrived = there.arrived
        while arrived:
            data = arrived[0]
            self._take(there, data)
            with contextlib.suppress(ValueError):  # a handler has taken it meanwhile
                arrived.remove(data)

    def _take(self, there: CallerSocket, data: bytes) -> None:
        try:
            kind, number, term = wire.unpack(data)
        except ValueError as error:  # of a type that this process does not know, say
            kind, number, term = RAISE, wire.number_of(data), error
        if kind in (REPLY, RAISE):
            pending = self._calls.get(number) or self._others.get(number)
            if pending is not None:
                pending.settle(kind, term)
                self._give_up(number)
        elif kind == EVENT:
            stream = self._others.get(number)
            if isinstance(stream, Stream):
                stream.feed(*term)
                self._acknowledge(stream)
            return
        elif kind == CREDIT:
            there.credit.extend(*term)
        elif kind == DOWN:  # the reason of an end that is still to come
            self._last_words = term
        self._tell_waiters()

    def _acknowledge(self, stream: Stream) -> None:
        """Say how much of a stream has been received: there may be more of it."""
        if stream.received % (EVENTS // 4) == 0:
            with contextlib.suppress(NoProcess):  # if there is no room, the next time
                self._sent(SEEN, wire.pack([SEEN, stream.number, stream.received]))

    def _tell_waiters(self) -> None:
        if self._waiters:
            waiters, self._waiters = self._waiters, []
            for callback in waiters:
                callback()

    # -- the actor's end ---------------------------------------------------------------------------

    def _bury(self) -> None:
        """Everything has been read: answer what is open by the reason of the end."""
        self.dead = True
        reason = self._socket.reason() if self._socket is not None else None
        if reason is None:
            reason = "the actor has closed the connection"
        self._answer_all(reason if self._last_words is None else self._last_words)
        if not self._watchers:
            self._close()

    def _answer_all(self, reason: Reason) -> None:
        for requests in (self._calls, self._others):
            for pending in list(requests.values()):
                pending.settle(DOWN, reason)
            requests.clear()
        self._tell_waiters()
        self._tell_followers()

    def alive(self) -> bool:
        """Tell whether the process still serves its mailbox."""
        with self._lock:
            if self.dead:
                return False
            if self._socket is None:
                return linux.alive(self.process)
            return not self._socket.has_hung_up()

    def is_over(self) -> bool:
        """Tell whether the process has ended, and nobody waits for anything of it."""
        return self.dead and not (self._calls or self._others or self._leader or self._watchers)

    def close(self) -> None:
        """Close the connection for good. What was sent arrives."""
        with self._lock:
            self.dead = True
            self._answer_all("this process has closed its connections")
            self._close()

    def leave(self) -> None:
        """Close what a fork has inherited. Its only thread must not wait for a lock of another."""
        self.dead = self._forked = True
        if self._socket is not None:
            self._socket.close()
