"""A program that is a supervised tree, and runs until that ends, or a signal comes."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
from collections.abc import Iterable
from types import FrameType
from typing import Any

from supervisor import linux
from supervisor.client.ref import Ref, connection_to
from supervisor.errors import (
    SHUTDOWN,
    ActorError,
    AlreadyRegistered,
    GaveUp,
    NoProcess,
    Reason,
    StartFailed,
    brief,
    is_orderly,
)
from supervisor.spawn import launch
from supervisor.supervision.child_spec import ChildSpec
from supervisor.supervision.supervisor import Supervisor

log = logging.getLogger("supervisor")

_PATIENCE = 5.0  # seconds in which the end of a process that has ended is told
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_KILLED = 128  # a shell's exit status of a process that a signal has killed, without its number


def run(children: Iterable[ChildSpec], *, name: str | None = None, **options: Any) -> int:
    """Start a supervisor, and wait until it ends, or SIGINT or SIGTERM comes: for a main program.

    The first such signal stops the tree in order, also while it starts. A second one kills it. A
    SIGINT that is ignored when this is called stays ignored, as of a command that a shell runs in
    the background. Afterwards the signals' handlers are what they were.

    Args:
        children: as of ``Supervisor``.
        name: a name to register for the supervisor.
        **options: as of ``Supervisor``.

    Returns:
        The exit status: 0 if the tree was stopped or ended in order; 1 if it did not start, or the
        supervisor gave up or crashed, which is logged with the reason; 128 and the number of the
        second signal.

    Raises:
        ValueError, TypeError: as ``Supervisor.start_link``.
        RuntimeError: this is not the main thread, which alone handles signals.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("supervisor.run handles signals, and so belongs into the main thread")
    signals = _Signals()
    try:
        signals.catch()
        launch.interrupts.fd = signals.wakeup
        try:
            root = Supervisor.start_link(children, name=name, **options)
        finally:
            launch.interrupts.fd = -1
        return _serve(root, signals)
    except launch.Interrupted:
        return signals.status
    except (StartFailed, AlreadyRegistered) as error:
        log.error("%s", error)
        return 1
    finally:
        signals.release()


def _serve(root: Ref, signals: _Signals) -> int:
    """Wait until the root ends, or a signal has it stopped; return the exit status."""
    try:
        monitor = root.monitor()
        signals.root = linux.open_process(connection_to(root).process)
    except (NoProcess, ProcessLookupError):  # it has ended as soon as it served
        return _status(root, launch.last_words(root) or "killed")
    poller = select.poll()
    for fd in (signals.root, signals.wakeup):
        poller.register(fd, select.POLLIN)
    poller.poll()
    if signals.caught:
        _stop(root, signals)
        return signals.status
    return _status(root, monitor.wait(_PATIENCE).reason)


def _status(root: Ref, reason: Reason) -> int:
    """Return the exit status that the end of the root means; log why, if it is 1."""
    if is_orderly(reason) and not isinstance(reason, GaveUp):
        return 0
    log.error("%r has ended: %s", root, brief(reason))
    return 1


def _stop(root: Ref, signals: _Signals) -> None:
    """Stop a tree in order. A second signal kills its root, and the kernel all below."""
    with contextlib.suppress(ActorError):  # it has ended, in order or not
        if signals.status:  # the second one has come before there was anything to kill
            signals.kill()
        root.stop(SHUTDOWN)


class _Signals:
    """The signals that end a program, and what has come of them."""

    def __init__(self) -> None:
        self.caught = 0
        self.status = 0
        self.root = -1
        """The root's pidfd, once there is a root."""
        self.wakeup = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        """Readable when a signal has come."""
        self._former: dict[signal.Signals, Any] = {}
        self._mask: set[signal.Signals] = set()

    def catch(self) -> None:
        """Handle the signals."""
        for number in _SIGNALS:
            former = signal.getsignal(number)
            if number == signal.SIGTERM or former is not signal.SIG_IGN:
                self._former[number] = former
                signal.signal(number, self._handle)
        # They may be blocked, by whoever has started this program.
        self._mask = {signal.Signals(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, ())}
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._former)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.caught += 1
        os.eventfd_write(self.wakeup, 1)
        if self.caught > 1:
            self.status = _KILLED + number
            self.kill()

    def kill(self) -> None:
        """Kill the root, also one that starts, if there is one yet."""
        with contextlib.suppress(ProcessLookupError):
            if self.root >= 0:
                signal.pidfd_send_signal(self.root, signal.SIGKILL)
            for process in launch.starting():
                pidfd = linux.open_process(process)
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                os.close(pidfd)

    def release(self) -> None:
        """Restore what was done at these signals before."""
        for number, former in self._former.items():
            signal.signal(number, signal.SIG_DFL if former is None else former)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        for fd in (self.wakeup, self.root):
            if fd >= 0:
                os.close(fd)
