"""Where actors' log records go: where the program's do, and never waiting for it.

A program configures ``logging`` in its main function, mostly, which actors do not run. So what it
has configured is handed down to them: levels, formats, files, standard output and error. Without
any, records go to standard error. When that is a pipe which nobody reads, a write would wait, and
with it a supervisor and everything below it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import time
from typing import Any

from supervisor import inherited
from supervisor.errors import RAISED
from supervisor.spawn.log_sender import LogSender

_PLAIN = logging.Formatter()
_REPEAT = 1.0  # seconds in which a message that comes again is only counted
_ATOMIC = 4096  # PIPE_BUF of pipe(7): a pipe that is writable has room for so much


# -- in the program --------------------------------------------------------------------------------


def description() -> dict[str, Any]:
    """Return how the program has configured its root logger: as far as other processes can, too."""
    root = logging.getLogger()
    known = list(logging.Logger.manager.loggerDict.items())  # other threads make loggers
    levels = {name: one.level for name, one in known if isinstance(one, logging.Logger)}
    return {
        "level": root.level,
        "levels": {name: level for name, level in levels.items() if level},
        "handlers": [told for handler in root.handlers if (told := _described(handler))],
    }


def _described(handler: logging.Handler) -> dict[str, Any] | None:
    target: object = None
    if isinstance(handler, logging.FileHandler):
        # Two processes can append to a file; otherwise they would overwrite what the other wrote.
        target = handler.baseFilename if handler.mode.startswith("a") else None
    elif isinstance(handler, logging.StreamHandler):
        with contextlib.suppress(Exception):  # it has no descriptor
            target = handler.stream.fileno()
    # pytest logs to the null device, and everything elsewhere.
    if target not in (1, 2) and (type(target) is not str or target == os.devnull):
        return None
    told = {"target": target, "level": handler.level}
    return told | _format_of(handler.formatter)


def _format_of(formatter: object) -> dict[str, str | None]:
    """Return how to make a formatter; one of a program's own class is not handed down."""
    if type(formatter) is not logging.Formatter:
        return {"fmt": None, "datefmt": None, "style": "%"}
    known: dict[str, Any] = dict(logging._STYLES)  # noqa: SLF001 - by "%", "{" and "$"
    # A Formatter has no other way to say these two.
    kind, text = type(formatter._style), formatter._fmt  # noqa: SLF001 - see above
    style = next((sign for sign, (its, _) in known.items() if its is kind), "%")
    return {"fmt": text, "datefmt": formatter.datefmt, "style": style}


# -- in actors -------------------------------------------------------------------------------------


def use(told: dict[str, Any]) -> None:
    """Log as the program does, as far as it has configured anything."""
    root = logging.getLogger()
    if root.handlers:
        return
    root.setLevel(told["level"])
    for name, level in told["levels"].items():
        logging.getLogger(name).setLevel(level)
    if inherited.log_fd is not None:
        root.addHandler(LogSender(inherited.log_fd, Handler(2, logging.WARNING)))
        return
    for one in told["handlers"]:
        handler = Handler(one["target"], one["level"])
        handler.setFormatter(logging.Formatter(one["fmt"], one["datefmt"], one["style"]))
        root.addHandler(handler)


class Handler(logging.Handler):
    """Writes a record to a descriptor, or appends it to a file, if there is room.

    Otherwise it is dropped, and counted.
    """

    def __init__(self, target: int | str, level: int) -> None:
        super().__init__(level)
        self._target = target
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Write a record."""
        text = self._formatted(record)
        if self._dropped:
            text = f"({self._dropped} messages before this one found no room)\n{text}"
        self._dropped += 1
        if self._written((text + "\n").encode(errors="backslashreplace")):
            self._dropped = 0

    def _formatted(self, record: logging.LogRecord) -> str:
        """Format a record; plainly, if it lacks what a filter or a default would add."""
        try:
            return self.format(record)
        except RAISED:
            pass
        try:
            return _PLAIN.format(record)
        except RAISED as error:  # of a value's own __repr__ or __str__, say
            return f"{record.msg!r} cannot be formatted: {type(error).__qualname__}"

    def _written(self, data: bytes) -> bool:
        if isinstance(self._target, int):
            return _write(self._target, data)
        try:  # not kept open: a fork closes what it does not know
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            fd = os.open(self._target, flags, 0o666)
        except OSError:
            return False
        try:
            return _write(fd, data)
        finally:
            os.close(fd)


def _write(fd: int, data: bytes) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLOUT)
    for start in range(0, len(data), _ATOMIC):
        if not poller.poll(0):
            return False
        with contextlib.suppress(OSError):
            os.write(fd, data[start : start + _ATOMIC])
    return True


class Repeated:
    """Logs a message that comes again and again once, and then once a second with a number."""

    def __init__(self) -> None:
        self._last = ""
        self._since = 0.0
        self._more = 0

    def log(self, logger: logging.Logger, level: int, text: str) -> None:
        """Log a message."""
        now = time.monotonic()
        if text == self._last:
            self._more += 1
            if now - self._since >= _REPEAT:
                self._tell(logger, level)
                self._since = now
            return
        self._tell(logger, level)
        self._last, self._since = text, now
        logger.log(level, "%s", text)

    def flush(self, logger: logging.Logger, level: int) -> None:
        """Tell how often the last one came again, and forget it."""
        self._tell(logger, level)
        self._last = ""

    def _tell(self, logger: logging.Logger, level: int) -> None:
        if self._more:  # in a line: a traceback stands where it was told for the first time
            times = "once more" if self._more == 1 else f"{self._more} times more"
            logger.log(level, "%s (%s)", self._last.partition("\n")[0], times)
        self._more = 0


def never_wait() -> None:
    """Let records that nobody has configured a handler for go to standard error, and never wait."""
    logging.lastResort = Handler(2, logging.WARNING)
