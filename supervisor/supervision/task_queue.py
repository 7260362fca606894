"""Tasks of a supervisor that take time, carried out one after the other while its loop goes on.

A task is a generator, which yields while it waits for an event. After each event the queue resumes
the first task, which checks whether that was the event that it waits for.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from typing import TypeAlias

Task: TypeAlias = Generator[None, None, None]


def once(function: Callable[[], object]) -> Task:
    """Return a task that calls a function, and waits for nothing."""
    function()
    return
    yield


class TaskQueue:
    """A queue of tasks, of which the first is under way."""

    def __init__(self, advanced: Callable[[], object] = lambda: None) -> None:
        """Begin without tasks; ``advanced`` is called after each event."""
        self._advanced = advanced
        self._queue: deque[Task] = deque()
        self._advancing = False

    def add(self, task: Task) -> None:
        """Carry out a task after those that are queued already."""
        self._queue.append(task)
        self.advance()

    def preempt(self, task: Task) -> None:
        """Abandon all tasks, also the one under way, and carry out this one."""
        self._queue.clear()
        self.add(task)

    def advance(self) -> None:
        """Resume the first task until it waits or ends; then the next ones."""
        if self._advancing:
            return  # a task has called this: the loop below goes on anyway
        self._advancing = True
        try:
            while self._queue:
                task = self._queue[0]
                waits = next(task, self) is not self
                if self._queue and self._queue[0] is task:  # otherwise it was preempted meanwhile
                    if waits:
                        break
                    self._queue.popleft()
        finally:
            self._advancing = False
        self._advanced()
