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

from supervisor.connection import Connection

_watched: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Counter[Connection]] = (
    weakref.WeakKeyDictionary()
)


async def until(there: Connection, ready: Callable[[], bool]) -> None:
    """Wait until something is so, which may come to be with an answer on a connection."""
    loop = asyncio.get_running_loop()
    with watch(loop, there):
        while not ready():
            changed = loop.create_future()
            there.when_changed(functools.partial(finish, changed))
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
