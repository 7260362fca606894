"""Calls from asyncio. The loop polls the connection's descriptor; nothing else runs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from supervisor import linux
from supervisor.client.asyncio_reader import finish, reading_by, room
from supervisor.client.connection import FOREVER, Connection, deadline_of
from supervisor.client.futures import no_reply
from supervisor.client.pending import Pending
from supervisor.client.retry import FAILURES, NextProcess, checked
from supervisor.errors import CallTimeout, MailboxFull
from supervisor.protocol import registry, restoration
from supervisor.protocol.invocation import Invocation
from supervisor.protocol.message_kinds import CALL_METHOD

_Found = TypeVar("_Found")


async def until_restored(name: str | None) -> None:
    """Wait until a name is found, or no restoration of the runtime directory is under way."""
    restoration.remember()
    deadline = time.monotonic() + restoration.MOST
    while True:
        is_there = name is None or registry.has_holder(name)
        if is_there:
            restoration.it_is_there()
        if is_there or not restoration.is_under_way() or time.monotonic() > deadline:
            return
        await asyncio.sleep(restoration.STEP)


async def call(there: Connection, kind: int, term: Any, deadline: float, who: str) -> Any:
    """Do what ``Ref.acall`` says."""
    loop = asyncio.get_running_loop()
    answered = loop.create_future()
    pending, began = Pending(is_call=True, then=lambda _: finish(answered)), loop.time()
    with reading_by(loop, there):
        try:
            async with asyncio.timeout_at(_on_clock(loop, deadline)):
                await _send(there, kind, term, pending)
                await answered
        except TimeoutError:
            there.serve()  # if this process has stood still, the reply may have come meanwhile
            if pending.number == 0:
                raise MailboxFull(f"{who} does not serve its mailbox, which is full") from None
            if pending.answer is None:
                request = Invocation.of(term) if kind == CALL_METHOD else term
                raise no_reply(who, loop.time() - began, request) from None
        finally:
            there.forget(pending)
    return pending.result(who)


async def _send(there: Connection, kind: int, term: Any, pending: Pending) -> None:
    """Send a call, after waiting for room if need be."""
    while pending.number == 0:
        try:
            there.ask(kind, term, 0.0, pending)
        except MailboxFull:
            await room(there, lambda: there.ask(kind, term, 0.0, pending))


async def cast(there: Connection, kind: int, term: Any, deadline: float, who: str) -> None:
    """Do what ``Ref.acast`` says."""
    loop = asyncio.get_running_loop()
    with reading_by(loop, there):  # what the actor has served is told by what it sends
        try:
            async with asyncio.timeout_at(_on_clock(loop, deadline)):
                while not await _cast(there, kind, term):
                    pass
        except TimeoutError:
            raise MailboxFull(f"{who} does not serve its mailbox, which is full") from None


async def _cast(there: Connection, kind: int, term: Any) -> bool:
    """Send a cast, or wait until there may be room; tell whether it was sent."""
    sent = False

    def attempt() -> None:
        nonlocal sent
        there.send(kind, term, 0.0)
        sent = True

    try:
        attempt()
    except MailboxFull:
        await room(there, attempt)
    return sent


async def ended(there: Connection, deadline: float, who: str) -> None:
    """Wait until the process of a connection has ended.

    Raises:
        CallTimeout: it has not in time.
    """
    with contextlib.suppress(ProcessLookupError):
        pidfd = linux.open_process(there.process)
        try:
            async with asyncio.timeout_at(_on_clock(asyncio.get_running_loop(), deadline)):
                await readable(pidfd)
        except TimeoutError:
            raise CallTimeout(f"{who} has not ended in time") from None
        finally:
            os.close(pidfd)
    linux.reap_adopted()


async def readable(fd: int) -> None:
    """Wait until a descriptor is readable."""
    loop = asyncio.get_running_loop()
    told = loop.create_future()
    loop.add_reader(fd, lambda: finish(told))
    try:
        await told
    finally:
        loop.remove_reader(fd)


def _on_clock(loop: asyncio.AbstractEventLoop, deadline: float) -> float | None:
    return None if deadline == FOREVER else loop.time() + deadline - deadline_of(0.0)


async def repeated(name: str, retry: float, attempt: Callable[[], Awaitable[_Found]]) -> _Found:
    """Do what ``retry.repeated`` does, from asyncio."""
    try:
        return await attempt()
    except FAILURES as error:
        failure = checked(error)
    with contextlib.closing(NextProcess(name, retry)) as successor:
        while True:
            while not successor.is_there(failure):
                await _told(successor)
            try:
                return await attempt()
            except FAILURES as error:
                failure = checked(error)


async def _told(successor: NextProcess) -> None:
    """Wait until it is worth looking again whether there is a successor."""
    fd, patience = successor.fileno(), successor.patience()
    if fd < 0:
        await asyncio.sleep(patience)
        return
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(patience):
            await readable(fd)
    successor.told()
