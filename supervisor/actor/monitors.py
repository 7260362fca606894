"""Who is to be told of an actor's end: callers by their monitors, links and orders to stop.

The actor tells every connection why it ends; here it is known who has asked for it, and so waits.
"""

from __future__ import annotations


class Monitors:
    """Connections by their numbers, and the numbers under which they asked."""

    def __init__(self) -> None:
        self._monitors: dict[int, set[int]] = {}

    def add(self, address: int, number: int) -> None:
        """Add one."""
        self._monitors.setdefault(address, set()).add(number)

    def remove(self, address: int, number: int) -> None:
        """Remove one that no longer wants to be told."""
        numbers = self._monitors.get(address, set())
        numbers.discard(number)
        if not numbers:
            self.forget(address)

    def forget(self, address: int) -> None:
        """Remove all of a connection that has ended."""
        self._monitors.pop(address, None)

    def __len__(self) -> int:
        return sum(map(len, self._monitors.values()))
