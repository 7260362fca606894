"""What a caller holds while it waits for more than one answer: futures, and streams of events."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar, cast

from supervisor.client.connection import Connection, deadline_of
from supervisor.client.pending import Pending, Stream
from supervisor.errors import ActorError, CallTimeout, Cancelled, shown
from supervisor.protocol.message_kinds import RAISE, SUBSCRIBE
from supervisor.protocol.telemetry import after

if TYPE_CHECKING:
    from typing_extensions import TypeVar as DefaultTypeVar

    _Value_co = DefaultTypeVar("_Value_co", covariant=True, default=Any)
else:
    _Value_co = TypeVar("_Value_co", covariant=True)

log = logging.getLogger("supervisor")


def no_reply(who: object, timeout: float | None, request: Any = ...) -> CallTimeout:
    """Return the error of a call that was not answered in time."""
    what = "" if request is ... else f" to {shown(request, 80)}"
    return CallTimeout(f"{who} has not replied{what} within {timeout:.3g} s")


class CallFuture(Generic[_Value_co]):
    """The reply to a call that is under way. Source: ``gen_server:send_request/2``.

    Replies are read by whoever waits for one of the same actor, so nothing needs to run meanwhile.
    """

    def __init__(self, there: Connection, pending: Pending, who: str) -> None:
        self._there = there
        self._pending = pending
        self._who = who

    def result(self, timeout: float | None = None) -> _Value_co:
        """Wait for the reply, and return it.

        Raises:
            CallTimeout: it has not come in so many seconds; it can be waited for again.
            ProcessDown, RemoteError: as ``Ref.call``.
        """
        self._wait(timeout)
        return cast("_Value_co", self._pending.result(self._who))

    def __await__(self) -> Generator[Any, None, _Value_co]:
        """Wait for the reply, from asyncio; cancelled, the call is still under way."""
        return self._answered().__await__()

    async def _answered(self) -> _Value_co:
        await self.until(self.done)
        return self.result(0.0)

    async def until(self, ready: Callable[[], bool]) -> None:
        """Wait, from asyncio, until ``ready()`` is true. It is called after each answer."""
        from supervisor.client import asyncio_reader  # noqa: PLC0415 - asyncio takes megabytes, and few need it

        await asyncio_reader.until(self._there, ready)

    def exception(self, timeout: float | None = None) -> Exception | None:
        """Wait for the reply, and return what ``result`` would raise, or None.

        Raises:
            CallTimeout: it has not come in so many seconds.
        """
        self._wait(timeout)
        try:
            self._pending.result(self._who)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the result
            return error
        return None

    def _wait(self, timeout: float | None) -> None:
        if not self.done():
            try:
                self._there.wait(self._pending, deadline_of(timeout))
            except CallTimeout:
                raise no_reply(self._who, timeout) from None

    def done(self) -> bool:
        """Tell whether the reply has come, without waiting."""
        if self._pending.answer is None:
            self._there.serve()
        return self._pending.answer is not None

    def add_done_callback(self, callback: Callable[[Self], object]) -> None:
        """Have a function called with this future when the reply has come; at once, if it has.

        In an actor it is called between messages, as a timer's is. In another program it is called
        by the thread that reads the reply: one that waits for a reply of that actor, or asyncio.
        It should not block. What it raises there is logged.
        """
        then: Callable[[], object] = functools.partial(_call, callback, self)
        if _in_actor is not None:
            then = _in_actor(self._there, lambda: callback(self))
        self._there.when_answered(self._pending, then)

    def cancel(self) -> None:
        """Wait for it no longer. The actor serves the call all the same.

        ``result`` then raises ``Cancelled``, unless the reply has come already.
        """
        if self._pending.answer is None:
            error = Cancelled(f"the call of {self._who} was cancelled")
            self._there.settle(self._pending, RAISE, error)


def connection_of(future: CallFuture) -> Connection:
    """Return the connection on which the reply comes: for this package."""
    return future._there  # noqa: SLF001 - the one way to it


_in_actor: Callable[[Connection, Callable[[], object]], Callable[[], object]] | None = None
"""In an actor: has the loop read a connection; returns what to call when the reply has come."""


def actor_calls_back(
    how: Callable[[Connection, Callable[[], object]], Callable[[], object]] | None,
) -> Callable[[Connection, Callable[[], object]], Callable[[], object]] | None:
    """Say how an actor's loop calls back; None: this process is no actor. Return what was so."""
    global _in_actor
    former, _in_actor = _in_actor, how
    return former


def _call(callback: Callable[[Any], object], future: CallFuture[Any]) -> None:
    try:
        callback(future)
    except Exception:
        log.exception("a callback of a future has raised")


class Events:
    """The events of an actor, as they happen, until it ends. An iterator, and a context manager.

    Up to 10,000 are kept for a subscriber that does not read; ``lost`` of the next one says how
    many more there were.
    """

    def __init__(self, there: Connection, topic: str) -> None:
        self._there = there
        self._owner = os.getpid()
        self._stream = Stream()
        there.ask(SUBSCRIBE, topic, deadline_of(5.0), self._stream)

    def next(self, timeout: float | None = None) -> Any:
        """Return the next event.

        Raises:
            CallTimeout: there was none in so many seconds.
            StopIteration: the actor has ended, or this was closed.
        """
        stream = self._stream
        if not stream.events and stream.answer is None:
            self._there.wait_for_event(stream, deadline_of(timeout))
        if stream.events:
            event, lost = stream.events.popleft()
            return after(lost, event)
        if stream.answer is not None and stream.answer[0] == RAISE:
            raise stream.answer[1]
        raise StopIteration

    async def anext(self) -> Any:
        """Return the next event, from asyncio.

        Raises:
            StopAsyncIteration: the actor has ended, or this was closed.
        """
        from supervisor.client import asyncio_reader  # noqa: PLC0415 - asyncio takes megabytes, and few need it

        stream = self._stream
        await asyncio_reader.until(self._there, lambda: bool(stream.events or stream.answer))
        try:
            return self.next(0.0)
        except StopIteration:
            raise StopAsyncIteration from None

    def close(self) -> None:
        """Have no more events."""
        stream = self._stream
        if stream.answer is not None or self._owner != os.getpid():
            return
        self._there.settle(stream, RAISE, StopIteration())
        # The actor has ended; or it does not read, and sends EVENTS_UNDER_WAY more events at most.
        with contextlib.suppress(ActorError):
            self._there.withdraw(stream, 5.0)

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        return self.next()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        return await self.anext()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
