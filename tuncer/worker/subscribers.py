"""Who follows a device: the subscribers' connections and eventfds.

The fd store has duplicates, so that a worker's replacement takes them up.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from supervisor import GenServer
from supervisor.protocol.channel import Channel, close_all
from tuncer.protocol import control_socket, ring


@dataclass
class Follower:
    """One that follows the device: the connection that ends when it ends.

    One that reads the ring has an eventfd too. The others are subscribers of the publisher.
    """

    number: int
    channel: Channel
    wake: int | None
    wants_events: bool

    @property
    def key(self) -> str:
        """The name of its channel in the fd store."""
        return f"{'events' if self.wants_events else 'quiet'}.{self.number}"


class Followers:
    """The subscribers of a worker."""

    def __init__(
        self,
        worker: GenServer,
        log: int,
        begin: Callable[[], tuple[int, int]],
        changed: Callable[[], None],
    ) -> None:
        """Follow for a worker.

        Args:
            worker: whose fd store it is, and whose loop.
            log: the ring's descriptor, which a subscriber gets.
            begin: returns the number of the first packet that a new subscriber gets, and how
                many events have been told before.
            changed: called when one has come or gone.
        """
        self._worker = worker
        self._log_for_reading = ring.for_reading(log)
        self._begin = begin
        self._changed = changed
        self._all: list[Follower] = []
        self.events: list[int] = []
        """The eventfds of those who read the ring."""

    def take_up(self) -> None:
        """Take up those of a worker that was killed, and have them look."""
        stored = self._worker.stored_fds()
        for name, fd in stored.items():
            kind, _, number = name.partition(".")
            if kind in {"quiet", "events"}:
                wake = stored.get(f"wake.{number}")
                follower = Follower(int(number), Channel(fd), wake, kind == "events")
                self._add(follower)
                if f"asking.{number}" in stored:
                    self._welcome(follower)  # nobody knows whether it was answered
            elif kind in {"wake", "asking"}:
                if not {f"quiet.{number}", f"events.{number}"} & stored.keys():
                    os.close(fd)  # its worker was killed before it had stored all: it asks again
                    self._worker.drop_fd(name)
                elif kind == "asking":
                    os.close(fd)  # a duplicate of the channel's
        self.wake()

    def subscribe(self, visitor: Channel, wake: int | None, wants_events: bool) -> None:
        """Make a visitor a follower.

        The worker may be killed between any two steps. Until "asking" is gone from the store,
        a successor answers, perhaps again; a visitor that is not in the store finds its connection
        closed, and asks again.

        If the store is full, the visitor is told, and let go.
        """
        number = 1 + max((one.number for one in self._all), default=0)
        follower = Follower(number, visitor, wake, wants_events)
        self._add(follower)
        # The supervisor is not waited for: if it is stopped, this one waits, and nobody else.
        self._store(follower, f"asking.{number}", visitor.fileno())
        if wake is not None:
            self._store(follower, f"wake.{number}", wake)
        self._store(follower, follower.key, visitor.fileno())

    def _store(self, follower: Follower, name: str, fd: int) -> None:
        """Store a descriptor of one that is to follow; the last one makes it one that does."""

        def stored(refusal: str | None) -> None:
            if follower not in self._all:
                return  # it has left meanwhile
            if refusal is not None:
                follower.channel.offer(OSError(errno.ENOSPC, refusal))
                self._forget(follower)
            elif name == follower.key:
                self._welcome(follower)

        try:
            self._worker._actor.parent.store_fd_later((name,), fd, stored)
        except OSError as error:
            stored(error.strerror)

    def _welcome(self, follower: Follower) -> None:
        fds = () if follower.wake is None else (self._log_for_reading, follower.wake)
        place, events = self._begin()
        self._changed()  # before the answer: it is in force when that has come
        follower.channel.offer("subscribed", place, events, fds=fds)
        self._worker.drop_fd(f"asking.{follower.number}")

    def _add(self, follower: Follower) -> None:
        self._all.append(follower)
        if follower.wake is not None:
            self.events.append(follower.wake)
        self._worker.add_reader(follower.channel.fileno(), lambda: self._hear(follower))

    def _hear(self, follower: Follower) -> None:
        """A subscriber says nothing: what there is to read is its end."""
        try:
            received = follower.channel.receive()
        except (EOFError, ValueError):
            self._forget(follower)
        else:
            close_all(received[1] if received else [])

    def _forget(self, follower: Follower) -> None:
        self._worker.remove_reader(follower.channel.fileno())
        self._all.remove(follower)
        follower.channel.close()
        names = [f"asking.{follower.number}", follower.key]
        if follower.wake is not None:
            self.events.remove(follower.wake)
            os.close(follower.wake)
            names.append(f"wake.{follower.number}")
        for name in names:
            self._worker.drop_fd(name)
        self._changed()

    def wake(self) -> None:
        """Have those who read the ring look."""
        for event in self.events:
            with contextlib.suppress(BlockingIOError):  # it is full: whoever it is of has to look
                os.eventfd_write(event, 1)

    def tell(self, kind: str, value: Any, place: int, number: int) -> None:
        """Tell an event to those who want to hear it.

        One that does not read holds up nobody: it learns from the numbers what it has missed.
        """
        for follower in self._all:
            if follower.wants_events:
                follower.channel.offer(control_socket.EVENT, kind, value, place, number)

    def end(self, number: int, text: str, packets: int, events: int) -> None:
        """Tell all that the log ends: with an errno or 0, a text, how many packets and events."""
        for follower in self._all:
            follower.channel.offer(control_socket.END, number, text, packets, events)
