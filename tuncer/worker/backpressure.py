"""Back pressure of lossless subscribers: what they have not read is not overwritten.

A lossless subscriber acknowledges, now and then, which packets it has read. Before the worker reads
a batch, it knows the first packet that the batch leaves whole (``RingWriter.first_kept``). If a
lossless subscriber needs an earlier one, the worker is held back: it does not read the device until
the subscriber has acknowledged more, has left, or has held it back for too long.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class _Lossless:
    """A lossless subscriber."""

    position: int
    """The first packet that it may not have read yet."""
    timeout: float | None
    since: float | None = None
    """When it began to hold the worker back; None if it does not."""


class Backpressure:
    """The lossless subscribers of a worker, each by its number."""

    def __init__(self) -> None:
        self._all: dict[int, _Lossless] = {}

    def __len__(self) -> int:
        return len(self._all)

    def __contains__(self, number: int) -> bool:
        return number in self._all

    def add(self, number: int, position: int, timeout: float | None) -> None:
        """Keep packets for a subscriber.

        Args:
            number: the subscriber's.
            position: the first packet that is kept for it.
            timeout: seconds that it may hold the worker back without an acknowledgement; None: no
                limit.
        """
        self._all[number] = _Lossless(position, timeout)

    def remove(self, number: int) -> None:
        """Keep nothing for a subscriber, if anything is."""
        self._all.pop(number, None)

    def acknowledge(self, number: int, position: int, head: int) -> None:
        """Note that a subscriber has read the packets before a position.

        One that cannot be is brought into range: a subscriber that is wrong harms itself.

        Args:
            number: the subscriber's; one that is not lossless is ignored.
            position: which it tells.
            head: packets that there are.
        """
        one = self._all.get(number)
        if one is not None:
            one.position = max(one.position, min(position, head))
            one.since = None

    def holds_back(self, first_kept: int, now: float) -> bool:
        """Tell whether a batch must wait that would leave the packets from ``first_kept`` whole."""
        for one in self._all.values():
            if one.position >= first_kept:
                one.since = None
            elif one.since is None:
                one.since = now
        return any(one.since is not None for one in self._all.values())

    def rest(self) -> None:
        """Begin anew to count for how long somebody holds the worker back."""
        for one in self._all.values():
            one.since = None

    def position(self, number: int) -> int | None:
        """Return the first packet that a subscriber may not have read; None: it is not lossless."""
        one = self._all.get(number)
        return None if one is None else one.position

    @property
    def holding_back(self) -> list[int]:
        """The subscribers that hold the worker back."""
        return [number for number, one in self._all.items() if one.since is not None]

    def overdue(self, now: float) -> list[int]:
        """Return the subscribers that have held the worker back for too long."""
        return [number for number, one in self._all.items() if _deadline(one) <= now]

    def next_deadline(self) -> float | None:
        """Return when the first subscriber will have held the worker back for too long, if any."""
        first = min(map(_deadline, self._all.values()), default=_NEVER)
        return None if first == _NEVER else first


_NEVER = float("inf")


def _deadline(one: _Lossless) -> float:
    return _NEVER if one.since is None or one.timeout is None else one.since + one.timeout
