"""References to actors: how a caller reaches one.

A reference means the actor, not the process. A named one follows its name over restarts, one
without a name means the incarnation that it was made for, and nobody when that has ended.
Source: OTP's ``gen_server`` (call, cast, stop) and ``erlang:monitor/2``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from supervisor import linux
from supervisor.client import call_cycle, connections
from supervisor.client.connection import Connection, deadline_of
from supervisor.client.futures import CallFuture, Events, no_reply
from supervisor.client.pending import Pending
from supervisor.errors import (
    NORMAL,
    AlreadyRegistered,
    CallCycle,
    CallTimeout,
    Cancelled,
    NoProcess,
    ProcessDown,
    Reason,
)
from supervisor.linux import Process
from supervisor.protocol import codec, registry
from supervisor.protocol.codec import Code
from supervisor.protocol.message_kinds import (
    CALL,
    CAST,
    DOWN,
    INFO,
    LEAVE,
    MONITOR,
    OWN,
    RAISE,
    STOP,
    SYSTEM,
)

_MANY_NAMES = 256  # when those are dropped whose actors have ended
_by_name: dict[str, Connection] = {}
os.register_at_fork(after_in_child=_by_name.clear)


@dataclass(frozen=True)
class Down:
    """A monitored actor has ended: which one, which incarnation, and why."""

    ref: Ref
    pid: int
    reason: Reason


@dataclass(frozen=True)
class Exit:
    """A linked actor has ended, as an actor that traps exits is told."""

    ref: Ref
    reason: Reason


class Ref:
    """A reference to an actor. It can be pickled, and sent in messages."""

    __slots__ = ("_process", "name")

    def __init__(self, process: Process | None = None, name: str | None = None) -> None:
        self._process = process
        self.name = name

    def call(self, request: Any, timeout: float | None = 5.0) -> Any:
        """Send a request and wait for the reply: ``handle_call`` returns it.

        Args:
            request: any term that msgpack or its extensions of ``supervisor.protocol.codec`` carry.
            timeout: seconds; None waits as long as the actor lives.

        Raises:
            NoProcess: nobody is there; nothing was sent.
            ProcessDown: the actor ended during the call.
            CallTimeout: it lives, and did not reply in time.
            RemoteError: ``handle_call`` raised; the text holds its traceback.
            CallCycle: an actor calls itself, or one that waits for it: nothing was sent.
            MailboxFull: its mailbox's bound is reached, or 500 calls of this process to it are
                under way, and it stayed so; nothing was sent.
            TypeError, ValueError: the request cannot travel.
        """
        return self._ask(CALL, request, timeout)

    async def acall(self, request: Any, timeout: float | None = 5.0) -> Any:  # noqa: ASYNC109 - as call
        """Call from asyncio, as ``call`` does; other tasks run meanwhile.

        Cancelled, it waits no longer; the actor serves the call all the same. A cycle of such
        calls is not found: an actor that has asyncio's loop run in a callback serves nothing else.
        """
        from supervisor.client import asyncio_call  # noqa: PLC0415 - asyncio takes megabytes, and few need it

        there = self._known_connection()
        if there is None:
            await asyncio_call.until_restored(self.name)
            there = self._connection()
        self._not_myself(there)
        try:
            return await asyncio_call.call(there, request, deadline_of(timeout), str(self))
        except NoProcess:
            there = self._successor(there)
            return await asyncio_call.call(there, request, deadline_of(timeout), str(self))

    def call_async(self, request: Any, timeout: float | None = 5.0) -> CallFuture:
        """Send a request, and wait for its reply later. See ``CallFuture.result``.

        Args:
            request: as ``call``'s.
            timeout: seconds that it may wait for room, when 500 calls are under way already.

        Raises:
            NoProcess, MailboxFull, TypeError, ValueError: as ``call``; nothing was sent.
        """
        return self._call_async(request, timeout, None)

    def _call_async(self, request: Any, timeout: float | None, given: Pending | None) -> CallFuture:
        """Send a request; what takes its reply may be given, as of ``Connection.ask``."""
        there = self._connection()
        self._not_myself(there)
        try:
            pending = there.ask(CALL, request, deadline_of(timeout), given)
        except NoProcess:
            there = self._successor(there)
            pending = there.ask(CALL, request, deadline_of(timeout), given)
        return CallFuture(there, pending, str(self))

    def _begin(self, request: Any, timeout: float | None) -> CallFuture:
        """Send a request whose reply this thread is about to wait for: ``call`` in two steps."""
        there = self._connection()
        pending = self._request(there, CALL, request, deadline_of(timeout))
        return CallFuture(there, pending, str(self))

    def cast(self, request: Any, timeout: float | None = 5.0) -> None:
        """Send a request that has no reply, for ``handle_cast``.

        It waits only when the mailbox's bound is reached.

        Raises:
            NoProcess, MailboxFull, TypeError, ValueError: as ``call``; nothing was sent.
        """
        self._send(CAST, request, timeout)

    def send(self, message: Any, timeout: float | None = 5.0) -> None:
        """Send a plain message, for ``handle_info``. Raises as ``cast``."""
        self._send(INFO, message, timeout)

    def monitor(self) -> Monitor:
        """Monitor the incarnation that runs now, from a program that is not an actor.

        It does not wait for the actor. If that ends before the request has arrived, the reason
        is what its exit status tells: "normal", "shutdown", "killed", "exit status N".

        An actor uses ``GenServer.monitor`` instead, and gets the ``Down`` in ``handle_info``.
        """
        return Monitor(self)

    def stop(self, reason: Reason = NORMAL, timeout: float | None = None) -> None:
        """End the actor in order, and wait until its process has ended.

        Raises:
            NoProcess: nobody is there.
            CallTimeout: it has not ended in time.
            ProcessDown: it has ended by an error, of ``terminate`` say.
        """
        there = self._connection()
        deadline = deadline_of(timeout)
        error: ProcessDown | None = None
        try:
            self._ask(STOP, reason, timeout)
        except ProcessDown as down:
            error = down
        there.wait_for_end(deadline)
        if error is not None and isinstance(error.reason, Exception) and error.reason != reason:
            raise error

    def controlling_process(self, pid: int) -> None:
        """Let the actor, started by ``start_link`` from a program, belong to another process too.

        It then ends when the last of its owners has ended.

        Raises:
            ProcessLookupError: there is no such process.
        """
        self._ask(OWN, pid, 5.0)

    def _leave(self, deadline: float) -> Callable[[], None]:
        """Tell the actor that this process, an owner of it, exits.

        Returns:
            A function that waits until the actor, or its children of this owner, have ended. It
            may raise CallTimeout.

        Raises:
            NoProcess, MailboxFull: as ``cast``.
        """
        there = self._connection()
        pending = there.ask(LEAVE, list(linux.process(os.getpid())), deadline)

        def wait() -> None:
            there.wait(pending, deadline)
            if pending.answer is not None and pending.answer[0] == DOWN:
                there.wait_for_end(deadline)

        return wait

    def is_alive(self) -> bool:
        """Tell whether the actor runs."""
        try:
            return self._connection().alive()
        except NoProcess:
            return False

    @property
    def pid(self) -> int:
        """The pid of the process that the actor runs in now.

        Raises:
            NoProcess: in none.
        """
        return self._connection().process.pid

    # Of any actor, whatever its class. Source: OTP's ``sys``. All raise as ``call``.

    def get_state(self, timeout: float | None = 5.0) -> dict[str, Any]:
        """Return the attributes of the actor's object; those that cannot travel as their text."""
        return cast("dict[str, Any]", self._ask(SYSTEM, ["get_state"], timeout))

    def replace_state(self, timeout: float | None = 5.0, **attributes: Any) -> dict[str, Any]:
        """Set attributes of the actor's object, between two messages; return all there are."""
        request = ["replace_state", attributes]
        return cast("dict[str, Any]", self._ask(SYSTEM, request, timeout))

    def suspend(self, timeout: float | None = 5.0) -> None:
        """Have the actor serve no calls, casts and messages until ``resume``: they wait, in order.

        It still ends when told to.
        """
        self._ask(SYSTEM, ["suspend"], timeout)

    def resume(self, timeout: float | None = 5.0) -> None:
        """Have a suspended actor serve again."""
        self._ask(SYSTEM, ["resume"], timeout)

    def statistics(self, timeout: float | None = 5.0) -> dict[str, Any]:
        """Return what the actor's present process has served.

        ``started`` (seconds since 1970), ``cpu`` (seconds), ``suspended``, and the numbers of
        ``monitors``, and of ``calls``, ``casts``, ``infos`` and ``replies``.
        """
        return cast("dict[str, Any]", self._ask(SYSTEM, ["statistics"], timeout))

    def trace(self) -> Events:
        """Return a stream of ``Traced`` objects: what the actor serves and replies, from now on."""
        return Events(self._connection(), "trace")

    def _send(self, kind: int, term: Any, timeout: float | None) -> None:
        known = _by_name.get(self.name) if self.name is not None else None
        there = self._connection() if known is None else known
        try:
            there.send(kind, term, timeout)
        except NoProcess:
            self._successor(there).send(kind, term, timeout)

    def _ask(self, kind: int, term: Any, timeout: float | None) -> Any:
        deadline = deadline_of(timeout)
        known = _by_name.get(self.name) if self.name is not None else None
        there = self._connection() if known is None else known
        try:
            pending = self._request(there, kind, term, deadline)
        except NoProcess:
            there = self._successor(there)
            pending = self._request(there, kind, term, deadline)
        if pending.answer is None:
            try:
                there.wait(pending, deadline)
            except CallTimeout:
                there.forget(pending)
                raise no_reply(self, timeout, term) from None
        return pending.result(self)

    def _request(self, there: Connection, kind: int, term: Any, deadline: float) -> Pending:
        """Send a request whose answer this thread is about to wait for."""
        chain: Any = call_cycle.chain_to(there.process, self)
        if chain:
            chain = call_cycle.encode(chain) if kind == CALL else ()
        return there.ask(kind, term, deadline, None, chain)

    def _successor(self, ended: Connection) -> Connection:
        """Return a connection after one has ended, to which nothing was sent.

        Raises:
            NoProcess: there is no other process, and this one serves no mailbox any more.
        """
        there = self._connection()
        if there is ended:
            raise NoProcess(f"process {ended.process.pid} has ended")
        return there

    def _not_myself(self, there: Connection) -> None:
        if call_cycle.is_me(there.process):
            raise CallCycle(f"{self} would wait for its own reply")

    def _known_connection(self) -> Connection | None:
        """Return the connection, if this needs no look at who has the name."""
        if self.name is None:
            assert self._process is not None  # one of both is always there
            return connections.connect(self._process)
        known = _by_name.get(self.name)
        # An actor that has freed its name has ended, or is about to.
        return known if known is not None and known.alive() else None

    def _connection(self) -> Connection:
        known = self._known_connection()
        return self._connection_by_name() if known is None else known

    def _connection_by_name(self) -> Connection:
        assert self.name is not None  # without a name it is known
        process = registry.lookup(self.name)
        if process is None:
            _by_name.pop(self.name, None)
            raise NoProcess(f"nobody has the name {self.name!r}")
        if len(_by_name) >= _MANY_NAMES:
            for name in [name for name, known in _by_name.items() if known.dead]:
                del _by_name[name]
        there = _by_name[self.name] = connections.connect(process)
        return there

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ref):
            return NotImplemented
        if self.name is not None or other.name is not None:
            return self.name == other.name
        return self._process == other._process

    def __hash__(self) -> int:
        return hash(self.name or self._process)

    def __repr__(self) -> str:
        who = self.name if self.name is not None else f"pid {self._process and self._process.pid}"
        return f"<{type(self).__name__} {who}>"

    def __reduce__(self) -> tuple[type[Ref], tuple[Process | None, str | None]]:
        return (type(self), (self._process, self.name))


def connection_to(ref: Ref) -> Connection:
    """Return this process's connection to a reference's present incarnation: for this package.

    Raises:
        NoProcess: there is none.
    """
    return ref._connection()  # noqa: SLF001 - the one way to it


def process_of(ref: Ref) -> Process | None:
    """Return the process that a reference without a name means; None of one with a name."""
    return ref._process  # noqa: SLF001 - the one way to it


def begin(ref: Ref, request: Any, timeout: float | None) -> CallFuture:
    """Send a request without retrying it on a successor: for this package."""
    return ref._begin(request, timeout)  # noqa: SLF001 - the one way to it


class Monitor:
    """A monitor of one incarnation of an actor. It ends with the actor, by a ``Down``."""

    def __init__(self, ref: Ref) -> None:
        self._ref = ref
        self._there = connection_to(ref)
        try:
            self._pending: Pending = self._there.ask(MONITOR, None, deadline_of(5.0))
        except NoProcess:
            self._there = ref._successor(self._there)  # noqa: SLF001 - a monitor is a reference's
            self._pending = self._there.ask(MONITOR, None, deadline_of(5.0))

    def close(self) -> None:
        """Undo the monitor. Source: ``erlang:demonitor/1``."""
        if self._pending.answer is None:
            with contextlib.suppress(NoProcess):
                self._there.withdraw(self._pending, 5.0)
            self._pending.settle(RAISE, Cancelled("this monitor was closed"))

    def wait(self, timeout: float | None = None) -> Down:
        """Wait until the actor has ended.

        Raises:
            CallTimeout: it has not in so many seconds.
            Cancelled: this was closed.
        """
        try:
            self._there.wait(self._pending, deadline_of(timeout))
        except CallTimeout:
            raise CallTimeout(f"{self._ref} has not ended within {timeout:g} s") from None
        if self._pending.answer is not None and self._pending.answer[0] == RAISE:
            raise self._pending.answer[1]
        return Down(self._ref, self._there.process.pid, self._pending.reason())


_Kind = TypeVar("_Kind", bound=Ref)


def whereis(name: str, kind: type[_Kind] = Ref) -> _Kind | None:  # type: ignore[assignment]
    """Return a reference to the actor that has a name, or None.

    Args:
        name: the name.
        kind: the class of the reference; for a supervisor, ``SupervisorRef``.
    """
    return None if registry.lookup(name) is None else kind(name=name)


def encode(ref: Ref) -> list[Any]:
    """Make a term of a reference."""
    process = process_of(ref)
    return [None if process is None else list(process), ref.name]


def decode(fields: list[Any], kind: type[Ref] = Ref) -> Ref:
    """Make a reference of a term."""
    process, name = fields
    return kind(None if process is None else Process(*process), name)


AlreadyRegistered.reference = Ref
codec.extend(Code.REF, Ref, encode, decode)
codec.extend(
    Code.DOWN,
    Down,
    lambda down: [down.ref, down.pid, down.reason],
    lambda fields: Down(*fields),
)
codec.extend(Code.EXIT, Exit, lambda end: [end.ref, end.reason], lambda fields: Exit(*fields))
