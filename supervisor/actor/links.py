"""What an actor is told of others: monitors, links, and events.

Source: "Links" and "Monitors" in Erlang's "Processes" reference; here a link is a monitor in each
direction, and the reason of an end comes as that of a monitor does.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from supervisor.actor import owners
from supervisor.client.connection import Connection
from supervisor.client.pending import Pending, Stream
from supervisor.client.ref import Down, Exit, Ref, connection_to
from supervisor.errors import NOPROC, NoProcess, Reason
from supervisor.linux import Process
from supervisor.protocol.message_kinds import LINK, MONITOR, SUBSCRIBE, UNLINK
from supervisor.protocol.telemetry import after

_ROOM = 5.0  # seconds that a mailbox may be full


class Loop(owners.Loop, Protocol):
    """An actor's loop."""

    ref: Ref
    process: Process

    def inform(self, message: Any) -> None:
        """Deliver a message to the actor itself."""

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call a function between messages."""

    def expect_other_threads(self) -> None:
        """Let ``call_soon`` of another thread wake the loop from now on."""

    def linked_ended(self, message: Exit) -> None:
        """A linked actor has ended."""


class Links:
    """The links, monitors and subscriptions of one actor."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._linked: dict[Process, Pending | None] = {}
        self._reading: dict[Connection, int] = {}
        self._monitors: dict[Process, list[Pending]] = {}
        self._awaited: Counter[Connection] = Counter()
        """How many futures of a connection have a callback that has not been called yet."""
        self._told: set[Connection] = set()
        """Connections of monitors, links and subscriptions: they are read as long as they live."""

    def close(self) -> None:
        """Read no connection any more, for a process that goes on after the actor's end."""
        for there in self._reading:
            there.remove_reader()
        self._reading.clear()

    def monitor(self, ref: Ref) -> None:
        """Have a Down delivered when another actor's present incarnation ends."""
        monitor = self._request_monitor(
            ref, lambda pid, reason: self._loop.inform(Down(ref, pid, reason))
        )
        if monitor is not None:
            self._monitors.setdefault(monitor[0].process, []).append(monitor[1])

    def demonitor(self, ref: Ref) -> None:
        """Undo all monitors of another actor's present incarnation."""
        with contextlib.suppress(NoProcess):
            there = connection_to(ref)
            monitors = self._monitors.get(there.process, [])
            while monitors:  # one by one: a full mailbox may refuse the next, which stays
                there.withdraw(monitors[-1], _ROOM)
                monitors.pop()
            self._monitors.pop(there.process, None)

    def link(self, ref: Ref, *, mutual: bool = True) -> None:
        """Link the actor to another one's present incarnation.

        Args:
            ref: the other.
            mutual: the other is told, to do the same.
        """
        try:
            process = connection_to(ref).process
        except NoProcess:
            self._loop.linked_ended(Exit(ref, NOPROC))
            return
        if process in self._linked:
            return
        self._linked[process] = None
        try:
            monitor = self._request_monitor(
                ref, lambda _, reason: self._ended(ref, process, reason)
            )
            if monitor is None or process not in self._linked:
                return
            there, self._linked[process] = monitor
            if mutual:
                with contextlib.suppress(NoProcess):  # its end is told by the monitor
                    there.send(LINK, Ref(self._loop.process), _ROOM)
        except BaseException:  # a full mailbox: there is no link, and another attempt may make one
            pending = self._linked.pop(process, None)
            if pending is not None:
                there.forget(pending)
            raise

    def unlink(self, ref: Ref, *, mutual: bool = True) -> None:
        """Undo a link."""
        with contextlib.suppress(NoProcess):
            there = connection_to(ref)
            if there.process not in self._linked:
                return
            if mutual:
                # The other's half first: while a full mailbox refuses it, the link stays whole.
                with contextlib.suppress(NoProcess):
                    there.send(UNLINK, Ref(self._loop.process), _ROOM)
            pending = self._linked.pop(there.process, None)
            if pending is not None:
                there.withdraw(pending, _ROOM)

    def _ended(self, ref: Ref, process: Process, reason: Reason) -> None:
        if process in self._linked:  # otherwise it has been unlinked since
            del self._linked[process]
            self._loop.linked_ended(Exit(ref, reason))

    def subscribe(self, ref: Ref, topic: str) -> None:
        """Have another actor's events delivered, as long as its present incarnation lives."""
        there = connection_to(ref)
        stream = Stream(taken=lambda event, lost: self._loop.inform(after(lost, event)))
        there.ask(SUBSCRIBE, topic, time.monotonic() + _ROOM, stream)
        self._told.add(there)
        self._serve(there)

    def _request_monitor(
        self, ref: Ref, ended: Callable[[int, Reason], None]
    ) -> tuple[Connection, Pending] | None:
        try:
            there = connection_to(ref)
        except NoProcess:
            ended(0, NOPROC)
            return None

        def settled(pending: Pending) -> None:
            ended(there.process.pid, pending.reason())

        try:
            pending = Pending(is_call=False, then=settled)
            there.ask(MONITOR, None, time.monotonic() + _ROOM, pending)
        except NoProcess:
            ended(0, NOPROC)
            return None
        self._told.add(there)
        self._serve(there)
        return there, pending

    @property
    def awaits_replies(self) -> bool:
        """Whether there are futures whose callback has not been called yet."""
        return bool(self._awaited)

    def calls_back(self, there: Connection, callback: Callable[[], object]) -> Callable[[], object]:
        """Read a connection until a reply has come; return what to call then.

        The reply may be read in the middle of a callback, by a call of the same actor: so the
        function is called later, between messages.
        """

        def answered() -> None:  # by whichever thread has read the reply
            self._loop.call_soon(forget)
            self._loop.call_soon(callback)

        def forget() -> None:
            self._awaited[there] -= 1
            if not self._awaited[there]:
                del self._awaited[there]
                if there in self._reading and there not in self._told:
                    self._leave(there)

        self._loop.expect_other_threads()
        self._awaited[there] += 1
        self._serve(there)
        return answered

    def _serve(self, there: Connection) -> None:
        """Have the actor's loop read a connection."""
        if there in self._reading:
            return

        def serve() -> None:
            there.serve()
            if there.dead and there in self._reading:
                self._leave(there)

        try:
            there.add_reader()  # it keeps the descriptor open as long as this loop polls it
        except NoProcess:
            return  # another thread has read its end, and told of it
        self._reading[there] = there.fileno()
        self._loop.add_reader(there.fileno(), serve)

    def _leave(self, there: Connection) -> None:
        self._loop.remove_reader(self._reading.pop(there))
        self._told.discard(there)
        self._monitors.pop(there.process, None)
        there.remove_reader()
