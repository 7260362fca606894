"""Who is to be told of an actor's end: callers by their monitors, links and orders to stop."""

from __future__ import annotations

from typing import Any, Protocol

from supervisor.errors import NoProcess
from supervisor.protocol import DOWN, EVENT

_FEW = 256  # watchers that are not worth looking whether they are still there


class Offers(Protocol):
    """A mailbox."""

    def offer(self, sender: bytes, kind: int, number: int, term: Any) -> bool:
        """Send an answer, if there is room for it."""

    def answer(self, sender: bytes, kind: int, number: int, term: Any) -> bool:
        """Send an answer, if its receiver is there and has room for it."""


class Watchers:
    """Connections, and the numbers under which they asked, in the order in which they did."""

    def __init__(self, mailbox: Offers) -> None:
        self._mailbox = mailbox
        self._watchers: dict[tuple[bytes, int], None] = {}
        self._limit = _FEW

    def add(self, address: bytes, number: int) -> None:
        """Add one; from time to time those that have gone are forgotten: nobody tells of that."""
        if len(self._watchers) >= self._limit:
            for watcher in list(self._watchers):
                if not self._there(watcher[0]):
                    del self._watchers[watcher]
            self._limit = max(_FEW, 2 * len(self._watchers))
        self._watchers[address, number] = None

    def remove(self, address: bytes, number: int) -> None:
        """Remove one that no longer wants to be told."""
        self._watchers.pop((address, number), None)

    def _there(self, address: bytes) -> bool:
        try:
            self._mailbox.offer(address, EVENT, 0, None)  # which nobody has asked for: ignored
        except NoProcess:
            return False
        return True

    def tell(self, reason: Any) -> None:
        """Tell all why the actor ends."""
        for address, number in self._watchers:
            self._mailbox.answer(address, DOWN, number, reason)

    def __len__(self) -> int:
        return len(self._watchers)
