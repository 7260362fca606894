"""The writer of the ring: packets from the device's descriptor, one system call each.

How a ring lies in memory, and in which order the writer stores, is told in ``protocol.ring``.
"""

from __future__ import annotations

import bisect
import ctypes
import errno
import os
import time
from array import array
from collections.abc import Callable
from typing import TypeAlias

from tuncer.protocol.control_block import (
    CLEARED,
    FILTERED,
    FILTERED_BYTES,
    HEAD,
    MARK,
    OLDEST,
    TALLY,
)
from tuncer.protocol.ring import BATCH, LONGEST, MappedRing

Accepts: TypeAlias = Callable[[int, int], bool]
"""Tells whether a filter accepts a packet: its address in this process's memory, and its length."""
Measure: TypeAlias = Callable[[memoryview, int, int], int | None]
"""Returns the length of a packet, from the memory that it begins; and the packets and bytes that
were read before it. None: it cannot be known."""

_NO_SEQ = 2**64 - 1
_STEP = 1 << 19  # bytes for which room is made at a time


class RingWriter(MappedRing):
    """The one writer of a ring."""

    def __init__(self, fd: int) -> None:
        """Go on where the writer before has ended."""
        super().__init__(fd, writable=True)
        self._mask = self.packets - 1
        self._words = self._data.cast("Q")
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._data))
        self._mark = self._control[MARK]
        self._cleared_at_once = min(BATCH, self.packets // 4)
        self._no_lengths = memoryview(bytes(4 * self._cleared_at_once)).cast("I")
        self._flags = os.RWF_NOWAIT
        self._turn = False  # which of the two pairs of TALLY is written next
        self.head = self._control[HEAD]
        self.bytes = self._tally()
        self._limit = 0  # a packet may begin below this offset
        self._lap = self._first_of_lap()
        self._offset = self._make_room(self._end_of(self.head), self.head)
        if not self._control[CLEARED]:
            self._words[0] = self._mark  # nothing was read yet

    # -- reading -----------------------------------------------------------------------------------

    def fill(self, fd: int, most: int = BATCH) -> int:
        """Read packets from a descriptor into the ring until it has none; return how many.

        It also returns after some ``_STEP`` bytes: otherwise packets of 64 KiB would lap every
        subscriber before one of them is told.

        Args:
            fd: the device's.
            most: packets read at most.

        Raises:
            OSError: of read(2), EBADFD when the device was deleted. What was read before is in the
                ring.
        """
        begun, count = self.head, 0
        first = begun & self._mask
        most = min(most, self._cleared_at_once, self.packets - first)
        if self._control[CLEARED] - begun < most:
            self._clear(self._control[CLEARED])
        begins, lengths, words, data = self._begins, self._lengths, self._words, self._data
        limit, offset, mark = self._limit, self._offset, self._mark
        preadv, flags = os.preadv, self._never_waiting(fd)
        try:
            for slot in range(first, first + most):
                begins[slot] = offset
                length = preadv(fd, (data[offset : offset + LONGEST],), -1, flags)
                # A kill before the length is stored leaves a packet without one: ``recover``.
                offset = offset + length + 7 & -8
                is_full = offset >= limit
                if is_full:
                    offset = self._make_room(offset, begun + count + 1)
                # Before the length: whoever finds that expects a mark, or a packet, behind it.
                words[offset >> 3] = mark
                lengths[slot] = length
                count += 1
                if is_full:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            self._knows_no_flags(error)
        finally:
            # Also when the device was deleted: what was read before that is delivered.
            self._offset = offset
            self._commit(begun + count)
        return count

    def fill_filtered(self, fd: int, most: int, accepts: Accepts) -> tuple[int, bool]:
        """Do as ``fill`` does, and take only those packets that a filter accepts.

        Args:
            fd: to read from.
            most: packets read at most, accepted or not.
            accepts: the filter.

        Returns:
            How many were accepted; and whether the descriptor had no more packets.
        """
        begun = seq = self.head
        reads, dry = 0, False
        flags = self._never_waiting(fd)
        try:
            while reads < most and seq - begun < self._cleared_at_once:
                offset = self._offset
                if seq == self._control[CLEARED]:
                    self._clear(seq)
                self._begins[seq & self._mask] = offset
                length = os.preadv(fd, (self._data[offset : offset + LONGEST],), -1, flags)
                reads += 1
                if accepts(self._base + offset, length):
                    seq += 1
                    if self._append(seq, length):
                        break
                else:
                    self._refuse(length)
        except BlockingIOError:
            dry = True
        except OSError as error:
            self._knows_no_flags(error)
        finally:
            self._commit(seq)
        return seq - begun, dry

    def _never_waiting(self, fd: int) -> int:
        """Return the flags of preadv2(2) by which a read does not block.

        O_NONBLOCK is a property of the open file description. Other processes have duplicates of
        the descriptor, and may clear it. On a kernel without RWF_NOWAIT for a tun it is set again
        before each batch.
        """
        if not self._flags:
            os.set_blocking(fd, False)
        return self._flags

    def _knows_no_flags(self, error: OSError) -> None:
        if error.errno != errno.EOPNOTSUPP or not self._flags:
            raise error
        self._flags = 0  # nothing was read: the next call reads, without the flag

    def _append(self, seq: int, length: int) -> bool:
        """Take a packet that was read at the present offset: store the mark and its length.

        Args:
            seq: of the packet behind it.
            length: its own.

        Returns:
            Whether room had to be made.
        """
        offset = self._offset + length + 7 & -8
        is_full = offset >= self._limit
        if is_full:
            offset = self._make_room(offset, seq)
        self._words[offset >> 3] = self._mark
        self._lengths[(seq - 1) & self._mask] = length
        self._offset = offset
        return is_full

    def _refuse(self, length: int) -> None:
        """Drop a packet that the filter refuses: the next one is read over it."""
        # First the mark: a kill before the counts makes them one too few. After a kill before the
        # mark the successor asks the filter itself.
        self._words[self._offset >> 3] = self._mark
        self._control[FILTERED] += 1
        self._control[FILTERED_BYTES] += length

    # -- room --------------------------------------------------------------------------------------

    def _clear(self, seq: int) -> None:
        """Clear the lengths from here up to the next multiple of so many."""
        end = (seq | (self._cleared_at_once - 1)) + 1
        # Readers check OLDEST after they have copied: it must say so before anything changes.
        self._overwrite_before(end - self.packets)
        slot = seq & self._mask
        self._lengths[slot : slot + end - seq] = self._no_lengths[: end - seq]
        # Last: after a kill before this line they are cleared again.
        self._control[CLEARED] = end

    def _make_room(self, offset: int, seq: int) -> int:
        """Make room for packets, and for the mark behind each.

        Args:
            offset: behind the last packet.
            seq: the next one's.

        Returns:
            Where that begins: at the offset, or at 0, where the next lap begins.
        """
        if offset >= self.size:
            # What the lap before this one has left was overwritten, up to the end.
            self._lap, offset = seq, 0
        limit = min(offset + _STEP, self.size)
        # A packet that begins right below the limit may be the longest, and a mark follows it.
        overwritten = limit + LONGEST + 8
        before = range(self._control[OLDEST], self._lap)
        self._overwrite_before(before.start + self._beginning_before(before, overwritten))
        self._limit = limit
        return offset

    def first_kept(self) -> int:
        """Return the first packet that is whole after the next batch, whatever that contains.

        A batch clears lengths once, and makes room once, behind a packet that begins below the
        limit. So does a successor that goes on in the middle of the batch.
        """
        before = range(self._control[OLDEST], self._lap)
        end = min(self._limit + LONGEST + _STEP, self.size) + LONGEST + 8
        first = before.start + self._beginning_before(before, end)
        if self._limit + LONGEST >= self.size:  # the batch may begin the next lap
            lap = range(max(self._lap, self._control[OLDEST]), self.head)
            first = max(first, lap.start + self._beginning_before(lap, _STEP + LONGEST + 8))
        return max(first, self._control[CLEARED] + self._cleared_at_once - self.packets)

    def _beginning_before(self, packets: range, offset: int) -> int:
        """Return how many packets of a lap begin before an offset."""
        return bisect.bisect_left(packets, offset, key=lambda n: self._begins[n & self._mask])

    def _overwrite_before(self, seq: int) -> None:
        """Let readers know that the packets before this one may be overwritten from now on."""
        self._control[OLDEST] = max(self._control[OLDEST], seq)

    def _end_of(self, seq: int) -> int:
        """Return the offset behind the packet before this one."""
        if seq == 0:
            return 0
        slot = (seq - 1) & self._mask
        return self._begins[slot] + self._lengths[slot] + 7 & -8

    def _first_of_lap(self) -> int:
        """Return the first packet of the present lap.

        What remains of the lap before lies behind all that was written in this one.
        """
        if self.head == 0:
            return 0
        last = self._begins[(self.head - 1) & self._mask]
        whole = range(self._control[OLDEST], self.head)
        return whole.start + bisect.bisect_left(
            whole, x=True, key=lambda n: self._begins[n & self._mask] <= last
        )

    # -- commit and recovery -----------------------------------------------------------------------

    def _commit(self, seq: int) -> None:
        """Let readers have the packets that were read before this one."""
        if seq <= self.head:
            return
        first, count = self.head & self._mask, seq - self.head
        now = array("Q", (time.time_ns(),)) * count
        at_the_end = min(count, self.packets - first)
        self._times[first : first + at_the_end] = memoryview(now)[:at_the_end]
        self._times[: count - at_the_end] = memoryview(now)[at_the_end:]
        self.bytes += self._sum(self.head, seq)
        # TALLY has two pairs of words (bytes up to a packet, and that packet's seq), which are
        # written in turn. A writer that is killed between two stores leaves the other pair whole,
        # and its own marked as none.
        pair = TALLY + 2 * self._turn
        self._control[pair + 1] = _NO_SEQ
        self._control[pair] = self.bytes
        self._control[pair + 1] = seq
        self._turn = not self._turn
        self.head = seq
        # Last: a reader that sees it finds bytes, lengths and times.
        self._control[HEAD] = seq

    def _sum(self, first: int, seq: int) -> int:
        """Return the bytes of packets."""
        start, end = first & self._mask, seq & self._mask
        if start < end:
            return sum(self._lengths[start:end])
        return sum(self._lengths[number & self._mask] for number in range(first, seq))

    def _tally(self) -> int:
        """Return the bytes of the packets up to HEAD, though the last commit may be incomplete."""
        pairs = [(self._control[TALLY + i + 1], self._control[TALLY + i]) for i in (0, 2)]
        seq, size = max(pair for pair in pairs if pair[0] <= self.head)
        self._turn = (seq, size) == pairs[0]
        return size + self._sum(seq, self.head)

    def recover(self, measure: Measure, accepts: Accepts | None = None) -> int:
        """Commit what a killed writer had read, and not committed; return how many packets.

        Args:
            measure: for the one packet that may have been read without its length being stored; a
                packet of which it returns None is given up.
            accepts: the filter, if there is one.
        """
        begun = seq = self.head
        size = self.bytes
        while seq < self._control[CLEARED]:
            length = self._lengths[seq & self._mask]
            if not length:  # not read, or read at the moment of the kill
                if self._words[self._offset >> 3] == self._mark:
                    break
                packet = self._data[self._offset : self._offset + LONGEST]
                length = measure(packet, seq, size) or 0
                if not length:  # it is not known: the next one is read over it
                    self._words[self._offset >> 3] = self._mark
                    break
                if accepts is not None and not accepts(self._base + self._offset, length):
                    self._refuse(length)  # the killed writer has not: the mark comes first
                    break
                self._begins[seq & self._mask] = self._offset
                self._append(seq + 1, length)
            else:
                self._offset = self._end_of(seq + 1)
                if self._offset >= self._limit:
                    self._offset = self._make_room(self._offset, seq + 1)
            size += length
            seq += 1
        self._commit(seq)
        return seq - begun

    def counters(self) -> dict[str, int]:
        """Return what the ring counts, which goes on over restarts of the worker."""
        return {
            "packets_read": self.head,
            "bytes_read": self.bytes,
            "packets_filtered": self.control.filtered,
            "restarts": self.control.restarts,
        }

    def close(self) -> None:
        """Unmap it."""
        self._words.release()
        super().close()
