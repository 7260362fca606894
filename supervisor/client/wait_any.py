"""The wait for any of several replies, of the same or of different actors."""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Iterable

from supervisor import linux
from supervisor.client.connection import deadline_of
from supervisor.client.futures import CallFuture, connection_of
from supervisor.errors import CallTimeout, NoProcess, shown


def wait_any(
    futures: Iterable[CallFuture], timeout: float | None = None
) -> tuple[list[CallFuture], list[CallFuture]]:
    """Wait until at least one of several futures is done.

    Args:
        futures: of ``call_async``.
        timeout: seconds; None waits as long as one of the actors lives.

    Returns:
        Those that are done, and the others, each in the order of the request. Without any futures
        two empty lists.

    Raises:
        CallTimeout: none is done in so many seconds. They can be waited for again.
        TypeError: something is no such future.
    """
    waited_for = list(futures)
    for future in waited_for:
        if not isinstance(future, CallFuture):
            raise TypeError(f"futures of call_async are waited for, not {shown(future)}")
    deadline = deadline_of(timeout)
    wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        while True:
            done = [future for future in waited_for if future.done()]
            if done or not waited_for:
                return done, [future for future in waited_for if future not in done]
            if time.monotonic() >= deadline:
                text = f"none of {len(waited_for)} calls was answered within {timeout:g} s"
                raise CallTimeout(text)
            _wait(waited_for, wakeup, deadline)
    finally:
        os.close(wakeup)


def _wait(futures: list[CallFuture], wakeup: int, deadline: float) -> None:
    """Wait until there may be an answer on one of the futures' connections."""

    def changed() -> None:
        os.eventfd_write(wakeup, 1)

    poller, polled = select.poll(), []
    poller.register(wakeup, select.POLLIN)
    connections = {connection_of(future) for future in futures}
    try:
        for there in connections:
            there.when_changed(changed)
            with contextlib.suppress(NoProcess):  # it has been answered by the end
                there.add_reader()
                polled.append(there)
                if there.serve():  # otherwise a thread leads, and calls ``changed``
                    poller.register(there.fileno(), select.POLLIN)
        if any(future.done() for future in futures):  # an answer came before that
            return
        seconds = deadline - time.monotonic()
        poller.poll(min(max(0.0, seconds) * 1000 + 1, linux.LONGEST_POLL))
    finally:
        for there in connections:
            there.forget_waiter(changed)
        for there in polled:
            there.remove_reader()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(wakeup)
