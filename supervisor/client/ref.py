"""References to actors: how a caller reaches one.

A reference means the actor, not the process. A named one follows its name over restarts, one
without a name means the incarnation that it was made for, and nobody when that has ended.
Source: OTP's ``gen_server`` (call, cast, stop) and ``erlang:monitor/2``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypeAlias,
    TypeVar,
    cast,
    overload,
)

from supervisor import linux
from supervisor.client import call_cycle, connections
from supervisor.client import retry as repetition
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
from supervisor.protocol.invocation import Invocation, term_of
from supervisor.protocol.message_kinds import (
    CALL,
    CALL_METHOD,
    CALLS,
    CAST,
    CAST_METHOD,
    DOWN,
    INFO,
    LEAVE,
    MONITOR,
    OWN,
    RAISE,
    STOP,
    SYSTEM,
)
from supervisor.protocol.results import Continue, NoReply, Stop

_Given = ParamSpec("_Given")
_Reply = TypeVar("_Reply")
_Actor = TypeVar("_Actor")
if TYPE_CHECKING:
    from types import EllipsisType as ellipsis  # noqa: N813 - what ``...`` is

    from typing_extensions import TypeVar as DefaultTypeVar

    Served_co = DefaultTypeVar("Served_co", covariant=True, default=Any)
else:
    Served_co = TypeVar("Served_co", covariant=True)
"""The class of the actor that a reference means. By default any: ``Ref`` alone is ``Ref[Any]``."""

_Plain: TypeAlias = int | float | str | bytes | datetime | Exception | None
Term: TypeAlias = "_Plain | Sequence[Any] | Mapping[Any, Any] | AbstractSet[Any] | Ref[Any]"
"""What travels, as far as a type says so; no function does. (Other packages' types are ``Any``.)"""
Handler: TypeAlias = "Callable[Concatenate[_Actor, _Given], _Reply | NoReply | Stop | Continue]"
"""A method of an actor, which callers see without what it may return in place of a reply."""

_PATIENCE = 5.0  # seconds: gen_server:call/2 has the same
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


class Ref(Generic[Served_co]):
    """A reference to an actor. It can be pickled, and sent in messages.

    ``Ref[Counter]`` is a reference to an actor of that class or of a subclass, for type checkers.

    A request is a term, for ``handle_call`` or ``handle_cast``: ``ref.call("get", timeout=1.0)``.
    Or it is a method that is marked by ``handler``, with its arguments: ``ref.call(Counter.add,
    5)``. All of these are the method's, so ``within`` sets the timeout:
    ``ref.within(1.0).call(Counter.add, 5)``.
    """

    __slots__ = ("_process", "_retry", "_timeout", "name")

    def __init__(self, process: Process | None = None, name: str | None = None) -> None:
        self._process = process
        self.name = name
        self._timeout: float | None = _PATIENCE
        self._retry = 0.0

    def within(self, timeout: float | None = _PATIENCE, *, retry: float = 0.0) -> Self:
        """Return a reference to the same actor whose requests have other bounds.

        Args:
            timeout: seconds for each attempt of ``call``, ``acall``, ``call_async`` and ``cast``;
                None waits as long as the actor lives. Of each ``call``, a ``timeout`` that it is
                given itself counts instead.
            retry: seconds after the first failure in which ``call``, ``acall`` and ``cast`` are
                repeated while the actor is being restarted, or has not been started yet. For
                requests that may be served twice (idempotent ones): nobody knows whether an actor
                that ended had served them. By default nothing is ever repeated.

        These bounds do not travel in messages.

        Raises:
            TypeError, ValueError: no numbers of seconds, or ``retry`` without a name.
        """
        deadline_of(timeout)
        if isinstance(timeout, bool) or isinstance(retry, bool):
            raise TypeError("a timeout, and retry, are numbers of seconds")
        if timeout is not None and timeout < 0:
            raise ValueError(f"a timeout is not negative, as {timeout} is")
        if retry != 0.0:
            self._marked(CALL, None, retry)
        other = type(self)(self._process, self.name)
        other._timeout, other._retry = timeout, retry  # noqa: SLF001 - of this class
        return other

    @overload
    def call(
        self,
        request: Handler[Served_co, _Given, _Reply],
        /,
        *args: _Given.args,
        **kwargs: _Given.kwargs,
    ) -> _Reply: ...

    @overload
    def call(self, request: Term, /, timeout: float | None = ..., retry: float = ...) -> Any: ...

    def call(self, request: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Send a request and wait for the reply: what ``handle_call``, or the method, returns.

        Args:
            request: a term, of what msgpack or its extensions of ``supervisor.protocol.codec``
                carry; or a method that is marked by ``handler``.
            *args: the method's. Of a term: ``timeout`` and ``retry``, as those of ``within``.
            **kwargs: the method's. Of a term: as above.

        Raises:
            NoProcess: nobody is there; nothing was sent.
            ProcessDown: the actor ended during the call.
            CallTimeout: it lives, and did not reply in time.
            RemoteError: ``handle_call``, or the method, raised; the text holds its traceback.
            CallCycle: an actor calls itself, or one that waits for it: nothing was sent.
            MailboxFull: its mailbox's bound is reached, or 500 calls of this process to it are
                under way, and it stayed so; nothing was sent.
            TypeError, ValueError: the request cannot travel, or the method does not take these
                arguments; nothing was sent, unless the actor has another version of the class.
        """
        if callable(request):
            term = term_of(request, args, kwargs)
            if self._retry:
                return self._bounded_call(CALL_METHOD, term, self._timeout, self._retry)
            return self._ask(CALL_METHOD, term, self._timeout)
        if args or kwargs or self._retry:
            return self._bounded_call(CALL, request, *self._bounds(*args, **kwargs))
        return self._ask(CALL, request, self._timeout)

    def _bounds(
        self, timeout: float | ellipsis | None = ..., retry: float | ellipsis = ...
    ) -> tuple[float | None, float]:
        """Return the bounds of one request: those that it was given, else this reference's."""
        return (
            self._timeout if timeout is ... else timeout,
            self._retry if retry is ... else retry,
        )

    def _bounded_call(self, kind: int, term: Any, timeout: float | None, retry: float) -> Any:
        if retry == 0.0:
            return self._ask(kind, term, timeout)
        name, kind, term = self._marked(kind, term, retry)
        if name is None:
            return self._ask(kind, term, timeout)
        return repetition.repeated(name, retry, lambda: self._ask(kind, term, timeout))

    def _marked(self, kind: int, term: Any, retry: float) -> tuple[str | None, int, Any]:
        """Return the name whose next process a call is sent to again, and the call itself.

        Raises:
            TypeError, ValueError: it cannot be repeated, or not for so long.
        """
        return repetition.check(self.name, retry), kind, term

    @overload
    async def acall(
        self,
        request: Handler[Served_co, _Given, _Reply],
        /,
        *args: _Given.args,
        **kwargs: _Given.kwargs,
    ) -> _Reply: ...

    @overload
    async def acall(
        self,
        request: Term,
        /,
        timeout: float | None = ...,  # noqa: ASYNC109 - as call
        retry: float = ...,
    ) -> Any: ...

    async def acall(self, request: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call from asyncio, as ``call`` does; other tasks run meanwhile.

        Cancelled, it waits no longer; the actor serves the call all the same. A cycle of such
        calls is not found: an actor that has asyncio's loop run in a callback serves nothing else.
        """
        from supervisor.client import asyncio_call  # noqa: PLC0415 - asyncio takes megabytes, and few need it

        kind, term, timeout, retry = self._told(request, args, kwargs)
        if retry == 0.0:
            return await self._acall(kind, term, timeout)
        name, kind, term = self._marked(kind, term, retry)
        if name is None:
            return await self._acall(kind, term, timeout)
        return await asyncio_call.repeated(name, retry, lambda: self._acall(kind, term, timeout))

    async def _acall(self, kind: int, term: Any, timeout: float | None) -> Any:  # noqa: ASYNC109 - as call
        from supervisor.client import asyncio_call  # noqa: PLC0415 - asyncio takes megabytes, and few need it

        there = self._known_connection()
        if there is None:
            await asyncio_call.until_restored(self.name)
            there = self._connection()
        self._not_myself(there)
        try:
            return await asyncio_call.call(there, kind, term, deadline_of(timeout), str(self))
        except NoProcess:
            there = self._successor(there)
            return await asyncio_call.call(there, kind, term, deadline_of(timeout), str(self))

    @overload
    def call_async(
        self,
        request: Handler[Served_co, _Given, _Reply],
        /,
        *args: _Given.args,
        **kwargs: _Given.kwargs,
    ) -> CallFuture[_Reply]: ...

    @overload
    def call_async(self, request: Term, /, timeout: float | None = ...) -> CallFuture[Any]: ...

    def call_async(self, request: Any, /, *args: Any, **kwargs: Any) -> CallFuture[Any]:
        """Send a request, and wait for its reply later. See ``CallFuture.result``.

        Args:
            request: as ``call``'s.
            *args: as ``call``'s, without ``retry``. ``timeout`` is how many seconds the request may
                wait for room, when 500 calls are under way already.
            **kwargs: as above.

        Raises:
            NoProcess, MailboxFull, TypeError, ValueError: as ``call``; nothing was sent.
        """
        kind, term, timeout, retry = self._told(request, args, kwargs)
        if retry != 0.0:
            kind, term = self._marked_for_future(kind, term, retry)
        return self._call_async(kind, term, timeout, None)

    def _marked_for_future(self, kind: int, term: Any, retry: float) -> tuple[int, Any]:
        """Return the call itself, if whoever is sent it repeats it.

        Raises:
            ValueError: nobody does.
        """
        del kind, term, retry
        raise ValueError("a future belongs to one process: only call, acall and cast repeat")

    def _told(
        self, request: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[int, Any, float | None, float]:
        """Return the kind and the term of a call's message, and its bounds."""
        if callable(request):
            term = term_of(request, args, kwargs)
            return CALL_METHOD, term, self._timeout, self._retry
        return CALL, request, *self._bounds(*args, **kwargs)

    def _call_async(
        self, kind: int, term: Any, timeout: float | None, given: Pending | None
    ) -> CallFuture[Any]:
        """Send a request; what takes its reply may be given, as of ``Connection.ask``."""
        there = self._connection()
        self._not_myself(there)
        try:
            pending = there.ask(kind, term, deadline_of(timeout), given)
        except NoProcess:
            there = self._successor(there)
            pending = there.ask(kind, term, deadline_of(timeout), given)
        return CallFuture(there, pending, str(self))

    def _begin(self, kind: int, term: Any, timeout: float | None) -> CallFuture:
        """Send a request whose reply this thread is about to wait for: ``call`` in two steps."""
        there = self._connection()
        pending = self._request(there, kind, term, deadline_of(timeout))
        return CallFuture(there, pending, str(self))

    @overload
    def cast(
        self,
        request: Handler[Served_co, _Given, Any],
        /,
        *args: _Given.args,
        **kwargs: _Given.kwargs,
    ) -> None: ...

    @overload
    def cast(self, request: Term, /, timeout: float | None = ..., retry: float = ...) -> None: ...

    def cast(self, request: Any, /, *args: Any, **kwargs: Any) -> None:
        """Send a request that has no reply, for ``handle_cast`` or a method.

        It waits only when the mailbox's bound is reached. What a method returns is dropped.

        Args:
            request: as ``call``'s.
            *args: as ``call``'s. ``retry`` repeats only what was not sent: a cast that an actor had
                received is lost with it, and nobody is told.
            **kwargs: as above.

        Raises:
            NoProcess, MailboxFull, TypeError, ValueError: as ``call``; nothing was sent.
        """
        if callable(request):
            term = term_of(request, args, kwargs)
            self._bounded_cast(CAST_METHOD, term, self._timeout, self._retry)
        elif args or kwargs or self._retry:
            self._bounded_cast(CAST, request, *self._bounds(*args, **kwargs))
        else:
            self._send(CAST, request, self._timeout)

    def _bounded_cast(self, kind: int, term: Any, timeout: float | None, retry: float) -> None:
        if retry == 0.0:
            self._send(kind, term, timeout)
            return
        name = repetition.check(self.name, retry)
        repetition.repeated(name, retry, lambda: self._send(kind, term, timeout))

    @overload
    async def acast(
        self,
        request: Handler[Served_co, _Given, Any],
        /,
        *args: _Given.args,
        **kwargs: _Given.kwargs,
    ) -> None: ...

    @overload
    async def acast(
        self,
        request: Term,
        /,
        timeout: float | None = ...,  # noqa: ASYNC109 - as cast
        retry: float = ...,
    ) -> None: ...

    async def acast(self, request: Any, /, *args: Any, **kwargs: Any) -> None:
        """Cast from asyncio, as ``cast`` does; other tasks run while it waits for room."""
        from supervisor.client import asyncio_call  # noqa: PLC0415 - asyncio takes megabytes, and few need it

        kind, term, timeout, retry = self._told(request, args, kwargs)
        kind = CAST if kind == CALL else CAST_METHOD

        async def attempt() -> None:
            there = self._connection()
            deadline = deadline_of(timeout)
            try:
                await asyncio_call.cast(there, kind, term, deadline, str(self))
            except NoProcess:
                await asyncio_call.cast(self._successor(there), kind, term, deadline, str(self))

        if retry == 0.0:
            await attempt()
        else:
            await asyncio_call.repeated(repetition.check(self.name, retry), retry, attempt)

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
        _raise_unless_meant(error, reason)

    async def astop(
        self,
        reason: Reason = NORMAL,
        timeout: float | None = None,  # noqa: ASYNC109 - as stop
    ) -> None:
        """Stop from asyncio, as ``stop`` does; other tasks run meanwhile.

        Cancelled, it waits no longer; the actor ends all the same.
        """
        from supervisor.client import asyncio_call  # noqa: PLC0415 - asyncio takes megabytes, and few need it

        there = self._connection()
        self._not_myself(there)
        error: ProcessDown | None = None
        deadline = deadline_of(timeout)
        try:
            await asyncio_call.call(there, STOP, reason, deadline, str(self))
        except ProcessDown as down:
            error = down
        await asyncio_call.ended(there, deadline, str(self))
        _raise_unless_meant(error, reason)

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
                request = Invocation.of(term) if kind == CALL_METHOD else term
                raise no_reply(self, timeout, request) from None
        return pending.result(self)

    def _request(self, there: Connection, kind: int, term: Any, deadline: float) -> Pending:
        """Send a request whose answer this thread is about to wait for."""
        chain: Any = call_cycle.chain_to(there.process, self)
        if chain:
            chain = call_cycle.encode(chain) if kind in CALLS else ()
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


def _raise_unless_meant(error: ProcessDown | None, reason: Reason) -> None:
    """Raise the error by which a stopped actor has ended, unless it was the reason to stop it."""
    if error is not None and isinstance(error.reason, Exception) and error.reason != reason:
        raise error


def connection_to(ref: Ref) -> Connection:
    """Return this process's connection to a reference's present incarnation: for this package.

    Raises:
        NoProcess: there is none.
    """
    return ref._connection()  # noqa: SLF001 - the one way to it


def process_of(ref: Ref) -> Process | None:
    """Return the process that a reference without a name means; None of one with a name."""
    return ref._process  # noqa: SLF001 - the one way to it


def retry_of(ref: Ref) -> float:
    """Return for how many seconds requests by a reference are repeated: see ``Ref.within``."""
    return ref._retry  # noqa: SLF001 - the one way to it


def ask_system(ref: Ref, request: list[Any], timeout: float) -> Any:
    """Ask what can be asked of any actor, whatever its class: for this package."""
    return ref._ask(SYSTEM, request, timeout)  # noqa: SLF001 - the one way to it


def begin(ref: Ref, kind: int, term: Any, timeout: float | None) -> CallFuture:
    """Send a request without retrying it on a successor: for this package."""
    return ref._begin(kind, term, timeout)  # noqa: SLF001 - the one way to it


def begin_async(ref: Ref, kind: int, term: Any) -> CallFuture:
    """Send a request, if there is room for it now: for this package."""
    return ref._call_async(kind, term, 0.0, None)  # noqa: SLF001 - the one way to it


def send(ref: Ref, kind: int, term: Any) -> None:
    """Send a message that nobody answers, if there is room for it now: for this package."""
    ref._send(kind, term, 0.0)  # noqa: SLF001 - the one way to it


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
            self._there.settle(self._pending, RAISE, Cancelled("this monitor was closed"))

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
        return self._down()

    def __await__(self) -> Generator[Any, None, Down]:
        """Wait until the actor has ended, from asyncio. Raises Cancelled as ``wait``."""
        return self._ended().__await__()

    async def _ended(self) -> Down:
        from supervisor.client import asyncio_reader  # noqa: PLC0415 - asyncio takes megabytes, and few need it

        await asyncio_reader.until(self._there, lambda: self._pending.answer is not None)
        return self._down()

    def _down(self) -> Down:
        if self._pending.answer is not None and self._pending.answer[0] == RAISE:
            raise self._pending.answer[1]
        return Down(self._ref, self._there.process.pid, self._pending.reason())


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
