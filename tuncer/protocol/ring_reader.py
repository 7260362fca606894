"""Readers of the ring: subscribers, and in the worker the publisher and ``recv``."""

from __future__ import annotations

import bisect
import errno
import os
import platform
from collections.abc import Sequence
from typing import Literal, NamedTuple

from tuncer.protocol.batch import Batch
from tuncer.protocol.control_block import HEAD, OLDEST
from tuncer.protocol.ring import BATCH, MappedRing

MOST_BYTES = 1 << 20
"""Bytes of a batch, at most, unless its first packet alone has more."""

_ORDERED = {"x86_64", "AMD64"}
"""Machines on which other processes see stores in their order."""


class Taken(NamedTuple):
    """What ``RingReader.take`` returns."""

    batch: Batch | None
    """The packets; None if there are none."""
    seq: int
    """The number of the packet after them."""
    lost: int
    """How many were lost after the last of them."""


class RingReader(MappedRing):
    """A reader: any number of them each keep a ``seq`` of their own."""

    def __init__(self, fd: int, *, of_another_process: bool = True) -> None:
        """Map a ring.

        Raises:
            OSError: ENOTSUP, another process writes it, and this machine reorders stores; and
                what ``MappedRing`` raises.
        """
        if of_another_process and platform.machine() not in _ORDERED:
            raise OSError(
                errno.ENOTSUP,
                f"{os.strerror(errno.ENOTSUP)}: the ring needs a processor that keeps the order of"
                f" stores, as x86-64 does, not {platform.machine()}: use transport='zmq'",
            )
        super().__init__(fd, writable=False)
        self.framing = self.control.framing

    def take(
        self,
        seq: int,
        device: str,
        *,
        lost: int = 0,
        queue: int = 0,
        most: int = BATCH,
        most_bytes: int = MOST_BYTES,
    ) -> Taken:
        """Copy packets that follow one another.

        Args:
            seq: of the first packet that is wanted.
            device: the packets' ``device``.
            lost: packets that were lost before, which the batch tells.
            queue: the packets' ``queue``.
            most: packets, at most.
            most_bytes: bytes, at most, unless the first packet alone has more.
        """
        control = self._control
        while (head := control[HEAD]) > seq:
            if (oldest := control[OLDEST]) <= seq:
                slot = seq & (self.packets - 1)
                # What belongs to the packets is in one piece up to the end of its table.
                end = slot + min(most, head - seq, self.packets - slot)
                end = slot + _in_one_piece(
                    self._begins[slot:end], self._lengths[slot:end], most_bytes
                )
                base = self._begins[slot]
                after = self._begins[end - 1] + self._lengths[end - 1]
                data = self._map[self._start + base : self._start + after]
                begins = _copied(self._begins[slot:end], "Q")
                lengths = _copied(self._lengths[slot:end], "I")
                times = _copied(self._times[slot:end], "Q")
                if control[OLDEST] <= seq:  # otherwise what was copied may be torn
                    places = (data, begins, lengths, seq, times)
                    batch = Batch(*places, device, lost, queue, base, framing=self.framing)
                    return Taken(batch, seq + len(batch), 0)
                oldest = control[OLDEST]
            # Lapped: go on at some packets after the oldest one, so as not to be lapped again at
            # once.
            after = oldest + max(0, control[HEAD] - oldest) // 16
            lost += after - seq
            seq = after
        return Taken(None, seq, lost)

    def look_at(self, seq: int, most_bytes: int) -> tuple[list[memoryview], int]:
        """Return packets where they lie, and when the first of them was read.

        This is for the process that writes the ring: they are whole until it makes room again.

        Args:
            seq: of the first one, which must not have been overwritten, and must have been read.
            most_bytes: of all, at most, unless the first packet alone has more.
        """
        slot = seq & (self.packets - 1)
        end = slot + min(BATCH, self._control[HEAD] - seq, self.packets - slot)
        begins, lengths = self._begins[slot:end], self._lengths[slot:end]
        count = _in_one_piece(begins, lengths, most_bytes)
        data = self._data
        places = zip(begins[:count], lengths[:count], strict=True)
        return [data[start : start + length] for start, length in places], self._times[slot]

    def share_before(self, seq: int) -> float:
        """Return which share of the packets that are whole were read before this one."""
        control = self._control
        return (seq - control[OLDEST]) / max(1, control[HEAD] - control[OLDEST])


def _copied(numbers: memoryview, kind: Literal["I", "Q"]) -> memoryview:
    return memoryview(numbers.tobytes()).cast(kind)


def _in_one_piece(begins: Sequence[int], lengths: Sequence[int], most_bytes: int) -> int:
    """Return how many packets lie one behind the other, in no more bytes than wanted; at least 1.

    ``begins`` grows, but for one place at most, where a new lap begins.
    """
    first = begins[0]
    count = len(begins)
    if begins[-1] < first:
        count = bisect.bisect_left(range(count), x=True, key=lambda n: begins[n] < first)
    if begins[count - 1] + lengths[count - 1] - first > most_bytes:
        count = bisect.bisect_left(
            range(count), x=True, key=lambda n: begins[n] + lengths[n] - first > most_bytes
        )
    return max(1, count)
