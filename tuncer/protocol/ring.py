"""The ring: a log of packets in shared memory, with one writer, a worker, and many readers.

A memfd holds the control block; for each packet where it begins, its length, and when it was read;
and the packets' bytes, one packet behind the other. What belongs to packet ``seq`` lies at ``seq``
modulo the number of packets that there is room for. A packet begins at a multiple of 8 bytes. One
that begins before the end of the room for bytes may go beyond it; the next packet then begins a
new lap, at 0. So every packet is read by one system call, in one piece.

The writer stores in this order. OLDEST: the packets before this one are about to be overwritten.
Lengths of 0, and CLEARED: up to there. Then for each packet: where it begins; its bytes, by
preadv(2); the mark, a random word, where the next packet will begin; and its length. At last times
and HEAD. A writer that is killed between any two stores leaves a ring that its successor can
continue. Behind HEAD, a packet with a length was read. Of one without a length the mark tells: if
it is there, nothing was read; if it is overwritten, a packet was read whose length was not stored.

A reader copies the bytes of many packets at once, and checks OLDEST afterwards. If OLDEST has
passed the first of them meanwhile, the copy may be torn, and the reader has been lapped.

The order of stores is the one that every x86-64 processor shows to others. On processors that
reorder stores a reader could see HEAD before a length: there ``RingReader`` refuses a ring of
another process.
"""

from __future__ import annotations

import mmap
import os

from tuncer.protocol import control_block, shared_memory
from tuncer.protocol.control_block import ControlBlock

LONGEST = 17 * 4096
"""Bytes of a packet, at most: 65535, a virtio_net_hdr, packet information and a VLAN tag fit."""
BATCH = 256
"""Packets that are read at a time, at most."""

DEFAULT_PACKETS, FEWEST_PACKETS, MOST_PACKETS = 1 << 16, 1 << 7, 1 << 20
DEFAULT_BYTES, FEWEST_BYTES, MOST_BYTES = 32 << 20, 2 << 20, 1 << 34

_PAGE = 4096


def layout(packets: int, size: int) -> tuple[int, int, int, int, int]:
    """Return where begins, lengths, times and bytes of packets lie, and the size of all."""
    begins = control_block.SIZE
    lengths = begins + packets * 8
    times = lengths + packets * 4
    data = -(-(times + packets * 8) // _PAGE) * _PAGE
    return begins, lengths, times, data, data + size + LONGEST + _PAGE


def check_size(packets: int, size: int) -> None:
    """Check what a ring is to have room for.

    Raises:
        TypeError: no number.
        ValueError: not a power of two, or out of range.
    """
    for name, number in (("log_packets", packets), ("log_bytes", size)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} is a number, not {number!r}")
    if not FEWEST_PACKETS <= packets <= MOST_PACKETS or packets & (packets - 1):
        problem = f"log_packets is a power of two, {FEWEST_PACKETS} to {MOST_PACKETS}"
        raise ValueError(f"{problem}, not {packets}")
    if not FEWEST_BYTES <= size <= MOST_BYTES or size % _PAGE:
        problem = f"log_bytes is a multiple of {_PAGE}, {FEWEST_BYTES} to {MOST_BYTES}"
        raise ValueError(f"{problem}, not {size}")


def create(packets: int = DEFAULT_PACKETS, size: int = DEFAULT_BYTES) -> int:
    """Return the memfd of a new ring.

    Args:
        packets: how many it has room for.
        size: how many bytes of packets it has room for.

    Raises:
        TypeError, ValueError: of ``check_size``.
        OSError: EFBIG, it is over RLIMIT_FSIZE.
    """
    check_size(packets, size)
    whole = layout(packets, size)[-1]
    fd = shared_memory.create("tuncer-ring", whole, "a ring")
    # By chance a packet begins with the mark once in 2 ** 64 packets.
    mark = int.from_bytes(os.urandom(8), "little") | 1
    with (
        mmap.mmap(fd, control_block.SIZE) as page,
        memoryview(page) as view,
        view.cast("Q") as words,
    ):
        ControlBlock(words).format(packets, size, mark)
    return fd


def for_reading(fd: int) -> int:
    """Return a descriptor of a ring by which nobody can write to it."""
    return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)


class MappedRing:
    """A ring in this process's memory."""

    def __init__(self, fd: int, *, writable: bool) -> None:
        """Map it.

        Raises:
            ValueError: it is no ring, or one of another layout.
            OSError: ENOMEM, this process may not map so much.
        """
        whole = os.fstat(fd).st_size
        self._map = shared_memory.mapped(fd, "a ring", writable=writable)
        self._view = memoryview(self._map)
        self._control = self._view[: control_block.SIZE].cast("Q")
        self.control = ControlBlock(self._control)
        self.control.check()
        self.packets, self.size = self.control.packets, self.control.bytes
        begins, lengths, times, self._start, size = layout(self.packets, self.size)
        if size != whole:
            raise ValueError(
                f"this is no ring of {self.packets} packets and {self.size} bytes: it has {whole}"
            )
        self._begins = self._view[begins:lengths].cast("Q")
        self._lengths = self._view[lengths:times].cast("I")
        self._times = self._view[times : times + 8 * self.packets].cast("Q")
        self._data = self._view[self._start :]

    def close(self) -> None:
        """Unmap it."""
        views = (self._control, self._begins, self._lengths, self._times, self._data, self._view)
        for view in views:
            view.release()
        self._map.close()
