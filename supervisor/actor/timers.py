"""Functions to be called at a time, by a loop."""

from __future__ import annotations

import heapq
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from supervisor import linux

_FEW = 256  # timers that are not worth looking whether they were cancelled


@dataclass(order=True)
class Timer:
    """A function to be called at a time."""

    when: float
    order: int
    callback: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)


class Timers:
    """Timers in the order of their times, and of their making if those are equal."""

    def __init__(self) -> None:
        self._timers: list[Timer] = []
        self._limit = _FEW
        self._order = itertools.count()

    def add(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call a function later.

        Raises:
            ValueError: it is not a number (NaN), by which nothing could be ordered.
        """
        if math.isnan(seconds):
            raise ValueError(f"a timer is given a number of seconds, not {seconds!r}")
        if len(self._timers) >= self._limit:  # those that were cancelled may be most of them
            self._timers = [timer for timer in self._timers if not timer.cancelled]
            heapq.heapify(self._timers)
            self._limit = max(_FEW, 2 * len(self._timers))
        timer = Timer(time.monotonic() + seconds, next(self._order), callback)
        heapq.heappush(self._timers, timer)
        return timer

    def add_again(self, timer: Timer, seconds: float) -> None:
        """Have a timer that was due be due once more."""
        timer.when, timer.order = time.monotonic() + seconds, next(self._order)
        heapq.heappush(self._timers, timer)

    def patience(self) -> float | None:
        """Return how many seconds a loop may wait until the first; None: for ever."""
        while self._timers and self._timers[0].cancelled:
            heapq.heappop(self._timers)
        if not self._timers:
            return None
        remaining = self._timers[0].when - time.monotonic()
        return min(max(0.0, remaining), linux.LONGEST_POLL / 1000)

    def elapse(self, seconds: float) -> None:
        """Let time pass for all timers."""
        for timer in self._timers:  # all by as much: their order stays
            timer.when -= seconds

    def due(self, now: float) -> Timer | None:
        """Take out the first one whose time has come, at this time of ``time.monotonic``."""
        while self._timers and self._timers[0].when <= now:
            timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                return timer
        return None
