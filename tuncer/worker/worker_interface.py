"""What the parts of a worker may ask of the worker."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from supervisor import Sender
from supervisor.lowlevel import Timer
from tuncer.protocol.packet import EventValue


class WorkerInterface(Protocol):
    """The worker, as its subscribers, queues, sockets and monitors see it."""

    name: str
    """The device's."""

    @property
    def log(self) -> logging.Logger:
        """Where they log."""

    # -- its loop, its store and its callers: see ``GenServer`` ------------------------------------

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Watch a descriptor."""

    def remove_reader(self, fd: int) -> None:
        """Watch it no longer."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call a function later."""

    def cancel_timer(self, timer: Timer) -> None:
        """Forget a timer."""

    def stored_fds(self) -> dict[str, int]:
        """Return the stored descriptors, by name."""

    def drop_fd(self, name: str) -> None:
        """Take a descriptor out of the store."""

    def store_fd_later(self, name: str, fd: int, done: Callable[[str | None], None]) -> None:
        """Store a descriptor, and call back."""

    def reply(self, sender: Sender, value: Any) -> bool:
        """Reply to a call."""

    def refuse(self, sender: Sender, error: Exception) -> None:
        """Answer a call by an error."""

    # -- the device --------------------------------------------------------------------------------

    def begin_subscription(self) -> tuple[int, int]:
        """Make a passive device active; return the next ``seq``, and the events sent so far."""

    def demand_changed(self) -> None:
        """Poll the device, and attach its queue, exactly while somebody wants its packets."""

    def report_event(self, kind: str, value: EventValue = None) -> None:
        """Send an event to those who have subscribed to events."""

    def device_failed(self, error: OSError) -> None:
        """End, if the error says that the device was deleted; otherwise raise it."""
