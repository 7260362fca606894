"""The connection of this process to another one's mailbox: its requests, and the actor's end.

A connection belongs to one incarnation of an actor. The kernel reports the end of file when that
process has ended, after everything that it had sent.

**Leader and followers.** The threads of a process share a connection. Of those that wait for an
answer one is the leader. It polls the socket, reads, and hands each answer to its request. The
others, the followers, wait on a lock each, until their answer has arrived, or until the leader
leaves and one of them becomes the leader. Two kinds of interruption make this difficult:

- *Signal handlers.* A handler runs at any point of its thread's code here. It may raise, and it may
  call the same actor. Therefore: the lock is reentrant; one system call sends a whole message, so
  no half message is left behind; data that was read reaches the buffer of frames within one call
  into C, during which Python runs no handler, so no data is lost; a request is registered before it
  is sent, and an answer is removed after it was handed over, so neither is lost. A handler that
  finds its own thread polling takes the lead over. It may read the answer for which that thread
  polls. So it writes to a wake-up descriptor, which the main thread (the only one that runs
  handlers) polls as well. While a handler runs within the leader's poll, nobody else reads.
- *Event loops.* An asyncio loop, or an actor's, polls the socket too. It reads only when no thread
  leads. Otherwise it could take the answer for which the leader polls, and the leader would go on
  polling. An asyncio loop removes the socket from its poll until the leader has left.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from supervisor import linux
from supervisor.client.caller_socket import CallerSocket, Lack
from supervisor.client.lock import RLock
from supervisor.client.pending import Pending, Stream
from supervisor.errors import ActorError, CallTimeout, MailboxFull, NoProcess, Reason, shown
from supervisor.linux import Process
from supervisor.protocol import busy_wait, codec
from supervisor.protocol.busy_wait import BusyWait
from supervisor.protocol.message_kinds import (
    CALLS,
    CRASH,
    CREDIT,
    DOWN,
    EVENT,
    EVENTS_UNDER_WAY,
    FORGET,
    IN_FLIGHT,
    LAST,
    RAISE,
    REPLY,
    SEEN,
)

FOREVER = float("inf")
AGAIN = 0.01
"""Seconds between two tries where the kernel has no event to wait for."""
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
    """Return when a timeout is over, by ``time.monotonic``.

    Raises:
        TypeError: it is no number of seconds.
        ValueError: it is not a number (NaN), or larger than any time.
    """
    try:
        deadline = FOREVER if timeout is None else time.monotonic() + timeout
    except TypeError:
        raise TypeError(_no_timeout(timeout)) from None
    except OverflowError:
        raise ValueError(_no_timeout(timeout)) from None
    if math.isnan(deadline):
        raise ValueError(_no_timeout(timeout))
    return deadline


def _no_timeout(timeout: object) -> str:
    return f"a timeout is a number of seconds, or None, not {shown(timeout)}"


class Connection:
    """The way from this process to one other."""

    def __init__(self, process: Process, table: Table) -> None:
        self.process = process
        self.dead = False
        self.ends = False
        """Whether the actor has given an answer after which it ends."""
        self.lack: Lack | None = None
        """What the last message that was not sent has lacked."""
        self._table = table
        self._calls: dict[int, Pending] = {}
        self._others: dict[int, Pending] = {}
        """Requests that are no calls: they do not count for IN_FLIGHT."""
        self._numbers = itertools.count(1)
        self._lock = RLock()
        self._forked = False
        self._reported_reason: Reason | None = None
        self._polls: list[tuple[int, object]] = []
        """The leader's polls, by its thread: more than one if its handlers poll too."""
        self._followers: list[threading.Lock] = []
        """A lock for each, which is released when there is something to look at."""
        self._readers = 0
        self._waiters: dict[Callable[[], None], None] = {}
        self._pollers: dict[int, select.poll] = {}
        self._busy_wait = BusyWait(busy_wait.CALLER)
        self._socket: CallerSocket | None = None

    # -- the socket --------------------------------------------------------------------------------

    def open(self) -> None:
        """Connect, if it is not connected.

        Raises:
            NoProcess, MailboxFull, OSError: as ``CallerSocket``.
        """
        with self._lock:
            self._open()

    def _open(self) -> CallerSocket:
        """Return the socket; one that was idle, and so was closed, is connected again."""
        if self._socket is None:
            if self.dead:
                raise NoProcess(f"process {self.process.pid} has ended")
            self._pollers = {}
            try:
                self._socket = self._table.connected(self)
            except NoProcess:
                self.dead = True
                raise
        return self._socket

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when there is something to read."""
        return self._open().fileno()

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._table.closed(self)

    def close_if_idle(self, *, unread: bool) -> bool:
        """Close the socket if nothing is waited for; tell whether it is closed.

        One of which much may not have been served is not idle: what is sent on the next one would
        come on top of the mailbox's bound.

        Args:
            unread: also if the actor has not read yet all that was sent. It will do so.
        """
        # Without waiting: the caller holds the lock of another connection, for which it makes room,
        # and the thread that holds this one may wait for that (deadlock).
        if not self._lock.acquire(blocking=False):
            return False
        try:
            there = self._socket
            used = self._calls or self._others or self._polls or self._followers or self._readers
            if there is not None and not used and there.is_idle(unread=unread):
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
        data = codec.pack_message(kind, 0, term)
        try:
            if self._sent(kind, data) is not None:
                deadline = deadline_of(timeout)
                while (lack := self._sent(kind, data)) is not None:
                    self._wait_for_room(lack, len(data), deadline)
        except _GONE:
            raise self._gone() from None

    def ask(
        self, kind: int, term: Any, deadline: float, pending: Pending | None = None, chain: Any = ()
    ) -> Pending:
        """Send a request.

        Args:
            kind: of ``message_kinds``.
            term: what is asked.
            deadline: until when it may wait for room.
            pending: what takes the answer. If a signal's handler raises as it is sent, nobody knows
                whether it was: it stays known then, and whoever has given this forgets it.
            chain: who waits for it, as of ``call_cycle``.

        Raises:
            NoProcess, MailboxFull, TypeError, ValueError, OSError: as ``send``.
        """
        number = next(self._numbers)
        data = codec.pack_message(kind, number, term, chain)
        kept = pending is not None
        pending = pending or Pending(is_call=kind in CALLS)
        try:
            while (lack := self._asked(kind, number, data, pending, kept=kept)) is not None:
                self._wait_for_room(lack, len(data), deadline)
        except _GONE:
            raise self._gone() from None
        return pending

    def _asked(
        self, kind: int, number: int, data: bytes, pending: Pending, *, kept: bool
    ) -> Lack | None:
        with self._lock:
            if kind in CALLS and len(self._calls) >= IN_FLIGHT:
                self.lack = Lack.CALLS
                return self.lack
            sent = False
            try:
                # Before it is sent: the answer may arrive, and be read by a signal's handler here,
                # before the system call has returned to Python.
                pending.number, pending.there = number, self
                (self._calls if pending.is_call else self._others)[number] = pending
                lack = self._sent(kind, data)
                sent = lack is None
            except (ActorError, OSError):  # nothing was sent
                raise
            except BaseException:  # a signal's handler raised: it may have been sent
                sent = kept
                raise
            finally:
                if not sent:
                    self._give_up(number)
                    pending.number = 0
            return lack

    def _gone(self) -> NoProcess:
        """Read what an actor had sent that has ended, unless another thread is about to."""
        # A send that fails tells of the end before the answers have been read that the actor sent
        # before it ended: they are still in the socket.
        while not (self.dead or self._is_led_by_another(threading.get_ident())):
            self._read()
        return NoProcess(f"process {self.process.pid} has ended")

    def _sent(self, kind: int, data: bytes) -> Lack | None:
        """Send a message if there is room for it; otherwise return what is lacking.

        Raises:
            NoProcess, or one of ``_GONE``: the actor has ended.
        """
        with self._lock:
            lack = self.lack = (self._socket or self._open()).send(kind, data)
            return lack

    def _wait_for_room(self, lack: Lack, size: int, deadline: float) -> None:
        """Wait until it is worth trying again.

        Raises:
            MailboxFull: it is not until the deadline.
        """
        if lack is Lack.CALLS:
            if not self._until(lambda: self.dead or len(self._calls) < IN_FLIGHT, deadline):
                raise MailboxFull(f"{IN_FLIGHT} calls are under way already")
            return
        if lack is Lack.CREDIT:
            room = self._until(lambda: self._has_credit(size), deadline)
        else:
            seconds = deadline - time.monotonic()
            room = seconds > 0
            if room and lack is Lack.BUFFER:
                self._wait(lambda: self.dead, seconds, select.POLLIN | select.POLLOUT)
            elif room:  # nobody tells when descriptors under way have arrived
                self._wait(lambda: self.dead, min(seconds, AGAIN), select.POLLIN)
        if not room:
            text = f"process {self.process.pid} does not serve its mailbox, which is full"
            raise MailboxFull(text)

    def _has_credit(self, size: int) -> bool:
        there = self._socket
        return there is None or self.dead or there.credit.covers(size)

    def when_answered(self, pending: Pending, callback: Callable[[], object]) -> None:
        """Call back once when a request has been answered; at once, if it has been."""
        with self._lock:  # an answer is handed over under this lock
            if pending.answer is None:
                pending.add_callback(callback)
                return
        callback()

    def settle(self, pending: Pending, kind: int, term: Any) -> None:
        """Give a request an answer of this process's own, and wake whoever waits for it."""
        with self._lock:
            self._give_up(pending.number)
            pending.settle(kind, term)
            self._call_waiters()
            self._release_followers()
            if any(thread == self._table.main_thread for thread, _ in self._polls):
                self._table.wake()

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
        linux.reap_adopted()

    def add_reader(self) -> None:
        """Register an event loop, which calls ``serve`` when the descriptor is readable.

        The descriptor stays open until each such loop has called ``remove_reader``.

        Raises:
            NoProcess: the actor has ended.
        """
        with self._lock:
            self._open()
            self._readers += 1

    def remove_reader(self) -> None:
        """Unregister an event loop."""
        with self._lock:
            self._readers -= 1
            if self.dead and not self._readers:
                self._close()

    def when_changed(self, callback: Callable[[], None]) -> None:
        """Call back once, from any thread, when an answer has arrived, or the leader has left."""
        with self._lock:
            self._waiters[callback] = None

    def forget_waiter(self, callback: Callable[[], None]) -> None:
        """Undo ``when_changed``."""
        self._waiters.pop(callback, None)

    def changed(self) -> None:
        """Call back everybody who has called ``when_changed``."""
        with self._lock:
            self._call_waiters()

    def serve(self) -> bool:
        """Read without blocking what has arrived; return False if another thread leads."""
        self._not_in_a_fork()
        if self._is_led_by_another(threading.get_ident()):
            return False
        with contextlib.suppress(BlockingIOError):
            while self._read():
                pass
        return True

    def _not_in_a_fork(self) -> None:
        if self._forked:
            raise RuntimeError(
                "this call was made before a fork: the forked process makes calls of its own"
            )

    def _until(self, ready: Callable[[], bool], deadline: float) -> bool:
        """Wait until ``ready()`` is true; return False if the deadline passes before."""
        self._not_in_a_fork()
        while not ready():
            seconds = deadline - time.monotonic()
            if seconds <= 0:
                # The answer may have arrived while this process stood still (SIGSTOP, a frozen
                # cgroup), and the deadline passed.
                self.serve()
                return ready()
            self._wait(ready, seconds, select.POLLIN)
        return True

    def _is_led_by_another(self, me: int) -> bool:
        polls = self._polls
        return bool(polls) and any(thread != me for thread, _ in tuple(polls))

    def _wait(self, ready: Callable[[], bool], seconds: float, mask: int) -> None:
        """Wait for one event as the leader, or for the leader, unless ``ready()`` is true."""
        me = threading.get_ident()
        poll = (me, object())
        gate: threading.Lock | None = None
        try:
            with self._lock:
                there = self._socket
                if there is None or ready():  # an answer was read since the last look
                    return
                if there.arrived:  # a signal interrupted a thread before it had handed them over
                    self._settle(there)
                    return
                leads = not self._is_led_by_another(me)
                # Whoever waits for room polls too: the leader does not poll for that.
                if leads or mask & select.POLLOUT:
                    poller = self._poller(me, mask if leads else select.POLLOUT)
                else:
                    gate = threading.Lock()
                    gate.acquire()
                    self._followers.append(gate)
                if leads:
                    # Under the lock: of two threads that come here at a time, one leads.
                    self._polls.append(poll)
            if gate is not None:
                # At most a second: if a handler raises as the leader leaves, nobody is released.
                gate.acquire(timeout=min(seconds, 1.0))
                return
            found = self._busy_wait.poll(poller)
            found = found or poller.poll(min(seconds * 1000 + 1, linux.LONGEST_POLL))
        finally:
            if gate is not None and gate in self._followers:
                self._followers.remove(gate)
            if poll in self._polls:
                try:  # the next call is one into C: no handler runs before the leader has left
                    self._polls.remove(poll)
                finally:
                    self._left(me)
        if found and found[-1][0] == self._table.wakeup:
            self._table.woken()
        try:
            self._read()
        except BlockingIOError:
            return

    def _left(self, me: int) -> None:
        """Let another thread lead; wake this one, if this was a handler within its poll."""
        # This was a handler within its own thread's poll: it may have read the answer that the
        # outer poll waits for, which would wait for ever.
        if self._polls and any(thread == me for thread, _ in tuple(self._polls)):
            self._table.wake()
        if self._followers or self._waiters:
            with self._lock:
                self._call_waiters()
                self._release_followers()

    def _release_followers(self) -> None:
        if self._followers:
            with self._lock:
                gates, self._followers = self._followers, []
                for gate in gates:
                    gate.release()

    def _poller(self, me: int, mask: int) -> select.poll:
        """Return an object that polls the socket, and in the main thread the wake-up descriptor.

        It is cached, but a handler that polls within its thread's poll gets another one: Python
        refuses two polls of one object at a time.
        """
        usual = mask == select.POLLIN and not self._polls
        if usual and me in self._pollers:
            return self._pollers[me]
        poller = select.poll()
        poller.register(self.fileno(), mask)
        if me == self._table.main_thread:
            poller.register(self._table.open_wakeup(), select.POLLIN)
        if usual:
            self._pollers = {me: poller}
        return poller

    # -- answers -----------------------------------------------------------------------------------

    def _read(self) -> bool:
        """Read a chunk of answers; return whether there may be more.

        Raises:
            BlockingIOError: there is nothing.
        """
        with self._lock:
            there = self._socket
            # Another thread may have become the leader since this one polled.
            if there is None or self._is_led_by_another(threading.get_ident()):
                return False
            try:
                end = there.read()
                self._settle(there)
            except BlockingIOError:
                raise
            except BaseException:  # a signal handler raised: others wait for what was read
                self._settle(there)
                raise
            if end:
                self._handle_end()
            self._release_followers()
            return not end

    def _settle(self, there: CallerSocket) -> None:
        """Hand each answer that was read to its request.

        If a signal handler interrupts this, an answer may be handed over twice, which has no
        effect.
        """
        there.collect()
        arrived = there.arrived
        while True:
            try:
                data = arrived[0]
            except IndexError:  # there is none; or a handler has taken the last one
                return
            self._take(there, data)
            try:
                arrived.remove(data)
            except ValueError:  # a handler has taken it, too
                continue

    def _take(self, there: CallerSocket, data: bytes) -> None:
        kind: int
        number: int
        term: Any
        try:
            kind, number, term = codec.unpack(data)
        except ValueError as error:  # of a type that this process does not know, say
            kind, number, term = RAISE, codec.number_of(data), error
        if kind in (CRASH, LAST):
            kind, self.ends = RAISE if kind == CRASH else REPLY, True
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
        elif kind == CREDIT:
            there.credit.extend(*term)
        elif kind == DOWN:  # the reason of an end that is still to come
            self._reported_reason = term
        self._call_waiters()

    def _acknowledge(self, stream: Stream) -> None:
        """Tell the actor how much of a stream has been received, so that it sends more (credit)."""
        if stream.received % (EVENTS_UNDER_WAY // 4) == 0:
            with contextlib.suppress(NoProcess, *_GONE):  # if there is no room, the next time
                self._sent(SEEN, codec.pack([SEEN, stream.number, stream.received]))

    def _call_waiters(self) -> None:
        if self._waiters:
            # Exchanged in one step: a callback may register itself anew.
            waiters, self._waiters = self._waiters, {}
            for callback in waiters:
                callback()

    # -- the actor's end ---------------------------------------------------------------------------

    def _handle_end(self) -> None:
        """At the end of file: answer every open request by the reason of the actor's end."""
        self.dead = True  # first: what is sent from now on is refused, and needs no answer here
        reason = self._socket.reason() if self._socket is not None else None
        if reason is None:
            reason = "the actor has closed the connection"
        self._answer_all(reason if self._reported_reason is None else self._reported_reason)
        if not self._readers:  # a loop that polls the descriptor must remove it before it is closed
            self._close()

    def _answer_all(self, reason: Reason) -> None:
        for requests in (self._calls, self._others):
            for pending in list(requests.values()):
                pending.settle(DOWN, reason)
            requests.clear()
        self._call_waiters()
        self._release_followers()

    def alive(self) -> bool:
        """Tell whether the process still serves its mailbox."""
        with self._lock:
            if self.dead:
                return False
            if self._socket is None:
                return linux.alive(self.process)
            return not self._socket.has_hung_up()

    def is_over(self) -> bool:
        """Tell whether the process has ended, and nobody waits for an answer of it."""
        return self.dead and not (self._calls or self._others or self._polls or self._readers)

    def close(self) -> None:
        """Close the connection for good. What was sent arrives."""
        with self._lock:
            self.dead = True
            self._answer_all("this process has closed its connections")
            self._close()

    def leave(self) -> None:
        """Close what a fork has inherited, without the lock: a thread may have held that."""
        self.dead = self._forked = True
        self._lock = RLock()
        self._calls, self._others, self._polls, self._waiters = {}, {}, [], {}
        self._followers = []
        if self._socket is not None:
            self._socket.close()
            self._socket = None
