"""What takes a supervisor time, done one after the other while its loop goes on.

A job is a generator that yields while it waits for an event. After each event the first job is
resumed, and looks whether that was what it waited for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TypeAlias

Job: TypeAlias = Generator[None, None, None]


class Jobs:
    """A queue of jobs, of which the first is under way."""

    def __init__(self, advanced: Callable[[], object] = lambda: None) -> None:
        """Call back whenever they have gone on as far as they can."""
        self._advanced = advanced
        self._queue: deque[Job] = deque()
        self._advancing = False

    def add(self, job: Job) -> None:
        """Do a job after those that are there already."""
        self._queue.append(job)
        self.advance()

    def preempt(self, job: Job) -> None:
        """Abandon all jobs, the one under way too, and do this one."""
        self._queue.clear()
        self.add(job)

    def advance(self) -> None:
        """Let the first job go on as far as it can, then the next."""
        if self._advancing:
            return  # something that a job does has led here: it is going on already
        self._advancing = True
        try:
            while self._queue:
                job = self._queue[0]
                waits = next(job, self) is not self
                if self._queue and self._queue[0] is job:  # it has not been abandoned meanwhile
                    if waits:
                        break
                    self._queue.popleft()
        finally:
            self._advancing = False
        self._advanced()
