"""What has no asynchronous form of its own: a start, say, done in a thread for asyncio."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from typing import TypeVar

_Made = TypeVar("_Made")


async def made_in_thread(
    make: Callable[[], _Made], undo: Callable[[_Made], Awaitable[object]]
) -> _Made:
    """Make something in a thread, as ``make`` does; other tasks run meanwhile.

    Cancelled, it waits until that is made, and undoes it, since nobody would ever have it: a thread
    cannot be interrupted.

    Args:
        make: what the thread calls. What it raises is raised here.
        undo: is given what was made, if the task was cancelled meanwhile.
    """
    import asyncio  # noqa: PLC0415 - it takes megabytes, and few need it

    making = asyncio.ensure_future(asyncio.to_thread(make))
    try:
        return await asyncio.shield(making)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):  # it was not made, or has ended by itself
            await undo(await making)
        raise
