"""The import of a child's module in its supervisor, which goes on meanwhile.

A thread imports; the supervisor forks nothing until it has ended, as a fork beside a thread may
take a lock of it along. An import that hangs leaves a supervisor that starts nothing any more, and
says why, but answers, and can be stopped.
"""

from __future__ import annotations

import errno
import gc
import os
import threading

from supervisor.errors import RAISED, RemoteError, StartFailed
from supervisor.supervision.child_spec import Plan

_done: set[str] = set()
"""What has been imported, by ``Plan.start``."""


def is_due(plan: Plan) -> bool:
    """Tell whether a module is to be imported before a child is forked."""
    return plan.preload and plan.start not in _done


class Preload:
    """An import under way."""

    def __init__(self, plan: Plan) -> None:
        """Begin.

        Raises:
            OSError: EAGAIN, EMFILE, ...: no thread or no descriptor is free.
        """
        self._plan = plan
        self._error: BaseException | None = None
        self._ended = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        name = f"the import of {plan.start}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:  # Python's word for EAGAIN of clone(2)
            os.close(self._ended)
            raise OSError(errno.EAGAIN, f"{error}") from error

    def _run(self) -> None:
        try:
            self._error = self._import()
        finally:
            os.eventfd_write(self._ended, 1)

    def _import(self) -> BaseException | None:
        try:
            self._plan.import_module()
        except RAISED as error:
            return error
        return None

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when it has ended."""
        return self._ended

    def has_ended(self) -> bool:
        """Tell whether it has ended."""
        try:
            os.eventfd_read(self._ended)
        except BlockingIOError:
            return False
        self._thread.join()  # returns at once: the thread has finished
        return True

    def finish(self) -> None:
        """Take note that the module has been imported.

        Raises:
            StartFailed: it has not.
        """
        os.close(self._ended)
        error = self._error
        if isinstance(error, ValueError) and "main thread" in str(error):
            error = self._import()  # it sets a signal's handler: the main thread's alone
        if error is not None:
            raise StartFailed(self._plan.id, RemoteError.of(error))
        _done.add(self._plan.start)
        gc.collect()
        gc.freeze()  # otherwise a collection in a child would write, and so copy, every page
