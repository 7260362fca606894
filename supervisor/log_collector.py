"""Actors' log records in the program's own ``logging``, whatever it has configured there."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import threading

from supervisor import inherited
from supervisor.errors import RAISED
from supervisor.protocol import busy_wait, log_records
from supervisor.spawn import launch

log = logging.getLogger("supervisor")

_PATIENCE = 2.0  # seconds in which what has been sent before the program's exit is handled
_END = b"end"  # what the program sends itself, behind all that actors have sent

_collector: _Collector | None = None


def collect_logs() -> None:
    """Have the log records of all actors that are started from now on handled in this program.

    Its handlers, filters and formats apply to them, as to its own records. A record has the actor's
    pid (``process``) and its id or name (``processName``, and ``actor``). The records of a process
    are handled in their order. The levels that loggers have when an actor is started decide what it
    sends. A thread of this program handles the records. Where it does not keep up, records are
    dropped, and counted: an actor never waits. Records of actors that outlive this program go to
    standard error.

    Actors that run already, and those that they start, go on as before: a warning says so. So it is
    called before the first supervisor is started.

    Without this call, actors write to the same files and streams as the program's root logger.
    """
    global _collector
    if _collector is None:
        if launch.has_started():
            log.warning(
                "collect_logs() comes late: actors that run, and all below them, do not"
                " send their records here; call it before the first one is started"
            )
        _collector = _Collector()


def is_collecting() -> bool:
    """Tell whether this process collects actors' log records."""
    return _collector is not None


def stop_collecting() -> None:
    """Handle what actors have sent until now, and collect no more; for tests."""
    if _collector is not None:
        _collector.close()


def _leave() -> None:
    """A fork collects nothing. Its actors' records go to the program, as long as that lives."""
    global _collector
    if _collector is not None:
        _collector.leave()
        _collector = None


os.register_at_fork(after_in_child=_leave)


class _Collector:
    """The program's end of the socket, and the thread that reads it."""

    def __init__(self) -> None:
        self._ours, self._theirs = log_records.pair()
        inherited.log_fd = self._theirs.fileno()
        self._thread = threading.Thread(target=self._run, name="supervisor logs", daemon=True)
        self._thread.start()
        launch.when_stopped.append(self.close)

    def _run(self) -> None:
        busy_wait.ignore_thread(threading.get_ident())
        while True:
            data = self._ours.recv(4 * log_records.LONGEST)
            if data in (b"", _END):
                return
            try:
                _handle(data)
            except RAISED as error:  # of a handler, say: the next record is another one's
                with contextlib.suppress(*RAISED):  # it may have failed of what every record meets
                    os.write(2, f"an actor's log record was not handled: {error!r}\n".encode())

    def leave(self) -> None:
        """Close the program's end, in a fork of it."""
        launch.when_stopped.remove(self.close)
        self._ours.close()

    def close(self) -> None:
        """Handle what actors have sent until now, and nothing more."""
        global _collector
        launch.when_stopped.remove(self.close)
        inherited.log_fd = None
        _collector = None
        with contextlib.suppress(OSError):  # it is full, and nobody reads: a handler hangs
            self._theirs.settimeout(_PATIENCE)
            self._theirs.send(_END)
            self._thread.join(_PATIENCE)
        self._theirs.close()
        if not self._thread.is_alive():
            self._ours.close()
        else:  # it hangs in a handler, for whose lock the exit would wait for ever
            atexit.unregister(logging.shutdown)


def _handle(data: bytes) -> None:
    record, lost = log_records.unpacked(data)
    logger = logging.getLogger(record.name)
    if lost:
        text = "%d log records of actor %s, process %d, found no room"
        log.warning(text, lost, record.processName, record.process)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
