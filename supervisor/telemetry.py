"""What supervisors and actors tell of themselves, to whoever subscribes.

``SUPERVISION``: each start, exit and restart of a child, and each surrender, of a supervisor and of
all below it. ``TRACE``: each message that an actor serves, and each of its replies.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from supervisor import wire
from supervisor.errors import Reason
from supervisor.mailbox import Mailbox
from supervisor.protocol import EVENT, EVENTS

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


_Told = TypeVar("_Told", Event, Traced)


def after(lost: int, event: _Told) -> _Told:
    """Return an event, after so many more that were lost."""
    return dataclasses.replace(event, lost=event.lost + lost) if lost else event


def traced(kind: str, term: Any) -> Traced:
    """Describe a message."""
    return Traced(kind, wire.portable(term), time.time())


@dataclass
class _Subscriber:
    """How far a subscriber has come."""

    place: int = 0
    """Events that there have been for it."""
    sent: int = 0
    seen: int = 0
    """Of those that were sent: what is between the two is under way."""


class Streams:
    """The subscribers of an actor's events: connections, and the numbers of their requests."""

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._topics: dict[str, dict[tuple[int, int], _Subscriber]] = {t: {} for t in TOPICS}
        self.tracing = self._topics[TRACE]
        """Truthy while somebody traces: asked for each message, and so at hand."""

    def add(self, topic: Any, address: int, number: int) -> None:
        """Add one.

        Raises:
            ValueError: there are no such events.
        """
        if not isinstance(topic, str) or topic not in self._topics:
            raise ValueError(f"events are of {TOPICS}, not {topic!r:.200}")
        self._topics[topic][address, number] = _Subscriber()

    def seen(self, address: int, number: int, count: int) -> None:
        """Take note that a subscriber has received so many."""
        for subscribers in self._topics.values():
            subscriber = subscribers.get((address, number))
            if subscriber is not None:
                subscriber.seen = count

    def remove(self, address: int, number: int) -> None:
        """Remove one."""
        for subscribers in self._topics.values():
            subscribers.pop((address, number), None)

    def forget(self, address: int) -> None:
        """Remove all of a connection that has ended."""
        for subscribers in self._topics.values():
            for subscriber in [key for key in subscribers if key[0] == address]:
                del subscribers[subscriber]

    def publish(self, topic: str, make: Callable[[], Any]) -> None:
        """Tell all; whoever has no room for it sees by the next one's place that it was there."""
        subscribers = self._topics[topic]
        if not subscribers:
            return
        event = make()
        for (address, number), subscriber in list(subscribers.items()):
            self._tell(address, number, subscriber, event)

    def _tell(self, address: int, number: int, subscriber: _Subscriber, event: Any) -> None:
        place, subscriber.place = subscriber.place, subscriber.place + 1
        if subscriber.sent - subscriber.seen < EVENTS:
            peer = self._mailbox.find(address)
            subscriber.sent += self._mailbox.answer(peer, EVENT, number, [place, event])


def _fields(event: Event | Traced) -> list[Any]:
    return [getattr(event, field.name) for field in dataclasses.fields(event)]


wire.extend(21, Event, _fields, lambda fields: Event(*fields))
wire.extend(22, Traced, _fields, lambda fields: Traced(*fields))
