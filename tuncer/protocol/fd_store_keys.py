"""The names of a worker's descriptors in the fd store, on which it agrees with its successor."""

from __future__ import annotations

from typing import NamedTuple


class StoreKey(NamedTuple):
    """The name of a descriptor in the fd store."""

    kind: str
    number: int | None = None
    """The subscriber's, if the descriptor is of a subscriber."""

    def __str__(self) -> str:
        return self.kind if self.number is None else f"{self.kind}.{self.number}"

    @property
    def is_connection(self) -> bool:
        """Whether it is the connection of a subscriber of which everything is stored."""
        return self.kind in {QUIET, WITH_EVENTS}

    @classmethod
    def parse(cls, name: str) -> StoreKey:
        """Return the key of a name, which is of no known kind if another version stored it."""
        kind, _, number = name.partition(".")
        return cls(kind, int(number)) if number.isdecimal() else cls(name)


TUN = StoreKey("tun")
"""The device, or a queue of it."""
RING = StoreKey("ring")
"""The ring."""
CONTROL = StoreKey("control")
"""The control socket, which listens."""
LINK = StoreKey("link")
"""A crash-safe value: the state of the link that was last reported."""
FILTER = StoreKey("filter")
"""A crash-safe value: the filter."""

QUIET = "quiet"
"""The connection of a subscriber that wants no events."""
WITH_EVENTS = "events"
"""The connection of a subscriber that wants events."""
EVENTFD = "eventfd"
"""The eventfd of a ring subscriber."""
POLICY = "policy"
"""A crash-safe value: for how long a lossless subscriber may hold the worker back."""
HANDSHAKE = "handshake"
"""A duplicate of a subscriber's connection, while its handshake has no answer."""
