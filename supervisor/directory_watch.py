"""A root sees that the runtime directory is removed; all below it then restore what is theirs."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from typing import Protocol

from supervisor import linux, runtime
from supervisor.timers import Timer

log = logging.getLogger("supervisor")

_PATIENCE = 10  # attempts to make it, before it is told: whoever removes it may be about to end
_AGAIN = 1.0  # seconds until the next look, where the kernel tells nothing
# Whoever removes the whole directory would stumble on a new one. So it is made again when nothing
# else was removed for so many steps of so many seconds; or by another process meanwhile.
_STEPS, _STEP = 10, 0.01


class Loop(Protocol):
    """An actor's loop."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Watch a descriptor."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call a function later."""

    def restore(self) -> None:
        """Restore what is this actor's, and below it, in the directory."""


class DirectoryWatch:
    """Watches the runtime directory. Source: inotify(7)."""

    def __init__(self, actor: Loop) -> None:
        self._actor = actor
        self._held: list[int] = []
        self._seen: list[tuple[int, int]] = []
        self._timer: Timer | None = None
        self._failures = 0
        self._inotify = linux.inotify()
        if self._inotify >= 0:
            self._actor.add_reader(self._inotify, self._told)
        else:  # this user has as many instances as may be: /proc/sys/fs/inotify/max_user_instances
            self._actor.call_later(_AGAIN, self._look_again)
        self._hold()

    def _hold(self) -> None:
        """Watch the directories that are there now, and keep them from being cleaned by age."""
        for fd in self._held:
            os.close(fd)
        self._held = runtime.hold()
        self._seen = _inodes()
        if self._inotify >= 0:
            linux.watch_removals(self._inotify, str(runtime.directory()))

    def _told(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._inotify, 65536)
        if self._timer is not None:
            self._timer.cancelled = True
        self._wait(_STEPS)

    def _wait(self, steps: int) -> None:
        """Look when the directory is there again, or so many steps have passed."""
        if steps and not runtime.is_whole():
            self._timer = self._actor.call_later(_STEP, lambda: self._wait(steps - 1))
        else:
            self._look()

    def _look_again(self) -> None:
        self._look()
        self._actor.call_later(_AGAIN, self._look_again)

    def _look(self) -> None:
        """Restore everything if the directory is not the one that was seen."""
        if _inodes() == self._seen:
            return
        try:
            runtime.make_again()
            self._hold()
        except OSError as error:  # the directory above has gone, too
            self._failures += 1
            if self._failures == _PATIENCE:
                log.warning("the runtime directory cannot be made again: %s", error)
            self._actor.call_later(_AGAIN, self._look)
            return
        self._failures = 0
        self._actor.restore()


def _inodes() -> list[tuple[int, int]]:
    """Return what tells the directory, and those that actors need in it, from later ones."""
    found = []
    for path in runtime.needed():
        with contextlib.suppress(OSError):
            there = os.lstat(path)
            found.append((there.st_dev, there.st_ino))
    return found
