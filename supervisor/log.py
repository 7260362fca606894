"""The last resort for log records: standard error, without ever waiting for it.

Standard error is the program's. When that is a pipe which nobody reads, a write would wait, and
with it a supervisor and everything below it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select

from supervisor.errors import RAISED

_ATOMIC = 4096  # PIPE_BUF of pipe(7): a pipe that is writable has room for so much


class Stderr(logging.Handler):
    """Writes a record to standard error if there is room; otherwise it is dropped, and counted."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        try:
            text = self.format(record)
        except RAISED as error:  # of a value's own __repr__ or __str__, say
            text = f"{record.msg!r} cannot be formatted: {type(error).__qualname__}"
        if self._dropped:
            text = f"({self._dropped} messages before this one found no room)\n{text}"
        data = (text + "\n").encode(errors="backslashreplace")
        poller = select.poll()
        poller.register(2, select.POLLOUT)
        self._dropped += 1
        for start in range(0, len(data), _ATOMIC):
            if not poller.poll(0):
                return
            with contextlib.suppress(OSError):
                os.write(2, data[start : start + _ATOMIC])
        self._dropped = 0


def never_wait() -> None:
    """Let records that nobody has configured a handler for go there."""
    logging.lastResort = Stderr()
