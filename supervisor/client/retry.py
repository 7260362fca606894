"""Requests that are repeated over a restart: only those of which a caller says that they may be.

A request fails with ``NoProcess`` if it was not sent, and with ``ProcessDown`` if the actor ended
while it was under way. In both cases it is sent again when another process has the actor's name.
inotify(7) tells when a name is registered.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import TypeVar

from supervisor import linux
from supervisor.errors import NoProcess, ProcessDown, shown
from supervisor.linux import Process
from supervisor.protocol import registry

_Found = TypeVar("_Found")

_AGAIN = 0.01
"""Seconds between two looks if inotify tells nothing: this user has as many instances or watches as
may be, or there is no directory of names."""
_MOST_OPEN = 16
"""Instances of inotify of this process at a time: a user may have 128 (max_user_instances)."""
_open = 0
_LONGEST = 1.0
"""Seconds of one wait: the directory of names may have been removed, and made again, meanwhile."""

FAILURES = (NoProcess, ProcessDown)
"""After which a request may be repeated."""


def check(name: str | None, retry: float) -> str:
    """Check that a request may be repeated; return the name of whom it is for.

    Raises:
        TypeError, ValueError: this is no number of seconds, or the reference has no name.
    """
    check_seconds(retry)
    if name is None:
        raise ValueError(
            "retry needs a reference with a name: one without means a single process, which has no"
            " successor"
        )
    return name


def check_seconds(retry: float) -> None:
    """Check that this is a number of seconds.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(retry, (int, float)):
        raise TypeError(f"retry is a number of seconds, not {shown(retry)}")
    if not retry >= 0:
        raise ValueError(f"retry is a number of seconds from 0 on, not {retry!r}")


def repeated(name: str, retry: float, attempt: Callable[[], _Found]) -> _Found:
    """Return what an attempt returns; try again over restarts, for so many seconds.

    Raises:
        NoProcess, ProcessDown: the last attempt's error, when the seconds are over.
        Exception: whatever else an attempt raises.
    """
    try:
        return attempt()
    except FAILURES as error:
        failure = checked(error)
    with contextlib.closing(NextProcess(name, retry)) as successor:
        while True:
            while not successor.is_there(failure):
                successor.wait()
            try:
                return attempt()
            except FAILURES as error:
                failure = checked(error)


def checked(error: NoProcess | ProcessDown) -> NoProcess | ProcessDown:
    """Return a failure after which a request may be repeated.

    Raises:
        NoProcess, ProcessDown: the error, if it is what the actor has answered.
    """
    if error.relayed:
        raise error
    return error


class NextProcess:
    """The wait for the next process that has a name. To be closed."""

    def __init__(self, name: str, retry: float) -> None:
        """Begin to wait, after a first failure."""
        self._name = name
        self._deadline = time.monotonic() + retry
        global _open
        self._inotify = linux.inotify() if _open < _MOST_OPEN else -1
        _open += self._inotify >= 0
        self._watched = False
        self._former: Process | None = None

    def is_there(self, error: NoProcess | ProcessDown) -> bool:
        """Tell whether a request that has failed may be sent to another process now.

        If the first attempt's process has the name still, it gets a second one: it may be another
        process already.

        Raises:
            NoProcess, ProcessDown: the error; there is no use in waiting, or no time left.
        """
        if time.monotonic() >= self._deadline:
            raise error
        self._watched = registry.watch(self._inotify)  # before the look
        found = registry.lookup(self._name)
        if found is not None and found != self._former:
            self._former = found
            return True
        # It lives, and has closed the connection: because of what was sent, or because it ends.
        if found is not None and isinstance(error, ProcessDown):
            raise error
        return False

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when a name was registered, or -1."""
        return self._inotify if self._watched else -1

    def wait(self) -> None:
        """Wait until it is worth looking again."""
        poller = select.poll()
        if self.fileno() >= 0:
            poller.register(self.fileno(), select.POLLIN)
        poller.poll(1000 * self.patience())
        self.told()

    def patience(self) -> float:
        """Return how many seconds to wait for the descriptor at most."""
        left = max(0.0, self._deadline - time.monotonic())
        return min(left, _LONGEST if self._watched else _AGAIN)

    def told(self) -> None:
        """Take note of what the descriptor tells."""
        with contextlib.suppress(OSError):  # there is nothing (EAGAIN), or no descriptor
            os.read(self._inotify, 65536)

    def close(self) -> None:
        """Close the descriptor."""
        global _open
        if self._inotify >= 0:
            os.close(self._inotify)
            self._inotify = -1
            _open -= 1
