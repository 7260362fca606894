"""Processes of actors, killed in an orderly way."""

from __future__ import annotations

import contextlib
import os
import signal

from supervisor.client.ref import Down, Ref
from supervisor.client.retry import NextProcess, check
from supervisor.errors import NoProcess


def kill_and_wait(ref: Ref, timeout: float = 5.0) -> Down:
    """Kill an actor's process by SIGKILL, and wait until it has ended.

    Returns:
        The ``Down`` of the incarnation that was killed.

    Raises:
        NoProcess: it runs in none.
        CallTimeout: it has not ended in so many seconds.
    """
    monitor = ref.monitor()
    os.kill(ref.pid, signal.SIGKILL)
    return monitor.wait(timeout)


def kill_and_wait_for_restart(ref: Ref, timeout: float = 5.0) -> int:
    """Kill an actor's process by SIGKILL, and wait until the next one has its name.

    Returns:
        The next process's pid. It may still be in ``init``; what it is sent waits for that.

    Raises:
        NoProcess: it runs in none, or was not started again in so many seconds.
        ValueError: the reference has no name, so it cannot follow.
    """
    name = check(ref.name, timeout)
    kill_and_wait(ref, timeout)
    nobody = NoProcess(f"{name!r} was not started again within {timeout:g} s")
    with contextlib.closing(NextProcess(name, timeout)) as successor:
        while not successor.is_there(nobody):
            successor.wait()
    return ref.pid
