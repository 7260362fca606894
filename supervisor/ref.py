"""References to actors: how a caller reaches one.

A reference means the actor, not the process. A named one follows its name over restarts, one
without a name means the incarnation that it was made for, and nobody when that has ended.
Source: OTP's ``gen_server`` (call, cast, stop) and ``erlang:monitor/2``.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from supervisor import connection, linux, registry, wire
from supervisor.connection import Connection, Pending
from supervisor.errors import NORMAL, CallCycle, NoProcess, ProcessDown, Reason
from supervisor.linux import Process
from supervisor.protocol import CALL, CAST, DOWN, INFO, LEAVE, MONITOR, OWN, STOP

FOREVER = float("inf")

_by_name: dict[str, Connection] = {}
os.register_at_fork(after_in_child=_by_name.clear)


@dataclass(frozen=True)
class Down:
    """A monitored actor has ended: which one, which incarnation, and why."""

    ref: Ref
    pid: int
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
            request: any term that msgpack or its extensions of ``supervisor.wire`` carry.
            timeout: seconds; None waits as long as the actor lives.

        Raises:
            NoProcess: nobody is there; nothing was sent.
            ProcessDown: the actor ended during the call.
            CallTimeout: it lives, and did not reply in time.
            RemoteError: ``handle_call`` raised; the text holds its traceback.
            CallCycle: an actor calls itself.
            MailboxFull: it does not read its mailbox; nothing was sent.
            TypeError, ValueError: the request cannot travel.
        """
        return self._ask(CALL, request, timeout)

    def cast(self, request: Any, timeout: float | None = 5.0) -> None:
        """Send a request that has no reply, for ``handle_cast``.

        It waits only when the mailbox's bound is reached.

        Raises:
            NoProcess, MailboxFull, TypeError, ValueError: as ``call``; nothing was sent.
        """
        self._connection().send(CAST, request, _deadline(timeout))

    def send(self, message: Any, timeout: float | None = 5.0) -> None:
        """Send a plain message, for ``handle_info``. Raises as ``cast``."""
        self._connection().send(INFO, message, _deadline(timeout))

    def monitor(self) -> Monitor:
        """Watch the incarnation that runs now, from a program that is not an actor.

        It does not wait for the actor. If that ends before the request has arrived, the reason
        is what its exit status tells: "normal", "killed", or "exit status N".

        An actor uses ``GenServer.monitor`` instead, and gets the ``Down`` in ``handle_info``.
        """
        return Monitor(self)

    def stop(self, reason: Reason = NORMAL, timeout: float | None = None) -> None:
        """End the actor in order, and wait until its process has ended.

        Raises:
            NoProcess: nobody is there.
            CallTimeout: it has not ended in time.
        """
        there = self._connection()
        deadline = _deadline(timeout)
        with contextlib.suppress(ProcessDown):
            self._ask(STOP, reason, timeout)
        there.wait_for_end(deadline)

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
            A function that waits for what that ends, and may raise CallTimeout.

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

    def _ask(self, kind: int, term: Any, timeout: float | None) -> Any:
        there = self._connection()
        if there.process.pid == os.getpid():
            raise CallCycle(f"{self} would wait for its own reply")
        deadline = _deadline(timeout)
        pending = there.ask(kind, term, deadline)
        if pending.answer is None:
            there.wait(pending, deadline)
        return pending.result(str(self))

    def _connection(self) -> Connection:
        if self.name is None:
            assert self._process is not None  # noqa: S101 - one of both is always there
            return connection.connect(self._process)
        known = _by_name.get(self.name)
        if known is not None and known.alive():
            return known  # a name is free only when its process has ended
        process = registry.lookup(self.name)
        if process is None:
            _by_name.pop(self.name, None)
            raise NoProcess(f"nobody has the name {self.name!r}")
        there = _by_name[self.name] = connection.connect(process)
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


class Monitor:
    """A watch on one incarnation of an actor. It ends with the actor, by a ``Down``."""

    def __init__(self, ref: Ref) -> None:
        self._ref = ref
        self._there = ref._connection()
        self._pending: Pending = self._there.ask(MONITOR, None, _deadline(5.0))

    def wait(self, timeout: float | None = None) -> Down:
        """Wait until the actor has ended.

        Raises:
            CallTimeout: it has not in so many seconds.
        """
        self._there.wait(self._pending, _deadline(timeout))
        return Down(self._ref, self._there.process.pid, self._pending.reason())


def whereis(name: str) -> Ref | None:
    """Return a reference to the actor that has a name, or None."""
    return None if registry.lookup(name) is None else Ref(name=name)


def _deadline(timeout: float | None) -> float:
    return FOREVER if timeout is None else time.monotonic() + timeout


def encode(ref: Ref) -> list[Any]:
    """Make a term of a reference."""
    process = None if ref._process is None else list(ref._process)
    return [process, ref.name]


def decode(fields: list[Any], kind: type[Ref] = Ref) -> Ref:
    """Make a reference of a term."""
    process, name = fields
    return kind(None if process is None else Process(*process), name)


wire.extend(16, Ref, encode, decode)
wire.extend(
    17,
    Down,
    lambda down: [down.ref, down.pid, down.reason],
    lambda fields: Down(*fields),
)
