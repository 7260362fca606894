"""The subscribers of what an actor tells of itself: ``supervisor.protocol.telemetry``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from supervisor.actor.mailbox import Mailbox
from supervisor.protocol.message_kinds import EVENT, EVENTS_UNDER_WAY
from supervisor.protocol.telemetry import TOPICS, TRACE


@dataclass
class _Subscriber:
    """How far a subscriber has come."""

    seq: int = 0
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
        """Send an event to every subscriber.

        If a subscriber has ``EVENTS_UNDER_WAY`` of them unread, the event is dropped for that one.
        The gap in the sequence numbers shows it.
        """
        subscribers = self._topics[topic]
        if not subscribers:
            return
        event = make()
        for (address, number), subscriber in list(subscribers.items()):
            self._send(address, number, subscriber, event)

    def _send(self, address: int, number: int, subscriber: _Subscriber, event: Any) -> None:
        seq, subscriber.seq = subscriber.seq, subscriber.seq + 1
        if subscriber.sent - subscriber.seen < EVENTS_UNDER_WAY:
            peer = self._mailbox.find(address)
            subscriber.sent += self._mailbox.answer(peer, EVENT, number, [seq, event])
