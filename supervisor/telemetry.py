"""What supervisors and actors tell of themselves, to whoever subscribes.

``SUPERVISION``: each start, exit and restart of a child, and each surrender, of a supervisor and of
all below it. ``TRACE``: each message that an actor serves, and each of its replies.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from supervisor import wire
from supervisor.errors import NoProcess, Reason
from supervisor.protocol import EVENT

SUPERVISION = "supervision"
TRACE = "trace"
TOPICS = (SUPERVISION, TRACE)


@dataclass(frozen=True)
class Event:
    """Something that has happened below a supervisor."""

    kind: str
    """"started", "restarted", "failed" (to start), "exited", "gave_up"."""
    path: tuple[str, ...]
    """Ids, from the supervisor that was asked down to the child; empty: it itself."""
    pid: int | None
    """The process that was started or has ended."""
    reason: Reason | None
    """Why it has ended, failed, or given up."""
    restarts: int
    """How often this child has been restarted, this time included."""
    uptime: float
    """Seconds that the process has lived."""
    at: float
    """When, in seconds since 1970."""
    lost: int = 0
    """Events before this one that found no room with their subscriber."""

    def after(self, lost: int) -> Event:
        """Return this event, after so many more that were lost."""
        return dataclasses.replace(self, lost=self.lost + lost) if lost else self

    def below(self, child: str) -> Event:
        """Return this event as the supervisor above tells it."""
        return dataclasses.replace(self, path=(child, *self.path))


@dataclass(frozen=True)
class Traced:
    """A message that an actor has begun to serve, or a reply that it has sent."""

    kind: str
    """"call", "cast", "info" or "reply"."""
    term: Any
    """The message, or its text if it cannot travel."""
    at: float
    """When, in seconds since 1970."""
    lost: int = 0
    """Such before this one that found no room with their subscriber."""

    def after(self, lost: int) -> Traced:
        """Return this one, after so many more that were lost."""
        return dataclasses.replace(self, lost=self.lost + lost) if lost else self


def traced(kind: str, term: Any) -> Traced:
    """Describe a message."""
    return Traced(kind, wire.portable(term), time.time())


class Offers(Protocol):
    """A mailbox."""

    def offer(self, sender: bytes, kind: int, number: int, term: Any) -> bool:
        """Send an answer, if there is room for it."""


class Streams:
    """The subscribers of an actor's events."""

    def __init__(self, mailbox: Offers) -> None:
        self._mailbox = mailbox
        self._next: dict[str, dict[tuple[bytes, int], int]] = {topic: {} for topic in TOPICS}
        self.tracing = self._next[TRACE]
        """Truthy while somebody traces: asked for each message, and so at hand."""

    def add(self, topic: Any, address: bytes, number: int) -> None:
        """Add one.

        Raises:
            ValueError: there are no such events.
        """
        if not isinstance(topic, str) or topic not in self._next:
            raise ValueError(f"events are of {TOPICS}, not {topic!r:.200}")
        self._next[topic][address, number] = 0

    def remove(self, address: bytes, number: int) -> None:
        """Remove one."""
        for subscribers in self._next.values():
            subscribers.pop((address, number), None)

    def publish(self, topic: str, make: Callable[[], Any]) -> None:
        """Tell all; whoever has no room for it sees by the next one's number that it was there."""
        subscribers = self._next[topic]
        if not subscribers:
            return
        event = make()
        for (address, number), place in list(subscribers.items()):
            try:
                self._mailbox.offer(address, EVENT, number, [place, event])
            except NoProcess:
                del subscribers[address, number]
            else:
                subscribers[address, number] = place + 1


def _fields(event: Event | Traced) -> list[Any]:
    return [getattr(event, field.name) for field in dataclasses.fields(event)]


wire.extend(21, Event, _fields, lambda fields: Event(*fields))
wire.extend(22, Traced, _fields, lambda fields: Traced(*fields))
