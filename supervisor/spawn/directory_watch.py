"""Each actor that a program has started (a root) watches the runtime directory.

When the directory was removed, the root makes it again. The root, and all processes below it, then
make their own sockets and names in it again.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from supervisor import linux
from supervisor.actor.timers import Timer
from supervisor.protocol import runtime_dir

log = logging.getLogger("supervisor")

_PATIENCE = 10  # attempts to make it before a failure is logged: the program may be about to end
# Seconds until the next look, where the kernel tells nothing: it cannot be made, or this user has
# as many instances or watches as may be (max_user_instances, max_user_watches of inotify(7)).
_AGAIN = 1.0
# While another process removes the whole tree, a new directory would make its rmdir(2) fail. So
# the directory is made again only after so many steps of so many seconds without a removal, or
# when another root has made it.
_STEPS, _STEP = 10, 0.01


class Loop(Protocol):
    """An actor's loop."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Poll a descriptor for reading."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call a function later."""

    def restore(self) -> None:
        """Restore what is this actor's, and below it, in the directory."""


class DirectoryWatch:
    """Watches the runtime directory. Source: inotify(7)."""

    def __init__(self, actor: Loop, held: dict[Path, int]) -> None:
        """Begin.

        Args:
            actor: the root's.
            held: ``runtime_dir.hold()`` of before the actor's own files were made.
        """
        self._actor = actor
        self._held = held
        self._watched = False
        self._timer: Timer | None = None
        self._failures = 0
        self._inotify = linux.inotify()
        if self._inotify >= 0:
            self._actor.add_reader(self._inotify, self._told)
        self._watch()
        self._later(0.0, self._look)  # it may have been removed since

    def _watch(self) -> None:
        self._watched = linux.watch_removals(self._inotify, str(runtime_dir.directory()))

    def _hold(self) -> None:
        """Hold the directories that are there now, in place of the former ones, and watch them."""
        former, self._held = self._held, runtime_dir.hold()
        for fd in former.values():
            os.close(fd)
        self._watch()

    def _told(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._inotify, 65536)
        self._wait(_STEPS)

    def _wait(self, steps: int) -> None:
        """Look when the directory is there again, or so many steps have passed."""
        if steps and not runtime_dir.is_whole():
            self._later(_STEP, lambda: self._wait(steps - 1))
        else:
            self._look()

    def _look(self) -> None:
        """Restore everything if the directory is not the one that is held."""
        if self._has_changed():
            try:
                runtime_dir.make_again()
            except OSError as error:  # the directory above has gone, too
                self._failures += 1
                if self._failures == _PATIENCE:
                    log.warning("the runtime directory cannot be made again: %s", error)
                self._later(_AGAIN, self._look)
                return
            self._failures = 0
            self._hold()
            self._actor.restore()
        if self._has_changed():  # again, maybe before it was watched
            self._later(_STEP, self._look)
        elif not self._watched:
            self._later(_AGAIN, self._look)

    def _has_changed(self) -> bool:
        """Tell whether the directory, or one that actors need in it, is not the one that is held.

        A later one has another inode, as the former inode is held.
        """
        try:
            return not all(
                os.path.samestat(os.lstat(path), os.fstat(self._held[path]))
                for path in runtime_dir.needed()
            )
        except (KeyError, OSError):  # it was not there to be held; it is not there now
            return True

    def _later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call a function then, in place of what was to be called."""
        if self._timer is not None:
            self._timer.cancelled = True
        self._timer = self._actor.call_later(seconds, callback)
