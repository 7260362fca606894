"""A loop of asyncio polls a connection while something of it is waited for.

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

from supervisor.client.caller_socket import Lack
from supervisor.client.connection import AGAIN, Connection
from supervisor.errors import MailboxFull

_reading: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Counter[Connection]] = (
    weakref.WeakKeyDictionary()
)


async def room(there: Connection, attempt: Callable[[], object]) -> None:
    """Wait until there may be room, after an attempt to send that has found none.

    Args:
        there: the connection.
        attempt: what to try once more, as there may have been room before this waits.

    Raises:
        Whatever the attempt raises but ``MailboxFull``.
    """
    loop = asyncio.get_running_loop()
    with _change(there) as changed:
        with contextlib.suppress(MailboxFull):
            attempt()
            return
        if there.lack is Lack.BUFFER:
            loop.add_writer(there.fileno(), _writable, loop, there, there.fileno())
        elif there.lack is Lack.DESCRIPTORS:
            loop.call_later(AGAIN, there.changed)
        await changed


@contextlib.contextmanager
def _change(there: Connection) -> Iterator[asyncio.Future[None]]:
    """Give a future that is done with the next change of a connection."""
    changed = asyncio.get_running_loop().create_future()
    callback = functools.partial(finish, changed)
    there.when_changed(callback)
    try:
        yield changed
    finally:
        there.forget_waiter(callback)


async def until(there: Connection, ready: Callable[[], bool]) -> None:
    """Wait until ``ready()`` is true; check it again after each answer on a connection."""
    if ready():
        return
    loop = asyncio.get_running_loop()
    with reading_by(loop, there):
        while not ready():
            with _change(there) as changed:
                if ready():  # there may have been an answer before that
                    return
                await changed


def finish(future: asyncio.Future[None]) -> None:
    """Set a future's result, from any thread."""

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
        future.get_loop().call_soon_threadsafe(wake)


@contextlib.contextmanager
def reading_by(loop: asyncio.AbstractEventLoop, there: Connection) -> Iterator[None]:
    """Have the loop read a connection while at least one of its calls is under way."""
    reading = _reading.setdefault(loop, Counter())
    if not reading[there]:
        there.add_reader()
        loop.add_reader(there.fileno(), _serve, loop, there, there.fileno())
    fd = there.fileno()  # it stays open as long as it has a reader
    reading[there] += 1
    try:
        yield
    finally:
        reading[there] -= 1
        if not reading[there]:
            del reading[there]
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            there.remove_reader()


def _serve(loop: asyncio.AbstractEventLoop, there: Connection, fd: int) -> None:
    if not there.serve():  # a thread leads: go on when it has left, of which it may tell nobody
        loop.remove_reader(fd)
        loop.call_later(1.0, _add_reader, loop, there, fd)
        there.when_changed(functools.partial(_add_reader_soon, loop, there, fd))
    elif there.dead:  # its end of file stays readable
        loop.remove_reader(fd)


def _add_reader(loop: asyncio.AbstractEventLoop, there: Connection, fd: int) -> None:
    if _reading.get(loop, Counter())[there] and not there.dead:
        loop.add_reader(fd, _serve, loop, there, fd)


def _add_reader_soon(loop: asyncio.AbstractEventLoop, there: Connection, fd: int) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
        loop.call_soon_threadsafe(_add_reader, loop, there, fd)


def _writable(loop: asyncio.AbstractEventLoop, there: Connection, fd: int) -> None:
    loop.remove_writer(fd)
    there.changed()
