"""Busy waiting for a moment before a wait that blocks, as long as that pays.

Between a process that is put to sleep and its next step lie a system call of whoever wakes it, an
interrupt of another processor, and cold caches: more than a short call takes in all. So whoever
expects an answer at once polls for a moment, as the schedulers of OTP do (``erl +sbwt``).

Not beside other threads: each poll gives the interpreter's lock away for less time than it takes to
wake one of them, and so they would get it only by force, every 5 ms.
"""

from __future__ import annotations

import os
import threading
import time
from typing import Protocol, TypeAlias

CALLER = 100e-6
"""Seconds that a caller looks for an answer: the actor may have to be woken first."""
ACTOR = 50e-6
"""Seconds that an actor looks for the next message: its caller is awake."""

_MOST = 64  # waits without another attempt, after several in a row that were in vain

# Read without the lock that ``threading.active_count`` takes, and so private: a signal handler that
# calls an actor may have interrupted the thread that holds the lock.
_threads: dict[int, threading.Thread] = threading._active  # type: ignore[attr-defined]  # noqa: SLF001 - above

_ignored: set[int] = set()
os.register_at_fork(after_in_child=_ignored.clear)


def ignore_thread(ident: int) -> None:
    """Do not count a thread that waits for the system most of the time, and is in no hurry."""
    _ignored.add(ident)


Ready: TypeAlias = list[tuple[int, int]]


class Poller(Protocol):
    """``select.poll`` or ``select.epoll``."""

    def poll(self, timeout: float | None = None, /) -> Ready:
        """Return the descriptors that are ready."""


class BusyWait:
    """Polls for so many seconds at most; after attempts in vain it does so less and less often.

    On a machine with one processor, or a busy one, every attempt is in vain: of 65 waits one then
    takes so much longer.
    """

    __slots__ = ("_seconds", "_skipped", "_to_skip")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._skipped = self._to_skip = 0

    def poll(self, poller: Poller) -> Ready:
        """Return what is ready; nothing if there was no attempt, or it was in vain."""
        if self._skipped < self._to_skip or len(_threads) - len(_ignored) > 1:
            self._skipped += 1
            return []
        end = time.monotonic() + self._seconds
        while True:
            if found := poller.poll(0):
                self._to_skip = 0
                return found
            if time.monotonic() >= end:
                break
        self._skipped, self._to_skip = 0, min(2 * self._to_skip + 1, _MOST)
        return []
