"""The handshake of a new subscriber: what client and worker agree on before the first packet.

1. The client sends ``RING`` or ``ZMQ``, and whether it wants events, by the control socket. The
   connection stays open: the kernel closes it when either side ends.
2. The worker stores the connection, and for the ring an eventfd, with its supervisor. ``StoreKey``
   has their names there. Until ``HANDSHAKE`` is taken out of the store, a successor of a worker
   that was killed answers, perhaps for the second time.
3. The worker answers ``ACCEPTED``, the ``seq`` of the first packet, and how many events there were;
   to a ring subscriber with the descriptors of the ring and of the eventfd.
4. A ZeroMQ subscriber subscribes to a topic of its own: ``wire_format.HELLO`` and random bytes.
   The publisher's answer under that topic has the ``seq`` of the first packet that it sends there.
"""

from __future__ import annotations

from typing import NamedTuple

RING = "subscribe"
ZMQ = "subscribe_zmq"
ACCEPTED = "subscribed"

QUIET = "quiet"
WITH_EVENTS = "events"
EVENTFD = "eventfd"
HANDSHAKE = "handshake"
_KINDS = (QUIET, WITH_EVENTS, EVENTFD, HANDSHAKE)


class StoreKey(NamedTuple):
    """The name of a subscriber's descriptor in the fd store."""

    kind: str
    """``QUIET`` or ``WITH_EVENTS``, its connection, by whether it wants events; ``EVENTFD``; or
    ``HANDSHAKE``, a duplicate of the connection while it has no answer."""
    number: int
    """The subscriber's."""

    def __str__(self) -> str:
        return f"{self.kind}.{self.number}"

    @property
    def is_connection(self) -> bool:
        """Whether it is of a subscriber that is stored completely."""
        return self.kind in {QUIET, WITH_EVENTS}

    @classmethod
    def parse(cls, name: str) -> StoreKey | None:
        """Return the key of a name; None if it is another descriptor's."""
        kind, _, number = name.partition(".")
        return cls(kind, int(number)) if kind in _KINDS and number.isdigit() else None
