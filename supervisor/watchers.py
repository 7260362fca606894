"""Who is to be told of an actor's end: callers by their monitors, links and orders to stop."""

from __future__ import annotations

from typing import Any

from supervisor.errors import NoProcess
from supervisor.mailbox import Mailbox
from supervisor.protocol import DOWN

_FEW = 256  # watchers that are not worth looking whether they are still there


class Watchers:
    """Connections, and the numbers under which they asked, in the order in which they did."""

    def __init__(self, mailbox: Mailbox) -> None:
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
            self._mailbox.probe(address)
        except NoProcess:
            return False
        return True

    def tell(self, reason: Any) -> None:
        """Tell all why the actor ends."""
        for address, number in self._watchers:
            self._mailbox.answer(address, DOWN, number, reason)

    def __len__(self) -> int:
        return len(self._watchers)
