"""The ring: a log of packets in shared memory, with one writer, a worker, and many readers.

A memfd holds the control block, a length and a time for each slot, and the slots. Each slot is
large enough for any packet, so no packet is truncated whatever the MTU becomes. Pages of a slot
that are never written take no memory. Packet ``seq`` lies in slot ``seq`` modulo the number of
slots.

The writer stores in this order: ``RESERVE`` (these slots are about to change); cleared lengths and
marks; ``CLEARED``; for each packet its bytes (readv) and then its length; times; and ``HEAD``. A
writer that is killed between any two stores leaves a log that its successor can continue. Of the
slots between HEAD and CLEARED it knows: a slot with a length has a packet; one without a length
that has its mark was not read into; one without either has a packet of which the length was not
stored.

A reader copies a packet, and checks RESERVE afterwards. If RESERVE has passed the slot meanwhile,
the copy may be torn, and the reader has been lapped.

The order of stores is the one that every x86-64 processor shows to others. On processors that
reorder stores a reader could see HEAD before a length. They are not supported yet.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from typing import Any, TypeAlias

from tuncer.protocol import control_block
from tuncer.protocol.control_block import (
    CLEARED,
    FILTERED,
    FILTERED_BYTES,
    HEAD,
    MARK,
    RESERVE,
    TALLY,
    ControlBlock,
)
from tuncer.protocol.packet import Packet

SLOT = 17 * 4096  # bytes: 65535, a virtio_net_hdr, packet information and a VLAN tag fit
DEFAULT_SLOTS = 8192
MOST_SLOTS = 1 << 17  # 9 GB of addresses, of which only touched pages exist
BATCH = 64  # slots that are cleared, and packets that are read, at a time

Accepts: TypeAlias = Callable[[int, int], bool]
"""Tells whether a filter accepts a packet, from the number of its slot, and its length."""

_NAME = slice(4000, 4016)  # of the control page: the device's name at its creation
_NO_SEQ = 2**64 - 1


def _layout(slots: int) -> tuple[int, int, int, int]:
    """Return where lengths, times and slots begin, and the whole size, in bytes."""
    lengths = control_block.SIZE
    times = lengths + -(-slots * 4 // 4096) * 4096
    data = times + -(-slots * 8 // 4096) * 4096
    return lengths, times, data, data + slots * SLOT


def check_slots(slots: int) -> int:
    """Return what is a number of slots.

    Raises:
        TypeError: no number.
        ValueError: not a power of two, or out of range.
    """
    if isinstance(slots, bool) or not isinstance(slots, int):
        raise TypeError(f"slots is a number, not {slots!r}")
    if not 2 * BATCH <= slots <= MOST_SLOTS or slots & (slots - 1):
        problem = f"a ring has a power of two of slots, {2 * BATCH} to {MOST_SLOTS}"
        raise ValueError(f"{problem}, not {slots}")
    return slots


def create(slots: int = DEFAULT_SLOTS) -> int:
    """Return the memfd of a new ring.

    Raises:
        TypeError, ValueError: of ``check_slots``.
        OSError: EFBIG, it is over RLIMIT_FSIZE.
    """
    check_slots(slots)
    size = _layout(slots)[3]
    fd = os.memfd_create("tuncer-ring", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        # Whoever has it mapped would die of SIGBUS if somebody cut it short.
        fcntl.fcntl(
            fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        )
    except OSError as error:
        os.close(fd)
        raise _too_large(error, slots, size) from error
    # By chance a packet begins with the mark once in 2 ** 64 packets.
    mark = int.from_bytes(os.urandom(8), "little") | 1
    with (
        mmap.mmap(fd, control_block.SIZE) as page,
        memoryview(page) as view,
        view.cast("Q") as words,
    ):
        ControlBlock(words).format(slots, mark)
    return fd


def for_reading(fd: int) -> int:
    """Return a descriptor of a ring by which nobody can write to it."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def _too_large(error: OSError, slots: int, size: int) -> OSError:
    """Say which limit a ring is over."""
    limits = {
        errno.EFBIG: "a file may have here (RLIMIT_FSIZE, ulimit -f)",
        errno.ENOMEM: "this process may map (RLIMIT_AS, ulimit -v)",
    }
    if error.errno not in limits:
        return error
    what = f"a ring of {slots} slots has {size >> 20} MiB, more than {limits[error.errno]}"
    return OSError(error.errno, f"{what}: give fewer slots=, or raise the limit")


class _Map:
    """A ring in this process's memory."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        access = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        size = os.fstat(fd).st_size
        try:
            self.map = mmap.mmap(fd, size, mmap.MAP_SHARED, access)
        except OSError as error:
            slots = 1 << (size // SLOT).bit_length() - 1  # a power of two, and some pages more
            raise _too_large(error, slots, size) from error
        self._view = memoryview(self.map)
        self._control = self._view[: control_block.SIZE].cast("Q")
        self.control = ControlBlock(self._control)
        self.control.check()
        self.slots = self.control.slots
        lengths, times, self.start, size = _layout(self.slots)
        if size != len(self.map):
            raise ValueError(f"this is no ring of {self.slots} slots: it has {len(self.map)} bytes")
        self.lengths = self._view[lengths : lengths + 4 * self.slots].cast("I")
        self.times = self._view[times : times + 8 * self.slots].cast("Q")
        self.data = self._view[self.start :]

    def close(self) -> None:
        """Unmap it."""
        for view in (self._control, self.lengths, self.times, self.data, self._view):
            view.release()
        self.map.close()


class Writer(_Map):
    """The worker's side of the ring. There is one at a time."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, writable=True)
        self._mask = self.slots - 1
        self._words = self.data.cast("Q")
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self.data))
        self._no_lengths = memoryview(bytes(4 * BATCH)).cast("I")
        self._marks = memoryview(self._control[MARK].to_bytes(8, "little") * BATCH).cast("Q")
        # The list that readv wants, of each slot; made when the slot is first used.
        self._vectors: list[list[memoryview] | None] = [None] * self.slots
        self.head = self._control[HEAD]
        self._flags = os.RWF_NOWAIT
        self._turn = False  # which of the two pairs of TALLY is written next
        self.bytes = self._tally()

    @property
    def name(self) -> str:
        """The device's name at its creation."""
        return bytes(self._view[_NAME]).rstrip(b"\0").decode()

    @name.setter
    def name(self, name: str) -> None:
        self._view[_NAME] = name.encode().ljust(_NAME.stop - _NAME.start, b"\0")

    def fill(self, fd: int, most: int = BATCH) -> int:
        """Read packets from a descriptor into the log until it has none; return how many.

        Args:
            fd: the device's.
            most: packets read at most.

        Raises:
            OSError: of read(2), EBADFD when the device was deleted. What was read before is in the
                log.
        """
        first = seq = self.head
        if seq == self._control[CLEARED]:
            self._clear(seq)
        end = min(seq + most, self._control[CLEARED])
        lengths, mask, vectors = self.lengths, self._mask, self._vectors
        preadv, flags = os.preadv, self._never_waiting(fd)
        size = 0
        try:
            while seq < end:
                slot = seq & mask
                # A kill between these two lines leaves a packet without a length: ``recover``.
                length = preadv(fd, vectors[slot] or self._vector(slot), -1, flags)
                lengths[slot] = length
                size += length
                seq += 1
        except BlockingIOError:
            pass
        except OSError as error:
            self._knows_no_flags(error)
        finally:
            # Also when the device was deleted: what was read before that is delivered.
            if seq > first:
                self._commit(first, seq, size)
        return seq - first

    def fill_filtered(self, fd: int, most: int, accepts: Accepts) -> tuple[int, bool]:
        """Do as ``fill`` does, and take only those packets that a filter accepts.

        Args:
            fd: to read from.
            most: packets read at most, accepted or not.
            accepts: the filter.

        Returns:
            How many were accepted; and whether the descriptor had no more packets.
        """
        first = seq = self.head
        reads, size, dry = 0, 0, False
        flags = self._never_waiting(fd)
        try:
            while reads < most:
                if seq == self._control[CLEARED]:
                    self._clear(seq)
                slot = seq & self._mask
                vector = self._vectors[slot] or self._vector(slot)
                length = os.preadv(fd, vector, -1, flags)
                reads += 1
                if accepts(slot, length):
                    self.lengths[slot] = length
                    size += length
                    seq += 1
                else:
                    self._refuse(slot, length)
        except BlockingIOError:
            dry = True
        except OSError as error:
            self._knows_no_flags(error)
        finally:
            if seq > first:
                self._commit(first, seq, size)
        return seq - first, dry

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

    def _refuse(self, slot: int, length: int) -> None:
        """Drop a packet that the filter refuses: mark its slot as one that was not read into."""
        # First the mark: a kill before the counts makes them one too few. After a kill before the
        # mark the successor asks the filter itself.
        self._words[slot * SLOT // 8] = self._control[MARK]
        self._control[FILTERED] += 1
        self._control[FILTERED_BYTES] += length

    def address(self, slot: int) -> int:
        """Return where a slot lies in this process's memory."""
        return self._base + slot * SLOT

    def _vector(self, slot: int) -> list[memoryview]:
        made = self._vectors[slot] = [self.data[slot * SLOT : (slot + 1) * SLOT]]
        return made

    def _clear(self, seq: int) -> None:
        """Initialise the slots up to the next multiple of a batch."""
        end = (seq | (BATCH - 1)) + 1
        slot, count = seq & self._mask, end - seq
        # Readers check RESERVE after they have copied: it must say so before anything changes.
        self._control[RESERVE] = end
        self.lengths[slot : slot + count] = self._no_lengths[:count]
        stride = SLOT // 8
        first = slot * stride
        self._words[first : first + count * stride : stride] = self._marks[:count]
        # Last: after a kill before this line the slots mean nothing, and are cleared again.
        self._control[CLEARED] = end

    def _commit(self, first: int, seq: int, size: int) -> None:
        now = time.time_ns()
        for number in range(first, seq):
            self.times[number & self._mask] = now
        # TALLY has two pairs of words (bytes up to a packet, and that packet's seq), which are
        # written in turn. A writer that is killed between two stores leaves the other pair whole,
        # and its own marked as none.
        self.bytes += size
        pair = TALLY + 2 * self._turn
        self._control[pair + 1] = _NO_SEQ
        self._control[pair] = self.bytes
        self._control[pair + 1] = seq
        self._turn = not self._turn
        self.head = seq
        # Last: a reader that sees it finds bytes, lengths and times.
        self._control[HEAD] = seq

    def _tally(self) -> int:
        """Return the bytes of the packets up to HEAD, though the last commit may be incomplete."""
        pairs = [(self._control[TALLY + i + 1], self._control[TALLY + i]) for i in (0, 2)]
        seq, size = max(pair for pair in pairs if pair[0] <= self.head)
        self._turn = (seq, size) == pairs[0]
        return size + sum(self.lengths[n & self._mask] for n in range(seq, self.head))

    def recover(
        self, measure: Callable[[memoryview, int, int], int | None], accepts: Accepts | None = None
    ) -> int:
        """Commit what a killed writer had read, and not committed; return how many packets.

        Args:
            measure: returns the length of the one packet that may have been read without its
                length being stored, from its slot, and the packets and bytes in the log before
                it; None: it cannot be known, and the packet is given up.
            accepts: of ``fill_filtered``, if there is a filter.
        """
        first = seq = self.head
        mark, size = self._control[MARK], 0
        while seq < self._control[CLEARED]:
            slot = seq & self._mask
            if self.lengths[slot] == 0:  # not read into, or read into at the moment of the kill
                if self._words[slot * SLOT // 8] == mark:
                    break
                length = measure(self._vector(slot)[0], seq, self.bytes + size)
                if length is None or (accepts is not None and not accepts(slot, length)):
                    # Its length is not known, or the filter refuses it: the slot is free again. Of
                    # a refused packet nobody knows whether the killed writer has counted it.
                    self._words[slot * SLOT // 8] = mark
                    break
                self.lengths[slot] = length
            size += self.lengths[slot]
            seq += 1
        if seq > first:
            self._commit(first, seq, size)
        return seq - first

    def close(self) -> None:
        """Unmap it."""
        for vector in filter(None, self._vectors):
            vector[0].release()
        self._words.release()
        super().close()


class Reader(_Map):
    """A subscriber's side of the ring. Any number of readers each keep a ``seq`` of their own."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd, writable=False)
        self._margin = self.slots // 16

    def read(
        self, seq: int, most: int, device: str, lost: int = 0, queue: int = 0
    ) -> tuple[list[Packet], int, int]:
        """Copy packets.

        Args:
            seq: of the first packet wanted.
            most: how many at most.
            device: for the packets' ``device``.
            lost: packets lost before, for the ``lost`` of the first packet.
            queue: for the packets' ``queue``.

        Returns:
            The packets, the ``seq`` after them, and how many were lost after the last of them.
        """
        control, lengths, times, whole = self._control, self.lengths, self.times, self.map
        mask, slots, start = self.slots - 1, self.slots, self.start
        packets: list[Packet] = []
        end = min(control[HEAD], seq + most)
        while seq < end:
            slot = seq & mask
            offset = start + slot * SLOT
            data = whole[offset : offset + lengths[slot]]
            when = times[slot]
            if control[RESERVE] - seq > slots:
                # Lapped: go on at some packets after the oldest one, so as not to be lapped again
                # at once.
                oldest = control[RESERVE] - slots + self._margin
                lost += oldest - seq
                seq = oldest
                end = max(end, min(control[HEAD], seq + most))
                continue
            packets.append(Packet(data, seq, when, device, lost, queue))
            lost = 0
            seq += 1
        return packets, seq, lost

    def payloads(self, seq: int, most: int, size: int) -> tuple[list[bytes], int, int]:
        """Copy packets' bytes, for the publisher: the writer of its own process cannot lap it.

        Args:
            seq: of the first packet wanted.
            most: how many at most.
            size: how many bytes at most, unless the first packet alone has more.

        Returns:
            The packets' bytes, the ``seq`` after them, and when the first was read.
        """
        payloads: list[bytes] = []
        when = self.times[seq & (self.slots - 1)]
        for number in range(seq, min(self._control[HEAD], seq + most)):
            slot = number & (self.slots - 1)
            length = self.lengths[slot]
            size -= length
            if payloads and size < 0:
                break
            offset = self.start + slot * SLOT
            payloads.append(self.map[offset : offset + length])
        return payloads, seq + len(payloads), when


def counters(ring: Any) -> dict[str, int]:
    """Return what the ring counts, which goes on over restarts of the worker."""
    control = ring.control
    return {
        "packets_read": control.head,
        "bytes_read": ring.bytes,
        "packets_filtered": control.filtered,
        "packets_sent": control.sent,
        "bytes_sent": control.sent_bytes,
        "restarts": control.restarts,
    }
