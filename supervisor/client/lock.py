"""The lock of what a signal's handler may use while its thread is in the middle of using it."""

from __future__ import annotations

import sys
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING or sys.version_info < (3, 14):
    RLock = threading.RLock
else:

    class RLock(type(threading.RLock())):
        """A reentrant lock that ``with`` releases, too, if a signal's handler raises.

        In CPython 3.14 a handler may run after ``__enter__`` has returned from C and before
        ``with`` is to release the lock (python/cpython, issue 148874). If it raised there, the main
        thread kept the lock for ever. Here a step of an iteration acquires it, after which, and
        after the return of a function written in Python, no handler runs.
        """

        def __enter__(self) -> bool:
            for _ in iter(self.acquire, None):
                return True
            raise AssertionError("acquire returns no None")
