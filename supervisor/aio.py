"""Calls from asyncio. The loop watches the connection's descriptors; nothing else runs.

The reply may also be read by a thread of the program that waits for another reply of the same
actor: whoever reads hands every reply to whom it belongs.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from supervisor.calls import FOREVER, deadline_of, no_reply
from supervisor.connection import Connection
from supervisor.errors import MailboxFull
from supervisor.pending import Pending
from supervisor.protocol import CALL

_watched: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Counter[Connection]] = (
    weakref.WeakKeyDictionary()
)


async def call(there: Connection, request: Any, deadline: float, who: str) -> Any:
    """Do what ``Ref.acall`` says."""
    loop = asyncio.get_running_loop()
    answered = loop.create_future()
    pending, began = Pending(True, lambda _: _finish(answered)), loop.time()
    with _watch(loop, there):
        try:
            async with asyncio.timeout_at(_on_clock(loop, deadline)):
                await _send(loop, there, request, pending)
                await answered
        except TimeoutError:
            if pending.number == 0:
                raise MailboxFull(f"{who} does not serve its mailbox, which is full") from None
            raise no_reply(who, loop.time() - began, request) from None
        finally:
            there.forget(pending)
    return pending.result(who)


async def until(there: Connection, ready: Callable[[], bool]) -> None:
    """Wait until something is so, which may come to be with an answer on a connection."""
    loop = asyncio.get_running_loop()
    with _watch(loop, there):
        while not ready():
            changed = loop.create_future()
            there.when_changed(functools.partial(_finish, changed))
            if ready():  # there may have been an answer before that
                return
            await changed


async def _send(
    loop: asyncio.AbstractEventLoop, there: Connection, request: Any, pending: Pending
) -> None:
    """Send a call, after waiting for room if need be."""
    while True:
        with contextlib.suppress(MailboxFull):
            there.ask(CALL, request, 0.0, pending)
            return
        changed = loop.create_future()
        there.when_changed(functools.partial(_finish, changed))
        with contextlib.suppress(MailboxFull):  # there may have been a change before that
            there.ask(CALL, request, 0.0, pending)
            return
        await changed


def _finish(future: asyncio.Future[None]) -> None:
    """Wake who waits for a future, from any thread."""

    def finish() -> None:
        if not future.done():
            future.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
        future.get_loop().call_soon_threadsafe(finish)


def _on_clock(loop: asyncio.AbstractEventLoop, deadline: float) -> float | None:
    return None if deadline == FOREVER else loop.time() + deadline - deadline_of(0.0)


@contextlib.contextmanager
def _watch(loop: asyncio.AbstractEventLoop, there: Connection) -> Iterator[None]:
    """Let the loop read what comes, while at least one of its calls is under way."""
    watched = _watched.setdefault(loop, Counter())
    if not watched[there]:
        there.watch(1)
        for fd in (there.fileno(), there.pidfd):
            loop.add_reader(fd, _serve, loop, there)
    watched[there] += 1
    try:
        yield
    finally:
        watched[there] -= 1
        if not watched[there]:
            del watched[there]
            _unwatch(loop, there)


def _serve(loop: asyncio.AbstractEventLoop, there: Connection) -> None:
    there.serve()
    if there.dead:  # its pidfd stays readable
        loop.remove_reader(there.pidfd)


def _unwatch(loop: asyncio.AbstractEventLoop, there: Connection) -> None:
    for fd in (there.fileno(), there.pidfd):
        loop.remove_reader(fd)
    there.watch(-1)
