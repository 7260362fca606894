"""SIGUSR1 has an actor write its stacks to standard error, also while it is in a call of C."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal

fd = -1
"""The descriptor to which they are written. Forks keep it, and so what is registered; -1: none."""


def register() -> None:
    """Write the stacks of all threads at SIGUSR1, in this process and in its forks.

    The descriptor is a new one of the same pipe or terminal, which does not wait: whoever reads a
    full pipe may be the one who wants to see the stacks.
    """
    global fd
    with contextlib.suppress(OSError, ValueError):  # there is no standard error, or no descriptor
        opened = _stderr()
        faulthandler.register(signal.SIGUSR1, opened, all_threads=True)
        fd = opened


def _stderr() -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        return os.open("/proc/self/fd/2", flags)
    except OSError:  # it is a socket, which cannot be opened
        return os.dup(2)
