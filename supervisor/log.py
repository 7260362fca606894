"""The last resort for log records: standard error, without ever waiting for it.

Standard error is the program's. When that is a pipe which nobody reads, a write would wait, and
with it a supervisor and everything below it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time

from supervisor.errors import RAISED

_REPEAT = 1.0  # seconds in which a message that comes again is only counted
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


class Repeated:
    """Logs a message that comes again and again once, and then once a second with a number."""

    def __init__(self) -> None:
        self._last = ""
        self._since = 0.0
        self._more = 0

    def log(self, logger: logging.Logger, level: int, text: str) -> None:
        """Log a message."""
        now = time.monotonic()
        if text == self._last and now - self._since < _REPEAT:
            self._more += 1
            return
        self.flush(logger, level)
        self._last, self._since = text, now
        logger.log(level, "%s", text)

    def flush(self, logger: logging.Logger, level: int) -> None:
        """Tell how often the last one came again."""
        if self._more:
            logger.log(level, "%s (%d more times)", self._last, self._more)
        self._more, self._last = 0, ""


def never_wait() -> None:
    """Let records that nobody has configured a handler for go there."""
    logging.lastResort = Stderr()
