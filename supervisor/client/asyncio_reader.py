"""A loop of asyncio watches a connection while something of it is waited for.

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

_watched: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Counter[Connection]] = (
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
    """Wait until something is so, which may come to be with an answer on a connection."""
    if ready():
        return
    loop = asyncio.get_running_loop()
    with watch(loop, there):
        while not ready():
            with _change(there) as changed:
                if ready():  # there may have been an answer before that
                    return
                await changed


def finish(future: asyncio.Future[None]) -> None:
    """Wake who waits for a future, from any thread."""

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
        future.get_loop().call_soon_threadsafe(wake)


@contextlib.contextmanager
def watch(loop: asyncio.AbstractEventLoop, there: Connection) -> Iterator[None]:
    """Let the loop read what comes, while at least one of its calls is under way."""
    watched = _watched.setdefault(loop, Counter())
    if not watched[there]:
        there.watch(1)
        loop.add_reader(there.fileno(), _serve, loop, there, there.fileno())
    fd = there.fileno()  # it stays open as long as it is watched
    watched[there] += 1
    try:
        yield
    finally:
        watched[there] -= 1
        if not watched[there]:
            del watched[there]
            loop.remove_reader(fd)
            loop.remove_writer(fd)
            there.watch(-1)


def _serve(loop: asyncio.AbstractEventLoop, there: Connection, fd: int) -> None:
    if not there.serve():  # a thread leads: look again when it has left, or has told nobody
        loop.remove_reader(fd)
        loop.call_later(1.0, _look, loop, there, fd)
        there.when_changed(functools.partial(_look_soon, loop, there, fd))
    elif there.dead:  # its end of file stays readable
        loop.remove_reader(fd)


def _look(loop: asyncio.AbstractEventLoop, there: Connection, fd: int) -> None:
    if _watched.get(loop, Counter())[there] and not there.dead:
        loop.add_reader(fd, _serve, loop, there, fd)


def _look_soon(loop: asyncio.AbstractEventLoop, there: Connection, fd: int) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has been closed meanwhile
        loop.call_soon_threadsafe(_look, loop, there, fd)


def _writable(loop: asyncio.AbstractEventLoop, there: Connection, fd: int) -> None:
    loop.remove_writer(fd)
    there.changed()
