"""What has no asynchronous form of its own, a start say, done in a thread for asyncio."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from supervisor.client.ref import Ref
from supervisor.errors import ActorError
from supervisor.spawn import launch

if TYPE_CHECKING:
    import asyncio

_Made = TypeVar("_Made")

_STOP_PATIENCE = 10.0  # seconds in which an actor that nobody wants ends in order


class _Making(Generic[_Made]):
    """A thread that makes something, and undoes it if nobody wants it any more."""

    def __init__(
        self,
        make: Callable[[], _Made],
        undo: Callable[[_Made], object],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Start the thread; ``made`` and ``gone`` are futures of the loop."""
        self._make, self._undo, self._loop = make, undo, loop
        self.made: asyncio.Future[_Made] = loop.create_future()
        """Set to what was made, or the exception."""
        self.gone: asyncio.Future[None] = loop.create_future()
        """Set after ``give_up``, when nothing is there any more."""
        self._lock = threading.Lock()
        self._interrupt = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._outcome: tuple[_Made | None, BaseException | None] | None = None
        self._is_given_up = False
        # A daemon: an interpreter that exits does not wait for a start that hangs.
        threading.Thread(target=self._run, name="supervisor start", daemon=True).start()

    def _run(self) -> None:
        launch.interrupts.fd = self._interrupt
        made: _Made | None = None
        error: BaseException | None = None
        try:
            made = self._make()
        except BaseException as raised:  # noqa: BLE001 - it is told to whoever waits
            error = raised
        with self._lock:
            self._outcome = made, error
            os.close(self._interrupt)
        if self._is_given_up:
            self._dispose()
        else:
            self._tell(self.made, made, error)

    def give_up(self) -> None:
        """Interrupt the start, or have undone what was made."""
        with self._lock:
            self._is_given_up = True
            if self._outcome is None:
                os.eventfd_write(self._interrupt, 1)
                return
        threading.Thread(target=self._dispose, name="supervisor start", daemon=True).start()

    def _dispose(self) -> None:
        assert self._outcome is not None
        made, _ = self._outcome
        if made is not None:
            with contextlib.suppress(Exception):  # it has ended by itself
                self._undo(made)
        self._tell(self.gone, None, None)

    def _tell(self, future: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
        def tell() -> None:
            if future.done():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(tell)


async def made_in_thread(make: Callable[[], _Made], undo: Callable[[_Made], object]) -> _Made:
    """Make something in a thread of its own, as ``make`` does; other tasks run meanwhile.

    Cancelled, it interrupts the start of an actor that is under way, has undone what was made all
    the same, waits for that, and raises CancelledError. Cancelled once more, it waits no longer.

    Args:
        make: what the thread calls. What it raises is raised here.
        undo: called by a thread, with what was made, if the task was cancelled meanwhile.
    """
    import asyncio  # noqa: PLC0415 - it takes megabytes, and few need it

    making = _Making(make, undo, asyncio.get_running_loop())
    try:
        return await asyncio.shield(making.made)
    except asyncio.CancelledError:
        making.give_up()
        await asyncio.shield(making.gone)
        raise


def stop(ref: Ref) -> None:
    """Stop an actor that nobody has a reference to; kill it if it does not end in order.

    Raises:
        ActorError, OSError: it has ended by itself.
    """
    try:
        ref.stop(timeout=_STOP_PATIENCE)
    except ActorError:
        launch.kill(ref)
